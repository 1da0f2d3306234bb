"""Between which values a score lies, and whether two detectors differ, from resampled images.

Every method starts from the same draws. A resample holds some images twice, and what comes twice is found more evenly,
so that the mean of the draws lies above the score itself. Something of that is true of the score: few images flatter a
detector, so that AP on 300 images lies above AP on all images that there could be. What a number is compared with is
the number of another detector on as many images, so what an interval is to hold is the score to be expected on as many
images of the same kind. `shifted` holds that most nearly as often as it promises: AP 95.8, AP50 94.2 and FD 94.0 times
in 100 on 400 simulated sets of 300 images (`python -m benchmarks coverage`), and a little less on fewer images. For the
score on endlessly many images `normal` does better.

Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapters 13 and 14; Davison and Hinkley,
"Bootstrap methods and their application", 1997, chapter 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.bootstrap import PER_CLASS, TOTALS, Resampled

__all__ = ["DEFAULT", "METHODS", "Method", "interval", "intervals_of", "means_apart", "ratio_of_medians"]

Method = Literal["basic", "bias_corrected", "normal", "percentile", "shifted"]
METHODS: tuple[Method, ...] = get_args(Method)
DEFAULT: Method = "shifted"


def interval(
    estimate: float, draws: NDArray[np.float64], *, level: float = 0.95, method: Method = DEFAULT
) -> tuple[float, float] | None:
    """The interval of one number.

    Args:
        estimate: The number itself.
        draws: `[B]`, the same of resampled images; NaN where it is undefined.
        level: How often the interval is to hold the true value.
        method: `percentile`: between percentiles of the draws. `shifted`: these, less what the draws' mean lies above
            the estimate. `basic`: the percentiles' distances from the estimate, turned round. `normal`: the estimate
            less that bias, give or take the draws' deviation. `bias_corrected`: at percentiles moved by the share of
            draws below the estimate.

    Returns:
        Low and high; None where fewer than nine draws in ten are defined.

    Raises:
        ValueError: The method is none of `METHODS`.
    """
    if method not in METHODS:
        raise ValueError(f"interval method {method!r} is unknown; choose one of {', '.join(METHODS)}")
    known = draws[~np.isnan(draws)]
    if not len(draws) or len(known) < 0.9 * len(draws) or np.isnan(estimate):
        return None
    tail = (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail]).tolist()
    bias = float(known.mean()) - estimate
    if method == "shifted":
        return low - bias, high - bias
    if method == "basic":
        return 2 * estimate - high, 2 * estimate - low
    if method == "normal":
        reach = NormalDist().inv_cdf(1 - tail) * float(known.std(ddof=1))
        return estimate - bias - reach, estimate - bias + reach
    if method == "bias_corrected":
        below = ((known < estimate).sum() + 0.5 * (known == estimate).sum()) / len(known)
        least = 0.5 / len(known)
        moved = 2 * NormalDist().inv_cdf(min(max(float(below), least), 1 - least))
        reach = NormalDist().inv_cdf(1 - tail)
        share = [NormalDist().cdf(moved + side * reach) for side in (-1, 1)]
        low, high = np.quantile(known, share).tolist()
    return low, high


def intervals_of(
    scores: Mapping[str, Any], resampled: Resampled, *, level: float = 0.95, method: Method = DEFAULT
) -> dict[str, Any]:
    """The intervals of what `score` returned, laid out as it is: `stats`, `fd`, `voc` and `per_class`.

    A pair of fractions each, cut at 0 and 1; None where the number is undefined, in too many draws too.
    """

    def of(value: float | None, draws: NDArray[np.float64]) -> list[float] | None:
        found = None if value is None else interval(value, draws, level=level, method=method)
        return None if found is None else [min(max(side, 0.0), 1.0) for side in found]

    columns = {name: resampled.totals[:, column] for column, name in enumerate(TOTALS)}
    parts: dict[str, Any] = {
        part: {key: of(value, columns[key]) for key, value in scores[part].items() if key in columns}
        for part in ("stats", "fd", "voc")
    }
    parts["per_class"] = {
        label: {key: of(row[key], resampled.per_class[:, k, column]) for column, key in enumerate(PER_CLASS)}
        for k, (label, row) in enumerate(scores["per_class"].items())
    }
    return {"level": level, "method": method, "draws": len(resampled.totals), **parts}


def ratio_of_medians(ours: Sequence[float], theirs: Sequence[float], draws: int = 2_000) -> dict[str, float]:
    """Ratio of the medians of paired samples, and the middle 95 % of what resampled pairs give."""
    pairs = np.array([ours, theirs])
    rows = np.random.default_rng(0).integers(pairs.shape[1], size=(draws, pairs.shape[1]))
    medians = np.median(pairs[:, rows], axis=2)
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5]).tolist()
    return {"median": float(np.median(pairs[0]) / np.median(pairs[1])), "low": low, "high": high}


def means_apart(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], *, draws: int = 1_000
) -> tuple[float, tuple[float, float] | None]:
    """Difference of two means over things in images, and its interval over the images, the same ones for both.

    Args:
        ours: `[I, 2]`: of each image the sum over its things, and how many they are.
        theirs: Likewise, of other things of the same images.
        draws: Resamples of the images.
    """

    def apart(both: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            found: NDArray[np.float64] = both[..., 0] / both[..., 1] - both[..., 2] / both[..., 3]
        return found

    images = np.concatenate([ours, theirs], 1)
    shares = np.random.default_rng(0).multinomial(len(images), np.full(len(images), 1 / len(images)), size=draws)
    difference = float(apart(images.sum(0)))
    return difference, interval(difference, apart(shares @ images))
