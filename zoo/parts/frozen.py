"""Batch normalisation that detectors leave as ImageNet made it."""

from __future__ import annotations

from torch import nn

__all__ = ["FrozenNorm"]


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
