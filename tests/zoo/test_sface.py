"""SFace: which branch learns what, losses against loops, and learning; of the paper itself nothing is checked."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torchvision.ops import box_iou, sigmoid_focal_loss

from ops.images import Batch, Frame
from ops.losses import pair_log_iou
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target
from zoo import CATALOG, build
from zoo.one_stage import sface as module
from zoo.one_stage.sface import SFace, SFaceOutputs, sface


def test_says_what_it_is_not() -> None:
    assert "not from released code" in (module.__doc__ or "")
    assert "not from released code" in CATALOG["sface"].paper


def test_parameters() -> None:
    """RetinaNet's parts with 6 anchors and one class, and two heads more."""
    body = 37_915_572 - 4_019_920 - 2_443_300
    tower = 4 * (256 * 256 * 9 + 256)
    with torch.device("meta"):
        model = sface(1)
    assert sum(p.numel() for p in model.parameters()) == body + sum(tower + 2_305 * n for n in (6, 24, 1, 4))
    assert CATALOG["sface"].golden.parameters == {1: 40_974_307}
    assert model.num_boxes((800, 1344)) == 134_400 + 100 * 168 + 7 * 11


def test_log_iou_of_pairs() -> None:
    """UnitBox's example: sides (3, 5, 4, 6) for (4, 4, 5, 5) to top, bottom, left and right."""
    boxes = torch.tensor([[-4.0, -3.0, 6.0, 5.0]], requires_grad=True)
    objects = torch.tensor([[-5.0, -4.0, 5.0, 4.0]])
    loss = pair_log_iou(boxes, objects)
    assert loss.item() == pytest.approx(0.4315763, abs=1e-6)
    assert math.exp(-loss.item()) == pytest.approx(0.6494845, abs=1e-6)
    loss.sum().backward()
    assert boxes.grad is not None
    # A side further from the middle to the left or to the top is a smaller coordinate.
    assert boxes.grad[0].tolist() == pytest.approx([0.1008018, 0.1325479, 0.0824742, 0.1030928], abs=1e-6)
    torch.testing.assert_close(pair_log_iou(2 * boxes.detach(), 2 * objects), loss.detach())
    apart = pair_log_iou(boxes.detach() + 50, objects)
    assert apart.item() == pytest.approx(-math.log(1e-6), rel=1e-5)
    assert pair_log_iou(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def at_hand(images: int = 3, **overrides: Any) -> tuple[SFace, Batch, SFaceOutputs]:
    """A small model for two classes, an empty batch of 64x64, and random outputs; strides 4 to 64."""
    torch.manual_seed(0)
    own = {"backbone": "small", "width": 8, "extras": 1, "scales": 1, "short": 64, "longest": 64}
    model = sface(2, **{**own, "standard": (10.0, 30.0), "free_levels": (0, 2), **overrides})
    batch = Batch(torch.zeros(images, 3, 64, 64), (Frame((64, 64), (64, 64), (1.0, 1.0)),) * images)
    with torch.no_grad():
        outputs = model.network(batch)
    draw = {
        name: [scale * torch.randn_like(x) for x in getattr(outputs, name)]
        for name, scale in (("logits", 2), ("offsets", 0.2), ("free_logits", 2), ("sides", 0.5))
    }
    return model, batch, replace(outputs, **draw)


def test_cells_of_an_object() -> None:
    model, _, outputs = at_hand()
    points = outputs.points[0]
    assert points[:2].tolist() == [[2, 2], [6, 2]]
    large = torch.tensor([[0.0, 0, 40, 20]])
    found = points[model._owners(points, large, 4) >= 0].tolist()
    assert found == [[x, y] for y in (6.0, 10, 14) for x in (10.0, 14, 18, 22, 26, 30)]
    # No point lies in the middle of these, but each has a cell, and the smaller one takes a cell that both want.
    tiny = torch.tensor([[12.5, 12.5, 15.5, 15.5], [12.9, 12.9, 14.9, 14.9]])
    owner = model._owners(points, tiny, 4)
    assert points[owner >= 0].tolist() == [[14, 14]]
    assert owner.max() == 1
    assert (model._owners(points, torch.zeros(0, 4), 4) == -1).all()


TARGETS = [
    Target(
        torch.tensor([[3.0, 5, 9, 14], [20.0, 20, 60, 52], [40.0, 2, 58, 18], [1.0, 50, 6, 57]]),
        torch.tensor([1, 0, 1, 0]),
    ),
    Target(torch.tensor([[10.0, 9, 41, 60]]), torch.tensor([1])),
    empty_target(),
]
"""Sides of 7.3, 35.8, 17 and 5.9; 39.8."""


def test_losses_against_loops() -> None:
    model, batch, outputs = at_hand(free_levels=(0, 1))
    losses = model.losses(outputs, batch, TARGETS)
    # Anchors learn the standard object alone: as RetinaNet would of it.
    alone = [TARGETS[0][2:3], empty_target(), empty_target()]
    terms = model.terms(outputs, alone)
    positive = terms.matches[0] >= 0
    assert (terms.matches[1:] < 0).all()
    assert losses["class"].item() == pytest.approx((terms.focal.sum() / positive.sum()).item(), rel=1e-5)
    decoded = model.coder.decode(torch.cat(outputs.offsets, 1)[0, positive], torch.cat(outputs.anchors)[positive])
    wanted = -box_iou(decoded, alone[0].boxes)[:, 0].log().mean()
    assert losses["box"].item() == pytest.approx(wanted.item(), rel=1e-4)

    focal, far, cells = 0.0, 0.0, 0
    chosen = [{0: [0, 3], 1: [], 2: []}, {0: [1], 1: [0], 2: []}]
    for place, (stride, by_image) in enumerate(zip((4, 8), chosen, strict=True)):
        for image, rows in by_image.items():
            for index, (x, y) in enumerate(outputs.points[place].tolist()):
                asked = torch.zeros(2)
                for row in rows:
                    x1, y1, x2, y2 = TARGETS[image].boxes[row].tolist()
                    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
                    core = abs(x - cx) <= (x2 - x1) / 4 and abs(y - cy) <= (y2 - y1) / 4
                    if not core and (cx // stride, cy // stride) != (x // stride, y // stride):
                        continue
                    asked[TARGETS[image].labels[row]] = 1
                    cells += 1
                    top, bottom, left, right = (outputs.sides[place][image, index].exp() * stride).tolist()
                    said = torch.tensor([[x - left, y - top, x + right, y + bottom]])
                    far -= box_iou(said, TARGETS[image].boxes[row : row + 1]).log().item()
                logits = outputs.free_logits[place][image, index]
                focal += sigmoid_focal_loss(logits, asked, 0.25, 2.0).sum().item()
    assert cells >= 8
    assert losses["free_class"].item() == pytest.approx(focal / cells, rel=1e-4)
    assert losses["free_box"].item() == pytest.approx(far / cells, rel=1e-4)


def test_both_branches_are_put_together() -> None:
    model, batch, outputs = at_hand(images=1)
    quiet = {name: [torch.full_like(x, -20.0) for x in getattr(outputs, name)] for name in ("logits", "free_logits")}
    outputs = replace(outputs, **quiet)
    assert len(model.postprocess(outputs, batch)[0]) == 0
    outputs.logits[1][0, 40, 0] = 2.0
    outputs.offsets[1][0, 40] = 0.0
    outputs.free_logits[1][0, 10, 1] = 3.0
    outputs.sides[1][0, 10] = torch.tensor([0.5, 0.25, 1.0, 0.5]).log()
    (found,) = model.postprocess(outputs, batch)
    assert found.labels.tolist() == [1, 0]
    assert found.scores.tolist() == pytest.approx(torch.tensor([3.0, 2.0]).sigmoid().tolist())
    # Cell 10 of 4 x 4 cells at stride 16 has its point at (40, 40).
    assert found.boxes[0].tolist() == pytest.approx([24, 32, 48, 44])
    torch.testing.assert_close(found.boxes[1], outputs.anchors[1][40].clamp(0, 64))


@pytest.mark.parametrize("side", [5.0, 7, 9, 14, 20, 29, 33, 45, 60])
def test_each_size_has_one_branch(side: float) -> None:
    """A sweep over sizes: anchors learn the standard ones, and only cells the others."""
    model, batch, outputs = at_hand(images=1)
    target = Target(torch.tensor([[2.0, 2, 2 + side, 2 + side]]), torch.tensor([0]))
    losses = model.losses(outputs, batch, [target])
    assert (losses["box"] > 0) == (10 <= side <= 30)
    assert (losses["free_box"] > 0) == (not 10 <= side <= 30)


def test_sizes_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="standard sizes must rise"):
        sface(1, backbone="small", standard=(50.0, 20.0))


def test_small_is_a_detector() -> None:
    torch.manual_seed(0)
    model = build("sface", 8, small=True)
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000
    assert_is_detector(model)


def test_small_overfits() -> None:
    assert_overfits(build("sface", 2, small=True), steps=60)
