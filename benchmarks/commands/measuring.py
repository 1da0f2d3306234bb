"""Commands that run detectors on images: evaluate, predict, time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.common import (
    ClassCount,
    DataRoot,
    DatasetName,
    Device,
    Evaluated,
    ModeName,
    Note,
    Out,
    Rounds,
    Settings,
    SkipCorrupt,
    Split,
    ThreadCount,
    Threads,
    TimedImages,
    TrainedOn,
    WeightsFile,
    WeightsSeed,
    sentences,
    settings_of,
    subject_of,
)

__all__ = ["against_torchvision", "app", "compare_latency", "evaluate", "gallery", "latency", "predict", "profile"]

app = typer.Typer()


@app.command()
def evaluate(
    detector: Evaluated,
    out: Out,
    dataset: DatasetName = "shapes",
    split: Split = None,
    data_root: DataRoot = None,
    weights: WeightsFile = None,
    settings: Settings = None,
    device: Device = "cpu",
    threads: Threads = None,
    batch: Annotated[int, typer.Option(help="Images a step; more than 1 can change numbers in the last digits.")] = 1,
    multi_scale: Annotated[
        str | None,
        typer.Option(
            help="Several sizes, mirrored too: relative, enlarged, refinedet320_voc, ..., refinedet512_coco; for "
            "detectors of corners cornernet and centernet, keypoint_flip (their own way) and keypoint_single."
        ),
    ] = None,
    soft_nms: Annotated[
        str | None, typer.Option(help="linear or gaussian: lower the scores of duplicates instead of removing them.")
    ] = None,
    soft_nms_sigma: Annotated[float, typer.Option(help="Of the Gaussian.")] = 0.5,
    soft_nms_iou: Annotated[float, typer.Option(help="Overlap from which the linear kind lowers.")] = 0.3,
    truth: Annotated[
        str | None,
        typer.Option(
            help="Error analysis of detectors of corners: tell them the true centers, heatmaps or heatmaps_and_offsets."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only this class, on the images that have it; may be repeated."),
    ] = None,
    misses: Annotated[
        bool,
        typer.Option("--misses", help="Miss rates against false positives; detectors of windows state them anyhow."),
    ] = False,
    skip_corrupt: SkipCorrupt = False,
    mode: ModeName = "",
    note: Note = "",
) -> None:
    """Detect on a split, write detections.json, metrics.json and a Record, and print the metrics."""
    with sentences():
        import torch

        from benchmarks.datasets import open_dataset
        from benchmarks.datasets.intact import without_corrupt
        from benchmarks.evaluate import evaluate as run
        from benchmarks.modes import parse_mode
        from benchmarks.processes import Share
        from benchmarks.score import print_scores
        from ops.nms import Suppression

        softly = None
        if soft_nms is not None:
            softly = Suppression(soft_nms, sigma=soft_nms_sigma, iou=soft_nms_iou)  # type: ignore[arg-type]
        if threads is not None:
            torch.set_num_threads(threads)
        images = open_dataset(dataset, split, data_root)
        images = images.only(only) if only else images
        images = without_corrupt(images) if skip_corrupt else images
        subject = subject_of(detector, dataset, weights, len(images.class_names), settings)
        record = run(
            subject,
            images,
            device=device,
            batch=batch,
            multi_scale=multi_scale,
            soft_nms=softly,
            known=truth,  # type: ignore[arg-type]
            misses=misses,
            mode=parse_mode(mode),
            note=note,
            out=out,
        )
        if Share.joined().rank == 0:
            print_scores(record.metrics)


@app.command()
def predict(
    detector: Evaluated,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    out: Out,
    dataset: TrainedOn = "shapes",
    split: Split = None,
    data_root: DataRoot = None,
    weights: WeightsFile = None,
    settings: Settings = None,
    classes: ClassCount = 80,
    class_names: Annotated[
        Path | None, typer.Option("--names", help="Text file that names a class a line, instead of --dataset.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Lowest score that is drawn.")] = 0.3,
    device: Device = "cpu",
) -> None:
    """Draw what a detector sees in image files."""
    with sentences():
        from benchmarks.datasets import open_dataset
        from benchmarks.drawing import predict_files
        from benchmarks.evaluate import category_of_label

        subject = subject_of(detector, dataset, weights, classes, settings)
        if class_names is not None:
            names: tuple[str, ...] = tuple(class_names.read_text(encoding="utf-8").splitlines())
            if len(names) != subject.model.num_classes:
                raise ValueError(f"{class_names}: {len(names)} lines for {subject.model.num_classes} classes")
        elif subject.class_names is not None:
            names = subject.class_names
        else:
            data = open_dataset(dataset, split, data_root)
            known = dict(zip(data.category_ids, data.class_names, strict=True))
            ids = category_of_label(data, subject.model.num_classes)
            names = tuple(known.get(identity or 0, "-") for identity in ids)
        for path in predict_files(subject, images, out, class_names=names, threshold=threshold, device=device):
            print(path)


@app.command()
def gallery(
    detectors: Annotated[
        list[str], typer.Argument(help="Detectors with weights for the dataset, shipped or published.")
    ],
    out: Annotated[Path, typer.Option(help="PNG file.")] = Path("reports/detections.png"),
    dataset: DatasetName = "shapes",
    data_root: DataRoot = None,
    images: Annotated[str, typer.Option(help="Indices in the test split, with commas.")] = "3,5,11",
) -> None:
    """Draw a sheet: the truth, and beside it what each detector sees."""
    with sentences():
        from torchvision.io import write_png

        from benchmarks.datasets import open_dataset
        from benchmarks.drawing import gallery as run
        from benchmarks.results import write_atomically

        data = open_dataset(dataset, None, data_root)
        subjects = [subject_of(name, dataset, None, len(data.class_names), None) for name in detectors]
        chosen = [int(index) for index in images.split(",")]
        write_png(run(subjects, data, chosen), str(out), compression_level=9)
        about = {"dataset": data.name, "split": data.split, "images": chosen, "detectors": detectors}
        lines = [f"# Of what `{out.name}` is, written with it by `python -m benchmarks gallery`."]
        lines += [f"{key} = {json.dumps(value)}" for key, value in about.items()]
        write_atomically(out.with_suffix(".toml"), "\n".join(lines) + "\n")
        print(out)


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
        found = [beside.contender(text, data, random=random, small=small, seed=seed) for text in detectors]
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

        names = detectors or list(against.OPPONENTS)
        if weights is not None and len(names) > 1:
            raise ValueError(f"{weights}: belongs to one detector; name it")
        data = against.generated_images(images) if dataset is None else open_dataset(dataset, split, data_root)
        examples = [] if dataset is None else [data[i][0] for i in range(min(2, images, len(data)))]
        records = []
        for name in names:
            pair = against.pair_up(name, short=short, weights=weights, seed=seed, examples=examples)
            records.append(
                against.compare(pair, data, count=images, rounds=rounds, threads=threads, device=device, note=note)
            )
            print(records[-1].write(out))
        against.print_comparison(records)
