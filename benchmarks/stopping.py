"""How a run is told to stop: Ctrl-C and SIGTERM, after which it says how to go on; and that it is alone in its folder.

Nothing here needs torch.
"""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

from filelock import FileLock, Timeout

__all__ = ["BusyError", "Interrupts", "Terminated", "alone_in", "is_busy", "stoppable"]

_LOCK = ".lock"

_PATIENCE = 8.0
"""Seconds to wait for a lock: the processes that loaded images for a dead one hold it until they notice."""


class BusyError(RuntimeError):
    """Another process is at work in a folder; the message names it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it."""


@contextmanager
def stoppable(program: str) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the program with a sentence that says how to go on, and exit status 130 or 143.

    Args:
        program: How it was called, without its arguments: `python -m benchmarks`.

    Raises:
        SystemExit: A signal came.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    main = threading.current_thread() is threading.main_thread()
    # Whoever ignores or handles SIGTERM already knows why.
    ours = main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as stop:
        print(f"stopped; to go on: {shlex.join([*program.split(), *sys.argv[1:]])}", file=sys.stderr)
        raise SystemExit(143 if isinstance(stop, Terminated) else 130) from None
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Interrupts:
    """While it is entered, Ctrl-C and SIGTERM wait until a step is whole: a state from the middle of one is no state.

    A second signal does not wait. Outside the main thread, which alone receives signals, nothing is changed.

    Attributes:
        asked: Whether a signal has come.
    """

    def __init__(self) -> None:
        self.asked = False
        self._stop: type[KeyboardInterrupt] = KeyboardInterrupt
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
        self._stop = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if self.asked:
            raise self._stop
        self.asked = True
        print("stopping after this step; once more stops at once", file=sys.stderr, flush=True)

    def raise_if_asked(self) -> None:
        """Stop here if a signal has come.

        Raises:
            KeyboardInterrupt: One has.
        """
        if self.asked:
            raise self._stop


@contextmanager
def alone_in(folder: Path, lock: str = _LOCK) -> Iterator[None]:
    """Keep other processes that ask for it out of a folder, which is made where it is missing.

    The lock is the system's: with a process that dies, however it dies, its lock is gone.

    Raises:
        BusyError: Another process is in there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = FileLock(folder / lock, timeout=_PATIENCE)
    try:
        held.acquire()
    except Timeout:
        raise BusyError(f"{folder}: another process is at work here; wait for it, or give another --out") from None
    try:
        yield
    finally:
        held.release()


def is_busy(folder: Path, lock: str = _LOCK) -> bool:
    """Whether a living process holds a folder."""
    if not (folder / lock).exists():
        return False
    try:
        with FileLock(folder / lock, timeout=0):
            return False
    except Timeout:
        return True
