"""Normalisation across channels with a learned scale, from Liu, Rabinovich and Berg, "ParseNet: Looking Wider to See
Better" (2015, https://arxiv.org/abs/1506.04579, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["L2Norm"]


class L2Norm(nn.Module):
    """Each position's feature vector at length 1, then times a learned scale a channel.

    Early maps have far larger values than late ones; a head that sees both would drown the late ones.

    Args:
        channels: Of the map.
        scale: Where each channel's scale starts (SSD: 20).
        eps: Added to the squared length (Caffe's Normalize layer).
    """

    def __init__(self, channels: int, scale: float = 20.0, eps: float = 1e-10) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same shape."""
        # In float32: squares of half-precision activations overflow.
        length = (x.float().square().sum(1, keepdim=True) + self.eps).sqrt()
        return (x / length.to(x.dtype)) * self.weight[:, None, None]
