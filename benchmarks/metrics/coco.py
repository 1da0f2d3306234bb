"""COCO's twelve numbers and its per-class AP, from the matches.

AP is the precision at 101 points of recall (0, .01, ... 1), precision being made monotone first, averaged over points,
IoU thresholds and the classes that have objects; AR is the final recall averaged over thresholds and classes. Equal to
pycocotools to 1e-12, except where that is wrong: there an object with annotation id 0 can never be found, and an empty
list of detections cannot be scored (AP is 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.compiled import compiled
from benchmarks.metrics.matching import AREAS, CAP, THRESHOLDS, Matches

__all__ = [
    "COCO",
    "MAX_DETECTIONS",
    "RECALLS",
    "Curves",
    "accumulate",
    "coco_stats",
    "mean_or_none",
    "precision_curves",
]

RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = (1, 10, CAP)
COCO = slice(9, 19)
"""Which of `THRESHOLDS` COCO averages over: .50:.05:.95."""

_AT50, _AT75 = 9, 14


@dataclass(frozen=True)
class Curves:
    """Precision and recall by scale (in the order of `AREAS`), class and threshold; NaN where nothing is to be found.

    Attributes:
        precision: `[4, K, 19, 101]` at `RECALLS`, of the best 100 detections of a class in an image.
        recall: `[3, 4, K, 19]`, final recall of the best 1, 10 and 100.
        objects: `[4, K]`, objects that are not ignored.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    objects: NDArray[np.int64]


def accumulate(matches: Matches) -> Curves:
    """Walk down each class's detections by score and read precision and recall."""
    objects = np.zeros((len(AREAS), matches.classes), dtype=np.int64)
    for a in range(len(AREAS)):
        counted = matches.truth_category[~matches.truth_ignored[:, a]]
        objects[a] = np.bincount(counted, minlength=matches.classes)
    precision, recall = _accumulate(
        matches.order,
        matches.starts,
        matches.rank,
        matches.matched,
        matches.ignored,
        objects,
        RECALLS,
        np.array(MAX_DETECTIONS),
        len(THRESHOLDS),
    )
    return Curves(precision, recall, objects)


def coco_stats(curves: Curves) -> dict[str, float | None]:
    """The twelve numbers as fractions, by the names that COCO prints; None where no class has objects."""
    precision, recall = curves.precision[:, :, COCO], curves.recall[:, :, :, COCO]
    return {
        "AP": mean_or_none(precision[0]),
        "AP50": mean_or_none(curves.precision[0, :, _AT50]),
        "AP75": mean_or_none(curves.precision[0, :, _AT75]),
        **{f"AP_{scale}": mean_or_none(precision[a]) for a, scale in enumerate(AREAS) if a},
        **{f"AR{most}": mean_or_none(recall[m, 0]) for m, most in enumerate(MAX_DETECTIONS)},
        **{f"AR_{scale}": mean_or_none(recall[-1, a]) for a, scale in enumerate(AREAS) if a},
    }


def precision_curves(curves: Curves) -> dict[str, list[float]]:
    """Precision at the 101 points of `RECALLS`, mean over the classes that have objects, to four decimals.

    Returns:
        `IoU50` and `IoU75`, whose means over the points are AP50 and AP75; empty where no class has objects.
    """
    known = curves.objects[0] > 0
    if not known.any():
        return {}
    places = {"IoU50": _AT50, "IoU75": _AT75}
    return {name: curves.precision[0, known, at].mean(axis=0).round(4).tolist() for name, at in places.items()}


def mean_or_none(values: NDArray[np.float64]) -> float | None:
    """Mean of those that are not NaN; None where there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


@compiled
def _accumulate(
    order: NDArray[np.int64],
    starts: NDArray[np.int64],
    rank: NDArray[np.int32],
    matched: NDArray[np.uint32],
    ignored: NDArray[np.uint32],
    objects: NDArray[np.int64],
    recalls: NDArray[np.float64],
    max_detections: NDArray[np.int64],
    thresholds: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scales, classes = objects.shape
    precision = np.full((scales, classes, thresholds, len(recalls)), np.nan)
    recall = np.full((len(max_detections), scales, classes, thresholds), np.nan)
    least = 2.0**-52
    everywhere = np.uint32((1 << thresholds) - 1)
    one = np.uint32(1)
    at = np.empty(len(recalls), dtype=np.int64)
    for k in range(classes):
        for a in range(scales):
            total = objects[a, k]
            if total == 0:
                continue
            found = np.zeros((len(max_detections), thresholds), dtype=np.int64)
            right = np.zeros(thresholds, dtype=np.int64)
            wrong = np.zeros(thresholds, dtype=np.int64)
            wrong_everywhere = 0
            # Precision when the j-th object is found: between two finds it only falls, so these are all that count.
            curve = np.zeros((thresholds, total + 1))
            for place in range(starts[k], starts[k + 1]):
                d = order[place]
                if rank[d] >= max_detections[-1] or ignored[d, a] == everywhere:
                    continue
                if matched[d, a] == 0 and ignored[d, a] == 0:
                    wrong_everywhere += 1
                    continue
                for t in range(thresholds):
                    if (ignored[d, a] >> np.uint32(t)) & one:
                        continue
                    if (matched[d, a] >> np.uint32(t)) & one:
                        right[t] += 1
                        curve[t, right[t]] = right[t] / (wrong[t] + wrong_everywhere + right[t] + least)
                        for m in range(len(max_detections)):
                            if rank[d] < max_detections[m]:
                                found[m, t] += 1
                    else:
                        wrong[t] += 1
            for r in range(len(recalls)):
                needed = max(1, int(recalls[r] * total) - 1)
                while needed / total < recalls[r]:
                    needed += 1
                at[r] = needed
            for t in range(thresholds):
                for m in range(len(max_detections)):
                    recall[m, a, k, t] = found[m, t] / total
                for j in range(right[t] - 1, 0, -1):
                    curve[t, j] = max(curve[t, j], curve[t, j + 1])
                for r in range(len(recalls)):
                    precision[a, k, t, r] = curve[t, at[r]] if at[r] <= right[t] else 0.0
    return precision, recall
