"""Level X: the evaluator on detections of which the score is known. Nothing is judged here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.metrics import score

__all__ = ["edge", "false_share", "perfect", "ranked"]

_SIDE = 40.0


def _truth(objects: int) -> dict[str, Any]:
    boxes = [[60.0 * index, 0.0, _SIDE, _SIDE] for index in range(objects)]
    return {
        "images": [{"id": 1, "width": 4000, "height": 400}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [
            {"id": 1 + index, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for index, box in enumerate(boxes)
        ],
    }


def _answers(hits: Sequence[bool]) -> list[dict[str, Any]]:
    """One detection a rank: the next object that is not found yet, or a place where none is."""
    found, rows = 0, []
    for rank, hit in enumerate(hits):
        box = [60.0 * found, 0.0, _SIDE, _SIDE] if hit else [60.0 * rank, 200.0, _SIDE, _SIDE]
        found += hit
        rows.append({"image_id": 1, "category_id": 1, "bbox": box, "score": 0.99 - 0.01 * rank})
    return rows


def _three(truth: dict[str, Any], answers: list[dict[str, Any]]) -> dict[str, float | None]:
    """AP at IoU 0.5 by 101 points, by 11 points and by area."""
    found = score(truth, answers)
    return {"points_101": found["stats"]["AP50"], "points_11": found["voc"]["mAP07"], "area": found["voc"]["mAP10"]}


def ranked(hits: Sequence[bool] = (True, True, False, False, True), objects: int = 3) -> dict[str, float | None]:
    """AP of ranked hits and misses, as the lecture has them for dogs."""
    return _three(_truth(objects), _answers(hits))


def perfect(objects: int = 4) -> dict[str, Any]:
    """AP with false boxes below all true ones, and with one above the last."""
    truth = _truth(objects)
    below = {str(k): _three(truth, _answers([True] * objects + [False] * k)) for k in (0, 1, 5, 20)}
    above = _three(truth, _answers([True] * (objects - 1) + [False, True]))
    return {"below": below, "above": above}


def edge() -> dict[str, float | None]:
    """AP of one box that overlaps its object by exactly one half."""
    truth = _truth(1)
    return _three(truth, [{"image_id": 1, "category_id": 1, "bbox": [0.0, 0.0, _SIDE, _SIDE / 2], "score": 0.9}])


def false_share(objects: int = 10) -> dict[str, float]:
    """Perfect boxes for half the objects and no other box: FD5, and the share of boxes that overlap nothing."""
    found = score(_truth(objects), _answers([True] * (objects // 2)))
    return {"FD5": float(found["fd"]["FD5"]), "share": 0.0}
