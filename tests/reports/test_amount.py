"""Accuracy against training images: which Records stand where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.results import Record, Weights
from reports.amount import amounts
from reports.plots import Line, lines
from reports.records import NOT_MEASURED, Entry, Shelf
from reports.sections import Grid, Plot
from tests.reports.samples import SHAPES, metrics, record


def pair(detector: str, ap: float, images: int, *, seed: int = 0, whole: int = 2_000) -> list[Record]:
    """The Records of a training on so many images, and of its test."""
    learned = SHAPES.model_copy(update={"split": "train", "images": images})
    changes = {
        "weights": Weights(file=f"{detector}.safetensors", sha256=f"{images:032d}{seed:032d}"),
        "seed": seed,
        "learned_from": None if images == whole else images,
    }
    return [
        record("accuracy", detector, metrics={**metrics(ap), "family": "one-stage"}, **changes),
        record("training", detector, dataset=learned, **changes),
    ]


def shelf(*records: list[Record]) -> Shelf:
    found = [one for pairs in records for one in pairs]
    return Shelf(Entry(one, Path(f"{one.name}.json"), f"cpu-2core/{one.name}.json") for one in found)


def test_one_row_a_detector_and_one_column_a_number_of_images() -> None:
    (section,) = amounts(
        shelf(
            pair("ssd300_vgg16", 0.45, 2_000),
            pair("ssd300_vgg16", 0.12, 30),
            pair("ssd300_vgg16", 0.18, 30, seed=1),
            pair("yolov3", 0.20, 30),
            pair("yolov3", 0.48, 2_000),
            pair("hog_svm", 0.18, 2_000),
        )
    )
    assert section.title == "How many images it takes, shapes test"
    grid = next(block for block in section.blocks if isinstance(block, Grid))
    assert [head.title for head in grid.headers] == ["detector", "30", "2,000", "notes"]
    # A detector of one number of images answers no question here.
    assert [row[:3] for row in grid.rows] == [
        ("yolov3", "20.0", "48.0"),
        ("ssd300_vgg16", "15.0 (12.0 to 18.0)", "45.0"),
    ]
    plot = next(block for block in section.blocks if isinstance(block, Plot))
    assert plot.svg.count("<polyline") == 2
    assert "ssd300_vgg16: 15.0 at 30" in plot.svg


def test_a_number_that_was_left_out_says_so() -> None:
    (section,) = amounts(
        shelf(
            *(pair("ssd300_vgg16", 0.1, images) for images in (10, 30)),
            *(pair("yolov3", 0.1, images) for images in (30, 100)),
        )
    )
    grid = next(block for block in section.blocks if isinstance(block, Grid))
    assert sorted(row[:4] for row in grid.rows) == [
        ("ssd300_vgg16", "10.0", "10.0", NOT_MEASURED),
        ("yolov3", NOT_MEASURED, "10.0", "10.0"),
    ]


def test_cut_trainings_stand_in_no_other_table() -> None:
    found = shelf(pair("ssd300_vgg16", 0.45, 2_000), pair("ssd300_vgg16", 0.12, 30))
    assert [entry.metric("stats.AP") for entry in found.accuracies] == ["45.0"]
    assert not amounts(shelf(pair("ssd300_vgg16", 0.45, 2_000)))


def test_lines_rise_with_their_values_and_keep_their_distances() -> None:
    line = Line("a", "one-stage", ((10.0, 5.0, 4.0, 6.0), (100.0, 20.0, 20.0, 20.0), (1_000.0, 50.0, 40.0, 60.0)))
    svg = lines([line, replace(line, label="b", family="keypoint")], title="t", x_title="x", y_title="y")
    way = svg.split('<polyline points="')[1].split('"')[0]
    across, up = zip(*(map(float, place.split(",")) for place in way.split()), strict=True)
    assert list(across) == sorted(across)
    assert list(up) == sorted(up, reverse=True)
    # Equal steps of the logarithm are equal steps on paper.
    assert abs((across[1] - across[0]) - (across[2] - across[1])) < 0.2
    assert svg.count('opacity="0.4"') == 4
    assert ">a</text>" in svg
