"""The networks that YOLO grew on: 24 convolutions, nine for speed, Darknet-19, Darknet-53 and the tiny one.

Modules are registered in the order of the authors' cfg files, which is the order of their weights files.
"""

from __future__ import annotations

import itertools
from typing import Final

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "DARKNET19",
    "FAST",
    "GOOGLENET_LIKE",
    "Darknet53",
    "DarknetChain",
    "DarknetTiny",
    "conv_bn_leaky",
    "conv_leaky",
]

POOL: Final = None
"""In a chain: max pooling of 2x2 pixels."""

Step = tuple[int, ...] | None
"""`(kernel, width)` or `(kernel, width, stride)` of a convolution, or `POOL`."""

GOOGLENET_LIKE: tuple[Step, ...] = (
    *((7, 64, 2), POOL),
    *((3, 192), POOL),
    *((1, 128), (3, 256), (1, 256), (3, 512), POOL),
    *(((1, 256), (3, 512)) * 4),
    *((1, 512), (3, 1024), POOL),
    *(((1, 512), (3, 1024)) * 2),
    *((3, 1024), (3, 1024, 2), (3, 1024), (3, 1024)),
)
"""YOLO's 24 convolutions (Figure 3), stride 64; the first 20 are learnt on ImageNet first."""

FAST: tuple[Step, ...] = (
    *((3, 16), POOL, (3, 32), POOL, (3, 64), POOL, (3, 128), POOL, (3, 256), POOL, (3, 512), POOL),
    *((3, 1024), (3, 256)),
)
"""Fast YOLO's, stride 64, as `yolov1-tiny.cfg` has them: eight, where the paper says nine."""

DARKNET19: tuple[Step, ...] = (
    *((3, 32), POOL),
    *((3, 64), POOL),
    *((3, 128), (1, 64), (3, 128), POOL),
    *((3, 256), (1, 128), (3, 256), POOL),
    *((3, 512), (1, 256), (3, 512), (1, 256), (3, 512), POOL),
    *((3, 1024), (1, 512), (3, 1024), (1, 512), (3, 1024)),
)
"""YOLOv2's Table 6 without the classifier, stride 32."""


def conv_bn_leaky(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch normalisation, leaky ReLU of slope .1; the map keeps its size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1, inplace=True),
    )


def conv_leaky(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution with bias and leaky ReLU of slope .1, of a scale that keeps the variance without normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    nn.init.kaiming_normal_(conv.weight, a=0.1)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.LeakyReLU(0.1, inplace=True))


class DarknetChain(nn.Module):
    """Image `[B, 3, H, W]` through convolutions and poolings, one after the other.

    Args:
        steps: What follows what, such as `DARKNET19`.
        normalised: Batch normalisation behind every convolution, or biases.

    Attributes:
        channels: Width of both maps that `forward` gives.
        strides: Stride of each.
    """

    def __init__(self, steps: tuple[Step, ...], *, normalised: bool = True) -> None:
        super().__init__()
        make = conv_bn_leaky if normalised else conv_leaky
        stages: list[list[nn.Module]] = [[]]
        inputs, stride = 3, 1
        channels, strides = [], []
        for step in steps:
            down = 2 if step is POOL else (*step, 1)[2]
            if down > 1 and stages[-1]:
                channels.append(inputs)
                strides.append(stride)
                stages.append([])
            stride *= down
            if step is POOL:
                stages[-1].append(nn.MaxPool2d(2))
            else:
                stages[-1].append(make(inputs, step[1], step[0], down))
                inputs = step[1]
        self.channels, self.strides = (channels[-1], inputs), (strides[-1], stride)
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The map before the last halving and the last one, `[B, C_i, H / s_i, W / s_i]`."""
        fine = x
        for stage in self.stages:
            fine, x = x, stage(x)
        return [fine, x]


class _Residual(nn.Module):
    """1x1 to half the width, 3x3 back, added to what came in, without activation after the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = conv_bn_leaky(width, width // 2, 1)
        self.expand = conv_bn_leaky(width // 2, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expand(self.squeeze(x))


class Darknet53(nn.Module):
    """Image `[B, 3, H, W]` to maps at strides 8, 16 and 32.

    Args:
        widths: Of the stem and of the five stages.
        blocks: Residual blocks a stage (Table 1).

    Attributes:
        channels: Width of each map that `forward` gives.
        strides: Stride of each.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (32, 64, 128, 256, 512, 1024),
        blocks: tuple[int, ...] = (1, 2, 8, 8, 4),
    ) -> None:
        super().__init__()
        self.channels = widths[-3:]
        self.strides = (8, 16, 32)
        self.stem = conv_bn_leaky(3, widths[0], 3)
        self.stages = nn.ModuleList(
            nn.Sequential(conv_bn_leaky(inputs, outputs, 3, stride=2), *(_Residual(outputs) for _ in range(count)))
            for (inputs, outputs), count in zip(itertools.pairwise(widths), blocks, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps `[B, C_i, H / s_i, W / s_i]`, the finest first."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-3:]


class DarknetTiny(nn.Module):
    """Image `[B, 3, H, W]` to maps at strides 16 and 32: seven 3x3 convolutions with max pooling between them.

    The last pooling, of size 2 and stride 1, looks right and down and pads there, as Darknet's does.

    Args:
        widths: Of the seven convolutions.

    Attributes:
        channels: Width of each map that `forward` gives.
        strides: Stride of each.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)) -> None:
        super().__init__()
        if len(widths) != 7:
            raise ValueError(f"DarknetTiny has seven convolutions, got {len(widths)} widths")
        self.channels = (widths[4], widths[6])
        self.strides = (16, 32)
        self.convs = nn.ModuleList(
            conv_bn_leaky(inputs, outputs, 3) for inputs, outputs in itertools.pairwise((3, *widths))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps `[B, C_i, H / s_i, W / s_i]`, the finest first; H and W must be multiples of 32."""
        for conv in self.convs[:4]:
            x = F.max_pool2d(conv(x), 2)
        fine = self.convs[4](x)
        x = self.convs[5](F.max_pool2d(fine, 2))
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-float("inf")), 2, stride=1)
        return [fine, self.convs[6](x)]
