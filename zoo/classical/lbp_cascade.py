"""Cascade of multi-block local binary patterns: L. Zhang, R. Chu, S. Xiang, S. Liao, S. Z. Li, "Face Detection Based on
Multi-Block LBP Representation", ICB 2007.

https://doi.org/10.1007/978-3-540-74549-5_2

The cascade is Viola and Jones's; the features are other. Nine equal cells, of any size, are summed, and each of the
outer eight says whether it is at least as bright as the middle one: a code of 8 bits, which no change of brightness or
contrast alters. There are 8,464 such features in a 24 x 24 window, a twentieth of Haar's, and one of them says more: a
weak classifier is a table with a number for each of the 256 codes, and boosting is Gentle AdaBoost's.

What we do otherwise: what `viola_jones` says. OpenCV's tables have two different numbers only; they are read into the
same 256.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.classical import viola_jones
from zoo.classical.viola_jones import ViolaJones
from zoo.parts.cascade import WeakClassifiers
from zoo.parts.pattern_tables import PatternTables

__all__ = ["SMALL", "LbpCascade", "lbp_cascade"]

SMALL: Mapping[str, Any] = {**viola_jones.SMALL, "stages": 5, "weak": 225, "features": 300}


class LbpCascade(ViolaJones):
    """One cascade a class, of tables over patterns (section 3). Arguments are those of `ViolaJones`."""

    def _weak_classifiers(self, num_classes: int, weak: int, nodes: int) -> WeakClassifiers:
        if nodes != 1:
            raise ValueError(f"a table has one feature, not {nodes}: this cascade's trees cannot be held")
        return PatternTables(num_classes, weak)


def lbp_cascade(num_classes: int, **overrides: Any) -> LbpCascade:
    """Nine cells' patterns in a 24 x 24 window; at most as many tables as OpenCV's stages may have, 20 of 100."""
    return LbpCascade(num_classes, **{"stages": 20, "weak": 2000, "hit_rate": 0.995, **overrides})
