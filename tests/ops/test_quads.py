from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from ops.quads import (
    box_quads,
    fill_quads,
    hulls,
    inside_quads,
    locality_aware_nms,
    quad_iou,
    quad_nms,
    quad_smooth_l1,
    rectangle_angles,
    rectangle_sides,
    restore_rectangles,
    shrink_quads,
    smallest_rectangles,
)
from ops.structures import Detections

Corners = list[tuple[float, float]]


def quad(*corners: tuple[float, float]) -> Tensor:
    return torch.tensor([corners], dtype=torch.float32)


def rectangle(x: float, y: float, width: float, height: float, degrees: float = 0.0) -> Tensor:
    """About its middle; the right end goes up with the angle."""
    return restore_rectangles(
        torch.tensor([[x, y]]),
        torch.tensor([[height / 2, height / 2, width / 2, width / 2]]),
        torch.tensor([math.radians(degrees)]),
    )


def shared_area(first: Corners, second: Corners) -> float:
    """By Sutherland and Hodgman: the first polygon is cut at each side of the second, a clockwise convex one."""
    left = list(first)
    for (px, py), (qx, qy) in zip(second, second[1:] + second[:1], strict=True):
        depth = [(qx - px) * (y - py) - (qy - py) * (x - px) for x, y in left]
        cut: Corners = []
        for k, ((ux, uy), (vx, vy)) in enumerate(zip(left, left[1:] + left[:1], strict=True)):
            here, there = depth[k], depth[(k + 1) % len(left)]
            if here >= 0:
                cut.append((ux, uy))
            if here * there < 0:
                at = here / (here - there)
                cut.append((ux + at * (vx - ux), uy + at * (vy - uy)))
        left = cut
        if len(left) < 3:
            return 0.0
    return abs(area(left))


def area(corners: Corners) -> float:
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True)) / 2


def slow_iou(first: Tensor, second: Tensor) -> float:
    a, b = ([(x, y) for x, y in shape.double().tolist()] for shape in (first, second))
    shared = shared_area(a, b)
    return shared / (abs(area(a)) + abs(area(b)) - shared)


SHRUNK = [
    (((0, 0), (100, 0), (100, 40), (0, 40)), ((12, 12), (88, 12), (88, 28), (12, 28))),
    (((0, 0), (40, 0), (40, 100), (0, 100)), ((12, 12), (28, 12), (28, 88), (12, 88))),
    (
        ((10, 10), (110, 30), (105, 70), (5, 50)),
        ((20.3585, 24.3717), (96.6415, 39.6283), (94.6415, 55.6283), (18.3585, 40.3717)),
    ),
]


@pytest.mark.parametrize(("corners", "wanted"), SHRUNK)
def test_shrunk_as_in_the_sheet(corners: Corners, wanted: Corners) -> None:
    torch.testing.assert_close(shrink_quads(quad(*corners)), quad(*wanted), atol=1e-4, rtol=0)
    both = torch.cat([quad(*corners) for corners, _ in SHRUNK])
    torch.testing.assert_close(shrink_quads(both, 0.0), both)


def test_shrinking_takes_the_longer_pair_of_sides_first() -> None:
    """Corner by corner as the paper words it, on a quadrilateral whose sides are no parallels."""
    corners = [(0.0, 0.0), (90.0, 10.0), (80.0, 50.0), (10.0, 40.0)]
    length = [math.dist(corners[k], corners[(k + 1) % 4]) for k in range(4)]
    reach = [0.3 * min(length[k], length[k - 1]) for k in range(4)]
    order = (0, 2, 1, 3) if length[0] + length[2] > length[1] + length[3] else (1, 3, 0, 2)
    moved = [list(corner) for corner in corners]
    for begin in order:
        end = (begin + 1) % 4
        (x1, y1), (x2, y2) = moved[begin], moved[end]
        full = math.dist(moved[begin], moved[end])
        moved[begin] = [x1 + reach[begin] * (x2 - x1) / full, y1 + reach[begin] * (y2 - y1) / full]
        moved[end] = [x2 + reach[end] * (x1 - x2) / full, y2 + reach[end] * (y1 - y2) / full]
    torch.testing.assert_close(shrink_quads(quad(*corners))[0], torch.tensor(moved), atol=1e-4, rtol=0)
    turned = quad(*corners[1:], corners[0])
    torch.testing.assert_close(shrink_quads(turned)[0].roll(1, 0), torch.tensor(moved), atol=1e-4, rtol=0)


