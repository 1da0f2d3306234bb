"""Sliding windows as examples: what a detector without gradient learns from, its own mistakes above all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from ops.structures import Target

__all__ = ["Examples", "Scan", "median_aspects"]


def median_aspects(targets: list[Target], num_classes: int) -> list[float]:
    """The median of width over height of each class's objects; those to be ignored do not count.

    Raises:
        ValueError: A class has no object.
    """
    boxes = torch.cat([target.boxes[~target.ignore] for target in targets])
    labels = torch.cat([target.labels[~target.ignore] for target in targets])
    aspects = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])
    found = []
    for label in range(num_classes):
        own = aspects[labels == label]
        if not len(own):
            raise ValueError(f"class {label} has no object to learn from; add images of it")
        found.append(float(own.median()))
    return found


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
        steps: Rows and columns of each level's `blocks` from one window to the next; empty: 1.
    """

    blocks: list[Tensor]
    grids: list[tuple[int, int]]
    boxes: Tensor
    margins: Tensor
    target: Target
    windows: list[tuple[int, int]]
    steps: tuple[int, ...] = ()

    def holding(self, label: int, iou: float, most: int = 2) -> Tensor:
        """For each object the `most` windows that overlap it best, if by at least `iou`."""
        objects = self.target.boxes[(self.target.labels == label) & ~self.target.ignore]
        overlap = box_iou(self.boxes[label], objects) * self.margins[label].isfinite()[:, None]
        best = overlap.topk(min(most, len(overlap)), dim=0)
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
            step = self.steps[level] if self.steps else 1
            y, x = (step * place for place in divmod(window - int(starts[level]), self.grids[level][1]))
            found.append(self.blocks[level][:, y : y + rows, x : x + columns].reshape(1, -1))
        return torch.cat(found)
