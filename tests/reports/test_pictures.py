from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.results import Record
from reports.pictures import pictures
from reports.records import Entry, ReportError, Shelf
from reports.sections import Plot, Section
from tests.reports.samples import metrics, record

NONE = Path("/nowhere/sheet.png")


def drawn(*records: Record, sheet: Path = NONE) -> dict[str, Section]:
    found = [Entry(made, Path(f"m/{made.name}.json"), f"m/{made.name}.json") for made in records]
    return {section.anchor: section for section in pictures(Shelf(found), sheet)}


def svg(section: Section) -> str:
    (block,) = section.blocks
    assert isinstance(block, Plot)
    return block.svg


def accuracy(name: str, ap: float, family: str, **held: object) -> Record:
    return record("accuracy", name, metrics={**metrics(ap), "family": family, **held})


def test_without_records_there_is_the_tree_alone() -> None:
    assert list(drawn()) == ["tree"]


def test_bars_stand_in_the_order_of_their_measure() -> None:
    found = drawn(accuracy("a", 0.3, "one-stage"), accuracy("b", 0.4, "two-stage"))
    assert list(found) == ["scales", "false-discovery", "tree"]
    titles = re.findall(r"<title>([ab]: [\d.]+|[ab], [^<]+)</title>", svg(found["false-discovery"]))
    assert titles == ["b: 50.0", "a: 60.0"]
    assert "a, small objects: 18.0" in svg(found["scales"])
    assert "large: " not in svg(found["scales"]), "nothing large in the test"


def test_the_best_of_each_family_is_named_in_curves() -> None:
    curve = {"IoU50": [1.0, 0.5, 0.0], "IoU75": [0.8, 0.2, 0.0]}
    found = drawn(
        accuracy("a", 0.3, "one-stage", precision=curve),
        accuracy("b", 0.4, "one-stage", precision=curve),
        accuracy("c", 0.2, "keypoint", precision=curve),
        accuracy("d", 0.9, "keypoint"),
    )
    text = svg(found["precision"])
    assert (
        re.findall(r'class="(run|aside)[^>]*><title>(.)</title>', text.replace("\n", ""))
        == [
            ("aside", "a"),
            ("run", "b"),
            ("run", "c"),
        ]
        * 2
    )
    with pytest.raises(ReportError, match=r"metrics\.precision\.IoU75"):
        drawn(accuracy("a", 0.3, "one-stage", precision={"IoU50": [1.0, 0.0]}))


def test_courses_of_trainings() -> None:
    training = record("training", metrics={"steps": 100, "course": [[0, 8.0], [50, 4.0], [100, 2.0]]})
    text = svg(drawn(accuracy("ssd300_vgg16", 0.3, "one-stage"), training)["courses"])
    assert "percent of the first" in text
    in_stages = training.model_copy(update={"recipe": {"stages": [2, 1]}})
    assert "courses" not in drawn(accuracy("ssd300_vgg16", 0.3, "one-stage"), in_stages), "each stage has other losses"
    broken = record("training", metrics={"course": [[0, 0.0], [50, 4.0]]})
    with pytest.raises(ReportError, match=r"metrics\.course"):
        drawn(accuracy("ssd300_vgg16", 0.3, "one-stage"), broken)


def test_the_sheet_is_part_of_the_page_and_says_what_it_shows(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    sheet.write_bytes(b"png")
    assert "seen" not in drawn(sheet=sheet)
    described = sheet.with_suffix(".toml")
    described.write_text('dataset = "shapes"\nsplit = "test"\nimages = [3]\ndetectors = ["a<b", "c"]\n')
    text = svg(drawn(sheet=sheet)["seen"])
    assert "data:image/png;base64,cG5n" in text
    assert text.count("<span>") == 3
    assert "a&lt;b" in text
    described.write_text("dataset = 1")
    with pytest.raises(ReportError, match=r"sheet\.toml"):
        drawn(sheet=sheet)


def test_the_projects_own_sheet_is_described() -> None:
    from zoo import CATALOG

    text = svg({section.anchor: section for section in pictures(Shelf([]))}["seen"])
    names = [name.replace("<wbr>", "") for name in re.findall(r"<span>(.*?)</span>", text)]
    assert names[0] == "the truth"
    assert set(names[1:]) <= set(CATALOG)
