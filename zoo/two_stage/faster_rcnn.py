"""Faster R-CNN, from Shaoqing Ren, Kaiming He, Ross Girshick and Jian Sun, "Faster R-CNN: Towards Real-Time Object
Detection with Region Proposal Networks" (NIPS 2015, https://arxiv.org/abs/1506.01497).

A region proposal network looks at the feature map of a backbone and proposes boxes that may hold an object; the head of
Fast R-CNN pools features of each proposal from the same map, and says what it holds. Both stages share the backbone's
convolutions, so that proposals cost next to nothing.

Constants are those of the authors' Python release (rbgirshick/py-faster-rcnn), trained jointly ("end2end"). What we do
otherwise: boxes are continuous, so that overlaps lack the release's additional pixel and a decoded box does not grow
by one; anchors and the offsets from them are the same. Decoded sides cannot overflow. Where a batch holds several
images, the losses of the proposal network are divided by the samples of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ops.anchors import caffe_shapes
from ops.augment import flip
from ops.images import Batch, normalise, resize_short_side, stack
from ops.structures import Detections, Target
from zoo.backbones.small import SMALL_RECIPE, SmallNet
from zoo.backbones.vgg import VGG16
from zoo.detector import Detector, Recipe
from zoo.parts.roi_head import BoxHead, BoxPredictor, PyramidAlign, RegionPool, RoIHead, Samples
from zoo.parts.rpn import RPN, RPNHead, RPNOutputs
from zoo.subsample import ClassChannels

__all__ = ["RECIPE", "SMALL", "SMALL_RECIPE", "FasterRCNN", "TwoStageOutputs", "faster_rcnn_vgg16", "flip_half"]


def flip_half(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirror left and right, one time in two: all the augmentation that the two-stage papers use."""
    return flip(image, target) if float(torch.rand(())) < 0.5 else (image, target)


RECIPE = Recipe(
    batch=2,
    steps=70_000,
    lr=1e-3,
    momentum=0.9,
    weight_decay=5e-4,
    bias_decay=5e-4,
    bias_lr=2.0,
    milestones=(50_000,),
    augment=flip_half,
    source="py-faster-rcnn, models/pascal_voc/VGG16/faster_rcnn_end2end: VOC 2007 trainval",
)

SMALL: dict[str, Any] = {
    "backbone": "small",
    "scales": (1, 2, 4, 8, 16),
    "rpn_width": 64,
    "before_nms": (600, 300),
    "after_nms": (200, 100),
    "min_side": 3.0,
    "head_width": 112,
    "dropout": 0.0,
    "samples": 48,
    "short": 160,
    "longest": 160,
    "std": 57.0,
}
"""For `shapes`: stride 8, anchors of 8 to 128 px, colours scaled so that statistics fit half precision."""


@dataclass(frozen=True)
class TwoStageOutputs:
    """What both stages say.

    Attributes:
        maps: Features, for heads that look at the final boxes.
        rpn: The first stage.
        regions: `[R_i, 4]` of each image in network pixels: proposals, or, given targets, the samples.
        logits: `[sum R_i, C + 1]`, the background first.
        offsets: `[sum R_i, C + 1, 4]`.
        samples: What the regions are to be, given targets.
    """

    maps: list[Tensor]
    rpn: RPNOutputs
    regions: list[Tensor]
    logits: Tensor
    offsets: Tensor
    samples: list[Samples] | None = None


