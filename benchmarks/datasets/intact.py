"""The images of a split that can be decoded, for who would rather measure on fewer than not at all."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.progress import track

from benchmarks.datasets.dataset import Dataset, DatasetError, read_image

__all__ = ["without_corrupt"]


def without_corrupt(dataset: Dataset, *, quiet: bool = False) -> Dataset:
    """The same images but for those that cannot be decoded, each of which is named on the standard error.

    What is left is another test, of another fingerprint and another name; `skipped` tells the ids of what is left out.
    All files are decoded once for it.

    Raises:
        DatasetError: None is left.
    """
    corrupt = []
    steps: Iterable[int] = range(len(dataset))
    if not quiet:
        steps = track(list(steps), description="looking for corrupt images", console=Console(stderr=True))
    for index in steps:
        try:
            read_image(dataset.paths[index])
        except DatasetError as error:
            corrupt.append(index)
            print(f"skipped: {error}", file=sys.stderr)
    return dataset.without(corrupt) if corrupt else dataset
