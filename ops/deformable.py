"""Deformable convolution, from Dai, Qi, Xiong, Li, Zhang, Hu and Wei, "Deformable Convolutional Networks" (ICCV 2017,
https://arxiv.org/abs/1703.06211), section 2.1: each tap of the kernel looks where an offset says.

The values are those of torchvision's operator, whose gradient on a CPU takes more than ten times as long.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["deformable_convolution"]


def deformable_convolution(
    x: Tensor, offsets: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """Convolve with taps that move; beyond the map, bilinear samples fade to zeros.

    Args:
        x: float `[B, C, H, W]`.
        offsets: `[B, G * k * k * 2, H', W']` in cells, of each of G groups of neighbouring channels, tap by tap: down,
            then right. `(H', W')` is what a plain convolution gives.
        weight: `[O, C, k, k]`.
        stride: Of the places.
        padding: Of the map, on all sides.
        dilation: Of the taps.

    Returns:
        `[B, O, H', W']`, differentiable in all three.
    """
    batch, channels, height, width = x.shape
    size = weight.shape[-1]
    down, right = offsets.shape[-2:]
    taps = torch.arange(size, device=x.device) * dilation - padding
    rows = taps[:, None, None, None] + torch.arange(down, device=x.device)[:, None] * stride
    columns = taps[:, None, None] + torch.arange(right, device=x.device) * stride
    moves = offsets.float().view(batch, -1, size, size, 2, down, right)
    y = moves[..., 0, :, :] + rows
    across = moves[..., 1, :, :] + columns
    grid = torch.stack([(2 * across + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    grid = grid.flatten(0, 1).flatten(1, 2).flatten(2, 3)  # [B * G, taps, places, 2]
    planes = x.float().reshape(len(grid), -1, height, width)
    sampled = F.grid_sample(planes, grid, align_corners=False)  # [B * G, C / G, taps, places]
    return (weight.flatten(1) @ sampled.view(batch, channels * size**2, -1)).unflatten(2, (down, right))
