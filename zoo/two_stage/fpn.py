"""Faster R-CNN on a feature pyramid, from Tsung-Yi Lin, Piotr Dollár, Ross Girshick, Kaiming He, Bharath Hariharan and
Serge Belongie, "Feature Pyramid Networks for Object Detection" (CVPR 2017, https://arxiv.org/abs/1612.03144).

A delta of Faster R-CNN: the backbone's maps of all strides are joined from the top down into a pyramid. The proposal
network has one size of anchor on each level, and each region is pooled from the level that suits its size.

Layers, names and constants are torchvision's, whose checkpoints load as they are and give the same detections. It
differs from the paper in RoIAlign where the paper has RoI pooling, and from Detectron, whose schedule the recipe is, in
the second stage's smooth L1 (1/9 where Detectron has 1) and in 2,000 proposals an image in training (Detectron: a
batch of two).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from ops.anchors import pyramid_shapes
from zoo.backbones.resnet import ResNet
from zoo.backbones.small import SmallNet
from zoo.detector import Recipe
from zoo.parts.fpn import FPN, BackboneWithFPN
from zoo.parts.roi_head import BoxHead, BoxPredictor, Pool, PyramidAlign, RoIHead
from zoo.parts.rpn import RPN, RPNHead
from zoo.two_stage import faster_rcnn
from zoo.two_stage.fast_rcnn import flip_half
from zoo.two_stage.faster_rcnn import FasterRCNN
from zoo.two_stage.release import RELEASES, ReleaseName

__all__ = ["RECIPE", "SMALL", "SMALL_RECIPE", "faster_rcnn_r50_fpn", "faster_rcnn_r101_fpn", "on_pyramid"]

RECIPE = Recipe(
    batch=16,
    steps=90_000,
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
    bias_lr=2.0,
    milestones=(60_000, 80_000),
    warmup=500,
    warmup_factor=1 / 3,
    augment=flip_half,
    source="Detectron, configs/12_2017_baselines/e2e_faster_rcnn_R-50-FPN_1x: COCO train2017",
)

SMALL: dict[str, Any] = {
    "backbone": "small",
    "width": 32,
    "sizes": (8, 16, 32, 64, 128),
    "before_nms": (200, 100),
    "after_nms": (200, 100),
    "anchor_samples": 128,
    "canonical": 56.0,
    "pool_size": 5,
    "head_width": 128,
    "samples": 32,
    "short": 160,
    "longest": 160,
}
"""For `shapes`: everything that is measured in pixels is a quarter of the paper's."""

SMALL_RECIPE = replace(faster_rcnn.SMALL_RECIPE, steps=2_400)


