from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmarks import results
from benchmarks.results import Record, RecordError, Weights, read_records, write_atomically
from tests.reports.samples import record

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("accuracy", "comparison", "cost", "latency", "profile", "training")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_back(kind: str, tmp_path: Path) -> None:
    before = record(kind, seed=3, note='ünïcode, "quotes" and\nlines', samples={"network": [0.1, 1 / 3, 1e-9]})
    path = before.write(tmp_path)
    assert path == tmp_path / f"{before.name}.json"
    assert Record.read(path) == before
    assert list(read_records(tmp_path)) == [before]


def test_undefined_metrics_come_back_as_none(tmp_path: Path) -> None:
    path = record("accuracy").write(tmp_path)
    assert Record.read(path).metrics["stats"]["AP_L"] is None


def test_a_new_run_replaces_the_old_and_no_other() -> None:
    names = {
        record("accuracy").name,
        record("accuracy", scale="paper").name,
        record("accuracy", learned_from=30).name,
        record("accuracy", learned_from=30, seed=1).name,
        record("accuracy", variant={"size": 128}).name,
        record("accuracy", variant={"size": 128}, seed=1).name,
        record("accuracy", variant={"size": 192}).name,
        record("accuracy", "yolov3").name,
        record("latency").name,
        record("latency", hardware=results.Hardware(machine="m", device="cpu", profile=None, threads=1)).name,
        record("latency", hardware=results.Hardware(machine="m", device="cpu", profile=None, threads=12)).name,
        record("latency", hardware=results.Hardware(machine="h200", device="cuda:0", profile="h200", threads=8)).name,
        record("cost").name,
        record("cost", num_classes=3).name,
    }
    assert len(names) == 14
    assert "latency.ssd300_vgg16.small.shapes-test.cpu.1-thread" in names
    awkward = record("accuracy", variant={"sizes": [128, 160], "place": "a/b"})
    assert awkward.name == "accuracy.ssd300_vgg16.small.shapes-test.place-a-b.sizes-128-160"
    assert awkward.called == "ssd300_vgg16 place=a/b sizes=[128, 160]"
    assert record("accuracy", metrics={}, commit="other").name == record("accuracy").name
    first, second = (
        record("latency", hardware=results.Hardware(machine="m", device=device, profile=None, threads=1)).name
        for device in ("cuda:0", "cuda:1")
    )
    assert first == second


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        ({"surprise": 1}, "surprise"),
        ({"kind": "speed"}, "kind"),
        ({"schema_version": 2}, "schema_version"),
        ({"weights": {"file": "a.safetensors"}}, "weights.sha256"),
        ({"dataset": {"name": "shapes"}}, "dataset.split"),
        (
            {"hardware": {"machine": "m", "device": "cpu", "profile": None, "threads": 1, "who": 1}},
            "hardware.who",
        ),
        ({"samples": {"network": [0.1, None]}}, "samples.network.1"),
    ],
)
def test_an_entry_that_does_not_fit_is_named(change: dict[str, Any], entry: str, tmp_path: Path) -> None:
    path = record("latency").write(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RecordError) as error:
        Record.read(path)
    assert str(path) in str(error.value)
    assert f" {entry}: " in str(error.value)
    assert "measure again" in str(error.value)


def test_a_missing_entry_is_named(tmp_path: Path) -> None:
    path = record("cost").write(tmp_path)
    content = json.loads(path.read_text())
    del content["commit"]
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="commit: Field required"):
        Record.read(path)


@pytest.mark.parametrize("kept", [0, 1, 100, -2])
def test_a_truncated_file_is_one_clear_error(kept: int, tmp_path: Path) -> None:
    path = record("accuracy").write(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(RecordError, match="delete the file and measure again") as error:
        Record.read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"gone\.json: cannot be read"):
        Record.read(tmp_path / "gone.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_time_that_is_no_number_is_refused_before_it_is_written(value: float) -> None:
    with pytest.raises(ValidationError, match=r"samples\.network\.1"):
        record("latency", samples={"network": [0.1, value]})


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        record("cost").seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record("accuracy", seed=1).write(tmp_path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="no space"):
        record("accuracy", seed=2).write(tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_death_while_writing_leaves_the_old_file(step: str, tmp_path: Path) -> None:
    before = record("accuracy", seed=1)
    before.write(tmp_path)
    code = (
        f"import os, signal; os.{step} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from tests.reports.samples import record; from pathlib import Path; import sys\n"
        "record('accuracy', seed=2).write(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert list(read_records(tmp_path)) == [before], "what is left of the new file must not pass for a Record"


def test_written_files_are_readable_by_others_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "some" / "folder" / "file.txt"
    write_atomically(path, "text\n")
    assert path.read_text() == "text\n"
    assert path.stat().st_mode & 0o777 == 0o644
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"


def test_json_has_no_nan() -> None:
    assert results.to_json({"b": None, "a": 0.5}) == '{\n  "a": 0.5,\n  "b": null\n}\n'
    with pytest.raises(ValueError, match="Out of range"):
        results.to_json({"a": float("nan")})


def test_committed_records_can_be_read() -> None:
    for folder in (path for path in results.COMMITTED.iterdir() if path.is_dir() and path.name != "local"):
        for path in sorted(folder.rglob("*.json")):
            assert Record.read(path).name == path.stem, f"{path}: is named otherwise than what it holds"


@pytest.mark.parametrize(
    ("detector", "scale", "file", "ending"),
    [
        ("dpm", "paper", "person_final.mat", ".person-final"),
        ("dpm", "paper", "INRIA person.mat", ".inria-person"),
        ("yolov3_tiny", "paper", "yolov3-tiny.weights", ""),
        ("dpm", "small", "dpm_small.shapes.safetensors", ""),
    ],
)
def test_checkpoints_of_one_network_do_not_replace_each_other(
    detector: str, scale: str, file: str, ending: str
) -> None:
    made = record("accuracy", detector, scale=scale, weights=Weights(file=file, sha256="0" * 64))
    assert made.name == f"accuracy.{detector}.{scale}.shapes-test{ending}"
