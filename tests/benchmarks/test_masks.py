"""Masks through the harness: written, scored and drawn, for detectors that answer them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from typer.testing import CliRunner

from benchmarks import drawing
from benchmarks.__main__ import app
from benchmarks.datasets import Dataset, DatasetError, open_dataset
from benchmarks.evaluate import Subject, detect, evaluate
from benchmarks.metrics import ScoreError, encode_masks, mask_ap, read_masks
from benchmarks.score import run_score
from benchmarks.train import train
from ops.structures import Detections, Target
from tests.contract import filled
from zoo.detector import Detector

DATA = Path(os.environ.get("DETECTOR_ZOO_DATA", "")) / "coco_val2014_100"


class Oracle(Detector):
    """Answers with the truth, masks cut at the left by three columns; it knows images by their pixels."""

    trains_on_masks = True

    def __init__(self, dataset: Dataset, count: int, *, masks: bool = True) -> None:
        super().__init__(len(dataset.class_names))
        self.known = [dataset[index] for index in range(count)]
        self.masks = masks

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> list[Detections]:
        answers = []
        for image in images:
            (found,) = [target for known, target in self.known if torch.equal(known, image)]
            assert found.masks is not None
            masks = found.masks.clone()
            for mask in masks:
                columns = mask.any(0).nonzero()[:, 0]
                mask[:, columns[0] : columns[0] + 3] = False
            scores = torch.linspace(0.9, 0.2, len(found))
            answers.append(Detections(found.boxes, scores, found.labels, masks if self.masks else None))
        return answers


@pytest.fixture(scope="module")
def some() -> Dataset:
    """Ten images of `shapes`."""
    whole = open_dataset("shapes", "val")
    truth = whole.coco()
    truth["images"] = truth["images"][:10]
    ids = {image["id"] for image in truth["images"]}
    truth["annotations"] = [row for row in truth["annotations"] if row["image_id"] in ids]
    return Dataset("shapes", "val", truth, whole.paths[:10])


def by_pycocotools(truth: dict, rows: list[dict]) -> list[float]:
    gt = COCO()
    gt.dataset = json.loads(json.dumps(truth))
    gt.createIndex()
    judge = COCOeval(gt, gt.loadRes([{k: v for k, v in row.items() if k != "bbox"} for row in rows]), "segm")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats.tolist()


def test_encoded_masks_are_masks() -> None:
    masks = np.random.default_rng(0).random((3, 7, 5)) < 0.5
    coded = json.loads(json.dumps(encode_masks(masks)))
    assert [one["size"] for one in coded] == [[7, 5]] * 3
    assert all((codec.decode(one).astype(bool) == mask).all() for one, mask in zip(coded, masks, strict=True))
    assert encode_masks(masks[:0]) == []


def test_data_with_masks(some: Dataset) -> None:
    assert some[0][1].masks is None
    masks = some.with_masks()[0][1].masks
    assert masks is not None
    assert masks.shape == (len(some[0][1]), 160, 160)
    assert some[0][1].masks is None, "the data that were opened without stay so"
    bare = some.coco()
    del bare["annotations"][1]["segmentation"]
    without = Dataset("shapes", "val", bare, some.paths)
    assert not without.has_masks
    with pytest.raises(DatasetError, match="hold no masks"):
        without.with_masks()


def test_evaluation_scores_masks_as_pycocotools_does(some: Dataset, tmp_path: Path) -> None:
    weights = tmp_path / "none"
    weights.write_bytes(b"")
    subject = Subject("mask_rcnn_r50_fpn", Oracle(some.with_masks(), 10).eval(), "small", {}, None, weights)
    record = evaluate(subject, some, out=tmp_path, quiet=True)
    rows = json.loads((tmp_path / "detections.json").read_text())
    theirs = by_pycocotools(some.coco(), rows)
    ours = record.metrics["masks"]
    assert list(ours) == ["AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L"]
    assert list(ours.values()) == pytest.approx([value if value >= 0 else None for value in theirs], abs=1e-12)
    assert 0.2 < ours["AP"] < record.metrics["stats"]["AP"], "the masks are worse than the boxes"
    assert record.protocol["masks"]["area_of_detection"] == "mask"
    assert json.loads((tmp_path / "metrics.json").read_text())["masks"] == ours


def test_a_file_of_results_with_masks(some: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, both, only = tmp_path / "truth.json", tmp_path / "both.json", tmp_path / "only.json"
    truth.write_text(json.dumps(some.coco()))
    rows = detect(Oracle(some.with_masks(), 10), some, quiet=True)
    both.write_text(json.dumps(rows))
    only.write_text(json.dumps([{k: v for k, v in row.items() if k != "bbox"} for row in rows]))
    scores = run_score(truth, both, "all", tmp_path / "scores.json")
    assert scores["masks"] == mask_ap(truth, both)
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    printed = capsys.readouterr().out
    assert f"{100 * scores['masks']['AP']:.1f}" in printed.split("Masks:")[1].splitlines()[3]
    assert scores["stats"]["AP"] == 1
    # Without boxes, those of the masks: three columns short.
    bare = run_score(truth, only)
    assert bare["masks"] == scores["masks"]
    assert 0 < bare["stats"]["AP"] < 1
    assert "masks" not in run_score(truth, both, "voc07")
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{k: v for k, v in row.items() if k != "segmentation"} for row in rows]))
    assert read_masks(boxes) is None
    assert "masks" not in run_score(truth, boxes)


def test_the_command_scores_masks(some: Dataset, tmp_path: Path) -> None:
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps(some.coco()))
    found.write_text(json.dumps(detect(Oracle(some.with_masks(), 10), some, quiet=True)))
    result = CliRunner().invoke(app, ["score", "--gt", str(truth), "--detections", str(found)])
    assert result.exit_code == 0, result.output
    assert "Masks:" in result.output


@pytest.mark.parametrize("mask", [{"size": [4, 4], "counts": 3}, {"counts": "04"}, [[0, 0, 1, 1, 1, 0]], None])
def test_what_is_no_mask_is_refused(mask: object, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text(json.dumps([{"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": mask}]))
    with pytest.raises(ScoreError, match=r"found\.json: entry 0"):
        read_masks(path)


@pytest.mark.skipif(not DATA.is_dir(), reason="DETECTOR_ZOO_DATA names no coco_val2014_100")
def test_the_published_example_of_coco() -> None:
    """The numbers that COCO's evaluation notebook prints for its example of masks."""
    gt, found = DATA / "instances_val2014_100.json", DATA / "instances_val2014_fakesegm100_results.json"
    scores = run_score(gt, found)
    theirs = by_pycocotools(json.loads(gt.read_bytes()), json.loads(found.read_bytes()))
    assert list(scores["masks"].values()) == pytest.approx(theirs, abs=1e-12)
    assert [round(value, 3) for value in scores["masks"].values()] == [
        0.320, 0.562, 0.299, 0.387, 0.310, 0.327, 0.268, 0.415, 0.417, 0.469, 0.377, 0.381,
    ]  # fmt: skip


