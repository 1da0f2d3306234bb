"""How long scoring takes, and how much memory, beside pycocotools and hotcoco: `python -m benchmarks score-speed`.

Each side is a program in a process of its own (`benchmarks.isolated`), from two JSON files to the numbers. What is set
against each other is the time that a process had on the processor, so that other work on the machine weighs little, and
sides take turns, so that what it weighs falls on all alike.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.examples import write_example
from benchmarks.isolated import run_python

__all__ = ["PROGRAMS", "Run", "measure", "print_speed", "run_program", "write_rival"]

_REPORT = """
import json, resource
from pathlib import Path

usage = resource.getrusage(resource.RUSAGE_SELF)
status = Path("/proc/self/status")  # the peak since exec; getrusage counts the parent's memory at the fork too
peak = [int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")] \\
    if status.exists() else []
print()  # what came before may not end its line
print(json.dumps({"cpu": usage.ru_utime + usage.ru_stime, "mib": (peak or [usage.ru_maxrss])[0] / 1024, "AP": AP}))
"""

_SCORE = """
import sys
from pathlib import Path
from benchmarks.score import run_score

AP = run_score(Path(sys.argv[1]), Path(sys.argv[2]), "all", Path(sys.argv[4]))["stats"]["AP"]
"""

_COMPARE = """
import sys
from pathlib import Path
from benchmarks.compare import run_compare

found = run_compare(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[1]), draws=1_000)
AP = found["totals"]["AP"]["first"]
"""

_PYCOCOTOOLS = """
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

_HOTCOCO = """
import sys
from hotcoco import COCO, COCOeval, compare

truth = COCO(sys.argv[1])
judges = []
for file in sys.argv[2:4]:
    judge = COCOeval(truth, truth.load_res(file), "bbox")
    judge.evaluate()
    judges.append(judge)
found = compare(*judges, n_bootstrap=1_000)
judges[0].accumulate()
judges[0].summarize()
AP = judges[0].stats[0]
"""

PROGRAMS = {
    "score": _SCORE,
    "score --intervals 1000": _SCORE.replace("Path(sys.argv[4]))", "Path(sys.argv[4]), intervals=1_000)"),
    "compare": _COMPARE,
    "pycocotools": _PYCOCOTOOLS,
    "hotcoco compare": _HOTCOCO,
}
"""Python programs; arguments: ground truth, detections, other detections, where to write."""


@dataclass(frozen=True)
class Run:
    """One process: seconds on the wall and of the processor, peak memory in MiB, and the AP that it found."""

    seconds: float
    cpu: float
    mib: float
    ap: float


def run_program(program: str, gt: Path, detections: Path, rival: Path, out: Path, python: Path | None = None) -> Run:
    """Run one of `PROGRAMS`.

    Raises:
        ProcessEnded: It fails; the message ends with its last line.
    """
    arguments = map(str, (gt, detections, rival, out))
    start = time.perf_counter()
    report = run_python("-c", program + _REPORT, *arguments, failure="a process to be timed failed", python=python)
    return Run(time.perf_counter() - start, report["cpu"], report["mib"], report["AP"])


def measure(
    images: Sequence[int],
    rounds: int = 3,
    hotcoco: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Time all sides by turns on generated sets.

    Args:
        images: Of each set; 100 detections an image.
        rounds: How often each side runs; one run more comes first, in which machine code is made where there is none.
        hotcoco: A Python interpreter that can import hotcoco; None leaves it out, and `compare` with it.
        tell: Called with what is under way.

    Returns:
        Of each set `images`, and under `sides` by name the medians `cpu` (seconds), `mib` and `seconds`, and `ap`.

    Raises:
        RuntimeError: A side fails, or does not find pycocotools' AP.
    """
    names = [name for name in PROGRAMS if hotcoco is not None or "compare" not in name]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for number, count in enumerate(images):
            tell(f"{count:,} images: writing")
            gt, detections = write_example(place, count)
            rival = detections if hotcoco is None else write_rival(detections, place / "rival.json")
            runs: dict[str, list[Run]] = {name: [] for name in names}
            for turn in range(-1 if number == 0 else 0, rounds):
                for name in names:
                    if turn < 0 and name in ("pycocotools", "hotcoco compare"):
                        continue
                    tell(f"{count:,} images: {name}")
                    python = hotcoco if name.startswith("hotcoco") else None
                    run = run_program(PROGRAMS[name], gt, detections, rival, place / "out.json", python)
                    if turn >= 0:
                        runs[name].append(run)
            reference = runs["pycocotools"][0].ap
            for name, several in runs.items():
                if abs(several[0].ap - reference) > 1e-9:
                    raise RuntimeError(f"{name} found AP {several[0].ap}, pycocotools {reference}")
            found.append({"images": count, "sides": {name: _medians(several) for name, several in runs.items()}})
    return found


def _medians(runs: Sequence[Run]) -> dict[str, float]:
    return {key: median(getattr(run, key) for run in runs) for key in ("cpu", "mib", "seconds", "ap")}


def print_speed(found: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """A row a set and side."""
    table = Table("images", "side")
    for head in ("CPU s", "ratio", "wall s", "ratio", "MiB"):
        table.add_column(head, justify="right")
    for one in found:
        for name, side in one["sides"].items():
            against = one["sides"]["hotcoco compare" if name == "compare" else "pycocotools"]
            of_time = [f"{against[key] / side[key]:.1f}" if "coco" not in name else "" for key in ("cpu", "seconds")]
            times = (f"{side['cpu']:.2f}", of_time[0], f"{side['seconds']:.1f}", of_time[1])
            table.add_row(f"{one['images']:,}", name, *times, f"{side['mib']:.0f}")
    console = console or Console()
    console.print(table)
    console.print("Medians. Ratio: pycocotools' time, for compare hotcoco's, in that of the row.")


def write_rival(detections: Path, out: Path, seed: int = 1) -> Path:
    """Another detector's results on the same images: the same boxes, less surely scored."""
    chance = np.random.default_rng(seed)
    rows = json.loads(detections.read_text())
    for row, change in zip(rows, chance.normal(0, 0.1, len(rows)).tolist(), strict=True):
        row["score"] = abs(row["score"] + change)
    out.write_text(json.dumps(rows))
    return out
