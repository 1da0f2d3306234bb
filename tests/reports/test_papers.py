from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Any

import pytest

import reports.__main__ as cli
from benchmarks.papers import Table, read_tables
from benchmarks.results import DatasetId, Record
from reports.papers import paper_section
from reports.reasons import NOT_SO, why_not
from reports.records import Entry, ReportError, Shelf
from reports.render import render
from reports.sections import Grid
from reports.structure import agreement, structure_of
from tests.benchmarks.test_papers import OURS, TRANSCRIPTIONS
from tests.reports.samples import COCO_197, CPU, collection, cost, metrics, record, samples

TABLES = {table.id: table for table in read_tables()}
VOC07 = DatasetId(name="voc", split="2007_test", fingerprint="70c" * 16, images=4952, objects=12032)


def shelf_of(*records: Record) -> Shelf:
    return Shelf(Entry(made, Path(made.name), f"cpu-2core/{made.name}.json") for made in records)


def grid_of(shelf: Shelf, name: str) -> Grid:
    """The table itself, which comes first of all."""
    return next(block for block in paper_section(shelf, TABLES[name]).blocks if isinstance(block, Grid))


def cell(grid: Grid, method: str, title: str, side: str = "here") -> str:
    at = next(i for i, header in enumerate(grid.headers) if (header.title, header.side) == (title, side))
    (row,) = (row for row in grid.rows if method in row)
    return row[at]


def reason(grid: Grid, method: str, title: str) -> str:
    dash, _, mark = cell(grid, method, title).partition(" ")
    assert dash == "–"
    return dict(grid.notes)[mark]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("records", [(), collection()], ids=["no Record", "Records"])
def test_every_row_and_cell_stands_as_printed(name: str, records: list[Record]) -> None:
    table, grid = TABLES[name], grid_of(shelf_of(*records), name)
    printed = [i for i, header in enumerate(grid.headers) if header.side == "paper"]
    assert [grid.headers[i].title for i in printed] == [column.title for column in table.columns]
    shown = [tuple(re.sub(r"\\([\\`*<])", r"\1", row[i]) for i in printed) for row in grid.rows]
    assert shown == [row.cells for row in table.rows]
    marks = set(dict(grid.notes))
    for row in grid.rows:
        for header, text in zip(grid.headers, row, strict=True):
            assert header.side == "paper" or header.title == "notes" or text
            if header.side in ("here", "small") and text.startswith("–"):
                assert text.partition(" ")[2] in marks, "what was not measured says why"


@pytest.mark.parametrize("name", TRANSCRIPTIONS)
def test_as_many_rows_and_cells_as_an_independent_transcription(name: str) -> None:
    folder = os.environ.get("DETECTOR_ZOO_TABLES")
    if folder is None:
        pytest.skip("set DETECTOR_ZOO_TABLES to the folder of transcribed tables to compare with them")
    with (Path(folder) / TRANSCRIPTIONS[name]).open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    grid = grid_of(shelf_of(*collection()), name)
    assert len(grid.rows) == len(lines)
    columns = sum(header.side == "paper" for header in grid.headers) - len(OURS.get(name, ()))
    assert columns == len([key for key in lines[0] if key != "note"])


def test_a_changed_digit_makes_the_page_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for made in collection():
        made.write(tmp_path / "results" / "cpu-2core")
    monkeypatch.setattr(cli, "COMMITTED", tmp_path / "results")
    pages = ["--out", str(tmp_path / "pages")]
    assert cli.main(pages) == cli.main([*pages, "--check"]) == 0
    table = TABLES["centernet_table3"]
    first = table.rows[0].model_copy(update={"cells": ("CornerNet511-52", "40.5", *table.rows[0].cells[2:])})
    touched = table.model_copy(update={"rows": (first, *table.rows[1:])})
    monkeypatch.setattr(cli, "read_tables", lambda: tuple((TABLES | {table.id: touched}).values()))
    capsys.readouterr()
    assert cli.main([*pages, "--check"]) == 1
    complaint = capsys.readouterr().err
    assert "tables.md" in complaint
    assert "40.4" in complaint
    assert "40.5" in complaint


