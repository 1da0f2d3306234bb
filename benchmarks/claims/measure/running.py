"""What sweeps share: images one by one, and scores of the first images of a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.datasets import Dataset
from benchmarks.metrics import load_detections, load_ground_truth, match, score_matches
from benchmarks.metrics.bootstrap import TOTALS, Resampled, resample
from benchmarks.metrics.comparison import compare
from benchmarks.metrics.data import GroundTruth
from benchmarks.metrics.intervals import interval
from ops.structures import Target

__all__ = ["Rows", "Scored", "against", "gains", "in_points", "scored", "scores_of", "seen", "truth_of"]

Rows = list[dict[str, Any]]
"""Detections as COCO has them."""


def seen(dataset: Dataset, images: int, what: str) -> Iterator[tuple[int, Tensor, Target]]:
    """Index, image and truth of the first images, with progress; nothing is recorded for gradients."""
    count = min(images, len(dataset))
    for index in track(range(count), f"{what} on {dataset.name} {dataset.split}", console=Console(stderr=True)):
        image, target = dataset[index]
        with torch.inference_mode():
            yield index, image, target


def truth_of(dataset: Dataset, images: int) -> GroundTruth:
    """The truth of the first images."""
    truth = dataset.coco()
    ids = set(dataset.image_ids[:images])
    truth["images"] = [image for image in truth["images"] if image["id"] in ids]
    truth["annotations"] = [thing for thing in truth["annotations"] if thing["image_id"] in ids]
    return load_ground_truth(truth)


def scores_of(truth: GroundTruth, rows: Rows) -> dict[str, Any]:
    """What `benchmarks.metrics.score` says of them."""
    results = load_detections(rows, truth)
    return score_matches(truth, results, match(truth, results))


def against(truth: GroundTruth, first: Rows, second: Rows, draws: int = 200) -> dict[str, Any]:
    """AP and its neighbours of two lists, with intervals of their differences over the images, in points."""
    found = compare(truth, load_detections(first, truth), load_detections(second, truth), draws=draws)["totals"]
    names = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
    return {
        name: {
            "first": in_points(found[name]["first"]),
            "second": in_points(found[name]["second"]),
            "difference": in_points(found[name]["difference"]),
            "interval": None if found[name]["interval"] is None else [100 * end for end in found[name]["interval"]],
        }
        for name in names
    }


@dataclass(frozen=True)
class Scored:
    """What detections score on their images, and on images drawn again; fractions.

    Attributes:
        stats: COCO's numbers.
        drawn: The same of every draw, which are alike for all that is scored on one truth.
    """

    stats: dict[str, float | None]
    drawn: Resampled

    def points(self, names: Sequence[str]) -> dict[str, float | None]:
        """Some of the numbers, in percent."""
        return {name: in_points(self.stats[name]) for name in names}


def scored(truth: GroundTruth, rows: Rows, draws: int = 500) -> Scored:
    """Score detections, and draw their images again."""
    results = load_detections(rows, truth)
    matches = match(truth, results)
    return Scored(score_matches(truth, results, matches)["stats"], resample(matches, draws))


def gains(later: Scored, earlier: Scored, names: Sequence[str], apart: tuple[str, str]) -> dict[str, dict[str, Any]]:
    """What each number gains, in points, and how much more the first of `apart` gains than the second (`A - B`).

    Intervals are over the images, the same ones drawn for both sides.
    """
    draws = {}
    for name in names:
        column = TOTALS.index(name)
        draws[name] = 100 * (later.drawn.totals[:, column] - earlier.drawn.totals[:, column])
    before, after = earlier.points(names), later.points(names)
    found = {name: _gain((after[name] or 0.0) - (before[name] or 0.0), draws[name]) for name in names}
    first, second = apart
    more = found[first]["gain"] - found[second]["gain"]
    return {**found, f"{first} - {second}": _gain(more, draws[first] - draws[second])}


def _gain(gain: float, draws: NDArray[np.float64]) -> dict[str, Any]:
    ends = interval(gain, draws)
    return {"gain": gain, "interval": None if ends is None else list(ends)}


def in_points(value: float | None) -> float | None:
    """A fraction in percent."""
    return None if value is None else 100 * value
