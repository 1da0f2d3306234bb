"""Faster R-CNN on DetNet-59 and a feature pyramid, from Zeming Li, Chao Peng, Gang Yu, Xiangyu Zhang, Yangdong Deng and
Jian Sun, "DetNet: Design Backbone for Object Detection" (ECCV 2018, https://arxiv.org/abs/1804.06215).

A delta of Faster R-CNN on a pyramid: the backbone stays at stride 16 where ResNet goes on to 32. The three coarsest
levels therefore have one size and are added without enlarging, large objects keep sharp borders, and small ones are not
lost in the maps that lead the pyramid. Proposals come from all five levels, regions are pooled from the first four.

The authors released no detector. What the paper leaves open is as in our Faster R-CNN on ResNet-50 and a pyramid: a
3x3 convolution smoothes every level, two fully connected layers are the head, and padding is to multiples of 32. The
limits of proposals hold for each level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from zoo.backbones.detnet import DetNet59, SmallDetNet
from zoo.parts.fpn import FPN, BackboneWithFPN
from zoo.two_stage import fpn
from zoo.two_stage.faster_rcnn import FasterRCNN

__all__ = ["RECIPE", "SMALL", "SMALL_RECIPE", "detnet59_fpn"]

RECIPE = replace(
    fpn.RECIPE,
    steps=180_000,
    milestones=(120_000, 160_000),
    warmup_factor=0.3,
    source="section 4.1: COCO train2017, 8 GPUs of 2 images",
)

SMALL: dict[str, Any] = fpn.SMALL
"""For `shapes`: that of the pyramid; the last two stages dilate instead of striding."""

SMALL_RECIPE = fpn.SMALL_RECIPE


def detnet59_fpn(
    num_classes: int,
    *,
    backbone: Literal["detnet", "small"] = "detnet",
    trainable: int = 5,
    project: bool = True,
    widths: Sequence[int] = (16, 24, 40, 64),
    width: int = 256,
    before_nms: Sequence[int] = (12_000, 6_000),
    **settings: Any,
) -> FasterRCNN:
    """Faster R-CNN on DetNet-59.

    Args:
        num_classes: Foreground classes.
        backbone: DetNet-59, its normalisation frozen, or the zoo's small network with DetNet's last stages.
        trainable: How many of its six parts learn, counted from the end (4.1: all but the first).
        project: Whether the last stage begins with a projection; without, it is the ablation of table 4.
        widths: Channels of the small network.
        width: Channels of the pyramid and of the proposal network.
        before_nms: Proposals a level before suppression, in training and in testing.
        settings: As `on_pyramid`.
    """
    if backbone == "detnet":
        body: DetNet59 | SmallDetNet = DetNet59(trainable=trainable, project=project)
    else:
        body = SmallDetNet(tuple(widths))
    pyramid = BackboneWithFPN(body, FPN(body.channels, width, extra=None))
    return fpn.on_pyramid(num_classes, pyramid, body.strides, width=width, before_nms=before_nms, **settings)