RESTORED = [
    (0.0, ((70, 50), (140, 50), (140, 80), (70, 80))),
    (10.0, ((68.7193, 55.3614), (137.6558, 43.2060), (142.8653, 72.7502), (73.9287, 84.9056))),
]


@pytest.mark.parametrize(("degrees", "wanted"), RESTORED)
def test_restored_as_in_the_sheet(degrees: float, wanted: Corners) -> None:
    point, sides = torch.tensor([[100.0, 60.0]]), torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    found = restore_rectangles(point, sides, torch.tensor([math.radians(degrees)]))
    torch.testing.assert_close(found, quad(*wanted), atol=1e-4, rtol=0)
    assert math.degrees(float(rectangle_angles(found))) == pytest.approx(degrees, abs=1e-4)
    torch.testing.assert_close(rectangle_sides(point, found)[0], sides, atol=1e-4, rtol=0)


def test_sides_of_a_point_outside_are_negative() -> None:
    (found,) = rectangle_sides(torch.tensor([[50.0, -5.0], [50.0, 5.0]]), quad((0, 0), (100, 0), (100, 40), (0, 40)))
    assert found.tolist() == [[-5, 45, 50, 50], [5, 35, 50, 50]]


def test_boxes_as_quads_and_back() -> None:
    boxes = torch.tensor([[1.0, 2.0, 5.0, 9.0], [0.0, 0.0, 3.0, 3.0]])
    assert box_quads(boxes)[0].tolist() == [[1, 2], [5, 2], [5, 9], [1, 9]]
    assert hulls(box_quads(boxes)).equal(boxes)
    assert hulls(quad((5, 0), (10, 4), (5, 9), (1, 4))).tolist() == [[1, 0, 10, 9]]


def test_inside_either_way_round() -> None:
    points = 100 * torch.rand(200, 2)
    shape = rectangle(50, 50, 60, 30, 25)
    inside = inside_quads(points, shape)
    assert inside.equal((rectangle_sides(points, shape) >= 0).all(-1))
    assert inside.equal(inside_quads(points, shape.flip(1)))
    assert 0 < int(inside.sum()) < 200
    assert inside_quads(points, shape[:0]).shape == (0, 200)


def test_filled_quads_have_their_area() -> None:
    shapes = torch.cat([rectangle(50, 40, 60, 20, 25), quad((0, 0), (10, 0), (10, 5), (0, 5))])
    masks = fill_quads(shapes, (80, 100))
    assert masks.shape == (2, 80, 100)
    assert int(masks[0].sum()) == pytest.approx(1200, rel=0.02)
    assert int(masks[1].sum()) == int(masks[1, :5, :10].sum()) == 50


def test_smallest_rectangle_of_a_filled_one_is_that_rectangle() -> None:
    for degrees in (-40.0, -10.0, 0.0, 20.0, 44.0):
        shape = rectangle(100, 90, 90, 30, degrees)
        (found,) = smallest_rectangles(fill_quads(shape, (180, 200)))
        assert (found - shape[0]).norm(dim=1).max() < 1.5
        assert math.degrees(float(rectangle_angles(found[None]))) == pytest.approx(degrees, abs=1.0)


