"""Windows of one size over every scale of an image, as boosted cascades look at them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ops.opencv import grey_bytes, resize_bytes

__all__ = ["Level", "Pyramid", "visited"]


@dataclass(frozen=True)
class Level:
    """An image in one scale.

    Attributes:
        scale: Pixels of the image per pixel of the level.
        pixels: Its bytes, `[h, w]`.
        step: Pixels from one window to the next.
        grid: Rows and columns of windows; those of a class may end before the last.
    """

    scale: float
    pixels: Tensor
    step: int
    grid: tuple[int, int]

    def places(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Which windows of each class fit, `[C, n]`, and what they cover in pixels of the image, float32 `[C, n, 4]`.

        Args:
            windows: Rows and columns of each class's, `[C, 2]`.
        """
        y, x = (self.step * torch.arange(side, device=windows.device) for side in self.grid)
        y, x = (place.flatten() for place in torch.meshgrid(y, x, indexing="ij"))
        height, width = self.pixels.shape
        sides = windows[:, None]
        fits = (y + sides[..., 0] <= height) & (x + sides[..., 1] <= width)
        corner = torch.stack([x, y], -1).expand(len(windows), -1, -1)
        rectangles = torch.cat([corner, sides.flip(-1).expand_as(corner)], -1).float()
        return fits, rectangles * self.scale

    def starts(self, windows: Tensor, columns: int) -> Tensor:
        """Where windows, by number, begin in an integral image of so many columns."""
        return self.step * (windows // self.grid[1] * columns + windows % self.grid[1])


@dataclass(frozen=True)
class Pyramid:
    """Which scales are looked at, and where.

    Attributes:
        largest: First scale; 2 finds objects of half the window's size.
        step: From one scale to the next.
        smallest: Windows whose sides are less, in pixels of the image, are left out.
        stride: Pixels of a scale from one window to the next.
        opencv: Two pixels in scales whose pixels are less than two of the image's, and one in others.
    """

    largest: float = 1.0
    step: float = 1.25
    smallest: int = 0
    stride: int = 1
    opencv: bool = False

    def stride_at(self, scale: float) -> int:
        """Pixels from one window to the next, where a pixel is `scale` of the image's."""
        return (2 if scale < 2 else 1) if self.opencv else self.stride

    def scales(self, size: tuple[int, int], windows: list[tuple[int, int]]) -> Iterator[tuple[float, tuple[int, int]]]:
        """Pixels of the image per pixel, and `(H, W)`, of each scale of an image, the largest first.

        Both are rounded as OpenCV rounds them, to float32 and to even.

        Args:
            size: `(H, W)` of the image.
            windows: Rows and columns; a scale is used as long as one of them fits into the image.
        """
        factor = 1.0 / self.largest
        while True:
            scale = np.float32(factor)
            sides = np.rint(np.array(windows, dtype=np.float32) * scale)
            fits = (sides <= size).all(1)
            if not fits.any():
                return
            if (fits & (sides >= self.smallest).all(1)).any():
                height, width = (int(np.rint(np.float32(side) / scale)) for side in size)
                yield float(scale), (height, width)
            factor *= self.step

    def levels(self, image: Tensor, windows: list[tuple[int, int]]) -> Iterator[Level]:
        """The scales of `[3, H, W]` into which a window fits, the largest first."""
        grey = grey_bytes(image)
        least = (min(rows for rows, _ in windows), min(columns for _, columns in windows))
        stripes = None
        for scale, size in self.scales((int(grey.shape[0]), int(grey.shape[1])), windows):
            step = self.stride_at(scale)
            stripes = stripes or -(-(size[1] - least[1] + 1) // 32)
            down, across = self._grid(size, least, step, stripes)
            if down > 0 and across > 0:
                yield Level(scale, resize_bytes(grey, size), step, (down, across))

    def count(self, size: tuple[int, int], windows: list[tuple[int, int]]) -> int:
        """Windows of an image `(H, W)`, over all scales."""
        total = 0
        for own in windows:
            stripes = None
            for scale, level in self.scales(size, windows):
                stripes = stripes or -(-(level[1] - own[1] + 1) // 32)
                down, across = self._grid(level, own, self.stride_at(scale), stripes)
                total += max(0, down) * max(0, across)
        return total

    def _grid(self, size: tuple[int, int], window: tuple[int, int], step: int, stripes: int) -> tuple[int, int]:
        """Rows and columns of windows in a level `(H, W)`.

        OpenCV shares the rows of every scale among as many stripes as the first scale's width asks for. Where the rows
        are odd in number, and every second is looked at, rounding may leave the last out.
        """
        down, across = ((side - own) // step + 1 for side, own in zip(size, window, strict=True))
        if self.opencv and stripes > 0:
            down = min(down, stripes * max(-(-((size[0] - window[0] + 1) // step) // stripes), 1))
        return down, across


def visited(rejected: Tensor, columns: int) -> Tensor:
    """Which windows OpenCV looks at, row by row: not the one after a window that the first stage rejected.

    Args:
        rejected: bool `[n]`, which windows it would reject.
        columns: Windows of a row.
    """
    rows = rejected.reshape(-1, columns)
    place = torch.arange(columns, device=rows.device)
    last_kept = torch.where(rows, -1, place).cummax(1).values
    # Of a run of rejected windows every second is looked at, the first at any rate.
    looked = torch.ones_like(rows)
    looked[:, 1:] = (place - last_kept)[:, :-1] % 2 == 0
    return looked.flatten()
