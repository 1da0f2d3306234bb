"""Scores of detections: COCO's twelve numbers, FD and VOC's two mAPs from one matching pass.

    truth = load_ground_truth(Path("instances.json"))
    score(truth, load_detections(Path("detections.json"), truth))

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.bootstrap import resample
from benchmarks.metrics.coco import (
    COCO,
    MAX_DETECTIONS,
    RECALLS,
    Curves,
    accumulate,
    coco_stats,
    mean_or_none,
    precision_curves,
)
from benchmarks.metrics.data import GroundTruth, Note, Results, ScoreError
from benchmarks.metrics.detections import load_detections
from benchmarks.metrics.fd import FD, fd_stats, one_minus_mean
from benchmarks.metrics.ground_truth import load_ground_truth
from benchmarks.metrics.intervals import intervals_of
from benchmarks.metrics.masks import MASKS, encode_masks, mask_ap, read_masks
from benchmarks.metrics.matching import AREAS, AT50, CAP, THRESHOLDS, VOC_THRESHOLD, Matches, match
from benchmarks.metrics.miss_rate import miss_rates
from benchmarks.metrics.proposals import proposal_recall
from benchmarks.metrics.voc import voc_average_precision
from benchmarks.protocol import hash_of_ids, hash_of_labels, identities

__all__ = [
    "MASKS",
    "PROTOCOLS",
    "Curves",
    "GroundTruth",
    "Matches",
    "Note",
    "Results",
    "ScoreError",
    "accumulate",
    "encode_masks",
    "image_intervals",
    "load_detections",
    "load_ground_truth",
    "mask_ap",
    "match",
    "miss_rates",
    "precision_curves",
    "proposal_recall",
    "read_masks",
    "score",
    "score_matches",
    "scores_of",
]

PROTOCOLS = ("coco", "fd", "voc07", "voc10", "all")


def score(
    gt: GroundTruth | Path | str | Mapping[str, Any],
    detections: Results | Path | str | Sequence[Mapping[str, Any]],
    protocol: str = "all",
    *,
    intervals: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Score detections against ground truth.

    Args:
        gt: COCO's instances JSON, or what was read of it.
        detections: COCO's results, likewise.
        protocol: One of `PROTOCOLS`.
        intervals: Resamples of the images from which 95 % intervals are taken; 0 for no intervals.
        seed: Of the resamples.

    Returns:
        An object that JSON can hold, of fractions, None where a number is undefined (no object to be found) or belongs
        to a protocol that was not asked for; every key is always there.

        - `stats`: AP, AP50, AP75, AP_S, AP_M, AP_L, AR1, AR10, AR100, AR_S, AR_M, AR_L
        - `fd`: FD, FD5, FD25, FD50, FD_S, FD_M, FD_L
        - `voc`: mAP07, mAP10
        - `per_class`: by category name (by id where names repeat) AP, AP50, FD, AP07, AP10 and `objects`, the number
          of its annotations that are not crowds
        - `protocol`: every setting the numbers depend on, and `identity`: of each number the hash of its own
          (`benchmarks.protocol`)
        - `intervals`, where they are asked for: low and high of each number, laid out as above, with `level`, `method`,
          `draws`, `seed` and `unit`
        - `notes`: what should be looked at, each with `kind`, `count` and `message`

    Raises:
        ScoreError: Something cannot be read or scored, or the protocol is none of `PROTOCOLS`.
    """
    if protocol not in PROTOCOLS:
        raise ScoreError(f"protocol {protocol!r} is unknown; choose one of {', '.join(PROTOCOLS)}")
    truth = gt if isinstance(gt, GroundTruth) else load_ground_truth(gt)
    results = detections if isinstance(detections, Results) else load_detections(detections, truth)
    matches = match(truth, results)
    scores = score_matches(truth, results, matches, protocol)
    if intervals:
        scores["intervals"] = image_intervals(scores, matches, intervals, seed)
    return scores


