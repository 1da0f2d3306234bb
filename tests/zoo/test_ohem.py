"""Online hard example mining: which regions are chosen, against a loop, and that no other teaches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, squares
from zoo import CATALOG, build
from zoo.parts.roi_head import BoxHead, BoxPredictor, RegionPool, RoIHead, Samples
from zoo.two_stage.fast_rcnn import FastRCNN
from zoo.two_stage.ohem import RECIPE, HardRCNN, fast_rcnn_ohem_vgg16


def head(hard: int | None = 3, hard_nms: float | None = None) -> RoIHead:
    torch.manual_seed(0)
    return RoIHead(RegionPool(16, 2), BoxHead(2 * 4, 6), BoxPredictor(6, 2), hard=hard, hard_nms=hard_nms)


def apart(count: int) -> Tensor:
    """Boxes that do not touch."""
    corners = 30.0 * torch.arange(count)[:, None].expand(-1, 2)
    return torch.cat([corners, corners + 20], 1)


def background(boxes: Tensor) -> Samples:
    return Samples(boxes, torch.zeros(len(boxes)).long(), torch.full((len(boxes),), -1))


def test_hardest_of_the_sheet() -> None:
    (chosen,) = head().hardest(torch.tensor([0.1, 2, 0.5, 1.5, 0.05, 3]), [background(apart(6))])
    assert chosen.tolist() == [5, 1, 3]


def test_as_many_of_each_image() -> None:
    losses = torch.tensor([0.1, 2, 0.5, 1.5, 9, 8, 7, 6])
    chosen = head(2).hardest(losses, [background(apart(4)), background(apart(3)), background(apart(1))])
    assert [rows.tolist() for rows in chosen] == [[1, 3], [4, 5], [7]]


def test_near_duplicates_count_once() -> None:
    """Suppression is by loss, within an image and a label; at exactly 0.7 both stay."""
    box = [0.0, 0, 100, 100]
    boxes = torch.tensor([box, [0, 0, 100, 80], [0, 0, 100, 70], [0, 0, 100, 90]])
    losses = torch.tensor([1.0, 2, 0.5, 1.5])
    samples = background(boxes)
    assert head(4, 0.7).hardest(losses, [samples])[0].tolist() == [1], "0.8, 0.875 and 0.889 of the hardest"
    assert head(4).hardest(losses, [samples])[0].tolist() == [1, 3, 0, 2]
    other = Samples(boxes, torch.tensor([0, 1, 0, 1]), samples.objects)
    assert head(4, 0.7).hardest(losses, [other])[0].tolist() == [1, 0, 2]
    twice = head(4, 0.7).hardest(losses.repeat(2), [samples, samples])
    assert [rows.tolist() for rows in twice] == [[1], [5]]


def scene(seed: int = 0, count: int = 60) -> tuple[list[Samples], list[Target], Tensor, Tensor]:
    """Two images of regions with labels, and what a head says of them."""
    torch.manual_seed(seed)
    samples, targets = [], []
    for _ in range(2):
        target = Target(torch.tensor([[20.0, 20, 80, 80], [90, 40, 150, 120]]), torch.tensor([1, 0]))
        near = target.boxes.repeat(count // 4, 1) + 16 * torch.randn(count // 2, 4)
        corners = 100 * torch.rand(count - len(near), 2)
        proposals = torch.cat([near, torch.cat([corners, corners + 10 + 40 * torch.rand(len(corners), 2)], 1)])
        proposals[:, 2:] = proposals[:, 2:].maximum(proposals[:, :2] + 4)
        samples += head(8).sample([proposals], [target])
        targets.append(target)
    total = sum(len(sample.boxes) for sample in samples)
    return samples, targets, torch.randn(total, 3, requires_grad=True), torch.randn(total, 3, 4, requires_grad=True)


def test_all_regions_are_looked_at() -> None:
    samples, targets, _, _ = scene()
    assert [len(sample.boxes) for sample in samples] == [62, 62], "60 proposals and two objects"
    far = box_iou(targets[0].boxes, samples[0].boxes).amax(0) < 0.1
    assert bool(far.any()), "negatives need not touch an object"
    assert bool((samples[0].labels > 0).any())


@pytest.mark.parametrize("threshold", [None, 0.7, 0.4])
def test_losses_against_loops(threshold: float | None) -> None:
    samples, targets, logits, offsets = scene()
    hard = head(8, threshold)
    losses = hard.losses(logits, offsets, samples, targets)
    sum(losses.values()).backward()

    class_sum, box_sum, taken, first = 0.0, 0.0, [], 0
    for sample, target in zip(samples, targets, strict=True):
        rows = []
        for row in range(len(sample.boxes)):
            label = int(sample.labels[row])
            class_loss = float(-logits[first + row].detach().log_softmax(0)[label])
            box_loss = 0.0
            if label:
                wanted = hard.coder.encode(target.boxes[sample.objects[row]][None], sample.boxes[row][None])[0]
                for a, b in zip(offsets[first + row, label].tolist(), wanted.tolist(), strict=True):
                    box_loss += 0.5 * (a - b) ** 2 if abs(a - b) < 1 else abs(a - b) - 0.5
            rows.append((class_loss + box_loss, row, class_loss, box_loss))
        kept: list[int] = []
        for _, row, class_loss, box_loss in sorted(rows, reverse=True):
            if len(kept) == 8:
                break
            same = [k for k in kept if sample.labels[k] == sample.labels[row]]
            if threshold is None or all(box_iou(sample.boxes[[k]], sample.boxes[[row]]) <= threshold for k in same):
                kept.append(row)
                class_sum += class_loss
                box_sum += box_loss
        taken += [first + row for row in kept]
        first += len(sample.boxes)
    assert losses["class"].item() == pytest.approx(class_sum / len(taken), rel=1e-4)
    assert losses["boxes"].item() == pytest.approx(box_sum / len(taken), rel=1e-4)
    assert logits.grad is not None
    assert offsets.grad is not None
    assert logits.grad.abs().sum(1).nonzero()[:, 0].tolist() == sorted(taken), "the others teach nothing"
    assert set(offsets.grad.abs().sum((1, 2)).nonzero()[:, 0].tolist()) <= set(taken)


def model(**changes: object) -> HardRCNN:
    torch.manual_seed(0)
    made = build("fast_rcnn_ohem_vgg16", 2, small=True, **changes)
    assert isinstance(made, HardRCNN)
    made.proposer = lambda image: torch.tensor(
        [[x, y, x + side, y + side] for side in (20.0, 40, 60) for x in range(0, 90, 10) for y in (10, 40)]
    )
    return made


def test_first_reading_chooses_what_reading_all_would() -> None:
    """Read without gradient and then again, the chosen ones have the losses that reading all with gradient has."""
    reader = model(hard=6).eval()
    images = [torch.rand(3, 128, 128), torch.rand(3, 100, 128)]
    targets = [Target(torch.tensor([[20.0, 20, 70, 70]]), torch.tensor([1])) for _ in images]
    for parameter in reader.roi_heads.box_predictor.parameters():
        nn.init.normal_(parameter, std=0.5)
    batch = reader.preprocess(images)
    placed = reader.place(batch, targets)
    outputs = reader.network(batch, placed)
    assert [len(regions) for regions in outputs.regions] == [6, 6]
    found = reader.losses(outputs, batch, placed)

    _, regions = reader.propose(outputs.maps, batch, placed)
    samples = reader.roi_heads.sample(regions, placed)
    logits, offsets = reader.roi_heads(outputs.maps, [sample.boxes for sample in samples])
    expected = reader.roi_heads.losses(logits, offsets, samples, placed)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    everything = reader.roi_heads.region_losses(logits, offsets, samples, placed)
    assert found["class"] + found["boxes"] > sum(part.mean() for part in everything)


def test_first_reading_leaves_the_mode_alone() -> None:
    reader = model(dropout=0.5)
    images, targets = [torch.rand(3, 128, 128)], [Target(torch.tensor([[20.0, 20, 70, 70]]), torch.tensor([1]))]
    for training in (True, False):
        reader.train(training)
        reader(images, targets)
        assert all(module.training == training for module in reader.modules())


def test_settings_of_the_release() -> None:
    with torch.device("meta"):
        paper = fast_rcnn_ohem_vgg16(20)
    assert (paper.roi_heads.hard, paper.roi_heads.hard_nms) == (64, 0.7)
    assert sum(p.numel() for p in paper.parameters()) == 134_690_729
    assert RECIPE.batch * 64 == 128


def test_small_is_a_detector() -> None:
    assert_is_detector(model())


def test_small_overfits() -> None:
    torch.manual_seed(0)
    learner = build("fast_rcnn_ohem_vgg16", 2, small=True, widths=(8, 16, 24), head_width=48, hard=24)
    assert isinstance(learner, HardRCNN)
    images, _ = squares()
    search = learner.proposer
    assert search is not None
    found = {image.sum().item(): search(image) for image in images}
    learner.proposer = lambda image: found[image.sum().item()]
    assert_overfits(learner, steps=100)


def test_catalog_row() -> None:
    row, fast = CATALOG["fast_rcnn_ohem_vgg16"], CATALOG["fast_rcnn_vgg16"]
    assert row.golden.parameters == {20: fast.golden.parameters[20]}
    assert row.small is not None
    assert fast.small is not None
    assert {**fast.small, "hard": 48} == dict(row.small)
    assert issubclass(HardRCNN, FastRCNN)
