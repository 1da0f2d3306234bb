"""FAN: anchors, attention and what it is to be by hand, losses against loops, and learning."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, sigmoid_focal_loss

from ops.anchors import centred_shapes
from ops.images import Batch, Frame
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target
from zoo import CATALOG, build
from zoo.one_stage.fan import FAN, FANOutputs, fan, fan_augment, fill_boxes
from zoo.one_stage.retinanet import retinanet_r50_fpn

SIZES = [16.0, 20.16, 25.40, 32, 40.32, 50.80, 64, 80.63, 101.59, 128, 161.27, 203.19, 256, 322.54, 406.37]


def on_meta(**overrides: Any) -> FAN:
    with torch.device("meta"):
        return fan(1, **overrides)


@cache
def paper_size() -> FAN:
    return fan(1)


def test_parameters() -> None:
    """RetinaNet's parts, with 6 anchors and one class, and a third head."""
    body = 37_915_572 - 4_019_920 - 2_443_300
    tower = 4 * (256 * 256 * 9 + 256)
    heads = [tower + (2_304 + 1) * outputs for outputs in (6, 24, 1)]
    assert sum(p.numel() for p in on_meta().parameters()) == body + sum(heads) == 38_604_767
    assert CATALOG["fan"].golden.parameters == {1: 38_604_767}
    assert on_meta().num_boxes((800, 1344)) == 201_600 // 9 * 6


def test_anchors_of_a_cell() -> None:
    model = paper_size()
    found = []
    for level, stride in enumerate((8, 16, 32, 64, 128)):
        assert model.strides[level] == stride
        shapes = model.get_buffer(f"shapes{level}")
        sides = shapes[:, 2:] - shapes[:, :2]
        assert len(sides) == 6
        ratios = (sides[:, 1] / sides[:, 0]).tolist()
        assert ratios == pytest.approx([1.0] * 3 + [1.5] * 3, rel=1e-5)
        found += sides.prod(1).sqrt().tolist()[:3]
    assert found == pytest.approx(SIZES, abs=6e-3)
    assert found == pytest.approx([16 * 2 ** (k / 3) for k in range(15)], rel=1e-5)


def test_every_face_has_an_anchor_of_its_size() -> None:
    shapes = torch.cat([paper_size().get_buffer(f"shapes{level}") for level in range(5)])
    faces = centred_shapes(
        [(s / math.sqrt(r), s * math.sqrt(r)) for s in range(15, 440, 3) for r in (1, 1.2, 1.35, 1.5)]
    )
    assert box_iou(faces, shapes).amax(1).min() > 0.6


def at_hand(**overrides: Any) -> tuple[FAN, Batch, FANOutputs]:
    """A small model for three classes, an empty batch of three images of 64x64, and random outputs."""
    torch.manual_seed(0)
    own = {"backbone": "small", "width": 8, "extras": 1, "scales": 1, "short": 64, "longest": 64, "least": 4.0}
    model = fan(3, **{**own, **overrides})
    batch = Batch(torch.zeros(3, 3, 64, 64), (Frame((64, 64), (64, 64), (1.0, 1.0)),) * 3)
    with torch.no_grad():
        outputs = model.network(batch)
    logits = [2 * torch.randn_like(x) for x in outputs.logits]
    offsets = [0.3 * torch.randn_like(x) for x in outputs.offsets]
    attention = [torch.randn_like(x) for x in outputs.attention]
    return model, batch, replace(outputs, logits=logits, offsets=offsets, attention=attention)


def test_without_attention_it_is_retinanet() -> None:
    model, _, _ = at_hand()
    plain = retinanet_r50_fpn(
        3, backbone="small", width=8, extras=1, scales=1, short=64, longest=64, base=2.0, ratios=(1.0, 1.5)
    )
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "attention" not in k})
    head = model.head["attention_head"]
    torch.nn.init.zeros_(head.attention.weight)
    batch = model.eval().preprocess([torch.rand(3, 64, 64)])
    with torch.no_grad():
        ours, theirs = model.network(batch), plain.eval().network(batch)
        for a, b in zip(ours.logits + ours.offsets, theirs.logits + theirs.offsets, strict=True):
            assert torch.equal(a, b)
        # The exponential, not a sigmoid: ln 2 doubles the features.
        head.attention.bias.fill_(math.log(2))
        doubled = plain.heads([2 * x for x in plain.backbone(batch.pixels)], batch)
        for a, b in zip(model.network(batch).logits, doubled.logits, strict=True):
            torch.testing.assert_close(a, b)


def test_bounded_attention_never_silences_a_place() -> None:
    """However sure the branch is that there is no face, features keep their size; surest, they are e times as large."""
    model, batch, _ = at_hand(bounded=True)
    head = model.head["attention_head"]
    torch.nn.init.zeros_(head.attention.weight)
    batch = model.eval().preprocess([torch.rand(3, 64, 64)])
    with torch.no_grad():
        maps = model.backbone(batch.pixels)
        for logit, gain in ((-30.0, 1.0), (0.0, math.exp(0.5)), (30.0, math.e)):
            head.attention.bias.fill_(logit)
            found, wanted = model.network(batch), model.heads([gain * x for x in maps], batch)
            assert found.attention[0].allclose(torch.tensor(logit)), "the loss is of the logit"
            for a, b in zip(found.logits, wanted.logits, strict=True):
                torch.testing.assert_close(a, b)


