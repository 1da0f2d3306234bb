"""A grid is worked off cell by cell, whatever becomes of single ones; called again it goes on where it was."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from submitit.helpers import DelayedSubmission
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.results import Record
from benchmarks.stopping import alone_in
from benchmarks.sweep import Cell, SweepError, read_grid, status_of, sweep, table_of
from benchmarks.sweep.cell import ABOUT
from tests.faults.driver import write_data
from tests.faults.jobs import TOY, Toy
from zoo import CATALOG

STOPS: list[BaseException] = []
"""Raised by the next trainings of `toy_stopped`, at their seventh step."""


class Broken(Toy):
    """Fails in the middle of its training, each time."""

    def losses(self, outputs: Any, batch: Any, targets: Any) -> dict[str, torch.Tensor]:
        raise RuntimeError("planted\nfailure")


class Stopped(Toy):
    """Is interrupted in the middle of its training as often as `STOPS` says."""

    steps = 0

    def losses(self, outputs: Any, batch: Any, targets: Any) -> dict[str, torch.Tensor]:
        self.steps += 1
        if self.steps == 7 and STOPS:
            raise STOPS.pop()
        return super().losses(outputs, batch, targets)


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of three detectors and two seeds, on eight images."""
    write_data(tmp_path / "data", images=8)
    for name, kind in (("toy", Toy), ("toy_broken", Broken), ("toy_stopped", Stopped)):
        monkeypatch.setitem(CATALOG, name, replace(TOY, name=name, build=kind))
    file = tmp_path / "grid.toml"
    file.write_text(
        f'detectors = ["toy", "toy_broken", "toy_stopped"]\ndatasets = ["coco"]\nseeds = [0, 1]\nthreads = 1\n'
        f'data_root = "{tmp_path / "data"}"\ntest_split = "tiny"\n'
        f'[train]\nsteps = 9\nbatch = 2\nsplit = "tiny"\ncheckpoint_every = 3\n'
    )
    return file


def states(cells: list[Cell]) -> dict[str, str]:
    return {cell.name: status_of(cell).state for cell in cells}


def test_one_fails_one_is_interrupted_and_all_others_are_done(grid: Path, tmp_path: Path) -> None:
    cells = read_grid(grid).cells(tmp_path / "sweep")
    STOPS[:] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        sweep(cells, executor="debug", quiet=True)
    assert states(cells) == {
        "toy.coco.seed-0": "done",
        "toy_broken.coco.seed-0": "failed",
        "toy_stopped.coco.seed-0": "waiting",
        "toy.coco.seed-1": "waiting",
        "toy_broken.coco.seed-1": "waiting",
        "toy_stopped.coco.seed-1": "waiting",
    }
    stopped = status_of(cells[2])
    assert re.fullmatch(r"interrupted on .*; goes on from its state when the sweep is called again", stopped.reason)
    assert status_of(cells[1]).reason == "planted failure"
    assert torch.load(cells[2].folder / "state.pt", weights_only=True)["step"] == 6

    before = {path: path.stat().st_mtime_ns for path in cells[0].folder.iterdir()}
    found = sweep(cells, executor="debug", quiet=True)
    assert [status.state for status in found] == ["done", "failed", "done"] * 2
    assert {path: path.stat().st_mtime_ns for path in cells[0].folder.iterdir()} == before, "done is done"
    for cell in cells:
        names = [path.name.partition(".")[0] for path in cell.folder.glob("*.*.json")]
        assert names.count("accuracy") == ("broken" not in cell.name), "a Record a cell"
    # Interrupted or not, the same weights.
    whole = [cell for cell in read_grid(grid, seeds=[0]).cells(tmp_path / "again") if cell.detector == "toy_stopped"]
    sweep(whole, executor="debug", quiet=True)
    weights = [
        (place / "toy_stopped_small.coco.safetensors").read_bytes() for place in (whole[0].folder, cells[2].folder)
    ]
    assert weights[0] == weights[1]


def test_failed_cells_are_tried_again_when_asked(grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = read_grid(grid, detectors=["toy_broken"], seeds=[0]).cells(tmp_path)
    sweep(cells, executor="debug", quiet=True)
    monkeypatch.setattr(Broken, "losses", Toy.losses)
    (status,) = sweep(cells, executor="debug", quiet=True)
    assert status.state == "failed"
    (status,) = sweep(cells, executor="debug", retry=True, quiet=True)
    assert status.state == "done"
    assert status.headline is not None
    (path,) = cells[0].folder.glob("accuracy.*.json")
    assert 100 * Record.read(path).metrics["stats"]["AP"] == pytest.approx(status.headline)


def test_a_machine_of_another_profile_is_a_reason(grid: Path, tmp_path: Path) -> None:
    (cell,) = read_grid(grid, detectors=["toy"], seeds=[0], profiles=["h200"]).cells(tmp_path)
    assert cell.name == "toy.coco.seed-0.h200"
    (status,) = sweep([cell], executor="debug", quiet=True)
    assert status.state == "failed"
    assert "this machine does not conform to h200: " in status.reason


def test_a_cell_at_work_is_left_alone(grid: Path, tmp_path: Path) -> None:
    cells = read_grid(grid, detectors=["toy"], seeds=[0]).cells(tmp_path)
    with alone_in(cells[0].folder, ".cell.lock"):
        assert sweep(cells, executor="debug", quiet=True)[0].state == "running"
    assert states(cells) == {"toy.coco.seed-0": "waiting"}


def test_a_folder_of_another_sweep_is_refused(grid: Path, tmp_path: Path) -> None:
    cells = read_grid(grid, detectors=["toy_broken"], seeds=[0]).cells(tmp_path)
    sweep(cells, executor="debug", quiet=True)
    others = read_grid(grid, detectors=["toy_broken"], seeds=[0], train={"steps": 10}).cells(tmp_path)
    with pytest.raises(SweepError, match=r"was begun with training = .*'steps': 9.*the grid has .*'steps': 10"):
        sweep(others, executor="debug", quiet=True)
    (cells[0].folder / ABOUT).write_text("{")
    with pytest.raises(ValueError, match=r"cell\.json: cannot be read"):
        status_of(cells[0])


def test_a_machine_that_is_taken_away_leaves_the_same_cell(grid: Path, tmp_path: Path) -> None:
    (cell,) = read_grid(grid, detectors=["toy"], seeds=[0]).cells(tmp_path)
    again = cell.checkpoint()
    assert isinstance(again, DelayedSubmission)
    assert again.function == cell


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"detectors": ["toyy*"]}, "no detector 'toyy\\*'"),
        ({"datasets": ["imagenet"]}, "no dataset 'imagenet'; there is shapes"),
        ({"profiles": ["abacus"]}, "no profile 'abacus'; there is"),
        ({"seeds": ["one"]}, r"the grid's seeds\.0: "),
        ({"train": {"stepz": 1}}, r"the grid's train\.stepz: "),
    ],
)
def test_what_a_grid_cannot_be_is_said(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=words):
        read_grid(None, **{"detectors": ["yolov3"], **changes}).cells(tmp_path)


