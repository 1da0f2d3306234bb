"""RoIAlign, from He, Gkioxari, Dollár, Girshick, "Mask R-CNN" (ICCV 2017, section 3, https://arxiv.org/abs/1703.06870).

Values are torchvision's. Its gradient on a CPU works out the same weights anew for each channel, and takes a third of a
training step where all regions are pooled from one map. The weights of a sample are those of its row times those of its
column, so that the gradient of a map is two dense matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align as _values

__all__ = ["as_regions", "roi_align"]

_DENSE = 8_192
"""Up to so many pixels of a map the products beat torchvision's loop; they grow with the map, the loop does not."""


def as_regions(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes `[R_i, 4]` of each image to `[sum R_i, 5]`, the index of the image first."""
    images = [torch.full_like(rows[:, :1], index) for index, rows in enumerate(boxes)]
    return torch.cat([torch.cat(images), torch.cat(list(boxes))], 1)


def roi_align(
    maps: Tensor, regions: Tensor, size: int, scale: float, sampling: int = 2, aligned: bool = False
) -> Tensor:
    """Mean of bilinear samples in each cell of each region.

    Args:
        maps: `[B, C, H, W]`.
        regions: `[R, 5]`: index of the image, and `(x1, y1, x2, y2)` in its pixels; see `as_regions`.
        size: Cells along each side.
        scale: Map pixels per image pixel.
        sampling: Samples a cell along each side; 0 for as many as there are map pixels in it.
        aligned: A cell's value lies in its middle, instead of in its corner: half a pixel apart.

    Returns:
        `[R, C, size, size]` in the type of `maps`.
    """
    dense = sampling > 0 and maps.device.type == "cpu" and maps.shape[2] * maps.shape[3] <= _DENSE
    if maps.requires_grad and dense:
        # As torchvision does under autocast.
        pooled: Tensor = _Align.apply(maps.float(), regions.float(), size, scale, sampling, aligned)
        return pooled.to(maps.dtype)
    return _values(maps, regions, size, scale, sampling, aligned)


class _Align(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, regions: Tensor, size: int, scale: float, sampling: int, aligned: bool
    ) -> Tensor:
        ctx.save_for_backward(regions)
        ctx.shape, ctx.settings = maps.shape, (size, scale, sampling, aligned)
        return _values(maps, regions, size, scale, sampling, aligned)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (regions,) = ctx.saved_tensors
        _, channels, height, width = ctx.shape
        x1, y1, x2, y2 = regions[:, 1:].unbind(1)
        rows, columns = _weights(y1, y2, height, *ctx.settings), _weights(x1, x2, width, *ctx.settings)
        answer = grad.new_zeros(ctx.shape)
        cells = grad.transpose(1, 2)
        for index in regions[:, 0].unique().tolist():
            own = (regions[:, 0] == index).nonzero()[:, 0]
            # [r, cells down, channels, cells across] by [r, cells across, width], then all rows of cells at once.
            spread = cells[own].flatten(1, 2) @ columns[own]
            spread = rows[own].flatten(0, 1).T @ spread.reshape(-1, channels * width)
            answer[int(index)] = spread.unflatten(1, (channels, width)).transpose(0, 1)
        return answer, None, None, None, None, None


def _weights(start: Tensor, end: Tensor, side: int, size: int, scale: float, sampling: int, aligned: bool) -> Tensor:
    """What each of `side` map pixels adds to each cell along one side of the regions: `[R, size, side]`."""
    start, end = (edge * scale - (0.5 if aligned else 0.0) for edge in (start, end))
    length = end - start if aligned else (end - start).clamp(min=1.0)
    steps = (torch.arange(size * sampling, dtype=start.dtype) + 0.5) / (size * sampling)
    at = start[:, None] + length[:, None] * steps
    inside = (at >= -1) & (at <= side)
    distance = at.clamp(0, side - 1)[:, :, None] - torch.arange(side, dtype=start.dtype)
    tent = (1 - distance.abs()).clamp(min=0) * inside[:, :, None]
    return tent.unflatten(1, (size, sampling)).mean(2)
