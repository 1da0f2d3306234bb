from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ops.structures import Detections
from ops.voting import classwise_voting, vote

# Those of the example of Soft-NMS.
BOXES = torch.tensor(
    [
        [10.0, 10, 110, 110],
        [15, 15, 115, 115],
        [60, 60, 160, 160],
        [10, 10, 60, 110],
        [200, 200, 260, 260],
        [20, 20, 120, 120],
    ]
)
SCORES = torch.tensor([0.95, 0.90, 0.80, 0.70, 0.60, 0.50])


def overlap(a: list[float], b: list[float], extent: float) -> float:
    across = min(a[2], b[2]) - max(a[0], b[0]) + extent
    down = min(a[3], b[3]) - max(a[1], b[1]) + extent
    shared = max(across, 0.0) * max(down, 0.0)
    areas = [(x2 - x1 + extent) * (y2 - y1 + extent) for x1, y1, x2, y2 in (a, b)]
    return shared / (sum(areas) - shared) if shared else 0.0


def slow_vote(
    boxes: Tensor, scores: Tensor, iou: float, floor: float | None, extent: float
) -> list[tuple[float, list[float]]]:
    """The authors' rule box by box: score and box of all that come out, the surest first."""
    rows = sorted(zip(scores.double().tolist(), boxes.double().tolist(), strict=True), key=lambda row: -row[0])
    found: list[tuple[float, list[float]]] = []
    while rows:
        best = rows[0]
        member = [index == 0 or overlap(best[1], row[1], extent) >= iou for index, row in enumerate(rows)]
        cluster = [row for row, mine in zip(rows, member, strict=True) if mine]
        rows = [row for row, mine in zip(rows, member, strict=True) if not mine]
        if len(cluster) == 1:
            found.append(best)
            continue
        total = sum(score for score, _ in cluster)
        mean = [sum(score * box[side] for score, box in cluster) / total for side in range(4)]
        found.append((best[0], mean))
        if floor is not None:
            for score, box in cluster[1:]:
                lowered = score * (1 - overlap(best[1], box, extent))
                if lowered >= floor:
                    found.append((lowered, box))
    return sorted(found, key=lambda row: -row[0])


