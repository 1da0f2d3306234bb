"""GRP-DSOD, later GFR-DSOD: Improving Object Detection from Scratch via Gated Feature Reuse. Zhiqiang Shen,
Honghui Shi, Jiahui Yu, Hai Phan, Rogerio Feris, Liangliang Cao, Ding Liu, Xinchao Wang, Thomas Huang, Marios Savvides.
BMVC 2019, first as arXiv 1712.00886 in 2017.

https://arxiv.org/abs/1712.00886

DSOD whose maps learn from both sides: finer ones are pooled into the first and second, as in DSOD into all, and each
takes what the next coarser one knows, enlarged and put in front of its own channels. A gate then weighs every map's
channels, and the map as a whole, from its mean, and adds what passes to the map. Convolutions are normalised behind,
not before as in DSOD. More shapes of priors watch each cell.

Built is the network that the authors released, the one that their tables mark with a star. Otherwise than the code: as
`dsod`; the gates' weights start from Caffe's `xavier`, since the code leaves them at zero, where no gradient reaches
them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.backbones import small
from zoo.backbones.dsod import DenseBlock, DownBlock, conv_bn_relu, dense_stem, numbered_layers
from zoo.one_stage import dsod
from zoo.one_stage.dsod import NormedMaps, head_names, normed_head
from zoo.one_stage.ssd import SSD

__all__ = ["GRPDSOD", "RECIPE", "SMALL", "SMALL_RECIPE", "GRPNet", "GatedPyramid", "grp_dsod320"]

RECIPE = replace(dsod.RECIPE, batch=144, source="the released GRP_DSOD320_pascal.py, for VOC 2007 + 2012, from scratch")
SMALL_RECIPE = small.SMALL_RECIPE

SMALL: dict[str, Any] = {**dsod.SMALL, "extra": 8, "ups": (16, 16, 16, 16)}


class GRPDSOD(SSD):
    """SSD over a dense network with a gated pyramid.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input.
        stem: Channels of the stem's three convolutions.
        growth: Channels that a dense layer adds.
        bottleneck: Channels that it computes them from.
        layers: Of the four dense blocks.
        extra: Channels that the first map takes from each of two finer ones.
        side: Channels of each half of the second map.
        downs: Channels of each half of the further maps.
        ups: Channels that each map but the last takes from the next coarser one.
        early_pool: Halve the map between the first two blocks; see `GRPNet`.
        arguments: Further ones of `SSD`.
    """

    neck: Any

    def __init__(
        self,
        num_classes: int,
        *,
        size: int,
        stem: Sequence[int] = (64, 64, 128),
        growth: int = 48,
        bottleneck: int = 192,
        layers: Sequence[int] = (6, 8, 8, 8),
        extra: int = 128,
        side: int = 171,
        downs: Sequence[int] = (86, 86, 86, 128),
        ups: Sequence[int] = (128, 171, 86, 86, 86),
        early_pool: bool = True,
        **arguments: Any,
    ) -> None:
        net = GRPNet(stem, growth, bottleneck, layers, extra, side, downs, early_pool=early_pool)
        self._odd = _odd_maps(net.strides, (size, size))
        neck = GatedPyramid(net.channels, ups, [1 if odd else 2 for odd, _ in self._odd])
        super().__init__(num_classes, size=size, backbone=net, neck=neck, head=normed_head, **arguments)

    def resize(self, size: int | tuple[int, int]) -> None:
        """As `SSD`; only to inputs whose maps are odd where they are now, since the pyramid's kernels fit these.

        Raises:
            ValueError: They are not, or the input is too small.
        """
        if _odd_maps(self.backbone.strides, (size, size) if isinstance(size, int) else size) != self._odd:
            raise ValueError(f"GRPDSOD cannot change its input to {size}: its maps would be odd at other levels")
        super().resize(size)

    def caffe_names(self) -> dict[str, str | tuple[str, ...]]:
        """Modules as the released models call them; see `zoo.formats.caffe`."""
        names = numbered_layers({"backbone": self.backbone, "neck.ups": self.neck.ups}, {})
        sources = [f"Recurrent{level + 1}" for level in range(len(self.backbone.channels))]
        for level, source in enumerate(sources):
            names[f"neck.gates.{level}.shared"] = f"{source}_fc"
            names[f"neck.gates.{level}.channel"] = f"InnerProduct{2 * level + 1}"
            names[f"neck.gates.{level}.whole"] = f"InnerProduct{2 * level + 2}"
        return names | head_names("neck.normed", [f"{source}_gate" for source in sources])


def _odd_maps(strides: Sequence[int], size: tuple[int, int]) -> list[tuple[bool, bool]]:
    """Whether height and width of each map that takes from a coarser one are odd.

    Raises:
        ValueError: One is and the other is not.
    """
    odd = [(-(-size[0] // stride) % 2 == 1, -(-size[1] // stride) % 2 == 1) for stride in strides[:-1]]
    if any(height != width for height, width in odd):
        raise ValueError(f"an input of {size} gives maps that are odd one way only, which no square kernel fits")
    return odd


class GRPNet(nn.Module):
    """Image to maps, each after its ReLU.

    Args:
        stem: Channels of the stem's three convolutions.
        growth: Channels that a dense layer adds.
        bottleneck: Channels that it computes them from.
        layers: Of the four dense blocks.
        extra: Channels that the first map takes from the stem, and as many from the first block.
        side: Channels of each half of the second map.
        downs: Channels of each half of the further maps.
        early_pool: Halve the map between the first two blocks, as the paper does. Without, every map is twice as fine.

    Attributes:
        channels: Width of each map that `forward` gives.
        strides: Stride of each; sides are rounded up.
    """

    def __init__(
        self,
        stem: Sequence[int],
        growth: int,
        bottleneck: int,
        layers: Sequence[int],
        extra: int,
        side: int,
        downs: Sequence[int],
        *,
        early_pool: bool = True,
    ) -> None:
        super().__init__()
        unit = conv_bn_relu
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.early_pool = early_pool
        self.stem = dense_stem(stem, eps=1e-4)
        self.block1 = DenseBlock(stem[-1], layers[0], bottleneck, growth, unit)
        self.transition1 = unit(self.block1.channels, self.block1.channels, 1)
        self.block2 = DenseBlock(self.block1.channels, layers[1], bottleneck, growth, unit)
        dense = self.block2.channels
        self.transition2 = unit(dense, dense, 1)
        self.from_stem = unit(stem[-1], extra, 1)
        self.from_block1 = unit(self.block1.channels, extra, 1)
        self.block3 = DenseBlock(dense, layers[2], bottleneck, growth, unit)
        self.transition3 = unit(self.block3.channels, self.block3.channels, 1)
        self.block4 = DenseBlock(self.block3.channels, layers[3], bottleneck, growth, unit)
        self.transition4 = unit(self.block4.channels, side, 1)
        first = dense + 2 * extra
        self.side = unit(first, side, 1)
        self.downs = nn.ModuleList()
        self.channels = [first, 2 * side]
        for width in downs:
            self.downs.append(DownBlock(self.channels[-1], width, unit))
            self.channels.append(2 * width)
        finest = 8 if early_pool else 4
        self.strides = tuple(finest * 2**level for level in range(len(self.channels)))
        self.stem_pool = nn.MaxPool2d(finest // 2, finest // 2, ceil_mode=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps `[B, C_i, H / s_i, W / s_i]`, the finest first."""
        stem = self.stem(x)
        block1 = self.transition1(self.block1(self.pool(stem)))
        if self.early_pool:
            block1 = self.pool(block1)
        dense = self.transition2(self.block2(block1))
        first = torch.cat([dense, self.from_stem(self.stem_pool(stem)), self.from_block1(block1)], 1)
        x = self.transition4(self.block4(self.transition3(self.block3(self.pool(dense)))))
        maps = [first, torch.cat([x, self.side(self.pool(first))], 1)]
        for down in self.downs:
            maps.append(down(maps[-1]))
        return maps


