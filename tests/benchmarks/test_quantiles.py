"""Bounds of quantiles against the binomial sum and against simulation; verdicts on pairs of times by their errors."""

from __future__ import annotations

from collections import Counter
from math import comb

import numpy as np
import pytest

from benchmarks.metrics.quantiles import compare_times, quantile_between


def slow_bounds(count: int, share: float, level: float) -> tuple[int | None, int | None]:
    """Ranks, from 1, by adding up the chances that so many samples lie below the quantile."""
    chance = [comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)]
    tail = (1 - level) / 2
    low = [rank for rank in range(1, count + 1) if sum(chance[:rank]) <= tail]
    high = [rank for rank in range(1, count + 1) if sum(chance[rank:]) <= tail]
    return max(low, default=None), min(high, default=None)


@pytest.mark.parametrize("share", [0.5, 0.25, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("level", [0.95, 0.7])
def test_ranks_by_the_binomial_sum(share: float, level: float) -> None:
    for count in (1, 2, 5, 6, 7, 20, 37, 100):
        ranks = tuple(range(1, count + 1))
        assert quantile_between(ranks, share, level) == slow_bounds(count, share, level), count
        assert quantile_between(ranks[::-1], share, level) == slow_bounds(count, share, level)


def test_what_can_be_said_of_a_tail() -> None:
    """0.99 to the 368th is the first power below one in forty."""
    assert quantile_between(range(367), 0.99)[1] is None
    assert quantile_between(range(368), 0.99)[1] == 367
    assert quantile_between(range(368), 0.01)[0] == 0
    assert quantile_between(range(5), 0.5) == (None, None)
    assert quantile_between(range(6), 0.5) == (0, 5)


@pytest.mark.parametrize("count", [30, 100, 400])
def test_intervals_hold_as_often_as_they_promise(count: int) -> None:
    """Of a skewed population with a known quantile; a side without a bound is never wrong, and never close either."""
    draw = np.random.default_rng(count)
    samples = draw.lognormal(0, 0.5, size=(2000, count))
    for share in (0.5, 0.9, 0.95, 0.99):
        truth = float(np.exp(0.5 * {0.5: 0.0, 0.9: 1.2815516, 0.95: 1.6448536, 0.99: 2.3263479}[share]))
        bounds = [quantile_between(row.tolist(), share) for row in samples]
        under = np.mean([low is not None and low > truth for low, _ in bounds])
        over = np.mean([high is not None and high < truth for _, high in bounds])
        # Half of what may be missed, and three deviations of 2,000 draws.
        assert max(under, over) <= 0.025 + 3 * np.sqrt(0.025 / 2000), share
        if share == 0.5:
            assert under + over >= 0.01, "nor much more often: the interval is not needlessly wide"


def test_rounds_over_unlike_images_are_held_at_least_as_often() -> None:
    draw = np.random.default_rng(3)
    images = np.linspace(1.0, 2.0, 25)
    truth = np.median(images[None] * draw.lognormal(0, 0.1, size=(40_000, 25)))
    missed = 0
    for _ in range(1000):
        low, high = quantile_between((images[None] * draw.lognormal(0, 0.1, size=(4, 25))).ravel().tolist(), 0.5)
        missed += not low <= truth <= high
    assert missed <= 50 + 3 * np.sqrt(50)


@pytest.mark.parametrize("wrong", [((), 0.5, 0.95), ((1.0,), 1.0, 0.95), ((1.0,), 0.5, 0.0)])
def test_bounds_of_nothing(wrong: tuple[tuple[float, ...], float, float]) -> None:
    with pytest.raises(ValueError, match=r"no samples|between 0 and 1"):
        quantile_between(*wrong)


def pairs(draw: np.random.Generator, count: int, ratio: float, spread: float) -> tuple[list[float], list[float]]:
    """Images of differing cost, a machine that gets slower, hiccups, and the ratio that is to be found."""
    both = 0.01 * (1 + draw.random(count)) * np.linspace(1, 1.3, count)
    times = both * draw.lognormal(0, spread, size=(2, count)) * np.where(draw.random((2, count)) < 0.05, 2.0, 1.0)
    return (ratio * times[0]).tolist(), times[1].tolist()


def verdicts(count: int, ratio: float, spread: float, runs: int = 1000) -> Counter[str]:
    draw = np.random.default_rng(count)
    return Counter(compare_times(*pairs(draw, count, ratio, spread))["verdict"] for _ in range(runs))


@pytest.mark.parametrize("count", [8, 20, 60, 200])
@pytest.mark.parametrize("spread", [0.02, 0.2])
def test_of_two_that_are_alike_one_is_seldom_called_faster(count: int, spread: float) -> None:
    found = verdicts(count, 1.0, spread)
    assert found["faster"] + found["slower"] <= 50 + 2 * np.sqrt(50)


def test_a_difference_is_found_and_has_the_right_sign() -> None:
    assert verdicts(60, 0.95, 0.03)["faster"] >= 950
    assert verdicts(60, 1.05, 0.03)["slower"] >= 950
    assert verdicts(200, 1.0, 0.005)["same"] >= 990
    assert set(verdicts(5, 0.5, 0.01)) == {"cannot tell"}, "five pairs bound no median"
    assert verdicts(20, 1.02, 0.2)["cannot tell"] >= 800


def test_words_by_interval_and_margin() -> None:
    flat = [1.0] * 20
    assert compare_times(flat, flat, margin=0.0)["verdict"] == "same"
    assert compare_times([1.01] * 20, flat)["verdict"] == "same"
    assert compare_times([1.02] * 20, flat)["verdict"] == "slower"
    assert compare_times(flat, [1.02] * 20)["verdict"] == "faster"
    assert compare_times([0.9, 1.1] * 10, flat)["verdict"] == "cannot tell"
    found = compare_times([3.0, 1.0, 2.0] * 20, [1.0, 2.0, 2.0] * 20)
    assert (found["ratio"], found["pairs"], found["level"]) == (1.0, 60, 0.95)
    assert found["low"] <= 1 <= found["high"]


def test_what_makes_no_pairs() -> None:
    with pytest.raises(ValueError, match="make no pairs"):
        compare_times([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="positive"):
        compare_times([0.0], [1.0])
    with pytest.raises(ValueError, match="no samples"):
        compare_times([], [])
