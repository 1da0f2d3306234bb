"""Overlaps of boxes x, y, width, height in sorted lists, where the engine's own pass does not say enough."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ops.compiled import compiled

__all__ = ["greedy", "largest", "nearest", "taken"]


@compiled
def _iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    across = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    down = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    if across <= 0 or down <= 0:
        return 0.0
    shared = across * down
    return float(shared / (first[2] * first[3] + second[2] * second[3] - shared))


@compiled
def greedy(boxes: NDArray[np.float64], starts: NDArray[np.int64], threshold: float) -> NDArray[np.bool_]:
    """Of the boxes of each cell, best first, those that overlap no kept one by more than the threshold.

    Args:
        boxes: `[N, 4]`.
        starts: Cell c's boxes stand at starts[c]:starts[c + 1].
        threshold: IoU.
    """
    kept = np.ones(len(boxes), dtype=np.bool_)
    for cell in range(len(starts) - 1):
        for i in range(starts[cell], starts[cell + 1]):
            for j in range(starts[cell], i):
                if kept[j] and _iou(boxes[i], boxes[j]) > threshold:
                    kept[i] = False
                    break
    return kept


@compiled
def largest(boxes: NDArray[np.float64], starts: NDArray[np.int64]) -> float:
    """The highest IoU of two boxes of the same cell; 0 where none overlap. Arguments as of `greedy`."""
    found = 0.0
    for cell in range(len(starts) - 1):
        for i in range(starts[cell], starts[cell + 1]):
            for j in range(starts[cell], i):
                found = max(found, _iou(boxes[i], boxes[j]))
    return found


@compiled
def nearest(
    boxes: NDArray[np.float64],
    category: NDArray[np.int64],
    image: NDArray[np.int64],
    objects: NDArray[np.float64],
    object_category: NDArray[np.int64],
    starts: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Highest IoU of each box with an object of its class, and of another class `[N, 2]`, and these objects `[N, 2]`.

    Args:
        boxes, category, image: Of the detections.
        objects, object_category: Boxes and classes of the objects; image i's stand at starts[i]:starts[i + 1].
        starts: See there.

    Returns:
        IoU, 0 where nothing overlaps, and places in `objects`, -1 there.
    """
    best = np.zeros((len(boxes), 2))
    which = np.full((len(boxes), 2), -1, dtype=np.int64)
    for d in range(len(boxes)):
        for g in range(starts[image[d]], starts[image[d] + 1]):
            iou = _iou(boxes[d], objects[g])
            other = 0 if object_category[g] == category[d] else 1
            if iou > best[d, other]:
                best[d, other], which[d, other] = iou, g
    return best, which


@compiled
def taken(
    boxes: NDArray[np.float64],
    image: NDArray[np.int64],
    objects: NDArray[np.float64],
    starts: NDArray[np.int64],
    threshold: float,
) -> NDArray[np.int64]:
    """The object that each box takes in its turn: the free one of highest IoU, from the threshold on; -1 for none.

    Arguments as of `nearest`.
    """
    free = np.ones(len(objects), dtype=np.bool_)
    partner = np.full(len(boxes), -1, dtype=np.int64)
    for d in range(len(boxes)):
        best = threshold
        for g in range(starts[image[d]], starts[image[d] + 1]):
            iou = _iou(boxes[d], objects[g]) if free[g] else 0.0
            if iou >= best:
                best, partner[d] = iou, g
        if partner[d] >= 0:
            free[partner[d]] = False
    return partner
