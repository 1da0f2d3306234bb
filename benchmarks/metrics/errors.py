"""What kind of mistake each detection and each miss is, and how much AP each kind costs.

The six kinds of TIDE, at IoU .5 (foreground) and .1 (background). A detection that has found no object is an error of

* localisation, if it overlaps an object of its class by .1 to .5,
* classification, if it overlaps an object of another class by .5 or more,
* duplicate, if it overlaps an object of its class by .5 or more (which another detection has),
* background, if it overlaps no object by more than .1,
* both, else: it lies on an object of another class, badly.

Where two definitions fit, the first of this list is taken, the order of the authors' program. An object that no
detection has found is *missed*, unless an error of localisation or classification points to it.

The cost of a kind is the AP50 that would be gained if its errors were mended and nothing else: a detection of the first
two gets the place, or the class, of the object that it points to, the best-scored one of each object if that is free,
while the others go, as do all duplicates, background and both; missed objects are no longer to be found. Matching is
that of AP50: of the best 100 detections of a class in an image, and what falls to a crowd counts neither way.

Source: D. Bolya, S. Foley, J. Hays, J. Hoffman, "TIDE: A General Toolbox for Identifying Object Detection Errors",
ECCV 2020, sections 2.2 and 2.3, https://arxiv.org/abs/2008.08115.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.coco import RECALLS, mean_or_none
from benchmarks.metrics.data import GroundTruth, Results
from benchmarks.metrics.matching import AT50, CAP, THRESHOLDS, Matches
from benchmarks.metrics.overlaps import nearest
from benchmarks.metrics.voc import average_precision

__all__ = ["KINDS", "PROTOCOL", "Errors", "find_errors", "summary"]

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
_CLASSIFICATION, _LOCALISATION, _BOTH, _DUPLICATE, _BACKGROUND, _MISSED = range(len(KINDS))
_NONE = -1

FOREGROUND, BACKGROUND = float(THRESHOLDS[AT50]), 0.1

PROTOCOL: dict[str, Any] = {
    "foreground_iou": FOREGROUND,
    "background_iou": BACKGROUND,
    "max_detections_per_class_and_image": CAP,
    "ignored": "iscrowd",
    "recall_points": len(RECALLS),
    "several_definitions_fit": "localisation, classification, duplicate, background, both",
    "class_without_objects_left": "left out of the mean",
}
"""What the numbers depend on, for the Record."""


@dataclass(frozen=True)
class Errors:
    """The errors of a list of detections, in the order of its `Matches`.

    Attributes:
        matches: Of the detections.
        kind: Place in `KINDS` of each detection's error `[N]`; -1 of the others.
        points_to: The object of each error of classification or localisation `[N]`, in the order of `Matches`.
        right: Whether a detection has found an object `[N]`.
        found: Whether an object is found `[G]`; crowds never are, and are not to be.
        missed: Whether an object is missed `[G]`.
    """

    matches: Matches
    kind: NDArray[np.int8]
    points_to: NDArray[np.int64]
    right: NDArray[np.bool_]
    found: NDArray[np.bool_]
    missed: NDArray[np.bool_]

    def count(self, kind: str) -> int:
        """How many errors of this kind there are."""
        place = KINDS.index(kind)
        return int(self.missed.sum() if place == _MISSED else (self.kind == place).sum())

    def mended(self, kinds: Collection[str]) -> float | None:
        """AP50, as a fraction, with all errors of some kinds mended; None where no object is left to be found."""
        chosen = np.isin(self.kind, [KINDS.index(kind) for kind in kinds])
        category = self.matches.category.copy()
        right, kept = self.right.copy(), (self.right | (self.kind != _NONE)) & ~chosen
        best = self._best(chosen)
        category[best] = self.matches.truth_category[self.points_to[best]]
        right[best] = kept[best] = True
        to_find = ~self.matches.truth_ignored[:, 0]
        if "missed" in kinds:
            to_find &= ~self.missed
        return self._average_precision(category, right, kept, to_find)

    def without_false(self) -> float | None:
        """AP50 if no detection were wrong."""
        return self._average_precision(self.matches.category, self.right, self.right, ~self.matches.truth_ignored[:, 0])

    def without_unfound(self) -> float | None:
        """AP50 if only objects that are found were to be found."""
        counted = self.right | (self.kind != _NONE)
        return self._average_precision(self.matches.category, self.right, counted, self.found)

    def _best(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Of the chosen errors that point to the same free object, the one of the highest score."""
        rows = np.flatnonzero(chosen & (self.points_to >= 0))
        rows = rows[~self.found[self.points_to[rows]]]
        rows = rows[np.argsort(-self.matches.score[rows], kind="stable")]
        _, first = np.unique(self.points_to[rows], return_index=True)
        return rows[first]

    def _average_precision(
        self,
        category: NDArray[np.int64],
        right: NDArray[np.bool_],
        kept: NDArray[np.bool_],
        to_find: NDArray[np.bool_],
    ) -> float | None:
        rows = np.flatnonzero(kept)
        # Equal scores of a class go by image, as everywhere.
        rows = rows[np.lexsort((self.matches.image[rows], -self.matches.score[rows], category[rows]))]
        starts = np.searchsorted(category[rows], np.arange(self.matches.classes + 1))
        objects = np.bincount(self.matches.truth_category[to_find], minlength=self.matches.classes)
        points, _ = average_precision(starts, right[rows], ~right[rows], objects, RECALLS)
        return mean_or_none(points)


