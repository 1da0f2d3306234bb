"""Bring images to a network's pixels, and boxes back.

Every function that moves pixels returns the `Frame` that says how, so that a detector can answer in the pixels of the
image it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Batch", "Frame", "letterbox", "normalise", "resize_short_side", "stack", "unscaled", "warp"]


@dataclass(frozen=True)
class Frame:
    """Where an image lies in the pixels of a network: `network = image * scale + offset`, x and y apart.

    Attributes:
        size: `(H, W)` of the image in its own pixels.
        inner: `(H, W)` of the image in network pixels, without the padding.
        scale: `(sx, sy)`, network pixels per image pixel.
        offset: `(ox, oy)`, network pixels left of and above the image.
    """

    size: tuple[int, int]
    inner: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)

    def to_network(self, boxes: Tensor) -> Tensor:
        """Boxes `[N, 4]` in image pixels to network pixels."""
        return boxes * boxes.new_tensor(self.scale * 2) + boxes.new_tensor(self.offset * 2)

    def to_image(self, boxes: Tensor) -> Tensor:
        """Boxes `[N, 4]` in network pixels to image pixels, clipped to the image."""
        height, width = self.size
        boxes = (boxes - boxes.new_tensor(self.offset * 2)) / boxes.new_tensor(self.scale * 2)
        return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


@dataclass(frozen=True)
class Batch:
    """Images as a network sees them.

    Attributes:
        pixels: float `[B, 3, H, W]`.
        frames: One an image.
        images: The images themselves, for detectors whose proposals are made from them; else empty.
    """

    pixels: Tensor
    frames: tuple[Frame, ...]
    images: tuple[Tensor, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` of the network's input, padding included."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[-2:]) == size:
        return image
    # Without antialiasing: what the papers' own code (Caffe, Darknet, OpenCV) does.
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]


def warp(image: Tensor, size: tuple[int, int]) -> tuple[Tensor, Frame]:
    """Resize `[3, H, W]` to exactly `size = (H, W)`, whatever becomes of the aspect ratio (YOLO, SSD)."""
    height, width = int(image.shape[-2]), int(image.shape[-1])
    return _resize(image, size), Frame((height, width), size, (size[1] / width, size[0] / height))


def resize_short_side(image: Tensor, short: int, longest: int, *, nearest: bool = False) -> tuple[Tensor, Frame]:
    """Resize so that the short side is `short`, or less where the long one would pass `longest` (Fast R-CNN, 3.4).

    Args:
        image: `[3, H, W]`.
        short: Shorter side.
        longest: Longest side.
        nearest: Round both sides to the nearest pixel, as OpenCV does, instead of down. Rounding down is torchvision's
            to the bit: where binary fractions fall short, so does it (220 to 224 gives 223).
    """
    height, width = int(image.shape[-2]), int(image.shape[-1])
    scale = min(short / min(height, width), longest / max(height, width))
    whole = round if nearest else int
    inner = (max(1, whole(height * scale)), max(1, whole(width * scale)))
    return _resize(image, inner), Frame((height, width), inner, (inner[1] / width, inner[0] / height))


def letterbox(image: Tensor, size: tuple[int, int], fill: float = 0.5) -> tuple[Tensor, Frame]:
    """Resize into `size = (H, W)` with the aspect ratio kept, centred on a ground of `fill` (Darknet)."""
    height, width = int(image.shape[-2]), int(image.shape[-1])
    if size[1] * height < size[0] * width:
        inner = (max(1, height * size[1] // width), size[1])
    else:
        inner = (size[0], max(1, width * size[0] // height))
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas = image.new_full((3, *size), fill)
    canvas[:, top : top + inner[0], left : left + inner[1]] = _resize(image, inner)
    frame = Frame((height, width), inner, (inner[1] / width, inner[0] / height), (float(left), float(top)))
    return canvas, frame


def normalise(
    pixels: Tensor, mean: Sequence[float], std: Sequence[float], *, bgr: bool = False, peak: float = 1.0
) -> Tensor:
    """`(pixels * peak - mean) / std`, channel by channel, for RGB pixels in [0, 1] of shape `[..., 3, H, W]`.

    Args:
        pixels: RGB, 0 to 1.
        mean: Per channel, in the order of the output and on the scale of `peak`.
        std: Likewise.
        bgr: Turn the channels round first, as networks from Caffe and OpenCV expect.
        peak: 255 where the network was trained on bytes.
    """
    if bgr:
        pixels = pixels.flip(-3)
    shift = pixels.new_tensor(mean)[:, None, None]
    return (pixels * peak - shift) / pixels.new_tensor(std)[:, None, None]


def stack(placed: Sequence[tuple[Tensor, Frame]], divisor: int = 1) -> Batch:
    """Images of differing sizes into one batch, zero-padded at the bottom and right to a multiple of `divisor`."""
    if not placed:
        raise ValueError("stack: a batch needs at least one image")
    height = max(int(image.shape[-2]) for image, _ in placed)
    width = max(int(image.shape[-1]) for image, _ in placed)
    height, width = -(-height // divisor) * divisor, -(-width // divisor) * divisor
    pixels = placed[0][0].new_zeros((len(placed), 3, height, width))
    for row, (image, _) in zip(pixels, placed, strict=True):
        row[:, : image.shape[-2], : image.shape[-1]] = image
    return Batch(pixels, tuple(frame for _, frame in placed))


def unscaled(images: Sequence[Tensor], divisor: int = 1) -> Batch:
    """Images at their own size, padded as `stack` does; `Frame.inner` tells where the padding begins."""
    sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
    return stack([(image, Frame(size, size, (1.0, 1.0))) for image, size in zip(images, sizes, strict=True)], divisor)
