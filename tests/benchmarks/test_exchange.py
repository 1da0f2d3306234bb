"""A detector that is not of the zoo: images and truth go out, its results come back as a Record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.datasets import Dataset
from benchmarks.exchange import dataset_of, export, write_record
from benchmarks.metrics import ScoreError, score
from benchmarks.rescore import kept_detections
from benchmarks.results import Record


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    truth = {
        "images": [{"id": n, "file_name": f"deep/{n}.png", "width": 40, "height": 30} for n in (1, 2)],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 3, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
            for n in (1, 2)
        ],
    }
    paths = [tmp_path / f"{n}.png" for n in (1, 2)]
    for path in paths:
        path.write_bytes(path.name.encode())
    return Dataset("shapes", "test", truth, paths)


DETECTIONS = [{"image_id": n, "category_id": 3, "bbox": [5, 5, 20, 20], "score": 0.9} for n in (1, 2)]


def test_an_export_holds_the_images_and_says_which_test_it_is(dataset: Dataset, tmp_path: Path) -> None:
    gt = export(dataset, tmp_path / "out")
    truth = json.loads(gt.read_text())
    assert [(gt.parent / "images" / image["file_name"]).read_bytes() for image in truth["images"]] == [
        b"1.png",
        b"2.png",
    ]
    found = dataset_of(gt)
    assert (found.name, found.split, found.images, found.objects) == ("shapes", "test", 2, 2)
    assert found.fingerprint == dataset.fingerprint


def test_a_changed_export_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    gt = export(dataset, tmp_path / "out")
    gt.write_text(gt.read_text().replace("[5, 5, 20, 20]", "[5, 5, 21, 20]", 1))
    with pytest.raises(ScoreError, match="was changed since it was exported"):
        dataset_of(gt)


def test_other_ground_truths_are_named_by_their_files(dataset: Dataset, tmp_path: Path) -> None:
    for name, wanted in (("instances_val2017.json", "coco val2017"), ("cars.json", "cars test")):
        (tmp_path / name).write_text(json.dumps(dataset.coco()))
        found = dataset_of(tmp_path / name)
        assert f"{found.name} {found.split}" == wanted
        assert found.fingerprint.startswith("annotations-"), "the same name is not the same test"


def test_scores_become_a_record_beside_its_detections(dataset: Dataset, tmp_path: Path) -> None:
    gt = export(dataset, tmp_path / "out")
    detections = tmp_path / "mine.json"
    detections.write_text(json.dumps(DETECTIONS))
    arguments = [
        "score",
        "--gt",
        str(gt),
        "--detections",
        str(detections),
        "--record",
        "mine",
        "--out",
        str(tmp_path / "r"),
    ]
    result = CliRunner().invoke(app, [*arguments, "--note", "by hand"])
    assert result.exit_code == 0, result.output
    path = tmp_path / "r" / "accuracy.mine.other.shapes-test.json"
    made = Record.read(path)
    assert made.metrics["stats"]["AP"] == score(dataset.coco(), DETECTIONS)["stats"]["AP"] > 0.99
    assert made.dataset is not None
    assert made.dataset.fingerprint == dataset.fingerprint
    assert made.note == "by hand"
    assert made.num_classes == 1
    kept = kept_detections(path, made)
    assert kept is not None
    assert json.loads(kept.read_text()) == DETECTIONS


def test_names_that_are_no_file_names_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    gt = export(dataset, tmp_path / "out")
    scores = score(dataset.coco(), DETECTIONS)
    for name in ("../mine", "", "a b", ".x"):
        with pytest.raises(ScoreError, match="is a name of a file, too"):
            write_record(name, scores, gt, tmp_path / "mine.json", tmp_path)


def test_a_record_holds_all_protocols(dataset: Dataset, tmp_path: Path) -> None:
    gt = export(dataset, tmp_path / "out")
    detections = tmp_path / "mine.json"
    detections.write_text(json.dumps(DETECTIONS))
    arguments = ["score", "--gt", str(gt), "--detections", str(detections), "--record", "mine", "--protocol", "coco"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
