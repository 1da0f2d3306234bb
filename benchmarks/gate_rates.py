"""How often the gate is wrong: sets of images are made up, and detectors on them of which it is known what changed.

Images differ in how hard they are and objects in how hard they are to see, for every detector alike; what a training
made of them is a chance of its own. So there are two ways in which nothing changes (the same weights on another
machine; another training of the same quality) and two ways in which something does (objects that are lost; another
training that loses them too), each by a multiple of the drop that the gate says it finds four times in five.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import binomtest

from benchmarks.metrics import GroundTruth, Matches, Results, load_ground_truth, match
from benchmarks.metrics.regression import DRAWS, Judgement, detectable_drop, judge, lost_drop, resolved
from benchmarks.references import headlines

__all__ = ["Rate", "Scene", "as_json", "error_rates", "print_rates"]

_CLASSES = 3


@dataclass(frozen=True)
class Scene:
    """A set of images, and how hard each object is to find (logit)."""

    truth: GroundTruth
    hard: NDArray[np.float64]

    @classmethod
    def drawn(cls, images: int, rng: np.random.Generator) -> Scene:
        """So many images of the population."""
        counts = 1 + rng.poisson(2, images)
        image = np.repeat(np.arange(images), counts)
        total = len(image)
        sides = np.exp(rng.normal(3.8, 0.6, (total, 2))).clip(8, 250)
        boxes = np.concatenate((rng.uniform(0, 300, (total, 2)), sides), 1)
        labels = rng.integers(1, _CLASSES + 1, total)
        annotations = [
            {"id": n + 1, "image_id": int(i) + 1, "category_id": int(k), "bbox": box, "area": box[2] * box[3]}
            for n, (i, k, box) in enumerate(zip(image, labels, boxes.tolist(), strict=True))
        ]
        truth = {
            "images": [{"id": i + 1, "width": 640, "height": 640} for i in range(images)],
            "categories": [{"id": k, "name": f"class {k}"} for k in range(1, _CLASSES + 1)],
            "annotations": annotations,
        }
        return cls(load_ground_truth(truth), rng.normal(size=images)[image] + rng.normal(size=total) - 1.3)

    def seen(self, training: int, lost: float = 0.0, elsewhere: bool = False) -> Matches:
        """What a detector finds, matched.

        Args:
            training: Seed of all its chances.
            lost: Share of the objects that it does not find any more; those of a smaller share are among them.
            elsewhere: Whether another machine moves boxes and scores by rounding.
        """
        rng, truth = np.random.default_rng((training, 1)), self.truth
        total, images = len(truth.image), len(truth.image_ids)
        noise = rng.normal(size=total)
        found = rng.random(total) < 1 / (1 + np.exp(self.hard + 0.7 * noise))
        off = rng.normal(0, 1, (total, 4)) * (0.05 + 0.02 * np.abs(noise))[:, None]
        score = rng.beta(4, 2, total) - 0.05 * np.abs(noise)
        wrong = rng.poisson(3, images)
        others = np.concatenate(
            (rng.uniform(0, 300, (wrong.sum(), 2)), np.exp(rng.normal(3.8, 0.6, (wrong.sum(), 2)))), 1
        )
        labels, scores = rng.integers(_CLASSES, size=wrong.sum()), rng.beta(2, 4, wrong.sum())
        found &= np.random.default_rng((training, 2)).random(total) >= lost
        boxes = truth.boxes.copy()
        boxes[:, :2] += off[:, :2] * boxes[:, 2:]
        boxes[:, 2:] *= np.exp(off[:, 2:])
        boxes, score = np.concatenate((boxes[found], others)), np.concatenate((score[found], scores))
        if elsewhere:
            boxes = boxes + np.random.default_rng((training, 3)).normal(0, 1e-3, boxes.shape)
            score = score + np.random.default_rng((training, 4)).normal(0, 1e-4, score.shape)
        image = np.concatenate((truth.image[found], np.repeat(np.arange(images), wrong)))
        category = np.concatenate((truth.category[found], labels))
        return match(truth, Results("made up", image, category, boxes, score, ()))


@dataclass(frozen=True)
class Rate:
    """What the gate said of one kind of change.

    Attributes:
        change: Which.
        sets: How many were judged.
        passed, failed, inconclusive: Shares.
        low, high: 95 % interval of `failed`, by Wilson's formula.
        drop: Mean drop of AP that was measured, in points.
    """

    change: str
    sets: int
    passed: float
    failed: float
    inconclusive: float
    low: float
    high: float
    drop: float


def error_rates(
    sets: int = 200, images: int = 300, *, margin: float = 0.5, draws: int = DRAWS, seed: int = 0, quiet: bool = False
) -> list[Rate]:
    """Judge made-up detectors of which it is known what changed.

    Args:
        sets: Sets of images.
        images: Of a set.
        margin: Points of loss that are of no account.
        draws: Resamples a judgement.
        seed: Of everything.
        quiet: No progress.
    """
    console = Console(stderr=True)
    turns = range(sets) if quiet else track(range(sets), f"{sets} sets of {images} images", console=console)
    said: dict[str, list[Judgement]] = {}
    for turn in turns:
        scene = Scene.drawn(images, np.random.default_rng((seed, turn)))
        for change, found in _judged(scene, 2 * (seed * sets + turn), margin / 100, draws, turn).items():
            said.setdefault(change, []).append(found)
    return [_rate(change, found) for change, found in said.items()]


def _judged(scene: Scene, training: int, margin: float, draws: int, seed: int) -> dict[str, Judgement]:
    """All kinds of change on one set of images."""
    reference = scene.seen(training)
    was = headlines(reference)["AP"] or 0.0

    def said(matches: Matches) -> Judgement:
        values = (was, headlines(matches)["AP"] or 0.0)
        return judge(reference, matches, values, margin=margin, draws=draws, seed=seed, power=False)

    detectable = detectable_drop(reference, margin=margin, draws=draws // 3, seed=seed) or 0.0
    share = lost_drop(reference)
    again = said(scene.seen(training + 1))
    coarse = resolved(again)
    return {
        "none: another machine": said(scene.seen(training, elsewhere=True)),
        "none: another training": again,
        "the detectable drop": said(scene.seen(training, lost=detectable / share)),
        "twice the detectable drop": said(scene.seen(training, lost=2 * detectable / share)),
        "twice that of another training": said(scene.seen(training + 1, lost=min(2 * coarse / share, 1.0))),
    }


def _rate(change: str, found: list[Judgement]) -> Rate:
    count = Counter(one.outcome for one in found)
    ends = binomtest(count["FAIL"], len(found)).proportion_ci(0.95, method="wilson")
    passed, failed, unsure = (count[outcome] / len(found) for outcome in ("PASS", "FAIL", "INCONCLUSIVE"))
    drop = -100 * float(np.mean([one.difference for one in found]))
    return Rate(change, len(found), passed, failed, unsure, float(ends.low), float(ends.high), drop)


def print_rates(found: list[Rate]) -> None:
    """A row a change."""
    table = Table(
        "change", "drop of AP", "PASS", "FAIL", "95 % interval", "INCONCLUSIVE", title="what the gate says, %"
    )
    for one in found:
        shares = [f"{100 * share:.1f}" for share in (one.passed, one.failed, one.inconclusive)]
        ends = f"{100 * one.low:.1f} to {100 * one.high:.1f}"
        table.add_row(one.change, f"{one.drop:.2f}", shares[0], shares[1], ends, shares[2])
    Console().print(table)


def as_json(found: list[Rate]) -> list[dict[str, Any]]:
    """Rows that JSON can hold."""
    return [asdict(one) for one in found]
