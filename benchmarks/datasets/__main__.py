"""`python -m benchmarks.datasets NAME`: fetch (or draw) a data set and check it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.datasets import DRAWN, DatasetError, download_dataset, open_dataset
from benchmarks.stopping import stoppable


def main(
    name: Annotated[str, typer.Argument(help="shapes, discs, bars, bccd, voc or coco.")],
    split: Annotated[str | None, typer.Option(help="For instance 2007_test, 0712_trainval, val2017.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where to; the cache folder by default.")] = None,
) -> None:
    """Fetch a split, read all of it once, and say what it holds."""
    with stoppable("python -m benchmarks.datasets"):
        _fetch(name, split, folder)


def _fetch(name: str, split: str | None, folder: Path | None) -> None:
    try:
        place = download_dataset(name, split, folder)
        dataset = open_dataset(name, split, None if name in DRAWN else place)
        print(f"{place}: {len(dataset)} images, {dataset.num_objects} objects, fingerprint {dataset.fingerprint}")
    except (DatasetError, OSError, MemoryError) as error:
        print(f"error: {str(error) or 'out of memory'}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    typer.run(main)
