"""Commands that check what measures: the evaluator, how fast and how often right, and the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.common import (
    Device,
    FiguresFile,
    Seed,
    SetImages,
    SetSizes,
    SharesFile,
    Threads,
    emit,
    sentences,
)

__all__ = ["app", "budget", "coverage", "gate_rates", "hardware", "score_scale", "score_speed"]

app = typer.Typer()


@app.command("score-speed")
def score_speed(
    images: SetSizes = "1250,2500,5000",
    rounds: Annotated[int, typer.Option(help="Runs of each side, by turns.")] = 3,
    hotcoco: Annotated[Path | None, typer.Option(help="A Python that has hotcoco, to time `compare` too.")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="Write the times to this file.")] = None,
) -> None:
    """Time and memory of `score`, with and without intervals, beside pycocotools (some minutes)."""
    with sentences():
        from rich.console import Console

        from benchmarks.speed import measure, print_speed

        with Console(stderr=True).status("starting") as status:
            found = measure([int(count) for count in images.split(",")], rounds, hotcoco, status.update)
        print_speed(found)
        if output is not None:
            emit(found, str(output))


@app.command("score-scale")
def score_scale(
    images: SetSizes = "10000,100000",
    memory: Annotated[str, typer.Option(help="What scoring may take, such as 2G.")] = "2G",
    folder: Annotated[Path | None, typer.Option(help="For temporary files, 25 kB an image.")] = None,
    output: FiguresFile = None,
) -> None:
    """How time and memory of `score --memory` grow with the images (minutes; 1000000 images are 15 GB of text)."""
    with sentences():
        from rich.console import Console

        from benchmarks.scale import measure_scale, print_scale
        from benchmarks.score import bytes_of

        limit, found = bytes_of(memory), []
        with Console(stderr=True).status("starting") as status:
            for one in measure_scale([int(count) for count in images.split(",")], limit, folder, status.update):
                found.append(one)
                if output is not None:
                    emit(found, str(output))
        print_scale(found, limit)


@app.command()
def budget(
    rate: Annotated[
        float | None, typer.Option(help="Multiply-accumulates a second that a GPU of yours trains with.")
    ] = None,
    output: FiguresFile = None,
) -> None:
    """What training and testing the whole zoo at the papers' size would cost on VOC and COCO, from the Records."""
    with sentences():
        from benchmarks import budget as module
        from benchmarks.results import COMMITTED, read_records

        records = list(read_records(COMMITTED))
        costs, measured = module.budget(records), module.rates(records)
        if rate is not None:
            measured["cuda, as --rate says"] = rate
        module.print_budget(costs, measured)
        if output is not None:
            emit(module.as_json(costs, measured), str(output))


@app.command("gate-rates")
def gate_rates(
    sets: Annotated[int, typer.Option(help="Sets of images that are made up.")] = 200,
    images: SetImages = 300,
    margin: Annotated[float, typer.Option(help="Points of loss that are of no account.")] = 0.5,
    draws: Annotated[int, typer.Option(help="Resamples a judgement.")] = 200,
    seed: Seed = 0,
    output: SharesFile = None,
) -> None:
    """How often the gate is wrong about made-up detectors of which the truth is known (some minutes)."""
    with sentences():
        from benchmarks.gate_rates import as_json, error_rates, print_rates

        found = error_rates(sets, images, margin=margin, draws=draws, seed=seed)
        print_rates(found)
        if output is not None:
            emit(as_json(found), str(output))


@app.command()
def coverage(
    images: SetImages = 300,
    sets: Annotated[int, typer.Option(help="How many sets are drawn.")] = 400,
    draws: Annotated[int, typer.Option(help="Resamples a set.")] = 400,
    seed: Seed = 0,
    output: SharesFile = None,
) -> None:
    """How often intervals hold the score of a population that is known (a minute or two)."""
    with sentences():
        from benchmarks.coverage import as_json, cover, print_coverage

        found = cover(images, sets, draws, seed)
        print_coverage(found)
        if output is not None:
            emit(as_json(found), str(output))


@app.command()
def hardware(
    device: Device = "cpu",
    threads: Threads = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Repeat the calibration kernels and print bands for a profile.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="With --calibrate: how often.")] = 7,
    trace: Annotated[Path | None, typer.Option(help="Keep what was seen of the machine meanwhile, as JSON.")] = None,
) -> None:
    """What this machine is, which profile it conforms to, and how long the calibration kernels take on it."""
    with sentences():
        from benchmarks.hardware import load_profiles, watch
        from benchmarks.hardware.sampling import write_trace
        from benchmarks.hardware.showing import in_rounds, print_bands, print_machine

        with watch(device, threads=threads, calibrate=False) as seen:
            found = in_rounds(rounds if calibrate else 1, device, threads)
        print_machine(seen, load_profiles(), found)
        if trace is not None:
            write_trace(seen.samples, trace)
        if calibrate:
            print_bands(seen, found)
