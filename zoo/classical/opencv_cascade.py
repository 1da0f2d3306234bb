"""Detectors from OpenCV's cascade files: they give the boxes that `cv2.CascadeClassifier.detectMultiScale` gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.classical.lbp_cascade import LbpCascade
from zoo.classical.viola_jones import ViolaJones
from zoo.formats.opencv_cascade import CascadeError, read_cascade

__all__ = ["opencv_cascade"]


def opencv_cascade(path: Path, **overrides: Any) -> ViolaJones:
    """A detector of one class with OpenCV's scales, steps and merging, from a file in its format.

    Args:
        path: XML of a cascade, of Haar features or of local binary patterns.
        overrides: `scale_step` and `merge` are OpenCV's `scaleFactor` (1.1) and `minNeighbors` (3), `smallest` its
            `minSize` (none).

    A checkpoint of it keeps its numbers in float16, and may then differ from OpenCV in a box: load it from the XML.

    Raises:
        CascadeError: It cannot be read, or is of a kind that no detector of the zoo has.
    """
    cascade = read_cascade(path)
    trees, nodes = cascade.thresholds.shape
    settings: dict[str, Any] = {"opencv": True, "scale_step": 1.1, "merge": 3, "limit": 10_000, **overrides}
    shape = {"window": cascade.window, "stages": len(cascade.ends), "weak": trees, "nodes": nodes}
    kind = LbpCascade if cascade.kind == "LBP" else ViolaJones
    try:
        model = kind(1, **shape, **settings)
        model.cascades.load_opencv(cascade)
    except ValueError as error:
        raise CascadeError(f"{path}: {error}") from error
    return model.eval()