def test_why_an_accuracy_is_missing_follows_from_column_and_records() -> None:
    none = grid_of(shelf_of(), "refinedet_table1")
    assert reason(none, "RefineDet320+", "VOC07") == "no Record of this network tested in this row's way"
    assert reason(none, "RefineDet320+", "boxes") == reason(none, "RefineDet320+", "VOC07")
    assert "not counted yet" in reason(none, "RefineDet320+", "parameters"), "tested otherwise, it has as many"
    outside = grid_of(shelf_of(), "centernet_table2")
    assert reason(outside, "DeNet", "AP to AR_L") == "no detector of the catalog is this row"
    assert cell(outside, "DeNet", "detector") == "none"
    assert "no Record covers the 4,952 images of voc 2007_test, and no weights" in reason(none, "RON384", "VOC07")
    assert "kept by VOC's server" in reason(none, "RON384", "VOC12")
    paper: dict[str, Any] = {"scale": "paper", "overrides": {}, "num_classes": 20, "metrics": metrics(0.56)}
    other = record("accuracy", "ron384_vgg16", dataset=VOC07, **paper)
    part = record("accuracy", "dsod300", dataset=VOC07.model_copy(update={"images": 100}), **paper)
    some = grid_of(shelf_of(other, part), "refinedet_table1")
    assert cell(some, "RON384", "VOC07") == "77.0"
    assert reason(some, "YOLO", "VOC07") == "no weights of this size were run on voc 2007_test"
    assert (
        reason(some, "DSOD300", "VOC07") == "the checkpoint was run on other images or fewer (100): see the table below"
    )
    assert "kept by VOC's server" in reason(some, "RON384", "VOC12")


def test_why_a_time_is_missing_follows_from_the_hardware() -> None:
    table = TABLES["refinedet_table1"]
    assert "not timed at this size" in reason(grid_of(shelf_of(), table.id), "RON384", "FPS")
    paper: dict[str, Any] = {"scale": "paper", "overrides": {}, "num_classes": 20, "samples": samples(0.05)}
    cpu = record("latency", "ron384_vgg16", hardware=CPU.model_copy(update={"device": "cpu: Some CPU"}), **paper)
    assert "timed at this size on cpu: Some CPU only" in reason(grid_of(shelf_of(cpu), table.id), "RON384", "FPS")
    titan = CPU.model_copy(update={"device": "cuda: NVIDIA Titan X", "profile": None})
    same = record("latency", "ron384_vgg16", hardware=titan, **paper)
    assert cell(grid_of(shelf_of(same), table.id), "RON384", "FPS") == "20.0 fps"
    assert reason(grid_of(shelf_of(same), "slides_table"), "RON", "time") == "no machine is named for this time"
    (speed,) = table.speeds
    assert why_not(shelf_of(cpu), table, table.row("RefineDet320+"), speed) == NOT_SO


def test_columns_without_a_figure_are_one_as_long_as_their_reasons_are() -> None:
    titles = [header.title for header in grid_of(shelf_of(), "centernet_table2").headers if header.side == "here"]
    assert titles == ["detector", "parameters", "AP to AR_L"]
    titles = [header.title for header in grid_of(shelf_of(), "refinedet_table1").headers if header.side == "here"]
    assert titles == ["detector", "input (HxW)", "boxes", "parameters", "FPS", "VOC07", "VOC12"]
    coco = COCO_197.model_copy(update={"images": 5000})
    whole = record("accuracy", "cornernet511_hg52", scale="paper", dataset=coco, metrics=metrics(0.4))
    grid = grid_of(shelf_of(whole), "centernet_table3")
    assert [h.title for h in grid.headers if h.side == "here"] == [
        "detector", "FD", "FD5", "FD25", "FD50", "FD_S", "FD_M", "FD_L",
    ]  # fmt: skip
    assert cell(grid, "CornerNet511-52", "FD") == "50.0"


