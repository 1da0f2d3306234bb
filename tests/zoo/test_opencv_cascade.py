"""Cascades of OpenCV: what is read, what is refused, and that the boxes are OpenCV's."""

from __future__ import annotations

import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.opencv_cascades import boxes_of_opencv, cascade_xml, rgb, texture
from zoo.classical.opencv_cascade import opencv_cascade
from zoo.classical.viola_jones import ViolaJones
from zoo.formats.opencv_cascade import CascadeError, read_cascade

SHIPPED = Path(cv2.data.haarcascades)


def boxes_of_ours(model: ViolaJones, image: np.ndarray) -> list[list[int]]:
    with torch.inference_mode():
        (answer,) = model([rgb(image)])
    boxes = answer.boxes.clone()
    boxes[:, 2:] -= boxes[:, :2]
    assert torch.equal(boxes, boxes.round())
    return sorted(boxes.int().tolist())


def written(folder: Path, text: str) -> Path:
    path = folder / "cascade.xml"
    path.write_text(text)
    return path


def test_frontal_face_as_it_is_known() -> None:
    found = read_cascade(SHIPPED / "haarcascade_frontalface_default.xml")
    assert found.kind == "HAAR"
    assert found.window == (24, 24)
    counts = np.diff(found.ends, prepend=0).tolist()
    assert counts == [
        *(9, 16, 27, 32, 52, 53, 62, 72, 83, 91, 99, 115, 127),
        *(135, 136, 137, 159, 155, 169, 196, 197, 181, 199, 211, 200),
    ]
    assert found.thresholds.shape == (2913, 1)
    assert not found.tilted.any()
    assert found.stage_thresholds[[0, -1]].tolist() == pytest.approx([-5.0425500869750977, -2.992827892303467])
    assert found.rectangles[0, 0].tolist() == [[6, 4, 12, 9], [6, 7, 12, 3], [0, 0, 0, 0]]
    assert found.weights[0, 0].tolist() == [-1, 3, 0]
    assert found.thresholds[0, 0] == pytest.approx(-0.031511999666690826)
    assert found.leaves[0].tolist() == pytest.approx([2.0875380, -2.2172100])
    assert found.rectangles[1, 0, :2].tolist() == [[6, 4, 12, 7], [10, 4, 4, 7]]
    assert found.thresholds[1, 0] == pytest.approx(0.0123960)


@pytest.mark.parametrize(
    ("name", "window", "stages", "weak", "nodes", "tilted"),
    [
        ("frontalface_alt2", (20, 20), 20, 1047, 2, 0),
        ("fullbody", (28, 14), 30, 1464, 1, 201),
        ("eye", (20, 20), 24, 1066, 1, 0),
    ],
)
def test_shipped_cascades(name: str, window: tuple[int, int], stages: int, weak: int, nodes: int, tilted: int) -> None:
    found = read_cascade(SHIPPED / f"haarcascade_{name}.xml")
    assert (found.window, len(found.ends), found.ends[-1]) == (window, stages, weak)
    assert found.branches.shape == (weak, nodes, 2)
    assert found.tilted.sum() == tilted


