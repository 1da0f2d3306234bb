"""From a measurement of time or cost to its Record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import hardware
from benchmarks.again import moves
from benchmarks.answers import answer_hashes
from benchmarks.cost import cost
from benchmarks.datasets import Dataset
from benchmarks.evaluate import Subject, category_of_label, coco_rows
from benchmarks.hardware import Stopping, WarmUp
from benchmarks.jsons import as_json
from benchmarks.latency import measure_latency
from benchmarks.modes import Mode, running
from benchmarks.papers import read_tables
from benchmarks.provenance import commit, dataset_id, versions
from benchmarks.results import COMMITTED, Record, read_records
from benchmarks.train import describe_recipe
from zoo import CATALOG
from zoo.checkpoints import as_arguments
from zoo.detector import Spec

__all__ = ["cost_record", "latency_record", "print_latency", "record_costs"]


def latency_record(
    subject: Subject,
    dataset: Dataset,
    *,
    device: str,
    threads: int,
    images: int,
    batch: int = 1,
    seconds: float | None = None,
    warmup: WarmUp | None = None,
    stopping: Stopping | None = None,
    mode: Mode | None = None,
    progress: Callable[[str], None] | None = None,
) -> Record:
    """Time a detector on the first images of a split in a mode, and keep the hash of what it detected meanwhile.

    The machine is watched. Where there is a stopping rule, windows in which something disturbed are sampled again.
    The rest is as for `measure_latency`.

    Raises:
        EvaluationError: The dataset has none of the detector's classes.
        ModeError: Device or detector cannot run in the mode.
    """
    mode = mode or Mode()
    facts: hardware.RunFacts = {**mode.facts(), "batch": batch}
    categories = category_of_label(dataset, subject.model.num_classes, subject.class_names)
    with (
        running(subject.model, mode, device) as model,
        hardware.watch(device, threads=threads, **facts) as seen,
    ):
        result = measure_latency(
            model,
            dataset,
            device=device,
            threads=threads,
            images=images,
            batch=batch,
            seconds=seconds,
            warmup=warmup,
            stopping=stopping,
            disturbed=None if stopping is None else seen.disturbed,
            discard=seen.discard,
            progress=progress,
        )
    ids = dataset.image_ids[: len(result.answers)]
    rows = [
        row for image, answer in zip(ids, result.answers, strict=True) for row in coco_rows(answer, image, categories)
    ]
    return Record(
        kind="latency",
        **subject.as_recorded(),
        dataset=dataset_id(dataset),
        protocol={**result.protocol, **({"mode": mode.describe()} if mode.name else {})},
        hardware=hardware.stamp_watched(seen),
        commit=commit(),
        versions=versions(),
        metrics={**result.summary(), **subject.origin},
        samples=result.samples,
        answers=answer_hashes(rows, ids),
    )


def cost_record(
    spec: Spec,
    num_classes: int,
    *,
    scale: Literal["small", "paper", "other"] = "paper",
    overrides: Mapping[str, Any] | None = None,
) -> Record:
    """Count a detector; `overrides` are all arguments that differ from the paper's size.

    The Record of the paper's size, which pages describe a detector by, also holds the stages of the network and how
    paper and project train it.
    """
    settings = dict(overrides or {})
    papers = scale == "paper" and not settings
    found = cost(spec.name, num_classes, overrides=settings, by_stage=papers)
    if papers:
        named = {"paper": spec.recipe, "small": spec.small_recipe}
        recipes = {size: describe_recipe(recipe) for size, recipe in named.items() if recipe is not None}
        found["recipes"] = as_json(recipes)
    return Record(
        kind="cost",
        detector=spec.name,
        scale=scale,
        overrides=as_json(settings),
        num_classes=num_classes,
        commit=commit(),
        versions=versions(),
        metrics={**found, **spec.origin},
    )


def record_costs(folder: Path | None = None) -> list[Path]:
    """Cost Records of the whole catalog at the paper's size, of networks that a row of a paper's table has at another,
    and of every network that was trained here.

    A Record that differs in nothing but the commit and the versions stays as it is.
    """
    folder = folder or COMMITTED / "any"
    jobs = [partial(cost_record, spec, next(iter(spec.golden.parameters), 20)) for spec in CATALOG.values()]
    for table in read_tables():
        for row in table.rows:
            if row.network and row.overrides:
                spec = CATALOG[row.network]
                jobs.append(partial(cost_record, spec, table.classes, scale="other", overrides=row.overrides))
    for trained in read_records(COMMITTED):
        if trained.kind == "training" and not trained.variant:
            # As it was trained: the small size of the catalog may have moved on since.
            settings, spec = as_arguments(trained.overrides), CATALOG[trained.detector]
            jobs.append(partial(cost_record, spec, trained.num_classes, scale=trained.scale, overrides=settings))
    written = []
    for job in track(jobs, description="counting", console=Console(stderr=True)):
        record = job()
        if not _is_known(record, folder):
            written.append(record.write(folder))
    return written


def _is_known(record: Record, folder: Path) -> bool:
    path = folder / f"{record.name}.json"
    if not path.exists():
        return False
    there = Record.read(path)
    return there == record.model_copy(update={"commit": there.commit, "versions": there.versions})


def print_latency(record: Record) -> None:
    """Middle, spread and tail of each stage, in milliseconds, with bounds; and why one may doubt them."""
    device = "" if record.hardware is None else record.hardware.device
    heads = ("stage", "median ms", "95 % interval", "IQR ms", "p95 ms", "95 % interval", "outliers")
    table = Table(*heads, title=f"{record.detector} on {device}")
    for stage, seconds in record.samples.items():
        found = record.metrics[stage]
        middle, spread, tail = (_milliseconds(found[key]) for key in ("median", "iqr", "p95"))
        odd = f"{sum(found['outliers'].values())} of {len(seconds)}"
        table.add_row(stage, middle, _bounds(found, "median"), spread, tail, _bounds(found, "p95"), odd)
    console = Console()
    console.print(table)
    sampling = record.metrics["sampling"]
    for fault in sampling["faults"]:
        console.print(f"not converged: {fault}")
    for reasons in sampling["discarded"]:
        console.print(f"repeated a window: {reasons}")
    if found := moves(record):
        console.print(f"times the median of earlier runs, oldest first: {', '.join(f'{ratio:.3f}' for ratio in found)}")


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.2f}"


def _bounds(found: Mapping[str, Any], quantile: str) -> str:
    low, high = (_milliseconds(side) for side in found["between"][quantile])
    return f"{low} to {high}" if high != "-" else f"over {low}, no upper bound with {found['samples']} samples"
