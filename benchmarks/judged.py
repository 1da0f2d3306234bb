"""Shipped checkpoints measured and held against what they reached when they shipped; on a CPU several at a time.

Accuracy asks for no quiet machine: there small networks are measured fastest one to a core, each on a single thread,
and two of them take less than two thirds of the time that they take one after the other on two threads.
"""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from benchmarks.cores import usable_cores
from benchmarks.datasets import Dataset, open_dataset
from benchmarks.datasets.decoded import keep_decoded
from benchmarks.evaluate import evaluate, load_subject
from benchmarks.gate import Gated, bits_of, judge_detections, unfit
from benchmarks.results import Record
from benchmarks.shipping import Expectation
from benchmarks.suite import BENCHMARKS

__all__ = ["Judged", "judge_checkpoint", "judging"]

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
    reason = unfit(path, expectation, dataset)
    with tempfile.TemporaryDirectory() as folder:
        subject = load_subject(expectation.detector, path, len(dataset.class_names))
        record = evaluate(subject, dataset, device=device, out=Path(folder), quiet=True)
        if reason is not None:
            return Judged(record, Gated(path.stem, unfit=reason))
        found = judge_detections(path, expectation, dataset, Path(folder) / "detections.json", record.metrics)
    return Judged(record, Gated(path.stem, bits_of(path), found))


@contextmanager
def judging(rows: Sequence[Row], data_root: Path | None = None) -> Iterator[Callable[[Path], Judged]]:
    """Judge checkpoints on the CPU, as many at a time as there are cores, each on one thread of a process of its own.

    Args:
        rows: All that will be asked for; they are begun in this order.
        data_root: The data as their owner unpacked them.

    Yields:
        A function that waits for what was found with a checkpoint, or raises what went wrong with it.
    """
    context = multiprocessing.get_context("spawn")
    workers = max(1, min(usable_cores(), len(rows)))
    pool = ProcessPoolExecutor(workers, context, initializer=_start)
    try:
        found: dict[Path, Future[Judged]] = {row[0]: pool.submit(_judge, row, data_root) for row in rows}
        yield lambda path: found[path].result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    # Ctrl-C reaches all processes of a terminal; the one that holds the pool ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


@cache
def _images(name: str, data_root: Path | None) -> Dataset:
    return keep_decoded(open_dataset(name, BENCHMARKS[name].split, data_root))


def _judge(row: Row, data_root: Path | None) -> Judged:
    return judge_checkpoint(row, _images(row[1].benchmark, data_root))
