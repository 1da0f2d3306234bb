"""Does a score of .8 mean that four detections in five are right?

A detection is right if it finds an object at IoU .5 (COCO's rule; what falls to a crowd does not count). Detections are
put into ten bins by score; of each bin the mean score is set beside the precision. `ECE`, the expected calibration
error, is the mean distance of the two over all detections (C. Guo, G. Pleiss, Y. Sun, K. Weinberger, "On calibration of
modern neural networks", ICML 2017, section 2).

`D-ECE`, the detection expected calibration error, takes the same mean over bins of the score and of the place and size
of the box, so that too high scores of small boxes do not hide behind too low ones of large boxes (F. Küppers, J.
Kronenberger, A. Shantia, A. Haselhoff, "Multivariate confidence calibration for object detection", CVPR workshops 2020,
section 3): five bins each of score, center x and y, width and height, as shares of the image; bins of fewer than eight
detections are left out, and `D-ECE_covers` says which share of the detections is in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.data import GroundTruth, Results
from benchmarks.metrics.matching import Matches

__all__ = ["calibration"]

_BINS, _BINS_OF_EACH, _LEAST = 10, 5, 8


def calibration(truth: GroundTruth, results: Results, matches: Matches) -> dict[str, Any]:
    """Reliability of the scores.

    Returns:
        `bins`, each with `low`, `high`, `detections`, mean `score` and `precision` (None where it is empty); `ECE`;
        `D-ECE`, None where images have no size; `D-ECE_covers`; `undefined`, why there is nothing, else None.
    """
    wrong, right = matches.judged()
    counts = wrong | right
    score, right = matches.score[counts], right[counts]
    empty: dict[str, Any] = {"bins": [], "ECE": None, "D-ECE": None, "D-ECE_covers": None}
    if not len(score):
        return {**empty, "undefined": "no detection counts"}
    if score.min() < 0 or score.max() > 1:
        return {**empty, "undefined": f"scores from {score.min():g} to {score.max():g} are no probabilities"}
    place = _binned(score, _BINS)
    many, gap, mean, precision = _by_bin(place, score, right, _BINS)
    bins = [
        {
            "low": b / _BINS,
            "high": (b + 1) / _BINS,
            "detections": int(many[b]),
            "score": float(mean[b]) if many[b] else None,
            "precision": float(precision[b]) if many[b] else None,
        }
        for b in range(_BINS)
    ]
    found = {"bins": bins, "ECE": float((many * gap).sum() / many.sum()), "undefined": None}
    size = truth.image_sizes[matches.image[counts]]
    if np.isnan(size).any():
        return {**found, "D-ECE": None, "D-ECE_covers": None}
    boxes = results.boxes[matches.entry[counts]] / np.tile(size, 2)
    features = np.column_stack((score, boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]))
    place = np.ravel_multi_index(tuple(_binned(features, _BINS_OF_EACH).T), (_BINS_OF_EACH,) * 5)
    many, gap, _, _ = _by_bin(place, score, right, _BINS_OF_EACH**5)
    kept = many >= _LEAST
    covered = int(many[kept].sum())
    return {
        **found,
        "D-ECE": float((many * gap)[kept].sum() / covered) if covered else None,
        "D-ECE_covers": covered / len(score),
    }


def _binned(values: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Bins of equal width from 0 to 1; what lies outside goes to the first or last."""
    place: NDArray[np.int64] = np.clip(np.floor(values * bins), 0, bins - 1).astype(np.int64)
    return place


def _by_bin(
    place: NDArray[np.int64], score: NDArray[np.float64], right: NDArray[np.bool_], bins: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Number of detections of each bin, distance of mean score and precision, and these two; 0 where it is empty."""
    many = np.bincount(place, minlength=bins)
    mean, precision = (np.bincount(place, weights=w, minlength=bins) / np.maximum(many, 1) for w in (score, right))
    return many, np.abs(mean - precision), mean, precision
