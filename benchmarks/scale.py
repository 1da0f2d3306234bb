"""How time and memory of scoring grow with the number of images: `python -m benchmarks score-scale`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.examples import DETECTIONS_PER_IMAGE, write_example
from benchmarks.speed import PROGRAMS, run_program

__all__ = ["measure_scale", "print_scale"]

_IN_PARTS = PROGRAMS["score"].replace("Path(sys.argv[4]))", "Path(sys.argv[4]), memory=MEMORY)")

AT_ONCE = 10_000
"""Sets of up to so many images are scored at once too, and all numbers compared."""


def measure_scale(
    images: Sequence[int], memory: int, folder: Path | None = None, tell: Callable[[str], None] = lambda text: None
) -> Iterator[dict[str, Any]]:
    """Write sets of so many images with 100 detections each, and score each in a process of its own.

    Args:
        images: Of each set.
        memory: Bytes that the process may take.
        folder: For the sets (15 kB an image) and for what scoring puts aside (10 kB an image); removed afterwards.
        tell: Called with what is under way.

    Yields:
        Of each set `images`, `detections`, `bytes` of text, `cpu` and `seconds`, `mib` (the highest that the process
        took), and `equal`: whether scoring at once gave the same numbers; None where that was not tried.

    Raises:
        RuntimeError: Scoring fails.
    """
    for number, count in enumerate(images):
        with tempfile.TemporaryDirectory(dir=folder) as name:
            place = Path(name)
            tell(f"{count:,} images: writing")
            gt, detections = write_example(place, count, tell=partial(_written, tell, count))
            out, whole = place / "parts.json", place / "whole.json"
            program = f"import os, tempfile\ntempfile.tempdir = {name!r}\nMEMORY = {memory}\n{_IN_PARTS}"
            if number == 0:  # once more, so that no machine code is made while time is taken
                few = place / "few"
                few.mkdir()
                run_program(program, *write_example(few, 2), detections, out)
            tell(f"{count:,} images: scoring in parts")
            run = run_program(program, gt, detections, detections, out)
            equal = None
            if count <= AT_ONCE:
                tell(f"{count:,} images: scoring at once")
                run_program(PROGRAMS["score"], gt, detections, detections, whole)
                equal = json.loads(out.read_text()) == json.loads(whole.read_text())
            yield {
                "images": count,
                "detections": count * DETECTIONS_PER_IMAGE,
                "bytes": gt.stat().st_size + detections.stat().st_size,
                "cpu": run.cpu,
                "seconds": run.seconds,
                "mib": run.mib,
                "equal": equal,
            }


def _written(tell: Callable[[str], None], count: int, done: int) -> None:
    tell(f"{count:,} images: writing, {done:,} done")


def print_scale(found: Sequence[Mapping[str, Any]], memory: int, console: Console | None = None) -> None:
    """A row a set."""
    table = Table("images")
    for head in ("detections", "text GB", "CPU s", "µs a detection", "wall s", "MiB", "as at once"):
        table.add_column(head, justify="right")
    for one in found:
        table.add_row(
            f"{one['images']:,}",
            f"{one['detections']:,}",
            f"{one['bytes'] / 1e9:.2f}",
            f"{one['cpu']:.1f}",
            f"{1e6 * one['cpu'] / one['detections']:.2f}",
            f"{one['seconds']:.0f}",
            f"{one['mib']:.0f}",
            {True: "equal", False: "DIFFERS", None: "not tried"}[one["equal"]],
        )
    console = console or Console()
    console.print(table)
    console.print(f"Scored in parts, within {memory / 2**20:.0f} MiB.")
