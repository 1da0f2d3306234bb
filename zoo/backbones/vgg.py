"""VGG-16's convolutions, from Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition" (ICLR 2015, https://arxiv.org/abs/1409.1556), configuration D.

Thirteen 3x3 convolutions in five stages. A stage's pooling leads the *next* stage, so that the last map of each stage
(conv4_3 for SSD, conv5_3 for Fast and Faster R-CNN) is that stage's output. The fully connected layers belong to the
detectors, each of which keeps or reshapes them in its own way; SSD's way is here too, since others took it over.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn

from zoo.parts.l2norm import L2Norm

__all__ = ["VGG16", "VGG16Reduced", "vgg16_layers"]

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16_layers(ceil_mode: bool = False) -> nn.ModuleList:
    """Five stages: `conv1_1, relu1_1, conv1_2, relu1_2`, then `pool1, conv2_1, ...` to `pool4, ..., conv5_3, relu5_3`.

    Args:
        ceil_mode: Round map sizes up at the pooling, as Caffe does and SSD's box count needs (75 -> 38).
    """
    stages = nn.ModuleList()
    inputs = 3
    for stage, widths in enumerate(_STAGES, start=1):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if stage > 1:
            layers[f"pool{stage - 1}"] = nn.MaxPool2d(2, 2, ceil_mode=ceil_mode)
        for index, outputs in enumerate(widths, start=1):
            conv = nn.Conv2d(inputs, outputs, 3, padding=1)
            # torch's default shrinks the signal 13 times over: without He's rule nothing reaches conv5_3.
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            layers[f"conv{stage}_{index}"] = conv
            layers[f"relu{stage}_{index}"] = nn.ReLU(inplace=True)
            inputs = outputs
        stages.append(nn.Sequential(layers))
    return stages


class VGG16(nn.Module):
    """Image `[B, 3, H, W]` to the last map of each stage, after its ReLU: conv1_2, conv2_2, conv3_3, conv4_3, conv5_3.

    Attributes:
        channels: Width of each map that `forward` gives.
        strides: Stride of each.
    """

    channels = tuple(widths[-1] for widths in _STAGES)
    strides = (1, 2, 4, 8, 16)

    def __init__(self, ceil_mode: bool = False) -> None:
        super().__init__()
        self.stages = vgg16_layers(ceil_mode)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Five maps `[B, C_i, H / s_i, W / s_i]`, the finest first."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class VGG16Reduced(nn.Module):
    """VGG-16 whose fully connected layers became convolutions, thinned out and spread (SSD, section 3: fc6 dilated).

    Gives conv4_3, each position at a learned length (section 3.1), and fc7; RefineDet also takes conv5_3.

    Args:
        stride: Of fc7. At 16, pool5 keeps the size and fc6 is spread by 6 (SSD); at 32, pool5 halves and fc6 is spread
            by 3 (RefineDet's released networks).
        length: Where the length of conv4_3's positions starts.
        fifth_length: Likewise of conv5_3's, which is then given too; None leaves it out.

    Attributes:
        channels: Width of each map that `forward` gives.
        strides: Stride of each; sides are rounded up.
    """

    def __init__(
        self, *, stride: Literal[16, 32] = 16, length: float = 20.0, fifth_length: float | None = None
    ) -> None:
        super().__init__()
        self.channels: tuple[int, ...] = (512, 1024) if fifth_length is None else (512, 512, 1024)
        self.strides: tuple[int, ...] = (8, stride) if fifth_length is None else (8, 16, stride)
        self.stages = vgg16_layers(ceil_mode=True)
        self.l2norm = L2Norm(512, length)
        self.l2norm5 = None if fifth_length is None else L2Norm(512, fifth_length)
        self.pool5 = nn.MaxPool2d(3, 1, 1) if stride == 16 else nn.MaxPool2d(2, 2, ceil_mode=True)
        spread = 6 if stride == 16 else 3
        self.fc6 = nn.Conv2d(512, 1024, 3, padding=spread, dilation=spread)
        self.fc7 = nn.Conv2d(1024, 1024, 1)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> list[Tensor]:
        """`[B, 512, H / 8, W / 8]`, where asked for `[B, 512, H / 16, W / 16]`, and `[B, 1024, H / s, W / s]`."""
        for stage in self.stages[:4]:
            x = stage(x)
        maps = [self.l2norm(x)]
        x = self.stages[4](x)
        if self.l2norm5 is not None:
            maps.append(self.l2norm5(x))
        return [*maps, self.fc7(self.fc6(self.pool5(x)).relu()).relu()]
