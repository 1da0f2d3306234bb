"""The command line: `python -m benchmarks COMMAND`. Library code raises; only here an error becomes a sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from benchmarks.evaluate import Subject

__all__ = ["app"]

# Modules that need torch are imported by the command that needs them: `score` starts in a fraction of a second.
app = typer.Typer(
    help="Train, evaluate and time the detectors of the zoo.", no_args_is_help=True, pretty_exceptions_enable=False
)

DetectorName = Annotated[str, typer.Argument(help="A name of the catalog; see `list`.")]
Evaluated = Annotated[
    str,
    typer.Argument(
        help="A name of the catalog, one that `weights` shows, or the path of a .cfg or .prototxt (--weights)."
    ),
]
DatasetName = Annotated[str, typer.Option("--dataset", help="shapes, bccd, voc or coco.")]
Split = Annotated[str | None, typer.Option(help="Such as test or 2007_test; by default the benchmark's.")]
DataRoot = Annotated[
    Path | None, typer.Option(help="The data as unpacked: a folder with VOCdevkit/, or with images/ and annotations/.")
]
WeightsFile = Annotated[
    Path | None, typer.Option("--weights", help="Checkpoint; by default the one that ships for the dataset.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(help="Threads of torch on the CPU.")]
Out = Annotated[Path, typer.Option(help="Folder to write to.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Constructor argument, such as size=256; may be repeated.")
]


@contextmanager
def _sentences() -> Iterator[None]:
    """Errors that a user can mend as one line and exit status 2; Ctrl-C as one line and 130."""
    try:
        yield
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"error: {text}", file=sys.stderr)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        print(f"stopped; to go on: python -m benchmarks {' '.join(sys.argv[1:])}", file=sys.stderr)
        raise typer.Exit(130) from None


def _settings(pairs: list[str] | None) -> dict[str, Any]:
    settings = {}
    for pair in pairs or []:
        name, separator, text = pair.partition("=")
        if not separator:
            raise ValueError(f"--set {pair}: write name=value")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        settings[name] = tuple(value) if isinstance(value, list) else value
    return settings


def _subject(
    detector: str, dataset_name: str, weights: Path | None, classes: int, settings: list[str] | None
) -> Subject:
    from benchmarks.evaluate import load_subject
    from zoo import checkpoints

    if weights is None and detector.endswith((".cfg", ".prototxt")):
        raise ValueError(f"{detector}: a cfg or prototxt holds no weights; give its file by --weights")
    return load_subject(detector, weights or checkpoints.find(detector, dataset_name), classes, _settings(settings))


def _emit(value: Any, target: str) -> None:
    from benchmarks.results import to_json, write_atomically

    if target == "-":
        sys.stdout.write(to_json(value))
    else:
        write_atomically(Path(target), to_json(value))


@app.command("list")
def list_detectors(
    output: Annotated[
        str | None, typer.Option("--json", help="Write JSON to this file, or - for standard output.")
    ] = None,
) -> None:
    """Every detector of the catalog, by year."""
    with _sentences():
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
            _emit(rows, output)
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
    workers: Annotated[int, typer.Option(help="Processes that load images.")] = 0,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between states to resume from.")] = 250,
    amp: Annotated[bool | None, typer.Option(help="bfloat16 forward passes. Left out: on CUDA only.")] = None,
) -> None:
    """Train a detector. The same command continues an interrupted run."""
    with _sentences():
        from benchmarks.train import train as run

        if size not in ("small", "paper"):
            raise ValueError(f"--size {size}: choose small or paper")
        changes = {"steps": steps, "batch": batch, "lr": lr}
        path = run(
            detector,
            dataset,
            out=out or Path("runs") / f"{detector}.{dataset}",
            small=size == "small",
            overrides=_settings(settings),
            recipe_changes={name: value for name, value in changes.items() if value is not None},
            split=split,
            images=images,
            data_root=data_root,
            seed=seed,
            device=device,
            threads=threads,
            workers=workers,
            checkpoint_every=checkpoint_every,
            amp=amp,
        )
        print(path)


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
    note: Annotated[str, typer.Option(help="What a reader of the Record must know, in a sentence.")] = "",
) -> None:
    """Detect on a split, write detections.json, metrics.json and a Record, and print the metrics."""
    with _sentences():
        import torch

        from benchmarks.datasets import open_dataset
        from benchmarks.evaluate import evaluate as run
        from benchmarks.score import print_scores
        from ops.nms import Suppression

        softly = None
        if soft_nms is not None:
            softly = Suppression(soft_nms, sigma=soft_nms_sigma, iou=soft_nms_iou)  # type: ignore[arg-type]
        if threads is not None:
            torch.set_num_threads(threads)
        images = open_dataset(dataset, split, data_root)
        images = images.only(only) if only else images
        subject = _subject(detector, dataset, weights, len(images.class_names), settings)
        record = run(
            subject,
            images,
            device=device,
            batch=batch,
            multi_scale=multi_scale,
            soft_nms=softly,
            known=truth,  # type: ignore[arg-type]
            misses=misses,
            note=note,
            out=out,
        )
        print_scores(record.metrics)


@app.command()
def ship(
    run_folder: Annotated[Path, typer.Argument(help="Folder of a finished training.")],
    records: Annotated[bool, typer.Option(help="Copy its Records alone, as of further seeds.")] = False,
    data_root: DataRoot = None,
    results: Annotated[Path | None, typer.Option(help="Where Records go; default the committed ones.")] = None,
) -> None:
    """Copy a trained checkpoint into the zoo, with its Records and the metrics that CI will expect of it."""
    with _sentences():
        from benchmarks.shipping import ship as run

        for path in run(run_folder, records_only=records, data_root=data_root, results=results):
            print(path)


@app.command()
def latency(
    detector: Evaluated,
    out: Out,
    dataset: DatasetName = "shapes",
    split: Split = None,
    data_root: DataRoot = None,
    weights: WeightsFile = None,
    settings: Settings = None,
    device: Device = "cpu",
    threads: Annotated[int, typer.Option(help="Threads of torch on the CPU.")] = 2,
    images: Annotated[int, typer.Option(help="Images to time after warm-up.")] = 100,
) -> None:
    """Time preprocess, network and postprocess on real images, batch 1, and write a Record with the raw samples."""
    with _sentences():
        from benchmarks.datasets import open_dataset
        from benchmarks.recording import latency_record, print_latency

        data = open_dataset(dataset, split, data_root)
        subject = _subject(detector, dataset, weights, len(data.class_names), settings)
        record = latency_record(subject, data, device=device, threads=threads, images=images)
        print_latency(record)
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
    images: Annotated[int, typer.Option(help="Images to time.")] = 20,
    rounds: Annotated[int, typer.Option(help="How often each is timed.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads of torch on the CPU.")] = 2,
    seed: Annotated[int, typer.Option(help="Of random weights.")] = 0,
    device: Device = "cpu",
    note: Annotated[str, typer.Option(help="What a reader of the Record must know, in a sentence.")] = "",
) -> None:
    """Time detectors side by side, image by image, by stage; proposals are computed each time. Writes a Record."""
    with _sentences():
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
    images: Annotated[int, typer.Option(help="Images to time.")] = 20,
    rounds: Annotated[int, typer.Option(help="How often each is timed.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads of torch on the CPU.")] = 2,
    seed: Annotated[int, typer.Option(help="Of random weights.")] = 0,
    device: Device = "cpu",
    note: Annotated[str, typer.Option(help="What a reader of the Record must know, in a sentence.")] = "",
) -> None:
    """Time ours and torchvision's, same weights and images turn by turn, and write a Record of each pair."""
    with _sentences():
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


