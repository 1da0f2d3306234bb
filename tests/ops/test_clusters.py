"""Priors by k-means, and optimal pairs against all permutations."""

from __future__ import annotations

import itertools

import pytest
import torch

from ops.clusters import cluster_boxes, drawn_boxes
from ops.match import optimal_match


def test_clusters_are_means_of_their_own() -> None:
    centres = torch.tensor([[0.1, 0.1, 0.2, 0.2], [0.6, 0.1, 0.9, 0.3], [0.2, 0.2, 0.9, 0.9]])
    boxes = (centres[:, None] + 0.02 * torch.randn((3, 50, 4), generator=torch.Generator().manual_seed(0))).flatten(
        0, 1
    )
    found = cluster_boxes(boxes[torch.randperm(150, generator=torch.Generator().manual_seed(1))], 3)
    torch.testing.assert_close(found, boxes.unflatten(0, (3, 50)).mean(1))
    assert torch.equal(found, cluster_boxes(boxes[torch.randperm(150, generator=torch.Generator().manual_seed(1))], 3))
    with pytest.raises(ValueError, match="2 boxes cannot make 3 clusters"):
        cluster_boxes(boxes[:2], 3)


def test_drawn_boxes_lie_inside() -> None:
    boxes = drawn_boxes(2_000, smallest=0.1, largest=0.8)
    assert torch.equal(boxes, drawn_boxes(2_000, smallest=0.1, largest=0.8))
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    extent = boxes[:, 2:] - boxes[:, :2]
    side = extent.prod(1).sqrt()
    assert 0.09 < side.min() < 0.12
    assert 0.7 < side.max() < 0.81
    assert side.median().item() == pytest.approx((0.1 * 0.8) ** 0.5, rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_optimal_pairs_against_all_permutations(seed: int) -> None:
    cost = torch.randn((3, 5), generator=torch.Generator().manual_seed(seed))
    matches = optimal_match(cost)
    assert sorted(matches.tolist()) == [-1, -1, 0, 1, 2]
    paid = sum(cost[row, column].item() for column, row in enumerate(matches.tolist()) if row >= 0)
    least = min(sum(cost[i, j].item() for i, j in enumerate(p)) for p in itertools.permutations(range(5), 3))
    assert paid == pytest.approx(least)


def test_greedy_pairs_can_cost_more() -> None:
    cost = torch.tensor([[0.0, 1.0], [1.0, 9.0]])
    assert optimal_match(cost).tolist() == [1, 0], "taking the cheapest pair first would cost 9"


def test_optimal_pairs_at_the_edges() -> None:
    assert optimal_match(torch.zeros(0, 3)).tolist() == [-1, -1, -1]
    assert len(set(optimal_match(torch.rand(4, 2)).tolist())) == 2
    with pytest.raises(ValueError, match="not finite"):
        optimal_match(torch.tensor([[0.0, float("nan")]]))
