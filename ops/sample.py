"""Which negatives a loss looks at."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["hardest"]


def hardest(losses: Tensor, candidates: Tensor, counts: Tensor) -> Tensor:
    """Choose each row's candidates of largest loss (hard negative mining; SSD, section 2.2).

    Args:
        losses: `[B, N]`.
        candidates: bool `[B, N]`.
        counts: `[B]`, how many at most in each row.

    Returns:
        bool `[B, N]`; of equal losses the earlier is taken.
    """
    ranked = losses.detach().masked_fill(~candidates, -torch.inf).argsort(1, descending=True, stable=True)
    ranks = torch.empty_like(ranked)
    ranks.scatter_(1, ranked, torch.arange(losses.shape[1], device=losses.device).expand_as(ranked))
    return candidates & (ranks < counts[:, None])
