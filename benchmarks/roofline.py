"""The least time that a network can take on a machine, by its arithmetic and by its traffic to memory.

The roofline of Williams, Waterman and Patterson (CACM 2009): no network is faster than its products at the machine's
peak, nor than its bytes at the peak of its memory. Peaks are measured here, by a matrix product and by a copy. Bytes
are those that cannot be saved by fusing layers that only change values in place: each weight once, and what goes into
and comes out of every layer that multiplies. Convolutions that save products (Winograd) may beat the floor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cost import flop_counter
from benchmarks.growth import NotMeasured
from benchmarks.hardware import Precision
from benchmarks.latency import time_call, wait_for
from benchmarks.modes import Mode, running
from benchmarks.stages import leaves
from ops.images import Batch
from zoo.detector import Detector

__all__ = ["Peaks", "Work", "count_work", "floor", "measure_peaks", "roofline"]


@dataclass(frozen=True)
class Peaks:
    """What a machine can do.

    Attributes:
        flops: Floating-point operations a second in a large matrix product; a multiply-accumulate is two.
        bandwidth: Bytes a second, read and written, in a copy from memory to memory.
    """

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Work:
    """What a network does to a batch.

    Attributes:
        macs: Multiply-accumulates, as `benchmarks.cost` counts them.
        weights: Elements of the weights of all layers that ran and multiply.
        activations: Elements that went into and came out of these layers.
    """

    macs: int
    weights: int
    activations: int

    def bytes(self, precision: Precision) -> int:
        """Of weights and activations."""
        return (self.weights + self.activations) * (2 if precision in ("float16", "bfloat16") else 4)


def count_work(model: Detector, batch: Batch) -> Work:
    """Count while the network looks at a batch, on the regions that it finds there."""
    counter = flop_counter()
    with torch.no_grad(), counter, _layers(model) as seen:
        model.network(batch)
    return Work(int(counter.get_total_flops()) // 2, sum(seen.weights.values()), seen.activations)


@dataclass
class _Seen:
    weights: dict[nn.Module, int]
    activations: int = 0


@contextmanager
def _layers(model: nn.Module) -> Iterator[_Seen]:
    """Elements of the layers that multiply and run meanwhile; a layer that runs for several levels has one weight."""
    seen = _Seen({})

    def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
        seen.weights[layer] = sum(entry.numel() for entry in layer.parameters(recurse=False))
        seen.activations += sum(leaf.numel() for leaf in leaves([*inputs, output]) if isinstance(leaf, Tensor))

    multiply = [part for part in model.modules() if any(entry.ndim > 1 for entry in part.parameters(recurse=False))]
    handles = [part.register_forward_hook(hook) for part in multiply]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def floor(work: Work, peaks: Peaks, precision: Precision = "float32") -> dict[str, Any]:
    """The least seconds that the work can take, and what binds it."""
    compute, memory = 2 * work.macs / peaks.flops, work.bytes(precision) / peaks.bandwidth
    return {
        "seconds": max(compute, memory),
        "bound": "arithmetic" if compute >= memory else "memory",
        "arithmetic_seconds": compute,
        "memory_seconds": memory,
    }


def measure_peaks(device: torch.device | str = "cpu", precision: Precision = "float32", seconds: float = 0.5) -> Peaks:
    """The fastest of as many matrix products, and as many copies, as `seconds` hold."""
    place = torch.device(device)
    side, length = (8_192, 2**28) if place.type == "cuda" else (1_024, 2**25)
    dtype = getattr(torch, precision) if precision != "tf32" else torch.float32
    left, right = (torch.ones((side, side), dtype=dtype, device=place) for _ in range(2))
    product = torch.empty_like(left)
    fastest = _fastest(lambda: torch.mm(left, right, out=product), place, seconds)
    source = torch.ones(length, dtype=torch.float32, device=place)
    target = torch.empty_like(source)
    copied = _fastest(lambda: target.copy_(source), place, seconds)
    return Peaks(2 * side**3 / fastest, 2 * source.nbytes / copied)


def _fastest(call: Callable[[], object], place: torch.device, seconds: float) -> float:
    best, begun = float("inf"), time.perf_counter()
    call()
    while time.perf_counter() - begun < seconds or best == float("inf"):
        wait_for(place)
        start = time.perf_counter()
        call()
        wait_for(place)
        best = min(best, time.perf_counter() - start)
    return best


def roofline(
    model: Detector,
    pictures: Sequence[Tensor],
    *,
    mode: Mode | None = None,
    device: torch.device | str = "cpu",
    rounds: int = 5,
    peaks: Peaks | None = None,
) -> dict[str, Any]:
    """Time the network on pictures one by one, and set that beside the floor of the same pictures.

    Args:
        model: The detector, in no mode.
        pictures: `[3, H, W]`.
        mode: How it runs while it is timed; what it does is counted in the plain mode.
        device: Where.
        rounds: How often each picture is timed, after once unmeasured; the fastest counts.
        peaks: Of the machine; None measures them.

    Returns:
        `seconds` (the network and its proposals, summed over pictures), `floor` as the function says,
        `ratio` of the seconds to the floor, `peaks`, and `macs`, `weights` and `activations` of all `images`.

    Raises:
        NotMeasured: The detector has no layer that multiplies.
    """
    mode, place = mode or Mode(), torch.device(device)
    peaks = peaks or measure_peaks(place, mode.precision)
    works, seconds = [], 0.0
    for picture in pictures:
        with torch.no_grad():
            works.append(count_work(model, model.preprocess([picture.to(place)])))
    if not any(work.macs for work in works):
        raise NotMeasured(f"{type(model).__name__} has no layer whose products are counted")
    with running(model, mode, place), torch.inference_mode():
        for picture in pictures:
            calls = [time_call(model, [picture], place) for _ in range(1 + rounds)][1:]
            # What lies between preprocessing and postprocessing, whatever parts it is told apart in.
            seconds += min(
                sum(took for part, took in call.items() if part not in ("preprocess", "postprocess", "end_to_end"))
                for call in calls
            )
    # A weight is read again for each picture.
    work = Work(*(sum(getattr(one, entry) for one in works) for entry in ("macs", "weights", "activations")))
    least = floor(work, peaks, mode.precision)
    return {
        "seconds": seconds,
        "floor": least,
        "ratio": seconds / least["seconds"],
        "peaks": asdict(peaks),
        "images": len(pictures),
        **asdict(work),
    }
