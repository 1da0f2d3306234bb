"""Workers, busy and idle, end with the process that began them, even where it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]

POOL = """
import time
from benchmarks.workers import open_pool

def say(text):
    print(text, flush=True)

if __name__ == "__main__":
    pool = open_pool(2, say, "begun")
    pool.submit(time.sleep, 600)
    pool.submit(time.sleep, 0).result()
    time.sleep(600)
"""

ALONE = """
import time
from benchmarks.isolated import in_fresh_process

def begin():
    print("begun", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    in_fresh_process(begin)
"""


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(("program", "workers"), [(POOL, 2), (ALONE, 1)], ids=["pool", "alone"])
@pytest.mark.parametrize("end", [psutil.Process.kill, psutil.Process.terminate], ids=["SIGKILL", "SIGTERM"])
def test_none_outlives_the_process_that_began_it(
    program: str, workers: int, end: Callable[[psutil.Process], None], tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "program.py")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as begun:
        assert begun.stdout is not None
        for _ in range(workers):
            assert begun.stdout.readline() == "begun\n"
        parent = psutil.Process(begun.pid)
        children = parent.children(recursive=True)
        assert len(children) >= workers
        end(parent)
    try:
        psutil.wait_procs([child for child in children if alive(child)], timeout=20)
        assert not [child for child in children if alive(child)]
    finally:
        for child in filter(alive, children):
            child.kill()


def test_all_pools_are_of_such_workers() -> None:
    opened = [path.name for path in (ROOT / "benchmarks").rglob("*.py") if "ProcessPoolExecutor(" in path.read_text()]
    assert opened == ["workers.py"]
