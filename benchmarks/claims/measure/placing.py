"""Level S: how exactly a detector's boxes lie, object by object, so that two detectors can be set against each other
on the objects that both found. Returns numbers, and judges nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from benchmarks.claims.measure.running import seen
from benchmarks.datasets import Dataset
from benchmarks.evaluate import Subject
from ops.structures import Detections, Target

__all__ = ["placed"]


def placed(subject: Subject, dataset: Dataset, images: int) -> dict[str, Any]:
    """IoU of every object with the box that found it, image by image, None where it was not found.

    Of the boxes of all images the best-scoring ones count, as many as there are objects, so that every detector has as
    many guesses. A box of the right class finds the object that it overlaps most of those still free, by 0.5 at least,
    the best-scoring box first. Objects to be ignored do not count.
    """
    answers, objects = [], []
    for _, image, target in seen(dataset, images, "boxes"):
        answers += subject.model([image])
        objects.append(target[~target.ignore])
    count = sum(map(len, objects))
    scores = torch.cat([answer.scores for answer in answers])
    best = scores.topk(min(count, len(scores))).values
    floor = float(best[-1]) if len(best) else 0.0
    rows = [_of_objects(*one, floor) for one in zip(answers, objects, strict=True)]
    found = torch.cat(rows)
    return {
        "objects": count,
        "found": int((found > 0).sum()),
        "mean": 100 * float(found[found > 0].mean()) if bool((found > 0).any()) else None,
        "ious": [[round(value, 4) if value > 0 else None for value in row.tolist()] for row in rows],
    }


def _of_objects(answer: Detections, objects: Target, floor: float) -> Tensor:
    """Of each object, 0 where nothing found it."""
    ious = torch.zeros(len(objects), dtype=torch.float64)
    overlap = box_iou(answer.boxes.double(), objects.boxes.double()) * (answer.labels[:, None] == objects.labels)
    for row in overlap[answer.scores >= floor]:
        if not len(row):
            break
        free = row * (ious == 0)
        nearest = free.argmax()
        if free[nearest] >= 0.5:
            ious[nearest] = free[nearest]
    return ious
