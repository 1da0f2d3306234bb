"""Resizing as detectors before deep learning did it: areas that are averaged, triangles that blur, windows cut out.

A side that shrinks is averaged exactly over the pixels, or parts of pixels, that each new pixel covers; a side that
grows is interpolated linearly between pixel centres. P. Felzenszwalb's and P. Dollar's releases both shrink so.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["cut", "resample", "triangle_blur"]


def resample(image: Tensor, size: tuple[int, int]) -> Tensor:
    """`[C, H, W]` to `[C, *size]`, each axis by itself: areas where it shrinks, bilinear where it grows."""
    for axis, side in ((-2, size[0]), (-1, size[1])):
        if side != image.shape[axis]:
            image = (_average if side < image.shape[axis] else _interpolate)(image, side, axis)
    return image


def _average(image: Tensor, side: int, axis: int) -> Tensor:
    old = image.shape[axis]
    # The integral up to a fraction of a pixel is linear in that fraction, so means are differences of integrals.
    total = image.double().cumsum(axis)
    total = torch.cat([torch.zeros_like(total.narrow(axis, 0, 1)), total], axis)
    edges = torch.arange(side + 1, dtype=torch.float64, device=image.device) * (old / side)
    whole = edges.floor().clamp(max=old - 1)
    share = (edges - whole).reshape([-1, 1] if axis == -2 else [-1])
    index = whole.long()
    integral = torch.lerp(total.index_select(axis, index), total.index_select(axis, index + 1), share)
    return (integral.diff(dim=axis) * (side / old)).to(image.dtype)


def _interpolate(image: Tensor, side: int, axis: int) -> Tensor:
    old = image.shape[axis]
    place = (torch.arange(side, dtype=torch.float64, device=image.device) + 0.5) * (old / side) - 0.5
    place = place.clamp(0, old - 1)
    low = place.floor().clamp(max=max(0, old - 2))
    share = (place - low).to(image.dtype).reshape([-1, 1] if axis == -2 else [-1])
    index = low.long()
    high = (index + 1).clamp(max=old - 1)
    return torch.lerp(image.index_select(axis, index), image.index_select(axis, high), share)


def triangle_blur(image: Tensor, radius: int) -> Tensor:
    """`[C, H, W]` convolved with `[1, 2, ..., radius + 1, ..., 2, 1]` along both axes, of sum 1.

    Beyond its edges an image is continued by its mirror image, the outermost pixel included.
    """
    if radius < 1:
        return image
    rise = torch.arange(1, radius + 2, dtype=image.dtype, device=image.device)
    kernel = torch.cat([rise, rise[:-1].flip(0)]) / (radius + 1) ** 2
    for axis in (-2, -1):
        old = image.shape[axis]
        index = torch.arange(-radius, old + radius, device=image.device) % (2 * old)
        padded = image.index_select(axis, torch.where(index < old, index, 2 * old - 1 - index))
        shaped = kernel.reshape((1, 1, -1, 1) if axis == -2 else (1, 1, 1, -1))
        image = F.conv2d(padded[:, None], shaped)[:, 0]
    return image


def cut(image: Tensor, box: tuple[float, float, float, float], size: tuple[int, int]) -> Tensor:
    """What `[C, H, W]` shows within `box` = (x1, y1, x2, y2), resized to `[C, *size]`.

    The box is rounded to pixels, of which it holds at least one; beyond its edges an image repeats its outermost
    pixels.
    """
    x1, y1, x2, y2 = (round(edge) for edge in box)
    rows = torch.arange(y1, max(y1 + 1, y2), device=image.device).clamp(0, image.shape[-2] - 1)
    columns = torch.arange(x1, max(x1 + 1, x2), device=image.device).clamp(0, image.shape[-1] - 1)
    return resample(image.index_select(-2, rows).index_select(-1, columns), size)
