from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from reports.exports import export
from reports.sections import Grid, Header, Section

GRID = Grid(
    headers=(
        Header("method", "paper", text=True),
        Header("AP", "paper"),
        Header("AP", "here"),
        Header("notes", text=True),
    ),
    rows=(("SSD300\\*", "25.10", "24.9 (23.0 to 26.1)", "a"), ("a_b & c", "–", "1,234", "")),
    sides={"paper": "printed", "here": "measured *here*"},
    notes=(("a", "on `shapes` 100 %"),),
)
SECTIONS = [
    Section("T, Table 1: `x`", "one", ("text", GRID)),
    Section("Two", "two", (GRID, ("item",), GRID)),
    Section("None", "none", ("text",)),
]


def test_csv_reads_back(tmp_path: Path) -> None:
    written = export(SECTIONS, "csv", tmp_path)
    assert [path.name for path in written] == ["one.csv", "two-1.csv", "two-2.csv", "notes.csv"]
    with (tmp_path / "one.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "paper: method": "SSD300*",
        "paper: AP": "25.10",
        "here: AP": "24.9 (23.0 to 26.1)",
        "notes": "a",
    }
    with (tmp_path / "notes.csv").open(newline="", encoding="utf-8") as file:
        notes = list(csv.reader(file))
    assert ["one", "a", "on shapes 100 %"] in notes
    assert ["one", "here", "measured here"] in notes


def test_json_has_what_is_printed_and_the_numbers(tmp_path: Path) -> None:
    export(SECTIONS, "json", tmp_path)
    found = json.loads((tmp_path / "one.json").read_text())
    assert found["title"] == "T, Table 1: x"
    assert found["rows"][0][1] == "25.10"
    assert found["values"] == [[None, 25.1, None, None], [None, None, 1234, None]]
    assert found["columns"][2] == {"title": "AP", "side": "here", "text": False}


def test_latex_is_booktabs_and_escaped(tmp_path: Path) -> None:
    export(SECTIONS, "latex", tmp_path)
    text = (tmp_path / "one.tex").read_text()
    assert text.count("\\toprule") == text.count("\\midrule") == text.count("\\bottomrule") == 1
    assert "a\\_b \\& c & – & 1,234 &" in text
    assert "\\begin{tabular}{lrrl}" in text
    assert "100 \\%" in text
    assert "\\label{tab:one}" in text


def test_long_tables_go_over_pages(tmp_path: Path) -> None:
    long = Grid(headers=(Header("a"),), rows=tuple((str(number),) for number in range(50)))
    export([Section("Long", "long", (long,))], "latex", tmp_path)
    assert "\\begin{longtable}" in (tmp_path / "long.tex").read_text()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(tmp_path: Path) -> None:
    export(SECTIONS, "latex", tmp_path)
    inputs = "".join(f"\\input{{{name}}}\n" for name in ("one", "two-1"))
    preamble = "\\documentclass{article}\\usepackage{booktabs,longtable}\\begin{document}\n"
    (tmp_path / "all.tex").write_text(f"{preamble}{inputs}\\end{{document}}\n")
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all"], cwd=tmp_path, check=True)
    assert (tmp_path / "all.pdf").stat().st_size > 1000
