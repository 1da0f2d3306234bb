"""The false discovery rate of the CenterNet paper.

FD is 1 - AP at IoU .05:.05:.50, FD5, FD25 and FD50 that at one threshold, FD_S, FD_M and FD_L that of COCO's scales;
matching, points of recall and the best 100 detections are COCO's. In spite of its name an object that is missed raises
it as well as a wrong box.

Source: Duan et al., "CenterNet: Keypoint Triplets for Object Detection", 2019, https://arxiv.org/abs/1904.08189,
footnote of section 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.coco import Curves, mean_or_none
from benchmarks.metrics.matching import AREAS

__all__ = ["FD", "fd_stats", "one_minus_mean"]

FD = slice(0, 10)
"""Which of `THRESHOLDS` FD averages over: .05:.05:.50."""

_AT = {"FD5": 0, "FD25": 4, "FD50": 9}


def fd_stats(curves: Curves) -> dict[str, float | None]:
    """FD, FD5, FD25, FD50, FD_S, FD_M, FD_L as fractions; None where no class has objects."""
    precision = curves.precision
    return {
        "FD": one_minus_mean(precision[0, :, FD]),
        **{name: one_minus_mean(precision[0, :, t]) for name, t in _AT.items()},
        **{f"FD_{scale}": one_minus_mean(precision[a, :, FD]) for a, scale in enumerate(AREAS) if a},
    }


def one_minus_mean(precision: NDArray[np.float64]) -> float | None:
    """1 - AP, None where AP is undefined."""
    mean = mean_or_none(precision)
    return None if mean is None else 1 - mean