@app.command()
def cost(
    detector: DetectorName,
    classes: Annotated[int, typer.Option(help="Foreground classes.")] = 80,
    size: Annotated[str | None, typer.Option(help="Network input, HxW; default the paper's.")] = None,
    small: Annotated[bool, typer.Option(help="The small size.")] = False,
    settings: Settings = None,
    output: Annotated[
        str | None, typer.Option("--json", help="Write JSON to this file, or - for standard output.")
    ] = None,
) -> None:
    """Parameters, multiply-accumulates and boxes, without allocating the network."""
    with _sentences():
        from benchmarks.cost import cost as run
        from benchmarks.cost import parse_size

        found = run(detector, classes, parse_size(size) if size else None, small=small, overrides=_settings(settings))
        if output is not None:
            _emit(found, output)
            return
        for name, value in found.items():
            print(f"{name:>12}  {value:,}" if isinstance(value, int) else f"{name:>12}  {value}")


@app.command()
def claims(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of claims; by default all that need measuring.")] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="A further small checkpoint, as of another seed; may be repeated.")
    ] = None,
    images: Annotated[int, typer.Option(help="Of each split that trained detectors see.")] = 300,
    anew: Annotated[bool, typer.Option("--anew", help="Measure also what is there.")] = False,
    data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the Records; default the committed ones.")] = None,
) -> None:
    """Measure what the ledger of claims needs besides trainings, tests and times; `python -m reports` judges."""
    with _sentences():
        from benchmarks.claims.measure import measure

        for path in measure(ids or (), extra=checkpoint or (), images=images, anew=anew, data_root=data_root, out=out):
            print(path)


