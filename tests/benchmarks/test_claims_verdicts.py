"""What an interval says of a claim: laws, boundaries, and the statistics against textbook values."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.claims.verdicts import LEAST_SEEDS, WORDS, decide, holm, seeds_to_decide, student

ENDS = st.tuples(st.floats(-20, 20), st.floats(0, 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.1, 3.0, "holds"),
        (0.1, 0.9, "holds, but too small to matter"),
        (0.1, 1.0, "holds"),
        (0.0, 3.0, "cannot tell"),
        (0.0, 0.9, "fails"),
        (-0.5, 0.999, "fails"),
        (-0.5, 1.0, "cannot tell"),
        (-3.0, -0.1, "fails"),
        (-3.0, 0.0, "fails"),
        (-9.0, 9.0, "cannot tell"),
    ],
)
def test_boundaries_of_better(low: float, high: float, word: str) -> None:
    assert decide(low, high) == word


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(-0.9, 0.9, "equal"), (-1.0, 0.5, "cannot tell"), (0.1, 1.0, "cannot tell"), (1.1, 2.0, "fails"),
     (-2.0, -1.1, "fails"), (1.0, 2.0, "cannot tell"), (-3.0, 3.0, "cannot tell")],
)  # fmt: skip
def test_boundaries_of_equal(low: float, high: float, word: str) -> None:
    assert decide(low, high, equal_within=1.0) == word


def test_limits_that_a_claim_names() -> None:
    assert decide(31, 40, limit=30, matters=30, fails_under=30) == "holds"
    assert decide(10, 29, limit=30, matters=30, fails_under=30) == "fails"
    assert decide(10, 31, limit=30, matters=30, fails_under=30) == "cannot tell"
    assert decide(-0.4, 0.2, limit=-0.5, matters=-0.5, fails_under=-0.5) == "holds", "nothing is lost"
    assert decide(-0.9, -0.6, limit=-0.5, matters=-0.5, fails_under=-0.5) == "fails"


def test_a_seed_that_disagrees_leaves_it_open() -> None:
    assert decide(0.1, 3.0, same_sign=False) == "cannot tell"
    assert decide(-3.0, -1.0, same_sign=False) == "fails"


@given(ENDS)
def test_laws(ends: tuple[float, float]) -> None:
    low, high = ends
    word = decide(low, high)
    assert word in WORDS
    assert (word in ("holds", "holds, but too small to matter")) == (low > 0)
    if word == "cannot tell":
        assert low <= 0 < 1 <= high, "only an interval that holds nothing and an effect that matters is open"
        middle = (low + high) / 2
        assert decide(middle, middle) != "cannot tell", "a narrow enough interval decides"


def test_ends_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="no interval"):
        decide(1, 0)
    with pytest.raises(ValueError, match="no interval"):
        decide(math.nan, 0)


def test_student_against_a_table() -> None:
    """t of two degrees of freedom at 97.5 % is 4.303; of 1, 2 and 3 the mean is 2 and the deviation 1."""
    found = student([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.half_width == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)
    assert found.p_above(0) == pytest.approx(0.0371, abs=1e-4), "t = 2 sqrt(3) with two degrees of freedom, one side"
    alone = student([5.0])
    assert (alone.mean, alone.low, alone.high, alone.p_above(0)) == (5, None, None, None)
    with pytest.raises(ValueError, match="at least one"):
        student([])


def test_equal_values_have_no_width() -> None:
    found = student([2.0, 2.0, 2.0])
    assert (found.low, found.high, found.p_above(0), found.p_above(2)) == (2, 2, 0, 1)


def test_seeds_to_decide_are_enough_and_not_too_many() -> None:
    """Four times in five, so many draws of such a spread clear the limit, or stay under what matters."""
    found = student([1.0, 2.0, 3.0])
    seeds = seeds_to_decide(found)
    assert seeds is not None
    assert seeds >= LEAST_SEEDS
    chance = random.Random(0)

    def power(count: int) -> float:
        tries = (student([chance.gauss(2, 1) for _ in range(count)]) for _ in range(400))
        return sum((one.low or 0) > 0 for one in tries) / 400

    assert power(seeds) > 0.72
    assert power(seeds - 1) < 0.85
    assert seeds_to_decide(student([0.4, 0.6, 0.5])) is not None, "under what matters counts as decided, too"
    assert seeds_to_decide(student([4.0])) is None
    assert seeds_to_decide(student([-500.0, 500.6, 0.5])) is None, "more than a thousand"


def test_holm_by_hand() -> None:
    """0.01 passes 0.05 / 3, 0.02 passes 0.05 / 2, 0.06 fails; where one fails, none after it passes."""
    assert holm([0.02, 0.06, 0.01]) == [True, False, True]
    assert holm([0.03, 0.04, 0.01]) == [False, False, True]
    assert holm([]) == []
