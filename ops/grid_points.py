"""Boxes as grids of points, each found on a map of its own, from Lu, Li, Yue, Li and Yan, "Grid R-CNN" (CVPR 2019,
https://arxiv.org/abs/1811.12030), in the form of the authors' "Grid R-CNN Plus: Faster and Better"
(https://arxiv.org/abs/1906.05688).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["GridCoder"]


@dataclass(frozen=True)
class GridCoder:
    """Points on an object, `side` along each side, from its corners inwards; point `i` is in column `i // side`.

    Points may lie outside of the region that is looked at, so that maps stand for the region with half its width and
    height added on each side (extended region mapping). Of the `2 size` cells that this makes along each side, a point
    is looked for in only `size`, those about its place if the region were the object ("Plus").

    Attributes:
        side: Points along each side.
        size: Cells along each side of the map of a point; a multiple of 2.
        radius: Cells this near to that of the point are the point, too, in training.
    """

    side: int = 3
    size: int = 28
    radius: int = 1

    @property
    def points(self) -> int:
        """All points."""
        return self.side**2

    def places(self, like: Tensor) -> Tensor:
        """Of each point as a share of width and height of the object, `[points, 2]`, x and y."""
        along = torch.linspace(0, 1, self.side, device=like.device)
        return torch.stack(torch.meshgrid(along, along, indexing="ij"), -1).flatten(0, 1)

    def corners(self, like: Tensor) -> Tensor:
        """The cell among all that is the first of each point's map, int64 `[points, 2]`, x and y."""
        # A point at share s of the region lies at cell (1 + 2 s) size / 2 of 2 size; the outermost maps end there.
        return (self.places(like) * self.size).long()

    def encode(self, boxes: Tensor, regions: Tensor) -> Tensor:
        """Which cells are the points of objects: bool `[N, points, size, size]`, rows down, columns across.

        What lies outside of a map is on no cell of it.

        Args:
            boxes: `[N, 4]`, an object for each region.
            regions: `[N, 4]` of positive width and height.
        """
        lowest = regions[:, :2] - 0.5 * (regions[:, 2:] - regions[:, :2])
        places = boxes[:, None, :2] + self.places(boxes) * (boxes[:, 2:] - boxes[:, :2])[:, None]
        cells = (places - lowest[:, None]) / (regions[:, 2:] - regions[:, :2])[:, None] * self.size
        cells = cells.floor().long() - self.corners(boxes)
        apart = torch.arange(self.size, device=boxes.device) - cells[..., None]
        across, down = apart.unbind(2)
        return across[..., None, :] ** 2 + down[..., :, None] ** 2 <= self.radius**2

    def decode(self, heat: Tensor, regions: Tensor) -> Tensor:
        """Boxes `[N, 4]`, each side the mean of the `side` points on it, weighted by how sure they are.

        Args:
            heat: `[N, points, size, size]`, more than 0; the middle of the hottest cell of each map is the point.
            regions: `[N, 4]`.
        """
        sure, best = heat.flatten(2).max(2)
        cells = torch.stack([best % self.size, best // self.size], -1) + self.corners(heat)
        extent = (regions[:, 2:] - regions[:, :2])[:, None]
        places = regions[:, None, :2] - 0.5 * extent + (cells + 0.5) / self.size * extent
        grid = places.unflatten(1, (self.side, self.side))
        weight = sure.unflatten(1, (self.side, self.side))

        def mean(values: Tensor, weights: Tensor) -> Tensor:
            return (values * weights).sum(1) / weights.sum(1)

        return torch.stack(
            [
                mean(grid[:, 0, :, 0], weight[:, 0]),
                mean(grid[:, :, 0, 1], weight[:, :, 0]),
                mean(grid[:, -1, :, 0], weight[:, -1]),
                mean(grid[:, :, -1, 1], weight[:, :, -1]),
            ],
            1,
        )
