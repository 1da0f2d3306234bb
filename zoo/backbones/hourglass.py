"""The hourglass of CornerNet: Newell et al. 2016 (https://arxiv.org/abs/1603.06937) as Law & Deng changed it (4.1).

Instead of max pooling a residual block of stride 2 goes down; nearest neighbours go up; the way across is two residual
blocks. Modules are named as in CornerNet's code, so that its checkpoints load key by key.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Convolution", "Hourglass", "Residual", "conv_bn", "hourglass_stem"]


def conv_bn(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """1x1 convolution and batch normalisation."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class Convolution(nn.Module):
    """Convolution, batch normalisation, ReLU; without normalisation the convolution has a bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(outputs) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, outputs, H / stride, W / stride]`, rounded up."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where stride or width change."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.skip = nn.Sequential() if same else conv_bn(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, outputs, H / stride, W / stride]`, rounded up."""
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        # In place: most of a sum's time would go into fresh memory.
        return F.relu(self.bn2(self.conv2(inner)).add_(self.skip(x)), inplace=True)


def _blocks(inputs: int, outputs: int, count: int, *, stride: int = 1, last: bool = False) -> nn.Sequential:
    """`count` residual blocks; the first (or `last`) one changes the width."""
    change = count - 1 if last else 0
    widths = [inputs if i <= change else outputs for i in range(count)] + [outputs]
    return nn.Sequential(*(Residual(widths[i], widths[i + 1], stride if i == 0 else 1) for i in range(count)))


class Hourglass(nn.Module):
    """One hourglass: down `len(widths) - 1` times, and back up with a way across at each size.

    Args:
        widths: Channels at each size, the finest first.
        blocks: Residual blocks at each size; the last number is that of the coarsest.
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        if len(widths) != len(blocks) or len(widths) < 2:
            raise ValueError(
                f"hourglass: {len(widths)} widths for {len(blocks)} block counts; need as many, at least 2"
            )
        here, below, count = widths[0], widths[1], blocks[0]
        self.up1 = _blocks(here, here, count)
        self.low1 = _blocks(here, below, count, stride=2)
        self.low2 = Hourglass(widths[1:], blocks[1:]) if len(widths) > 2 else _blocks(below, below, blocks[1])
        self.low3 = _blocks(below, here, count, last=True)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, widths[0], H, W]` to the same shape."""
        across = self.up1(x)
        below = self.low3(self.low2(self.low1(x)))
        return across + F.interpolate(below, size=across.shape[-2:], mode="nearest")


def hourglass_stem(inputs: int, outputs: int, stride: int = 4) -> nn.Sequential:
    """Image `[B, 3, H, W]` to `[B, outputs, H / stride, W / stride]`: a 7x7 convolution to `inputs` channels, then
    residual blocks, all of stride 2.
    """
    halvings = stride.bit_length() - 2
    if stride != 2 ** (halvings + 1) or halvings < 1:
        raise ValueError(f"stride must be 4, 8, 16 or the like, got {stride}")
    blocks = [Residual(outputs if i else inputs, outputs, 2) for i in range(halvings)]
    return nn.Sequential(Convolution(3, inputs, 7, 2), *blocks)
