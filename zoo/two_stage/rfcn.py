"""R-FCN, from Jifeng Dai, Yi Li, Kaiming He and Jian Sun, "R-FCN: Object Detection via Region-based Fully Convolutional
Networks" (NIPS 2016, https://arxiv.org/abs/1605.06409).

The second stage of Faster R-CNN without any layer of its own. All convolutions, those of ResNet's last stage included,
run once over the image; the last ones give a bank of 7x7 score maps for each class, one for each cell of a region (its
upper left, ..., its lower right). A region's cell reads only the map that is made for it, and the 49 cells vote by
their mean. Boxes come from a bank of the same kind. As a region costs next to nothing, all are looked at in training,
and those of largest loss are learned from (OHEM).

Constants are those of the Python release (YuwenXiong/py-R-FCN, rfcn_end2end_ohem, trained jointly). What we do
otherwise: boxes are continuous; the offsets that the first stage learns are not divided by deviations, as in the MXNet
release; suppression for detection keeps 400 boxes an image over all classes. The first convolution, the second stage
and all normalisations do not learn. The release's caffemodels load (`caffe_names`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ops.images import Batch
from ops.position_sensitive import ps_roi_pool
from ops.structures import Target
from zoo.backbones.caffe_resnet import CaffeResNet
from zoo.backbones.small import SmallNet
from zoo.parts.frozen import FrozenNorm
from zoo.parts.roi_head import RoIHead
from zoo.parts.rpn import RPNOutputs
from zoo.subsample import ClassChannels
from zoo.two_stage import faster_rcnn
from zoo.two_stage.fast_rcnn import LastMap
from zoo.two_stage.faster_rcnn import RPN_IN_CAFFE, SMALL_RECIPE, FasterRCNN, on_one_map

__all__ = ["RECIPE", "RFCN", "SMALL", "SMALL_RECIPE", "ScoreMaps", "Trunk", "Vote", "rfcn_r50", "rfcn_r101"]

RECIPE = replace(
    faster_rcnn.RECIPE,
    steps=110_000,
    milestones=(80_000,),
    source="py-R-FCN, models/pascal_voc/ResNet-101/rfcn_end2end, OHEM: VOC 2007 and 2012 trainval",
)

SMALL: dict[str, Any] = {
    **{key: faster_rcnn.SMALL[key] for key in ("backbone", "scales", "rpn_width", "before_nms", "min_side")},
    **{key: faster_rcnn.SMALL[key] for key in ("short", "longest", "std")},
    "after_nms": (100, 100),
    "size": 5,
    "width": 256,
    "init_std": 0.08,
    "hard": 48,
    "score_floor": 0.05,
    "limit": 100,
}
"""For `shapes`: stride 8, 5x5 score maps; as in the paper, as many proposals in training as in testing.

With a deviation of .01, layers of so few channels would hand on a tenth of what the paper's do.
"""


class RFCN(FasterRCNN):
    """The first stage reads the first map of the backbone; the score maps are made from the last."""

    def propose(
        self, maps: list[Tensor], batch: Batch, targets: list[Target] | None
    ) -> tuple[RPNOutputs | None, list[Tensor]]:
        """As Faster R-CNN, from the first of `maps` alone."""
        return super().propose(maps[:1], batch, targets)

    def network_for_cost(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Everything, the second stage on a fixed number of regions."""
        maps = self.backbone(batch.pixels)
        self.rpn.head(maps[:1])
        regions = maps[-1].new_zeros((self.cost_regions, 4))
        logits, offsets = self.roi_heads(maps, [regions] * len(maps[-1]))
        return logits, offsets

    def caffe_names(self) -> dict[str, str | tuple[str, ...]]:
        """Modules as py-R-FCN's models call them; see `zoo.formats.caffe`.

        Raises:
            ValueError: The backbone or the score maps are others.
        """
        body, banks = self.backbone, self.roi_heads.box_pool
        plain = type(banks) is ScoreMaps and type(self.roi_heads.box_predictor) is Vote
        if not isinstance(body, CaffeResNet) or not plain:
            raise ValueError(
                f"the released models have Caffe's ResNet and plain score maps, not {type(body).__name__} and "
                f"{type(banks).__name__}"
            )
        return (
            {f"backbone.{ours}": theirs for ours, theirs in body.caffe_names().items()}
            | {f"rpn.head.{ours}": theirs for ours, theirs in RPN_IN_CAFFE.items()}
            | {f"roi_heads.box_pool.{layer}": layer for layer in ("conv_new_1", "rfcn_cls", "rfcn_bbox")}
        )

    @torch.no_grad()
    def after_caffe(self) -> None:
        """Give the second stage's offsets the deviations that our decoder divides by.

        py-R-FCN learns offsets divided by (0.1, 0.1, 0.2, 0.2): those of the second stage, and with OHEM those of the
        first too. Before it writes a model (`snapshot` in lib/fast_rcnn/train.py) it multiplies `rfcn_bbox` and
        `rpn_bbox_pred` by what it had divided by, so both give plain offsets in a file. Ours are plain in the first
        stage and divided in the second.
        """
        banks = self.roi_heads.box_pool
        assert isinstance(banks, ScoreMaps)
        self._multiply_deviations(banks.rfcn_bbox, banks.size**2)

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: behind the background, each with its bank of score maps; boxes have no class."""
        layout = ClassChannels(leading=1, inner=self.roi_heads.box_pool.size**2)
        return {f"roi_heads.box_pool.rfcn_cls.{part}": layout for part in ("weight", "bias")}


class ScoreMaps(nn.Module):
    """Banks of maps for scores and for boxes, pooled for each region. Layer names are the release's.

    Attributes:
        num_classes: Foreground classes C.
        stride: Of the maps.
        size: Cells along each side of a region.
    """

    def __init__(
        self,
        inputs: int,
        num_classes: int,
        stride: int,
        *,
        width: int = 1_024,
        size: int = 7,
        init_std: float = 0.01,
    ) -> None:
        super().__init__()
        self.num_classes, self.stride, self.size = num_classes, stride, size
        self.conv_new_1 = nn.Conv2d(inputs, width, 1)
        self.rfcn_cls = nn.Conv2d(width, size**2 * (num_classes + 1), 1)
        # Boxes of the background, which nobody reads, and of the foreground, one for all classes.
        self.rfcn_bbox = nn.Conv2d(width, size**2 * 8, 1)
        for layer in (self.conv_new_1, self.rfcn_cls, self.rfcn_bbox):
            nn.init.normal_(layer.weight, std=init_std)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Scores and boxes of every cell, `[R, C + 1 + 8, size, size]`, from the last of `maps`."""
        return self.pool(self.conv_new_1(maps[-1]).relu(), boxes)

    def pool(self, x: Tensor, boxes: list[Tensor]) -> Tensor:
        """The same from what `conv_new_1` gives."""
        banks = torch.cat([self.rfcn_cls(x), self.rfcn_bbox(x)], 1)
        return ps_roi_pool(banks, boxes, self.size, self.stride)


