"""Why two APs of one detector differ: `python -m benchmarks explain`.

One switch of the protocol after another is turned from the first setting to the second, in the order in which they take
effect, and each is charged with what AP changes at its turn; so the effects sum to the difference. What comes first
may take, or leave, what another would have changed as well. `--average` therefore offers the mean over all orders (L.
Shapley, "A value for n-person games", 1953), computed exactly from all subsets of the switches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from itertools import combinations, pairwise
from math import factorial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.metrics import ScoreError, load_detections, load_ground_truth
from benchmarks.metrics.data import GroundTruth, Results
from benchmarks.metrics.switches import Protocol, average_precision_of, differing, parse_protocol
from benchmarks.metrics.traits import apart, made, observed
from benchmarks.results import write_atomically

__all__ = ["Explanation", "Step", "draw_waterfall", "explain", "print_explanation", "run_explain"]

_DETECTIONS = "detections"
_MOST = 10


@dataclass(frozen=True)
class Step:
    """One switch that was turned.

    Attributes:
        factor: Its name, a field of `Protocol`, or `detections` for what still differs between two files.
        before, after: Its two settings.
        effect: What it adds to AP, as a fraction.
    """

    factor: str
    before: str
    after: str
    effect: float


@dataclass(frozen=True)
class Explanation:
    """Where a difference comes from.

    Attributes:
        start, end: AP under the first setting and under the second, as fractions.
        steps: In the order in which they were turned.
        averaged: Whether effects are means over all orders.
    """

    start: float
    end: float
    steps: tuple[Step, ...]
    averaged: bool

    @property
    def residual(self) -> float:
        """What the steps leave of the difference: rounding in the last digits."""
        return self.end - self.start - sum(step.effect for step in self.steps)


def explain(
    truth: GroundTruth,
    first: Results,
    second: Results | None = None,
    *,
    source: Protocol | None = None,
    target: Protocol | None = None,
    average: bool = False,
    advance: Callable[[int], None] = lambda total: None,
) -> Explanation:
    """Charge the difference between two APs to the switches that stand otherwise.

    Args:
        truth: Of the images.
        first: Detections that the first AP is of.
        second: Detections that the second is of, where they are others: then the last step is what is left between the
            files when all switches stand as in `target`.
        source: Protocol of the first AP; COCO's by default.
        target: Of the second.
        average: Take the mean effect over all orders; at most ten switches.
        advance: Called before each AP is computed, with the number of those that will be.

    Raises:
        ScoreError: Nothing differs, too much does to be averaged, or an AP is undefined on the way.
    """
    source, target = source or Protocol(), target or source or Protocol()
    factors = [*differing(source, target), *([_DETECTIONS] if second is not None else [])]
    if not factors:
        raise ScoreError("the two settings are the same; name a second file of detections, or another --to")
    if average and len(factors) > _MOST:
        raise ScoreError(f"{len(factors)} factors have too many orders to average over; leave --average out")
    total = 2 ** len(factors) if average else len(factors) + 1
    known: dict[frozenset[str], float] = {}

    def value(turned: Iterable[str]) -> float:
        key = frozenset(turned)
        if key not in known:
            advance(total)
            switches = {factor: getattr(target, factor) for factor in key if factor != _DETECTIONS}
            detections = second if second is not None and _DETECTIONS in key else first
            found = average_precision_of(truth, detections, replace(source, **switches))
            if found is None:
                raise ScoreError(f"with {', '.join(sorted(key)) or 'the first setting'} no object is left to be found")
            known[key] = found
        return known[key]

    effects = _averaged(factors, value) if average else _in_turn(factors, value)
    steps = tuple(
        Step(factor, first.name, second.name, effect)
        if factor == _DETECTIONS and second is not None
        else Step(factor, source.shown(factor), target.shown(factor), effect)
        for factor, effect in zip(factors, effects, strict=True)
    )
    return Explanation(value(()), value(factors), steps, average)


def _in_turn(factors: list[str], value: Callable[[Iterable[str]], float]) -> list[float]:
    values = [value(factors[:count]) for count in range(len(factors) + 1)]
    return [after - before for before, after in pairwise(values)]


def _averaged(factors: list[str], value: Callable[[Iterable[str]], float]) -> list[float]:
    """Shapley's values: of each subset of the others, as often as an order puts exactly these first."""
    count = len(factors)
    effects = []
    for factor in factors:
        others = [other for other in factors if other != factor]
        effect = 0.0
        for size in range(count):
            share = factorial(size) * factorial(count - size - 1) / factorial(count)
            effect += share * sum(value((*some, factor)) - value(some) for some in combinations(others, size))
        effects.append(effect)
    return effects


