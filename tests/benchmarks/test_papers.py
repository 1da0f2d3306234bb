from __future__ import annotations

import csv
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmarks.papers import DASH, FOLDER, Table, TableError, read_table, read_tables

TRANSCRIPTIONS = {
    "centernet_speed": "centernet_speed.csv",
    "centernet_table1": "centernet_table1_fd_cornernet.csv",
    "centernet_table2": "centernet_table2_coco_testdev.csv",
    "centernet_table3": "centernet_table3_fd.csv",
    "centernet_table4": "centernet_table4_ablation.csv",
    "centernet_table5": "centernet_table5_error_analysis.csv",
    "refinedet_table1": "refinedet_table1_voc.csv",
    "refinedet_table2": "refinedet_table2_ablation.csv",
    "refinedet_table3": "refinedet_table3_coco_testdev.csv",
    "refinedet_table4": "refinedet_table4_coco_to_voc.csv",
    "slides_table": "slides_table.csv",
}
OURS = {"centernet_table4": {"method"}, "refinedet_table2": {"method"}}
"""Columns of tables whose rows the paper does not name."""
TABLES = {table.id: table for table in read_tables()}


def content(name: str = "centernet_table3") -> dict[str, Any]:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text())


@pytest.mark.parametrize("name", TRANSCRIPTIONS)
def test_rows_are_those_of_an_independent_transcription(name: str) -> None:
    folder = os.environ.get("DETECTOR_ZOO_TABLES")
    if folder is None:
        pytest.skip("set DETECTOR_ZOO_TABLES to the folder of transcribed tables to compare with them")
    table = TABLES[name]
    with (Path(folder) / TRANSCRIPTIONS[name]).open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    keys = [column.key for column in table.columns if column.key not in OURS.get(name, ())]
    assert keys == [key for key in lines[0] if key != "note"]
    assert len(table.rows) == len(lines)
    for row, line in zip(table.rows, lines, strict=True):
        wanted = [DASH if line[key] in ("", "multi-scale") else line[key] for key in keys]
        assert [table.cell(row, key) for key in keys] == wanted
        # What the transcriber found wrong with the print is said with the row.
        assert row.note or not any(word in line["note"] for word in ("scan", "tick", "slide"))


def test_every_transcription_is_a_table() -> None:
    folder = os.environ.get("DETECTOR_ZOO_TABLES")
    if folder is None:
        pytest.skip("set DETECTOR_ZOO_TABLES to the folder of transcribed tables to compare with them")
    assert {path.name for path in Path(folder).glob("*.csv")} == set(TRANSCRIPTIONS.values())


def test_all_tables_are_there() -> None:
    rows = {
        "centernet_speed": 3, "centernet_table1": 1, "centernet_table2": 31, "centernet_table3": 4,
        "centernet_table4": 5, "centernet_table5": 4, "refinedet_table1": 23, "refinedet_table2": 4,
        "refinedet_table3": 32, "refinedet_table4": 11, "slides_table": 12, "yolov3_page": 5,
    }  # fmt: skip
    assert {name: len(table.rows) for name, table in TABLES.items()} == rows


def test_digits_stay_as_printed() -> None:
    table = TABLES["refinedet_table1"]
    assert table.cell(table.row("SSD300*"), "FPS") == "46"
    assert table.cell(table.row("DSSD513"), "VOC12") == "80.0"
    assert table.cell(table.row("MR-CNN"), "FPS") == "0.03"
    assert table.printed(table.row("RefineDet512+"), "VOC12") == 83.5
    assert table.cell(table.row("RefineDet512+"), "boxes") == DASH


def test_centernet_figures_obey_the_arithmetic_of_their_definition() -> None:
    table = TABLES["centernet_table3"]
    for row in table.rows:
        fd, fd5, fd25, fd50 = (table.printed(row, key) or 0 for key in ("FD", "FD5", "FD25", "FD50"))
        assert fd5 < fd25 < fd50
        assert fd5 < fd < fd50
    gaps = {}
    for column in table.metrics:
        printed = [[table.printed(table.row(method), column.key) or 0 for method in pair] for pair in table.pairs]
        gaps[column.key] = [round(new - old, 1) for old, new in printed]
    wanted = {"FD": [-5.3, -5.4], "FD5": [-4.5, -4.5], "FD25": [-5.2, -5.2], "FD50": [-5.9, -6.3]}
    assert gaps == wanted | {"FDS": [-9.5, -9.6], "FDM": [-5.6, -6.1], "FDL": [-3.6, -2.1]}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_detectors_are_in_the_catalog(table: Table) -> None:
    from zoo import CATALOG

    unknown = {row.network for row in table.rows if row.network} - set(CATALOG)
    assert not unknown, f"{table.id}: {sorted(unknown)} are in no row of the catalog"


def test_a_table_that_does_not_hold_together_is_refused() -> None:
    fine = content()
    rows, columns = fine["rows"], fine["columns"]
    cells = rows[0]["cells"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"rows": [{"cells": cells[:-1]}]}, "7 cells for 8 columns"),
        ({"rows": [{"cells": ["CornerNet511-52", "40,4", *cells[2:]]}], "pairs": []}, "is no figure in percent"),
        ({"rows": [{"cells": ["CornerNet511-52", "", *cells[2:]]}], "pairs": []}, "write –"),
        ({"rows": [{"cells": ["CornerNet511-52", " 40.4", *cells[2:]]}], "pairs": []}, "write –"),
        ({"rows": [{"cells": ["CornerNet511-52", 40.4, *cells[2:]]}], "pairs": []}, "valid string"),
        ({"pairs": [["CornerNet511-52", "CenterNet"]]}, "'CenterNet' names 0 rows"),
        ({"columns": [columns[0], columns[1], *columns[1:7]]}, "keys must be unique"),
        ({"columns": [columns[0] | {"key": "name"}, *columns[1:]]}, "one of them is method"),
        ({"columns": [columns[0], columns[1] | {"measures": "FD"}, *columns[2:]]}, "a metric needs measures"),
        ({"columns": [columns[0], columns[1] | {"images": 0}, *columns[2:]]}, "a metric needs measures"),
        ({"columns": [columns[0], columns[1] | {"kind": "number"}, *columns[2:]]}, "only a metric, a structure or"),
        ({"columns": [columns[0], columns[1] | {"kind": "structure"}, *columns[2:]]}, "a structure measures one of"),
        ({"columns": [columns[0], columns[1] | {"kind": "speed"}, *columns[2:]]}, "a speed measures one of"),
        ({"rows": [rows[0] | {"of": "cornernet511_hg52"}, *rows[1:]]}, "name one"),
        ({"surprise": 1}, "Extra inputs"),
        ({"link": "arxiv"}, "String should match"),
    ]
    for changes, message in cases:
        with pytest.raises(ValidationError) as error:
            Table.model_validate(fine | changes)
        assert message in str(error.value), changes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id = ", "is no TOML"),
        ('id = "broken"', "work: Field required; compare it with"),
        ("\xff", "is no TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_error(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TableError) as error:
        read_tables(tmp_path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_file_and_table_bear_one_name(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text((FOLDER / "centernet_table3.toml").read_text())
    with pytest.raises(TableError, match="name the file and the table alike"):
        read_table(path)
    with pytest.raises(TableError, match=r"gone\.toml: cannot be read"):
        read_table(tmp_path / "gone.toml")
