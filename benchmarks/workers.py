"""Processes that work for this one: each runs on one thread, leaves Ctrl-C to this one, and ends when this one is gone.

A process that is killed cannot tell its workers, which wait for the next piece of work without end. So each watches it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

__all__ = ["end_with_parent", "open_pool"]


def open_pool(count: int, start: Callable[..., None] | None = None, *arguments: Any) -> ProcessPoolExecutor:
    """So many new interpreters; `start(*arguments)` is called in each before its first piece of work."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, context, initializer=_begin, initargs=(start, arguments))


def end_with_parent() -> None:
    """End this process as soon as the one that began it through `multiprocessing`, if one did, is gone.

    What it is at is broken off and nothing is tidied up, as by SIGKILL.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def _begin(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    # Ctrl-C reaches all processes of a terminal; the one that holds the pool ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not above: whoever runs programs that need no torch starts without it.
    import torch

    torch.set_num_threads(1)
    if start is not None:
        start(*arguments)
