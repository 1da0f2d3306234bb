from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from ops.nms import Suppression, classwise_nms, classwise_soft_nms, soft_nms, soft_nms_merge, suppressing

SIX = torch.tensor(
    [
        [10.0, 10, 110, 110],
        [15, 15, 115, 115],
        [60, 60, 160, 160],
        [10, 10, 60, 110],
        [200, 200, 260, 260],
        [20, 20, 120, 120],
    ]
)
SIX_SCORES = torch.tensor([0.95, 0.90, 0.80, 0.70, 0.60, 0.50])


@pytest.mark.parametrize(
    ("method", "extent", "expected"),
    [
        ("linear", 1.0, {0: 0.95, 2: 0.8, 4: 0.6, 3: 0.346535, 5: 0.107546, 1: 0.016642}),
        ("linear", 0.0, {0: 0.95, 2: 0.8, 4: 0.6, 3: 0.35, 5: 0.109244, 1: 0.017087}),
        ("gaussian", 1.0, {0: 0.95, 2: 0.766559, 4: 0.6, 3: 0.420359, 1: 0.156448, 5: 0.037257}),
        ("gaussian", 0.0, {0: 0.95, 2: 0.768004, 4: 0.6, 3: 0.424571, 1: 0.158965, 5: 0.038082}),
        ("hard", 0.0, {0: 0.95, 2: 0.8, 4: 0.6}),
        ("hard", 1.0, {0: 0.95, 2: 0.8, 4: 0.6}),
    ],
)
def test_six_boxes(method: str, extent: float, expected: dict[int, float]) -> None:
    kept, scores = soft_nms(SIX, SIX_SCORES, method=method, iou=0.3, sigma=0.5, extent=extent)  # type: ignore[arg-type]
    assert kept.tolist() == list(expected)
    torch.testing.assert_close(scores, torch.tensor(list(expected.values())), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("method", "kept", "scores"),
    [
        ("gaussian", [0, 2, 3, 1], [0.9, 0.681786, 0.6, 0.196316]),
        ("linear", [0, 2, 3, 1], [0.9, 0.7, 0.6, 0.139055]),
        ("hard", [0, 2, 3], [0.9, 0.7, 0.6]),
    ],
)
def test_four_boxes(method: str, kept: list[int], scores: list[float]) -> None:
    boxes = torch.tensor([[10.0, 10, 50, 50], [12, 12, 52, 52], [30, 30, 80, 80], [100, 100, 120, 120]])
    rows, values = soft_nms(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), method=method, iou=0.5, extent=1.0)  # type: ignore[arg-type]
    assert rows.tolist() == kept
    torch.testing.assert_close(values, torch.tensor(scores), atol=1e-6, rtol=0)


def slow_soft_nms(boxes: Tensor, scores: Tensor, sigma: float, floor: float) -> list[tuple[int, float]]:
    left = {index: float(score) for index, score in enumerate(scores) if score >= floor}
    overlap = box_iou(boxes.double(), boxes.double()).tolist()
    answer = []
    while left:
        best = max(left, key=lambda index: (left[index], -index))
        answer.append((best, left.pop(best)))
        left = {i: s * math.exp(-(overlap[best][i] ** 2) / sigma) for i, s in left.items()}
        left = {i: s for i, s in left.items() if s >= floor}
    return answer


