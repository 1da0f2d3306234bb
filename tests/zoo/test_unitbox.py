from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ops.dense import cell_points, side_distances
from ops.images import Batch
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target
from zoo import build
from zoo.dense.unitbox import SMALL, UnitBox, UnitBoxMaps, unitbox


def small(num_classes: int = 2, **options: Any) -> UnitBox:
    torch.manual_seed(0)
    return UnitBox(num_classes, **{**SMALL, "unit": 16.0, "even": False, **options})


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def pair() -> Target:
    """A large object of class 0 and, on it, a smaller one of class 1."""
    return Target(torch.tensor([[10.0, 20.0, 90.0, 120.0], [60.0, 60.0, 100.0, 80.0]]), torch.tensor([0, 1]))


def batch_of(model: UnitBox, images: int = 1, side: int = 160) -> Batch:
    return model.preprocess([torch.rand(3, side, side) for _ in range(images)])


def test_size_of_the_papers_network() -> None:
    with torch.device("meta"):
        model = unitbox(1)
        maps = model.network(model.preprocess([torch.empty(3, 64, 96)]))
        pointwise = unitbox(1, kernel=1)
    assert count(model) == 14_737_733
    assert count(model.body) == 14_714_688
    assert count(model.confidence) == 4_609
    assert count(model.sides) == 18_436
    assert [model.body.strides[tap] for tap in model.taps] == [8, 16]
    assert maps.confidence.shape == (1, 1, 64, 96)
    assert maps.sides.shape == (1, 4, 64, 96)
    assert model.num_boxes((64, 96)) == 64 * 96
    assert count(pointwise) == 14_714_688 + 513 + 4 * 513


def test_a_pointwise_head_may_stand_before_or_after_the_upsampling() -> None:
    x, head = torch.rand(1, 5, 6, 7), nn.Conv2d(5, 3, 1)
    torch.testing.assert_close(
        F.interpolate(head(x), (24, 28), mode="bilinear"), head(F.interpolate(x, (24, 28), mode="bilinear"))
    )


def test_sides_are_never_negative_and_start_open() -> None:
    for options in ({}, {"unit": 1.0}):
        model = small(**options)
        with torch.no_grad():
            maps = model.network(batch_of(model))
        assert 8 < maps.sides.mean() < 24, "a cell of the box map to each side, whatever the unit"
        assert maps.sides.shape == (1, 4, 40, 40)
        with torch.no_grad():
            nn.init.constant_(model.sides.bias, -5.0)  # type: ignore[arg-type]
            assert model.network(batch_of(model)).sides.max() == 0


def test_pixels_of_an_object_learn_its_box_and_those_of_its_ellipse_are_confident() -> None:
    model = small()
    target, points = pair(), cell_points((160, 160), (160, 160))
    shown, own, sides = model.assign(target, points)
    x, y = points.unbind(1)
    for row, (x1, y1, x2, y2) in enumerate(target.boxes.tolist()):
        inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
        if row == 1:
            assert own[inside].unique().tolist() == [1], "the smaller of two"
        assert int(shown[row].sum()) == pytest.approx(math.pi / 4 * (x2 - x1) * (y2 - y1), rel=0.01)
        assert not bool((shown[row] & ~inside).any())
    assert int((own >= 0).sum()) == 80 * 100 + 40 * 20 - 30 * 20
    expected = side_distances(points, target.boxes)
    assert sides[own == 0].equal(expected[0][own == 0])
    assert sides[own == 1].equal(expected[1][own == 1])
    # x = 62.5 and y = 70.5, in the box (60, 60, 100, 80)
    assert sides[70 * 160 + 62].tolist() == [10.5, 9.5, 2.5, 37.5]


def say(model: UnitBox, target: Target, size: tuple[int, int] = (40, 40), sure: float = 8.0) -> UnitBoxMaps:
    """Maps that say what is wanted."""
    shown, _, sides = model.assign(target, cell_points(size, (160, 160)))
    logits = torch.where(shown, sure, -sure).unflatten(-1, size)
    return UnitBoxMaps(logits[None], sides.T.unflatten(-1, size)[None])


@pytest.mark.parametrize("box_loss", ["iou", "l2"])
def test_loss_by_its_laws(box_loss: Any) -> None:
    model, target = small(box_loss=box_loss), pair()
    batch, maps = batch_of(model), say(model, target)
    perfect = model.losses(maps, batch, [target])
    assert float(perfect["box"]) == pytest.approx(0, abs=1e-6)
    # Cross entropy of two classes is added up: log(1 + e^-8) each.
    assert float(perfect["confidence"]) == pytest.approx(2 * math.log1p(math.exp(-8)), rel=0.01)
    twice = model.losses(maps._replace(sides=2 * maps.sides), batch, [target])
    if box_loss == "iou":
        assert float(twice["box"]) == pytest.approx(math.log(4), rel=1e-5), "at every pixel a quarter is shared"
    else:
        _, own, sides = model.assign(target, cell_points((40, 40), (160, 160)))
        assert float(twice["box"]) == pytest.approx(float((sides[own >= 0] / 16).square().sum(1).mean()), rel=1e-5)
    none = model.losses(maps, batch, [empty_target()])
    assert float(none["box"]) == 0
    assert float(none["confidence"]) > 0.1