def test_angles_of_smallest_rectangles_stay_within_half_a_quarter() -> None:
    """A rectangle of 60 degrees lies at -30 as well, its long sides left and right."""
    (found,) = smallest_rectangles(fill_quads(rectangle(100, 90, 90, 30, 60), (180, 200)))
    assert math.degrees(float(rectangle_angles(found[None]))) == pytest.approx(-30, abs=1.0)
    assert math.dist(found[0].tolist(), found[1].tolist()) == pytest.approx(30, abs=2)
    single = torch.zeros(1, 9, 9, dtype=torch.bool)
    single[0, 3, 4] = True
    assert smallest_rectangles(single)[0].tolist() == [[4, 3], [5, 3], [5, 4], [4, 4]]
    with pytest.raises(ValueError, match="mask 1 is empty"):
        smallest_rectangles(torch.cat([single, torch.zeros_like(single)]))


def test_polygon_iou_is_that_of_the_slow_definition() -> None:
    chance = random.Random(0)
    shapes = []
    for _ in range(14):
        x, y = chance.uniform(30, 60), chance.uniform(30, 60)
        shapes.append(rectangle(x, y, chance.uniform(5, 50), chance.uniform(5, 50), chance.uniform(-90, 90)))
    shapes += [rectangle(40, 40, 20, 10), rectangle(40, 40, 20, 10), rectangle(60, 40, 20, 10), rectangle(45, 40, 8, 4)]
    shapes.append(quad((20, 20), (60, 25), (50, 60), (15, 50)))
    every = torch.cat(shapes)
    found = quad_iou(every, every)
    for row in range(len(every)):
        for column in range(len(every)):
            assert float(found[row, column]) == pytest.approx(slow_iou(every[row], every[column]), abs=2e-5)
    assert found.diagonal().tolist() == pytest.approx([1.0] * len(every))
    assert float(found[14, 16]) == 0, "neighbours that share a side"
    torch.testing.assert_close(found, quad_iou(every.flip(1), every.roll(1, 1)), atol=2e-5, rtol=0)


def test_polygon_iou_by_counting_pixels() -> None:
    first, second = rectangle(100, 100, 120, 50, 20), rectangle(110, 95, 90, 70, -35)
    one, two = fill_quads(torch.cat([first, second]), (200, 220))
    counted = int((one & two).sum()) / int((one | two).sum())
    assert float(quad_iou(first, second)) == pytest.approx(counted, abs=0.005)


def test_polygon_iou_of_what_has_no_area() -> None:
    line, point = quad((0, 0), (10, 0), (10, 0), (0, 0)), quad((3, 3), (3, 3), (3, 3), (3, 3))
    assert quad_iou(torch.cat([line, point]), torch.cat([line, rectangle(5, 5, 20, 20)])).tolist() == [[0, 0], [0, 0]]
    crossed = quad((0, 0), (10, 10), (10, 0), (0, 10))
    assert float(quad_iou(crossed, rectangle(5, 5, 10, 10))) == pytest.approx(1), "its hull counts"
    assert quad_iou(line[:0], line).shape == (0, 1)


def test_suppression_is_greedy_by_the_slow_iou() -> None:
    chance = random.Random(1)
    every = torch.cat([
        rectangle(chance.uniform(20, 80), chance.uniform(20, 80), 30, 15, chance.uniform(-45, 45)) for _ in range(40)
    ])  # fmt: skip
    scores = torch.rand(40)
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        if all(slow_iou(every[index], every[other]) <= 0.2 for other in kept):
            kept.append(index)
    assert quad_nms(every, scores, 0.2).tolist() == kept
    assert 5 < len(kept) < 35
    assert quad_nms(every[:0], scores[:0], 0.2).tolist() == []


def test_neighbours_are_merged_as_in_the_sheet() -> None:
    first, second = box_quads(torch.tensor([[0.0, 0.0, 10.0, 10.0]])), box_quads(torch.tensor([[1.0, 1.0, 11.0, 11.0]]))
    assert float(quad_iou(first, second)) == pytest.approx(0.680672, abs=1e-6)
    shapes, scores, peaks = locality_aware_nms(torch.cat([first, second]), torch.tensor([0.8, 0.6]))
    torch.testing.assert_close(shapes, first + 0.428571, atol=1e-6, rtol=0)
    assert scores.tolist() == pytest.approx([1.4])
    assert peaks.tolist() == pytest.approx([0.8])
    # The corners of the second may be counted from another one.
    again = locality_aware_nms(torch.cat([first, second.roll(1, 1)]), torch.tensor([0.8, 0.6]))[0]
    torch.testing.assert_close(again, shapes)


