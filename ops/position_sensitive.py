"""Position-sensitive RoI pooling, from Dai, Li, He and Sun, "R-FCN" (NIPS 2016, https://arxiv.org/abs/1605.06409),
section 3: every cell of a region is the mean of a map that is made for this cell alone. With cells that may move, from
Dai et al., "Deformable Convolutional Networks" (ICCV 2017, https://arxiv.org/abs/1703.06211), section 2.2.

torchvision's operator of that name rounds corners to cells of the map and loses the last row and column. The released
code keeps the fractions of a cell, which is what is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import ps_roi_pool as _mean_pool

__all__ = ["deformable_ps_roi_pool", "ps_roi_pool"]


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


def deformable_ps_roi_pool(
    maps: Tensor,
    boxes: Sequence[Tensor],
    size: int,
    stride: int,
    offsets: Tensor | None = None,
    *,
    samples: int = 4,
    reach: float = 0.1,
) -> Tensor:
    """Mean of bilinear samples of each bin, each bin moved by an offset of its own, as MXNet's operator has it.

    The samples of a bin start at its upper left corner. Those more than half a cell outside of the map do not count.

    Args:
        maps: As of `ps_roi_pool`.
        boxes: `[R_i, 4]` of each image, in pixels.
        size: Bins along each side.
        stride: Of the maps, in pixels.
        offsets: `[sum R_i, 2 * G, size, size]`, x before y, of each of G groups of neighbouring output channels; None
            where no bin moves.
        samples: Samples a bin along each side.
        reach: What an offset of 1 is, as a share of the region's width or height.

    Returns:
        float32 `[sum R_i, C, size, size]`, differentiable in `maps` and `offsets`.

    Raises:
        ValueError: The channels are not a multiple of `size * size`, or there are not as many box tensors as images.
    """
    batch, channels, height, width = maps.shape
    if channels % (size * size):
        raise ValueError(f"deformable_ps_roi_pool: {channels} channels are no multiple of {size} x {size} bins")
    if len(boxes) != batch:
        raise ValueError(f"deformable_ps_roi_pool: boxes of {len(boxes)} images for maps of {batch}")
    counts = [len(rows) for rows in boxes]
    if not sum(counts):
        return maps.new_zeros((0, channels // size**2, size, size), dtype=torch.float32)
    # Every image gets as many regions as the fullest; [B, R, G, (x, y), row, column] from here on.
    corners = pad_sequence([_whole(rows) / stride for rows in boxes], batch_first=True)
    start = corners[..., None, :2, None, None] - 0.5
    extent = (corners[..., 2:] - corners[..., :2]).clamp(min=0.1)[..., None, :, None, None]
    rows, columns = torch.meshgrid(*[torch.arange(size, device=maps.device)] * 2, indexing="ij")
    first = start + extent / size * torch.stack([columns, rows])
    if offsets is not None:
        moves = offsets.float().unflatten(1, (-1, 2)).split(counts)
        first = first + reach * extent * pad_sequence(list(moves), batch_first=True)
    groups = first.shape[2]
    steps = torch.arange(samples, device=maps.device) / (size * samples)
    points = first[..., None] + extent[..., None] * steps
    cells = torch.tensor([width, height], device=maps.device).view(2, 1, 1, 1)
    inside = (points >= -0.5) & (points <= cells - 0.5)
    points = points / (cells - 1).clamp(min=1) * 2 - 1

    def over_bins(values: Tensor) -> tuple[Tensor, Tensor]:
        # [B, R, G, 2, row, column, s] to x and y, each [B * G * bins, R, s, s].
        values = values.permute(0, 2, 4, 5, 1, 3, 6).flatten(0, 3)
        shape = (*values.shape[:2], samples, samples)
        return values[:, :, 0, None, :].expand(shape), values[:, :, 1, :, None].expand(shape)

    grid = torch.stack(over_bins(points), -1).flatten(2, 3)
    across, down = over_bins(inside)
    counted = (across & down).flatten(2)[:, None]
    planes = maps.float().view(batch, groups, -1, size**2, height, width).transpose(2, 3).flatten(0, 2)
    values = F.grid_sample(planes, grid, padding_mode="border", align_corners=True)
    means = (values * counted).sum(-1) / counted.sum(-1).clamp(min=1)  # [B * G * bins, C / G, R]
    means = means.view(batch, groups, size, size, -1, means.shape[-1]).permute(0, 5, 1, 4, 2, 3).flatten(2, 3)
    return torch.cat([image[:count] for image, count in zip(means, counts, strict=True)])
