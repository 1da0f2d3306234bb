"""Box coders: a box as its offset from a reference box, and back. Decoding undoes encoding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CenterSizeCoder"]


@dataclass(frozen=True)
class CenterSizeCoder:
    """`((gx - px) / pw, (gy - py) / ph, ln(gw / pw), ln(gh / ph))`, each times a weight (R-CNN, appendix C).

    Caffe's variances (0.1, 0.1, 0.2, 0.2) and Detectron's weights (10, 10, 5, 5) are the same thing.

    Attributes:
        weights: What the four offsets are multiplied by.
        max_log_ratio: Decoded `ln(gw / pw)` is cut here, so that an untrained head cannot overflow (Detectron).
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    max_log_ratio: float = math.log(1000 / 16)

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Boxes `[..., 4]` of positive width and height, relative to `references` of the same shape."""
        size = boxes[..., 2:] - boxes[..., :2]
        reference_size = references[..., 2:] - references[..., :2]
        centre = boxes[..., :2] + 0.5 * size
        reference_centre = references[..., :2] + 0.5 * reference_size
        offsets = torch.cat([(centre - reference_centre) / reference_size, (size / reference_size).log()], -1)
        return offsets * offsets.new_tensor(self.weights)

    def decode(self, offsets: Tensor, references: Tensor) -> Tensor:
        """Boxes `[..., 4]` from offsets; `references` broadcast against them."""
        offsets = offsets / offsets.new_tensor(self.weights)
        reference_size = references[..., 2:] - references[..., :2]
        centre = references[..., :2] + 0.5 * reference_size + offsets[..., :2] * reference_size
        half = 0.5 * reference_size * offsets[..., 2:].clamp(max=self.max_log_ratio).exp()
        return torch.cat([centre - half, centre + half], -1)