def test_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text("detectors = []\n")
    with pytest.raises(SweepError, match=r"grid\.toml: detectors: "):
        read_grid(tmp_path / "grid.toml")


def test_the_command(grid: Path, tmp_path: Path) -> None:
    arguments = ["sweep", grid, "--out", tmp_path / "s", "--detectors", "toy,toy_broken", "--seeds", "3"]
    done = CliRunner().invoke(app, [*map(str, arguments), "--executor", "debug"])
    assert done.exit_code == 1, "one has failed"
    assert "2 cells: 1 done, 0 running, 1 failed, 0 waiting" in done.stdout
    assert "planted failure" in done.stdout
    shown = CliRunner().invoke(app, [*map(str, arguments), "--show", "--train", "steps=9"])
    assert (shown.exit_code, shown.stdout) == (1, done.stdout)
    refused = CliRunner().invoke(app, ["sweep", "--detectors", "yolov3", "--train", "steps"])
    assert (refused.exit_code, refused.stderr) == (2, "error: --train steps: write name=value\n")
    refused = CliRunner().invoke(app, ["sweep", str(grid), "--out", str(tmp_path / "x"), "--option", "gpus=1"])
    assert refused.exit_code == 2
    assert "gpus" in refused.stderr


# --- SLURM, whose programs are scripts here

SBATCH = """#!/bin/sh
for last in "$@"; do :; done
cp "$last" "{folder}/submitted.sh"
echo x >> "{folder}/submissions"
echo Submitted batch job 77
"""
SACCT = """#!/bin/sh
echo 'JobID|State|NodeList'
cat "{folder}/states"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("sacct", SACCT), ("srun", "#!/bin/sh\n"), ("scancel", "#!/bin/sh\n")):
        (folder / name).write_text(text.format(folder=folder))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_slurm_gets_one_array_with_our_options_and_no_job_twice(grid: Path, slurm: Path, tmp_path: Path) -> None:
    cells = read_grid(grid).cells(tmp_path / "sweep")
    (slurm / "states").write_text("".join(f"77_{index}|PENDING|\n" for index in range(6)))
    options = {"slurm_partition": "gpu", "timeout_min": 90, "gpus_per_node": 1}
    found = sweep(cells, executor="slurm", at_most=2, options=options, quiet=True)
    script = (slurm / "submitted.sh").read_text()
    for line in ("--partition=gpu", "--time=90", "--gpus-per-node=1", "--array=0-5%2", "--job-name=sweep"):
        assert f"#SBATCH {line}" in script
    assert [status.state for status in found] == ["waiting"] * 6
    assert {status.reason for status in found} == {"in the queue (pending)"}
    assert json.loads((cells[4].folder / "job.json").read_text()) == {"job": "77_4"}
    sweep(cells, executor="slurm", at_most=2, options=options, quiet=True)
    assert (slurm / "submissions").read_text() == "x\n", "queued jobs were submitted again"


def test_a_job_that_a_dead_node_took_along_is_submitted_again(grid: Path, slurm: Path, tmp_path: Path) -> None:
    cells = read_grid(grid, seeds=[0]).cells(tmp_path / "sweep")
    for index, cell in enumerate(cells):
        cell.folder.mkdir(parents=True)
        (cell.folder / "job.json").write_text(json.dumps({"job": f"70_{index}"}))
    rows = ("70_0|RUNNING|n1", "70_1|NODE_FAIL|n2", "70_2|CANCELLED by 0|n3")
    (slurm / "states").write_text("\n".join(rows) + "\n")
    sweep(cells, executor="slurm", quiet=True)
    jobs = [json.loads((cell.folder / "job.json").read_text())["job"] for cell in cells]
    assert jobs == ["70_0", "77_0", "77_1"]


def test_the_table_can_be_read(grid: Path, tmp_path: Path) -> None:
    cells = read_grid(grid).cells(tmp_path)
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table_of(cells))
    text = console.export_text()
    assert "6 cells: 0 done, 0 running, 0 failed, 6 waiting" in text
    assert text.count("not begun") == 6
