"""A run is watched: a thread looks at the machine now and then, and says which windows of time were disturbed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Unpack

from benchmarks.hardware.nvml import Nvml
from benchmarks.hardware.observing import Observed, RunFacts, observe
from benchmarks.hardware.profiles import HardwareProfile, Kernel
from benchmarks.hardware.sampling import Processor, Sample, Source
from benchmarks.hardware.stamping import nearest
from benchmarks.hardware.verdicts import PASSING, Finding, judge

if TYPE_CHECKING:
    import torch

__all__ = ["Watch", "watch"]


class Watch:
    """Looks at a machine from `__enter__` to `__exit__`: first and last in the caller's thread, between in its own.

    Windows are told by `time.perf_counter`, so that a loop can throw a disturbed one away and repeat it:

        with watch("cuda", threads=16) as seen:
            warm_up()
            seen.discard(seen.samples[0].at, time.perf_counter())
            while ...:
                since = time.perf_counter()
                times = [...]
                until = time.perf_counter()
                if seen.disturbed(since, until) and repeats < profile.stopping.repeats:
                    seen.discard(since, until)
                    continue
        hardware = stamp_watched(seen)

    `stamp_watched` counts what was not discarded.

    Args:
        source: Of samples; closed at the end.
        profile: What is judged by.
        facts: Looks at what does not change during a run; called at the beginning and at the end.
        period: Seconds between two looks; None for the profile's.
        calibration: Seconds of the calibration kernels before the run; None where they were not timed.

    Attributes:
        samples: So far.
        discarded: Windows thrown away.
        before: Facts at the beginning.
        after: Facts at the end, or those at the beginning until then.
    """

    def __init__(
        self,
        source: Source,
        profile: HardwareProfile,
        *,
        facts: Callable[[], Observed],
        period: float | None = None,
        calibration: Mapping[Kernel, float] | None = None,
    ) -> None:
        self.source, self.profile, self.calibration = source, profile, dict(calibration or {})
        self.samples: list[Sample] = []
        self.discarded: list[tuple[float, float]] = []
        self.before: Observed
        self.after: Observed
        self._facts, self._period = facts, period or profile.watch.period
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self.before = self.after = self._facts()
        self.look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.look()
        self.source.close()
        self.after = self._facts()

    def look(self) -> Sample:
        """Take a sample now."""
        with self._lock:
            sample = self.source.read()
            self.samples.append(sample)
            return sample

    def disturbed(self, since: float, until: float) -> list[str]:
        """What disturbed a window of time and may be over when it is measured again: labels, none for a calm window.

        A disturbance is taken to last from the look before it to the look after it. One look is taken now, so that a
        window that has just ended has at least one of its own.

        Args:
            since: Beginning of the window, by `time.perf_counter`.
            until: Its end.
        """
        self.look()
        found = judge(self.profile, list(self.samples), own=os.getpid(), lenient=False)
        return [finding.label for finding in found if finding.label in PASSING and finding.touches(since, until)]

    def discard(self, since: float, until: float) -> None:
        """Say that a window was thrown away; what disturbed it no longer counts."""
        # The look that closes a window is taken just after it and belongs to it.
        self.discarded.append((since, max(until, self.samples[-1].at)))

    def findings(self, profile: HardwareProfile | None = None) -> list[Finding]:
        """The verdict on what was not discarded, by another profile too."""
        return judge(profile or self.profile, list(self.samples), own=os.getpid(), discarded=self.discarded)

    def _keep_looking(self) -> None:
        while not self._over.wait(self._period):
            self.look()


def watch(
    device: torch.device | str,
    profile: HardwareProfile | None = None,
    *,
    threads: int | None = None,
    period: float | None = None,
    source: Source | None = None,
    calibrate: bool = True,
    profiles: Mapping[str, HardwareProfile] | None = None,
    **run: Unpack[RunFacts],
) -> Watch:
    """A context in which a device is watched; see `Watch`.

    Args:
        device: As `observe` takes it.
        profile: What is judged by; None for the one that this machine is nearest to.
        threads: As `observe` takes it.
        period: Seconds between two looks; None for the profile's.
        source: Of samples; None for NVML on CUDA and for the processor's counters on a CPU.
        calibrate: Time the calibration kernels first, once a process; without them no profile is stamped.
        profiles: To choose from; None for the project's own.
        run: Facts of the run, see `RunFacts`.
    """

    def facts() -> Observed:
        return observe(device, threads=threads, **run)

    here = facts()
    calibration = None
    if calibrate:
        from benchmarks.hardware.calibration import calibrated

        calibration = calibrated(str(device), here.threads)
    return Watch(
        source or _source(device),
        profile or nearest(here, profiles),
        facts=facts,
        period=period,
        calibration=calibration,
    )


def _source(device: torch.device | str) -> Source:
    kind, _, index = str(device).partition(":")
    if kind == "cpu":
        return Processor()
    import torch

    return Nvml(f"GPU-{torch.cuda.get_device_properties(int(index or 0)).uuid}")
