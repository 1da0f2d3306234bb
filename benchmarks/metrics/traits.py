"""What was done to one list of detections to get another: a floor under the scores, suppression, caps, rounding.

Each of these leaves a trace (a lowest score, a number of digits, a largest overlap), which proposes settings. Of the
proposals those are kept without which the two lists would lie farther apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.metrics.data import GroundTruth, Results
from benchmarks.metrics.filters import first_of_equals, largest_overlap, ranks
from benchmarks.metrics.switches import Protocol, filtered

__all__ = ["apart", "made", "observed"]

_NOTHING = Protocol(max_detections=None)
_MOST_DECIMALS = 6


def observed(truth: GroundTruth, first: Results, second: Results) -> dict[str, Any]:
    """The switches of `Protocol`, with their values, that take the first list of detections nearest to the second."""
    choices = dict(_proposals(first, second))
    if not choices:
        return {}

    def distance(found: dict[str, Any]) -> int:
        return apart(made(truth, first, found), second)

    found = {factor: values[0] for factor, values in choices.items()}
    for factor, values in choices.items():
        options = [getattr(_NOTHING, factor), *values]
        distances = [distance({**found, factor: value}) for value in options]
        found[factor] = options[int(np.argmin(distances))]
    return {factor: value for factor, value in found.items() if value != getattr(_NOTHING, factor)}


def made(truth: GroundTruth, results: Results, found: dict[str, Any]) -> Results:
    """The detections after what `observed` found."""
    return filtered(truth, results, replace(_NOTHING, **found))[1]


def apart(first: Results, second: Results) -> int:
    """How many detections stand in one list and not in the other, in whatever order."""
    keys = np.concatenate((_keys(first), _keys(second)))
    _, where = np.unique(keys, return_inverse=True)
    sign = np.repeat([1.0, -1.0], [len(first.scores), len(second.scores)])
    return int(np.abs(np.bincount(where, weights=sign, minlength=1)).sum())


def _keys(results: Results) -> NDArray[np.uint64]:
    """A 64-bit hash of each detection."""
    numbers = np.column_stack((results.image, results.category, results.boxes, results.scores)) + 0.0  # -0 is 0
    keys: Any = pd.util.hash_pandas_object(pd.DataFrame(numbers), index=False)
    return np.asarray(keys, dtype=np.uint64)


def _proposals(first: Results, second: Results) -> Iterator[tuple[str, list[Any]]]:
    """Switches that may have been set, each with the values that its trace allows, the likeliest first."""
    if not len(first.scores) or not len(second.scores):
        return
    if len(first_of_equals(first)) < len(first.scores) and len(first_of_equals(second)) == len(second.scores):
        yield "duplicates", ["drop"]
    overlap = largest_overlap(second)
    if overlap < largest_overlap(first):
        above = math.ceil(round(20 * overlap, 6))
        yield "nms", [step / 20 for step in (above, above - 1) if step >= 0]
    least = float(second.scores.min())
    if least > first.scores.min():
        round_ones = [math.floor(least * 10**digits) / 10**digits for digits in (1, 2, 3)]
        yield "floor", [*(value for value in dict.fromkeys(round_ones) if value > 0), least]
    counts = [int(ranks(one.scores, one.image).max()) + 1 for one in (first, second)]
    if counts[1] < counts[0]:
        yield "per_image", [counts[1]]
    counts = [int(ranks(one.scores, one.image, one.category).max()) + 1 for one in (first, second)]
    if counts[1] < counts[0]:
        yield "max_detections", [counts[1]]
    for factor, values in (
        ("box_decimals", (first.boxes, second.boxes)),
        ("score_decimals", (first.scores, second.scores)),
    ):
        digits = [_decimals(one) for one in values]
        if digits[1] < digits[0]:
            yield factor, [digits[1]]


def _decimals(values: NDArray[np.float64]) -> int:
    """Digits behind the point that hold all values; one more than `_MOST_DECIMALS` where none do."""
    for digits in range(_MOST_DECIMALS + 1):
        if (values.round(digits) == values).all():
            return digits
    return _MOST_DECIMALS + 1
