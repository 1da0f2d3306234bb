"""Greedy merging against a definition in plain numbers, and what it must leave alone."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from ops.merge import classwise_merge, greedy_merge


def match(a: list[float], b: list[float]) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(across, 0.0) * max(down, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    away = math.dist(((a[0] + a[2]) / 2, (a[1] + a[3]) / 2), ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2))
    return away / ((math.sqrt(areas[0]) + math.sqrt(areas[1])) / 2) + 1 - shared / (sum(areas) - shared)


def merge_by_lists(boxes: list[list[float]], scores: list[float], threshold: float) -> list[tuple[float, list[float]]]:
    clusters = [([box], score) for box, score in zip(boxes, scores, strict=True)]

    def mean(cluster: list[list[float]]) -> list[float]:
        return [sum(values) / len(cluster) for values in zip(*cluster, strict=True)]

    while len(clusters) > 1:
        pairs = itertools.combinations(range(len(clusters)), 2)
        worth, i, j = min((match(mean(clusters[i][0]), mean(clusters[j][0])), i, j) for i, j in pairs)
        if worth > threshold:
            break
        (first, one), (second, other) = clusters[i], clusters[j]
        clusters = [c for k, c in enumerate(clusters) if k not in (i, j)] + [(first + second, one + other)]
    return sorted(((score, mean(cluster)) for cluster, score in clusters), reverse=True)


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.8, 1.5])
def test_against_lists(threshold: float) -> None:
    generator = torch.Generator().manual_seed(1)
    corner = 40 * torch.rand((14, 2), generator=generator)
    boxes = torch.cat([corner, corner + 10 + 30 * torch.rand((14, 2), generator=generator)], 1)
    scores = torch.rand(14, generator=generator)
    merged, sums = greedy_merge(boxes, scores, threshold)
    wanted = merge_by_lists(boxes.double().tolist(), scores.double().tolist(), threshold)
    assert len(merged) == len(wanted)
    assert (len(wanted) == 14) == (threshold == 0)
    torch.testing.assert_close(sums, torch.tensor([score for score, _ in wanted]))
    torch.testing.assert_close(merged, torch.tensor([box for _, box in wanted]))


def test_the_same_box_twice_always_merges_and_apart_never() -> None:
    box = torch.tensor([[3.0, 4, 13, 24]])
    merged, sums = greedy_merge(box.repeat(3, 1), torch.tensor([0.2, 0.3, 0.4]), 0.0)
    assert torch.equal(merged, box)
    assert sums.item() == pytest.approx(0.9)
    merged, _ = greedy_merge(torch.cat([box, box + 20]), torch.tensor([0.2, 0.3]), 1.0)
    assert merged.tolist() == [[23, 24, 33, 44], [3, 4, 13, 24]]


def test_many_that_agree_outweigh_one_that_is_sure() -> None:
    many = torch.tensor([[0.0, 0, 10, 10]]) + torch.arange(4)[:, None] * 0.2
    merged, sums = greedy_merge(torch.cat([many, many[:1] + 50]), torch.tensor([0.3] * 4 + [0.9]), 0.5)
    assert sums.tolist() == pytest.approx([1.2, 0.9])
    torch.testing.assert_close(merged[0], torch.tensor([0.3, 0.3, 10.3, 10.3]))


def test_nothing_gives_nothing() -> None:
    merged, sums = greedy_merge(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert merged.shape == (0, 4)
    assert sums.shape == (0,)


def test_classes_are_merged_apart() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 10], [0.0, 0, 10, 10]])
    scores = torch.tensor([[0.6, 0.0], [0.5, 0.4], [0.04, 0.3]])
    merged, sums, labels = classwise_merge(boxes, scores, threshold=0.5, score_floor=0.05, before=10)
    assert labels.tolist() == [0, 1]
    assert sums.tolist() == pytest.approx([1.1, 0.7])
    _, sums, _ = classwise_merge(boxes, scores, threshold=0.5, score_floor=0.05, before=1)
    assert sums.tolist() == pytest.approx([0.6, 0.4])
    own = torch.stack([boxes, boxes + 5], 1)
    merged, _, _ = classwise_merge(own, scores, threshold=0.5, score_floor=0.05, before=10)
    assert merged.tolist() == [[0, 0, 10, 10], [5, 5, 15, 15]]
