"""OpenCV's people detectors: the boxes of `detectMultiScale`, from our own descriptors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.opencv_cascades import rgb
from tests.zoo.test_hog_svm import photograph
from zoo import checkpoints
from zoo.classical.opencv_hog import OpenCVHog, hog_svm_opencv, opencv_people

EDGE = 0.02
"""Margins that are nearer to 0 may fall on either side: OpenCV's arc tangents err, and two channels may be equally
strong but for rounding."""

Found = dict[tuple[int, ...], float]


def theirs(image: np.ndarray, merge: int, trained_on: str = "inria") -> Found:
    if trained_on == "inria":
        descriptor = cv2.HOGDescriptor()
        descriptor.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())
    else:
        descriptor = cv2.HOGDescriptor((48, 96), (16, 16), (8, 8), (8, 8), 9)
        descriptor.setSVMDetector(cv2.HOGDescriptor.getDaimlerPeopleDetector())
    boxes, margins = descriptor.detectMultiScale(image, 0.0, (8, 8), (0, 0), 1.05, float(merge), False)
    return dict(zip(map(tuple, np.reshape(boxes, (-1, 4)).tolist()), np.ravel(margins).tolist(), strict=True))


def ours(image: np.ndarray, model: OpenCVHog) -> Found:
    with torch.inference_mode():
        (answer,) = model([rgb(image)])
    boxes = answer.boxes.clone()
    boxes[:, 2:] -= boxes[:, :2]
    assert torch.equal(boxes, boxes.round())
    return dict(zip(map(tuple, boxes.int().tolist()), answer.scores.double().logit().tolist(), strict=True))


def assert_windows_agree(image: np.ndarray, trained_on: Any = "inria") -> int:
    """Every window that holds a person, clearly, is on both sides, with the same margin; how many there are."""
    known, found = theirs(image, 0, trained_on), ours(image, opencv_people(trained_on, merge=0))
    for box, margin in known.items():
        if box in found:
            assert found[box] == pytest.approx(margin, abs=EDGE)
        else:
            assert margin < EDGE, f"OpenCV's {box} ({margin:.4f}) is not among ours"
    assert all(margin < EDGE for box, margin in found.items() if box not in known)
    return len(known)


@pytest.mark.parametrize("trained_on", ["inria", "daimler"])
def test_windows_are_opencvs(trained_on: str) -> None:
    assert assert_windows_agree(photograph(240, 400), trained_on) >= 3


def test_groups_are_opencvs() -> None:
    image = photograph(240, 400)
    model = opencv_people(merge=1, score_floor=0.5)
    known = theirs(image, 1)
    assert set(ours(image, model)) == set(known)
    assert len(known) >= 1
    surest = theirs(image, 0)
    for box, margin in ours(image, model).items():
        assert margin == pytest.approx(known[box], abs=EDGE)
        assert any(abs(margin - other) < EDGE for other in surest.values()), "a group scores as its surest window"


def _photographs() -> list[Path]:
    root = os.environ.get("DETECTOR_ZOO_DATA")
    folders = [] if not root else sorted(Path(root).expanduser().glob("voc2012*/VOCdevkit/VOC2012"))
    found = []
    for folder in folders:
        for described in sorted((folder / "Annotations").glob("*.xml")):
            if "<name>person</name>" in described.read_text():
                found.append(folder / "JPEGImages" / f"{described.stem}.jpg")
    return [path for path in found if path.exists()][:4]


@pytest.mark.slow
@pytest.mark.skipif(not _photographs(), reason="DETECTOR_ZOO_DATA names no folder with photographs of VOC")
def test_windows_are_opencvs_on_photographs() -> None:
    assert sum(assert_windows_agree(cv2.imread(str(path))) for path in _photographs()) > 0


def test_boxes_without_surroundings_lie_inside() -> None:
    image = photograph(240, 400)
    whole, inner = (opencv_people(merge=0, margin=margin)([rgb(image)])[0] for margin in (0, 2))
    assert len(whole) == len(inner) > 0
    sides = (whole.boxes[:, 2:] - whole.boxes[:, :2]) / torch.tensor([4, 8])
    clipped = (whole.boxes[:, 2] >= 400) | (whole.boxes[:, 3] >= 240)
    expected = torch.cat([whole.boxes[:, :2] + sides, whole.boxes[:, 2:] - sides], 1)
    torch.testing.assert_close(inner.boxes[~clipped], expected[~clipped])


def test_a_checkpoint_of_it_is_a_checkpoint_of_the_zoo(tmp_path: Path) -> None:
    path = tmp_path / "people.safetensors"
    model = opencv_people(merge=0)
    checkpoints.save(
        path,
        model,
        detector="hog_svm_opencv",
        num_classes=1,
        overrides={"merge": 0},
        class_names=["person"],
        small=False,
    )
    again, meta = checkpoints.load(path)
    assert isinstance(again, OpenCVHog)
    assert meta.class_names == ("person",)
    image = photograph(240, 400)
    first, second = ours(image, model), ours(image, again)
    assert all(margin < EDGE for box, margin in first.items() if box not in second)
    assert all(second[box] == pytest.approx(margin, abs=EDGE) for box, margin in first.items() if box in second)


def test_scales_end_where_opencvs_do() -> None:
    model = opencv_people()
    sizes = list(model._sizes((300, 200)))
    assert sizes[0] == (300, 200)
    assert all(height >= 128 and width >= 64 for height, width in sizes)
    assert round(300 / 1.05 ** len(sizes)) < 128
    assert len(list(model._sizes((100_000, 100_000)))) == 64


def test_other_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="use hog_svm"):
        hog_svm_opencv(1, padding=2)
    with pytest.raises(ValueError, match="use hog_svm"):
        hog_svm_opencv(1, largest_scale=2.0)
