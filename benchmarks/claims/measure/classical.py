"""Levels F and S: published detectors of the time before networks beside SSD300, timed on the same photographs.

The classical ones look for one class, and each as it was published: from which size of object on, and in which steps
of scale, is told in what is returned. Nothing is judged here.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.beside import contender
from benchmarks.claims.measure.turns import Rival, Timed, timed_by_turns
from benchmarks.datasets import Dataset
from benchmarks.provenance import weights_id
from ops.images import Batch, unscaled
from ops.structures import Detections, Target
from zoo import checkpoints
from zoo.classical.acf import released
from zoo.classical.opencv_cascade import opencv_cascade
from zoo.classical.viola_jones import ViolaJones
from zoo.detector import Detector
from zoo.download import mirror_folders

__all__ = ["OpenCVCascade", "classical_costs"]

_FACES = "haarcascade_frontalface_default.xml"
_PEDESTRIANS = "AcfInriaDetector.mat"
_ROUNDS = 1


class OpenCVCascade(Detector):
    """`cv2.CascadeClassifier` with the steps and the merging of `opencv_cascade`, as a detector that can be timed."""

    def __init__(self, path: Path, *, scale_step: float = 1.1, merge: int = 3) -> None:
        super().__init__(1)
        self.classifier = cv2.CascadeClassifier(str(path))
        self.scale_step, self.merge = scale_step, merge

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Images as they are, padded to one size."""
        return unscaled(images)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> list[Tensor]:
        """Boxes `[n, 4]` of each image."""
        found = []
        for pixels, frame in zip(batch.pixels, batch.frames, strict=True):
            colours = (pixels[:, : frame.inner[0], : frame.inner[1]] * 255).round().byte().permute(1, 2, 0)
            grey = cv2.cvtColor(np.ascontiguousarray(colours.numpy()), cv2.COLOR_RGB2GRAY)
            windows = self.classifier.detectMultiScale(grey, self.scale_step, self.merge)
            boxes = torch.from_numpy(np.array(windows, dtype=np.float32).reshape(-1, 4))
            boxes[:, 2:] += boxes[:, :2]
            found.append(boxes)
        return found

    def postprocess(self, outputs: list[Tensor], batch: Batch) -> list[Detections]:
        """OpenCV merges by itself, and scores nothing."""
        return [Detections(boxes, torch.ones(len(boxes)), torch.zeros(len(boxes)).long()) for boxes in outputs]


@dataclass(frozen=True)
class _Entrant:
    """A detector to be timed, and what is to be known of it."""

    model: Detector
    about: dict[str, Any]


def classical_costs(dataset: Dataset, images: int) -> Timed:
    """Times of a face cascade, by the zoo and by OpenCV, and of ACF's pedestrians where its file is, beside two SSD300.

    SSD300 of the paper's width has random weights, which cost what trained ones do but for what is suppressed; the
    small one is that which ships.
    """
    pictures = [dataset[index][0] for index in range(min(images, len(dataset)))]
    sizes = [(int(picture.shape[1]), int(picture.shape[2])) for picture in pictures]
    entrants = {**_cascades(sizes), **_pedestrians(sizes), **_networks(dataset)}
    rivals = [Rival(name, one.model) for name, one in entrants.items()]
    timed = timed_by_turns(rivals, pictures, _ROUNDS, ("preprocess", "network", "end_to_end"))
    return replace(timed, metrics={"models": {name: one.about for name, one in entrants.items()}, **timed.metrics})


def _cascades(sizes: Sequence[tuple[int, int]]) -> dict[str, _Entrant]:
    path = Path(cv2.data.haarcascades) / _FACES  # type: ignore[attr-defined]
    ours = opencv_cascade(path)
    assert isinstance(ours, ViolaJones)
    theirs = OpenCVCascade(path, scale_step=ours.pyramid.step, merge=ours.merge)
    about = _scan(path, ours, sizes, ours.cascades.windows[0], ours.pyramid.step)
    return {"viola_jones": _Entrant(ours, about), "opencv_cascade": _Entrant(theirs, about)}


def _pedestrians(sizes: Sequence[tuple[int, int]]) -> dict[str, _Entrant]:
    for path in (path for folder in mirror_folders() for path in sorted(folder.rglob(_PEDESTRIANS))):
        model = released(path)
        step = 2 ** (1 / model.pyramids.per_octave)
        return {"acf": _Entrant(model, _scan(path, model, sizes, model.object, step))}
    return {}


def _scan(
    path: Path, model: Detector, sizes: Sequence[tuple[int, int]], smallest: tuple[int, int], step: float
) -> dict[str, Any]:
    """Smallest object, `(H, W)` in pixels, step of scale, and mean number of windows of an image."""
    return {
        "weights": weights_id(path).model_dump(),
        "classes": 1,
        "smallest": list(smallest),
        "scale_step": step,
        "windows": statistics.fmean(model.num_boxes(size) or 0 for size in sizes),
    }


def _networks(dataset: Dataset) -> dict[str, _Entrant]:
    path = checkpoints.find("ssd300_vgg16", "shapes")
    full, small = contender("ssd300_vgg16", dataset, random=True), contender(f"ssd300_vgg16={path}", dataset)
    return {
        "ssd300_vgg16": _Entrant(full.model, {"random": full.seed, "classes": full.model.num_classes}),
        "ssd300_vgg16_small": _Entrant(
            small.model, {"weights": weights_id(path).model_dump(), "classes": small.model.num_classes}
        ),
    }
