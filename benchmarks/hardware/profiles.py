"""`HardwareProfile`: what a measured time is valid for, a TOML file each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from benchmarks.tomls import read_toml

__all__ = [
    "Band",
    "CompileMode",
    "HardwareProfile",
    "Kernel",
    "MemoryFormat",
    "Precision",
    "ProfileError",
    "Stopping",
    "WarmUp",
    "Watching",
    "load_profiles",
    "version_of",
]

Precision = Literal["float32", "tf32", "float16", "bfloat16"]
"""`float32` is without shortened products; with them it is `tf32`."""

MemoryFormat = Literal["own", "channels-last"]
"""`own`: the order that the detector itself chooses."""

CompileMode = Literal["eager", "compile", "cuda-graphs", "compile,cuda-graphs"]

Kernel = Literal["matrix_product", "convolution", "device_copy", "nms"]

_FOLDER = Path(__file__).parent
_Pair = TypeVar("_Pair", tuple[float, float], tuple[int, int])


class ProfileError(ValueError):
    """A hardware profile cannot be used; the message names the file, the entry and the remedy."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class WarmUp(_Entry):
    """When a detector is warm: a moving median over `window` calls runs flat over two windows.

    Attributes:
        window: Calls in the moving median. The warm-up repeats its first `window` images, so that each median is over
            the same images, whatever their sizes.
        slope: Largest change of the median along the fitted line over the last window, as a share of the median.
        at_least: Calls before the rule is first asked; two windows or more.
        at_most: Calls after which the warm-up ends, steady or not.
        seconds: Time after which it ends likewise.
    """

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


class Stopping(_Entry):
    """When enough was measured.

    Attributes:
        noise: Half the width of the 95 % interval of the median, as a share of the median, that is aimed at.
        at_least: Calls that are timed in any case.
        at_most: Calls after which a measurement ends, converged or not.
        seconds: Least and most time that it takes; at the most it ends likewise.
        repeats: How often a disturbed window is measured again.
    """

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


class Watching(_Entry):
    """How closely a run is watched, and from where on what is seen counts as a disturbance.

    Attributes:
        period: Seconds between two looks.
        clock_step: Change of a clock, as a share of its median, from which it is a step; of clocks for which the
            profile names no range.
        foreign_cores: Of a CPU: cores that other processes may keep busy, or None for any number.
        stolen_cores: Of a CPU: cores that the hypervisor may take away, or None for any number.
        tolerated: Share of the time that either may exceed its limit before the run counts as disturbed.
    """

    period: float = Field(default=0.1, gt=0)
    clock_step: float = Field(default=0.02, gt=0, lt=1)
    foreign_cores: float | None = Field(default=None, ge=0)
    stolen_cores: float | None = Field(default=None, ge=0)
    tolerated: float = Field(default=0.05, ge=0, lt=1)


class Band(_Entry):
    """Expected time of a calibration kernel, and the least and most that still is this machine; all in seconds."""

    seconds: float = Field(gt=0)
    band: tuple[float, float]

    @model_validator(mode="after")
    def _holds(self) -> Band:
        if not 0 < self.band[0] <= self.seconds <= self.band[1]:
            raise ValueError("needs 0 < least of the band <= seconds <= most of the band")
        return self


