import math

import pytest
import torch
from torch import Tensor

from ops.dense import (
    balanced_cross_entropy,
    boxes_from_sides,
    cell_points,
    components,
    detect_cells,
    dice_loss,
    log_iou,
    near,
    owners,
    paint,
    side_distances,
)
from ops.images import Frame
from ops.patches import object_patch, scaled_crop
from ops.sample import half_hard
from ops.structures import Target


def test_cells_stand_for_their_middles() -> None:
    points = cell_points((2, 3), (8, 12))
    assert points.tolist() == [[2, 2], [6, 2], [10, 2], [2, 6], [6, 6], [10, 6]]
    assert cell_points((2, 3), (8, 12), offset=0.0)[4].tolist() == [4, 4]


@pytest.mark.parametrize(("radius", "positives", "ignored", "square"), [(3.75, 45, 52, 72), (3.0, 29, 44, 72)])
def test_counts_of_a_disc_and_its_ring(radius: float, positives: int, ignored: int, square: int) -> None:
    points = cell_points((60, 60), (60, 60))
    disc = ((points - 30.5).norm(dim=1) <= radius).reshape(60, 60)
    assert int(disc.sum()) == positives
    assert int((near(disc, 2) & ~disc).sum()) == ignored
    assert int((near(disc, 2, "chessboard") & ~disc).sum()) == square


def test_near_is_what_its_definition_says() -> None:
    marked = torch.rand(2, 3, 9, 8) < 0.05
    for metric in ("euclidean", "chessboard"):
        found = near(marked, 2, metric)  # type: ignore[arg-type]
        for plane, answer in zip(marked.flatten(0, 1), found.flatten(0, 1), strict=True):
            for y in range(9):
                for x in range(8):
                    away = [
                        math.hypot(y - v, x - u) if metric == "euclidean" else max(abs(y - v), abs(x - u))
                        for v, u in plane.nonzero().tolist()
                    ]
                    assert bool(answer[y, x]) == any(distance <= 2 for distance in away)


def test_owner_is_the_cheapest_object_a_cell_belongs_to() -> None:
    inside = torch.tensor([[True, True, False, False], [True, False, True, False]])
    assert owners(inside, torch.tensor([[3.0], [2.0]])).tolist() == [1, 0, 1, -1]
    assert owners(inside[:0], torch.zeros(0, 1)).tolist() == [-1] * 4
    assert paint(inside, torch.tensor([2, 2]), 3).tolist() == [[False] * 4, [False] * 4, [True, True, True, False]]
    assert paint(inside, torch.tensor([0, 1]), 2).equal(inside)
    assert not paint(inside[:0], torch.zeros(0, dtype=torch.int64), 2).any()


def test_sides_there_and_back() -> None:
    points, boxes = torch.rand(5, 2) * 100, torch.tensor([[10.0, 20.0, 50.0, 90.0], [0.0, 0.0, 7.0, 9.0]])
    sides = side_distances(points, boxes)
    assert side_distances(torch.tensor([[15.0, 40.0]]), boxes[:1]).tolist() == [[[20, 50, 5, 35]]]
    torch.testing.assert_close(boxes_from_sides(points, sides), boxes[:, None].expand(2, 5, 4), atol=1e-4, rtol=0)


