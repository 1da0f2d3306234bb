"""Where a training stands: the file it goes on from, and how it is told to stop."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch

__all__ = ["Interrupts", "TrainingError", "TrainingState"]


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stands and what to do."""


class TrainingState:
    """The file from which an interrupted run goes on; a run of other `identity` does not."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path, self.identity = path, identity
        self.started, self.before = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """Of all calls of this run, up to now."""
        return self.before + time.monotonic() - self.started

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file, whole or not at all."""
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            torch.save({"identity": self.identity, "seconds": self.seconds, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def load(self) -> dict[str, Any] | None:
        """What was saved last, if anything was.

        Raises:
            TrainingError: The file is damaged, or belongs to another run.
        """
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            found = state["identity"]
        except Exception as error:
            raise TrainingError(f"{self.path}: not a training state ({error}); remove it to start anew") from error
        different = sorted(key for key in self.identity if found.get(key) != self.identity[key])
        if different:
            key = different[0]
            raise TrainingError(
                f"{self.path}: was written by a run with {key} = {found.get(key)!r}, this one has "
                f"{self.identity[key]!r}; give another --out, or remove the file to start anew"
            )
        self.before = state["seconds"]
        return state


class Interrupts:
    """While it is entered, Ctrl-C and SIGTERM wait until a step is whole: a state from the middle of one is no state.

    A second signal does not wait. Outside the main thread, which alone receives signals, nothing is changed.

    Attributes:
        asked: Whether a signal has come.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("stopping after this step; once more stops at once", file=sys.stderr, flush=True)

    def raise_if_asked(self) -> None:
        """Stop here if a signal has come.

        Raises:
            KeyboardInterrupt: One has.
        """
        if self.asked:
            raise KeyboardInterrupt
