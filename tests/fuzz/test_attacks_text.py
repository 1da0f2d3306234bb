"""XML, JSON, TOML and text made to harm, each refused with one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.claims.ledger import LedgerError, read_claims
from benchmarks.datasets import DatasetError
from benchmarks.datasets.coco import open_coco
from benchmarks.datasets.voc import open_voc
from benchmarks.exchange import dataset_of
from benchmarks.metrics import ScoreError, load_detections, load_ground_truth
from benchmarks.metrics.masks import mask_ap, read_masks
from benchmarks.results import COMMITTED, Record, RecordError
from benchmarks.segments import decode_segment
from tests import caffe_files, opencv_cascades
from tests.fuzz.attacks import changed, refused
from tests.fuzz.data_readers import TRUTH, XML
from zoo.checkpoints import CheckpointError, list_weights
from zoo.formats.caffe import CaffeError, read_caffemodel, read_prototxt
from zoo.formats.darknet import DarknetError
from zoo.formats.darknet_cfg import parse_cfg
from zoo.formats.darknet_network import CfgNetwork
from zoo.formats.opencv_cascade import CascadeError, read_cascade

LAUGHS = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9))
LAUGHS = f'<!DOCTYPE x [<!ENTITY a0 "ha">{LAUGHS}]>'


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
    path = tmp_path / "a.json"
    path.write_text(record.model_dump_json())
    refused(RecordError, r"a\.json: .*escaped.*is no file name", Record.read, path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"kind": "claim"}, "protocol names no claim"), ({"protocol": {"beside": 3}}, "beside is no list of names")],
)
def test_a_record_that_cannot_be_called_anything(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(Record.read(min(COMMITTED.glob("*/cost*.json"))).model_copy(update=changes).model_dump_json())
    refused(RecordError, rf"a\.json: .*{words}", Record.read, path)


@pytest.mark.parametrize("size", [[0, 20], [20, 0], [1 << 40, 1], [4, 4, 4], "x", None])
def test_sizes_of_masks_that_crash_pycocotools(size: Any, tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    mask = {"size": size, "counts": "T3b0d2"}
    path.write_text(json.dumps([{"image_id": 7, "category_id": 3, "score": 0.5, "segmentation": mask}]))
    refused(ScoreError, r"masks\.json: entry 0: segmentation has size .*; write \[height, width\]", read_masks, path)


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


def test_a_network_that_begins_twice() -> None:
    text = "[net]\nwidth=8\nheight=8\nchannels=3\n[maxpool]\nsize=2\n[network]\nwidth=8"
    refused(DarknetError, r"line 7: \[net\]: stands here again", parse_cfg, text, "a.cfg")


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
    (voc / "VOCdevkit" / "VOC2007" / "Annotations" / "1.xml").write_text(
        f'<?xml version="1.0" encoding="{long}"?>{XML}'
    )
    refused(DatasetError, r"1\.xml: is no whole XML file \(", open_voc, "test", voc)
    (tmp_path / "claims.toml").write_text(f"{long} = 1")
    refused(LedgerError, r"claims\.toml: ", read_claims, tmp_path / "claims.toml")
    refused(DarknetError, "line 1: ", parse_cfg, f"[{long}", "a.cfg")
    refused(DarknetError, "line 2: ", parse_cfg, f"[net]\n{long}=1\n[maxpool]\nsize=1", "a.cfg")
    layer = f"[net]\nwidth=8\nheight=8\nchannels=3\n[convolutional]\nactivation={long}"
    refused(DarknetError, "line 6: .* is not built here", CfgNetwork, parse_cfg(layer, "a.cfg"))
    (tmp_path / "a.prototxt").write_text(f"name: {long}{{")
    refused(CaffeError, r"a\.prototxt: line 1: ", read_prototxt, tmp_path / "a.prototxt")
    (tmp_path / "a.prototxt").write_text(f'layer {{ name: "{long}" type: "Data" bottom: "b" }}')
    words = "a layer has a name of over 200 characters"
    refused(CaffeError, rf"a\.prototxt: line 1: {words}", read_prototxt, tmp_path / "a.prototxt")
    caffe_files.write_caffemodel(tmp_path / "a.caffemodel", caffe_files.layer(long, "ReLU"))
    refused(CaffeError, rf"a\.caffemodel: byte 10: {words}", read_caffemodel, tmp_path / "a.caffemodel")
