"""Times of several detectors by turns on one core, so that a slower minute slows all alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.datasets import Dataset
from benchmarks.latency import ForeignLoad, by_stage, fixed_threads, interleaved, time_call
from zoo.detector import Detector

__all__ = ["Rival", "Timed", "Timing", "timed_by_turns"]

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Rival:
    """One of those that are timed.

    Attributes:
        name: In the samples.
        model: In evaluation mode, on the CPU.
        ready: Called before each call of the model, and not timed.
    """

    name: str
    model: Detector
    ready: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Timed:
    """What a Record is to hold of it.

    Attributes:
        metrics: What was counted, or summed up.
        samples: Seconds of each call, by `NAME STAGE`, in the order of the images, round by round.
        protocol: What the times depend on.
    """

    metrics: dict[str, Any]
    samples: dict[str, list[float]] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """What a claim has timed or counted on one core.

    Attributes:
        claim: Id.
        run: What does so, on a data set and its first images.
        data: Name and split.
        scale: Of the detectors, as in Record.
    """

    claim: str
    run: Callable[[Dataset, int], Timed]
    data: tuple[str, str]
    scale: Literal["small", "paper"]


def timed_by_turns(rivals: Sequence[Rival], pictures: Sequence[Tensor], rounds: int, stages: Sequence[str]) -> Timed:
    """Time each rival once on each image of each round, all on one image before the next comes.

    Args:
        rivals: Who goes first changes from image to image. Each is called twice before anything is timed.
        pictures: Decoded images.
        rounds: How often all of them are gone through.
        stages: Whose samples are kept, of those that `time_call` names.
    """
    calls: dict[str, list[dict[str, float]]] = {one.name: [] for one in rivals}

    def call(one: Rival, picture: Tensor) -> dict[str, float]:
        one.ready()
        return time_call(one.model, [picture], _CPU)

    with torch.inference_mode():
        for one in rivals:
            # Imports what it imports at its first use, before threads are set.
            call(one, pictures[0])
        with fixed_threads(1):
            for one in rivals:
                call(one, pictures[-1])
            load = ForeignLoad()
            for turn, order in enumerate(interleaved(rivals, len(pictures), rounds, "timing")):
                for one in order:
                    calls[one.name].append(call(one, pictures[turn % len(pictures)]))
            foreign = load.cores()
    samples = {
        # The clock's own step: more digits say nothing, and fill Records.
        f"{name} {stage}": [round(value, 9) for value in values]
        for name, rows in calls.items()
        for stage, values in by_stage(rows).items()
        if stage in stages
    }
    protocol = {
        "threads": 1,
        "images": len(pictures),
        "rounds": rounds,
        "calls_a_round": len(pictures),
        "order": "image by image, the first one changing",
        "from": "decoded image in host memory",
        "to": "detections in host memory",
    }
    return Timed({"foreign_load": foreign}, samples, protocol)
