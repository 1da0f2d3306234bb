"""Looks for a file that makes a reader break its promise: one clear error of its own, soon and in little memory.

Inputs are damaged seeds. One that runs lines of the reader in an order not seen before is kept, to be damaged further.
All of it happens in a process of its own with an address space of its own limit, so that a crash is a finding, too.
"""

from __future__ import annotations

import base64
import faulthandler
import json
import multiprocessing
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

from tests.fuzz.mutate import mutate

__all__ = ["Outcome", "Reader", "hunt", "problem_of"]

SECONDS = 5.0
"""Of processor time until an input counts as a hang; the slowest honest ones take some hundredths."""

PATIENCE = 180.0
"""Seconds of the clock without a further input: it waits, or runs in a loop in which no alarm rings."""

SPACE = 1 << 30
"""Bytes of address space that reading may claim beyond what the process has."""


def allowance(size: int) -> int:
    """Bytes of memory that reading a file of `size` bytes may touch: what an interpreter's objects of it take."""
    return (64 << 20) + 64 * size


def _as_it_is(data: bytes) -> bytes:
    return data


@dataclass(frozen=True)
class Reader:
    """What is to be broken.

    Attributes:
        name: Of the format.
        file: Name of the file that holds an input.
        seeds: Files that are right.
        read: Reads one, and asserts that what comes is sane.
        error: The only error that it may raise.
        modules: Files of ours whose lines are watched, below the repository.
        text: Whether the format is text.
        unpack: From a file to the part that is damaged, which may lie compressed or with a checksum.
        pack: Back.
    """

    name: str
    file: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]
    error: type[Exception]
    modules: tuple[str, ...]
    text: bool = False
    unpack: Callable[[bytes], bytes] = _as_it_is
    pack: Callable[[bytes], bytes] = _as_it_is


@dataclass
class Outcome:
    """What came of it; a problem is a sentence and the input, in base64."""

    inputs: int = 0
    accepted: int = 0
    kept: int = 0
    problems: dict[str, str] = field(default_factory=dict)


class _TooLong(BaseException):
    pass


def _ring(*_: object) -> None:
    raise _TooLong


class Watch:
    """Which line followed which, in the files that are watched."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self.modules = modules
        self.wanted: dict[CodeType, bool] = {}
        self.seen: set[tuple[CodeType, int, int]] = set()
        self.new = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if code not in self.wanted:
            self.wanted[code] = code.co_filename.endswith(self.modules)
        if not self.wanted[code]:
            return None
        last = 0

        def line(inner: FrameType, event: str, _: Any) -> Any:
            nonlocal last
            step = (code, last, inner.f_lineno)
            last = inner.f_lineno
            if step not in self.seen:
                self.seen.add(step)
                self.new = True
            return line

        return line


@contextmanager
def _limited() -> Iterator[None]:
    signal.signal(signal.SIGPROF, _ring)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/zoo/" in frame.filename or "/benchmarks/" in frame.filename]
    return f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "?"


def problem_of(reader: Reader, path: Path, watch: Watch | None = None) -> tuple[str | None, bool]:
    """Why reading a file breaks the promise, in words (None where it does not), and whether it was accepted."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, accepted = None, False
    try:
        with _limited():
            sys.settrace(watch)
            reader.read(path)
            accepted = True
    except reader.error as error:
        sys.settrace(None)
        words = str(error)
        if path.name not in words:
            found = f"{_place(error)}: does not name the file: {words[:200]}"
        elif "\n" in words or len(words) > 1500:
            found = f"{_place(error)}: is no sentence: {len(words)} characters"
    except _TooLong as error:
        found = f"{_place(error)}: takes over {SECONDS:g} seconds"
    except BaseException as error:
        sys.settrace(None)
        found = f"{_place(error)}: {type(error).__name__}: {str(error)[:120]}"
    finally:
        sys.settrace(None)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > allowance(path.stat().st_size):
        found = f"memory grows by {grown >> 20} MB for a file of {path.stat().st_size:,} bytes"
    return found, accepted


def _smaller(reader: Reader, path: Path, data: bytes, what: str) -> bytes:
    """`data` without the pieces that the problem does not need, as far as a few hundred tries show."""
    size, tries = len(data) // 2, 0
    while size and tries < 300 and not what.startswith("memory") and "seconds" not in what:
        start = 0
        while start < len(data):
            path.write_bytes(data[:start] + data[start + size :])
            tries += 1
            if problem_of(reader, path)[0] != what:
                start += size
            else:
                data = data[:start] + data[start + size :]
        size //= 2
    return data


def _work(reader: Reader, count: int, seed: int, folder: Path) -> None:
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPACE, resource.RLIM_INFINITY))
    faulthandler.enable((folder / "stderr.txt").open("w"))
    chance = random.Random(f"{reader.name} {seed}")
    watch, outcome = Watch(reader.modules), Outcome()
    path = folder / reader.file
    seeds = reader.seeds(folder)
    for data in [*seeds, *(reader.pack(reader.unpack(data)) for data in seeds)]:
        # Twice, for what is compiled or imported at the first time has no limit.
        path.write_bytes(data)
        reader.read(path)
        problem, accepted = problem_of(reader, path, watch)
        assert accepted, f"{reader.name}: a seed is refused: {problem}"
    corpus = [reader.unpack(data) for data in seeds]
    for _ in range(count):
        raw = mutate(chance.choice(corpus), chance, corpus, reader.text)
        data = reader.pack(raw)
        path.write_bytes(data)
        watch.new = False
        problem, accepted = problem_of(reader, path, watch)
        outcome.inputs += 1
        outcome.accepted += accepted
        if watch.new and len(raw) < 50_000:
            corpus.append(raw)
            outcome.kept += 1
        if problem and problem not in outcome.problems and len(outcome.problems) < 20:
            outcome.problems[problem] = base64.b64encode(_smaller(reader, path, data, problem)).decode()
    (folder / "outcome.json").write_text(json.dumps(asdict(outcome)))


def hunt(reader: Reader, count: int, seed: int, folder: Path) -> Outcome:
    """Try `count` inputs; the same seed tries the same ones."""
    (folder / reader.file).parent.mkdir(parents=True, exist_ok=True)
    (folder / reader.file).touch()
    process = multiprocessing.get_context("fork").Process(target=_work, args=(reader, count, seed, folder))
    process.start()
    while process.is_alive():
        process.join(PATIENCE / 20)
        if process.is_alive() and time.time() - (folder / reader.file).stat().st_mtime > PATIENCE:
            process.kill()
    try:
        return Outcome(**json.loads((folder / "outcome.json").read_text()))
    except OSError:
        last = (folder / reader.file).read_bytes()
        said = (folder / "stderr.txt").read_text()[-2000:]
        return Outcome(problems={f"the process ends with {process.exitcode}: {said}": base64.b64encode(last).decode()})
