"""What a run's samples show is told by recorded and made-up traces of which the truth is known."""

from __future__ import annotations

import os
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest

from benchmarks.hardware import HardwareProfile, Watch, observe, stamp_watched, watch
from benchmarks.hardware.nvml import Nvml
from benchmarks.hardware.profiles import Band, Watching
from benchmarks.hardware.sampling import Replay, Sample, TraceError, read_trace, taken, write_trace
from benchmarks.hardware.verdicts import judge, ranges
from tests.benchmarks.machines import SEEN, cpu_profile, gpu_profile

OWN, OTHER = os.getpid(), 1

GPU = gpu_profile(calibration={"nms": Band(seconds=1.0, band=(0.9, 1.2))})
LOCKED = GPU.model_copy(update={"clocks": "locked"})
CPU = cpu_profile(watch=Watching(period=1.0, foreign_cores=0.1, stolen_cores=0.05, tolerated=0.05))
WORKING = Sample(
    at=0.0,
    clock_mhz=1980,
    memory_clock_mhz=3201,
    reasons=frozenset(),
    temperature_c=50,
    power_w=520,
    power_cap_w=700,
    utilisation=0.95,
    processes=frozenset({OWN}),
    ecc_errors=3,
    mig=False,
    pcie_generation=5,
    pcie_width=16,
)
IDLE: dict[str, Any] = {"clock_mhz": 345, "reasons": frozenset({"idle"}), "power_w": 75, "pcie_generation": 1}
HOT: dict[str, Any] = {
    "clock_mhz": 1200,
    "reasons": frozenset({"hardware slowdown", "hardware thermal slowdown"}),
    "temperature_c": 90,
}
NOTHING: dict[str, Any] = dict.fromkeys(set(Sample.__dataclass_fields__) - {"at"})


def trace(*changes: tuple[float, float, dict[str, Any]], base: Sample = WORKING, looks: int = 101) -> list[Sample]:
    """Ten looks a second at a GPU that works from 0.1 s to 9.9 s; each change holds from one time to another."""
    samples = [replace(base, at=turn / 10) for turn in range(looks)]
    for since, until, fields in ((0, 0, IDLE), (looks / 10 - 0.1, looks / 10, IDLE), *changes):
        samples = [replace(s, **fields) if since <= s.at <= until else s for s in samples]
    return samples


def labels(profile: HardwareProfile, samples: list[Sample]) -> list[str]:
    return [finding.label for finding in judge(profile, samples, own=OWN)]


@pytest.mark.parametrize(
    ("change", "label", "about"),
    [
        (HOT, "throttled", "hardware slowdown, hardware thermal slowdown"),
        ({"reasons": frozenset({"software thermal slowdown"})}, "throttled", "software thermal slowdown"),
        ({"reasons": frozenset({"power brake"})}, "throttled", "power brake"),
        ({"reasons": frozenset({"sync boost"})}, "throttled", "sync boost"),
        ({"clock_mhz": 1650, "reasons": frozenset({"power cap"}), "power_w": 699}, "power cap", "reached"),
        ({"power_cap_w": 500}, "power cap", "changed"),
        ({"clock_mhz": 1755}, "clock step", "SM clock"),
        ({"clock_mhz": 2050}, "clock step", "SM clock"),
        ({"memory_clock_mhz": 2619}, "clock step", "memory clock"),
        ({"processes": frozenset({OWN, OTHER})}, "intruder process", "on the GPU"),
        ({"processes": frozenset({OTHER})}, "intruder process", "on the GPU"),
        ({"mig": True}, "MIG on", "the GPU is split"),
        ({"pcie_generation": 3}, "PCIe downgrade", "of the GPU's link"),
        ({"pcie_width": 8}, "PCIe downgrade", "of the GPU's link"),
        ({"reasons": None}, "permission lost", "reasons of clocks"),
        ({"processes": None}, "permission lost", "processes on the GPU"),
        ({"ecc_errors": None, "clock_mhz": None}, "permission lost", "SM clock, ECC errors"),
        (NOTHING, "permission lost", None),
    ],
)
def test_each_disturbance_gets_its_label_and_no_other(change: dict[str, Any], label: str, about: str | None) -> None:
    (found,) = judge(GPU, trace((3.0, 4.5, change)), own=OWN)
    assert found.label == label
    assert about is None or found.about == about
    assert [moment.at for moment in found.moments] == [turn / 10 for turn in range(30, 46)]
    assert "16 of 101 looks, 3.0 s to 4.5 s of 10.0 s" in found.detail