def find_errors(truth: GroundTruth, results: Results, matches: Matches) -> Errors:
    """Say of each wrong detection and of each object that is not found what went wrong."""
    wrong, right = matches.judged()
    real = ~matches.truth_ignored[:, 0]
    found = real & (matches.truth_found[:, 0] & np.uint32(1 << AT50) != 0)
    rows, objects = np.flatnonzero(wrong), np.flatnonzero(real)
    rows = rows[np.argsort(matches.image[rows], kind="stable")]
    objects = objects[np.argsort(matches.truth_image[objects], kind="stable")]
    iou, place = nearest(
        results.boxes[matches.entry[rows]],
        matches.category[rows],
        matches.image[rows],
        truth.boxes[matches.truth_entry[objects]],
        matches.truth_category[objects],
        np.searchsorted(matches.truth_image[objects], np.arange(matches.images + 1)),
    )
    own, other = iou[:, 0], iou[:, 1]
    cases = [
        (own >= BACKGROUND) & (own < FOREGROUND),
        other >= FOREGROUND,
        own >= FOREGROUND,
        np.maximum(own, other) <= BACKGROUND,
    ]
    kind = np.full(len(matches.score), _NONE, dtype=np.int8)
    kind[rows] = np.select(cases, [_LOCALISATION, _CLASSIFICATION, _DUPLICATE, _BACKGROUND], _BOTH)
    points_to = np.full(len(matches.score), _NONE, dtype=np.int64)
    for column, which in enumerate((_LOCALISATION, _CLASSIFICATION)):
        chosen = kind[rows] == which
        points_to[rows[chosen]] = objects[place[chosen, column]]
    missed = real & ~found
    missed[points_to[points_to >= 0]] = False
    return Errors(matches, kind, points_to, right, found, missed)


def summary(errors: Errors, labels: Sequence[str]) -> dict[str, Any]:
    """What to print of errors.

    Returns:
        `AP50`; `kinds`, of each `count` and `dAP` (a fraction; None where AP is undefined); `false_positives` and
        `false_negatives`, likewise of all wrong detections and of all objects that are not found; `per_class`, the
        counts by class of the detection, or of the missed object; `protocol`.
    """
    before = errors.mended(())

    def gained(after: float | None) -> float | None:
        return None if before is None or after is None else after - before

    missed = np.bincount(errors.matches.truth_category[errors.missed], minlength=len(labels))
    by_class = [
        np.bincount(errors.matches.category[errors.kind == place], minlength=len(labels))
        if place != _MISSED
        else missed
        for place in range(len(KINDS))
    ]
    unfound = int((~errors.matches.truth_ignored[:, 0] & ~errors.found).sum())
    return {
        "AP50": before,
        "kinds": {kind: {"count": errors.count(kind), "dAP": gained(errors.mended((kind,)))} for kind in KINDS},
        "false_positives": {"count": int((errors.kind != _NONE).sum()), "dAP": gained(errors.without_false())},
        "false_negatives": {"count": unfound, "dAP": gained(errors.without_unfound())},
        "per_class": {
            label: {kind: int(by_class[place][k]) for place, kind in enumerate(KINDS)} for k, label in enumerate(labels)
        },
        "protocol": PROTOCOL,
    }
