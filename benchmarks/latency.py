"""How long one detection takes: preprocess, network and postprocess apart and end to end, on real images in order.

The clock starts with a decoded image in host memory and stops with detections in host memory, so that on CUDA the
copy in counts to `preprocess` and the copy out to `postprocess`. Parts that a detector marks (`zoo.detector.stage`:
its proposals) are stages of their own, and the stage that holds them is without them. Raw samples are kept; statistics
are derived.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from benchmarks.hardware import WarmUp
from benchmarks.proposals import Memory, proposer_of
from zoo.detector import Detector, listening
from zoo.parts.fitting import Images

__all__ = [
    "STAGES",
    "ForeignLoad",
    "LatencyResult",
    "by_stage",
    "fixed_threads",
    "is_steady",
    "measure_latency",
    "summarise",
    "time_call",
]

STAGES = ("preprocess", "network", "postprocess", "end_to_end")
"""Of every detector. Those that propose regions have `proposals` besides, which `network` then leaves out."""

_ENOUGH = {"p90": 10, "p95": 20, "p99": 100}
"""Samples from which a percentile is stated: at least one sample must lie beyond it."""


@dataclass(frozen=True)
class LatencyResult:
    """What was measured and how.

    Attributes:
        samples: Seconds of each call, by stage (`STAGES`, and `proposals` where the detector marks them), in the order
            of the images.
        warmup_samples: Seconds end to end of each call of the warm-up.
        converged: Whether the warm-up ended steady. If not, the samples may still fall or rise.
        foreign_load: Processor cores that other processes kept busy during the samples, on average.
        protocol: What the times depend on: batch, threads, images, warm-up rule.
    """

    samples: dict[str, list[float]]
    warmup_samples: list[float]
    converged: bool
    foreign_load: float
    protocol: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The metrics of a Record: `summarise` of each stage, `converged` and `foreign_load`."""
        stages = {stage: summarise(seconds) for stage, seconds in self.samples.items()}
        return {**stages, "converged": self.converged, "foreign_load": self.foreign_load}


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
    progress: Callable[[int, int], None] | None = None,
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
        seconds: Stop after so long, though not before a 95th percentile can be stated.
        warmup: The rule; None for its defaults.
        progress: Called with calls done and calls in all (of the measured part).

    Raises:
        ValueError: The set is empty, or one of the numbers is not positive, or no batch can be filled, or the detector
            takes its proposals from a memory.
    """
    if min(images, batch, 1 if threads is None else threads) < 1:
        raise ValueError(f"need at least 1 image, thread and image a batch, got {images}, {threads} and {batch}")
    images = min(images, len(dataset))
    if images < batch:
        raise ValueError(f"{images} images fill no batch of {batch}; use a larger set or a smaller batch")
    device, warmup = torch.device(device), warmup or WarmUp()
    model.to(device).eval()
    pictures = [dataset[index][0] for index in range(images)]
    calls = [pictures[start : start + batch] for start in range(0, images - batch + 1, batch)]
    if isinstance(proposer := proposer_of(model), Memory):
        raise ValueError("proposals out of a memory cannot be timed; give the detector its proposer back")

    if proposer is not None:
        # What it imports at its first use must be there when threads are set.
        proposer(pictures[0])
    with torch.inference_mode(), fixed_threads(threads) as fixed:
        warm, converged = _warm_up(lambda turn: time_call(model, calls[turn], device)["end_to_end"], len(calls), warmup)
        rows: list[dict[str, float]] = []
        load, start = ForeignLoad(), time.perf_counter()
        for done, call in enumerate(calls, start=1):
            if seconds is not None and time.perf_counter() - start > seconds and len(rows) >= _ENOUGH["p95"]:
                break
            rows.append(time_call(model, call, device))
            if progress is not None:
                progress(done, len(calls))
        foreign = load.cores()
    protocol = {
        "batch": batch,
        "threads": fixed,
        "images": len(rows) * batch,
        "order": "first of the split, in order",
        "from": "decoded image in host memory",
        "to": "detections in host memory",
        "clock": "events, host clock end to end" if device.type == "cuda" else "host clock",
        "warmup": {**warmup.model_dump(), "calls": len(warm)},
    }
    return LatencyResult(by_stage(rows), warm, converged, foreign, protocol)


def by_stage(calls: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Samples by stage from stages by call, the parts behind the network; a part that a call lacks took no time."""
    parts = dict.fromkeys(name for call in calls for name in call if name not in STAGES)
    names = (*STAGES[:2], *parts, *STAGES[2:])
    return {name: [call.get(name, 0.0) for call in calls] for name in names}


def summarise(seconds: Sequence[float]) -> dict[str, float | int | None]:
    """Median, quartile range and high percentiles in seconds; None for a percentile with too few samples beyond it.

    Percentiles interpolate linearly between samples.
    """
    if not seconds:
        raise ValueError("no samples to summarise")
    values = np.asarray(seconds, dtype=np.float64)
    q1, median, q3 = np.percentile(values, [25, 50, 75]).tolist()
    high = {
        name: float(np.percentile(values, int(name[1:]))) if len(values) >= enough else None
        for name, enough in _ENOUGH.items()
    }
    return {"samples": len(values), "median": median, "iqr": q3 - q1, **high}


