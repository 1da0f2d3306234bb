"""Darknet-53 (YOLOv3, section 2.4) and the seven convolutions of YOLOv3-tiny.

Modules are registered in the order of the authors' cfg files, which is the order of their weights files.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Darknet53", "DarknetTiny", "conv_bn_leaky"]


def conv_bn_leaky(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch normalisation, leaky ReLU of slope .1; the map keeps its size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1, inplace=True),
    )


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
