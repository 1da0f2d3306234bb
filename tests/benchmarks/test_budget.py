"""What a sweep would cost, against sums done by hand."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.budget import DATA, as_json, budget, print_budget, rates
from benchmarks.datasets import coco, voc
from benchmarks.results import COMMITTED, Hardware, Record, read_records

RECIPE = {"batch": 4, "steps": 10, "optimizer": "sgd"}


def record(kind: str, scale: str = "paper", **more: object) -> Record:
    return Record(kind=kind, detector="a", scale=scale, num_classes=8, commit="", versions={}, **more)  # type: ignore[arg-type]


def cost(scale: str = "paper", **metrics: object) -> Record:
    recipes = {"recipes": {"paper": RECIPE}} if scale == "paper" else {}
    return record("cost", scale, metrics={"macs": 7, "parameters": 1000, "buffers": 10, **recipes, **metrics})


def test_sums_by_hand() -> None:
    found = budget([cost(), cost(), cost("small"), cost(recipes={"paper": None}), cost(macs=None)])
    for name, data in DATA.items():
        one = found[name]
        assert one.detectors == 1
        assert one.passes == 40
        assert one.macs == 7 * (3 * 40 + data.test)
        assert one.read == 40 * data.train_bytes / data.train + data.test_bytes
        assert 4 * (3 * 1000 + 20) < one.kept < 4 * (3 * 1000 + 20) + 200 * 100 * data.test


def test_rates_are_of_one_thread_and_medians() -> None:
    def training(seconds: float, threads: int, device: str = "cpu: X") -> Record:
        hardware = Hardware(machine="m", device=device, profile=None, threads=threads)
        return record("training", "small", recipe=RECIPE, hardware=hardware, metrics={"steps": 10, "seconds": seconds})

    trainings = [training(1, 1), training(2, 2), training(10, 1), training(0.1, 16, "cuda: Y")]
    found = rates([cost("small"), *trainings])
    assert found == {"cpu: X, float32": 3 * 7 * 40 / 4, "cuda: Y, float32": pytest.approx(3 * 7 * 400)}
    assert rates(trainings) == {}, "without its cost a training says nothing"
    costs = budget([cost()])
    hours = as_json(costs, found)["hours"]["VOC"]["cuda: Y, float32"]
    assert hours == pytest.approx(costs["VOC"].macs / (3 * 7 * 400) / 3600)


def test_sizes_of_the_data_are_those_of_the_archives() -> None:
    assert DATA["VOC"].train_bytes == sum(voc._ARCHIVES[name].size or 0 for name in ("2007_trainval", "2012_trainval"))
    assert DATA["VOC"].test_bytes == voc._ARCHIVES["2007_test"].size
    assert DATA["COCO"].train_bytes == (coco._IMAGES["train2017"].size or 0) + (coco._ANNOTATIONS.size or 0)
    assert DATA["COCO"].test_bytes == coco._IMAGES["val2017"].size


def test_the_committed_records_give_a_table() -> None:
    records = list(read_records(COMMITTED))
    costs, measured = budget(records), rates(records)
    assert costs["COCO"].detectors == costs["VOC"].detectors > 20
    assert all(1e9 < rate < 1e12 for rate in measured.values())
    out = io.StringIO()
    print_budget(costs, measured, Console(file=out, width=120))
    assert "No training on a GPU is recorded" in out.getvalue()
    result = CliRunner().invoke(app, ["budget", "--rate", "2e13"])
    assert result.exit_code == 0, result.output
    assert "No training on a GPU" not in result.output


def test_the_readme_says_what_the_records_say() -> None:
    """To a fifth: trainings and detectors are added more often than this text is read."""
    records = list(read_records(COMMITTED))
    costs, measured = budget(records).values(), rates(records)
    macs = sum(cost.macs for cost in costs)
    bulk = sum(data.train_bytes + data.test_bytes for data in DATA.values())
    expected = [
        macs,
        sum(cost.passes for cost in costs),
        sum(cost.read for cost in costs) / 1e12,
        (sum(cost.kept for cost in costs) + bulk) / 1e12,
        macs / max(rate for device, rate in measured.items() if device.startswith("cpu")) / 3600,
        macs / 3e13 / 3600,
    ]
    text = (COMMITTED.parents[1] / "README.md").read_text()
    row = text.split("| multiply-accumulates |")[1].splitlines()[2]
    stated = [float(cell.replace(",", "")) for cell in row.strip("| ").split("|")]
    assert stated == pytest.approx(expected, rel=0.2)
