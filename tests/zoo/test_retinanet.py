"""RetinaNet: the paper's counts, the focal loss by its numbers and by loops, and torchvision's own model as oracle."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.models.detection.retinanet import RetinaNet as TorchvisionRetinaNet
from torchvision.ops import box_iou, sigmoid_focal_loss
from torchvision.ops.misc import FrozenBatchNorm2d

from benchmarks.datasets.dataset import read_image
from ops.images import Batch, Frame
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target
from zoo import CATALOG, build
from zoo.one_stage.retinanet import TORCHVISION, RetinaNet, RetinaNetOutputs, retinanet_r50_fpn, retinanet_r101_fpn

SHORT, LONGEST = 160, 240


def on_meta(num_classes: int, **overrides: Any) -> RetinaNet:
    with torch.device("meta"):
        return retinanet_r50_fpn(num_classes, **overrides)


def count(module: nn.Module, *, learnt: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not learnt)


@pytest.mark.parametrize(
    ("depth", "classes", "affine", "frozen", "learnt"),
    [
        (50, 80, 37_968_692, 37_915_572, 37_693_172),
        (50, 20, 36_723_992, 36_670_872, 36_448_472),
        (101, 80, 56_960_820, 56_855_476, 56_633_076),
        (101, 20, 55_716_120, 55_610_776, 55_388_376),
    ],
)
def test_parameters(depth: int, classes: int, affine: int, frozen: int, learnt: int) -> None:
    builder = retinanet_r50_fpn if depth == 50 else retinanet_r101_fpn
    with torch.device("meta"):
        assert count(builder(classes, norm="batch")) == affine
        model = builder(classes)
    assert (count(model), count(model, learnt=True)) == (frozen, learnt)


@pytest.mark.parametrize(("depth", "learnt"), [(50, 37_743_348), (101, 56_735_476)])
def test_what_learns_where_the_normalisation_does(depth: int, learnt: int) -> None:
    assert count(on_meta(80, depth=depth, norm="batch"), learnt=True) == learnt


@pytest.mark.parametrize(
    ("depth", "classes", "background", "parameters"),
    [(50, 80, 0, 33_839_924), (50, 90, 1, 34_068_119), (50, 20, 0, 32_595_224), (101, 80, 0, 52_832_052)],
)
def test_parameters_with_p6_from_p5(depth: int, classes: int, background: int, parameters: int) -> None:
    model = on_meta(classes, depth=depth, norm="batch", p6_from="P5", background=bool(background))
    assert count(model) == parameters


def test_parts() -> None:
    model = on_meta(80)
    names = ("head.classification_head", "head.regression_head", "backbone.fpn")
    assert [count(model.get_submodule(name)) for name in names] == [4_019_920, 2_443_300, 7_997_440]
    extra = model.get_submodule("backbone.fpn.extra_blocks")
    assert {name: count(conv) for name, conv in extra.named_children()} == {"p6": 4_718_848, "p7": 590_080}
    assert count(on_meta(20).get_submodule("head.classification_head")) == 2_775_220


@pytest.mark.parametrize(
    ("size", "boxes"),
    [
        ((500, 500), 47_961),
        ((512, 512), 49_104),
        ((600, 600), 67_995),
        ((800, 800), 120_087),
        ((800, 1344), 201_600),
        ((800, 1333), 200_700),
    ],
)
def test_boxes_and_their_outputs(size: tuple[int, int], boxes: int) -> None:
    model = on_meta(80)
    assert model.num_boxes(size) == boxes
    with torch.device("meta"):
        outputs = model.network(Batch(torch.zeros(1, 3, *size), (Frame(size, size, (1.0, 1.0)),)))
    assert sum(len(anchors) for anchors in outputs.anchors) == boxes
    assert sum(logits.shape[1] for logits in outputs.logits) == boxes
    assert sum(offsets.shape[1] for offsets in outputs.offsets) == boxes
    assert {logits.shape[2] for logits in outputs.logits} == {80}


@pytest.mark.parametrize(
    ("short", "size", "padded"),
    [
        (800, (480, 640), (800, 1088)),
        (800, (300, 1200), (352, 1344)),
        (500, (480, 640), (512, 672)),
        (500, (300, 1200), (224, 864)),
    ],
)
def test_preprocessing_sizes(short: int, size: tuple[int, int], padded: tuple[int, int]) -> None:
    for model in (on_meta(1, short=short), on_meta(1)):
        model.resize(short)
        with torch.device("meta"):
            assert model.preprocess([torch.zeros(3, *size)]).size == padded


def test_resize_to_height_and_width_bounds_both() -> None:
    model = on_meta(1)
    model.resize((320, 256))
    with torch.device("meta"):
        sizes = [model.preprocess([torch.zeros(3, *size)]).frames[0].inner for size in ((480, 640), (400, 800))]
    assert sizes == [(240, 320), (160, 320)]


def test_operations_as_torchvision_states_them() -> None:
    model = on_meta(90, **TORCHVISION)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.network(Batch(torch.zeros(1, 3, 800, 800), (Frame((800, 800), (800, 800), (1.0, 1.0)),)))
    assert counter.get_total_flops() / 2e9 == pytest.approx(151.54, abs=5e-3)


# Anchors.


def test_anchors_of_a_cell() -> None:
    model = build("retinanet_r50_fpn", 1)
    assert isinstance(model, RetinaNet)
    shapes = model.get_buffer("shapes0")
    assert torch.equal(shapes[:, :2], -shapes[:, 2:])
    tall = [(22.6274, 45.2548), (28.5088, 57.0175), (35.9188, 71.8376)]
    square = [(32.0, 32.0), (40.3175, 40.3175), (50.7968, 50.7968)]
    wide = [(width, height) for height, width in tall]
    torch.testing.assert_close(shapes[:, 2:] * 2, torch.tensor(wide + square + tall), atol=1e-4, rtol=0)
    for level in range(1, 5):
        torch.testing.assert_close(model.get_buffer(f"shapes{level}"), shapes * 2**level)


def test_anchors_lie_where_their_cells_do() -> None:
    model = retinanet_r50_fpn(1, backbone="small", width=8, extras=1, base=2.0, scales=1, ratios=(1.0,))
    batch = Batch(torch.zeros(1, 3, 64, 96), (Frame((64, 96), (64, 96), (1.0, 1.0)),))
    with torch.no_grad():
        anchors = model.network(batch).anchors
    assert [len(rows) for rows in anchors] == [16 * 24, 8 * 12, 4 * 6, 2 * 3, 1 * 2]
    assert anchors[0][:2].tolist() == [[-2, -2, 6, 6], [2, -2, 10, 6]]
    assert anchors[0][24].tolist() == [-2, 2, 6, 10]
    assert anchors[4].tolist() == [[-32, -32, 96, 96], [32, -32, 160, 96]]


def test_a_single_level_has_the_anchors_of_all() -> None:
    pyramid, single = (build("retinanet_r50_fpn", 8, small=True, **way) for way in ({}, {"single": 2}))
    batch = pyramid.preprocess([torch.zeros(3, 160, 160)])
    with torch.no_grad():
        of_levels, alone = pyramid.network(batch).anchors, single.network(batch).anchors
    assert [len(rows) for rows in alone] == [10 * 10 * 15]
    assert single.num_boxes((160, 160)) == 10 * 10 * 15
    wanted = sorted(tuple(row) for rows in of_levels for row in sides(rows).unique(dim=0).tolist())
    cell = alone[0].view(10, 10, 15, 4)[3, 7]
    assert sorted(map(tuple, sides(cell).tolist())) == sorted(set(wanted))
    torch.testing.assert_close((cell[:, 2:] + cell[:, :2]) / 2, torch.tensor([[7.5 * 16, 3.5 * 16]]).expand(15, 2))


def sides(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).round(decimals=2)


@pytest.mark.parametrize("level", [-1, 5])
def test_a_single_level_must_be_one(level: int) -> None:
    with pytest.raises(ValueError, match=f"single = {level}: there are levels 0 to 4"):
        build("retinanet_r50_fpn", 8, small=True, single=level)


@pytest.mark.parametrize(("norm", "alone"), [("group", True), ("batch", False)])
@pytest.mark.parametrize("small", [True, False])
def test_what_normalises_by_image_knows_nothing_of_the_batch(norm: str, alone: bool, small: bool) -> None:
    torch.manual_seed(0)
    model = build("retinanet_r50_fpn", 2, small=small, norm=norm, **({} if small else {"short": 64})).train()
    batch = model.preprocess([torch.rand(3, 64, 64), torch.rand(3, 64, 64)])
    one = replace(batch, pixels=batch.pixels[:1], frames=batch.frames[:1])
    with torch.no_grad():
        both, first = (model.backbone(images.pixels)[0][0] for images in (batch, one))
    assert torch.allclose(both, first, rtol=1e-3, atol=1e-3) == alone


def test_there_is_no_other_normalisation() -> None:
    with pytest.raises(ValueError, match=r"norm = 'layer': choose frozen, batch, group"):
        build("retinanet_r50_fpn", 2, small=True, norm="layer")


def test_a_single_level_overfits() -> None:
    assert_overfits(build("retinanet_r50_fpn", 2, small=True, single=1), steps=60)


# Losses.

GOLDEN_FOCAL = [
    (0.0, 1, 0.0433217),
    (0.0, 0, 0.1299651),
    (2.0, 1, 0.00045089),
    (2.0, 0, 1.23755863),
    (-2.0, 1, 0.41251954),
    (-2.0, 0, 0.00135267),
    (-4.59511985, 1, 1.12838182),
    (-4.59511985, 0, -0.75 * 0.01**2 * math.log(0.99)),
]


def focal(logit: float, positive: bool) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -0.25 * (1 - p) ** 2 * math.log(p) if positive else -0.75 * p**2 * math.log(1 - p)


@pytest.mark.parametrize(("logit", "positive", "loss"), GOLDEN_FOCAL)
def test_focal_loss(logit: float, positive: int, loss: float) -> None:
    assert focal(logit, bool(positive)) == pytest.approx(loss, rel=1e-4)
    model, batch, outputs = at_hand(3, ratios=(1.0,))
    # One object that is an anchor: one positive logit, and all others so low that they cost nothing.
    for logits in outputs.logits:
        logits.fill_(-100.0)
    outputs.logits[1][0, 5, 2 if positive else 1] = logit
    outputs.logits[1][0, 5, 2] = logit if positive else 100.0
    target = Target(outputs.anchors[1][5:6], torch.tensor([2]))
    assert model.losses(outputs, batch, [target])["class"].item() == pytest.approx(loss, rel=1e-4)


def at_hand(classes: int, images: int = 1, **overrides: Any) -> tuple[RetinaNet, Batch, RetinaNetOutputs]:
    """A small model, an empty batch of 64x64, and random outputs for it."""
    generator = torch.Generator().manual_seed(5)
    settings = {"width": 8, "extras": 1, "base": 2.0, "scales": 1, **overrides}
    model = retinanet_r50_fpn(classes, backbone="small", short=64, longest=64, **settings)
    batch = Batch(torch.zeros(images, 3, 64, 64), (Frame((64, 64), (64, 64), (1.0, 1.0)),) * images)
    with torch.no_grad():
        outputs = model.network(batch)
    logits = [2 * torch.randn(x.shape, generator=generator) for x in outputs.logits]
    offsets = [0.3 * torch.randn(x.shape, generator=generator) for x in outputs.offsets]
    return model, batch, replace(outputs, logits=logits, offsets=offsets)


TARGETS = [
    Target(
        torch.tensor([[3.1, 4.3, 24.2, 22.7], [19.3, 20.9, 60.1, 52.4], [40.2, 2.3, 43.9, 6.4]]),
        torch.tensor([1, 0, 2]),
    ),
    Target(torch.tensor([[10.3, 8.7, 40.6, 60.2]]), torch.tensor([2])),
    empty_target(),
]


@pytest.mark.parametrize("beta", [0.11, 0.0])
def test_losses_against_loops(beta: float) -> None:
    model, batch, outputs = at_hand(3, images=3, beta=beta)
    anchors = torch.cat(outputs.anchors).tolist()
    logits, offsets = torch.cat(outputs.logits, 1).tolist(), torch.cat(outputs.offsets, 1).tolist()
    positives, between, class_loss, box_loss = 0, 0, 0.0, 0.0
    for image, target in enumerate(TARGETS):
        overlaps = [[overlap(box, anchor) for anchor in anchors] for box in target.boxes.tolist()]
        for index, anchor in enumerate(anchors):
            column = [row[index] for row in overlaps] or [0.0]
            best = max(range(len(column)), key=column.__getitem__)
            rescued = any(row[index] == max(row) for row in overlaps)
            if column[best] < 0.5 and not rescued:
                if column[best] >= 0.4:
                    between += 1
                    continue
                best = -1
            label = int(target.labels[best]) if best >= 0 else None
            class_loss += sum(focal(logits[image][index][k], k == label) for k in range(3))
            if best >= 0:
                positives += 1
                for found, wanted in zip(
                    offsets[image][index], encode(target.boxes[best].tolist(), anchor), strict=True
                ):
                    far = abs(found - wanted)
                    box_loss += 0.5 * far**2 / beta if far < beta else far - 0.5 * beta
    assert positives >= 8
    assert between >= 3
    losses = model.losses(outputs, batch, TARGETS)
    assert losses["class"].item() == pytest.approx(class_loss / positives, rel=1e-4)
    assert losses["box"].item() == pytest.approx(box_loss / positives, rel=1e-4)


def overlap(a: list[float], b: list[float]) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(across, 0.0) * max(down, 0.0)
    return shared and shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def encode(box: list[float], anchor: list[float]) -> list[float]:
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    return [
        (box[0] + box[2] - anchor[0] - anchor[2]) / 2 / width,
        (box[1] + box[3] - anchor[1] - anchor[3]) / 2 / height,
        math.log((box[2] - box[0]) / width),
        math.log((box[3] - box[1]) / height),
    ]


def test_anchors_between_the_thresholds_learn_nothing() -> None:
    model, batch, outputs = at_hand(3)
    logits = [x.requires_grad_() for x in outputs.logits]
    target = Target(torch.tensor([[16.0, 16, 32, 40]]), torch.tensor([1]))
    model.losses(outputs, batch, [target])["class"].backward()
    iou = box_iou(target.boxes, torch.cat(outputs.anchors))[0]
    silent = torch.cat([x.grad for x in logits if x.grad is not None], 1)[0].abs().amax(1) == 0
    between = (iou >= 0.4) & (iou < 0.5) & (iou < iou.max())
    assert between.sum() >= 2
    assert torch.equal(silent, between)


def test_without_objects_the_losses_are_not_divided() -> None:
    model, batch, outputs = at_hand(3)
    losses = model.losses(outputs, batch, [empty_target()])
    logits = torch.cat(outputs.logits, 1)
    torch.testing.assert_close(losses["class"], sigmoid_focal_loss(logits, torch.zeros_like(logits)).sum())
    assert losses["box"] == 0


def test_gamma_zero_is_cross_entropy() -> None:
    model, batch, outputs = at_hand(3, gamma=0.0, alpha=0.5)
    losses = model.losses(outputs, batch, [empty_target()])
    logits = torch.cat(outputs.logits, 1)
    entropy = F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="sum")
    torch.testing.assert_close(losses["class"], entropy / 2)


def test_the_hidden_output_neither_learns_nor_speaks() -> None:
    model, batch, outputs = at_hand(3, background=True)
    assert {x.shape[2] for x in outputs.logits} == {4}
    target = Target(torch.tensor([[16.0, 16, 32, 40]]), torch.tensor([2]))
    before = model.losses(outputs, batch, [target])["class"]
    detected = model.postprocess(outputs, batch)[0]
    for x in outputs.logits:
        x[..., 0] = 50.0
    assert torch.equal(model.losses(outputs, batch, [target])["class"], before)
    again = model.postprocess(outputs, batch)[0]
    assert torch.equal(again.labels, detected.labels)
    assert set(again.labels.tolist()) == {0, 1, 2}
    without = replace(outputs, logits=[x[..., 1:] for x in outputs.logits])
    plain, _, _ = at_hand(3)
    assert torch.equal(plain.postprocess(without, batch)[0].boxes, again.boxes)


def test_an_untrained_network_sees_almost_nothing() -> None:
    torch.manual_seed(0)
    for model in (build("retinanet_r50_fpn", 4, small=True), retinanet_r50_fpn(4, short=64, longest=64)):
        assert isinstance(model, RetinaNet)
        bias = model.get_parameter("head.classification_head.cls_logits.bias")
        torch.testing.assert_close(bias, torch.full_like(bias, -4.59511985))
        assert model.get_parameter("head.regression_head.bbox_reg.bias").count_nonzero() == 0
        with torch.no_grad():
            logits = torch.cat(model.network(model.preprocess([torch.rand(3, 64, 64)])).logits, 1)
        assert logits.sigmoid().mean() == pytest.approx(0.01, rel=0.1)


def test_weights_of_the_heads() -> None:
    torch.manual_seed(0)
    heads = retinanet_r50_fpn(80).head
    for name, parameter in heads.named_parameters():
        if name.endswith("weight"):
            assert parameter.std().item() == pytest.approx(0.01, rel=0.02), name
        elif "cls_logits" not in name:
            assert parameter.count_nonzero() == 0, name


# Detections.


def test_detections_against_loops() -> None:
    model, batch, outputs = at_hand(3, before_nms=40, limit=25)
    candidates = []
    for logits, offsets, anchors in zip(outputs.logits, outputs.offsets, outputs.anchors, strict=True):
        level = []
        for row, (scores, offset) in enumerate(zip(logits[0].sigmoid().tolist(), offsets[0].tolist(), strict=True)):
            level += [
                (score, k, decode(offset, anchors[row].tolist())) for k, score in enumerate(scores) if score > 0.05
            ]
        candidates += sorted(level, key=lambda entry: -entry[0])[:40]
    kept: list[tuple[float, int, list[float]]] = []
    for entry in sorted(candidates, key=lambda entry: -entry[0]):
        if all(entry[1] != other[1] or overlap(entry[2], other[2]) <= 0.5 for other in kept):
            kept.append(entry)
    (found,) = model.postprocess(outputs, batch)
    assert len(kept) > 30
    assert found.labels.tolist() == [entry[1] for entry in kept[:25]]
    torch.testing.assert_close(found.scores, torch.tensor([entry[0] for entry in kept[:25]]))
    torch.testing.assert_close(found.boxes, torch.tensor([entry[2] for entry in kept[:25]]), atol=1e-3, rtol=0)


def decode(offset: list[float], anchor: list[float]) -> list[float]:
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x, y = anchor[0] + width * (0.5 + offset[0]), anchor[1] + height * (0.5 + offset[1])
    across, down = width * math.exp(offset[2]) / 2, height * math.exp(offset[3]) / 2
    return [min(max(side, 0.0), 64.0) for side in (x - across, y - down, x + across, y + down)]


# torchvision's.


def pictures(*sizes: tuple[int, int]) -> list[Tensor]:
    """Smooth random images, as photographs are."""
    generator = torch.Generator().manual_seed(1)
    noise = [torch.rand(1, 3, height // 15, width // 15, generator=generator) for height, width in sizes]
    return [F.interpolate(x, size=size, mode="bicubic").clamp(0, 1)[0] for x, size in zip(noise, sizes, strict=True)]


@pytest.fixture(scope="module")
def pair() -> tuple[RetinaNet, TorchvisionRetinaNet]:
    """Ours and torchvision's with the same random weights, scaled so that there is something to detect."""
    torch.manual_seed(0)
    oracle = retinanet_resnet50_fpn(weights=None, weights_backbone=None, min_size=SHORT, max_size=LONGEST).eval()
    for module in oracle.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.4, 0.6)
            nn.init.uniform_(module.bias, -0.1, 0.1)
            assert module.running_mean is not None
            module.running_mean.uniform_(-0.1, 0.1)
    heads = oracle.head
    with torch.no_grad():
        maps = oracle.backbone(torch.stack([oracle.transform.normalize(x) for x in pictures((160, 160), (160, 160))]))
        for convolutions, last, spread, mean in (
            (heads.classification_head.conv, heads.classification_head.cls_logits, 1.2, -4.0),
            (heads.regression_head.conv, heads.regression_head.bbox_reg, 0.3, 0.0),
        ):
            # What reaches the heads is faint at their initial weights: every layer is brought to unit deviation.
            x = maps["0"]
            for block in convolutions:
                block[0].weight.mul_(1 / block[0](x).std())
                x = block(x)
            answers = last(x).movedim(1, -1).flatten(0, -2)
            last.weight.mul_((spread / answers.std(0)).reshape(-1, 1, 1, 1))
            last.bias.copy_(mean - (last(x).movedim(1, -1).flatten(0, -2) - last.bias).mean(0))
        # Label 0 of torchvision is no class; a trained network knows that.
        heads.classification_head.cls_logits.bias.reshape(9, 91)[:, 0] = -100.0
    model = retinanet_r50_fpn(90, short=SHORT, longest=LONGEST, **TORCHVISION).eval()
    model.load_state_dict(oracle.state_dict(), strict=True)
    return model, oracle