def test_larger_objects_weigh_as_much_as_small_ones_by_iou_only() -> None:
    """All distances 20 % too long: the IoU is the same for both sizes, the squared error is 9 times as large."""
    ratio = {}
    for box_loss in ("iou", "l2"):
        model = small(box_loss=box_loss)
        losses = []
        for side in (40.0, 120.0):
            target = Target(torch.tensor([[20.0, 20.0, 20.0 + side, 20.0 + side]]), torch.tensor([0]))
            maps = say(model, target)
            losses.append(float(model.losses(maps._replace(sides=1.2 * maps.sides), batch_of(model), [target])["box"]))
        ratio[box_loss] = losses[1] / losses[0]
    assert ratio["iou"] == pytest.approx(1, abs=1e-4)
    assert ratio["l2"] == pytest.approx(9, rel=0.01)


@pytest.mark.parametrize("inference", ["ellipses", "nms"])
def test_what_was_asked_for_is_detected(inference: Any) -> None:
    model = small(3, inference=inference)
    boxes = torch.tensor([[10.0, 20.0, 90.0, 120.0], [100.0, 100.0, 150.0, 140.0], [96.0, 8.0, 140.0, 60.0]])
    target = Target(boxes, torch.tensor([2, 1, 2]))
    (found,) = model.postprocess(say(model, target), batch_of(model))
    assert len(found) == 3
    assert found.labels.sort().values.tolist() == [1, 2, 2]
    for box, label in zip(found.boxes, found.labels.tolist(), strict=True):
        same = (box - boxes).abs().amax(1) < 1e-3
        assert target.labels[same].tolist() == [label]
    assert found.scores.tolist() == pytest.approx([1 / (1 + math.exp(-8))] * 3)


def test_ellipses_that_touch_are_one_object_and_suppression_finds_both() -> None:
    target = Target(torch.tensor([[10.0, 20.0, 80.0, 120.0], [60.0, 20.0, 130.0, 120.0]]), torch.tensor([0, 0]))
    found = {}
    for inference in ("ellipses", "nms"):
        model = small(1, inference=inference)
        found[inference] = len(model.postprocess(say(model, target), batch_of(model))[0])
    assert found == {"ellipses": 1, "nms": 2}


@pytest.mark.parametrize(
    "options", [{}, {"inference": "ellipses", "kernel": 1}, {"box_loss": "l2", "output_stride": 1}]
)
def test_contract(options: dict[str, Any]) -> None:
    assert_is_detector(small(**options))


def test_options_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="'iou' or 'l2', got 'giou'"):
        unitbox(1, box_loss="giou")
    with pytest.raises(ValueError, match="'ellipses' or 'nms', got 'soft'"):
        unitbox(1, inference="soft")


def test_even_objects_weigh_alike_whatever_their_size() -> None:
    """One of 6 x 6 cells and one of 30 x 30 in two images: a box that is wrong by a factor costs the same."""
    targets = [
        Target(torch.tensor([[8.0, 8, 32, 32]]), torch.tensor([0])),
        Target(torch.tensor([[20.0, 20, 140, 140]]), torch.tensor([0])),
    ]
    costs: dict[tuple[bool, int], float] = {}
    for even in (False, True):
        model = small(1, even=even)
        batch = batch_of(model, 2)
        good = [say(model, target) for target in targets]
        for wrong in (0, 1):
            maps = [m._replace(sides=2 * m.sides) if image == wrong else m for image, m in enumerate(good)]
            both = UnitBoxMaps(*(torch.cat(parts) for parts in zip(*maps, strict=True)))
            costs[even, wrong] = float(model.losses(both, batch, targets)["box"])
        # Everywhere unsure, each pixel costs ln 2: weights are 1 on average.
        unsure = UnitBoxMaps(torch.zeros(2, 1, 40, 40), torch.cat([m.sides for m in good]))
        assert float(model.losses(unsure, batch, targets)["confidence"]) == pytest.approx(math.log(2), rel=1e-5)
    assert costs[False, 1] == pytest.approx(25 * costs[False, 0], rel=1e-4)
    assert costs[True, 1] == pytest.approx(costs[True, 0], rel=1e-4)
    assert costs[True, 0] == pytest.approx(math.log(4) / 2, rel=1e-4)


@pytest.mark.parametrize("box_loss", ["iou", "l2"])
def test_learns_four_images(box_loss: str) -> None:
    assert_overfits(build("unitbox", 2, small=True, box_loss=box_loss), steps=80)
