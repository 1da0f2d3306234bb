"""Miss rates against false positives, as pedestrian and face detection state them, from the matches.

Walking down a class's detections by score gives, after each, how many objects are still missed and how many detections
were wrong. Wrong ones count per image (FPPI: P. Dollár, C. Wojek, B. Schiele, P. Perona, "Pedestrian Detection: An
Evaluation of the State of the Art", PAMI 2012, section 3), per window that the detector classified (FPPW: N. Dalal, B.
Triggs, CVPR 2005, section 4) or as they are (P. Viola, M. Jones, IJCV 57, 2004, section 5). The log-average miss rate
is the geometric mean of the miss rates at nine rates of false positives from 0.01 to 1 an image.

Matching is COCO's at IoU 0.5: an object is found once, by the best-overlapping detection that is left, and what lies on
crowds counts neither way; objects that are difficult but no crowds are objects. Numbers of several classes are averaged
over those that have objects.

A rate is a share of objects, so its interval is exact (C. Clopper, E. Pearson, "The use of confidence or fiducial
limits illustrated in the case of the binomial", Biometrika 26, 1934): it holds the rate at the score where that many
were wrong, if objects are found or missed independently of each other. Means over classes, and over the nine rates of
the log-average, take intervals that hold all their parts at once (C. Bonferroni's inequality), so that these hold the
mean at least as often as they say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.metrics.matching import AT50, CAP, THRESHOLDS, Matches

__all__ = ["AT_FALSE", "AT_FPPI", "AT_FPPW", "PROTOCOL", "exact_interval", "log_average", "miss_rates", "missed_at"]

AT_FPPI = np.logspace(-2, 0, 9)
"""Where the log-average miss rate looks."""

AT_FPPW = (1e-6, 1e-5, 1e-4)
"""Dalal and Triggs compare at 1e-4."""

AT_FALSE = (10, 31, 50, 65, 78, 95, 167)
"""False positives over all images at which Viola and Jones state detection rates (table 3)."""

_LEAST = 1e-10

PROTOCOL: dict[str, Any] = {
    "iou": round(float(THRESHOLDS[AT50]), 2),
    "candidate": "free object of highest IoU",
    "ignored": "iscrowd",
    "max_detections_per_class_and_image": CAP,
    "point": "last whose false positives are not above the reference; before the first detection all is missed",
    "log_average_over_fppi": [round(float(rate), 5) for rate in AT_FPPI],
    "least_miss_rate": _LEAST,
    "false_positives_per_window": "after suppression of duplicates, over all windows that are classified",
}
"""What the numbers depend on, for the Record."""


class _Curve(NamedTuple):
    """Of a class: wrong detections `[n]` and the share of objects still missed `[n]` after each, and the objects."""

    wrong: NDArray[np.float64]
    missed: NDArray[np.float64]
    objects: int


class _Rate(NamedTuple):
    """A rate and the ends of its interval."""

    value: float
    low: float
    high: float


def miss_rates(
    matches: Matches, labels: Sequence[str], windows: int | None = None, *, level: float = 0.95
) -> dict[str, Any]:
    """Miss rates as fractions; None where no class has objects.

    Args:
        matches: Of a split.
        labels: Names of the classes.
        windows: How many windows a detector classified in all images, over all classes; None where it has none.
        level: Of the intervals.

    Returns:
        `log_average`; `at_fppi`, miss rates by false positives an image (0.01, 0.1 and 1); `at_fppw`, miss rates by
        false positives a window, empty without `windows`; `found_at`, detection rates by false positives over all
        images; `per_class`, the log-average of each; `windows` as given; `intervals`, low and high of each of these,
        laid out alike, with `level` and `method`.
    """
    curves = [_curve(matches, label) for label in range(matches.classes)]
    known = [curve for curve in curves if curve is not None]
    each = 1 - (1 - level) / max(1, len(known))

    def at(false: float) -> _Rate | None:
        return _mean([_rate(curve, [false], each) for curve in known])

    def average(curve: _Curve, level: float) -> _Rate:
        return _rate(curve, AT_FPPI * matches.images, level)

    of_class = 0.0 if windows is None else windows / max(1, matches.classes)
    found: dict[str, Any] = {
        "log_average": _mean([average(curve, each) for curve in known]),
        "at_fppi": {f"{rate:g}": at(rate * matches.images) for rate in (0.01, 0.1, 1.0)},
        "at_fppw": {} if windows is None else {f"{rate:g}": at(rate * of_class) for rate in AT_FPPW},
        "found_at": {str(count): _turned(at(count)) for count in AT_FALSE},
        "per_class": {
            label: None if curve is None else average(curve, level) for label, curve in zip(labels, curves, strict=True)
        },
    }
    intervals = {key: _each(part, lambda rate: [rate.low, rate.high]) for key, part in found.items()}
    return {
        **{key: _each(part, lambda rate: rate.value) for key, part in found.items()},
        "windows": windows,
        "intervals": {"level": level, "method": "Clopper-Pearson; of means, of all parts at once", **intervals},
    }


def exact_interval(
    count: ArrayLike, total: int, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Low and high of a share of which `count` in `total` were seen (Clopper and Pearson)."""
    from scipy.special import betaincinv  # here, for `score` starts without it

    seen = np.asarray(count, dtype=np.float64)
    tail = (1 - level) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(seen == 0, 0.0, betaincinv(np.maximum(seen, 1), total - seen + 1, tail))
        high = np.where(seen == total, 1.0, betaincinv(seen + 1, np.maximum(total - seen, 1), 1 - tail))
    return low, high


