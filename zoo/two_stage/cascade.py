"""Cascade R-CNN, from Zhaowei Cai and Nuno Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection"
(CVPR 2018, https://arxiv.org/abs/1712.00726).

A delta of Faster R-CNN on a pyramid: the second stage is a chain of heads. Each corrects the boxes of the one before,
and learns from them as they then are, under a stricter overlap. A head trained at a high overlap alone would find
hardly any positive among the raw proposals; among corrected boxes it finds as many as the first head did.

Heads and training constants are those of the authors' release (zhaoweicai/cascade-rcnn): one box for all classes,
losses of the later heads at a half and a quarter, all boxes of the stage before instead of a sample, the objects
added to each stage, and at test the scores of all heads averaged on the boxes that the last one is given. What we do
otherwise: backbone, anchors, pooling and smooth L1 are those of our Faster R-CNN on a pyramid, so that the heads are
all that differs; the release has anchors written out by hand, no level beyond the fourth, and colour distortion.
Boxes are weighted (30, 30, 15, 15) in the third stage, as in Detectron2; the release rounds 1/30 to .033.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ops.images import Batch
from ops.structures import Target
from zoo.detector import Recipe, stage
from zoo.parts.roi_head import BoxHead, BoxPredictor, RoIHead, Samples
from zoo.subsample import ClassChannels
from zoo.two_stage import fpn
from zoo.two_stage.fast_rcnn import TwoStageOutputs, flip_half
from zoo.two_stage.faster_rcnn import FasterRCNN
from zoo.two_stage.fpn import SMALL_RECIPE, faster_rcnn_r50_fpn

__all__ = [
    "RECIPE",
    "SMALL",
    "SMALL_RECIPE",
    "CascadeOutputs",
    "CascadeRCNN",
    "StageOutputs",
    "cascade_rcnn_r50_fpn",
    "cascade_rcnn_r101_fpn",
]

RECIPE = Recipe(
    batch=8,
    steps=280_000,
    lr=0.005,
    momentum=0.9,
    weight_decay=1e-4,
    milestones=(160_000, 240_000),
    augment=flip_half,
    source="zhaoweicai/cascade-rcnn, examples/coco/res50-15s-800-fpn-cascade: COCO train2017, 8 images a step",
)

SMALL: dict[str, Any] = {**fpn.SMALL, "head_width": 48}
"""For `shapes`: all of the small Faster R-CNN on a pyramid but the width of the heads, which was 128: three heads of
48 have about as many parameters as the one."""


@dataclass(frozen=True)
class StageOutputs:
    """What one head says in training.

    Attributes:
        logits: `[sum R_i, C + 1]`.
        offsets: `[sum R_i, 1, 4]`.
        samples: Its regions and what they are to be.
    """

    logits: Tensor
    offsets: Tensor
    samples: list[Samples]


@dataclass(frozen=True)
class CascadeOutputs(TwoStageOutputs):
    """What the network says; regions, logits and offsets are those of the last stage.

    Attributes:
        stages: What each head says, given targets.
    """

    stages: tuple[StageOutputs, ...] = ()


class CascadeRCNN(FasterRCNN):
    """Faster R-CNN with heads in series.

    Attributes:
        roi_heads: The last stage, which detects.
        earlier: The stages before it.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        stages: Sequence[RoIHead],
        loss_weights: Sequence[float],
        average: bool = True,
        **parts: Any,
    ) -> None:
        """Join the parts.

        Args:
            num_classes: Foreground classes.
            stages: The heads, each with its overlap and weights. They differ in nothing else, and share their pooling.
            loss_weights: Of the losses of each stage.
            average: Average the scores of all heads on the boxes given to the last, instead of taking its own.
            parts: As `FasterRCNN`, but `roi_heads`.

        Raises:
            ValueError: There is no stage, or there are not as many weights as stages.
        """
        if not stages or len(loss_weights) != len(stages):
            raise ValueError(f"{len(stages)} stages, {len(loss_weights)} weights of their losses: need one each")
        super().__init__(num_classes, roi_heads=stages[-1], **parts)
        # In the order of work.
        del self.roi_heads
        self.earlier, self.roi_heads = nn.ModuleList(stages[:-1]), stages[-1]
        self.loss_weights, self.average = tuple(loss_weights), average

    @property
    def stages(self) -> list[RoIHead]:
        """The heads in order."""
        return [*self.earlier, self.roi_heads]

    def network(self, batch: Batch, targets: list[Target] | None = None) -> CascadeOutputs:
        """Propose, and correct stage by stage; given targets, each stage samples from the boxes of the one before."""
        maps = self.backbone(batch.pixels)
        with stage("proposals"):
            first, regions = self.propose(maps, batch, targets)
        said = []
        for index, head in enumerate(self.stages):
            samples = None
            if targets is not None:
                samples = head.sample(regions, targets)
                regions = [sample.boxes for sample in samples]
            pooled = head.box_pool(maps, regions)
            logits, offsets = head.predict(pooled)
            if samples is not None:
                said.append(StageOutputs(logits, offsets, samples))
            if index + 1 < len(self.stages):
                regions = self.corrected(head, offsets, regions, batch)
        if targets is None and self.average:
            scores = [earlier.predict(pooled)[0].float().softmax(1) for earlier in self.earlier]  # type: ignore[operator]
            # Suppression takes the softmax again, of which this is the inverse.
            logits = torch.stack([*scores, logits.float().softmax(1)]).mean(0).log()
        return CascadeOutputs(maps, first, regions, logits, offsets, samples, tuple(said))

    @staticmethod
    @torch.no_grad()
    def corrected(head: RoIHead, offsets: Tensor, regions: list[Tensor], batch: Batch) -> list[Tensor]:
        """The regions as `head` corrects them by `offsets [sum R_i, 1, 4]`, within the image; no gradient passes.

        What the correction leaves without an area is left out.
        """
        answers = []
        for frame, boxes, part in zip(
            batch.frames, regions, offsets.float().split([len(boxes) for boxes in regions]), strict=True
        ):
            decoded = head.coder.decode(part[:, -1], boxes)
            decoded = torch.minimum(decoded.clamp(min=0), decoded.new_tensor(frame.inner[::-1] * 2))
            answers.append(decoded[(decoded[:, 2:] > decoded[:, :2]).all(1)])
        return answers

    def losses(self, outputs: TwoStageOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Of the proposals and of each head, `class1`, `boxes1`, `class2`, ...

        Raises:
            ValueError: The outputs come from a network that was not given the targets.
        """
        if not isinstance(outputs, CascadeOutputs) or not outputs.stages or outputs.rpn is None:
            raise ValueError("losses need outputs of network(batch, targets): it samples the regions to learn from")
        losses = self.rpn.losses(outputs.rpn, batch, targets)
        for index, (head, said, weight) in enumerate(
            zip(self.stages, outputs.stages, self.loss_weights, strict=True), start=1
        ):
            for name, value in head.losses(said.logits, said.offsets, said.samples, targets).items():
                losses[f"{name}{index}"] = weight * value
        return losses

    def head_for_cost(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """All heads on a fixed number of regions; those before the last run twice where scores are averaged."""
        size = self.roi_heads.box_pool.size
        pooled = maps[0].new_zeros((len(maps[0]) * self.cost_regions, maps[0].shape[1], size, size))
        for head in self.earlier:
            for _ in range(2 if self.average else 1):
                head.predict(pooled)  # type: ignore[operator]
        return self.roi_heads.predict(pooled)

    def class_channels(self) -> dict[str, ClassChannels]:
        """Scores of the classes behind that of the background, in each head."""
        heads = [*(f"earlier.{index}" for index in range(len(self.earlier))), "roi_heads"]
        return {
            f"{head}.box_predictor.cls_score.{part}": ClassChannels(leading=1)
            for head in heads
            for part in ("weight", "bias")
        }


def cascade_rcnn_r50_fpn(
    num_classes: int,
    *,
    stages: int = 3,
    overlaps: Sequence[float] = (0.5, 0.6, 0.7, 0.75),
    precisions: Sequence[float] = (10.0, 20.0, 30.0, 40.0),
    loss_weights: Sequence[float] = (1.0, 0.5, 0.25, 0.125),
    average: bool = True,
    head_width: int = 1_024,
    samples: int = 512,
    **pyramid: Any,
) -> CascadeRCNN:
    """Cascade R-CNN on ResNet-50 and a feature pyramid.

    Args:
        num_classes: Foreground classes.
        stages: Heads. One is Faster R-CNN with one box for all classes; the paper finds three best.
        overlaps: From which a region is a positive of each stage; the first `stages` count, here and below.
        precisions: Weight of the offsets of a box's centre in each stage; those of its sides weigh half as much. Boxes
            come closer to the objects from stage to stage, and so that the losses keep their size, this rises (4.1).
        loss_weights: Of the losses of each stage.
        average: See `CascadeRCNN`.
        head_width: Channels of both fully connected layers of each head.
        samples: Regions an image that the first head learns from; the others learn from all that it gives.
        pyramid: As `faster_rcnn_r50_fpn`.

    Raises:
        ValueError: There are more stages than settings for them.
    """
    if not 1 <= stages <= min(len(overlaps), len(precisions), len(loss_weights)):
        raise ValueError(f"{stages} stages need as many overlaps, precisions and loss weights, and at least one")
    # Its own head goes unused.
    base = faster_rcnn_r50_fpn(num_classes, head_width=1, samples=samples, **pyramid)
    pool = base.roi_heads.box_pool
    heads = [
        RoIHead(
            pool,
            BoxHead(base.rpn.head.cls_logits.in_channels * pool.size**2, head_width),
            BoxPredictor(head_width, num_classes, shared=True),
            overlap=overlaps[index],
            samples=samples if index == 0 else None,
            beta=base.roi_heads.beta,
            weights=(precision, precision, precision / 2, precision / 2),
            valid_range=base.roi_heads.valid_range,
            repulsion=base.roi_heads.repulsion,
        )
        for index, precision in enumerate(precisions[:stages])
    ]
    return CascadeRCNN(
        num_classes,
        stages=heads,
        loss_weights=loss_weights[:stages],
        average=average,
        backbone=base.backbone,
        rpn=base.rpn,
        short=base.short,
        longest=base.longest,
        divisor=base.divisor,
        cost_regions=base.cost_regions,
    )


def cascade_rcnn_r101_fpn(num_classes: int, **changes: Any) -> CascadeRCNN:
    """Cascade R-CNN on ResNet-101 and a feature pyramid.

    Args:
        num_classes: Foreground classes.
        changes: As `cascade_rcnn_r50_fpn`.
    """
    return cascade_rcnn_r50_fpn(num_classes, **{"depth": 101, **changes})
