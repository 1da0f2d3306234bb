"""ZF-5's convolutions, from Matthew Zeiler and Rob Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV
2014, https://arxiv.org/abs/1311.2901), as SPPnet's authors released them.

AlexNet with a smaller first filter (7 instead of 11, moved by 2 instead of 4) and without groups. The release
normalises a position by its neighbours in the plane, channel by channel.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.backbones.alexnet import start_layers

__all__ = ["ZF5", "PlaneNorm"]


class PlaneNorm(nn.Module):
    """`x / (1 + alpha * mean of x^2 over size x size neighbours of its channel) ^ beta` (Caffe: WITHIN_CHANNEL)."""

    def __init__(self, size: int = 3, alpha: float = 5e-5, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; beyond the border there are zeros, which count."""
        squares = F.avg_pool2d(x * x, self.size, 1, self.size // 2)
        return x / (1 + self.alpha * squares).pow(self.beta)


class ZF5(nn.Module):
    """Image `[B, 3, H, W]`, BGR, to conv5 after its ReLU, `[B, 256, h, w]` at stride 16; 224 pixels give 13 cells.

    Attributes:
        channels: Width of the map that `forward` gives.
        stride: Pixels from cell to cell.
        first: Pixel, counted from 0, at the centre of the first cell.
    """

    channels = 256
    stride = 16
    first = 20

    def __init__(self) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(3, 96, 7, stride=2, padding=1),
            relu1=nn.ReLU(inplace=True),
            norm1=PlaneNorm(),
            pool1=nn.MaxPool2d(3, 2, ceil_mode=True),
            conv2=nn.Conv2d(96, 256, 5, stride=2),
            relu2=nn.ReLU(inplace=True),
            norm2=PlaneNorm(),
            pool2=nn.MaxPool2d(3, 2, ceil_mode=True),
            conv3=nn.Conv2d(256, 384, 3, padding=1),
            relu3=nn.ReLU(inplace=True),
            conv4=nn.Conv2d(384, 384, 3, padding=1),
            relu4=nn.ReLU(inplace=True),
            conv5=nn.Conv2d(384, 256, 3, padding=1),
            relu5=nn.ReLU(inplace=True),
        )
        self.layers = nn.Sequential(layers)
        start_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """Image to conv5."""
        conv5: Tensor = self.layers(x)
        return conv5
