"""The dense networks of DSOD and GRP-DSOD, from Shen, Liu, Li, Jiang, Chen and Xue, "DSOD: Learning Deeply Supervised
Object Detectors from Scratch" (ICCV 2017, https://arxiv.org/abs/1708.01241), sections 3.2 and 3.3, after DenseNet
(Huang, Liu, van der Maaten and Weinberger, CVPR 2017).

A layer of a dense block adds a few channels to all that came before, so that every layer is close to the losses: that
is what lets a detector be trained without ImageNet. The maps behind the backbone are made alike: half of each is a
pooled copy of the finer map (reused), half is computed from it (learned).

Submodules stand in the order in which the released Caffe scripts number their layers.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from zoo.parts.multibox import caffe_xavier

__all__ = [
    "DSODNet",
    "DenseBlock",
    "DownBlock",
    "Unit",
    "bn_relu_conv",
    "conv_bn_relu",
    "dense_stem",
    "numbered_layers",
]

Unit = Callable[[int, int, int, int], nn.Module]
"""`unit(inputs, outputs, kernel, stride)`: a convolution with normalisation and ReLU before or behind it."""


def bn_relu_conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Batch normalisation, ReLU, convolution without bias: DSOD's unit."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["bn"] = nn.BatchNorm2d(inputs)
    layers["relu"] = nn.ReLU(inplace=True)
    layers["conv"] = _conv(inputs, outputs, kernel, stride)
    return nn.Sequential(layers)


def conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int = 1, eps: float = 1e-4) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU: GRP-DSOD's unit, and that of both stems."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = _conv(inputs, outputs, kernel, stride)
    layers["bn"] = nn.BatchNorm2d(outputs, eps=eps)
    layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return caffe_xavier(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False))


def dense_stem(widths: Sequence[int], eps: float) -> nn.Sequential:
    """Three 3x3 convolutions, the first of stride 2 (section 3.2, "stem block"); the pooling behind it is not here."""
    first, second, third = widths
    return nn.Sequential(
        conv_bn_relu(3, first, 3, 2, eps),
        conv_bn_relu(first, second, 3, 1, eps),
        conv_bn_relu(second, third, 3, 1, eps),
    )


class _DenseLayer(nn.Module):
    def __init__(self, inputs: int, bottleneck: int, growth: int, unit: Unit) -> None:
        super().__init__()
        self.narrow = unit(inputs, bottleneck, 1, 1)
        self.wide = unit(bottleneck, growth, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.wide(self.narrow(x))], 1)


class DenseBlock(nn.Sequential):
    """Layers of which each adds `growth` channels behind its input.

    Attributes:
        channels: Of the map that it gives.
    """

    def __init__(self, inputs: int, layers: int, bottleneck: int, growth: int, unit: Unit) -> None:
        super().__init__(*(_DenseLayer(inputs + growth * i, bottleneck, growth, unit) for i in range(layers)))
        self.channels = inputs + growth * layers


class DownBlock(nn.Module):
    """Half the side, rounded up: `width` reused channels, then `width` learned ones (section 3.3)."""

    def __init__(self, inputs: int, width: int, unit: Unit) -> None:
        super().__init__()
        self.reused = nn.Sequential(nn.MaxPool2d(2, 2, ceil_mode=True), unit(inputs, width, 1, 1))
        self.learned = nn.Sequential(unit(inputs, width, 1, 1), unit(width, width, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, 2 * width, H / 2, W / 2]`."""
        return torch.cat([self.reused(x), self.learned(x)], 1)


class DSODNet(nn.Module):
    """DS/A-B-k-1: image to the maps that DSOD's heads read, each the raw output of a convolution or concatenation.

    Args:
        stem: Channels of the stem's three convolutions.
        growth: k, channels that a layer adds.
        bottleneck: B, channels that a layer computes them from.
        layers: Of the four dense blocks.
        side: Channels of each half of the second map.
        downs: Channels of each half of the further maps.
        early_pool: Halve the map between the first two blocks, as the paper does. Without, every map is twice as fine.

    Attributes:
        channels: Width of each map that `forward` gives.
        strides: Stride of each; sides are rounded up.
    """

    def __init__(
        self,
        stem: Sequence[int] = (64, 64, 128),
        growth: int = 48,
        bottleneck: int = 192,
        layers: Sequence[int] = (6, 8, 8, 8),
        side: int = 256,
        downs: Sequence[int] = (256, 128, 128, 128),
        *,
        early_pool: bool = True,
    ) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.early_pool = early_pool
        unit = bn_relu_conv
        self.stem = dense_stem(stem, eps=1e-5)
        self.block1 = DenseBlock(stem[-1], layers[0], bottleneck, growth, unit)
        self.transition1 = unit(self.block1.channels, self.block1.channels, 1)
        self.block2 = DenseBlock(self.block1.channels, layers[1], bottleneck, growth, unit)
        first = self.block2.channels
        self.transition2 = unit(first, first, 1)
        self.block3 = DenseBlock(first, layers[2], bottleneck, growth, unit)
        self.transition3 = unit(self.block3.channels, self.block3.channels, 1)
        self.block4 = DenseBlock(self.block3.channels, layers[3], bottleneck, growth, unit)
        self.transition4 = unit(self.block4.channels, side, 1)
        self.side = unit(first, side, 1)
        self.downs = nn.ModuleList()
        self.channels = [first, 2 * side]
        for width in downs:
            self.downs.append(DownBlock(self.channels[-1], width, unit))
            self.channels.append(2 * width)
        finest = 8 if early_pool else 4
        self.strides = tuple(finest * 2**level for level in range(len(self.channels)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps `[B, C_i, H / s_i, W / s_i]`, the finest first."""
        x = self.transition1(self.block1(self.pool(self.stem(x))))
        first = self.transition2(self.block2(self.pool(x) if self.early_pool else x))
        halved = self.pool(first)
        x = self.transition4(self.block4(self.transition3(self.block3(halved))))
        maps = [first, torch.cat([x, self.side(halved)], 1)]
        for down in self.downs:
            maps.append(down(maps[-1]))
        return maps


def numbered_layers(parts: Mapping[str, nn.Module], own: Mapping[str, str]) -> dict[str, str | tuple[str, ...]]:
    """Caffe's names of layers that its scripts left without one: kind and number, in the order of the modules.

    Args:
        parts: Modules in their order, by their names in the detector; each kind is counted from 1 over all of them.
        own: Convolutions that have a name of their own and are not counted, by their names in the detector.
    """
    names: dict[str, str | tuple[str, ...]] = {}
    counts: Counter[str] = Counter()
    kinds = {nn.Conv2d: "Convolution", nn.ConvTranspose2d: "Deconvolution", nn.BatchNorm2d: "BatchNorm"}
    for prefix, part in parts.items():
        for suffix, module in part.named_modules():
            name, kind = f"{prefix}.{suffix}", kinds.get(type(module))
            if name in own:
                names[name] = own[name]
            elif kind is not None:
                counts[kind] += 1
                number = counts[kind]
                names[name] = (f"BatchNorm{number}", f"Scale{number}") if kind == "BatchNorm" else f"{kind}{number}"
    return names
