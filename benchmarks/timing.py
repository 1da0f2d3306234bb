"""Latencies one after the other, each detector in a fresh process, under the conditions that a profile demands."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.again import with_earlier
from benchmarks.answers import checked
from benchmarks.datasets import open_dataset
from benchmarks.evaluate import find_subject
from benchmarks.hardware import (
    HardwareProfile,
    Precision,
    ProfileError,
    Stopping,
    WarmUp,
    load_profiles,
    observe,
)
from benchmarks.isolated import ProcessEnded, in_fresh_process
from benchmarks.modes import parse_mode
from benchmarks.recording import latency_record, print_latency
from benchmarks.results import COMMITTED, THREADS, Record

__all__ = ["Conditions", "Job", "conditions", "nonconformity", "time_all", "write_all"]


@dataclass(frozen=True)
class Conditions:
    """What a measurement is to run under.

    Attributes:
        device: `cpu`, `cuda` or `cuda:N`.
        threads: Of PyTorch.
        batch: Images a call.
        precision: None where PyTorch's own choice stays.
        warmup: How it warms up.
        stopping: When it ends.
        profile: Name of the profile that demands all this; None for none.
    """

    device: str = "cpu"
    threads: int = THREADS
    batch: int = 1
    precision: Precision | None = None
    warmup: WarmUp = field(default_factory=WarmUp)
    stopping: Stopping = field(default_factory=Stopping)
    profile: str | None = None

    def apply(self) -> None:
        """Set what belongs to the process: threads, and whether CUDA may shorten products of float32."""
        torch.set_num_threads(self.threads)
        if self.precision in ("float32", "tf32"):
            # As PyTorch comes: convolutions in TF32, matrix products never.
            torch.backends.cudnn.allow_tf32 = self.precision == "tf32"
            torch.backends.cuda.matmul.allow_tf32 = False


def nonconformity(record: Record, under: Conditions) -> list[str]:
    """Why a Record is not stamped with the profile that was asked for, a sentence each; none where it is."""
    found = record.hardware
    if under.profile is None or found is None or found.profile == under.profile:
        return []
    if not found.deviations:
        return [f"{under.profile} was asked for, and this machine is a {found.profile}"]
    return [f"{under.profile} was asked for, and this machine deviates from {reason}" for reason in found.deviations]


def conditions(
    profile: str | None = None, device: str | None = None, threads: int | None = None, noise: float | None = None
) -> Conditions:
    """The conditions that a profile demands; what is given besides goes before it, and makes a deviation.

    Args:
        profile: Name of a hardware profile; None for a CPU with two threads, or fewer where it has fewer.
        device: In place of the profile's.
        threads: Likewise.
        noise: In place of the aim of its stopping rule.

    Raises:
        ProfileError: There is no such profile, or it demands what is not timed here, or a device that is not there.
    """
    found = Conditions(threads=min(THREADS, observe("cpu", threads=1).cores))
    if profile is not None:
        known = load_profiles()
        known = {name: one for name, one in known.items() if not one.paper_only}
        if profile not in known:
            raise ProfileError(f"--hardware {profile}: nothing is measured under it; choose one of {', '.join(known)}")
        found = _demanded(known[profile])
    given: dict[str, Any] = {"device": device, "threads": threads}
    found = dataclasses.replace(found, **{key: value for key, value in given.items() if value is not None})
    if noise is not None:
        found = dataclasses.replace(found, stopping=found.stopping.model_copy(update={"noise": noise}))
    _refuse_missing(found.device, f"--hardware {profile}" if device is None else f"--device {device}")
    return found


def _demanded(profile: HardwareProfile) -> Conditions:
    if profile.precision not in ("float32", "tf32"):
        raise ProfileError(f"--hardware {profile.name}: networks are run in float32 or TF32, not {profile.precision}")
    assert profile.threads is not None  # only a profile of papers may leave it out
    return Conditions(
        device=profile.device,
        threads=profile.threads,
        batch=profile.batch,
        precision=profile.precision,
        warmup=profile.warmup,
        stopping=profile.stopping,
        profile=profile.name,
    )


def _refuse_missing(device: str, asked: str) -> None:
    kind, _, index = device.partition(":")
    if kind == "cuda" and not (torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count()):
        raise ProfileError(
            f"{asked}: PyTorch sees no {device} device here; run it where there is one, or ask for cpu-2core or "
            "--device cpu"
        )


@dataclass(frozen=True)
class Job:
    """One detector to be timed; everything that a process that knows nothing needs.

    Attributes:
        detector: As `find_subject` takes it.
        under: The conditions.
        dataset: Whose images are taken.
        split: None for the benchmark's.
        data_root: The data as their owner unpacked them.
        weights: None for the checkpoint that ships for the dataset.
        settings: Constructor arguments, likewise.
        images: The first ones of the split.
        mode: How the network is run; see `benchmarks.modes.parse_mode`.
        says: Whether it says on stderr how far it is.
    """

    detector: str
    under: Conditions
    dataset: str = "shapes"
    split: str | None = None
    data_root: Path | None = None
    weights: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    images: int = 100
    mode: str = ""
    says: bool = True

    def run(self) -> Record:
        """Measure in this process."""
        self.under.apply()
        data = open_dataset(self.dataset, self.split, self.data_root)
        subject = find_subject(self.detector, data.name, len(data.class_names), self.weights, self.settings)
        return latency_record(
            subject,
            data,
            device=self.under.device,
            threads=self.under.threads,
            images=self.images,
            batch=self.under.batch,
            warmup=self.under.warmup,
            stopping=self.under.stopping,
            mode=parse_mode(self.mode),
            progress=self._say if self.says else None,
        )

    def _say(self, sentence: str) -> None:
        print(f"{self.detector}: {sentence}", file=sys.stderr, flush=True)


def write_all(jobs: Sequence[Job], out: Path) -> bool:
    """Time all, print and write what was measured, and say what was not; whether anything failed or is void."""
    failed = False
    for job, answer in time_all(jobs):
        if isinstance(answer, ProcessEnded):
            print(f"error: {job.detector}: {answer}", file=sys.stderr)
            failed = True
            continue
        record, same = checked(with_earlier(answer, out), out, COMMITTED)
        print_latency(record)
        for sentence in nonconformity(record, job.under):
            print(sentence)
        print(f"accuracy of the same detections: {same}")
        print(record.write(out))
        failed |= same.state == "void"
    return failed


def time_all(jobs: Sequence[Job]) -> Iterator[tuple[Job, Record | ProcessEnded]]:
    """Each job in a process of its own, one after the other; in place of a Record, how a process ended without one."""
    console = Console(stderr=True)
    for number, job in enumerate(jobs, start=1):
        if job.says:
            console.print(f"timing {job.detector} ({number} of {len(jobs)})")
        try:
            yield job, in_fresh_process(type(job).run, job)
        except ProcessEnded as error:
            yield job, error