@app.command("record-costs")
def record_costs(
    out: Annotated[Path | None, typer.Option(help="Folder for the Records; default the committed ones.")] = None,
) -> None:
    """Write the cost Records of the whole catalog, which the reports print."""
    with _sentences():
        from benchmarks.recording import record_costs as run

        print(f"{len(run(out))} Records")


@app.command("record-intervals")
def record_intervals(
    dataset: DatasetName = "shapes",
    detector: Annotated[str, typer.Option(help="A name of the catalog, or a pattern.")] = "*",
    data_root: DataRoot = None,
) -> None:
    """Add 95 % intervals and curves to Records of shipped checkpoints that lack them, if no metric has moved."""
    with _sentences():
        from benchmarks.reevaluation import record_intervals as run

        print(f"{len(run(dataset, detector, data_root=data_root))} Records")


@app.command()
def score(
    gt: Annotated[Path, typer.Option(help="Ground truth: a COCO JSON.")],
    detections: Annotated[Path, typer.Option(help="COCO results JSON, or VOC comp3/comp4 text files.")],
    protocol: Annotated[str, typer.Option(help="coco, fd, voc07, voc10 or all.")] = "all",
    output: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
    intervals: Annotated[int, typer.Option(help="95 % intervals from so many resamples of the images.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0,
    record: Annotated[str | None, typer.Option(help="Write a Record for `python -m reports`, of this name.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the Record; default runs/NAME.")] = None,
    note: Annotated[str, typer.Option(help="What a reader of the Record must know, in a sentence.")] = "",
) -> None:
    """Score a file of results. Exit status 2 on bad input."""
    with _sentences():
        from benchmarks.exchange import write_record
        from benchmarks.score import run_score

        if record is not None and protocol != "all":
            raise ValueError(f"--protocol {protocol}: a Record holds the numbers of all; leave it out")
        scores = run_score(gt, detections, protocol, output, intervals=intervals, seed=seed)
        if record is not None:
            print(write_record(record, scores, gt, detections, out or Path("runs") / record, note))


@app.command()
def export(
    dataset: Annotated[str, typer.Argument(help="shapes, bccd, voc or coco.")],
    out: Out,
    split: Split = None,
    data_root: DataRoot = None,
) -> None:
    """Write a split's images and its ground truth in COCO's format, for detectors of any kind."""
    with _sentences():
        from benchmarks.datasets import open_dataset
        from benchmarks.exchange import export as run

        print(run(open_dataset(dataset, split, data_root), out))


@app.command()
def seal() -> None:
    """Write the manifests of the project's Records and of the papers' tables anew, as they are now."""
    with _sentences():
        from benchmarks.manifest import SEALED
        from benchmarks.manifest import seal as run

        for folder, pattern in SEALED.items():
            if any(folder.glob(pattern)):
                print(run(folder, pattern))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="COCO results JSON of one detector (or its numbers, or a Record),")],
    second: Annotated[Path, typer.Argument(help="and of another, on the same images.")],
    gt: Annotated[Path | None, typer.Option(help="Ground truth: a COCO JSON. Numbers need none.")] = None,
    margin: Annotated[float, typer.Option(help="Differences up to so many points are of no account.")] = 0.5,
    draws: Annotated[int, typer.Option(help="Resamples of the images.")] = 1_000,
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0,
    output: Annotated[Path | None, typer.Option("--json", help="Write the comparison to this file.")] = None,
) -> None:
    """Is one detector better than another, or can these images not tell? Exit status 2 on bad input."""
    with _sentences():
        from benchmarks.compare import run_compare

        run_compare(first, second, gt, draws=draws, seed=seed, margin=margin, out=output)


