"""Faster R-CNN on ResNet's fourth stage ("C4"), from Kaiming He, Xiangyu Zhang, Shaoqing Ren and Jian Sun, "Deep
Residual Learning for Image Recognition" (CVPR 2016, https://arxiv.org/abs/1512.03385), appendix A.

ResNet has no hidden fully connected layers to be the head of Fast R-CNN. So the convolutions up to conv4 run over the
image, proposals come from conv4's map, and the whole of conv5 runs over each region, pooled to 14x14, which its first
block halves; an average over what is left goes to the two predictors.

Constants are those of Detectron, whose schedule the recipe is, and whose published networks fit, as detectron2's do
(`release`). As there, RoIAlign stands where the paper has RoI pooling, batch normalisation keeps its statistics, scale
and shift, and the proposal network has one score an anchor and as many channels as its input. What we do otherwise:
boxes are continuous, so that overlaps lack Detectron's additional pixel.

On counting. The normalisation's scales and shifts never learn and are buffers here, as in detectron2; Detectron's count
has them, 53,120 for ResNet-50 and 105,344 for ResNet-101. The background has four box numbers that nobody reads, as in
Detectron and in the paper; detectron2's count lacks these 8,196.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from zoo.backbones.resnet import ResNet
from zoo.backbones.small import SmallNet
from zoo.detector import Recipe
from zoo.parts.roi_head import BoxPredictor, PyramidAlign, RoIHead
from zoo.parts.rpn import RPN, RPNHead
from zoo.two_stage import faster_rcnn
from zoo.two_stage.fast_rcnn import LastMap, flip_half
from zoo.two_stage.faster_rcnn import SMALL_RECIPE, FasterRCNN
from zoo.two_stage.release import RELEASES

__all__ = ["RECIPE", "SMALL", "SMALL_RECIPE", "StageHead", "faster_rcnn_r50_c4", "faster_rcnn_r101_c4"]

RECIPE = Recipe(
    batch=8,
    steps=180_000,
    lr=0.01,
    momentum=0.9,
    weight_decay=1e-4,
    bias_lr=2.0,
    milestones=(120_000, 160_000),
    warmup=500,
    warmup_factor=1 / 3,
    augment=flip_half,
    source="Detectron, configs/12_2017_baselines/e2e_faster_rcnn_R-50-C4_1x: COCO train2017",
)

SMALL: dict[str, Any] = {
    **{name: faster_rcnn.SMALL[name] for name in ("backbone", "before_nms", "after_nms", "short", "longest", "std")},
    "widths": (16, 24, 48, 96),
    "scales": (1, 2, 4, 8, 16),
    "rpn_width": 64,
    "min_side": 3.0,
    "pool_size": 6,
    "samples": 48,
}
"""For `shapes`: as Faster R-CNN's, with a further stage of the small network as the head."""


class StageHead(nn.Module):
    """The last stage of a backbone over each region, and the average of what it gives."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, pooled: Tensor) -> Tensor:
        """Regions `[R, C, 14, 14]` to `[R, channels of the stage]`."""
        x: Tensor = self.stage(pooled)
        return x.mean((2, 3))


def faster_rcnn_r50_c4(
    num_classes: int,
    *,
    backbone: Literal["resnet", "small"] = "resnet",
    depth: int = 50,
    trainable: int = 3,
    widths: Sequence[int] = (16, 24, 48, 96),
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    scales: Sequence[float] = (2.0, 4.0, 8.0, 16.0, 32.0),
    rpn_width: int = 1_024,
    softmax: bool = False,
    before_nms: Sequence[int] = (12_000, 6_000),
    after_nms: Sequence[int] = (2_000, 1_000),
    min_side: float = 1e-3,
    pool_size: int = 14,
    samples: int = 512,
    short: int = 800,
    longest: int = 1_333,
    std: float = 1.0,
    release: Literal["detectron", "detectron2"] = "detectron",
) -> FasterRCNN:
    """Faster R-CNN on ResNet-50, conv5 being the head.

    Args:
        num_classes: Foreground classes.
        backbone: ResNet, its normalisation frozen, or the zoo's small network, all of which learns.
        depth: Of the ResNet.
        trainable: How many of its five parts learn, counted from the end, the head among them.
        widths: Channels of the small network, the head's last.
        ratios: Of the anchors, height over width.
        scales: Of the anchors, in strides.
        rpn_width: Channels of the proposal network; 512 in Caffe's codes.
        softmax: Two scores an anchor instead of one, as in Caffe's codes.
        before_nms: Proposals before suppression, in training and in testing.
        after_nms: And after.
        min_side: Least side of a proposal in pixels of the image.
        pool_size: Cells along each side of a region, before the head halves them.
        samples: Regions an image that the second stage learns from.
        short: Shorter side of the input.
        longest: Longest side of the input.
        std: What colours are divided by, after the mean is taken off.
        release: Whose details hold, and so whose networks fit.
    """
    ways = RELEASES[release]
    if backbone == "resnet":
        body: ResNet | SmallNet = ResNet(depth, trainable=trainable, stride_first=ways.stride_first)
    else:
        body = SmallNet(tuple(widths))
    deepest = body.channels[-1]
    head = StageHead(body.pop_stage())
    stride, channels = body.strides[-1], body.channels[-1]
    shapes = ways.anchors(stride, [scale * stride for scale in scales], ratios)
    return FasterRCNN(
        num_classes,
        backbone=LastMap(body),
        rpn=RPN(
            RPNHead(channels, rpn_width, len(shapes), softmax=softmax),
            [shapes],
            [stride],
            inside_only=ways.inside_only,
            before_nms=(before_nms[0], before_nms[1]),
            after_nms=(after_nms[0], after_nms[1]),
            min_side=min_side,
        ),
        roi_heads=RoIHead(
            PyramidAlign((stride,), pool_size, sampling=0, aligned=ways.aligned),
            head,
            BoxPredictor(deepest, num_classes),
            samples=samples,
            beta=ways.beta,
        ),
        short=short,
        longest=longest,
        **{**ways.colours, "std": (std, std, std)},
        cost_regions=after_nms[1],
    )


def faster_rcnn_r101_c4(num_classes: int, **changes: Any) -> FasterRCNN:
    """Faster R-CNN on ResNet-101, conv5 being the head.

    Args:
        num_classes: Foreground classes.
        changes: As `faster_rcnn_r50_c4`.
    """
    return faster_rcnn_r50_c4(num_classes, **{"depth": 101, **changes})