def assert_same_detections(model: RetinaNet, oracle: nn.Module, images: list[Tensor], least: int) -> None:
    with torch.no_grad():
        ours, theirs = model.eval()(images), oracle.eval()(images)
    for one, other in zip(ours, theirs, strict=True):
        assert len(one) >= least
        assert len(set(one.labels.tolist())) >= 10
        torch.testing.assert_close(one.scores, other["scores"], atol=1e-4, rtol=0)
        # Of equal scores, to rounding, either may come first.
        away = (one.boxes[:, None] - other["boxes"]).abs().amax(-1) + (one.scores[:, None] - other["scores"]).abs()
        away[one.labels[:, None] != other["labels"] - 1] = torch.inf
        places = away.argmin(1)
        assert away.amin(1).max() < 2e-3
        assert len(places.unique()) == len(one)
        assert (places - torch.arange(len(one))).abs().max() <= 2


def test_detections_equal_torchvisions(pair: tuple[RetinaNet, TorchvisionRetinaNet]) -> None:
    # The batch is padded at the bottom of the one and at the right of the other.
    assert_same_detections(*pair, pictures((220, 290), (300, 171)), least=100)


DATA = Path(os.environ.get("DETECTOR_ZOO_DATA", "")) / "voc2012_100"
PHOTOGRAPHS = sorted(DATA.rglob("*.jpg"))[:3] if "DETECTOR_ZOO_DATA" in os.environ else []