@pytest.mark.parametrize(
    "change",
    [
        {"clock_mhz": 1965, "power_w": 650, "temperature_c": 70, "utilisation": 0.4},
        {"memory_clock_mhz": 3200, "power_cap_w": 699},
        IDLE,
        {**IDLE, "reasons": frozenset({"idle", "power cap"})},
        {"reasons": frozenset({"display clocks"})},
        # Temperature is kept, and nothing follows from it alone; no verdict needs it.
        {"temperature_c": None, "power_w": None, "utilisation": None},
    ],
)
def test_a_clean_trace_gets_no_label(change: dict[str, Any]) -> None:
    assert judge(GPU, trace(), own=OWN) == []
    assert judge(GPU, trace((3.0, 4.5, change)), own=OWN) == []
    # An answer that comes late was not lost.
    assert judge(GPU, trace((0.0, 0.3, {"processes": None}), (3.0, 4.5, change)), own=OWN) == []


def test_locked_clocks_and_such_as_are_only_watched() -> None:
    locked = replace(WORKING, reasons=frozenset({"application clocks"}))
    assert labels(LOCKED, trace(base=locked)) == []
    assert labels(LOCKED, trace((3.0, 4.5, HOT), base=locked)) == ["throttled"]
    (found,) = judge(LOCKED, trace(), own=OWN)
    assert (found.label, found.about) == ("not locked, watched", "the driver chooses the clocks")
    assert "clock_mhz 1980 to 1980" in found.detail
    assert labels(GPU.model_copy(update={"clocks": "any"}), trace((3.0, 4.5, {"clock_mhz": 1000}))) == []


def test_clocks_are_held_against_the_profile_where_it_names_them() -> None:
    narrow = GPU.model_copy(update={"sm_clock_mhz": (1900, 2000), "memory_clock_mhz": (3201, 3201)})
    assert labels(narrow, trace()) == []
    (found,) = judge(narrow, trace((0.1, 9.9, {"clock_mhz": 1800})), own=OWN)
    assert (found.label, found.about) == ("clock step", "SM clock")


def test_a_clock_that_recovers_is_part_of_what_slowed_it() -> None:
    rising = ((3.0, 4.5, HOT), (4.6, 4.6, {"clock_mhz": 1600}))
    assert labels(GPU, trace(*rising)) == ["throttled"]
    assert labels(GPU, trace(*rising, (4.7, 4.7, {"clock_mhz": 1600}))) == ["throttled", "clock step"]


def test_disturbances_at_once_are_all_named() -> None:
    changes = ((3.0, 4.5, HOT), (6.0, 6.0, {"processes": frozenset({OWN, OTHER})}), (7.0, 9.9, {"ecc_errors": 4}))
    found = {finding.label: finding for finding in judge(GPU, trace(*changes), own=OWN)}
    assert found.keys() == {"throttled", "intruder process", "ECC error"}
    assert [moment.at for moment in found["intruder process"].moments] == [6.0]
    (error,) = found["ECC error"].moments
    assert (error.since, error.at, error.until) == (6.9, 7.0, 7.0)


def test_in_a_container_the_process_that_stays_is_taken_for_our_own() -> None:
    renamed = replace(WORKING, processes=frozenset({77}))
    assert labels(GPU, trace(base=renamed)) == []
    assert labels(GPU, trace((0, 2.0, {"processes": frozenset()}), base=renamed)) == []
    (found,) = judge(GPU, trace((3.0, 4.5, {"processes": frozenset({77, 78})}), base=renamed), own=OWN)
    assert found.label == "intruder process"
    assert len(found.moments) == 16


