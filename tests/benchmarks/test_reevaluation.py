"""Intervals in Records: those of a new evaluation, and those that older Records are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import reevaluation
from benchmarks.evaluate import Subject, detect, evaluate
from benchmarks.metrics import load_detections, load_ground_truth, score
from benchmarks.provenance import sha256
from benchmarks.reevaluation import record_intervals
from benchmarks.results import Record, RecordError
from ops.structures import Detections
from tests.benchmarks.test_evaluate import FakeSet
from zoo.detector import Detector


class Photographs(FakeSet):
    """What an evaluation asks besides."""

    fingerprint = "f" * 64
    num_objects = 3
    has_masks = False

    def size(self, index: int) -> tuple[int, int]:
        return 40, 50 + index


class Sloppy(Detector):
    """Right on the first image, beside the object on the others; `shift` is a parameter that a test can move."""

    def __init__(self, shift: float = 6.0) -> None:
        super().__init__(2)
        self.shift = shift

    def forward(self, images: list[torch.Tensor], targets: Any = None) -> list[Detections]:
        answers = []
        for image in images:
            index = image.shape[-1] - 50
            box = torch.tensor([[4.0, 6.0, 24.0 + index, 30.0]]) + self.shift * (index > 0)
            answers.append(Detections(box, torch.tensor([0.9]), torch.tensor([index % 2])))
        return answers


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    weights = tmp_path / "sloppy_small.shapes.safetensors"
    weights.write_bytes(b"weights")
    return Subject("sloppy", Sloppy(), "small", {}, None, weights)


def test_an_evaluation_has_the_intervals_of_a_scored_file(subject: Subject) -> None:
    data: Any = Photographs()
    record = evaluate(subject, data, quiet=True)
    truth = load_ground_truth(data.coco())
    wanted = score(truth, load_detections(detect(subject.model, data, quiet=True), truth), intervals=1_000)["intervals"]
    assert wanted.pop("per_class")
    assert record.metrics["intervals"] == wanted
    low, high = wanted["stats"]["AP"]
    assert 0 <= low < high <= 1
    assert Record.model_validate_json(record.model_dump_json()).metrics["intervals"]["stats"]["AP"] == [low, high]


@pytest.fixture
def older(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Record of a shipped checkpoint from before there were intervals."""
    data: Any = Photographs()
    monkeypatch.setattr(reevaluation, "open_dataset", lambda *_: data)
    monkeypatch.setattr(reevaluation, "shipped", lambda *_: [(subject.weights, None)])
    monkeypatch.setattr(reevaluation, "load_subject", lambda *_: subject)
    record = evaluate(subject, data, quiet=True)
    metrics = {key: value for key, value in record.metrics.items() if key != "intervals"}
    return record.model_copy(update={"metrics": metrics, "commit": "0ld"}).write(tmp_path / "results" / "cpu-2core")


def test_an_older_record_gets_intervals_and_nothing_else(older: Path) -> None:
    before = Record.read(older)
    assert record_intervals(folder=older.parents[1]) == [older]
    after = Record.read(older)
    assert after.metrics.pop("intervals")["draws"] == 1_000
    assert after == before


def test_what_has_intervals_or_other_weights_is_left_alone(older: Path) -> None:
    record_intervals(folder=older.parents[1])
    assert record_intervals(folder=older.parents[1]) == []
    record = Record.read(older)
    assert record.weights is not None
    other = record.weights.model_copy(update={"sha256": "0" * 64})
    lacking = {key: value for key, value in record.metrics.items() if key != "intervals"}
    record.model_copy(update={"weights": other, "metrics": lacking}).write(older.parent)
    assert record_intervals(folder=older.parents[1]) == []


def test_a_metric_that_moved_is_named_and_nothing_is_written(older: Path, subject: Subject) -> None:
    assert isinstance(subject.model, Sloppy)
    assert sha256(subject.weights) == Record.read(older).weights.sha256  # type: ignore[union-attr]
    content = older.read_bytes()
    subject.model.shift = 0.0
    with pytest.raises(RecordError, match=r"accuracy\.sloppy.*metrics\.stats\.AP: is 0\.\d+, and the checkpoint gives"):
        record_intervals(folder=older.parents[1])
    assert older.read_bytes() == content
