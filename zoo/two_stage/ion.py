"""Inside-Outside Net, from Sean Bell, C. Lawrence Zitnick, Kavita Bala and Ross Girshick, "Inside-Outside Net:
Detecting Objects in Context with Skip Pooling and Recurrent Neural Networks" (CVPR 2016,
https://arxiv.org/abs/1512.04143).

A delta of Fast R-CNN in what is pooled for a region. Inside: features from several layers, fine ones for small objects
and late ones for meaning, each brought to one length so that none drowns the others. Outside: recurrent networks sweep
over the last map to the right, left, down and up, twice, so that every cell hears of the whole image.

What is here is the network of the paper's sections 3 and 4 with softmax and one box regression. Its extras (a loss from
segmentation, two rounds of regression with voting, several proposal methods) are not. From memory of the paper, since
no code was at hand: a hidden layer of 512 in each direction, the 1x1 convolutions around the sweeps, the constant 1000
that normalised features are multiplied by, no dropout, and the recipe's rate and batch. The features that the 1x1
convolution makes of all layers are not rectified, which the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.ops import roi_pool

from zoo.backbones.small import SMALL_RECIPE, SmallNet
from zoo.backbones.vgg import VGG16
from zoo.parts.roi_head import BoxHead, BoxPredictor, RoIHead
from zoo.two_stage import fast_rcnn
from zoo.two_stage.fast_rcnn import FastRCNN, with_search

__all__ = ["ION", "IRNN", "RECIPE", "SMALL", "SMALL_RECIPE", "SkipPool", "ion_vgg16"]

RECIPE = replace(
    fast_rcnn.RECIPE,
    batch=4,
    lr=5e-3,
    source="rate and batch from memory of section 5; steps of Fast R-CNN on VOC 2007",
)

SMALL: dict[str, Any] = {
    **{key: value for key, value in fast_rcnn.SMALL.items() if key != "dropout"},
    "hidden": 24,
    "reduced": 48,
    "length": 50.0,
}
"""For `shapes`: pooled at strides 4 and 8 and from the context; lengths as normalised maps of this width have them."""


class IRNN(nn.Module):
    """Four rectified recurrent networks that sweep over a map, one in each direction (section 4.1).

    Each starts with the identity as its recurrent matrix, so that it hands on what it has heard undiminished.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.input = nn.Conv2d(inputs, hidden, 1)
        self.recurrent = nn.Parameter(torch.eye(hidden).repeat(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, 4 * hidden, H, W]`: heard from the left, the right, above and below.

        With `u` the input's share, `h[j] = relu(u[j] + W h[j - 1])` along a row, and likewise the other ways.
        """
        u = self.input(x)
        across = _sweep(u, self.recurrent[:2])
        down = _sweep(u.transpose(2, 3), self.recurrent[2:]).transpose(2, 3)
        return torch.cat([across, down], 1).to(u.dtype)


def _sweep(u: Tensor, recurrent: Tensor) -> Tensor:
    """`[B, C, H, W]` to `[B, 2C, H, W]`: forth and back along the rows, all rows at once."""
    batch, channels, height, width = u.shape
    # Long sums of half precision would drift.
    kind = u.device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        steps = u.float().permute(3, 0, 2, 1).reshape(width, 1, batch * height, channels)
        steps = torch.cat([steps, steps.flip(0)], 1)
        matrices = recurrent.float().transpose(1, 2)
        heard = [steps[0].relu()]
        for step in steps[1:]:
            heard.append(torch.baddbmm(step, heard[-1], matrices).relu())
        forth, back = torch.stack(heard).unbind(1)
        both = torch.cat([forth, back.flip(0)], 2)
    return both.reshape(width, batch, height, 2 * channels).permute(1, 3, 2, 0)


class Context(nn.Module):
    """The last maps of a backbone, and what two layers of `IRNN` make of the last (section 4).

    Attributes:
        channels: Of the maps that `forward` gives.
        strides: Likewise.
    """

    def __init__(self, body: VGG16 | SmallNet, maps: int, hidden: int, frozen: int = 0) -> None:
        super().__init__()
        self.body, self.maps = body, maps
        last = body.channels[-1]
        self.first, self.second = IRNN(last, hidden), IRNN(4 * hidden, hidden)
        self.mix = nn.Conv2d(4 * hidden, last, 1)
        self.channels = (*body.channels[-maps:], last)
        self.strides = (*body.strides[-maps:], body.strides[-1])
        for part in list(body.stages)[:frozen]:
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image `[B, 3, H, W]` to maps, the context last, at the stride of the map before."""
        maps: list[Tensor] = self.body(x)[-self.maps :]
        return [*maps, self.mix(self.second(self.first(maps[-1]))).relu()]


@dataclass(frozen=True)
class SkipPool:
    """RoI pooling from every map, each map's share of a region at length 1 (section 3).

    Attributes:
        strides: Of the maps.
        size: Cells along each side.
    """

    strides: Sequence[int]
    size: int = 7

    def __call__(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """`[R, sum C_i, size, size]`."""
        shares = []
        for x, stride in zip(maps, self.strides, strict=True):
            pooled = roi_pool(x.float(), boxes, self.size, 1 / stride)
            shares.append(pooled / (pooled.square().sum((1, 2, 3), keepdim=True) + 1e-10).sqrt())
        return torch.cat(shares, 1)


class SkipHead(nn.Module):
    """Scale each channel, mix all layers into as many channels as the head is made for, then Fast R-CNN's head."""

    def __init__(self, inputs: int, reduced: int, length: float, head: BoxHead) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((inputs, 1, 1), length))
        self.reduce = nn.Conv2d(inputs, reduced, 1)
        self.head = head

    def forward(self, pooled: Tensor) -> Tensor:
        """`[R, inputs, size, size]` to `[R, width]`."""
        features: Tensor = self.head(self.reduce(pooled * self.scale))
        return features


class ION(FastRCNN):
    """Fast R-CNN whose regions are pooled from several maps."""

    def head_for_cost(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """All maps' channels on a fixed number of regions."""
        size, channels = self.roi_heads.box_pool.size, sum(x.shape[1] for x in maps)
        return self.roi_heads.predict(maps[0].new_zeros((len(maps[0]) * self.cost_regions, channels, size, size)))


def ion_vgg16(
    num_classes: int,
    *,
    backbone: Literal["vgg16", "small"] = "vgg16",
    widths: Sequence[int] = (16, 24, 48),
    hidden: int = 512,
    reduced: int = 512,
    length: float = 1_000.0,
    pool_size: int = 7,
    head_width: int = 4_096,
    samples: int = 64,
    **settings: Any,
) -> FastRCNN:
    """ION on VGG-16: conv3_3, conv4_3, conv5_3 and the context.

    Args:
        num_classes: Foreground classes.
        backbone: VGG-16, or the zoo's small network, all of whose maps are pooled and all of which learns.
        widths: Channels of the small network.
        hidden: Width of the recurrent networks.
        reduced: Channels that the fully connected layers read.
        length: Where the scale of each normalised channel starts.
        pool_size: Cells along each side of a region.
        head_width: Channels of both fully connected layers.
        samples: Regions an image that the head learns from.
        settings: As `with_search`.
    """
    if backbone == "vgg16":
        context = Context(VGG16(ceil_mode=True), 3, hidden, frozen=2)
    else:
        context = Context(SmallNet(tuple(widths)), len(widths) - 1, hidden)
    roi_heads = RoIHead(
        SkipPool(context.strides, pool_size),
        SkipHead(sum(context.channels), reduced, length, BoxHead(reduced * pool_size**2, head_width)),
        BoxPredictor(head_width, num_classes),
        samples=samples,
        background=0.1,
        nms=0.3,
    )
    return with_search(num_classes, context, roi_heads, kind=ION, **settings)
