"""`run_score`: what is printed, what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.metrics import ScoreError, score
from benchmarks.score import print_scores, run_score

GT = {
    "images": [{"id": 1, "width": 100, "height": 100}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500}],
}
DETECTIONS = [
    {"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 44], "score": 0.5},
    {"image_id": 1, "category_id": 3, "bbox": [10, 10, 50, 50], "score": 0.5},
]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    gt, detections = tmp_path / "gt.json", tmp_path / "detections.json"
    gt.write_text(json.dumps(GT))
    detections.write_text(json.dumps(DETECTIONS))
    return gt, detections


def test_scores_are_printed_returned_and_written(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new folder" / "scores.json"
    scores = run_score(*files, "all", out)
    assert scores == json.loads(out.read_text()) == score(*files)
    assert scores["stats"]["AP"] == pytest.approx(0.8)  # IoU .88 passes 8 of 10 thresholds
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[2] == ["80.0", "100.0", "100.0", "-", "80.0", "-", *["80.0"] * 3, "-", "80.0", "-"]
    assert ["cat", "1", "80.0", "100.0", "0.0", "100.0", "100.0"] in table
    assert ["dog", "0", "-", "-", "-", "-", "-"] in table
    assert any(line[:4] == ["note:", "1", "detection", "left"] for line in table)


def test_a_protocol_prints_only_its_own_columns(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run_score(*files, "voc07")
    text = capsys.readouterr().out
    assert "mAP07" in text
    assert "AR100" not in text
    assert "FD" not in text
    assert "AP50" not in text


def test_json_to_the_standard_output_stays_alone(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    scores = run_score(*files, "all", Path("-"))
    captured = capsys.readouterr()
    assert json.loads(captured.out) == scores
    assert "mAP07" in captured.err


def test_a_set_without_objects_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_scores(score({**GT, "annotations": []}, []))
    assert "The ground truth holds no object" in capsys.readouterr().out
    print_scores(score({"images": [], "categories": [], "annotations": []}, []))


def test_an_output_that_cannot_be_written_is_one_sentence(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match=r"gt\.json/scores\.json: cannot be written"):
        run_score(*files, "all", files[0] / "scores.json")
