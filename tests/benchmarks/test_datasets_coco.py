"""COCO's layout: what stays as the file has it, masks against pycocotools, bad files."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from benchmarks.datasets import DatasetError, open_dataset
from benchmarks.datasets.coco import open_coco
from tests import coco_files
from tests.coco_files import write_coco
from tests.contract import assert_is_dataset

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_val2017_197"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="needs the real data sets beside the checkout")

FLAT = {"id": 13, "image_id": 7, "category_id": 3, "bbox": [5, 5, 0, 3], "area": 1, "iscrowd": 0}
TRUTH = {"info": {"year": 2017}, **coco_files.TRUTH, "annotations": [*coco_files.TRUTH["annotations"], FLAT]}


@pytest.fixture
def root(tmp_path: Path) -> Callable[..., Path]:
    return partial(write_coco, tmp_path)


@pytest.mark.parametrize("images", ["images/val2017", "val2017", "images"])
def test_the_ground_truth_stays_the_files(root: Callable[..., Path], images: str) -> None:
    dataset = open_dataset("coco", data_root=root(TRUTH, images))
    assert dataset.coco() == TRUTH
    assert dataset.category_ids == (3, 90)
    assert dataset.class_names == ("car", "toothbrush")
    assert dataset.image_ids == (42, 7)
    assert len(dataset.target(0)) == 0
    target = dataset.target(1)
    assert target.boxes.tolist() == [[1.5, 2, 4.75, 6], [0, 0, 20, 10]], "a box without width is no target"
    assert target.labels.tolist() == [1, 0]
    assert target.ignore.tolist() == [False, True]
    assert target.area is not None
    assert target.area.tolist() == [6.5, 100], "the area of the segment, not of the box"
    assert dataset.num_objects == 3
    assert_is_dataset(dataset, range(2))


def test_first_images_are_a_dataset_of_their_own(root: Callable[..., Path]) -> None:
    whole = open_dataset("coco", data_root=root(TRUTH), masks=False)
    first = whole.first(1)
    assert (len(first), first.image_ids, first.num_objects) == (1, (42,), 0)
    assert first.class_names == whole.class_names
    assert torch.equal(first[0][0], whole[0][0])
    assert first.fingerprint != whole.fingerprint
    assert whole.first(2).fingerprint == whole.fingerprint
    assert [len(target) for _, target in whole.first(2)] == [0, 2]
    for count in (0, 3):
        with pytest.raises(DatasetError, match=f"has 2 images; ask for 1 to all, not for {count}"):
            whole.first(count)


def test_masks_of_polygons_and_runs(root: Callable[..., Path]) -> None:
    _, target = open_coco("val2017", root(TRUTH), masks=True)[1]
    assert target.masks is not None
    assert target.masks.shape == (2, 10, 20)
    assert target.masks[1].sum() == 50
    assert target.masks[1][:, 10:15].all(), "runs go down the columns"
    assert target.masks[0][3:5, 3].all()
    broken = copy.deepcopy(TRUTH)
    del broken["annotations"][0]["segmentation"]
    with pytest.raises(DatasetError, match="annotation 11 has no segmentation"):
        open_coco("val2017", root(broken), masks=True)[1]


def changed(*path: str | int, value: Any = None) -> dict[str, Any]:
    truth = copy.deepcopy(TRUTH)
    place: Any = truth
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return truth


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (json.dumps(TRUTH)[:-30], "instances_val2017.json: is no whole JSON file"),
        ([TRUTH], "is a list, not COCO's object"),
        (changed("annotations"), "has no list 'annotations'"),
        (changed("images", 0, "width"), r"images\[0\] has no 'width'"),
        (changed("annotations", 1, "bbox"), r"annotations\[1\] has no 'bbox'"),
        (changed("annotations", 1, "id", value=11), r"annotations\[1\]: id 11 stands twice"),
        (changed("images", 1, "id", value=42), r"images\[1\]: id 42 stands twice"),
        (changed("annotations", 0, "image_id", value=8), "annotation 11: image 8 is not in the file"),
        (changed("annotations", 0, "category_id", value=1), "annotation 11: category 1 is not in the file"),
        (
            changed("annotations", 0, "bbox", value=[1, 2, float("nan"), 4]),
            "annotation 11: bbox .*nan.* not five finite",
        ),
        (changed("annotations", 0, "bbox", value=[1, 2, 3]), "annotation 11: bbox"),
        (changed("annotations", 0, "bbox", value=["1", 2, 3, 4]), "annotation 11: bbox"),
        (changed("annotations", 0, "bbox", value=[1, 2, -3, 4]), "annotation 11: bbox .* negative side"),
        (changed("annotations", 0, "bbox", value=[10, 2, 18, 4]), "annotation 11: bbox .* reaches 8 pixels out"),
        (changed("annotations", 0, "area", value="big"), "annotation 11: bbox .* area 'big'"),
        (changed("images", 0, "file_name", value="c.png"), r"1 of its images are not in .*, the first is 'c\.png'"),
    ],
)
def test_bad_files(root: Callable[..., Path], truth: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_coco("val2017", root(truth))


def test_missing_parts_are_named(root: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds neither images/val2017/ nor val2017/"):
        open_coco("val2017", tmp_path)
    folder = root(TRUTH)
    (folder / "images" / "train2017").mkdir()
    with pytest.raises(DatasetError, match=r"instances_train2017\.json: is missing; splits here: val2017"):
        open_coco("train2017", folder)


@needs_real
def test_real_coco_against_pycocotools() -> None:
    dataset = open_coco("val2017", REAL, masks=True)
    assert len(dataset) == 197
    assert len(dataset.class_names) == 80
    assert_is_dataset(dataset, range(0, 197, 50))
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO(str(REAL / "annotations" / "instances_val2017.json"))
    for index in range(0, 197, 40):
        _, target = dataset[index]
        rows = oracle.loadAnns(oracle.getAnnIds(imgIds=dataset.image_ids[index]))
        assert target.masks is not None
        assert len(rows) == len(target)
        for row, mask in zip(rows, target.masks, strict=True):
            assert np.array_equal(oracle.annToMask(row).astype(bool), mask.numpy())
    assert torch.equal(
        dataset.target(0).ignore, torch.tensor([bool(r["iscrowd"]) for r in oracle.imgToAnns[dataset.image_ids[0]]])
    )


def test_one_class_alone(root: Callable[..., Path]) -> None:
    whole = open_dataset("coco", data_root=root(TRUTH), masks=False)
    assert len(whole.target(1).labels) == 2
    cars = whole.only(["car"])
    assert (cars.class_names, cars.category_ids, cars.image_ids) == (("car",), (3,), (7,))
    assert cars.split == f"{whole.split}-only-car"
    assert cars.target(0).labels.tolist() == [0]
    assert cars.num_objects == sum(row["category_id"] == 3 for row in TRUTH["annotations"])
    assert torch.equal(cars[0][0], whole[1][0])
    assert cars.fingerprint not in (whole.fingerprint, whole.only(["toothbrush"]).fingerprint)
    both = whole.only(["toothbrush", "car"])
    assert (both.category_ids, both.image_ids) == ((3, 90), (7,)), "in the data set's order"
    with pytest.raises(DatasetError, match="has no class 'cat'; it has car, toothbrush"):
        whole.only(["cat"])
    with pytest.raises(DatasetError, match="no image has any car"):
        whole.first(1).only(["car"])
