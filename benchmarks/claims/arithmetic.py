"""What the rules on printed figures share. Figures are decimal numbers, so that 79.5 - 77.3 is 2.2 and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from benchmarks.claims.ledger import Verdict
from benchmarks.claims.verdicts import Word

__all__ = ["ROUNDING", "fact", "mean", "signed", "steps"]

ROUNDING = Decimal("0.1")
"""Two figures that were rounded to a tenth may differ from what they stand for by so much together."""


def fact(true: bool, figure: str, *rests_on: str, otherwise: Word = "fails") -> Verdict:
    """`holds` if it is true, else `fails` or what is given: nothing is open in print."""
    return Verdict("holds" if true else otherwise, figure, rests_on=rests_on)


def signed(value: Decimal) -> str:
    """With its sign."""
    return f"{value:+}"


def mean(values: Iterable[Decimal]) -> Decimal:
    """The mean; of 20 figures with one decimal it is exact."""
    listed = list(values)
    return sum(listed, Decimal(0)) / len(listed)


def steps(later: Iterable[Decimal], earlier: Iterable[Decimal]) -> tuple[Decimal, ...]:
    """What each figure gains over the one beside it."""
    return tuple(a - b for a, b in zip(later, earlier, strict=True))
