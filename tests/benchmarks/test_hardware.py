"""A time is worth what its machine is known to be: profiles are checked, deviations are named."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.hardware import HardwareProfile, Observed, ProfileError, WarmUp, conforms, load_profiles, observe, stamp

GPU = HardwareProfile(
    name="gpu",
    device="cuda",
    device_name="NVIDIA H200( .*)?",
    architecture="x86_64",
    cores=16,
    threads=16,
    precision="tf32",
    batch=1,
    clocks="locked",
    memory_gib=(135, 145),
    driver=("550.54", "600"),
    cuda=("12.4", "13.9"),
    power_cap_w=700,
)
SEEN = Observed(
    device="cuda",
    device_name="NVIDIA H200",
    architecture="x86_64",
    cores=16,
    memory_gib=139.8,
    threads=16,
    precision="tf32",
    driver="570.124.06",
    cuda="12.10",
    power_cap_w=700.0,
    clocks="locked",
)

GOOD = """
name = "box"
device = "cpu"
device_name = "Some CPU"
architecture = "x86_64"
cores = 4
threads = 4
precision = "float32"
batch = 1
clocks = "any"
"""


def test_own_profiles_load() -> None:
    profiles = load_profiles()
    assert {"cpu-2core", "h200"} <= profiles.keys()
    assert (profiles["cpu-2core"].cores, profiles["cpu-2core"].threads, profiles["cpu-2core"].batch) == (2, 2, 1)


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, benchmarks.hardware; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_machine_that_fits_has_no_deviations() -> None:
    assert conforms(GPU, SEEN) == []
    assert conforms(GPU, replace(SEEN, power_cap_w=695.0)) == []


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
    profile = HardwareProfile(
        name="here",
        device="cpu",
        device_name=".*",
        architecture=here.architecture,
        cores=here.cores,
        threads=3,
        precision="float32",
        batch=1,
        clocks="any",
    )
    other = profile.model_copy(update={"name": "other", "threads": 2, "batch": 4})
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


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="'mps'"):
        observe("mps", threads=1)


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        (GOOD.replace("cores = 4\n", ""), "cores"),
        (GOOD + "colour = 3\n", "colour"),
        (GOOD.replace('"float32"', '"float31"'), "precision"),
        (GOOD.replace("batch = 1", "batch = 0"), "batch"),
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


def test_a_good_profile_loads(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text(GOOD)
    assert load_profiles(tmp_path)["box"].warmup == WarmUp()
