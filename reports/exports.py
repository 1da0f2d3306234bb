"""Every table of the pages as a file of its own, for papers, spreadsheets and dashboards: CSV, LaTeX or JSON."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from benchmarks.results import to_json, write_atomically
from reports.render import plain
from reports.sections import Grid, Section

__all__ = ["FORMATS", "Form", "export"]

Form = Literal["csv", "latex", "json"]
FORMATS = get_args(Form)

_NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?")
_ROWS_A_PAGE = 40


def export(sections: Sequence[Section], form: Form, out: Path) -> list[Path]:
    """Write each table under `out`, named by its section; notes of CSV tables go to `notes.csv`."""
    written = []
    notes = io.StringIO()
    listed = csv.writer(notes, lineterminator="\n")
    listed.writerow(("table", "mark", "note"))
    for name, title, grid in _tables(sections):
        match form:
            case "csv":
                text, ending = _frame(grid).to_csv(index=False, lineterminator="\n"), "csv"
                listed.writerows((name, mark, plain(note)) for mark, note in (*grid.sides.items(), *grid.notes))
            case "latex":
                text, ending = _latex(name, title, grid), "tex"
            case "json":
                text, ending = to_json(_json(name, title, grid)), "json"
        write_atomically(out / f"{name}.{ending}", text)
        written.append(out / f"{name}.{ending}")
    if form == "csv":
        write_atomically(out / "notes.csv", notes.getvalue())
        written.append(out / "notes.csv")
    return written


def _tables(sections: Sequence[Section]) -> Iterator[tuple[str, str, Grid]]:
    for section in sections:
        grids = [block for block in section.blocks if isinstance(block, Grid)]
        for index, grid in enumerate(grids, 1):
            yield f"{section.anchor}-{index}" if len(grids) > 1 else section.anchor, plain(section.title), grid


def _titles(grid: Grid) -> list[str]:
    return [f"{head.side}: {plain(head.title)}" if head.side else plain(head.title) for head in grid.headers]


def _frame(grid: Grid) -> pd.DataFrame:
    return pd.DataFrame([[plain(cell) for cell in row] for row in grid.rows], columns=pd.Index(_titles(grid)))


def _latex(name: str, title: str, grid: Grid) -> str:
    """A booktabs table; one of more rows than a page holds is a longtable."""
    columns = "".join("l" if head.text else "r" for head in grid.headers)
    body = _frame(grid).to_latex(
        index=False,
        escape=True,
        column_format=columns,
        caption=_escaped(title),
        label=f"tab:{name}",
        longtable=len(grid.rows) > _ROWS_A_PAGE,
    )
    notes = [
        rf"\textit{{{_escaped(mark)}}}: {_escaped(plain(text))}\\" for mark, text in (*grid.sides.items(), *grid.notes)
    ]
    packages = "booktabs, longtable" if len(grid.rows) > _ROWS_A_PAGE else "booktabs"
    foot = ["{\\footnotesize\\noindent", *notes, "\\par}"] if notes else []
    return "\n".join([f"% needs {packages}", body.rstrip("\n"), *foot]) + "\n"


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)


def _json(name: str, title: str, grid: Grid) -> dict[str, Any]:
    """Cells as printed, and beside them the numbers that they are; null where a cell is none."""
    rows = [[plain(cell) for cell in row] for row in grid.rows]
    return {
        "table": name,
        "title": title,
        "columns": [{"title": plain(head.title), "side": head.side, "text": head.text} for head in grid.headers],
        "rows": rows,
        "values": [[_value(cell) for cell in row] for row in rows],
        "sides": {side: plain(label) for side, label in grid.sides.items()},
        "notes": {mark: plain(text) for mark, text in grid.notes},
    }


def _value(cell: str) -> float | int | None:
    if not _NUMBER.fullmatch(cell):
        return None
    digits = cell.replace(",", "")
    return float(digits) if "." in digits else int(digits)
