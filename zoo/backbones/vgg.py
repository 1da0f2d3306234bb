"""VGG's convolutions, from Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition"
(ICLR 2015, https://arxiv.org/abs/1409.1556): VGG-16 (configuration D), and the first four stages of VGG-19 (E).

VGG-16 has thirteen 3x3 convolutions in five stages. A stage's pooling leads the *next* stage, so that the last map of
each stage (conv4_3 for SSD, conv5_3 for Fast and Faster R-CNN) is that stage's output. The fully connected layers
belong to the detectors, each of which keeps or reshapes them in its own way; SSD's way is here too, since others took
it over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ops.images import Batch, normalise, unscaled
from zoo.parts.l2norm import L2Norm

__all__ = ["VGG16", "VGG16BN", "VGG16Reduced", "VGG19FourStages", "vgg16_layers", "vgg_batch"]

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

_MEAN = (104, 117, 123)


def vgg_batch(images: list[Tensor], divisor: int) -> Batch:
    """Images at their own size, as VGG's Caffe models see them; padding, to multiples of `divisor`, is mean colour."""
    return unscaled([normalise(image, _MEAN, (1, 1, 1), bgr=True, peak=255) for image in images], divisor)


def vgg16_layers(ceil_mode: bool = False) -> nn.ModuleList:
    """Five stages: `conv1_1, relu1_1, conv1_2, relu1_2`, then `pool1, conv2_1, ...` to `pool4, ..., conv5_3, relu5_3`.

    Args:
        ceil_mode: Round map sizes up at the pooling, as Caffe does and SSD's box count needs (75 -> 38).
    """
    return _layers(_STAGES, ceil_mode)


def _layers(plan: Sequence[Sequence[int]], ceil_mode: bool = False) -> nn.ModuleList:
    """`vgg16_layers` with the widths of `plan`, stage by stage."""
    stages = nn.ModuleList()
    inputs = 3
    for stage, widths in enumerate(plan, start=1):
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
        plan: Widths of the convolutions, stage by stage.
        channels: Width of each map that `forward` gives.
        strides: Stride of each.
    """

    plan: tuple[tuple[int, ...], ...] = _STAGES
    channels: tuple[int, ...] = tuple(widths[-1] for widths in _STAGES)
    strides: tuple[int, ...] = (1, 2, 4, 8, 16)

    def __init__(self, ceil_mode: bool = False) -> None:
        super().__init__()
        self.stages = _layers(self.plan, ceil_mode)

    def forward(self, x: Tensor) -> list[Tensor]:
        """A map `[B, C_i, H / s_i, W / s_i]` a stage, the finest first."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class VGG19FourStages(VGG16):
    """VGG-19 up to conv4_4: its last maps are conv1_2, conv2_2, conv3_4 and conv4_4 (DenseBox, section 3.2)."""

    plan = ((64, 64), (128, 128), (256,) * 4, (512,) * 4)
    channels = (64, 128, 256, 512)
    strides = (1, 2, 4, 8)


class VGG16BN(nn.Module):
    """VGG-16 with batch normalisation, image to the maps after each pooling but the first, the finest first (EAST).

    Layers are numbered as in torchvision's `vgg16_bn().features`, whose state dict fits.

    Attributes:
        channels: Width of each map that `forward` gives.
        strides: Stride of each.
    """

    channels = (128, 256, 512, 512)
    strides = (4, 8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for widths in _STAGES:
            for outputs in widths:
                conv = nn.Conv2d(inputs, outputs, 3, padding=1)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
                layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """`[B, C_i, H / s_i, W / s_i]`, rounded down."""
        maps = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
        return maps[1:]


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
