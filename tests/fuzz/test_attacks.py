"""Files made to harm, each refused with one sentence: bombs, ways out of a folder, headers that lie."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.claims.ledger import LedgerError, read_claims
from benchmarks.datasets import DatasetError, open_dataset, read_image
from benchmarks.datasets.coco import open_coco
from benchmarks.datasets.unpacking import unpack
from benchmarks.datasets.voc import open_voc
from benchmarks.exchange import dataset_of
from benchmarks.metrics import ScoreError
from benchmarks.metrics.data import load_detections, load_ground_truth
from benchmarks.metrics.masks import mask_ap
from benchmarks.results import COMMITTED, Record, RecordError
from benchmarks.segments import decode_segment
from tests import caffe_files, mat_files, opencv_cascades
from tests.fuzz.readers import TRUTH, XML
from zoo import CATALOG, build
from zoo.checkpoints import CheckpointError, list_weights, load, load_into, save
from zoo.formats.acf_mat import read_trees
from zoo.formats.caffe import CaffeError, read_caffemodel, read_prototxt
from zoo.formats.darknet import DarknetError
from zoo.formats.darknet_cfg import parse_cfg
from zoo.formats.darknet_network import CfgNetwork
from zoo.formats.detectron import DetectronError, read_detectron
from zoo.formats.mat import MatError
from zoo.formats.opencv_cascade import CascadeError, read_cascade
from zoo.formats.state_dict import StateDictError, read_state_dict

LAUGHS = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9))
LAUGHS = f'<!DOCTYPE x [<!ENTITY a0 "ha">{LAUGHS}]>'


def refused(error: type[Exception], words: str, read: Callable[..., object], *arguments: Any) -> None:
    """One sentence, which does not quote half of the file."""
    with pytest.raises(error, match=words) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    base = tmp_path / "data" / "VOCdevkit" / "VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (base / folder).mkdir(parents=True)
    (base / "Annotations" / "1.xml").write_text(XML)
    (base / "ImageSets" / "Main" / "test.txt").write_text("1\n")
    Image.new("RGB", (40, 30)).save(base / "JPEGImages" / "1.jpg")
    return tmp_path / "data"


@pytest.fixture
def coco(tmp_path: Path) -> Callable[[Any], Path]:
    def write(truth: Any) -> Path:
        images = tmp_path / "data" / "images" / "val2017"
        images.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "annotations").mkdir(exist_ok=True)
        Image.new("RGB", (40, 30)).save(images / "b.png")
        Image.new("RGB", (20, 10)).save(images / "a.png")
        text = truth if isinstance(truth, str) else json.dumps(truth)
        (tmp_path / "data" / "annotations" / "instances_val2017.json").write_text(text)
        return tmp_path / "data"

    return write


def changed(kind: str, index: int, **entries: Any) -> dict[str, Any]:
    rows = [dict(row) for row in TRUTH[kind]]
    rows[index] |= entries
    return {**TRUTH, kind: rows}


# XML


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS + XML.replace("dog", "&a9;"),
        '<!DOCTYPE x [<!ENTITY b SYSTEM "file:///etc/hostname">]>' + XML.replace("dog", "&b;"),
        '<!DOCTYPE x [<!ENTITY % b SYSTEM "http://127.0.0.1:9/x.dtd"> %b;]>' + XML,
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">' + XML,
    ],
    ids=["billion laughs", "file", "parameter", "external subset"],
)
def test_xml_that_declares_entities(voc: Path, tmp_path: Path, text: str) -> None:
    (voc / "VOCdevkit" / "VOC2007" / "Annotations" / "1.xml").write_text(text)
    refused(
        DatasetError, r"1\.xml: is no whole XML file, but one that declares types or entities", open_voc, "test", voc
    )
    path = tmp_path / "cascade.xml"
    path.write_text(text)
    refused(CascadeError, r"cascade\.xml: document: declares types or entities", read_cascade, path)


@pytest.mark.parametrize("text", ["<a>" * 100_000, "<a>" * 100_000 + "</a>" * 100_000])
def test_xml_that_is_nested_deeply(voc: Path, tmp_path: Path, text: str) -> None:
    (voc / "VOCdevkit" / "VOC2007" / "Annotations" / "1.xml").write_text(text)
    refused(DatasetError, r"1\.xml: (is no whole XML|size: height is None)", open_voc, "test", voc)
    path = tmp_path / "cascade.xml"
    path.write_text(text)
    refused(CascadeError, r"cascade\.xml: ", read_cascade, path)


def test_xml_beyond_size_and_sides_beyond_use(voc: Path) -> None:
    path = voc / "VOCdevkit" / "VOC2007" / "Annotations" / "1.xml"
    path.write_text(XML + " " * (9 << 20))
    refused(DatasetError, r"1\.xml: has 9,\d+,\d+ bytes, more than any annotation", open_voc, "test", voc)
    for side in ("1e300", "40.5", "1_0"):
        path.write_text(XML.replace("<width>40", f"<width>{side}"))
        refused(DatasetError, r"1\.xml: size", open_voc, "test", voc)


def test_trees_of_a_cascade_too_different_in_size(tmp_path: Path) -> None:
    """One tree of 127 nodes would make every stump a tree of as many, of 290 bytes a node."""
    text = opencv_cascades.cascade_xml("LBP", stages=1)
    stump = re.search(r"<_><internalNodes>.*?</leafValues></_>", text)
    assert stump is not None
    node = re.search(r"<internalNodes>(.*?)</internalNodes>", stump[0])
    assert node is not None
    rest = node[1].split()[2:]
    nodes = " ".join(" ".join([str(n + 1 if n < 126 else 0), "0", *rest]) for n in range(127))
    large = f"<_><internalNodes>{nodes}</internalNodes><leafValues>{'0 ' * 128}</leafValues></_>"
    path = tmp_path / "cascade.xml"
    path.write_text(text.replace(stump[0], large + stump[0] * 2_000, 1))
    refused(CascadeError, r"cascade\.xml: cascade/stages: hold trees too different in size", read_cascade, path)


# JSON and TOML


def test_json_that_is_nested_deeply(coco: Callable[[Any], Path], tmp_path: Path) -> None:
    deep = '{"images": ' + "[" * 100_000
    refused(DatasetError, r"instances_val2017\.json: is no whole JSON", open_coco, "val2017", coco(deep))
    path = tmp_path / "found.json"
    path.write_text(deep)
    refused(ScoreError, r"found\.json: not JSON \(it is nested too deeply\)", load_ground_truth, path)
    refused(ScoreError, r"found\.json: not JSON", load_detections, path, load_ground_truth(TRUTH))
    refused(RecordError, r"found\.json: ", Record.read, path)


def test_a_key_that_stands_twice(coco: Callable[[Any], Path], tmp_path: Path) -> None:
    twice = json.dumps(TRUTH).replace('"area": 6.5', '"area": 6.5, "area": 7.5')
    refused(
        DatasetError, r"\.json: is no whole JSON file \(the key 'area' stands twice", open_coco, "val2017", coco(twice)
    )
    path = tmp_path / "found.json"
    path.write_text(twice)
    refused(ScoreError, "the key 'area' stands twice", load_ground_truth, path)
    path.write_text('[{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5, "score": 0.9}]')
    refused(ScoreError, "the key 'score' stands twice", load_detections, path, load_ground_truth(TRUTH))
    file = min(COMMITTED.glob("*/*.json"), key=lambda file: file.stat().st_size)
    path.write_text(file.read_text().replace('"commit":', '"commit": "another", "commit":'))
    refused(RecordError, r"found\.json: .*the key 'commit' stands twice", Record.read, path)


@pytest.mark.parametrize("number", ["9" * 5000, "NaN", "Infinity", "-1"])
def test_numbers_that_no_record_has(number: str, tmp_path: Path) -> None:
    file = next(file for file in sorted(COMMITTED.glob("*/latency*.json")))
    path = tmp_path / "a.json"
    path.write_text(re.sub(r'("samples": \{\s*"\w+": \[\s*)[\d.e-]+', rf"\g<1>{number}", file.read_text(), count=1))
    assert number in path.read_text()
    refused(RecordError, r"a\.json: .*; delete the file and measure again", Record.read, path)


def test_a_record_keeps_to_its_folder(tmp_path: Path) -> None:
    record = Record.read(min(COMMITTED.glob("*/cost*.json"))).model_copy(update={"detector": "../../escaped"})
    refused(RecordError, "is no name of a file", record.write, tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 100_000, f"a = {'9' * 5000}", "a = 1\na = 2", "\xff", "a." * 3000 + "a = 1"]
)
def test_toml_that_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.toml"
    path.write_bytes(text.encode("latin1"))
    refused(CheckpointError, r"weights\.toml: ", list_weights.__wrapped__, path)
    refused(LedgerError, r"weights\.toml: ", read_claims, path)


@pytest.mark.parametrize(
    ("kind", "entries", "words"),
    [
        ("images", {"file_name": "../../secret.png"}, "file_name is '../../secret.png'; write a file's name without"),
        ("images", {"file_name": "/etc/a.png"}, "without its folder"),
        ("images", {"file_name": 5}, "file_name is 5"),
        ("images", {"width": 10**400}, "width is 1000.*; write it in whole pixels"),
        ("images", {"width": "40"}, "width is '40'"),
        ("images", {"id": [1]}, r"images\[0\]: id is \[1\]; write a whole number"),
        ("annotations", {"id": True}, r"annotations\[0\]: id is True"),
        ("annotations", {"image_id": {}}, "annotation 11: image_id is {}"),
        ("annotations", {"category_id": "car"}, "annotation 11: category_id is 'car'"),
        ("annotations", {"area": -1}, "annotation 11: area -1 is negative"),
        ("annotations", {"bbox": [0, 0, 10**400, 1]}, "not five finite numbers"),
        ("annotations", {"bbox": [True, 0, 1, 1]}, "not five finite numbers"),
        ("annotations", {"iscrowd": "no"}, "iscrowd is 'no'; write 0 or 1"),
    ],
)
def test_coco_entries_of_the_wrong_kind(
    coco: Callable[[Any], Path], kind: str, entries: dict[str, Any], words: str
) -> None:
    refused(DatasetError, words, open_coco, "val2017", coco(changed(kind, 0, **entries)))


@pytest.mark.parametrize(
    ("segment", "words"),
    [
        ([[1e300, 1, 2, 3, 4, 5]], "a corner that is no place in the image"),
        ([[float("inf"), 1, 2, 3, 4, 5]], "a corner that is no place in the image"),
        ([[0, 0, 20, 10] * 100_000], "goes to and fro without end"),
        ([[1, 2, 3]], "less than three corners"),
        ([], "neither polygons nor runs"),
        ({"size": [100_000, 200_000], "counts": "T3b0d2"}, "of another size than its image of 20x10"),
        ({"size": [10, 20], "counts": [100, 2**31]}, "runs that are not 200 pixels together"),
        ({"size": [10, 20], "counts": [300, -100]}, "runs that are not 200 pixels together"),
        ({"size": [10, 20], "counts": "o" * 300}, "is not to be decoded"),
        ({"size": [10, 20], "counts": "\udc80"}, "neither a list nor text"),
    ],
)
def test_segmentations_that_crash_pycocotools(coco: Callable[[Any], Path], segment: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode_segment(segment, 10, 20)
    truth = changed("annotations", 0, segmentation=segment)
    if segment:
        dataset = open_coco("val2017", coco(truth), masks=True)
        refused(DatasetError, f"annotation 11: segmentation .*{words}", dataset.__getitem__, 1)
    if isinstance(segment, list) and segment:
        found = [
            {"image_id": 7, "category_id": 3, "score": 1.0, "segmentation": {"size": [10, 20], "counts": "T3b0d2"}}
        ]
        refused(ScoreError, r"annotations\[0\]: segmentation", mask_ap, truth, found)


def test_a_ground_truth_that_says_wrongly_which_it_is(tmp_path: Path) -> None:
    path = tmp_path / "gt.json"
    for text in ("[]", "{", '{"images": [], "annotations": []}'):
        path.write_text(text)
        refused(ScoreError, r"gt\.json: ", dataset_of, path)


def test_boxes_beyond_any_image() -> None:
    """Their areas would be infinite, and their IoU no number."""
    found = [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 1e200, 1e200], "score": 1}]
    refused(ScoreError, "entry 0: bbox is .* beyond any image", load_detections, found, load_ground_truth(TRUTH))


def test_what_is_quoted_has_an_end(tmp_path: Path, voc: Path) -> None:
    """A line, a name or a number may be of any length; the sentence about it may not."""
    long = "x" * 20_000
    path = tmp_path / "comp4_det_test_car.txt"
    path.write_text(f"a {long} 1 1 2 2\n")
    refused(ScoreError, "line 1: .* are not five numbers", load_detections, path, load_ground_truth(TRUTH))
    path.write_text(f"{long} 1 1 1 2 2\n")
    refused(ScoreError, "line 1: image_id .* is not in", load_detections, path, load_ground_truth(TRUTH))
    for old in ("dog", "<xmin>3", "<difficult>0"):
        text = XML.replace(old, old.rpartition(">")[0] + ">" * ("<" in old) + long)
        (voc / "VOCdevkit" / "VOC2007" / "Annotations" / "1.xml").write_text(text)
        refused(DatasetError, r"1\.xml: object 1", open_voc, "test", voc)
    refused(DarknetError, "line 1: ", parse_cfg, f"[{long}", "a.cfg")
    refused(DarknetError, "line 2: ", parse_cfg, f"[net]\n{long}=1\n[maxpool]\nsize=1", "a.cfg")
    (tmp_path / "a.prototxt").write_text(f"name: {long}{{")
    refused(CaffeError, r"a\.prototxt: line 1: ", read_prototxt, tmp_path / "a.prototxt")


# Folders and archives


def test_links_out_of_a_data_set(voc: Path, coco: Callable[[Any], Path], tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    image = voc / "VOCdevkit" / "VOC2007" / "JPEGImages" / "1.jpg"
    image.rename(outside / "1.jpg")
    image.symlink_to(outside / "1.jpg")
    refused(DatasetError, r"1\.jpg: is a link to outside of the data set", open_voc, "test", voc)
    image.unlink()
    image.symlink_to("2.jpg")
    (outside / "1.jpg").rename(image.with_name("2.jpg"))
    assert open_voc("test", voc)[0][0].shape == (3, 30, 40), "a link within it is none out of it"
    # A folder elsewhere is its user's choice, as is the whole data set elsewhere.
    image.parent.rename(outside / "images")
    image.parent.symlink_to(outside / "images")
    (tmp_path / "linked").symlink_to(voc)
    assert len(open_voc("test", tmp_path / "linked")) == 1
    root = coco(TRUTH)
    (root / "images" / "val2017" / "a.png").unlink()
    (root / "images" / "val2017" / "a.png").symlink_to("/dev/zero")
    refused(DatasetError, r"a\.png: is no plain file", open_dataset, "coco", "val2017", root)


def test_pipes_are_not_waited_for(voc: Path) -> None:
    base = voc / "VOCdevkit" / "VOC2007"
    for path in (base / "JPEGImages" / "1.jpg", base / "Annotations" / "1.xml"):
        path.unlink()
        os.mkfifo(path)
        refused(DatasetError, f"{path.name}: is no plain file", open_voc, "test", voc)
        path.unlink()
        path.write_text(XML)
    os.mkfifo(base / "pipe.png")
    refused(DatasetError, r"pipe\.png: the image is no plain file", read_image, base / "pipe.png")


def test_an_image_set_that_leads_elsewhere(voc: Path) -> None:
    names = voc / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "test.txt"
    for name in ("../../../secret", "/etc/passwd", "a/b"):
        names.write_text(f"{name}\n")
        refused(DatasetError, r"test\.txt: .* is no file's name without its folder", open_voc, "test", voc)
    names.write_bytes(b"\xff\n")
    refused(DatasetError, r"test\.txt: cannot be read", open_voc, "test", voc)


def tarred(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"x") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        member.size = len(content) if kind == tarfile.REGTYPE else 0
        archive.addfile(member, io.BytesIO(content))
        under = tarfile.TarInfo(f"{name}/below")
        under.size = 1
        archive.addfile(under, io.BytesIO(b"y"))
    return file.getvalue()


def zipped(name: str, content: bytes = b"x", mode: int = 0, times: int = 1) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for _ in range(times):
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tarred("/tmp/escaped"), "leads out of the folder"),
        (tarred("a/../../escaped"), "leads out of the folder"),
        (tarred("a", tarfile.SYMTYPE, "../.."), "is a link or a device"),
        (tarred("a", tarfile.SYMTYPE, "b"), "is a link or a device"),
        (tarred("a", tarfile.LNKTYPE, "/etc/hostname"), "is a link or a device"),
        (tarred("a", tarfile.CHRTYPE), "is a link or a device"),
        (tarred("a", tarfile.FIFOTYPE), "is a link or a device"),
        (tarred("a", content=bytes(80 << 20)), "unpacks to over 100 times its size"),
        (zipped("../escaped"), "leads out of the folder"),
        (zipped("/tmp/escaped"), "leads out of the folder"),
        (zipped("a", b"/etc/hostname", stat.S_IFLNK | 0o777), "is a link or a device"),
        (zipped("a", times=2), "stands in it twice"),
        (zipped("a", bytes(80 << 20)), "unpacks to over 100 times its size"),
        (zipped("a").replace(b"\x00\x00\x08\x00", b"\x01\x00\x08\x00"), "encrypted"),
    ],
)
def test_archives_that_climb_out_or_blow_up(data: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "in.archive"
    file.write_bytes(data)
    refused(DatasetError, rf"in\.archive: cannot be unpacked \(.*{words}", unpack, file, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.archive", "out"]


# Images


def png(width: int, height: int) -> bytes:
    """A header of a size of its own choice before the pixels of a 16 x 12 image."""
    file = io.BytesIO()
    Image.new("L", (16, 12)).save(file, "PNG")
    head = b"IHDR" + struct.pack(">2I", width, height) + file.getvalue()[24:29]
    return file.getvalue()[:12] + head + struct.pack(">I", zlib.crc32(head)) + file.getvalue()[33:]


def jpeg(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (16, 12)).save(file, "JPEG")
    return file.getvalue().replace(struct.pack(">2H", 12, 16), struct.pack(">2H", height, width), 1)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "size", "words"),
    [
        (png(100_000, 100_000), None, "decompression bomb"),
        (png(10_000, 10_000), None, "claims 10000x10000 pixels, over 89,478,485"),
        (png(9_000, 9_000), (12, 16), "has 9000x9000 pixels, its annotation says 16x12"),
        (png(200, 200), None, "truncated"),
        (jpeg(60_000, 60_000), None, "decompression bomb"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(x) run\n", None, "cannot identify"),
    ],
    ids=["png bomb", "warned of", "other than annotated", "too few pixels", "jpeg bomb", "a program"],
)
def test_images_whose_header_lies(data: bytes, size: tuple[int, int] | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    refused(DatasetError, rf"a\.jpg: .*{words}", read_image, path, size)


def test_sixteen_bits_are_not_cut_to_white(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "a.png")
    refused(DatasetError, r"a\.png: the image has pixels of mode I;16; convert it", read_image, tmp_path / "a.png")


# Checkpoints


def test_safetensors_whose_header_lies(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    whole = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    deep = b'{"x":' + b"[" * 100_000
    for data in (b"\xff" * 8, (2**40).to_bytes(8, "little") + b"{}", len(whole).to_bytes(8, "little") + whole,
                 len(deep).to_bytes(8, "little") + deep, b""):  # fmt: skip
        path.write_bytes(data)
        refused(CheckpointError, r"a\.safetensors: no whole safetensors file", load, path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    def write(**metadata: str) -> Path:
        from safetensors.torch import save_file

        small = dict(CATALOG["hog_svm"].small or {})
        path = tmp_path / "a.safetensors"
        own = {"detector": "hog_svm", "num_classes": 2, "overrides": small, "class_names": ["a", "b"], "small": True}
        notes = {name: json.dumps(value) for name, value in own.items()} | metadata
        save_file(build("hog_svm", 2, **small).state_dict(), path, notes)
        return path

    return write


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"num_classes": "1000000000"}, "metadata 'class_names': 2 names for 1000000000 classes"),
        ({"num_classes": "true"}, "metadata 'num_classes': True is no int"),
        ({"overrides": '{"window": [100000, 100000]}'}, "overrides: hog_svm cannot be built from them"),
        ({"overrides": '{"window": [0, 0]}'}, ""),
        ({"overrides": '{"window": ' + "[" * 100_000}, "metadata 'overrides': no JSON"),
        ({"overrides": '{"score_floor": NaN}'}, "NaN is no number of JSON"),
        ({"class_names": "[1, 2]"}, "metadata 'class_names'"),
        ({"extra": "{"}, "metadata 'extra': no JSON"),
        ({"extra": "[]"}, "metadata 'extra': holds no names"),
        ({"detector": '"ssd300_vgg16"', "overrides": "{}"}, "overrides: ssd300_vgg16 cannot be built .*more numbers"),
        ({"detector": '"os.system"'}, "'os.system' is not in the catalog"),
    ],
)
def test_a_checkpoint_that_lies_about_itself(
    checkpoint: Callable[..., Path], metadata: dict[str, str], words: str
) -> None:
    refused(CheckpointError, rf"a\.safetensors: .*{words}", load, checkpoint(**metadata))


def test_numbers_that_no_weight_can_be(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = build("hog_svm", 2, **dict(CATALOG["hog_svm"].small or {}))
    name, value = next((name, value) for name, value in model.state_dict().items() if value.is_floating_point())
    path = tmp_path / "a.safetensors"
    # The last of these is finite, but not in float32.
    for wrong, kind in ((float("nan"), torch.float32), (float("inf"), torch.float16), (1e300, torch.float64)):
        save_file({**model.state_dict(), name: torch.full(value.shape, wrong, dtype=kind)}, path)
        refused(CheckpointError, f"{name}: holds NaN or infinity", load_into, model, path)
    for tensor in (value.long(), value.to(torch.complex64), value[None].contiguous()):
        save_file({**model.state_dict(), name: tensor}, path)
        refused(CheckpointError, rf"a\.safetensors: .*{name}", load_into, model, path)


def test_a_checkpoint_of_another_detector(tmp_path: Path) -> None:
    small = dict(CATALOG["hog_svm"].small or {})
    path = tmp_path / "a.safetensors"
    names = ("a", "b")
    save(path, build("hog_svm", 2, **small), detector="hog_svm", num_classes=2, overrides=small, class_names=names,
         small=True)  # fmt: skip
    refused(CheckpointError, "belongs to another network", load_into, build("viola_jones", 2), path)


def torch_zip(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("a/data.pkl", members.pop("pickled", b"\x80\x02}."))
        archive.writestr("a/version", b"3\n")
        for name, content in members.items():
            archive.writestr(f"a/{name}", content)
    return file.getvalue()


DEEP = b"\x80\x02}N" + b"\x85" * 1_000_000 + b"K\x01s."
LADDER = b"\x80\x02}N" + b"".join(b"q%c" % n + b"h%c\x86" % n for n in range(60)) + b"K\x01s."
FAR = b"\x80\x02}r\xff\xff\xff\x7f."


@pytest.mark.parametrize("pickled", [DEEP, LADDER, FAR], ids=["deep", "each twice the last", "a place far off"])
def test_pickles_that_are_bombs(pickled: bytes, tmp_path: Path) -> None:
    """The first overflows the stack of whoever hashes it, the second takes him years, the third takes 34 GB."""
    (tmp_path / "a.pkl").write_bytes(pickled)
    words = r"a\.pkl: no whole .*(nested too deeply|remembers an object)"
    refused(DetectronError, words, read_detectron, tmp_path / "a.pkl")
    refused(StateDictError, words, read_state_dict, tmp_path / "a.pkl")
    (tmp_path / "a.pkl").write_bytes(torch_zip(pickled=pickled))
    refused(StateDictError, words, read_state_dict, tmp_path / "a.pkl")
    refused(DetectronError, r"a\.pkl: no whole pickle", read_detectron, tmp_path / "a.pkl")


def test_archives_of_torch_that_are_bombs(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(torch_zip(zipfile.ZIP_DEFLATED, **{"data/0": bytes(1 << 20)}))
    refused(StateDictError, r"a\.pth: .*compressed, as torch's never are", read_state_dict, path)
    whole = torch_zip(**{"data/0": b"12345678"})
    place = whole.rindex(b"PK\x01\x02")
    path.write_bytes(whole[: place + 20] + struct.pack("<2I", 2**31, 2**31) + whole[place + 28 :])
    refused(StateDictError, r"a\.pth: .*claims more bytes than the file has", read_state_dict, path)


def test_a_tensor_larger_than_its_file(tmp_path: Path) -> None:
    """One number that claims to be 10^18, by strides of 0."""
    path = tmp_path / "a.pth"
    torch.save({"head": torch.ones(1).expand(10**9, 10**9)}, path)
    assert path.stat().st_size < 10_000
    model = build("hog_svm", 2)
    refused(CheckpointError, r"a\.pth: ", load_into, model, path, "torch")
    torch.save({"model": {"roi_heads.box_predictor.cls_score.bias": torch.ones(1).expand(10**12)}}, path)
    refused(DetectronError, "1,000,000,000,000 numbers, which the file does not hold", read_detectron, path)


def test_what_is_printed_has_an_end(tmp_path: Path) -> None:
    """Lists within lists, each twice the last, where an element type or a shape should be: never printed."""
    laughs: Any = []
    for _ in range(60):
        laughs = [laughs, laughs]
    array = pickle.dumps({"blobs": {"fc6_w": np.zeros(3, np.float32)}}, 2)
    assert array.count(b"K\x03\x85") == array.count(b"X\x02\x00\x00\x00f4") == 1
    inner = pickle.dumps(laughs, 2)[2:-1]
    # Places of its memo that the outer pickle does not use.
    inner = re.sub(rb"q(.)", lambda found: b"q" + bytes([found[1][0] + 100]), inner, flags=re.DOTALL)
    inner = re.sub(rb"h(.)", lambda found: b"h" + bytes([found[1][0] + 100]), inner, flags=re.DOTALL)
    for old, new in ((b"K\x03\x85", inner + b"\x85"), (b"X\x02\x00\x00\x00f4", inner)):
        (tmp_path / "a.pkl").write_bytes(array.replace(old, new))
        refused(DetectronError, r"a\.pkl: ", read_detectron, tmp_path / "a.pkl")


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<2I", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(form: int, sides: tuple[int, ...], *members: bytes, name: bytes = b"") -> bytes:
    flags = element(6, struct.pack("<2I", form, 0))
    return element(
        14, flags + element(5, struct.pack(f"<{len(sides)}i", *sides)) + element(1, name) + b"".join(members)
    )


NESTED = element(14, b"")
for _ in range(200):
    NESTED = matrix(1, (1, 1), NESTED)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (matrix(1, (2**30, 1), name=b"detector"), "claims 1,073,741,824 others, which it does not hold"),
        (matrix(2, (2**15, 2**15), element(5, b"\x08\0\0\0"), element(1, b""), name=b"detector"), "without a field"),
        (matrix(6, (2**20, 2**10), element(9, bytes(8)), name=b"detector"), "claims 1,073,741,824 numbers"),
        (matrix(1, (1, 1), NESTED, name=b"detector"), "nested too deeply"),
        (matrix(17, (1, 1), name=b"detector"), "a matrix of class 17, which no model has"),
        (matrix(6, (1, 1), element(0, bytes(8)), name=b"detector"), "an element is of type 0, where there should be"),
        (
            matrix(6, (1, 1), element(9, bytes(8)), name=b"detector") * 2,
            "detector stands in it twice|stands behind detector",
        ),
        (struct.pack("<2I", 14, 2**31), "claims 2,147,483,648 bytes, where 0 are left|cut off before its name"),
    ],
    ids=["cells", "structures", "numbers", "nested", "an object", "what crashes scipy", "twice", "length"],
)
def test_matrices_that_claim_more_than_they_hold(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    for content in (data, element(15, zlib.compress(data))):
        path.write_bytes(head + content)
        refused(MatError, rf"a\.mat: no whole \.mat file of version 5 to 7\.2 \(.*({words})", read_trees, path)


def test_a_matrix_that_unpacks_without_end(tmp_path: Path) -> None:
    path = mat_files.toolbox(tmp_path / "a.mat")
    head, packer = path.read_bytes()[:128], zlib.compressobj(1)
    start = matrix(6, (2**16, 2**13), name=b"detector")
    packed = packer.compress(start) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(257)) + packer.flush()
    path.write_bytes(head + element(15, packed))
    refused(MatError, "a variable unpacks to over 268,435,456 bytes", read_trees, path)


def test_blobs_with_shapes_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.caffemodel"
    numbers = caffe_files.field(5, np.ones(1, "<f4").tobytes())
    for sides in ([1] * 70, [2**62] * 150_000, [0, 2**62, 2**62]):
        blob = caffe_files.field(7, caffe_files.field(1, b"".join(map(caffe_files.varint, sides)))) + numbers
        path.write_bytes(caffe_files.field(100, caffe_files.field(1, "a") + caffe_files.field(7, blob)))
        refused(CaffeError, r"a\.caffemodel: byte \d+, in layer 'a': blob 0 has a shape of", read_caffemodel, path)
    path.write_text(f"name: {'9' * 5000}")
    refused(CaffeError, "'name' has a number of 5,000 digits", read_prototxt, path)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("[convolutional]\nfilters=1000000\nsize=1000\n", "takes 3,000,000,000,000 weights"),
        ("[connected]\noutput=1000000\n", "takes 3,072,000,000 weights"),
        ("[local]\nsize=3\nfilters=1000000\n", "weights, over"),
        ("[upsample]\nstride=10000\n", r"makes a map of \(3, 320000, 320000\)"),
        ("[region]\nnum=1000000\n", "'1000000' is more than 1,000"),
        ("[convolutional]\nfilters=1e300\n", "more than 1,000,000"),
        ("[convolutional]\nfilters=1_0\n", "no number"),
    ],
)
def test_networks_beyond_all_use(layer: str, words: str) -> None:
    text = f"[net]\nwidth=32\nheight=32\nchannels=3\n{layer}"
    refused(DarknetError, rf"a\.cfg: line [56]: .*{words}", lambda: CfgNetwork(parse_cfg(text, "a.cfg")))
