"""Greedy suppression by the share of a box that a better one covers, as detectors had it before IoU was the rule."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ops.nms import announce

__all__ = ["suppress_covered"]


def suppress_covered(
    boxes: Tensor, scores: Tensor, share: float, *, of: Literal["lower", "smaller"], limit: int | None = None
) -> Tensor:
    """Of two boxes whose intersection is more than `share` of one of them, the lower-scoring goes, the surest first.

    Args:
        boxes: `[N, 4]`.
        scores: `[N]`.
        share: See above.
        of: Whose area the intersection is divided by: that of the `lower`-scoring box (voc-release5), or that of the
            `smaller` one (P. Dollar's toolbox).
        limit: Most boxes; None keeps all.

    Returns:
        Indices `[K]` of the boxes that stay, the surest first.
    """
    announce(boxes, scores, None)
    order = scores.argsort(descending=True, stable=True)
    # Rounds are many and their arrays small: there the cost of a call counts, and NumPy's calls cost less.
    left, top, right, bottom = boxes[order].detach().cpu().numpy().T
    areas = (right - left) * (bottom - top)
    rest, kept = np.arange(len(order)), list[int]()
    while len(rest) and (limit is None or len(kept) < limit):
        first, rest = int(rest[0]), rest[1:]
        kept.append(first)
        across = np.minimum(right[rest], right[first]) - np.maximum(left[rest], left[first])
        down = np.minimum(bottom[rest], bottom[first]) - np.maximum(top[rest], top[first])
        area = areas[rest] if of == "lower" else np.minimum(areas[rest], areas[first])
        rest = rest[across.clip(min=0) * down.clip(min=0) <= share * area]
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]
