"""The embedded data set: frozen pixels, both layouts, every scene."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from benchmarks.datasets import Dataset, DatasetError, open_dataset
from benchmarks.datasets.coco import open_coco
from benchmarks.datasets.shapes import CLASS_NAMES, FINGERPRINTS, OWN, SCENES, Scene, draw, open_shapes, write
from benchmarks.datasets.shapes import splits as module
from benchmarks.datasets.shapes.chance import Chance
from benchmarks.datasets.voc import open_voc
from ops.quads import rectangle_angles, smallest_rectangles
from tests.contract import assert_is_dataset


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frozen test split, drawn anew."""
    return write("test", tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="session")
def dataset(drawn: Path) -> Dataset:
    return open_coco("test", drawn, name="shapes", masks=True)


def test_frozen_test_split(dataset: Dataset) -> None:
    assert dataset.fingerprint == FINGERPRINTS["test"]
    assert len(dataset) == 300
    assert dataset.class_names == CLASS_NAMES
    assert_is_dataset(dataset, range(0, 300, 29))


@pytest.mark.slow
def test_frozen_val_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTOR_ZOO_CACHE", str(tmp_path))
    split = open_dataset("shapes", "val")
    assert split.fingerprint == FINGERPRINTS["val"]
    assert len(split) == 300


@pytest.mark.slow
def test_frozen_train_split() -> None:
    """Drawn into the cache folder, where trainings look for it, unless it is there."""
    split = open_dataset("shapes", "train")
    assert split.fingerprint == FINGERPRINTS["train"]
    assert len(split) == 2000


