"""Several trainings of one detector: their table, and what the first page says of chance."""

from __future__ import annotations

import math

import pytest

from benchmarks.results import Record
from reports.sections import Grid, front
from reports.seeds import repeated
from tests.reports.samples import shelf, trained

SSD = [trained("ssd300_vgg16", seed, ap) for seed, ap in ((1, 0.44), (0, 0.40), (2, 0.42))]
YOLO = [trained("yolov3", seed, ap) for seed, ap in enumerate((0.50, 0.51))]
ONCE = [trained("yolov2", 0, 0.30)]


def test_means_and_deviations_are_of_the_seeds_and_who_has_one_is_left_out() -> None:
    (section,) = repeated(shelf(*SSD, *YOLO, *ONCE))
    accuracies, discoveries = (block for block in section.blocks if isinstance(block, Grid))
    assert [row[0] for row in accuracies.rows] == ["yolov3", "ssd300_vgg16"], "the best first"
    ssd, found = (
        dict(zip((head.title for head in grid.headers), grid.rows[1], strict=True))
        for grid in (accuracies, discoveries)
    )
    assert (ssd["seeds"], ssd["AP"], ssd["AP of each"]) == ("3", "42.0 ± 2.0", "40.0 44.0 42.0")
    assert found["FD"] == "48.0 ± 2.0"


def test_how_far_chance_reaches_is_pooled_over_detectors() -> None:
    said = " ".join(map(str, front(shelf(*SSD, *YOLO, *ONCE)).blocks))
    deviation = math.sqrt((2 * 2.0**2 + 1 * 0.5) / 3)
    assert f"standard deviation of {deviation:.1f} points" in said
    assert "2 detectors, 5 trainings" in said
    assert f"more than {1.96 * math.sqrt(2) * deviation:.1f} points apart" in said


@pytest.mark.parametrize("records", [ONCE, []])
def test_without_further_seeds_nothing_is_claimed(records: list[Record]) -> None:
    assert "How far another seed would move it is not known." in str(front(shelf(*records)).blocks)
