"""The evaluator against pycocotools, each a whole process that reads the same two JSON files.

Nothing is asserted about time: the ratio and the peak memory are printed and recorded. The numbers must agree.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
IMAGES, CLASSES, DETECTIONS_PER_IMAGE = 5000, 80, 100

REPORT = """
import json, resource, sys
from pathlib import Path

usage = resource.getrusage(resource.RUSAGE_SELF)
status = Path("/proc/self/status")  # the peak since exec; getrusage counts the parent's memory at the fork too
peak = [int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")] \\
    if status.exists() else []
json.dump({"cpu": usage.ru_utime + usage.ru_stime, "mib": (peak or [usage.ru_maxrss])[0] / 1024, "AP": AP}, sys.stderr)
"""

OURS = """
import sys
from pathlib import Path
from benchmarks.score import run_score

AP = run_score(Path(sys.argv[1]), Path(sys.argv[2]), "all", Path(sys.argv[3]))["stats"]["AP"]
"""

WITH_INTERVALS = OURS.replace("Path(sys.argv[3]))", "Path(sys.argv[3]), intervals=1_000)")

THEIRS = """
import sys
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

truth = COCO(sys.argv[1])
judge = COCOeval(truth, truth.loadRes(sys.argv[2]), "bbox")
judge.evaluate()
judge.accumulate()
judge.summarize()
AP = judge.stats[0]
"""


class Run(NamedTuple):
    """One process: seconds on the wall and of the CPU, peak memory in MiB, and the AP that it found."""

    seconds: float
    cpu: float
    mib: float
    ap: float


def run(program: str, gt: Path, detections: Path, out: Path) -> Run:
    start = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-c", program + REPORT, gt, detections, out],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - start
    report = json.loads(process.stderr.splitlines()[-1])
    return Run(seconds, report["cpu"], report["mib"], report["AP"])


def write_example(folder: Path, images: int, seed: int = 0) -> tuple[Path, Path]:
    """A set shaped like COCO's validation set: 7 objects of 3 classes in an image, 100 detections an image.

    Half of the detections lie near an object, most of them with its class; scores and boxes have all the digits that a
    float32 prints as a double, as detectors write them.
    """
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        objects = 1 + int(rng.poisson(6.3))
        kinds = rng.choice(CLASSES, size=3, replace=False) + 1
        labels = rng.choice(kinds, size=objects)
        sides = np.minimum(rng.lognormal(3.9, 1.0, (objects, 2)), 400)
        boxes = np.concatenate((rng.uniform(0, 1, (objects, 2)) * ((640, 480) - sides).clip(1), sides), axis=1).round(2)
        for label, box in zip(labels, boxes, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": box.tolist(),
                    "area": round(float(0.7 * box[2] * box[3]), 3),
                    "iscrowd": int(rng.random() < 0.01),
                }
            )
        near = rng.integers(objects, size=DETECTIONS_PER_IMAGE // 2)
        shaken = boxes[near] + rng.normal(0, 0.08, (len(near), 4)) * np.tile(boxes[near][:, 2:], 2)
        far = rng.uniform(0, 200, (DETECTIONS_PER_IMAGE - len(near), 4))
        places = np.abs(np.concatenate((shaken, far))).astype(np.float32).astype(np.float64)
        anything = rng.integers(1, CLASSES + 1, DETECTIONS_PER_IMAGE)
        chosen = np.concatenate((labels[near], rng.choice(kinds, size=len(far))))
        chosen = np.where(rng.random(DETECTIONS_PER_IMAGE) < 0.3, anything, chosen)
        scores = (rng.random(DETECTIONS_PER_IMAGE) ** 2).astype(np.float32).astype(np.float64)
        for label, box, score in zip(chosen.tolist(), places.tolist(), scores.tolist(), strict=True):
            detections.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    gt, found = folder / "gt.json", folder / "detections.json"
    gt.write_text(
        json.dumps(
            {
                "images": [{"id": i, "width": 640, "height": 480} for i in range(1, images + 1)],
                "categories": [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)],
                "annotations": annotations,
            }
        )
    )
    found.write_text(json.dumps(detections))
    return gt, found


def test_both_processes_agree(tmp_path: Path) -> None:
    gt, detections = write_example(tmp_path, images=50)
    ours = run(OURS, gt, detections, tmp_path / "scores.json")
    theirs = run(THEIRS, gt, detections, tmp_path / "unused")
    assert ours.ap == pytest.approx(theirs.ap, abs=1e-12)
    assert json.loads((tmp_path / "scores.json").read_text())["stats"]["AP"] == ours.ap


def test_score_against_pycocotools(
    request: pytest.FixtureRequest, benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not request.config.getoption("--benchmark"):
        pytest.skip("measured only with --benchmark")
    gt, detections = write_example(tmp_path, IMAGES)
    first = run(OURS, gt, detections, tmp_path / "scores.json")  # compiles, unless some run before it did
    runs: list[Run] = []
    benchmark.pedantic(lambda: runs.append(run(OURS, gt, detections, tmp_path / "scores.json")), rounds=3, iterations=1)
    theirs = run(THEIRS, gt, detections, tmp_path / "unused")
    assert runs[0].ap == pytest.approx(theirs.ap, abs=1e-12)
    run(WITH_INTERVALS, gt, detections, tmp_path / "intervals.json")  # compiles, unless some run before it did
    resampled = run(WITH_INTERVALS, gt, detections, tmp_path / "intervals.json")
    assert len(json.loads((tmp_path / "intervals.json").read_text())["intervals"]["stats"]["AP"]) == 2
    ours = sorted(runs)[len(runs) // 2]
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
