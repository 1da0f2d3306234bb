"""RoI pooling of rectangular rings: a rectangle less another inside it (Gidaris, Komodakis, ICCV 2015, section 3).

https://arxiv.org/abs/1505.01749
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ring_pool"]


def ring_pool(
    x: Tensor, outer: list[Tensor], inner: list[Tensor], size: int, scale: float, *, most: int = 2**23
) -> Tensor:
    """RoI pooling of rectangular rings: cells as `roi_pool` has them, without the pixels inside the inner rectangle.

    Args:
        x: Maps `[B, C, H, W]`.
        outer: `[R_i, 4]` of each image, in its pixels.
        inner: `[R_i, 4]` likewise; pixels strictly between its rounded edges are left out.
        size: Cells along each side.
        scale: Map pixels per image pixel.
        most: Numbers that are looked at at once.

    Returns:
        `[sum R_i, C, size, size]`; a cell in which nothing is left is 0.
    """
    channels, height, width = x.shape[1:]
    around, edges = torch.cat(outer), _round(torch.cat(inner) * scale)
    image = torch.cat([torch.full_like(rows[:, 0], index, dtype=torch.int64) for index, rows in enumerate(outer)])
    top, high = _bins(around[:, 1] * scale, around[:, 3] * scale, size, height)
    left, wide = _bins(around[:, 0] * scale, around[:, 2] * scale, size, width)
    pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
    pooled = x.new_zeros((len(around), size, size, channels))
    # Regions of much the same size together: all cells of a group are laid out as its largest is.
    longest = torch.maximum(high.amax(1), wide.amax(1)) if len(around) else image
    # Which pixel was largest is asked by the gradient alone.
    learns = torch.is_grad_enabled() and x.requires_grad
    for sides in longest.unique().tolist():
        if not sides:
            continue
        group = (longest == sides).nonzero()[:, 0]
        for rows in group.split(max(1, most // max(1, sides**2 * size**2 * channels))):
            step = torch.arange(sides, device=x.device)
            down, across = top[rows, :, None] + step, left[rows, :, None] + step
            edge = edges[rows, :, None, None]
            off = (down <= edge[:, 1]) | (down >= edge[:, 3]), (across <= edge[:, 0]) | (across >= edge[:, 2])
            real = step < high[rows, :, None], step < wide[rows, :, None]
            # Pixels of each cell: [rows, size, size, sides, sides].
            valid = real[0][:, :, None, :, None] & real[1][:, None, :, None, :]
            valid = (valid & (off[0][:, :, None, :, None] | off[1][:, None, :, None, :])).flatten(3)
            lines = image[rows, None, None] * height + down.clamp(max=height - 1)
            place = (lines[:, :, None, :, None] * width + across.clamp(max=width - 1)[:, None, :, None, :]).flatten(3)
            with torch.no_grad():
                # Pixel by pixel of all cells: an argmax that keeps whole rows of channels together.
                most_yet = x.new_full((*valid.shape[:3], channels), -torch.inf)
                best = torch.zeros_like(most_yet, dtype=torch.int64) if learns else most_yet
                for where, counts in zip(place.unbind(3), valid.unbind(3), strict=True):
                    value = pixels[where].masked_fill_(~counts[..., None], -torch.inf)
                    if learns:
                        best = torch.where(value > most_yet, where[..., None], best)
                    most_yet = torch.maximum(most_yet, value)
            found = pixels.gather(0, best.flatten(0, 2)).view(best.shape) if learns else most_yet
            found = torch.where(valid.any(3, keepdim=True), found, 0)
            pooled = pooled.index_add(0, rows, found)
    return pooled.permute(0, 3, 1, 2)


def _round(x: Tensor) -> Tensor:
    """Halves away from zero, as in C."""
    return (x.abs() + 0.5).floor().copysign(x).long()


def _bins(first: Tensor, last: Tensor, size: int, border: int) -> tuple[Tensor, Tensor]:
    """First pixel of each cell along one side, and how many there are, both `[R, size]`."""
    start, end = _round(first), _round(last)
    step = (end - start + 1).clamp(min=1)[:, None] / size
    cell = torch.arange(size, device=first.device)
    low = ((cell * step).floor().long() + start[:, None]).clamp(0, border)
    high = (((cell + 1) * step).ceil().long() + start[:, None]).clamp(0, border)
    return low, high - low
