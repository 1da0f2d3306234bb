"""What the public codes of Faster R-CNN and Mask R-CNN do differently, so that the networks of each fit.

torchvision, Detectron (Caffe2) and detectron2 build the same layers. They differ in where a ResNet strides, in the
colours of the image, in where and how large anchors are exactly, in half a pixel of RoIAlign, and in the loss of boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ops.anchors import caffe_shapes, pyramid_shapes

__all__ = ["RELEASES", "Release", "ReleaseName"]

ReleaseName = Literal["torchvision", "detectron", "detectron2"]


@dataclass(frozen=True)
class Release:
    """The ways of one of them.

    Attributes:
        name: Of the code.
        mean: Of the colours, BGR bytes; None for torchvision's RGB.
        stride_first: ResNet strides on the first 1x1 convolution of a block (`ResNet`).
        aligned: RoIAlign takes the middle of the first cell for 0.5 instead of 0 (`PyramidAlign`).
        inside_only: Anchors that cross the border do not learn.
        beta: Of the second stage's smooth L1.
    """

    name: ReleaseName
    mean: tuple[float, float, float] | None
    stride_first: bool
    aligned: bool
    inside_only: bool
    beta: float

    @property
    def colours(self) -> dict[str, Any]:
        """Arguments of the detector."""
        return {} if self.mean is None else {"mean": self.mean, "std": (1.0, 1.0, 1.0), "caffe": True}

    def anchors(self, stride: int, sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
        """Anchors `[A, 4]` of a cell about its middle, in the order of the code's channels."""
        if self.name == "detectron":
            return caffe_shapes(stride, ratios, [size / stride for size in sizes])
        by_size = [pyramid_shapes((size,), ratios, rounded=self.name == "torchvision") for size in sizes]
        # About a cell's corner, that is.
        return torch.cat(by_size) - stride / 2


RELEASES: dict[str, Release] = {
    release.name: release
    for release in (
        Release("torchvision", None, False, False, False, 1 / 9),
        Release("detectron", (102.9801, 115.9465, 122.7717), True, False, True, 1.0),
        Release("detectron2", (103.53, 116.28, 123.675), True, True, False, 1.0),
    )
}
