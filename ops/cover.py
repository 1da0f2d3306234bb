"""Greedy suppression by the share of a box that a better one covers, as detectors had it before IoU was the rule."""

from __future__ import annotations

from typing import Literal

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
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[Tensor] = []
    while len(order) and (limit is None or len(kept) < limit):
        first, order = order[0], order[1:]
        kept.append(first)
        ours, others = boxes[first], boxes[order]
        sides = torch.minimum(others[:, 2:], ours[2:]) - torch.maximum(others[:, :2], ours[:2])
        area = areas[order] if of == "lower" else torch.minimum(areas[order], areas[first])
        order = order[sides.clamp(min=0).prod(1) <= share * area]
    return torch.stack(kept) if kept else order[:0]
