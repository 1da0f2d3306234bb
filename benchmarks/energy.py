"""Joules an image: what a counter of the device counts while images are detected, less what it counts at rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.growth import NotMeasured

__all__ = ["counter_of", "energy_of", "rapl"]

Counter = Callable[[], float]
"""Joules since some beginning."""

POWERCAP = Path("/sys/class/powercap")


def counter_of(device: torch.device | str) -> tuple[Counter, str]:
    """The energy counter of a device, and what it is.

    Raises:
        NotMeasured: It has none, or none that may be read.
    """
    place = torch.device(device)
    return _nvml(place) if place.type == "cuda" else rapl(POWERCAP)


def rapl(folder: Path) -> tuple[Counter, str]:
    """Sum over the processor's packages in Linux's powercap `folder`; whatever else runs there is counted, too.

    Raises:
        NotMeasured: There is none, or it is for the superuser alone.
    """
    zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    if not zones:
        raise NotMeasured("no energy counter: this processor shows no RAPL")
    try:
        ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in zones]
        last = [int((zone / "energy_uj").read_text()) for zone in zones]
    except OSError as error:
        raise NotMeasured(f"no energy counter that may be read: {error.filename} ({error.strerror})") from error
    turns = [0] * len(zones)

    def joules() -> float:
        for index, zone in enumerate(zones):
            value = int((zone / "energy_uj").read_text())
            # It begins anew when it is full.
            turns[index] += value < last[index]
            last[index] = value
        return sum(value + turn * most for value, turn, most in zip(last, turns, ranges, strict=True)) / 1e6

    return joules, f"RAPL, {len(zones)} package{'s' if len(zones) > 1 else ''}"


def _nvml(place: torch.device) -> tuple[Counter, str]:
    import pynvml

    index = place.index or 0
    try:
        pynvml.nvmlInit()
        # By UUID, because CUDA_VISIBLE_DEVICES renumbers PyTorch's devices and not the driver's.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}".encode())
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        raise NotMeasured(f"no energy counter: {error}") from error
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000, "NVML, total energy of the device"


def energy_of(
    call: Callable[[], object],
    images: int,
    counter: Counter,
    *,
    seconds: float = 3.0,
    rest: float = 3.0,
    now: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Joules an image, those that the device takes at rest subtracted.

    Args:
        call: Detects, and waits for the device.
        images: That a call detects on.
        counter: Joules.
        seconds: Call again until so many have passed; counters move ten to fifty times a second.
        rest: Seconds of rest, before.
        now: The clock.
        sleep: Rests.

    Returns:
        `joules` an image, `gross_joules` (nothing subtracted), `watts`, `watts_at_rest`, `images` and `seconds`.

    Raises:
        NotMeasured: The counter stood still.
    """
    call()
    start, before = now(), counter()
    sleep(rest)
    idle = (counter() - before) / (now() - start)
    start, before, calls = now(), counter(), 0
    while calls == 0 or now() - start < seconds:
        call()
        calls += 1
    took, used = now() - start, counter() - before
    if used <= 0:
        raise NotMeasured("the energy counter stood still")
    done = calls * images
    return {
        "joules": (used - idle * took) / done,
        "gross_joules": used / done,
        "watts": used / took,
        "watts_at_rest": idle,
        "images": done,
        "seconds": took,
    }
