"""What may be done to a list of detections, or to the set of images, before anything is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.data import GroundTruth, Results, ScoreError
from benchmarks.metrics.overlaps import greedy, largest

__all__ = ["chosen", "first_of_equals", "largest_overlap", "on_images", "ranks", "suppressed"]


def chosen(results: Results, rows: NDArray[Any]) -> Results:
    """Those detections, by a mask or by their places in ascending order."""
    return replace(
        results,
        image=results.image[rows],
        category=results.category[rows],
        boxes=results.boxes[rows],
        scores=results.scores[rows],
    )


def ranks(scores: NDArray[np.float64], *groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each detection among those of its group, by descending score and then by place in the file."""
    order = np.lexsort((-scores, *groups))
    first = np.zeros(len(order), dtype=np.bool_)
    first[:1] = True
    for group in groups:
        first[1:] |= np.diff(group[order]) != 0
    starts = np.flatnonzero(first)
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return ranks


def first_of_equals(results: Results) -> NDArray[np.int64]:
    """Places of the detections that stay when of equal boxes of a class in an image the best stays."""
    order = np.argsort(-results.scores, kind="stable")
    keys = np.column_stack((results.image, results.category, results.boxes))[order]
    _, first = np.unique(keys, axis=0, return_index=True)
    kept: NDArray[np.int64] = np.sort(order[first])
    return kept


def suppressed(results: Results, threshold: float) -> NDArray[np.bool_]:
    """Which detections greedy suppression by class keeps; a box at exactly the threshold stays."""
    order, starts = _cells(results)
    kept = np.empty(len(order), dtype=np.bool_)
    kept[order] = greedy(results.boxes[order], starts, threshold)
    return kept


def largest_overlap(results: Results) -> float:
    """The highest IoU of two detections of a class in an image; 0 where none overlap."""
    order, starts = _cells(results)
    return float(largest(results.boxes[order], starts))


def _cells(results: Results) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The detections by image, class and descending score, and where each class of an image begins and ends."""
    order = np.lexsort((-results.scores, results.category, results.image))
    new = (np.diff(results.image[order]) != 0) | (np.diff(results.category[order]) != 0)
    inner = np.flatnonzero(new) + 1
    return order, np.concatenate(([0], inner, [len(order)])) if len(order) else np.zeros(1, dtype=np.int64)


def on_images(truth: GroundTruth, results: Results, images: str) -> tuple[GroundTruth, Results]:
    """Ground truth and detections of some images; all images stay listed, for without objects they change no AP."""
    if images == "annotated":
        wanted = np.isin(np.arange(len(truth.image_ids)), truth.image)
    elif images == "detected":
        wanted = np.isin(np.arange(len(truth.image_ids)), results.image)
    elif images.isdigit():
        wanted = np.arange(len(truth.image_ids)) < int(images)
    else:
        wanted = np.isin([str(id_) for id_ in truth.image_ids], _listed(images, truth))
    on = wanted[truth.image]
    truth = replace(
        truth,
        image=truth.image[on],
        category=truth.category[on],
        boxes=truth.boxes[on],
        area=truth.area[on],
        crowd=truth.crowd[on],
        difficult=truth.difficult[on],
    )
    return truth, chosen(results, wanted[results.image])


def _listed(path: str, truth: GroundTruth) -> Sequence[str]:
    """The image ids that a text file names.

    Raises:
        ScoreError: It cannot be read, or names an image that the ground truth does not hold.
    """
    try:
        ids = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ScoreError(
            f"images={path}: is no file that can be read; write all, annotated, detected, a number, or such a file"
        ) from error
    known = {str(id_) for id_ in truth.image_ids}
    for id_ in ids:
        if id_ not in known:
            raise ScoreError(f"{path}: image {id_} is not in {truth.name}; name images of the split")
    return ids
