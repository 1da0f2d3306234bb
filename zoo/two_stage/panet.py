"""PANet, from Shu Liu, Lu Qi, Haifang Qin, Jianping Shi and Jiaya Jia, "Path Aggregation Network for Instance
Segmentation" (CVPR 2018, https://arxiv.org/abs/1803.01534).

A delta of Faster R-CNN on a feature pyramid. What the fine maps know of edges reaches the coarse levels of a pyramid
only through the whole backbone; a second path, from the bottom up, takes it there in a few layers. And each region is
pooled from all levels instead of one: each passes a layer of its own, the largest answer counts, and the rest of the
head follows. Masks are predicted so, too, and a fully connected layer, which sees the whole region at once, adds its
opinion of what is foreground, whatever the class.

Constants are those of the authors' re-implementation (ShuLiu1993/PANet). Its head of four convolutions and a fully
connected layer is ours, and so is its ReLU after the fully connected layer of the masks; group normalisation is where
it has it, and in the bottom-up path. What we do otherwise: boxes and losses are those of our Faster R-CNN on a pyramid,
and the pyramid before the new path is plain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.roi_align import as_regions, roi_align
from zoo.backbones.resnet import ResNet
from zoo.backbones.small import SmallNet
from zoo.parts.fpn import FPN, BackboneWithFPN
from zoo.parts.mask_head import MaskPredictor
from zoo.two_stage import fpn
from zoo.two_stage.faster_rcnn import FasterRCNN
from zoo.two_stage.mask_rcnn import MaskRCNN

__all__ = [
    "MASK_RECIPE",
    "MASK_SMALL",
    "RECIPE",
    "SMALL",
    "SMALL_RECIPE",
    "AdaptivePool",
    "BackboneWithPath",
    "BottomUpPath",
    "FusedBoxHead",
    "FusedMaskHead",
    "MaskPANet",
    "PANet",
    "panet_mask_r50_fpn",
    "panet_r50_fpn",
]

RECIPE = replace(
    fpn.RECIPE,
    sizes=(1_200, 1_200, 1_000, 800, 600, 400),
    resize_every=1,
    source="ShuLiu1993/PANet, configs/panet/e2e_panet_R-50-FPN_1x_det: COCO train2017",
)

MASK_RECIPE = replace(
    RECIPE,
    steps=180_000,
    milestones=(120_000, 160_000),
    source="ShuLiu1993/PANet, configs/panet/e2e_panet_R-50-FPN_2x_mask: COCO train2017",
)

_PYRAMID = {name: value for name, value in fpn.SMALL.items() if name != "canonical"}

SMALL: dict[str, Any] = {**_PYRAMID, "width": 24, "convs": 1, "norm_groups": 3}
"""For `shapes`: that of the pyramid, narrowed to pay for the second path; groups of 8 channels, as in the paper."""

MASK_SMALL: dict[str, Any] = {**SMALL, "head_width": 112, "mask_pool": 6, "mask_width": 12}
"""For `shapes`: that of boxes alone, narrowed to pay for grids of 12 cells, each of which is fully connected."""

SMALL_RECIPE = fpn.SMALL_RECIPE


def _layer(
    inputs: int, outputs: int, *, stride: int = 1, branches: int = 1, norm_groups: int = 0, bias: bool = True
) -> nn.Sequential:
    """A 3x3 convolution, group normalisation where there are groups, and ReLU, in `branches` that do not mix."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, groups=branches, bias=bias)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    layer = nn.Sequential(convolution)
    if norm_groups:
        layer.append(nn.GroupNorm(branches * norm_groups, outputs))
    return layer.append(nn.ReLU(inplace=True))


class BottomUpPath(nn.Module):
    """Levels once more, from the finest up (section 3.1): each is the one below, halved, and the pyramid's own."""

    def __init__(self, width: int = 256, levels: int = 4, norm_groups: int = 32) -> None:
        """Build.

        Args:
            width: Channels of the levels.
            levels: How many.
            norm_groups: Of group normalisation after each convolution; 0 is none.
        """
        super().__init__()
        steps = range(levels - 1)
        self.halve = nn.ModuleList(_layer(width, width, stride=2, norm_groups=norm_groups) for _ in steps)
        self.smooth = nn.ModuleList(_layer(width, width, norm_groups=norm_groups) for _ in steps)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Levels P2 to P5, `[B, width, H_i, W_i]`, to N2 to N5 of the same sizes; N2 is P2."""
        paths = [levels[0]]
        for halve, smooth, level in zip(self.halve, self.smooth, levels[1:], strict=True):
            paths.append(smooth(halve(paths[-1]) + level))
        return paths


class BackboneWithPath(BackboneWithFPN):
    """A backbone, a pyramid, the way back up, and a last level for proposals: every second pixel of the coarsest."""

    def __init__(self, body: nn.Module, fpn: FPN, path: BottomUpPath) -> None:
        super().__init__(body, fpn)
        self.path = path

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image `[B, 3, H, W]` to N2 to N6."""
        levels = self.path(super().forward(x))
        return [*levels, F.max_pool2d(levels[-1], 1, 2)]


