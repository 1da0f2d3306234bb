"""Pyramids of the features of part models, as voc-release5 makes them.

P. Felzenszwalb, R. Girshick, D. McAllester, D. Ramanan, PAMI 2010, section 3: parts are compared with features at twice
the resolution of the root's, which come from the same resized image in cells of half the side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.part_features import TRUNCATION, directed_gradients, part_features
from ops.resample import resample

__all__ = ["PartPyramids"]


class PartPyramids:
    """Makes pyramids, all alike.

    Args:
        cell: Side of a root's cells in pixels.
        interval: Levels an octave.
        extra_octave: Whether they begin with cells of a quarter of the side, not of half.
        largest_scale: What the image is resized by first.
        smallest: No level is made of an image whose shorter side would have fewer pixels; one octave always is.
        padding: Rows and columns of cells beyond the image on each side, in which the truncation feature is 1.
    """

    def __init__(
        self,
        cell: int,
        interval: int,
        *,
        extra_octave: bool,
        largest_scale: float,
        smallest: int,
        padding: tuple[int, int],
    ) -> None:
        self.cell, self.interval, self.extra_octave = cell, interval, extra_octave
        self.largest_scale, self.smallest, self.padding = largest_scale, smallest, padding

    def plan(self, size: tuple[int, int]) -> list[tuple[int, int, int]]:
        """Of each level the height and width of the resized image, and the side of its cells in it, in pixels."""
        height, width = (max(1, round(side * self.largest_scale)) for side in size)
        count = 1 + math.floor(math.log2(min(height, width) / self.smallest) * self.interval)
        sizes = [_smaller((height, width), index / self.interval) for index in range(self.interval)]
        plan = [(*own, self.cell // 4) for own in sizes] if self.extra_octave else []
        plan += [(*own, self.cell // 2) for own in sizes]
        for index in range(max(self.interval, count)):
            if index >= self.interval:
                sizes.append(_smaller(sizes[index - self.interval], 1))
            plan.append((*sizes[index], self.cell))
        return plan

    def __call__(self, image: Tensor) -> tuple[list[Tensor], list[float]]:
        """Features `[32, H, W]` of each level of `[3, H, W]` in [0, 1], and the sides of their cells in its pixels.

        Cells have their nominal sides, as in the release: that resized images have whole pixels does not count. Each
        octave is halved from the one before.
        """
        plan = self.plan((int(image.shape[-2]), int(image.shape[-1])))
        first = resample(image * 255, plan[0][:2])
        images = [resample(first, plan[index][:2]) for index in range(self.interval)]
        gradients = [_gradients(own) for own in images]
        levels, cells = [], []
        for index, (height, width, cell) in enumerate(plan):
            turn = index % self.interval
            if (height, width) != tuple(images[turn].shape[1:]):
                images[turn] = resample(images[turn], (height, width))
                gradients[turn] = _gradients(images[turn])
            levels.append(self._padded(part_features(*gradients[turn], cell)))
            halved = max(0, index // self.interval - (2 if self.extra_octave else 1))
            cells.append(2.0 ** (turn / self.interval + halved) * cell / self.largest_scale)
        return levels, cells

    def _padded(self, features: Tensor) -> Tensor:
        """One cell more than asked for: the image's outermost have no features."""
        rows, columns = (side + 1 for side in self.padding)
        sides = (columns, columns, rows, rows)
        padded = F.pad(features, sides)
        padded[TRUNCATION] = F.pad(torch.zeros_like(features[TRUNCATION]), sides, value=1.0)
        return padded


def _gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    if min(image.shape[1:]) < 3:
        return image.new_zeros((1, 1)), image.new_zeros((1, 1), dtype=torch.int64)
    return directed_gradients(image)


def _smaller(size: tuple[int, int], octaves: float) -> tuple[int, int]:
    height, width = (max(1, math.floor(side * 2.0**-octaves + 0.5)) for side in size)
    return height, width
