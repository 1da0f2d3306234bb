"""`Sample`: one look at a machine during a run. Where samples come from, and how they are kept as a trace."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import psutil
from pydantic import TypeAdapter, ValidationError

from benchmarks.results import write_atomically
from benchmarks.sentences import entry_and_reason

__all__ = [
    "Processor",
    "Reason",
    "Replay",
    "Sample",
    "Source",
    "TraceError",
    "governor",
    "read_trace",
    "taken",
    "write_trace",
]

Reason = Literal[
    "idle",
    "application clocks",
    "display clocks",
    "power cap",
    "hardware slowdown",
    "sync boost",
    "software thermal slowdown",
    "hardware thermal slowdown",
    "power brake",
]


class TraceError(ValueError):
    """A trace cannot be replayed; the message names the file, the entry and the remedy."""


@dataclass(frozen=True)
class Sample:
    """What was seen at one time; None where it cannot be observed.

    Attributes:
        at: Seconds of `time.perf_counter`.
        clock_mhz: Of the SMs; of the cores on a CPU, on average.
        memory_clock_mhz: Of the device's memory.
        reasons: Why the clocks of a GPU are what they are; empty for no reason to lower them.
        temperature_c: Of the GPU.
        power_w: Drawn now.
        power_cap_w: Limit in force.
        utilisation: Share of the last moments in which the GPU had work.
        processes: Numbers of those on the GPU.
        ecc_errors: Counted since the driver was loaded, mended or not.
        mig: Whether the GPU can be split.
        pcie_generation: Of the link, now.
        pcie_width: Its lanes.
        governor: Of the processor's clock.
        foreign_s: Core-seconds that other processes have taken, since some time.
        stolen_s: Core-seconds that the hypervisor has taken.
    """

    at: float
    clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    reasons: frozenset[Reason] | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_cap_w: float | None = None
    utilisation: float | None = None
    processes: frozenset[int] | None = None
    ecc_errors: int | None = None
    mig: bool | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    governor: str | None = None
    foreign_s: float | None = None
    stolen_s: float | None = None


class Source(Protocol):
    """Where samples come from. Reading is quick and raises nothing."""

    @property
    def name(self) -> str:
        """As Records have it."""

    def read(self) -> Sample:
        """Look now."""

    def close(self) -> None:
        """Let go of what it holds."""


class Processor:
    """The processor that this process runs on."""

    name = "processor"

    def read(self) -> Sample:
        """Look at it now."""
        foreign, stolen = taken()
        clock = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
        return Sample(
            at=time.perf_counter(),
            clock_mhz=None if clock is None else clock.current,
            governor=governor(),
            foreign_s=foreign,
            stolen_s=stolen,
        )

    def close(self) -> None:
        """Nothing is held."""


class Replay:
    """Samples of a trace, one a look; the last one again when there are no more."""

    name = "replay"

    def __init__(self, samples: Sequence[Sample]) -> None:
        if not samples:
            raise TraceError("a trace without samples cannot be replayed; record one that has some")
        self._samples = list(samples)
        self._next = 0

    def read(self) -> Sample:
        """The next sample."""
        sample = self._samples[min(self._next, len(self._samples) - 1)]
        self._next += 1
        return sample

    def close(self) -> None:
        """Nothing is held."""


def taken() -> tuple[float, float | None]:
    """Core-seconds that others took so far of the cores that this process may use.

    Returns:
        Those of other processes, and those that the hypervisor took away (None where that is not counted). Only
        differences mean something.
    """
    cores = psutil.cpu_times(percpu=True)
    if hasattr(os, "sched_getaffinity"):
        cores = [cores[index] for index in sorted(os.sched_getaffinity(0)) if index < len(cores)]
    own = psutil.Process().cpu_times()
    # What is neither idle nor stolen. On Linux `guest` is counted in `user` already.
    aside = ("idle", "iowait", "steal", "guest", "guest_nice")
    busy = sum(sum(core) - sum(getattr(core, name, 0.0) for name in aside) for core in cores)
    stolen = sum(core.steal for core in cores) if hasattr(cores[0], "steal") else None
    return busy - own.user - own.system, stolen


def governor() -> str | None:
    """What governs the processor's clock, on every core (`mixed` where they differ); None where it is not shown."""
    found = set()
    for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"):
        try:
            found.add(path.read_text(encoding="utf-8").strip())
        except OSError:
            return None
    return None if not found else found.pop() if len(found) == 1 else "mixed"


_TRACE = TypeAdapter(list[Sample])


def write_trace(samples: Sequence[Sample], path: Path) -> None:
    """Keep samples as JSON, for `read_trace`."""
    write_atomically(path, _TRACE.dump_json(list(samples), indent=1, exclude_none=True) + b"\n")


def read_trace(path: Path) -> list[Sample]:
    """Samples of a file, in the order of time.

    Raises:
        TraceError: The file cannot be read, an entry does not fit, or time runs backwards.
    """
    try:
        samples = _TRACE.validate_json(path.read_bytes())
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror}); record the trace again") from error
    except ValidationError as error:
        entry, reason = entry_and_reason(error)
        raise TraceError(f"{path}: {entry}: {reason}; record the trace again") from error
    for turn in range(1, len(samples)):
        if samples[turn].at < samples[turn - 1].at:
            raise TraceError(f"{path}: {turn}.at: lies before the sample that precedes it; record the trace again")
    return samples
