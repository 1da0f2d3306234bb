"""Detectors side by side: the same images, one process, image by image, so that a slower minute slows all alike.

On each image every detector is timed once, stage by stage, before the next image comes. Who goes first changes from
image to image. Ratios are of medians, against the detector that is named last, with an interval from resampling the
images; who is faster is told by the pairs of times of an image (`compare_times`). Proposals are computed each time,
never remembered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

from benchmarks import hardware
from benchmarks.datasets import Dataset
from benchmarks.evaluate import load_subject
from benchmarks.jsons import as_json
from benchmarks.latency import ForeignLoad, by_stage, fixed_threads, interleaved, summarise, time_call
from benchmarks.metrics.intervals import ratio_of_medians
from benchmarks.metrics.quantiles import compare_times
from benchmarks.proposals import Memory, proposer_of
from benchmarks.provenance import commit, dataset_id, versions, weights_id
from benchmarks.results import Record, Weights
from zoo import CATALOG, build, checkpoints
from zoo.detector import Detector

__all__ = ["Contender", "compare_latency", "contender", "print_beside"]


@dataclass(frozen=True)
class Contender:
    """A detector that is timed beside others.

    Attributes:
        name: Catalog name.
        model: In evaluation mode.
        scale: As in Record.
        overrides: Constructor arguments.
        weights: The checkpoint; None for random ones,
        seed: and theirs then.
        origin: Year, paper and family.
    """

    name: str
    model: Detector
    scale: Literal["small", "paper"]
    overrides: dict[str, Any] = field(default_factory=dict)
    weights: Weights | None = None
    seed: int | None = None
    origin: dict[str, Any] = field(default_factory=dict)


def contender(
    text: str,
    dataset: Dataset,
    *,
    random: bool = False,
    small: bool = False,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Contender:
    """A detector as the command line names it.

    Args:
        text: Catalog name, for the checkpoint that ships for the dataset; or `NAME=FILE`.
        dataset: Where it is to detect.
        random: Take random weights, of so many classes as the dataset has, instead of a checkpoint.
        small: With random weights, the small size instead of the paper's.
        seed: Of random weights.
        settings: With random weights, constructor arguments that differ from that size's.

    Raises:
        ValueError: The name is unknown, or there is no checkpoint, or one is to be built otherwise than it was.
    """
    name, separator, file = text.partition("=")
    if settings and not random:
        raise ValueError(f"{text}: a checkpoint knows how its detector is built; --set goes with --random only")
    if random:
        given = dict(settings or {})
        if name not in CATALOG or separator:
            raise ValueError(f"{text}: name a detector of the catalog, without a file, for random weights")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build(name, len(dataset.class_names), small=small, **given).eval()
        overrides = {**(CATALOG[name].small or {} if small else {}), **given}
        return Contender(name, model, "small" if small else "paper", overrides, None, seed, CATALOG[name].origin)
    path = Path(file) if separator else checkpoints.find(name, dataset.name)
    subject = load_subject(name, path, len(dataset.class_names))
    weights = weights_id(path)
    return Contender(subject.name, subject.model, subject.scale, subject.overrides, weights, None, subject.origin)


def compare_latency(
    contenders: Sequence[Contender],
    dataset: Dataset,
    *,
    images: int = 20,
    rounds: int = 1,
    threads: int = 2,
    device: str = "cpu",
    note: str = "",
) -> Record:
    """Time all on the first images, image by image.

    Args:
        contenders: The last one is what the others are measured by, and gives the Record its name.
        dataset: Decoding is not timed.
        images: Images to time, the first ones.
        rounds: How often all images are gone through.
        threads: Of PyTorch and OpenCV.
        device: `cpu` or a CUDA device.
        note: What a reader of the Record must know.

    Raises:
        ValueError: There are fewer than two, or two of one name, or no images, or one takes remembered proposals.
    """
    images, place = min(images, len(dataset)), torch.device(device)
    _refuse_unfit(contenders, images, rounds)
    for one in contenders:
        one.model.to(device).eval()
    pictures = [dataset[index][0] for index in range(images)]
    with torch.inference_mode():
        for one in contenders:
            # Imports what it imports at its first use, before threads are set.
            time_call(one.model, pictures[:1], place)
        with fixed_threads(threads) as fixed, hardware.watch(device, threads=fixed) as seen:
            for one in contenders:
                time_call(one.model, pictures[-1:], place)
            load = ForeignLoad()
            samples = _by_turns(contenders, pictures, rounds, place)
            foreign = load.cores()
    last = contenders[-1]
    return Record(
        kind="comparison",
        detector=last.name,
        scale=last.scale,
        overrides=as_json(last.overrides),
        num_classes=last.model.num_classes,
        weights=last.weights,
        dataset=dataset_id(dataset),
        protocol={
            "beside": [one.name for one in contenders[:-1]],
            "batch": 1,
            "threads": fixed,
            "images": images,
            "rounds": rounds,
            "order": "image by image, the first one changing",
            "from": "decoded image in host memory",
            "to": "detections in host memory",
            "clock": "events, host clock end to end" if place.type == "cuda" else "host clock",
        },
        hardware=hardware.stamp_watched(seen),
        commit=commit(),
        versions=versions(),
        metrics={
            "detectors": {one.name: _figures(one, samples[one.name], samples[last.name]) for one in contenders},
            "foreign_load": foreign,
            **last.origin,
        },
        samples={f"{name} {stage}": seconds for name, stages in samples.items() for stage, seconds in stages.items()},
        note=note,
    )


def _refuse_unfit(contenders: Sequence[Contender], images: int, rounds: int) -> None:
    names = [one.name for one in contenders]
    if len(contenders) < 2 or len(set(names)) < len(names):
        raise ValueError(f"need two or more detectors of different names, got {', '.join(names) or 'none'}")
    if min(images, rounds) < 1:
        raise ValueError(f"need at least one image and one round, got {images} and {rounds}")
    for one in contenders:
        if isinstance(proposer_of(one.model), Memory):
            raise ValueError(f"{one.name}: proposals out of a memory cannot be timed")


def _by_turns(
    contenders: Sequence[Contender], pictures: Sequence[Tensor], rounds: int, place: torch.device
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each call of each detector, by its name and by stage."""
    calls: dict[str, list[dict[str, float]]] = {one.name: [] for one in contenders}
    for turn, order in enumerate(interleaved(contenders, len(pictures), rounds, "timing")):
        for one in order:
            calls[one.name].append(time_call(one.model, [pictures[turn % len(pictures)]], place))
    return {name: by_stage(rows) for name, rows in calls.items()}


