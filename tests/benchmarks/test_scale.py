"""What `score-scale` writes and measures; nothing is asserted about time."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import examples, scale
from benchmarks.examples import CLASSES, write_example
from benchmarks.metrics import score
from benchmarks.metrics.scan import read_bytes, scan_results
from benchmarks.scale import measure_scale, print_scale
from benchmarks.speed import PROGRAMS, Run


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To half a unit of the last decimal, in blocks that hold together."""
    monkeypatch.setattr(examples, "_BLOCK", 7)
    written: list[np.ndarray] = []
    plain = examples._draw
    monkeypatch.setattr(examples, "_draw", lambda *a: (written.append(plain(*a)), written[-1])[1])
    gt, detections = write_example(tmp_path, 16)
    truth = json.loads(gt.read_text())
    assert [image["id"] for image in truth["images"]] == list(range(1, 17))
    assert [one["id"] for one in truth["annotations"]] == list(range(1, len(truth["annotations"]) + 1))
    assert len(truth["categories"]) == CLASSES
    scanned = scan_results(read_bytes(detections))
    assert scanned is not None, "in the shape that is read fastest"
    images, kinds, numbers = scanned
    assert len(images) == 1600
    assert np.array_equal(images, np.repeat(np.arange(1, 17), 100))
    drawn = np.concatenate([found for _, found in written])
    assert np.array_equal(kinds, drawn[:, 1])
    assert np.abs(numbers - drawn[:, 2:]).max() < 1e-12
    objects = np.concatenate([found for found, _ in written])
    boxes = np.array([one["bbox"] for one in truth["annotations"]])
    assert np.allclose(boxes, objects[:, 3:7], rtol=0, atol=1e-9)
    scores = score(truth, json.loads(detections.read_text()))
    assert 0.05 < scores["stats"]["AP"] < 0.95
    again = tmp_path / "again"
    again.mkdir()
    assert [path.read_bytes() for path in write_example(again, 16)] == [gt.read_bytes(), detections.read_bytes()]


@pytest.mark.parametrize("value", [0.0, 0.05, 9.995, 123456.0, 0.1 + 0.2])
@pytest.mark.parametrize("decimals", [0, 2, 13])
def test_numbers_are_written_as_json_has_them(value: float, decimals: int) -> None:
    text = examples._text('{"a": @}', (decimals,), np.array([[value], [1.0]])).decode()
    first, second = json.loads(f"[{text}]")
    assert first["a"] == pytest.approx(value, abs=0.5 * 10.0**-decimals)
    assert second["a"] == 1
    assert (str(first["a"]) in text) or decimals


def test_each_size_is_scored_in_parts_and_a_small_one_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def fake(program: str, gt: Path, detections: Path, rival: Path, out: Path) -> Run:
        at_once = program == PROGRAMS["score"]
        assert at_once or "memory=MEMORY" in program
        assert at_once or "MEMORY = 7000" in program
        asked.append(("at once" if at_once else "in parts", len(json.loads(gt.read_text())["images"])))
        out.write_text(json.dumps({"AP": 0.5 if at_once else len(asked) // 5}))
        return Run(9.0, 3.0, 100.0, 0.5)

    monkeypatch.setattr(scale, "run_program", fake)
    monkeypatch.setattr(scale, "AT_ONCE", 4)
    found = list(measure_scale([3, 5], 7000, tmp_path))
    assert asked == [("in parts", 2), ("in parts", 3), ("at once", 3), ("in parts", 5)]
    assert [one["equal"] for one in found] == [False, None]
    assert not list(tmp_path.iterdir())
    text = io.StringIO()
    print_scale(found, 7000, Console(file=text, width=120))
    assert "DIFFERS" in text.getvalue()
    assert "not tried" in text.getvalue()
