"""Cells to jobs: as many at once as may be, until none is left."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.results import write_atomically
from benchmarks.sweep.cell import Cell, Status, SweepError, status_of

__all__ = ["Executor", "look", "sweep", "table_of"]

Executor = Literal["local", "slurm", "debug"]

_JOB = "job.json"
"""In a cell's folder: the job that a scheduler has for it."""

_ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "OUT_OF_MEMORY",
    "NODE_FAIL",
    "DEADLINE",
    "BOOT_FAIL",
)

_MINUTES = {"local": 7 * 24 * 60, "slurm": 24 * 60, "debug": 7 * 24 * 60}
"""Time limit of a job. A job that reaches it is begun anew, and goes on from its state."""


def sweep(
    cells: Sequence[Cell],
    *,
    executor: Executor = "local",
    at_most: int = 1,
    retry: bool = False,
    options: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> list[Status]:
    """Run all cells that are neither done nor at work, and say where each stands in the end.

    On SLURM the jobs are one array, and the call ends when it is in the queue; called again it shows how far they are.
    `local` runs processes on this machine, `debug` all in this process, and both end when no cell is left. Logs go to
    the folder `jobs` of the sweep's.

    Args:
        cells: Of the grid.
        executor: See above.
        at_most: Jobs at once.
        retry: Try failed cells again, too.
        options: For `submitit.AutoExecutor.update_parameters`.
        quiet: Draw no table while waiting.

    Raises:
        SweepError: A folder is of another sweep, submitit is not installed, or it does not take an option.
    """
    if at_most < 1:
        raise SweepError(f"--at-most {at_most}: at least one job must run")
    wanted = ("waiting", "failed") if retry else ("waiting",)
    waiting = [cell for cell in cells if status_of(cell, queued := _queued(cell)).state in wanted and queued is None]
    if not waiting:
        return look(cells)
    jobs = _executor(executor, waiting[0].out, at_most, dict(options or {}))
    if executor == "slurm":
        _submit_array(jobs, waiting)
        return look(cells)
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        _work_off(jobs, waiting, at_most, lambda: None if quiet else live.update(table_of(cells), refresh=True))
    return look(cells)


def look(cells: Sequence[Cell]) -> list[Status]:
    """Where each cell stands, by its folder and by the scheduler that has a job for it."""
    return [status_of(cell, _queued(cell)) for cell in cells]


def table_of(cells: Sequence[Cell], statuses: Sequence[Status] | None = None) -> Table:
    """A row a cell, and how many are done, running, failed and waiting."""
    statuses = statuses or look(cells)
    states = [status.state for status in statuses]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("done", "running", "failed", "waiting"))
    table = Table("cell", "state", "%", "why, or how far", title=f"{len(cells)} cells: {counts}")
    colours = {"done": "green", "running": "yellow", "failed": "red", "waiting": "dim"}
    for cell, status in zip(cells, statuses, strict=True):
        figure = "" if status.headline is None else f"{status.headline:.1f}"
        table.add_row(cell.name, f"[{colours[status.state]}]{status.state}[/]", figure, status.reason)
    return table


def _work_off(jobs: Any, waiting: list[Cell], at_most: int, show: Any) -> None:
    """Submit a cell whenever there is room, until all have ended, however they ended."""
    running: dict[str, Any] = {}
    shown = 0.0
    try:
        while waiting or running:
            while waiting and len(running) < at_most:
                cell = waiting.pop(0)
                running[cell.name] = jobs.submit(cell)
            for name, job in list(running.items()):
                if _has_ended(job):
                    del running[name]
            if time.monotonic() - shown > 2:
                show()
                shown = time.monotonic()
            if running:
                time.sleep(0.2)
    except BaseException:
        for job in running.values():
            job.cancel(check=False)
        raise


def _has_ended(job: Any) -> bool:
    if type(job).__name__ == "DebugJob":
        # This is what runs it. What a cell raises it has noted itself.
        job.exception()
        return True
    return bool(job.done())


def _submit_array(jobs: Any, waiting: Sequence[Cell]) -> None:
    with jobs.batch():
        submitted = [jobs.submit(cell) for cell in waiting]
    for cell, job in zip(waiting, submitted, strict=True):
        write_atomically(cell.folder / _JOB, json.dumps({"job": job.job_id}) + "\n")


def _queued(cell: Cell) -> str | None:
    """What SLURM says of a cell's job that has not ended; None where there is none."""
    path = cell.folder / _JOB
    if not path.exists():
        return None
    job_id = str(json.loads(path.read_bytes())["job"])
    state = (str(_submitit().SlurmJob(folder=cell.out / "jobs", job_id=job_id).state).split() or ["UNKNOWN"])[0]
    # A job is not listed before some moments, nor after some weeks.
    new = time.time() - path.stat().st_mtime < 600
    return None if state in _ENDED or (state == "UNKNOWN" and not new) else state


def _executor(kind: Executor, out: Path, at_most: int, options: dict[str, Any]) -> Any:
    module = _submitit()
    try:
        # A job may be begun anew as often as its machine is taken away.
        jobs = module.AutoExecutor(folder=out / "jobs", cluster=kind, slurm_max_num_timeout=1_000)
        given = {"timeout_min": _MINUTES[kind], "name": "sweep", "slurm_array_parallelism": at_most, **options}
        jobs.update_parameters(**given)
    except (NameError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise SweepError(f"--executor {kind}: {' '.join(str(error).split())}") from error
    return jobs


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise SweepError("a sweep needs submitit; install it: pip install 'detector-zoo[sweep]'") from error
    return submitit
