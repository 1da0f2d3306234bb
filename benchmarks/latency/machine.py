"""What else is on the machine: threads are fixed, and what other processes take is counted."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

import psutil
import torch

__all__ = ["ForeignLoad", "fixed_threads"]


@contextlib.contextmanager
def fixed_threads(threads: int | None) -> Iterator[int]:
    """Give PyTorch, and numba and OpenCV where they are in use, one number of threads for a while."""
    before = torch.get_num_threads()
    fixed = threads or before
    numba, cv2 = sys.modules.get("numba"), sys.modules.get("cv2")
    numba_before = numba.get_num_threads() if numba else 0
    cv2_before = cv2.getNumThreads() if cv2 else 0
    torch.set_num_threads(fixed)
    if numba:
        numba.set_num_threads(min(fixed, numba.config.NUMBA_NUM_THREADS))
    if cv2:
        cv2.setNumThreads(fixed)
    try:
        yield fixed
    finally:
        torch.set_num_threads(before)
        if numba:
            numba.set_num_threads(numba_before)
        if cv2:
            cv2.setNumThreads(cv2_before)


class ForeignLoad:
    """Processor time that others took since construction: a noisy neighbour shows in the Record."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._start = time.perf_counter()
        self._all, self._own = self._busy()

    def _busy(self) -> tuple[float, float]:
        machine, own = psutil.cpu_times(), self._process.cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        # On Linux `guest` is counted in `user` already.
        guests = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)
        return sum(machine) - idle - guests, own.user + own.system

    def cores(self) -> float:
        """Mean number of cores that other processes kept busy."""
        machine, own = self._busy()
        foreign = (machine - self._all) - (own - self._own)
        return max(0.0, foreign / max(time.perf_counter() - self._start, 1e-9))
