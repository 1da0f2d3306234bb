"""Boxes of one object become one box, whose score is the sum of theirs: OverFeat's way instead of suppression.

From Sermanet et al., "OverFeat: Integrated Recognition, Localization and Detection using Convolutional Networks" (2013,
https://arxiv.org/abs/1312.6229), section 4.3. Many windows that agree outweigh a single window that is sure.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["classwise_merge", "greedy_merge"]

_Floats = npt.NDArray[np.float64]


def greedy_merge(boxes: Tensor, scores: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Merge the two boxes that match best, and again, until no two match any more.

    The paper's match score is a sum of the distance of two boxes' centres and of the area in which they overlap, in
    units that it does not give; it falls as boxes grow alike. Here it is the distance over the mean of their sides
    (roots of their areas), plus 1 less their IoU: 0 for the same box twice, more than 1 for boxes that do not touch.
    A merged box is the mean of all boxes that went into it.

    Args:
        boxes: `[N, 4]`, of one class.
        scores: `[N]`.
        threshold: Boxes that match worse are not merged.

    Returns:
        `[K, 4]` and `[K]`, by descending score.
    """
    places: _Floats = boxes.detach().cpu().double().numpy().copy()
    sums: _Floats = scores.detach().cpu().double().numpy().copy()
    members = np.ones(len(sums))
    apart = np.full((len(sums), len(sums)), np.inf)
    for row in range(1, len(sums)):
        apart[row, :row] = _match(places[row], places[:row])
    apart = np.minimum(apart, apart.T)
    alive = np.ones(len(sums), dtype=bool)
    while alive.any():
        first, second = divmod(int(apart.argmin()), len(sums))
        if not apart[first, second] <= threshold:
            break
        weight = members[first] + members[second]
        places[first] = (members[first] * places[first] + members[second] * places[second]) / weight
        members[first] = weight
        sums[first] += sums[second]
        alive[second] = False
        apart[second], apart[:, second] = np.inf, np.inf
        renewed = np.where(alive, _match(places[first], places), np.inf)
        renewed[first] = np.inf
        apart[first], apart[:, first] = renewed, renewed
    order = np.flatnonzero(alive)[np.argsort(-sums[alive], kind="stable")]
    return torch.from_numpy(places[order]).to(boxes), torch.from_numpy(sums[order]).to(scores)


def _match(box: _Floats, others: _Floats) -> _Floats:
    """Match scores of a box `[4]` with others `[N, 4]`."""
    sides = np.maximum(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0)
    shared = sides.prod(1)
    area, areas = (box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(1)
    away = np.hypot(*((box[:2] + box[2:] - others[:, :2] - others[:, 2:]).T / 2))
    side = np.maximum((np.sqrt(area) + np.sqrt(areas)) / 2, 1e-9)
    matched: _Floats = away / side + 1 - shared / np.maximum(area + areas - shared, 1e-9)
    return matched


def classwise_merge(
    boxes: Tensor, scores: Tensor, *, threshold: float, score_floor: float, before: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`greedy_merge` of each class on its own.

    Args:
        boxes: `[N, 4]`, or `[N, C, 4]` where each class has a box of its own.
        scores: `[N, C]`.
        threshold: See `greedy_merge`.
        score_floor: A box must score more than this to enter,
        before: and be among so many of its class that score most.

    Returns:
        Boxes `[K, 4]`, scores `[K]` and labels `[K]`, class by class.
    """
    found = []
    for label, column in enumerate(scores.unbind(1)):
        best, rows = column.topk(min(before, len(column)))
        rows = rows[best > score_floor]
        own = boxes[rows] if boxes.ndim == 2 else boxes[rows, label]
        merged, sums = greedy_merge(own, column[rows], threshold)
        found.append((merged, sums, torch.full((len(sums),), label, dtype=torch.int64, device=scores.device)))
    merged, sums, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return merged, sums, labels
