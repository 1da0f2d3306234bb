"""What a measured time is valid for. A machine is one TOML file here: a `HardwareProfile`.

A Record is stamped with the profile that its machine conforms to, or with what did not conform. Clocks are observed
as locked or not; how they move during a run, and how fast the machine is on a known kernel, is not looked at.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from benchmarks.results import Hardware
from benchmarks.tomls import read_toml

if TYPE_CHECKING:
    import torch

__all__ = [
    "HardwareProfile",
    "Observed",
    "Precision",
    "ProfileError",
    "Stopping",
    "WarmUp",
    "conforms",
    "load_profiles",
    "observe",
    "stamp",
]

Precision = Literal["float32", "tf32", "float16", "bfloat16"]

_FOLDER = Path(__file__).parent


class ProfileError(ValueError):
    """A hardware profile cannot be used; the message names the file, the entry and the remedy."""


class WarmUp(BaseModel):
    """When a detector is warm: a moving median over `window` calls runs flat over two windows.

    Attributes:
        window: Calls in the moving median. The warm-up repeats its first `window` images, so that each median is over
            the same images, whatever their sizes.
        slope: Largest change of the median along the fitted line over the last window, as a share of the median.
        at_least: Calls before the rule is first asked; two windows or more.
        at_most: Calls after which the warm-up ends, steady or not.
        seconds: Time after which it ends likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: int = Field(default=8, ge=2)
    slope: float = Field(default=0.05, gt=0)
    at_least: int = Field(default=16, ge=4)
    at_most: int = Field(default=200, ge=4)
    seconds: float = Field(default=30.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> WarmUp:
        if not 2 * self.window <= self.at_least <= self.at_most:
            raise ValueError("needs 2 * window <= at_least <= at_most")
        return self


class Stopping(BaseModel):
    """When enough was measured.

    Attributes:
        noise: Half the width of the 95 % interval of the median, as a share of the median, that is aimed at.
        at_least: Calls that are timed in any case.
        at_most: Calls after which a measurement ends, converged or not.
        seconds: Least and most time that it takes; at the most it ends likewise.
        repeats: How often a disturbed window is measured again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    noise: float = Field(default=0.02, gt=0, lt=1)
    at_least: int = Field(default=30, ge=1)
    at_most: int = Field(default=1000, ge=1)
    seconds: tuple[float, float] = (1.0, 60.0)
    repeats: int = Field(default=3, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Stopping:
        if self.at_least > self.at_most or not 0 <= self.seconds[0] <= self.seconds[1]:
            raise ValueError("needs at_least <= at_most and 0 <= the least seconds <= the most")
        return self


class HardwareProfile(BaseModel):
    """What a latency is valid for.

    Attributes:
        name: Of the profile and of its file; Records of a conforming machine carry it.
        device: Kind of the device that runs the network.
        device_name: Regular expression that the device's whole name must match.
        architecture: Of the processor, as `platform.machine()` says it.
        cores: Processor cores that the process may use.
        threads: Threads that PyTorch runs operators with.
        precision: Of the network's arithmetic. `tf32` is float32 storage with shortened products.
        batch: Images a call.
        clocks: `locked` where application clocks must be fixed, `any` where the driver may choose.
        memory_gib: Least and most memory of the device (of the machine on a CPU), or None for any.
        driver: Least and most driver version, or None for any.
        cuda: Least and most version of CUDA that PyTorch was built for, or None for any.
        power_cap_w: Power limit in force, to 1 %, or None for any.
        warmup: How a measurement warms up.
        stopping: When it ends.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    device: Literal["cpu", "cuda"]
    device_name: str
    architecture: str
    cores: int = Field(ge=1)
    threads: int = Field(ge=1)
    precision: Precision
    batch: int = Field(ge=1)
    clocks: Literal["any", "locked"]
    memory_gib: tuple[float, float] | None = None
    driver: tuple[str, str] | None = None
    cuda: tuple[str, str] | None = None
    power_cap_w: float | None = Field(default=None, gt=0)
    warmup: WarmUp = WarmUp()
    stopping: Stopping = Stopping()

    @field_validator("device_name")
    @classmethod
    def _is_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from error
        return value

    @field_validator("driver", "cuda")
    @classmethod
    def _are_versions(cls, value: tuple[str, str] | None) -> tuple[str, str] | None:
        if value is not None and _version(value[0]) > _version(value[1]):
            raise ValueError("names its least version second")
        return value

    @field_validator("memory_gib")
    @classmethod
    def _is_range(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError("names its least value second")
        return value

    @model_validator(mode="after")
    def _fits_device(self) -> HardwareProfile:
        if self.device == "cpu" and (self.driver or self.cuda or self.power_cap_w or self.clocks == "locked"):
            raise ValueError("a CPU's driver, CUDA, power cap and clocks cannot be observed; leave them out")
        return self


@dataclass(frozen=True)
class Observed:
    """What a machine and a run on it are; None where it cannot be found out.

    Attributes are those of `HardwareProfile`, with the observed value in place of what is allowed.
    """

    device: str
    device_name: str
    architecture: str
    cores: int
    memory_gib: float
    threads: int
    precision: Precision = "float32"
    batch: int = 1
    driver: str | None = None
    cuda: str | None = None
    power_cap_w: float | None = None
    clocks: Literal["any", "locked"] | None = None


def load_profiles(folder: Path = _FOLDER) -> dict[str, HardwareProfile]:
    """Every profile of `folder`, by name.

    Raises:
        ProfileError: A file is no TOML, or an entry is missing, unknown or out of range.
    """
    profiles = {}
    for path in sorted(folder.glob("*.toml")):
        profile = read_toml(path, HardwareProfile, ProfileError, f"compare it with {_FOLDER / 'h200.toml'}")
        if profile.name != path.stem:
            raise ProfileError(f"{path}: name: is {profile.name!r}; name the file and the profile alike")
        profiles[profile.name] = profile
    return profiles


def observe(
    device: torch.device | str, *, threads: int | None = None, precision: Precision = "float32", batch: int = 1
) -> Observed:
    """Look at this machine.

    Args:
        device: `cpu`, `cuda` or `cuda:1`.
        threads: Threads of the run, or None for those that PyTorch is set to now.
        precision: Of the run. `float32` is observed as `tf32` where PyTorch shortens float32 products on CUDA.
        batch: Images a call.

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
        cores=_cores(),
        memory_gib=psutil.virtual_memory().total / 2**30,
        threads=threads,
        precision=precision,
        batch=batch,
    )
    return seen if kind == "cpu" else _observe_cuda(seen, int(index or 0))


def conforms(profile: HardwareProfile, observed: Observed) -> list[str]:
    """What of `observed` does not fit `profile`, a sentence each; empty when all does.

    What the profile demands and the machine does not show is a deviation too.
    """
    if observed.device != profile.device:
        return [f"device is {observed.device}, not {profile.device}"]
    deviations = []
    if not re.fullmatch(profile.device_name, observed.device_name):
        deviations.append(f"device_name is {observed.device_name!r}, which {profile.device_name!r} does not match")
    for entry in ("architecture", "cores", "threads", "precision", "batch"):
        seen, wanted = getattr(observed, entry), getattr(profile, entry)
        if seen != wanted:
            deviations.append(f"{entry} is {seen}, not {wanted}")
    if profile.memory_gib is not None and not profile.memory_gib[0] <= observed.memory_gib <= profile.memory_gib[1]:
        low, high = profile.memory_gib
        deviations.append(f"memory_gib is {observed.memory_gib:.1f}, not {low:g} to {high:g}")
    for entry in ("driver", "cuda"):
        seen, allowed = getattr(observed, entry), getattr(profile, entry)
        if allowed is None:
            continue
        if seen is None:
            deviations.append(f"{entry} cannot be observed, {allowed[0]} to {allowed[1]} is asked for")
        elif not _version(allowed[0]) <= _version(seen) <= _version(allowed[1]):
            deviations.append(f"{entry} is {seen}, not {allowed[0]} to {allowed[1]}")
    if profile.power_cap_w is not None:
        if observed.power_cap_w is None:
            deviations.append(f"power_cap_w cannot be observed, {profile.power_cap_w:g} is asked for")
        elif abs(observed.power_cap_w - profile.power_cap_w) > 0.01 * profile.power_cap_w:
            deviations.append(f"power_cap_w is {observed.power_cap_w:g}, not {profile.power_cap_w:g}")
    if profile.clocks == "locked" and observed.clocks != "locked":
        deviations.append("clocks are not locked" if observed.clocks else "clocks cannot be observed")
    return deviations


def stamp(
    device: torch.device | str,
    threads: int | None = None,
    *,
    precision: Precision = "float32",
    batch: int = 1,
    profiles: dict[str, HardwareProfile] | None = None,
) -> Hardware:
    """What a Record says of the machine that it was measured on.

    The machine is named after the first profile that it conforms to. Where it conforms to none, it is `local`, and
    the deviations are those from the profile that it is nearest to, the name of the profile first.

    Args:
        device: As `observe` takes it.
        threads: Likewise.
        precision: Likewise.
        batch: Likewise.
        profiles: By name; None for the project's own.
    """
    seen = observe(device, threads=threads, precision=precision, batch=batch)
    found = {name: conforms(profile, seen) for name, profile in (profiles or load_profiles()).items()}
    # A profile of another kind of device is never the nearest, though its list of deviations is short.
    same_kind = {name: reasons for name, reasons in found.items() if not reasons or "device is" not in reasons[0]}
    nearest = min(same_kind or found, key=lambda name: len(found[name]))
    fits = not found[nearest]
    return Hardware(
        machine=nearest if fits else "local",
        device=f"{seen.device}: {seen.device_name}",
        profile=nearest if fits else None,
        deviations=tuple(f"{nearest}: {reason}" for reason in found[nearest]),
        threads=seen.threads,
        precision=seen.precision,
    )


def _version(text: str) -> tuple[int, ...]:
    parts = re.findall(r"\d+", text)
    if not parts:
        raise ValueError(f"{text!r} is no version")
    return tuple(map(int, parts))


def _processor() -> str:
    """The processor's own name: `platform.processor()` is empty or an architecture on most systems."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Cores that this process may use: those it is bound to, or fewer where a control group's quota is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def _observe_cuda(seen: Observed, index: int) -> Observed:
    import pynvml
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
    )
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return seen  # The rest stays unknown, which a profile that asks for it counts as deviations.
    try:
        # By UUID, because CUDA_VISIBLE_DEVICES renumbers PyTorch's devices and not the driver's.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}".encode())
        reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
        return replace(
            seen,
            driver=str(pynvml.nvmlSystemGetDriverVersion()),
            power_cap_w=pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
            clocks="locked" if reasons & pynvml.nvmlClocksEventReasonApplicationsClocksSetting else "any",
        )
    except pynvml.NVMLError:
        return seen
    finally:
        pynvml.nvmlShutdown()
