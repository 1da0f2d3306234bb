"""How many objects proposals find, whatever their class: COCO's average recall for proposals.

Within an image, proposals are taken in their order, and at each IoU threshold one takes the free object that it
overlaps most, the later one of equals. The recall is the share of all objects that are found; AR is its mean over IoU
.50:.05:.95 (J. Hosang, R. Benenson, P. Dollár, B. Schiele, "What makes for effective detection proposals?", 2015, and
COCO's evaluation code with `useCats = 0`). Crowds and difficult objects are neither to be found nor in the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.data import GroundTruth
from ops.compiled import compiled

__all__ = ["BUDGETS", "PROTOCOL", "proposal_recall"]

BUDGETS = (100, 300, 1_000, 2_000)
"""How many proposals of an image are looked at, the first ones."""

_THRESHOLDS = np.linspace(0.5, 0.95, 10)

PROTOCOL: dict[str, Any] = {
    "classes": "not told apart",
    "iou": [round(float(threshold), 2) for threshold in _THRESHOLDS],
    "budgets": list(BUDGETS),
    "order": "as proposed",
    "ignored": "iscrowd, difficult",
}
"""What the numbers depend on, for the Record."""


def proposal_recall(
    truth: GroundTruth,
    proposals: Mapping[int | str, NDArray[np.float64]],
    budgets: Sequence[int] = BUDGETS,
) -> dict[str, float | int | None]:
    """Recall within the first proposals of each image, as fractions; None where there is nothing to be found.

    Args:
        truth: What is to be found.
        proposals: By image id: x, y, width, height `[P, 4]`, the likeliest first. An image that is left out has none.
        budgets: How many of an image are looked at.

    Returns:
        `AR100`, `AR300`, ... and, at IoU .5 alone, `recall50_100`, `recall50_300`, ... (the budgets); `per_image`, the
        mean number of proposals, and `most`, the largest.

    Raises:
        ValueError: Boxes are not `[P, 4]`, or are not finite.
    """
    counted = ~(truth.crowd | truth.difficult)
    places, numbers = [], []
    for position, identity in enumerate(truth.image_ids):
        boxes = np.ascontiguousarray(proposals.get(identity, np.zeros((0, 4))), dtype=np.float64)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
            raise ValueError(f"image {identity!r}: proposals must be finite boxes [P, 4], got {boxes.shape}")
        numbers.append(len(boxes))
        wanted = truth.boxes[counted & (truth.image == position)]
        if len(wanted):
            places.append(_places(np.ascontiguousarray(wanted), boxes, _THRESHOLDS))
    found = np.concatenate(places, axis=1) if places else None
    recall = {most: None if found is None else (found < most).mean(axis=1) for most in budgets}
    return {
        **{f"AR{most}": None if by_iou is None else float(by_iou.mean()) for most, by_iou in recall.items()},
        **{f"recall50_{most}": None if by_iou is None else float(by_iou[0]) for most, by_iou in recall.items()},
        "per_image": float(np.mean(numbers)) if numbers else 0.0,
        "most": max(numbers, default=0),
    }


@compiled
def _places(
    objects: NDArray[np.float64], boxes: NDArray[np.float64], thresholds: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Place of the proposal that takes each object `[T, M]`; beyond all places where none does."""
    count = len(objects)
    beyond = np.int64(1) << 62
    places = np.full((len(thresholds), count), beyond)
    overlaps = np.empty(count)
    for place in range(len(boxes)):
        x, y, width, height = boxes[place]
        largest = 0.0
        for m in range(count):
            left, top, w, h = objects[m]
            across = min(x + width, left + w) - max(x, left)
            down = min(y + height, top + h) - max(y, top)
            shared = across * down if across > 0 and down > 0 else 0.0
            overlaps[m] = shared / (width * height + w * h - shared) if shared > 0 else 0.0
            largest = max(largest, overlaps[m])
        for t in range(len(thresholds)):
            best = min(thresholds[t], 1 - 1e-10)
            if largest < best:
                break
            taken = -1
            for m in range(count):
                if places[t, m] == beyond and overlaps[m] >= best:
                    best = overlaps[m]
                    taken = m
            if taken >= 0:
                places[t, taken] = place
    return places
