"""The small backbone that the small sizes share, so that detectors can be compared with nothing else different.

Ours, from no paper: a residual network with batch normalisation of about 0.25 M parameters, made for two CPU cores.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ops.augment import shapes_augment
from zoo.detector import Recipe

__all__ = ["SMALL_RECIPE", "Norm", "SmallNet", "conv_bn_relu", "small_body"]

SMALL_RECIPE = Recipe(
    batch=16,
    steps=2_400,
    lr=2e-3,
    optimizer="adamw",
    weight_decay=5e-4,
    cosine=True,
    warmup=200,
    clip_norm=10.0,
    ema=0.998,
    augment=shapes_augment,
    source="ours, for minutes on a CPU",
)
"""The common budget of small detectors; each changes only what its losses need."""


Norm = Callable[[int], nn.Module]
"""Makes what normalises so many channels."""


def conv_bn_relu(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, norm: Norm = nn.BatchNorm2d
) -> nn.Sequential:
    """Convolution without bias, batch normalisation or another, ReLU; the map keeps its size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        norm(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.first = conv_bn_relu(width, width, norm=norm)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), norm(width))
        # A block starts as the identity: short trainings go further.
        nn.init.zeros_(self.second[1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.second(self.first(x))).relu()


class SmallNet(nn.Module):
    """Image `[B, 3, H, W]` to maps at strides 4, 8, 16 and 32 (as many as `widths` has, less the stem).

    Args:
        widths: Channels of the stem and of each map.
        blocks: Residual blocks of each map; those beyond have one.
        norm: What stands behind each convolution.

    Attributes:
        channels: Width of each map that `forward` gives.
        strides: Stride of each.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (16, 24, 40, 64, 64),
        blocks: Sequence[int] = (),
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.channels = widths[1:]
        self.strides = tuple(4 * 2**level for level in range(len(self.channels)))
        self.stem = conv_bn_relu(3, widths[0], stride=2, norm=norm)
        self.stages = nn.ModuleList(
            nn.Sequential(
                conv_bn_relu(inputs, outputs, stride=2, norm=norm), *(_Residual(outputs, norm) for _ in range(count))
            )
            for (inputs, outputs), count in zip(itertools.pairwise(widths), (*blocks, *[1] * len(widths)), strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps `[B, C_i, H / s_i, W / s_i]`, rounded up, the finest first."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def pop_stage(self) -> nn.Module:
        """Give the last stage away: the network ends before it from now on."""
        stage = self.stages[-1]
        del self.stages[-1]
        self.channels, self.strides = self.channels[:-1], self.strides[:-1]
        return stage


def small_body(last: int, blocks: Sequence[int] = ()) -> SmallNet:
    """The network up to map `last`, counted from 0."""
    body = SmallNet(blocks=blocks)
    while len(body.strides) > last + 1:
        body.pop_stage()
    return body