@pytest.mark.skipif(not PHOTOGRAPHS, reason="DETECTOR_ZOO_DATA names no voc2012_100")
def test_detections_equal_torchvisions_on_photographs(pair: tuple[RetinaNet, TorchvisionRetinaNet]) -> None:
    images = [read_image(path) for path in PHOTOGRAPHS]
    assert_same_detections(*pair, images, least=20)


def test_losses_equal_torchvisions(pair: tuple[RetinaNet, TorchvisionRetinaNet]) -> None:
    """On one image: torchvision divides image by image."""
    model, oracle = pair
    images = pictures((220, 290))
    target = Target(torch.tensor([[30.0, 20, 120, 150], [100, 60, 260, 200], [5, 5, 25, 31]]), torch.tensor([3, 0, 89]))
    oracle.head.train()
    with torch.no_grad():
        frozen, _ = oracle.transform(images, None)
        features = list(oracle.backbone(frozen.tensors).values())
        scale = torch.tensor([frozen.image_sizes[0][1] / 290, frozen.image_sizes[0][0] / 220]).repeat(2)
        wanted = [{"boxes": target.boxes * scale, "labels": target.labels + 1}]
        theirs = oracle.compute_loss(wanted, oracle.head(features), oracle.anchor_generator(frozen, features))
        ours = model(images, [target])
    assert min(value.item() for value in ours.values()) > 0.1
    torch.testing.assert_close(ours["class"], theirs["classification"], rtol=1e-4, atol=0)
    torch.testing.assert_close(ours["box"], theirs["bbox_regression"], rtol=1e-4, atol=0)


