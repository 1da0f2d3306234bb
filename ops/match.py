"""Which object each reference box is to find. All functions read a matrix of overlaps `[objects, references]`."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bipartite_match", "multibox_match"]


def bipartite_match(iou: Tensor, least: float = 1e-6) -> Tensor:
    """Pair objects with references one to one, the largest overlap first (SSD, section 2.2; Caffe's MatchBBox).

    No two objects share a reference: who comes second takes its best one among those still free. Of equal overlaps,
    the lower reference goes first, then the lower object.

    Args:
        iou: `[M, N]`.
        least: An object whose best free overlap is not above this gets nothing.

    Returns:
        int64 `[N]`: the object of each reference, or -1.
    """
    objects, references = iou.shape
    matches = torch.full((references,), -1, dtype=torch.int64, device=iou.device)
    if not objects or not references:
        return matches
    free = iou.clone()
    every = torch.arange(objects, device=iou.device)
    # Pairs that are each other's best are what picking the largest one by one would pick too, in any order.
    for _ in range(objects):
        best_value, best = free.max(1)
        mutual = (free.argmax(0)[best] == every) & (best_value > least)
        if not bool(mutual.any()):
            break
        matches[best[mutual]] = every[mutual]
        free[mutual] = -1
        free[:, best[mutual]] = -1
    return matches


def multibox_match(iou: Tensor, threshold: float | None = 0.5) -> Tensor:
    """Bipartite pairs first; then each reference left over takes the object that it overlaps most, if enough (SSD).

    Args:
        iou: `[M, N]`.
        threshold: Least overlap of the second step, inclusive; None leaves that step out.

    Returns:
        int64 `[N]`: the object of each reference, or -1.
    """
    matches = bipartite_match(iou)
    if threshold is None or not iou.shape[0]:
        return matches
    overlap, nearest = iou.max(0)
    return torch.where((matches < 0) & (overlap >= threshold), nearest, matches)
