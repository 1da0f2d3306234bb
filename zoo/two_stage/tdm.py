"""Top-down modulation, from Abhinav Shrivastava, Rahul Sukthankar, Jitendra Malik and Abhinav Gupta, "Beyond Skip
Connections: Top-Down Modulation for Object Detection" (2016, https://arxiv.org/abs/1612.06851).

A delta of Faster R-CNN: a network from the top down is appended to the backbone. At each stage it takes what it knows
from above, enlarged, together with a lateral look at the backbone's map, and decides what of it to hand on; so what is
known of objects chooses among the fine features. Proposals and regions read its last, finest map alone, unlike those of
a feature pyramid, which read every level.

Little more than that was established for us. Assumed are: a lateral is a 3x3 convolution and ReLU; a top-down module
concatenates, a 3x3 convolution and ReLU follow, and bilinear enlarging to the size of the next lateral; a 1x1
convolution and ReLU end it; laterals and modules are 128 and 256 channels wide; the finest map has stride 4; anchors
are 64 to 512 px there; and the rest is Faster R-CNN's of VGG-16, with fully connected layers on ResNet-101 too. The
paper adds one module after another in training, which the recipe, Faster R-CNN's, does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.backbones.resnet import ResNet
from zoo.backbones.small import SmallNet
from zoo.backbones.vgg import VGG16
from zoo.parts.roi_head import BoxHead, BoxPredictor, RegionPool, RoIHead
from zoo.two_stage import faster_rcnn
from zoo.two_stage.faster_rcnn import FasterRCNN, on_one_map

__all__ = [
    "RECIPE",
    "SMALL",
    "SMALL_RECIPE",
    "BackboneWithTopDown",
    "TopDown",
    "faster_rcnn_tdm_r101",
    "faster_rcnn_tdm_vgg16",
]

RECIPE = replace(faster_rcnn.RECIPE, source=f"assumed as {faster_rcnn.RECIPE.source}")

SMALL: dict[str, Any] = {
    **faster_rcnn.SMALL,
    "widths": (16, 24, 40, 64),
    "first": 1,
    "lateral": 24,
    "width": 40,
    "head_width": 96,
}
"""For `shapes`: that of Faster R-CNN, at whose stride of 8 the finest map lies; one stage more is above it."""

SMALL_RECIPE = faster_rcnn.SMALL_RECIPE


class TopDown(nn.Module):
    """Maps to one of the finest's size, from the top down."""

    def __init__(self, inputs: Sequence[int], lateral: int = 128, width: int = 256) -> None:
        """Build with He's initial weights.

        Args:
            inputs: Channels of the backbone's maps, the finest first; the last is where it begins.
            lateral: Channels of a lateral look.
            width: Channels of what is handed down, and of the answer.
        """
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(channels, lateral, 3, padding=1) for channels in inputs[:-1])
        self.downward = nn.ModuleList(
            nn.Conv2d(inputs[-1] if level == len(inputs) - 1 else lateral + width, width, 3, padding=1)
            for level in range(1, len(inputs))
        )
        self.out = nn.Conv2d(lateral + width, width, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps `[B, C_i, H_i, W_i]`, the finest first, to `[B, width, H_0, W_0]`."""
        x = maps[-1]
        steps = list(zip(maps[:-1], self.laterals, self.downward, strict=True))
        for finer, lateral, module in reversed(steps):
            above = F.interpolate(module(x).relu(), size=finer.shape[-2:], mode="bilinear", align_corners=False)
            x = torch.cat([lateral(finer).relu(), above], 1)
        answer: Tensor = self.out(x)
        return answer.relu()


class BackboneWithTopDown(nn.Module):
    """A backbone's maps from the `first` on, modulated into one; the first `frozen` children of its stages rest."""

    def __init__(self, body: VGG16 | ResNet | SmallNet, top_down: TopDown, first: int, frozen: int = 0) -> None:
        super().__init__()
        self.body, self.top_down, self.first = body, top_down, first
        for part in list(body.stages)[:frozen]:
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image `[B, 3, H, W]` to one map `[B, C, h, w]`."""
        maps: list[Tensor] = self.body(x)
        return [self.top_down(maps[self.first :])]


def faster_rcnn_tdm_vgg16(
    num_classes: int,
    *,
    backbone: Literal["vgg16", "resnet", "small"] = "vgg16",
    depth: int = 101,
    widths: Sequence[int] = (16, 24, 40, 64),
    first: int = 2,
    lateral: int = 128,
    width: int = 256,
    scales: Sequence[float] = (16.0, 32.0, 64.0, 128.0),
    pool_size: int = 7,
    head_width: int = 4_096,
    dropout: float = 0.5,
    samples: int = 128,
    std: float = 1.0,
    **changes: Any,
) -> FasterRCNN:
    """Faster R-CNN on VGG-16 with top-down modulation from conv5 to conv3.

    Args:
        num_classes: Foreground classes.
        backbone: VGG-16, whose first four convolutions stay as ImageNet left them, a ResNet, whose normalisation and
            first stages do, or the zoo's small network, all of which learns.
        depth: Of the ResNet.
        widths: Channels of the small network.
        first: Which of the backbone's maps is the finest that is modulated.
        lateral: Channels of a lateral look.
        width: Channels of what is handed down.
        scales: Of the anchors, in strides of the finest map.
        pool_size: Cells along each side of a region.
        head_width: Channels of both fully connected layers.
        dropout: In both.
        samples: Regions an image that the second stage learns from.
        std: What colours are divided by, after the mean is taken off.
        changes: As `faster_rcnn.on_one_map`.
    """
    if backbone == "vgg16":
        body: VGG16 | ResNet | SmallNet = VGG16(ceil_mode=True)
    elif backbone == "resnet":
        body = ResNet(depth, trainable=3)
    else:
        body = SmallNet(tuple(widths))
    stride = body.strides[first]
    frozen = 2 if backbone == "vgg16" else 0
    modulated = BackboneWithTopDown(body, TopDown(body.channels[first:], lateral, width), first, frozen)
    heads = RoIHead(
        RegionPool(stride, pool_size),
        BoxHead(width * pool_size**2, head_width, dropout),
        BoxPredictor(head_width, num_classes),
        samples=samples,
        nms=0.3,
    )
    settings = {"scales": scales, "std": (std, std, std), "cost_regions": 300, **changes}
    return on_one_map(num_classes, modulated, width, stride, heads, kind=FasterRCNN, **settings)


def faster_rcnn_tdm_r101(num_classes: int, **changes: Any) -> FasterRCNN:
    """Faster R-CNN on ResNet-101 with top-down modulation from C5 to C2.

    Args:
        num_classes: Foreground classes.
        changes: As `faster_rcnn_tdm_vgg16`.
    """
    return faster_rcnn_tdm_vgg16(
        num_classes, **{"backbone": "resnet", "first": 0, "head_width": 1_024, "dropout": 0.0, **changes}
    )