def run_explain(
    first: Path,
    second: Path | None,
    gt: Path,
    *,
    source: str = "coco",
    target: str | None = None,
    average: bool = False,
    plot: Path | None = None,
    out: Path | None = None,
) -> Explanation:
    """Read, explain, print and draw.

    With two files, what was done to the first to get the second is looked for, and whatever of that `target` leaves
    open is set in it.

    Args:
        first: Detections, as `score` takes them.
        second: Those of the second AP, where they are others.
        gt: COCO's instances JSON.
        source: Protocol of the first AP, as `parse_protocol` reads it.
        target: Of the second; by default the same.
        average: See `explain`.
        plot: PNG file of the waterfall.
        out: JSON file of the steps.

    Raises:
        ScoreError: Input that cannot be scored, or see `explain`.
    """
    truth = load_ground_truth(gt)
    one = load_detections(first, truth)
    two = None if second is None else load_detections(second, truth)
    protocols = [parse_protocol(source), parse_protocol(source if target is None else target)]
    console = Console()
    if two is not None:
        with console.status("looking for what was done to the detections"):
            found = observed(truth, one, two)
            left = apart(made(truth, one, found), two)
        free = {key: value for key, value in found.items() if getattr(protocols[1], key) == getattr(protocols[0], key)}
        protocols[1] = replace(protocols[1], **free)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("scoring", total=None)
        explanation = explain(
            truth,
            one,
            two,
            source=protocols[0],
            target=protocols[1],
            average=average,
            advance=lambda total: progress.update(task, total=total, advance=1),
        )
    print_explanation(explanation, console)
    if two is not None:
        console.print(
            f"{apart(one, two):,} detections stand in one file and not in the other; with what was found to be done to "
            f"the first, {left:,} do."
        )
    if plot is not None:
        write_atomically(plot, draw_waterfall(explanation))
        console.print(str(plot), soft_wrap=True)
    if out is not None:
        content = {**asdict(explanation), "residual": explanation.residual}
        write_atomically(out, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return explanation


def print_explanation(explanation: Explanation, console: Console | None = None) -> None:
    """The waterfall as a table, in points of AP."""
    table = Table("factor", "from", "to")
    table.add_column("effect", justify="right")
    table.add_column("AP", justify="right")
    level = explanation.start
    table.add_row("first", "", "", "", f"{100 * level:.2f}")
    for step in explanation.steps:
        level += step.effect
        name = "other differences" if step.factor == _DETECTIONS else step.factor
        table.add_row(name, step.before, step.after, f"{100 * step.effect:+.2f}", f"{100 * level:.2f}")
    table.add_row(
        "second", "", "", f"{100 * (explanation.end - explanation.start):+.2f}", f"{100 * explanation.end:.2f}"
    )
    console = console or Console()
    console.print(table)
    how = "averaged over all orders" if explanation.averaged else "each at its turn, from top to bottom"
    console.print(f"In points of AP, {how}; the effects leave {abs(explanation.residual):.0e} of the difference.")


def draw_waterfall(explanation: Explanation) -> bytes:
    """A PNG: both APs as bars, and between them what each step adds or takes."""
    from matplotlib.figure import Figure

    names = ["first"]
    for step in explanation.steps:
        what = "other\ndifferences" if step.factor == _DETECTIONS else f"{step.factor}\n{step.before} → {step.after}"
        names.append(what)
    names.append("second")
    levels = [explanation.start]
    for step in explanation.steps:
        levels.append(levels[-1] + step.effect)
    figure = Figure(figsize=(max(6.0, 1.5 * len(names)), 4.5), layout="constrained")
    axes = figure.add_subplot()
    for place, bar in enumerate(_bars(explanation, levels)):
        bottom, height, color, text = bar
        axes.bar(place, 100 * height, bottom=100 * bottom, color=color, width=0.6)
        axes.annotate(
            text,
            (place, 100 * (bottom + max(height, 0))),
            ha="center",
            va="bottom",
            xytext=(0, 3),
            textcoords="offset points",
        )
        axes.plot([place - 0.3, place + 0.3], [100 * (bottom + height)] * 2, color=color, linewidth=1.5)
        if place < len(levels):
            axes.plot([place + 0.3, place + 0.7], [100 * levels[place]] * 2, color="#888888", linewidth=0.8)
    low, high = min(levels), max(levels)
    room = max(high - low, 0.01)
    axes.set_ylim(100 * max(0.0, low - 0.35 * room), 100 * min(1.05, high + 0.2 * room))
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("AP (the axis does not start at 0)" if low - 0.35 * room > 0 else "AP")
    axes.set_title("Mean effects over all orders" if explanation.averaged else "Effects in turn")
    axes.spines[["top", "right"]].set_visible(False)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def _bars(explanation: Explanation, levels: list[float]) -> Iterable[tuple[float, float, str, str]]:
    """Bottom, height, colour and text of each bar."""
    yield 0.0, explanation.start, "#56606b", f"{100 * explanation.start:.2f}"
    for level, step in zip(levels, explanation.steps, strict=False):
        yield level, step.effect, "#009e73" if step.effect >= 0 else "#d55e00", f"{100 * step.effect:+.2f}"
    yield 0.0, explanation.end, "#56606b", f"{100 * explanation.end:.2f}"