class HardwareProfile(_Entry):
    """What a latency is valid for. An entry that is None (or left out) allows anything.

    Attributes:
        name: Of the profile and of its file; Records of a conforming machine carry it.
        paper_only: Describes what a paper's figures were measured on. No Record is ever stamped with it, and it may
            leave out what papers do not say: `architecture`, `cores`, `threads`, `precisions`, `batches`.
        device: Kind of the device that runs the network.
        device_name: Regular expression that the device's whole name must match.
        architecture: Of the processor, as `platform.machine()` says it.
        cores: Processor cores that the process may use.
        threads: Threads that PyTorch runs operators with.
        governor: Of the processor's clock, as Linux names it.
        omp_wait_policies: Values of OMP_WAIT_POLICY, `unset` among them: whether idle threads wait awake.
        precisions: Of the network's arithmetic.
        batches: Images a call.
        memory_formats: Order of the network's weights and features.
        compile_modes: How the network's operators are launched.
        resolutions: `native` where images come in the sizes that they have, or height x width such as `800x1333`.
        clocks: `locked` where they must be fixed, `watched` where the driver may choose but must not change its mind
            during a run, `any` where they are not looked at.
        sm_clock_mhz: Least and most SM clock under load.
        memory_clock_mhz: Least and most memory clock under load.
        memory_gib: Least and most memory of the device (of the machine on a CPU).
        driver: Least and most driver version.
        cuda: Least and most version of CUDA that PyTorch was built for.
        power_cap_w: Power limit in force, to 1 %.
        ecc: Whether memory is checked for errors.
        mig: Whether the device may be split.
        pcie_generation: Of the link under load.
        pcie_width: Its lanes.
        cudnn_benchmark: Whether cuDNN tries its algorithms out.
        cudnn_deterministic: Whether it keeps to deterministic ones.
        warmup: How a measurement warms up.
        stopping: When it ends.
        watch: How it is watched.
        calibration: Expected times of the kernels of `benchmarks.hardware.calibration`; none where it was not
            calibrated yet.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    paper_only: bool = False
    device: Literal["cpu", "cuda"]
    device_name: str
    architecture: str | None = None
    cores: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1)
    governor: str | None = None
    omp_wait_policies: tuple[Literal["unset", "active", "passive"], ...] | None = Field(default=None, min_length=1)
    precisions: tuple[Precision, ...] | None = Field(default=None, min_length=1)
    batches: tuple[int, ...] | None = Field(default=None, min_length=1)
    memory_formats: tuple[MemoryFormat, ...] = Field(default=("own",), min_length=1)
    compile_modes: tuple[CompileMode, ...] = Field(default=("eager",), min_length=1)
    resolutions: tuple[str, ...] = Field(default=("native",), min_length=1)
    clocks: Literal["any", "watched", "locked"]
    sm_clock_mhz: tuple[int, int] | None = None
    memory_clock_mhz: tuple[int, int] | None = None
    memory_gib: tuple[float, float] | None = None
    driver: tuple[str, str] | None = None
    cuda: tuple[str, str] | None = None
    power_cap_w: float | None = Field(default=None, gt=0)
    ecc: bool | None = None
    mig: bool | None = None
    pcie_generation: int | None = Field(default=None, ge=1)
    pcie_width: int | None = Field(default=None, ge=1)
    cudnn_benchmark: bool | None = None
    cudnn_deterministic: bool | None = None
    warmup: WarmUp = WarmUp()
    stopping: Stopping = Stopping()
    watch: Watching = Watching()
    calibration: dict[Kernel, Band] = {}

    @property
    def precision(self) -> Precision:
        """What is measured in unless told otherwise: the first of `precisions`."""
        return (self.precisions or ("float32",))[0]

    @property
    def batch(self) -> int:
        """Images a call unless told otherwise: the first of `batches`."""
        return (self.batches or (1,))[0]

    @field_validator("device_name")
    @classmethod
    def _is_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from error
        return value

    @field_validator("batches")
    @classmethod
    def _are_counts(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and min(value) < 1:
            raise ValueError("a batch has at least one image")
        return value

    @field_validator("resolutions")
    @classmethod
    def _are_sizes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not re.fullmatch(r"native|[1-9]\d*x[1-9]\d*", text):
                raise ValueError(f"{text!r} is neither native nor height x width, such as 800x1333")
        return value

    @field_validator("driver", "cuda")
    @classmethod
    def _are_versions(cls, value: tuple[str, str] | None) -> tuple[str, str] | None:
        if value is not None and version_of(value[0]) > version_of(value[1]):
            raise ValueError("names its least version second")
        return value

    @field_validator("memory_gib", "sm_clock_mhz", "memory_clock_mhz")
    @classmethod
    def _is_range(cls, value: _Pair | None) -> _Pair | None:
        if value is not None and value[0] > value[1]:
            raise ValueError("names its least value second")
        return value

    @model_validator(mode="after")
    def _fits_device(self) -> HardwareProfile:
        if self.device == "cpu":
            entries = [
                *("sm_clock_mhz", "memory_clock_mhz", "driver", "cuda", "power_cap_w", "ecc", "mig"),
                *("pcie_generation", "pcie_width", "cudnn_benchmark", "cudnn_deterministic"),
            ]
            wrong = [entry for entry in entries if getattr(self, entry) is not None]
            wrong += ["clocks"] if self.clocks != "any" else []
            if wrong:
                raise ValueError(f"cannot be observed of a CPU: {', '.join(wrong)}; leave them out (clocks: any)")
        elif (self.watch.foreign_cores, self.watch.stolen_cores) != (None, None):
            raise ValueError("a GPU's watch does not look at the processor; leave out foreign_cores and stolen_cores")
        return self

    @model_validator(mode="after")
    def _says_enough(self) -> HardwareProfile:
        entries = ("architecture", "cores", "threads", "precisions", "batches")
        missing = [entry for entry in entries if getattr(self, entry) is None]
        if missing and not self.paper_only:
            raise ValueError(f"lacks {', '.join(missing)}, which only a profile that is paper_only may leave out")
        return self


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


def version_of(text: str) -> tuple[int, ...]:
    """The numbers of a version, to compare by.

    Raises:
        ValueError: There are none.
    """
    parts = re.findall(r"\d+", text)
    if not parts:
        raise ValueError(f"{text!r} is no version")
    return tuple(map(int, parts))
