"""VOC's two average precisions, from the matches.

`AP07` is the mean of the highest precision at recalls 0, .1, ... 1, which are exact tenths here; `AP10` (since 2010) is
the area under the precision curve made monotone. Objects that are difficult or crowds are not counted, and the
detections that fall to them are neither right nor wrong. Detections per image are not capped. IoU is continuous: the +1
of VOC's inclusive pixels belongs to the reading of its files.

Source: Everingham et al., "The PASCAL visual object classes challenge", 2010, and its development kit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.matching import RIGHT, WRONG, Matches
from ops.compiled import compiled

__all__ = ["VocTally", "average_precision", "voc_average_precision", "voc_objects"]

_TENTHS = np.arange(11) / 10


def voc_average_precision(matches: Matches) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AP07 and AP10 of each class `[K]`; NaN where a class has no objects that count."""
    outcome = matches.voc[matches.order]
    return average_precision(matches.starts, outcome == RIGHT, outcome == WRONG, voc_objects(matches), _TENTHS)


def voc_objects(matches: Matches) -> NDArray[np.int64]:
    """How many objects of each class are neither difficult nor crowds `[K]`."""
    return np.bincount(matches.truth_category[~matches.truth_excused], minlength=matches.classes)


class VocTally:
    """The two of one class, while its detections come by in descending order of score."""

    def __init__(self, objects: int) -> None:
        self._objects, self._right, self._wrong = objects, 0, 0
        self._curve = [np.zeros(1)]

    def add(self, outcome: NDArray[np.uint8]) -> None:
        """The next detections: `voc` of `Matches`."""
        is_right = outcome == RIGHT
        right = self._right + np.cumsum(is_right)
        wrong = self._wrong + np.cumsum(outcome == WRONG)
        self._curve.append((right / np.maximum(right + wrong, 1))[is_right])
        if len(outcome):
            self._right, self._wrong = int(right[-1]), int(wrong[-1])

    def read(self) -> tuple[float, float]:
        """AP07 and AP10 of the detections up to now; NaN without objects."""
        if not self._objects:
            return np.nan, np.nan
        return _averages(np.concatenate(self._curve), self._objects, _TENTHS)


@compiled
def average_precision(
    starts: NDArray[np.int64],
    is_right: NDArray[np.bool_],
    is_wrong: NDArray[np.bool_],
    objects: NDArray[np.int64],
    recalls: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean precision at `recalls`, and area under the monotone curve, of each class `[K]`; NaN without objects.

    Args:
        starts: Class k's detections stand at starts[k]:starts[k + 1], in descending order of score.
        is_right: Whether a detection has found an object `[N]`.
        is_wrong: Whether it is a false positive; it may be neither.
        objects: How many are to be found, by class `[K]`.
        recalls: Each the double nearest to its fraction, so that comparing with a share of objects is exact.
    """
    classes = len(objects)
    mean_at_points = np.full(classes, np.nan)
    area = np.full(classes, np.nan)
    for k in range(classes):
        total = objects[k]
        if total == 0:
            continue
        # Precision when the j-th object is found: between two finds it only falls, so these are all that count.
        curve = np.zeros(total + 1)
        right = 0
        wrong = 0
        for place in range(starts[k], starts[k + 1]):
            if is_right[place]:
                right += 1
                curve[right] = right / (right + wrong)
            elif is_wrong[place]:
                wrong += 1
        mean_at_points[k], area[k] = _averages(curve[: right + 1], total, recalls)
    return mean_at_points, area


@compiled
def _averages(curve: NDArray[np.float64], total: int, recalls: NDArray[np.float64]) -> tuple[float, float]:
    """Both averages, from the precision at each find (from place 1 on; it is made monotone here)."""
    right = len(curve) - 1
    for j in range(right - 1, 0, -1):
        curve[j] = max(curve[j], curve[j + 1])
    points = 0.0
    for recall in recalls:
        needed = max(1, int(recall * total) - 1)
        while needed / total < recall:
            needed += 1
        if needed <= right:
            points += curve[needed]
    under = 0.0
    for j in range(1, right + 1):
        under += curve[j] * (j / total - (j - 1) / total)
    return points / len(recalls), under
