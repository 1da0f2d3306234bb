"""Level F: checkpoints as their authors published them, on real photographs. Returns numbers, and judges nothing."""

from __future__ import annotations

from typing import Any

from benchmarks.claims.measure.running import Scored, gains, scored
from benchmarks.datasets import Dataset
from benchmarks.evaluate import Subject, category_of_label, detect
from benchmarks.metrics import load_ground_truth

__all__ = ["SIZES", "input_sizes"]

SIZES = (224, 320, 416)
"""Sides of the input; the weights were trained for the middle one."""

_NAMES = ("AP", "AP_S", "AP_M", "AP_L")


def input_sizes(subject: Subject, dataset: Dataset, images: int | None = None) -> dict[str, Any]:
    """AP by size of object of one set of weights at several inputs, and what the largest gains over the smallest.

    Gains have intervals from resampled images, the same ones at both inputs, in points.
    """
    model: Any = subject.model
    categories = category_of_label(dataset, model.num_classes, subject.class_names)
    truth = load_ground_truth(dataset.coco())
    own, found = model.size, dict[int, Scored]()
    try:
        for size in SIZES:
            model.resize(size)
            found[size] = scored(truth, detect(model, dataset, categories=categories, limit=images))
    finally:
        model.resize(own)
    return {
        "by_size": {str(size): one.points(_NAMES) for size, one in found.items()},
        "gains": gains(found[SIZES[-1]], found[SIZES[0]], _NAMES, ("AP_S", "AP_L")),
    }
