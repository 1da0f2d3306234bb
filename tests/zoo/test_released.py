"""Released models through the one door that the command line uses: file -> detector and class names."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.mat_files import release
from tests.opencv_cascades import cascade_xml, rgb, texture
from zoo.classical.opencv_hog import opencv_people
from zoo.classical.released import read_released
from zoo.formats.mat import MatError


def test_a_folder_of_star_models_is_a_class_each(tmp_path: Path) -> None:
    for name in ("horse", "cat", "person_grammar"):
        release(tmp_path / f"{name}_final.mat")
    model, names = read_released("dpm", tmp_path)
    assert names == ("cat", "horse")
    assert model.num_classes == 2
    alone, name = read_released("dpm", tmp_path / "horse_final.mat")
    assert (name, alone.num_classes) == (("horse",), 1)
    assert not model.training


def test_inrias_person_is_a_person(tmp_path: Path) -> None:
    assert read_released("dpm", release(tmp_path / "inriaperson_final.mat"))[1] == ("person",)


@pytest.mark.parametrize("pick", ["getDefaultPeopleDetector", "getDaimlerPeopleDetector"])
def test_opencvs_people_are_told_by_their_count(tmp_path: Path, pick: str) -> None:
    np.save(path := tmp_path / "people.npy", getattr(cv2.HOGDescriptor, pick)())
    model, names = read_released("hog_svm_opencv", path)
    ours = opencv_people("inria" if pick == "getDefaultPeopleDetector" else "daimler")
    image = rgb(texture(150, 120))
    assert names == ("person",)
    assert torch.equal(model([image])[0].boxes, ours([image])[0].boxes)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), ours.buffers(), strict=True))


def test_a_cascade_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "faces.xml").write_text(cascade_xml("LBP"))
    assert read_released("lbp_cascade", path)[1] == ("faces",)
    with pytest.raises(ValueError, match=r"faces\.xml: holds a LbpCascade, not a ViolaJones; name the detector"):
        read_released("viola_jones", path)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (np.zeros(100, np.float32), "100 values of type float32 are no SVM"),
        (np.full(3781, np.nan, np.float32), "3781 values"),
        (np.zeros(3781, np.int64), "of type int64"),
        (np.array([{}], dtype=object), "is no array of numpy"),
    ],
)
def test_other_vectors_are_refused_by_name(tmp_path: Path, values: np.ndarray, complaint: str) -> None:
    np.save(path := tmp_path / "odd.npy", values, allow_pickle=True)
    with pytest.raises(ValueError, match=rf"odd\.npy: .*{complaint}"):
        read_released("hog_svm_opencv", path)


def test_what_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no CLASS_final\.mat"):
        read_released("dpm", tmp_path)
    (tmp_path / "cat_final.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(MatError, match=r"cat_final\.mat"):
        read_released("dpm", tmp_path)
    (tmp_path / "empty.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.npy"):
        read_released("hog_svm_opencv", tmp_path / "empty.npy")
