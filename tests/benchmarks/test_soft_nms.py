"""Soft-NMS at evaluation: any detector that suppresses by the shared operator takes it, and the Record says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.evaluate import EvaluationError, Subject, evaluate
from benchmarks.results import Record
from ops.nms import Suppression, classwise_nms, suppressing
from ops.structures import Detections, Target
from tests.benchmarks.test_evaluate import FakeSet
from tests.contract import toy_images
from zoo import build
from zoo.detector import Detector


class Fingerprinted(FakeSet):
    fingerprint = "0" * 64
    num_objects = 3


class Overlapping(Detector):
    """Two overlapping boxes of one class in every image; the less sure one is right."""

    def __init__(self, own_way: bool = False) -> None:
        super().__init__(2)
        self.own_way = own_way

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> list[Detections]:
        boxes = torch.tensor([[2.0, 6.0, 22.0, 30.0], [7.0, 6.0, 27.0, 30.0]])
        if self.own_way:
            return [Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0])) for _ in images]
        scores = torch.tensor([[0.9, 0.0], [0.8, 0.0]])
        return [classwise_nms(boxes, scores, score_floor=0.1, iou=0.5, limit=10) for _ in images]


def subject(folder: Path, model: Detector) -> Subject:
    weights = folder / "weights.pth"
    weights.write_bytes(b"weights")
    return Subject("ssd300_vgg16", model, "small", {}, None, weights)


def test_the_record_says_so(tmp_path: Path) -> None:
    overlapping = subject(tmp_path, Overlapping())
    plain = evaluate(overlapping, Fingerprinted(), out=tmp_path, quiet=True)  # type: ignore[arg-type]
    softly = evaluate(
        overlapping,
        Fingerprinted(),  # type: ignore[arg-type]
        soft_nms=Suppression("linear"),
        out=tmp_path,
        quiet=True,
    )
    assert plain.metrics["detections"] == 3
    assert softly.metrics["detections"] == 6
    assert (plain.suppression, softly.suppression) == (None, "soft_nms_linear")
    assert softly.protocol["suppression"] == {"name": "soft_nms_linear", "iou": 0.3, "floor": 0.001}
    assert softly.name == f"{plain.name}.soft_nms_linear"
    for made in (plain, softly):
        assert Record.read(tmp_path / f"{made.name}.json") == made


def test_a_detector_with_a_way_of_its_own_is_refused_before_it_works(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="ssd300_vgg16 suppresses duplicates in a way of its own"):
        evaluate(
            subject(tmp_path, Overlapping(own_way=True)),
            Fingerprinted(),  # type: ignore[arg-type]
            soft_nms=Suppression(),
            out=tmp_path / "x",
            quiet=True,
        )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("name", "takes_it"),
    [
        ("faster_rcnn_r50_fpn", True),
        ("cascade_rcnn_r50_fpn", True),
        ("ssd300_vgg16", True),
        ("yolov3", True),
        ("retinanet_r50_fpn", True),
        ("cornernet511_hg52", False),
    ],
)
def test_who_takes_it(name: str, takes_it: bool) -> None:
    torch.manual_seed(0)
    model = build(name, 3, small=True).eval()
    with torch.no_grad(), suppressing(Suppression()) as asked:
        model(toy_images()[:1])
    assert asked.used == takes_it


def test_the_command_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", "yolov1", "--out", str(tmp_path / "x"), "--soft-nms", "hard"])
    assert done.exit_code == 2
    assert done.stderr == "error: soft NMS is linear or gaussian, not 'hard'\n"
    done = CliRunner().invoke(
        app, ["evaluate", "cornernet511_hg52", "--out", str(tmp_path / "x"), "--soft-nms", "linear"]
    )
    assert done.exit_code == 2
    assert "in a way of its own" in done.stderr
    assert not (tmp_path / "x").exists()
