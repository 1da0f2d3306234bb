"""What follows from a detector's architecture alone, counted at full size and held against what is printed."""

from __future__ import annotations

import re

from benchmarks.papers import Row, Structure, Table
from reports.reasons import counts_for
from reports.records import NOT_MEASURED, Entry, Shelf
from reports.sections import literal

__all__ = ["TITLES", "agreement", "structure_of"]

TITLES: dict[Structure, str] = {
    "input": "input (HxW)",
    "boxes": "boxes",
    "parameters": "parameters",
    "macs": "MACs (M)",
    "operations": "billion operations",
}
_AS_PRINTED = "as printed"


def structure_of(table: Table, row: Row, cost: Entry, key: Structure) -> str:
    """The figure of a cost Record; behind it, where the paper prints one too, whether it is the same."""
    found = _counted(cost, key)
    verdict = _verdict(found, _printed(table, row, key), key)
    return f"{found} ({verdict})" if verdict else found


def agreement(shelf: Shelf, table: Table) -> list[str]:
    """For each printed column of structure how many rows have as many here, and which have not."""
    sentences = []
    for column in (column for column in table.columns if column.kind == "structure"):
        same, others = 0, []
        for row in table.rows:
            wanted = counts_for(row, column.measures)
            cost = shelf.paper_cost(row.network, table.classes, row.overrides) if wanted else None
            if cost is None:
                continue
            found = _counted(cost, column.measures)
            verdict = _verdict(found, table.cell(row, column.key), column.measures)
            same += verdict == _AS_PRINTED
            if verdict not in ("", _AS_PRINTED):
                others.append(f"`{row.network}` {found} for {literal(table.cell(row, column.key))}")
        if same or others:
            rest = f"; not so: {', '.join(others)}" if others else ""
            sentences.append(f"Printed {column.title}, counted here: {same} of {same + len(others)} as printed{rest}.")
    return sentences


def _printed(table: Table, row: Row, key: str) -> str:
    found = (table.cell(row, column.key) for column in table.columns if column.measures == key)
    return next(found, "")


def _counted(cost: Entry, key: str) -> str:
    match key:
        case "input":
            return cost.size()
        case "macs":
            return cost.millions("macs")
        case "operations":
            # A multiply-accumulate is two operations.
            text = cost.count("macs")
            return f"{2e-9 * cost.record.metrics['macs']:.2f}" if text[0].isdigit() else text
        case "boxes" if "regions" in cost.record.metrics:
            # Of detectors with a second stage the papers count what this looks at.
            return cost.count("regions")
        case _:
            return cost.count(key)


def _verdict(found: str, printed: str, key: str) -> str:
    """`as printed`, or by how much it differs; nothing where nothing exact is printed or counted."""
    ours, theirs = re.findall(r"[\d.]+", found.replace(",", "")), re.findall(r"[\d.]+", printed)
    if not theirs or found in (NOT_MEASURED, "none"):
        return ""
    if key == "input":
        # "~1000x600" is a rule of resizing and no size.
        return "" if printed.startswith("~") else _AS_PRINTED if sorted(ours) == sorted(theirs) else "not as printed"
    by = float(ours[0]) - float(theirs[0])
    if abs(by) < 0.5 * 10 ** -len(theirs[0].partition(".")[2]):
        return _AS_PRINTED
    return f"{abs(by):,.{len(theirs[0].partition('.')[2])}f} {'more' if by > 0 else 'fewer'}"