TARGETS = [
    Target(torch.tensor([[3.0, 5, 12, 14], [19.0, 20, 61, 53], [40.0, 2, 43, 20]]), torch.tensor([1, 0, 2])),
    Target(torch.tensor([[10.0, 9, 41, 60]]), torch.tensor([2])),
    empty_target(),
]


def test_cells_that_boxes_touch() -> None:
    cells = fill_boxes(torch.tensor([[3.0, 8, 9, 12], [30.0, 17, 31, 18]]), (4, 6), 8)
    assert cells.tolist() == [[0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]]
    assert fill_boxes(torch.zeros(0, 4), (4, 6), 8).tolist() == [[0] * 6] * 4


@pytest.mark.parametrize("divide_by", ["anchors", "positives"])
def test_losses_against_loops(divide_by: str) -> None:
    model, batch, outputs = at_hand(divide_by=divide_by, box_weight=2.0, attention_weight=3.0)
    losses = model.losses(outputs, batch, TARGETS)
    # The third object is 3 px wide: it is left out.
    kept = [TARGETS[0][:2], TARGETS[1], TARGETS[2]]
    every = torch.cat(outputs.anchors)
    classes, boxes, attention, counted = [], [], [], []
    used: set[int] = set()
    for level, anchors in enumerate(outputs.anchors):
        stride = model.strides[level]
        focal, straight, learn, positive, heats = 0.0, 0.0, 0, 0, []
        for image, target in enumerate(kept):
            wanted_heat = torch.zeros(outputs.attention[level].shape[-2:])
            overlap = box_iou(target.boxes, anchors)
            most = box_iou(target.boxes, every).amax(1, keepdim=True) if len(target) else overlap[:, :1]
            for index in range(len(anchors)):
                column = overlap[:, index]
                best = int(column.argmax()) if len(column) else -1
                value = float(column[best]) if len(column) else 0.0
                rescued = bool((overlap[:, index : index + 1] == most).any()) and value > 0
                if value < 0.5 and not rescued:
                    if value >= 0.4:
                        continue
                    best = -1
                learn += 1
                asked = torch.zeros(3)
                if best >= 0:
                    positive += 1
                    used.add(level)
                    asked[target.labels[best]] = 1
                    wanted = model.coder.encode(target.boxes[best], anchors[index])
                    straight += F.smooth_l1_loss(
                        outputs.offsets[level][image, index], wanted, beta=0.11, reduction="sum"
                    ).item()
                    x1, y1, x2, y2 = target.boxes[best].tolist()
                    wanted_heat[
                        int(y1 // stride) : math.ceil(y2 / stride), int(x1 // stride) : math.ceil(x2 / stride)
                    ] = 1
                focal += sigmoid_focal_loss(outputs.logits[level][image, index], asked, 0.25, 2.0).sum().item()
            heats.append(wanted_heat)
        classes.append((focal, learn))
        boxes.append((straight, positive))
        given: Tensor = outputs.attention[level][:, 0]
        attention.append(F.binary_cross_entropy_with_logits(given, torch.stack(heats)).item())
        counted.append(positive)
    assert len(used) >= 2, "faces of two levels at least, or the test says nothing of levels"
    assert sum(counted) >= 8
    if divide_by == "anchors":
        wanted_class = sum(focal / learn for focal, learn in classes)
        wanted_box = sum(far / max(count, 1) for far, count in boxes)
    else:
        wanted_class = sum(focal for focal, _ in classes) / sum(counted)
        wanted_box = sum(far for far, _ in boxes) / sum(counted)
    assert losses["class"].item() == pytest.approx(wanted_class, rel=1e-4)
    assert losses["box"].item() == pytest.approx(2 * wanted_box, rel=1e-4)
    assert losses["attention"].item() == pytest.approx(3 * sum(attention), rel=1e-4)


def test_attention_where_there_is_nothing() -> None:
    """An empty level costs the mean of ln(1 + e^m)."""
    model, batch, outputs = at_hand()
    losses = model.losses(outputs, batch, [empty_target()] * 3)
    wanted = sum(heat.exp().log1p().mean().item() for heat in outputs.attention)
    assert losses["attention"].item() == pytest.approx(wanted, rel=1e-5)
    assert losses["box"] == 0


def test_augmentation_cuts_a_square() -> None:
    torch.manual_seed(0)
    image = torch.rand(3, 60, 90)
    target = Target(torch.tensor([[10.0, 10, 20, 22], [50.0, 30, 70, 50]]), torch.tensor([0, 0]))
    sides, kept = [], []
    for _ in range(60):
        cut, faces = fan_augment(image, target)
        assert cut.shape[1] == cut.shape[2]
        sides.append(cut.shape[1])
        kept.append(len(faces))
        assert ((faces.boxes >= 0) & (faces.boxes <= sides[-1])).all()
    assert min(sides) >= 18
    assert max(sides) <= 60
    assert max(sides) - min(sides) > 30
    assert set(kept) == {0, 1, 2}


def test_small_is_a_detector() -> None:
    torch.manual_seed(0)
    model = build("fan", 8, small=True)
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000
    assert_is_detector(model)


def test_small_overfits() -> None:
    assert_overfits(build("fan", 2, small=True), steps=60)
