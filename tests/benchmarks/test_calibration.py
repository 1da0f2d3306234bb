"""Kernels of known time: they leave the process as it was, and bands hold what they were made from."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.hardware import HardwareProfile, load_profiles, miscalibrated
from benchmarks.hardware.calibration import KERNELS, _kernels, _time, bands, calibrate, calibrated
from benchmarks.hardware.sampling import read_trace

CPU = torch.device("cpu")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrations of a few calls."""
    monkeypatch.setattr("benchmarks.hardware.showing.calibrate", lambda device, threads: dict.fromkeys(KERNELS, 0.002))


@pytest.fixture
def shortened() -> Iterator[None]:
    """PyTorch is told to shorten all products on CUDA."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("shortened")
def test_a_calibration_leaves_everything_as_it_was() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    found = calibrate("cpu", threads + 1, seconds=0.001)
    assert tuple(found) == KERNELS
    assert min(found.values()) > 0
    assert torch.get_num_threads() == threads
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.is_inference_mode_enabled()


@pytest.mark.usefixtures("shortened")
def test_kernels_run_in_float32_with_the_threads_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(call: object, place: torch.device, seconds: float) -> float:
        flags = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark)
        seen.append((torch.get_num_threads(), *flags))
        return 1.0

    monkeypatch.setattr("benchmarks.hardware.calibration._time", look)
    calibrate("cpu", 3)
    assert seen == [(3, False, False, False)] * 4


def test_kernels_compute_what_they_are_named_for() -> None:
    with torch.inference_mode():
        kernels = _kernels(CPU)
        product, features, copy, kept = (kernels[name]() for name in KERNELS)
        again = _kernels(CPU)["matrix_product"]()
    assert torch.equal(product, again), "on fixed numbers"
    assert product.shape == (768, 768)
    assert product.std() == pytest.approx(768**0.5, rel=0.05), "sums of 768 products of unit variance"
    assert features.shape == (1, 64, 112, 112)
    assert features[..., 1:-1, 1:-1].std() == pytest.approx(1, rel=0.05)
    assert not copy.any(), "ones were there before"
    assert 0.6 * 3000 < len(kept) < 0.8 * 3000


def test_the_time_is_that_of_one_call_in_the_middle() -> None:
    lengths = iter([0.05, 0.001, *[0.01] * 50])
    found = _time(lambda: time.sleep(next(lengths)), CPU, 0.1)
    assert 0.01 <= found < 0.05


def test_a_process_calibrates_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("benchmarks.hardware.calibration.calibrate", lambda *asked: calls.append(asked) or {"nms": 1.0})
    calibrated.cache_clear()
    try:
        assert calibrated("cpu", 7) == calibrated("cpu", 7) == {"nms": 1.0}
        calibrated("cpu", 8)
    finally:
        calibrated.cache_clear()
    assert calls == [("cpu", 7), ("cpu", 8)]


def test_bands_hold_what_they_were_made_from_and_fit_a_profile() -> None:
    times = [(0.0101, 0.02, 0.005, 1.0), (0.0103, 0.03, 0.005, 1.01), (0.0102, 0.021, 0.005, 1.02)]
    rounds = [dict(zip(KERNELS, found, strict=True)) for found in times]
    entries = tomllib.loads(bands(rounds))
    plain = load_profiles()["cpu-2core"].model_dump(exclude={"calibration"})
    profile = HardwareProfile.model_validate({**plain, **entries})
    assert [miscalibrated(profile, found) for found in rounds] == [[], [], []]
    assert profile.calibration["convolution"].seconds == 0.021
    assert profile.calibration["matrix_product"].band == pytest.approx((0.0102 * 0.85, 0.0102 * 1.15), rel=0.01)
    assert profile.calibration["convolution"].band[1] >= 0.03
    slow = {**rounds[0], "nms": 1.3, "device_copy": 0.004}
    assert miscalibrated(profile, slow) == [
        "calibration: device_copy is faster than its band",
        "calibration: nms is slower than its band",
    ]


@pytest.mark.usefixtures("quick")
def test_the_command_shows_machine_profiles_and_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    trace = tmp_path / "trace.json"
    shown = CliRunner().invoke(app, ["hardware", "--threads", "3", "--trace", str(trace)])
    assert shown.exit_code == 0, shown.output
    for words in ("threads is 3, not 2", "paper only", "device is cpu, not cuda", "nms is faster than its band"):
        assert words in shown.stdout
    assert "[calibration]" not in shown.stdout
    assert len(read_trace(trace)) >= 2


@pytest.mark.usefixtures("quick")
def test_the_command_prints_bands_for_a_profile() -> None:
    shown = CliRunner().invoke(app, ["hardware", "--calibrate", "--rounds", "2"])
    assert shown.exit_code == 0, shown.output
    entries = tomllib.loads(shown.stdout[shown.stdout.index("[calibration]") :])
    assert entries["calibration"].keys() == set(KERNELS)
    assert entries["calibration"]["nms"]["seconds"] == 0.002


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_one_line() -> None:
    shown = CliRunner().invoke(app, ["hardware", "--device", "cuda"])
    assert shown.exit_code == 2
    assert shown.stderr.startswith("error: no CUDA device here; use --device cpu")
    assert not shown.stdout
