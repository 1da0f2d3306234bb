"""Models of the time before networks as their authors released them: a file says what detector it wants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from zoo.classical.acf import released
from zoo.classical.dpm import voc_release5
from zoo.classical.lbp_cascade import LbpCascade
from zoo.classical.opencv_cascade import opencv_cascade
from zoo.classical.opencv_hog import opencv_vector
from zoo.classical.viola_jones import ViolaJones
from zoo.detector import Detector

__all__ = ["RELEASED", "read_released"]

_Read = tuple[Detector, tuple[str, ...]]


def _acf(path: Path) -> _Read:
    return released(path), ("person",)


def _dpm(path: Path) -> _Read:
    """A model, or a folder of `CLASS_final.mat`, in alphabetical order; a grammar of people is another detector."""
    paths = [path] if path.is_file() else sorted(path.glob("*_final.mat"))
    paths = [path for path in paths if not path.stem.endswith("_grammar_final")]
    if not paths:
        raise FileNotFoundError(f"{path}: holds no CLASS_final.mat; name a model of voc-release5, or a folder of them")
    names = (path.stem.removesuffix("_final") for path in paths)
    return voc_release5(paths), tuple("person" if name == "inriaperson" else name for name in names)


def _cascade(path: Path) -> _Read:
    return opencv_cascade(path), (path.stem,)


_LARGEST_VECTOR = 1 << 20
"""Bytes; OpenCV's own have some thousands of numbers."""


def _people(path: Path) -> _Read:
    if path.stat().st_size > _LARGEST_VECTOR:
        raise ValueError(f"{path}: has {path.stat().st_size:,} bytes, more than any such vector; give another file")
    try:
        vector = np.load(path, allow_pickle=False)
    # A damaged header can fail in any way, or claim more than there is memory for.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: is no array of numpy ({reason}); write OpenCV's vector by numpy.save") from error
    if not isinstance(vector, np.ndarray):
        raise ValueError(f"{path}: is an archive, not one array of numpy; write OpenCV's vector by numpy.save")
    try:
        return opencv_vector(vector), ("person",)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


RELEASED: dict[str, Callable[[Path], _Read]] = {
    "acf": _acf,
    "dpm": _dpm,
    "hog_svm_opencv": _people,
    "lbp_cascade": _cascade,
    "viola_jones": _cascade,
}
"""By catalog name, what reads a released file: `.mat` of the ACF toolbox or of voc-release5 (also a folder of these),
the vector of an SVM of `cv2.HOGDescriptor` as `.npy`, OpenCV's cascade as `.xml`."""

_CASCADES = {"viola_jones": ViolaJones, "lbp_cascade": LbpCascade}


def read_released(detector: str, path: Path) -> tuple[Detector, tuple[str, ...]]:
    """A detector in evaluation mode, and the names of its labels.

    Args:
        detector: Catalog name, a key of `RELEASED`.
        path: File or folder.

    Raises:
        ValueError: It is damaged, or of another kind of detector.
        OSError: It is missing.
    """
    model, names = RELEASED[detector](path)
    wanted = _CASCADES.get(detector, type(model))
    if type(model) is not wanted:
        raise ValueError(f"{path}: holds a {type(model).__name__}, not a {wanted.__name__}; name the detector it is of")
    return model, names
