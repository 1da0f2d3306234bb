"""More than one number of a detector's speed: `python -m benchmarks profile NAME`.

What grows with candidates and with the batch, what a call needs of memory and energy, what comes before the first
detection, and how far the network is from what the machine could do. What cannot be measured says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import hardware
from benchmarks.datasets import Dataset
from benchmarks.energy import counter_of, energy_of
from benchmarks.evaluate import Subject
from benchmarks.fresh import PARTS, start_fresh
from benchmarks.growth import NotMeasured, against_candidates, throughput
from benchmarks.latency import fixed_threads
from benchmarks.modes import Mode, running
from benchmarks.provenance import commit, dataset_id, versions
from benchmarks.results import Record
from benchmarks.roofline import roofline

__all__ = ["print_profile", "profile_record"]


def profile_record(
    subject: Subject,
    dataset: Dataset,
    *,
    device: str = "cpu",
    threads: int = 1,
    images: int = 4,
    batches: Sequence[int] = (1, 2, 4, 8),
    rounds: int = 5,
    runs: int = 3,
    mode: Mode | None = None,
    quiet: bool = False,
) -> Record:
    """Measure everything on the first images of a split.

    Args:
        subject: The detector.
        dataset: Decoding is not timed.
        device: `cpu` or a CUDA device.
        threads: Of PyTorch.
        images: The first ones.
        batches: Images a call, for the throughput.
        rounds: Of each measurement.
        runs: Fresh processes.
        mode: How the network runs.
        quiet: Draw no progress.

    Raises:
        ValueError: There are no images, or device or detector cannot run in the mode.
    """
    mode, count = mode or Mode(), min(images, len(dataset))
    mode.check(device)
    if count < 1:
        raise ValueError(f"{dataset.name} {dataset.split} has no image to measure on")
    pictures, model = [dataset[index][0] for index in range(count)], subject.model

    def in_mode(measure: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            with running(model, mode, device):
                return measure()

        return run

    parts: dict[str, Callable[[], Any]] = {
        "candidates": in_mode(lambda: against_candidates(model, pictures, device=device, rounds=rounds)),
        "throughput": in_mode(lambda: throughput(model, pictures, batches=batches, device=device, rounds=rounds)),
        "energy": in_mode(lambda: _energy(subject, pictures, device)),
        "roofline": lambda: roofline(model, pictures, mode=mode, device=device, rounds=rounds),
        "fresh": lambda: _fresh(
            start_fresh(subject, pictures[0], device=device, threads=threads, mode=mode.name, runs=runs)
        ),
    }
    with (
        hardware.watch(device, threads=threads, **mode.facts()) as seen,
        running(model, Mode(), device),
        fixed_threads(threads) as fixed,
    ):
        shown = track(parts, "profiling", console=Console(stderr=True), disable=quiet)
        found = {part: _measured(parts[part]) for part in shown}
    settings = {"threads": fixed, "images": count, "rounds": rounds, "processes": runs}
    samples = {f"batch {row['batch']}": row.pop("samples") for row in found["throughput"] if "samples" in row}
    return Record(
        kind="profile",
        **subject.as_recorded(),
        dataset=dataset_id(dataset),
        protocol={**settings, **({"mode": mode.describe()} if mode.name else {})},
        hardware=hardware.stamp_watched(seen),
        commit=commit(),
        versions=versions(),
        metrics={"parameters": sum(map(torch.Tensor.numel, model.parameters())), **found, **subject.origin},
        samples=samples,
    )


def _measured(part: Callable[[], Any]) -> Any:
    """A part of a profile, or why there is none here."""
    try:
        return part()
    except NotMeasured as reason:
        return {"not_measured": str(reason)}


def _energy(subject: Subject, pictures: Sequence[torch.Tensor], device: str) -> dict[str, Any]:
    counter, name = counter_of(device)

    def call() -> None:
        for picture in pictures:
            for answer in subject.model([picture.to(device)]):
                answer.to("cpu")

    with torch.inference_mode():
        return {"counter": name, **energy_of(call, len(pictures), counter)}


def _fresh(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over the processes, and every run."""
    found: dict[str, Any] = {"runs": list(runs)}
    for group in ("seconds", "mib", "cuda_mib"):
        rows = [run[group] for run in runs if group in run]
        numbers = {key for row in rows for key, value in row.items() if isinstance(value, float)}
        if rows:
            found[group] = {key: median(row[key] for row in rows if key in row) for key in sorted(numbers)}
            found[group] |= {key: value for key, value in rows[0].items() if key == "not_measured"}
    found["seconds"]["to_first_detections"] = median(sum(run["seconds"][part] for part in PARTS) for run in runs)
    return found


