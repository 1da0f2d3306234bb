"""Deformable R-FCN, from Jifeng Dai, Haozhi Qi, Yuwen Xiong, Yi Li, Guodong Zhang, Han Hu and Yichen Wei, "Deformable
Convolutional Networks" (ICCV 2017, https://arxiv.org/abs/1703.06211).

A delta of R-FCN with two operators that look where they have learned to look. In the three 3x3 convolutions of the last
stage, another convolution says for each place where each of the nine taps is to sample. In pooling, further banks of
score maps, themselves pooled, say how far each cell of a region is to move, for each class and for the boxes. Both
start with no movement.

Constants are those of the release (msracver/Deformable-ConvNets, trained with OHEM). What we do otherwise: deformable
convolution reads zeros outside of the map, as torchvision's does, and the release since its correction at the end of
2018; boxes are continuous; preprocessing is R-FCN's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ops.deformable import deformable_convolution
from ops.position_sensitive import deformable_ps_roi_pool
from zoo.backbones.caffe_resnet import CaffeResNet
from zoo.detector import Recipe
from zoo.subsample import ClassChannels
from zoo.two_stage import rfcn
from zoo.two_stage.fast_rcnn import LastMap, flip_half
from zoo.two_stage.rfcn import RFCN, SMALL_RECIPE, ScoreMaps, rfcn_r101

__all__ = ["RECIPE", "SMALL", "SMALL_RECIPE", "DeformableConv", "DeformableMaps", "deformable_rfcn_r101"]

RECIPE = Recipe(
    batch=8,
    steps=120_000,
    # The release sums the gradients of eight processors where this trains on their mean: 8 x 5e-4.
    lr=4e-3,
    momentum=0.9,
    weight_decay=5e-4,
    bias_decay=5e-4,
    milestones=(80_000,),
    warmup=1_000,
    warmup_factor=0.1,
    augment=flip_half,
    source="Deformable-ConvNets, resnet_v1_101_coco_trainval_rfcn_dcn_end2end_ohem: COCO trainval, 8 epochs",
)

SMALL: dict[str, Any] = {**rfcn.SMALL, "samples_per_cell": 2}
"""For `shapes`: as R-FCN's, and half the paper's samples along a cell, which covers half as many cells of the map."""


class DeformableConv(nn.Conv2d):
    """A convolution whose taps move (section 2.1), made from a plain one, whose weights it takes."""

    def __init__(self, plain: nn.Conv2d, groups: int = 4) -> None:
        """Build with no movement.

        Args:
            plain: What it replaces: square, without bias.
            groups: Groups of channels that move together.
        """
        kernel, stride, padding, dilation = (
            int(pair[0]) for pair in (plain.kernel_size, plain.stride, plain.padding, plain.dilation)
        )
        inputs = plain.in_channels
        super().__init__(inputs, plain.out_channels, kernel, stride, padding, dilation, bias=False)
        self.weight = plain.weight
        # Of each group, tap by tap: down, then right.
        self.offset = nn.Conv2d(inputs, groups * 2 * kernel**2, kernel, stride, padding, dilation)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, outputs, H', W']`."""
        return deformable_convolution(
            x,
            self.offset(x),
            self.weight,
            stride=self.stride[0],
            padding=int(self.padding[0]),
            dilation=self.dilation[0],
        )


class DeformableMaps(ScoreMaps):
    """R-FCN's banks, and those that say where each cell is to look (section 2.2). Layer names are the release's."""

    def __init__(
        self,
        inputs: int,
        num_classes: int,
        stride: int,
        *,
        width: int,
        size: int,
        samples_per_cell: int = 4,
        **settings: Any,
    ) -> None:
        """As `ScoreMaps`; a cell is the mean of `samples_per_cell` squared samples."""
        super().__init__(inputs, num_classes, stride, width=width, size=size, **settings)
        self.samples = samples_per_cell
        self.rfcn_cls_offset_t = nn.Conv2d(width, 2 * size**2 * (num_classes + 1), 1)
        self.rfcn_bbox_offset_t = nn.Conv2d(width, 2 * size**2, 1)
        for layer in (self.rfcn_cls_offset_t, self.rfcn_bbox_offset_t):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def pool(self, x: Tensor, boxes: list[Tensor]) -> Tensor:
        """`[R, C + 1 + 8, size, size]` from what `conv_new_1` gives; all boxes of a region move as one."""

        def pooled(bank: Tensor, moves: Tensor | None = None) -> Tensor:
            return deformable_ps_roi_pool(bank, boxes, self.size, self.stride, moves, samples=self.samples)

        moves = pooled(torch.cat([self.rfcn_cls_offset_t(x), self.rfcn_bbox_offset_t(x)], 1))
        return torch.cat([pooled(self.rfcn_cls(x), moves[:, :-2]), pooled(self.rfcn_bbox(x), moves[:, -2:])], 1)


class DeformableRFCN(RFCN):
    """R-FCN whose classes have banks of offsets too."""

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: as in R-FCN; of each, the offsets are two banks."""
        layout = ClassChannels(leading=1, inner=2 * self.roi_heads.box_pool.size**2)
        offsets = {f"roi_heads.box_pool.rfcn_cls_offset_t.{part}": layout for part in ("weight", "bias")}
        return {**super().class_channels(), **offsets}


def _convolutions(backbone: nn.Module) -> Iterator[nn.Sequential]:
    """What holds, first, each 3x3 convolution of the last stage that keeps the size of the map."""
    if isinstance(backbone, CaffeResNet):
        for block in backbone.get_submodule("res5").children():
            yield block.branch2b  # type: ignore[misc]
    else:
        assert isinstance(backbone, LastMap)
        block = backbone.body.stages[-1][1]  # type: ignore[index]
        yield block.first
        yield block.second


def deformable_rfcn_r101(num_classes: int, *, samples_per_cell: int = 4, groups: int = 4, **changes: Any) -> RFCN:
    """Deformable R-FCN on ResNet-101.

    Args:
        num_classes: Foreground classes.
        samples_per_cell: Samples along each side of a cell of a region.
        groups: Groups of channels of a deformable convolution that move together.
        changes: As `rfcn.rfcn_r101`; on COCO the release has anchors of scales 4, 8, 16 and 32.
    """
    model = rfcn_r101(
        num_classes,
        maps=partial(DeformableMaps, samples_per_cell=samples_per_cell),
        kind=DeformableRFCN,
        **{"min_side": 0.0, "limit": 100, **changes},
    )
    for holder in _convolutions(model.backbone):
        plain = holder[0]
        assert isinstance(plain, nn.Conv2d)
        holder[0] = DeformableConv(plain, groups)
    return model