def _figures(one: Contender, own: dict[str, list[float]], last: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "scale": one.scale,
        "overrides": as_json(one.overrides),
        "weights": None if one.weights is None else one.weights.model_dump(),
        "random": one.seed,
        "stages": {stage: summarise(seconds) for stage, seconds in own.items()},
        "ratio": ratio_of_medians(own["end_to_end"], last["end_to_end"]),
        "pairs": compare_times(own["end_to_end"], last["end_to_end"]),
    }


def print_beside(record: Record) -> None:
    """Median milliseconds of each stage, a column a detector, and ratios."""
    found = record.metrics["detectors"]
    table = Table("ms", *(Column(name, justify="right", overflow="fold") for name in found))
    for stage in by_stage([dict.fromkeys(figures["stages"], 0.0) for figures in found.values()]):
        medians = [figures["stages"].get(stage, {}).get("median") for figures in found.values()]
        table.add_row(stage, *("-" if median is None else f"{1000 * median:.2f}" for median in medians))
    table.add_section()
    ratios = [figures["ratio"] for figures in found.values()]
    table.add_row(f"times {record.detector}", *(f"{ratio['median']:.2f}" for ratio in ratios))
    table.add_row("95 % interval", *(f"{ratio['low']:.2f} to {ratio['high']:.2f}" for ratio in ratios))
    names = list(found)
    table.add_row("by pairs", *(found[name]["pairs"]["verdict"] for name in names[:-1]), "")
    Console().print(table)
