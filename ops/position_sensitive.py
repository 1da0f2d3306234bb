"""Position-sensitive RoI pooling, from Dai, Li, He and Sun, "R-FCN" (NIPS 2016, https://arxiv.org/abs/1605.06409),
section 3: every cell of a region is the mean of a map that is made for this cell alone.

torchvision's operator of that name rounds corners to cells of the map and loses the last row and column. The released
code keeps the fractions of a cell, which is what is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import ps_roi_pool as _mean_pool

__all__ = ["ps_roi_pool"]


def _whole(boxes: Tensor) -> Tensor:
    # C's round(): halves go up, where torch.round takes them to the even neighbour.
    return torch.floor(boxes.float() + 0.5)


def _image_of(boxes: Sequence[Tensor]) -> Tensor:
    counts = torch.tensor([len(rows) for rows in boxes], device=boxes[0].device)
    return torch.arange(len(boxes), device=boxes[0].device).repeat_interleave(
        counts, output_size=sum(len(rows) for rows in boxes)
    )


def _edges(corners: Tensor, size: int, stride: int, cells: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """First row or column of each bin and the one behind its last, `[R, 2, size]` (x, then y), cut at the map.

    Whole numbers throughout, in tenths of `stride * size` parts of a pixel: no rounding error adds a row.
    """
    start = corners[:, :2]
    extent = (10 * (corners[:, 2:] - start)).clamp(min=stride)  # at least a tenth of a cell
    lower = 10 * size * start[..., None] + extent[..., None] * torch.arange(size, device=corners.device)
    unit = 10 * size * stride
    border = torch.tensor(cells[::-1], device=corners.device)[:, None]
    low = torch.div(lower, unit, rounding_mode="floor")
    high = -torch.div(-lower - extent[..., None], unit, rounding_mode="floor")
    return torch.minimum(low.clamp(min=0), border), torch.minimum(high.clamp(min=0), border)


def ps_roi_pool(maps: Tensor, boxes: Sequence[Tensor], size: int, stride: int) -> Tensor:
    """Mean of each bin of each region, from the bin's own map (R-FCN, equation 1), as Caffe's layer has it.

    Corners are rounded to whole pixels; a bin is every cell of the map that it touches; a bin outside the map is 0.
    The released code counts the last pixel of a box in, and adds one to it: that is the same as continuous corners.

    Args:
        maps: float `[B, C * size * size, H, W]`; channel `(c * size + row) * size + column` belongs to that bin of c.
        boxes: `[R_i, 4]` of each image, in pixels.
        size: Bins along each side.
        stride: Of the maps, in pixels.

    Returns:
        float32 `[sum R_i, C, size, size]`, differentiable in `maps`.

    Raises:
        ValueError: The channels are not a multiple of `size * size`, or there are not as many box tensors as images.
    """
    batch, channels, height, width = maps.shape
    bins = size * size
    if channels % bins:
        raise ValueError(f"ps_roi_pool: {channels} channels are no multiple of {size} x {size} bins")
    if len(boxes) != batch:
        raise ValueError(f"ps_roi_pool: boxes of {len(boxes)} images for maps of {batch}")
    low, high = _edges(_whole(torch.cat(list(boxes))).long(), size, stride, (height, width))
    count, groups = len(low), channels // bins
    shape = (count, size, size)
    x1, x2 = (side[:, 0, None, :].expand(shape) for side in (low, high))
    y1, y2 = (side[:, 1, :, None].expand(shape) for side in (low, high))
    plane = (_image_of(boxes)[:, None] * bins + torch.arange(bins, device=maps.device)).view(shape)
    windows = torch.stack([plane, x1, y1, x2, y2], -1).view(-1, 5)
    # A bin becomes a region of its own with whole corners, of which torchvision's operator takes the plain mean. The
    # additional row and column are those that it never reads.
    planes = F.pad(maps.float().unflatten(1, (groups, bins)).transpose(1, 2), (0, 1, 0, 1)).flatten(0, 1)
    means = _mean_pool(planes, windows.to(planes.dtype), 1).view(count, bins, groups).transpose(1, 2)
    full = ((x2 > x1) & (y2 > y1))[:, None]
    return means.unflatten(2, (size, size)) * full
