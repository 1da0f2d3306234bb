"""How a detector's time grows: with the boxes that enter suppression, and with the images of a batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy.stats import theilslopes
from torch import Tensor, nn

from benchmarks.latency import time_call, wait_for
from ops.nms import watching
from zoo.detector import Detector

__all__ = ["KNOBS", "NotMeasured", "against_candidates", "throughput"]

KNOBS: Mapping[str, tuple[float, ...]] = {
    "score_floor": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6),
    "top_k": (10, 20, 40, 70, 100),
}
"""Attributes of detectors, or of parts of them, that say how much enters suppression, and the settings to try."""


class NotMeasured(Exception):
    """Something cannot be measured here; the message is the reason, as a Record keeps it."""


def against_candidates(
    model: Detector,
    pictures: Sequence[Tensor],
    *,
    device: torch.device | str = "cpu",
    rounds: int = 5,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Time postprocessing with few and many candidates: the same outputs of the network, and another threshold.

    Settings take turns, so that a slower minute slows all alike.

    Args:
        model: In evaluation mode, on `device`.
        pictures: `[3, H, W]`, a call each.
        device: `cpu` or a CUDA device, which is waited for before the clock is read.
        rounds: How often each picture is postprocessed at each setting.
        now: The clock, in seconds.

    Returns:
        `knob`: what was varied. `points`, one a picture and setting: `setting`, `candidates` (boxes that entered
        suppression), `detections`, `seconds` (median). `seconds_per_1000_candidates` and `seconds_per_100_detections`:
        slope of a Theil-Sen line through the points with the 95 % interval, each taken alone; both numbers rise
        together, so that the slopes do not add up. `seconds_at_none`: where the line of candidates begins.

    Raises:
        NotMeasured: The detector has nothing to vary, or nothing changes with it.
    """
    knob, place = _knob(model), torch.device(device)
    work = [(outputs, batch) for outputs, batch in _outputs(model, pictures, place)]
    points = []
    with torch.inference_mode():
        for outputs, batch in work:
            seconds: dict[float, list[float]] = {setting: [] for setting in KNOBS[knob]}
            counts = {setting: _counted(model, knob, setting, outputs, batch) for setting in seconds}
            for turn in range(rounds):
                for setting in list(seconds)[:: 1 if turn % 2 == 0 else -1]:
                    with _turned(model, knob, setting):
                        wait_for(place)
                        start = now()
                        model.postprocess(outputs, batch)
                        wait_for(place)
                        seconds[setting].append(now() - start)
            for setting, (candidates, detections) in counts.items():
                median = float(np.median(seconds[setting]))
                points.append(
                    {"setting": setting, "candidates": candidates, "detections": detections, "seconds": median}
                )
    slope, start_at = _slope(points, "candidates", 1_000)
    by_detections, _ = _slope(points, "detections", 100)
    if slope is None:
        raise NotMeasured(f"{points[0]['candidates']} boxes enter suppression whatever {knob} is")
    return {
        "knob": knob,
        "points": points,
        "seconds_per_1000_candidates": slope,
        "seconds_at_none": start_at,
        "seconds_per_100_detections": by_detections,
    }


def _outputs(model: Detector, pictures: Sequence[Tensor], place: torch.device) -> Iterator[tuple[Any, Any]]:
    for picture in pictures:
        with torch.inference_mode():
            batch = model.preprocess([picture.to(place)])
            yield model.network(batch), batch


def _knob(model: nn.Module) -> str:
    for knob in KNOBS:
        if _holders(model, knob):
            return knob
    raise NotMeasured(f"{type(model).__name__} has no {' or '.join(KNOBS)} that says how much enters suppression")


def _holders(model: nn.Module, knob: str) -> list[nn.Module]:
    return [part for part in model.modules() if isinstance(part.__dict__.get(knob), int | float)]


@contextmanager
def _turned(model: nn.Module, knob: str, setting: float) -> Iterator[None]:
    before = [(part, part.__dict__[knob]) for part in _holders(model, knob)]
    for part, _ in before:
        part.__dict__[knob] = setting
    try:
        yield
    finally:
        for part, value in before:
            part.__dict__[knob] = value


def _counted(model: Detector, knob: str, setting: float, outputs: Any, batch: Any) -> tuple[int, int]:
    """Boxes that enter suppression, and detections that leave it."""
    entering: list[int] = []
    with _turned(model, knob, setting), watching(lambda boxes, _scores, _labels: entering.append(len(boxes))):
        answers = model.postprocess(outputs, batch)
    return sum(entering), sum(map(len, answers))


def _slope(points: Sequence[Mapping[str, float]], by: str, unit: int) -> tuple[dict[str, float] | None, float | None]:
    """Seconds a `unit` of one count, with its interval, and seconds where the count is none."""
    counts, seconds = [[float(point[key]) for point in points] for key in (by, "seconds")]
    if len(set(counts)) < 2:
        return None, None
    slope, start, low, high = theilslopes(seconds, counts, alpha=0.95)
    return {"median": unit * float(slope), "low": unit * float(low), "high": unit * float(high)}, float(start)


def throughput(
    model: Detector,
    pictures: Sequence[Tensor],
    *,
    batches: Sequence[int] = (1, 2, 4, 8),
    device: torch.device | str = "cpu",
    rounds: int = 5,
    timed: Callable[[Detector, list[Tensor], torch.device], Mapping[str, float]] = time_call,
) -> list[dict[str, Any]]:
    """Images a second, decoded image to detections, by images a call; sizes of batches take turns.

    Args:
        model: In evaluation mode, on `device`.
        pictures: `[3, H, W]`; larger batches begin anew with the first.
        batches: Images a call.
        device: `cpu` or a CUDA device.
        rounds: Calls of each size, after one that is not counted.
        timed: Gives seconds of a call by stage, `end_to_end` among them.

    Returns:
        For each size `batch`, `images_per_second` (from the median call) and `samples` (seconds); for one that fills
        the memory, `not_measured`.

    Raises:
        ValueError: There is no picture, or a size is not positive.
    """
    if not pictures or min(batches, default=0) < 1:
        raise ValueError(f"need at least one picture and batches of one or more, got {len(pictures)} and {batches}")
    place = torch.device(device)
    calls = {size: [pictures[index % len(pictures)] for index in range(size)] for size in sorted(set(batches))}
    samples: dict[int, list[float]] = {size: [] for size in calls}
    full: int | None = None
    with torch.inference_mode():
        for turn in range(-1, rounds):
            for size, call in calls.items():
                if full is not None and size >= full:
                    continue
                try:
                    seconds = timed(model, call, place)["end_to_end"]
                except torch.OutOfMemoryError:
                    full = size
                    torch.cuda.empty_cache()
                    continue
                if turn >= 0:
                    samples[size].append(seconds)
    return [_row(size, seconds, full) for size, seconds in samples.items()]


def _row(size: int, seconds: list[float], full: int | None) -> dict[str, Any]:
    if full is not None and size >= full:
        return {"batch": size, "not_measured": f"a batch of {full} does not fit into memory"}
    return {"batch": size, "images_per_second": size / float(np.median(seconds)), "samples": seconds}
