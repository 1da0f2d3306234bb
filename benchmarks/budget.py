"""What it would cost to train and test the whole zoo at the papers' size: `python -m benchmarks budget`.

A step forward and back is taken as three times the multiply-accumulates of looking once at each image of its batch
(the gradients by inputs and by weights cost as much as the network itself); looking is what a cost Record counts, at
the paper's size; batch and steps are those of the paper's recipe, on either data set. It is an upper bound for
detectors that look at fewer regions in training than in testing. How fast a device gets through multiply-accumulates
is measured: trainings are among the Records.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.results import Record

__all__ = ["DATA", "Data", "as_json", "budget", "print_budget", "rates"]

BACK_AND_FORTH = 3

_DETECTION = len(json.dumps({"image_id": 123456, "category_id": 12, "bbox": [123.45678901234567] * 4, "score": 1 / 3}))
_DETECTIONS = 100
_FLOAT = 4


@dataclass(frozen=True)
class Data:
    """A data set: images to train on and to test on, and the bytes of both as they are published."""

    train: int
    test: int
    train_bytes: int
    test_bytes: int


DATA = {
    # 2007 and 2012 trainval, 2007 test
    "VOC": Data(16_551, 4_952, 460_032_000 + 1_999_639_040, 451_020_800),
    # train2017 and val2017, the annotations with the former
    "COCO": Data(118_287, 5_000, 19_336_861_798 + 252_907_541, 815_585_330),
}


@dataclass(frozen=True)
class Cost:
    """Of a number of trainings, each followed by a test.

    Attributes:
        detectors: How many.
        passes: Images that are looked at in training, each as often as it comes.
        macs: Multiply-accumulates of all training and testing.
        read: Bytes of images that are read for it.
        kept: Bytes of checkpoints, of states to go on from, and of detections.
    """

    detectors: int
    passes: int
    macs: float
    read: float
    kept: float


def budget(records: Iterable[Record]) -> dict[str, Cost]:
    """What the cost Records at the papers' size come to on each of `DATA`; of several of a detector the first."""
    found: dict[str, Record] = {}
    for record in records:
        recipe = (record.metrics.get("recipes") or {}).get("paper")
        if record.kind == "cost" and record.scale == "paper" and recipe and record.metrics.get("macs"):
            found.setdefault(record.detector, record)
    return {name: _on(data, list(found.values())) for name, data in DATA.items()}


def _on(data: Data, costs: Sequence[Record]) -> Cost:
    passes, macs, kept = 0, 0.0, 0.0
    for record in costs:
        recipe, metrics = record.metrics["recipes"]["paper"], record.metrics
        seen = recipe["batch"] * recipe["steps"]
        passes += seen
        macs += metrics["macs"] * (BACK_AND_FORTH * seen + data.test)
        # The checkpoint, and in the state weights and one or two moments.
        moments = 1 if recipe["optimizer"] == "sgd" else 2
        kept += _FLOAT * (metrics["parameters"] * (2 + moments) + 2 * metrics["buffers"])
        kept += _DETECTION * _DETECTIONS * data.test
    read = passes * data.train_bytes / data.train + len(costs) * data.test_bytes
    return Cost(len(costs), passes, macs, read, kept)


def rates(records: Iterable[Record]) -> dict[str, float]:
    """By device the median over recorded trainings of the multiply-accumulates a second, on one thread or one GPU."""
    records = list(records)
    small = {
        (record.detector, json.dumps(record.overrides, sort_keys=True), record.num_classes): record.metrics["macs"]
        for record in records
        if record.kind == "cost" and record.metrics.get("macs")
    }
    found: dict[str, list[float]] = defaultdict(list)
    for record in records:
        macs = small.get((record.detector, json.dumps(record.overrides, sort_keys=True), record.num_classes))
        if record.kind != "training" or record.recipe is None or record.hardware is None or macs is None:
            continue
        seen = record.recipe["batch"] * record.metrics["steps"]
        shared = record.hardware.threads if record.hardware.device.startswith("cpu") else 1
        pace = BACK_AND_FORTH * macs * seen / record.metrics["seconds"] / shared
        found[f"{record.hardware.device}, {record.hardware.precision}"].append(pace)
    return {device: median(paces) for device, paces in sorted(found.items())}


def as_json(costs: Mapping[str, Cost], measured: Mapping[str, float]) -> dict[str, Any]:
    """Both as JSON, with the hours that follow."""
    hours = {
        name: {device: cost.macs / rate / 3600 for device, rate in measured.items()} for name, cost in costs.items()
    }
    return {
        "costs": {name: asdict(cost) for name, cost in costs.items()},
        "macs_per_second": dict(measured),
        "hours": hours,
    }


def print_budget(costs: Mapping[str, Cost], measured: Mapping[str, float], console: Console | None = None) -> None:
    """A row a data set, then a row for each device that was measured or asked for."""
    console = console or Console()
    table = Table("data")
    for head in ("detectors", "images seen", "MACs", "TB read", "TB kept"):
        table.add_column(head, justify="right")
    for name, cost in costs.items():
        bulk = DATA[name].train_bytes + DATA[name].test_bytes
        figures = f"{cost.passes / 1e6:,.0f} M", f"{cost.macs:.2e}", f"{cost.read / 1e12:.1f}"
        table.add_row(name, str(cost.detectors), *figures, f"{(cost.kept + bulk) / 1e12:.2f}")
    console.print(table)
    times = Table("device", "MAC/s")
    for name in costs:
        times.add_column(f"{name}: hours", justify="right")
    for device, rate in measured.items():
        times.add_row(device, f"{rate:.2e}", *(f"{cost.macs / rate / 3600:,.0f}" for cost in costs.values()))
    console.print(times)
    if not any(device.startswith("cuda") for device in measured):
        console.print("No training on a GPU is recorded: its hours follow from --rate, or from a Record made there.")
