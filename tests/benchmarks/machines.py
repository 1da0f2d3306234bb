"""Machines that exist nowhere: profiles of a GPU and of a processor, and what is observed of that GPU."""

from __future__ import annotations

from typing import Any

from benchmarks.hardware import HardwareProfile, Observed

_MACHINE: dict[str, Any] = {"architecture": "x86_64", "precisions": ("float32",), "batches": (1,)}
_BOARD: dict[str, Any] = {"ecc": True, "mig": False, "pcie_generation": 5, "pcie_width": 16}


def gpu_profile(**entries: Any) -> HardwareProfile:
    own = {"name": "gpu", "device": "cuda", "device_name": "NVIDIA H200", "cores": 16, "threads": 16}
    return HardwareProfile(**{**_MACHINE, **_BOARD, **own, "clocks": "watched", "power_cap_w": 700, **entries})


def cpu_profile(**entries: Any) -> HardwareProfile:
    own = {"name": "box", "device": "cpu", "device_name": ".*", "cores": 2, "threads": 2, "clocks": "any"}
    return HardwareProfile(**{**_MACHINE, **own, **entries})


SEEN = Observed(
    device="cuda",
    device_name="NVIDIA H200",
    architecture="x86_64",
    cores=16,
    memory_gib=139.8,
    threads=16,
    power_cap_w=700.0,
    **_BOARD,
)
"""Of the machine that `gpu_profile` demands."""