def test_what_is_never_shown_cannot_be_observed() -> None:
    (found,) = judge(GPU, trace(base=replace(WORKING, reasons=None), looks=3)[1:2], own=OWN)
    assert (found.label, found.about, found.moments) == ("cannot be observed", "reasons of clocks", ())
    blind = [Sample(at=turn / 10) for turn in range(5)]
    (found,) = judge(GPU, blind, own=OWN)
    assert found.label == "cannot be observed"
    for question in ("reasons of clocks", "SM clock", "processes on the GPU", "ECC errors", "MIG", "PCIe width"):
        assert question in found.about
    assert labels(CPU, blind) == ["cannot be observed"]
    governed = {"governor": "performance"}
    assert labels(GPU.model_copy(update=governed), trace()) == [], "looked at before and after the run"
    (found,) = judge(CPU.model_copy(update=governed), [replace(s, foreign_s=0.0) for s in blind], own=OWN)
    assert found.about == "governor"


def test_without_a_width_in_the_profile_the_link_is_held_against_its_best() -> None:
    loose = GPU.model_copy(update={"pcie_generation": None, "pcie_width": None})
    assert labels(loose, trace()) == []
    assert labels(loose, trace((3.0, 4.5, {"pcie_generation": 4}))) == ["PCIe downgrade"]
    assert labels(loose, trace((3.0, 4.5, {"pcie_width": 4}))) == ["PCIe downgrade"]


def counted(foreign: list[float], stolen: float = 0.0, period: float = 1.0) -> list[Sample]:
    """Looks at a processor of which others take so many cores between each two."""
    samples, total = [Sample(at=0.0, foreign_s=100.0, stolen_s=7.0, governor="performance")], 100.0
    for turn, cores in enumerate(foreign, start=1):
        total += cores * period
        samples.append(replace(samples[0], at=turn * period, foreign_s=total, stolen_s=7.0 + stolen * turn * period))
    return samples


def test_load_by_others_counts_from_a_share_of_the_time_on() -> None:
    assert labels(CPU, counted([0.05] * 100)) == []
    assert labels(CPU, counted([0.05] * 95 + [1.5] * 5)) == []
    (found,) = judge(CPU, counted([0.05] * 94 + [1.5] * 6), own=OWN)
    assert found.label == "foreign load"
    assert "6 of 101 looks, 95.0 s to 100.0 s" in found.detail
    assert "0.14 cores on average" in found.detail
    assert [f.label for f in judge(CPU, counted([0.05] * 95 + [1.5] * 5), own=OWN, lenient=False)] == ["foreign load"]
    assert labels(CPU, counted([0.0] * 100, stolen=0.2)) == ["stolen time"]
    assert labels(CPU.model_copy(update={"watch": Watching()}), counted([1.5] * 100)) == []


def test_processor_time_is_divided_over_half_a_second_at_least() -> None:
    # A tick of 10 ms within one of 20 looks is 0.5 cores over that look and 0.05 over half a second.
    ticking = counted([0.5 if turn % 25 == 0 else 0.0 for turn in range(500)], period=0.02)
    assert judge(CPU, ticking, own=OWN, lenient=False) == []
    late = counted([0.0] * 100 + [1.0], period=0.1)
    assert judge(CPU, late, own=OWN, lenient=False)[0].moments[0].until == pytest.approx(10.1)
    assert labels(CPU, counted([1.0], period=0.1)) == ["foreign load"]


def test_a_governor_that_changes_is_named() -> None:
    samples = counted([0.0] * 10)
    samples[5:] = [replace(sample, governor="powersave") for sample in samples[5:]]
    (found,) = judge(CPU, samples, own=OWN)
    assert (found.label, len(found.moments)) == ("governor changed", 6)


def test_ranges_are_least_median_and_most() -> None:
    found = ranges(trace((3.0, 4.5, HOT)))
    assert found["clock_mhz"] == (345, 1980, 1980)
    assert found["temperature_c"] == (50, 50, 90)
    assert ranges([Sample(at=0.0)]) == {}


@pytest.fixture
def replayed() -> Iterator[Watch]:
    """A watch of a run that is throttled from 3.0 s to 3.4 s; looks are taken by hand."""
    with Watch(Replay(trace((3.0, 3.4, HOT))), GPU, facts=lambda: SEEN, period=3600) as seen:
        yield seen


def go_on(seen: Watch, until: float) -> None:
    """Look until just before a time, so that the look that `disturbed` takes is at that time."""
    while seen.samples[-1].at < until - 0.15:
        seen.look()