def is_steady(seconds: Sequence[float], rule: WarmUp) -> bool:
    """Whether the moving median of the last calls runs flat (see `WarmUp`)."""
    if len(seconds) < max(rule.at_least, 2 * rule.window):
        return False
    last = np.asarray(seconds[-2 * rule.window :], dtype=np.float64)
    medians = np.median(np.lib.stride_tricks.sliding_window_view(last, rule.window), axis=1)
    slope = np.polyfit(np.arange(len(medians)), medians, 1)[0]
    return bool(abs(slope) * rule.window <= rule.slope * np.median(medians))


def _warm_up(call: Callable[[int], float], calls: int, rule: WarmUp) -> tuple[list[float], bool]:
    # Always the same few images: a moving median over whole rounds of them changes only as the machine does.
    rounds, seconds, start = min(rule.window, calls), list[float](), time.perf_counter()
    while len(seconds) < rule.at_most:
        seconds.append(call(len(seconds) % rounds))
        if is_steady(seconds, rule):
            return seconds, True
        if time.perf_counter() - start > rule.seconds:
            break
    return seconds, False


class _Clock:
    """Times the three stages of one call, and apart from them the parts that the detector marks by `stage`.

    Args:
        now: A mark on the clock: seconds, or an event.
    """

    def __init__(self, now: Callable[[], Any]) -> None:
        self._now = now
        self._marks: list[Any] = []
        self._parts: list[tuple[str, int, Any, Any]] = []
        self._within = False

    def mark(self) -> None:
        """The border of two stages."""
        self._marks.append(self._now())

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
        self._parts.append((name, len(self._marks) - 1, begin, self._now()))

    def seconds(self, between: Callable[[Any, Any], float]) -> dict[str, float]:
        """By stage, parts behind the network; a part's time is taken out of the stage that holds it."""
        stages = [between(before, after) for before, after in itertools.pairwise(self._marks)]
        parts: dict[str, float] = {}
        for name, holder, begin, end in self._parts:
            length = between(begin, end)
            stages[holder] -= length
            parts[name] = parts.get(name, 0.0) + length
        preprocess, network, postprocess = stages
        return {"preprocess": preprocess, "network": network, **parts, "postprocess": postprocess}


def time_call(model: Detector, images: list[Tensor], device: torch.device) -> dict[str, float]:
    """Seconds of one call by stage: `STAGES`, and the parts that the detector marks, such as `proposals`."""
    return (_time_on_cuda if device.type == "cuda" else _time_on_host)(model, images, device)


def _time_on_host(model: Detector, images: list[Tensor], device: torch.device) -> dict[str, float]:
    clock = _Clock(time.perf_counter)
    start = time.perf_counter()
    with listening(clock):
        clock.mark()
        batch = model.preprocess(images)
        clock.mark()
        outputs = model.network(batch)
        clock.mark()
        model.postprocess(outputs, batch)
        clock.mark()
    end = time.perf_counter()
    return {**clock.seconds(lambda before, after: after - before), "end_to_end": end - start}


def _time_on_cuda(model: Detector, images: list[Tensor], device: torch.device) -> dict[str, float]:
    stream = torch.cuda.current_stream(device)

    def now() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(stream)
        return event

    clock = _Clock(now)
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    with listening(clock):
        clock.mark()
        batch = model.preprocess([image.to(device) for image in images])
        clock.mark()
        outputs = model.network(batch)
        clock.mark()
        for answer in model.postprocess(outputs, batch):
            answer.to("cpu")
        clock.mark()
    torch.cuda.synchronize(device)
    end = time.perf_counter()
    return {**clock.seconds(lambda before, after: before.elapsed_time(after) / 1000), "end_to_end": end - start}


@contextlib.contextmanager
def fixed_threads(threads: int | None) -> Iterator[int]:
    """Give PyTorch, and numba and OpenCV where they are in use, one number of threads for a while."""
    before = torch.get_num_threads()
    fixed = threads or before
    numba, cv2 = sys.modules.get("numba"), sys.modules.get("cv2")
    numba_before = numba.get_num_threads() if numba else 0
    cv2_before = cv2.getNumThreads() if cv2 else 0
    torch.set_num_threads(fixed)
    if numba:
        numba.set_num_threads(min(fixed, numba.config.NUMBA_NUM_THREADS))
    if cv2:
        cv2.setNumThreads(fixed)
    try:
        yield fixed
    finally:
        torch.set_num_threads(before)
        if numba:
            numba.set_num_threads(numba_before)
        if cv2:
            cv2.setNumThreads(cv2_before)


class ForeignLoad:
    """Processor time that others took since construction: a noisy neighbour shows in the Record."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._start = time.perf_counter()
        self._all, self._own = self._busy()

    def _busy(self) -> tuple[float, float]:
        machine, own = psutil.cpu_times(), self._process.cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        # On Linux `guest` is counted in `user` already.
        guests = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)
        return sum(machine) - idle - guests, own.user + own.system

    def cores(self) -> float:
        """Mean number of cores that other processes kept busy."""
        machine, own = self._busy()
        foreign = (machine - self._all) - (own - self._own)
        return max(0.0, foreign / max(time.perf_counter() - self._start, 1e-9))
