"""Has a detector lost accuracy, has it not, or can these images not tell?

The detector is set against its reference on the same images: both are scored on the same resamples, so that what an
easy or a hard image does to both cancels. Let `difference` be new less reference, and let its two bounds be those of
its 95 % interval, each wrong one time in forty.

* FAIL: the drop is certain (the upper bound lies below 0) and no smaller than the margin.
* PASS: a drop as large as the margin can be ruled out (the lower bound lies above it).
* INCONCLUSIVE: neither; with the number of images of which a verdict could be expected.

The margin says which loss is of no account; what it may not do is to call chance a loss, or few images a proof. Where
the reference's detections are not known, its score is held to be one of other images, which is the worst case: unless
every number is the same, there is less power, and the gate says so.

How large a drop is found four times in five (`detectable`) depends on how the detections differ. Stated is a loss that
programs are prone to: a share of the objects, any of them, is no longer found.

Simulated (`python -m benchmarks gate-rates`, 480 sets of 300 images, 200 resamples, margin 0.5): without a change 0 %
FAIL on another machine and 2.9 % (1.7 to 4.8) after another training; twice the detectable drop FAILs always (99.2 % or
more). The detectable drop itself FAILs 75.2 % of the time (71.2 to 78.9) and not 80 %: the formula is a little too
hopeful. Bounds that are each wrong one time in twenty came first, and were given up because 7.1 % (4.5 to 11.0, 240
sets) of the trainings without a change FAILed; the figures above are from other seeds than that choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.bootstrap import TOTALS, resample
from benchmarks.metrics.coco import COCO, accumulate, coco_stats
from benchmarks.metrics.intervals import interval
from benchmarks.metrics.matching import CAP, NEITHER, RIGHT, Matches

__all__ = ["DRAWS", "Judgement", "Outcome", "detectable_drop", "judge", "judge_unpaired", "lost_drop", "resolved"]

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]

DRAWS = 1_000
_LEVEL = 0.975
_POWER = 0.8
_CERTAIN = NormalDist().inv_cdf(_LEVEL)
_USUAL = NormalDist().inv_cdf(_POWER)
_ROUNDING = 1e-12
"""What is equal passes, and has not risen, whatever the last digit of a sum says."""

_LOST = 0.05
"""Share of the objects that is taken away to learn how a loss spreads."""


@dataclass(frozen=True)
class Judgement:
    """What became of one number; fractions, not points.

    Attributes:
        outcome: See above.
        number: One of `TOTALS`.
        reference: What it was.
        measured: What it is.
        low: The drop is hardly larger: one time in forty,
        high: and hardly smaller, likewise. None where too few images hold an object.
        margin: A drop below this is of no account.
        paired: Whether the reference's detections were known.
        images: How many.
        needed: Of how many images a verdict could be expected, where there is none; None where no number would do.
        detectable: Drop that is found four times in five; None where it is not known.
    """

    outcome: Outcome
    number: str
    reference: float
    measured: float
    low: float | None
    high: float | None
    margin: float
    paired: bool
    images: int
    needed: int | None = None
    detectable: float | None = None

    @property
    def difference(self) -> float:
        """New less reference."""
        return self.measured - self.reference

    def __str__(self) -> str:
        text = f"{self.outcome}: {self.number} {100 * self.measured:.2f}, reference {100 * self.reference:.2f}"
        if self.low is None or self.high is None:
            return f"{text}; too few of the {self.images} images hold an object to be found"
        text += f", difference {100 * self.difference:+.2f} ({100 * self.low:+.2f} to {100 * self.high:+.2f})"
        text += f", margin {100 * self.margin:g}"
        if not self.paired:
            text += "; the reference's detections are not known, so it counts as one of other images"
        if self.outcome == "INCONCLUSIVE":
            text += "; no number of images would decide" if self.needed is None else f"; {self.needed:,} images would"
            text += "" if self.needed is None else f" decide, there are {self.images:,}"
        if self.outcome == "PASS" and self.low > _ROUNDING:
            text += "; it has risen: if that is right, make it the new reference"
        return text


def judge(
    reference: Matches,
    measured: Matches,
    values: tuple[float, float],
    *,
    number: str = "AP",
    margin: float,
    draws: int = DRAWS,
    seed: int = 0,
    power: bool = True,
) -> Judgement:
    """Set a detector against its reference on the same images.

    Args:
        reference: Matches of the reference,
        measured: and of what is now.
        values: Score of the reference, and of what is now, as fractions.
        number: Which score, one of `TOTALS` that rises with accuracy.
        margin: A drop below this, as a fraction, is of no account.
        draws: Resamples.
        seed: Of them.
        power: Whether to find out what is `detectable`.

    Raises:
        ValueError: The images are not the same many, the margin is no fraction, or the number is none of `TOTALS`.
    """
    if reference.images != measured.images:
        raise ValueError(f"the reference has {reference.images} images and this test {measured.images}")
    column = _column(number)
    samples = [resample(one, draws, seed).totals[:, column] for one in (reference, measured)]
    found = _judged(values, samples[1] - samples[0], number, margin, measured.images)
    if not power:
        return found
    return replace(found, detectable=detectable_drop(reference, number=number, margin=margin, seed=seed))


def judge_unpaired(
    measured: Matches,
    values: tuple[float, float],
    *,
    same: bool,
    number: str = "AP",
    margin: float,
    draws: int = DRAWS,
    seed: int = 0,
) -> Judgement:
    """The same without the reference's detections.

    Args:
        measured: Matches of what is now.
        values: As for `judge`.
        same: Whether all of COCO's numbers equal those of the reference, so that nothing can have changed.
        number: As for `judge`.
        margin: As for `judge`.
        draws: As for `judge`.
        seed: As for `judge`.
    """
    sample = resample(measured, draws, seed).totals[:, _column(number)]
    # Two sets of images that are nothing to each other: a draw of one meets another draw of the other.
    apart = sample - np.roll(sample, draws // 2) + (values[1] - values[0])
    differences = np.zeros(draws) if same else apart
    found = _judged(values, differences, number, margin, measured.images)
    spread = float(np.nanstd(sample, ddof=1)) * math.sqrt(2)
    return replace(found, paired=False, detectable=_found_usually(spread, margin))


def resolved(found: Judgement) -> float:
    """The drop that would FAIL four times in five if the detections went on to differ as much as they do here."""
    if found.low is None or found.high is None:
        raise ValueError("of a judgement without bounds it is not known what it can tell")
    return _found_usually((found.high - found.low) / 2 / _CERTAIN, found.margin)


def _found_usually(spread: float, margin: float) -> float:
    """Beyond what a drop must lie to FAIL, and so far beyond that four estimates in five do."""
    return max(margin, _CERTAIN * spread) + _USUAL * spread


def _column(number: str) -> int:
    if number not in TOTALS or number.startswith("FD"):
        known = ", ".join(name for name in TOTALS if not name.startswith("FD"))
        raise ValueError(f"{number!r} cannot be gated; choose one of {known}")
    return TOTALS.index(number)


def _judged(
    values: tuple[float, float], differences: NDArray[np.float64], number: str, margin: float, images: int
) -> Judgement:
    if not 0 <= margin < 1:
        raise ValueError(f"margin {margin} must be a fraction, from 0 to less than 1")
    difference = values[1] - values[0]
    ends = interval(difference, differences, level=2 * _LEVEL - 1)
    low, high = (None, None) if ends is None else ends
    found = Judgement("INCONCLUSIVE", number, *values, low, high, margin, True, images)
    if ends is None:
        return found
    if ends[0] >= -margin - _ROUNDING:
        return replace(found, outcome="PASS")
    if ends[1] < 0 and difference <= -margin:
        return replace(found, outcome="FAIL")
    return replace(found, needed=_images_needed(difference, ends, images, margin))


def _images_needed(difference: float, ends: tuple[float, float], images: int, margin: float) -> int | None:
    """Of how many images a verdict could be expected four times in five, if the difference stays as it is."""
    deviation = (ends[1] - ends[0]) / 2 / _CERTAIN
    # Beyond the margin the drop must become certain; short of it, the margin must be ruled out.
    room = -difference if difference <= -margin else difference + margin
    if room <= 0:
        return None
    return max(images + 1, math.ceil(images * ((_CERTAIN + _USUAL) * deviation / room) ** 2))


def detectable_drop(
    reference: Matches, *, number: str = "AP", margin: float, draws: int = 300, seed: int = 0
) -> float | None:
    """The drop that FAILs four times in five if a share of the objects is no longer found; None where it is not known.

    Each object is lost independently, so the drop grows with the share and the deviation of its estimate with the root
    of it: `deviation = k * sqrt(drop)`. `k` is read off one loss of a twentieth.

    Args:
        reference: Its matches.
        number: As for `judge`.
        margin: As for `judge`.
        draws: Resamples.
        seed: Of them and of what is lost.
    """
    column = _column(number)
    lost = _without(reference, _LOST, seed)
    whole, less = (resample(one, draws, seed).totals[:, column] for one in (reference, lost))
    drop, spread = float(np.nanmean(whole - less)), float(np.nanstd(whole - less, ddof=1))
    if not drop > 0:
        return None
    k = spread / math.sqrt(drop)
    # drop = (certain + usual) * deviation, and drop = margin + usual * deviation: the larger one holds.
    certain = ((_CERTAIN + _USUAL) * k) ** 2
    root = (_USUAL * k + math.sqrt((_USUAL * k) ** 2 + 4 * margin)) / 2
    return max(certain, root**2)


def lost_drop(reference: Matches) -> float:
    """The drop of AP if no object is found any more, taken from the loss of a twentieth: `drop / share`."""
    losses = [_average(reference) - _average(_without(reference, _LOST, seed)) for seed in range(4)]
    return float(np.mean(losses)) / _LOST


def _average(matches: Matches) -> float:
    return coco_stats(accumulate(matches))["AP"] or 0.0


def _without(matches: Matches, share: float, seed: int) -> Matches:
    """The same without a share of the detections that found an object, which are gone altogether."""
    coco = np.uint32(sum(1 << t for t in range(COCO.start, COCO.stop)))
    right = ((matches.matched[:, 0] & coco) != 0) | (matches.voc == RIGHT)
    gone = right & (np.random.default_rng((seed, 5)).random(len(right)) < share)
    return replace(
        matches,
        rank=np.where(gone, CAP, matches.rank).astype(matches.rank.dtype),
        matched=np.where(gone[:, None], 0, matches.matched).astype(matches.matched.dtype),
        voc=np.where(gone, NEITHER, matches.voc).astype(matches.voc.dtype),
    )