def test_log_iou_of_the_unitbox_example() -> None:
    sides = torch.tensor([3.0, 5.0, 4.0, 6.0], dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor([4.0, 4.0, 5.0, 5.0], dtype=torch.float64)
    loss = log_iou(sides, wanted)
    loss.backward()
    loss = loss.detach()
    assert math.exp(-float(loss)) == pytest.approx(63 / 97)
    assert float(loss) == pytest.approx(0.4315763, abs=1e-7)
    gradient = torch.tensor([-0.1325479, 0.1030928, -0.1008018, 0.0824742], dtype=torch.float64)
    torch.testing.assert_close(sides.grad, gradient, atol=1e-7, rtol=0)
    assert float(log_iou(2 * sides.detach(), 2 * wanted)) == pytest.approx(float(loss), abs=1e-12)


def test_log_iou_of_the_east_example() -> None:
    """I = 630 and U = 970; with 1 added to both as re-implementations do."""
    wanted, sides = torch.tensor([10.0, 10.0, 20.0, 20.0]), torch.tensor([8.0, 12.0, 25.0, 15.0])
    assert float(log_iou(sides, wanted)) == pytest.approx(0.431576, abs=1e-6)
    assert float(log_iou(sides, wanted, smooth=1.0)) == pytest.approx(0.431021, abs=1e-6)


def test_log_iou_of_nothing_is_finite() -> None:
    sides = torch.zeros(4, requires_grad=True)
    loss = log_iou(sides, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    loss.backward()
    assert 10 < float(loss.detach()) < 50
    assert sides.grad is not None
    assert torch.isfinite(sides.grad).all()


def test_balanced_cross_entropy_of_the_sheet() -> None:
    wanted = torch.tensor([True, False, False, False])
    loss = balanced_cross_entropy(torch.tensor([0.8, 0.2, 0.1, 0.3]).logit(), wanted)
    assert float(loss.sum()) == pytest.approx(0.338652, abs=1e-6)
    assert float(loss.mean()) == pytest.approx(0.084663, abs=1e-6)
    more = balanced_cross_entropy(
        torch.tensor([0.8, 0.2, 0.1, 0.3, 0.5, 0.9]).logit(),
        torch.tensor([True, False, False, False, True, False]),
        torch.tensor([True, True, True, True, False, False]),
    )
    torch.testing.assert_close(more[:4], loss)
    assert more[4:].tolist() == [0, 0]


def test_dice_of_the_sheet() -> None:
    wanted, p = torch.tensor([True, False, True, False]), torch.tensor([0.8, 0.2, 0.6, 0.1])
    assert float(dice_loss(p, wanted)) == pytest.approx(0.243245, abs=1e-6)
    wider = torch.cat([p, torch.tensor([0.3])]), torch.tensor([True, False, True, False, True])
    assert float(dice_loss(*wider, wider[1] & (wider[0] > 0.5))) == pytest.approx(1 - 2 * 1.4 / (1.4 + 2), abs=1e-5)
    assert float(dice_loss(wanted.float(), wanted)) == pytest.approx(0, abs=1e-5)


def test_components_touch_at_corners_too() -> None:
    scores = torch.zeros(6, 8)
    scores[0, 0] = scores[1, 1] = 0.8
    scores[3:6, 4:7] = 0.6
    scores[4, 5] = 0.9
    scores[0, 7] = 0.5
    middles, means = components(scores, 0.5)
    assert middles.tolist() == [[0.5, 0.5], [5.0, 4.0]]
    torch.testing.assert_close(means, torch.tensor([0.8, (8 * 0.6 + 0.9) / 9]))
    assert components(torch.zeros(3, 3), 0.5)[0].shape == (0, 2)


def test_cells_on_padding_say_nothing() -> None:
    frame = Frame((4, 4), (8, 8), (2.0, 2.0))
    points = cell_points((3, 3), (12, 12))
    boxes = torch.cat([points - 2, points + 2], 1)[None]
    (found,) = detect_cells(
        boxes, torch.full((1, 9, 2), 0.5), points, [frame], score_floor=0.1, nms_iou=0.5, before=None, limit=None
    )
    assert len(found) == 8
    assert sorted(found.boxes.tolist())[::2] == [[0, 0, 2, 2], [0, 2, 2, 4], [2, 0, 4, 2], [2, 2, 4, 4]]


def test_half_of_the_negatives_are_hard() -> None:
    """Of 3,600 cells with 72 positives: 36 of the hardest hundredth, 36 of the others."""
    losses = torch.randperm(3600).float().reshape(60, 60)
    candidates = torch.ones(60, 60, dtype=torch.bool)
    candidates.view(-1)[:72] = False
    chosen = half_hard(losses, candidates, 72)
    assert int(chosen.sum()) == 72
    assert not bool((chosen & ~candidates).any())
    hardest = losses >= losses[candidates].sort(descending=True).values[35]
    assert int((chosen & hardest).sum()) == 36
    again = half_hard(losses, candidates, 72)
    assert not chosen.equal(again), "the others are drawn by chance"
    assert (chosen & hardest).equal(again & hardest)


def test_one_kind_of_negative_takes_the_places_of_the_other() -> None:
    losses, candidates = torch.arange(10.0), torch.arange(10) >= 4
    assert half_hard(losses, candidates, 50).equal(candidates)
    chosen = half_hard(losses, candidates, 4, share=0.1)
    assert int(chosen.sum()) == 4
    assert bool(chosen[9]), "the one that is hard"
    assert int(half_hard(losses, candidates, 4, share=1.0).sum()) == 4
    assert not half_hard(losses, candidates, 0).any()
    assert not half_hard(losses, torch.zeros(10, dtype=torch.bool), 3).any()


def scene() -> tuple[Tensor, Target]:
    image = torch.zeros(3, 200, 300)
    image[:, 60:90, 100:120] = 1
    return image, Target(torch.tensor([[100.0, 60.0, 120.0, 90.0]]), torch.tensor([0]))


def test_patches_show_an_object_at_its_standard_height() -> None:
    image, target = scene()
    for seed in range(10):
        torch.manual_seed(seed)
        patch, placed = object_patch(image, target, share=1.0)
        assert patch.shape == (3, 240, 240)
        ((x1, y1, x2, y2),) = placed.boxes.tolist()
        assert 39 < y2 - y1 < 63.5
        assert abs((x1 + x2) / 2 - 120) < 27
        assert abs((y1 + y2) / 2 - 120) < 27
        seen = patch[0, :, :] > 0.75
        assert int(seen.sum()) == pytest.approx((x2 - x1) * (y2 - y1), rel=0.1)


def test_patches_without_an_object() -> None:
    image, target = scene()
    for seed in range(10):
        torch.manual_seed(seed)
        patch, placed = object_patch(image, target[:0])
        assert patch.shape == (3, 240, 240)
        assert len(placed) == 0
        assert object_patch(image, target, share=0.0)[0].shape == (3, 240, 240)


def test_scaled_crops_keep_box_and_pixels_together() -> None:
    image, target = scene()
    found = 0
    for seed in range(20):
        torch.manual_seed(seed)
        crop, placed = scaled_crop(image, target, size=128)
        assert crop.shape == (3, 128, 128)
        for x1, y1, x2, y2 in placed.boxes.tolist():
            found += 1
            assert int((crop[0] > 0.75).sum()) == pytest.approx((x2 - x1) * (y2 - y1), rel=0.15)
    assert found > 3
