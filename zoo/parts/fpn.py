"""Feature pyramid, from Lin et al., "Feature Pyramid Networks for Object Detection" (CVPR 2017,
https://arxiv.org/abs/1612.03144): strong features from the top join fine ones from below, level by level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool

__all__ = ["FPN", "BackboneWithFPN"]


class FPN(FeaturePyramidNetwork):
    """torchvision's pyramid over a list of maps; it also reads the names of torchvision's older checkpoints.

    Laterals are 1x1 with bias, the coarser map is enlarged to the nearest pixel, and each sum is smoothed by a 3x3.
    Maps of one size are added as they are.
    """

    def __init__(
        self, inputs: Sequence[int], width: int = 256, extra: ExtraFPNBlock | Literal["pool"] | None = "pool"
    ) -> None:
        """Build for maps of `inputs` channels, the finest first.

        Args:
            inputs: Channels of each map.
            width: Channels of each level.
            extra: What makes the levels beyond the coarsest map, if any. `pool` is one level that takes every second
                pixel of the last, for proposals only (section 4.1).
        """
        super().__init__(list(inputs), width, extra_blocks=LastLevelMaxPool() if extra == "pool" else extra)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps to levels `[B, width, H_i, W_i]`, the finest first; the extra ones come last."""
        return list(super().forward({str(level): x for level, x in enumerate(maps)}).values())


class BackboneWithFPN(nn.Module):
    """A backbone and a pyramid over all of its maps, under torchvision's names `body` and `fpn`."""

    def __init__(self, body: nn.Module, fpn: FPN) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image `[B, 3, H, W]` to the levels of the pyramid."""
        return self.fpn(self.body(x))
