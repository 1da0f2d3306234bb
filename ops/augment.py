"""Chance for training: `(image [3, H, W] in 0..1, Target) -> (image, Target)`, never in place.

Pixels move by the kernels of `torchvision.transforms.v2`. Its transform classes are not used whole: each of them would
resample again, and they know nothing of `ignore` and `area`. So an augmentation here chooses one window of the image
and `place`s it (a single interpolation), and chooses one affine map of colours (a single matrix product).
All chance comes from torch's global generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional as F

from ops.structures import Target

__all__ = ["Colour", "cornernet_augment", "flip", "photo_augment", "place", "shapes_augment", "ssd_augment"]

_LUMA = (0.299, 0.587, 0.114)
_VGG_MEAN = (123 / 255, 117 / 255, 104 / 255)
# Principal axes of ImageNet's RGB values (Krizhevsky et al. 2012, section 4.1), as CornerNet's code lists them.
_PCA_VALUES = (0.2141788, 0.01817699, 0.00341571)
_PCA_VECTORS = (
    (-0.58752847, -0.69563484, 0.41340352),
    (-0.5832747, 0.00994535, -0.81221408),
    (-0.56089297, 0.71832671, 0.41158938),
)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _chance(probability: float) -> bool:
    return float(torch.rand(())) < probability


def _integer(low: int, high: int) -> int:
    """Uniform in `low..high`, both included; `low` where the range is empty."""
    return int(torch.randint(low, max(low, high) + 1, ()))


def flip(image: Tensor, target: Target, *, vertical: bool = False) -> tuple[Tensor, Target]:
    """Mirror left and right (or top and bottom). Twice gives back image and target."""
    side = int(image.shape[-2 if vertical else -1])
    kernel = F.vertical_flip_image if vertical else F.horizontal_flip_image
    masks = None if target.masks is None else kernel(target.masks)
    proposals = None if target.proposals is None else _mirrored(target.proposals, side, vertical)
    boxes = _mirrored(target.boxes, side, vertical)
    return kernel(image), replace(target, boxes=boxes, masks=masks, proposals=proposals)


def _mirrored(boxes: Tensor, side: int, vertical: bool) -> Tensor:
    low, high = (1, 3) if vertical else (0, 2)
    mirrored = boxes.clone()
    mirrored[:, low], mirrored[:, high] = side - boxes[:, high], side - boxes[:, low]
    return mirrored


def place(
    image: Tensor,
    target: Target,
    window: tuple[int, int, int, int],
    size: tuple[int, int],
    fill: float | Sequence[float] = 0.5,
    *,
    centre_inside: bool = True,
) -> tuple[Tensor, Target]:
    """Show `window` of the image at `size`: a crop where it lies inside, a zoom-out where it reaches beyond.

    Boxes are clipped and `area` shrinks with them. A mask is resampled to the nearest pixel. Proposals are clipped too,
    and those of which nothing is left are dropped.

    Args:
        image: `[3, H, W]`.
        target: Its objects.
        window: `(left, top, width, height)` in image pixels; it must overlap the image.
        size: `(H, W)` of the answer.
        fill: What stands beyond the image, one value or one a channel.
        centre_inside: Drop objects whose centre lies outside the window (SSD); else those of which nothing is left.

    Raises:
        ValueError: The window and the image do not overlap.
    """
    left, top, width, height = window
    x1, y1 = max(0, left), max(0, top)
    x2, y2 = min(int(image.shape[-1]), left + width), min(int(image.shape[-2]), top + height)
    if x1 >= x2 or y1 >= y2:
        raise ValueError(f"place: window {window} does not overlap an image of {tuple(image.shape[-2:])}")
    # Whole output pixels for the visible part; the boxes then follow this rounded scale, so that they stay exact.
    out_x1, out_x2 = _span(x1 - left, x2 - left, width, size[1])
    out_y1, out_y2 = _span(y1 - top, y2 - top, height, size[0])
    inner = [out_y2 - out_y1, out_x2 - out_x1]
    seen = image[:, y1:y2, x1:x2]
    if list(seen.shape[-2:]) != inner:
        seen = F.resize_image(seen, inner, antialias=False)
    if inner == list(size):
        canvas = seen.contiguous()
    else:
        colour = image.new_tensor([fill] * 3 if isinstance(fill, int | float) else list(fill))
        canvas = colour[:, None, None].expand(3, *size).contiguous()
        canvas[:, out_y1:out_y2, out_x1:out_x2] = seen

    scale = target.boxes.new_tensor([inner[1] / (x2 - x1), inner[0] / (y2 - y1)] * 2)
    shift = target.boxes.new_tensor([out_x1 - x1 * scale[0], out_y1 - y1 * scale[1]] * 2)
    moved = target.boxes * scale + shift
    low, high = moved.new_tensor([out_x1, out_y1]), moved.new_tensor([out_x2, out_y2])
    boxes = torch.cat([moved[:, :2].maximum(low), moved[:, 2:].minimum(high)], 1)
    proposals = target.proposals
    if proposals is not None:
        proposals = proposals * scale + shift
        proposals = torch.cat([proposals[:, :2].maximum(low), proposals[:, 2:].minimum(high)], 1)
        proposals = proposals[(proposals[:, 2:] > proposals[:, :2]).all(1)]
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
    if centre_inside:
        centre = (moved[:, :2] + moved[:, 2:]) / 2
        keep &= ((centre >= low) & (centre < high)).all(1)
    area = target.area
    if area is not None:
        seen_share = _box_area(boxes) / _box_area(moved).clamp(min=1e-9)
        area = area * scale[0] * scale[1] * seen_share
    masks = target.masks
    if masks is not None:
        whole = masks.new_zeros((len(target), *size))
        part = masks[:, y1:y2, x1:x2]
        whole[:, out_y1:out_y2, out_x1:out_x2] = (
            F.resize_mask(part, inner) if len(target) else part.new_zeros(0, *inner)
        )
        masks = whole
    return canvas, replace(target, boxes=boxes, area=area, masks=masks, proposals=proposals)[keep]


def _span(start: int, stop: int, length: int, out: int) -> tuple[int, int]:
    """Pixels `start..stop` of `length`, as whole pixels of `out`; never empty."""
    low = min(round(start * out / length), out - 1)
    return low, max(low + 1, round(stop * out / length))


def _box_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


class Colour:
    """An affine map of RGB, built step by step and applied once.

    Hue turns the plane of equal luma instead of HSV's hexagon: a matrix then does it, in a hundredth of the time.

    Args:
        image: `[3, H, W]`; contrast is taken about its mean luma.
    """

    def __init__(self, image: Tensor) -> None:
        self._image = image
        self._luma = image.new_tensor(_LUMA)
        self._matrix = torch.eye(3, dtype=image.dtype, device=image.device)
        self._offset = image.new_zeros(3)

    def _then(self, matrix: Tensor) -> Colour:
        self._matrix, self._offset = matrix @ self._matrix, matrix @ self._offset
        return self

    def add(self, offset: float | Tensor) -> Colour:
        """Add one value, or one a channel."""
        self._offset = self._offset + offset
        return self

    def gain(self, factor: float | Tensor) -> Colour:
        """Multiply by one value, or one a channel."""
        self._matrix = self._matrix * torch.as_tensor(factor).reshape(-1, 1)
        self._offset = self._offset * factor
        return self

    def contrast(self, factor: float) -> Colour:
        """Multiply the distance from the mean luma."""
        mean = self._luma @ (self._matrix @ self._image.mean((1, 2)) + self._offset)
        return self.gain(factor).add((1 - factor) * mean)

    def saturation(self, factor: float) -> Colour:
        """Multiply the distance from grey."""
        grey = self._luma.expand(3, 3)
        return self._then(factor * torch.eye(3, dtype=grey.dtype, device=grey.device) + (1 - factor) * grey)

    def hue(self, degrees: float) -> Colour:
        """Turn the colours about the grey axis, luma kept."""
        to_yiq = self._luma.new_tensor([_LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)])
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        turn = self._luma.new_tensor([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
        return self._then(torch.linalg.inv(to_yiq) @ turn @ to_yiq)

    def apply(self) -> Tensor:
        """The image in its new colours, clamped to 0..1."""
        flat = torch.addmm(self._offset[:, None], self._matrix, self._image.reshape(3, -1))
        return flat.clamp_(0, 1).reshape(self._image.shape)


def _zoomed(image: Tensor, zoom: float, stretch: float = 1.0) -> tuple[int, int, int, int]:
    """A window that shows the image `zoom` times as large, at a random place."""
    height, width = int(image.shape[-2]), int(image.shape[-1])
    wide, tall = max(1, round(width / zoom * stretch)), max(1, round(height / zoom / stretch))
    left = _integer(min(0, width - wide), max(0, width - wide))
    top = _integer(min(0, height - tall), max(0, height - tall))
    return left, top, wide, tall


def shapes_augment(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Flip, zoom by 0.7 to 1.3 at a random place, mild light and tint; the size of the image stays."""
    colour = Colour(image).contrast(_uniform(0.8, 1.2)).gain(_uniform(0.85, 1.15) + 0.1 * (torch.rand(3) - 0.5))
    image = colour.apply()
    size = (int(image.shape[-2]), int(image.shape[-1]))
    image, target = place(image, target, _zoomed(image, _uniform(0.7, 1.3)), size)
    return flip(image, target) if _chance(0.5) else (image, target)


