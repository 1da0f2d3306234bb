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

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from ops.anchors import caffe_shapes
from ops.images import Batch
from ops.structures import Target
from zoo.backbones.small import SMALL_RECIPE
from zoo.detector import Recipe
from zoo.parts.roi_head import BoxHead, BoxPredictor, Pool, PyramidAlign, RegionMean, RegionPool, RoIHead
from zoo.parts.rpn import RPN, RPNHead, RPNOutputs
from zoo.two_stage import fast_rcnn
from zoo.two_stage.fast_rcnn import BGR_MEAN, FastRCNN, LastMap, TwoStageOutputs, flip_half

__all__ = [
    "RECIPE",
    "RPN_IN_CAFFE",
    "SMALL",
    "SMALL_RECIPE",
    "FasterRCNN",
    "faster_rcnn_vgg16",
    "faster_rcnn_vgg16_align",
    "on_one_map",
]

_Kind = TypeVar("_Kind", bound="FasterRCNN")

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
    # Less what settles its search.
    **{name: value for name, value in fast_rcnn.SMALL.items() if name not in ("search_scales", "min_segment")},
    "scales": (1, 2, 4, 8, 16),
    "rpn_width": 64,
    "before_nms": (1_000, 1_000),
    "after_nms": (200, 100),
    "min_side": 3.0,
}
"""For `shapes`: stride 8, anchors of 8 to 128 px, colours scaled so that statistics fit half precision."""

RPN_IN_CAFFE = {"conv.0.0": "rpn_conv/3x3", "cls_logits": "rpn_cls_score", "bbox_pred": "rpn_bbox_pred"}
"""Layers of `RPNHead` as the released Caffe models call them."""


