"""Levels F and S: counts over true boxes. `F` on VOC 2007's test set, whole and real; `S` on the project's small data.

Anchors are those of the papers' sizes in either case. Counts are exact for these images; of others they say nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.claims.evidence import Evidence, Found
from benchmarks.claims.ledger import Claim, Level, Rule, Verdict

__all__ = ["RULES"]

_SOURCES: tuple[tuple[Level, str], ...] = (
    ("F", "voc 2007_test"),
    ("S", "bccd test"),
    ("S", "shapes test"),
    ("S", "shapes crowd"),
)


def _rules(
    claim: str, words: str, test: Callable[[Found], tuple[bool, str]], part: str = "", only: tuple[str, ...] = ()
) -> tuple[Rule, ...]:
    """The rule that a test of what was counted is true, on each data set or on `only` these."""

    def rule(level: Level, source: str) -> Rule:
        def judge(_: Claim, found: Evidence) -> Verdict:
            own = found.measured(claim, data=source, detector="none")
            if not own:
                return Verdict("cannot tell", wanted=f"the boxes of {source}: `python -m benchmarks claims {claim}`")
            true, figure = test(own[0])
            return Verdict("holds" if true else "fails", figure, rests_on=(own[0].place,))

        return Rule(claim, level, words, judge, ", ".join(text for text in (part, source) if text))

    return tuple(rule(level, source) for level, source in _SOURCES if not only or source in only)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _rises(one: Found) -> tuple[bool, str]:
    names = ("one shape", "RefineDet320", "five shapes", "five shapes, two sizes")
    rows = [f"{one.number('sets', n, 'anchors'):,.0f}: {_percent(one.number('sets', n, 'at_0.7'))}" for n in names]
    return one.number("spearman") > 0.9, f"objects with an anchor at IoU 0.7, by anchors: {'; '.join(rows)}"


def _sizes(one: Found) -> tuple[bool, str]:
    usual = one.number("sets", "RefineDet320", "at_0.5")
    other = {way: one.number("sets", f"RefineDet320, sizes {way}", "at_0.5") for way in ("halved", "doubled")}
    figure = f"objects with an anchor at IoU 0.5: {_percent(usual)}; " + "; ".join(
        f"sizes {way} {_percent(share)}" for way, share in other.items()
    )
    return all(usual - share > 0.05 for share in other.values()), figure


def _number_alone(one: Found) -> tuple[bool, str]:
    names = ("RefineDet320", "SSD300", "RefineDet512")
    rows = [(one.number("sets", n, "anchors"), one.number("sets", n, "at_0.5"), n) for n in names]
    figure = "; ".join(f"{name} {count:,.0f} anchors {_percent(share)}" for count, share, name in rows)
    return [share for _, share, _ in rows] == sorted(share for _, share, _ in rows), figure


def _imbalance(one: Found) -> tuple[bool, str]:
    medians = {name: one.number("designs", name, "median") for name in one.record.metrics["designs"]}
    figure = "median of negatives over positives: " + ", ".join(f"{n} {value:.0f}" for n, value in medians.items())
    return min(medians.values()) > 50, f"{figure} ({one.number('images'):.0f} images)"


def _swing(one: Found) -> tuple[bool, str]:
    slope = one.number("designs", "SSD300", "slope")
    two, many = (one.number("designs", "SSD300", "variation", size) for size in ("2", "32"))
    figure = (
        f"variation of positives over negatives {_percent(two)} at batch 2, {_percent(many)} at 32; slope {slope:.2f}"
    )
    return abs(slope + 0.5) <= 0.1 and two / many >= 3, figure


def _shared(one: Found) -> tuple[bool, str]:
    share, other = one.number("shared"), one.number("with_another_class")
    figure = f"{_percent(share)} of {one.number('objects'):,.0f} objects share their 7x7 cell, {_percent(other)} with "
    return other > 0.01, f"{figure}another class, of which a cell can name one only"


def _crowded_rules() -> tuple[Rule, ...]:
    """What suppression would take from a perfect detector; data without neighbours tell nothing of crowds."""

    def rule(level: Level, source: str) -> Rule:
        def judge(_: Claim, found: Evidence) -> Verdict:
            own = found.measured("nms-crowd", data=source, detector="none")
            if not own:
                return Verdict("cannot tell", wanted=f"the boxes of {source}: `python -m benchmarks claims nms-crowd`")
            one = own[0]
            shares = [one.number(f"over_{t}") for t in ("0.45", "0.5", "0.7")]
            lost = one.number("lost_at_0.5")
            figure = f"{', '.join(_percent(share) for share in shares)} have a neighbour of their class over IoU 0.45, "
            figure += f"0.5, 0.7; NMS at 0.5 of the true boxes loses {_percent(lost)}"
            if shares[0] < 0.05:
                return Verdict("cannot tell", figure, rests_on=(one.place,), wanted="data with crowds: there are none")
            return Verdict("holds" if lost > 0.05 else "fails", figure, rests_on=(one.place,))

        words = "where over 5 % have a neighbour over IoU 0.45, a perfect detector would lose over 5 %"
        return Rule("nms-crowd", level, words, judge, f"true boxes, {source}")

    return tuple(rule(level, source) for level, source in _SOURCES)


def _less_to_learn(one: Found) -> tuple[bool, str]:
    values = [one.number(shapes) for shapes in ("1", "3", "9")]
    figure = f"mean offset {', '.join(f'{value:.3f}' for value in values)} with 1, 3 and 9 shapes a cell"
    return values[0] > values[1] > values[2], figure


def _by_level(one: Found) -> tuple[bool, str]:
    sides = [one.number(level) for level in sorted(one.record.metrics)]
    return sides == sorted(
        sides
    ), f"median side by level of SSD300: {', '.join(f'{side:.0f}' for side in sides)} pixels"


def _swing_rules() -> tuple[Rule, ...]:
    """What is counted for `negatives-dominate` tells how its ratio swings, too."""

    def rule(level: Level, source: str) -> Rule:
        def judge(_: Claim, found: Evidence) -> Verdict:
            own = found.measured("negatives-dominate", data=source, detector="none")
            if not own:
                return Verdict("cannot tell", wanted="`python -m benchmarks claims negatives-dominate`")
            true, figure = _swing(own[0])
            return Verdict("holds" if true else "fails", figure, rests_on=(own[0].place,))

        words = (
            "slope of log variation on log batch -0.5 +- 0.1, and at batch 2 three times that at 32; before sampling"
        )
        return Rule("batch-posratio", level, words, judge, source)

    return tuple(rule(level, source) for level, source in _SOURCES)


RULES: tuple[Rule, ...] = (
    *_rules("anchor-coverage", "the share at IoU 0.7 rises with the anchors of one design (Spearman over 0.9)", _rises,
            "many"),
    *_rules("anchor-coverage", "sizes halved or doubled lose over 5 points at IoU 0.5", _sizes, "well chosen"),
    *_rules("anchor-coverage", "of different designs the one with more anchors covers more", _number_alone,
            "number alone", ("voc 2007_test",)),
    *_rules("negatives-dominate", "over 50 in every design", _imbalance),
    *_swing_rules(),
    *_rules("yolo-crowd", "over 1 % of the objects cannot all be named", _shared, "shared cells"),
    *_crowded_rules(),
    *_rules("concentric-anchors", "what regression is left falls from 1 to 3 to 9 shapes", _less_to_learn,
            "less to learn"),
    *_rules("level-by-scale", "the median side rises from level to level", _by_level, "what levels learn"),
)  # fmt: skip