def photo_augment(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """For photographs without an up and down, such as blood cells: flips along both axes, zoom by 0.7 to 1.4, aspect
    by up to 1.15, brightness, contrast, saturation and hue; the size of the image stays.
    """
    colour = Colour(image).gain(_uniform(0.8, 1.2)).contrast(_uniform(0.8, 1.2))
    image = colour.saturation(_uniform(0.7, 1.3)).hue(_uniform(-12, 12)).apply()
    size = (int(image.shape[-2]), int(image.shape[-1]))
    stretch = math.exp(_uniform(-0.14, 0.14))
    fill = image.mean((1, 2)).tolist()
    image, target = place(image, target, _zoomed(image, _uniform(0.7, 1.4), stretch), size, fill)
    for vertical in (False, True):
        if _chance(0.5):
            image, target = flip(image, target, vertical=vertical)
    return image, target


def ssd_augment(image: Tensor, target: Target, *, limit: int = 640) -> tuple[Tensor, Target]:
    """SSD's augmentation (section 2.2 and the zoom-out of section 3.6): colour, zoom-out, crop by overlap, flip.

    Zoom-out and crop are placed in one step. The answer keeps the image's scale (a network warps it to its own input),
    unless a side would pass `limit` pixels. The released code draws the interpolation too; here it is bilinear.
    """
    image = _ssd_colour(image)
    height, width = int(image.shape[-2]), int(image.shape[-1])
    left, top, wide, tall = 0, 0, width, height
    if _chance(0.5):
        ratio = _uniform(1, 4)
        wide, tall = int(width * ratio), int(height * ratio)
        left, top = -_integer(0, wide - width), -_integer(0, tall - height)
    window = _overlap_window(target.boxes, (left, top, wide, tall), (height, width))
    shrink = min(1.0, limit / max(window[2:]))
    size = (max(1, round(window[3] * shrink)), max(1, round(window[2] * shrink)))
    image, target = place(image, target, window, size, _VGG_MEAN)
    return flip(image, target) if _chance(0.5) else (image, target)


def _ssd_colour(image: Tensor) -> Tensor:
    colour = Colour(image)
    if _chance(0.5):
        colour.add(_uniform(-32, 32) / 255)
    contrast_first = _chance(0.5)
    if contrast_first and _chance(0.5):
        colour.gain(_uniform(0.5, 1.5))
    if _chance(0.5):
        colour.saturation(_uniform(0.5, 1.5))
    if _chance(0.5):
        colour.hue(_uniform(-18, 18))
    if not contrast_first and _chance(0.5):
        colour.gain(_uniform(0.5, 1.5))
    return colour.apply()


def _overlap_window(
    boxes: Tensor, canvas: tuple[int, int, int, int], image_size: tuple[int, int], trials: int = 50
) -> tuple[int, int, int, int]:
    """A window inside `canvas` that overlaps some object by at least a drawn IoU, and the image in any case.

    Seven samplers, one taken at random among those that succeed within `trials`: all of the canvas; least IoU .1, .3,
    .5, .7, .9; any window. Sides are `scale * sqrt(aspect)` and `scale / sqrt(aspect)` of the canvas's.
    """
    left, top, wide, tall = canvas
    for sampler in torch.randperm(7).tolist():
        if sampler == 6:
            break
        scale = 0.3 + 0.7 * torch.rand(trials)
        narrowest, widest = (scale * scale).clamp(min=0.5), (1 / (scale * scale)).clamp(max=2.0)
        aspect = (narrowest + (widest - narrowest) * torch.rand(trials)).sqrt()
        width, height = (scale * aspect * wide).clamp(1, wide), (scale / aspect * tall).clamp(1, tall)
        x, y = left + (wide - width) * torch.rand(trials), top + (tall - height) * torch.rand(trials)
        windows = torch.stack([x, y, x + width, y + height], 1).round()
        fits = (windows[:, 0] < image_size[1]) & (windows[:, 1] < image_size[0]) & (windows[:, 2:] > 0).all(1)
        fits &= (windows[:, 2:] > windows[:, :2]).all(1)
        if sampler < 5:
            least = (0.1, 0.3, 0.5, 0.7, 0.9)[sampler]
            if not len(boxes):
                continue
            fits &= box_iou(windows, boxes.cpu()).amax(1) >= least
        if bool(fits.any()):
            x1, y1, x2, y2 = map(int, windows[int(fits.nonzero()[0])].tolist())
            return x1, y1, x2 - x1, y2 - y1
    return canvas


def cornernet_augment(image: Tensor, target: Target, *, size: int = 511, border: int = 128) -> tuple[Tensor, Target]:
    """CornerNet's augmentation (sections 4.1 and 4.2, ranges from its code; CenterNet's too).

    A square window of `size` times 0.6, 0.7, ... 1.3 image pixels about a centre at least `border` from the edges,
    shown at `size` on black; a cut object stays as long as anything of it is left. Then flip, brightness, contrast and
    saturation within 0.4 in random order, and light along the principal axes. (The code adds these to BGR though they
    are RGB's; here they are added to RGB.)
    """
    height, width = int(image.shape[-2]), int(image.shape[-1])
    side = int(size * (0.6 + 0.1 * _integer(0, 7)) + 1e-6)
    centres = []
    for length in (width, height):
        edge = border
        while length <= 2 * edge and edge > 1:
            edge //= 2
        centres.append(_integer(edge, length - edge - 1))
    window = (centres[0] - side // 2, centres[1] - side // 2, side, side)
    image, target = place(image, target, window, (size, size), 0.0, centre_inside=False)
    if _chance(0.5):
        image, target = flip(image, target)
    colour = Colour(image)
    steps = (colour.gain, colour.contrast, colour.saturation)
    for index in torch.randperm(3).tolist():
        steps[index](_uniform(0.6, 1.4))
    weights = image.new_tensor(_PCA_VALUES) * 0.1 * torch.randn(3).to(image)
    return colour.add(image.new_tensor(_PCA_VECTORS) @ weights).apply(), target
