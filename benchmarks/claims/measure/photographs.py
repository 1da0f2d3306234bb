"""Level F: published methods on real photographs, of which no detector's answer counts but what it costs.

Returns numbers, and judges nothing.
"""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.claims.measure.running import seen, truth_of
from benchmarks.claims.measure.turns import Timed
from benchmarks.datasets import Dataset
from benchmarks.latency.machine import fixed_threads
from benchmarks.metrics.proposals import proposal_recall
from ops.proposals import SelectiveSearch
from zoo.classical.opencv_cascade import opencv_cascade
from zoo.classical.viola_jones import ViolaJones
from zoo.parts.cascade import Cascades, Sums

__all__ = ["cascade_work", "region_proposals"]

_FACES = "haarcascade_frontalface_default.xml"
_EVERY_STAGE = 200
"""About so many windows of each scale of the first image go through all stages, whether they fail or not."""


def cascade_work(dataset: Dataset, images: int) -> Timed:
    """How much of OpenCV's frontal face cascade a window of a photograph meets, every window of every scale counted.

    Windows of too little contrast are rejected before the first feature, and meet none.
    """
    detector = opencv_cascade(Path(cv2.data.haarcascades) / _FACES)  # type: ignore[attr-defined]
    assert isinstance(detector, ViolaJones)
    cascades = detector.cascades
    stages = cascades.stages(0)
    passed, unlike = torch.zeros(len(stages) + 2, dtype=torch.int64), 0
    for index, image, _ in seen(dataset, images, "windows"):
        for level in detector.pyramid.levels(image, cascades.windows):
            sums = Sums.of(level.pixels[None], cascades.weak.tilted)
            fits, _ = level.places(cascades.window)
            starts = level.starts(torch.nonzero(fits[0]).flatten(), sums.columns)
            found, _ = cascades.judge(0, sums, starts, len(stages))
            passed += torch.bincount(found + 1, minlength=len(passed))
            if index == 0:
                some = slice(None, None, max(1, len(starts) // _EVERY_STAGE))
                unlike += int((_passes_all(cascades, sums, starts[some]) != (found[some] == len(stages))).sum())
    ends = torch.tensor([0, *(rows.stop for rows, _ in stages), stages[-1][0].stop])
    windows, features, met = int(passed.sum()), stages[-1][0].stop, int((passed * ends).sum())
    return Timed(
        {
            "images": min(images, len(dataset)),
            "cascade": _FACES,
            "stages": len(stages),
            "features": features,
            "windows": windows,
            "features_met": met / windows,
            "share_met": met / windows / features,
            "left_after_two": int(passed[3:].sum()) / windows,
            "left_after_all": int(passed[-1]) / windows,
            "decided_otherwise_by_all_stages": unlike,
        }
    )


def _passes_all(cascades: Cascades, sums: Sums, starts: Tensor) -> Tensor:
    """Whether windows pass every stage, each asked whatever the others said."""
    rows, columns = cascades.windows[0]
    contrast = sums.contrast(starts, (rows, columns))
    good = contrast > cascades.least_contrast * (rows - 2) * (columns - 2)
    for of_stage, limit in cascades.stages(0):
        good &= cascades.weak.votes(0, of_stage, sums, starts, contrast) >= limit
    return good


def region_proposals(dataset: Dataset, images: int) -> Timed:
    """Boxes that selective search's fast mode proposes, the seconds that it takes, and the objects that they cover."""
    search = SelectiveSearch()
    counts, seconds = list[int](), list[float]()
    proposals: dict[int | str, NDArray[np.float64]] = {}
    with fixed_threads(1):
        for index, image, _ in seen(dataset, images, "selective search"):
            begin = time.perf_counter()
            boxes = search(image).double().numpy()
            seconds.append(time.perf_counter() - begin)
            counts.append(len(boxes))
            boxes[:, 2:] -= boxes[:, :2]
            proposals[dataset.image_ids[index]] = boxes
    truth = truth_of(dataset, images)
    recall = proposal_recall(truth, proposals, (2_000, max(counts)))
    return Timed(
        {
            "images": len(counts),
            "objects": int((~(truth.crowd | truth.difficult)).sum()),
            "boxes": _spread(counts),
            "seconds": _spread(seconds),
            "recall50_2000": recall["recall50_2000"],
            "recall50_all": recall[f"recall50_{max(counts)}"],
        }
    )


def _spread(values: list[int] | list[float]) -> dict[str, float]:
    low, middle, high = np.percentile(values, [10, 50, 90])
    return {"low": float(low), "median": float(middle), "high": float(high)}
