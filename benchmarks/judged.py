"""Shipped checkpoints measured and held against what they reached when they shipped; on a CPU several at a time.

Accuracy asks for no quiet machine: there small networks are measured fastest one to a core, each on a single thread,
and two of them take less than two thirds of the time that they take one after the other on two threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.cores import usable_cores
from benchmarks.datasets import Dataset, open_dataset
from benchmarks.datasets.decoded import keep_decoded
from benchmarks.gate import Gated, bits_of, measure_and_judge, unfit
from benchmarks.results import Record
from benchmarks.shipped import Expectation
from benchmarks.suite import BENCHMARKS
from benchmarks.workers import open_pool

__all__ = ["Judged", "images_of", "judge_checkpoint", "judging"]

Row = tuple[Path, Expectation]
"""A checkpoint, and what is expected of it."""


@dataclass(frozen=True)
class Judged:
    """What was measured with a checkpoint, and what the regression gate says of it."""

    record: Record
    gated: Gated


def judge_checkpoint(row: Row, dataset: Dataset, device: str = "cpu") -> Judged:
    """Measure a checkpoint and judge it.

    Raises:
        ValueError: Checkpoint and dataset do not fit, or a file is damaged.
    """
    path, expectation = row
    record, judgement = measure_and_judge(path, expectation, dataset, device=device, quiet=True)
    reason = unfit(path, expectation, dataset)
    gated = Gated(path.stem, bits_of(path), judgement) if reason is None else Gated(path.stem, unfit=reason)
    return Judged(record, gated)


@contextmanager
def judging(rows: Sequence[Row], data_root: Path | None = None) -> Iterator[Callable[[Path], Judged]]:
    """Judge checkpoints on the CPU, as many at a time as there are cores, each on one thread of a process of its own.

    Args:
        rows: All that will be asked for; they are begun in this order.
        data_root: The data as their owner unpacked them.

    Yields:
        A function that waits for what was found with a checkpoint, or raises what went wrong with it.
    """
    pool = open_pool(max(1, min(usable_cores(), len(rows))))
    try:
        found: dict[Path, Future[Judged]] = {row[0]: pool.submit(_judge, row, data_root) for row in rows}
        yield lambda path: found[path].result()
    finally:
        pool.shutdown(cancel_futures=True)


@cache
def images_of(name: str, data_root: Path | None = None) -> Dataset:
    """The test of a benchmark, opened once in a process and kept decoded."""
    return keep_decoded(open_dataset(name, BENCHMARKS[name].split, data_root))


def _judge(row: Row, data_root: Path | None) -> Judged:
    return judge_checkpoint(row, images_of(row[1].benchmark, data_root))