def test_windows_that_were_disturbed_can_be_told_and_discarded(replayed: Watch) -> None:
    go_on(replayed, 2.0)
    assert replayed.disturbed(0.05, 2.0) == []
    go_on(replayed, 4.0)
    assert replayed.disturbed(2.05, 4.0) == ["throttled"]
    assert [finding.label for finding in replayed.findings()] == ["throttled"]
    # It may have gone on until the look after it, and have begun after the look before it.
    assert replayed.disturbed(2.5, 2.85) == []
    assert replayed.disturbed(2.5, 2.95) == ["throttled"]
    assert replayed.disturbed(3.45, 3.6) == ["throttled"]
    assert replayed.disturbed(3.55, 3.6) == []
    replayed.discard(2.05, 4.0)
    go_on(replayed, 6.0)
    assert replayed.disturbed(4.45, 6.0) == []
    assert replayed.findings() == []


def test_discarding_another_window_helps_nothing(replayed: Watch) -> None:
    go_on(replayed, 5.0)
    replayed.discard(0.0, 2.9)
    # The end reaches to the look that closed the window, and no further.
    assert replayed.discarded[-1][1] == replayed.samples[-1].at
    replayed.discarded[-1] = (0.0, 3.2)
    (found,) = replayed.findings()
    assert [moment.at for moment in found.moments] == [3.3, 3.4]


def test_what_does_not_pass_disturbs_no_window() -> None:
    blind = trace((3.0, 9.9, {"reasons": None, "mig": True}))
    with Watch(Replay(blind), LOCKED, facts=lambda: SEEN, period=3600) as seen:
        go_on(seen, 6.0)
        assert seen.disturbed(4.0, 6.0) == []
        assert {f.label for f in seen.findings()} == {"permission lost", "MIG on", "not locked, watched"}


def stamped(samples: list[Sample], profile: HardwareProfile = GPU, nms: float = 1.0, **after: Any) -> Any:
    facts = iter([SEEN, replace(SEEN, **after)])
    with Watch(Replay(samples), profile, facts=lambda: next(facts), period=3600, calibration={"nms": nms}) as seen:
        for _ in samples[2:]:
            seen.look()
    return stamp_watched(seen, profiles={profile.name: profile})


def test_a_record_carries_the_profile_or_what_did_not_conform_and_when() -> None:
    clean = stamped(trace())
    assert (clean.machine, clean.profile, clean.deviations) == ("gpu", "gpu", ())
    assert clean.watched.looks == 101
    assert clean.watched.seconds == 10.0
    assert clean.watched.findings == {}
    assert clean.calibration == {"nms": 1.0}

    hot = stamped(trace((3.0, 4.5, HOT)))
    assert (hot.machine, hot.profile) == ("local", None)
    about = "hardware slowdown, hardware thermal slowdown"
    assert hot.deviations == (f"gpu: during the run: throttled ({about})",)
    assert "clock_mhz 1200 to 1200" in hot.watched.findings["throttled"]

    assert stamped(trace(), nms=1.3).deviations == ("gpu: calibration: nms is slower than its band",)
    assert stamped(trace(), nms=0.8).deviations == ("gpu: calibration: nms is faster than its band",)
    assert stamped(trace(), power_cap_w=500.0).deviations == ("gpu: after the run: power_cap_w is 500, not 700",)
    wider = GPU.model_copy(update={"threads": 8})
    assert stamped(trace(), wider).deviations == ("gpu: threads is 16, not 8",)
    assert stamped(trace(), wider, threads=8).deviations == ("gpu: before the run: threads is 16, not 8",)
    # Whether clocks are locked is told by the samples alone: an idle GPU does not show it.
    locked = replace(WORKING, reasons=frozenset({"application clocks"}))
    assert stamped(trace(base=locked), LOCKED).profile == "gpu"
    assert stamped(trace(), LOCKED).deviations == (
        "gpu: during the run: not locked, watched (the driver chooses the clocks)",
    )


def test_without_bands_or_times_no_run_conforms() -> None:
    bare = GPU.model_copy(update={"calibration": {}})
    assert stamped(trace(), bare).deviations == ("gpu: calibration: not calibrated, the profile has no bands yet",)
    both = GPU.model_copy(update={"calibration": {**GPU.calibration, "convolution": Band(seconds=1, band=(1, 1))}})
    assert stamped(trace(), both).deviations == ("gpu: calibration: convolution was not timed",)
    with Watch(Replay(trace()), GPU, facts=lambda: SEEN, period=3600) as seen:
        pass
    assert stamp_watched(seen, profiles={"gpu": GPU}).deviations == ("gpu: calibration: the kernels were not timed",)


