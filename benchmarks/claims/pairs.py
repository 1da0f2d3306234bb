"""Two sides that were trained with the same seeds, and what their differences say."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.claims.evidence import Arm, Evidence, Found, Quantity, points
from benchmarks.claims.ledger import Claim, Rule, Verdict
from benchmarks.claims.verdicts import LEAST_SEEDS, Interval, decide, seeds_to_decide, student

__all__ = [
    "Pair",
    "crossed_rule",
    "judge_values",
    "less",
    "of_alike",
    "of_one_training",
    "over",
    "pair_rule",
    "same_images",
    "single_rule",
]

Side = tuple[str, Arm]
"""A detector's name and its trainings."""


@dataclass(frozen=True)
class Pair:
    """Two sides of a comparison.

    Attributes:
        first: Catalog names; of those with seeds enough the one that is most accurate on average stands for them.
        second: Likewise.
        test: Data set and split.
        suppression: Of duplicates at the test, of the first and of the second side; None for their own way.
        multi_scale: Protocols of multi-scale testing, likewise; None for their own size.
        images: That both sides learned from; None for all of the training split.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    test: str = "shapes test"
    suppression: tuple[str | None, str | None] = (None, None)
    multi_scale: tuple[str | None, str | None] = (None, None)
    images: int | None = None

    def turned(self) -> Pair:
        """The same with its sides changed round."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            suppression=self.suppression[::-1],
            multi_scale=self.multi_scale[::-1],
        )


def less(more: str, fewer: str) -> Quantity:
    """The difference of two percentages of one Record: of which the difference between sides is an interaction."""
    a, b = points(more), points(fewer)

    def of(record: object) -> float | None:
        values = a(record), b(record)  # type: ignore[arg-type]
        return None if values[0] is None or values[1] is None else values[0] - values[1]

    return of


def over(upper: str, lower: str) -> Quantity:
    """One percentage as a percentage of another, of one Record."""
    a, b = points(upper), points(lower)

    def of(record: object) -> float | None:
        values = a(record), b(record)  # type: ignore[arg-type]
        return None if values[0] is None or not values[1] else 100 * values[0] / values[1]

    return of


def pair_rule(
    claim: str,
    pair: Pair,
    quantity: Quantity,
    name: str,
    words: str,
    *,
    part: str = "",
    limit: float = 0.0,
    matters: float | None = None,
    equal_within: float | None = None,
    same_steps: bool = True,
    either: bool = False,
) -> Rule:
    """The rule that `quantity` of the first side exceeds that of the second, seed by seed.

    Args:
        claim: Id.
        pair: The sides.
        quantity: Of a Record.
        name: Its name.
        words: The rule.
        part: Of the claim.
        limit: See `judge_values`, as for `matters` and `equal_within`.
        matters: Likewise.
        equal_within: Likewise.
        same_steps: Whether both sides must have seen as many images, those that came again counted each time. What
            learns without steps never has.
        either: Whether it may as well be the second that exceeds the first: the sides differ.
    """

    def judge(_: Claim, found: Evidence) -> Verdict:
        both = _compared(found, pair, quantity)
        if isinstance(both, Verdict):
            return both
        if either and statistics.fmean(both.values.values()) < 0:
            turned = _compared(found, pair.turned(), quantity)
            assert isinstance(turned, _Compared)
            both = turned
        verdict = judge_values(
            both.values,
            f"{name}, {both.sides}",
            limit=limit,
            matters=matters,
            equal_within=equal_within,
            rests_on=both.places,
        )
        if either and verdict.p is not None:
            verdict = replace(verdict, p=min(1.0, 2 * verdict.p))
        return of_alike(verdict, found, both.first, both.second) if same_steps else verdict

    return Rule(claim, "S", words, judge, part)


