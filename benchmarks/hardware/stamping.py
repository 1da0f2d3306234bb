"""From a machine to the `Hardware` of a Record: its profile's name, or what did not conform."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Unpack

from benchmarks.hardware.observing import Observed, RunFacts, conforms, observe
from benchmarks.hardware.profiles import HardwareProfile, Kernel, load_profiles
from benchmarks.hardware.verdicts import ranges
from benchmarks.results import Hardware, Watched

if TYPE_CHECKING:
    import torch

    from benchmarks.hardware.watching import Watch

__all__ = ["miscalibrated", "nearest", "stamp", "stamp_watched"]


def stamp(
    device: torch.device | str,
    threads: int | None = None,
    *,
    profiles: Mapping[str, HardwareProfile] | None = None,
    **run: Unpack[RunFacts],
) -> Hardware:
    """What a Record says about a machine that nobody watched.

    `machine` is the profile's name where everything conforms. Elsewhere it is `local`, and the deviations are those
    from the profile that it is nearest to, the name of the profile first. A profile that is paper-only is never
    stamped.

    Args:
        device: As `observe` takes it.
        threads: Likewise.
        profiles: By name; None for the project's own.
        run: Facts of the run, see `RunFacts`.
    """
    seen = observe(device, threads=threads, **run)
    profile = nearest(seen, profiles)
    return _hardware(seen, profile, conforms(profile, seen), profiles)


def stamp_watched(
    seen: Watch,
    *,
    profiles: Mapping[str, HardwareProfile] | None = None,
) -> Hardware:
    """What a Record says about a run that was watched: what did not conform before, during and after it.

    Args:
        seen: The watch, after its end.
        profiles: By name; None for the project's own.
    """
    profile = nearest(seen.before, profiles)
    # Whether clocks are locked shows under load only, which `before` and `after` are not.
    judged = [replace(facts, clocks="locked") for facts in (seen.before, seen.after)]
    before, after = (conforms(profile, facts) for facts in judged)
    findings = seen.findings(profile)
    during = [f"{finding.label} ({finding.about})" for finding in findings]
    deviations = [reason if reason in after else f"before the run: {reason}" for reason in before]
    deviations += miscalibrated(profile, seen.calibration)
    deviations += [f"during the run: {reason}" for reason in during]
    deviations += [f"after the run: {reason}" for reason in after if reason not in before]
    samples = seen.samples
    watched = Watched(
        source=seen.source.name,
        looks=len(samples),
        seconds=samples[-1].at - samples[0].at,
        findings={finding.label: finding.detail for finding in findings},
        discarded=sum(until - since for since, until in seen.discarded),
        ranges=ranges(samples),
    )
    return _hardware(seen.before, profile, deviations, profiles, watched, seen.calibration)


def nearest(seen: Observed, profiles: Mapping[str, HardwareProfile] | None = None) -> HardwareProfile:
    """The profile that a machine deviates from least, of those that Records can be stamped with.

    Raises:
        ValueError: All are paper-only.
    """
    found = [profile for profile in _named(profiles).values() if not profile.paper_only]
    if not found:
        raise ValueError("every hardware profile is paper_only; write one of a machine that Records are measured on")
    # A profile of another kind of device is never the nearest, though its list of deviations is short.
    same_kind = [profile for profile in found if profile.device == seen.device]
    return min(same_kind or found, key=lambda profile: len(conforms(profile, seen)))


def miscalibrated(profile: HardwareProfile, seconds: Mapping[Kernel, float] | None) -> list[str]:
    """Which calibration kernels do not take as long as on the profile's machine, in words without figures."""
    if not profile.calibration:
        return ["calibration: not calibrated, the profile has no bands yet"]
    if not seconds:
        return ["calibration: the kernels were not timed"]
    found = []
    for kernel, expected in profile.calibration.items():
        low, high = expected.band
        if kernel not in seconds:
            found.append(f"calibration: {kernel} was not timed")
        elif not low <= seconds[kernel] <= high:
            found.append(f"calibration: {kernel} is {'slower' if seconds[kernel] > high else 'faster'} than its band")
    return found


def _named(profiles: Mapping[str, HardwareProfile] | None) -> Mapping[str, HardwareProfile]:
    return load_profiles() if profiles is None else profiles


def _hardware(
    seen: Observed,
    profile: HardwareProfile,
    deviations: list[str],
    profiles: Mapping[str, HardwareProfile] | None,
    watched: Watched | None = None,
    calibration: Mapping[Kernel, float] | None = None,
) -> Hardware:
    if deviations:
        deviations = [*deviations, *_of_papers(seen, profiles)]
    apart = ("device", "device_name", "threads", "precision")
    return Hardware(
        machine="local" if deviations else profile.name,
        device=f"{seen.device}: {seen.device_name}",
        profile=None if deviations else profile.name,
        deviations=tuple(f"{profile.name}: {reason}" for reason in deviations),
        threads=seen.threads,
        precision=seen.precision,
        observed={
            entry: round(value, 1) if entry == "memory_gib" else value
            for entry, value in asdict(seen).items()
            if value is not None and entry not in apart
        },
        calibration={kernel: seconds for kernel, seconds in (calibration or {}).items()},
        watched=watched,
    )


def _of_papers(seen: Observed, profiles: Mapping[str, HardwareProfile] | None) -> list[str]:
    """Profiles of papers whose device this is, which explain why no name of theirs is on the Record."""
    return [
        f"the profile {profile.name} of this device is paper_only; write one of this machine"
        for profile in _named(profiles).values()
        if profile.paper_only and profile.device == seen.device and re.fullmatch(profile.device_name, seen.device_name)
    ]
