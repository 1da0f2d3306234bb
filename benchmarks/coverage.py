"""Do intervals keep their promise? Sets of images are drawn from a population whose score is known.

The population is made up: images differ in how hard they are, so that detections of one image are alike and only whole
images are independent, as in real data sets. Each draw is a set of its own with its own intervals; `held` is how often
these hold the target. There are two targets: what sets of this size score on average, and what the whole population
scores. The first is what a score is compared with; the second is lower in AP, because few images flatter a detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import binomtest

from benchmarks.metrics import load_detections, load_ground_truth, match, score_matches
from benchmarks.metrics.bootstrap import TOTALS, Resampled, resample
from benchmarks.metrics.intervals import METHODS, Method, interval

__all__ = ["Coverage", "as_json", "cover", "population", "print_coverage"]

CLASSES = 4
_WHOLE = 10_000
"""Images that stand for the whole population."""


@dataclass(frozen=True)
class Coverage:
    """How often the intervals of one number held.

    Attributes:
        number: One of `TOTALS`.
        method: Of the interval.
        target: `same size` or `population`.
        held: Share of the sets.
        low: Of the 95 % interval of that share,
        high: by Wilson's formula.
        width: Mean width of the intervals, as a fraction.
    """

    number: str
    method: Method
    target: str
    held: float
    low: float
    high: float
    width: float


def population(images: int, seed: Sequence[int]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """So many images of the population: COCO's ground truth, and results of a middling detector."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []

    def detect(image: int, label: int, box: Sequence[float], score: float) -> None:
        detections.append({"image_id": image, "category_id": label, "bbox": list(box), "score": score})

    for image in range(1, images + 1):
        hard = rng.normal()
        for _ in range(1 + rng.poisson(2)):
            label = int(rng.integers(1, CLASSES + 1))
            w, h = np.exp(rng.normal(3.8, 0.8, 2)).clip(5, 300).tolist()
            x, y = rng.uniform(0, 300, 2).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image, "category_id": label, "bbox": [x, y, w, h],
                    "area": w * h, "iscrowd": 0,
                }
            )  # fmt: skip
            if rng.random() < 1 / (1 + np.exp(hard - 1.3)):
                off = rng.normal(0, 0.06 + 0.03 * max(hard, 0), 4)
                seen = label if rng.random() < 0.93 else int(rng.integers(1, CLASSES + 1))
                box = (x + off[0] * w, y + off[1] * h, w * np.exp(off[2]), h * np.exp(off[3]))
                detect(image, seen, box, float(rng.beta(4, 2)))
            if rng.random() < 0.15:
                detect(image, label, (x + 0.1 * w, y + 0.1 * h, w, h), float(rng.beta(2, 3)))
        for _ in range(rng.poisson(2 + max(hard, 0))):
            w, h = np.exp(rng.normal(3.8, 0.8, 2)).tolist()
            x, y = rng.uniform(0, 300, 2).tolist()
            detect(image, int(rng.integers(1, CLASSES + 1)), (x, y, w, h), float(rng.beta(2, 4)))
    truth = {
        "images": [{"id": i, "width": 640, "height": 640} for i in range(1, images + 1)],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)],
        "annotations": annotations,
    }
    return truth, detections


def cover(
    images: int, sets: int = 400, draws: int = 400, seed: int = 0, *, whole: int = _WHOLE, quiet: bool = False
) -> list[Coverage]:
    """Draw sets and count how often each method's intervals hold.

    Args:
        images: Of a set.
        sets: How many.
        draws: Resamples a set.
        seed: Of everything.
        whole: Images of the population.
        quiet: No progress.
    """
    in_all, _ = _measure(whole, (seed, 0), 0, 0)
    steps = range(1, sets + 1)
    console = Console(stderr=True)
    turns = steps if quiet else track(steps, f"{sets} sets of {images} images", console=console)
    found = [_measure(images, (seed, turn), draws, seed + turn) for turn in turns]
    average = np.nanmean([values for values, _ in found], axis=0)
    answer = []
    for target, wanted in (("same size", average), ("population", in_all)):
        for column, number in enumerate(TOTALS):
            for method in METHODS:
                ends = [interval(values[column], sample.totals[:, column], method=method) for values, sample in found]
                known = [pair for pair in ends if pair is not None]
                held = sum(low <= wanted[column] <= high for low, high in known)
                width = float(np.mean([high - low for low, high in known])) if known else float("nan")
                answer.append(Coverage(number, method, target, *_share(held, len(known)), width))
    return answer


def _measure(images: int, seed: Sequence[int], draws: int, draw_seed: int) -> tuple[np.ndarray, Resampled]:
    truth, detections = population(images, seed)
    read = load_ground_truth(truth)
    results = load_detections(detections, read)
    matches = match(read, results)
    scores = score_matches(read, results, matches)
    values = {**scores["stats"], **scores["fd"], **scores["voc"]}
    numbers = np.array([np.nan if values[name] is None else values[name] for name in TOTALS])
    return numbers, resample(matches, draws, draw_seed)


def _share(hits: int, count: int) -> tuple[float, float, float]:
    """A share and its 95 % interval by Wilson's formula; NaN of nothing."""
    if not count:
        return float("nan"), float("nan"), float("nan")
    ends = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    return hits / count, float(ends.low), float(ends.high)


def print_coverage(found: Sequence[Coverage]) -> None:
    """A row a number, a column a method, a table a target."""
    for target in ("same size", "population"):
        table = Table("held, %", *METHODS, title=f"target: score of the {target}")
        for number in TOTALS:
            rows = {one.method: one for one in found if (one.number, one.target) == (number, target)}
            table.add_row(number, *(f"{100 * rows[method].held:.1f}" for method in METHODS))
        Console().print(table)


def as_json(found: Sequence[Coverage]) -> list[dict[str, Any]]:
    """Rows that JSON can hold; None for what is not defined."""
    return [{key: None if value != value else value for key, value in asdict(one).items()} for one in found]
