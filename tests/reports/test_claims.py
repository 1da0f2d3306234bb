"""The page of claims: every claim, every verdict, and links that lead somewhere."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.claims import Verdict, judge, read_claims
from benchmarks.claims.evidence import Evidence
from benchmarks.papers import FOLDER, read_table, read_tables
from benchmarks.results import COMMITTED
from reports import claims
from reports.claims import judged, ledger, overview
from reports.records import Entry, ReportError, Shelf, read_entries
from reports.sections import Grid, Section
from tests.reports.samples import collection

TABLES = read_tables()


def shelf() -> Shelf:
    return Shelf(Entry(made, Path(f"m/{made.name}.json"), f"m/{made.name}.json") for made in collection())


def grids(sections: list[Section]) -> list[Grid]:
    return [block for section in sections for block in section.blocks if isinstance(block, Grid)]


def test_every_claim_stands_in_its_chapter() -> None:
    sections = ledger(judged(shelf(), TABLES))
    chapters = {section.title[0]: section for section in sections[2:]}
    for claim in read_claims().claims:
        (grid,) = grids([chapters[claim.chapter]])
        assert sum(row[0].startswith(f"`{claim.id}`") for row in grid.rows) == 1


def test_counts_are_those_of_the_lines() -> None:
    top, _, *chapters = ledger(judged(shelf(), TABLES))
    (counts,) = grids([top])
    lines = [row for grid in grids(chapters) for row in grid.rows]
    words = {row[0]: row[1:] for row in counts.rows}
    for word, cells in words.items():
        if word != "**lines**":
            own = [row for row in lines if row[3].strip("*✓✗ ").replace(" here", "").split(" within")[0] == word]
            assert cells[-1] == str(len(own)), word
            for level, cell in zip("PXSF", cells, strict=False):
                assert (cell or "0") == str(sum(row[1] == level for row in own))
    assert words["**lines**"][-1] == str(len(lines))


def test_the_overview_counts_each_claims_lines() -> None:
    found = judged(shelf(), TABLES)
    counts, each = grids([overview(found)])
    assert (counts,) == tuple(grids(ledger(found)[:1]))
    assert [row[0].split("`")[1] for row in each.rows] == [claim.id for claim in read_claims().claims]
    for row in each.rows:
        levels = Counter(one.level for one in found.rulings if f"`{one.claim.id}`" == row[0].removesuffix(" ★"))
        told = {part[2]: re.split(r", (?!but)", part[6:]) for part in row[1].split("; ")}
        counted = {
            level: sum(int((re.findall(r"\((\d+)\)", word) or [1])[0]) for word in told[level]) for level in told
        }
        assert counted == levels, row
    assert {row[0]: row[1] for row in each.rows}["`fast-rcnn-77` ★"] == "**P** print error (2)"


def test_what_is_open_says_what_would_decide_it() -> None:
    for grid in grids(ledger(judged(shelf(), TABLES))[2:]):
        for row in grid.rows:
            assert row[6] or row[3] not in ("**cannot tell**", "**not measured**"), row[0]


def test_links_of_the_project_s_own_page_lead_to_files() -> None:
    page = repr(ledger(judged(Shelf(read_entries(COMMITTED)), TABLES)))
    places = set(re.findall(r"\]\(\.\./([^)]+)\)", page))
    assert len(places) > 50
    root = COMMITTED.parent.parent
    assert [place for place in places if not (root / place).is_file()] == []


def test_a_table_that_is_no_table_any_more_is_an_error(tmp_path: Path) -> None:
    changed = tmp_path / "centernet_speed.toml"
    text = (FOLDER / changed.name).read_text(encoding="utf-8")
    changed.write_text(text.replace('"CornerNet511-104"', '"CornerNet"'), encoding="utf-8")
    tables = [read_table(changed) if table.id == changed.stem else table for table in TABLES]
    with pytest.raises(ReportError, match=r"centernet_speed.toml: 0 rows have method = CornerNet511-104"):
        judged(shelf(), tables)


def test_own_records_are_named_and_not_linked() -> None:
    assert claims._link("own/a.json", 1) == "own/a.json"
    assert claims._link("any/a.json", 2) == "[2](../benchmarks/results/any/a.json)"
    assert claims._link("centernet_speed", 1) == "[centernet_speed](../benchmarks/papers/centernet_speed.toml)"


def test_marks_of_findings() -> None:
    assert claims._marked(Verdict("holds", p=0.01, survives=True), "S") == "**holds here** ✓"
    assert claims._marked(Verdict("holds", p=0.04, survives=False), "S") == "**holds here** ✗"
    assert claims._marked(Verdict("fails", p=0.9, survives=False), "S") == "**fails**"
    assert claims._marked(Verdict("holds"), "P") == "**holds**"
    assert claims._marked(Verdict("equal", within="1"), "S") == "**equal within 1**"


def test_two_ledgers_of_the_same_records_are_alike() -> None:
    found = [Evidence(TABLES, ((entry.place, entry.record) for entry in shelf().entries)) for _ in range(2)]
    assert judge(found[0]) == judge(found[1])
