"""Rows that are put aside on disk, part by part."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.data import ScoreError

__all__ = ["Spill"]

Rows = NDArray[Any]


class Spill:
    """Rows of a number of parts, each in the order in which they were added.

    All lie in one file without a name, which the system gives up with the process, however that ends.
    """

    def __init__(self, kind: np.dtype[Any], parts: int, folder: Path | None = None) -> None:
        """`kind` is that of a row; the file lies in `folder`, or where temporary files do."""
        self.kind, self.counts = kind, [0] * parts
        self._extents: list[list[tuple[int, int]]] = [[] for _ in range(parts)]
        self._end = 0
        self._folder = folder or Path(tempfile.gettempdir())
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise self._no_room(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the file."""
        self._file.close()

    def append(self, part: int, rows: Rows) -> None:
        """Add rows to a part.

        Raises:
            ScoreError: The disk is full.
        """
        if not len(rows):
            return
        left = np.ascontiguousarray(rows).view(np.uint8).data
        begin = self._end
        try:
            while left:
                done = os.pwrite(self._file.fileno(), left, self._end)
                self._end += done
                left = left[done:]
        except OSError as error:
            raise self._no_room(error) from error
        self.counts[part] += len(rows)
        self._extents[part].append((begin, len(rows)))

    def scatter(self, parts: NDArray[np.integer[Any]], rows: Rows) -> None:
        """Add each row to the part that `parts` names for it."""
        parts = parts.astype(np.min_scalar_type(len(self.counts)))  # numpy sorts 16 bits in linear time
        order = np.argsort(parts, kind="stable")
        rows, parts = rows[order], parts[order]
        starts = (
            np.flatnonzero(np.diff(parts.astype(np.int64), prepend=-1)) if len(parts) else np.zeros(0, dtype=np.int64)
        )
        for start, stop in zip(starts, [*starts, len(parts)][1:], strict=True):
            self.append(int(parts[start]), rows[start:stop])

    def read(self, part: int) -> Rows:
        """All rows of a part."""
        rows = np.empty(self.counts[part], dtype=self.kind)
        done = 0
        for begin, count in self._extents[part]:
            self._fill(rows[done : done + count], begin)
            done += count
        return rows

    def pieces(self, part: int, most: int) -> Iterator[Rows]:
        """The rows of a part, at most so many at a time."""
        for begin, count in self._extents[part]:
            for start in range(0, count, most):
                rows = np.empty(min(most, count - start), dtype=self.kind)
                self._fill(rows, begin + start * self.kind.itemsize)
                yield rows

    def _fill(self, rows: Rows, begin: int) -> None:
        left = rows.view(np.uint8).data
        while left:
            done = os.preadv(self._file.fileno(), [left], begin)
            begin += done
            left = left[done:]

    def _no_room(self, error: OSError) -> ScoreError:
        return ScoreError(
            f"{self._folder}: cannot hold temporary files ({error.strerror}, after {self._end / 1e9:.1f} GB); "
            "let TMPDIR name a folder on a larger disk"
        )
