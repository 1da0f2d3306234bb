"""The evaluator against pycocotools, each a whole process that reads the same two JSON files.

Nothing is asserted about time: the ratio and the peak memory are printed and recorded. The numbers must agree.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.examples import DETECTIONS_PER_IMAGE, write_example
from benchmarks.speed import PROGRAMS, Run, run_program

IMAGES = 2000


def run(side: str, gt: Path, detections: Path, out: Path) -> Run:
    return run_program(PROGRAMS[side], gt, detections, detections, out)


def test_both_processes_agree(tmp_path: Path) -> None:
    gt, detections = write_example(tmp_path, images=50)
    ours = run("score", gt, detections, tmp_path / "scores.json")
    theirs = run("pycocotools", gt, detections, tmp_path / "unused")
    assert ours.ap == pytest.approx(theirs.ap, abs=1e-12)
    assert json.loads((tmp_path / "scores.json").read_text())["stats"]["AP"] == ours.ap


def test_score_against_pycocotools(
    request: pytest.FixtureRequest, benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not request.config.getoption("--benchmark"):
        pytest.skip("measured only with --benchmark")
    gt, detections = write_example(tmp_path, IMAGES)
    first = run("score", gt, detections, tmp_path / "scores.json")  # compiles, unless some run before it did
    runs: list[Run] = []
    benchmark.pedantic(
        lambda: runs.append(run("score", gt, detections, tmp_path / "scores.json")), rounds=3, iterations=1
    )
    theirs = run("pycocotools", gt, detections, tmp_path / "unused")
    assert runs[0].ap == pytest.approx(theirs.ap, abs=1e-12)
    run(
        "score --intervals 1000", gt, detections, tmp_path / "intervals.json"
    )  # compiles, unless some run before it did
    resampled = run("score --intervals 1000", gt, detections, tmp_path / "intervals.json")
    assert len(json.loads((tmp_path / "intervals.json").read_text())["intervals"]["stats"]["AP"]) == 2
    ours = sorted(runs, key=lambda one: one.seconds)[len(runs) // 2]
    figures = {
        "images": IMAGES,
        "detections": IMAGES * DETECTIONS_PER_IMAGE,
        "ratio": theirs.seconds / ours.seconds,
        "cpu_ratio": theirs.cpu / ours.cpu,
        "seconds": ours.seconds,
        "first_seconds": first.seconds,
        "pycocotools_seconds": theirs.seconds,
        "peak_mib": max(one.mib for one in [first, *runs]),
        "pycocotools_peak_mib": theirs.mib,
        "intervals_seconds": resampled.seconds,
        "intervals_ratio": theirs.seconds / resampled.seconds,
        "intervals_cpu_ratio": theirs.cpu / resampled.cpu,
        "intervals_peak_mib": resampled.mib,
    }
    benchmark.extra_info.update(figures)
    with capsys.disabled():
        print(
            f"\nscore, {IMAGES} images and {IMAGES * DETECTIONS_PER_IMAGE} detections: {ours.seconds:.2f} s and "
            f"{figures['peak_mib']:.0f} MiB (first run {first.seconds:.1f} s); one pycocotools pass: "
            f"{theirs.seconds:.1f} s and {theirs.mib:.0f} MiB; ratio {figures['ratio']:.1f} "
            f"(of CPU time {figures['cpu_ratio']:.1f})\n"
            f"with intervals from 1,000 resamples: {resampled.seconds:.2f} s and {resampled.mib:.0f} MiB; ratio "
            f"{figures['intervals_ratio']:.1f} (of CPU time {figures['intervals_cpu_ratio']:.1f})"
        )
