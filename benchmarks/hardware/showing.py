"""What `python -m benchmarks hardware` prints: this machine, how it conforms to each profile, and its calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from benchmarks.hardware.calibration import KERNELS, bands, calibrate
from benchmarks.hardware.observing import Observed, conforms
from benchmarks.hardware.profiles import HardwareProfile, Kernel
from benchmarks.hardware.stamping import miscalibrated
from benchmarks.hardware.verdicts import ranges
from benchmarks.hardware.watching import Watch

__all__ = ["in_rounds", "print_bands", "print_machine"]


def in_rounds(rounds: int, device: str, threads: int | None) -> list[dict[Kernel, float]]:
    """Calibrate several times, with progress."""
    turns = track(range(rounds), description="calibrating", console=Console(stderr=True), transient=True)
    return [calibrate(device, threads) for _ in turns]


def print_machine(
    seen: Watch, profiles: Mapping[str, HardwareProfile], rounds: Sequence[Mapping[Kernel, float]]
) -> None:
    """Print what was seen while the kernels ran.

    Args:
        seen: The watch, after its end.
        profiles: By name.
        rounds: Seconds of the kernels, of each round.
    """
    console = Console()
    seconds = {kernel: median(found[kernel] for found in rounds) for kernel in KERNELS}
    console.print(_machine(seen.before))
    console.print(_profiles(seen, profiles, seconds))
    console.print(_kernels(seen.profile, seconds))
    for name, (least, middle, most) in ranges(seen.samples).items():
        console.print(f"{name}: {least:g} to {most:g}, median {middle:g}")


def print_bands(seen: Watch, rounds: Sequence[dict[Kernel, float]]) -> None:
    """Print the table of a profile's TOML, and whether it may be believed."""
    found = seen.findings()
    print("\n# Disturbed, not to be used:" if found else "\n# For the profile of this machine:")
    for finding in found:
        print(f"#   {finding.label}: {finding.detail}")
    print(bands(rounds))


def _machine(observed: Observed) -> Table:
    table = Table("", "seen", title="this machine")
    for entry, value in asdict(observed).items():
        if value is None and observed.device == "cpu" and entry != "governor":
            continue  # Of a GPU.
        text = f"{value:.1f}" if isinstance(value, float) else "cannot be observed" if value is None else str(value)
        table.add_row(entry, escape(text))
    return table


def _profiles(seen: Watch, profiles: Mapping[str, HardwareProfile], seconds: Mapping[Kernel, float]) -> Table:
    table = Table("profile", "conforms", "what does not, or disturbed the kernels", title="profiles", show_lines=True)
    for name, profile in profiles.items():
        if profile.paper_only:
            table.add_row(name, "paper only", "describes what papers were measured on")
            continue
        found = conforms(profile, seen.before)
        if profile.device == seen.before.device:
            found += miscalibrated(profile, seconds)
            found += [f"{finding.label}: {finding.detail}" for finding in seen.findings(profile)]
        table.add_row(name, "no" if found else "yes", escape("\n".join(found)))
    return table


def _kernels(profile: HardwareProfile, seconds: Mapping[Kernel, float]) -> Table:
    table = Table("kernel", "ms", f"band of {profile.name}", "", title="calibration")
    for kernel in KERNELS:
        expected = profile.calibration.get(kernel)
        if expected is None:
            table.add_row(kernel, f"{1000 * seconds[kernel]:.2f}", "-", "not calibrated")
            continue
        low, high = expected.band
        verdict = "slower" if seconds[kernel] > high else "faster" if seconds[kernel] < low else "within"
        table.add_row(kernel, f"{1000 * seconds[kernel]:.2f}", f"{1000 * low:.2f} to {1000 * high:.2f}", verdict)
    return table
