"""Darknet's reorg layer (YOLOv2, section 2, "Fine-Grained Features"): a finer map folded to the size of a coarser one.

What the released code does is neither space-to-depth nor its inverse of the same shape: it cuts the channels as if the
map were already folded, so that pixels of different channels meet in one. Networks learn around it; released weights
need it as it is.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["reorg"]


def reorg(x: Tensor, stride: int = 2) -> Tensor:
    """`[B, C, H, W]` to `[B, C s^2, H / s, W / s]`, in Darknet's order.

    The numbers of an image, read on as `[C / s^2, H, s, W, s]`, with both axes of length s brought to the front.

    Raises:
        ValueError: The channels are no multiple of `stride^2`, or a side is none of `stride`.
    """
    batch, channels, height, width = x.shape
    if channels % stride**2 or height % stride or width % stride:
        raise ValueError(
            f"reorg by {stride}: {channels} channels of {height}x{width} must be multiples of {stride**2} and {stride}"
        )
    cut = x.reshape(batch, channels // stride**2, height, stride, width, stride)
    return cut.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * stride**2, height // stride, width // stride)