def on_pyramid(
    num_classes: int,
    backbone: nn.Module,
    strides: Sequence[int],
    *,
    kind: Callable[..., FasterRCNN] = FasterRCNN,
    box_pool: Pool | None = None,
    box_head: nn.Module | None = None,
    width: int = 256,
    sizes: Sequence[float] = (32, 64, 128, 256, 512),
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    before_nms: Sequence[int] = (2_000, 1_000),
    after_nms: Sequence[int] = (2_000, 1_000),
    anchor_samples: int = 256,
    canonical: float = 224.0,
    pool_size: int = 7,
    head_width: int = 1_024,
    samples: int = 512,
    valid_range: Sequence[float | None] | None = None,
    repulsion: Sequence[float] | None = None,
    short: int = 800,
    longest: int = 1_333,
    release: ReleaseName = "torchvision",
) -> FasterRCNN:
    """Both stages over any backbone that gives the levels of a pyramid; improvements of the pyramid begin here.

    Args:
        num_classes: Foreground classes.
        backbone: Image to levels `[B, width, H_i, W_i]`, the finest first.
        strides: Of the levels; the last is for proposals only.
        kind: Class of the detector, or what else joins the parts.
        box_pool: Features of regions. Left out, each region is pooled from one level.
        box_head: From them to `head_width` features. Left out, it is two fully connected layers.
        width: Channels of the levels and of the proposal network.
        sizes: Of the anchors on each level (4.1).
        ratios: Of the anchors, height over width.
        before_nms: Proposals a level before suppression, in training and in testing.
        after_nms: Proposals an image after it.
        anchor_samples: Anchors an image that the first stage learns from.
        canonical: Regions of this side are pooled at stride 16 (4.2).
        pool_size: Cells along each side of a region.
        head_width: Channels of both fully connected layers.
        samples: Regions an image that the second stage learns from.
        valid_range: Sizes of the objects that both stages learn from (SNIP): see `RPN` and `RoIHead`.
        repulsion: Weights of the losses that keep boxes off others (Repulsion loss): see `RoIHead`.
        short: Shorter side of the input.
        longest: Longest side of the input.
        release: Whose details hold, and so whose networks fit.
    """
    ways, theirs = RELEASES[release], release == "torchvision"
    return kind(
        num_classes,
        backbone=backbone,
        rpn=RPN(
            RPNHead(width, width, len(ratios)),
            [
                pyramid_shapes((size,), ratios) if theirs else ways.anchors(stride, (size,), ratios)
                for size, stride in zip(sizes, strides, strict=True)
            ],
            strides,
            centred=not theirs,
            inside_only=ways.inside_only,
            before_nms=(before_nms[0], before_nms[1]),
            after_nms=(after_nms[0], after_nms[1]),
            samples=anchor_samples,
            valid_range=valid_range,
        ),
        roi_heads=RoIHead(
            box_pool or PyramidAlign(strides[:-1], pool_size, canonical=canonical, aligned=ways.aligned),
            box_head or BoxHead(width * pool_size**2, head_width),
            BoxPredictor(head_width, num_classes),
            samples=samples,
            beta=ways.beta,
            valid_range=valid_range,
            repulsion=repulsion,
        ),
        short=short,
        longest=longest,
        divisor=32,
        cost_regions=1_000,
        **ways.colours,
    )


def faster_rcnn_r50_fpn(
    num_classes: int,
    *,
    backbone: Literal["resnet", "small"] = "resnet",
    depth: int = 50,
    groups: int = 1,
    group_width: int = 64,
    trainable: int = 3,
    norm_eps: float = 1e-5,
    widths: Sequence[int] = (16, 24, 40, 64, 64),
    width: int = 256,
    release: ReleaseName = "torchvision",
    **settings: Any,
) -> FasterRCNN:
    """Faster R-CNN on ResNet-50 and a feature pyramid.

    Args:
        num_classes: Foreground classes; torchvision's checkpoint for COCO has 90.
        backbone: ResNet, its normalisation frozen, or the zoo's small network, all of which learns.
        depth: Of the ResNet.
        groups: Of its 3x3 convolutions; more than one is ResNeXt,
        group_width: whose first groups have so many channels each.
        trainable: How many of its five parts learn, counted from the end.
        norm_eps: Of its normalisation; torchvision's checkpoint for COCO needs 0.
        widths: Channels of the small network.
        width: Channels of the pyramid and of the proposal network.
        release: Whose details hold, and so whose networks fit: torchvision's, Detectron's or detectron2's.
        settings: As `on_pyramid`.
    """
    if backbone == "resnet":
        body: ResNet | SmallNet = ResNet(
            depth,
            trainable=trainable,
            norm_eps=norm_eps,
            groups=groups,
            group_width=group_width,
            # ResNeXt has its stride on the 3x3 convolution everywhere.
            stride_first=RELEASES[release].stride_first and groups == 1,
        )
    else:
        body = SmallNet(tuple(widths))
    pyramid = BackboneWithFPN(body, FPN(body.channels, width))
    strides = [*body.strides, 2 * body.strides[-1]]
    return on_pyramid(num_classes, pyramid, strides, width=width, release=release, **settings)


def faster_rcnn_r101_fpn(num_classes: int, **changes: Any) -> FasterRCNN:
    """Faster R-CNN on ResNet-101 and a feature pyramid.

    Args:
        num_classes: Foreground classes.
        changes: As `faster_rcnn_r50_fpn`.
    """
    return faster_rcnn_r50_fpn(num_classes, **{"depth": 101, **changes})