@pytest.fixture(scope="session", params=list(OWN))
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The frozen test split of a set of one class, drawn anew."""
    name = request.param
    return open_coco("test", write("test", tmp_path_factory.mktemp(name), name), name=name, masks=True)


def test_frozen_test_split_of_one_class(own: Dataset) -> None:
    assert own.fingerprint == FINGERPRINTS[f"{own.name}-test"]
    assert (own.name, own.split, len(own)) == (own.name, "test", 300)
    assert own.class_names == (own.name.removesuffix("s"),)
    assert own.num_objects > 600
    assert_is_dataset(own, range(0, 300, 29))
    voc = open_voc("test", own.paths[0].parents[2], name=own.name, class_names=own.class_names)
    assert all(torch.equal(own.target(index).boxes, voc.target(index).boxes) for index in range(len(own)))


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_frozen_train_split_of_one_class(name: str) -> None:
    split = open_dataset(name, "train")
    assert split.fingerprint == FINGERPRINTS[f"{name}-train"]
    assert len(split) == 2000


@pytest.mark.parametrize("name", OWN)
def test_forms_of_other_classes_are_painted_and_no_objects(name: str) -> None:
    """Were all labelled, the same pixels would have more objects, among them all that are there now."""
    more = 0
    for index in range(12):
        pixels, objects = draw(OWN[name], 2, index)
        other, everything = draw(replace(OWN[name], labelled=tuple(range(8))), 2, index)
        assert np.array_equal(pixels, other)
        assert {thing["label"] for thing in objects} <= set(OWN[name].labelled)
        kept = [thing["bbox"] for thing in everything if thing["label"] in OWN[name].labelled]
        assert [thing["bbox"] for thing in objects] == kept
        more += len(everything) - len(objects)
    assert more > 12


def test_bars_lean_as_lines_of_text_do() -> None:
    """To both sides, and short of the 45 degrees from which on a side and not the top would be the upper one."""
    angles: list[float] = []
    for index in range(12):
        _, objects = draw(OWN["bars"], 2, index)
        large = [torch.from_numpy(thing["mask"]) for thing in objects if thing["area"] > 400]
        angles += rectangle_angles(smallest_rectangles(torch.stack(large))).rad2deg().tolist() if large else []
    assert -38 < min(angles) < -15
    assert 15 < max(angles) < 38


@pytest.mark.parametrize("split", ["val", "bars", "crowd"])
def test_unknown_split_of_one_class(split: str) -> None:
    with pytest.raises(DatasetError, match=r"bars: split .* is unknown; there are train and test"):
        open_dataset("bars", split)


def test_splits_share_no_image() -> None:
    drawn = {draw(SCENES["mix"], split, index)[0].tobytes() for split in range(3) for index in range(3)}
    assert len(drawn) == 9


def test_voc_and_coco_read_the_same(drawn: Path, dataset: Dataset) -> None:
    voc = open_voc("test", drawn, name="shapes", class_names=CLASS_NAMES)
    assert voc.image_ids == dataset.image_ids
    assert voc.category_ids == dataset.category_ids
    for index in range(len(dataset)):
        ours, theirs = dataset.target(index), voc.target(index)
        assert torch.equal(ours.boxes, theirs.boxes)
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.ignore, theirs.ignore)
    assert torch.equal(dataset[7][0], voc[7][0])
    assert_is_dataset(voc, range(3))


def test_masks_boxes_and_areas_agree(dataset: Dataset) -> None:
    for index in range(40):
        _, target = dataset[index]
        assert target.masks is not None
        assert target.area is not None
        assert torch.equal(target.masks.sum((1, 2)).float(), target.area)
        for mask, box in zip(target.masks, target.boxes, strict=True):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == [int(side) for side in tight], "boxes are tight about what is seen"
        assert target.masks.sum(0).max() <= 1, "a pixel shows one object"


def test_the_default_scene_has_what_it_promises(dataset: Dataset) -> None:
    rows = dataset.coco()["annotations"]
    plain = [row for row in rows if not row["iscrowd"] and not row["difficult"]]
    small = sum(row["area"] < 32**2 for row in plain)
    large = sum(row["area"] > 96**2 for row in plain)
    assert small > 500
    assert len(plain) - small - large > 300
    assert large > 90
    assert sum(row["iscrowd"] for row in rows) >= 10
    assert sum(row["difficult"] for row in rows) >= 40
    counts = np.bincount([row["category_id"] - 1 for row in rows], minlength=8)
    assert counts.min() > 0.8 * counts.mean()


def test_colour_does_not_tell_the_class() -> None:
    """The mean colour over all objects is about the same for each class."""
    sums, counts = np.zeros((8, 3)), np.zeros(8)
    for index in range(120):
        pixels, objects = draw(SCENES["sparse"], 2, index)
        for thing in objects:
            sums[thing["label"]] += pixels[thing["mask"]].mean(0)
            counts[thing["label"]] += 1
    means = sums / counts[:, None]
    assert np.abs(means - means.mean(0)).max() < 60


def test_drawing_depends_on_nothing_but_its_arguments() -> None:
    first = draw(SCENES["mix"], 2, 5)
    np.random.seed(1)  # noqa: NPY002 - shows that the global generator has no say
    draw(SCENES["crowd"], 0, 0)
    second = draw(SCENES["mix"], 2, 5)
    assert np.array_equal(first[0], second[0])
    assert [t["bbox"] for t in first[1]] == [t["bbox"] for t in second[1]]


def neighbours(scene: str, count: int = 60) -> list[float]:
    """IoU of every overlapping pair of the same class."""
    found: list[float] = []
    for index in range(count):
        _, objects = draw(SCENES[scene], 2, index)
        if not objects:
            continue
        boxes = torch.tensor([t["bbox"] for t in objects], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([t["label"] for t in objects])
        iou = box_iou(boxes, boxes).triu(1) * (labels[:, None] == labels)
        found += iou[iou > 0].tolist()
    return found


def test_scene_crowd_has_overlapping_neighbours() -> None:
    inside = [iou for iou in neighbours("crowd") if 0.38 < iou < 0.72]
    assert len(inside) > 150
    assert sum(iou > 0.4 for iou in neighbours("sparse")) <= 2


def test_scene_pairs_covers_all_overlaps() -> None:
    histogram, _ = np.histogram(neighbours("pairs", 120), bins=8, range=(0, 0.8))
    assert histogram.min() >= 10


def test_scene_twins_is_pairs_of_discs_among_other_forms() -> None:
    histogram, _ = np.histogram(neighbours("twins", 120), bins=8, range=(0, 0.8))
    assert histogram.min() >= 10
    assert open_dataset("shapes", "twins").class_names == ("disc",)


def test_scene_concentric_shares_centres() -> None:
    shared = 0
    for index in range(40):
        _, objects = draw(SCENES["concentric"], 2, index)
        boxes = torch.tensor([t["bbox"] for t in objects], dtype=torch.float32).reshape(-1, 4)
        centres = boxes[:, :2] + boxes[:, 2:] / 2
        shared += int((torch.nn.functional.pdist(centres) < 8).sum())
    assert shared >= 20


def test_scene_sweep_spans_the_sizes() -> None:
    longest = [max(t["bbox"][2:]) for index in range(40) for t in draw(SCENES["sweep"], 2, index)[1]]
    assert min(longest) <= 6
    assert max(longest) >= 330
    assert {t["label"] for index in range(10) for t in draw(SCENES["sweep"], 2, index)[1]} == {0}


def test_bent_forms_fill_their_boxes_otherwise() -> None:
    def filled(scene: str) -> float:
        bars = [t for i in range(40) for t in draw(SCENES[scene], 2, i)[1] if t["label"] == 7 and t["area"] > 300]
        return float(np.mean([t["area"] / (t["bbox"][2] * t["bbox"][3]) for t in bars]))

    assert filled("bent") != pytest.approx(filled("rigid"), rel=0.03)


def test_plain_ground_is_a_parameter() -> None:
    busy, _ = draw(Scene(objects=(0, 0), large=0, clump=0, distractors=(0, 0)), 2, 1)
    plain, _ = draw(Scene(objects=(0, 0), large=0, clump=0, distractors=(0, 0), texture=0.0), 2, 1)
    assert np.abs(np.diff(plain.astype(int), axis=0)).mean() < 0.4 * np.abs(np.diff(busy.astype(int), axis=0)).mean()


@pytest.mark.parametrize("split", ["tset", "mix", "crowd-val", "nowhere-train"])
def test_unknown_split(split: str) -> None:
    with pytest.raises(DatasetError, match=r"unknown.*train, val, test.*crowd"):
        open_shapes(split)


def test_two_writers_give_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCENES, "pairs", Scene(side=48, images=(6, 2), area=(64, 200), large=0))
    places: list[Path] = []
    threads = [threading.Thread(target=lambda: places.append(write("pairs", tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(places)) == 1
    assert len(places) == 3
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {places[0].name, ".pairs.lock"}
    assert len(json.loads((places[0] / "annotations" / "instances_pairs.json").read_text())["images"]) == 6


def test_a_crash_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(scene: Scene, split: int, index: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "draw", broken)
    with pytest.raises(KeyboardInterrupt):
        write("pairs", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".pairs.lock"]


def test_other_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._FROZEN, "val", 2)
    with pytest.raises(DatasetError, match="shapes val: this machine drew other pixels"):
        write("val", tmp_path)


def test_the_random_numbers_are_splitmix64() -> None:
    """Published first outputs of the generator for seed 1234567."""
    chance = Chance()
    chance._state = 1234567
    assert [chance.bits() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    chance._state = 1234567
    block = chance.bytes(24)
    assert int.from_bytes(bytes(block[8:16].astype(np.uint8)), "little") == 3203168211198807973
    assert chance.bits() == 4593380528125082431