def crossed_rule(
    claim: str, one: Pair, other: Pair, quantity: Quantity, name: str, words: str, *, part: str = "", share: float = 1.0
) -> Rule:
    """The rule that the difference between the sides of one pair exceeds `share` of that of another, seed by seed.

    Nothing is decided where the sides of a pair did not see as many images in training.
    """

    def judge(_: Claim, found: Evidence) -> Verdict:
        mine, theirs = (_compared(found, pair, quantity) for pair in (one, other))
        if isinstance(mine, Verdict):
            return mine
        if isinstance(theirs, Verdict):
            return theirs
        values = {
            seed: value - share * theirs.values[seed] for seed, value in mine.values.items() if seed in theirs.values
        }
        if not values:
            return Verdict("cannot tell", wanted=f"a seed that {mine.sides} and {theirs.sides} have in common")
        part_of = "" if share == 1 else f"{share:g} times "
        figure = f"{name}, ({mine.sides}) less {part_of}({theirs.sides})"
        # One side may belong to both pairs.
        verdict = judge_values(values, figure, rests_on=list(dict.fromkeys([*mine.places, *theirs.places])))
        for both in (mine, theirs):
            verdict = of_alike(verdict, found, both.first, both.second)
        return verdict

    return Rule(claim, "S", words, judge, part)


def single_rule(
    claim: str, detector: str, quantity: Quantity, name: str, words: str, *, part: str = "", limit: float = 0.0
) -> Rule:
    """The rule that `quantity` of one detector exceeds a limit, seed by seed."""

    def judge(_: Claim, found: Evidence) -> Verdict:
        arm = found.arm(detector, "shapes test")
        values = {seed: value for seed, one in arm.items() if (value := quantity(one.record)) is not None}
        if not values:
            return Verdict("cannot tell", wanted=f"{LEAST_SEEDS} seeds of {detector} on shapes test")
        places = tuple(one.place for one in arm.values())
        return judge_values(values, f"{name} of {detector}", limit=limit, rests_on=places)

    return Rule(claim, "S", words, judge, part)


def judge_values(
    values: Mapping[int, float],
    name: str,
    *,
    limit: float = 0.0,
    matters: float | None = None,
    equal_within: float | None = None,
    rests_on: Sequence[str] = (),
) -> Verdict:
    """The verdict on values by seed, which are to exceed `limit`: `decide` from three seeds on.

    What matters is a point where the limit is 0; where the claim names a limit, it is that limit.
    """
    matters = (limit or 1.0) if matters is None else matters
    found = student([values[seed] for seed in sorted(values)])
    figure = f"{name}: {found.mean:+.1f} points ({' '.join(f'{value:+.1f}' for value in found.values)} by seed)"
    if len(values) < LEAST_SEEDS or found.low is None or found.high is None:
        wanted = f"{LEAST_SEEDS - len(values)} more seeds" if len(values) < LEAST_SEEDS - 1 else "1 more seed"
        return Verdict("cannot tell", figure, rests_on=tuple(rests_on), wanted=wanted)
    word = decide(
        found.low,
        found.high,
        limit=limit,
        matters=matters,
        fails_under=limit,
        same_sign=len({value > limit for value in found.values}) == 1,
        equal_within=equal_within,
    )
    wanted = _wanted(found, limit, matters) if word == "cannot tell" and equal_within is None else ""
    if word == "cannot tell" and equal_within is not None:
        wanted = f"more seeds: the half-width is {found.half_width:.1f}, the margin {equal_within:g}"
    return Verdict(
        word,
        figure,
        (found.low, found.high),
        tuple(rests_on),
        wanted,
        None if equal_within is not None else found.p_above(limit),
        within=f"{equal_within:g}" if equal_within is not None else "",
    )


def of_one_training(verdict: Verdict, ends: tuple[float, float] | None) -> Verdict:
    """A verdict that has seeds too few for an interval, whose figure then tells that over the images of one."""
    if verdict.interval is not None or ends is None:
        return verdict
    figure = f"{verdict.figure}, {ends[0]:+.1f} to {ends[1]:+.1f} over the images of one training"
    return replace(verdict, figure=figure, wanted=f"{verdict.wanted} (`--checkpoint`)")


