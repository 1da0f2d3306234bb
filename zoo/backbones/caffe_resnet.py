"""ResNet as its authors released it for Caffe, from He, Zhang, Ren and Sun, "Deep Residual Learning for Image
Recognition" (CVPR 2016, https://arxiv.org/abs/1512.03385).

It differs from torchvision's (zoo/backbones/resnet.py) in where a stage strides, on the first 1x1 convolution of a
block and on its projection, and in the first pooling, which pads nothing and rounds sides up. Its weights belong to BGR
bytes less the mean. DSSD and RefineDet build on it, and on its bottleneck block for all that they add.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Bottleneck", "CaffeResNet", "conv_norm"]

_STAGES = ("res2", "res3", "res4", "res5")


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
) -> nn.Sequential:
    """A convolution without bias, called `conv`, and what normalises it, called `norm`."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(OrderedDict(conv=conv, norm=norm(outputs)))


class Bottleneck(nn.Module):
    """A residual block of three convolutions; `branch1` projects, `branch2a` to `branch2c` are the residual.

    Args:
        inputs: Channels that come in.
        narrow: Channels of the first two convolutions.
        outputs: Channels that go out.
        kernel: Of the first convolution and of the projection, which both pad nothing.
        stride: Of the same two.
        dilation: Of the middle 3x3 convolution, which keeps the size.
        project: Whether the short way is a convolution; None: only where the identity does not fit.
        norm: Normalisation by number of channels.

    Attributes:
        channels: Of the map that it gives.

    Raises:
        ValueError: The identity is asked for where it does not fit.
    """

    def __init__(
        self,
        inputs: int,
        narrow: int,
        outputs: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        project: bool | None = None,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        fits = inputs == outputs and kernel == stride == 1
        if project is False and not fits:
            raise ValueError(
                f"Bottleneck: {inputs} to {outputs} channels, kernel {kernel}, stride {stride} need a projection"
            )
        self.channels = outputs
        self._window = (kernel, stride)
        needs = not fits if project is None else project
        self.branch1 = conv_norm(inputs, outputs, kernel, stride, norm=norm) if needs else nn.Identity()
        self.branch2a = conv_norm(inputs, narrow, kernel, stride, norm=norm)
        self.branch2b = conv_norm(narrow, narrow, 3, padding=dilation, dilation=dilation, norm=norm)
        self.branch2c = conv_norm(narrow, outputs, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, outputs, ...]`, activated; without padding, sides fall short by `kernel - 1`."""
        y = F.relu(self.branch2a(x), inplace=True)
        y = F.relu(self.branch2b(y), inplace=True)
        return F.relu(self.branch2c(y) + self.branch1(x), inplace=True)

    def map_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """`(H, W)` of the map given from one of `size`."""
        kernel, stride = self._window
        return (size[0] - kernel) // stride + 1, (size[1] - kernel) // stride + 1

    def caffe_names(self, block: str) -> dict[str, str | tuple[str, ...]]:
        """The Caffe layers of each module, `block` being what follows `res` in their names, such as `4b22`."""
        layers: dict[str, str | tuple[str, ...]] = {}
        for branch in ("branch1", "branch2a", "branch2b", "branch2c"):
            if not isinstance(getattr(self, branch), nn.Identity):
                layers[f"{branch}.conv"] = f"res{block}_{branch}"
                layers[f"{branch}.norm"] = (f"bn{block}_{branch}", f"scale{block}_{branch}")
        return layers


class CaffeResNet(nn.Module):
    """Image `[B, 3, H, W]` to the last map of each chosen stage (of ResNet-101: res2c, res3b3, res4b22, res5c).

    Nothing behind the last chosen stage is built.

    Args:
        stages: Of `res2` to `res5`, those whose maps are wanted, in order.
        blocks: Blocks a stage; (3, 4, 23, 3) is ResNet-101, (3, 4, 6, 3) ResNet-50.
        width: Channels of conv1; stage k has `width * 2**(k + 1)`, narrowed to a quarter inside a block.
        dilated: Let res5 dilate its 3x3 convolutions by 2 where it would stride (its first block's too).
        norm: Normalisation by number of channels.

    Attributes:
        channels: Width of each map that `forward` gives.
        strides: Stride of each, nominally: see `map_sizes`.

    Raises:
        ValueError: `stages` is empty, out of order, or names something else.
    """

    def __init__(
        self,
        stages: Sequence[str] = _STAGES,
        *,
        blocks: Sequence[int] = (3, 4, 23, 3),
        width: int = 64,
        dilated: bool = False,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if not stages or list(stages) != [name for name in _STAGES if name in stages]:
            raise ValueError(f"CaffeResNet: stages must be some of {', '.join(_STAGES)} in order, got {list(stages)}")
        self.stages = tuple(stages)
        self.conv1 = conv_norm(3, width, 7, 2, 3, norm=norm)
        channels, stride = width, 4
        chosen: list[tuple[int, int]] = []
        self._strides: dict[str, int] = {}
        for index, name in enumerate(_STAGES[: _STAGES.index(stages[-1]) + 1]):
            narrow = width * 2**index
            dilation = 2 if dilated and name == "res5" else 1
            step = 1 if index == 0 or dilation == 2 else 2
            rows = [Bottleneck(channels, narrow, 4 * narrow, stride=step, dilation=dilation, project=True, norm=norm)]
            channels = 4 * narrow
            rows += [
                Bottleneck(channels, narrow, channels, dilation=dilation, norm=norm) for _ in range(blocks[index] - 1)
            ]
            self.add_module(name, nn.Sequential(*rows))
            self._strides[name] = step
            stride *= step
            if name in stages:
                chosen.append((channels, stride))
        self.channels = tuple(width for width, _ in chosen)
        self.strides = tuple(stride for _, stride in chosen)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The chosen maps `[B, C_i, ...]`, the finest first; their sides are those of `map_sizes`."""
        x = F.max_pool2d(F.relu(self.conv1(x), inplace=True), 3, 2, ceil_mode=True)
        maps = []
        for name in self._strides:
            x = getattr(self, name)(x)
            if name in self.stages:
                maps.append(x)
        return maps

    def map_sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """`(H, W)` of each chosen map at network input `size`: at 321, res3 is 40 and not 41, for pool1 pads nothing.

        Raises:
            ValueError: The input is too small for the first pooling.
        """
        if min(size) < 5:
            raise ValueError(f"CaffeResNet: an input of {size} is too small for its first pooling")
        # conv1 rounds up; a 3x3 window every 2 pixels, unpadded and rounded up, covers (n - 1) / 2 places.
        height, width = (math.ceil((-(-side // 2) - 3) / 2) + 1 for side in size)
        sizes = []
        for name, stride in self._strides.items():
            height, width = -(-height // stride), -(-width // stride)
            if name in self.stages:
                sizes.append((height, width))
        return sizes

    def caffe_names(self) -> dict[str, str | tuple[str, ...]]:
        """Path of each convolution and norm in here, to the Caffe layers that hold its blobs.

        A norm is two layers in Caffe: BatchNorm (mean, variance, factor) and Scale (gamma, beta). Stages of more than
        six blocks, and res3 of ResNet-101, count their blocks a, b1, b2, ..., others a, b, c, ...
        """
        layers: dict[str, str | tuple[str, ...]] = {
            "conv1.conv": "conv1",
            "conv1.norm": ("bn_conv1", "scale_conv1"),
        }
        deep = any(len(getattr(self, name)) > 6 for name in self._strides)
        for name in self._strides:
            stage = getattr(self, name)
            counted = deep and len(stage) > 3
            for index, block in enumerate(stage):
                letter = "a" if index == 0 else f"b{index}" if counted else "abcdef"[index]
                for path, names in block.caffe_names(name[3:] + letter).items():
                    layers[f"{name}.{index}.{path}"] = names
        return layers
