"""Speed across decades: milliseconds of different machines cannot be compared, ratios to one detector can.

The detector is SSD300. On the paper's side a ratio is taken within one table that names one machine and has a row of
SSD300; here within one machine, size and set of images. A ratio over 1 is faster than SSD300.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.again import either_way
from benchmarks.metrics.quantiles import quantile_between
from benchmarks.papers import DASH, Column, Row, Table
from reports.papers import linked
from reports.plots import Point, scatter
from reports.records import Entry, Shelf
from reports.sections import Grid, Header, Notes, Plot, Section, literal, timed_on

__all__ = ["REFERENCE", "median_between", "speed_ratio", "speeds"]

REFERENCE = "ssd300_vgg16"


@dataclass(frozen=True)
class _Printed:
    """A row with a printed speed, and how many times SSD300's it is."""

    table: Table
    row: Row
    column: Column
    ratio: float


@dataclass(frozen=True)
class _Clocks:
    """Latency Records that can be held against each other, by detector, and the reference among them."""

    title: str
    entries: dict[str, Entry]
    reference: Entry

    def ratio(self, detector: str) -> tuple[float, float, float]:
        own, ssd = (entry.record.samples["end_to_end"] for entry in (self.entries[detector], self.reference))
        return speed_ratio(own, ssd)


def speeds(shelf: Shelf, tables: Sequence[Table]) -> Section:
    """Every printed speed relative to SSD300 beside ours, and accuracy against relative time for both."""
    printed, left_out = _printed(tables)
    clocks, unpaired = _clocks(shelf)
    intro = (
        "Frames a second of one graphics processor mean nothing on another; how many times faster than SSD300 a "
        "detector is means more, though no two machines agree on it fully. *paper* ratios are taken within one table "
        "and its one machine, those *here* within one machine, one size and the same images, batch 1, from pixels to "
        "detections. Small detectors have small backbones on small images, where what surrounds the backbone weighs "
        "more: the ratios differ for that reason too. The interval of a ratio holds the ratio of the medians at least "
        "95 times in 100, given one session of measuring; it says nothing of another day."
    )
    blocks: list[str | tuple[str, ...] | Grid | Plot] = [intro, _again(shelf)]
    if left_out or unpaired:
        blocks.append((*left_out, *unpaired))
    if printed or clocks:
        blocks += [_grid(shelf, printed, clocks), *_plots(shelf, printed, clocks)]
    return Section("Speed across decades", "speed", tuple(blocks))


def _again(shelf: Shelf) -> str:
    """How far medians moved from one run to the next."""
    moved = [100 * (either_way(ratio) - 1) for entry in shelf.of("latency") for ratio in entry.moves]
    if not moved:
        return "No detector was timed twice under the same conditions, so how far runs differ is not known."
    return (
        f"How far runs differ: {len(moved)} times a detector was timed again under the same conditions, in another "
        f"process; in half of the pairs the longer median exceeds the shorter by {statistics.median(moved):.1f} % or "
        f"less, in the worst by {max(moved):.1f} %. Detectors that are nearer to each other than that are not ranked "
        "by these times."
    )


