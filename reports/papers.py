"""The papers' tables: what is printed, and beside it, in columns of its own, what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from benchmarks.papers import DASH, Column, Row, Table
from reports.plots import Bars, bars
from reports.reasons import counts_for, is_papers_machine, why_not, why_not_small
from reports.records import Entry, Shelf
from reports.sections import Grid, Header, Notes, Plot, Section, costed, difference, literal, tested_on, timed_on
from reports.structure import TITLES, agreement, structure_of

__all__ = ["linked", "paper_section", "printed_figures"]

_SMALL = ("shapes test", "small", False)
_OTHER = ("other images than the paper's", "other images and another size than the paper's")

_Block = str | tuple[str, ...] | Grid | Plot
_Groups = dict[tuple[str, str, bool], dict[str, Entry]]
"""Records on other tests than the paper's, by test, size and owner; in each the first of a detector."""


def printed_figures(tables: Sequence[Table]) -> dict[str, list[tuple[str, str, str, float]]]:
    """Every printed accuracy of a detector of the catalog: metric, place in the JSON of `score`, test, figure."""
    found: dict[str, list[tuple[str, str, str, float]]] = {}
    for table in tables:
        for row in table.rows:
            for column in table.metrics if row.detector else ():
                if (figure := table.printed(row, column.key)) is not None:
                    found.setdefault(row.detector or "", []).append(
                        (column.title, column.measures, column.dataset, figure)
                    )
    return found


def linked(shelf: Shelf, detector: str | None) -> str:
    """A detector's name, with a link to its page where the catalog has it."""
    if detector is None:
        return "none"
    return f"[`{detector}`](detectors/{detector}.md)" if detector in shelf.catalog else f"`{detector}`"


def paper_section(shelf: Shelf, table: Table) -> Section:
    """One table with everything that was measured of its rows."""
    groups = _groups(shelf, table)
    source = (
        f"{literal(table.paper)}. {table.link + ', ' if table.link else ''}{literal(table.place)}.",
        f"Printed figures were measured on: {literal(table.split)}.",
        f"Hardware: {literal(table.hardware) or 'the paper names none for this table'}.",
        *map(literal, table.notes),
        *agreement(shelf, table),
    )
    blocks: list[_Block] = [literal(table.caption), source, _main(shelf, table, groups.get(_SMALL, {}))]
    if groups:
        blocks.append(
            "**Rows of this table on other images, or at another size.** None of these figures can be held against a "
            "printed one; those of one test can be held against each other."
        )
        blocks.append(_elsewhere(table, groups))
        blocks += [tuple(found)] if (found := _orders(table, groups)) else []
        blocks += [_bars(table, groups)] if table.pairs else []
    title = literal(f"{table.work}, {table.name}: {table.subject}")
    return Section(title, table.id.replace("_", "-"), tuple(blocks))


def _groups(shelf: Shelf, table: Table) -> _Groups:
    if not table.metrics:
        return {}
    detectors = {row.detector for row in table.rows if row.detector}
    groups: _Groups = {}
    for entry in shelf.accuracies:
        if entry.record.detector in detectors and not any(_is_papers(entry, column) for column in table.metrics):
            group = groups.setdefault((entry.test, entry.record.scale, entry.own), {})
            group.setdefault(entry.record.detector, entry)
    return dict(sorted(groups.items(), key=lambda item: (not item[0][0].startswith("shapes test"), item[0])))


def _is_papers(entry: Entry, column: Column) -> bool:
    dataset = entry.record.dataset
    same = entry.test == column.dataset and dataset is not None and dataset.images == column.images
    return same and entry.record.scale == "paper"


def _main(shelf: Shelf, table: Table, small: dict[str, Entry]) -> Grid:
    """All rows and columns of the paper; beside them the detector, what it is made of, and what was measured."""
    notes = Notes()
    marks = [[notes.mark(literal(row.note))] if row.note else [] for row in table.rows]
    columns = [
        *((head, [literal(table.cell(row, head_of.key)) for row in table.rows]) for head, head_of in _heads(table)),
        (Header("detector", "here", text=True), [linked(shelf, row.network) for row in table.rows]),
        *_structures(shelf, table, notes, marks),
        *_joined(_figures(shelf, table, notes, marks)),
    ]
    if table.metrics:
        columns.append(_headline(table, small, notes, marks))
    columns.append((Header("notes", text=True), [" ".join(dict.fromkeys(found)) for found in marks]))
    sides = {
        "paper": f"printed in the paper, {table.name}",
        "here": "measured here, at the paper's size and on its images",
        "small": "measured here, small detectors on other images",
    }
    used = {header.side for header, _ in columns}
    rows = tuple(zip(*(cells for _, cells in columns), strict=True))
    shown = {side: label for side, label in sides.items() if side in used}
    return Grid(tuple(header for header, _ in columns), rows, shown, tuple(notes))


