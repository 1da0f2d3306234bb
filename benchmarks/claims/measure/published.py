"""Level F: checkpoints as their authors published them, on real photographs. Returns numbers, and judges nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.claims.measure.running import in_points
from benchmarks.datasets import Dataset
from benchmarks.evaluate import Subject, category_of_label, detect
from benchmarks.metrics import load_detections, load_ground_truth, match, score_matches
from benchmarks.metrics.bootstrap import TOTALS, resample
from benchmarks.metrics.intervals import interval

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
    own, scores, samples = model.size, {}, {}
    try:
        for size in SIZES:
            model.resize(size)
            results = load_detections(detect(model, dataset, categories=categories, limit=images), truth)
            matches = match(truth, results)
            scores[size] = score_matches(truth, results, matches)["stats"]
            samples[size] = resample(matches, 500)
    finally:
        model.resize(own)
    by_size = {str(size): {name: in_points(scores[size][name]) for name in _NAMES} for size in SIZES}
    first, last = SIZES[0], SIZES[-1]
    gains: dict[str, dict[str, Any]] = {}
    draws: dict[str, NDArray[np.float64]] = {}
    for name in _NAMES:
        column = TOTALS.index(name)
        draws[name] = 100 * (samples[last].totals[:, column] - samples[first].totals[:, column])
        gains[name] = _gain(by_size[str(last)][name], by_size[str(first)][name], draws[name])
    both = gains["AP_S"]["gain"] - gains["AP_L"]["gain"]
    gains["AP_S - AP_L"] = _gain(both, 0.0, draws["AP_S"] - draws["AP_L"])
    return {"by_size": by_size, "gains": gains}


def _gain(later: float | None, earlier: float | None, draws: NDArray[np.float64]) -> dict[str, Any]:
    gain = (later or 0.0) - (earlier or 0.0)
    ends = interval(gain, draws)
    return {"gain": gain, "interval": None if ends is None else list(ends)}
