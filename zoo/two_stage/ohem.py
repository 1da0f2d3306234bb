"""Online hard example mining, from Abhinav Shrivastava, Abhinav Gupta and Ross Girshick, "Training Region-based Object
Detectors with Online Hard Example Mining" (CVPR 2016, https://arxiv.org/abs/1604.03540).

A delta of Fast R-CNN that changes its training alone. The head looks at all proposals of an image instead of at a drawn
sample, and learns from those of largest loss. Two proposals that overlap much have much the same loss, and one
difficulty would count twice: of those, only the one of larger loss stays. The rules that Fast R-CNN needs to draw a
useful sample are gone: a quarter of positives, and negatives that touch an object.

Constants are those of the author's release (abhi2610/ohem), which has a batch of two images of 64 regions each as two
steps. The release keeps two copies of the head, one that only reads; here the one head reads twice, first without
dropout and without storing what a gradient needs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ops.structures import Target
from zoo.backbones.small import SMALL_RECIPE
from zoo.parts.roi_head import Samples
from zoo.two_stage import fast_rcnn
from zoo.two_stage.fast_rcnn import FastRCNN, fast_rcnn_vgg16

__all__ = ["RECIPE", "SMALL", "SMALL_RECIPE", "HardRCNN", "fast_rcnn_ohem_vgg16"]

RECIPE = replace(fast_rcnn.RECIPE, source="abhi2610/ohem, models/pascal_voc/VGG16/fast_rcnn_ohem: VOC 2007 trainval")

SMALL: dict[str, Any] = {**fast_rcnn.SMALL, "hard": fast_rcnn.SMALL["samples"]}
"""For `shapes`: as many hard regions as Fast R-CNN draws."""


class HardRCNN(FastRCNN):
    """Fast R-CNN that learns from the regions that it gets most wrong; `roi_heads.hard` says how many of an image."""

    @torch.no_grad()
    def choose(self, maps: list[Tensor], samples: list[Samples], targets: list[Target]) -> list[Samples]:
        """Read all regions, image by image for less memory, and keep the hard ones."""
        head, chosen = self.roi_heads, []
        training = head.training
        head.eval()
        for index, (sample, target) in enumerate(zip(samples, targets, strict=True)):
            logits, offsets = head([x[index : index + 1] for x in maps], [sample.boxes])
            class_loss, box_loss = head.region_losses(logits, offsets, [sample], [target])
            (rows,) = head.hardest(class_loss + box_loss, [sample])
            chosen.append(Samples(sample.boxes[rows], sample.labels[rows], sample.objects[rows]))
        head.train(training)
        return chosen


def fast_rcnn_ohem_vgg16(num_classes: int, *, hard: int = 64, hard_nms: float | None = 0.7, **changes: Any) -> FastRCNN:
    """Fast R-CNN on VGG-16 that learns from the hardest regions.

    Args:
        num_classes: Foreground classes.
        hard: Regions of largest loss an image that it learns from (4.2: 128 of two images).
        hard_nms: Of two regions with one label that overlap by more, the one of smaller loss goes (4.2); None keeps
            both.
        changes: As `fast_rcnn_vgg16`; `samples` and `background` do nothing here.
    """
    return fast_rcnn_vgg16(num_classes, kind=HardRCNN, hard=hard, hard_nms=hard_nms, **changes)
