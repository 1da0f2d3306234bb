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

from benchmarks.metrics.compiled import compiled
from benchmarks.metrics.matching import RIGHT, WRONG, Matches

__all__ = ["average_precision", "voc_average_precision"]

_TENTHS = np.arange(11) / 10


def voc_average_precision(matches: Matches) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AP07 and AP10 of each class `[K]`; NaN where a class has no objects that count."""
    objects = np.bincount(matches.truth_category[~matches.truth_excused], minlength=matches.classes)
    outcome = matches.voc[matches.order]
    return average_precision(matches.starts, outcome == RIGHT, outcome == WRONG, objects, _TENTHS)


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
        for j in range(right - 1, 0, -1):
            curve[j] = max(curve[j], curve[j + 1])
        points = 0.0
        for recall in recalls:
            needed = max(1, int(recall * total) - 1)
            while needed / total < recall:
                needed += 1
            if needed <= right:
                points += curve[needed]
        mean_at_points[k] = points / len(recalls)
        under = 0.0
        for j in range(1, right + 1):
            under += curve[j] * (j / total - (j - 1) / total)
        area[k] = under
    return mean_at_points, area
