"""VOC's layout: conventions by hand-made files, bad files, and the originals where this machine has them."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.datasets import DatasetError, open_dataset, read_image
from benchmarks.datasets.bccd import open_bccd
from benchmarks.datasets.voc import CLASS_NAMES, ground_truth, open_voc
from tests.contract import assert_is_dataset

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="needs the real data sets beside the checkout")

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><truncated>1</truncated>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
<bndbox><xmax>{box[2]}</xmax><xmin>{box[0]}</xmin><ymax>{box[3]}</ymax><ymin>{box[1]}</ymin></bndbox></object>"""
SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def xml(
    *boxes: tuple[object, object, object, object], name: str = "dog", difficult: object = 0, size: str = SIZE
) -> str:
    objects = "".join(OBJECT.format(name=name, difficult=difficult, box=box) for box in boxes)
    return f"<annotation>{size}{objects}</annotation>"


Write = Callable[..., Path]


@pytest.fixture
def devkit(tmp_path: Path) -> Write:
    """Write a year of VOC with the XML texts given by file stem."""

    def write(year: str = "2007", split: str = "test", **files: str) -> Path:
        base = tmp_path / "VOCdevkit" / f"VOC{year}"
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        for stem, text in files.items():
            (base / "Annotations" / f"{stem[1:]}.xml").write_text(text)
            Image.new("RGB", (40, 30), (255, 128, 0)).save(base / "JPEGImages" / f"{stem[1:]}.jpg")
        (base / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{stem[1:]}  1\n" for stem in files))
        return tmp_path

    return write


def test_inclusive_pixels_become_continuous(devkit: Write) -> None:
    root = devkit(_000005=xml((1, 1, 40, 30), (11, 6, 11, 6)), _000009=xml((3, 4, 5, 9), difficult=1), _000010=xml())
    dataset = open_voc("2007_test", root)
    assert dataset.target(0).boxes.tolist() == [[0, 0, 40, 30], [10, 5, 11, 6]]
    assert dataset.target(0).area is not None
    assert dataset.target(0).area.tolist() == [1200, 1]
    assert dataset.target(0).labels.tolist() == [CLASS_NAMES.index("dog")] * 2
    assert dataset.target(1).ignore.tolist() == [True]
    assert dataset.image_ids == (5, 9, 10)
    assert dataset.coco()["annotations"][2] == {
        "id": 3, "image_id": 9, "category_id": 12, "bbox": [2, 3, 3, 6], "area": 18, "iscrowd": 0,
        "difficult": 1, "truncated": 1,
    }  # fmt: skip
    assert len(dataset.target(2)) == 0
    assert dataset.size(0) == (30, 40)
    assert_is_dataset(dataset, range(3))


def test_two_years_one_after_the_other(devkit: Write) -> None:
    devkit("2012", "trainval", _2012_000005=xml((1, 1, 4, 4)))
    root = devkit("2007", "trainval", _000005=xml((2, 2, 4, 4)), _000007=xml())
    dataset = open_voc("0712_trainval", root)
    assert dataset.image_ids == (5, 7, 2012000005)
    assert dataset.target(2).boxes.tolist() == [[0, 0, 4, 4]]
    assert [path.parts[-3] for path in dataset.paths] == ["VOC2007", "VOC2007", "VOC2012"]
    with pytest.raises(DatasetError, match="which of VOC2007, VOC2012"):
        open_voc("trainval", root)


def test_names_without_numbers_are_counted(devkit: Write) -> None:
    assert open_voc("test", devkit(_left=xml((1, 1, 4, 4)), _right=xml())).image_ids == (1, 2)


def test_small_overhang_is_clipped(devkit: Write) -> None:
    root = devkit(_1=xml((0, -1, 42, 31.5)))
    assert open_voc("test", root).target(0).boxes.tolist() == [[0, 0, 40, 30]]


def test_decimals_are_read(devkit: Write) -> None:
    assert open_voc("test", devkit(_1=xml(("2.5", "3.25", 9, 9)))).target(0).boxes.tolist() == [[1.5, 2.25, 9, 9]]


def test_png_is_read(devkit: Write) -> None:
    root = devkit(_1=xml((1, 1, 4, 4)))
    images = root / "VOCdevkit" / "VOC2007" / "JPEGImages"
    Image.new("RGB", (40, 30), (255, 0, 0)).save(images / "1.png")
    (images / "1.jpg").unlink()
    assert open_voc("test", root)[0][0][:, 3, 3].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml((1, 1, 4, 4), name="unicorn"), r"1\.xml: object 1 \(unicorn\): the class is unknown; known are aeroplane"),
        (xml((1, 1, 4, 4), (9, 1, 4, 4)), r"1\.xml: object 2 \(dog\): box 9 1 4 4 is inverted"),
        (xml((1, 1, 43, 4)), r"1\.xml: object 1 \(dog\): box 1 1 43 4 reaches out of the 40x30 image"),
        (xml((-2, 1, 4, 4)), "reaches out"),
        (xml((41, 1, 42, 4)), "nothing of the box lies in the image"),
        (xml(("nan", 1, 4, 4)), r"1\.xml: object 1 \(dog\): xmin is 'nan', not a number"),
        (xml(("", 1, 4, 4)), "xmin is '', not a number"),
        (xml((1, 1, 4, "1e999")), "ymax is '1e999'"),
        (xml((1, 1, 4, 4), size=""), r"1\.xml: size: height is None"),
        (xml((1, 1, 4, 4), size=SIZE.replace("40", "0")), "size 0x30 is no size"),
        (xml((1, 1, 4, 4), difficult="maybe"), "difficult is 'maybe', not 0 or 1"),
        (xml((1, 1, 4, 4))[:-9], r"1\.xml: is no whole XML file"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + xml((1, 1, 4, 4), name="&b;"), "is no whole XML file"),
        ("<annotation>" + SIZE + "<object><name>dog</name></object></annotation>", "xmin is None"),
    ],
)
def test_bad_annotation(devkit: Write, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_voc("test", devkit(_1=text))


def test_missing_parts_are_named(devkit: Write, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="point --data-root at the folder above VOCdevkit"):
        open_voc("2007_test", tmp_path / "nowhere")
    root = devkit(_1=xml((1, 1, 4, 4)), _2=xml())
    base = root / "VOCdevkit" / "VOC2007"
    with pytest.raises(DatasetError, match=r"val\.txt: there is no such split; there are test"):
        open_voc("2007_val", root)
    with pytest.raises(DatasetError, match=r"2012_test.*VOC2007"):
        open_voc("2012_test", root)
    (base / "ImageSets" / "Main" / "test.txt").write_text("1\n2\n1\n")
    with pytest.raises(DatasetError, match=r"test\.txt: 1 stands twice"):
        open_voc("test", root)
    (base / "ImageSets" / "Main" / "test.txt").write_text("1\n2\n3\n")
    with pytest.raises(DatasetError, match=r"3\.xml: the annotation is missing"):
        open_voc("test", root)
    (base / "ImageSets" / "Main" / "test.txt").write_text("1\n2\n")
    (base / "JPEGImages" / "2.jpg").unlink()
    with pytest.raises(DatasetError, match=r"2\.jpg: the image is missing"):
        open_voc("test", root)


def test_truncated_and_foreign_images(devkit: Write) -> None:
    root = devkit(_1=xml((1, 1, 4, 4)), _2=xml((1, 1, 4, 4)))
    images = root / "VOCdevkit" / "VOC2007" / "JPEGImages"
    whole = (images / "1.jpg").read_bytes()
    (images / "1.jpg").write_bytes(whole[: len(whole) // 2 + 200])
    Image.new("RGB", (30, 40)).save(images / "2.jpg")
    dataset = open_voc("test", root)
    with pytest.raises(DatasetError, match=r"1\.jpg: the image cannot be decoded"):
        dataset[0]
    with pytest.raises(DatasetError, match=r"2\.jpg: the file has 30x40 pixels, its annotation says 40x30"):
        dataset[1]
    (images / "1.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1\.jpg: the image is missing"):
        dataset[0]
    with pytest.raises(DatasetError, match=r"1\.jpg: the image cannot be read"):
        _ = dataset.fingerprint


@pytest.mark.parametrize(
    ("mode", "colour", "rgb"), [("L", 51, (51, 51, 51)), ("P", 7, None), ("CMYK", (0, 255, 255, 0), (255, 0, 0))]
)
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str, colour: object, rgb: tuple[int, ...] | None) -> None:
    file = tmp_path / ("image.png" if mode == "P" else "image.jpg")
    Image.new(mode, (8, 6), colour).save(file, **({} if mode == "P" else {"quality": 100}))
    image = read_image(file, (6, 8))
    assert image.shape == (3, 6, 8)
    if rgb is not None:
        assert torch.allclose(image[:, 3, 3], torch.tensor(rgb) / 255, atol=3 / 255)


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (3, 6, 8)


def test_fingerprint_moves_with_boxes_and_pixels(devkit: Write) -> None:
    root = devkit(_1=xml((1, 1, 4, 4)))
    first = open_voc("test", root).fingerprint
    assert open_voc("2007_test", root).fingerprint == first
    file = root / "VOCdevkit" / "VOC2007" / "JPEGImages" / "1.jpg"
    kept = file.read_bytes()
    Image.new("RGB", (40, 30), (255, 129, 0)).save(file, quality=99)
    assert open_voc("test", root).fingerprint != first
    file.write_bytes(kept)
    assert open_voc("test", root).fingerprint == first
    devkit(_1=xml((1, 1, 4, 5)))
    file.write_bytes(kept)
    assert open_voc("test", root).fingerprint != first


def test_data_folder_from_the_environment(devkit: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = devkit(_1=xml((1, 1, 4, 4)))
    (tmp_path / "data").mkdir()
    os.symlink(root, tmp_path / "data" / "voc")
    monkeypatch.setenv("DETECTOR_ZOO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DETECTOR_ZOO_CACHE", str(tmp_path / "cache"))
    assert len(open_dataset("voc")) == 1
    with pytest.raises(DatasetError, match=r"coco: there is no .*cache/coco; give --data-root"):
        open_dataset("coco")
    with pytest.raises(DatasetError, match="data set 'vok' is unknown; there are shapes, discs, bars, bccd, voc, coco"):
        open_dataset("vok")
    with pytest.raises(DatasetError, match="voc: its XML files hold no masks"):
        open_dataset("voc", masks=True)


@needs_real
def test_real_bccd() -> None:
    test, train = open_bccd("test", REAL / "bccd"), open_bccd("trainval", REAL / "bccd")
    assert (len(test), len(train), test.num_objects + train.num_objects) == (72, 292, 4888)
    assert not set(test.image_ids) & set(train.image_ids)
    assert_is_dataset(test, range(0, 72, 20))
    with pytest.raises(DatasetError, match="bccd: split 'val' is unknown; there are trainval and test"):
        open_bccd("val", REAL / "bccd")


@needs_real
def test_real_voc2012_originals() -> None:
    dataset = open_voc("2012_test", REAL / "voc2012_100")
    assert len(dataset) == 50
    assert sum(int(dataset.target(index).ignore.sum()) for index in range(50)) > 0
    assert_is_dataset(dataset, range(0, 50, 17))


@needs_real
def test_real_voc2007_ground_truth_equals_the_published_json(tmp_path: Path) -> None:
    """All 14,976 objects of the test set, read from the XML files, against an independent conversion."""
    source = REAL / "voc2007_gt" / "VOCdevkit" / "VOC2007"
    base = tmp_path / "VOCdevkit" / "VOC2007"
    base.mkdir(parents=True)
    with tarfile.open(source / "Annotations.tar.gz") as members:
        members.extractall(base, filter="data")
    os.symlink(source / "ImageSets", base / "ImageSets")
    ours, _ = ground_truth("2007_test", tmp_path)
    theirs = json.loads((REAL / "voc2007_gt" / "instances_voc2007_test.json").read_text())
    keys = ("image_id", "category_id", "bbox", "area", "difficult")
    assert len(ours["annotations"]) == 14976
    assert sum(row["difficult"] for row in ours["annotations"]) == 2944
    mine, published = (sorted([row[key] for key in keys] for row in rows["annotations"]) for rows in (ours, theirs))
    assert mine == published
    assert [c["name"] for c in ours["categories"]] == [c["name"] for c in theirs["categories"]]
    assert {i["id"]: (i["height"], i["width"]) for i in ours["images"]} == {
        i["id"]: (i["height"], i["width"]) for i in theirs["images"]
    }
