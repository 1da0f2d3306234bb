"""One GPU as NVIDIA's management library shows it. What may not be asked, or is not there to ask, is None."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from benchmarks.hardware.sampling import Reason, Sample

__all__ = ["Nvml"]

_REASONS: dict[Reason, str] = {
    "idle": "GpuIdle",
    "application clocks": "ApplicationsClocksSetting",
    "display clocks": "DisplayClockSetting",
    "power cap": "SwPowerCap",
    "hardware slowdown": "HwSlowdown",
    "sync boost": "SyncBoost",
    "software thermal slowdown": "SwThermalSlowdown",
    "hardware thermal slowdown": "HwThermalSlowdown",
    "power brake": "HwPowerBrakeSlowdown",
}
"""Our names of the reasons why a clock is what it is, and NVML's."""


class Nvml:
    """A source of samples of one GPU.

    Each question is put on its own, so that a permission that is missing, or is withdrawn, costs one answer and no
    more; where the library or the driver is absent, every answer is None.

    Args:
        uuid: Of the GPU, as NVML writes it.
        library: The module `pynvml`, or what stands in for it.
    """

    name = "nvml"

    def __init__(self, uuid: str, library: Any = None) -> None:
        if library is None:
            import pynvml

            library = pynvml
        self._library = library
        self._handle: Any = None
        self._open = False
        with contextlib.suppress(library.NVMLError):
            library.nvmlInit()
            self._open = True
            self._handle = library.nvmlDeviceGetHandleByUUID(uuid.encode())

    def close(self) -> None:
        """Let go of the library."""
        if self._open:
            with contextlib.suppress(self._library.NVMLError):
                self._library.nvmlShutdown()
        self._open, self._handle = False, None

    def read(self) -> Sample:
        """Look at the GPU now."""
        library = self._library
        kinds = (library.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, library.NVML_MEMORY_ERROR_TYPE_CORRECTED)
        errors = [self._ask("nvmlDeviceGetTotalEccErrors", kind, library.NVML_VOLATILE_ECC) for kind in kinds]
        use = self._ask("nvmlDeviceGetUtilizationRates")
        power = self._ask("nvmlDeviceGetPowerUsage")
        return Sample(
            at=time.perf_counter(),
            clock_mhz=self._ask("nvmlDeviceGetClockInfo", library.NVML_CLOCK_SM),
            memory_clock_mhz=self._ask("nvmlDeviceGetClockInfo", library.NVML_CLOCK_MEM),
            reasons=self.reasons(),
            temperature_c=self._ask("nvmlDeviceGetTemperature", library.NVML_TEMPERATURE_GPU),
            power_w=None if power is None else power / 1000,
            power_cap_w=self.power_cap_w(),
            utilisation=None if use is None else use.gpu / 100,
            processes=self.processes(),
            ecc_errors=None if None in errors else sum(errors),
            mig=self.mig(),
            pcie_generation=self._ask("nvmlDeviceGetCurrPcieLinkGeneration"),
            pcie_width=self.pcie_width(),
        )

    def reasons(self) -> frozenset[Reason] | None:
        """Why the clocks are what they are."""
        mask = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if mask is None:
            return None
        return frozenset(
            reason for reason, name in _REASONS.items() if mask & getattr(self._library, f"nvmlClocksEventReason{name}")
        )

    def driver(self) -> str | None:
        """Version of the driver."""
        if not self._open:
            return None
        try:
            return str(self._library.nvmlSystemGetDriverVersion())
        except self._library.NVMLError:
            return None

    def power_cap_w(self) -> float | None:
        """Power limit in force."""
        milliwatts = self._ask("nvmlDeviceGetEnforcedPowerLimit")
        return None if milliwatts is None else milliwatts / 1000

    def ecc(self) -> bool | None:
        """Whether memory is checked for errors now; the mode after the next restart is of no account."""
        modes = self._ask("nvmlDeviceGetEccMode")
        return None if modes is None else bool(modes[0])

    def mig(self) -> bool | None:
        """Whether the GPU can be split now. One that knows no splitting is whole."""
        if self._handle is None:
            return None
        try:
            return bool(self._library.nvmlDeviceGetMigMode(self._handle)[0])
        except self._library.NVMLError as error:
            return False if error.value == self._library.NVML_ERROR_NOT_SUPPORTED else None

    def best_pcie_generation(self) -> int | None:
        """What GPU and slot can do together."""
        found: int | None = self._ask("nvmlDeviceGetMaxPcieLinkGeneration")
        return found

    def pcie_width(self) -> int | None:
        """Lanes of the link."""
        found: int | None = self._ask("nvmlDeviceGetCurrPcieLinkWidth")
        return found

    def processes(self) -> frozenset[int] | None:
        """Numbers of the processes that compute or draw on the GPU."""
        computing = self._ask("nvmlDeviceGetComputeRunningProcesses")
        drawing = self._ask("nvmlDeviceGetGraphicsRunningProcesses")
        if computing is None:
            return None
        return frozenset(process.pid for process in (*computing, *(drawing or ())))

    def _ask(self, question: str, *about: Any) -> Any:
        if self._handle is None:
            return None
        try:
            return getattr(self._library, question)(self._handle, *about)
        except self._library.NVMLError:
            return None