class FasterRCNN(Detector):
    """Two stages over one backbone. The parts bring the constants; the builders below bring the parts."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: nn.Module,
        rpn: RPN,
        roi_heads: RoIHead,
        short: int,
        longest: int,
        divisor: int = 1,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        caffe: bool = False,
        cost_regions: int = 300,
    ) -> None:
        """Join the parts.

        Args:
            num_classes: Foreground classes.
            backbone: Image `[B, 3, H, W]` to maps, those that `rpn` and `roi_heads` look at.
            rpn: The first stage.
            roi_heads: The second.
            short: Images are resized to this shorter side,
            longest: or less where the longer side would pass this.
            divisor: Padded to a multiple of this.
            mean: Of the colours.
            std: Of the colours.
            caffe: Whether colours are BGR bytes instead of RGB in [0, 1], and sides are rounded to the nearest.
            cost_regions: Proposals an image whose cost is counted.
        """
        super().__init__(num_classes)
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.short, self.longest, self.divisor = short, longest, divisor
        self.mean, self.std, self.caffe = tuple(mean), tuple(std), caffe
        self.cost_regions = cost_regions

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Normalise, resize by the shorter side, pad at the bottom and right with the mean colour."""
        peak = 255.0 if self.caffe else 1.0
        colours = [normalise(image, self.mean, self.std, bgr=self.caffe, peak=peak) for image in images]
        resized = [resize_short_side(image, self.short, self.longest, nearest=self.caffe) for image in colours]
        return stack(resized, self.divisor)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> TwoStageOutputs:
        """Propose, and classify the proposals; given targets, a sample of the proposals and of the objects."""
        maps = self.backbone(batch.pixels)
        first = self.rpn(maps, batch.size)
        regions = self.rpn.propose(first, batch, training=targets is not None)
        samples = None
        if targets is not None:
            samples = self.roi_heads.sample(regions, targets)
            regions = [sample.boxes for sample in samples]
        logits, offsets = self.roi_heads(maps, regions)
        return TwoStageOutputs(maps, first, regions, logits, offsets, samples)

    def postprocess(self, outputs: TwoStageOutputs, batch: Batch) -> list[Detections]:
        """Decode a box a class, suppress within each class, and go back to the pixels of each image."""
        counts = [len(regions) for regions in outputs.regions]
        answers = []
        for frame, regions, logits, offsets in zip(
            batch.frames, outputs.regions, outputs.logits.split(counts), outputs.offsets.split(counts), strict=True
        ):
            found = self.roi_heads.detect(logits, offsets, regions, frame.inner)
            answers.append(Detections(frame.to_image(found.boxes), found.scores, found.labels))
        return answers

    def losses(self, outputs: TwoStageOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Of both stages, weighted alike.

        Raises:
            ValueError: The outputs come from a network that was not given the targets.
        """
        if outputs.samples is None:
            raise ValueError("losses need outputs of network(batch, targets): it samples the regions to learn from")
        first = self.rpn.losses(outputs.rpn, batch, targets)
        return {**first, **self.roi_heads.losses(outputs.logits, outputs.offsets, outputs.samples, targets)}

    def network_for_cost(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both heads, the second on a fixed number of regions."""
        maps = self.backbone(batch.pixels)
        self.rpn.head(maps)
        size = self.roi_heads.box_pool.size
        pooled = maps[0].new_zeros((len(batch.frames) * self.cost_regions, maps[0].shape[1], size, size))
        return self.roi_heads.predict(pooled)

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: behind the background, each with a score and four offsets."""
        return {
            f"roi_heads.box_predictor.{layer}.{part}": ClassChannels(leading=1, inner=inner)
            for layer, inner in (("cls_score", 1), ("bbox_pred", 4))
            for part in ("weight", "bias")
        }

    def num_boxes(self, size: tuple[int, int]) -> int:
        """Anchors at network input `(H, W)`, padded."""
        height, width = (-(-side // self.divisor) * self.divisor for side in size)
        return self.rpn.num_anchors((height, width))


class _OneMap(nn.Module):
    """The last map of a backbone alone; the first `frozen` children of its `stages` do not learn."""

    def __init__(self, body: VGG16 | SmallNet, frozen: int = 0) -> None:
        super().__init__()
        self.body = body
        for stage in list(body.stages)[:frozen]:
            stage.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.body(x)
        return maps[-1:]


def faster_rcnn_vgg16(
    num_classes: int,
    *,
    backbone: Literal["vgg16", "small"] = "vgg16",
    widths: Sequence[int] = (16, 24, 48),
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    scales: Sequence[float] = (8.0, 16.0, 32.0),
    rpn_width: int = 512,
    before_nms: Sequence[int] = (12_000, 6_000),
    after_nms: Sequence[int] = (2_000, 300),
    min_side: float = 16.0,
    pool: Literal["max", "align"] = "max",
    pool_size: int = 7,
    head_width: int = 4_096,
    dropout: float = 0.5,
    samples: int = 128,
    short: int = 600,
    longest: int = 1_000,
    std: float = 1.0,
) -> FasterRCNN:
    """Faster R-CNN on VGG-16, whose first four convolutions stay as ImageNet left them.

    Args:
        num_classes: Foreground classes.
        backbone: VGG-16, or the zoo's small network, all of which learns.
        widths: Channels of the small network.
        ratios: Of the anchors, height over width.
        scales: Of the anchors, in strides; on COCO the paper adds 4.
        rpn_width: Channels of the proposal network.
        before_nms: Proposals before suppression, in training and in testing.
        after_nms: And after.
        min_side: Least side of a proposal in pixels of the image.
        pool: RoI pooling, or bilinear RoIAlign in its stead.
        pool_size: Cells along each side of a region.
        head_width: Channels of both fully connected layers.
        dropout: In both.
        samples: Regions an image that the second stage learns from.
        short: Shorter side of the input.
        longest: Longest side of the input.
        std: What colours are divided by, after the mean is taken off.
    """
    if backbone == "vgg16":
        body: VGG16 | SmallNet = VGG16(ceil_mode=True)
    else:
        body = SmallNet(tuple(widths))
    stride, channels = body.strides[-1], body.channels[-1]
    shapes = caffe_shapes(stride, ratios, scales)
    region_pool = RegionPool(stride, pool_size) if pool == "max" else PyramidAlign((stride,), pool_size)
    return FasterRCNN(
        num_classes,
        backbone=_OneMap(body, frozen=2 if backbone == "vgg16" else 0),
        rpn=RPN(
            RPNHead(channels, rpn_width, len(shapes), softmax=True),
            [shapes],
            [stride],
            inside_only=True,
            before_nms=(before_nms[0], before_nms[1]),
            after_nms=(after_nms[0], after_nms[1]),
            min_side=min_side,
            drop_small_first=True,
        ),
        roi_heads=RoIHead(
            region_pool,
            BoxHead(channels * pool_size**2, head_width, dropout),
            BoxPredictor(head_width, num_classes),
            samples=samples,
            nms=0.3,
        ),
        short=short,
        longest=longest,
        mean=(102.9801, 115.9465, 122.7717),
        std=(std, std, std),
        caffe=True,
        cost_regions=300,
    )