@dataclass(frozen=True)
class AdaptivePool:
    """Features of regions from all levels (section 3.2), by RoIAlign.

    Attributes:
        strides: Of the levels.
        size: Cells along each side.
        sampling: Samples a cell along each side.
    """

    strides: Sequence[int]
    size: int = 7
    sampling: int = 2

    def __call__(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """`[sum R_i, L * C, size, size]`: the C channels of the finest level first."""
        regions = as_regions(boxes)
        parts = [
            roi_align(x, regions, self.size, 1 / stride, self.sampling)
            for x, stride in zip(maps, self.strides, strict=False)
        ]
        return torch.cat(parts, 1)

    def blank(self, maps: list[Tensor], count: int) -> Tensor:
        """As if `count` regions had been pooled from maps that are 0."""
        return maps[0].new_zeros((count, len(self.strides) * maps[0].shape[1], self.size, self.size))


class FusedBoxHead(nn.Module):
    """A convolution for each level, the largest answer of all levels, more convolutions and a fully connected layer."""

    def __init__(
        self, width: int = 256, outputs: int = 1_024, *, size: int = 7, levels: int = 4, convs: int = 3,
        norm_groups: int = 32,
    ) -> None:  # fmt: skip
        """Build.

        Args:
            width: Channels of a level, and of the convolutions.
            outputs: What the predictor reads.
            size: Cells along each side of a region.
            levels: Of `AdaptivePool`.
            convs: Convolutions after the fusion.
            norm_groups: Of group normalisation after each convolution; 0 is none.
        """
        super().__init__()
        self.levels = levels
        plain = norm_groups == 0
        every = levels * width
        self.own = _layer(every, every, branches=levels, norm_groups=norm_groups, bias=plain)
        self.convs = nn.Sequential(*(_layer(width, width, norm_groups=norm_groups, bias=plain) for _ in range(convs)))
        self.fc = nn.Linear(width * size**2, outputs)
        nn.init.kaiming_uniform_(self.fc.weight, a=1)
        nn.init.zeros_(self.fc.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """`[R, L * C, size, size]` to `[R, outputs]`."""
        fused = self.own(pooled).unflatten(1, (self.levels, -1)).amax(1)
        x: Tensor = self.fc(self.convs(fused).flatten(1))
        return x.relu()


class FusedMaskHead(nn.Module):
    """Levels fused after a convolution of each, as for boxes; then a way to features, and one to foreground (3.3)."""

    def __init__(
        self, inputs: int = 256, width: int = 256, *, size: int = 14, levels: int = 4, convs: int = 2,
        norm_groups: int = 32,
    ) -> None:  # fmt: skip
        """Build.

        Args:
            inputs: Channels of a level.
            width: Channels of the convolutions; the last before the fully connected layer has half as many.
            size: Cells along each side of a region; a mask has twice as many.
            levels: Of `AdaptivePool`.
            convs: Convolutions between the fusion and the parting of the ways.
            norm_groups: Of group normalisation after each convolution; 0 is none.
        """
        super().__init__()
        self.levels = levels
        plain, half = norm_groups == 0, width // 2
        self.own = _layer(levels * inputs, levels * width, branches=levels, norm_groups=norm_groups, bias=plain)
        self.convs = nn.Sequential(*(_layer(width, width, norm_groups=norm_groups, bias=plain) for _ in range(convs)))
        self.last = _layer(width, width, norm_groups=norm_groups, bias=plain)
        self.squeeze = nn.Sequential(
            _layer(width, width, norm_groups=norm_groups, bias=plain),
            _layer(width, half, norm_groups=norm_groups, bias=plain),
        )
        self.fc = nn.Linear(half * size**2, (2 * size) ** 2)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """`[R, L * C, m, m]` to features `[R, width, m, m]`, and to what all logits `[R, 2m, 2m]` get on top."""
        side = 2 * pooled.shape[-1]
        x = self.convs(self.own(pooled).unflatten(1, (self.levels, -1)).amax(1))
        foreground: Tensor = self.fc(self.squeeze(x).flatten(1)).relu()
        return self.last(x), foreground.unflatten(1, (side, side))


class PANet(FasterRCNN):
    """Faster R-CNN whose regions are pooled from all levels, and which trains at many sizes."""

    def resize(self, size: int | tuple[int, int]) -> None:
        """One side is the shorter one, and the longest stays, as the recipe's sizes are meant; two are both."""
        if isinstance(size, int):
            self.short = size
        else:
            super().resize(size)

    def head_for_cost(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The head on a fixed number of regions."""
        pool = self.roi_heads.box_pool
        assert isinstance(pool, AdaptivePool)
        return self.roi_heads.predict(pool.blank(maps, len(maps[0]) * self.cost_regions))


class MaskPANet(MaskRCNN, PANet):
    """Mask R-CNN whose regions are pooled from all levels, and whose masks are seen as a whole, too."""

    def _predict_masks(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """Features `[R, L * C, m, m]` to logits `[R, 2m, 2m]` of the classes `labels`, 1 to C."""
        head, predictor = (self.roi_heads.get_submodule(name) for name in ("mask_head", "mask_predictor"))
        x, foreground = head(pooled)
        logits: Tensor = predictor(x, labels) + foreground
        return logits

    def head_for_cost(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The heads on fixed numbers of regions."""
        assert isinstance(self.mask_pool, AdaptivePool)
        pooled = self.mask_pool.blank(maps, len(maps[0]) * self.cost_masks)
        self._predict_masks(pooled, torch.ones(len(pooled), dtype=torch.int64, device=pooled.device))
        return PANet.head_for_cost(self, maps)


def panet_r50_fpn(
    num_classes: int,
    *,
    backbone: Literal["resnet", "small"] = "resnet",
    depth: int = 50,
    trainable: int = 3,
    widths: Sequence[int] = (16, 24, 40, 64, 64),
    width: int = 256,
    norm_groups: int = 32,
    convs: int = 3,
    pool_size: int = 7,
    head_width: int = 1_024,
    short: int = 1_000,
    longest: int = 1_400,
    kind: Callable[..., PANet] = PANet,
    **settings: Any,
) -> FasterRCNN:
    """PANet's boxes on ResNet-50.

    Args:
        num_classes: Foreground classes.
        backbone: ResNet, its normalisation frozen, or the zoo's small network, all of which learns.
        depth: Of the ResNet.
        trainable: How many of its five parts learn, counted from the end.
        widths: Channels of the small network.
        width: Channels of the pyramid, of the proposal network and of the head's convolutions.
        norm_groups: Of group normalisation in the path and the head; 0 is none.
        convs: Convolutions of the head after the fusion.
        pool_size: Cells along each side of a region.
        head_width: Channels of the fully connected layer.
        short: Shorter side of the input.
        longest: Longest side of the input.
        kind: Class of the detector, or what else joins the parts.
        settings: As `on_pyramid`.
    """
    if backbone == "resnet":
        body: ResNet | SmallNet = ResNet(depth, trainable=trainable)
    else:
        body = SmallNet(tuple(widths))
    levels = len(body.strides)
    return fpn.on_pyramid(
        num_classes,
        BackboneWithPath(body, FPN(body.channels, width, extra=None), BottomUpPath(width, levels, norm_groups)),
        [*body.strides, 2 * body.strides[-1]],
        kind=kind,
        box_pool=AdaptivePool(body.strides, pool_size),
        box_head=FusedBoxHead(width, head_width, size=pool_size, levels=levels, convs=convs, norm_groups=norm_groups),
        width=width,
        pool_size=pool_size,
        head_width=head_width,
        short=short,
        longest=longest,
        **settings,
    )


def panet_mask_r50_fpn(
    num_classes: int,
    *,
    width: int = 256,
    norm_groups: int = 32,
    mask_pool: int = 14,
    mask_width: int = 256,
    **changes: Any,
) -> MaskPANet:
    """PANet on ResNet-50, with masks.

    Args:
        num_classes: Foreground classes.
        width: As `panet_r50_fpn`; so is `norm_groups`, of the mask branch, too.
        norm_groups: See there.
        mask_pool: Cells along each side of a region for the mask branch, whose grids have twice as many.
        mask_width: Channels of its convolutions and of its deconvolution.
        changes: As `panet_r50_fpn`.
    """
    strides = (4, 8, 16, 32)
    model = panet_r50_fpn(
        num_classes,
        width=width,
        norm_groups=norm_groups,
        kind=partial(
            MaskPANet,
            mask_pool=AdaptivePool(strides, mask_pool),
            mask_head=FusedMaskHead(width, mask_width, size=mask_pool, levels=len(strides), norm_groups=norm_groups),
            mask_predictor=MaskPredictor(mask_width, mask_width, num_classes),
        ),
        **changes,
    )
    assert isinstance(model, MaskPANet)
    return model
