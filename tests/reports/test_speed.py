from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.papers import Table, read_tables
from benchmarks.results import Record
from reports.records import Entry, ReportError, Shelf
from reports.sections import Grid, Plot, Section
from reports.speed import median_between, speed_ratio, speeds
from tests.reports.samples import CPU, metrics, record, samples

TABLES = {table.id: table for table in read_tables()}


def section_of(*records: Record, tables: tuple[Table, ...] = tuple(TABLES.values())) -> Section:
    return speeds(Shelf(Entry(made, Path(made.name), f"cpu-2core/{made.name}.json") for made in records), tables)


def grid_of(section: Section) -> Grid:
    (grid,) = (block for block in section.blocks if isinstance(block, Grid))
    return grid


def texts_of(section: Section) -> str:
    return " ".join(" ".join(block) for block in section.blocks if isinstance(block, tuple))


@pytest.mark.parametrize(
    ("method", "printed", "ratio"),
    [
        # Frames a second over the 46 of SSD300*, by hand.
        ("RefineDet320", "40.3 fps", "0.88"),
        ("YOLO", "45 fps", "0.98"),
        ("SSD300\\*", "46 fps", "1.00"),
        ("MR-CNN", "0.03 fps", "0.00065"),
        ("Fast R-CNN", "0.5 fps", "0.011"),
        ("DSSD513", "5.5 fps", "0.12"),
    ],
)
def test_printed_ratios_are_those_of_one_table(method: str, printed: str, ratio: str) -> None:
    (row,) = (row for row in grid_of(section_of()).rows if row[0] == method)
    assert row[2:4] == (printed, ratio)


def test_rows_without_a_printed_speed_are_left_out_and_none_else() -> None:
    table = TABLES["refinedet_table1"]
    assert len(grid_of(section_of()).rows) == sum(table.cell(row, "FPS") != "–" for row in table.rows) == 21


def test_tables_without_ssd300_or_without_a_machine_say_so() -> None:
    text = texts_of(section_of())
    assert "CenterNet, section 4.4: has no row of SSD300 on its NVIDIA Tesla P100, batch 1" in text
    assert "YOLOv3, checkpoints of the project page: has no row of SSD300 on its NVIDIA Titan X" in text
    assert "Lecture slides, the running table: no machine is named" in text
    assert "RefineDet" not in text


def test_cells_of_the_slides_are_read_with_their_units() -> None:
    table = TABLES["slides_table"]
    found = {table.cell(row, "method"): table.seconds(row, "time") for row in table.rows}
    assert found["R-CNN"] == 47
    assert found["Fast R-CNN"] == 0.5
    assert found["Faster R-CNN"] == found["RetinaNet"] == 0.2
    assert found["YOLO"] is found["SSD"] is None, "two figures are two models"
    centernet = TABLES["centernet_speed"]
    assert centernet.seconds(centernet.row("CornerNet511-104"), "ms_per_image") == 0.3


def test_measured_ratios_are_those_of_one_machine_and_one_test() -> None:
    gpu = CPU.model_copy(update={"machine": "h200", "device": "cuda: NVIDIA H200", "profile": "h200"})
    found = section_of(
        record("latency", samples=samples(0.02)),
        record("latency", "refinedet320_vgg16", samples=samples(0.025)),
        record("latency", "yolov3", samples=samples(0.01)),
        record("latency", "yolov1", hardware=gpu, samples=samples(0.001)),
    )
    rows = {row[4].strip("`"): row for row in grid_of(found).rows}
    assert rows["ssd300_vgg16"][5:8] == ("20.0", "1.00", "1 by definition")
    assert rows["refinedet320_vgg16"][5:7] == ("25.0", "0.80")
    # Five samples: only their extremes hold a median, 0.98 to 1.4 of it on either side.
    assert rows["refinedet320_vgg16"][7] == f"{0.8 * 0.98 / 1.4:.2f} to {0.8 * 1.4 / 0.98:.2f}"
    assert rows["yolov3"][:4] == ("–",) * 4, "no table times it beside SSD300"
    assert rows["yolov3"][6] == "2.00"
    assert rows["yolov1"][5].startswith("– ")
    assert "small, cpu-2core, cuda: `ssd300_vgg16` was not timed there, so there is no ratio for `yolov1`" in texts_of(
        found
    )


def test_the_plots_show_what_was_printed_and_what_was_measured() -> None:
    def plots(*records: Record) -> list[str]:
        return [block.svg for block in section_of(*records).blocks if isinstance(block, Plot)]

    (printed,) = plots()
    assert printed.count('class="label"') > 10
    assert "RefineDet320, VGG-16" in printed
    both = [
        made
        for name, seconds, ap, overrides in (
            ("ssd300_vgg16", 0.02, 0.4, {"backbone": "small"}),
            ("yolov3", 0.01, 0.45, {"backbone": "small"}),
            ("dsod300", 0.03, 0.5, {"width": 16}),
        )
        for made in (
            record("latency", name, samples=samples(seconds), overrides=overrides),
            record("accuracy", name, metrics=metrics(ap), overrides=overrides),
        )
    ]
    _, measured = plots(*both)
    assert "ssd300_vgg16" in measured
    assert "ssd300_vgg16, small" not in measured, "the commonest backbone needs no word"
    assert "dsod300, own" in measured


def test_a_ratio_by_hand() -> None:
    ratio, low, high = speed_ratio([2.0, 2.0, 2.0], [3.0, 3.0, 3.0])
    assert (ratio, low, high) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize("count", [1, 2, 7, 20, 60, 100, 101])
def test_order_statistics_hold_the_median_as_often_as_promised(count: int) -> None:
    """Of values 1 to n, the interval from rank k to n + 1 - k misses with twice the chance of fewer than k heads."""
    low, high = median_between(list(range(1, count + 1)), 0.975)
    k = int(low)
    assert high == count + 1 - k

    def missed(rank: int) -> float:
        return 2 * sum(math.comb(count, heads) for heads in range(rank)) / 2**count

    assert k == 1 or missed(k) <= 0.025
    assert missed(k + 1) > 0.025, "a narrower one would hold it too seldom"


def test_the_interval_covers_the_ratio_of_two_populations() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        own, ssd = (rng.lognormal(0, 0.3, size=60) for _ in range(2))
        _, low, high = speed_ratio((2 * own).tolist(), ssd.tolist())
        held += low <= 0.5 <= high
    assert held >= 0.95 * 300


def test_how_far_runs_differ_is_told_where_detectors_were_timed_twice() -> None:
    once = [record("latency", name) for name in ("ssd300_vgg16", "yolov3")]
    assert "not known" in section_of(*once).blocks[1]
    times = {"ssd300_vgg16": [0.020, 0.016], "yolov3": [0.0208]}
    again = [
        record("latency", name, metrics={"end_to_end": {"median": 0.020}, "earlier": earlier})
        for name, earlier in times.items()
    ]
    told = section_of(*once[:1], *again).blocks[1]
    assert "3 times" in told
    assert "by 4.0 % or less" in told, "of 0, 4 and 25"
    assert "the worst by 25.0 %" in told


def test_earlier_runs_that_are_no_times_are_refused() -> None:
    wrong = record("latency", metrics={"end_to_end": {"median": 0.020}, "earlier": ["soon"]})
    with pytest.raises(ReportError, match=r"latency\.ssd300.*metrics\.earlier: is \['soon'\]"):
        section_of(wrong)
