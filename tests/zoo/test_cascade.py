"""Cascade R-CNN: each head learns from what the one before corrected, and the scores of all are averaged."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from ops.images import Batch, Frame
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, squares, toy_images
from zoo import CATALOG, build
from zoo.two_stage.cascade import CascadeRCNN, cascade_rcnn_r50_fpn

PROPOSAL = torch.tensor([[10.0, 20.0, 110.0, 220.0]])
OBJECT = torch.tensor([[30.0, 40.0, 90.0, 260.0]])


def small(**changes: object) -> CascadeRCNN:
    torch.manual_seed(0)
    model = build("cascade_rcnn_r50_fpn", 2, small=True, **changes)
    assert isinstance(model, CascadeRCNN)
    return model


@pytest.mark.parametrize(
    ("stages", "parameters"),
    [(1, 27_393_231 + 13_982_805), (2, 27_393_231 + 2 * 13_982_805), (3, 69_341_646)],
)
def test_parameters_by_stages(stages: int, parameters: int) -> None:
    with torch.device("meta"):
        model = cascade_rcnn_r50_fpn(80, stages=stages)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_overlaps_and_weights_of_the_stages() -> None:
    with torch.device("meta"):
        model = cascade_rcnn_r50_fpn(80, stages=4)
    assert [head.overlap for head in model.stages] == [0.5, 0.6, 0.7, 0.75]
    wanted = [
        (0.0, 1.5, -2.554128, 0.476551),
        (0.0, 3.0, -5.108256, 0.953102),
        (0.0, 4.5, -7.662384, 1.429653),
    ]
    for head, row in zip(model.stages, wanted, strict=False):
        torch.testing.assert_close(head.coder.encode(OBJECT, PROPOSAL), torch.tensor([row]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("stages", [0, 5])
def test_stages_need_settings(stages: int) -> None:
    with pytest.raises(ValueError, match=f"{stages} stages need"):
        small(stages=stages)


def test_stages_and_loss_weights_belong_together() -> None:
    model = small()
    with pytest.raises(ValueError, match="need one each"):
        CascadeRCNN(2, stages=model.stages, loss_weights=(1.0,), rpn=model.rpn, backbone=model.backbone)


def test_each_stage_learns_from_what_the_one_before_corrected() -> None:
    model = small().train()
    images, targets = squares()
    batch = model.preprocess(images)
    placed = model.place(batch, targets)
    outputs = model.network(batch, placed)
    assert len(outputs.stages) == 3
    assert [len(said.samples[0].boxes) <= 32 for said in outputs.stages[:1]] == [True]
    for index, (before, after) in enumerate(zip(outputs.stages, outputs.stages[1:], strict=False), start=1):
        counts = [len(sample.boxes) for sample in before.samples]
        for image, part in enumerate(before.offsets.split(counts)):
            head, weights = model.stages[index - 1], (10.0 * index, 10.0 * index, 5.0 * index, 5.0 * index)
            assert head.coder.weights == weights
            corrected = head.coder.decode(part[:, 0], before.samples[image].boxes).clamp(min=0)
            size = batch.frames[image].inner
            corrected = torch.minimum(corrected, torch.tensor([size[1], size[0], size[1], size[0]]))
            given = after.samples[image]
            # All of them, with the objects behind.
            torch.testing.assert_close(given.boxes, torch.cat([corrected, placed[image].boxes]))
            overlap, nearest = box_iou(placed[image].boxes, given.boxes).max(0)
            positive = overlap >= (0.5, 0.6, 0.7)[index]
            assert torch.equal(given.labels > 0, positive)
            assert torch.equal(given.objects[positive], nearest[positive])
            assert positive[-len(placed[image]) :].all()


def test_no_gradient_passes_through_boxes() -> None:
    model = small().train()
    images, targets = squares()
    losses = model(images, targets)
    (losses["class3"] + losses["boxes3"]).backward()
    assert all(p.grad is None for head in model.earlier for p in head.parameters())
    assert any(bool(p.grad.any()) for p in model.backbone.parameters() if p.grad is not None)


def test_losses_of_later_stages_weigh_less() -> None:
    images, targets = squares()
    found = []
    for loss_weights in ((1.0, 0.5, 0.25), (1.0, 1.0, 1.0)):
        model = small(loss_weights=loss_weights).eval()
        torch.manual_seed(1)
        with torch.no_grad():
            found.append(model(images, targets))
    for name in ("class", "boxes"):
        for index, weight in enumerate((1.0, 0.5, 0.25), start=1):
            torch.testing.assert_close(found[0][f"{name}{index}"], weight * found[1][f"{name}{index}"])


def test_a_box_without_an_area_is_left_out() -> None:
    model = small()
    batch = Batch(torch.zeros(1, 3, 160, 160), (Frame((160, 160), (160, 160), (1.0, 1.0)),))
    boxes = torch.tensor([[10.0, 10, 50, 50], [150.0, 10, 158, 50]])
    # The second goes by four widths to the right, out of the image.
    offsets = torch.tensor([[[0.0, 0, 0, 0]], [[40.0, 0, 0, 0]]])
    (kept,) = model.corrected(model.stages[0], offsets, [boxes], batch)
    torch.testing.assert_close(kept, boxes[:1])


@torch.no_grad()
def test_scores_are_averaged_over_all_heads_on_the_last_boxes() -> None:
    model = small().eval()
    for head in model.stages:
        torch.nn.init.normal_(head.box_predictor.cls_score.weight, std=0.5)  # type: ignore[union-attr,arg-type]
    batch = model.preprocess(toy_images())
    maps = model.backbone(batch.pixels)
    _, regions = model.propose(maps, batch, None)
    outputs = model.network(batch)
    for index in (0, 1):
        offsets = model.stages[index](maps, regions)[1]
        regions = model.corrected(model.stages[index], offsets, regions, batch)
    said = [head(maps, regions) for head in model.stages]
    for ours, theirs in zip(outputs.regions, regions, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(outputs.offsets, said[2][1])
    torch.testing.assert_close(outputs.logits.softmax(1), sum(logits.softmax(1) for logits, _ in said) / 3)
    model.average = False
    torch.testing.assert_close(model.network(batch).logits, said[2][0])


def test_one_stage_has_the_answers_of_its_head() -> None:
    model = small(stages=1).eval()
    assert len(model.earlier) == 0
    batch = model.preprocess(toy_images())
    with torch.no_grad():
        outputs = model.network(batch)
        logits, offsets = model.roi_heads(outputs.maps, outputs.regions)
    torch.testing.assert_close(outputs.logits.softmax(1), logits.softmax(1))
    torch.testing.assert_close(outputs.offsets, offsets)


def test_losses_need_outputs_that_saw_the_targets() -> None:
    model = small()
    images, targets = squares()
    batch = model.preprocess(images)
    with pytest.raises(ValueError, match="network\\(batch, targets\\)"):
        model.losses(model.network(batch), batch, targets)


def test_small_is_a_detector() -> None:
    assert_is_detector(small())


def test_small_overfits() -> None:
    # Boxes that were corrected twice lie closer than those of one head.
    assert_overfits(small(), steps=80, iou=0.7)


def test_small_is_as_large_as_one_head() -> None:
    one, three = (build(f"{name}_rcnn_r50_fpn", 8, small=True) for name in ("faster", "cascade"))
    sizes = [sum(value.numel() for value in model.state_dict().values()) for model in (one, three)]
    assert sizes == [439_289, 438_755]


def test_ignored_objects_are_left_out() -> None:
    model = small().eval()
    images, targets = squares(2)
    ignored = [Target(t.boxes, t.labels, torch.ones_like(t.labels, dtype=torch.bool)) for t in targets]
    losses = model(images, ignored)
    assert losses["boxes1"] == losses["boxes2"] == losses["boxes3"] == 0


def test_catalog_rows() -> None:
    for depth in (50, 101):
        assert CATALOG[f"cascade_rcnn_r{depth}_fpn"].golden.boxes == {(800, 1088): 217_413}
