"""A time is worth what its machine is known to be: profiles are checked, deviations are named."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from benchmarks.hardware import (
    HardwareProfile,
    ProfileError,
    WarmUp,
    conforms,
    load_profiles,
    nearest,
    observe,
    stamp,
)
from benchmarks.hardware.profiles import Kernel
from tests.benchmarks import machines
from tests.benchmarks.machines import cpu_profile, gpu_profile

GPU = gpu_profile(
    device_name="NVIDIA H200( .*)?",
    precisions=("tf32", "float16"),
    batches=(1, 2, 4),
    clocks="locked",
    governor="performance",
    omp_wait_policies=("unset", "active"),
    cudnn_benchmark=False,
    cudnn_deterministic=False,
    memory_gib=(135, 145),
    driver=("550.54", "600"),
    cuda=("12.4", "13.9"),
)
SEEN = replace(
    machines.SEEN,
    precision="tf32",
    driver="570.124.06",
    cuda="12.10",
    clocks="locked",
    governor="performance",
    omp_wait_policy="unset",
    cudnn_benchmark=False,
    cudnn_deterministic=False,
)

GOOD = """
name = "box"
device = "cpu"
device_name = "Some CPU"
architecture = "x86_64"
cores = 4
threads = 4
precisions = ["float32"]
batches = [1]
clocks = "any"
"""


def test_own_profiles_load() -> None:
    profiles = load_profiles()
    assert {"cpu-2core", "h200"} <= profiles.keys()
    assert (profiles["cpu-2core"].cores, profiles["cpu-2core"].threads, profiles["cpu-2core"].batch) == (2, 2, 1)
    assert (profiles["h200"].precision, profiles["h200"].ecc) == ("float32", True)
    assert profiles["cpu-2core"].calibration.keys() == set(get_args(Kernel))
    assert {name for name, profile in profiles.items() if profile.paper_only} == {
        *("titan-x-maxwell", "tesla-k40", "tesla-m40", "tesla-p100", "tesla-v100")
    }
    # Compared with by the error about any other, so that it has to show every part of the schema but the bands.
    assert profiles["h200"].model_fields_set >= {"stopping", "warmup", "watch", "resolutions", "pcie_width"}


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, benchmarks.hardware; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_machine_that_fits_has_no_deviations() -> None:
    assert conforms(GPU, SEEN) == []
    assert conforms(GPU, replace(SEEN, power_cap_w=695.0)) == []
    assert conforms(GPU, replace(SEEN, precision="float16", batch=4, omp_wait_policy="active")) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"device_name": "NVIDIA H2000"}, "device_name"),
        ({"device_name": "an NVIDIA H200"}, "device_name"),
        ({"architecture": "aarch64"}, "architecture"),
        ({"cores": 8}, "cores"),
        ({"threads": 1}, "threads"),
        ({"precision": "float32"}, "precision"),
        ({"batch": 8}, "batch"),
        ({"memory_gib": 80.0}, "memory_gib"),
        ({"memory_gib": 160.0}, "memory_gib"),
        ({"driver": "550.53.99"}, "driver"),
        ({"driver": "601"}, "driver"),
        ({"driver": None}, "driver"),
        ({"cuda": "12.3"}, "cuda"),
        ({"cuda": None}, "cuda"),
        ({"power_cap_w": 500.0}, "power_cap_w"),
        ({"power_cap_w": None}, "power_cap_w"),
        ({"clocks": "any"}, "clocks"),
        ({"clocks": None}, "clocks"),
        ({"ecc": False}, "ecc is off, not on"),
        ({"ecc": None}, "ecc cannot be observed"),
        ({"mig": True}, "mig is on, not off"),
        ({"pcie_generation": 4}, "pcie_generation is 4, not 5"),
        ({"pcie_width": 8}, "pcie_width is 8, not 16"),
        ({"governor": "powersave"}, "governor is powersave, not performance"),
        ({"governor": None}, "governor cannot be observed"),
        ({"omp_wait_policy": "passive"}, "omp_wait_policy is passive, not unset or active"),
        ({"cudnn_benchmark": True}, "cudnn_benchmark is on, not off"),
        ({"cudnn_deterministic": True}, "cudnn_deterministic is on, not off"),
        ({"memory_format": "channels-last"}, "memory_format is channels-last, not own"),
        ({"compile_mode": "compile"}, "compile_mode is compile, not eager"),
        ({"resolution": "300x300"}, "resolution is 300x300, not native"),
        ({"precision": "bfloat16"}, "precision is bfloat16, not tf32 or float16"),
        ({"batch": 3}, "batch is 3, not 1, 2 or 4"),
    ],
)
def test_each_fact_can_deviate_alone(change: dict[str, object], word: str) -> None:
    (reason,) = conforms(GPU, replace(SEEN, **change))
    assert reason.startswith(word)


def test_another_kind_of_device_is_one_deviation() -> None:
    assert conforms(GPU, replace(SEEN, device="cpu", cores=1)) == ["device is cpu, not cuda"]


def test_a_stamp_names_the_profile_or_says_why_not() -> None:
    here = observe("cpu", threads=3)
    assert here.cores >= 1
    assert here.memory_gib > 0.1
    profile = cpu_profile(name="here", architecture=here.architecture, cores=here.cores, threads=3)
    other = profile.model_copy(update={"name": "other", "threads": 2, "batches": (4,)})
    close = profile.model_copy(update={"name": "close", "threads": 2})
    profiles = {"gpu": GPU, "other": other, "close": close, "here": profile}

    fits = stamp("cpu", 3, profiles=profiles)
    assert (fits.machine, fits.profile, fits.deviations, fits.threads) == ("here", "here", (), 3)
    assert fits.device == f"cpu: {here.device_name}"

    del profiles["here"]
    near = stamp("cpu", 3, profiles=profiles)
    assert (near.machine, near.profile) == ("local", None)
    assert near.deviations == ("close: threads is 3, not 2",)

    alone = stamp("cpu", 3, profiles={"gpu": GPU})
    assert alone.deviations == ("gpu: device is cpu, not cuda",)


def test_a_stamp_keeps_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    made = stamp("cpu", 2, batch=4, compile_mode="compile")
    assert made.observed["omp_wait_policy"] == "passive"
    assert (made.observed["batch"], made.observed["compile_mode"]) == (4, "compile")
    assert any("omp_wait_policy is passive" in reason for reason in made.deviations)
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert stamp("cpu", 2).observed["omp_wait_policy"] == "unset"


def test_a_profile_of_papers_is_never_stamped_even_where_all_fits() -> None:
    here = observe("cpu", threads=2)
    fits = HardwareProfile(name="fits", paper_only=True, device="cpu", device_name=".*", clocks="any")
    assert conforms(fits, here) == []
    made = stamp("cpu", 2, profiles={"gpu": GPU, "fits": fits})
    assert (made.machine, made.profile) == ("local", None)
    assert made.deviations == (
        "gpu: device is cpu, not cuda",
        "gpu: the profile fits of this device is paper_only; write one of this machine",
    )
    with pytest.raises(ValueError, match="every hardware profile is paper_only"):
        stamp("cpu", 2, profiles={"fits": fits})

    # A profile that may be stamped is, whatever papers say about the device.
    own = fits.model_copy(update={"name": "own", "paper_only": False, "threads": 2})
    assert stamp("cpu", 2, profiles={"fits": fits, "own": own}).profile == "own"


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("titan-x-maxwell", "NVIDIA GeForce GTX TITAN X"),
        ("tesla-k40", "Tesla K40m"),
        ("tesla-m40", "Tesla M40 24GB"),
        ("tesla-p100", "Tesla P100-SXM2-16GB"),
        ("tesla-v100", "Tesla V100-PCIE-32GB"),
    ],
)
def test_the_papers_machines_are_known_by_name_and_not_stamped(name: str, device: str) -> None:
    profiles = load_profiles()
    (known,) = [one for one, p in profiles.items() if p.paper_only and re.fullmatch(p.device_name, device)]
    assert known == name
    seen = replace(SEEN, device_name=device)
    assert nearest(seen, profiles).name == "h200"


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="'mps'"):
        observe("mps", threads=1)


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        (GOOD.replace("cores = 4\n", ""), "lacks cores"),
        (GOOD + "colour = 3\n", "colour"),
        (GOOD.replace('"float32"', '"float31"'), "precision"),
        (GOOD.replace("batches = [1]", "batches = [1, 0]"), "batches"),
        (GOOD.replace("batches = [1]", "batches = []"), "batches"),
        (GOOD + 'resolutions = ["300"]\n', "resolutions: '300' is neither native nor height x width"),
        (GOOD + "ecc = true\n", "cannot be observed of a CPU: ecc"),
        (GOOD + 'omp_wait_policies = ["eager"]\n', "omp_wait_policies"),
        (GOOD + "[stopping]\nseconds = [5.0, 1.0]\n", "stopping"),
        (GOOD + "[watch]\nperiod = 0.0\n", "watch.period"),
        (GOOD.replace('device = "cpu"', 'device = "cuda"') + "[watch]\nstolen_cores = 0.1\n", "stolen_cores"),
        (GOOD + "[calibration]\nnms = { seconds = 2.0, band = [0.5, 1.0] }\n", "calibration.nms"),
        (GOOD + "[calibration]\nsort = { seconds = 2.0, band = [0.5, 3.0] }\n", "calibration.sort"),
        (GOOD.replace('device = "cpu"', 'device = "cuda"') + "sm_clock_mhz = [1980, 1000]\n", "sm_clock_mhz"),
        (GOOD.replace('"Some CPU"', '"Some ("'), "device_name"),
        (GOOD.replace('"any"', '"locked"'), "CPU"),
        (GOOD + "memory_gib = [4.0, 2.0]\n", "memory_gib"),
        (GOOD + 'driver = ["600", "55"]\n', "driver"),
        (GOOD + 'driver = ["new", "newer"]\n', "driver"),
        (GOOD + "[warmup]\nwindow = 20\n", "warmup"),
        (GOOD.replace('"box"', '"crate"'), "name"),
        (GOOD + "= 3\n", "TOML"),
    ],
)
def test_a_bad_profile_names_file_and_entry(tmp_path: Path, text: str, entry: str) -> None:
    (tmp_path / "box.toml").write_text(text)
    with pytest.raises(ProfileError, match=entry) as caught:
        load_profiles(tmp_path)
    assert str(tmp_path / "box.toml") in str(caught.value)
    assert re.search("compare it with|mend it|name the file", str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_good_profile_loads(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text(GOOD)
    assert load_profiles(tmp_path)["box"].warmup == WarmUp()