def _rate(curve: _Curve, false: Sequence[float] | NDArray[np.float64], level: float) -> _Rate:
    """Geometric mean of the miss rates at numbers of false positives; the interval holds all of them at once."""
    missed = missed_at(curve.wrong, curve.missed, false)
    count = np.round(missed * curve.objects)
    ends = exact_interval(count, curve.objects, 1 - (1 - level) / len(missed))
    if len(missed) == 1:
        return _Rate(float(missed[0]), float(ends[0][0]), float(ends[1][0]))
    return _Rate(*(_geometric(part) for part in (missed, *ends)))


def _mean(rates: Sequence[_Rate]) -> _Rate | None:
    return _Rate(*np.mean(rates, axis=0).tolist()) if rates else None


def _turned(rate: _Rate | None) -> _Rate | None:
    return None if rate is None else _Rate(1 - rate.value, 1 - rate.high, 1 - rate.low)


def _each(part: Any, take: Callable[[_Rate], Any]) -> Any:
    """`take` of the rate, or of every rate of a dict; None stays."""
    if isinstance(part, dict):
        return {key: _each(rate, take) for key, rate in part.items()}
    return None if part is None else take(part)


def log_average(fppi: NDArray[np.float64], missed: NDArray[np.float64]) -> float:
    """Geometric mean of the miss rates at `AT_FPPI`.

    Args:
        fppi: False positives an image, `[n]`, ascending.
        missed: Share of objects that are missed there, `[n]`.
    """
    return _geometric(missed_at(fppi, missed, AT_FPPI))


def _geometric(rates: NDArray[np.float64]) -> float:
    return float(np.exp(np.log(np.maximum(rates, _LEAST)).mean()))


def missed_at(
    false: NDArray[np.float64], missed: NDArray[np.float64], references: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """The miss rate of the last point whose false positives are not above each reference; 1 where there is none."""
    place = np.searchsorted(false, np.asarray(references), side="right")
    return np.concatenate([[1.0], missed])[place]


def _curve(matches: Matches, label: int) -> _Curve | None:
    objects = int((~matches.truth_ignored[matches.truth_category == label, 0]).sum())
    if not objects:
        return None
    order = matches.order[matches.starts[label] : matches.starts[label + 1]]
    wrong, right = (flags[order] for flags in matches.judged())
    counts = wrong | right
    missed = 1 - np.cumsum(right[counts]) / objects
    return _Curve(np.cumsum(wrong[counts]).astype(np.float64), missed, objects)
