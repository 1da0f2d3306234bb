"""Readers of annotations, detections, images, archives, Records and TOML, each with what a sane answer is."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.claims.ledger import LedgerError, read_claims
from benchmarks.datasets import DatasetError, read_image
from benchmarks.datasets.coco import open_coco
from benchmarks.datasets.dataset import Dataset
from benchmarks.datasets.download import unpack
from benchmarks.datasets.voc import ground_truth
from benchmarks.hardware import ProfileError, load_profiles
from benchmarks.metrics import ScoreError, load_detections, load_ground_truth
from benchmarks.metrics.masks import read_masks
from benchmarks.papers import TableError, read_table
from benchmarks.references import StoredReferenceError
from benchmarks.references import read as read_reference
from benchmarks.results import COMMITTED, Record, RecordError
from tests import coco_files
from tests.coco_files import write_images
from tests.fuzz.hunt import Reader
from tests.fuzz.sanity import finite, real_files
from zoo.checkpoints import CheckpointError, list_weights

__all__ = ["DATA_READERS", "DETECTIONS", "TRUTH"]

ROOT = Path(__file__).parents[2]
XML = """<annotation><size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult><truncated>1</truncated>
<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>15.5</xmax><ymax>19</ymax></bndbox></object></annotation>"""
_COMPRESSED = {"id": 13, "image_id": 42, "category_id": 3, "bbox": [0, 0, 20, 10], "area": 100, "iscrowd": 0}
_COMPRESSED |= {"segmentation": {"size": [30, 40], "counts": "T6`0`0O1"}}
TRUTH: dict[str, Any] = {**coco_files.TRUTH, "annotations": [*coco_files.TRUTH["annotations"], _COMPRESSED]}
"""With a mask in COCO's compressed RLE besides."""


def in_folder(path: Path, *names: str) -> Path:
    """The folder so many levels above a file, the others having been made."""
    for name in names:
        (path / name).mkdir(parents=True, exist_ok=True)
    return path


def _sane_dataset(dataset: Dataset) -> None:
    for index in range(len(dataset)):
        target, (height, width) = dataset.target(index), dataset.size(index)
        finite(target.boxes, target.area)
        x1, y1, x2, y2 = target.boxes.unbind(1)
        assert bool(((x2 >= x1) & (y2 >= y1)).all()), "a box inside out is accepted"
        inside = (x1 >= -3) & (y1 >= -3) & (x2 <= width + 3) & (y2 <= height + 3)
        assert bool(inside.all()), "a box out of its image is accepted"
        assert bool(((target.labels >= 0) & (target.labels < len(dataset.class_names))).all()), "a label out of range"
        assert bool((target.area >= 0).all()), "a negative area is accepted"  # type: ignore[operator]


def _voc_seeds(folder: Path) -> list[bytes]:
    sets = in_folder(folder / "VOCdevkit" / "VOC2007", "Annotations", "JPEGImages", "ImageSets/Main")
    (sets / "ImageSets" / "Main" / "test.txt").write_text("000001\n")
    real = real_files("DETECTOR_ZOO_DATA", "voc2012_100/VOCdevkit/VOC2012/Annotations/*.xml", 3)
    return [XML.encode(), b'<?xml version="1.0" encoding="utf-8"?>' + XML.encode(), *real]


def _read_voc(path: Path) -> None:
    root = path.parents[3]
    truth, folders = ground_truth("test", root)
    _sane_dataset(Dataset("voc", "test", truth, [folder / "x.jpg" for folder in folders]))


def _coco_seeds(folder: Path) -> list[bytes]:
    write_images(in_folder(folder, "annotations") / "images" / "val2017")
    return [json.dumps(TRUTH).encode(), json.dumps({**TRUTH, "annotations": []}).encode()]


def _read_coco(path: Path) -> None:
    _sane_dataset(dataset := open_coco("val2017", path.parents[1]))
    try:
        for index in range(len(dataset) if dataset.has_masks else 0):
            _, target = dataset.with_masks()[index]
            assert target.masks is not None
            assert target.masks.shape == (len(target), *dataset.size(index))
    except DatasetError as error:
        if path.name not in str(error):  # an image, or a mask, says which
            raise DatasetError(f"{path}: {error}") from error


def _read_truth(path: Path) -> None:
    truth = load_ground_truth(path)
    finite(truth.boxes, truth.area)
    assert (truth.boxes[:, 2:] >= 0).all()
    assert (truth.area >= 0).all()
    assert ((truth.image >= 0) & (truth.image < len(truth.image_ids))).all()
    assert np.isfinite(truth.boxes[:, 2] * truth.boxes[:, 3]).all(), "a box of infinite area is accepted"


_LOADED = load_ground_truth(TRUTH)
DETECTIONS = [
    {"image_id": image, "category_id": category, "bbox": [1.25, 2, 3.5, 4], "score": 0.5 + image / 100}
    for image, category in ((7, 3), (42, 90), (7, 91))
]


def _read_detections(path: Path) -> None:
    found = load_detections(path, _LOADED)
    finite(found.boxes, found.scores)
    assert (found.boxes[:, 2:] >= 0).all()
    assert np.isfinite(found.boxes[:, 2] * found.boxes[:, 3]).all(), "a box of infinite area is accepted"


def _mask_seeds(_: Path) -> list[bytes]:
    mask = {"size": [10, 20], "counts": "T3b0d2"}
    return [json.dumps([{"image_id": 7, "category_id": 3, "score": 0.5, "segmentation": mask}]).encode()]


