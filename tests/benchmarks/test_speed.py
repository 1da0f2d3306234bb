"""What `score-speed` runs and prints; nothing is asserted about time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import speed
from benchmarks.examples import write_example
from benchmarks.speed import PROGRAMS, Run, measure, print_speed, run_program, write_rival


def test_sides_take_turns_and_the_first_turn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    seconds = {
        "score": 1.0,
        "score --intervals 1000": 4.0,
        "compare": 2.0,
        "pycocotools": 40.0,
        "hotcoco compare": 80.0,
    }
    names = {program: name for name, program in PROGRAMS.items()}

    def fake(program: str, gt: Path, detections: Path, rival: Path, out: Path, python: Path | None = None) -> Run:
        asked.append(names[program])
        assert (python == Path("other")) == (names[program] == "hotcoco compare")
        assert rival != detections
        assert rival.exists()
        return Run(9.0, seconds[names[program]] + len(asked) / 1000, 100.0, 0.5)

    monkeypatch.setattr(speed, "run_program", fake)
    found = measure([3], 2, Path("other"))
    ours = ["score", "score --intervals 1000", "compare"]
    assert asked == [*ours, *PROGRAMS, *PROGRAMS]
    assert found[0]["images"] == 3
    assert found[0]["sides"]["score"]["cpu"] == pytest.approx(1 + (4 + 9) / 2 / 1000)
    console = Console(record=True, width=120)
    print_speed(found, console)
    rows = {
        line.split("│")[2].strip(): line.split("│")[4].strip()
        for line in console.export_text().splitlines()
        if "│" in line
    }
    assert rows["score --intervals 1000"] == "10.0"
    assert rows["compare"] == "39.8"
    assert rows["pycocotools"] == ""
    monkeypatch.setattr(speed, "run_program", lambda program, *_: Run(1, 1, 1, 0.5 if "pycoco" in program else 0.4))
    with pytest.raises(RuntimeError, match=r"pycocotools 0\.5"):
        measure([3], 1)


def test_a_rival_has_the_same_boxes_and_other_scores(tmp_path: Path) -> None:
    gt, detections = write_example(tmp_path, 2)
    rival = json.loads(write_rival(detections, tmp_path / "rival.json").read_text())
    rows = json.loads(detections.read_text())
    assert [row["bbox"] for row in rows] == [row["bbox"] for row in rival]
    assert all(a["score"] != b["score"] >= 0 for a, b in zip(rows, rival, strict=True))
    with pytest.raises(RuntimeError, match=r"a process to be timed failed: .*no such thing"):
        run_program("raise ValueError('no such thing')", gt, detections, detections, tmp_path / "out")


def test_a_program_is_asked_for_its_ap_whatever_it_prints_before(tmp_path: Path) -> None:
    found = run_program("import sys\nprint(len(sys.argv), end='')\nAP = 0.25", *[tmp_path / name for name in "abcd"])
    assert found.ap == 0.25
    assert found.seconds > 0
    assert found.mib > 1
