"""Level S: whether a detector is on the front of speed and accuracy, time and AP of all small detectors drawn together.

A detector is on the front where no other is both faster and at least as accurate. Its AP is drawn from Student's
distribution about the mean of its seeds where there are three, else from the interval over the images of one; its time
from medians of its images, drawn again, times what the median of one detector moved from one run to another.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmarks.claims.evidence import Arm, Evidence
from benchmarks.claims.ledger import Claim, Rule, Verdict
from benchmarks.claims.timed import by_image
from benchmarks.claims.verdicts import LEAST_SEEDS, Word, student

__all__ = ["RULES"]

_TEST = "shapes test"
_REFINEDET = "refinedet320_vgg16"
_DRAWS = 2_000
_HOLDS = 0.95


@dataclass(frozen=True)
class _Point:
    """A detector's AP in percent and its seconds, drawn `[D]` and in words, and the Records that they rest on."""

    name: str
    accuracy: NDArray[np.float64]
    seconds: NDArray[np.float64]
    told: str
    places: tuple[str, ...]


def _refinedet(_: Claim, found: Evidence) -> Verdict:
    # Whatever leaves a part of RefineDet out is RefineDet still.
    others = [name for name in found.detectors(_TEST) if " " not in name and not name.startswith("refinedet")]
    chance = np.random.default_rng(0)
    own = _point(found, _REFINEDET, chance)
    known = [point for name in others if (point := _point(found, name, chance)) is not None]
    if own is None or not known:
        lacking = _REFINEDET if own is None else "the other detectors"
        return Verdict("cannot tell", wanted=f"AP with its interval and latency of {lacking} on {_TEST}, same weights")
    beaten = np.array([(one.seconds < own.seconds) & (one.accuracy >= own.accuracy) for one in known])
    share = float(1 - beaten.any(0).mean())
    by = sorted(zip(beaten.mean(1).tolist(), known, strict=True), key=lambda pair: -pair[0])
    word: Word = "holds" if share >= _HOLDS else "fails" if share <= 1 - _HOLDS else "cannot tell"
    figure = f"on the front in {100 * share:.1f} % of {_DRAWS:,} draws of {1 + len(known)} detectors: {own.told}"
    figure += "".join(f"; beaten in {100 * often:.0f} % by {one.told}" for often, one in by[:3] if often > 0)
    rivals = [one for often, one in by if often > 1 - _HOLDS]
    places = [place for one in (own, *rivals) for place in one.places]
    wanted = f"{_named(own, rivals)} timed side by side, with {LEAST_SEEDS} seeds each" if word == "cannot tell" else ""
    return Verdict(word, figure, rests_on=tuple(places), wanted=wanted)


def _named(own: _Point, rivals: list[_Point]) -> str:
    return ", ".join(one.name for one in (own, *rivals[:5])) + (" and others" if len(rivals) > 5 else "")


def _point(found: Evidence, name: str, chance: np.random.Generator) -> _Point | None:
    """None where AP, its interval or the time lacks, or where these are of other weights."""
    arm, timed = found.arm(name, _TEST), found.latency(name, _TEST)
    hashes = {one.record.weights.sha256 for one in arm.values() if one.record.weights is not None}
    if timed is None or timed.record.weights is None or timed.record.weights.sha256 not in hashes:
        return None
    values = [100 * one.record.metrics["stats"]["AP"] for one in arm.values()]
    accuracy = _accuracy(values, arm, chance)
    if accuracy is None:
        return None
    images = by_image(timed, "end_to_end")
    told = f"{name} {statistics.fmean(values):.1f} AP in {1000 * statistics.median(images):.1f} ms"
    places = (*(one.place for one in arm.values()), timed.place)
    return _Point(name, accuracy, _seconds(images, found.moves, chance), told, places)


def _accuracy(values: list[float], arm: Arm, chance: np.random.Generator) -> NDArray[np.float64] | None:
    if len(values) >= LEAST_SEEDS:
        known = student(values)
        draws = chance.standard_t(len(values) - 1, size=_DRAWS)
        return known.mean + known.deviation / math.sqrt(len(values)) * draws
    first = next(iter(arm.values())).record.metrics
    ends = first.get("intervals", {}).get("stats", {}).get("AP")
    if ends is None:
        return None
    deviation = 100 * (ends[1] - ends[0]) / 2 / NormalDist().inv_cdf(0.975)
    return chance.normal(values[0], deviation, size=_DRAWS)


def _seconds(images: list[float], moves: tuple[float, ...], chance: np.random.Generator) -> NDArray[np.float64]:
    medians: NDArray[np.float64] = np.median(
        np.array(images)[chance.integers(len(images), size=(_DRAWS, len(images)))], axis=1
    )
    # What lies between two runs is the sum of what moved either of them.
    moved = np.log(moves or (1.0,)) / math.sqrt(2)
    return medians * np.exp(chance.choice(moved, _DRAWS) * chance.choice((-1, 1), _DRAWS))


RULES: tuple[Rule, ...] = (
    Rule("refinedet-front", "S", "in 95 % of joint draws no other small detector is both faster and at least as "
         "accurate as RefineDet320, on this machine; fails under 5 %", _refinedet, "measured"),
)  # fmt: skip
