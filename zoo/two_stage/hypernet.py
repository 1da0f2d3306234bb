"""HyperNet, from Tao Kong, Anbang Yao, Yurong Chen and Fuchun Sun, "HyperNet: Towards Accurate Region Proposal
Generation and Joint Object Detection" (CVPR 2016, https://arxiv.org/abs/1604.00600).

A first, a middle and a last map of the backbone are brought to the middle one's resolution and joined, so that both
stages see fine and meaningful features at once. The first stage pools features of every candidate box, instead of
reading all shapes off one cell as a region proposal network does, and needs a hundred proposals where others need
thousands. The fast form, HyperNet-SP (section 3.5), runs the first stage's convolution once over the map before it
pools, instead of once in every candidate.

All numbers here are from memory of the paper, for want of code; the parameters of its 5x5 convolutions agree. Where we
had to choose: the last map is enlarged channel by channel, by a learned kernel that begins as bilinear interpolation;
candidates are the anchors of Faster R-CNN at four scales, one set every 16 pixels (28,728 at 600x1000, the paper has
"30k"); they are matched as its anchors are, and those that cross the border take part. The paper trains the stages in
turn, here they are trained together with Faster R-CNN's schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ops.anchors import caffe_shapes, grid_anchors
from ops.images import Batch
from zoo.backbones.small import SMALL_RECIPE, SmallNet
from zoo.backbones.vgg import VGG16
from zoo.parts.roi_head import BoxHead, BoxPredictor, RegionPool, RoIHead
from zoo.parts.rpn import RPN, RPNOutputs
from zoo.two_stage import faster_rcnn
from zoo.two_stage.fast_rcnn import BGR_MEAN
from zoo.two_stage.faster_rcnn import FasterRCNN

__all__ = ["RECIPE", "SMALL", "SMALL_RECIPE", "CandidateHead", "HyperMaps", "HyperNet", "hypernet_vgg16"]

RECIPE = replace(faster_rcnn.RECIPE, source="Faster R-CNN's joint schedule; the paper trains in turns")

SMALL: dict[str, Any] = {
    **{
        key: faster_rcnn.SMALL[key]
        for key in ("backbone", "head_width", "dropout", "samples", "short", "longest", "std")
    },
    "shared_first": True,
    "width": 16,
    "reduced": 32,
    "pool_size": 7,
    "proposal_width": 64,
    "scales": (1, 2, 4, 8),
    "before_nms": 300,
    "after_nms": (200, 100),
}
"""For `shapes`: the map at stride 8, 1,200 candidates of 16 to 128 px in the fast order."""


class HyperMaps(nn.Module):
    """Three maps at the resolution of the middle one, each thinned by a 5x5 convolution and normalised (section 3.1).

    Attributes:
        channels: Of the joined map.
        stride: Of it.
    """

    def __init__(self, body: VGG16 | SmallNet, levels: Sequence[int], width: int, frozen: int = 0) -> None:
        super().__init__()
        self.body, self.levels = body, tuple(levels)
        fine, middle, coarse = (body.strides[level] for level in levels)
        self.channels, self.stride = 3 * width, middle
        self.down = nn.MaxPool2d(middle // fine, ceil_mode=True)
        inputs, times = body.channels[levels[2]], coarse // middle
        self.up = nn.ConvTranspose2d(inputs, inputs, 2 * times, times, times // 2, groups=inputs, bias=False)
        ramp = 1 - ((torch.arange(2 * times) + 0.5) / times - 1).abs()
        with torch.no_grad():
            self.up.weight.copy_((ramp[:, None] * ramp).expand_as(self.up.weight))
        self.thin = nn.ModuleList(nn.Conv2d(body.channels[level], width, 5, padding=2) for level in levels)
        self.norm = nn.LocalResponseNorm(5)
        for part in list(body.stages)[:frozen]:
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image `[B, 3, H, W]` to one map `[B, 3 * width, H / stride, W / stride]`, rounded up."""
        maps = self.body(x)
        fine, middle, coarse = (maps[level] for level in self.levels)
        height, width = middle.shape[-2:]
        same = [self.down(fine), middle, self.up(coarse)[..., :height, :width]]
        return [torch.cat([self.norm(thin(x).relu()) for thin, x in zip(self.thin, same, strict=True)], 1)]


