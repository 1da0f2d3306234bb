"""Mask AP: pycocotools computes it, on input that is checked first. Masks are COCO's compressed RLE."""

from __future__ import annotations

import contextlib
import io
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.coco import accumulate, coco_stats
from benchmarks.metrics.data import GroundTruth, ScoreError
from benchmarks.metrics.detections import load_detections
from benchmarks.metrics.entries import read_json
from benchmarks.metrics.ground_truth import load_ground_truth
from benchmarks.metrics.matching import match
from benchmarks.segments import check_segment
from benchmarks.sentences import quoted

__all__ = ["MASKS", "encode_masks", "mask_ap", "read_masks"]

MASKS = {
    "overlap": "of masks, pycocotools",
    "area_of_object": "annotation",
    "area_of_detection": "mask",
    "ignored": "iscrowd",
    "max_detections_per_class_and_image": [1, 10, 100],
}
"""What mask AP depends on, for the Record."""


def encode_masks(masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Masks `[N, H, W]` as JSON can hold them: `size` and `counts` of each."""
    from pycocotools import mask as codec

    packed = codec.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8)) if len(masks) else []
    return [{"size": list(map(int, one["size"])), "counts": one["counts"].decode()} for one in packed]


def read_masks(path: Path) -> list[dict[str, Any]] | None:
    """COCO's results JSON if it holds masks, each entry with a `bbox`: the mask's own, where it came with none.

    Raises:
        ScoreError: It is no JSON, or an entry without a `bbox` has no mask that can be read.
    """
    if not path.is_file() or path.suffix != ".json" or not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        # Files of boxes are long, and have a faster reader.
        if text.find(b'"segmentation"') < 0:
            return None
    entries = read_json(path)
    _check_masks(str(path), entries)
    return [
        entry if "bbox" in entry else {**entry, "bbox": _box_of(str(path), n, entry)} for n, entry in enumerate(entries)
    ]


def _box_of(name: str, index: int, entry: Mapping[str, Any]) -> list[float]:
    from pycocotools import mask as codec

    size = entry["segmentation"]["size"]
    # Given a side of 0 it divides by it, which ends the process.
    if (
        not isinstance(size, list | tuple)
        or len(size) != 2
        or not all(type(n) is int and 0 < n < 1 << 16 for n in size)
    ):
        raise ScoreError(f"{name}: entry {index}: segmentation has size {quoted(size)}; write [height, width]")
    try:
        box: list[float] = codec.toBbox(dict(entry["segmentation"])).tolist()
    # At runs that are none it can fail in any way.
    except Exception as error:
        raise ScoreError(
            f"{name}: entry {index}: pycocotools cannot read the mask ({error}); write compressed RLE"
        ) from error
    return box


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
    _check_masks(name, entries)
    checked = load_detections([{**entry, "bbox": [0, 0, 0, 0]} for entry in entries], truth)
    if not len(checked.scores):  # which pycocotools cannot read; without detections boxes and masks score alike
        return coco_stats(accumulate(match(truth, checked)))
    _check_truth(data, truth)
    _check_segments(name, "entry {}", entries, truth)
    kept = ("image_id", "category_id", "segmentation", "score")
    try:
        return _evaluate(data, [{key: entry[key] for key in kept} for entry in entries])
    except (ValueError, TypeError, KeyError) as error:
        raise ScoreError(f"{name}: pycocotools cannot read the masks ({error}); write compressed RLE") from error


def _check_masks(name: str, entries: Any) -> None:
    if not isinstance(entries, list):
        raise ScoreError(f"{name}: is not a list; write COCO's results JSON, a list of detections")
    for index, entry in enumerate(entries):
        mask = entry.get("segmentation") if isinstance(entry, Mapping) else None
        if not isinstance(mask, Mapping) or not isinstance(mask.get("counts"), str | bytes) or "size" not in mask:
            raise ScoreError(
                f"{name}: entry {index}: has no segmentation in compressed RLE; "
                "write {'size': [height, width], 'counts': ...} as pycocotools.mask.encode gives it"
            )


def _check_truth(data: Mapping[str, Any], truth: GroundTruth) -> None:
    if np.isnan(truth.image_sizes).any():
        image = truth.image_ids[int(np.flatnonzero(np.isnan(truth.image_sizes).any(axis=1))[0])]
        raise ScoreError(f"{truth.name}: image {image!r} has no width and height; masks need them")
    for index, entry in enumerate(data["annotations"]):
        if not entry.get("segmentation"):
            raise ScoreError(f"{truth.name}: annotations[{index}]: has no segmentation; score boxes instead")
    _check_segments(truth.name, "annotations[{}]", data["annotations"], truth)


def _check_segments(name: str, place: str, entries: list[dict[str, Any]], truth: GroundTruth) -> None:
    position = {id_: index for index, id_ in enumerate(truth.image_ids)}
    for index, entry in enumerate(entries):
        width, height = map(int, truth.image_sizes[position[entry["image_id"]]])
        try:
            check_segment(entry["segmentation"], height, width)
        except ValueError as error:
            raise ScoreError(
                f"{name}: {place.format(index)}: segmentation {error}; write it for its image as it is"
            ) from error


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