class Vote(nn.Module):
    """The cells of a region vote by their mean (section 3): logits `[R, C + 1]` and offsets `[R, 2, 4]`."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """`[R, C + 1 + 8, size, size]` to logits and offsets, those of the foreground last."""
        votes = pooled.mean((2, 3))
        return votes[:, : self.num_classes + 1], votes[:, self.num_classes + 1 :].unflatten(1, (-1, 4))


@dataclass(frozen=True)
class Trunk:
    """A backbone of two maps of one stride, or of one map that serves both stages.

    Attributes:
        module: Image `[B, 3, H, W]` to the maps.
        first: Channels of the first stage's map.
        last: And of the last.
        stride: Of both.
    """

    module: nn.Module
    first: int
    last: int
    stride: int

    @classmethod
    def caffe(cls, blocks: Sequence[int]) -> Trunk:
        """The authors' ResNet, its last stage dilated instead of strided (section 4.1)."""
        body = CaffeResNet(("res4", "res5"), blocks=blocks, dilated=True, norm=FrozenNorm)
        for part in (body.conv1, body.res2):
            part.requires_grad_(False)
        first, last = body.channels
        return cls(body, first, last, body.strides[-1])

    @classmethod
    def small(cls, widths: Sequence[int]) -> Trunk:
        """The zoo's small network, all of which learns."""
        body = SmallNet(tuple(widths))
        return cls(LastMap(body), body.channels[-1], body.channels[-1], body.strides[-1])


def rfcn_r101(
    num_classes: int,
    *,
    backbone: Literal["resnet", "small"] = "resnet",
    blocks: Sequence[int] = (3, 4, 23, 3),
    widths: Sequence[int] = (16, 24, 48),
    maps: Callable[..., ScoreMaps] = ScoreMaps,
    width: int = 1_024,
    size: int = 7,
    init_std: float = 0.01,
    hard: int | None = 128,
    samples: int = 128,
    score_floor: float = 0.0,
    limit: int = 400,
    std: float = 1.0,
    kind: type[RFCN] = RFCN,
    **changes: Any,
) -> RFCN:
    """R-FCN on ResNet-101.

    Args:
        num_classes: Foreground classes.
        backbone: The authors' ResNet, or the zoo's small network.
        blocks: Blocks a stage of the ResNet.
        widths: Channels of the small network.
        maps: What makes and pools the score maps.
        width: Channels of the convolution before the score maps.
        size: Cells along each side of a region, k of the paper (its table 2 has 3 and 7).
        init_std: Of the Gaussian that the layers behind the trunk start from.
        hard: Regions an image of largest loss that are learned from; None: a sample of `samples` instead (table 3).
        samples: See `hard`.
        score_floor: A detection must score more than this.
        limit: Most detections an image.
        std: What colours are divided by, after the mean is taken off.
        kind: The detector's class.
        changes: As `faster_rcnn.on_one_map`; as many proposals are looked at in training as in testing.
    """
    trunk = Trunk.caffe(blocks) if backbone == "resnet" else Trunk.small(widths)
    heads = RoIHead(
        maps(trunk.last, num_classes, trunk.stride, width=width, size=size, init_std=init_std),
        nn.Identity(),
        Vote(num_classes),
        hard=hard,
        samples=samples,
        nms=0.3,
        score_floor=score_floor,
        limit=limit,
    )
    settings = {"before_nms": (6_000, 6_000), "after_nms": (300, 300), "std": (std, std, std), **changes}
    return on_one_map(num_classes, trunk.module, trunk.first, trunk.stride, heads, kind=kind, **settings)


def rfcn_r50(num_classes: int, **changes: Any) -> RFCN:
    """R-FCN on ResNet-50.

    Args:
        num_classes: Foreground classes.
        changes: As `rfcn_r101`.
    """
    return rfcn_r101(num_classes, **{"blocks": (3, 4, 6, 3), **changes})
