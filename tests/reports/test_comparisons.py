"""Times against another implementation stand in the appendix, as their Records state them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reports.appendix import appendix
from reports.records import Entry, ReportError, Shelf
from reports.sections import Grid
from tests.reports.samples import record

METRICS: dict[str, Any] = {
    "ours": {"median": 0.5},
    "theirs": {"median": 0.625},
    "ratio": {"median": 0.8, "low": 0.75, "high": 0.85},
    "agreement": {"detections": 120, "alone": 1, "box": 0.001, "score": 0.0},
}


def comparison(metrics: dict[str, Any], **changes: Any) -> Entry:
    made = record("comparison", metrics=metrics, protocol={"against": "torchvision 1.0 ssd", "images": 7}, **changes)
    return Entry(made, Path("cpu/a.json"), "cpu/a.json", False)


def row(entry: Entry) -> tuple[str, ...]:
    (part,) = (section for section in appendix(Shelf([entry])) if section.anchor == "comparisons")
    (grid,) = part.blocks
    assert isinstance(grid, Grid)
    (cells,) = grid.rows
    return tuple(str(cell) for cell in cells)


def test_times_ratio_and_agreement() -> None:
    cells = row(comparison(METRICS))
    assert cells[-5:] == ("500.0", "625.0", "0.800", "0.750 to 0.850", "119 of 120")
    assert "torchvision 1.0 ssd" in cells[1]
    assert row(comparison(METRICS, dataset=None))[2] == "7 generated"


def test_a_record_of_something_else_is_named() -> None:
    with pytest.raises(ReportError, match=r"cpu/a.json: metrics: .*against-torchvision"):
        appendix(Shelf([comparison({"ours": {"median": 0.5}})]))
