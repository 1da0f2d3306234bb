"""The command that measures many cells, on one machine or many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.commands.common import DataRoot, Threads, sentences, settings_of

__all__ = ["app", "sweep"]

app = typer.Typer()


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [part for part in text.split(",") if part]


@app.command()
def sweep(
    grid: Annotated[Path | None, typer.Argument(help="TOML file with entries named as these options.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the sweep; a cell has a folder in it.")] = Path("runs/sweep"),
    detectors: Annotated[str | None, typer.Option(help="Names or globs, with commas.")] = None,
    datasets: Annotated[str | None, typer.Option(help="shapes, discs, bars, bccd, voc, coco, with commas.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Numbers, with commas.")] = None,
    profiles: Annotated[str | None, typer.Option(help="Hardware profiles that machines must be of.")] = None,
    size: Annotated[str | None, typer.Option(help="small or paper.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")] = None,
    threads: Threads = None,
    data_root: DataRoot = None,
    test_split: Annotated[str | None, typer.Option(help="Tested on, if not the benchmark's.")] = None,
    train: Annotated[
        list[str] | None, typer.Option("--train", help="Of every training, such as steps=2500; may be repeated.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="For submitit, such as slurm_partition=gpu or timeout_min=600; may be repeated."),
    ] = None,
    executor: Annotated[str, typer.Option(help="local, slurm, or debug (all in this process).")] = "local",
    at_most: Annotated[int, typer.Option(help="Jobs at once.")] = 1,
    retry: Annotated[bool, typer.Option("--retry", help="Try failed cells again, too.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Only print the table.")] = False,
) -> None:
    """Train and test every cell of a grid; called again, go on where it was. Exit status 1 where a cell has failed."""
    with sentences():
        from rich.console import Console

        from benchmarks.sweep import look, read_grid, table_of
        from benchmarks.sweep import sweep as run

        if executor not in ("local", "slurm", "debug"):
            raise ValueError(f"--executor {executor}: choose local, slurm or debug")
        given: dict[str, Any] = {
            "detectors": _listed(detectors),
            "datasets": _listed(datasets),
            "seeds": _listed(seeds),
            "profiles": _listed(profiles),
            "size": size,
            "device": device,
            "threads": threads,
            "data_root": data_root,
            "test_split": test_split,
            "train": settings_of(train, "--train") or None,
            "options": settings_of(option, "--option") or None,
        }
        plan = read_grid(grid, **given)
        cells = plan.cells(out)
        if show:
            found = look(cells)
        else:
            found = run(cells, executor=executor, at_most=at_most, retry=retry, options=plan.options)  # type: ignore[arg-type]
        Console().print(table_of(cells, found))
    raise typer.Exit(int(any(status.state == "failed" for status in found)))