@app.command()
def explain(
    first: Annotated[Path, typer.Argument(help="Detections that the first AP is of,")],
    gt: Annotated[Path, typer.Option(help="Ground truth: a COCO JSON.")],
    second: Annotated[Path | None, typer.Argument(help="and the second, if they are others.")] = None,
    source: Annotated[str, typer.Option("--from", help="coco, voc07, ...; or switches: coco,nms=0.5.")] = "coco",
    target: Annotated[str | None, typer.Option("--to", help="Likewise of the second AP; by default the same.")] = None,
    average: Annotated[bool, typer.Option("--average", help="Mean effects over all orders of the switches.")] = False,
    plot: Annotated[Path | None, typer.Option(help="PNG file of the waterfall.")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="Write the steps to this file.")] = None,
) -> None:
    """Why do two APs of one detector differ? Turns one switch of the protocol at a time. Exit status 2 on bad input."""
    with _sentences():
        from benchmarks.explain import run_explain

        run_explain(first, second, gt, source=source, target=target, average=average, plot=plot, out=output)


@app.command()
def analyse(
    gt: Annotated[Path, typer.Option(help="Ground truth: a COCO JSON.")],
    detections: Annotated[Path, typer.Option(help="COCO results JSON, or VOC comp3/comp4 text files.")],
    out: Out,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, to draw those with most errors.")] = None,
    floor: Annotated[float, typer.Option(help="Confusion and worst images: from this score on.")] = 0.3,
) -> None:
    """Where the errors are: kinds and cost, calibration, recall, confusion, miss rates, worst images."""
    with _sentences():
        from benchmarks.analysis import run_analysis

        run_analysis(gt, detections, out, images=images, floor=floor)


@app.command("score-speed")
def score_speed(
    images: Annotated[str, typer.Option(help="Sizes of the generated sets, with commas.")] = "1250,2500,5000",
    rounds: Annotated[int, typer.Option(help="Runs of each side, by turns.")] = 3,
    hotcoco: Annotated[Path | None, typer.Option(help="A Python that has hotcoco, to time `compare` too.")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="Write the times to this file.")] = None,
) -> None:
    """Time and memory of `score`, with and without intervals, beside pycocotools (some minutes)."""
    with _sentences():
        from rich.console import Console

        from benchmarks.speed import measure, print_speed

        with Console(stderr=True).status("starting") as status:
            found = measure([int(count) for count in images.split(",")], rounds, hotcoco, status.update)
        print_speed(found)
        if output is not None:
            _emit(found, str(output))


@app.command()
def gate(
    detectors: Annotated[
        list[str] | None, typer.Argument(help="Names or globs of detectors; by default all that ship.")
    ] = None,
    dataset: DatasetName = "shapes",
    data_root: DataRoot = None,
    stages: Annotated[bool, typer.Option("--stages", help="Only the first tier: which stage's bits moved.")] = False,
    store: Annotated[bool, typer.Option("--store", help="Write the references of those that have none.")] = False,
    device: Device = "cpu",
    files: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Judge two COCO results instead: the reference, and the new one.")
    ] = None,
    gt: Annotated[Path | None, typer.Option(help="Their ground truth: a COCO JSON.")] = None,
    number: Annotated[str, typer.Option(help="With --files: AP, AP50, AP75, mAP07 or mAP10.")] = "AP",
    margin: Annotated[float, typer.Option(help="With --files: points of loss that are of no account.")] = 0.5,
    output: Annotated[Path | None, typer.Option("--json", help="Write the judgements to this file.")] = None,
) -> None:
    """Has accuracy been lost? Exit status 0 PASS, 1 FAIL, 3 INCONCLUSIVE, 2 bad input, 4 unfit environment."""
    with _sentences():
        from benchmarks import gate as module

        if files is not None:
            status = module.run_gate_files(gt, *files, number=number, margin=margin, out=output)
        else:
            status = module.run_gate(
                detectors or [], dataset, data_root=data_root, device=device, only_bits=stages, anew=store, out=output
            )
    raise typer.Exit(int(status))


