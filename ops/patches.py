"""Windows of images that the dense detectors are trained on. Chance comes from torch's global generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ops.augment import flip, place
from ops.structures import Target

__all__ = ["object_patch", "scaled_crop"]


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def object_patch(
    image: Tensor,
    target: Target,
    *,
    size: int = 240,
    standard: float = 50.0,
    shift: float = 25.0,
    scales: tuple[float, float] = (0.8, 1.25),
    share: float = 0.5,
) -> tuple[Tensor, Target]:
    """DenseBox's training patches (section 3.2): an object in the middle at its standard height, or any place.

    Args:
        image: `[3, H, W]`.
        target: Its objects.
        size: Side of the patch.
        standard: Height that the object in the middle gets, pixels.
        shift: It is moved by up to so much in x and in y, pixels of the patch.
        scales: It is enlarged by a factor between these.
        share: Of patches about an object; the others lie anywhere and show the image between half and twice its size.
    """
    boxes = target.boxes[~target.ignore]
    height, width = int(image.shape[-2]), int(image.shape[-1])
    if len(boxes) and float(torch.rand(())) < share:
        x1, y1, x2, y2 = boxes[int(torch.randint(len(boxes), ()))].tolist()
        zoom = standard / max(y2 - y1, 1.0) * _uniform(*scales)
        x, y = ((low + high) / 2 + _uniform(-shift, shift) / zoom for low, high in ((x1, x2), (y1, y2)))
    else:
        zoom = 2 ** _uniform(-1, 1)
        x, y = _uniform(0, width), _uniform(0, height)
    span = max(1, round(size / zoom))
    # A jittered middle may leave the image; its window must not.
    left = min(max(round(x - span / 2), 1 - span), width - 1)
    top = min(max(round(y - span / 2), 1 - span), height - 1)
    image, target = place(image, target, (left, top, span, span), (size, size))
    return flip(image, target) if float(torch.rand(())) < 0.5 else (image, target)


def scaled_crop(
    image: Tensor, target: Target, *, size: int = 512, scales: Sequence[float] = (0.5, 1.0, 2.0, 3.0)
) -> tuple[Tensor, Target]:
    """A square of `size` pixels anywhere in the image, which is enlarged by one of `scales` first (EAST, section 4.2).

    Where the enlarged image is smaller than the square, it lies somewhere within.
    """
    zoom = scales[int(torch.randint(len(scales), ()))]
    span = max(1, round(size / zoom))
    left, top = (
        int(torch.randint(min(0, side - span), max(0, side - span) + 1, ()))
        for side in (int(image.shape[-1]), int(image.shape[-2]))
    )
    return place(image, target, (left, top, span, span), (size, size))
