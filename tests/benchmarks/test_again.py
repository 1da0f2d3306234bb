"""A detector timed again: what counts as the same conditions, and what a Record keeps of earlier runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.again import moves, with_earlier
from benchmarks.recording import print_latency
from benchmarks.results import Hardware, Record, Weights
from tests.reports.samples import CPU, SHAPES, record

RULES: dict[str, Any] = {
    "batch": 1,
    "threads": 2,
    "warmup": {"window": 8, "calls": 16},
    "stopping": {"noise": 0.02, "seconds": (1.0, 60.0)},
}


def run(median: float, **changes: Any) -> Record:
    made = {"metrics": {"end_to_end": {"median": median}}, "protocol": RULES, "samples": {"end_to_end": [median]}}
    return record("latency", "yolov3", **(made | changes))


def test_each_run_keeps_the_medians_of_those_before_it(tmp_path: Path) -> None:
    assert moves(run(0.010)) == []
    for median in (0.010, 0.012, 0.011):
        with_earlier(run(median), tmp_path).write(tmp_path)
    (path,) = tmp_path.glob("*.json")
    kept = Record.read(path)
    assert kept.metrics["earlier"] == [0.010, 0.012]
    assert moves(kept) == pytest.approx([1.1, 11 / 12])


def test_only_the_latest_are_kept(tmp_path: Path) -> None:
    for turn in range(1, 25):
        with_earlier(run(turn / 1000), tmp_path).write(tmp_path)
    kept = Record.read(next(tmp_path.glob("*.json"))).metrics["earlier"]
    assert kept == [turn / 1000 for turn in range(4, 24)]


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": Weights(file="yolov3_small.shapes.safetensors", sha256="0" * 64)},
        {"dataset": SHAPES.model_copy(update={"fingerprint": "0" * 64})},
        {"protocol": RULES | {"batch": 2}},
        {"protocol": RULES | {"stopping": {"noise": 0.05}}},
        {"hardware": CPU.model_copy(update={"profile": None, "deviations": ("cpu-2core: 3 cores",)})},
        {"hardware": CPU.model_copy(update={"device": "cpu: another"})},
        {"versions": {"python": "3.11.7", "torch": "2.11.0"}},
    ],
    ids=["weights", "images", "batch", "stopping", "profile", "device", "torch"],
)
def test_other_conditions_are_no_earlier_run(changes: dict[str, Any], tmp_path: Path) -> None:
    run(0.010).write(tmp_path)
    assert moves(with_earlier(run(0.011), tmp_path))
    assert not moves(with_earlier(run(0.011, **changes), tmp_path))


def test_what_a_run_finds_out_is_no_condition(tmp_path: Path) -> None:
    run(0.010).write(tmp_path)
    watched: Hardware = CPU.model_copy(update={"calibration": {"nms": 0.02}, "observed": {"cores": 2}})
    warmer = RULES | {"warmup": {"window": 8, "calls": 40}, "rounds": 7}
    assert moves(with_earlier(run(0.011, hardware=watched, protocol=warmer, commit="another"), tmp_path))


def test_it_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {"median": 0.010, "iqr": 0.001, "p95": 0.012, "samples": 1, "outliers": {"high": 0}}
    found["between"] = {"median": [0.009, 0.011], "p95": [0.011, None]}
    rest = {"sampling": {"faults": [], "discarded": []}, "earlier": [0.008]}
    print_latency(run(0.010, metrics={"end_to_end": found, **rest}))
    assert "earlier runs, oldest first: 1.250" in capsys.readouterr().out