def print_profile(record: Record, console: Console | None = None) -> None:
    """A row a figure, under a heading a part."""
    device = "" if record.hardware is None else record.hardware.device
    table = Table("", "figure", title=f"{record.detector}, {record.mode or 'plain'}, on {device}")
    table.columns[1].justify = "right"
    found = record.metrics
    table.add_row("parameters", f"{found['parameters']:,}")
    for part, rows in _ROWS.items():
        table.add_section()
        values = found[part]
        if isinstance(values, Mapping) and "not_measured" in values:
            table.add_row(part, f"not measured: {values['not_measured']}")
            continue
        for name, text in rows(values):
            table.add_row(name, text)
    (console or Console()).print(table)


def _candidates(found: Any) -> Iterator[tuple[str, str]]:
    low, high = (end(point["candidates"] for point in found["points"]) for end in (min, max))
    yield "candidates, fewest to most", f"{low:,} to {high:,}"
    for name, key in (
        ("postprocess, 1,000 candidates", "seconds_per_1000_candidates"),
        ("postprocess, 100 detections", "seconds_per_100_detections"),
    ):
        if (slope := found[key]) is not None:
            ends = f"({1000 * slope['low']:.3f} to {1000 * slope['high']:.3f})"
            yield name, f"{1000 * slope['median']:.3f} ms {ends}"


def _throughput(found: Any) -> Iterator[tuple[str, str]]:
    for row in found:
        text = f"not measured: {row['not_measured']}" if "not_measured" in row else f"{row['images_per_second']:.2f}"
        yield f"images a second, batch {row['batch']}", text


def _energy_rows(found: Any) -> Iterator[tuple[str, str]]:
    yield f"energy an image ({found['counter']})", f"{found['joules']:.3f} J"
    yield "power, at rest and at work", f"{found['watts_at_rest']:.1f} W, {found['watts']:.1f} W"


def _roofline(found: Any) -> Iterator[tuple[str, str]]:
    images = found["images"]
    yield "multiply-accumulates an image", f"{found['macs'] / images / 1e9:.3f} G"
    yield "network an image", f"{1000 * found['seconds'] / images:.2f} ms"
    yield f"floor, bound by {found['floor']['bound']}", f"{1000 * found['floor']['seconds'] / images:.2f} ms"
    yield "network over floor", f"{found['ratio']:.2f}"
    peaks = found["peaks"]
    yield "measured peaks", f"{peaks['flops'] / 1e9:,.0f} GFLOP/s, {peaks['bandwidth'] / 1e9:,.1f} GB/s"


def _fresh_rows(found: Any) -> Iterator[tuple[str, str]]:
    seconds = found["seconds"]
    for part in (*PARTS, "to_first_detections", "next_call"):
        yield f"cold: {part.replace('_', ' ')}", f"{seconds[part]:.2f} s"
    memory = found["mib"]
    for key, name in (("loaded", "resident when loaded"), ("peak_growth", "growth of the peak by a call")):
        yield f"memory: {name}", f"{memory[key]:,.0f} MiB" if key in memory else "not measured"
    for key, value in found.get("cuda_mib", {}).items():
        yield f"CUDA memory: {key}", f"{value:,.0f} MiB"


_ROWS: dict[str, Callable[[Any], Iterator[tuple[str, str]]]] = {
    "candidates": _candidates,
    "throughput": _throughput,
    "energy": _energy_rows,
    "roofline": _roofline,
    "fresh": _fresh_rows,
}
