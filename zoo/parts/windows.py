"""Sliding windows as examples: what a detector without gradient learns from, its own mistakes above all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from ops.structures import Target

__all__ = ["Examples", "Scan"]


class Examples:
    """Descriptors `[n, D]` that are gathered until there are `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit, self.count = limit, 0
        self.parts: list[Tensor] = []

    @property
    def wanted(self) -> bool:
        """Whether there are too few yet."""
        return self.count < self.limit

    def add(self, descriptors: Tensor) -> None:
        """Keep those of `[n, D]` that there is room for."""
        self.parts.append(descriptors[: self.limit - self.count])
        self.count += len(self.parts[-1])


@dataclass(frozen=True)
class Scan:
    """Every window of one image. Windows are numbered level by level, then row by row, alike for all classes.

    Attributes:
        blocks: Features `[D, Y, X]` of each level.
        grids: Rows and columns of windows of each level, as they are numbered.
        boxes: `[C, N, 4]`.
        margins: `[C, N]`; minus infinity for windows that do not fit.
        target: The image's objects.
        windows: Rows and columns of cells, by class.
    """

    blocks: list[Tensor]
    grids: list[tuple[int, int]]
    boxes: Tensor
    margins: Tensor
    target: Target
    windows: list[tuple[int, int]]

    def holding(self, label: int, iou: float) -> Tensor:
        """For each object the two windows that overlap it best, if by at least `iou`."""
        objects = self.target.boxes[(self.target.labels == label) & ~self.target.ignore]
        overlap = box_iou(self.boxes[label], objects) * self.margins[label].isfinite()[:, None]
        best = overlap.topk(min(2, len(overlap)), dim=0)
        return best.indices[best.values >= iou].unique()

    def free(self, label: int, iou: float) -> Tensor:
        """Windows that overlap each object of the class, ignored ones too, by less than `iou`."""
        objects = self.target.boxes[self.target.labels == label]
        overlap = box_iou(self.boxes[label], objects)
        return torch.nonzero(self.margins[label].isfinite() & (overlap < iou).all(1)).flatten()

    def take(self, label: int, windows: Tensor) -> Tensor:
        """Descriptors `[n, D]`."""
        rows, columns = (side - 1 for side in self.windows[label])
        starts = np.cumsum([0] + [down * across for down, across in self.grids])
        found = [self.blocks[0].new_zeros((0, len(self.blocks[0]) * rows * columns))]
        for window in windows.tolist():
            level = int(np.searchsorted(starts, window, side="right")) - 1
            y, x = divmod(window - int(starts[level]), self.grids[level][1])
            found.append(self.blocks[level][:, y : y + rows, x : x + columns].reshape(1, -1))
        return torch.cat(found)
