"""A memory of proposals: what an outside algorithm proposes for an image is computed once.

Selective search takes longer than the network that looks at its regions, and says the same each time. The memory lies
in the folder `proposals` of the cache folder, a file an image, under a name that hashes the image's pixels, the
proposer's settings and its source code. Files appear whole or not at all, so that any number of processes may share it.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import os
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from benchmarks.cores import usable_cores
from benchmarks.datasets import Dataset, cache_folder
from benchmarks.results import write_atomically
from benchmarks.workers import open_pool
from ops.structures import Target
from zoo.detector import Detector
from zoo.two_stage.fast_rcnn import Proposer

__all__ = ["Memory", "proposer_of", "remembering", "with_proposals"]


def proposer_of(model: Detector) -> Proposer | None:
    """What proposes for a detector from outside; None for one that needs no proposals, or makes its own."""
    return cast("Proposer | None", getattr(model, "proposer", None))


def _described(proposer: Proposer) -> str:
    """Settings and source code, in so far as they decide what is proposed."""
    settings = repr(proposer)
    if inspect.isfunction(proposer) and "<" not in proposer.__qualname__:
        settings = f"{proposer.__module__}.{proposer.__qualname__}"
    if " at 0x" in settings:
        raise ValueError(f"{settings}: proposals are remembered by what repr() says; make it a dataclass of settings")
    module = sys.modules.get(getattr(proposer, "__module__", ""))
    file = getattr(module, "__file__", None)
    source = Path(file).read_bytes() if file else b""
    return f"{type(proposer).__module__}|{settings}|{hashlib.sha256(source).hexdigest()}"


@dataclass(frozen=True)
class Memory:
    """A proposer that remembers: called as the proposer is, it looks first and computes only what it has not seen.

    Attributes:
        proposer: What is asked; it must tell its settings in its `repr`, and be fit for `pickle`.
        folder: Where the files lie; by default in the cache folder.
    """

    proposer: Proposer
    folder: Path = field(default_factory=lambda: cache_folder() / "proposals")
    _settings: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_settings", _described(self.proposer))

    def __call__(self, image: Tensor) -> Tensor:
        """Boxes float32 `[P, 4]` in pixels of the image `[3, H, W]`, the likeliest first; on the CPU."""
        image = image.cpu()
        key = self.key(image)
        known = self.read(key)
        return self.learn(key, image) if known is None else known

    def key(self, image: Tensor) -> str:
        """Name of the image under this proposer."""
        pixels = image.cpu().contiguous().numpy()
        digest = hashlib.sha256(f"{self._settings}|{pixels.dtype}{pixels.shape}|".encode())
        digest.update(pixels.data)
        return digest.hexdigest()

    def read(self, key: str) -> Tensor | None:
        """What is remembered; None where there is nothing, or nothing sound."""
        try:
            stored = np.load(io.BytesIO(self._path(key).read_bytes()), allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError):
            return None
        if stored.ndim != 2 or stored.shape[1] != 4 or stored.dtype not in (np.int16, np.float32):
            return None
        boxes = torch.from_numpy(stored.astype(np.float32))
        return boxes if bool(boxes.isfinite().all()) else None

    def learn(self, key: str, image: Tensor) -> Tensor:
        """Ask the proposer, and remember."""
        boxes = self.proposer(image).detach().to("cpu", torch.float32)
        whole = boxes.to(torch.int16)
        # Selective search proposes whole pixels, which take half the room.
        content = whole if torch.equal(whole.float(), boxes) else boxes
        file = io.BytesIO()
        np.save(file, content.numpy(), allow_pickle=False)
        write_atomically(self._path(key), file.getvalue())
        return boxes

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"


class _Proposed(Dataset):
    """The same images; their targets carry proposals."""

    def __init__(self, dataset: Dataset, memory: Memory, keys: dict[int, str]) -> None:
        self.__dict__.update(vars(dataset))
        self._inner, self._memory, self._keys = dataset, memory, keys

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        image, target = self._inner[index]
        key = self._keys.get(range(len(self))[index])
        known = None if key is None else self._memory.read(key)
        return image, replace(target, proposals=self._memory(image) if known is None else known)

    def target(self, index: int) -> Target:
        key = self._keys.get(range(len(self))[index])
        known = None if key is None else self._memory.read(key)
        if known is None:
            return self[index][1]
        return replace(self._inner.target(index), proposals=known)


def with_proposals(
    dataset: Dataset,
    proposer: Proposer,
    *,
    folder: Path | None = None,
    workers: int | None = None,
    limit: int | None = None,
    quiet: bool = False,
) -> Dataset:
    """A view of a dataset whose targets carry `Target.proposals`, all of them computed before it is returned.

    What an interrupted call has computed is kept. Several processes that need the same proposals share the work.

    Args:
        dataset: The images.
        proposer: What proposes. One that tells its settings in its `repr`, and is fit for `pickle`.
        folder: Of the memory; by default in the cache folder.
        workers: Processes that propose; None for one a core, 1 for none beside this one.
        limit: Propose for the first images only; for the others at their first use.
        quiet: Draw no progress.

    Raises:
        ValueError: The proposer's `repr` does not tell one from another.
    """
    memory = Memory(proposer) if folder is None else Memory(proposer, folder)
    count = len(dataset) if limit is None else min(limit, len(dataset))
    workers = _cores() if workers is None else workers
    # Each process in an order of its own: processes that began together would otherwise all compute the same image.
    order = random.SystemRandom().sample(range(count), count)
    return _Proposed(dataset, memory, _remember(dataset, memory, order, min(workers, count), quiet))


def _remember(dataset: Dataset, memory: Memory, order: list[int], workers: int, quiet: bool) -> dict[int, str]:
    """Propose for the images that are new, and give the name of each."""
    keys: dict[int, str] = {}
    pool: ProcessPoolExecutor | None = None
    pending: dict[Future[None], int] = {}
    with _progress(len(order), quiet) as advance:
        try:
            for index in order:
                image = dataset[index][0]
                keys[index] = memory.key(image)
                if memory.read(keys[index]) is not None:
                    advance(False)
                elif workers < 2:
                    with _told(index):
                        memory.learn(keys[index], image)
                    advance(True)
                else:
                    if pool is None:
                        pool = open_pool(workers, _start, memory)
                    pending[pool.submit(_propose, keys[index], image.numpy())] = index
                    if len(pending) >= 3 * workers:
                        _collect(pending, advance, everything=False)
            _collect(pending, advance, everything=True)
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)
    return keys


def _collect(pending: dict[Future[None], int], advance: Any, *, everything: bool) -> None:
    while pending:
        done, _ = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            with _told(pending.pop(future)):
                future.result()
            advance(True)
        if not everything:
            return


@contextmanager
def _told(index: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(f"while proposing for image {index}")
        raise


_memory: Memory | None = None
"""Of a process of the pool."""


def _start(memory: Memory) -> None:
    global _memory
    _memory = memory


def _propose(key: str, pixels: np.ndarray[Any, Any]) -> None:
    assert _memory is not None
    # Another process may have been faster.
    if _memory.read(key) is None:
        _memory.learn(key, torch.from_numpy(pixels))


def _cores() -> int:
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Any]:
    """A function to call after each image: a bar on a terminal, lines elsewhere, and nothing if all is known."""
    console = Console(stderr=True)
    columns = (TextColumn("proposing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, disable=quiet or not console.is_terminal)
    task = bar.add_task("", total=total)
    done, fresh, last = 0, 0, time.monotonic()

    def advance(new: bool) -> None:
        nonlocal done, fresh, last
        done, fresh = done + 1, fresh + new
        if fresh and not bar.live.is_started:
            bar.start()
        bar.update(task, completed=done)
        if fresh and not quiet and not console.is_terminal and (time.monotonic() - last > 15 or done == total):
            last = time.monotonic()
            print(f"proposals of {done}/{total} images", file=sys.stderr, flush=True)

    try:
        yield advance
    finally:
        bar.stop()


@contextmanager
def remembering(
    model: Detector, dataset: Dataset, *, limit: int | None = None, quiet: bool = False
) -> Iterator[Dataset]:
    """Let a detector take its proposals from the memory for a while; the dataset's are computed first.

    Gives the dataset, its targets with proposals. For a detector without an outside proposer nothing changes. Never
    time a detector under it.
    """
    proposer = proposer_of(model)
    if proposer is None:
        yield dataset
        return
    view = with_proposals(dataset, proposer, limit=limit, quiet=quiet)
    model.proposer = Memory(proposer)  # type: ignore[assignment]
    try:
        yield view
    finally:
        model.proposer = proposer  # type: ignore[assignment]
