"""Commands that make detectors: train, ship, and look after checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.common import (
    ClassCount,
    DataRoot,
    DatasetName,
    DetectorName,
    Device,
    JsonTarget,
    RecordsFolder,
    Settings,
    SkipCorrupt,
    Split,
    Threads,
    TrainedOn,
    WeightsFile,
    emit,
    sentences,
    settings_of,
    subject_of,
)

__all__ = ["app", "cost", "list_detectors", "record_costs", "record_intervals", "ship", "subsample", "train", "weights"]

app = typer.Typer()


@app.command("list")
def list_detectors(
    output: JsonTarget = None,
) -> None:
    """Every detector of the catalog, by year."""
    with sentences():
        from rich.console import Console
        from rich.table import Table

        from zoo import CATALOG, checkpoints

        weights = {name: [path.name for path in checkpoints.shipped(name)] for name in CATALOG}
        if output is not None:
            rows = [
                {
                    **spec.origin,
                    "name": spec.name,
                    "input": list(spec.input_size),
                    "parameters": {str(classes): count for classes, count in spec.golden.parameters.items()},
                    "small": spec.small is not None,
                    "shipped": weights[spec.name],
                }
                for spec in CATALOG.values()
            ]
            emit(rows, output)
            return
        table = Table("detector", "year", "family", "input", "ships weights for", "paper")
        for spec in CATALOG.values():
            trained = ", ".join(name.split(".")[1] for name in weights[spec.name])
            size = "x".join(map(str, spec.input_size))
            table.add_row(spec.name, str(spec.year), spec.family, size, trained, spec.paper)
        Console().print(table)


@app.command()
def train(
    detector: DetectorName,
    dataset: DatasetName = "shapes",
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/DETECTOR.DATASET.")] = None,
    size: Annotated[str, typer.Option(help="small (minutes on a CPU) or paper.")] = "small",
    split: Split = None,
    data_root: DataRoot = None,
    settings: Settings = None,
    images: Annotated[int | None, typer.Option(help="Learn from so many images only, the first ones.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, if not the recipe's.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step over all processes.")] = None,
    lr: Annotated[float | None, typer.Option(help="Base learning rate.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
    device: Device = "cpu",
    threads: Threads = None,
    accumulate: Annotated[int, typer.Option(help="Parts of a process's share of a batch, for want of memory.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes that load images.")] = 0,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between states to resume from.")] = 250,
    checkpoint_minutes: Annotated[float, typer.Option(help="Most minutes between them.")] = 10.0,
    skip_corrupt: SkipCorrupt = False,
    amp: Annotated[bool | None, typer.Option(help="bfloat16 forward passes. Left out: on CUDA only.")] = None,
) -> None:
    """Train a detector. The same command continues an interrupted run."""
    with sentences():
        from benchmarks.train import train as run

        if size not in ("small", "paper"):
            raise ValueError(f"--size {size}: choose small or paper")
        changes = {"steps": steps, "batch": batch, "lr": lr}
        path = run(
            detector,
            dataset,
            out=out or Path("runs") / f"{detector}.{dataset}",
            small=size == "small",
            overrides=settings_of(settings),
            recipe_changes={name: value for name, value in changes.items() if value is not None},
            split=split,
            images=images,
            data_root=data_root,
            seed=seed,
            device=device,
            threads=threads,
            workers=workers,
            accumulate=accumulate,
            checkpoint_every=checkpoint_every,
            checkpoint_minutes=checkpoint_minutes,
            skip_corrupt=skip_corrupt,
            amp=amp,
        )
        print(path)


@app.command()
def ship(
    run_folder: Annotated[Path, typer.Argument(help="Folder of a finished training.")],
    records: Annotated[bool, typer.Option(help="Copy its Records alone, as of further seeds.")] = False,
    data_root: DataRoot = None,
    results: Annotated[Path | None, typer.Option(help="Where Records go; default the committed ones.")] = None,
) -> None:
    """Copy a trained checkpoint into the zoo, with its Records and the metrics that CI will expect of it."""
    with sentences():
        from benchmarks.shipping import ship as run

        for path in run(run_folder, records_only=records, data_root=data_root, results=results):
            print(path)


@app.command()
def subsample(
    detector: DetectorName,
    out: Annotated[Path, typer.Option(help="Checkpoint to write, a .safetensors file.")],
    keep: Annotated[str, typer.Option(help="voc for its 20 classes, or names with commas.")] = "voc",
    dataset: TrainedOn = "coco",
    data_root: DataRoot = None,
    weights: WeightsFile = None,
    settings: Settings = None,
    classes: ClassCount = 80,
) -> None:
    """Cut a detector down to some of its classes, such as from COCO to VOC: the others' channels are left out."""
    with sentences():
        from benchmarks.datasets import open_dataset
        from benchmarks.datasets.voc import CLASS_NAMES
        from zoo import build, checkpoints
        from zoo.subsample import subsample as run

        if out.suffix != ".safetensors":
            raise ValueError(f"--out {out}: choose a name that ends in .safetensors")
        wanted = tuple(CLASS_NAMES) if keep == "voc" else tuple(keep.split(","))
        subject = subject_of(detector, dataset, weights, classes, settings)
        names = subject.class_names or open_dataset(dataset, None, data_root).class_names
        model = run(subject.model, build(subject.name, len(wanted), **subject.overrides), names, wanted)
        checkpoints.save(
            out,
            model,
            detector=subject.name,
            num_classes=len(wanted),
            overrides=subject.overrides,
            class_names=wanted,
            small=subject.scale == "small",
            extra={"subsampled_from": subject.weights.name},
        )
        print(out)


