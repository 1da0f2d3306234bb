"""Batch normalisation that detectors leave as ImageNet made it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.misc import FrozenBatchNorm2d

__all__ = ["FrozenBatchNorm", "FrozenNorm"]


class FrozenBatchNorm(FrozenBatchNorm2d):
    """torchvision's, whose statistics, scale and shift are buffers, without its two copies of the map.

    On a CPU it changes the map that it is given, which must be nobody else's, such as a convolution's answer: most of
    the time would go into fresh memory. The sums are torchvision's to the bit there.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same shape."""
        if x.device.type != "cpu":
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x.mul_(scale[:, None, None]).add_(shift[:, None, None])


class FrozenNorm(nn.BatchNorm2d):
    """Statistics, scale and shift never move, whatever the mode.

    torchvision's `FrozenBatchNorm2d` does the same with buffers; here scale and shift stay parameters, which the
    papers' files count as such.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenNorm:
        """Stay in evaluation."""
        return super().train(False)