class CandidateHead(nn.Module):
    """Score and offsets of candidates from features of their own (section 3.2).

    Attributes:
        shared_first: The fast order: convolve, then pool.
    """

    def __init__(self, channels: int, pool: RegionPool, width: int, *, between: int = 4, shared_first: bool) -> None:
        super().__init__()
        self.pool, self.shared_first = pool, shared_first
        self.conv = nn.Conv2d(channels, between, 3, padding=1)
        self.fc = nn.Linear(between * pool.size**2, width)
        self.score, self.offsets = nn.Linear(width, 2), nn.Linear(width, 4)
        for layer in (self.score, self.offsets):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits `[sum R_i]` and offsets `[sum R_i, 4]` of boxes `[R_i, 4]` in network pixels on a map."""
        if self.shared_first:
            pooled = self.pool([self.conv(x).relu()], boxes)
        else:
            pooled = self.conv(self.pool([x], boxes)).relu()
        features = self.fc(pooled.flatten(1)).relu()
        # A softmax over two scores is the sigmoid of their difference.
        background, foreground = self.score(features).unbind(1)
        return foreground - background, self.offsets(features)


class CandidateRPN(RPN):
    """A proposal network whose anchors are pooled one by one; `strides` says how far apart they lie."""

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> RPNOutputs:
        """Pool and score the candidates of an input of `size` pixels from the one map."""
        (x,), (step,) = maps, self.strides
        cells = (-(-size[0] // step), -(-size[1] // step))
        anchors = grid_anchors(self.get_buffer("shapes0"), cells, (step, step)).to(x.device)
        border = anchors.new_tensor(size[::-1] * 2)
        inside = torch.minimum(anchors.clamp(min=0), border)
        # Nothing is learned where a candidate lies: only its features are.
        logits, offsets = self.head(x, [inside] * len(x))
        return RPNOutputs(
            logits.unflatten(0, (len(x), -1)), offsets.unflatten(0, (len(x), -1)), anchors, (len(anchors),)
        )


class ThinHead(nn.Sequential):
    """A 3x3 convolution of the pooled features, then two fully connected layers (section 3.3)."""

    def __init__(self, channels: int, reduced: int, size: int, width: int, dropout: float) -> None:
        conv = nn.Conv2d(channels, reduced, 3, padding=1)
        super().__init__(conv, nn.ReLU(inplace=True), BoxHead(reduced * size**2, width, dropout))


class HyperNet(FasterRCNN):
    """Faster R-CNN over one joined map, with candidates that are pooled."""

    def network_for_cost(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """All candidates, then the second stage on a fixed number of regions."""
        maps = self.backbone(batch.pixels)
        self.rpn(maps, batch.size)
        return self.head_for_cost(maps)


def hypernet_vgg16(
    num_classes: int,
    *,
    backbone: Literal["vgg16", "small"] = "vgg16",
    widths: Sequence[int] = (16, 24, 40, 48),
    width: int = 42,
    shared_first: bool = False,
    step: int = 16,
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    scales: Sequence[float] = (4.0, 8.0, 16.0, 32.0),
    proposal_width: int = 256,
    before_nms: int = 1_000,
    after_nms: Sequence[int] = (200, 100),
    pool_size: int = 13,
    reduced: int = 63,
    head_width: int = 4_096,
    dropout: float = 0.25,
    samples: int = 128,
    short: int = 600,
    longest: int = 1_000,
    std: float = 1.0,
) -> HyperNet:
    """HyperNet on VGG-16: conv1_2, conv3_3 and conv5_3 at stride 4.

    Args:
        num_classes: Foreground classes.
        backbone: VGG-16, or the zoo's small network, all of which learns.
        widths: Channels of the small network.
        width: Channels that each of the three maps gives.
        shared_first: HyperNet-SP: the first stage convolves the map and then pools (3.5).
        step: Pixels between the centres of candidates.
        ratios: Of the candidates, height over width.
        scales: Of the candidates, in steps.
        proposal_width: Of the first stage's fully connected layer.
        before_nms: Proposals before suppression.
        after_nms: And after, in training and in testing.
        pool_size: Cells along each side of a region, in both stages.
        reduced: Channels of the second stage's convolution.
        head_width: Channels of both of its fully connected layers.
        dropout: In both.
        samples: Regions an image that the second stage learns from.
        short: Shorter side of the input.
        longest: Longest side of the input.
        std: What colours are divided by, after the mean is taken off.
    """
    if backbone == "vgg16":
        maps = HyperMaps(VGG16(ceil_mode=True), (0, 2, 4), width, frozen=2)
    else:
        maps = HyperMaps(SmallNet(tuple(widths)), (0, 1, 2), width)
    pool = RegionPool(maps.stride, pool_size)
    return HyperNet(
        num_classes,
        backbone=maps,
        rpn=CandidateRPN(
            CandidateHead(maps.channels, pool, proposal_width, shared_first=shared_first),  # type: ignore[arg-type]
            [caffe_shapes(step, ratios, scales)],
            [step],
            before_nms=(before_nms, before_nms),
            after_nms=(after_nms[0], after_nms[1]),
        ),
        roi_heads=RoIHead(
            pool,
            ThinHead(maps.channels, reduced, pool_size, head_width, dropout),
            BoxPredictor(head_width, num_classes),
            samples=samples,
            nms=0.3,
        ),
        short=short,
        longest=longest,
        mean=BGR_MEAN,
        std=(std, std, std),
        caffe=True,
        cost_regions=100,
    )
