"""The catalog and the imports, read and not run."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from reports.records import ReportError
from reports.tree import Row, draw, imports, read_catalog

CATALOG = """
from zoo.one_stage import ssd, dssd as other
from zoo.two_stage import rcnn
_ROWS = (
    Spec(name="rcnn", build=rcnn.rcnn, year=2013, paper="R", family="two-stage", small=None,
         golden=Golden(parameters={20: 5})),
    Spec(name="ssd", build=ssd.ssd, year=2015, paper="S " "T", family="one-stage", small=ssd.SMALL,
         golden=Golden(boxes={(300, 300): ssd.BOXES}, macs={(20, 300, 300): 1_000})),
    Spec(name="ssd512", build=ssd.ssd512, year=2016, paper="S", family="one-stage", small=None),
    Spec(name="dssd", build=other.dssd, year=2017, paper="D", family="one-stage", small=None),
)
"""


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    (tmp_path / "one_stage").mkdir()
    (tmp_path / "two_stage").mkdir()
    (tmp_path / "catalog.py").write_text(CATALOG)
    (tmp_path / "two_stage" / "rcnn.py").write_text("from zoo.one_stage.dssd import helper\nimport torch\n")
    (tmp_path / "one_stage" / "ssd.py").write_text("BOXES = 8_732\nfrom zoo.two_stage import rcnn\n")
    (tmp_path / "one_stage" / "dssd.py").write_text(
        "from zoo.one_stage.ssd import SSD\nfrom zoo.two_stage.rcnn import x\nfrom zoo.parts.fpn import FPN\n"
    )
    return tmp_path


def test_rows_are_read_with_the_constants_they_name(zoo: Path) -> None:
    rows = read_catalog(zoo)
    assert [row.name for row in rows] == ["rcnn", "ssd", "ssd512", "dssd"]
    assert rows[1] == Row(
        name="ssd",
        module="one_stage/ssd",
        year=2015,
        family="one-stage",
        paper="S T",
        small=True,
        golden={"boxes": {(300, 300): 8732}, "macs": {(20, 300, 300): 1000}},
    )
    assert rows[3].module == "one_stage/dssd"
    assert not rows[0].small


def test_influence_goes_from_old_to_young_and_leaves_out_what_stands_between(zoo: Path) -> None:
    found = imports(read_catalog(zoo), zoo)
    assert found == {"two_stage/rcnn": set(), "one_stage/ssd": {"two_stage/rcnn"}, "one_stage/dssd": {"one_stage/ssd"}}


def test_a_row_that_is_no_plain_spec_is_named(zoo: Path) -> None:
    (zoo / "catalog.py").write_text(CATALOG.replace("year=2015", "year=YEAR"))
    with pytest.raises(ReportError, match=r"catalog\.py:7: the row is no plain Spec"):
        read_catalog(zoo)


def test_every_row_of_the_project_is_read() -> None:
    from zoo import CATALOG as REAL

    rows = {row.name: row for row in read_catalog()}
    assert list(rows) == list(REAL)
    for spec in REAL.values():
        row = rows[spec.name]
        assert (row.year, row.family, row.paper) == (spec.year, spec.family, spec.paper)
        assert row.small == (spec.small is not None)
        assert f"zoo.{row.module.replace('/', '.')}" == spec.build.__module__
        golden = {name: dict(getattr(spec.golden, name)) for name in ("parameters", "boxes", "macs")}
        assert row.golden == {name: facts for name, facts in golden.items() if facts}


def test_the_tree_has_each_file_once_and_no_names_on_each_other(zoo: Path) -> None:
    for rows, parents in (
        (read_catalog(zoo), imports(read_catalog(zoo), zoo)),
        (read_catalog(), imports(read_catalog())),
    ):
        svg = ElementTree.fromstring(draw(rows, parents, "a tree"))
        space = "{http://www.w3.org/2000/svg}"
        names = [text for text in svg.iter(f"{space}text") if "label" in text.attrib["class"]]
        assert sorted(str(name.text) for name in names) == sorted({row.module.rpartition("/")[2] for row in rows})
        boxes = [(float(t.attrib["x"]), float(t.attrib["y"]), 6.4 * len(t.text or "")) for t in names]
        width = float(svg.attrib["viewBox"].split()[2])
        for index, (x, y, wide) in enumerate(boxes):
            assert x + wide <= width
            for other, level, long in boxes[:index]:
                assert abs(y - level) >= 12 or x + wide <= other or other + long <= x
        paths = [path for path in svg.iter(f"{space}path") if path.attrib.get("class", "").startswith("run")]
        assert len(paths) == sum(map(len, parents.values()))