def test_masks_are_drawn(some: Dataset) -> None:
    image = torch.zeros(3, 60, 80)
    boxes = torch.tensor([[10.0, 10, 40, 50], [45, 20, 75, 50]])
    found = Detections(boxes, torch.tensor([0.9, 0.1]), torch.tensor([1, 0]), filled(boxes, (60, 80)))
    shown = drawing.draw(image, found, ["a", "b"])
    assert shown[:, 30, 25].any(), "the inside of the first is coloured"
    assert not shown[:, 35, 60].any(), "the second scores too little"
    assert not drawing.draw(image, Detections(boxes, found.scores, found.labels), ["a", "b"])[:, 30, 25].any()
    with_masks, without = (
        drawing.gallery(
            [Subject("mask_rcnn_r50_fpn", Oracle(some.with_masks(), 2, masks=masks), "small", {}, None, Path())],
            some,
            [0],
        )
        for masks in (True, False)
    )
    assert with_masks.shape == without.shape == (3, 320, 640)
    assert torch.equal(with_masks[:, :, :320], without[:, :, :320])
    assert not torch.equal(with_masks[:, :, 320:], without[:, :, 320:])


def test_training_brings_masks(tmp_path: Path) -> None:
    """Two steps on `shapes` through the harness, whose data are opened without."""
    train("mask_rcnn_r50_fpn", "shapes", out=tmp_path, recipe_changes={"steps": 2, "batch": 2}, split="val", quiet=True)
    (line,) = (tmp_path / "losses.jsonl").read_text().splitlines()
    assert 0.1 < json.loads(line)["masks"] < 2
