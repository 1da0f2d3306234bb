"""One cell of a sweep: what it does, and what its folder tells of it."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.results import Record, RecordError, write_atomically
from benchmarks.stopping import alone_in, is_busy

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

__all__ = ["ABOUT", "Cell", "Status", "SweepError", "status_of"]

ABOUT = "cell.json"
"""In a cell's folder: with which settings it was begun, and how its last attempt went."""

_LOCK = ".cell.lock"

State = Literal["done", "running", "failed", "waiting"]


class SweepError(ValueError):
    """A sweep cannot be run, or a cell cannot be measured; the message says what to change."""


@dataclass(frozen=True)
class Status:
    """Where a cell stands.

    Attributes:
        state: A failed cell is tried again when asked only; one that was interrupted is waiting.
        reason: Why it failed or waits, or how far it is.
        headline: The benchmark's metric in percent, once it is done.
    """

    state: State
    reason: str = ""
    headline: float | None = None


@dataclass(frozen=True)
class Cell:
    """A detector to be trained on a data set with a seed, and tested.

    Attributes:
        detector: Catalog name.
        dataset: A key of `BENCHMARKS`.
        seed: Of the training.
        profile: Hardware profile that the machine must conform to; None for any machine.
        out: Folder of the sweep.
        small: The size that trains in minutes, or the paper's.
        device: Where it is trained and tested.
        threads: Of torch on the CPU.
        test_split: Tested on, if not the benchmark's.
        data_root: The data as their owner unpacked them.
        training: Further arguments of `benchmarks.train.train`.
    """

    detector: str
    dataset: str
    seed: int
    profile: str | None
    out: Path
    small: bool = True
    device: str = "cpu"
    threads: int | None = None
    test_split: str | None = None
    data_root: Path | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its folder, and of its row in the table."""
        on = f".{self.profile}" if self.profile else ""
        return f"{self.detector}.{self.dataset}.seed-{self.seed}{on}"

    @property
    def folder(self) -> Path:
        """Of its own: state, checkpoint and Records."""
        return self.out / self.name

    @property
    def settings(self) -> dict[str, Any]:
        """What the cell's numbers depend on, as JSON can hold it."""
        own = {"small": self.small, "device": self.device, "threads": self.threads, "test_split": self.test_split}
        return json.loads(json.dumps({**own, "training": dict(self.training)}, sort_keys=True))

    def __call__(self) -> str:
        """Train and test; an error is noted and does not leave: other cells are none of its business."""
        with alone_in(self.folder, _LOCK):
            self._note("running")
            try:
                self._measure()
            except Exception as error:
                traceback.print_exc()
                self._note("failed", " ".join(str(error).split()) or type(error).__name__)
                return "failed"
            self._note("done")
            return "done"

    def checkpoint(self) -> DelayedSubmission:
        """What a scheduler is to begin anew that takes this job's machine away: the same, from its last state."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _measure(self) -> None:
        from benchmarks import hardware
        from benchmarks.datasets import open_dataset
        from benchmarks.datasets.intact import without_corrupt
        from benchmarks.evaluate import evaluate, load_subject
        from benchmarks.train import train

        if self.profile is not None:
            found = hardware.stamp(self.device, self.threads)
            if found.profile != self.profile:
                raise SweepError(f"this machine does not conform to {self.profile}: {'; '.join(found.deviations)}")
        weights = train(
            self.detector,
            self.dataset,
            out=self.folder,
            small=self.small,
            data_root=self.data_root,
            seed=self.seed,
            device=self.device,
            threads=self.threads,
            **self.training,
        )
        images = open_dataset(self.dataset, self.test_split, self.data_root)
        if self.training.get("skip_corrupt"):
            images = without_corrupt(images)
        subject = load_subject(self.detector, weights, len(images.class_names))
        evaluate(subject, images, device=self.device, out=self.folder)

    def _note(self, state: str, reason: str = "") -> None:
        about = {"settings": self.settings, "state": state, "reason": reason, "host": os.uname().nodename}
        write_atomically(self.folder / ABOUT, json.dumps({**about, "process": os.getpid()}, indent=1) + "\n")
        print(f"{self.name}: {state} {reason}".rstrip(), file=sys.stderr, flush=True)


def status_of(cell: Cell, queued: str | None = None) -> Status:
    """What a cell's folder tells, and its scheduler.

    Args:
        cell: The cell.
        queued: State of its job as a scheduler states it, where it has one that has not ended.

    Raises:
        SweepError: The folder is of a cell with other settings.
        RecordError: Its Record is damaged.
    """
    about = _about(cell)
    if about.get("settings", cell.settings) != cell.settings:
        key = next(name for name in cell.settings if about["settings"].get(name) != cell.settings[name])
        raise SweepError(
            f"{cell.folder}: was begun with {key} = {about['settings'].get(key)!r}, the grid has "
            f"{cell.settings[key]!r}; give another --out, or remove the folder"
        )
    for path in sorted(cell.folder.glob("accuracy.*.json")):
        return Status("done", "", _headline(cell, Record.read(path)))
    if is_busy(cell.folder, _LOCK) or queued == "RUNNING":
        return Status("running", _progress(cell))
    if queued is not None:
        return Status("waiting", f"in the queue ({queued.lower()})")
    if about.get("state") == "failed":
        return Status("failed", about["reason"])
    if about.get("state") in ("running", "done"):
        where = f"on {about.get('host')}, {_progress(cell)}"
        return Status("waiting", f"interrupted {where}; goes on from its state when the sweep is called again")
    return Status("waiting", "not begun")


def _about(cell: Cell) -> dict[str, Any]:
    path = cell.folder / ABOUT
    if not path.exists():
        return {}
    try:
        about: dict[str, Any] = json.loads(path.read_bytes())
        return {**about, "settings": dict(about["settings"]), "reason": str(about.get("reason", ""))}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RecordError(f"{path}: cannot be read ({error}); remove it, the cell goes on without") from error


def _progress(cell: Cell) -> str:
    """The last step that the training has logged."""
    try:
        last = (cell.folder / "losses.jsonl").read_text().splitlines()[-1]
        return f"behind step {json.loads(last)['step']}"
    except (OSError, IndexError, ValueError, KeyError):
        return "at its beginning"


def _headline(cell: Cell, record: Record) -> float | None:
    from benchmarks.suite import headline_of

    value = headline_of(cell.dataset, record.metrics)
    return None if value != value else value
