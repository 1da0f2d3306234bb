"""Chance for drawn images: splitmix64, whose numbers are part of the data sets and so are computed here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Chance", "Whole"]

Whole = NDArray[np.int32]
"""Of colours and patterns, mostly 0..255."""


class Chance:
    """A course of numbers that a key of integers decides."""

    _STEP, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1

    def __init__(self, *key: int) -> None:
        self._state = 0
        for part in key:
            self._state = (self._state ^ part) & self._MASK
            self._state = self.bits()

    def bits(self) -> int:
        """64 of them."""
        self._state = (self._state + self._STEP) & self._MASK
        value = self._state
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & self._MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & self._MASK
        return value ^ (value >> 31)

    def integer(self, low: int, high: int) -> int:
        """Uniform in `low..high`, both included."""
        return low + self.bits() % (high - low + 1)

    def real(self, low: float = 0.0, high: float = 1.0) -> float:
        """Uniform from `low` up to `high`."""
        return low + (high - low) * ((self.bits() >> 11) / (1 << 53))

    def happens(self, share: float) -> bool:
        """True in that share of all cases."""
        return self.real() < share

    def octaves(self, low: float, high: float) -> float:
        """About uniform in the logarithm: an octave, then a number within it."""
        count = 1
        while low * (1 << count) < high:
            count += 1
        return min(high, low * (1 << self.integer(0, count - 1)) * self.real(1, 2))

    def bytes(self, *shape: int) -> Whole:
        """Uniform in 0..255."""
        count = 1
        for length in shape:
            count *= length
        words = -(-count // 8)
        with np.errstate(over="ignore"):
            value = np.uint64(self._state) + np.uint64(self._STEP) * np.arange(1, words + 1, dtype=np.uint64)
            self._state = int(value[-1])
            value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            value ^= value >> np.uint64(31)
        return value.astype("<u8").view(np.uint8)[:count].reshape(shape).astype(np.int32)