_Column = tuple[Header, list[str]]


def _heads(table: Table) -> list[tuple[Header, Column]]:
    return [(Header(column.title, "paper", text=column.kind == "text"), column) for column in table.columns]


def _structures(shelf: Shelf, table: Table, notes: Notes, marks: list[list[str]]) -> Iterable[_Column]:
    """What follows from the architecture, counted at full size; where it is printed too, whether it is the same."""
    for key in table.beside:
        cells = []
        for row, found in zip(table.rows, marks, strict=True):
            cost = shelf.paper_cost(row.network, table.classes, row.overrides) if counts_for(row, key) else None
            if cost is None:
                column = Column(key=key, title=TITLES[key], kind="structure", measures=key)
                cells.append(_missing(notes, why_not(shelf, table, row, column)))
            else:
                cells.append(structure_of(table, row, cost, key))
                found.append(notes.mark(costed(cost)))
        yield Header(TITLES[key], "here"), cells


def _figures(shelf: Shelf, table: Table, notes: Notes, marks: list[list[str]]) -> Iterable[_Column]:
    """Beside each printed figure that depends on images or machine what was measured on the paper's own, or why not."""
    for column in table.columns:
        if column.kind in ("text", "structure"):
            continue
        cells = []
        for row, found in zip(table.rows, marks, strict=True):
            if column.kind == "metric" and (entry := _reproduced(shelf, row, column)) is not None:
                cells.append(entry.sure(column.measures))
                found.append(notes.mark(f"{tested_on(entry)}, weights {_weights(entry)}"))
            elif column.kind == "speed" and (clock := _clocked(shelf, table, row)) is not None:
                milliseconds = clock.milliseconds("end_to_end") or 0.0
                cells.append(f"{1000 / milliseconds:.1f} fps" if milliseconds else DASH)
                found.append(notes.mark(timed_on(clock)))
            else:
                cells.append(_missing(notes, why_not(shelf, table, row, column)))
        yield Header(column.title, "here"), cells


def _joined(columns: Iterable[_Column]) -> Iterable[_Column]:
    """Neighbouring columns without a single figure, and with the same reasons, as one."""
    for empty, run in groupby(columns, key=lambda column: tuple(column[1]) if _is_empty(column[1]) else ()):
        same = list(run)
        if empty and len(same) > 1:
            yield Header(f"{same[0][0].title} to {same[-1][0].title}", "here"), list(empty)
        else:
            yield from same


def _is_empty(cells: Sequence[str]) -> bool:
    return all(cell.startswith(DASH) for cell in cells)


def _headline(table: Table, small: dict[str, Entry], notes: Notes, marks: list[list[str]]) -> _Column:
    """The table's first metric of small detectors on `shapes`."""
    cells = []
    column = table.metrics[0]
    for row, found in zip(table.rows, marks, strict=True):
        if (entry := small.get(row.detector or "")) is None:
            cells.append(_missing(notes, why_not_small(row)))
        else:
            cells.append(entry.sure(column.measures))
            found.append(notes.mark(tested_on(entry)))
    return Header(f"{column.title}, {_SMALL[0]}", "small"), cells


def _missing(notes: Notes, reason: str) -> str:
    return f"{DASH} {notes.mark(reason)}"


def _reproduced(shelf: Shelf, row: Row, column: Column) -> Entry | None:
    found = (e for e in shelf.accuracies if e.record.detector == row.detector and _is_papers(e, column))
    return next((e for e in found if not row.overrides or e.record.overrides == row.overrides), None)


def _clocked(shelf: Shelf, table: Table, row: Row) -> Entry | None:
    """The time of the paper's network on a machine that the table names."""
    found = (e for e in shelf.of("latency") if e.record.detector == row.detector and e.record.scale == "paper")
    return next((e for e in found if is_papers_machine(e.record.hardware, table)), None)