def _wanted(found: Interval, limit: float, matters: float) -> str:
    seeds = seeds_to_decide(found, limit=limit, matters=matters)
    half = f"the half-width is {found.half_width:.1f}"
    return f"more seeds than can be trained; {half}" if seeds is None else f"about {seeds} seeds in all; {half}"


def _best(found: Evidence, pair: Pair, side: Literal[0, 1]) -> Side | None:
    how = pair.suppression[side], pair.images, pair.multi_scale[side]
    arms = {name: found.arm(name, pair.test, *how) for name in (pair.first, pair.second)[side]}
    known = {name: arm for name, arm in arms.items() if arm}
    if not known:
        return None
    ap = points("stats.AP")

    def rank(name: str) -> tuple[int, float]:
        # A lucky training must not stand for a side of which another design has seeds enough to judge by.
        arm = known[name]
        return min(len(arm), LEAST_SEEDS), statistics.fmean(ap(one.record) or 0.0 for one in arm.values())

    best = max(known, key=rank)
    return best, known[best]


@dataclass(frozen=True)
class _Compared:
    """Both sides of a pair, what they are called together, and how they differ by seed."""

    first: Side
    second: Side
    sides: str
    values: dict[int, float]
    places: list[str]


def _compared(found: Evidence, pair: Pair, quantity: Quantity) -> _Compared | Verdict:
    """A pair's sides and their differences; or why nothing can be told."""
    first, second = _best(found, pair, 0), _best(found, pair, 1)
    if first is None or second is None:
        lacking = [" or ".join(names) for names, side in ((pair.first, first), (pair.second, second)) if side is None]
        how = "".join(f", suppressed by {name}" for name in pair.suppression if name)
        how += "".join(f", with --multi-scale {name}" for name in pair.multi_scale if name)
        how += f", from {pair.images} images" if pair.images else ""
        return Verdict("cannot tell", wanted=f"{LEAST_SEEDS} seeds of {' and of '.join(lacking)} on {pair.test}{how}")
    ways = [f" {several}" if several else "" for several in pair.multi_scale]
    ways = [f"{way} with {name}" if name else way for way, name in zip(ways, pair.suppression, strict=True)]
    values, places = _differences(first[1], second[1], quantity)
    if not values:
        return Verdict("cannot tell", wanted=f"a seed that {first[0]} and {second[0]} have in common on {pair.test}")
    return _Compared(first, second, f"{first[0]}{ways[0]} less {second[0]}{ways[1]}", values, places)


def _differences(first: Arm, second: Arm, quantity: Quantity) -> tuple[dict[int, float], list[str]]:
    values: dict[int, float] = {}
    places: list[str] = []
    for seed in sorted(first.keys() & second.keys()):
        a, b = quantity(first[seed].record), quantity(second[seed].record)
        same = first[seed].record.dataset == second[seed].record.dataset
        if a is not None and b is not None and same:
            values[seed] = a - b
            places += [first[seed].place, second[seed].place]
    return values, places


def same_images(first: Found, second: Found) -> bool:
    """Whether two sweeps looked at the same images."""
    a, b = first.record, second.record
    return (a.dataset, a.protocol.get("images")) == (b.dataset, b.protocol.get("images"))


def of_alike(verdict: Verdict, found: Evidence, first: Side, second: Side) -> Verdict:
    """A verdict on two sides, which decides nothing where they did not see as many images in training."""

    def seen(arm: Arm) -> int | None:
        return found.images_seen(next(iter(arm.values())))

    means = [seen(first[1]), seen(second[1])]
    if means[0] == means[1]:
        return verdict
    told = [f"{name} saw {'unknown' if count is None else f'{count:,}'}" for (name, _), count in zip(
        (first, second), means, strict=True
    )]  # fmt: skip
    wanted = f"both sides trained on as many images: {', '.join(told)}"
    return Verdict("cannot tell", verdict.figure, verdict.interval, verdict.rests_on, wanted)
