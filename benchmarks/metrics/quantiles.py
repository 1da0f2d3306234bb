"""Between which samples a quantile lies, whatever the distribution; and who is faster, from pairs of times.

The k-th smallest of n independent samples lies below the quantile of share p as often as a binomial variable of n and p
reaches k, so that two order statistics hold the quantile with a known chance, and nothing need be assumed of the noise.
Where even the largest sample is too seldom beyond the quantile, there is no upper bound, and none is made up. Samples
of a fixed set of images, each as often as the others, have quantiles that are held more often still.

Source: David and Nagaraja, "Order Statistics", 2003, section 7.1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy.stats import binom

__all__ = ["Pace", "compare_times", "quantile_between"]

Pace = Literal["faster", "slower", "same", "cannot tell"]


def quantile_between(samples: Sequence[float], share: float, level: float = 0.95) -> tuple[float | None, float | None]:
    """Samples between which a quantile of the population lies with at least `level`.

    Args:
        samples: In any order.
        share: Of the population below the quantile; 0.5 is the median.
        level: At most half of what is missed lies on either side.

    Returns:
        Low and high; None for a side on which so few samples give no bound.

    Raises:
        ValueError: There are no samples, or the share or the level is not between 0 and 1.
    """
    count, tail = len(samples), (1 - level) / 2
    if not count:
        raise ValueError("no samples, so that nothing bounds a quantile")
    if not 0 < share < 1 or not 0 < level < 1:
        raise ValueError(f"share {share} and level {level} must lie between 0 and 1")
    ordered = sorted(samples)
    low, above = _rank(count, share, tail), _rank(count, 1 - share, tail)
    return (ordered[low - 1] if low > 0 else None), (ordered[count - above] if above > 0 else None)


@functools.cache
def _rank(count: int, share: float, tail: float) -> int:
    """The largest k such that fewer than k of so many samples lie below the quantile at most as often as `tail`."""
    rank = int(binom.ppf(tail, count, share))
    # The inverse is where the sum reaches the tail, and may be off by rounding.
    return next(k for k in (rank + 1, rank, rank - 1) if k < 1 or binom.cdf(k - 1, count, share) <= tail)


def compare_times(
    ours: Sequence[float], theirs: Sequence[float], *, margin: float = 0.01, level: float = 0.95
) -> dict[str, Any]:
    """Whether ours is faster, from times that were taken in pairs: the same image, one right after the other.

    What makes an image or a minute slow weighs on both times of a pair, and cancels in their ratio. The interval is of
    the median ratio of the pairs, by order statistics: where neither is faster, one of the two is said to be at most as
    often as the level allows.

    Args:
        ours: Seconds, pair by pair.
        theirs: Likewise.
        margin: Ratios up to `1 + margin`, either way round, are the `same`.
        level: Of the interval.

    Returns:
        `verdict` (`Pace`), `ratio` (median of ours over theirs; below 1 is faster), its interval `low` and `high` (None
        where too few pairs bound it), `margin`, `level` and the number of `pairs`. The verdict is `same` where the
        interval lies within the margin, else `faster` or `slower` where it lies on one side of 1, else `cannot tell`.

    Raises:
        ValueError: There are no pairs, or times without a partner, or one that is not positive, or a negative margin.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} times make no pairs")
    if min([*ours, *theirs], default=math.inf) <= 0 or margin < 0:
        raise ValueError(f"times must be positive, and the margin {margin} not negative")
    ratios = (np.asarray(ours, dtype=np.float64) / np.asarray(theirs, dtype=np.float64)).tolist()
    low, high = quantile_between(ratios, 0.5, level)
    return {
        "verdict": _pace(low, high, margin),
        "ratio": float(np.median(ratios)),
        "low": low,
        "high": high,
        "margin": margin,
        "level": level,
        "pairs": len(ratios),
    }


def _pace(low: float | None, high: float | None, margin: float) -> Pace:
    if low is None or high is None:
        return "cannot tell"
    if 1 / (1 + margin) <= low and high <= 1 + margin:
        return "same"
    return "faster" if high < 1 else "slower" if low > 1 else "cannot tell"