def speed_ratio(own: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """How many times the reference's speed: ratio of the median times, and its 95 % interval.

    Each median lies between its order statistics with 97.5 %, whatever the distribution, so that both do, and with
    them the ratio, with at least 95 %. Samples of both are taken as independent.
    """
    low, high = median_between(own, 0.975)
    least, most = median_between(reference, 0.975)
    return statistics.median(reference) / statistics.median(own), least / high, most / low


def median_between(samples: Sequence[float], level: float) -> tuple[float, float]:
    """Order statistics between which the median of the population lies with at least `level`.

    Of so few samples that even their extremes hold it more seldom, the extremes.
    """
    low, high = quantile_between(samples, 0.5, level)
    return min(samples) if low is None else low, max(samples) if high is None else high


def _printed(tables: Sequence[Table]) -> tuple[list[_Printed], list[str]]:
    """Rows of tables that time SSD300 too, on one machine; and of each other table with times why it is left out."""
    found, left_out = [], []
    for table in tables:
        for column in table.speeds:
            name = literal(f"{table.work}, {table.name}")
            times = [(row, table.seconds(row, column.key)) for row in table.rows]
            reference = next((time for row, time in times if row.detector == REFERENCE and time), None)
            if not table.hardware:
                left_out.append(f"{name}: no machine is named for its times, so they make no ratios.")
            elif reference is None:
                left_out.append(f"{name}: has no row of SSD300 on its {literal(table.hardware)}, so there is no ratio.")
            else:
                found += [_Printed(table, row, column, reference / time) for row, time in times if time]
    return found, left_out


def _clocks(shelf: Shelf) -> tuple[list[_Clocks], list[str]]:
    """By size, machine and test the latency Records there are; the small ones first, the reader's own last."""
    groups: dict[tuple[object, ...], dict[str, Entry]] = {}
    for entry in shelf.of("latency"):
        hardware, dataset = entry.record.hardware, entry.record.dataset
        if not entry.record.samples.get("end_to_end") or hardware is None or dataset is None:
            continue
        same = (hardware.threads, hardware.precision, dataset.fingerprint)
        key = (entry.record.scale != "small", entry.own, f"{entry.record.scale}, {entry.clock}", *same)
        groups.setdefault(key, {}).setdefault(entry.record.detector, entry)
    found, unpaired = [], []
    for (_, _, title, *_), entries in sorted(groups.items(), key=lambda item: tuple(map(str, item[0]))):
        if REFERENCE in entries:
            found.append(_Clocks(str(title), entries, entries[REFERENCE]))
        else:
            names = ", ".join(f"`{name}`" for name in sorted(entries))
            unpaired.append(f"{title}: `{REFERENCE}` was not timed there, so there is no ratio for {names}.")
    return found, unpaired


def _grid(shelf: Shelf, printed: Sequence[_Printed], clocks: Sequence[_Clocks]) -> Grid:
    notes = Notes()
    listed = {one.row.detector for one in printed}
    others = sorted({name for group in clocks for name in group.entries} - listed)
    others.sort(key=lambda name: -next(group.ratio(name)[0] for group in clocks if name in group.entries))
    rows = []
    for one in printed:
        unit = {"frames a second": " fps", "milliseconds": " ms"}.get(one.column.measures, "")
        cells = (
            literal(one.table.cell(one.row, "method")),
            _backbone(one),
            one.table.cell(one.row, one.column.key) + unit,
        )
        mark = notes.mark(literal(f"{one.table.work}, {one.table.name}: {one.table.hardware}"))
        rows.append((*cells, _ratio(one.ratio), *_ours(shelf, one.row.detector, clocks, notes, mark)))
    for name in others:
        rows.append((DASH, DASH, DASH, DASH, *_ours(shelf, name, clocks, notes)))
    heads = [
        Header("method", "paper", text=True),
        Header("backbone", "paper", text=True),
        Header("speed", "paper"),
        Header("times SSD300's", "paper"),
        Header("detector", "here", text=True),
    ]
    for group in clocks:
        titles = (f"ms ({group.title})", f"times SSD300's ({group.title})", "95 % interval")
        heads += [Header(title, "here") for title in titles]
    heads.append(Header("notes", text=True))
    sides = {"paper": "printed in the papers", "here": "measured here"}
    return Grid(tuple(heads), tuple(rows), sides, tuple(notes))


def _ours(
    shelf: Shelf, detector: str | None, clocks: Sequence[_Clocks], notes: Notes, mark: str = ""
) -> tuple[str, ...]:
    cells, marks = [linked(shelf, detector)], [mark] if mark else []
    for group in clocks:
        if detector not in group.entries:
            reason = "no detector of the catalog" if detector is None else f"not timed: {group.title}"
            cells += [f"{DASH} {notes.mark(reason)}", DASH, DASH]
            continue
        entry = group.entries[detector]
        ratio, low, high = group.ratio(detector)
        cells += [f"{entry.milliseconds('end_to_end') or 0:.1f}", _ratio(ratio)]
        cells.append("1 by definition" if entry is group.reference else f"{_ratio(low)} to {_ratio(high)}")
        marks.append(notes.mark(timed_on(entry)))
    return (*cells, " ".join(marks))


def _ratio(value: float) -> str:
    """Two decimals; below 0.1 two digits that count."""
    return f"{value:.2f}" if value >= 0.1 else f"{float(f'{value:.2g}'):f}".rstrip("0")


def _backbone(one: _Printed) -> str:
    keys = {column.key for column in one.table.columns}
    return literal(one.table.cell(one.row, "backbone")) if "backbone" in keys else DASH


def _plots(shelf: Shelf, printed: Sequence[_Printed], clocks: Sequence[_Clocks]) -> Iterable[Plot]:
    """The lecture's plot twice: as the papers have it, and as the small detectors have it."""
    for table in dict.fromkeys(one.table.id for one in printed):
        found = [one for one in printed if one.table.id == table]
        points = [point for one in found if (point := _point(shelf, one)) is not None]
        if len(points) > 1:
            first = found[0].table
            title = f"Printed: {first.metrics[0].title} against time, {first.work}, {first.name}"
            yield _plot(points, title, first.metrics[0].title, f"As the paper has it; machine: {first.hardware}.")
    for group in clocks:
        if len(points := _measured(shelf, group)) > 1:
            title = f"Measured: AP against time, {group.title}, {group.reference.test}"
            caption = (
                f"The same of what was trained and timed here. The backbone is {_commonest(group)} unless another is "
                "named behind the detector; own: its paper has no other. It is no repetition of the plot above: "
                "images, sizes and backbones are smaller."
            )
            yield _plot(points, title, "AP", caption)


def _measured(shelf: Shelf, group: _Clocks) -> list[Point]:
    """The detectors of a group whose weights were tested on the images that they were timed on."""
    accuracies = {entry.record.weights: entry for entry in shelf.accuracies if entry.test == group.reference.test}
    usual = _commonest(group)
    points = []
    for name, clock in group.entries.items():
        entry = accuracies.get(clock.record.weights)
        value = None if entry is None else entry.fraction("stats.AP")
        if isinstance(value, float):
            backbone = _own_backbone(clock)
            label = name if backbone == usual else f"{name}, {backbone}"
            family = shelf.about(name, "family")
            points.append(Point(label, 1 / group.ratio(name)[0], 100 * value, family, hollow=clock.own))
    return points


def _commonest(group: _Clocks) -> str:
    return statistics.mode(_own_backbone(clock) for clock in group.entries.values())


def _point(shelf: Shelf, one: _Printed) -> Point | None:
    if not one.table.metrics:
        return None
    figure = one.table.printed(one.row, one.table.metrics[0].key)
    if figure is None:
        return None
    label = f"{one.table.cell(one.row, 'method')}, {_backbone(one)}"
    return Point(label, 1 / one.ratio, figure, shelf.about(one.row.detector or "", "family"))


def _own_backbone(clock: Entry) -> str:
    backbone = clock.record.overrides.get("backbone")
    return backbone if isinstance(backbone, str) else "own"


def _plot(points: list[Point], title: str, metric: str, caption: str) -> Plot:
    svg = scatter(
        points,
        title=title,
        x_title="time of an image, times SSD300's (logarithmic)",
        y_title=metric,
        log=True,
        front="no detector is both faster and more accurate",
    )
    return Plot(svg, caption)
