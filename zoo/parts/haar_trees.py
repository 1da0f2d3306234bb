"""Decision trees over Haar features, the weak classifiers of Viola and Jones and of OpenCV's cascades."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ops.cascades import run_trees
from ops.integral import corners, haar_features
from zoo.formats.opencv_cascade import Cascade
from zoo.parts.boosting import AdaBoost, Learned, Stump
from zoo.parts.cascade import Sums, WeakClassifiers, rectangle_matrix

__all__ = ["HaarTrees"]


class HaarTrees(WeakClassifiers):
    """Decision trees over Haar features; of one node, as AdaBoost makes them, or of more, as in OpenCV's files.

    Args:
        num_classes: Cascades.
        weak: Most trees of a cascade.
        nodes: Most nodes of a tree.
    """

    normalises = True
    rectangles: Tensor
    weights: Tensor
    turned: Tensor
    thresholds: Tensor
    branches: Tensor
    leaves: Tensor

    def __init__(self, num_classes: int, weak: int, nodes: int = 1) -> None:
        super().__init__()
        shape = (num_classes, weak, nodes)
        self.register_buffer("rectangles", torch.zeros((*shape, 3, 4), dtype=torch.uint8))
        self.register_buffer("weights", torch.zeros((*shape, 3)))
        self.register_buffer("turned", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("thresholds", torch.zeros(shape))
        # Over 0 a node, else minus the number of a leaf.
        self.register_buffer("branches", torch.tensor([0, -1], dtype=torch.int8).repeat(*shape, 1))
        self.register_buffer("leaves", torch.zeros((num_classes, weak, nodes + 1)))

    @property
    def tilted(self) -> bool:
        """Whether any feature is turned by 45 degrees."""
        return bool(self.turned.any())

    def votes(self, label: int, rows: slice, sums: Sums, starts: Tensor, contrast: Tensor) -> Tensor:
        """See `WeakClassifiers`."""
        turned = self.turned[label, rows, :, None]
        places = corners(self.rectangles[label, rows], sums.columns, turned) + (turned * sums.turned)[..., None]
        once, matrix = rectangle_matrix(places.flatten(0, 1), self.weights[label, rows].flatten(0, 1))
        trees, nodes = self.thresholds[label, rows].shape
        leaves, children = self.leaves[label, rows].double(), self.branches[label, rows].long()
        share = torch.where(contrast > 0, 1 / contrast, 1).float()
        found = torch.zeros_like(contrast)
        for part, values in sums.products(starts, once, matrix):
            below = values.float() * share[part, None] < self.thresholds[label, rows].flatten()
            below = below.reshape(-1, trees, nodes)
            at = torch.where(below[..., 0], children[:, 0, 0], children[:, 0, 1])
            for _ in range(nodes - 1):
                inner = at.clamp(min=0)[..., None]
                side = (~below.gather(2, inner)).long()
                further = children.expand(len(below), -1, -1, -1).flatten(2).gather(2, 2 * inner + side)[..., 0]
                at = torch.where(at > 0, further, at)
            found[part] = leaves.expand(len(below), -1, -1).gather(2, -at[..., None])[..., 0].sum(1)
        return found

    def run(
        self, label: int, stages: list[tuple[slice, float]], sums: Sums, starts: Tensor, contrast: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `WeakClassifiers`."""
        own = slice(0, stages[-1][0].stop)
        turned = self.turned[label, own, :, None]
        places = corners(self.rectangles[label, own], sums.columns, turned) + (turned * sums.turned)[..., None]
        passed, margins = run_trees(
            sums.values.numpy(),
            starts.numpy(),
            torch.where(contrast > 0, 1 / contrast, 1).float().numpy(),
            places.numpy(),
            self.weights[label, own].double().numpy(),
            self.thresholds[label, own].numpy(),
            self.branches[label, own].long().numpy(),
            self.leaves[label, own].double().numpy(),
            np.array([rows.stop for rows, _ in stages]),
            np.array([limit for _, limit in stages]),
        )
        return torch.from_numpy(passed), torch.from_numpy(margins)

    def candidates(self, window: tuple[int, int], count: int | None, chance: np.random.Generator) -> Tensor:
        """Rectangles and weights, `[F, 3, 5]`."""
        rectangles, weights = haar_features(*window)
        if count is not None and count < len(rectangles):
            chosen = torch.from_numpy(chance.choice(len(rectangles), count, replace=False))
            rectangles, weights = rectangles[chosen], weights[chosen]
        return torch.cat([rectangles.float(), weights[..., None]], -1)

    def answers(self, candidates: Tensor, patches: Tensor) -> NDArray[np.float32]:
        """Values of features, divided by the windows' contrast."""
        sums = Sums.of(patches)
        area = (patches.shape[1] + 1) * sums.columns
        starts = torch.arange(len(patches), device=patches.device) * area
        contrast = sums.contrast(starts, (int(patches.shape[1]), int(patches.shape[2])))
        share = torch.where(contrast > 0, 1 / contrast, 1).float()
        integrals = sums.values.reshape(len(patches), area)
        found = np.empty((len(candidates), len(patches)), dtype=np.float32)
        for begin in range(0, len(candidates), 1000):
            part = candidates[begin : begin + 1000].to(patches.device)
            once, matrix = rectangle_matrix(corners(part[..., :4], sums.columns), part[..., 4])
            values = (integrals[:, once] @ matrix).float() * share[:, None]
            found[begin : begin + 1000] = values.T.cpu().numpy()
        return found

    def learner(self, values: NDArray[Any], good: NDArray[np.bool_]) -> AdaBoost:
        """See `WeakClassifiers`."""
        return AdaBoost(values, good)

    def keep(self, label: int, row: int, candidates: Tensor, learned: Learned) -> None:
        """See `WeakClassifiers`."""
        assert isinstance(learned, Stump)
        feature = candidates[learned.feature]
        self.rectangles[label, row, 0] = feature[:, :4].byte()
        self.weights[label, row, 0] = feature[:, 4]
        self.thresholds[label, row, 0] = learned.threshold
        self.leaves[label, row, :2] = torch.tensor(learned.leaves)

    def load(self, cascade: Cascade) -> None:
        """See `WeakClassifiers`."""
        if cascade.kind != "HAAR":
            raise ValueError(f"a cascade of {cascade.kind} features, where this detector has Haar's; use lbp_cascade")
        self.rectangles[0] = torch.from_numpy(cascade.rectangles)
        self.weights[0] = torch.from_numpy(cascade.weights)
        self.turned[0] = torch.from_numpy(cascade.tilted)
        self.thresholds[0] = torch.from_numpy(cascade.thresholds)
        self.branches[0] = torch.from_numpy(cascade.branches)
        self.leaves[0] = torch.from_numpy(cascade.leaves)
