"""Several processes at once: Records, manifests and pages stay whole, and a dead one's lock is free."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.manifest import MANIFEST, changed, seal
from benchmarks.provenance import sha256
from benchmarks.results import Record
from benchmarks.stopping import BusyError, alone_in, is_busy
from tests.reports.samples import record

# Nothing here needs torch, and a fork of this process starts at once.
CONTEXT: Any = multiprocessing.get_context("fork")


def start(work: Callable[..., None], *arguments: object) -> Any:
    process = CONTEXT.Process(target=work, args=arguments)
    process.start()
    return process


def write_records(results: Path, who: int, turns: int) -> None:
    """Some under names of its own, one under a name that all share, again and again."""
    for turn in range(turns):
        record("accuracy", seed=100 * who + turn + 1).write(results / "machine")
        record("latency", note=f"{who} {turn} " + "x" * 20_000).write(results / "machine")


def read_records(results: Path, ready: Any) -> None:
    """As long as it lives: no Record may ever be half there."""
    while True:
        for path in (results / "machine").glob("*.json"):
            assert Record.read(path).name == path.stem
        ready.set()


def test_writers_and_a_reader(tmp_path: Path) -> None:
    results = tmp_path / "results"
    (results / "machine").mkdir(parents=True)
    seal(results, "*/*.json")
    ready = CONTEXT.Event()
    reader = start(read_records, results, ready)
    writers = [start(write_records, results, who, 6) for who in range(4)]
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    ready.clear()
    assert ready.wait(60)
    assert reader.is_alive(), "the reader saw a Record that was not whole"
    reader.kill()
    reader.join()
    paths = sorted((results / "machine").iterdir())
    assert len(paths) == 4 * 6 + 1, "one is lost, doubled, or a temporary file is left"
    assert not changed(results, "*/*.json"), "the manifest lost what another process entered at the same time"
    assert len((results / MANIFEST).read_text().splitlines()) == len(paths)


def render(records: Path, pages: Path, turns: int) -> None:
    from reports import __main__ as reporting

    reporting.COMMITTED = records / "none"
    for _ in range(turns):
        assert reporting.main(["--results", str(records / "machine"), "--export", "csv", "--out", str(pages)]) == 0


def test_rendering_while_records_are_written(tmp_path: Path) -> None:
    """Two processes write the same pages from Records that a third replaces; in the end the pages are those of one."""
    results = tmp_path / "results"
    (results / "none").mkdir(parents=True)
    record("accuracy", seed=101).write(results / "machine")
    record("latency").write(results / "machine")
    writer = start(write_records, results, 1, 20)
    renderers = [start(render, results, tmp_path / "pages", 1) for _ in range(2)]
    for process in (writer, *renderers):
        process.join()
        assert process.exitcode == 0
    found = []
    for folder in (tmp_path / "pages", tmp_path / "alone"):
        alone = start(render, results, folder, 1)
        alone.join()
        assert alone.exitcode == 0
        found.append({path.name: sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()})
    assert found[0] == found[1]


def hold(folder: Path, ready: Any) -> None:
    with alone_in(folder):
        ready.set()
        time.sleep(600)


def test_a_folder_is_for_one_and_free_when_that_one_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.stopping._PATIENCE", 0.1)
    ready = CONTEXT.Event()
    holder = start(hold, tmp_path / "run", ready)
    assert ready.wait(60)
    assert is_busy(tmp_path / "run")
    with pytest.raises(BusyError, match=r"run: another process is at work here; wait for it, or give another --out"):
        alone_in(tmp_path / "run").__enter__()
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert (tmp_path / "run" / ".lock").exists(), "the dead one's lock should still lie there"
    assert not is_busy(tmp_path / "run")
    with alone_in(tmp_path / "run"):
        pass


def hold_manifest(folder: Path, ready: Any) -> None:
    from filelock import FileLock

    with FileLock(folder / f".{MANIFEST}.lock"):
        ready.set()
        time.sleep(600)


def test_a_record_is_written_behind_a_writer_that_died_with_the_manifest_locked(tmp_path: Path) -> None:
    (tmp_path / "machine").mkdir()
    seal(tmp_path, "*/*.json")
    ready = CONTEXT.Event()
    holder = start(hold_manifest, tmp_path, ready)
    assert ready.wait(60)
    waiter = start(write_records, tmp_path, 1, 1)
    waiter.join(0.5)
    assert waiter.is_alive(), "it should wait while the other lives"
    os.kill(holder.pid, signal.SIGKILL)
    waiter.join(60)
    assert waiter.exitcode == 0
    assert not changed(tmp_path, "*/*.json")


def test_a_folder_that_nobody_was_in_is_not_busy(tmp_path: Path) -> None:
    assert not is_busy(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())
