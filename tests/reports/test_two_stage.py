"""The line from R-CNN on."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.records import ReportError
from reports.render import render
from reports.two_stage import Line, line, read_line
from tests.reports.samples import cost, metrics, record, samples, shelf, table, trained

LINE = Line(title="Line", detectors=("old", "fast", "faster"))


def test_the_line_stands_in_the_order_of_the_papers() -> None:
    proposals = {"AR100": 0.5, "AR300": 0.625, "per_image": 812.4, "most": 2000}
    staged = {"preprocess": [0.001], "network": [0.002], "proposals": [0.15], "postprocess": [0.0005]}
    rows = table(
        line(
            shelf(
                record("accuracy", "faster", metrics=metrics(0.5)),
                record("latency", "faster", samples=samples(0.02)),
                record("accuracy", "fast", metrics=metrics(0.4) | {"proposals": proposals}),
                record("latency", "fast", samples={**staged, "end_to_end": [0.1535]}),
                record("cost", "fast", metrics=cost(None)),
                record("accuracy", "ssd300_vgg16"),
                trained("fast", 1, 0.9),
            ),
            LINE,
        )
    )
    assert [row["detector"] for row in rows] == ["fast", "faster"]
    fast, faster = rows
    assert (fast["AP"], fast["AP50"], fast["FD"]) == ("40.0", "60.0", "50.0")
    assert (fast["proposals an image"], fast["AR at 100"], fast["AR at 300"]) == ("812", "50.0", "62.5")
    assert (fast["network ms"], fast["proposals ms"], fast["end to end ms"]) == ("2.0", "150.0", "153.5")
    assert fast["parameters"] == "412,345"
    assert faster["AR at 100"] == faster["proposals an image"] == "not measured"
    assert faster["proposals ms"] == "in network"
    assert (fast["masks ms"], faster["masks ms"]) == ("-", "-")
    assert faster["parameters"] == "not measured"
    assert line(shelf(record("accuracy", "ssd300_vgg16")), LINE) == []


def test_masks_have_a_stage_of_their_own() -> None:
    seconds = (0.001, 0.002, 0.003, 0.006, 0.0005, 0.0125)
    stages = ("preprocess", "network", "proposals", "masks", "postprocess", "end_to_end")
    latency = record("latency", "fast", samples={name: [time] for name, time in zip(stages, seconds, strict=True)})
    (row,) = table(line(shelf(record("accuracy", "fast", metrics=metrics(0.4)), latency), LINE))
    assert [row[f"{name.replace('_', ' ')} ms"] for name in stages] == ["1.0", "2.0", "3.0", "6.0", "0.5", "12.5"]


def test_the_choice_of_the_project_is_sound_and_pages_show_it() -> None:
    chosen = read_line()
    assert len(chosen.detectors) == len(set(chosen.detectors)) == 9
    pages = render(shelf(trained("faster_rcnn_vgg16", 0, 0.4)).entries, [])
    for name in ("tables.md", "index.html"):
        assert chosen.title in pages[name]


def test_a_choice_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "two_stage.toml"
    with pytest.raises(ReportError, match=r"two_stage\.toml: cannot be read"):
        read_line(path)
    path.write_text("title = ''\n")
    with pytest.raises(ReportError, match=r"two_stage\.toml: title"):
        read_line(path)