@app.command()
def weights(
    fetch: Annotated[str | None, typer.Argument(help="Name of a known checkpoint to fetch and check.")] = None,
) -> None:
    """Known checkpoints of the detectors' authors; with a name, fetch it and print its file.

    Files below the folder that DETECTOR_ZOO_WEIGHTS names are taken from there instead.
    """
    with sentences():
        from zoo import checkpoints

        if fetch is not None:
            print(checkpoints.fetch(fetch))
            return
        checkpoints.print_known()


@app.command()
def cost(
    detector: DetectorName,
    classes: Annotated[int, typer.Option(help="Foreground classes.")] = 80,
    size: Annotated[str | None, typer.Option(help="Network input, HxW; default the paper's.")] = None,
    small: Annotated[bool, typer.Option(help="The small size.")] = False,
    settings: Settings = None,
    output: JsonTarget = None,
) -> None:
    """Parameters, multiply-accumulates and boxes, without allocating the network."""
    with sentences():
        from benchmarks.cost import cost as run
        from benchmarks.cost import parse_size

        found = run(detector, classes, parse_size(size) if size else None, small=small, overrides=settings_of(settings))
        if output is not None:
            emit(found, output)
            return
        for name, value in found.items():
            print(f"{name:>12}  {value:,}" if isinstance(value, int) else f"{name:>12}  {value}")


@app.command("record-costs")
def record_costs(
    out: RecordsFolder = None,
) -> None:
    """Write the cost Records of the whole catalog, which the reports print."""
    with sentences():
        from benchmarks.recording import record_costs as run

        print(f"{len(run(out))} Records")


@app.command("record-intervals")
def record_intervals(
    dataset: DatasetName = "shapes",
    detector: Annotated[str, typer.Option(help="A name of the catalog, or a pattern.")] = "*",
    data_root: DataRoot = None,
) -> None:
    """Add 95 % intervals and curves to Records of shipped checkpoints that lack them, if no metric has moved."""
    with sentences():
        from benchmarks.reevaluation import record_intervals as run

        print(f"{len(run(dataset, detector, data_root=data_root))} Records")
