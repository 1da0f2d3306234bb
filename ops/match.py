"""Which object each reference box is to find. Functions read a matrix `[objects, references]`: overlaps or costs."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BETWEEN", "bipartite_match", "multibox_match", "optimal_match", "threshold_match"]

BETWEEN = -2
"""What `threshold_match` says of a reference that overlaps too much for a negative and too little for a positive."""


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
        mutual = (free[:, best].argmax(0) == every) & (best_value > least)
        if not bool(mutual.any()):
            break
        matches[best[mutual]] = every[mutual]
        free[mutual] = -1
        free[:, best[mutual]] = -1
    return matches


def optimal_match(cost: Tensor) -> Tensor:
    """Pair objects with references one to one so that the sum of costs is least (the Hungarian method).

    Args:
        cost: `[M, N]`, finite; lower is better. With more objects than references, some objects get none.

    Returns:
        int64 `[N]`: the object of each reference, or -1.

    Raises:
        ValueError: A cost is not finite.
    """
    from scipy.optimize import linear_sum_assignment

    if not torch.isfinite(cost).all():
        raise ValueError("optimal_match: a cost is not finite; look for diverged predictions or boxes")
    matches = torch.full((cost.shape[1],), -1, dtype=torch.int64)
    objects, references = linear_sum_assignment(cost.detach().cpu().double().numpy())
    matches[torch.from_numpy(references)] = torch.from_numpy(objects)
    return matches.to(cost.device)


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


def threshold_match(iou: Tensor, low: float, high: float, *, rescue: bool = False) -> Tensor:
    """Each reference takes the object that it overlaps most, if enough (Faster R-CNN, section 3.1.2).

    Args:
        iou: `[M, N]`.
        low: A reference whose largest overlap is less is background.
        high: Least overlap of a match, inclusive.
        rescue: Also match the references that overlap some object most of all references, ties included, however
            little. Such a reference takes the object that *it* overlaps most, which need not be the one that rescued
            it: so do the released code and torchvision. An object that no reference overlaps rescues none.

    Returns:
        int64 `[N]`: the object of each reference, -1 for background, or `BETWEEN`.
    """
    if not iou.shape[0]:
        return torch.full(iou.shape[1:], -1, dtype=torch.int64, device=iou.device)
    overlap, nearest = iou.max(0)
    matches = torch.where(overlap < low, -1, torch.where(overlap < high, BETWEEN, nearest))
    if rescue and iou.shape[1]:
        most = iou.amax(1, keepdim=True)
        matches = torch.where(((iou == most) & (most > 0)).any(0), nearest, matches)
    return matches
