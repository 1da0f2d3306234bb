"""The line of papers from R-CNN on in one table, and what single ideas are worth over several trainings."""

from __future__ import annotations

import statistics
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reports.records import NOT_MEASURED, Entry, ReportError, Shelf
from reports.sections import Grid, Header, Notes, Section, costed, literal, tested_on, timed_on

__all__ = ["FILE", "Chosen", "Pair", "ablations", "line", "read_chosen"]

FILE = Path(__file__).parent / "two_stage.toml"

_METRICS = (
    ("AP", "stats.AP"),
    ("AP50", "stats.AP50"),
    ("AP_S", "stats.AP_S"),
    ("AP_M", "stats.AP_M"),
    ("AP_L", "stats.AP_L"),
    ("FD", "fd.FD"),
)
_RECALLS = (("AR at 100", "proposals.AR100"), ("AR at 300", "proposals.AR300"))
_STAGES = ("preprocess", "network", "proposals", "masks", "postprocess", "end_to_end")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Line(_Frozen):
    """Detectors that follow from one another.

    Attributes:
        title: Heading.
        detectors: Catalog names, in the order of the papers.
    """

    title: str = Field(min_length=1)
    detectors: tuple[str, ...]


class Pair(_Frozen):
    """Two detectors that differ in one idea; or all detectors, under two ways of suppression.

    Attributes:
        idea: In words, and what it stands against.
        paper: Of the idea.
        changed: Catalog names of detectors with the idea: the one with most seeds in common, the first of equals.
        without: Catalog name of the one without.
        suppression: Whether the idea is another suppression of the same weights; there are no names then.
        metrics: Places in the JSON of `score`; higher is better.
    """

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


class Chosen(_Frozen):
    """What `two_stage.toml` holds."""

    line: Line
    pairs: tuple[Pair, ...] = ()


def read_chosen(path: Path = FILE) -> Chosen:
    """Read the choice of detectors and pairs.

    Raises:
        ReportError: The file cannot be read, or an entry does not fit.
    """
    try:
        return Chosen.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise ReportError(f"{path}: {error}") from error


def line(shelf: Shelf, chosen: Chosen) -> list[Section]:
    """The line's detectors of which there are Records on `shapes`; nothing where there are none."""
    wanted = chosen.line.detectors
    found = [e for e in shelf.accuracies if e.record.scale == "small" and e.test == "shapes test"]
    entries = sorted(
        (entry for entry in found if entry.record.detector in wanted),
        key=lambda entry: (wanted.index(entry.record.detector), entry.own),
    )
    if not entries:
        return []
    times = {entry: shelf.latencies(entry) for entry in entries}
    machine = _commonest(name for clocks in times.values() for name in clocks)
    notes = Notes()
    rows = []
    for entry in entries:
        cost, clock = shelf.cost(entry), times[entry].get(machine)
        about = [tested_on(entry), *([timed_on(clock)] if clock else []), *([costed(cost)] if cost else [])]
        rows.append(
            (
                f"{entry.record.detector}{' (own machine)' if entry.own else ''}",
                *(entry.metric(place) for _, place in _METRICS),
                _count(entry),
                *(entry.metric(place) for _, place in _RECALLS),
                *(_milliseconds(clock, stage) for stage in _STAGES),
                cost.count("parameters") if cost else NOT_MEASURED,
                " ".join(notes.mark(text) for text in about),
            )
        )
    heads = (
        Header("detector", text=True),
        *(Header(name) for name, _ in _METRICS),
        Header("proposals an image"),
        *(Header(name) for name, _ in _RECALLS),
        *(Header(f"{stage.replace('_', ' ')} ms") for stage in _STAGES),
        Header("parameters"),
        Header("notes", text=True),
    )
    intro = (
        "Small detectors on `shapes test`, in the order of their papers. AR is the average recall of the proposals "
        "alone, whatever their class: the mean share of objects that the first 100 or 300 of an image find, over IoU "
        "0.5 to 0.95. Times are medians by stage; *network* is without *proposals* and *masks* where these were timed "
        "apart, and an outside algorithm's search is timed as it runs, never out of a memory."
    )
    grid = Grid(heads, tuple(rows), notes=tuple(notes))
    return [Section(literal(chosen.line.title), "line", (intro, grid))]


def ablations(shelf: Shelf, chosen: Chosen) -> list[Section]:
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
                        names = (literal(pair.idea), test, changed, without, place.partition(".")[2])
                        rows.append((*names, *row, " ".join(dict.fromkeys(marks))))
    if not rows:
        return []
    texts = ("idea", "test", "with", "without", "metric")
    heads = (
        *(Header(title, text=True) for title in texts),
        Header("with it"),
        Header("without it"),
        Header("difference"),
        Header("by seed", text=True),
        Header("better in"),
        Header("notes", text=True),
    )
    intro = (
        "Small detectors that differ in one idea, trained alike; with and without it the same seeds. Mean and standard "
        "deviation (n - 1) over the seeds; the difference is taken seed by seed first, so that its deviation is its "
        "own. *Better in* counts the seeds in which the idea helped, before figures are rounded. Where weights are the "
        "same on both sides, seeds are those of their training."
    )
    return [Section("What single ideas are worth", "ablations", (intro, Grid(heads, tuple(rows), notes=tuple(notes))))]


_Sides = dict[int, tuple[Entry, Entry]]
"""By seed, the Record with the idea and the one without."""


def _sides(shelf: Shelf, pair: Pair, test: str) -> Iterable[tuple[str, str, _Sides]]:
    """Names of both sides and their Records by seed, for each comparison that a pair makes."""
    plain = _by_seed(e for e in shelf.trainings if e.record.scale == "small" and e.test == test)
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
            found[entry.record.detector].setdefault(entry.record.seed, entry)
    return found


def _row(sides: _Sides, place: str) -> tuple[str, ...] | None:
    values = [(entry.fraction(place), other.fraction(place)) for entry, other in sides.values()]
    pairs = [(100 * a, 100 * b) for a, b in values if isinstance(a, float) and isinstance(b, float)]
    if not pairs:
        return None
    differences = [a - b for a, b in pairs]
    return (
        _mean([a for a, _ in pairs]),
        _mean([b for _, b in pairs]),
        _mean(differences, sign="+"),
        " ".join(f"{by:+.1f}" for by in differences),
        f"{sum(by > 0 for by in differences)} of {len(differences)}",
    )


def _mean(values: list[float], sign: str = "") -> str:
    text = f"{statistics.fmean(values):{sign}.1f}"
    return f"{text} ± {statistics.stdev(values):.1f}" if len(values) > 1 else text


def _commonest(machines: Iterable[str]) -> str:
    names = sorted(machines, key=lambda name: ("own" in name, name))
    return max(dict.fromkeys(names), key=names.count, default="")


def _count(entry: Entry) -> str:
    value = entry.fraction("proposals.per_image")
    return value if isinstance(value, str) else f"{value:.0f}"


def _milliseconds(clock: Entry | None, stage: str) -> str:
    if clock is None:
        return NOT_MEASURED
    time = clock.milliseconds(stage)
    if time is None:
        # A detector without masks has no such stage; times taken before proposals stood apart hold them.
        return {"proposals": "in network", "masks": "-"}.get(stage, NOT_MEASURED)
    return f"{time:.1f}"
