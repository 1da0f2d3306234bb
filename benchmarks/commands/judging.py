"""Commands on results: score, compare, explain, and judge what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.common import (
    DataRoot,
    Device,
    GroundTruthFile,
    Note,
    Out,
    RecordsFolder,
    ResamplesSeed,
    Split,
    sentences,
)

__all__ = ["analyse", "app", "claims", "compare", "explain", "export", "gate", "score", "seal"]

app = typer.Typer()


@app.command()
def score(
    gt: GroundTruthFile,
    detections: Annotated[
        Path, typer.Option(help="COCO results JSON (also a folder of several), or VOC comp3/comp4 text files.")
    ],
    protocol: Annotated[str, typer.Option(help="coco, fd, voc07, voc10 or all.")] = "all",
    output: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
    intervals: Annotated[int, typer.Option(help="95 % intervals from so many resamples of the images.")] = 0,
    seed: ResamplesSeed = 0,
    record: Annotated[str | None, typer.Option(help="Write a Record for `python -m reports`, of this name.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the Record; default runs/NAME.")] = None,
    note: Note = "",
    memory: Annotated[
        str | None, typer.Option(help="Keep within so much, such as 2G: scores in parts, on disk, without intervals.")
    ] = None,
) -> None:
    """Score a file of results. Exit status 2 on bad input."""
    with sentences():
        from benchmarks.exchange import write_record
        from benchmarks.score import bytes_of, run_score

        if record is not None and memory is not None:
            raise ValueError("--record: keeps a copy of the results, which --memory is to spare; leave one of them out")
        if record is not None and protocol != "all":
            raise ValueError(f"--protocol {protocol}: a Record holds the numbers of all; leave it out")
        limit = None if memory is None else bytes_of(memory)
        scores = run_score(gt, detections, protocol, output, intervals=intervals, seed=seed, memory=limit)
        if record is not None:
            print(write_record(record, scores, gt, detections, out or Path("runs") / record, note))


@app.command()
def export(
    dataset: Annotated[str, typer.Argument(help="shapes, discs, bars, bccd, voc or coco.")],
    out: Out,
    split: Split = None,
    data_root: DataRoot = None,
) -> None:
    """Write a split's images and its ground truth in COCO's format, for detectors of any kind."""
    with sentences():
        from benchmarks.datasets import open_dataset
        from benchmarks.exchange import export as run

        print(run(open_dataset(dataset, split, data_root), out))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="COCO results JSON of one detector (or its numbers, or a Record),")],
    second: Annotated[Path, typer.Argument(help="and of another, on the same images.")],
    gt: Annotated[Path | None, typer.Option(help="Ground truth: a COCO JSON. Numbers need none.")] = None,
    margin: Annotated[float, typer.Option(help="Differences up to so many points are of no account.")] = 0.5,
    draws: Annotated[int, typer.Option(help="Resamples of the images.")] = 1_000,
    seed: ResamplesSeed = 0,
    output: Annotated[Path | None, typer.Option("--json", help="Write the comparison to this file.")] = None,
) -> None:
    """Is one detector better than another, or can these images not tell? Exit status 2 on bad input."""
    with sentences():
        from benchmarks.compare import run_compare

        run_compare(first, second, gt, draws=draws, seed=seed, margin=margin, out=output)


@app.command()
def explain(
    first: Annotated[Path, typer.Argument(help="Detections that the first AP is of,")],
    gt: GroundTruthFile,
    second: Annotated[Path | None, typer.Argument(help="and the second, if they are others.")] = None,
    source: Annotated[str, typer.Option("--from", help="coco, voc07, ...; or switches: coco,nms=0.5.")] = "coco",
    target: Annotated[str | None, typer.Option("--to", help="Likewise of the second AP; by default the same.")] = None,
    average: Annotated[bool, typer.Option("--average", help="Mean effects over all orders of the switches.")] = False,
    plot: Annotated[Path | None, typer.Option(help="PNG file of the waterfall.")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="Write the steps to this file.")] = None,
) -> None:
    """Why do two APs of one detector differ? Turns one switch of the protocol at a time. Exit status 2 on bad input."""
    with sentences():
        from benchmarks.explain import run_explain

        run_explain(first, second, gt, source=source, target=target, average=average, plot=plot, out=output)


@app.command()
def analyse(
    gt: GroundTruthFile,
    detections: Annotated[Path, typer.Option(help="COCO results JSON, or VOC comp3/comp4 text files.")],
    out: Out,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, to draw those with most errors.")] = None,
    floor: Annotated[float, typer.Option(help="Confusion and worst images: from this score on.")] = 0.3,
) -> None:
    """Where the errors are: kinds and cost, calibration, recall, confusion, miss rates, worst images."""
    with sentences():
        from benchmarks.analysis import run_analysis

        run_analysis(gt, detections, out, images=images, floor=floor)


@app.command()
def gate(
    detectors: Annotated[
        list[str] | None, typer.Argument(help="Names or globs of detectors; by default all that ship.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="shapes, discs, bars, bccd, voc or coco; by default all that are drawn.")
    ] = None,
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
    with sentences():
        from benchmarks import gate as module

        if files is not None:
            status = module.run_gate_files(gt, *files, number=number, margin=margin, out=output)
        else:
            status = module.run_gate(
                detectors or [], dataset, data_root=data_root, device=device, only_bits=stages, anew=store, out=output
            )
    raise typer.Exit(int(status))


@app.command()
def claims(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of claims; by default all that need measuring.")] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="A further small checkpoint, as of another seed; may be repeated.")
    ] = None,
    images: Annotated[int, typer.Option(help="Of each split that trained detectors see.")] = 300,
    anew: Annotated[bool, typer.Option("--anew", help="Measure also what is there.")] = False,
    data_root: DataRoot = None,
    out: RecordsFolder = None,
) -> None:
    """Measure what the ledger of claims needs besides trainings, tests and times; `python -m reports` judges."""
    with sentences():
        from benchmarks.claims.measure import measure

        for path in measure(ids or (), extra=checkpoint or (), images=images, anew=anew, data_root=data_root, out=out):
            print(path)


@app.command()
def seal() -> None:
    """Write the manifests of the project's Records and of the papers' tables anew, as they are now."""
    with sentences():
        from benchmarks.manifest import SEALED
        from benchmarks.manifest import seal as run

        for folder, pattern in SEALED.items():
            if any(folder.glob(pattern)):
                print(run(folder, pattern))
