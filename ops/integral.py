"""Integral images, and the features of boosted cascades that are read from them: Haar's and block binary patterns.

P. Viola, M. Jones, "Rapid object detection using a boosted cascade of simple features", CVPR 2001, section 2: once the
sums above and left of every pixel are known, the sum over any rectangle takes four look-ups. R. Lienhart, J. Maydt, "An
extended set of Haar-like features", ICIP 2002: likewise for rectangles turned by 45 degrees. L. Zhang and others, "Face
detection based on multi-block LBP representation", ICB 2007: binary patterns of such sums.

A rectangle is `(x, y, width, height)` in pixels of a window.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["corners", "haar_features", "integral_image", "pattern_codes", "pattern_features", "tilted_integral_image"]

_HAAR: tuple[tuple[int, int, tuple[tuple[int, int, int, int, int], ...]], ...] = (
    (2, 1, ((0, 0, 2, 1, -1), (1, 0, 1, 1, 2))),
    (1, 2, ((0, 0, 1, 2, -1), (0, 1, 1, 1, 2))),
    (3, 1, ((0, 0, 3, 1, -1), (1, 0, 1, 1, 3))),
    (1, 3, ((0, 0, 1, 3, -1), (0, 1, 1, 1, 3))),
    (2, 2, ((0, 0, 2, 2, -1), (0, 0, 1, 1, 2), (1, 1, 1, 1, 2))),
)
"""Columns and rows of cells of each kind; its rectangles in cells, each with its weight."""

# The eight neighbours of the middle cell, clockwise from the top left; numbers are rows of three.
_CLOCKWISE = (0, 1, 2, 5, 8, 7, 6, 3)
_MIDDLE = 4


def integral_image(values: Tensor, dtype: torch.dtype = torch.int32) -> Tensor:
    """`[..., H, W]` to `[..., H + 1, W + 1]`: at `(y, x)` the sum of all values above and left of it (section 2.1).

    Args:
        values: Whole numbers.
        dtype: Of the sums. 32 bits hold those of the bytes of 8 million pixels.
    """
    return F.pad(values.cumsum(-1, dtype=dtype).cumsum(-2, dtype=dtype), (1, 0, 1, 0))


def tilted_integral_image(values: Tensor) -> Tensor:
    """`[H, W]` to int32 `[H + 1, W + 1]`: at `(y, x)` the sum over the right angle that opens upwards from there.

    The pixel `(j, i)` belongs to it where `j < y` and `|i - x + 1| <= y - j - 1` (Lienhart and Maydt, section 2.2).
    """
    height, width = values.shape
    # What the angle sees beyond the image's sides is 0, as far as it opens.
    wide = F.pad(values.int(), (height + 1, height + 1))
    rows = [torch.zeros_like(wide[0]), wide[0]] if height else [torch.zeros_like(wide[0])]
    for y in range(2, height + 1):
        above = F.pad(rows[-1], (1, 1))
        rows.append(above[:-2] + above[2:] - rows[-2] + wide[y - 1] + wide[y - 2])
    return torch.stack(rows)[:, height : height + 1 + width]


def corners(rectangles: Tensor, stride: int, tilted: Tensor | None = None) -> Tensor:
    """Where the four look-ups of rectangles lie, from their window's first pixel: `[..., 4]` to int64 `[..., 4]`.

    The sum over a rectangle is the first look-up less the second and third plus the fourth, in an integral image whose
    rows are `stride` apart. A tilted rectangle begins at its uppermost corner and runs `width` down to the right and
    `height` down to the left.

    Args:
        rectangles: `(x, y, width, height)`.
        stride: Columns of the integral image, one more than the image's.
        tilted: Which rectangles are; None for none. Their look-ups are in the tilted integral image.
    """
    x, y, width, height = rectangles.long().unbind(-1)
    start = x + stride * y
    upright = torch.stack([start, start + width, start + stride * height, start + width + stride * height], -1)
    if tilted is None:
        return upright
    left, right = start + (stride - 1) * height, start + (stride + 1) * width
    turned = torch.stack([start, left, right, right + (stride - 1) * height], -1)
    return torch.where(tilted[..., None], turned, upright)


def haar_features(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Every feature of two, three and four rectangles in a window (section 2): 162,336 in one of 24 x 24.

    Each is written with at most three rectangles whose weights times areas add up to 0, so that uniform ground answers
    with 0: all its cells weigh -1, and on top of that the white ones 2, or 3 where they are one of three.

    Returns:
        Rectangles uint8 `[F, 3, 4]`, and their weights float32 `[F, 3]`. A third rectangle that is not needed has no
        area and no weight.
    """
    found, weights = [], []
    for columns, rows, parts in _HAAR:
        places = _places(height, width, columns, rows)
        x, y, w, h = places.unbind(1)
        rectangles = places.new_zeros((len(places), 3, 4))
        weight = torch.zeros((len(places), 3))
        for index, (left, top, across, down, value) in enumerate(parts):
            rectangles[:, index] = torch.stack([x + left * w, y + top * h, across * w, down * h], 1)
            weight[:, index] = value
        found.append(rectangles)
        weights.append(weight)
    return torch.cat(found).byte(), torch.cat(weights)


def pattern_features(height: int, width: int) -> Tensor:
    """Every grid of 3 x 3 equal cells in a window: uint8 `[F, 4]`, of the first cell; 8,464 in 24 x 24."""
    return _places(height, width, 3, 3).byte()


def pattern_codes(cells: Tensor) -> Tensor:
    """Sums of the nine cells, row by row `[..., 9]`, to int64 codes `[...]` from 0 to 255.

    A bit is set where a neighbour is at least the middle; the first, of value 128, is the top left's, then clockwise.
    """
    bits = (cells[..., list(_CLOCKWISE)] >= cells[..., _MIDDLE, None]).long()
    return (bits << torch.arange(7, -1, -1, device=cells.device)).sum(-1)


def _places(height: int, width: int, columns: int, rows: int) -> Tensor:
    """`(x, y, w, h)` of the first of `columns` x `rows` cells of w x h, for all that fit; int64 `[n, 4]`."""
    across = [(x, w) for w in range(1, width // columns + 1) for x in range(width - columns * w + 1)]
    down = [(y, h) for h in range(1, height // rows + 1) for y in range(height - rows * h + 1)]
    if not across or not down:
        return torch.zeros((0, 4), dtype=torch.int64)
    x, w = torch.tensor(across).T[:, None].expand(2, len(down), -1).flatten(1)
    y, h = torch.tensor(down).T[:, :, None].expand(2, -1, len(across)).flatten(1)
    return torch.stack([x, y, w, h], 1)
