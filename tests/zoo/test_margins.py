"""Linear machines: their solution against scikit-learn's, and bounds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from zoo.parts.margins import separate

FREE = np.full(12, -np.inf, dtype=np.float32)


def clouds(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping clouds, 30 and 80 points of 12 features."""
    chance = np.random.default_rng(seed)
    found, others = chance.normal(0.4, 1, (30, 12)), chance.normal(-0.2, 1, (80, 12))
    return found.astype(np.float32), others.astype(np.float32)


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_the_solution_is_scikit_learns(c: float) -> None:
    found, others = clouds()
    machine = LinearSVC(C=c, loss="squared_hinge", dual=False, intercept_scaling=10.0, tol=1e-8, max_iter=10_000)
    machine.fit(np.concatenate([found, others]), [1] * 30 + [0] * 80)
    weights, bias = separate(found, others, np.zeros(13, dtype=np.float32), c=c, floor=FREE, rounds=300)
    np.testing.assert_allclose(weights, machine.coef_[0], atol=2e-3)
    assert bias == pytest.approx(machine.intercept_[0], abs=2e-3)
    again, _ = separate(found, others, np.append(weights, bias).astype(np.float32), c=c, floor=FREE, rounds=2)
    np.testing.assert_allclose(again, weights, atol=2e-3, err_msg="what is solved stays where it is")


def test_no_weight_falls_below_its_floor() -> None:
    found, others = clouds()
    begin = np.zeros(13, dtype=np.float32)
    free, _ = separate(found, others, begin, c=1.0, floor=FREE)
    lowest = int(free.argmin())
    floor = FREE.copy()
    floor[lowest] = 0.05
    bounded, bias = separate(found, others, begin, c=1.0, floor=floor, rounds=300)
    assert bounded[lowest] == pytest.approx(0.05, abs=1e-6)
    # The others are the best that there are beside it: the same as where its part is a constant.
    examples = np.concatenate([found, others]).astype(np.float64)
    signs = np.array([1.0] * 30 + [-1.0] * 80)
    short = np.maximum(1 - signs * (examples @ bounded + bias), 0)
    slope = bounded - 2 * (signs * short) @ examples
    assert np.abs(np.delete(slope, lowest)).max() < 0.05 < slope[lowest]