def _file_of(path: Path, pattern: str, count: int = 2) -> Callable[[Path], list[bytes]]:
    """The smallest files of the project."""

    def seeds(_: Path) -> list[bytes]:
        files = sorted(path.glob(pattern), key=lambda file: (file.stat().st_size, file.name))
        return [file.read_bytes() for file in files[:count]]

    return seeds


def _some_rows(path: str, head: str) -> Callable[[Path], list[bytes]]:
    """What stands before the rows of a file of the project, and two of its many rows."""

    def seeds(_: Path) -> list[bytes]:
        rows = (ROOT / path).read_text(encoding="utf-8").split(f"\n{head}\n")
        return [f"\n{head}\n".join([rows[0], rows[1], rows[-1]]).encode()]

    return seeds


def _read_record(path: Path) -> None:
    record = Record.read(path)
    text = record.model_dump_json()
    json.loads(text, parse_constant=_refuse)
    assert "/" not in record.name, "the name of a Record leads to another folder"
    assert all(second >= 0 for seconds in record.samples.values() for second in seconds), "a negative time"


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} in a Record")


def _image(kind: str, mode: str = "RGB") -> Callable[[Path], list[bytes]]:
    def seeds(_: Path) -> list[bytes]:
        noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).convert(mode).save(file, kind)
        return [file.getvalue()]

    return seeds


def _read_image(path: Path) -> None:
    image = read_image(path)
    finite(image)
    assert image.shape[0] == 3
    assert float(image.min()) >= 0
    assert float(image.max()) <= 1


def _archive(kind: str) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        file = io.BytesIO()
        contents = {"a/b.txt": b"text" * 20, "a/c/d.bin": bytes(300)}
        if kind == "zip":
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
                for name, content in contents.items():
                    out.writestr(name, content)
            return [file.getvalue()]
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, content in contents.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return [file.getvalue()]

    return seeds


def _unpack(path: Path) -> None:
    import shutil

    out = path.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    unpack(path, out)
    for found in out.rglob("*"):
        assert not found.is_symlink(), "a link is unpacked"
        assert found.resolve().is_relative_to(out.resolve()), "a member leaves the folder"


def _reference_seeds(_: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((ROOT / "zoo" / "weights").glob("*.npz"))[:1]]


_METRICS = "benchmarks/metrics/"
_SCORES = tuple(
    f"{_METRICS}{name}.py" for name in ("entries", "ground_truth", "detections", "comp_files", "scan", "masks")
)
_SETS = ("benchmarks/datasets/dataset.py",)
_VOC = "VOCdevkit/VOC2007/Annotations/000001.xml"
_COMP = b"b 0.9 1 1 20.5 20\na 0.25 3 4 5 6\n"
_TOMLS = ("benchmarks/tomls.py",)
_PAPERS = ROOT / "benchmarks" / "papers"

DATA_READERS = (
    Reader("voc", _VOC, _voc_seeds, _read_voc, DatasetError, ("datasets/voc.py",), True),
    Reader("coco", "annotations/instances_val2017.json", _coco_seeds, _read_coco, DatasetError,
           ("datasets/coco.py", *_SETS), True),
    Reader("ground truth", "gt.json", lambda _: [json.dumps(TRUTH).encode()], _read_truth, ScoreError, _SCORES, True),
    Reader("detections", "found.json", lambda _: [json.dumps(DETECTIONS).encode()], _read_detections, ScoreError,
           _SCORES, True),
    Reader("masks", "found.json", _mask_seeds, read_masks, ScoreError, _SCORES, True),
    Reader("comp", "comp4_det_test_car.txt", lambda _: [_COMP], _read_detections, ScoreError, _SCORES, True),
    Reader("weights.toml", "weights.toml", _some_rows("zoo/weights.toml", "[[checkpoint]]"),
           list_weights.__wrapped__, CheckpointError,
           ("zoo/checkpoints.py", *_TOMLS), True),
    Reader("paper", "centernet_speed.toml", _file_of(_PAPERS, "centernet_speed.toml"), read_table, TableError,
           ("papers/__init__.py", *_TOMLS), True),
    Reader("claims", "a.toml", _some_rows("benchmarks/claims/claims.toml", "[[claims]]"), read_claims,
           LedgerError, ("claims/ledger.py", *_TOMLS), True),
    Reader("hardware", "h200.toml", _file_of(ROOT / "benchmarks" / "hardware", "h200.toml"),
           lambda path: load_profiles(path.parent), ProfileError, ("hardware/profiles.py", *_TOMLS), True),
    Reader("record", "a.json", _file_of(COMMITTED, "*/*.json"), _read_record, RecordError, ("results/__init__.py",),
           True),
    Reader("jpeg", "a.jpg", _image("JPEG"), _read_image, DatasetError, _SETS),
    Reader("png", "a.png", _image("PNG", "P"), _read_image, DatasetError, _SETS),
    Reader("zip", "a.zip", _archive("zip"), _unpack, DatasetError, ("datasets/download.py",)),
    Reader("tar", "a.tar", _archive("tar"), _unpack, DatasetError, ("datasets/download.py",)),
    Reader("reference", "a.npz", _reference_seeds, read_reference, StoredReferenceError,
           ("benchmarks/references.py",)),
)  # fmt: skip
