"""Tables over multi-block local binary patterns, the weak classifiers of Zhang et al. and of OpenCV's LBP cascades."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ops.cascades import run_tables
from ops.integral import corners, pattern_codes, pattern_features
from zoo.formats.opencv_cascade import Cascade
from zoo.parts.boosting import GentleBoost, Learned, Table
from zoo.parts.cascade import Sums, WeakClassifiers, rectangle_matrix

__all__ = ["PatternTables"]


class PatternTables(WeakClassifiers):
    """A number for each of the 256 codes of one grid of 3 x 3 cells.

    Args:
        num_classes: Cascades.
        weak: Most tables of a cascade.
    """

    normalises = False
    cells: Tensor
    entries: Tensor

    def __init__(self, num_classes: int, weak: int) -> None:
        super().__init__()
        self.register_buffer("cells", torch.zeros((num_classes, weak, 4), dtype=torch.uint8))
        self.register_buffer("entries", torch.zeros((num_classes, weak, 256)))

    def votes(self, label: int, rows: slice, sums: Sums, starts: Tensor, contrast: Tensor) -> Tensor:
        """See `WeakClassifiers`; a pattern compares sums, so that contrast changes nothing."""
        once, matrix = _nine(self.cells[label, rows], sums.columns)
        tables = self.entries[label, rows].double().flatten()
        first = 256 * torch.arange(len(tables) // 256, device=tables.device)
        found = torch.zeros_like(contrast)
        for part, values in sums.products(starts, once, matrix):
            codes = pattern_codes(values.reshape(len(values), -1, 9))
            found[part] = tables[codes + first].sum(1)
        return found

    def run(
        self, label: int, stages: list[tuple[slice, float]], sums: Sums, starts: Tensor, contrast: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `WeakClassifiers`."""
        x, y, width, height = self.cells[label, : stages[-1][0].stop].long().T[..., None, None]
        step = torch.arange(4, device=x.device)
        corner = (y + step[:, None] * height) * sums.columns + x + step * width
        passed, margins = run_tables(
            sums.values.numpy(),
            starts.numpy(),
            corner.flatten(1).numpy(),
            self.entries[label, : len(corner)].double().numpy(),
            np.array([rows.stop for rows, _ in stages]),
            np.array([limit for _, limit in stages]),
        )
        return torch.from_numpy(passed), torch.from_numpy(margins)

    def candidates(self, window: tuple[int, int], count: int | None, chance: np.random.Generator) -> Tensor:
        """First cells, `[F, 4]`."""
        cells = pattern_features(*window)
        if count is not None and count < len(cells):
            cells = cells[torch.from_numpy(chance.choice(len(cells), count, replace=False))]
        return cells

    def answers(self, candidates: Tensor, patches: Tensor) -> NDArray[np.uint8]:
        """Codes."""
        sums = Sums.of(patches)
        integrals = sums.values.reshape(len(patches), -1)
        found = np.empty((len(candidates), len(patches)), dtype=np.uint8)
        for begin in range(0, len(candidates), 200):
            part = candidates[begin : begin + 200].to(patches.device)
            once, matrix = _nine(part, sums.columns)
            codes = pattern_codes((integrals[:, once] @ matrix).reshape(len(patches), -1, 9))
            found[begin : begin + 200] = codes.T.byte().cpu().numpy()
        return found

    def learner(self, values: NDArray[Any], good: NDArray[np.bool_]) -> GentleBoost:
        """See `WeakClassifiers`."""
        return GentleBoost(values, good)

    def keep(self, label: int, row: int, candidates: Tensor, learned: Learned) -> None:
        """See `WeakClassifiers`."""
        assert isinstance(learned, Table)
        self.cells[label, row] = candidates[learned.feature]
        self.entries[label, row] = torch.from_numpy(learned.entries)

    def load(self, cascade: Cascade) -> None:
        """See `WeakClassifiers`."""
        nodes = cascade.thresholds.shape[1]
        if cascade.kind != "LBP" or nodes != 1:
            raise ValueError(f"{cascade.kind} in trees of {nodes} nodes, where this detector has one pattern a table")
        self.cells[0] = torch.from_numpy(cascade.rectangles[:, 0, 0])
        # The leaf of each code: a child of 0 or less is minus the number of one.
        sides = np.where(cascade.codes[:, 0], cascade.branches[:, 0, :1], cascade.branches[:, 0, 1:])
        self.entries[0] = torch.from_numpy(np.take_along_axis(cascade.leaves, -sides.astype(np.int64), 1))


def _nine(cells: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Look-ups and matrix for the sums of the nine cells, row by row, of grids `[K, 4]`."""
    x, y, width, height = cells.long().unbind(-1)
    grids = [
        torch.stack([x + column * width, y + row * height, width, height], -1)
        for row in range(3)
        for column in range(3)
    ]
    places = corners(torch.stack(grids, 1).flatten(0, 1), stride)
    return rectangle_matrix(places[:, None], places.new_ones((len(places), 1), dtype=torch.float32))
