"""How long a detector takes: stages apart and end to end, on real images in order, raw samples kept."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.hardware import Stopping, WarmUp
from benchmarks.latency.clock import by_stage, detect_timed
from benchmarks.latency.converging import Call, Discard, Disturbed, Sampled, sample, warm_up
from benchmarks.latency.machine import ForeignLoad, fixed_threads
from benchmarks.latency.samples import summarise
from benchmarks.proposals import Memory, proposer_of
from ops.structures import Detections
from zoo.detector import Detector
from zoo.parts.fitting import Images

__all__ = ["LatencyResult", "measure_latency"]

_FEWEST = 20
"""Calls of a round however slow they are: a 95th percentile can be stated."""


@dataclass(frozen=True)
class LatencyResult:
    """What was measured and how.

    Attributes:
        samples: Seconds of each call, by stage (`STAGES`, and `proposals` where the detector marks them; on CUDA the
            `COPIES` too), in the order of the images, round by round.
        warmup_samples: Seconds end to end of each call of the warm-up.
        converged: Whether the warm-up ended steady, and the samples as their rule asks.
        foreign_load: Processor cores that other processes kept busy during the samples, on average.
        protocol: What the times depend on: batch, threads, images, warm-up rule, stopping rule.
        answers: Detections on each image of the last round, in host memory.
        sampling: How the samples ended: see `summary`.
    """

    samples: dict[str, list[float]]
    warmup_samples: list[float]
    converged: bool
    foreign_load: float
    protocol: dict[str, Any] = field(default_factory=dict)
    answers: list[Detections] = field(default_factory=list)
    sampling: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The metrics of a Record.

        `summarise` of each stage, `converged`, `foreign_load`, and `sampling`: the `half_width` of the median's
        interval as a share of the median, `faults` (why it did not converge), and what disturbed each window that was
        `discarded`, or was `disturbed` and kept.
        """
        calls = self.protocol.get("calls_a_round")
        stages = {stage: summarise(seconds, calls) for stage, seconds in self.samples.items()}
        return {**stages, "converged": self.converged, "foreign_load": self.foreign_load, "sampling": self.sampling}


class _Rounds:
    """Goes through the images, and keeps the detections of the last round."""

    def __init__(
        self, model: Detector, calls: Sequence[list[Tensor]], device: torch.device, clock: Callable[[], float]
    ) -> None:
        self._model, self._device, self._clock = model, device, clock
        self.calls = calls
        self.answers: list[Detections] = []

    def call(self, turn: int) -> float:
        """Seconds of one call end to end."""
        return detect_timed(self._model, self.calls[turn], self._device, self._clock)[0]["end_to_end"]

    def __call__(self, seconds: float | None = None) -> list[Call]:
        """Once through; after `seconds` it ends early, though not before `_FEWEST` calls."""
        start, found, answers = self._clock(), list[Call](), list[Detections]()
        for call in self.calls:
            if seconds is not None and self._clock() - start > seconds and len(found) >= _FEWEST:
                break
            timed, seen = detect_timed(self._model, call, self._device, self._clock)
            found.append(timed)
            answers += seen
        self.answers = answers
        return found


