"""Boosted trees of depth two, as a soft cascade over many windows at once, and how they are learned.

P. Dollar, R. Appel, S. Belongie, P. Perona, "Fast Feature Pyramids for Object Detection" (PAMI 2014), section 5, with
the constants of the authors' toolbox. A tree has three nodes, numbered from the top: the root and its two children.
Below its threshold a feature sends to the left. Leaves are numbered from the left, 0 to 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Trees", "boost", "cascade"]

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trees:
    """T trees: `feature` int64 `[T, 3]`, `threshold` `[T, 3]`, `leaf` `[T, 4]`, what each adds to the score."""

    feature: npt.NDArray[np.int64]
    threshold: _Floats
    leaf: _Floats


def cascade(
    values: Tensor, start: Tensor, place: Tensor, threshold: Tensor, leaf: Tensor, reject: float
) -> tuple[Tensor, Tensor]:
    """Add up trees for each window, and give it up as soon as the sum is not above `reject`.

    Args:
        values: `[V]`, the features of all windows.
        start: int64 `[N]`: where each window begins in them.
        place: int64 `[T, 3]`: how far behind its start a node's feature lies.
        threshold: `[T, 3]`.
        leaf: `[T, 4]`.
        reject: See above.

    Returns:
        Indices `[K]` of the windows that are left, ascending, and their sums.
    """
    alive = torch.arange(len(start), device=start.device)
    total = values.new_zeros(len(start))
    first, size = 0, 8
    while first < len(place) and len(alive):
        at, limit, outcome = (part[first : first + size] for part in (place, threshold, leaf))
        begin = start[:, None]
        left = values[begin + at[:, 0]] < limit[:, 0]
        below = values[begin + torch.where(left, at[:, 1], at[:, 2])] < torch.where(left, limit[:, 1], limit[:, 2])
        added = torch.where(
            left, torch.where(below, outcome[:, 0], outcome[:, 1]), torch.where(below, outcome[:, 2], outcome[:, 3])
        )
        sums = total[:, None] + added.cumsum(1)
        stays = (sums > reject).all(1)
        alive, start, total = alive[stays], start[stays], sums[stays, -1]
        # Most windows go at once; the few that stay are worth longer strides.
        first, size = first + size, min(2 * size, 128) if first else size
    return alive, total


def boost(
    negatives: npt.NDArray[np.float32],
    positives: npt.NDArray[np.float32],
    count: int,
    chance: np.random.Generator,
    *,
    share: float = 1 / 16,
    bins: int = 256,
    least: float = 0.01,
) -> Trees:
    """Discrete AdaBoost: each tree answers -1 or 1 times its weight, and both classes weigh the same at first.

    A tree is grown greedily: of a random part of the features, cut into `bins` steps, each node takes the feature and
    threshold by which its two sides, as two classes, err least. Nodes that are pure, or of less than `least` of all
    weight, are left whole. Learning ends early when no tree is better than chance; the trees that lack add nothing.

    Args:
        negatives: `[M, D]`.
        positives: `[N, D]`.
        count: Trees.
        chance: Draws the features.
        share: Of the features that each node looks at.
        bins: At most 256.
        least: See above.
    """
    examples = np.concatenate([negatives, positives])
    low, high = examples.min(0).astype(np.float64) - 0.01, examples.max(0).astype(np.float64) + 0.01
    step = (high - low) / (bins - 1)
    codes = np.ascontiguousarray(np.rint((examples - low) / step).astype(np.uint8).T)
    truth = np.repeat([-1.0, 1.0], [len(negatives), len(positives)])
    prior = np.where(truth > 0, 0.5 / len(positives), 0.5 / len(negatives))
    looked = max(1, int(codes.shape[0] * share))
    feature = np.zeros((count, 3), dtype=np.int64)
    threshold, leaf = np.zeros((count, 3)), np.zeros((count, 4))
    margin = np.zeros(len(truth))
    for tree in range(count):
        weights = prior * np.exp(-truth * margin)
        weights /= weights.sum()
        drawn = [chance.permutation(codes.shape[0])[:looked] for _ in range(3)]
        top = _best_cut(codes, drawn[0], weights, truth, bins, least)
        if top is None:
            break
        answer, leaves = np.zeros(len(truth)), np.zeros(4)
        feature[tree, 0], threshold[tree, 0] = top[0], low[top[0]] + step[top[0]] * (top[1] + 0.5)
        goes_left = codes[top[0]] <= top[1]
        for node, own in ((1, goes_left), (2, ~goes_left)):
            cut = _best_cut(codes, drawn[node], weights * own, truth, bins, least)
            below = own
            if cut is not None:
                feature[tree, node], threshold[tree, node] = cut[0], low[cut[0]] + step[cut[0]] * (cut[1] + 0.5)
                below = own & (codes[cut[0]] <= cut[1])
            for index, side in ((2 * node - 2, below), (2 * node - 1, own & ~below if cut is not None else own)):
                leaves[index] = 1.0 if (weights * truth)[side].sum() > 0 else -1.0
                answer[side] = leaves[index]
        error = float(weights[answer != truth].sum())
        strength = float(np.clip(0.5 * np.log((1 - error) / max(error, 1e-12)), -5, 5))
        if strength <= 0:
            break
        leaf[tree] = leaves * strength
        margin += answer * strength
    return Trees(feature, threshold, leaf)


def _best_cut(
    codes: npt.NDArray[np.uint8],
    drawn: npt.NDArray[np.int64],
    weights: _Floats,
    truth: _Floats,
    bins: int,
    least: float,
) -> tuple[int, int] | None:
    """Feature and last bin of the left side; None where a node is to be left whole."""
    members = np.flatnonzero(weights)
    whole = weights.sum()
    good = weights[truth > 0].sum()
    if whole < least or not 1e-3 < good / whole < 1 - 1e-3:
        return None
    picked = codes[np.ix_(drawn, members)].astype(np.int64) + bins * np.arange(len(drawn))[:, None]
    signed = np.broadcast_to(weights[members] * truth[members], picked.shape)
    sums = np.bincount(picked.ravel(), signed.ravel(), bins * len(drawn)).reshape(len(drawn), bins).cumsum(1)
    # Wrong where the left side is taken for negative: its positives, and the right side's negatives.
    wrong = (whole - good) + sums[:, :-1]
    error = np.minimum(wrong, whole - wrong)
    which, last = np.unravel_index(int(error.argmin()), error.shape)
    chosen = codes[drawn[which], members]
    if chosen.min() > last or chosen.max() <= last:
        return None
    return int(drawn[which]), int(last)
