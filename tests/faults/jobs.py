"""Commands of ours on a tiny setting, and the faults that befall them: what runs in a child of `driver`.

A server process imports this once and forks for each run, so that a child starts in milliseconds.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

import reports.__main__ as reporting
import reports.render as pages
from benchmarks import recording, reevaluation, score, timing
from benchmarks.__main__ import app
from benchmarks.datasets import __main__ as fetching
from benchmarks.datasets import shapes
from benchmarks.stopping import stoppable
from ops.structures import Detections, Target
from tests.benchmarks.toy_training import ToyDetector, recipe
from zoo import CATALOG
from zoo.detector import Spec

__all__ = ["JOBS", "TOY", "Fault", "Toy", "child"]

# Imported for the modules that the commands import when they are called.
assert recording
assert reevaluation
assert score
torch.set_num_threads(1)


class Toy(ToyDetector):
    """Bears images whose objects were cropped away, and gives boxes that have a size."""

    def postprocess(self, outputs: torch.Tensor, batch: Any) -> list[Detections]:
        corner, side = outputs[:, :2].abs(), 4 + 30 * outputs[:, 2:].abs()
        found = super().postprocess(torch.cat([corner, corner + side], 1), batch)
        return [Detections(one.boxes, row[2:3].sigmoid(), one.labels) for one, row in zip(found, outputs, strict=True)]

    def losses(self, outputs: Any, batch: Any, targets: list[Target]) -> dict[str, torch.Tensor]:
        nothing = torch.zeros((1, 4))
        boxes = [torch.cat([target.boxes, nothing])[:1] for target in targets]
        labels = torch.zeros(1, dtype=torch.int64)
        return super().losses(outputs, batch, [Target(box, labels) for box in boxes])


TOY = Spec("toy", Toy, 2026, "nobody", "one-stage", None, {}, recipe(60), (32, 32))


def shrink() -> None:
    """Make the setting tiny, in a process that is for nothing else."""
    CATALOG["toy"] = TOY
    # A process of its own would not know the toy, and takes seconds to start.
    timing.in_fresh_process = lambda function, *arguments: function(*arguments)
    shapes.SCENES["few"] = shapes.Scene(side=48, images=(4, 6), area=(64, 200), large=0)
    # Seventy pages more are seventy times the same.
    all_pages, all_tables = pages.detector_pages, reporting.read_tables
    pages.detector_pages = lambda shelf: dict(list(all_pages(shelf).items())[:5])
    reporting.read_tables = lambda: all_tables()[:2]


Kind = Literal["none", "kill", "term", "int", "full", "limit", "memory", "lost"]


@dataclass(frozen=True)
class Fault:
    """What befalls a run.

    Attributes:
        kind: Nothing; SIGKILL, SIGTERM or Ctrl-C; no space for a new file (`full`) or for more bytes in one (`limit`);
            no memory; a file that vanishes.
        event: At which of the run's file events, from 1; 0 for `seconds`.
        seconds: After which time, for signals, counted from when the command begins.
        size: Bytes that a file may have (`limit`), or that may still be allocated (`memory`).
        seed: Of the choice of the file that is lost.
    """

    kind: Kind = "none"
    event: int = 0
    seconds: float = 0.0
    size: int = 0
    seed: int = 0

    @property
    def signal(self) -> signal.Signals | None:
        return {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}.get(self.kind)


def _command(*arguments: object) -> None:
    sys.argv = ["benchmarks", *map(str, arguments)]
    app()


def _train(place: Path) -> None:
    data = ("--dataset", "coco", "--data-root", place / "data", "--split", "tiny")
    often = ("--steps", 24, "--batch", 2, "--checkpoint-every", 5, "--threads", 1)
    _command("train", "toy", *data, "--out", place / "out", *often)


def _evaluate(place: Path) -> None:
    data = ("--dataset", "coco", "--data-root", place / "data", "--split", "tiny")
    weights = ("--weights", place / "data" / "toy.safetensors", "--threads", 1)
    _command("evaluate", "toy", *data, *weights, "--out", place / "out")


def _latency(place: Path) -> None:
    data = ("--dataset", "coco", "--data-root", place / "data", "--split", "tiny")
    weights = ("--weights", place / "data" / "toy.safetensors", "--threads", 1, "--images", 24, "--noise", 90)
    _command("latency", "toy", *data, *weights, "--out", place / "out")


def _draw(place: Path) -> None:
    os.environ["DETECTOR_ZOO_CACHE"] = str(place / "out")
    sys.argv = ["datasets", "shapes", "--split", "few-train"]
    fetching.main("shapes", "few-train", None)


def _render(place: Path) -> None:
    sys.argv = ["reports", "--results", str(place / "data" / "records"), "--out", str(place / "out")]
    reporting.COMMITTED = place / "data" / "none"
    with stoppable("python -m reports"):
        sys.exit(reporting.main(sys.argv[1:]))


JOBS: dict[str, Callable[[Path], None]] = {
    "training": _train,
    "evaluation": _evaluate,
    "latency": _latency,
    "drawing": _draw,
    "rendering": _render,
}


def child(job: str, place: Path, fault: Fault, output: Connection) -> None:
    """Run a job in a folder, its output into a pipe, and let the fault befall it."""
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    shrink()
    # A shell that starts tests in the background has them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    watch = _Watch(place, fault)
    sys.addaudithook(watch)
    if fault.kind == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.size, fault.size))
    if fault.kind == "memory" and not fault.event:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + fault.size, used + fault.size))
    os.write(2, b"READY\n")
    try:
        JOBS[job](place)
    except KeyboardInterrupt:
        # Before the command had begun; a command that lets it through is found by its exit status.
        sys.exit(1)
    finally:
        os.write(2, f"\nEVENTS {watch.events}\n".encode())


class _Watch:
    """Counts what a run does to files below its folder, and strikes at one such event."""

    def __init__(self, place: Path, fault: Fault) -> None:
        self.root, self.fault, self.events, self.busy = str(place), fault, 0, False

    def __call__(self, event: str, details: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "os.link") or self.busy:
            return
        if not details or not str(details[0]).startswith(self.root):
            return
        self.events += 1
        if self.events == self.fault.event:
            self.busy = True
            self._strike()
            self.busy = False

    def _strike(self) -> None:
        if self.fault.signal is not None:
            os.kill(os.getpid(), self.fault.signal)
        elif self.fault.kind == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif self.fault.kind == "memory":
            raise MemoryError
        elif self.fault.kind == "lost":
            files = sorted(path for path in Path(self.root).rglob("*") if path.is_file() and path.name[0] != ".")
            if files:
                random.Random(self.fault.seed).choice(files).unlink()
