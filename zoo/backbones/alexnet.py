"""CaffeNet's convolutions: AlexNet as Caffe trained it, from Alex Krizhevsky, Ilya Sutskever and Geoffrey Hinton,
"ImageNet Classification with Deep Convolutional Neural Networks" (NIPS 2012).

Five convolutions, three of them in two groups, which the paper kept on two cards. Caffe's reference network, which
R-CNN starts from, pools before it normalises; the paper normalises first. The fully connected layers belong to the
detectors.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

__all__ = ["CaffeNet", "start_layers"]


def start_layers(module: nn.Module) -> None:
    """He's rule for every weight, zero for every bias: torch's default starves deep chains of plain layers."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class CaffeNet(nn.Module):
    """Image `[B, 3, H, W]`, BGR, to pool5 `[B, 256, h, w]`; 227 pixels give 6 cells.

    Attributes:
        channels: Width of the map that `forward` gives.
    """

    channels = 256

    def __init__(self) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(3, 96, 11, stride=4),
            relu1=nn.ReLU(inplace=True),
            pool1=nn.MaxPool2d(3, 2, ceil_mode=True),
            norm1=nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
            conv2=nn.Conv2d(96, 256, 5, padding=2, groups=2),
            relu2=nn.ReLU(inplace=True),
            pool2=nn.MaxPool2d(3, 2, ceil_mode=True),
            norm2=nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
            conv3=nn.Conv2d(256, 384, 3, padding=1),
            relu3=nn.ReLU(inplace=True),
            conv4=nn.Conv2d(384, 384, 3, padding=1, groups=2),
            relu4=nn.ReLU(inplace=True),
            conv5=nn.Conv2d(384, 256, 3, padding=1, groups=2),
            relu5=nn.ReLU(inplace=True),
            pool5=nn.MaxPool2d(3, 2, ceil_mode=True),
        )
        self.layers = nn.Sequential(layers)
        start_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """Image to pool5."""
        pooled: Tensor = self.layers(x)
        return pooled
