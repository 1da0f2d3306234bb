"""Miss rates against false positives, as pedestrian and face detection state them, from the matches.

Walking down a class's detections by score gives, after each, how many objects are still missed and how many detections
were wrong. Wrong ones count per image (FPPI: P. Dollár, C. Wojek, B. Schiele, P. Perona, "Pedestrian Detection: An
Evaluation of the State of the Art", PAMI 2012, section 3), per window that the detector classified (FPPW: N. Dalal, B.
Triggs, CVPR 2005, section 4) or as they are (P. Viola, M. Jones, IJCV 57, 2004, section 5). The log-average miss rate
is the geometric mean of the miss rates at nine rates of false positives from 0.01 to 1 an image.

Matching is COCO's at IoU 0.5: an object is found once, by the best-overlapping detection that is left, and what lies on
crowds counts neither way; objects that are difficult but no crowds are objects. Numbers of several classes are averaged
over those that have objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.matching import CAP, THRESHOLDS, Matches

__all__ = ["AT_FALSE", "AT_FPPI", "AT_FPPW", "PROTOCOL", "log_average", "miss_rates", "missed_at"]

AT_FPPI = np.logspace(-2, 0, 9)
"""Where the log-average miss rate looks."""

AT_FPPW = (1e-6, 1e-5, 1e-4)
"""Dalal and Triggs compare at 1e-4."""

AT_FALSE = (10, 31, 50, 65, 78, 95, 167)
"""False positives over all images at which Viola and Jones state detection rates (table 3)."""

_AT50 = 9
_LEAST = 1e-10

PROTOCOL: dict[str, Any] = {
    "iou": round(float(THRESHOLDS[_AT50]), 2),
    "candidate": "free object of highest IoU",
    "ignored": "iscrowd",
    "max_detections_per_class_and_image": CAP,
    "point": "last whose false positives are not above the reference; before the first detection all is missed",
    "log_average_over_fppi": [round(float(rate), 5) for rate in AT_FPPI],
    "least_miss_rate": _LEAST,
    "false_positives_per_window": "after suppression of duplicates, over all windows that are classified",
}
"""What the numbers depend on, for the Record."""


def miss_rates(matches: Matches, labels: Sequence[str], windows: int | None = None) -> dict[str, Any]:
    """Miss rates as fractions; None where no class has objects.

    Args:
        matches: Of a split.
        labels: Names of the classes.
        windows: How many windows a detector classified in all images, over all classes; None where it has none.

    Returns:
        `log_average`; `at_fppi`, miss rates by false positives an image (0.01, 0.1 and 1); `at_fppw`, miss rates by
        false positives a window, empty without `windows`; `found_at`, detection rates by false positives over all
        images; `per_class`, the log-average of each; `windows` as given.
    """
    curves = [_curve(matches, label) for label in range(matches.classes)]

    def mean(value: Callable[[NDArray[np.float64], NDArray[np.float64]], float]) -> float | None:
        values = [value(*curve) for curve in curves if curve is not None]
        return float(np.mean(values)) if values else None

    def at(false: float) -> float | None:
        return mean(lambda wrong, missed: float(missed_at(wrong, missed, [false])[0]))

    def average(wrong: NDArray[np.float64], missed: NDArray[np.float64]) -> float:
        return log_average(wrong / max(1, matches.images), missed)

    found = {str(count): at(count) for count in AT_FALSE}
    of_class = 0.0 if windows is None else windows / max(1, matches.classes)
    return {
        "log_average": mean(average),
        "at_fppi": {f"{rate:g}": at(rate * matches.images) for rate in (0.01, 0.1, 1.0)},
        "at_fppw": {} if windows is None else {f"{rate:g}": at(rate * of_class) for rate in AT_FPPW},
        "found_at": {count: None if missed is None else 1 - missed for count, missed in found.items()},
        "per_class": {
            label: None if curve is None else average(*curve) for label, curve in zip(labels, curves, strict=True)
        },
        "windows": windows,
    }


def log_average(fppi: NDArray[np.float64], missed: NDArray[np.float64]) -> float:
    """Geometric mean of the miss rates at `AT_FPPI`.

    Args:
        fppi: False positives an image, `[n]`, ascending.
        missed: Share of objects that are missed there, `[n]`.
    """
    return float(np.exp(np.log(np.maximum(missed_at(fppi, missed, AT_FPPI), _LEAST)).mean()))


def missed_at(
    false: NDArray[np.float64], missed: NDArray[np.float64], references: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """The miss rate of the last point whose false positives are not above each reference; 1 where there is none."""
    place = np.searchsorted(false, np.asarray(references), side="right")
    return np.concatenate([[1.0], missed])[place]


def _curve(matches: Matches, label: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Wrong detections, and the share of objects still missed, after each detection; None without objects."""
    objects = int((~matches.truth_ignored[matches.truth_category == label, 0]).sum())
    if not objects:
        return None
    order = matches.order[matches.starts[label] : matches.starts[label + 1]]
    order = order[matches.rank[order] < CAP]
    bit = np.uint32(1 << _AT50)
    order = order[(matches.ignored[order, 0] & bit) == 0]
    right = (matches.matched[order, 0] & bit) != 0
    return np.cumsum(~right).astype(np.float64), 1 - np.cumsum(right) / objects