@pytest.mark.parametrize(
    ("kind", "nodes", "tilted"),
    [("HAAR", 1, False), ("HAAR", 2, False), ("HAAR", 1, True), ("HAAR", 2, True), ("LBP", 1, False)],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_boxes_are_opencvs(tmp_path: Path, kind: str, nodes: int, tilted: bool, seed: int) -> None:
    path = written(tmp_path, cascade_xml(kind, nodes=nodes, tilted=tilted, seed=seed))
    image = texture(71, 94, seed)
    for scale, merge, smallest in ((1.2, 0, 0), (1.1, 3, 0), (1.3, 1, 24)):
        theirs = boxes_of_opencv(path, image, scale, merge, smallest)
        ours = boxes_of_ours(opencv_cascade(path, scale_step=scale, merge=merge, smallest=smallest), image)
        assert ours == theirs
        assert merge or len(theirs) > 5, "the test needs windows that pass"


def _photographs() -> list[Path]:
    """The four photographs of VOC with the largest persons."""
    root = os.environ.get("DETECTOR_ZOO_DATA")
    people: list[tuple[float, Path]] = []
    for described in [] if not root else Path(root).expanduser().glob("voc2012*/VOCdevkit/VOC2012/Annotations/*.xml"):
        text = described.read_text()
        objects = [part for part in text.split("<object>")[1:] if "<name>person</name>" in part]
        sides = [[float(re.findall(rf"<{n}>([\d.]+)</{n}>", part)[0]) for n in _SIDES] for part in objects]
        size = max(((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in sides), default=0.0)
        people.append((-size, described.parent.parent / "JPEGImages" / f"{described.stem}.jpg"))
    return [path for size, path in sorted(people) if size < 0 and path.exists()][:4]


_SIDES = ("xmin", "ymin", "xmax", "ymax")


@pytest.mark.slow
@pytest.mark.skipif(not _photographs(), reason="DETECTOR_ZOO_DATA names no folder with photographs of VOC")
@pytest.mark.parametrize("name", ["frontalface_default", "frontalface_alt2"])
def test_boxes_are_opencvs_on_photographs(name: str) -> None:
    path = SHIPPED / f"haarcascade_{name}.xml"
    model = opencv_cascade(path)
    total = 0
    for photograph in _photographs():
        image = cv2.imread(str(photograph))
        theirs = boxes_of_opencv(path, image, 1.1, 3)
        assert boxes_of_ours(model, image) == theirs
        total += len(theirs)
    assert total > 0


def test_bit_of_a_code_chooses_the_left_leaf(tmp_path: Path) -> None:
    text = cascade_xml("LBP", stages=1)
    nodes = re.search(r"<internalNodes>0 -1 0 (.*?)</internalNodes><leafValues>(.*?)</leafValues>", text)
    assert nodes is not None
    words = [int(word) & 0xFFFFFFFF for word in nodes[1].split()]
    left, right = (np.float32(value) for value in nodes[2].split())
    model = opencv_cascade(written(tmp_path, text))
    table = model.cascades.weak.get_buffer("entries")[0, 0]
    for code in (0, 31, 32, 143, 255):
        assert table[code] == (left if words[code >> 5] >> (code & 31) & 1 else right)


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "b"><!ENTITY c "&b;&b;&b;&b;">]><opencv_storage>&c;</opencv_storage>'
)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (None, BOMB, "declares types or entities"),
        (None, "<opencv_storage><cascade>", "no whole XML"),
        (None, "", "no whole XML"),
        (None, "<other/>", "holds no <cascade>"),
        (
            None,
            "<opencv_storage><face><stages><_><trees/></_></stages></face></opencv_storage>",
            "format before OpenCV 2.4",
        ),
        ("<featureType>HAAR", "<featureType>HOG", "neither HAAR nor LBP"),
        ("<stageType>BOOST", "<stageType>FOREST", "is not BOOST"),
        ("<height>20", "<height>2000000", "no whole number from 3 to 255"),
        ("<height>20</height>", "", "height: is missing"),
        ("<width>16", "<width>sixteen", "'sixteen' are no numbers"),
        ("<width>16", "<width>6", "reaches out of the window"),
        ("<maxCatCount>0", "<maxCatCount>256", "does not fit HAAR"),
        ("<stageNum>2", "<stageNum>3", "there are 2 stages"),
        ("<internalNodes>0 -1 0 ", "<internalNodes>0 -1 999 ", "asks feature 999"),
        ("<internalNodes>0 -1 0 ", "<internalNodes>0 -1 -1 ", "asks feature -1"),
        ("<internalNodes>0 -1 0 ", "<internalNodes>0 -1 0.5 ", "a fraction for an index"),
        ("<internalNodes>0 -1 0 ", "<internalNodes>0 -2 0 ", "leads to -2, which is nowhere"),
        ("<internalNodes>0 -1 0 ", "<internalNodes>0 0 -1 0 ", "has 5 numbers, where a node takes 4"),
        ("<stageThreshold>", "<stageThreshold>nan ", "NaN"),
        ("<leafValues>", "<leafValues>1 2 ", "has 4 numbers, not 2"),
        ("-1.</_>", "1e999</_>", "NaN, infinity"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, old: str | None, new: str, words: str) -> None:
    text = cascade_xml(stages=2)
    assert old is None or old in text
    path = written(tmp_path, new if old is None else text.replace(old, new, 1))
    with pytest.raises(CascadeError, match=re.escape(words)) as caught:
        read_cascade(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "; get a cascade that" in str(caught.value)


def test_a_tree_that_runs_in_a_circle_is_refused(tmp_path: Path) -> None:
    text = cascade_xml(nodes=2, stages=1)
    path = written(tmp_path, text.replace(" -1 -2 ", " 1 -2 ", 1))
    with pytest.raises(CascadeError, match="node 1 leads to 1"):
        read_cascade(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CascadeError, match=r"none\.xml: cannot be read"):
        read_cascade(tmp_path / "none.xml")


def test_trees_of_patterns_are_refused_with_a_reason(tmp_path: Path) -> None:
    path = written(tmp_path, cascade_xml("LBP", nodes=2))
    with pytest.raises(CascadeError, match="a table has one feature, not 2"):
        opencv_cascade(path)


def test_a_cascade_of_another_shape_is_refused(tmp_path: Path) -> None:
    cascade = read_cascade(written(tmp_path, cascade_xml(stages=3)))
    with pytest.raises(ValueError, match=r"\(1, 3, 12\) classes, stages and weak classifiers"):
        ViolaJones(1, stages=2, weak=12).cascades.load_opencv(cascade)
    with pytest.raises(ValueError, match=r"LBP features, where this detector has Haar's"):
        ViolaJones(1, stages=4, weak=16).cascades.load_opencv(read_cascade(written(tmp_path, cascade_xml("LBP"))))
