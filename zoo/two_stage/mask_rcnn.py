"""Mask R-CNN, from Kaiming He, Georgia Gkioxari, Piotr Dollár and Ross Girshick, "Mask R-CNN" (ICCV 2017,
https://arxiv.org/abs/1703.06870).

A delta of Faster R-CNN on a feature pyramid: a third branch, fully convolutional, says of each cell of a grid over a
region whether it belongs to the object, for each class apart. Regions are pooled by RoIAlign, whose bilinear samples
keep the features in register with the pixels.

Layers, names and constants are torchvision's, whose checkpoints load as they are and give the same detections and
masks. As there, the wanted grid keeps the share of each cell that the object covers, where Detectron makes it 0 or 1.
What we do otherwise: of the grids of all classes only the one that is looked at is computed, and objects' masks stay
in the pixels of the image, where the wanted grids are cut out, instead of being resized with it. Losses are equal to
torchvision's where nothing is resized, and within a percent where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.images import Batch
from ops.masks import crop_masks, paste_masks
from ops.structures import Detections, Target
from zoo.detector import stage
from zoo.parts.mask_head import MaskHead, MaskPredictor
from zoo.parts.roi_head import Pool, PyramidAlign
from zoo.subsample import ClassChannels
from zoo.two_stage import fpn
from zoo.two_stage.fast_rcnn import TwoStageOutputs
from zoo.two_stage.faster_rcnn import FasterRCNN
from zoo.two_stage.release import RELEASES, ReleaseName

__all__ = [
    "RECIPE",
    "SMALL",
    "SMALL_RECIPE",
    "X101_RECIPE",
    "MaskOutputs",
    "MaskRCNN",
    "mask_rcnn_r50_fpn",
    "mask_rcnn_r101_fpn",
    "mask_rcnn_x101_fpn",
]

RECIPE = replace(fpn.RECIPE, source="Detectron, configs/12_2017_baselines/e2e_mask_rcnn_R-50-FPN_1x: COCO train2017")

X101_RECIPE = replace(
    RECIPE,
    batch=8,
    steps=180_000,
    lr=0.01,
    milestones=(120_000, 160_000),
    source="section 4.4, footnote on ResNeXt, in steps of Detectron's 1x: COCO train2017",
)
"""Half as many images fit into memory; the rate and the steps follow."""

SMALL: dict[str, Any] = {**fpn.SMALL, "mask_pool": 10, "mask_widths": (40, 40)}
"""For `shapes`: that of the pyramid, and grids of 20 cells."""

SMALL_RECIPE = fpn.SMALL_RECIPE


@dataclass(frozen=True)
class MaskOutputs(TwoStageOutputs):
    """What the network says, forms included.

    Attributes:
        found: Detections of each image in network pixels, without masks; None given targets.
        mask_logits: `[sum N_i, m, m]`, of the class of each detection, or, given targets, of each positive sample.
    """

    found: tuple[Detections, ...] | None = None
    mask_logits: Tensor | None = None


class MaskRCNN(FasterRCNN):
    """Faster R-CNN with a mask branch inside its second stage. Targets bring masks in the pixels of their images."""

    trains_on_masks = True

    def __init__(
        self,
        num_classes: int,
        *,
        mask_pool: Pool,
        mask_head: nn.Module,
        mask_predictor: MaskPredictor,
        cost_masks: int = 100,
        **parts: Any,
    ) -> None:
        """Join the parts.

        Args:
            num_classes: Foreground classes.
            mask_pool: Features of regions, for the mask branch.
            mask_head: What is computed from them.
            mask_predictor: And the grids from that.
            cost_masks: Detections an image whose masks' cost is counted.
            parts: As `FasterRCNN`.
        """
        super().__init__(num_classes, **parts)
        self.mask_pool = mask_pool
        self.cost_masks = cost_masks
        # Where torchvision has them.
        self.roi_heads.add_module("mask_head", mask_head)
        self.roi_heads.add_module("mask_predictor", mask_predictor)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> MaskOutputs:
        """As Faster R-CNN; then the masks of what it detects or, given targets, of the positive samples (3.1)."""
        both = super().network(batch, targets)
        found = None
        if both.samples is not None:
            positives = [sample.labels > 0 for sample in both.samples]
            boxes = [sample.boxes[rows] for sample, rows in zip(both.samples, positives, strict=True)]
            labels = [sample.labels[rows] for sample, rows in zip(both.samples, positives, strict=True)]
        else:
            found = tuple(self.detect(both, batch))
            boxes, labels = [part.boxes for part in found], [part.labels + 1 for part in found]
        with stage("masks"):
            logits = self._predict_masks(self.mask_pool(both.maps, boxes), torch.cat(labels))
        return MaskOutputs(**vars(both), found=found, mask_logits=logits)

    def _predict_masks(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """Features `[R, C, m, m]` to logits `[R, 2m, 2m]` of the classes `labels`, 1 to C."""
        head, predictor = (self.roi_heads.get_submodule(name) for name in ("mask_head", "mask_predictor"))
        logits: Tensor = predictor(head(pooled), labels)
        return logits

    def postprocess(self, outputs: TwoStageOutputs, batch: Batch) -> list[Detections]:
        """Go back to the pixels of each image, and lay each mask over its box there (3.1)."""
        assert isinstance(outputs, MaskOutputs)
        assert outputs.found is not None
        assert outputs.mask_logits is not None
        grids = outputs.mask_logits.float().sigmoid().split([len(found) for found in outputs.found])
        answers = []
        for frame, found, grid in zip(batch.frames, outputs.found, grids, strict=True):
            boxes = frame.to_image(found.boxes)
            answers.append(Detections(boxes, found.scores, found.labels, paste_masks(grid, boxes, frame.size)))
        return answers

    def losses(self, outputs: TwoStageOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Those of Faster R-CNN, and the mean cross entropy of all cells of the masks of positive samples (3).

        Raises:
            ValueError: The outputs come from a network that was not given the targets, or a target with objects has
                no masks.
        """
        losses = super().losses(outputs, batch, targets)
        assert isinstance(outputs, MaskOutputs)
        assert outputs.samples is not None
        assert outputs.mask_logits is not None
        logits = outputs.mask_logits.float()
        wanted = []
        for index, (frame, sample, target) in enumerate(zip(batch.frames, outputs.samples, targets, strict=True)):
            rows = sample.labels > 0
            if target.masks is not None:
                boxes = frame.to_image(sample.boxes[rows])
                wanted.append(crop_masks(target.masks, boxes, sample.objects[rows], logits.shape[-1]))
            elif len(target):
                raise ValueError(f"target {index} has no masks, which Mask R-CNN learns from; open its data with masks")
        apart = F.binary_cross_entropy_with_logits(logits, torch.cat([logits[:0], *wanted]), reduction="sum")
        return {**losses, "masks": apart / max(1, logits.numel())}

    def head_for_cost(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The heads on fixed numbers of regions."""
        size, count = self.mask_pool.size, len(maps[0]) * self.cost_masks
        pooled = maps[0].new_zeros((count, maps[0].shape[1], size, size))
        self._predict_masks(pooled, torch.ones(count, dtype=torch.int64, device=pooled.device))
        return super().head_for_cost(maps)

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: behind the background, each with a score, four offsets and a grid."""
        masks = {
            f"roi_heads.mask_predictor.mask_fcn_logits.{part}": ClassChannels(leading=1) for part in ("weight", "bias")
        }
        return {**super().class_channels(), **masks}


def mask_rcnn_r50_fpn(
    num_classes: int,
    *,
    width: int = 256,
    mask_pool: int = 14,
    mask_widths: Sequence[int] = (256, 256, 256, 256),
    canonical: float = 224.0,
    release: ReleaseName = "torchvision",
    **changes: Any,
) -> MaskRCNN:
    """Mask R-CNN on ResNet-50 and a feature pyramid.

    Args:
        num_classes: Foreground classes; torchvision's checkpoint for COCO has 90.
        width: Channels of the pyramid and of the proposal network.
        mask_pool: Cells along each side of a region for the mask branch, whose grids have twice as many.
        mask_widths: Channels of its convolutions; the last are those of its deconvolution, too.
        canonical: Regions of this side are pooled at stride 16.
        release: Whose details hold: see `faster_rcnn_r50_fpn`.
        changes: As `faster_rcnn_r50_fpn`.
    """
    model = fpn.faster_rcnn_r50_fpn(
        num_classes,
        width=width,
        canonical=canonical,
        release=release,
        kind=partial(
            MaskRCNN,
            mask_pool=PyramidAlign((4, 8, 16, 32), mask_pool, canonical=canonical, aligned=RELEASES[release].aligned),
            mask_head=MaskHead(width, mask_widths),
            mask_predictor=MaskPredictor(mask_widths[-1], mask_widths[-1], num_classes),
        ),
        **changes,
    )
    assert isinstance(model, MaskRCNN)
    return model


def mask_rcnn_r101_fpn(num_classes: int, **changes: Any) -> MaskRCNN:
    """Mask R-CNN on ResNet-101.

    Args:
        num_classes: Foreground classes.
        changes: As `mask_rcnn_r50_fpn`.
    """
    return mask_rcnn_r50_fpn(num_classes, **{"depth": 101, **changes})


def mask_rcnn_x101_fpn(num_classes: int, **changes: Any) -> MaskRCNN:
    """Mask R-CNN on ResNeXt-101 of 32 groups, 8 channels wide.

    Args:
        num_classes: Foreground classes.
        changes: As `mask_rcnn_r50_fpn`.
    """
    return mask_rcnn_r101_fpn(num_classes, **{"groups": 32, "group_width": 8, **changes})
