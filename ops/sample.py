"""Which references a loss looks at, and seeds of chance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["balanced_sample", "half_hard", "hardest", "seed_of"]


def seed_of(*parts: int) -> int:
    """One 63-bit seed from several numbers that are not negative; neighbours in any of them give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def hardest(losses: Tensor, candidates: Tensor, counts: Tensor) -> Tensor:
    """Choose each row's candidates of largest loss (hard negative mining; SSD, section 2.2).

    Args:
        losses: `[B, N]`.
        candidates: bool `[B, N]`.
        counts: `[B]`, how many at most in each row.

    Returns:
        bool `[B, N]`; which of equal losses is taken is not said, only how many.
    """
    most = min(int(counts.max()), losses.shape[1]) if counts.numel() else 0
    chosen = losses.detach().masked_fill(~candidates, -torch.inf).topk(most, dim=1).indices
    taken = torch.arange(most, device=losses.device) < counts[:, None]
    return candidates & torch.zeros_like(candidates).scatter_(1, chosen, taken)


def balanced_sample(positive: Tensor, negative: Tensor, count: int, positive_share: float) -> tuple[Tensor, Tensor]:
    """Draw positives up to their share of `count`, and negatives for the rest (Fast R-CNN, section 2.3).

    Chance comes from torch's generator of the tensors' device.

    Args:
        positive: bool `[N]`.
        negative: bool `[N]`; what is neither is never drawn.
        count: How many in all, fewer where there are not enough.
        positive_share: Most of `count` that are positives. Where they are too few, negatives take their places.

    Returns:
        Indices of the positives and of the negatives drawn, each in random order.
    """
    positives, negatives = positive.nonzero()[:, 0], negative.nonzero()[:, 0]
    positives = positives[torch.randperm(len(positives), device=positives.device)[: int(count * positive_share)]]
    negatives = negatives[torch.randperm(len(negatives), device=negatives.device)[: count - len(positives)]]
    return positives, negatives


def half_hard(losses: Tensor, candidates: Tensor, count: int, share: float = 0.01) -> Tensor:
    """Choose `count` candidates: half from those of largest loss, half from the rest (DenseBox, section 3.3).

    Where one kind runs short, the other takes its places. Chance comes from torch's generator of the tensors' device.

    Args:
        losses: Any shape.
        candidates: bool, same shape.
        count: How many, fewer where there are not enough.
        share: Of all elements, candidates or not: so many candidates of largest loss are hard.

    Returns:
        bool, same shape.
    """
    flat = losses.detach().flatten().masked_fill(~candidates.flatten(), -torch.inf)
    enters = candidates.flatten()
    ranked = flat.topk(min(round(share * flat.numel()), int(enters.sum()))).indices
    easy = enters.clone()
    easy[ranked] = False
    hard, rest = ranked, easy.nonzero()[:, 0]
    count = min(count, len(hard) + len(rest))
    from_hard = min(max(count // 2, count - len(rest)), len(hard))
    taken = torch.zeros_like(enters)
    for pool, number in ((hard, from_hard), (rest, count - from_hard)):
        taken[pool[torch.randperm(len(pool), device=pool.device)[:number]]] = True
    return taken.reshape(candidates.shape)