@app.command("gate-rates")
def gate_rates(
    sets: Annotated[int, typer.Option(help="Sets of images that are made up.")] = 200,
    images: Annotated[int, typer.Option(help="Of a set.")] = 300,
    margin: Annotated[float, typer.Option(help="Points of loss that are of no account.")] = 0.5,
    draws: Annotated[int, typer.Option(help="Resamples a judgement.")] = 200,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    output: Annotated[Path | None, typer.Option("--json", help="Write the shares to this file.")] = None,
) -> None:
    """How often the gate is wrong about made-up detectors of which the truth is known (some minutes)."""
    with _sentences():
        from benchmarks.gate_rates import as_json, error_rates, print_rates

        found = error_rates(sets, images, margin=margin, draws=draws, seed=seed)
        print_rates(found)
        if output is not None:
            _emit(as_json(found), str(output))


@app.command()
def coverage(
    images: Annotated[int, typer.Option(help="Of a set.")] = 300,
    sets: Annotated[int, typer.Option(help="How many sets are drawn.")] = 400,
    draws: Annotated[int, typer.Option(help="Resamples a set.")] = 400,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    output: Annotated[Path | None, typer.Option("--json", help="Write the shares to this file.")] = None,
) -> None:
    """How often intervals hold the score of a population that is known (a minute or two)."""
    with _sentences():
        from benchmarks.coverage import as_json, cover, print_coverage
        from benchmarks.results import to_json, write_atomically

        found = cover(images, sets, draws, seed)
        print_coverage(found)
        if output is not None:
            write_atomically(output, to_json(as_json(found)))


@app.command()
def predict(
    detector: Evaluated,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    out: Out,
    dataset: Annotated[str, typer.Option(help="What the weights were trained on; names their classes.")] = "shapes",
    split: Split = None,
    data_root: DataRoot = None,
    weights: WeightsFile = None,
    settings: Settings = None,
    classes: Annotated[int, typer.Option(help="Classes of weights that do not say.")] = 80,
    class_names: Annotated[
        Path | None, typer.Option("--names", help="Text file that names a class a line, instead of --dataset.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Lowest score that is drawn.")] = 0.3,
    device: Device = "cpu",
) -> None:
    """Draw what a detector sees in image files."""
    with _sentences():
        from benchmarks.datasets import open_dataset
        from benchmarks.drawing import predict_files
        from benchmarks.evaluate import category_of_label

        subject = _subject(detector, dataset, weights, classes, settings)
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
    with _sentences():
        from torchvision.io import write_png

        from benchmarks.datasets import open_dataset
        from benchmarks.drawing import gallery as run
        from benchmarks.results import write_atomically

        data = open_dataset(dataset, None, data_root)
        subjects = [_subject(name, dataset, None, len(data.class_names), None) for name in detectors]
        chosen = [int(index) for index in images.split(",")]
        write_png(run(subjects, data, chosen), str(out), compression_level=9)
        about = {"dataset": data.name, "split": data.split, "images": chosen, "detectors": detectors}
        lines = [f"# Of what `{out.name}` is, written with it by `python -m benchmarks gallery`."]
        lines += [f"{key} = {json.dumps(value)}" for key, value in about.items()]
        write_atomically(out.with_suffix(".toml"), "\n".join(lines) + "\n")
        print(out)


@app.command()
def subsample(
    detector: DetectorName,
    out: Annotated[Path, typer.Option(help="Checkpoint to write, a .safetensors file.")],
    keep: Annotated[str, typer.Option(help="voc for its 20 classes, or names with commas.")] = "voc",
    dataset: Annotated[str, typer.Option(help="What the weights were trained on; names their classes.")] = "coco",
    data_root: DataRoot = None,
    weights: WeightsFile = None,
    settings: Settings = None,
    classes: Annotated[int, typer.Option(help="Classes of weights that do not say.")] = 80,
) -> None:
    """Cut a detector down to some of its classes, such as from COCO to VOC: the others' channels are left out."""
    with _sentences():
        from benchmarks.datasets import open_dataset
        from benchmarks.datasets.voc import CLASS_NAMES
        from zoo import build, checkpoints
        from zoo.subsample import subsample as run

        if out.suffix != ".safetensors":
            raise ValueError(f"--out {out}: choose a name that ends in .safetensors")
        wanted = tuple(CLASS_NAMES) if keep == "voc" else tuple(keep.split(","))
        subject = _subject(detector, dataset, weights, classes, settings)
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
    with _sentences():
        from zoo import checkpoints

        if fetch is not None:
            print(checkpoints.fetch(fetch))
            return
        checkpoints.print_known()


if __name__ == "__main__":
    app()