def test_a_trace_can_be_kept_and_replayed(tmp_path: Path) -> None:
    path, samples = tmp_path / "hot.json", trace((3.0, 4.5, HOT))
    write_trace(samples, path)
    assert read_trace(path) == samples
    replay = Replay(read_trace(path))
    assert [replay.read() for _ in range(103)] == [*samples, samples[-1], samples[-1]]
    with pytest.raises(TraceError, match="without samples"):
        Replay([])


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        ("", "the file"),
        ('[{"clock_mhz": 3}]', "0.at"),
        ('[{"at": 1.0, "reasons": ["too lazy"]}]', "0.reasons"),
        ('[{"at": 1.0}, {"at": 0.5}]', "1.at: lies before"),
    ],
)
def test_a_trace_that_cannot_be_replayed_is_one_clear_error(content: str, entry: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(path)
    path.write_text(content)
    with pytest.raises(TraceError, match="record the trace again") as caught:
        read_trace(path)
    assert f"{path}: {entry}" in str(caught.value)


def test_this_processor_is_watched() -> None:
    with watch("cpu", threads=2, period=0.01, calibrate=False) as seen:
        while len(seen.samples) < 5:
            time.sleep(0.01)
    assert "watch" not in {thread.name for thread in threading.enumerate()}
    looks = len(seen.samples)
    times = [sample.at for sample in seen.samples]
    assert times == sorted(times)
    assert all(sample.foreign_s is not None for sample in seen.samples)
    time.sleep(0.05)
    assert len(seen.samples) == looks, "the thread ends with the watch"
    assert seen.before == seen.after == observe("cpu", threads=2)
    assert stamp_watched(seen).watched.source == "processor"


def test_time_taken_by_others_is_that_of_our_cores_without_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    Core = namedtuple("Core", "user nice system idle iowait irq softirq steal guest guest_nice")
    first = [Core(50, 1, 9, 40, 5, 1, 1, 3, 20, 0), Core(10, 0, 2, 80, 0, 0, 0, 1, 0, 0), Core(*[90] * 10)]
    second = [first[0]._replace(user=54, steal=3.5, guest=22, idle=41, iowait=6), first[1]._replace(system=3), first[2]]
    looks = iter([first, second])
    own = iter([SimpleNamespace(user=20.0, system=4.0), SimpleNamespace(user=22.0, system=4.5)])
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: next(looks))
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(cpu_times=lambda: next(own)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    before, after = taken(), taken()
    # 4 s of `user` (what guests had is among it) and 1 s of `system`, of which 2.5 s were ours.
    assert after[0] - before[0] == pytest.approx(2.5)
    assert (before[1], after[1]) == (4, 4.5)


ANSWERS: dict[str, Any] = {
    "nvmlInit": None,
    "nvmlShutdown": None,
    "nvmlDeviceGetHandleByUUID": "handle",
    "nvmlSystemGetDriverVersion": "570.1",
    "nvmlDeviceGetClockInfo": {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 3201},
    "nvmlDeviceGetCurrentClocksEventReasons": pynvml.nvmlClocksEventReasonSwPowerCap
    | pynvml.nvmlClocksEventReasonHwThermalSlowdown,
    "nvmlDeviceGetTemperature": 61,
    "nvmlDeviceGetPowerUsage": 520_000,
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=95, memory=20),
    "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=7)],
    "nvmlDeviceGetGraphicsRunningProcesses": [SimpleNamespace(pid=8)],
    "nvmlDeviceGetTotalEccErrors": {
        pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED: 1,
        pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED: 4,
    },
    "nvmlDeviceGetMigMode": [0, 1],
    "nvmlDeviceGetEccMode": [1, 0],
    "nvmlDeviceGetMaxPcieLinkGeneration": 5,
    "nvmlDeviceGetCurrPcieLinkGeneration": 4,
    "nvmlDeviceGetCurrPcieLinkWidth": 16,
}
"""What a stand-in for NVML answers: a value, or one by the first thing asked about."""


