"""Commands that say how fast detectors are: alone, in all respects, beside each other, beside torchvision's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.common import (
    DataRoot,
    DatasetName,
    Device,
    Evaluated,
    ModeName,
    Note,
    Out,
    Rounds,
    Settings,
    Split,
    ThreadCount,
    TimedImages,
    WeightsFile,
    WeightsSeed,
    sentences,
    settings_of,
    subject_of,
)

__all__ = ["against_torchvision", "app", "compare_latency", "latency", "profile"]

app = typer.Typer()


@app.command()
def latency(
    detectors: Annotated[
        list[str],
        typer.Argument(help="Names of the catalog, or that `weights` shows; each has a process of its own."),
    ],
    out: Out,
    dataset: DatasetName = "shapes",
    split: Split = None,
    data_root: DataRoot = None,
    weights: WeightsFile = None,
    settings: Settings = None,
    hardware: Annotated[
        str | None, typer.Option(help="Profile whose device, threads, batch, precision and rules are taken.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N, in place of the profile's.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of torch, in place of the profile's (or 2).")] = None,
    noise: Annotated[
        float | None, typer.Option(help="Half-width of the median's interval that is aimed at, in percent.")
    ] = None,
    images: Annotated[int, typer.Option(help="Images that are timed again and again after warm-up.")] = 100,
    mode: ModeName = "",
) -> None:
    """Time each stage on real images until the median is known, and write Records with the raw samples."""
    with sentences():
        from benchmarks import timing
        from benchmarks.modes import parse_mode

        if len(detectors) > 1 and (weights is not None or settings):
            raise ValueError("--weights and --set belong to one detector; name it alone")
        under = timing.conditions(hardware, device, threads, None if noise is None else noise / 100)
        parse_mode(mode).check(under.device)
        jobs = [
            timing.Job(name, under, dataset, split, data_root, weights, settings_of(settings), images, mode)
            for name in detectors
        ]
        failed = timing.write_all(jobs, out)
    if failed:
        raise typer.Exit(1)


@app.command()
def profile(
    detector: Evaluated,
    out: Out,
    dataset: DatasetName = "shapes",
    split: Split = None,
    data_root: DataRoot = None,
    weights: WeightsFile = None,
    settings: Settings = None,
    device: Device = "cpu",
    threads: ThreadCount = 2,
    images: Annotated[int, typer.Option(help="Images to measure on.")] = 4,
    batches: Annotated[str, typer.Option(help="Images a call for the throughput, with commas.")] = "1,2,4,8",
    rounds: Rounds = 5,
    mode: ModeName = "",
) -> None:
    """Measure what one latency does not say: growth, throughput, energy, floor, cold start, memory. Writes a Record."""
    with sentences():
        from benchmarks.datasets import open_dataset
        from benchmarks.modes import parse_mode
        from benchmarks.profile import print_profile, profile_record

        data, chosen = open_dataset(dataset, split, data_root), parse_mode(mode)
        subject = subject_of(detector, dataset, weights, len(data.class_names), settings)
        sizes = [int(size) for size in batches.split(",")]
        record = profile_record(
            subject, data, device=device, threads=threads, images=images, batches=sizes, rounds=rounds, mode=chosen
        )
        print_profile(record)
        print(record.write(out))


@app.command("compare-latency")
def compare_latency(
    detectors: Annotated[
        list[str], typer.Argument(help="Two or more, NAME or NAME=CHECKPOINT; the last is what the others are set by.")
    ],
    out: Out,
    dataset: DatasetName = "shapes",
    split: Split = None,
    data_root: DataRoot = None,
    random: Annotated[
        bool, typer.Option("--random", help="Random weights at the paper's size instead of checkpoints.")
    ] = False,
    small: Annotated[bool, typer.Option("--small", help="With --random: the small size.")] = False,
    settings: Settings = None,
    images: TimedImages = 20,
    rounds: Rounds = 1,
    threads: ThreadCount = 2,
    seed: WeightsSeed = 0,
    device: Device = "cpu",
    note: Note = "",
) -> None:
    """Time detectors side by side, image by image, by stage; proposals are computed each time. Writes a Record."""
    with sentences():
        from benchmarks import beside
        from benchmarks.datasets import open_dataset

        data = open_dataset(dataset, split, data_root)
        built = settings_of(settings)
        found = [
            beside.contender(text, data, random=random, small=small, seed=seed, settings=built) for text in detectors
        ]
        record = beside.compare_latency(
            found, data, images=images, rounds=rounds, threads=threads, device=device, note=note
        )
        beside.print_beside(record)
        print(record.write(out))


@app.command("against-torchvision")
def against_torchvision(
    out: Out,
    detectors: Annotated[
        list[str] | None, typer.Argument(help="Detectors that torchvision has too; by default all of them.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Take its images; by default images are generated.")] = None,
    split: Split = None,
    data_root: DataRoot = None,
    weights: Annotated[
        Path | None, typer.Option(help="torchvision's checkpoint of one detector; by default weights are random.")
    ] = None,
    short: Annotated[
        int | None, typer.Option(help="Shorter side of the input, where images are resized by it.")
    ] = None,
    images: TimedImages = 20,
    rounds: Rounds = 1,
    threads: ThreadCount = 2,
    seed: WeightsSeed = 0,
    device: Device = "cpu",
    note: Note = "",
) -> None:
    """Time ours and torchvision's, same weights and images turn by turn, and write a Record of each pair."""
    with sentences():
        from benchmarks import against
        from benchmarks.datasets import open_dataset
        from benchmarks.opponents import OPPONENTS, generated_images, pair_up

        names = detectors or list(OPPONENTS)
        if weights is not None and len(names) > 1:
            raise ValueError(f"{weights}: belongs to one detector; name it")
        data = generated_images(images) if dataset is None else open_dataset(dataset, split, data_root)
        examples = [] if dataset is None else [data[i][0] for i in range(min(2, images, len(data)))]
        records = []
        for name in names:
            pair = pair_up(name, short=short, weights=weights, seed=seed, examples=examples)
            records.append(
                against.compare(pair, data, count=images, rounds=rounds, threads=threads, device=device, note=note)
            )
            print(records[-1].write(out))
        against.print_comparison(records)
