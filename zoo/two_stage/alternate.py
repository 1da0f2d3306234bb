"""Faster R-CNN trained in four steps, from Shaoqing Ren, Kaiming He, Ross Girshick and Jian Sun, "Faster R-CNN: Towards
Real-Time Object Detection with Region Proposal Networks" (NIPS 2015, https://arxiv.org/abs/1506.01497), section 3.2.

The network is that of `faster_rcnn_vgg16`, and so is what it answers; only the training differs. Both stages want
convolutions of their own, so they take turns until they share: (1) the proposal network learns, with its own copy of
the convolutions; (2) Fast R-CNN learns from its proposals, with the other copy; (3) the proposal network starts anew on
Fast R-CNN's convolutions, which from here on stay as they are; (4) the head of Fast R-CNN learns on, from the proposals
of (3). The first copy then goes.

The steps are those of the release (rbgirshick/py-faster-rcnn): 60k + 20k for proposals, 30k + 10k for Fast R-CNN, each
pair twice. What we do otherwise: proposals are made while Fast R-CNN learns, with the numbers of joint training,
instead of being stored beforehand, and every step sees two images, where the release's proposal network sees one.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ops.images import Batch
from ops.structures import Target
from zoo.detector import Recipe
from zoo.parts.rpn import RPNOutputs
from zoo.two_stage import faster_rcnn
from zoo.two_stage.fast_rcnn import FastRCNN, TwoStageOutputs
from zoo.two_stage.faster_rcnn import FasterRCNN, faster_rcnn_vgg16

__all__ = ["RECIPE", "SMALL", "SMALL_RECIPE", "AlternateFasterRCNN", "faster_rcnn_vgg16_alternate"]

RECIPE: Recipe = replace(
    faster_rcnn.RECIPE,
    steps=240_000,
    stages=(80, 40, 80, 40),
    milestones=(60_000, 110_000, 180_000, 230_000),
    source="py-faster-rcnn, models/pascal_voc/VGG16/faster_rcnn_alt_opt: VOC 2007 trainval",
)

SMALL: dict[str, Any] = faster_rcnn.SMALL

SMALL_RECIPE: Recipe = replace(faster_rcnn.SMALL_RECIPE, stages=RECIPE.stages, warmup=100)
"""As many steps as all small detectors have, in the release's proportion."""


class AlternateFasterRCNN(FasterRCNN):
    """Faster R-CNN whose parts learn in turns. Outside of `enter_stage`, it is Faster R-CNN, losses included.

    Attributes:
        learning: Which of both networks learns; None outside of stages.
    """

    def __init__(self, num_classes: int, **parts: Any) -> None:
        super().__init__(num_classes, **parts)
        self.learning: Literal["proposals", "regions"] | None = None
        self._parts: tuple[str, ...] = ()
        self._never = frozenset(name for name, value in self.named_parameters() if not value.requires_grad)

    def enter_stage(self, stage: int | None, *, fresh: bool) -> None:
        """One of the four steps, counted from 0.

        Raises:
            ValueError: There is no such step.
        """
        if stage not in (None, 0, 1, 2, 3):
            raise ValueError(f"the training has four steps, 0 to 3, and no {stage}")
        if stage in (0, 1):
            if not hasattr(self, "first_backbone"):
                # Both start from the same weights, those of ImageNet as a rule.
                self.first_backbone = copy.deepcopy(self.backbone)
        elif hasattr(self, "first_backbone"):
            del self.first_backbone
        if stage == 2 and fresh:
            self.rpn.head.start_anew()
        self.learning = None if stage is None else "regions" if stage % 2 else "proposals"
        self._parts = {
            None: ("backbone", "rpn", "roi_heads"),
            0: ("first_backbone", "rpn"),
            1: ("backbone", "roi_heads"),
            2: ("rpn",),
            3: ("roi_heads",),
        }[stage]
        for name, value in self.named_parameters():
            learns = name.split(".")[0] in self._parts and name.removeprefix("first_") not in self._never
            value.requires_grad_(learns)
        self.train(self.training)

    def train(self, mode: bool = True) -> AlternateFasterRCNN:
        """As for any module; but what does not learn in this stage keeps its statistics, too."""
        super().train(mode)
        if self.learning is not None:
            for name, part in self.named_children():
                part.train(mode and name in self._parts)
        return self

    def network(self, batch: Batch, targets: list[Target] | None = None) -> TwoStageOutputs:
        """What is needed for the losses of the stage, or, without targets, to detect."""
        if targets is None or self.learning != "proposals":
            return super().network(batch, targets)
        maps = self._proposing(batch)
        nothing = batch.pixels.new_zeros(0)
        return TwoStageOutputs(maps, self.rpn(maps, batch.size), [], nothing, nothing)

    def propose(
        self, maps: list[Tensor], batch: Batch, targets: list[Target] | None
    ) -> tuple[RPNOutputs | None, list[Tensor]]:
        """Regions of the proposal network, on the convolutions that it learned with."""
        if targets is None or self.learning is None:
            return super().propose(maps, batch, targets)
        with torch.no_grad():
            return super().propose(self._proposing(batch) if hasattr(self, "first_backbone") else maps, batch, targets)

    def losses(self, outputs: TwoStageOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Of the network that learns."""
        if self.learning is None:
            return super().losses(outputs, batch, targets)
        if self.learning == "regions":
            return FastRCNN.losses(self, outputs, batch, targets)
        assert outputs.rpn is not None
        return self.rpn.losses(outputs.rpn, batch, targets)

    def _proposing(self, batch: Batch) -> list[Tensor]:
        """Maps of the convolutions that the proposal network works on."""
        backbone: nn.Module = getattr(self, "first_backbone", self.backbone)
        maps: list[Tensor] = backbone(batch.pixels)
        return maps


def faster_rcnn_vgg16_alternate(num_classes: int, **changes: Any) -> AlternateFasterRCNN:
    """Faster R-CNN on VGG-16, to be trained in four steps.

    Args:
        num_classes: Foreground classes.
        changes: As `faster_rcnn_vgg16`.
    """
    model = faster_rcnn_vgg16(num_classes, kind=AlternateFasterRCNN, **changes)
    assert isinstance(model, AlternateFasterRCNN)
    return model
