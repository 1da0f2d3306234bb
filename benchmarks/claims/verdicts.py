"""What an interval says of a claim: one function, and the statistics around it. Nothing here knows a detector.

A difference is taken seed by seed, both sides trained with the same one, and its interval is Student's over the seeds:
what another seed would have given. It does not hold what other test images would have given; where detections are kept
image by image, `benchmarks.metrics.comparison` tells that.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from scipy.stats import norm, t

__all__ = ["LEAST_SEEDS", "WORDS", "Interval", "Word", "decide", "holm", "seeds_to_decide", "student"]

Word = Literal[
    "holds",
    "holds, but too small to matter",
    "fails",
    "equal",
    "cannot tell",
    "print error",
    "not measured",
]
WORDS: tuple[Word, ...] = get_args(Word)

LEAST_SEEDS = 3
"""Fewer trainings than this decide nothing."""

_LEVEL = 0.95
_POWER = 0.8
_MOST_SEEDS = 1_000


@dataclass(frozen=True)
class Interval:
    """The mean of some differences and where it lies.

    Attributes:
        mean: Of the values.
        low: Lower end of the 95 % interval of the mean; None of one value.
        high: Upper end.
        values: What was averaged, a value a seed.
    """

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]

    @property
    def deviation(self) -> float:
        """Standard deviation (n - 1) of the values; nan of one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    @property
    def half_width(self) -> float | None:
        """Half of the interval's length."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def p_above(self, limit: float) -> float | None:
        """How likely values as far above `limit` are, were their mean at it; None of one value."""
        if len(self.values) < 2:
            return None
        if self.deviation == 0:
            return 0.0 if self.mean > limit else 1.0
        error = self.deviation / math.sqrt(len(self.values))
        return float(t.sf((self.mean - limit) / error, len(self.values) - 1))


def student(values: Sequence[float]) -> Interval:
    """Student's interval of the mean of independent values.

    Raises:
        ValueError: There are none.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, None, None, tuple(values))
    reach = _reach(len(values)) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - reach, mean + reach, tuple(values))


def decide(
    low: float,
    high: float,
    *,
    limit: float = 0.0,
    matters: float = 1.0,
    fails_under: float = 0.0,
    same_sign: bool = True,
    equal_within: float | None = None,
) -> Word:
    """The verdict on a claim that a difference is over `limit`, from the difference's interval.

    Args:
        low: Lower end of the interval.
        high: Upper end.
        limit: What the claim says the difference exceeds; 0 for "better", 5 for "better by more than five points".
        matters: Least difference that is of account.
        fails_under: The claim fails where the whole interval lies under this.
        same_sign: Whether every seed alone lies on the mean's side of the limit.
        equal_within: Where the claim is that there is no difference: the margin. `limit` does not count then.

    Returns:
        `holds` where the interval lies over the limit and all seeds agree; with all of it under `matters`, too small
        to matter. `fails` where it lies under `fails_under`, or does not clear the limit and excludes an effect that
        matters. `equal` where a margin is given and the interval lies within it; `fails` where it lies beyond. Else
        `cannot tell`. No end of an interval counts as inside.

    Raises:
        ValueError: The ends are no interval.
    """
    if not low <= high:
        raise ValueError(f"{low} to {high} is no interval")
    if equal_within is not None:
        if -equal_within < low and high < equal_within:
            return "equal"
        return "fails" if low > equal_within or high < -equal_within else "cannot tell"
    if low > limit:
        if not same_sign:
            return "cannot tell"
        return "holds, but too small to matter" if high < matters else "holds"
    return "fails" if high < fails_under or high < matters else "cannot tell"


def seeds_to_decide(found: Interval, *, limit: float = 0.0, matters: float = 1.0) -> int | None:
    """With how many seeds a verdict could be expected four times in five, if mean and deviation stay as they are.

    Either the interval is to clear the limit, or to stay under what matters, whichever needs fewer. None where more
    than a thousand would be needed, or where one value tells no deviation.
    """
    if len(found.values) < 2:
        return None
    distance = max(found.mean - limit, matters - found.mean)
    if distance <= 0:
        return None
    for seeds in range(max(LEAST_SEEDS, len(found.values) + 1), _MOST_SEEDS + 1):
        wanted = (_reach(seeds) + float(norm.ppf(_POWER))) * found.deviation / math.sqrt(seeds)
        if wanted <= distance:
            return seeds
    return None


def holm(p_values: Sequence[float], level: float = 1 - _LEVEL) -> list[bool]:
    """Which of several findings survive together, by Holm's method ("A simple sequentially rejective multiple test
    procedure", 1979): the chance that any of them is wrong stays under `level`.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    survive = [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > level / (len(p_values) - rank):
            break
        survive[index] = True
    return survive


def _reach(count: int) -> float:
    return float(t.ppf((1 + _LEVEL) / 2, count - 1))