def library(asked: list[str] | None = None, **errors: int) -> SimpleNamespace:
    """NVML's names with the answers above, or with an error code for some questions."""

    def answer(name: str) -> Any:
        def call(*about: Any) -> Any:
            if asked is not None:
                asked.append(name)
            if name in errors:
                raise pynvml.NVMLError(errors[name])
            found = ANSWERS[name]
            return found[about[1]] if isinstance(found, dict) else found

        return call

    return SimpleNamespace(**{**vars(pynvml), **{name: answer(name) for name in ANSWERS}})


def test_nvml_is_read_in_our_units() -> None:
    asked: list[str] = []
    gpu = Nvml("GPU-1", library(asked))
    seen = gpu.read()
    assert replace(seen, at=0.0) == Sample(
        at=0.0,
        clock_mhz=1980,
        memory_clock_mhz=3201,
        reasons=frozenset({"power cap", "hardware thermal slowdown"}),
        temperature_c=61,
        power_w=520.0,
        power_cap_w=700.0,
        utilisation=0.95,
        processes=frozenset({7, 8}),
        ecc_errors=5,
        mig=False,
        pcie_generation=4,
        pcie_width=16,
    )
    assert (gpu.driver(), gpu.ecc(), gpu.best_pcie_generation()) == ("570.1", True, 5)
    gpu.close()
    gpu.close()
    assert asked.count("nvmlShutdown") == 1
    assert gpu.read().clock_mhz is None


@pytest.mark.parametrize(
    ("question", "entries"),
    [
        ("nvmlDeviceGetClockInfo", {"clock_mhz", "memory_clock_mhz"}),
        ("nvmlDeviceGetCurrentClocksEventReasons", {"reasons"}),
        ("nvmlDeviceGetTemperature", {"temperature_c"}),
        ("nvmlDeviceGetPowerUsage", {"power_w"}),
        ("nvmlDeviceGetEnforcedPowerLimit", {"power_cap_w"}),
        ("nvmlDeviceGetUtilizationRates", {"utilisation"}),
        ("nvmlDeviceGetComputeRunningProcesses", {"processes"}),
        ("nvmlDeviceGetGraphicsRunningProcesses", set()),
        ("nvmlDeviceGetTotalEccErrors", {"ecc_errors"}),
        ("nvmlDeviceGetMigMode", {"mig"}),
        ("nvmlDeviceGetCurrPcieLinkGeneration", {"pcie_generation"}),
        ("nvmlDeviceGetCurrPcieLinkWidth", {"pcie_width"}),
    ],
)
def test_a_missing_permission_costs_one_answer(question: str, entries: set[str]) -> None:
    gpu = Nvml("GPU-1", library(**{question: pynvml.NVML_ERROR_NO_PERMISSION}))
    seen = gpu.read()
    assert {name for name in NOTHING if getattr(seen, name) is None} == entries | {"governor", "foreign_s", "stolen_s"}


def test_a_gpu_that_cannot_be_split_is_whole() -> None:
    assert Nvml("GPU-1", library(nvmlDeviceGetMigMode=pynvml.NVML_ERROR_NOT_SUPPORTED)).mig() is False


@pytest.mark.parametrize("question", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
def test_without_nvml_a_gpu_cannot_be_observed_and_nothing_is_raised(question: str) -> None:
    gpu = Nvml("GPU-1", library(**{question: pynvml.NVML_ERROR_LIBRARY_NOT_FOUND}))
    assert replace(gpu.read(), at=0.0) == Sample(at=0.0)
    assert (gpu.mig(), gpu.ecc(), gpu.power_cap_w()) == (None, None, None)
    with Watch(gpu, LOCKED, facts=lambda: SEEN, period=3600) as seen:
        assert seen.disturbed(0.0, time.perf_counter()) == []
    assert [finding.label for finding in seen.findings()] == ["cannot be observed"]


def test_every_reason_of_nvml_has_a_name_of_ours() -> None:
    known = {name for name in vars(pynvml) if name.startswith("nvmlClocksEventReason")}
    known -= {f"nvmlClocksEventReason{name}" for name in ("All", "None", "UserDefinedClocks")}
    stand_in, every = library(), sum(getattr(pynvml, name) for name in known)
    stand_in.nvmlDeviceGetCurrentClocksEventReasons = lambda handle: every
    reasons = Nvml("GPU-1", stand_in).reasons()
    assert reasons is not None
    assert len(reasons) == len(known)
