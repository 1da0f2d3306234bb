"""Conditions by profile, a process a detector whatever becomes of the others, and files that pytest-benchmark reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import timing
from benchmarks.__main__ import app
from benchmarks.hardware import ProfileError, load_profiles
from benchmarks.isolated import ProcessEnded
from benchmarks.results import Record
from benchmarks.timing import Conditions, Job, conditions, nonconformity, time_all
from tests.benchmarks.crashing import Doomed
from tests.reports.samples import CPU, record, samples

ROOT = Path(__file__).parents[2]


def test_each_job_has_a_process_of_its_own_and_outlives_the_others() -> None:
    jobs = [Doomed(name) for name in ("works", "aborts", "leaves", "killed", "raises", "fills", "breaks", "works")]
    answers = [answer for _, answer in time_all(jobs)]  # type: ignore[arg-type]
    first, *ended, last = answers
    assert all(isinstance(answer, ProcessEnded) for answer in ended)
    assert [str(answer) for answer in ended] == [
        "its process was ended by SIGABRT",
        "its process ended with status 3 and without an answer",
        "its process was ended by SIGKILL, as when memory runs out",
        "weights.safetensors: holds yolov3, not ssd300",
        "out of memory (CUDA out of memory); nothing was made smaller to fit, and no Record is written: free some, or "
        "choose a smaller --batch or another --device",
        "ZeroDivisionError: by nothing",
    ]
    assert len({os.getpid(), first, last}) == 3


def test_a_crash_is_said_and_the_rest_is_written(tmp_path: Path, monkeypatch, capsys) -> None:
    fine = timed("yolov3")
    answers = {"ssd300_vgg16": ProcessEnded("its process was ended by SIGSEGV"), "yolov3": fine}
    monkeypatch.setattr(timing, "time_all", lambda jobs: [(job, answers[job.detector]) for job in jobs])
    monkeypatch.setattr(timing, "COMMITTED", tmp_path / "none")
    jobs = [Job(name, Conditions()) for name in answers]
    assert timing.write_all(jobs, tmp_path)
    said = capsys.readouterr()
    assert "error: ssd300_vgg16: its process was ended by SIGSEGV" in said.err
    (path,) = tmp_path.glob("*.json")
    kept = Record.read(path)
    assert kept.samples == fine.samples
    assert kept.metrics["same_run"]["state"] == "not checked"
    assert "not checked: the latency Record holds no hash" in said.out
    assert not timing.write_all(jobs[1:], tmp_path)


def timed(detector: str) -> Record:
    from benchmarks.latency import summarise

    found = samples(0.02)
    metrics = {stage: summarise(seconds) for stage, seconds in found.items()}
    faults = ["the median drifts: +4.0 % from the first half to the second"]
    sampling = {"half_width": 0.1, "faults": faults, "discarded": ["throttled"], "disturbed": []}
    return record("latency", detector, samples=found, metrics={**metrics, "converged": False, "sampling": sampling})


def test_doubts_are_printed_with_the_times(capsys) -> None:
    from benchmarks.recording import print_latency

    print_latency(timed("yolov3"))
    said = " ".join(capsys.readouterr().out.split())
    assert "not converged: the median drifts" in said
    assert "repeated a window: throttled" in said


def test_a_profile_decides_and_what_is_given_goes_before_it() -> None:
    profile = load_profiles()["cpu-2core"]
    found = conditions("cpu-2core")
    assert (found.device, found.threads, found.batch, found.profile) == ("cpu", profile.threads, 1, "cpu-2core")
    assert (found.warmup, found.stopping) == (profile.warmup, profile.stopping)
    found = conditions("cpu-2core", threads=1, noise=0.005)
    assert found.threads == 1
    assert found.stopping == profile.stopping.model_copy(update={"noise": 0.005})
    assert conditions().profile is None


def test_a_record_that_is_not_of_the_profile_says_why() -> None:
    asked = Conditions(profile="cpu-2core")
    assert nonconformity(record("latency"), asked) == []
    deviations = ("cpu-2core: threads is 1, not 2",)
    local = CPU.model_copy(update={"machine": "local", "profile": None, "deviations": deviations})
    assert nonconformity(record("latency", hardware=local), asked) == [
        "cpu-2core was asked for, and this machine deviates from cpu-2core: threads is 1, not 2"
    ]
    assert nonconformity(record("latency", hardware=local), Conditions()) == []
    other = CPU.model_copy(update={"profile": "cpu-4core"})
    assert nonconformity(record("latency", hardware=other), asked)[0].endswith("is a cpu-4core")


def test_what_is_not_there_is_said_in_one_sentence(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ProfileError, match="--hardware h200: PyTorch sees no cuda device here"):
        conditions("h200")
    with pytest.raises(ProfileError, match="--device cuda:1: PyTorch sees no cuda:1 device"):
        conditions(None, "cuda:1")
    with pytest.raises(ProfileError, match=r"--hardware cray: nothing is measured under it; choose one of .*cpu-2core"):
        conditions("cray")


def test_shortened_products_are_as_the_profile_demands() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.get_num_threads()
    try:
        for precision, convolutions in (("float32", False), ("tf32", True), (None, True)):
            Conditions(threads=1, precision=precision).apply()
            assert torch.backends.cudnn.allow_tf32 is convolutions
            assert torch.backends.cuda.matmul.allow_tf32 is False
            assert torch.get_num_threads() == 1
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before[:2]
        torch.set_num_threads(before[2])


def test_the_command_refuses_in_one_line() -> None:
    runner = CliRunner()
    found = runner.invoke(app, ["latency", "ssd300_vgg16", "--hardware", "cray", "--out", "nowhere"])
    assert (found.exit_code, found.output.count("\n")) == (2, 1)
    found = runner.invoke(app, ["latency", "ssd300_vgg16", "yolov3", "--weights", "a.safetensors", "--out", "nowhere"])
    assert found.exit_code == 2
    assert "belong to one detector" in found.output


@pytest.mark.slow
def test_the_suite_writes_what_pytest_benchmark_compares(tmp_path: Path) -> None:
    """One detector through `pytest benchmarks/`; its statistics are those of the samples in the Record."""
    file = tmp_path / "run.json"
    arguments = ["--benchmark", "--detectors", "yolov1", "--threads", "1", "--records", tmp_path / "records"]
    arguments += ["-p", "no:cacheprovider", f"--basetemp={tmp_path / 'temporary'}", "-k", "latency", "-q"]
    command = [sys.executable, "-m", "pytest", "benchmarks/test_latency.py", *arguments, f"--benchmark-json={file}"]
    # Under xdist pytest-benchmark turns itself off, and knows it by the environment.
    plain = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True, env=plain)
    (path,) = (tmp_path / "records").glob("latency.*.json")
    kept = Record.read(path)
    (found,) = json.loads(file.read_text())["benchmarks"]
    times = kept.samples["end_to_end"]
    assert found["stats"]["rounds"] == len(times)
    assert found["stats"]["median"] == pytest.approx(kept.metrics["end_to_end"]["median"], abs=1e-9)
    assert (found["stats"]["min"], found["stats"]["max"]) == pytest.approx((min(times), max(times)), abs=1e-9)
    about = found["extra_info"]
    assert about["answers"] == kept.answers != {}
    assert about["same_run"].startswith("not checked")
    assert about["median_ms"]["end_to_end"] == 1000 * kept.metrics["end_to_end"]["median"]
    again = tmp_path / "again.json"
    again.write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "pytest_benchmark", "compare", str(file), str(again)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("test_latency[yolov1]") == 2
