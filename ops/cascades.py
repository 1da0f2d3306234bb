"""Boosted cascades over integral images, window by window: a window is left at the first stage that it fails.

P. Viola, M. Jones, "Rapid object detection using a boosted cascade of simple features" (CVPR 2001), section 4: nearly
every window meets a few features only. Operators on whole tensors do not know that, as each looks at all windows
of a stage; these loops are compiled, for processors. Their arithmetic is that of the tensors: sums over rectangles are
whole numbers of double precision, what a tree compares is in single precision.

Stages are `ends`, the number of weak classifiers up to the end of each, and `limits`, what each asks for. Both
functions give for each window how many stages it passed, and the margin of the last that it met.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ops.compiled import compiled

__all__ = ["run_tables", "run_trees"]

_Array = npt.NDArray[Any]


@compiled
def run_trees(
    values: _Array,
    starts: _Array,
    share: _Array,
    places: _Array,
    weights: _Array,
    thresholds: _Array,
    branches: _Array,
    leaves: _Array,
    ends: _Array,
    limits: _Array,
) -> tuple[_Array, _Array]:
    """Trees over weighted sums of rectangles, N trees of at most J nodes.

    Args:
        values: float64 `[T]`, integral images.
        starts: int64 `[n]`, where windows begin in them.
        share: float32 `[n]`, what sums are multiplied by before they are compared.
        places: int64 `[N, J, R, 4]`, look-ups of the rectangles, from a window's start.
        weights: float64 `[N, J, R]`, of the rectangles; those of weight 0 are not looked up.
        thresholds: float32 `[N, J]`.
        branches: int64 `[N, J, 2]`, where a sum below and not below leads: over 0 a node, else minus a leaf.
        leaves: float64 `[N, J + 1]`.
        ends: int64 `[S]`.
        limits: float64 `[S]`.
    """
    passed = np.zeros(len(starts), dtype=np.int64)
    margins = np.zeros(len(starts))
    for window in range(len(starts)):
        start, first = starts[window], 0
        for stage in range(len(ends)):
            total = 0.0
            for tree in range(first, ends[stage]):
                node = 0
                while True:
                    value = 0.0
                    for rectangle in range(places.shape[2]):
                        weight = weights[tree, node, rectangle]
                        if weight != 0:
                            at = places[tree, node, rectangle]
                            value += weight * (
                                values[start + at[0]]
                                - values[start + at[1]]
                                - values[start + at[2]]
                                + values[start + at[3]]
                            )
                    below = np.float32(value) * share[window] < thresholds[tree, node]
                    node = branches[tree, node, 0 if below else 1]
                    if node <= 0:
                        break
                total += leaves[tree, -node]
            margins[window] = total - limits[stage]
            if total < limits[stage]:
                break
            passed[window] += 1
            first = ends[stage]
    return passed, margins


@compiled
def run_tables(
    values: _Array, starts: _Array, places: _Array, entries: _Array, ends: _Array, limits: _Array
) -> tuple[_Array, _Array]:
    """Tables over the patterns of 3 x 3 cells, N of them.

    Args:
        values: float64 `[T]`, integral images.
        starts: int64 `[n]`, where windows begin in them.
        places: int64 `[N, 16]`, look-ups of the corners of the cells, row by row, from a window's start.
        entries: float64 `[N, 256]`.
        ends: int64 `[S]`.
        limits: float64 `[S]`.
    """
    passed = np.zeros(len(starts), dtype=np.int64)
    margins = np.zeros(len(starts))
    corner = np.zeros(16)
    for window in range(len(starts)):
        start, first = starts[window], 0
        for stage in range(len(ends)):
            total = 0.0
            for table in range(first, ends[stage]):
                for index in range(16):
                    corner[index] = values[start + places[table, index]]
                middle = corner[5] - corner[6] - corner[9] + corner[10]
                code = 0
                # Clockwise from the top left, by the cells' upper left corners.
                for at in (0, 1, 2, 6, 10, 9, 8, 4):
                    cell = corner[at] - corner[at + 1] - corner[at + 4] + corner[at + 5]
                    code = 2 * code + (1 if cell >= middle else 0)
                total += entries[table, code]
            margins[window] = total - limits[stage]
            if total < limits[stage]:
                break
            passed[window] += 1
            first = ends[stage]
    return passed, margins
