"""The papers' tables: what is printed, and beside it, in columns of its own, what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.papers import Column, Table
from reports.plots import Bars, bars
from reports.records import NOT_MEASURED, Entry, Shelf
from reports.sections import Grid, Header, Notes, Plot, Section, costed, difference, literal, tested_on

__all__ = ["paper_section", "printed_figures"]

_OTHER = ("Other images than the paper's.", "Other images and other training than the paper's.")
_STRUCTURE = {"input": "input", "boxes": "boxes", "parameters": "parameters", "macs": "MACs (M)"}


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


def paper_section(shelf: Shelf, table: Table) -> Section:
    """One table with everything that was measured of its rows."""
    groups = _groups(shelf, table)
    source = (
        f"{literal(table.paper)}. {table.link + ', ' if table.link else ''}{literal(table.place)}.",
        f"Printed figures were measured on: {literal(table.split)}.",
        f"Hardware: {literal(table.hardware) or 'the paper names none for this table'}.",
        *map(literal, table.notes),
    )
    blocks: list[str | tuple[str, ...] | Grid | Plot] = [literal(table.caption), source]
    blocks += _main(shelf, table)
    for (test, scale, own), entries in groups.items():
        where = f"{test}, {scale} size{', own machine' if own else ''}"
        blocks.append(f"**The same figures on {where}.** {_OTHER[scale == 'small']}")
        blocks.append(_beside(table, entries, where))
        blocks += [tuple(found)] if (found := _orders(table, entries, where)) else []
    if table.pairs and groups:
        blocks.append(_bars(table, groups))
    title = literal(f"{table.work}, {table.name}: {table.subject}")
    return Section(title, table.id.replace("_", "-"), tuple(blocks))


def _groups(shelf: Shelf, table: Table) -> dict[tuple[str, str, bool], dict[str, Entry]]:
    """Records on other tests than the paper's, by test, size and owner; in each the first of a detector."""
    if not table.metrics:
        return {}
    detectors = {row.detector for row in table.rows if row.detector}
    groups: dict[tuple[str, str, bool], dict[str, Entry]] = {}
    for entry in shelf.accuracies:
        if entry.record.detector in detectors and not any(_is_papers(entry, column) for column in table.metrics):
            group = groups.setdefault((entry.test, entry.record.scale, entry.own), {})
            group.setdefault(entry.record.detector, entry)
    return dict(sorted(groups.items(), key=lambda item: (not item[0][0].startswith("shapes test"), item[0])))


def _is_papers(entry: Entry, column: Column) -> bool:
    dataset = entry.record.dataset
    same = entry.test == column.dataset and dataset is not None and dataset.images == column.images
    return same and entry.record.scale == "paper"


def _main(shelf: Shelf, table: Table) -> list[str | tuple[str, ...] | Grid | Plot]:
    """All printed rows; beside them the structure of our detectors and what was measured on the paper's own images."""
    notes = Notes()
    rows = []
    reproduced = [entry for entry in shelf.accuracies if any(_is_papers(entry, column) for column in table.metrics)]
    known = {row.detector for row in table.rows if row.detector}
    any_reproduced = any(entry.record.detector in known for entry in reproduced)
    counted: dict[str, Entry] = {}
    for row in table.rows:
        cost = shelf.paper_cost(row.detector, table.classes)
        marks = [notes.mark(literal(row.note))] if row.note else []
        if cost is not None and table.beside and row.detector:
            counted[row.detector] = cost
            marks.append(notes.mark(costed(cost)))
        structure = [_structure(cost, key) for key in table.beside]
        accuracies = []
        for column in table.metrics:
            fits = [e for e in reproduced if e.record.detector == row.detector and _is_papers(e, column)]
            accuracies.append(fits[0].metric(column.measures) if fits else NOT_MEASURED)
            marks += [notes.mark(tested_on(fits[0]))] if fits else []
        cells = accuracies if any_reproduced else [NOT_MEASURED]
        detector = f"`{row.detector}`" if row.detector else "none"
        rows.append((*map(literal, row.cells), detector, *structure, *cells, " ".join(dict.fromkeys(marks))))
    titles = [column.title for column in table.metrics] if any_reproduced else ["accuracy on the paper's images"]
    heads = (
        *_paper_heads(table.columns),
        Header("detector", "here", text=True),
        *(Header(_STRUCTURE[key], "here") for key in table.beside),
        *(Header(title, "here") for title in titles),
        Header("notes", text=True),
    )
    sides = {"paper": f"printed in the paper, {table.name}", "here": "measured here"}
    reasons: dict[str, list[str]] = {}
    for column in table.columns:
        if column.unmeasured:
            reasons.setdefault(column.unmeasured, []).append(column.title)
    why = tuple(f"{', '.join(titles)} {NOT_MEASURED}: {reason}." for reason, titles in reasons.items())
    blocks: list[str | tuple[str, ...] | Grid | Plot] = [Grid(heads, tuple(rows), sides, tuple(notes))]
    blocks.append((*why, *_built(table, counted)))
    return blocks


def _structure(cost: Entry | None, key: str) -> str:
    if cost is None:
        return NOT_MEASURED
    return {"input": cost.size, "macs": lambda: cost.millions("macs")}.get(key, lambda: cost.count(key))()


def _built(table: Table, counted: dict[str, Entry]) -> list[str]:
    """For each printed number of boxes, whether the detector of the zoo has as many."""
    columns = [column for column in table.columns if column.measures == "boxes" and "boxes" in table.beside]
    sentences = []
    for column in columns:
        for row in table.rows:
            if row.detector not in counted:
                continue
            printed, ours = table.cell(row, column.key), counted[row.detector].count("boxes")
            verdict = "as printed" if printed == ours.replace(",", "") else f"printed are {literal(printed)}"
            sentences.append(f"`{row.detector}` has {ours} boxes, {verdict}.")
    return sentences


def _beside(table: Table, entries: dict[str, Entry], where: str) -> Grid:
    """The rows that have a Record, printed metrics left and measured ones right."""
    notes = Notes()
    named = [column for column in table.columns if column.kind == "text"]
    rows = []
    for row in table.rows:
        if row.detector in entries:
            entry = entries[row.detector]
            rows.append(
                (
                    *(literal(table.cell(row, column.key)) for column in (*named, *table.metrics)),
                    f"`{row.detector}`",
                    *(entry.metric(column.measures) for column in table.metrics),
                    "none" if entry.record.weights is None else f"`{entry.record.weights.sha256[:8]}`",
                    notes.mark(tested_on(entry)),
                )
            )
    heads = (
        *_paper_heads((*named, *table.metrics)),
        Header("detector", "here", text=True),
        *(Header(column.title, "here") for column in table.metrics),
        Header("weights", "here", text=True),
        Header("notes", text=True),
    )
    sides = {"paper": f"printed in the paper, {table.name}", "here": f"measured here, {where}"}
    return Grid(heads, tuple(rows), sides, tuple(notes))


def _paper_heads(columns: Sequence[Column]) -> list[Header]:
    return [Header(column.title, "paper", text=column.kind == "text") for column in columns]


def _orders(table: Table, entries: dict[str, Entry], where: str) -> list[str]:
    """For each pair that the paper sets against each other, the order in print and the order measured."""
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
    return [*sentences, "One training run each: this is no verdict on the paper's claim."] if sentences else []


def _apart(by: float) -> str:
    text = difference(by)
    return "the same as" if text == "the same" else text.replace("higher", "above").replace("lower", "below")


def _bars(table: Table, groups: dict[tuple[str, str, bool], dict[str, Entry]]) -> Plot:
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
