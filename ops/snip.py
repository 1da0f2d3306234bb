"""Objects of a valid range of sizes, and only those, from Bharat Singh and Larry S. Davis, "An Analysis of Scale
Invariance in Object Detection - SNIP" (CVPR 2018, https://arxiv.org/abs/1711.08189).

A network that sees an image in several resolutions learns at each of them only from objects that are there about as
large as those that its backbone was trained on. Objects that are too small or too large at one resolution are neither
right nor wrong there, and are learned from at another.

The size of a box is the square root of its area.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ops.match import BETWEEN

__all__ = ["check_range", "in_range", "regions_in_range", "without_invalid"]


def check_range(valid_range: Sequence[float | None] | None) -> tuple[float, float | None] | None:
    """A range `(least, most)` as the functions below want it; None where it says nothing, of most or of all.

    Raises:
        ValueError: It has not two ends, or they are in the wrong order.
    """
    if valid_range is None:
        return None
    if len(valid_range) != 2:
        raise ValueError(f"a valid range has two ends, the last of which may be None: got {tuple(valid_range)}")
    least, most = valid_range[0] or 0.0, valid_range[1]
    if least < 0 or (most is not None and most <= least):
        raise ValueError(f"a valid range goes from a size to a larger one: got {tuple(valid_range)}")
    return least, most


def in_range(boxes: Tensor, valid_range: tuple[float, float | None]) -> Tensor:
    """bool `[N]`: which of the boxes `[N, 4]` are of a size within the range, both ends included.

    Args:
        boxes: `[N, 4]`.
        valid_range: Least and most size in pixels of the boxes; None for no most.
    """
    least, most = valid_range
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
    valid = size >= least
    return valid if most is None else valid & (size <= most)


def without_invalid(matches: Tensor, overlaps: Tensor, threshold: float = 0.3) -> Tensor:
    """Anchors that overlap an invalid object take no part (section 5.1).

    Args:
        matches: int64 `[N]`, of each anchor among the valid objects; -1 for background.
        overlaps: `[K, N]`, IoU of the anchors with the invalid objects.
        threshold: An anchor with an IoU of more than this becomes `BETWEEN`, whatever it was.
    """
    return torch.where((overlaps > threshold).any(0), BETWEEN, matches)


def regions_in_range(boxes: Tensor, objects: Tensor, found: Tensor, valid_range: tuple[float, float | None]) -> Tensor:
    """bool `[N]`: which regions may be learned from: those of a valid size whose object, if any, is valid too (5.1).

    Labels are given to regions by all objects; then regions and objects out of the range are not chosen.

    Args:
        boxes: `[N, 4]`, the regions.
        objects: int64 `[N]`, the object of each, below 0 for background.
        found: `[M, 4]`, the objects.
        valid_range: See `in_range`.
    """
    valid = in_range(boxes, valid_range)
    if len(found):
        valid &= (objects < 0) | in_range(found, valid_range)[objects.clamp(min=0)]
    return valid
