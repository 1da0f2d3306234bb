"""Masks of objects as small grids over their boxes, there and back.

From He, Gkioxari, Dollár and Girshick, "Mask R-CNN" (ICCV 2017, https://arxiv.org/abs/1703.06870), section 3, with
torchvision's rules for pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

__all__ = ["crop_masks", "paste_masks"]


def crop_masks(masks: Tensor, boxes: Tensor, objects: Tensor, size: int) -> Tensor:
    """The share of each cell of a grid over each box that an object covers.

    Bilinear samples, about one a pixel, are averaged over each cell. As in torchvision, a pixel's value lies at its
    upper left corner there.

    Args:
        masks: bool `[M, H, W]`.
        boxes: `[R, 4]` in pixels of the masks.
        objects: int64 `[R]`, whose mask to look at.
        size: Cells along each side.

    Returns:
        float32 `[R, size, size]`, 0 to 1.
    """
    regions = torch.cat([objects[:, None].to(boxes), boxes], 1)
    return roi_align(masks[:, None].to(boxes), regions, size)[:, 0]


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Lay grids over their boxes in an image; what lies over `threshold` is the object.

    A cell of zeros is put around each grid, and the box grows with it, so that a mask can fade out at its border. The
    grown box is rounded to whole pixels towards 0, and the grid resized to it, its last row and column included.

    Args:
        masks: `[N, m, m]`, 0 to 1.
        boxes: `[N, 4]` in pixels.
        size: `(H, W)` of the image.
        threshold: See above.

    Returns:
        bool `[N, H, W]`.
    """
    height, width = size
    pasted = torch.zeros((len(masks), height, width), dtype=torch.bool, device=masks.device)
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = half * ((masks.shape[-1] + 2) / masks.shape[-1])
    corners = torch.cat([middle - half, middle + half], 1).long().tolist()
    padded = F.pad(masks, (1, 1, 1, 1))[:, None]
    for canvas, grid, (x1, y1, x2, y2) in zip(pasted, padded, corners, strict=True):
        shown = F.interpolate(grid[None], size=(y2 - y1 + 1, x2 - x1 + 1), mode="bilinear")[0, 0]
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2 + 1, width), min(y2 + 1, height)
        if left < right and top < bottom:
            torch.gt(
                shown[top - y1 : bottom - y1, left - x1 : right - x1], threshold, out=canvas[top:bottom, left:right]
            )
    return pasted
