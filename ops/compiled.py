"""`compiled`: numba's compiler with its cache on disk, so that a process loads machine code and does not make it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numba

__all__ = ["compiled"]

P = ParamSpec("P")
R = TypeVar("R")


def _beside_the_sources() -> bool:
    folder = Path(__file__).parent
    cache = folder / "__pycache__"
    return os.access(cache if cache.exists() else folder, os.W_OK)


_CONFIG: Any = numba.config
if not _CONFIG.CACHE_DIR and not _beside_the_sources() and "DETECTOR_ZOO_CACHE" in os.environ:
    _CONFIG.CACHE_DIR = str(Path(os.environ["DETECTOR_ZOO_CACHE"]) / "numba")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` at its first call; later processes load it from `__pycache__`.

    Where that folder is read-only the cache goes below the environment variable `DETECTOR_ZOO_CACHE`, else to the
    user's own cache folder; where nothing can be written, each process compiles for itself. Arithmetic is IEEE double
    without contraction or reordering, so results equal those of the same formula in C or Python.

    A compiled function may only use functions and constants of its own file: the cache notices changes by file.
    """
    try:
        return numba.njit(cache=True, error_model="numpy", nogil=True)(function)
    except RuntimeError:  # numba found no folder to cache in
        return numba.njit(error_model="numpy", nogil=True)(function)
