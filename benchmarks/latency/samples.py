"""What the raw samples of a stage say: middle, spread, tails with honest bounds, and outliers, which stay in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.quantiles import quantile_between

__all__ = ["LEVEL", "outliers", "summarise"]

LEVEL = 0.95
"""How often, at least, the bounds of a quantile hold it."""

_ENOUGH = {"p90": 10, "p95": 20, "p99": 100}
"""Samples from which a percentile is stated: at least one sample must lie beyond it."""

_FENCES = {"mild": 1.5, "severe": 3.0}
"""In quartile ranges from the quartiles."""

_ROUNDS = 3
"""From which an image has a time of its own: of two samples neither is the odd one."""


def summarise(seconds: Sequence[float], images: int | None = None) -> dict[str, Any]:
    """Median, quartile range and high percentiles in seconds, with bounds, and outliers by class.

    Percentiles interpolate linearly between samples; None where too few samples lie beyond.

    Args:
        seconds: Of each call.
        images: Calls of a round, where the calls go through the same images in rounds; None for one round.

    Returns:
        `samples`, `median`, `iqr`, `p90`, `p95`, `p99`; `between`, the bounds of median and percentiles by order
        statistics (`quantile_between`, 95 %), None for a side without one; and `outliers`.

    Raises:
        ValueError: There are no samples.
    """
    if not seconds:
        raise ValueError("no samples to summarise")
    values = np.asarray(seconds, dtype=np.float64)
    q1, median, q3 = np.percentile(values, [25, 50, 75]).tolist()
    high = {
        name: float(np.percentile(values, int(name[1:]))) if len(values) >= enough else None
        for name, enough in _ENOUGH.items()
    }
    shares = {"median": 0.5, **{name: int(name[1:]) / 100 for name in _ENOUGH}}
    between = {name: list(quantile_between(seconds, share, LEVEL)) for name, share in shares.items()}
    figures = {"samples": len(values), "median": median, "iqr": q3 - q1, **high}
    return {**figures, "between": between, "outliers": outliers(values, images)}


def outliers(seconds: Sequence[float] | NDArray[np.float64], images: int | None = None) -> dict[str, int]:
    """How many samples lie beyond Tukey's fences, by class: `low_severe`, `low_mild`, `high_mild`, `high_severe`.

    Mild is farther from the quartiles than 1.5 quartile ranges, severe than 3. Where images repeat in three rounds or
    more, each sample is first divided by the median of its image, so that an image that takes long is no outlier.

    Args:
        seconds: Of each call.
        images: Calls of a round; None for one round.

    Source: Tukey, "Exploratory Data Analysis", 1977, section 2D.
    """
    values = np.asarray(seconds, dtype=np.float64)
    if images and len(values) >= _ROUNDS * images:
        turn = np.arange(len(values)) % images
        usual = np.array([np.median(values[turn == image]) for image in range(images)])
        values = values / np.maximum(usual[turn], 1e-12)
    q1, q3 = np.percentile(values, [25, 75])
    reach = {degree: factor * (q3 - q1) for degree, factor in _FENCES.items()}
    below = {degree: int((values < q1 - far).sum()) for degree, far in reach.items()}
    above = {degree: int((values > q3 + far).sum()) for degree, far in reach.items()}
    return {
        "low_severe": below["severe"],
        "low_mild": below["mild"] - below["severe"],
        "high_mild": above["mild"] - above["severe"],
        "high_severe": above["severe"],
    }
