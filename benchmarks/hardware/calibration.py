"""Four kernels of which the time is known on a profile's machine: matrix product, convolution, device copy, NMS.

A machine that is slower or faster on them is another machine, whatever it calls itself. All are in float32 without
TF32, on fixed numbers, a second in all. Sizes are such that each kernel keeps the device busy for milliseconds; they
are part of what the bands in the profiles mean, so changing one makes all bands void.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple, get_args

import torch
import torchvision
from torch import Tensor
from torch.nn import functional

from benchmarks.hardware.profiles import Kernel

__all__ = ["KERNELS", "bands", "calibrate", "calibrated"]

KERNELS: tuple[Kernel, ...] = get_args(Kernel)

_LEAST = 5
"""Calls of each kernel, however slow it is."""


class _Sizes(NamedTuple):
    """Side of the matrices; images, channels and side of the convolution; MiB of the copy; boxes of the NMS."""

    matrix: int
    images: int
    channels: int
    side: int
    mebibytes: int
    boxes: int


_SIZES = {
    "cpu": _Sizes(matrix=768, images=1, channels=64, side=112, mebibytes=64, boxes=3000),
    "cuda": _Sizes(matrix=8192, images=16, channels=256, side=100, mebibytes=1024, boxes=30000),
}


def calibrate(device: torch.device | str, threads: int | None = None, *, seconds: float = 0.25) -> dict[Kernel, float]:
    """Time the kernels.

    Args:
        device: `cpu` or a CUDA device.
        threads: Threads of PyTorch, or None for its present number, which is put back.
        seconds: Of each kernel; its first fifth is for warming up.

    Returns:
        Median seconds of one call, by kernel.
    """
    place = torch.device(device)
    with torch.inference_mode(), _plain_float32(threads):
        return {name: _time(call, place, seconds) for name, call in _kernels(place).items()}


@functools.cache
def calibrated(device: str, threads: int) -> dict[Kernel, float]:
    """`calibrate`, once a process."""
    return calibrate(device, threads)


def bands(rounds: Sequence[dict[Kernel, float]], slack: float = 0.15) -> str:
    """The `[calibration]` table of a profile's TOML, from repeated calibrations on its machine.

    Each band holds all rounds, and reaches at least `slack` of the median to either side.
    """
    lines = ["[calibration]"]
    for kernel in KERNELS:
        times = [found[kernel] for found in rounds]
        middle = median(times)
        low, high = min((1 - slack) * middle, *times), max((1 + slack) * middle, *times)
        lines.append(f"{kernel} = {{ seconds = {middle:.3g}, band = [{0.995 * low:.3g}, {1.005 * high:.3g}] }}")
    return "\n".join(lines)


def _kernels(place: torch.device) -> dict[Kernel, Callable[[], object]]:
    sizes, generator = _SIZES[place.type], torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(place)

    left, right = draw(sizes.matrix, sizes.matrix), draw(sizes.matrix, sizes.matrix)
    weight = draw(sizes.channels, sizes.channels, 3, 3) / (9 * sizes.channels) ** 0.5
    image = draw(sizes.images, sizes.channels, sizes.side, sizes.side)
    source = torch.zeros(sizes.mebibytes * 2**18, device=place)
    target = torch.ones_like(source)
    # About two thirds of the boxes survive.
    corner = 800 * torch.rand(sizes.boxes, 2, generator=generator)
    extent = 20 + 60 * torch.rand(sizes.boxes, 2, generator=generator)
    boxes = torch.cat([corner, corner + extent], 1).to(place)
    scores = torch.rand(sizes.boxes, generator=generator).to(place)
    return {
        "matrix_product": lambda: left @ right,
        "convolution": lambda: functional.conv2d(image, weight, padding=1),
        "device_copy": lambda: target.copy_(source),
        "nms": lambda: torchvision.ops.nms(boxes, scores, 0.5),
    }


def _time(call: Callable[[], object], place: torch.device, seconds: float) -> float:
    def once() -> float:
        start = time.perf_counter()
        call()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        return time.perf_counter() - start

    start = time.perf_counter()
    once()
    while time.perf_counter() - start < 0.2 * seconds:
        once()
    times = [once() for _ in range(_LEAST)]
    while time.perf_counter() - start < seconds:
        times.append(once())
    return median(times)


@contextmanager
def _plain_float32(threads: int | None) -> Iterator[None]:
    # Not `latency.fixed_threads`, which a layer above brings.
    before, shortened = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(threads or before)
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(before)
        torch.backends.cuda.matmul.allow_tf32 = shortened
