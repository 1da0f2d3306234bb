"""Tables keep accuracies of different protocols apart, and say in what they differ."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from benchmarks.coverage import population
from benchmarks.metrics import score
from benchmarks.protocol import UNKNOWN
from reports.protocols import by_protocol
from reports.records import Entry, Shelf
from reports.sections import Grid, leaderboards
from tests.reports.samples import metrics, record

SETTINGS: dict[str, Any] = score(*population(3, (1,)))["protocol"]


def entry(name: str, ap: float, protocol: dict[str, Any]) -> Entry:
    made = record("accuracy", name, metrics=metrics(ap), protocol=protocol)
    return Entry(made, Path(f"{made.name}.json"), f"cpu-2core/{made.name}.json")


def capped(most: int) -> dict[str, Any]:
    settings = copy.deepcopy(SETTINGS)
    settings["coco"]["max_detections_per_class_and_image"] = [1, 10, most]
    return settings


def test_one_protocol_is_one_group_without_a_word() -> None:
    (group,) = by_protocol([entry("ssd300_vgg16", 0.4, SETTINGS), entry("yolov3", 0.5, {**SETTINGS, "batch": 8})])
    assert (len(group.entries), group.identity, group.text) == (2, "", "")
    (empty,) = by_protocol([])
    assert empty.entries == ()


def test_groups_name_the_field_and_both_values() -> None:
    rows = [
        entry("ssd300_vgg16", 0.4, SETTINGS),
        entry("yolov3", 0.5, capped(300)),
        entry("yolov1", 0.2, SETTINGS),
        entry("yolov2", 0.3, {"batch": 1}),
    ]
    most, other, last = by_protocol(rows)
    assert [one.record.detector for one in most.entries] == ["ssd300_vgg16", "yolov1"]
    assert [one.record.detector for one in other.entries] == ["yolov3"]
    assert "max_detections (100 there, 300 here)" in other.text
    assert other.identity in other.text != most.text
    assert (last.identity, [one.record.detector for one in last.entries]) == (UNKNOWN, ["yolov2"])
    assert "not wholly known" in last.text


def test_leaderboards_do_not_rank_across_protocols() -> None:
    shelf = Shelf([entry("ssd300_vgg16", 0.4, SETTINGS), entry("yolov3", 0.5, capped(300))])
    first, second = leaderboards(shelf)
    shown = []
    for section in (first, second):
        (grid,) = (block for block in section.blocks if isinstance(block, Grid))
        (row,) = grid.rows
        shown.append(next(name for name in ("ssd300_vgg16", "yolov3") if any(name in cell for cell in row)))
    assert sorted(shown) == ["ssd300_vgg16", "yolov3"]
    assert first.anchor != second.anchor
    assert first.title.startswith("Small detectors on shapes test, protocol ")
    (both,) = leaderboards(Shelf([entry("ssd300_vgg16", 0.4, SETTINGS), entry("yolov3", 0.5, SETTINGS)]))
    assert both.title == "Small detectors on shapes test"
