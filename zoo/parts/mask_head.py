"""The mask branch, from He, Gkioxari, Dollár and Girshick, "Mask R-CNN" (ICCV 2017, https://arxiv.org/abs/1703.06870),
section 3: a few convolutions over the pooled features of a region, and a grid of probabilities for each class.

Names in the state dict are torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MaskHead", "MaskPredictor"]


class MaskHead(nn.Sequential):
    """3x3 convolutions that keep the size of a region's features (figure 4, right)."""

    def __init__(self, inputs: int, widths: Sequence[int] = (256, 256, 256, 256)) -> None:
        super().__init__(
            *(
                nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True))
                for before, after in pairwise([inputs, *widths])
            )
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # torchvision's checkpoints from before its layers were blocks.
        for index in range(len(self)):
            for kind in ("weight", "bias"):
                if f"{prefix}mask_fcn{index + 1}.{kind}" in state_dict:
                    state_dict[f"{prefix}{index}.0.{kind}"] = state_dict.pop(f"{prefix}mask_fcn{index + 1}.{kind}")
        super()._load_from_state_dict(state_dict, prefix, *rest)


class MaskPredictor(nn.Module):
    """Twice the resolution, and a logit a cell for each class; classes do not compete (section 3).

    The background has a grid of its own, which is never looked at.
    """

    def __init__(self, inputs: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv5_mask = nn.ConvTranspose2d(inputs, width, 2, stride=2)
        self.mask_fcn_logits = nn.Conv2d(width, num_classes + 1, 1)
        nn.init.kaiming_normal_(self.conv5_mask.weight, mode="fan_out", nonlinearity="relu")
        # Detectron's: a wider start can diverge, one class being looked at and its siblings not.
        nn.init.normal_(self.mask_fcn_logits.weight, std=0.001)
        for layer in (self.conv5_mask, self.mask_fcn_logits):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Features `[R, C, m, m]` to logits `[R, 2m, 2m]` of one class a region; only that class is computed.

        Args:
            x: Features.
            labels: int64 `[R]`, 1 to C.
        """
        x = self.conv5_mask(x).relu_()
        assert self.mask_fcn_logits.bias is not None
        weight, bias = self.mask_fcn_logits.weight[labels].flatten(2), self.mask_fcn_logits.bias[labels]
        logits = torch.bmm(weight.transpose(1, 2), x.flatten(2)) + bias[:, None, None]
        return logits.unflatten(2, x.shape[-2:])[:, 0]