def slow_locality_aware(shapes: list[Tensor], scores: list[float], iou: float) -> list[tuple[list[float], float]]:
    """Algorithm 1 with lists, for shapes whose corners are in the same order."""
    done: list[tuple[Tensor, float]] = []
    last: tuple[Tensor, float] | None = None
    for shape, score in zip(shapes, scores, strict=True):
        if last is not None and slow_iou(shape, last[0]) > iou:
            total = last[1] + score
            last = ((shape.double() * score + last[0].double() * last[1]) / total, total)
        else:
            if last is not None:
                done.append(last)
            last = (shape, score)
    if last is not None:
        done.append(last)
    kept: list[tuple[Tensor, float]] = []
    for shape, score in sorted(done, key=lambda pair: -pair[1]):
        if all(slow_iou(shape, other) <= iou for other, _ in kept):
            kept.append((shape, score))
    return [(shape.flatten().tolist(), score) for shape, score in kept]


def test_locality_aware_suppression_is_that_of_the_slow_definition() -> None:
    chance = random.Random(2)
    shapes, scores = [], []
    for _ in range(15):
        for x in range(0, 80, 4):
            middle = (20 + 40 * (x >= 40), 30)
            if chance.random() < 0.7:
                jitter = [chance.uniform(-3, 3) for _ in range(4)]
                shapes.append(
                    rectangle(middle[0] + jitter[0], middle[1] + jitter[1], 30 + jitter[2], 18, 4 * jitter[3])
                )
                scores.append(chance.uniform(0.5, 1.0))
    found = locality_aware_nms(torch.cat(shapes), torch.tensor(scores))
    wanted = slow_locality_aware([shape[0] for shape in shapes], scores, 0.2)
    assert len(found[0]) == len(wanted) == 2
    assert set(found[2].tolist()) <= set(torch.tensor(scores).tolist())
    for shape, score, (corners, total) in zip(found[0], found[1].tolist(), wanted, strict=True):
        assert score == pytest.approx(total, rel=1e-4)
        assert shape.flatten().tolist() == pytest.approx(corners, abs=1e-2)
    empty = locality_aware_nms(torch.zeros(0, 4, 2), torch.zeros(0))
    assert [len(part) for part in empty] == [0, 0, 0]


def test_corner_loss_of_the_sheet() -> None:
    """Shifts whose smooth L1 adds up to 4, over 8 times the shortest side of 40, whichever corner is named first."""
    wanted = quad((0, 0), (100, 0), (100, 40), (0, 40))
    shifts = torch.tensor([[[1.5, 0.0], [0.0, 1.0], [0.0, -1.5], [1.0, 0.0]]])
    assert [float(v) for v in quad_smooth_l1(wanted + shifts, wanted)] == pytest.approx([(1 + 0.5 + 1 + 0.5) / 320])
    four = torch.full((1, 4, 2), 0.0)
    four[0, :, 0] = 1.5
    assert float(quad_smooth_l1(wanted + four, wanted)) == pytest.approx(0.0125)
    for first in range(4):
        assert float(quad_smooth_l1(wanted + four, wanted.roll(first, 1))) == pytest.approx(0.0125)
    assert float(quad_smooth_l1(wanted.flip(1), wanted)) > 0.1, "the other way round is another quadrilateral"


def test_detections_may_have_quads() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 3.0, 3.0]])
    found = Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), quads=box_quads(boxes))
    assert found[1:].quads is not None
    assert found[1:].quads.tolist() == [[[1, 1], [3, 1], [3, 3], [1, 3]]]
    assert found.to("cpu").quads is not None
    with pytest.raises(ValueError, match=r"quads must be \[2, 4, 2\], got \(2, 8\)"):
        Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), quads=box_quads(boxes).flatten(1))
