"""What OpenCV does to images of bytes and to lists of rectangles, to the bit, where detectors must agree with it.

Written from its documentation and from what it answers (4.14); `tests/ops/test_opencv.py` compares.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["grey_bytes", "group_rectangles", "resize_bytes"]

_LUMA = (9798, 19235, 3735)
"""Shares of red, green and blue in 32,768ths: 0.299, 0.587, 0.114."""


def grey_bytes(image: Tensor) -> Tensor:
    """RGB `[3, H, W]` in [0, 1] to the bytes of its luma, uint8 `[H, W]` (`cvtColor`, `COLOR_RGB2GRAY`)."""
    if image.is_meta:
        return image[0].byte()
    red, green, blue = (image * 255).round().clamp(0, 255).int()
    return ((_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue + (1 << 14)) >> 15).byte()


def resize_bytes(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bytes `[H, W]` to `size = (H, W)`, bilinearly in 256ths and rounded once (`resize`, `INTER_LINEAR_EXACT`)."""
    if tuple(image.shape) == size:
        return image
    top, bottom, down = _taps(int(image.shape[0]), size[0], image.device)
    left, right, across = _taps(int(image.shape[1]), size[1], image.device)
    levels = image.int()
    rows = levels[:, left] * (256 - across) + levels[:, right] * across
    return ((rows[top] * (256 - down[:, None]) + rows[bottom] * down[:, None] + (1 << 15)) >> 16).byte()


def _taps(before: int, after: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The two pixels that each new one lies between, and the share of the second in 256ths."""
    place = (torch.arange(after, dtype=torch.float64, device=device) + 0.5) * (before / after) - 0.5
    first = place.floor()
    share = ((place - first) * 256).round().int()
    share[(first < 0) | (first >= before - 1)] = 0
    first = first.long().clamp(0, before - 1)
    return first, (first + 1).clamp(max=before - 1), share


def group_rectangles(rectangles: Tensor, least: int, eps: float = 0.2) -> tuple[Tensor, Tensor]:
    """Merge rectangles that are alike into their mean; groups of few, or within a larger one, go (`groupRectangles`).

    Two are alike where all four sides lie within `eps` times half the sum of the smaller width and the smaller height;
    a group is what is linked by such pairs (Viola and Jones, section 4.3, link those that overlap).

    Args:
        rectangles: `(x, y, width, height)` `[N, 4]`. Means of whole numbers are whole, as OpenCV's; of others, exact.
        least: Groups of no more than this go.
        eps: See above.

    Returns:
        Means `[G, 4]`, and int64 `[N]`, to which of them each rectangle belongs, -1 where its group went.
    """
    if not len(rectangles):
        return rectangles, torch.zeros(0, dtype=torch.int64, device=rectangles.device)
    given = rectangles.cpu().numpy().astype(np.float64)
    count, labels = _linked(given, eps)
    sizes = np.bincount(labels, minlength=count)
    means = np.zeros((count, 4))
    np.add.at(means, labels, given)
    # OpenCV multiplies by float32's inverse of the count, and takes halves to the even number.
    share = np.float32(1) / sizes.astype(np.float32)[:, None]
    means = means / sizes[:, None] if rectangles.is_floating_point() else np.rint(means.astype(np.float32) * share)
    kept = np.flatnonzero(sizes > least)
    kept = kept[~_within(means[kept], sizes[kept], eps)]
    place = np.full(count, -1)
    place[kept] = np.arange(len(kept))
    return torch.from_numpy(means[kept]).to(rectangles), torch.from_numpy(place[labels]).to(rectangles.device)


def _linked(given: NDArray[np.float64], eps: float) -> tuple[int, NDArray[np.int64]]:
    """How many groups there are, and which of them each rectangle is in."""
    widths, heights = given[:, 2:].T
    edges = np.concatenate([given[:, :2], given[:, :2] + given[:, 2:]], 1).T
    first, second = [], []
    for start in range(0, len(given), 512):
        own = slice(start, start + 512)
        sides = np.minimum(widths[own, None], widths) + np.minimum(heights[own, None], heights)
        alike = np.ones(sides.shape, dtype=bool)
        for edge in edges:
            alike &= np.abs(edge[own, None] - edge) <= eps * sides * 0.5
        rows, columns = np.nonzero(alike)
        first.append(rows + start)
        second.append(columns)
    rows, columns = np.concatenate(first), np.concatenate(second)
    labels = np.arange(len(given))
    while True:
        lowest = labels.copy()
        np.minimum.at(lowest, rows, labels[columns])
        lowest = lowest[lowest]
        if np.array_equal(lowest, labels):
            break
        labels = lowest
    leaders, labels = np.unique(labels, return_inverse=True)
    return len(leaders), labels


def _within(means: NDArray[np.float64], sizes: NDArray[np.int64], eps: float) -> NDArray[np.bool_]:
    """Which groups lie in another, a little enlarged, that has more members and over three, or have under three."""
    slack = np.rint(means[:, 2:] * eps)
    low, high = means[:, :2] - slack, means[:, :2] + means[:, 2:] + slack
    inside = (means[:, None, :2] >= low[None]).all(-1)
    inside &= (means[:, None, :2] + means[:, None, 2:] <= high[None]).all(-1)
    inside &= (sizes[None] > np.maximum(3, sizes)[:, None]) | (sizes < 3)[:, None]
    np.fill_diagonal(inside, False)
    return np.logical_or.reduce(inside, axis=1)
