"""Level S: what further regions cost a detector that shares all convolutions, and one that shares all but the last
stage. Returns numbers, and judges nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.claims.ledger import LedgerError
from benchmarks.claims.measure.turns import Rival, Timed, timed_by_turns
from benchmarks.datasets import Dataset
from benchmarks.evaluate import find_subject
from benchmarks.provenance import weights_id
from zoo.two_stage.c4 import StageHead
from zoo.two_stage.fast_rcnn import LastMap
from zoo.two_stage.faster_rcnn import FasterRCNN

__all__ = ["COUNTS", "region_costs"]

COUNTS = (50, 100, 300, 1_000)
"""Regions an image."""

_DETECTORS = ("rfcn_r101", "faster_rcnn_r101_c4")
_IMAGES, _ROUNDS = 50, 3


def region_costs(dataset: Dataset, images: int) -> Timed:
    """Times of a small R-FCN, and of a small Faster R-CNN whose last stage runs a region, by their number of regions.

    Both see exactly so many regions, the best of their own first stage. For that the suppression there lets everything
    pass: no two boxes overlap by more than 1. Boxes that are too small are left out before the best are chosen.
    However many are kept, as many enter that suppression, so that the first stage costs the same for all numbers and a
    slope is that of what comes behind it.

    Raises:
        LedgerError: An image has fewer regions.
    """
    weights, models = dict[str, Path](), dict[str, FasterRCNN]()
    for name in _DETECTORS:
        subject = find_subject(name, dataset.name, len(dataset.class_names))
        assert isinstance(subject.model, FasterRCNN)
        weights[name], models[name] = subject.weights, subject.model
    pictures = [dataset[index][0] for index in range(min(images, _IMAGES, len(dataset)))]
    rivals, seen = list[Rival](), dict[str, dict[str, int]]()
    for count in COUNTS:
        for name, model in models.items():
            rivals.append(Rival(f"{name} {count}", model, partial(_keep, model, count)))
            rivals[-1].ready()
            seen.setdefault(name, {})[str(count)] = _seen_by_last_stage(model, pictures[0])
    for name, model in models.items():
        _check(weights[name], model, pictures)
    timed = timed_by_turns(rivals, pictures, _ROUNDS, ("network", "end_to_end"))
    about: dict[str, Any] = {
        "regions": list(COUNTS),
        "seen_by_last_stage": seen,
        "weights": {name: weights_id(path).model_dump() for name, path in weights.items()},
    }
    return replace(timed, metrics={**about, **timed.metrics})


def _keep(model: FasterRCNN, count: int) -> None:
    """Let the second stage see the best `count` boxes of the first."""
    rpn = model.rpn
    rpn.nms, rpn.drop_small_first = 1.0, True
    rpn.before_nms, rpn.after_nms = (rpn.before_nms[0], max(COUNTS)), (rpn.after_nms[0], count)


def _check(weights: Path, model: FasterRCNN, pictures: list[Tensor]) -> None:
    """See that there are regions enough for the largest number; the others are the first of these."""
    _keep(model, max(COUNTS))
    for index, picture in enumerate(pictures):
        with torch.inference_mode():
            (regions,) = model.proposals([picture])
        if len(regions) != max(COUNTS):
            raise LedgerError(
                f"{weights}: proposes {len(regions)} regions in image {index}, and {max(COUNTS)} are to be timed; "
                f"take a checkpoint with more anchors or a smaller `min_side`"
            )


def _seen_by_last_stage(model: FasterRCNN, picture: Tensor) -> int:
    """Maps or crops that go through the last stage of the backbone's convolutions for one image."""
    seen = list[int]()

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(len(inputs[0]))

    head, backbone = model.roi_heads.box_head, model.backbone
    assert isinstance(backbone, LastMap)
    stage = head.stage if isinstance(head, StageHead) else backbone.body.stages[-1]
    handle = stage.register_forward_pre_hook(count)
    try:
        with torch.inference_mode():
            model([picture])
    finally:
        handle.remove()
    return sum(seen)
