"""Is one detector better than another, on the images of both?

Both are scored on the same resamples, so that what an easy or a hard image does to both cancels: the interval of the
difference is narrower than those of the two scores suggest. A difference has one of four verdicts. `better` and `worse`
speak of the first detector where the whole interval lies on one side of 0. `equivalent` is said where it lies within
the margin. Otherwise it is `cannot tell`, with the number of images of which one of the other three could be expected.

Of many classes some differ by chance. A class is called better or worse by the procedure of Benjamini and Hochberg
("Controlling the false discovery rate", 1995): of those that are called so, at most one in twenty is to be wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics import Results, ScoreError, score_matches
from benchmarks.metrics.bootstrap import PER_CLASS, TOTALS, Resampled, resample
from benchmarks.metrics.data import GroundTruth
from benchmarks.metrics.intervals import interval
from benchmarks.metrics.matching import match

__all__ = ["Verdict", "adjusted", "compare", "images_to_decide", "verdict"]

Verdict = Literal["better", "worse", "equivalent", "cannot tell"]

_LOWER_IS_BETTER = "FD"
_POWER = 0.8


def compare(
    truth: GroundTruth,
    first: Results,
    second: Results,
    *,
    draws: int = 1_000,
    seed: int = 0,
    margin: float = 0.005,
    level: float = 0.95,
) -> dict[str, Any]:
    """Set two lists of detections on the same images against each other.

    Args:
        truth: Of the images.
        first: Detections of the first detector.
        second: And of the second.
        draws: Resamples.
        seed: Of them.
        margin: Differences up to this, as a fraction, are of no account.
        level: Of the intervals.

    Returns:
        An object that JSON can hold: for each number of `TOTALS` under `totals` its value for either (`first`,
        `second`), their `difference`, its `interval`, the `verdict`, and `images`, of which a verdict could be
        expected, where there is none; `per_class` likewise by class of AP, with `p`; and the settings. Numbers are
        fractions; None where they are undefined for one of the two.

    Raises:
        ScoreError: The margin or the level is out of range.
    """
    if not 0 <= margin < 1 or not 0 < level < 1:
        raise ScoreError(f"margin {margin} and level {level} must be fractions, the level between 0 and 1")
    scores, samples = [], []
    for results in (first, second):
        matches = match(truth, results)
        scores.append(score_matches(truth, results, matches))
        samples.append(resample(matches, draws, seed))
    images = len(truth.image_ids)
    values = [{**one["stats"], **one["fd"], **one["voc"]} for one in scores]
    totals = {
        name: _compared(values[0][name], values[1][name], _column(samples, column), name, images, margin, level)
        for column, name in enumerate(TOTALS)
    }
    per_class = _classes(scores, samples, images, margin, level)
    settings = {"draws": draws, "seed": seed, "margin": margin, "level": level, "images": images}
    return {**settings, "totals": totals, "per_class": per_class}


def _column(samples: list[Resampled], column: int) -> NDArray[np.float64]:
    difference: NDArray[np.float64] = samples[0].totals[:, column] - samples[1].totals[:, column]
    return difference


def _classes(
    scores: list[dict[str, Any]], samples: list[Resampled], images: int, margin: float, level: float
) -> dict[str, Any]:
    """AP by class; a class differs where Benjamini and Hochberg say so."""
    at = PER_CLASS.index("AP")
    rows: dict[str, Any] = {}
    for k, label in enumerate(scores[0]["per_class"]):
        pair = [one["per_class"][label]["AP"] for one in scores]
        draws = samples[0].per_class[:, k, at] - samples[1].per_class[:, k, at]
        rows[label] = _compared(pair[0], pair[1], draws, "AP", images, margin, level)
        rows[label]["p"] = _p_value(rows[label]["difference"], draws)
    known = [label for label, row in rows.items() if row["p"] is not None]
    for label, p_value in zip(known, adjusted([rows[label]["p"] for label in known]), strict=True):
        row = rows[label]
        if p_value <= 1 - level:
            row["verdict"] = "better" if row["difference"] > 0 else "worse"
        elif row["verdict"] in ("better", "worse"):
            row["verdict"] = "cannot tell"
    return rows


def adjusted(p_values: Sequence[float]) -> list[float]:
    """For each p-value the smallest rate of false discoveries at which Benjamini and Hochberg's procedure rejects.

    What `scipy.stats.false_discovery_control` gives, whose import would take a sixth of a comparison.
    """
    order = np.argsort(p_values)
    rates = np.sort(p_values) * len(p_values) / np.arange(1, len(p_values) + 1)
    answer = np.empty(len(p_values))
    answer[order] = np.minimum.accumulate(rates[::-1])[::-1]
    return answer.clip(max=1).tolist()


def _compared(
    first: float | None,
    second: float | None,
    draws: NDArray[np.float64],
    name: str,
    images: int,
    margin: float,
    level: float,
) -> dict[str, Any]:
    row: dict[str, Any] = {"first": first, "second": second, "difference": None, "interval": None}
    row |= {"verdict": None, "images": None}
    if first is None or second is None:
        return row
    difference = first - second
    ends = interval(difference, draws, level=level)
    row["difference"] = difference
    if ends is None:
        return row
    said = verdict(ends, margin, lower_is_better=name.startswith(_LOWER_IS_BETTER))
    needed = images_to_decide(difference, ends, images, margin, level) if said == "cannot tell" else None
    return {**row, "interval": list(ends), "verdict": said, "images": needed}


def verdict(ends: tuple[float, float], margin: float, *, lower_is_better: bool = False) -> Verdict:
    """What the interval of a difference, first less second, says of the first."""
    low, high = (-ends[1], -ends[0]) if lower_is_better else ends
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "equivalent" if max(-low, high) <= margin else "cannot tell"


def images_to_decide(
    difference: float, ends: tuple[float, float], images: int, margin: float, level: float
) -> int | None:
    """Of how many images a verdict could be expected four times in five, if the difference stays as it is.

    The interval shrinks with the root of their number; what comes first counts, a difference from 0 or one within the
    margin. None where neither ever comes: the difference is the margin's, or 0 and there is no margin.
    """
    reach = NormalDist().inv_cdf((1 + level) / 2)
    deviation = (ends[1] - ends[0]) / 2 / reach
    wanted = reach + NormalDist().inv_cdf(_POWER)
    farthest = max(abs(difference), margin - abs(difference))
    if farthest <= 0 or deviation == 0:
        return None
    return max(images + 1, math.ceil(images * (wanted * deviation / farthest) ** 2))


def _p_value(difference: float | None, draws: NDArray[np.float64]) -> float | None:
    """Of no difference, by the deviation of the draws; None where it is not known."""
    known = draws[~np.isnan(draws)]
    if difference is None or len(known) < 0.9 * len(draws):
        return None
    deviation = float(known.std(ddof=1))
    if deviation == 0:
        return 1.0 if difference == 0 else None
    return 2 * NormalDist().cdf(-abs(difference) / deviation)
