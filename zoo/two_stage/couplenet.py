"""CoupleNet, from Yousong Zhu, Chaoyang Zhao, Jinqiao Wang, Xu Zhao, Yi Wu and Hanqing Lu, "CoupleNet: Coupling Global
Structure with Local Parts for Object Detection" (ICCV 2017, https://arxiv.org/abs/1708.02863).

A delta of R-FCN, whose votes are those of local parts and know nothing of the whole. A second branch pools the same
features of a region by RoI pooling and reads them with one convolution as large as the pooled map, as Fast R-CNN's head
would. The scores of both are added before the softmax, after those of the parts have passed a 1x1 convolution that
brings them to one scale; the boxes are added too.

Layers are those of the release (tshizys/CoupleNet), which has no context. The paper's full model has: the second branch
also pools from the region enlarged twice about its centre, `context`. What we do otherwise is what R-FCN does.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.parts.roi_head import RegionPool
from zoo.two_stage import rfcn
from zoo.two_stage.rfcn import RFCN, SMALL_RECIPE, ScoreMaps, Vote, rfcn_r101

__all__ = ["RECIPE", "SMALL", "SMALL_RECIPE", "CoupleNet", "CoupledMaps", "CoupledVote", "couplenet_r101"]

RECIPE = rfcn.RECIPE

SMALL: dict[str, Any] = {**rfcn.SMALL, "width": 64, "global_width": 96}
"""For `shapes`: as R-FCN's, but that the parameters are those of the convolution over a whole region."""


def enlarge(boxes: Tensor, factor: float = 2.0) -> Tensor:
    """Boxes `[R, 4]` of `factor` times the sides about the same centres."""
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * (factor / 2)
    return torch.cat([centre - half, centre + half], 1)


class CoupledMaps(ScoreMaps):
    """R-FCN's banks, and behind them the features of the region as a whole, and of its surroundings."""

    def __init__(self, *parts: Any, context: bool = False, **settings: Any) -> None:
        """As `ScoreMaps`; with `context`, each region is pooled a second time at twice its sides."""
        super().__init__(*parts, **settings)
        self.context = context
        self.region_pool = RegionPool(self.stride, self.size)

    def pool(self, x: Tensor, boxes: list[Tensor]) -> Tensor:
        """`[R, C + 1 + 8 + width, size, size]` from what `conv_new_1` gives, with context `2 * width`."""
        pooled = [super().pool(x, boxes), self.region_pool([x], boxes)]
        if self.context:
            pooled.append(self.region_pool([x], [enlarge(rows) for rows in boxes]))
        return torch.cat(pooled, 1)


class CoupledVote(Vote):
    """Local and global votes, added. Layer names are the release's."""

    def __init__(self, num_classes: int, inputs: int, width: int, size: int, *, init_std: float = 0.01) -> None:
        """Build.

        Args:
            num_classes: Foreground classes.
            inputs: Channels of the features of the whole region.
            width: Of both global layers.
            size: Cells along each side of a region.
            init_std: Of the Gaussian that the layers start from.
        """
        super().__init__(num_classes)
        self.local_cls_score = nn.Conv2d(num_classes + 1, num_classes + 1, 1)
        self.conv_pool5 = nn.Conv2d(inputs, width, size)
        self.conv_pool5_1 = nn.Conv2d(width, width, 1)
        self.global_cls_score = nn.Conv2d(width, num_classes + 1, 1)
        self.global_bbox_pred = nn.Conv2d(width, 8, 1)
        for layer in self.children():
            assert isinstance(layer, nn.Conv2d)
            nn.init.normal_(layer.weight, std=init_std)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """`[R, C + 1 + 8 + inputs, size, size]` to logits `[R, C + 1]` and offsets `[R, 2, 4]`."""
        parts = self.num_classes + 1 + 8
        scores, boxes = super().forward(pooled[:, :parts])
        x = self.conv_pool5_1(self.conv_pool5(pooled[:, parts:]).relu()).relu()
        logits = self.local_cls_score(scores[..., None, None]) + self.global_cls_score(x)
        return logits.flatten(1), boxes + self.global_bbox_pred(x).view(-1, 2, 4)


class CoupleNet(RFCN):
    """R-FCN with a global vote."""

    # Each local score becomes a sum over the scores of all classes, so that none can be left out.
    class_channels = None  # type: ignore[assignment]


def couplenet_r101(
    num_classes: int,
    *,
    context: bool = False,
    width: int = 1_024,
    global_width: int = 1_024,
    size: int = 7,
    init_std: float = 0.01,
    **changes: Any,
) -> CoupleNet:
    """CoupleNet on ResNet-101.

    Args:
        num_classes: Foreground classes.
        context: Whether regions are also pooled at twice their sides.
        width: Channels of the convolution that both branches read.
        global_width: Channels of the global branch.
        size: Cells along each side of a region, in both branches.
        init_std: Of the Gaussian that the layers behind the trunk start from.
        changes: As `rfcn.rfcn_r101`.
    """
    maps = partial(CoupledMaps, context=context)
    settings = {"width": width, "size": size, "init_std": init_std, **changes}
    model = rfcn_r101(num_classes, maps=maps, kind=CoupleNet, **settings)
    assert isinstance(model, CoupleNet)
    model.roi_heads.box_predictor = CoupledVote(
        num_classes, width * (2 if context else 1), global_width, size, init_std=init_std
    )
    return model
