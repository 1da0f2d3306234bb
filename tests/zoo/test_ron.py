from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import box_iou

from ops.images import Batch, Frame
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target, toy_images
from zoo import CATALOG, build
from zoo.one_stage.ron import RON, RONOutputs, ron320_vgg16, ron384_vgg16

PAPER: list[tuple[Callable[..., RON], int, dict[str, Any], int, int, float | None, int]] = [
    (ron320_vgg16, 20, {}, 228_612_472, 28_692, 82.079, 21_250),
    (ron384_vgg16, 20, {}, 228_612_472, 28_692, 118.193, 30_600),
    (ron320_vgg16, 80, {}, 250_733_272, 28_692, None, 21_250),
    (ron320_vgg16, 20, {"reduced": True}, 42_760_568, 16_404, 41.554, 21_250),
]


def frames(size: int, images: int = 1) -> Batch:
    return Batch(torch.zeros(images, 3, size, size), (Frame((size, size), (size, size), (1.0, 1.0)),) * images)


def small(classes: int = 3, **overrides: object) -> RON:
    model = build("ron320_vgg16", classes, small=True, **overrides)
    assert isinstance(model, RON)
    return model


@pytest.mark.parametrize(("builder", "classes", "overrides", "parameters", "statistics", "giga_macs", "boxes"), PAPER)
def test_paper_size(
    builder: Callable[..., RON],
    classes: int,
    overrides: dict[str, Any],
    parameters: int,
    statistics: int,
    giga_macs: float | None,
    boxes: int,
) -> None:
    with torch.device("meta"):
        model = builder(classes, **overrides).eval()
        side = model.size[0]
        seen: list[tuple[tuple[int, ...], ...]] = []
        for head in model.heads:
            head.register_forward_hook(lambda _, __, out: seen.append(tuple(tuple(x.shape[1:]) for x in out)))
        with FlopCounterMode(display=False) as counter:
            outputs = model.network(frames(side))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(2 * m.num_features + 1 for m in model.modules() if isinstance(m, nn.BatchNorm2d)) == statistics
    if giga_macs is not None:
        assert counter.get_total_flops() / 2e9 == pytest.approx(giga_macs, abs=5e-4)
    assert model.num_boxes(model.size) == boxes == len(outputs.anchors) == sum(outputs.counts)
    maps = [side // stride for stride in (8, 16, 32, 64)]
    assert seen == [((20, s, s), (40, s, s), (10 * (classes + 1), s, s)) for s in maps]
    assert outputs.counts == tuple(10 * s * s for s in maps)
    assert (outputs.objectness.shape, outputs.logits.shape) == ((1, boxes, 2), (1, boxes, 1 + classes))
    still = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert still == {f"backbone.stages.0.conv1_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}


def test_golden_facts_stand_in_the_catalog() -> None:
    for builder, classes, overrides, parameters, _, giga_macs, boxes in PAPER:
        golden = CATALOG[builder.__name__].golden
        if not overrides:
            assert golden.parameters[classes] == parameters
            assert list(golden.boxes.values()) == [boxes]
            assert giga_macs is None or next(iter(golden.macs.values())) / 1e9 == pytest.approx(giga_macs, abs=5e-4)


SHAPES = {
    320: "55x18,110x36,45x22,90x44,32x32,64x64,23x46,46x92,18x54,36x108",
    384: "66x22,132x44,54x27,108x54,38x38,76x76,27x54,54x108,22x66,44x132",
}


def anchors_of(size: int) -> list[Tensor]:
    """Anchors of each level, from a network that is otherwise as small as can be."""
    model = RON(1, size=size, backbone="vgg16_reduced", width=2, hidden=2, mixed=2, kernel=1)
    with torch.device("meta"):
        other = RON(1, size=size, backbone="vgg16_reduced", width=2, hidden=2, mixed=2, kernel=1)
        counts = other.network(frames(size)).counts
    shapes = [model.get_buffer(f"shapes{level}") for level in range(4)]
    assert [len(s) * (size // 8 // 2**level) ** 2 for level, s in enumerate(shapes)] == list(counts)
    return shapes


@pytest.mark.parametrize("size", [320, 384])
def test_anchors(size: int) -> None:
    base = torch.tensor([[float(side) for side in pair.split("x")] for pair in SHAPES[size].split(",")])
    for level, shapes in enumerate(anchors_of(size)):
        sides = shapes[:, 2:] - shapes[:, :2]
        # Scales 1 and 2, 3 and 4, 5 and 6, 7 and 8 of the same five boxes.
        first, second = 2 * level + 1, 2 * level + 2
        wanted = torch.stack([base[0::2] * first, base[0::2] * second], 1).flatten(0, 1)
        torch.testing.assert_close(sides, wanted)
        # The middle of the base box lies at (base - 1) / 2 where the last pixel counts, at base / 2 between edges.
        torch.testing.assert_close((shapes[:, :2] + shapes[:, 2:]) / 2, torch.full((10, 2), (size // 10) / 2))


def test_anchors_lie_a_stride_apart() -> None:
    model = small()
    anchors = model.network(frames(160)).anchors
    per_cell = model.shapes_per_cell[0]
    assert per_cell == 2
    cells = anchors[: 40 * 40 * per_cell].unflatten(0, (40, 40, per_cell))
    torch.testing.assert_close(cells[3, 5, 1], cells[0, 0, 1] + torch.tensor([20.0, 12.0, 20.0, 12.0]))
    torch.testing.assert_close(cells[0, 0, 0], torch.tensor([0.0, 0.0, 10.0, 10.0]))


class Coded(nn.Module):
    """A head whose numbers say where they stand: channel, row, column."""

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        height, width = x.shape[-2:]
        place = 100 * torch.arange(height)[:, None] + torch.arange(width)
        return tuple((10_000 * torch.arange(c)[:, None, None] + place)[None].float() for c in self.channels)


def test_order_of_channels() -> None:
    model = small(classes=4)
    for level, anchors in enumerate(model.shapes_per_cell):
        model.heads[level] = Coded((2 * anchors, 4 * anchors, 5 * anchors))
    outputs = model.network(frames(160))
    first = 0
    for level, (anchors, side) in enumerate(zip(model.shapes_per_cell, (40, 20, 10, 5), strict=True)):
        for row, column, anchor in ((0, 0, 0), (2, 3, anchors - 1), (side - 1, side - 2, 1)):
            at = first + (row * side + column) * anchors + anchor
            place = 100 * row + column
            # All of the background comes first, then all of the objects.
            assert outputs.objectness[0, at].tolist() == [10_000 * (k * anchors + anchor) + place for k in range(2)]
            assert outputs.logits[0, at].tolist() == [10_000 * (k * anchors + anchor) + place for k in range(5)]
            assert outputs.offsets[0, at].tolist() == [10_000 * (4 * anchor + k) + place for k in range(4)]
            shape = model.get_buffer(f"shapes{level}")[anchor]
            stride = 160 // side
            moved = shape + stride * torch.tensor([column, row, column, row])
            torch.testing.assert_close(outputs.anchors[at], moved)
        first += anchors * side * side


def test_reverse_connection() -> None:
    torch.manual_seed(0)
    model = small().eval()
    x = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        given = [lateral(m) for lateral, m in zip(model.lateral, model.backbone(x), strict=True)]
        maps = model.levels(x)
    torch.testing.assert_close(maps[3], given[3])
    for level in (2, 1, 0):
        up = model.reverse[level]
        enlarged = torch.zeros_like(maps[level])
        for row in range(2):
            for column in range(2):
                kernel = up.weight[:, :, row, column].T[..., None, None]
                enlarged[..., row::2, column::2] = F.conv2d(maps[level + 1], kernel, up.bias)
        torch.testing.assert_close(maps[level], (given[level] + enlarged.relu()).relu())
        assert (enlarged < 0).any(), "the inner ReLU must have something to do"
    # Coarse maps reach fine ones, and never the other way round.
    pixels = torch.randn(1, 3, 160, 160)
    maps = model.levels(pixels)
    for reads in range(4):
        model.zero_grad()
        maps[reads].sum().backward(retain_graph=True)
        touched = [any(p.grad is not None for p in lateral.parameters()) for lateral in model.lateral]
        assert touched == [level >= reads for level in range(4)]


def random_case(model: RON, seed: int, counts: tuple[int, ...]) -> tuple[RONOutputs, Batch, list[Target]]:
    generator = torch.Generator().manual_seed(seed)
    batch = frames(model.size[0], len(counts))
    with torch.no_grad():
        real = model.network(batch)
    rows = len(real.anchors)
    targets = []
    for objects in counts:
        corner = 100 * torch.rand((objects, 2), generator=generator)
        boxes = torch.cat([corner, corner + 9 + 50 * torch.rand((objects, 2), generator=generator)], 1)
        targets.append(Target(boxes, torch.randint(0, model.num_classes, (objects,), generator=generator)))
    made = [torch.randn((len(counts), rows, values), generator=generator) for values in (2, 4, 1 + model.num_classes)]
    objectness, offsets, logits = made
    outputs = RONOutputs(
        (3 * objectness).requires_grad_(), offsets.requires_grad_(), logits.requires_grad_(), real.anchors, real.counts
    )
    return outputs, batch, targets


def slow_labels(model: RON, outputs: RONOutputs, target: Target, floor: float) -> tuple[list[int], list[int]]:
    """Anchor by anchor, as the sheet has it: -1 no part, 0 background, 1 object; and the same with classes."""
    size, objects, classes = model.size[0], [-1] * len(outputs.anchors), [-1] * len(outputs.anchors)
    iou = box_iou(target.boxes, outputs.anchors).tolist()
    first = 0
    for level, count in enumerate(outputs.counts):
        reach = (2, 4, 8, 16)[level]
        best = [(-1.0, -1)] * len(target)
        for at in range(first, first + count):
            x1, y1, x2, y2 = outputs.anchors[at].tolist()
            if min(x1, y1) < -reach or max(x2, y2) - 1 >= size + reach:
                continue
            most = max((row[at] for row in iou), default=0.0)
            if 0.001 < most < 0.3:
                objects[at] = 0
            if most < 0.3:
                classes[at] = 0
            for index, row in enumerate(iou):
                if row[at] > best[index][0]:
                    best[index] = (row[at], at)
        for index, (value, at) in enumerate(best):
            if value > 0.1:
                objects[at] = 1
            if value > 0.3:
                classes[at] = 1 + int(target.labels[index])
        for at in range(first, first + count):
            x1, y1, x2, y2 = outputs.anchors[at].tolist()
            if min(x1, y1) < -reach or max(x2, y2) - 1 >= size + reach:
                continue
            for index, row in enumerate(iou):
                if row[at] == max(r[at] for r in iou):
                    if row[at] >= 0.5:
                        objects[at] = 1
                    if row[at] >= 0.6:
                        classes[at] = 1 + int(target.labels[index])
        first += count
    return objects, classes


def slow_losses(model: RON, outputs: RONOutputs, targets: list[Target]) -> tuple[dict[str, float], int]:
    """With every negative drawn."""
    priors = outputs.objectness.detach().softmax(-1)[..., 1].tolist()
    log_prior = outputs.objectness.detach().log_softmax(-1).tolist()
    log_class = outputs.logits.detach().log_softmax(-1).tolist()
    labels = [slow_labels(model, outputs, target, model.objectness_floor) for target in targets]
    sums = {"objectness": 0.0, "box": 0.0, "class": 0.0}
    positives = 0
    first = 0
    for count in outputs.counts:
        level = range(first, first + count)
        first += count
        entropy, classes = [], []
        box = 0.0
        for image, (objects, kinds) in enumerate(labels):
            drawn, error = 0, 0.0
            for at in level:
                if kinds[at] >= 0 and priors[image][at] >= 0.03:
                    classes.append(-log_class[image][at][kinds[at]])
                if objects[at] < 0:
                    continue
                drawn += 1
                entropy.append(-log_prior[image][at][objects[at]])
                if objects[at] == 0:
                    continue
                positives += 1
                iou = box_iou(targets[image].boxes, outputs.anchors[at : at + 1])[:, 0]
                x1, y1, x2, y2 = targets[image].boxes[int(iou.argmax())].tolist()
                ax1, ay1, ax2, ay2 = outputs.anchors[at].tolist()
                width, height = ax2 - ax1, ay2 - ay1
                wanted = (
                    ((x1 + x2) - (ax1 + ax2)) / 2 / width,
                    ((y1 + y2) - (ay1 + ay2)) / 2 / height,
                    math.log((x2 - x1) / width),
                    math.log((y2 - y1) / height),
                )
                for value, want in zip(outputs.offsets[image, at].tolist(), wanted, strict=True):
                    away = abs(value - want)
                    # Sigma 3: quadratic up to a ninth.
                    error += 0.5 * 9 * away**2 if away < 1 / 9 else away - 0.5 / 9
            box += error / max(1, drawn)
        sums["objectness"] += sum(entropy) / max(1, len(entropy))
        sums["class"] += sum(classes) / max(1, len(classes))
        sums["box"] += box / len(targets)
    return sums, positives


def test_losses_are_the_loop() -> None:
    model = small(negatives=10**6, quotas=(10**6,) * 4)
    outputs, batch, targets = random_case(model, 1, (4, 0, 2))
    losses = model.losses(outputs, batch, targets)
    wanted, positives = slow_losses(model, outputs, targets)
    assert positives > 20
    for name, value in wanted.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4), name
    sum(losses.values()).backward()
    assert int((outputs.offsets.grad.abs().sum(-1) > 0).sum()) == positives


def test_negatives_are_three_a_positive_level_by_level() -> None:
    model = small()
    outputs, batch, targets = random_case(model, 2, (5, 3))
    labels = [slow_labels(model, outputs, target, 0.0) for target in targets]
    prior = outputs.objectness.detach().softmax(-1)[..., 1]
    model.losses(outputs, batch, targets)["class"].backward()
    model.losses(outputs, batch, targets)["objectness"].backward()
    learnt = {
        "objectness": outputs.objectness.grad.abs().sum(-1) > 0,
        "class": outputs.logits.grad.abs().sum(-1) > 0,
    }
    for kind, name in enumerate(("objectness", "class")):
        truth = torch.tensor([pair[kind] for pair in labels])
        if name == "class":
            truth[prior < 0.03] = -1
        first = 0
        for count, quota in zip(outputs.counts, (512, 512, 256, 256), strict=True):
            level = slice(first, first + count)
            first += count
            here, drawn = truth[:, level], learnt[name][:, level]
            positives, background = int((here > 0).sum()), int((here == 0).sum())
            assert drawn[here > 0].all(), "every positive is learnt"
            assert not drawn[here < 0].any(), "what takes no part is not"
            wanted = 3 * positives if positives else quota
            assert int(drawn[here == 0].sum()) == min(wanted, background)


def test_levels_without_positives_learn_their_quota() -> None:
    model = small(quotas=(40, 30, 20, 10))
    outputs, batch, _ = random_case(model, 3, (0,))
    losses = model.losses(outputs, batch, [empty_target()])
    sum(losses.values()).backward()
    assert losses["objectness"].item() == losses["box"].item() == 0
    learnt = outputs.logits.grad[0].abs().sum(-1) > 0
    assert [int(part.sum()) for part in learnt.split(list(outputs.counts))] == [40, 30, 20, 10]


def test_only_where_there_may_be_an_object_is_a_class_learnt() -> None:
    model = small(negatives=10**6, quotas=(10**6,) * 4)
    outputs, batch, targets = random_case(model, 4, (4,))
    margin = torch.full((1, len(outputs.anchors)), math.log(0.031 / 0.969))
    margin[0, ::2] = math.log(0.029 / 0.971)
    made = RONOutputs(
        torch.stack([torch.zeros_like(margin), margin], -1).requires_grad_(),
        outputs.offsets,
        outputs.logits,
        outputs.anchors,
        outputs.counts,
    )
    model.losses(made, batch, targets)["class"].backward()
    learnt = outputs.logits.grad[0].abs().sum(-1) > 0
    assert not learnt[::2].any()
    assert learnt[1::2].sum() > 500
    assert made.objectness.grad is None, "the prior chooses, and is not taught by the classes"


def test_without_the_prior_classes_learn_everywhere_and_score_alone() -> None:
    model = small(negatives=10**6, quotas=(10**6,) * 4, objectness=False)
    outputs, batch, targets = random_case(model, 4, (4,))
    losses = model.losses(outputs, batch, targets)
    sum(losses.values()).backward()
    assert losses["objectness"].item() == 0
    assert outputs.objectness.grad is None
    classes = torch.tensor(slow_labels(model, outputs, targets[0], 0.0)[1])
    assert torch.equal(outputs.logits.grad[0].abs().sum(-1) > 0, classes >= 0)
    boxes = [[10.0, 10.0, 50.0, 50.0], [60.0, 60.0, 100.0, 100.0]]
    found = answer(model, boxes, [0.5, 0.001], [[0.6, 0.001, 0.001, 0.398], [0.9, 0.001, 0.001, 0.098]])
    assert found.scores.tolist() == pytest.approx([0.9, 0.6], rel=1e-4)


def test_without_the_prior_it_overfits() -> None:
    assert_overfits(small(2, objectness=False), steps=45)


def test_chance_is_torchs() -> None:
    model = small()
    outputs, batch, targets = random_case(model, 5, (3, 4))
    values = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        values.append(model.losses(outputs, batch, targets)["objectness"].item())
    assert values[0] == values[1] != values[2]


def test_perfect_predictions_cost_nothing_and_decode_to_the_objects() -> None:
    model = small()
    outputs, batch, targets = random_case(model, 6, (4,))
    iou = box_iou(targets[0].boxes, outputs.anchors)
    nearest = iou.argmax(0)
    offsets = model.coder.encode(targets[0].boxes[nearest], outputs.anchors)[None]
    objects, classes = (torch.tensor(part) for part in slow_labels(model, outputs, targets[0], 0.0))
    prior = torch.full((1, len(objects), 2), -20.0)
    prior[0, range(len(objects)), (objects > 0).long()] = 20
    logits = torch.full((1, len(objects), 4), -20.0)
    logits[0, range(len(objects)), classes.clamp(min=0)] = 20
    perfect = RONOutputs(prior, offsets, logits, outputs.anchors, outputs.counts)
    losses = model.losses(perfect, batch, targets)
    assert losses["objectness"].item() == pytest.approx(0, abs=1e-5)
    assert losses["box"].item() == pytest.approx(0, abs=1e-6)
    assert losses["class"].item() == pytest.approx(0, abs=1e-5)
    found = model.postprocess(perfect, batch)[0]
    overlap = box_iou(found.boxes, targets[0].boxes) * (found.labels[:, None] == targets[0].labels)
    assert overlap.amax(0).min() > 0.99


def answer(
    model: RON, boxes: list[list[float]], prior: list[float], classes: list[list[float]], frame: Frame | None = None
) -> Any:
    """What becomes of boxes with an objectness and class probabilities, background last in each list."""
    anchors = torch.tensor(boxes)
    objectness = torch.tensor([[1 - p, p] for p in prior]).log()[None]
    logits = torch.tensor([[row[-1], *row[:-1]] for row in classes]).log()[None]
    outputs = RONOutputs(objectness, torch.zeros(1, len(boxes), 4), logits, anchors, (len(boxes), 0, 0, 0))
    frame = frame or Frame((160, 160), (160, 160), (1.0, 1.0))
    return model.postprocess(outputs, Batch(torch.zeros(1, 3, 160, 160), (frame,)))[0]


def test_scores_are_products_and_the_prior_has_a_floor() -> None:
    model = small(min_side=10.0)
    boxes = [[10.0, 10.0, 50.0, 50.0], [60.0, 60.0, 100.0, 100.0], [110.0, 10.0, 150.0, 50.0]]
    found = answer(model, boxes, [0.5, 0.029, 0.031], [[0.8, 0.019, 0.001, 0.18], *[[0.9, 0.05, 0.02, 0.03]] * 2])
    # .5 times .019 and .5 times .001 are under the floor of .01, .031 times .9 is over it.
    assert found.scores.tolist() == pytest.approx([0.4, 0.0279], rel=1e-4)
    assert found.labels.tolist() == [0, 0]
    assert found.boxes.tolist() == [boxes[0], boxes[2]]


def test_slivers_go_in_pixels_of_the_image() -> None:
    model = small(min_side=10.0)
    # 4 network pixels across make 8 in the image, 6 make 12; 20 x 110 is 1 : 5.5, 18 x 110 is 1 : 6.1.
    boxes = [[20.0, 20.0, 24.0, 24.0], [40.0, 40.0, 46.0, 46.0], [60.0, 10.0, 80.0, 120.0], [90.0, 10.0, 108.0, 120.0]]
    frame = Frame((320, 320), (160, 160), (0.5, 0.5))
    found = answer(model, boxes, [0.9, 0.8, 0.7, 0.6], [[0.9, 0.03, 0.03, 0.04]] * 4, frame)
    assert found.boxes[found.labels == 0].tolist() == [[80.0, 80.0, 92.0, 92.0], [120.0, 20.0, 160.0, 240.0]]
    # What sticks out is measured after it was clipped.
    assert not len(answer(model, [[-10.0, 40.0, 6.0, 80.0]], [0.9], [[0.9, 0.03, 0.03, 0.04]]))


def test_suppression_and_the_limit_of_a_class() -> None:
    model = small(min_side=2.0)
    rows = [[float(x), float(y), x + 10.0, y + 10.0] for y in range(0, 150, 12) for x in range(0, 150, 12)]
    assert len(rows) > 120
    prior = [0.9 - 0.001 * index for index in range(len(rows))]
    found = answer(model, rows, prior, [[0.6, 0.3, 0.05, 0.05]] * len(rows))
    assert torch.bincount(found.labels).tolist() == [80, 80, 80]
    assert found.scores[found.labels == 0].min().item() == pytest.approx(0.6 * prior[79], rel=1e-4)
    # IoU 10 / 22 goes, 8 / 24 stays: the threshold is .4.
    near = [[0.0, 0.0, 16.0, 10.0], [6.0, 0.0, 22.0, 10.0], [0.0, 20.0, 16.0, 30.0], [8.0, 20.0, 24.0, 30.0]]
    found = answer(model, near, [0.9, 0.8, 0.7, 0.6], [[0.97, 0.001, 0.001, 0.028]] * 4)
    assert found.boxes[:, :2].tolist() == [[0, 0], [0, 20], [8, 20]]


def test_input_is_bgr_bytes_less_the_mean() -> None:
    image = torch.tensor([0.2, 0.4, 0.6])[:, None, None].expand(3, 50, 70)
    batch = small().preprocess([image, image[:, :30]])
    expected = torch.tensor([0.6 * 255 - 102.9801, 0.4 * 255 - 115.9465, 0.2 * 255 - 122.7717])[:, None, None]
    for row in batch.pixels:
        torch.testing.assert_close(row, expected.expand(3, 160, 160), atol=1e-3, rtol=0)


def test_other_inputs() -> None:
    model = small()
    model.resize((96, 192))
    outputs = model.network(model.preprocess(toy_images()))
    assert len(outputs.anchors) == model.num_boxes((96, 192)) == outputs.offsets.shape[1]
    for size in (100, (160, 90), 0):
        with pytest.raises(ValueError, match="multiple of 32"):
            model.resize(size)
    with pytest.raises(ValueError, match="4 levels"):
        small(quotas=(1, 2, 3))
    with pytest.raises(ValueError, match="multiple of 64"):
        ron320_vgg16(2, size=300, width=2, hidden=2, mixed=2, reduced=True)


def test_names_in_caffe() -> None:
    for reduced in (False, True):
        with torch.device("meta"):
            model = ron320_vgg16(20, reduced=reduced)
        names = model.caffe_names()
        modules = dict(model.named_modules())
        holds = {name for name, m in modules.items() if list(m.parameters(recurse=False))}
        assert set(names) == holds
        layers = [layer for entry in names.values() for layer in ((entry,) if isinstance(entry, str) else entry)]
        assert len(set(layers)) == len(layers)
        assert names["backbone.stages.4.conv5_3"] == "conv5_3"
        assert names["backbone.fc6"] == ("fc6" if reduced else "fc6-conv")
        assert names["lateral.3.0"] == "rpn_conv7"
        assert names["lateral.3.1"] == ("rpn_lrn7", "scale_lrn7")
        assert names["lateral.0.1"] == ("rpn_lrn4_1", "scale_lrn4_1")
        assert names["reverse.0"] == "rpn_lrn5_d"
        assert names["heads.2.objectness.0.1"] == ("rpn_cls_score_6a_bn", "rpn_cls_score_6a_scale")
        assert names["heads.1.boxes.1"] == "rpn_bbox_pred_5"
        assert names["heads.0.classes.0.conv1"] == "det_cls_score_42"
        assert names["heads.0.classes.1.conv3"] == "det_cls_score_41b"
        assert names["heads.0.classes.1.bn"] == ("det_cls_score_4b_bn", "det_cls_score_4b_scale")
        assert names["heads.3.classes.2"] == "det_cls_score_7"
    with pytest.raises(ValueError, match="VGG-16"):
        small().caffe_names()


@pytest.mark.parametrize("name", ["ron320_vgg16", "ron384_vgg16"])
def test_small_size_is_a_detector(name: str) -> None:
    torch.manual_seed(0)
    assert_is_detector(build(name, 3, small=True))
    assert sum(v.numel() for v in build(name, 8, small=True).state_dict().values()) < 480_000


def test_small_size_at_a_larger_input() -> None:
    torch.manual_seed(0)
    model = small(size=256)
    assert model.num_boxes((256, 256)) == 2 * 64**2 + 6 * (32**2 + 16**2 + 8**2)
    with torch.no_grad():
        model(toy_images())


def test_small_size_overfits() -> None:
    assert_overfits(small(2), steps=45)
