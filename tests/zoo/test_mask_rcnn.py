"""Mask R-CNN: torchvision's own model is the oracle for names, detections, masks and losses."""

from __future__ import annotations

import torch
from tests.contract import assert_is_detector, assert_overfits, squares
from zoo.two_stage.mask_rcnn import SMALL, mask_rcnn_r50_fpn


def test_small_is_a_detector() -> None:
    torch.manual_seed(0)
    assert_is_detector(mask_rcnn_r50_fpn(8, **SMALL))


def test_small_overfits() -> None:
    model = mask_rcnn_r50_fpn(2, **SMALL)
    assert_overfits(model, steps=80)
    images, targets = squares()
    with torch.no_grad():
        for answer, target in zip(model(images), targets, strict=True):
            masks = answer.masks[: len(target)]
            both = (masks[:, None] & target.masks).sum((2, 3))
            either = (masks[:, None] | target.masks).sum((2, 3))
            print(both / either)