def _weights(entry: Entry) -> str:
    return "none" if entry.record.weights is None else f"`{entry.record.weights.sha256[:8]}`"


def _elsewhere(table: Table, groups: _Groups) -> Grid:
    """Row by row every Record that is no reproduction: small detectors, and checkpoints on other images."""
    notes = Notes()
    named = [(head, column) for head, column in _heads(table) if column.kind == "text"]
    rows = [
        (
            *(literal(table.cell(row, column.key)) for _, column in named),
            f"`{row.detector}`",
            f"{test}{' (own machine)' if own else ''}",
            scale,
            *(entries[row.detector].sure(column.measures) for column in table.metrics),
            _weights(entries[row.detector]),
            " ".join(notes.mark(text) for text in (tested_on(entries[row.detector]), _OTHER[scale != "paper"])),
        )
        for row in table.rows
        for (test, scale, own), entries in groups.items()
        if row.detector in entries
    ]
    heads = (
        *(head for head, _ in named),
        *(Header(title, "here", text=True) for title in ("detector", "test", "size")),
        *(Header(column.title, "here") for column in table.metrics),
        Header("weights", "here", text=True),
        Header("notes", text=True),
    )
    sides = {"paper": f"as the paper names it, {table.name}", "here": "measured here"}
    return Grid(heads, tuple(rows), sides, tuple(notes))


def _orders(table: Table, groups: _Groups) -> list[str]:
    """For each pair that the paper sets against each other, the order in print and the order measured, by test."""
    sentences = [
        sentence
        for (test, scale, own), entries in groups.items()
        for sentence in _order(table, entries, f"{test}, {scale} size{', own machine' if own else ''}")
    ]
    return [*sentences, "One training run each: this is no verdict on the paper's claim."] if sentences else []


def _order(table: Table, entries: dict[str, Entry], where: str) -> list[str]:
    sentences = []
    column = table.metrics[0]
    for pair in table.pairs:
        older, newer = (table.row(method) for method in pair)
        printed = [table.printed(row, column.key) for row in (older, newer)]
        found = [entries.get(row.detector or "") for row in (older, newer)]
        values = [entry.fraction(column.measures) if entry else None for entry in found]
        in_print = [value for value in printed if value is not None]
        here = [round(100 * value, 1) for value in values if isinstance(value, float)]
        if len(in_print) < 2 or len(here) < 2:
            continue
        gap, measured = round(in_print[1] - in_print[0], 1), round(here[1] - here[0], 1)
        same = measured * gap > 0
        order = "the same order as in print" if same else "no difference" if measured == 0 else "the opposite order"
        sentences.append(
            f"{column.title} of {pair[1]} is {_apart(measured)} that of {pair[0]} here "
            f"({here[1]:.1f} against {here[0]:.1f}, {where}); in the paper it is {_apart(gap)} it "
            f"({table.cell(newer, column.key)} against {table.cell(older, column.key)}): {order}."
        )
    return sentences


def _apart(by: float) -> str:
    text = difference(by)
    return "the same as" if text == "the same" else text.replace("higher", "above").replace("lower", "below")


def _bars(table: Table, groups: _Groups) -> Plot:
    rows = [table.row(method) for method in dict.fromkeys(method for pair in table.pairs for method in pair)]
    names = tuple(column.title for column in table.metrics)
    printed = tuple(
        (table.cell(row, "method"), tuple(table.printed(row, column.key) for column in table.metrics)) for row in rows
    )
    panels = [Bars(f"Printed in the paper: {table.name}, {table.split}", names, printed, printed=True)]
    for (test, scale, own), entries in groups.items():
        series = []
        for row in rows:
            if row.detector in entries:
                values = [entries[row.detector].fraction(column.measures) for column in table.metrics]
                shown = tuple(100 * value if isinstance(value, float) else None for value in values)
                series.append((row.detector, shown))
        if not series:
            continue
        title = f"Measured here: {test}, {scale} size{', own machine' if own else ''}"
        panels.append(Bars(title, names, tuple(series), printed=False))
    title = f"{table.subject[0].upper()}{table.subject[1:]}, percent"
    return Plot(bars(panels, title=title), "Hatched bars are printed figures, full bars are measured ones.")
