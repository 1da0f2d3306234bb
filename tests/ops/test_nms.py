import pytest
import torch
from torch import Tensor

from ops.nms import classwise_nms


def overlap(a: Tensor, b: Tensor) -> float:
    wide = min(float(a[2]), float(b[2])) - max(float(a[0]), float(b[0]))
    tall = min(float(a[3]), float(b[3])) - max(float(a[1]), float(b[1]))
    both = max(0.0, wide) * max(0.0, tall)
    area = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b)]
    return both / (sum(area) - both)


def slow(
    boxes: Tensor, scores: Tensor, score_floor: float, iou: float, limit: int, before: int, before_per_class: int
) -> list[tuple[int, int]]:
    """Kept (row, class) pairs, the surest first."""
    candidates = []
    for label in range(scores.shape[1]):
        rows = sorted(range(len(scores)), key=lambda row: -float(scores[row, label]))[:before_per_class]
        candidates += [(float(scores[row, label]), row, label) for row in rows if scores[row, label] > score_floor]
    kept: list[tuple[int, int]] = []
    for _, row, label in sorted(candidates, reverse=True)[:before]:
        box = boxes[row] if boxes.ndim == 2 else boxes[row, label]
        others = [boxes[r] if boxes.ndim == 2 else boxes[r, c] for r, c in kept if c == label]
        if all(overlap(box, other) <= iou for other in others):
            kept.append((row, label))
    return kept[:limit]


@pytest.mark.parametrize("own_boxes", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_same_as_the_loop(seed: int, own_boxes: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand((40, 3, 2) if own_boxes else (40, 2), generator=generator) * 20
    boxes = torch.cat([corner, corner + 5 + 10 * torch.rand(corner.shape, generator=generator)], -1)
    scores = torch.rand((40, 3), generator=generator)
    settings = ((0.3, 0.45, 50, 100, 400), (0.05, 0.6, 9, 25, 12), (0.0, 0.3, 200, 1000, 5))[seed % 3]
    expected = slow(boxes, scores, *settings)
    floor, iou, limit, before, per_class = settings
    found = classwise_nms(
        boxes, scores, score_floor=floor, iou=iou, limit=limit, before=before, before_per_class=per_class
    )
    assert expected
    torch.testing.assert_close(found.scores, torch.stack([scores[row, label] for row, label in expected]))
    assert found.labels.tolist() == [label for _, label in expected]
    for box, (row, label) in zip(found.boxes, expected, strict=True):
        assert torch.equal(box, boxes[row, label] if own_boxes else boxes[row])


def test_a_box_at_exactly_the_threshold_stays() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    scores = torch.tensor([[0.9], [0.8]])
    assert len(classwise_nms(boxes, scores, score_floor=0.1, iou=0.5, limit=10)) == 2
    assert len(classwise_nms(boxes, scores, score_floor=0.1, iou=0.499, limit=10)) == 1


def test_classes_do_not_suppress_each_other() -> None:
    found = classwise_nms(
        torch.tensor([[0.0, 0.0, 4.0, 2.0]]), torch.tensor([[0.2, 0.9]]), score_floor=0, iou=0, limit=9
    )
    assert found.labels.tolist() == [1, 0]


def test_the_floor_is_exclusive() -> None:
    boxes, scores = torch.tensor([[0.0, 0.0, 4.0, 2.0]]), torch.tensor([[0.5]])
    assert not len(classwise_nms(boxes, scores, score_floor=0.5, iou=0.5, limit=9))


def test_ties_do_not_pass_the_limit_of_a_class() -> None:
    corner = torch.arange(10.0)[:, None] * 10
    boxes = torch.cat([corner, corner, corner + 5, corner + 5], 1)
    found = classwise_nms(boxes, torch.full((10, 2), 0.5), score_floor=0.1, iou=0.5, limit=99, before_per_class=4)
    assert torch.bincount(found.labels).tolist() == [4, 4]


def test_nothing_in_nothing_out() -> None:
    found = classwise_nms(torch.zeros(0, 4), torch.zeros(0, 3), score_floor=0.1, iou=0.5, limit=9, before_per_class=4)
    assert found.boxes.shape == (0, 4)
    assert found.labels.dtype == torch.int64