def image_intervals(scores: Mapping[str, Any], matches: Matches, draws: int = 1_000, seed: int = 0) -> dict[str, Any]:
    """The 95 % intervals of what `score_matches` returned, from `draws` resamples of the images: `intervals` above."""
    found = intervals_of(scores, resample(matches, draws, seed))
    return {"seed": seed, "unit": "images, with replacement", **found}


def score_matches(truth: GroundTruth, results: Results, matches: Matches, protocol: str = "all") -> dict[str, Any]:
    """What `score` returns, of detections that are matched already."""
    objects = np.bincount(truth.category[~truth.crowd], minlength=len(truth.category_ids))
    notes = (*truth.notes, *results.notes)
    return scores_of(truth, accumulate(matches), voc_average_precision(matches), objects, notes, protocol)


def scores_of(
    truth: GroundTruth,
    curves: Curves,
    voc: tuple[NDArray[np.float64], NDArray[np.float64]],
    objects: NDArray[np.int64],
    notes: Sequence[Note],
    protocol: str = "all",
) -> dict[str, Any]:
    """What `score` returns, from the curves, VOC's two averages and the number of objects of each class."""
    ap07, ap10 = voc

    def asked(name: str, value: float | None) -> float | None:
        return value if protocol in (name, "all") else None

    counts = objects.tolist()
    per_class = {}
    for k, label in enumerate(truth.labels):
        precision = curves.precision[0, k]
        per_class[label] = {
            "AP": asked("coco", mean_or_none(precision[COCO])),
            "AP50": asked("coco", mean_or_none(precision[AT50])),
            "FD": asked("fd", one_minus_mean(precision[FD])),
            "AP07": asked("voc07", mean_or_none(ap07[[k]])),
            "AP10": asked("voc10", mean_or_none(ap10[[k]])),
            "objects": counts[k],
        }
    return {
        "stats": {key: asked("coco", value) for key, value in coco_stats(curves).items()},
        "fd": {key: asked("fd", value) for key, value in fd_stats(curves).items()},
        "voc": {"mAP07": asked("voc07", mean_or_none(ap07)), "mAP10": asked("voc10", mean_or_none(ap10))},
        "per_class": per_class,
        "protocol": _settings(protocol, truth),
        "notes": list(notes),
    }


def _settings(protocol: str, truth: GroundTruth) -> dict[str, Any]:
    """What the numbers depend on, for the Record, and the hash of it by number."""
    areas = {scale: list(bounds) for scale, bounds in AREAS.items()}
    shared = {
        "areas": areas,
        "area_of_object": "annotation",
        "area_of_detection": "box",
        "area_bounds": "inclusive",
        "recall_points": len(RECALLS),
        "ignored": "iscrowd",
        "max_detections_per_class_and_image": list(MAX_DETECTIONS),
    }
    voc = {
        "iou": VOC_THRESHOLD,
        "candidate": "object of highest IoU, taken or not",
        "ignored": "difficult, iscrowd",
        "max_detections_per_class_and_image": None,
    }
    settings: dict[str, Any] = {
        "coco": {**shared, "iou": [round(float(t), 2) for t in THRESHOLDS[COCO]]},
        "fd": {
            **shared,
            "iou": [round(float(t), 2) for t in THRESHOLDS[FD]],
            "max_detections_per_class_and_image": [CAP],
        },
        "voc07": {**voc, "average": "11 points of recall, exact tenths"},
        "voc10": {**voc, "average": "area under the monotone curve"},
    }
    chosen = settings if protocol == "all" else {protocol: settings[protocol]}
    found = {
        "name": protocol,
        "boxes": "x, y, width, height, continuous pixels",
        "iou_precision": "float64",
        "ties": "image id, then order in the file",
        "score_floor": 0.0,
        "images": hash_of_ids(truth.image_ids),
        "label_map": hash_of_labels(truth.category_ids, truth.category_names),
        **chosen,
    }
    return {**found, "identity": identities(found)}