def crowd(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    low = 60 * torch.rand((count, 2), generator=generator)
    boxes = torch.cat([low, low + 5 + 40 * torch.rand((count, 2), generator=generator)], 1)
    return boxes, torch.rand(count, generator=generator), torch.randint(0, 3, (count,), generator=generator)


def test_equals_the_loop_a_class() -> None:
    boxes, scores, labels = crowd(60)
    kept, values = soft_nms(boxes, scores, labels=labels, sigma=0.3, floor=0.01)
    assert bool((values[1:] <= values[:-1]).all())
    for label in range(3):
        members = (labels == label).nonzero().flatten()
        expected = slow_soft_nms(boxes[members], scores[members], 0.3, 0.01)
        mine = labels[kept] == label
        assert kept[mine].tolist() == [int(members[index]) for index, _ in expected]
        torch.testing.assert_close(values[mine], torch.tensor([score for _, score in expected]))


def test_limit_takes_the_first_of_the_whole_answer() -> None:
    boxes, scores, labels = crowd(40)
    kept, values = soft_nms(boxes, scores, labels=labels)
    some, some_values = soft_nms(boxes, scores, labels=labels, limit=7)
    assert torch.equal(some, kept[:7])
    assert torch.equal(some_values, values[:7])


def test_hard_is_torchvisions() -> None:
    boxes, scores, _ = crowd(80, seed=2)
    kept, values = soft_nms(boxes, scores, method="hard", iou=0.4, floor=1e-6)
    assert torch.equal(kept, nms(boxes, scores, 0.4))
    assert torch.equal(values, scores[kept])


def test_a_low_score_is_dropped_and_its_box_lowers_nothing() -> None:
    boxes = SIX[:2]
    kept, values = soft_nms(boxes, torch.tensor([0.0005, 0.5]))
    assert kept.tolist() == [1]
    assert values.tolist() == [0.5]


def test_nothing_in_nothing_out() -> None:
    kept, values = soft_nms(torch.zeros((0, 4)), torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64))
    assert kept.shape == values.shape == (0,)


def test_unknown_method() -> None:
    with pytest.raises(ValueError, match="'linear', 'gaussian' or 'hard'"):
        soft_nms(SIX, SIX_SCORES, method="soft")  # type: ignore[arg-type]


def test_classwise_takes_scores_a_class() -> None:
    scores = torch.stack([SIX_SCORES, torch.zeros(6)], 1)
    scores[4, 1] = 0.7
    found = classwise_soft_nms(SIX, scores, score_floor=0.0, limit=4, extent=1.0)
    assert found.labels.tolist() == [0, 0, 1, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.95, 0.766559, 0.7, 0.6]), atol=1e-6, rtol=0)
    assert torch.equal(found.boxes, SIX[[0, 2, 4, 4]])


def test_classwise_takes_boxes_a_class() -> None:
    boxes = torch.stack([SIX, SIX + 500], 1)
    scores = torch.stack([SIX_SCORES, SIX_SCORES - 0.01], 1)
    found = classwise_soft_nms(boxes, scores, score_floor=0.75, limit=100, before=4)
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert torch.equal(found.boxes, torch.stack([SIX[0], SIX[0] + 500, SIX[1], SIX[1] + 500]))


SOFTLY = {
    "linear": {0: 0.95, 2: 0.8, 4: 0.6, 3: 0.35, 5: 0.109244, 1: 0.017087},
    "gaussian": {0: 0.95, 2: 0.768004, 4: 0.6, 3: 0.424571, 1: 0.158965, 5: 0.038082},
}


@pytest.mark.parametrize("method", list(SOFTLY))
def test_in_place_of_hard_suppression(method: str) -> None:
    def six(**limits: int) -> tuple[list[int], Tensor]:
        found = classwise_nms(SIX, SIX_SCORES[:, None], score_floor=0.3, iou=0.5, **{"limit": 100, **limits})
        return [SIX.tolist().index(box) for box in found.boxes.tolist()], found.scores

    expected = SOFTLY[method]
    assert six()[0] == [0, 2, 3, 4]
    with suppressing(Suppression(method)) as asked:  # type: ignore[arg-type]
        assert not asked.used
        rows, scores = six()
        assert asked.used
        assert rows == list(expected)
        torch.testing.assert_close(scores, torch.tensor(list(expected.values())), atol=1e-6, rtol=0)
        assert six(limit=2)[0] == rows[:2]
        assert set(six(before_per_class=3)[0]) == {0, 1, 2}
    assert six()[0] == [0, 2, 3, 4], "afterwards as before"


def test_nothing_in_place_of_hard_suppression() -> None:
    with suppressing(None) as asked:
        found = classwise_nms(SIX, SIX_SCORES[:, None], score_floor=0.3, iou=0.5, limit=100)
    assert len(found) == 4
    assert not asked.used


def test_afterwards_as_before_even_if_it_fails() -> None:
    with pytest.raises(KeyError), suppressing(Suppression()):
        raise KeyError
    assert len(classwise_nms(SIX, SIX_SCORES[:, None], score_floor=0.3, iou=0.5, limit=100)) == 4


