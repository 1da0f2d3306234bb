"""Boosting: weak classifiers one after the other, each for the examples that those before got wrong.

A learner is given what every candidate feature answers for every example, and yields one weak classifier a round. The
numbers that a classifier keeps are rounded to float16, as checkpoints hold them, before the weights of the examples
follow from them, so that a stored cascade decides as the one that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["AdaBoost", "GentleBoost", "Learned", "Learner", "Stump", "Table", "floor_half", "half"]

Floats = NDArray[np.float64]


def half(value: float) -> float:
    """The nearest number of float16."""
    return float(np.float16(value))


def floor_half(value: float) -> float:
    """The largest number of float16 that is not over `value`."""
    nearest = np.float16(value)
    return float(np.nextafter(nearest, np.float16(-np.inf)) if nearest > value else nearest)


@dataclass(frozen=True)
class Stump:
    """`leaves[0]` where a feature is below `threshold`, else `leaves[1]`.

    Attributes:
        feature: Number of the candidate.
        threshold, leaves: See above.
    """

    feature: int
    threshold: float
    leaves: tuple[float, float]

    def votes(self, values: NDArray[np.float32]) -> Floats:
        """What it says of examples, from the values `[n]` of its feature."""
        return np.where(values < self.threshold, *self.leaves)


@dataclass(frozen=True)
class Table:
    """What a feature of 256 codes says of each.

    Attributes:
        feature: Number of the candidate.
        entries: float64 `[256]`.
    """

    feature: int
    entries: Floats

    def votes(self, values: NDArray[np.uint8]) -> Floats:
        """What it says of examples, from the codes `[n]` of its feature."""
        return self.entries[values]


Learned = Stump | Table


class Learner(Protocol):
    """What trains the stages of a cascade."""

    def round(self) -> Learned | None:
        """The next weak classifier; None where no feature helps any more."""


class AdaBoost:
    """Discrete AdaBoost of decision stumps (Viola and Jones, CVPR 2001, table 1).

    Args:
        values: `[F, n]`, of each candidate for each example.
        good: `[n]`, which examples are objects; either kind has half of the weight at first.
    """

    def __init__(self, values: NDArray[np.float32], good: NDArray[np.bool_]) -> None:
        self.values, self.good = values, good
        self.weights = np.where(good, 0.5 / max(1, good.sum()), 0.5 / max(1, (~good).sum()))
        self._order = values.argsort(axis=1, kind="stable")
        self._sorted = np.take_along_axis(values, self._order, 1)
        # Between equal values there is no threshold.
        self._apart = self._sorted[:, 1:] > self._sorted[:, :-1]

    def round(self) -> Stump | None:
        """The stump of least weighted error."""
        self.weights /= self.weights.sum()
        signed = np.where(self.good, self.weights, -self.weights).astype(np.float32)
        # Objects less others below each threshold: where it is large they are objects, where very negative others.
        below = signed[self._order][:, :-1].cumsum(axis=1) * self._apart
        objects = float(self.weights[self.good].sum())
        high, low = below.max(axis=1), below.min(axis=1)
        errors = np.stack([objects - high, 1 - objects + low])
        side, feature = np.unravel_index(int(errors.argmin()), errors.shape)
        place = int(below[feature].argmax() if side == 0 else below[feature].argmin())
        if not self._apart[feature, place]:
            return None
        threshold = half(float(self._sorted[feature, place] + self._sorted[feature, place + 1]) / 2)
        right = ((self.values[feature] < threshold) == (side == 0)) == self.good
        # An error of 0 would make this stump the only one that counts.
        error = max(float(self.weights[~right].sum()), 0.1 / len(self.good))
        if error >= 0.5:
            return None
        beta = error / (1 - error)
        self.weights[right] *= beta
        alpha = half(-np.log(beta))
        return Stump(int(feature), threshold, (alpha, 0.0) if side == 0 else (0.0, alpha))


class GentleBoost:
    """Gentle AdaBoost of tables over codes (Zhang et al., ICB 2007, section 3).

    Args:
        values: `[F, n]`, the code of each candidate for each example.
        good: `[n]`, which examples are objects; either kind has half of the weight at first.
    """

    def __init__(self, values: NDArray[np.uint8], good: NDArray[np.bool_]) -> None:
        self.values, self.signs = values, np.where(good, 1.0, -1.0)
        self.weights = np.where(good, 0.5 / max(1, good.sum()), 0.5 / max(1, (~good).sum()))
        self._bins = (values.astype(np.int64) + 256 * np.arange(len(values))[:, None]).ravel()

    def round(self) -> Table | None:
        """The table of least weighted squared error: of each code, the weighted mean of its examples' signs."""
        self.weights /= self.weights.sum()
        count = len(self.values)
        sums = [
            np.bincount(self._bins, np.broadcast_to(part, self.values.shape).ravel(), 256 * count).reshape(count, 256)
            for part in (self.weights * self.signs, self.weights)
        ]
        # A code that hardly any example has says little.
        entries = sums[0] / (sums[1] + 0.5 / len(self.signs))
        gains = (sums[0] * entries).sum(1)
        feature = int(gains.argmax())
        if not gains[feature] > 0:
            return None
        learned = Table(feature, entries[feature].astype(np.float16).astype(np.float64))
        self.weights *= np.exp(-self.signs * learned.votes(self.values[feature]))
        return learned
