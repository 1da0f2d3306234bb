"""The verdict on a run: which disturbances its samples show, and when. A pure function of profile and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

from benchmarks.hardware.profiles import HardwareProfile
from benchmarks.hardware.sampling import Reason, Sample

__all__ = ["PASSING", "Finding", "Label", "Moment", "judge", "ranges"]

Label = Literal[
    "throttled",
    "power cap",
    "clock step",
    "not locked, watched",
    "intruder process",
    "foreign load",
    "stolen time",
    "governor changed",
    "ECC error",
    "MIG on",
    "PCIe downgrade",
    "permission lost",
    "cannot be observed",
]

PASSING: frozenset[Label] = frozenset(
    {
        *("throttled", "power cap", "clock step", "intruder process", "foreign load", "stolen time"),
        *("governor changed", "ECC error", "PCIe downgrade"),
    }
)
"""What may be over when a window is measured again. The rest stays as it is for the whole run."""

_SLOWED: tuple[Reason, ...] = (
    *("hardware slowdown", "hardware thermal slowdown", "software thermal slowdown", "power brake", "sync boost"),
)
_EXPLAINED: frozenset[Reason] = frozenset({*_SLOWED, "power cap", "idle"})
"""Reasons for a clock to be another than usual."""

_COUNTERS: dict[Label, str] = {"foreign load": "foreign_s", "stolen time": "stolen_s"}

_SPACING = 0.5
"""Seconds over which processor time is divided at least: it is counted in hundredths of a second."""


@dataclass(frozen=True)
class Moment:
    """A look that showed a disturbance, at `at`; it may have lasted from `since` to `until`, the looks around it."""

    since: float
    at: float
    until: float


@dataclass(frozen=True)
class Finding:
    """A disturbance.

    Attributes:
        label: Of its kind.
        about: What of the machine it concerns, in words without figures, so that two runs say the same.
        moments: When; none where it holds for the whole run.
        detail: The same with figures.
    """

    label: Label
    about: str
    moments: tuple[Moment, ...] = ()
    detail: str = ""

    def touches(self, since: float, until: float) -> bool:
        """Whether it may have lasted into a window of time."""
        return any(moment.since <= until and moment.until >= since for moment in self.moments)


def judge(
    profile: HardwareProfile,
    samples: Sequence[Sample],
    *,
    own: int,
    discarded: Sequence[tuple[float, float]] = (),
    lenient: bool = True,
) -> list[Finding]:
    """Which disturbances the samples of a run show; none for a clean run.

    Args:
        profile: Says what is demanded and where a disturbance begins.
        samples: In the order of time.
        own: Number of the process that was measured. Where it is not among those on the GPU (a container counts
            otherwise), the one that is seen most is taken for it.
        discarded: Windows that were thrown away: what was seen in them is of no account.
        lenient: Load by others and stolen time count from `profile.watch.tolerated` of the time on only.
    """
    found = []
    for finding in _all(profile, samples, own):
        kept = tuple(m for m in finding.moments if not any(since <= m.at <= until for since, until in discarded))
        if finding.moments and not kept:
            continue
        if lenient and finding.label in _COUNTERS:
            seconds = sum(moment.until - moment.since for moment in kept)
            if seconds <= profile.watch.tolerated * (samples[-1].at - samples[0].at):
                continue
        found.append(Finding(finding.label, finding.about, kept, _detail(finding, kept, samples)))
    return found


def ranges(samples: Sequence[Sample]) -> dict[str, tuple[float, float, float]]:
    """Least, median and most of each figure that was seen."""
    found = {}
    for name in ("clock_mhz", "memory_clock_mhz", "temperature_c", "power_w", "utilisation"):
        values = [value for value in (getattr(sample, name) for sample in samples) if value is not None]
        if values:
            found[name] = (float(min(values)), float(median(values)), float(max(values)))
    return found


def _all(profile: HardwareProfile, samples: Sequence[Sample], own: int) -> Iterator[Finding]:
    yield from _throttled(samples)
    yield from _power_cap(profile, samples)
    if profile.clocks != "any":
        yield from _clock_steps(profile, samples)
    if profile.clocks == "locked":
        fixed = _EXPLAINED | {"application clocks"}
        free = _looks(samples, lambda s: s.reasons is not None and not s.reasons & fixed)
        yield from _found("not locked, watched", "the driver chooses the clocks", free)
    yield from _intruders(samples, own)
    limits = profile.watch
    yield from _found("foreign load", "of other processes", _rates(samples, "foreign_s", limits.foreign_cores))
    yield from _found("stolen time", "by the hypervisor", _rates(samples, "stolen_s", limits.stolen_cores))
    governors = [sample.governor for sample in samples if sample.governor is not None]
    changed = _looks(samples, lambda s: s.governor is not None and s.governor != governors[0])
    yield from _found("governor changed", "of the processor's clock", changed)
    yield from _found("ECC error", "of the GPU's memory", _rises(samples))
    if profile.mig is not True:
        yield from _found("MIG on", "the GPU is split", _looks(samples, lambda s: s.mig is True))
    yield from _slow_link(profile, samples)
    yield from _unseen(profile, samples)


def _found(label: Label, about: str, moments: list[Moment]) -> list[Finding]:
    return [Finding(label, about, tuple(moments))] if moments else []


def _looks(samples: Sequence[Sample], bad: Callable[[Sample], bool]) -> list[Moment]:
    """Looks at which something was so; it may have begun after the look before and ended before the next."""
    last = len(samples) - 1
    return [
        Moment(samples[max(turn - 1, 0)].at, sample.at, samples[min(turn + 1, last)].at)
        for turn, sample in enumerate(samples)
        if bad(sample)
    ]


def _works(sample: Sample) -> bool:
    return sample.reasons is None or "idle" not in sample.reasons


def _throttled(samples: Sequence[Sample]) -> list[Finding]:
    named = [reason for reason in _SLOWED if any(reason in (sample.reasons or ()) for sample in samples)]
    return _found("throttled", ", ".join(named), _looks(samples, lambda s: bool((s.reasons or set()) & set(named))))


def _power_cap(profile: HardwareProfile, samples: Sequence[Sample]) -> list[Finding]:
    caps = [profile.power_cap_w, *(sample.power_cap_w for sample in samples)]
    usual = next((cap for cap in caps if cap is not None), None)

    def reached(sample: Sample) -> bool:
        return _works(sample) and "power cap" in (sample.reasons or ())

    def moved(sample: Sample) -> bool:
        cap = sample.power_cap_w
        return cap is not None and usual is not None and abs(cap - usual) > 0.01 * usual

    about = [word for word, rule in (("reached", reached), ("changed", moved)) if any(map(rule, samples))]
    return _found("power cap", ", ".join(about), _looks(samples, lambda s: reached(s) or moved(s)))


def _clock_steps(profile: HardwareProfile, samples: Sequence[Sample]) -> list[Finding]:
    """Clocks under load that leave their range though nothing explains it, and nothing did one look earlier."""
    steady = [
        turn
        for turn in range(len(samples))
        if not any((sample.reasons or set()) & _EXPLAINED for sample in samples[max(turn - 1, 0) : turn + 1])
    ]
    off: set[Sample] = set()
    named = []
    clocks = (
        ("SM clock", "clock_mhz", profile.sm_clock_mhz),
        ("memory clock", "memory_clock_mhz", profile.memory_clock_mhz),
    )
    for title, name, allowed in clocks:
        seen = {turn: value for turn in steady if (value := getattr(samples[turn], name)) is not None}
        if not seen:
            continue
        usual, share = median(seen.values()), profile.watch.clock_step
        low, high = allowed or (usual * (1 - share), usual * (1 + share))
        left = [samples[turn] for turn, value in seen.items() if not low <= value <= high]
        named += [title] if left else []
        off.update(left)
    return _found("clock step", ", ".join(named), _looks(samples, lambda s: s in off))


def _intruders(samples: Sequence[Sample], own: int) -> list[Finding]:
    looks = [sample.processes for sample in samples if sample.processes]
    numbers = sorted(set().union(*looks))
    if own not in numbers and numbers:
        own = max(numbers, key=lambda number: sum(number in look for look in looks))
    return _found("intruder process", "on the GPU", _looks(samples, lambda s: bool((s.processes or set()) - {own})))


def _rates(samples: Sequence[Sample], counter: str, limit: float | None) -> list[Moment]:
    """Stretches of `_SPACING` or more over which a counter of core-seconds rose faster than `limit` cores."""
    seen = [(s.at, float(value)) for s in samples if (value := getattr(s, counter)) is not None]
    if limit is None or not seen:
        return []
    marks = seen[:1]
    for mark in seen[1:]:
        if mark[0] - marks[-1][0] >= _SPACING:
            marks.append(mark)
    if seen[-1] != marks[-1]:
        # A rest that is too short alone belongs to the stretch before it.
        marks = [*(marks[:-1] if len(marks) > 1 else marks), seen[-1]]
    return [
        Moment(since, until, until)
        for (since, before), (until, after) in pairwise(marks)
        if until > since and (after - before) / (until - since) > limit
    ]


def _rises(samples: Sequence[Sample]) -> list[Moment]:
    counted = [(sample.at, sample.ecc_errors) for sample in samples if sample.ecc_errors is not None]
    return [Moment(since, at, at) for (since, before), (at, after) in pairwise(counted) if after > before]


def _slow_link(profile: HardwareProfile, samples: Sequence[Sample]) -> list[Finding]:
    """A link below the profile's (or its own best) under load; an idle one slows down to save power."""
    generations = [sample.pcie_generation for sample in samples if sample.pcie_generation is not None]
    widths = [sample.pcie_width for sample in samples if sample.pcie_width is not None]
    generation = profile.pcie_generation or max(generations, default=0)
    width = profile.pcie_width or max(widths, default=0)

    def slow(sample: Sample) -> bool:
        older = sample.pcie_generation is not None and sample.pcie_generation < generation
        return (older and _works(sample)) or (sample.pcie_width is not None and sample.pcie_width < width)

    return _found("PCIe downgrade", "of the GPU's link", _looks(samples, slow))


