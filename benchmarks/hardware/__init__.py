"""What a measured time is valid for, and whether a run deserves it.

A machine is one TOML file here, a `HardwareProfile`. A Record is stamped with the profile that its machine conforms to,
or carries what did not conform: before and after the run (`observe`, `conforms`, and the kernels of
`benchmarks.hardware.calibration`), and while it lasted (`watch`).
"""

from __future__ import annotations

from benchmarks.hardware.observing import Observed, RunFacts, conforms, observe
from benchmarks.hardware.profiles import (
    CompileMode,
    HardwareProfile,
    MemoryFormat,
    Precision,
    ProfileError,
    Stopping,
    WarmUp,
    load_profiles,
)
from benchmarks.hardware.stamping import miscalibrated, nearest, stamp, stamp_watched
from benchmarks.hardware.watching import Watch, watch

__all__ = [
    "CompileMode",
    "HardwareProfile",
    "MemoryFormat",
    "Observed",
    "Precision",
    "ProfileError",
    "RunFacts",
    "Stopping",
    "WarmUp",
    "Watch",
    "conforms",
    "load_profiles",
    "miscalibrated",
    "nearest",
    "observe",
    "stamp",
    "stamp_watched",
    "watch",
]