def test_a_figure_stands_with_its_interval_and_an_older_record_without() -> None:
    sure = {"intervals": {"level": 0.95, "method": "shifted", "draws": 1000, "fd": {"FD": [0.4312, 0.4698]}}}
    found = record("accuracy", "cornernet511_hg52", metrics=metrics(0.45) | sure)
    grid = grid_of(shelf_of(found, record("accuracy", "centernet511_hg52")), "centernet_table3")
    assert cell(grid, "CornerNet511-52", "FD, shapes test", "small") == "45.0 (43.1 to 47.0)"
    assert cell(grid, "CenterNet511-52", "FD, shapes test", "small") == "45.0"
    page = render(list(shelf_of(found).entries), [])["tables.md"]
    assert "95 times in 100, from 1,000 resamples of the images (method *shifted*)" in page
    assert "resamples" not in render(list(shelf_of(record("accuracy")).entries), [])["tables.md"]
    broken = record("accuracy", metrics=metrics(0.45) | {"intervals": {"stats": {"AP": [0.5, 0.4]}}})
    with pytest.raises(ReportError, match=r"metrics\.intervals\.stats\.AP"):
        render(list(shelf_of(broken).entries), [])


def test_structure_is_held_against_the_print() -> None:
    table = TABLES["refinedet_table1"]

    def against(method: str, key: str, found: dict[str, Any]) -> str:
        made = record("cost", metrics=found, scale="paper")
        return structure_of(table, table.row(method), Entry(made, Path("c"), "any/c"), key)  # type: ignore[arg-type]

    assert against("RON384", "boxes", cost(30600)) == "30,600 (as printed)"
    assert against("DSOD300", "boxes", cost(8744)) == "8,744 (12 more)"
    assert against("ION", "boxes", cost(None) | {"regions": 2000}) == "2,000 (2,000 fewer)"
    assert against("Fast R-CNN", "boxes", cost(None) | {"regions": 2000}) == "2,000 (as printed)"
    assert against("RefineDet320+", "boxes", cost(6375)) == "6,375", "a dash is no figure"
    assert against("RON384", "input", cost(1, side=384)) == "384x384 (as printed)"
    assert against("RON384", "input", cost(1, side=320)) == "320x320 (not as printed)"
    assert against("ION", "input", cost(1, side=600)) == "600x600", "a rule of resizing is no size"
    assert against("RON384", "parameters", cost(1)) == "412,345"
    page = TABLES["yolov3_page"]
    made = record("cost", "yolov3", scale="paper", metrics=cost(1, macs=32_934_000_000))
    counted = Entry(made, Path("c"), "any/c")
    assert structure_of(page, page.row("YOLOv3-416"), counted, "operations") == "65.87 (0.01 more)"
    assert agreement(Shelf([counted]), page) == [
        "Printed billion operations, counted here: 0 of 1 as printed; not so: `yolov3` 65.87 for 65.86."
    ]


def test_a_row_of_another_network_is_counted_as_that_network() -> None:
    usual = record("cost", "yolov2", scale="paper", overrides={}, num_classes=20, metrics=cost(845, side=416))
    wide = record(
        "cost", "yolov2", scale="other", overrides={"size": 544}, num_classes=20, metrics=cost(1445, side=544)
    )
    assert wide.name == "cost.yolov2.other.20-classes.size-544"
    grid = grid_of(shelf_of(usual, wide), "refinedet_table1")
    assert cell(grid, "YOLOv2", "boxes") == "1,445 (as printed)"
    assert cell(grid, "YOLOv2", "input (HxW)") == "544x544 (as printed)"
    assert "not counted yet" in reason(grid_of(shelf_of(usual), "refinedet_table1"), "YOLOv2", "boxes")


def test_rows_elsewhere_name_test_size_weights_and_never_a_printed_figure() -> None:
    table: Table = TABLES["refinedet_table1"]
    blocks = paper_section(shelf_of(*collection()), table).blocks
    _, grid = (block for block in blocks if isinstance(block, Grid))
    printed = {table.cell(row, column.key) for row in table.rows for column in table.metrics}
    texts = {column.title for column in table.columns if column.kind == "text"}
    assert {header.title for header in grid.headers if header.side == "paper"} == texts
    assert not printed & {text for row in grid.rows for text in row}
    assert [row[3:6] for row in grid.rows] == [
        ("`faster_rcnn_vgg16`", "shapes test", "small"),
        ("`ssd300_vgg16`", "shapes test", "small"),
        ("`ssd300_vgg16`", "bccd test", "small"),
        ("`ssd512_vgg16`", "shapes test", "small"),
    ]
