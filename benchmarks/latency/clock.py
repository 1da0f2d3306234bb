"""One call of a detector, timed stage by stage.

The clock starts with a decoded image in host memory and stops with detections in host memory. On CUDA the copies in and
out are stages of their own, and all stages are timed by events; on a CPU nothing is copied, so there are none. Parts
that a detector marks (`zoo.detector.stage`: its proposals) are stages of their own, and the stage that holds them is
without them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ops.structures import Detections
from zoo.detector import Detector, listening

__all__ = ["COPIES", "STAGES", "by_stage", "detect_timed", "interleaved", "time_call", "wait_for"]

STAGES = ("preprocess", "network", "postprocess", "end_to_end")
"""Of every detector. Those that propose regions have `proposals` besides, which `network` then leaves out."""

T = TypeVar("T")

COPIES = ("host_to_device", "device_to_host")
"""Before and behind the stages of a detector, where it runs on another device than the host."""


def by_stage(calls: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Samples by stage from stages by call, in the order of work; a part that a call lacks took no time."""
    seen = dict.fromkeys(name for call in calls for name in call)
    parts = [name for name in seen if name not in (*STAGES, *COPIES)]
    into, out = ([name] if name in seen else [] for name in COPIES)
    names = (*into, *STAGES[:2], *parts, STAGES[2], *out, STAGES[3])
    return {name: [call.get(name, 0.0) for call in calls] for name in names}


def interleaved(rivals: Sequence[T], images: int, rounds: int, title: str | None = None) -> Iterator[Sequence[T]]:
    """For each image of each round who is timed after whom: a slower minute slows all alike, and who goes first changes
    from image to image, and for an image from round to round, so that nobody always finds the caches warm.

    Args:
        rivals: Who is timed.
        images: How many each is timed on,
        rounds: and how often.
        title: Of a bar on stderr; None for no bar.
    """
    turns = range(rounds * images)
    # Drawn between the images: a thread that draws would run beside what is timed.
    for turn in track(turns, title or "", console=Console(stderr=True), auto_refresh=False, disable=title is None):
        first = (turn + turn // images) % len(rivals)
        yield (*rivals[first:], *rivals[:first])


class _Clock:
    """Times the stages of one call, one after the other, and apart from them the parts that the detector marks.

    Args:
        now: A mark on the clock: seconds, or an event.
    """

    def __init__(self, now: Callable[[], Any]) -> None:
        self._now = now
        self._stages: list[tuple[str, Any, Any]] = []
        self._parts: list[tuple[str, int, Any, Any]] = []
        self._within = False
        self._begin = now()

    def end(self, name: str) -> None:
        """The stage that runs is `name`, and ends; the next one begins."""
        now = self._now()
        self._stages.append((name, self._begin, now))
        self._begin = now

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Surround a part; what it holds in turn is not told apart."""
        if self._within:
            yield
            return
        self._within, begin = True, self._now()
        try:
            yield
        finally:
            self._within = False
        self._parts.append((name, len(self._stages), begin, self._now()))

    def seconds(self, between: Callable[[Any, Any], float]) -> dict[str, float]:
        """By stage and part; a part's time is taken out of the stage that holds it."""
        stages = {name: between(begin, end) for name, begin, end in self._stages}
        names, parts = list(stages), dict[str, float]()
        for name, holder, begin, end in self._parts:
            length = between(begin, end)
            stages[names[holder]] -= length
            parts[name] = parts.get(name, 0.0) + length
        return stages | parts


def wait_for(device: torch.device) -> None:
    """Until a GPU has done what it was told, which it does while the host goes on; a CPU has done it already."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_call(model: Detector, images: list[Tensor], device: torch.device) -> dict[str, float]:
    """Seconds of one call by stage: `STAGES`, the `COPIES` there are, and what the detector marks, as `proposals`."""
    return detect_timed(model, images, device)[0]


def detect_timed(
    model: Detector, images: list[Tensor], device: torch.device, now: Callable[[], float] = time.perf_counter
) -> tuple[dict[str, float], list[Detections]]:
    """One call: its seconds by stage, and the detections, in host memory.

    Args:
        model: In evaluation mode, on `device`.
        images: In host memory.
        device: Where it runs. On CUDA stages are timed by events, end to end by `now`.
        now: The host's clock, in seconds.
    """
    on_cuda = device.type == "cuda"
    wait_for(device)
    start = now()
    clock = _Clock(_events(device) if on_cuda else now)
    with listening(clock):
        if on_cuda:
            images = [image.to(device) for image in images]
            clock.end("host_to_device")
        batch = model.preprocess(images)
        clock.end("preprocess")
        outputs = model.network(batch)
        clock.end("network")
        answers = model.postprocess(outputs, batch)
        clock.end("postprocess")
        if on_cuda:
            answers = [answer.to("cpu") for answer in answers]
            clock.end("device_to_host")
    wait_for(device)
    end = now()
    between = _between_events if on_cuda else _between_seconds
    return {**clock.seconds(between), "end_to_end": end - start}, answers


def _events(device: torch.device) -> Callable[[], torch.cuda.Event]:
    stream = torch.cuda.current_stream(device)

    def now() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(stream)
        return event

    return now


def _between_events(begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
    return begin.elapsed_time(end) / 1000


def _between_seconds(begin: float, end: float) -> float:
    return end - begin