def measure_latency(
    model: Detector,
    dataset: Images,
    *,
    device: torch.device | str = "cpu",
    images: int = 100,
    threads: int | None = None,
    batch: int = 1,
    seconds: float | None = None,
    warmup: WarmUp | None = None,
    stopping: Stopping | None = None,
    disturbed: Disturbed | None = None,
    discard: Discard | None = None,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[str], None] | None = None,
) -> LatencyResult:
    """Time a detector on the first images of a set.

    The model goes to `device` and into `eval()`, and stays there; the number of threads is put back.

    Args:
        model: Any detector. One without a neural network has the same three stages.
        dataset: `dataset[i]` gives image float `[3, H, W]` in [0, 1] and Target; decoding is not timed.
        device: `cpu` or a CUDA device. On CUDA the stages are timed by events, end to end by the host's clock.
        images: Images to measure, the first of the set in their order; no more than the set has.
        threads: Threads of PyTorch, numba and OpenCV, or None for PyTorch's present number.
        batch: Images a call; a rest that fills no batch is left out.
        seconds: Without `stopping`: end after so long, though not before a 95th percentile can be stated.
        warmup: The rule; None for its defaults.
        stopping: Go through the images again and again until this rule is met; None for one round. Of a detector so
            slow that three rounds do not fit into the rule's time, fewer images are measured, twenty at the least.
        disturbed: Says of two times of `clock` what disturbed in between; such a window is sampled again.
        discard: Told of the two times of each window that is thrown away.
        clock: The host's.
        progress: Called with a sentence now and then, never while a call is timed.

    Raises:
        ValueError: The set is empty, or one of the numbers is not positive, or no batch can be filled, or the detector
            takes its proposals from a memory.
    """
    device, warmup = torch.device(device), warmup or WarmUp()
    calls = _calls(dataset, images, batch, threads)
    model.to(device).eval()
    if isinstance(proposer := proposer_of(model), Memory):
        raise ValueError("proposals out of a memory cannot be timed; give the detector its proposer back")
    if proposer is not None:
        # What it imports at its first use must be there when threads are set.
        proposer(calls[0][0])
    rounds = _Rounds(model, calls, device, clock)
    with torch.inference_mode(), fixed_threads(threads) as fixed:
        warm, steady = warm_up(rounds.call, len(calls), warmup, clock)
        if stopping is not None:
            most = int(stopping.seconds[1] / 3 / max(statistics.median(warm), 1e-9))
            rounds.calls = calls[: max(most, _FEWEST)]
        load = ForeignLoad()
        sampled = sample(
            lambda: rounds(seconds if stopping is None else None), stopping, clock, disturbed, discard, progress
        )
        foreign = load.cores()
    conditions = {"batch": batch, "threads": fixed, "images": len(sampled.calls) // sampled.rounds * batch}
    return LatencyResult(
        # The clock's own step: more digits say nothing, and fill Records.
        {name: [round(value, 9) for value in values] for name, values in by_stage(sampled.calls).items()},
        warm,
        steady and not sampled.faults,
        foreign,
        {**conditions, **_rules(device, sampled, warmup, len(warm), stopping)},
        rounds.answers,
        _sampling(sampled, steady),
    )


def _calls(dataset: Images, images: int, batch: int, threads: int | None) -> list[list[Tensor]]:
    """The images of each call, decoded."""
    if min(images, batch, 1 if threads is None else threads) < 1:
        raise ValueError(f"need at least 1 image, thread and image a batch, got {images}, {threads} and {batch}")
    images = min(images, len(dataset))
    if images < batch:
        raise ValueError(f"{images} images fill no batch of {batch}; use a larger set or a smaller batch")
    pictures = [dataset[index][0] for index in range(images)]
    return [pictures[start : start + batch] for start in range(0, images - batch + 1, batch)]


def _rules(
    device: torch.device, sampled: Sampled, warmup: WarmUp, warm_calls: int, stopping: Stopping | None
) -> dict[str, Any]:
    """What is timed and by which clock, and the rules that began and ended it."""
    found: dict[str, Any] = {
        "order": "first of the split, in order",
        "from": "decoded image in host memory",
        "to": "detections in host memory",
        "clock": "events, host clock end to end" if device.type == "cuda" else "host clock",
        "warmup": {**warmup.model_dump(), "calls": warm_calls},
    }
    if stopping is not None:
        found["rounds"], found["calls_a_round"] = sampled.rounds, len(sampled.calls) // sampled.rounds
        found["stopping"] = stopping.model_dump()
    return found


def _sampling(sampled: Sampled, steady: bool) -> dict[str, Any]:
    return {
        "half_width": sampled.half_width,
        "faults": [*([] if steady else ["the warm-up did not end steady"]), *sampled.faults],
        "discarded": list(sampled.discarded),
        "disturbed": list(sampled.disturbed),
    }
