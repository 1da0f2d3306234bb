"""Reference boxes over a grid: anchors, priors, default boxes. All in network pixels, `(x1, y1, x2, y2)`.

Cells run row by row (y outside, x inside) and the shapes of a cell innermost, which is the order in which a head's
`[B, A * k, H, W]`, permuted to `[B, H, W, A * k]`, is flattened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["caffe_shapes", "centred_shapes", "grid_anchors", "prior_shapes", "pyramid_shapes"]


def grid_anchors(shapes: Tensor, map_size: tuple[int, int], step: tuple[float, float], offset: float = 0.5) -> Tensor:
    """Every shape at every cell of a map.

    Args:
        shapes: `[A, 4]`, boxes about the origin.
        map_size: `(H, W)` of the map.
        step: Distance of neighbouring cells in pixels, down and across.
        offset: Where a cell's point lies in it: 0.5 is its middle (SSD), 0 its corner (Faster R-CNN).

    Returns:
        `[H * W * A, 4]`.
    """
    rows = (torch.arange(map_size[0], dtype=shapes.dtype, device=shapes.device) + offset) * step[0]
    columns = (torch.arange(map_size[1], dtype=shapes.dtype, device=shapes.device) + offset) * step[1]
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    points = torch.stack([x, y, x, y], -1)  # [H, W, 4]
    return (points[:, :, None] + shapes).reshape(-1, 4)


def centred_shapes(sizes: Sequence[tuple[float, float]]) -> Tensor:
    """Boxes `[A, 4]` about the origin from `(width, height)` pairs."""
    half = torch.tensor(sizes, dtype=torch.float32).reshape(-1, 2) / 2
    return torch.cat([-half, half], 1)


def prior_shapes(smallest: float, largest: float | None, ratios: Sequence[float]) -> list[tuple[float, float]]:
    """SSD's `(width, height)` of one cell, in the order of Caffe's PriorBox layer.

    A square of side `smallest`; a square of side `sqrt(smallest * largest)` where there is a `largest`; then for each
    ratio a wide box of the first one's area, followed by the same box turned upright (SSD, section 2.2).
    """
    shapes = [(smallest, smallest)]
    if largest is not None:
        side = math.sqrt(smallest * largest)
        shapes.append((side, side))
    for ratio in ratios:
        root = math.sqrt(ratio)
        shapes += [(smallest * root, smallest / root), (smallest / root, smallest * root)]
    return shapes


def caffe_shapes(
    base: int = 16, ratios: Sequence[float] = (0.5, 1.0, 2.0), scales: Sequence[float] = (8.0, 16.0, 32.0)
) -> Tensor:
    """Anchors of the released Faster R-CNN, about the middle of a cell: ratio by ratio, scales within.

    For each ratio the sides of the base box are rounded to whole pixels before they are scaled, so that no anchor but
    the squares is as large as the paper says (184x96 for 128 at 1:2). The released code counts the last pixel in; here
    the right and lower edges are continuous, one more than there.

    Args:
        base: Stride of the map in pixels, the side of the base box.
        ratios: Height over width.
        scales: Side as a multiple of `base`.

    Returns:
        `[ratios * scales, 4]`.
    """
    widths = [round(math.sqrt(base * base / ratio)) for ratio in ratios]
    sides = [(width, round(width * ratio)) for width, ratio in zip(widths, ratios, strict=True)]
    return centred_shapes([(width * scale, height * scale) for width, height in sides for scale in scales])


def pyramid_shapes(
    sizes: Sequence[float], ratios: Sequence[float] = (0.5, 1.0, 2.0), *, rounded: bool = True
) -> Tensor:
    """Anchors of equal area about the corner of a cell: ratio by ratio, sizes within.

    Args:
        sizes: Square root of the area in pixels.
        ratios: Height over width.
        rounded: Round corners to whole pixels, as torchvision does and detectron2 does not.

    Returns:
        `[ratios * sizes, 4]`.
    """
    roots = [math.sqrt(ratio) for ratio in ratios]
    shapes = centred_shapes([(size / root, size * root) for root in roots for size in sizes])
    return shapes.round() if rounded else shapes