_QUESTIONS = {
    "reasons": "reasons of clocks",
    "clock_mhz": "SM clock",
    "memory_clock_mhz": "memory clock",
    "processes": "processes on the GPU",
    "power_cap_w": "power cap",
    "ecc_errors": "ECC errors",
    "mig": "MIG",
    "pcie_generation": "PCIe generation",
    "pcie_width": "PCIe width",
    "governor": "governor",
    "foreign_s": "load by other processes",
}


def _demanded(profile: HardwareProfile) -> list[str]:
    """What must be seen for a verdict."""
    if profile.device == "cpu":
        asked = {"foreign_s": profile.watch.foreign_cores, "governor": profile.governor}
        return [name for name, wanted in asked.items() if wanted is not None]
    demanded = ["reasons", "processes"]
    demanded += ["clock_mhz", "memory_clock_mhz"] if profile.clocks != "any" else []
    demanded += ["ecc_errors"] if profile.ecc else []
    entries = ("power_cap_w", "mig", "pcie_generation", "pcie_width")
    return demanded + [entry for entry in entries if getattr(profile, entry) is not None]


def _unseen(profile: HardwareProfile, samples: Sequence[Sample]) -> list[Finding]:
    """Questions that got no answer at all, and those that once got one."""
    never, lost = [], []
    for name in _demanded(profile):
        answers = [getattr(sample, name) is not None for sample in samples]
        if not any(answers):
            never.append(name)
        elif not all(answers[answers.index(True) :]):
            lost.append(name)
    found = [Finding("cannot be observed", ", ".join(map(_QUESTIONS.__getitem__, never)))] if never else []
    gaps = _looks(samples, lambda s: any(getattr(s, name) is None for name in lost))
    return [*found, *_found("permission lost", ", ".join(map(_QUESTIONS.__getitem__, lost)), gaps)]


def _detail(finding: Finding, kept: Sequence[Moment], samples: Sequence[Sample]) -> str:
    if not kept:
        return finding.about
    start, bad = samples[0].at, {moment.at for moment in kept}
    when = f"{len(kept)} of {len(samples)} looks, {kept[0].at - start:.1f} s to {kept[-1].at - start:.1f} s"
    text = f"{finding.about}: {when} of {samples[-1].at - start:.1f} s"
    counter = _COUNTERS.get(finding.label)
    if counter is not None:
        counted = [(s.at, value) for s in samples if (value := getattr(s, counter)) is not None]
        cores = (counted[-1][1] - counted[0][1]) / (counted[-1][0] - counted[0][0])
        return f"{text}; {cores:.2f} cores on average"
    seen = ranges([sample for sample in samples if sample.at in bad])
    clocks = [f"{name} {low:g} to {high:g}" for name, (low, _, high) in seen.items() if name.endswith("clock_mhz")]
    return "; ".join((text, *clocks))
