"""The detections of an evaluation so far: one that is killed goes on from them and ends with the same file."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from io import BufferedRandom
from pathlib import Path
from typing import Any, Self

from benchmarks.jsons import as_json
from benchmarks.processes import Share

__all__ = ["PARTIAL", "PartialDetections"]

PARTIAL = "detections.part.jsonl"
"""Name of the file, in the folder of an evaluation; it is gone when the Record is there. Several processes have one
each, such as `detections.part.1-of-4.jsonl`."""

Rows = list[dict[str, Any]]


class PartialDetections:
    """A file to which each batch of images adds a line; entered, it holds what is known already.

    A line that a crash has cut off, and all behind it, is dropped. So is everything where the file is of another
    evaluation: other weights, images, settings or code.

    Attributes:
        images: How many of the process's images are done, the first ones.
        rows: Their detections, as `benchmarks.evaluate.detect` gives them.

    Args:
        folder: Of the evaluation.
        identity: All that detections depend on, as JSON can hold it.
        share: Which of the images are this process's.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], share: Share | None = None) -> None:
        share = share or Share()
        own = f".{share.rank}-of-{share.count}.jsonl"
        self.path = folder / (PARTIAL if share.count == 1 else PARTIAL.replace(".jsonl", own))
        self.identity: dict[str, Any] = as_json(identity)
        self.images, self.rows = 0, Rows()
        self._file: BufferedRandom | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        self._file = self.path.open("r+b")
        end = self._read(self._file)
        self._file.seek(end)
        self._file.truncate()
        if end == 0:
            self._append(self.identity)
        elif self.images:
            print(f"{self.path}: going on behind {self.images} images", file=sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, images: int, rows: Rows) -> None:
        """Keep what a batch gave, after which so many images are done."""
        self.images = images
        self.rows += rows
        if self._file is not None:
            self._append({"images": images, "rows": rows})

    def remove(self) -> None:
        """They are in a whole file now."""
        self.path.unlink(missing_ok=True)

    def _append(self, value: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(value, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def _read(self, file: BufferedRandom) -> int:
        """Take in the whole lines, and say where they end."""
        end = 0
        for number, line in enumerate(file):
            value = _whole(line)
            if number == 0:
                if value != self.identity:
                    if value is not None:
                        print(f"{self.path}: {self._differs(value)}; starting over", file=sys.stderr)
                    return 0
            elif value is None or not isinstance(value.get("rows"), list) or value.get("images", 0) <= self.images:
                return end
            else:
                self.images = value["images"]
                self.rows += value["rows"]
            end += len(line)
        return end

    def _differs(self, found: Mapping[str, Any]) -> str:
        names = [name for name in self.identity if found.get(name) != self.identity[name]]
        return f"is of an evaluation with other {names[0] if names else 'settings'}"


def _whole(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
