"""COCO's twelve numbers and its per-class AP, from the matches.

AP is the precision at 101 points of recall (0, .01, ... 1), precision being made monotone first, averaged over points,
IoU thresholds and the classes that have objects; AR is the final recall averaged over thresholds and classes. Equal to
pycocotools to 1e-12, except where that is wrong: there an object with annotation id 0 can never be found, and an empty
list of detections cannot be scored (AP is 0).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.matching import AREAS, AT50, CAP, THRESHOLDS, Matches
from ops.compiled import compiled

__all__ = [
    "COCO",
    "MAX_DETECTIONS",
    "RECALLS",
    "Curves",
    "accumulate",
    "coco_stats",
    "curves_of",
    "mean_or_none",
    "precision_curves",
]

RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = (1, 10, CAP)
COCO = slice(AT50, len(THRESHOLDS))
"""Which of `THRESHOLDS` COCO averages over: .50:.05:.95."""

_AT75 = AT50 + 5


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


class Tally:
    """Precision and recall of one class, while its detections come by in descending order of score."""

    def __init__(self, objects: NDArray[np.int64]) -> None:
        """`objects` are those that are not ignored, by scale `[4]`."""
        scales, thresholds = len(AREAS), len(THRESHOLDS)
        self._objects, self._needed = objects, _needed(objects, RECALLS)
        self._found = np.zeros((len(MAX_DETECTIONS), scales, thresholds), dtype=np.int64)
        self._right = np.zeros((scales, thresholds), dtype=np.int64)
        self._wrong = np.zeros((scales, thresholds), dtype=np.int64)
        self._best = np.zeros((scales, thresholds, len(RECALLS)))

    def add(
        self,
        rows: NDArray[np.int64],
        rank: NDArray[np.int32],
        matched: NDArray[np.uint32],
        ignored: NDArray[np.uint32],
    ) -> None:
        """The next detections: `rows` of `rank`, `matched` and `ignored`, which are those of `Matches`."""
        most = np.array(MAX_DETECTIONS)
        _walk(rows, rank, matched, ignored, self._needed, most, self._found, self._right, self._wrong, self._best)

    def read(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Precision `[4, 19, 101]` and recall `[3, 4, 19]` as in `Curves`, of the detections up to now."""
        precision = np.maximum.accumulate(self._best[..., ::-1], axis=-1)[..., ::-1].copy()
        recall = self._found / np.maximum(self._objects, 1)[:, None]
        precision[self._objects == 0] = np.nan
        recall[:, self._objects == 0] = np.nan
        return precision, recall


def accumulate(matches: Matches) -> Curves:
    """Walk down each class's detections by score and read precision and recall."""
    objects = objects_to_find(matches)

    def walked(k: int) -> Tally:
        tally = Tally(objects[:, k])
        rows = matches.order[matches.starts[k] : matches.starts[k + 1]]
        tally.add(rows, matches.rank, matches.matched, matches.ignored)
        return tally

    return curves_of(objects, map(walked, range(matches.classes)))


def curves_of(objects: NDArray[np.int64], tallies: Iterable[Tally]) -> Curves:
    """The curves of all classes, from the objects that are not ignored `[4, K]` and what was counted of each class."""
    classes = objects.shape[1]
    precision = np.empty((len(AREAS), classes, len(THRESHOLDS), len(RECALLS)))
    recall = np.empty((len(MAX_DETECTIONS), len(AREAS), classes, len(THRESHOLDS)))
    for k, tally in enumerate(tallies):
        precision[:, k], recall[:, :, k] = tally.read()
    return Curves(precision, recall, objects)


def objects_to_find(matches: Matches) -> NDArray[np.int64]:
    """How many objects are not ignored, by scale and class `[4, K]`."""
    counted = [matches.truth_category[~matches.truth_ignored[:, a]] for a in range(len(AREAS))]
    return np.stack([np.bincount(one, minlength=matches.classes) for one in counted])


def coco_stats(curves: Curves) -> dict[str, float | None]:
    """The twelve numbers as fractions, by the names that COCO prints; None where no class has objects."""
    precision, recall = curves.precision[:, :, COCO], curves.recall[:, :, :, COCO]
    return {
        "AP": mean_or_none(precision[0]),
        "AP50": mean_or_none(curves.precision[0, :, AT50]),
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
    places = {"IoU50": AT50, "IoU75": _AT75}
    return {name: curves.precision[0, known, at].mean(axis=0).round(4).tolist() for name, at in places.items()}


def mean_or_none(values: NDArray[np.float64]) -> float | None:
    """Mean of those that are not NaN; None where there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


@compiled
def _needed(objects: NDArray[np.int64], recalls: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many finds reach each recall, by scale `[4, 101]`."""
    needed = np.ones((len(objects), len(recalls)), dtype=np.int64)
    for a in range(len(objects)):
        total = objects[a]
        for r in range(len(recalls)):
            if total > 0:
                count = max(1, int(recalls[r] * total) - 1)
                while count / total < recalls[r]:
                    count += 1
                needed[a, r] = count
    return needed


@compiled
def _walk(
    rows: NDArray[np.int64],
    rank: NDArray[np.int32],
    matched: NDArray[np.uint32],
    ignored: NDArray[np.uint32],
    needed: NDArray[np.int64],
    max_detections: NDArray[np.int64],
    found: NDArray[np.int64],
    right: NDArray[np.int64],
    wrong: NDArray[np.int64],
    best: NDArray[np.float64],
) -> None:
    """Add detections to `found`, `right` and `wrong`, and to `best`.

    Precision only falls between two finds, so it is taken at finds; `best[a, t, r]` is the highest from the find that
    reaches recall r to the last before the next recall.
    """
    scales, thresholds, points = best.shape
    least = 2.0**-52
    everywhere = np.uint32((1 << thresholds) - 1)
    one = np.uint32(1)
    for a in range(scales):
        wrong_everywhere = 0
        at = np.zeros(thresholds, dtype=np.int64)
        for t in range(thresholds):
            while at[t] + 1 < points and needed[a, at[t] + 1] <= right[a, t]:
                at[t] += 1
        for d in rows:
            if rank[d] >= max_detections[-1] or ignored[d, a] == everywhere:
                continue
            if matched[d, a] == 0 and ignored[d, a] == 0:
                wrong_everywhere += 1
                continue
            for t in range(thresholds):
                if (ignored[d, a] >> np.uint32(t)) & one:
                    continue
                if (matched[d, a] >> np.uint32(t)) & one:
                    right[a, t] += 1
                    while at[t] + 1 < points and needed[a, at[t] + 1] <= right[a, t]:
                        at[t] += 1
                    precision = right[a, t] / (wrong[a, t] + wrong_everywhere + right[a, t] + least)
                    best[a, t, at[t]] = max(best[a, t, at[t]], precision)
                    for m in range(len(max_detections)):
                        if rank[d] < max_detections[m]:
                            found[m, a, t] += 1
                else:
                    wrong[a, t] += 1
        wrong[a] += wrong_everywhere