def test_a_suppression_says_what_it_is() -> None:
    assert Suppression().describe() == {"name": "soft_nms_gaussian", "sigma": 0.5, "floor": 0.001}
    assert Suppression("linear").describe() == {"name": "soft_nms_linear", "iou": 0.3, "floor": 0.001}
    assert Suppression(sigma=0.3).describe()["name"] == "soft_nms_gaussian_0.3"
    assert Suppression("linear", sigma=0.3).describe()["name"] == "soft_nms_linear"


@pytest.mark.parametrize("settings", [{"method": "hard"}, {"sigma": 0.0}, {"iou": 1.0}, {"floor": 0.0}])
def test_impossible_settings(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="soft NMS"):
        Suppression(**settings)  # type: ignore[arg-type]


def slow_merge(rows: list[list[float]], sigma: float, floor: float, exponent: float) -> list[list[float]]:
    """The Gaussian kind on rows (x1, y1, x2, y2, score, top left, bottom right) of one class, borders included."""
    rows, taken = [list(row) for row in rows], []
    while rows:
        best = max(rows, key=lambda row: row[4])
        rows.remove(best)
        sums, weights = [side * best[5 + i // 2] for i, side in enumerate(best[:4])], best[5:]
        for row in list(rows):
            across = min(best[2], row[2]) - max(best[0], row[0]) + 1
            down = min(best[3], row[3]) - max(best[1], row[1]) + 1
            if across <= 0 or down <= 0:
                continue
            areas = [(r[2] - r[0] + 1) * (r[3] - r[1] + 1) for r in (best, row)]
            kept = math.exp(-((across * down / (sum(areas) - across * down)) ** 2) / sigma)
            share = (1 - kept) ** exponent
            sums = [s + share * row[i] * row[5 + i // 2] for i, s in enumerate(sums)]
            weights = [w + share * row[5 + i] for i, w in enumerate(weights)]
            row[4] *= kept
            if row[4] < floor:
                rows.remove(row)
        taken.append([s / weights[i // 2] for i, s in enumerate(sums)] + [best[4]])
    return taken


@pytest.mark.parametrize("exponent", [10.0, 2.0])
def test_merging_equals_the_loop(exponent: float) -> None:
    generator = torch.Generator().manual_seed(4)
    low = 60 * torch.rand((40, 2), generator=generator, dtype=torch.float64)
    boxes = torch.cat([low, low + 10 + 50 * torch.rand((40, 2), generator=generator, dtype=torch.float64)], 1)
    corners = torch.rand((40, 2), generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (40,), generator=generator)
    scores = 0.01 + torch.rand(40, generator=generator, dtype=torch.float64)
    options = {"method": "gaussian", "sigma": 0.5, "floor": 0.001, "extent": 1.0}
    kept, rescored, moved = soft_nms_merge(boxes, scores, corners, labels=labels, exponent=exponent, **options)  # type: ignore[arg-type]
    again, same = soft_nms(boxes, scores, labels=labels, **options)  # type: ignore[arg-type]
    assert torch.equal(kept, again)
    assert torch.equal(rescored, same)
    for label in range(2):
        rows = torch.cat([boxes, scores[:, None], corners], 1)[labels == label].tolist()
        expected = torch.tensor(slow_merge(rows, 0.5, 0.001, exponent), dtype=torch.float64)
        ours = torch.cat([moved, rescored[:, None]], 1)[labels[kept] == label]
        assert len(expected) > 10
        torch.testing.assert_close(ours, expected)
    assert not torch.allclose(moved, boxes[kept])


def test_merging_bounds_and_edges() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]])
    scores, corners = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    kept, _, moved = soft_nms_merge(boxes, scores, corners, method="hard", iou=0.5, limit=1)
    # A box that is suppressed altogether counts in full; a corner that scores 0 has no say.
    assert kept.tolist() == [0]
    torch.testing.assert_close(moved, torch.tensor([[1.0, 0, 12, 10]]))
    kept, _, moved = soft_nms_merge(boxes, scores, corners, method="hard", iou=0.5)
    assert kept.tolist() == [0, 2]
    assert moved[1].tolist() == [50, 50, 60, 60], "nor does a lone box lose its place by it"
    none = soft_nms_merge(boxes[:0], scores[:0], corners[:0])
    assert [part.shape for part in none] == [(0,), (0,), (0, 4)]
    with pytest.raises(ValueError, match="method must be"):
        soft_nms_merge(boxes, scores, corners, method="max")  # type: ignore[arg-type]
