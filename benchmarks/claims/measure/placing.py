"""Level S: which objects a detector finds and how exactly its boxes lie on them, so that two detectors can be set
against each other on the same objects. Each function returns numbers, and judges nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from benchmarks.claims.measure.boxes import overlap_with_another
from benchmarks.claims.measure.running import seen
from benchmarks.datasets import Dataset
from benchmarks.evaluate import Subject
from ops.structures import Detections, Target
from zoo.dense.densebox import DenseBox

__all__ = ["OVERLAPS", "met_in_pairs", "placed"]

OVERLAPS = (0.0, 0.2, 0.4, 0.6)
"""Bounds of the bins of IoU between objects."""

_LOOSE = 0.65
"""IoU above which boxes suppress each other where objects overlap: over the last bin, so that it takes none of them."""


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
    floor, count = _as_many(answers, objects), sum(map(len, objects))
    rows = [_of_objects(*one, floor) for one in zip(answers, objects, strict=True)]
    found = torch.cat(rows)
    return {
        "objects": count,
        "found": int((found > 0).sum()),
        "mean": 100 * float(found[found > 0].mean()) if bool((found > 0).any()) else None,
        "ious": [[round(value, 4) if value > 0 else None for value in row.tolist()] for row in rows],
    }


def met_in_pairs(subject: Subject, dataset: Dataset, images: int) -> dict[str, Any]:
    """Recall in percent of objects that overlap another of their class, by the largest such IoU, and of those alone.

    Its `fall` is from the first bin to the last.

    A box finds an object as in `placed`. That a lesser box of two on neighbours is suppressed would say nothing of what
    the network learned, so that here boxes may overlap by more than the objects of the last bin do. How sure a box must
    be is not changed by that: as sure as the last of as many boxes as there are objects, suppressed as usual.
    """
    model: Any = subject.model
    name = "nms" if isinstance(model, DenseBox) else "nms_iou"
    own = getattr(model, name)
    usual: list[Detections] = []
    loose: list[Detections] = []
    objects = []
    try:
        for _, image, target in seen(dataset, images, "pairs"):
            batch = model.preprocess([image])
            outputs = model.network(batch)
            for answers, iou in ((usual, own), (loose, _LOOSE)):
                setattr(model, name, iou)
                answers += model.postprocess(outputs, batch)
            objects.append(target[~target.ignore])
    finally:
        setattr(model, name, own)
    floor = _as_many(usual, objects)
    found = torch.cat([_of_objects(*one, floor) > 0 for one in zip(loose, objects, strict=True)])
    overlap = torch.cat([overlap_with_another(target.boxes, target.labels) for target in objects])
    bins = [
        {"from": low, "to": high, **_recall(found[(overlap > low) & (overlap <= high)])}
        for low, high in itertools.pairwise(OVERLAPS)
    ]
    ends = bins[0]["recall"], bins[-1]["recall"]
    return {
        "suppression": {"own": own, "here": _LOOSE},
        "alone": _recall(found[overlap == 0]),
        "bins": bins,
        "fall": None if None in ends else ends[0] - ends[1],
    }


def _recall(found: Tensor) -> dict[str, Any]:
    return {"objects": len(found), "recall": 100 * float(found.double().mean()) if len(found) else None}


def _as_many(answers: Sequence[Detections], objects: Sequence[Target]) -> float:
    """The least score among the best boxes of all images, as many as there are objects."""
    scores = torch.cat([answer.scores for answer in answers])
    best = scores.topk(min(sum(map(len, objects)), len(scores))).values
    return float(best[-1]) if len(best) else 0.0


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