def crowd(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Boxes in heaps, as several scales of a detector give them."""
    chance = torch.Generator().manual_seed(seed)
    centres = torch.rand(5, 2, generator=chance) * 200
    centre = centres[torch.randint(5, (count,), generator=chance)] + 6 * torch.randn(count, 2, generator=chance)
    half = 10 + 30 * torch.rand(count, 2, generator=chance)
    return torch.cat([centre - half, centre + half], 1), 0.01 + 0.98 * torch.rand(count, generator=chance)


@pytest.mark.parametrize("floor", [None, 0.01, 0.3])
@pytest.mark.parametrize("extent", [0.0, 1.0])
@pytest.mark.parametrize("iou", [0.3, 0.45, 0.7])
def test_as_its_slow_definition(floor: float | None, extent: float, iou: float) -> None:
    for seed in range(5):
        boxes, scores = crowd(seed, 80)
        wanted = slow_vote(boxes, scores, iou, floor, extent)
        got_boxes, got_scores = vote(boxes, scores, iou=iou, floor=floor, extent=extent)
        assert len(got_scores) == len(wanted)
        torch.testing.assert_close(got_scores, torch.tensor([score for score, _ in wanted]))
        torch.testing.assert_close(got_boxes, torch.tensor([box for _, box in wanted]), atol=1e-4, rtol=1e-6)
        assert (got_boxes.dtype, got_scores.dtype) == (boxes.dtype, scores.dtype)


def test_worked_example() -> None:
    """IoU with box 0: .8223 (1), .1429 (2), .5 (3), 0 (4), .6807 (5); box 5 would also belong to 2, were it not taken.

    Cluster of 0, 1, 3, 5: weights .95 .90 .70 .50 of sum 3.05.
    x1 = (.95*10 + .9*15 + .7*10 + .5*20) / 3.05 = 40 / 3.05, x2 = (104.5 + 103.5 + 42 + 60) / 3.05 = 310 / 3.05,
    y2 = (104.5 + 103.5 + 77 + 60) / 3.05 = 345 / 3.05.
    """
    boxes, scores = vote(BOXES, SCORES)
    assert scores.tolist() == pytest.approx([0.95, 0.8, 0.6])
    assert boxes[0].tolist() == pytest.approx([40 / 3.05, 40 / 3.05, 310 / 3.05, 345 / 3.05])
    assert torch.equal(boxes[1:], BOXES[[2, 4]])


def test_worked_example_of_the_soft_form() -> None:
    """Beside the mean: 3 with .7 * .5 = .35, 1 with .9 * (1 - 9025/10975) = .1599, 5 with .5 * (1 - .6807) = .1597."""
    boxes, scores = vote(BOXES, SCORES, floor=0.01)
    assert scores.tolist() == pytest.approx([0.95, 0.8, 0.6, 0.35, 0.9 * 1950 / 10975, 0.5 * 3800 / 11900])
    assert torch.equal(boxes[1:], BOXES[[2, 4, 3, 1, 5]])
    assert torch.equal(boxes[0], vote(BOXES, SCORES)[0][0]), "the mean is that of the hard form"
    _, fewer = vote(BOXES, torch.tensor([0.95, 0.9, 0.8, 0.7, 0.6, 0.5], dtype=torch.float64), floor=0.35)
    assert fewer.tolist() == pytest.approx([0.95, 0.8, 0.6, 0.35]), "a score at the floor stays"


def test_an_iou_at_the_threshold_belongs_to_the_cluster() -> None:
    _, scores = vote(BOXES[[0, 3]], SCORES[[0, 3]], iou=0.5)
    assert len(scores) == 1
    _, scores = vote(BOXES[[0, 3]], SCORES[[0, 3]], iou=0.5001)
    assert len(scores) == 2
    _, scores = vote(BOXES[[0, 3]], SCORES[[0, 3]], iou=0.5001, extent=1.0)
    assert len(scores) == 1, "as inclusive pixels the overlap is 5151 / 10201"


@pytest.mark.parametrize("floor", [None, 0.01])
def test_disjoint_boxes_stay_as_they_are(floor: float | None) -> None:
    corner = torch.arange(7.0)[:, None] * 31.7
    boxes = torch.cat([corner, corner, corner + 20.3, corner + 11.1], 1)
    scores = torch.linspace(0.1, 0.7, 7)
    once = vote(boxes, scores, floor=floor)
    assert torch.equal(once[0], boxes.flip(0))
    assert torch.equal(once[1], scores.flip(0))
    twice = vote(*once, floor=floor)
    assert torch.equal(once[0], twice[0])
    assert torch.equal(once[1], twice[1])


def test_the_order_of_the_input_means_nothing() -> None:
    boxes, scores = crowd(3, 60)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    wanted, got = vote(boxes, scores, floor=0.05), vote(boxes[order], scores[order], floor=0.05)
    torch.testing.assert_close(got[0], wanted[0])
    torch.testing.assert_close(got[1], wanted[1])


def test_copies_of_a_box_are_that_box() -> None:
    boxes, scores = vote(BOXES[:1].expand(5, 4), torch.tensor([0.2, 0.9, 0.4, 0.9, 0.1]))
    assert scores.tolist() == pytest.approx([0.9])
    torch.testing.assert_close(boxes, BOXES[:1])


def test_the_mean_lies_within_its_cluster_and_nearer_to_the_surer_box() -> None:
    pair = torch.tensor([[0.0, 0, 100, 100], [10, 10, 110, 110]])
    boxes, _ = vote(pair, torch.tensor([0.9, 0.3]))
    torch.testing.assert_close(boxes, torch.tensor([[2.5, 2.5, 102.5, 102.5]]))


def test_boxes_without_area_end_and_no_box_is_none() -> None:
    flat = torch.tensor([[5.0, 5, 5, 9], [5, 5, 5, 9], [1, 1, 1, 1]])
    boxes, scores = vote(flat, torch.tensor([0.5, 0.4, 0.3]))
    assert torch.equal(boxes, flat)
    assert len(scores) == 3
    boxes, scores = vote(torch.zeros(0, 4), torch.zeros(0), floor=0.01)
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scores .* more than 0, the least is 0\.0"):
        vote(BOXES, torch.zeros(6))
    with pytest.raises(ValueError, match="floor must be more than 0"):
        vote(BOXES, SCORES, floor=0.0)


def test_classes_do_not_vote_for_each_other() -> None:
    labels = torch.tensor([3, 0, 3, 3, 0, 0])
    merged = classwise_voting(Detections(BOXES, SCORES, labels), floor=0.01, extent=1.0)
    for label in (0, 3):
        mine = labels == label
        boxes, scores = vote(BOXES[mine], SCORES[mine], floor=0.01, extent=1.0)
        assert torch.equal(merged.boxes[merged.labels == label], boxes)
        assert torch.equal(merged.scores[merged.labels == label], scores)
    assert torch.equal(merged.scores, merged.scores.sort(descending=True).values)
    assert len(classwise_voting(Detections(BOXES, SCORES, labels), limit=2)) == 2
    assert len(classwise_voting(Detections(BOXES[:0], SCORES[:0], labels[:0]))) == 0