class GatedPyramid(nn.Module):
    """Each map takes from the next coarser one, passes its gate, and is L2-normalised.

    Args:
        inputs: Width of each map, the finest first.
        ups: Channels that each map but the last takes.
        kernels: Of the deconvolutions of stride 2 that enlarge them: 2 for a map that is to be even, 1 for an odd one.

    Attributes:
        channels: Width of each map that `forward` gives.
    """

    def __init__(self, inputs: Sequence[int], ups: Sequence[int], kernels: Sequence[int]) -> None:
        super().__init__()
        if len(ups) != len(inputs) - 1:
            raise ValueError(f"{len(inputs)} maps need {len(inputs) - 1} widths of what goes up, got {len(ups)}")
        self.channels = [width + up for width, up in zip(inputs, [*ups, 0], strict=True)]
        # What goes up is the map before it took anything itself.
        coarser = zip(inputs[1:], ups, kernels, strict=True)
        self.ups = nn.ModuleList(_up(width, up, kernel) for width, up, kernel in coarser)
        self.gates = nn.ModuleList(_Gate(width) for width in self.channels)
        self.normed = NormedMaps(self.channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps, each as large as before."""
        taken = [torch.cat([up(coarse), x], 1) for up, coarse, x in zip(self.ups, maps[1:], maps[:-1], strict=True)]
        out: list[Tensor] = self.normed([gate(x) for gate, x in zip(self.gates, [*taken, maps[-1]], strict=True)])
        return out


def _up(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    deconv = nn.ConvTranspose2d(inputs, outputs, kernel, 2, bias=False)
    # Caffe's `bilinear` filler, which the authors freeze; every output sums up all inputs.
    factor = math.ceil(kernel / 2)
    centre = (2 * factor - 1 - factor % 2) / (2 * factor)
    row = 1 - (torch.arange(kernel) / factor - centre).abs()
    deconv.weight = nn.Parameter((row[:, None] * row).expand_as(deconv.weight).clone(), requires_grad=False)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["deconv"] = deconv
    layers["bn"] = nn.BatchNorm2d(outputs, eps=1e-4)
    layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


class _Gate(nn.Module):
    """`x` and, added to it, what of `x` passes: weights of the channels and one of the whole, from the map's mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shared = nn.Linear(width, width // 16)
        self.channel = nn.Linear(width // 16, width)
        self.whole = nn.Linear(width // 16, 1)
        for layer in (self.shared, self.channel, self.whole):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, width, H, W]` to the same shape."""
        known = self.shared(x.mean((2, 3))).relu()
        attended = (x * self.channel(known).sigmoid()[..., None, None]).relu()
        return x + attended * self.whole(known).sigmoid()[..., None, None]


def grp_dsod320(num_classes: int, *, size: int = 320, **overrides: Any) -> GRPDSOD:
    """GRP-DSOD320*: six levels, 17,078 priors.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input; at another than 320 the steps follow from the maps.
        overrides: Arguments of `GRPDSOD`.
    """
    paper = {
        "percents": (10, 20, 37, 54, 71, 88, 105),
        "ratios": (*((1.6, 2, 3),) * 4, (1.6, 2), (1.6, 2)),
        "steps": (8, 16, 32, 64, 100, 320) if size == 320 else None,
    }
    return GRPDSOD(num_classes, size=size, **{**paper, **overrides})