def test_older_names_load(pair: tuple[RetinaNet, TorchvisionRetinaNet]) -> None:
    """torchvision's published file is older than the names of its layers."""
    model, _ = pair
    old = {}
    for key, value in model.state_dict().items():
        name = key
        if key.startswith("backbone.fpn.") and "blocks.p" not in key:
            name = key.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        for layer in reversed(range(4)):
            name = name.replace(f"_head.conv.{layer}.0.", f"_head.conv.{2 * layer}.")
        old[name] = value + 1
    assert {"head.regression_head.conv.6.weight", "backbone.fpn.layer_blocks.2.bias"} <= set(old)
    fresh = on_meta(90, **TORCHVISION)
    fresh.load_state_dict(old, strict=True, assign=True)
    for key, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value + 1), key


def test_epsilon_of_the_frozen_norms() -> None:
    norms = [m for m in on_meta(90, norm_eps=0.0).modules() if isinstance(m, FrozenBatchNorm2d)]
    assert (len(norms), {norm.eps for norm in norms}) == (53, {0.0})


# The small size.


def test_small_is_a_detector() -> None:
    torch.manual_seed(0)
    assert_is_detector(build("retinanet_r50_fpn", 8, small=True))


def test_small_overfits() -> None:
    assert_overfits(build("retinanet_r50_fpn", 2, small=True), steps=60)


