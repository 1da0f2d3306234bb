"""The line of papers from R-CNN on in one table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from benchmarks.tomls import read_toml
from reports.records import NOT_MEASURED, Entry, ReportError, Shelf
from reports.sections import Grid, Header, Notes, Section, costed, literal, tested_on, timed_on

__all__ = ["FILE", "Line", "line", "read_line"]

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


class Line(BaseModel):
    """Detectors that follow from one another.

    Attributes:
        title: Heading.
        detectors: Catalog names, in the order of the papers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(min_length=1)
    detectors: tuple[str, ...] = Field(min_length=1)


def read_line(path: Path = FILE) -> Line:
    """Read the choice of detectors.

    Raises:
        ReportError: The file cannot be read, or an entry does not fit.
    """
    return read_toml(path, Line, ReportError, "give a title and detectors")


def line(shelf: Shelf, chosen: Line) -> list[Section]:
    """The line's detectors of which there are Records on `shapes`; nothing where there are none."""
    wanted = chosen.detectors
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
    return [Section(literal(chosen.title), "line", (intro, grid))]


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
