"""Jobs that end in every way in which a process can end; imports next to nothing, as each is run in a new one."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any


class OutOfMemoryError(RuntimeError):
    """Named as PyTorch's, of a GPU."""


@dataclass(frozen=True)
class Doomed:
    """Stands in for a `Job`; answers its process, unless its end is another."""

    detector: str
    says: bool = False

    def run(self) -> Any:
        """Do what the name says."""
        if self.detector == "aborts":
            os.abort()
        if self.detector == "leaves":
            os._exit(3)
        if self.detector == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.detector == "raises":
            raise ValueError("weights.safetensors: holds yolov3, not ssd300")
        if self.detector == "fills":
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has\na total of 8")
        if self.detector == "breaks":
            raise ZeroDivisionError("by nothing")
        return os.getpid()
