"""Where a training stands: the file it goes on from."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["STATE", "TrainingError", "TrainingState"]

STATE = "state.pt"
"""Name of the file to go on from, in the folder of a run."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stands and what to do."""


class TrainingState:
    """The file from which an interrupted run goes on; a run of other `identity` does not."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path, self.identity = path, identity
        self.started, self.before = time.monotonic(), 0.0
        self.saved = self.started

    @property
    def seconds(self) -> float:
        """Of all calls of this run, up to now."""
        return self.before + time.monotonic() - self.started

    @property
    def age(self) -> float:
        """Minutes since this call last saved, or began."""
        return (time.monotonic() - self.saved) / 60

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file, whole or not at all."""
        temporary = self.path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                torch.save({"identity": self.identity, "seconds": self.seconds, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except BaseException:
            # On a full disk it would be in the way of the next try.
            temporary.unlink(missing_ok=True)
            raise
        self.saved = time.monotonic()

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
            # Not torch's own words: these advise to load it by executing what it holds.
            raise TrainingError(
                f"{self.path}: not a training state, or a damaged one; remove it to start anew"
            ) from error
        different = sorted(key for key in self.identity if found.get(key) != self.identity[key])
        if different:
            key = different[0]
            raise TrainingError(
                f"{self.path}: was written by a run with {key} = {found.get(key)!r}, this one has "
                f"{self.identity[key]!r}; give another --out, or remove the file to start anew"
            )
        self.before = state["seconds"]
        return state
