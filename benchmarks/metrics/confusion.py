"""Which class is taken for which.

At IoU .5 detections first find objects of their own class, as for AP50. Of what is left, wrong detections and objects
not found, each detection in descending order of score takes the free object of another class that it overlaps most, if
by .5 or more: that object was taken for the detection's class. Scores below a floor play no part.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.data import GroundTruth, Results
from benchmarks.metrics.errors import FOREGROUND, Errors
from benchmarks.metrics.overlaps import taken

__all__ = ["confusion"]


def confusion(truth: GroundTruth, results: Results, errors: Errors) -> NDArray[np.int64]:
    """How often class i was taken for class j `[K + 1, K + 1]`; the last row is background, the last column missed.

    Args:
        truth: The objects.
        results: The detections, none below the floor.
        errors: Of them, by `find_errors`.
    """
    matches = errors.matches
    last = matches.classes
    matrix = np.zeros((last + 1, last + 1), dtype=np.int64)
    np.fill_diagonal(matrix, np.append(np.bincount(matches.category[errors.right], minlength=last), 0))
    rows = np.flatnonzero(errors.kind >= 0)
    rows = rows[np.lexsort((-matches.score[rows], matches.image[rows]))]
    objects = np.flatnonzero(~matches.truth_ignored[:, 0] & ~errors.found)
    objects = objects[np.argsort(matches.truth_image[objects], kind="stable")]
    # None of these is of the detection's class: such a one it would have found.
    partner = taken(
        results.boxes[matches.entry[rows]],
        matches.image[rows],
        truth.boxes[matches.truth_entry[objects]],
        np.searchsorted(matches.truth_image[objects], np.arange(matches.images + 1)),
        FOREGROUND,
    )
    true = np.where(partner >= 0, np.append(matches.truth_category[objects], last)[partner], last)
    np.add.at(matrix, (true, matches.category[rows]), 1)
    left = np.ones(len(objects), dtype=np.bool_)
    left[partner[partner >= 0]] = False
    matrix[:last, last] += np.bincount(matches.truth_category[objects[left]], minlength=last)
    return matrix
