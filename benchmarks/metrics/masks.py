"""Mask AP: pycocotools computes it, on input that is checked first."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.metrics.coco import accumulate, coco_stats
from benchmarks.metrics.data import GroundTruth, ScoreError, load_detections, load_ground_truth, read_json
from benchmarks.metrics.matching import match

__all__ = ["mask_ap"]


def mask_ap(gt: Path | str | dict[str, Any], detections: Path | str | list[dict[str, Any]]) -> dict[str, float | None]:
    """COCO's twelve numbers on masks, as fractions; None where undefined.

    The detections hold `segmentation` as compressed RLE. A `bbox` beside it is left aside, so that the area of a
    detection is that of its mask (pycocotools would take the box's). Nothing that is passed in is changed.

    Raises:
        ScoreError: Something cannot be read or scored.
    """
    truth = load_ground_truth(gt)
    data = gt if isinstance(gt, dict) else read_json(Path(gt))
    name, entries = (
        ("detections", detections) if isinstance(detections, list) else (str(detections), read_json(Path(detections)))
    )
    if not isinstance(entries, list):
        raise ScoreError(f"{name}: is not a list; write COCO's results JSON, a list of detections")
    for index, entry in enumerate(entries):
        mask = entry.get("segmentation") if isinstance(entry, Mapping) else None
        if not isinstance(mask, Mapping) or not isinstance(mask.get("counts"), str | bytes) or "size" not in mask:
            raise ScoreError(
                f"{name}: entry {index}: has no segmentation in compressed RLE; "
                "write {'size': [height, width], 'counts': ...} as pycocotools.mask.encode gives it"
            )
    checked = load_detections([{**entry, "bbox": [0, 0, 0, 0]} for entry in entries], truth)
    if not len(checked.scores):  # which pycocotools cannot read; without detections boxes and masks score alike
        return coco_stats(accumulate(match(truth, checked)))
    _check_truth(data, truth)
    kept = ("image_id", "category_id", "segmentation", "score")
    try:
        return _evaluate(data, [{key: entry[key] for key in kept} for entry in entries])
    except (ValueError, TypeError, KeyError) as error:
        raise ScoreError(f"{name}: pycocotools cannot read the masks ({error}); write compressed RLE") from error


def _check_truth(data: Mapping[str, Any], truth: GroundTruth) -> None:
    if np.isnan(truth.image_sizes).any():
        image = truth.image_ids[int(np.flatnonzero(np.isnan(truth.image_sizes).any(axis=1))[0])]
        raise ScoreError(f"{truth.name}: image {image!r} has no width and height; masks need them")
    for index, entry in enumerate(data["annotations"]):
        if not entry.get("segmentation"):
            raise ScoreError(f"{truth.name}: annotations[{index}]: has no segmentation; score boxes instead")


def _evaluate(data: Mapping[str, Any], entries: list[dict[str, Any]]) -> dict[str, float | None]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    names = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L")
    truth = COCO()
    # pycocotools writes into annotations, and takes the match with an annotation of id 0 for none.
    truth.dataset = {
        **data,
        "annotations": [
            {"iscrowd": 0, **entry, "id": number} for number, entry in enumerate(data["annotations"], start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(entries), "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {name: None if value < 0 else float(value) for name, value in zip(names, judge.stats, strict=True)}
