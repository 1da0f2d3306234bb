"""What a machine and a run on it are, and what of that does not fit a profile."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import psutil

from benchmarks.cores import usable_cores
from benchmarks.hardware.nvml import Nvml
from benchmarks.hardware.profiles import CompileMode, HardwareProfile, MemoryFormat, Precision, version_of
from benchmarks.hardware.sampling import governor

if TYPE_CHECKING:
    import torch

__all__ = ["Observed", "RunFacts", "conforms", "observe"]


class RunFacts(TypedDict, total=False):
    """What only the caller knows of a run.

    Attributes:
        precision: Of the network. `float32` is observed as `tf32` where PyTorch shortens float32 products on CUDA.
        batch: Images a call.
        memory_format: Order of weights and features.
        compile_mode: How operators are launched.
        resolution: `native`, or height x width to which all images were brought.
    """

    precision: Precision
    batch: int
    memory_format: MemoryFormat
    compile_mode: CompileMode
    resolution: str


@dataclass(frozen=True)
class Observed:
    """What a machine and a run on it are; None where it cannot be found out.

    Attributes are those of `HardwareProfile`, with the observed value in place of what is allowed. `pcie_generation`
    is the highest that device and slot allow: an idle link slows down, and how fast it is in use is watched.
    """

    device: str
    device_name: str
    architecture: str
    cores: int
    memory_gib: float
    threads: int
    precision: Precision = "float32"
    batch: int = 1
    memory_format: MemoryFormat = "own"
    compile_mode: CompileMode = "eager"
    resolution: str = "native"
    governor: str | None = None
    omp_wait_policy: str | None = None
    driver: str | None = None
    cuda: str | None = None
    power_cap_w: float | None = None
    clocks: Literal["any", "locked"] | None = None
    ecc: bool | None = None
    mig: bool | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    cudnn_benchmark: bool | None = None
    cudnn_deterministic: bool | None = None


def observe(device: torch.device | str, *, threads: int | None = None, **run: Unpack[RunFacts]) -> Observed:
    """Look at this machine.

    Args:
        device: `cpu`, `cuda` or `cuda:1`.
        threads: Threads of the run, or None for those that PyTorch is set to now.
        run: See `RunFacts`.

    Raises:
        ValueError: The kind of device is neither `cpu` nor `cuda`.
        RuntimeError: CUDA was asked for and there is none.
    """
    kind, _, index = str(device).partition(":")
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"device {str(device)!r}: profiles know cpu and cuda")
    if threads is None:
        import torch

        threads = torch.get_num_threads()
    seen = Observed(
        device="cpu",
        device_name=_processor(),
        architecture=platform.machine().replace("AMD64", "x86_64"),
        cores=usable_cores(),
        memory_gib=psutil.virtual_memory().total / 2**30,
        threads=threads,
        governor=governor(),
        omp_wait_policy=os.environ.get("OMP_WAIT_POLICY", "").strip().lower() or "unset",
        **run,
    )
    return seen if kind == "cpu" else _observe_cuda(seen, int(index or 0))


_SAME = (
    *("architecture", "cores", "threads", "governor", "ecc", "mig", "pcie_generation", "pcie_width"),
    *("cudnn_benchmark", "cudnn_deterministic"),
)
"""Entries of which a profile names one value."""

_AMONG = {
    "precision": "precisions",
    "batch": "batches",
    "memory_format": "memory_formats",
    "compile_mode": "compile_modes",
    "resolution": "resolutions",
    "omp_wait_policy": "omp_wait_policies",
}
"""Entries of which a profile names several, and what it calls them."""


def conforms(profile: HardwareProfile, observed: Observed) -> list[str]:
    """What of `observed` does not fit `profile`, a sentence each; empty when all does.

    What the profile demands and the machine does not show is a deviation too.
    """
    if observed.device != profile.device:
        return [f"device is {observed.device}, not {profile.device}"]
    deviations = []
    if not re.fullmatch(profile.device_name, observed.device_name):
        deviations.append(f"device_name is {observed.device_name!r}, which {profile.device_name!r} does not match")
    allowed: dict[str, tuple[Any, ...] | None] = {entry: (getattr(profile, entry),) for entry in _SAME}
    allowed |= {entry: getattr(profile, several) for entry, several in _AMONG.items()}
    for entry, values in allowed.items():
        if values is not None and values != (None,):
            deviations += _unlike(entry, getattr(observed, entry), values)
    if profile.memory_gib is not None and not profile.memory_gib[0] <= observed.memory_gib <= profile.memory_gib[1]:
        low, high = profile.memory_gib
        deviations.append(f"memory_gib is {observed.memory_gib:.1f}, not {low:g} to {high:g}")
    for entry in ("driver", "cuda"):
        deviations += _outside(entry, getattr(observed, entry), getattr(profile, entry))
    if profile.power_cap_w is not None:
        if observed.power_cap_w is None:
            deviations.append(f"power_cap_w cannot be observed, {profile.power_cap_w:g} is asked for")
        elif abs(observed.power_cap_w - profile.power_cap_w) > 0.01 * profile.power_cap_w:
            deviations.append(f"power_cap_w is {observed.power_cap_w:g}, not {profile.power_cap_w:g}")
    if profile.clocks == "locked" and observed.clocks != "locked":
        deviations.append("clocks are not locked" if observed.clocks else "clocks cannot be observed")
    return deviations


def _unlike(entry: str, seen: Any, allowed: tuple[Any, ...]) -> list[str]:
    words = [_word(value) for value in allowed]
    wanted = " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
    if seen is None:
        return [f"{entry} cannot be observed, {wanted} is asked for"]
    return [] if seen in allowed else [f"{entry} is {_word(seen)}, not {wanted}"]


def _word(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _outside(entry: str, seen: str | None, allowed: tuple[str, str] | None) -> list[str]:
    if allowed is None:
        return []
    if seen is None:
        return [f"{entry} cannot be observed, {allowed[0]} to {allowed[1]} is asked for"]
    if version_of(allowed[0]) <= version_of(seen) <= version_of(allowed[1]):
        return []
    return [f"{entry} is {seen}, not {allowed[0]} to {allowed[1]}"]


def _processor() -> str:
    """The processor's own name: `platform.processor()` is empty or an architecture on most systems."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _observe_cuda(seen: Observed, index: int) -> Observed:
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device here; use --device cpu, or a machine whose driver PyTorch can see")
    properties = torch.cuda.get_device_properties(index)
    shortened = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
    seen = replace(
        seen,
        device="cuda",
        device_name=properties.name,
        memory_gib=properties.total_memory / 2**30,
        precision="tf32" if seen.precision == "float32" and shortened else seen.precision,
        cuda=torch.version.cuda,
        cudnn_benchmark=torch.backends.cudnn.benchmark,
        cudnn_deterministic=torch.backends.cudnn.deterministic,
    )
    # By UUID, because CUDA_VISIBLE_DEVICES renumbers PyTorch's devices and not the driver's.
    gpu = Nvml(f"GPU-{properties.uuid}")
    reasons = gpu.reasons()
    try:
        return replace(
            seen,
            driver=gpu.driver(),
            power_cap_w=gpu.power_cap_w(),
            clocks=None if reasons is None else "locked" if "application clocks" in reasons else "any",
            ecc=gpu.ecc(),
            mig=gpu.mig(),
            pcie_generation=gpu.best_pcie_generation(),
            pcie_width=gpu.pcie_width(),
        )
    finally:
        gpu.close()