def test_small_fits_into_a_megabyte() -> None:
    model = build("retinanet_r50_fpn", 8, small=True)
    assert type(model) is type(on_meta(8))
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000


def test_small_takes_photographs_too() -> None:
    model = build("retinanet_r50_fpn", 3, small=True, short=256, longest=342).eval()
    assert model.preprocess([torch.zeros(3, 240, 320)]).size == (256, 352)


def test_anchors_of_the_small_size_reach_small_and_large_objects() -> None:
    model = build("retinanet_r50_fpn", 8, small=True)
    with torch.no_grad():
        anchors = torch.cat(model.network(model.preprocess([torch.zeros(3, 160, 160)])).anchors)
    for side in (8, 11, 16, 23, 32, 45, 64, 90, 128, 150):
        corner = torch.rand(200, 2) * (160 - side)
        best = box_iou(torch.cat([corner, corner + side], 1), anchors).amax(1)
        assert best.mean() > 0.45, side
        assert best.min() > 0.25, side


def test_catalog_rows() -> None:
    assert CATALOG["retinanet_r50_fpn"].golden.boxes[(800, 1344)] == 201_600
    assert CATALOG["retinanet_r101_fpn"].golden.parameters[80] == 56_855_476
    with pytest.raises(ValueError, match="no small size"):
        build("retinanet_r101_fpn", 8, small=True)
