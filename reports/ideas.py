"""What single ideas of the papers are worth: pairs of detectors that differ in one, trained alike, seed by seed."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from benchmarks.tomls import read_toml
from reports.records import Entry, ReportError, Shelf
from reports.sections import Grid, Header, Notes, Section, literal, tested_on

__all__ = ["FILE", "Ideas", "Pair", "ideas", "read_ideas"]

FILE = Path(__file__).parent / "ideas.toml"


class Pair(BaseModel):
    """Two detectors that differ in one idea; or all detectors, under two ways of suppression.

    Attributes:
        idea: In words, and what it stands against.
        paper: Of the idea.
        changed: Detectors with the idea: the one with most seeds in common, the first of equals. By catalog name; a
            variant as `Record.called` has it.
        without: The one without, likewise.
        suppression: Whether the idea is another suppression of the same weights; there are no names then.
        metrics: Places in the JSON of `score`; rates of false discoveries are better low, all others high.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    idea: str = Field(min_length=1)
    paper: str = Field(min_length=1)
    changed: tuple[str, ...] = Field(default=(), alias="with")
    without: str = ""
    suppression: bool = False
    metrics: tuple[str, ...] = Field(default=("stats.AP",), min_length=1)

    @model_validator(mode="after")
    def _names_or_suppression(self) -> Pair:
        if self.suppression == bool(self.changed or self.without) or bool(self.changed) != bool(self.without):
            raise ValueError("name detectors with and without, or say suppression = true")
        return self


class Ideas(BaseModel):
    """What `ideas.toml` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: tuple[Pair, ...]


def read_ideas(path: Path = FILE) -> Ideas:
    """Read the pairs.

    Raises:
        ReportError: The file cannot be read, or an entry does not fit.
    """
    return read_toml(path, Ideas, ReportError, "compare it with the other pairs")


def ideas(shelf: Shelf, chosen: Ideas) -> list[Section]:
    """By test, the pairs of which both sides were trained with at least one common seed."""
    notes = Notes()
    rows = []
    tests = sorted(
        {e.test for e in shelf.trainings if e.record.scale == "small"}, key=lambda t: (t != "shapes test", t)
    )
    for test in tests:
        for pair in chosen.pairs:
            for changed, without, sides in _sides(shelf, pair, test):
                for place in pair.metrics:
                    if (row := _row(sides, place)) is not None:
                        marks = [notes.mark(literal(pair.paper))]
                        marks += [notes.mark(tested_on(entry)) for both in sides.values() for entry in both]
                        what = (literal(pair.idea), place.partition(".")[2])
                        rows.append((*what, *row, test, changed, without, " ".join(dict.fromkeys(marks))))
    if not rows:
        return []
    heads = (
        Header("idea", text=True),
        Header("metric", text=True),
        Header("with it"),
        Header("without it"),
        Header("difference"),
        Header("by seed", text=True),
        Header("better in"),
        *(Header(title, text=True) for title in ("test", "detector", "against", "notes")),
    )
    intro = (
        "Small detectors that differ in one idea, trained alike; with and without it the same seeds. Mean and standard "
        "deviation (n - 1) over the seeds; the difference is taken seed by seed first, so that its deviation is its "
        "own. *Better in* counts the seeds in which the idea helped, before figures are rounded: with a higher figure, "
        "or with a lower one where it is a rate of false discoveries (FD). Where weights are the same on both sides, "
        "seeds are those of their training."
    )
    return [Section("What single ideas are worth", "ablations", (intro, Grid(heads, tuple(rows), notes=tuple(notes))))]


_Sides = dict[int, tuple[Entry, Entry]]
"""By seed, the Record with the idea and the one without."""


def _sides(shelf: Shelf, pair: Pair, test: str) -> Iterable[tuple[str, str, _Sides]]:
    """Names of both sides and their Records by seed, for each comparison that a pair makes."""
    trained = (*shelf.trainings, *shelf.variants)
    plain = _by_seed(e for e in trained if e.record.scale == "small" and e.test == test)
    if not pair.suppression:
        name = max(pair.changed, key=lambda name: len(plain[name].keys() & plain[pair.without].keys()))
        common = sorted(plain[name].keys() & plain[pair.without].keys())
        if common:
            yield name, pair.without, {seed: (plain[name][seed], plain[pair.without][seed]) for seed in common}
        return
    other: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in shelf.suppressed:
        if entry.record.scale == "small" and entry.test == test:
            other[entry.record.detector, entry.record.suppression or ""].append(entry)
    for (name, suppression), entries in sorted(other.items()):
        sides = {
            seed: (entry, plain[name][seed])
            for seed, entry in sorted(_by_seed(entries)[name].items())
            if seed in plain[name] and plain[name][seed].record.weights == entry.record.weights
        }
        if sides:
            yield f"{name}, {literal(suppression)}", name, sides


def _by_seed(entries: Iterable[Entry]) -> dict[str, dict[int, Entry]]:
    found: dict[str, dict[int, Entry]] = defaultdict(dict)
    for entry in entries:
        if entry.record.seed is not None:
            found[entry.record.called].setdefault(entry.record.seed, entry)
    return found


def _row(sides: _Sides, place: str) -> tuple[str, ...] | None:
    values = [(entry.fraction(place), other.fraction(place)) for entry, other in sides.values()]
    pairs = [(100 * a, 100 * b) for a, b in values if isinstance(a, float) and isinstance(b, float)]
    if not pairs:
        return None
    differences, low = [a - b for a, b in pairs], place.startswith("fd.")
    return (
        _mean([a for a, _ in pairs]),
        _mean([b for _, b in pairs]),
        _mean(differences, sign="+"),
        " ".join(f"{by:+.1f}" for by in differences),
        f"{sum((by < 0) if low else (by > 0) for by in differences)} of {len(differences)}",
    )


def _mean(values: list[float], sign: str = "") -> str:
    text = f"{statistics.fmean(values):{sign}.1f}"
    return f"{text} ± {statistics.stdev(values):.1f}" if len(values) > 1 else text
