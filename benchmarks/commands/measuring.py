"""Commands that look at what detectors see: evaluate, predict, gallery."""

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
    Settings,
    SkipCorrupt,
    Split,
    Threads,
    TrainedOn,
    WeightsFile,
    sentences,
    subject_of,
)

__all__ = ["app", "evaluate", "gallery", "predict"]

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
