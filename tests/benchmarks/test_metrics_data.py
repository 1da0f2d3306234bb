"""Reading: numbers to the last bit, every refusal with file, entry and reason, and notes on what looks wrong."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.metrics import ScoreError, load_detections, load_ground_truth, mask_ap, score
from benchmarks.metrics.entries import is_id
from benchmarks.metrics.scan import read_bytes, scan_results

Json = dict[str, Any]

GT: Json = {
    "images": [
        {"id": 3, "width": 640, "height": 480, "file_name": "val/000003.jpg"},
        {"id": 1, "width": 320, "height": 240, "file_name": "val/000001.jpg"},
    ],
    "categories": [{"id": 7, "name": "dog"}, {"id": 2, "name": "traffic_light"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 20, 30, 40], "area": 900, "iscrowd": 0},
        {"id": 2, "image_id": 3, "category_id": 2, "bbox": [1, 2, 3, 4], "area": 12, "difficult": 1},
    ],
}
DETECTIONS: list[Json] = [
    {"image_id": 1, "category_id": 7, "bbox": [10.5, 20, 30, 40], "score": 0.9},
    {"image_id": 3, "category_id": 2, "bbox": [1, 2, 3, 4.25], "score": 1e-3},
    {"image_id": 3, "category_id": 7, "bbox": [0, 0, 3, 4], "score": 1},
]


def scan(text: str | bytes) -> list[Json] | None:
    raw = text.encode() if isinstance(text, str) else text
    scanned = scan_results(np.frombuffer(raw + b"\0", dtype=np.uint8).copy())
    if scanned is None:
        return None
    images, categories, numbers = scanned
    return [
        {"image_id": i, "category_id": c, "bbox": row[:4], "score": row[4]}
        for i, c, row in zip(images.tolist(), categories.tolist(), numbers.tolist(), strict=True)
    ]


def bits(value: float) -> bytes:
    return np.float64(value).tobytes()


def numbers_as_read(*texts: str) -> list[float] | None:
    rows = [f'{{"image_id":1,"category_id":2,"score":{text},"bbox":[{text},{text},0,1]}}' for text in texts]
    found = scan(f"[{','.join(rows)}]")
    if found is None:
        return None
    assert all(bits(row["score"]) == bits(row["bbox"][0]) == bits(row["bbox"][1]) for row in found)
    return [row["score"] for row in found]


def assert_read_as_python_reads(text: str) -> None:
    read = numbers_as_read(text)
    assert read is not None, text
    assert bits(read[0]) == bits(float(json.loads(text))), text


# --- the scanner -------------------------------------------------------------------------------------------------


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=500, deadline=None)
def test_every_double_survives_its_own_text(value: float) -> None:
    assert_read_as_python_reads(repr(value))
    assert_read_as_python_reads(f"{value:.20e}")


@given(st.integers(0, 10**25), st.integers(-90, 90), st.booleans())
@settings(max_examples=500, deadline=None)
def test_decimals_are_rounded_as_python_rounds(digits: int, power: int, negative: bool) -> None:
    assert_read_as_python_reads(f"{'-' * negative}{digits}e{power}")
    assert_read_as_python_reads(f"{'-' * negative}0.{digits}E{power:+d}")


def test_many_random_numbers_are_read_to_the_last_bit() -> None:
    rng = random.Random(0)
    texts = [repr(rng.random() * 10.0 ** rng.randint(-8, 8)) for _ in range(20000)]
    texts += [f"0.{rng.randint(0, 10**19)}" for _ in range(5000)]
    texts += [f"{rng.randint(10**17, 10**19 - 1)}e{rng.randint(-64, 64)}" for _ in range(20000)]
    assert list(map(bits, numbers_as_read(*texts) or [])) == [bits(float(text)) for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        # Halfway between two doubles, a hair above and a hair below, and the ends of the range.
        "9007199254740993",
        "9007199254740993.0",
        "9007199254740993.00000000001",
        "9007199254740992.99999999999",
        "900719925474099300e-2",
        "0.500000000000000166533453694",
        "1.00000000000000011102230246251565",
        "9223372036854775807",
        "99999999999999999999",
        "1e22",
        "1e23",
        "8.5e-23",
        "2.2250738585072011e-308",
        "4.9406564584124654e-324",
        "1e-400",
        "0e99999999",
        "-0.0",
        "0.000000000000000000000000000000123456789",
        "123456789012345678.9",
    ],
)
def test_numbers_that_are_hard_to_round(text: str) -> None:
    assert_read_as_python_reads(text)


ENTRIES = st.lists(
    st.fixed_dictionaries(
        {
            "image_id": st.integers(-(10**17), 10**17),
            "category_id": st.integers(0, 90),
            "bbox": st.lists(st.floats(-1e6, 1e6) | st.integers(-1000, 1000), min_size=4, max_size=4),
            "score": st.floats(0, 1),
        },
        optional={"area": st.floats(0, 1e6), "id": st.integers(0, 9), "name": st.text("abc {}[],:", max_size=5)},
    ),
    max_size=4,
)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, list[Json]]:
    entries = [dict(draw(st.permutations(list(entry.items())))) for entry in draw(ENTRIES)]
    indent = draw(st.sampled_from([None, 0, 2, "\t"]))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", " :\r\n")]))
    return json.dumps(entries, indent=indent, separators=separators), entries


KEYS = ("image_id", "category_id", "bbox", "score")


@given(documents())
@settings(max_examples=200, deadline=None)
def test_usual_documents_are_read_whole(document: tuple[str, list[Json]]) -> None:
    text, entries = document
    assert scan(text) == [{key: entry[key] for key in KEYS} for entry in entries]


@given(documents(), st.data())
@settings(max_examples=500, deadline=None)
def test_damaged_documents_are_declined_or_mean_the_same(document: tuple[str, list[Json]], data: st.DataObject) -> None:
    text = bytearray(document[0].encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1)) if text else 0
        byte = data.draw(st.sampled_from(b'[]{},:"0123456789.-+eE \n\\aINnt\x00\xff'))
        action = data.draw(st.sampled_from(["drop", "put", "replace", "cut"]))
        if action == "cut":
            del text[place:]
        elif action == "put" or not text:
            text.insert(place, byte)
        elif action == "drop":
            del text[place]
        else:
            text[place] = byte
    read = scan(bytes(text))
    if read is not None:
        meant = [{key: entry[key] for key in KEYS} for entry in json.loads(bytes(text))]
        for entry in meant:
            # As doubles: an edit may leave a whole number with more digits than a double has.
            entry["bbox"] = [float(side) for side in entry["bbox"]]
            entry["score"] = float(entry["score"])
        assert read == meant


@pytest.mark.parametrize(
    "text",
    [
        "[" + '{"image_id":1,"category_id":2,"score":.5,"bbox":[0,0,1,1]}' + "]",
        "[" + '{"image_id":01,"category_id":2,"score":0.5,"bbox":[0,0,1,1]}' + "]",
        "[" + '{"image_id":1.0,"category_id":2,"score":0.5,"bbox":[0,0,1,1]}' + "]",
        "[" + '{"image_id":1,"category_id":2,"score":NaN,"bbox":[0,0,1,1]}' + "]",
        "[" + '{"image_id":1,"category_id":2,"score":0.5,"score":0.6,"bbox":[0,0,1,1]}' + "]",
        "[" + '{"image_id":1,"category_id":2,"score":0.5,"bbox":[0,0,1,1,1]}' + "]",
        "[" + '{"image_id":1,"category_id":2,"score":0.5,"bbox":[0,0,1,1]},' + "]",
        '{"image_id":1}',
        "[] []",
        "",
    ],
)
def test_what_is_not_of_the_usual_shape_is_declined(text: str) -> None:
    assert scan(text) is None


def test_empty_lists_are_read() -> None:
    assert scan("[]") == scan(" [\n ] \n") == []


def test_a_file_is_read_with_a_zero_behind_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert read_bytes(tmp_path / "file").tobytes() == b"abc\0"


def test_the_scanner_and_the_json_module_lead_to_the_same_scores(tmp_path: Path) -> None:
    fast, slow = tmp_path / "fast.json", tmp_path / "slow.json"
    fast.write_text(json.dumps(DETECTIONS))
    slow.write_text(json.dumps([entry | {"segmentation": {"size": [1, 1], "counts": "\\"}} for entry in DETECTIONS]))
    assert scan(fast.read_bytes()) is not None
    assert scan(slow.read_bytes()) is None
    scores = score(GT, DETECTIONS)
    assert score(GT, fast) == score(GT, slow) == scores
    assert scores["stats"]["AP"] is not None


# --- refusals ----------------------------------------------------------------------------------------------------


def set_in(index: int, **values: Any) -> Callable[[list[Json]], None]:
    return lambda entries: entries[index].update(values)


def drop(index: int, key: str) -> Callable[[list[Json]], None]:
    return lambda entries: entries[index].pop(key)


DAMAGED_DETECTIONS = {
    "NaN score": (set_in(1, score=math.nan), "entry 1: score is nan"),
    "infinite score": (set_in(2, score=-math.inf), "entry 2: score is -inf"),
    "text as score": (set_in(1, score="0.9"), "entry 1: score is '0.9'; write a number"),
    "truth value as score": (set_in(1, score=True), "entry 1: score is True; write a number"),
    "no score": (drop(1, "score"), "entry 1: has no 'score'"),
    "no image": (drop(0, "image_id"), "entry 0: has no 'image_id'"),
    "no class": (drop(0, "category_id"), "entry 0: has no 'category_id'"),
    "no box": (drop(2, "bbox"), "entry 2: has no 'bbox'"),
    "unknown image": (set_in(2, image_id=2), "entry 2: image_id 2 is not in"),
    "image id as text": (set_in(2, image_id="3"), "entry 2: image_id '3' is not in"),
    "truth value as image": (set_in(0, image_id=True), "entry 0: image_id True is not in"),
    "class as list": (set_in(0, category_id=[7]), "entry 0: category_id is [7]"),
    "NaN in box": (set_in(1, bbox=[0, math.nan, 1, 1]), "entry 1: bbox is [0.0, nan, 1.0, 1.0], which is not finite"),
    "infinite box": (set_in(1, bbox=[0, 0, math.inf, 1]), "entry 1: bbox"),
    "huge integer": (set_in(1, bbox=[0, 0, 10**400, 1]), "entry 1: bbox"),
    "negative width": (set_in(1, bbox=[5, 5, -1, 1]), "entry 1: bbox is [5.0, 5.0, -1.0, 1.0] with a negative width"),
    "negative height": (set_in(0, bbox=[5, 5, 1, -1e-9]), "entry 0: bbox"),
    "box of three": (set_in(1, bbox=[1, 2, 3]), "entry 1: bbox is [1, 2, 3]; write the four numbers"),
    "box of text": (set_in(1, bbox=[1, 2, 3, "4"]), "entry 1: bbox is '4'; write a number"),
    "box is null": (set_in(1, bbox=None), "entry 1: bbox is None"),
    "entry is no object": (lambda entries: entries.insert(1, 5), "entry 1: is a number; write an object"),
    "entry is a list": (lambda entries: entries.insert(1, [1, 2]), "entry 1: is a list; write an object"),
}


@pytest.mark.parametrize("name", DAMAGED_DETECTIONS)
def test_detections_that_cannot_be_scored_are_refused(name: str, tmp_path: Path) -> None:
    damage, message = DAMAGED_DETECTIONS[name]
    entries = copy.deepcopy(DETECTIONS)
    damage(entries)
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(entries))
    truth = load_ground_truth(GT)
    with pytest.raises(ScoreError, match=re.escape(f"{path}: {message}")):
        load_detections(path, truth)
    with pytest.raises(ScoreError, match=re.escape(f"detections: {message}")):
        load_detections(entries, truth)


def annotation(index: int, **values: Any) -> Callable[[Json], None]:
    return lambda gt: gt["annotations"][index].update(values)


DAMAGED_TRUTHS: dict[str, tuple[Callable[[Json], Any], str]] = {
    "annotation ids repeat": (annotation(1, id=1), "annotations[1]: id 1 was used before"),
    "image ids repeat": (lambda gt: gt["images"][1].update(id=3), "images[1]: id 3 is also that of images[0]"),
    "category ids repeat": (lambda gt: gt["categories"][1].update(id=7), "categories[1]: id 7 is also"),
    "unknown image": (annotation(0, image_id=2), "annotations[0]: image_id 2 is not among the images"),
    "mixed ids": (lambda gt: gt["images"][1].update(id="a"), "images[1]: id 'a' is of another type"),
    "id is null": (lambda gt: gt["images"][1].update(id=None), "images[1]: id is None"),
    "annotation id is a float": (annotation(1, id=1.5), "annotations[1]: id is 1.5"),
    "no images": (lambda gt: gt.pop("images"), "has no 'images'"),
    "no annotations": (lambda gt: gt.pop("annotations"), "has no 'annotations'"),
    "images are no list": (lambda gt: gt.update(images={}), "images is an object; write a list"),
    "an image is a number": (lambda gt: gt["images"].append(3), "images[2]: is a number"),
    "no area": (lambda gt: gt["annotations"][1].pop("area"), "annotations[1]: has no 'area'"),
    "no id": (lambda gt: gt["annotations"][1].pop("id"), "annotations[1]: has no 'id'"),
    "no box": (lambda gt: gt["annotations"][1].pop("bbox"), "annotations[1]: has no 'bbox'"),
    "NaN area": (annotation(1, area=math.nan), "annotations[1]: area is nan"),
    "area of text": (annotation(1, area="12"), "annotations[1]: area is '12'; write a number"),
    "NaN box": (annotation(0, bbox=[math.nan, 0, 1, 1]), "annotations[0]: bbox"),
    "negative box": (
        annotation(0, bbox=[0, 0, 1, -1]),
        "annotations[0]: bbox is [0.0, 0.0, 1.0, -1.0] with a negative",
    ),
    "crowd of two": (annotation(0, iscrowd=2), "annotations[0]: iscrowd is 2; write 0 or 1"),
    "difficult as text": (annotation(0, difficult="yes"), "annotations[0]: difficult is 'yes'; write 0 or 1"),
}


@pytest.mark.parametrize("name", DAMAGED_TRUTHS)
def test_ground_truth_that_cannot_be_scored_is_refused(name: str, tmp_path: Path) -> None:
    damage, message = DAMAGED_TRUTHS[name]
    gt = copy.deepcopy(GT)
    damage(gt)
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(gt))
    with pytest.raises(ScoreError, match=re.escape(f"{path}: {message}")):
        load_ground_truth(path)
    with pytest.raises(ScoreError, match=re.escape(f"ground truth: {message}")):
        load_ground_truth(gt)


@pytest.mark.parametrize("cut", [1, 40, -1, -20])
def test_truncated_files_are_refused(cut: int, tmp_path: Path) -> None:
    gt, detections = tmp_path / "gt.json", tmp_path / "detections.json"
    gt.write_text(json.dumps(GT)[:cut])
    detections.write_text(json.dumps(DETECTIONS)[:cut])
    with pytest.raises(ScoreError, match=re.escape(f"{gt}: line 1, column") + ".*truncated"):
        load_ground_truth(gt)
    with pytest.raises(ScoreError, match=re.escape(f"{detections}: line 1, column") + ".*truncated"):
        load_detections(detections, load_ground_truth(GT))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"", "the file is empty"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"PK\x03\x04\xe9", "not JSON"),
        (b'"text"', "holds a string where"),
        (b"[" * 100000, "not JSON"),
    ],
)
def test_files_that_are_no_results_are_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ScoreError, match=re.escape(f"{path}: {message}")):
        load_detections(path, load_ground_truth(GT))
    with pytest.raises(ScoreError, match=re.escape(f"{path}: {message}")):
        load_ground_truth(path)


def test_swapped_files_are_refused(tmp_path: Path) -> None:
    gt, detections = tmp_path / "gt.json", tmp_path / "detections.json"
    gt.write_text(json.dumps(GT))
    detections.write_text(json.dumps(DETECTIONS))
    with pytest.raises(ScoreError, match=r"holds a list .* swapped"):
        load_ground_truth(detections)
    with pytest.raises(ScoreError, match=r"holds an object where .* \(a list of detections\)"):
        load_detections(gt, load_ground_truth(GT))


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ScoreError, match="'voc' is unknown; choose one of coco, fd, voc07, voc10, all"):
        score(GT, DETECTIONS, "voc")


def test_masks_that_cannot_be_scored_are_refused() -> None:
    with pytest.raises(ScoreError, match="detections: entry 0: has no segmentation in compressed RLE"):
        mask_ap(GT, DETECTIONS)
    rle = {"size": [240, 320], "counts": "0"}
    entry = DETECTIONS[0] | {"segmentation": rle}
    with pytest.raises(ScoreError, match=r"ground truth: annotations\[0\]: has no segmentation"):
        mask_ap(GT, [entry])
    with pytest.raises(ScoreError, match="detections: entry 0: image_id 9 is not in"):
        mask_ap(GT, [entry | {"image_id": 9}])
    with pytest.raises(ScoreError, match="detections: entry 0: score is nan"):
        mask_ap(GT, [entry | {"score": math.nan}])


# --- notes -------------------------------------------------------------------------------------------------------


def test_detections_of_unknown_classes_are_left_out_and_counted(tmp_path: Path) -> None:
    strangers = [DETECTIONS[0] | {"category_id": c, "score": 1.0} for c in (99, 99, 5)]
    entries = [strangers[0], *DETECTIONS, *strangers[1:]]
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(entries))
    expected = score(GT, DETECTIONS)
    for source in (path, entries):
        scores = score(GT, source)
        (note,) = scores["notes"]
        assert note["kind"] == "unknown_detection_category"
        assert note["count"] == 3
        assert "99 (2), 5 (1)" in note["message"]
        assert scores | {"notes": []} == expected
    everything = score(GT, strangers)
    assert everything["notes"][0]["count"] == 3
    assert everything["stats"]["AP"] == 0


def test_annotations_of_unlisted_classes_are_left_out_and_counted() -> None:
    gt = copy.deepcopy(GT)
    gt["annotations"].append(GT["annotations"][0] | {"id": 9, "category_id": 8})
    scores = score(gt, DETECTIONS)
    (note,) = scores["notes"]
    assert note["count"] == 1
    assert "1 annotation left out" in note["message"]
    assert scores | {"notes": []} == score(GT, DETECTIONS)


def test_boxes_far_out_of_their_images_are_reported_and_scored() -> None:
    # x1, y1, x2, y2 written as x, y, width, height, in an image of 320 x 240
    corners = {"image_id": 1, "category_id": 7, "bbox": [200, 100, 300, 200], "score": 0.95}
    stranger = corners | {"category_id": 99}
    scores = score(GT, [stranger, *DETECTIONS, corners])
    note = scores["notes"][1]
    assert note["kind"] == "detection_outside_image"
    assert note["count"] == 1
    assert "1 of 4 detection boxes" in note["message"]
    assert "first: entry 4, [200.0, 100.0, 300.0, 200.0] in an image of [320.0, 240.0]" in note["message"]
    assert scores["per_class"]["dog"]["AP50"] < score(GT, DETECTIONS)["per_class"]["dog"]["AP50"]

    def notes(box: list[float], gt: Json = GT) -> int:
        return len(score(gt, [DETECTIONS[0] | {"bbox": box}])["notes"])

    assert notes([-32, -24, 320 + 64, 240 + 48]) == 0  # a tenth on every side
    assert notes([-33, 0, 10, 10]) == notes([0, -25, 10, 10]) == 1
    assert notes([300, 0, 53, 10]) == notes([0, 230, 10, 35]) == 1
    unsized = copy.deepcopy(GT)
    for image in unsized["images"]:
        del image["width"]
    assert notes([5000, 0, 10, 10], unsized) == 0
    gt = copy.deepcopy(GT)
    gt["annotations"][0]["bbox"] = [200, 100, 300, 200]
    assert score(gt, [])["notes"][0]["kind"] == "annotation_outside_image"


# --- VOC's text files --------------------------------------------------------------------------------------------


def comp_files(folder: Path) -> None:
    (folder / "comp4_det_test_dog.txt").write_text("000001 0.9 11.5 21 40.5 60\n000003 1 1 1 3 4\n\n")
    (folder / "comp4_det_test_traffic_light.txt").write_text("000003 0.001 2 3 4 6.25\n")


def test_comp_files_are_the_same_detections(tmp_path: Path) -> None:
    comp_files(tmp_path)
    truth = load_ground_truth(GT)
    expected = load_detections(DETECTIONS, truth)
    for source in (tmp_path, tmp_path / "comp4_det_test_*.txt", str(tmp_path / "comp?_det_*")):
        found = load_detections(source, truth)
        order = [0, 2, 1]  # class after class
        assert found.image.tolist() == expected.image[order].tolist()
        assert found.category.tolist() == expected.category[order].tolist()
        assert found.boxes.tolist() == expected.boxes[order].tolist()
        assert found.scores.tolist() == expected.scores[order].tolist()
        assert score(truth, found) == score(truth, expected)
    (tmp_path / "readme.md").write_text("not looked at")
    one = load_detections(tmp_path / "comp4_det_test_traffic_light.txt", truth)
    assert one.boxes.tolist() == [[1, 2, 3, 4.25]]


def test_comp_files_find_images_by_id_where_there_is_no_file_name(tmp_path: Path) -> None:
    gt = copy.deepcopy(GT)
    for image in gt["images"]:
        del image["file_name"]
    (tmp_path / "comp3_det_val_dog.txt").write_text("1 0.9 11 21 40 60\n")
    (tmp_path / "comp3_det_val_cat.txt").write_text("3 0.9 11 21 40 60\n")
    scores = score(gt, tmp_path)
    assert scores["voc"]["mAP10"] == 1
    assert "cat (1)" in scores["notes"][0]["message"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("000001 0.9 1 2 3", "line 2: has 5 fields; a line is: image score xmin ymin xmax ymax"),
        ("000001 high 1 2 3 4", "line 2: 'high 1 2 3 4' are not five numbers"),
        ("000001 nan 1 2 3 4", "line 2: a score or a coordinate is NaN or infinite"),
        ("000001 0.9 1 2 inf 4", "line 2: a score or a coordinate is NaN or infinite"),
        ("000001 0.9 10 2 3 4", "line 2: xmax or ymax lies before"),
        ("000002 0.9 1 2 3 4", "line 2: image_id '000002' is not in"),
    ],
)
def test_comp_files_that_cannot_be_scored_are_refused(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "comp4_det_test_dog.txt"
    path.write_text(f"000001 0.9 11 21 40 60\n{line}\n")
    with pytest.raises(ScoreError, match=re.escape(f"{path}: {message}")):
        load_detections(tmp_path, load_ground_truth(GT))


def test_comp_folders_that_are_ambiguous_are_refused(tmp_path: Path) -> None:
    truth = load_ground_truth(GT)
    with pytest.raises(ScoreError, match="holds no VOC results files"):
        load_detections(tmp_path, truth)
    (tmp_path / "dog.txt").write_text("")
    with pytest.raises(ScoreError, match=r"dog\.txt: the file name must be comp4_det_test_CLASS.txt"):
        load_detections(tmp_path / "dog.txt", truth)
    comp_files(tmp_path)
    (tmp_path / "comp4_det_val_dog.txt").write_text("")
    with pytest.raises(ScoreError, match=r"comp4_det_val_dog.txt: class 'dog' is also in comp4_det_test_dog.txt"):
        load_detections(tmp_path, truth)
    gt = copy.deepcopy(GT)
    gt["images"][1]["file_name"] = "test/000003.jpg"
    gt["annotations"].clear()
    with pytest.raises(ScoreError, match="line 1: image 000003 is the file name of several images"):
        load_detections(tmp_path / "comp4_det_test_traffic_light.txt", load_ground_truth(gt))


def test_the_tables_of_powers_are_exact() -> None:
    from benchmarks.metrics import scan as scanner

    for place, power in enumerate(range(-64, 65)):
        digits, exponent = int(scanner._FIVES[place]), int(scanner._FIVES_EXPONENT[place])
        assert digits.bit_length() == 64
        # digits * 2**exponent <= 5**power < (digits + 1) * 2**exponent, in whole numbers
        left, right = 5 ** max(power, 0) * 2 ** max(-exponent, 0), 5 ** max(-power, 0) * 2 ** max(exponent, 0)
        assert digits * right <= left < (digits + 1) * right


def test_machine_code_is_kept_where_it_can_be_written(tmp_path: Path) -> None:
    """An unwritable source folder sends the cache below DETECTOR_ZOO_CACHE."""
    code = (
        "import os; real = os.access; os.access = lambda path, mode: False;"
        "from ops.compiled import compiled; os.access = real;"
        "from benchmarks.metrics.scan import _count; import numpy as np;"
        "assert _count(np.zeros(3, dtype=np.uint8), 0) == 3"
    )
    environment = {**os.environ, "DETECTOR_ZOO_CACHE": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, check=True)
    assert list((tmp_path / "numba").rglob("*_count*.nbc"))


def test_ids_are_told_from_other_values() -> None:
    assert all(map(is_id, (0, -3, "a", np.int64(5))))
    assert not any(map(is_id, (True, 1.0, None, np.bool_(True), [1])))
