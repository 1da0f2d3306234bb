"""Pyramids of aggregate channel features, most of whose scales are approximated by a power law.

P. Dollar, R. Appel, S. Belongie, P. Perona, "Fast Feature Pyramids for Object Detection" (PAMI 2014), sections 4 and 5,
https://pdollar.github.io/files/papers/DollarPAMI14pyramids.pdf, with the details of the authors' toolbox.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ops.channels import channel_features
from ops.resample import resample, triangle_blur

__all__ = ["ChannelPyramids", "Pyramid"]

_COLOURS = 3


@dataclass(frozen=True)
class Pyramid:
    """The channels of all scales of an image, one below the other in one map.

    Attributes:
        channels: `[10, H, W]`.
        start: int64 `[N]`: where in `channels[0].flatten()` each window begins.
        scale: `[N, 3]`: pixels of the scale per pixel of the image in x, in y, and as it was meant.
        corner: `[N, 2]`: x and y of each window in pixels of its scale, without the padding.
    """

    channels: Tensor
    start: Tensor
    scale: Tensor
    corner: Tensor


class ChannelPyramids:
    """Makes pyramids, all alike.

    Args:
        window: Rows and columns of pixels that a window holds, whole cells.
        inner: Of the object within. The last scale is that at which the image just holds it.
        shrink: Side of a cell in pixels, and the stride of windows.
        per_octave: Scales an octave.
        approximated: Scales between two that are computed.
        octaves_up: Octaves above the image's own scale.
        lambdas: Exponents of the power law for colour, magnitude and orientations.
    """

    def __init__(
        self,
        window: tuple[int, int],
        inner: tuple[int, int],
        shrink: int,
        *,
        per_octave: int,
        approximated: int,
        octaves_up: int,
        lambdas: tuple[float, float, float],
    ) -> None:
        self.inner, self.shrink, self.per_octave = inner, shrink, per_octave
        self.approximated, self.octaves_up, self.lambdas = approximated, octaves_up, lambdas
        self.cells = (window[0] // shrink, window[1] // shrink)
        down, across = (math.ceil((w - o) / shrink / 2) for w, o in zip(window, inner, strict=True))
        self.padding = (down, across)

    def scales(self, size: tuple[int, int]) -> list[float]:
        """Scales of an image `(H, W)`, the largest first, each moved a little so that both sides are whole cells."""
        smallest = [max(side, 4 * self.shrink) for side in self.inner]
        octaves = self.octaves_up + math.log2(min(size[0] / smallest[0], size[1] / smallest[1]))
        short, long = sorted(size)
        found: list[float] = []
        for index in range(math.floor(self.per_octave * octaves + 1)):
            cells = _round(short * 2.0 ** (self.octaves_up - index / self.per_octave) / self.shrink)
            low, high = ((cells + move) * self.shrink / short for move in (-0.25, 0.25))
            tried = np.arange(100) / 100 * (high - low) + low
            sides = (short * tried / self.shrink, long * tried / self.shrink)
            off = [np.abs(side - np.floor(side + 0.5)) for side in sides]
            scale = float(tried[np.maximum(*off).argmin()])
            if found and found[-1] == scale:
                found.pop()
            found.append(scale)
        return found

    def _grids(self, size: tuple[int, int], scales: list[float]) -> list[tuple[int, int]]:
        """Rows and columns of cells at each scale."""
        down, across = ([max(1, _round(side * scale / self.shrink)) for scale in scales] for side in size)
        return list(zip(down, across, strict=True))

    def num_windows(self, size: tuple[int, int]) -> int:
        """Windows over all scales of an image `(H, W)`."""
        total = 0
        for grid in self._grids(size, self.scales(size)):
            down, across = (
                max(0, side + 2 * pad - own + 1) for side, pad, own in zip(grid, self.padding, self.cells, strict=True)
            )
            total += down * across
        return total

    def __call__(self, colours: Tensor) -> Pyramid:
        """The pyramid of `[3, H, W]` of `ops.channels.luv`."""
        size = (int(colours.shape[-2]), int(colours.shape[-1]))
        scales = self.scales(size)
        grids = self._grids(size, scales)
        computed = range(0, len(scales), self.approximated + 1)
        real = {}
        for index in computed:
            down, across = grids[index]
            resized = resample(colours, (down * self.shrink, across * self.shrink))
            if scales[index] == 0.5 and self.approximated:
                colours = resized
            real[index] = channel_features(resized, self.shrink)
        maps = []
        for index, grid in enumerate(grids):
            # Halfway between two computed scales, the larger serves.
            nearest = min(computed, key=lambda own: (abs(own - index), own))
            channels = real[nearest]
            if nearest != index:
                colour, magnitude, orientation = self.lambdas
                power = [colour] * _COLOURS + [magnitude] + [orientation] * (len(channels) - _COLOURS - 1)
                factor = (scales[index] / scales[nearest]) ** -channels.new_tensor(power)
                channels = resample(channels, grid) * factor[:, None, None]
            maps.append(self._padded(triangle_blur(channels, 1)))
        return self._stacked(maps, scales, size, colours)

    def _padded(self, channels: Tensor) -> Tensor:
        """Colours go on beyond the edge; gradients end there."""
        down, across = self.padding
        sides = (across, across, down, down)
        colour = F.pad(channels[None, :_COLOURS], sides, mode="replicate")[0]
        return torch.cat([colour, F.pad(channels[_COLOURS:], sides)])

    def _stacked(self, maps: list[Tensor], scales: list[float], size: tuple[int, int], like: Tensor) -> Pyramid:
        if not maps:
            none = torch.zeros(0, dtype=torch.int64, device=like.device)
            return Pyramid(like.new_zeros((10, 1, 1)), none, like.new_zeros((0, 3)), like.new_zeros((0, 2)))
        width = max(own.shape[2] for own in maps)
        starts, steps, corners, top = [], [], [], 0
        for own, scale in zip(maps, scales, strict=True):
            grid = [max(0, side - window + 1) for side, window in zip(own.shape[1:], self.cells, strict=True)]
            row, column = (torch.arange(side, device=like.device) for side in grid)
            starts.append(((row[:, None] + top) * width + column).flatten())
            place = torch.stack([column.expand(*grid), row[:, None].expand(*grid)], -1).flatten(0, 1)
            corners.append((place - place.new_tensor(self.padding[::-1])).to(like.dtype) * self.shrink)
            real = [_round(side * scale / self.shrink) * self.shrink / side for side in size]
            steps.append(like.new_tensor([[real[1], real[0], scale]]).expand(len(place), 3))
            top += own.shape[1]
        channels = torch.cat([F.pad(own, (0, width - own.shape[2])) for own in maps], 1)
        return Pyramid(channels, torch.cat(starts), torch.cat(steps), torch.cat(corners))


def _round(value: float) -> int:
    """To the nearest, halves upwards."""
    return math.floor(value + 0.5)