class FasterRCNN(FastRCNN):
    """Fast R-CNN that proposes its own regions. The parts bring the constants; the builders below bring the parts."""

    def __init__(self, num_classes: int, *, rpn: RPN, cost_regions: int = 300, **parts: Any) -> None:
        """Join the parts.

        Args:
            num_classes: Foreground classes.
            rpn: The first stage, on maps of the same backbone.
            cost_regions: Proposals an image whose cost is counted.
            parts: As `FastRCNN`.
        """
        super().__init__(num_classes, proposer=None, cost_regions=cost_regions, **parts)
        # In torchvision's order: backbone, first stage, second stage.
        second = self.roi_heads
        del self.roi_heads
        self.rpn, self.roi_heads = rpn, second

    def propose(
        self, maps: list[Tensor], batch: Batch, targets: list[Target] | None
    ) -> tuple[RPNOutputs | None, list[Tensor]]:
        """What the first stage says, and its regions `[R_i, 4]` of each image in network pixels, the surest first."""
        first = self.rpn(maps, batch.size)
        return first, self.rpn.propose(first, batch, training=targets is not None)

    def losses(self, outputs: TwoStageOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Of both stages, weighted alike.

        Raises:
            ValueError: The outputs come from a network that was not given the targets.
        """
        second = super().losses(outputs, batch, targets)
        assert outputs.rpn is not None
        return {**self.rpn.losses(outputs.rpn, batch, targets), **second}

    def network_for_cost(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both heads, the second on a fixed number of regions."""
        maps = self.backbone(batch.pixels)
        self.rpn.head(maps)
        return self.head_for_cost(maps)

    def caffe_names(self) -> dict[str, str | tuple[str, ...]]:
        """As Fast R-CNN's, and those of the first stage."""
        return super().caffe_names() | {f"rpn.head.{ours}": theirs for ours, theirs in RPN_IN_CAFFE.items()}

    def num_boxes(self, size: tuple[int, int]) -> int:
        """Anchors at network input `(H, W)`, padded."""
        height, width = (-(-side // self.divisor) * self.divisor for side in size)
        return self.rpn.num_anchors((height, width))


def on_one_map(
    num_classes: int,
    backbone: nn.Module,
    channels: int,
    stride: int,
    heads: RoIHead,
    *,
    kind: Callable[..., _Kind],
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    scales: Sequence[float] = (8.0, 16.0, 32.0),
    rpn_width: int = 512,
    before_nms: Sequence[int] = (12_000, 6_000),
    after_nms: Sequence[int] = (2_000, 300),
    min_side: float = 16.0,
    valid_range: Sequence[float | None] | None = None,
    short: int = 600,
    longest: int = 1_000,
    **parts: Any,
) -> _Kind:
    """The release's first stage on a map, and its input: what detectors of one map share.

    Args:
        num_classes: Foreground classes.
        backbone: Image `[B, 3, H, W]` to maps.
        channels: Of the map that the first stage looks at,
        stride: and its stride.
        heads: The second stage.
        kind: Class of the detector, or what else joins the parts.
        ratios: Of the anchors, height over width.
        scales: Of the anchors, in strides; on COCO the paper adds 4.
        rpn_width: Channels of the proposal network.
        before_nms: Proposals before suppression, in training and in testing.
        after_nms: And after.
        min_side: Least side of a proposal in pixels of the image.
        valid_range: Sizes of the objects that the first stage learns from (SNIP): see `RPN`.
        short: Shorter side of the input.
        longest: Longest side of the input.
        parts: As `FasterRCNN`, where colours are to be others than BGR bytes less Caffe's mean.
    """
    shapes = caffe_shapes(stride, ratios, scales)
    rpn = RPN(
        RPNHead(channels, rpn_width, len(shapes), softmax=True),
        [shapes],
        [stride],
        inside_only=True,
        before_nms=(before_nms[0], before_nms[1]),
        after_nms=(after_nms[0], after_nms[1]),
        min_side=min_side,
        drop_small_first=True,
        valid_range=valid_range,
    )
    colours = {"mean": BGR_MEAN, "std": (1.0, 1.0, 1.0), "caffe": True, "cost_regions": after_nms[1]}
    settings = {"short": short, "longest": longest, **colours, **parts}
    return kind(num_classes, backbone=backbone, rpn=rpn, roi_heads=heads, **settings)


def faster_rcnn_vgg16(
    num_classes: int,
    *,
    kind: Callable[..., FasterRCNN] = FasterRCNN,
    backbone: Literal["vgg16", "small"] = "vgg16",
    widths: Sequence[int] = (16, 24, 48),
    pool: Literal["max", "mean", "align"] = "max",
    pool_size: int = 7,
    head_width: int = 4_096,
    dropout: float = 0.5,
    samples: int = 128,
    valid_range: Sequence[float | None] | None = None,
    repulsion: Sequence[float] | None = None,
    std: float = 1.0,
    **changes: Any,
) -> FasterRCNN:
    """Faster R-CNN on VGG-16, whose first four convolutions stay as ImageNet left them.

    Args:
        num_classes: Foreground classes.
        kind: Class of the detector, or what else joins the parts.
        backbone: VGG-16, or the zoo's small network, all of which learns.
        widths: Channels of the small network.
        pool: RoI pooling; the same with the mean of each cell, which no paper has; or bilinear RoIAlign.
        pool_size: Cells along each side of a region.
        head_width: Channels of both fully connected layers.
        dropout: In both.
        samples: Regions an image that the second stage learns from.
        valid_range: Sizes of the objects that both stages learn from (SNIP): see `RPN` and `RoIHead`.
        repulsion: Weights of the losses that keep boxes off others (Repulsion loss): see `RoIHead`.
        std: What colours are divided by, after the mean is taken off.
        changes: As `on_one_map`.

    Raises:
        ValueError: `pool` is none of these.
    """
    body = LastMap.of(backbone, widths)
    stride, channels = body.stride, body.channels
    pools: dict[str, Pool] = {
        "max": RegionPool(stride, pool_size),
        "mean": RegionMean(stride, pool_size),
        "align": PyramidAlign((stride,), pool_size),
    }
    if pool not in pools:
        raise ValueError(f"pool = {pool!r}: choose one of {', '.join(pools)}")
    heads = RoIHead(
        pools[pool],
        BoxHead(channels * pool_size**2, head_width, dropout),
        BoxPredictor(head_width, num_classes),
        samples=samples,
        nms=0.3,
        valid_range=valid_range,
        repulsion=repulsion,
    )
    settings = {"valid_range": valid_range, "std": (std, std, std), "cost_regions": 300, **changes}
    return on_one_map(num_classes, body, channels, stride, heads, kind=kind, **settings)


def faster_rcnn_vgg16_align(num_classes: int, **changes: Any) -> FasterRCNN:
    """Faster R-CNN on VGG-16 with RoIAlign in place of RoI pooling: Mask R-CNN's ablation (its table 2c, 2d) alone.

    Args:
        num_classes: Foreground classes.
        changes: As `faster_rcnn_vgg16`.
    """
    return faster_rcnn_vgg16(num_classes, **{"pool": "align", **changes})
