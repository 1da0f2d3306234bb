"""Aggregate channel features: P. Dollar, R. Appel, S. Belongie, P. Perona, PAMI 2014.

https://pdollar.github.io/files/papers/DollarPAMI14pyramids.pdf, section 3, and for every constant the
authors' toolbox. Ten channels: colour in CIE LUV (3), the gradient's normalised magnitude (1), and that magnitude
shared among six orientations (6), each averaged over squares of pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.resample import triangle_blur

__all__ = ["channel_features", "gradient", "luv", "orientation_shares"]


def luv(image: Tensor) -> Tensor:
    """RGB `[3, H, W]` in [0, 1] to LUV, moved and scaled into [0, 1].

    By the formula; the toolbox looks lightness up in a table of 1,024 steps.
    """
    r, g, b = image
    x = 0.430574 * r + 0.341550 * g + 0.178325 * b
    y = 0.222015 * r + 0.706655 * g + 0.071330 * b
    z = 0.020183 * r + 0.129553 * g + 0.939180 * b
    light = torch.where(y > (6 / 29) ** 3, 116 * y.clamp(min=0) ** (1 / 3) - 16, y * (29 / 3) ** 3) / 270
    whole = (x + 15 * y + 3 * z).clamp(min=1e-12)
    u = 13 * light * (4 * x / whole - 0.197833) + 88 / 270
    v = 13 * light * (9 * y / whole - 0.468331) + 134 / 270
    return torch.stack([light, u, v])


def gradient(image: Tensor) -> tuple[Tensor, Tensor]:
    """Magnitude and orientation, 0 to pi, of the gradient of `[C, H, W]`, where the channel of the largest is taken.

    Central differences, halved; at the edges the difference to the one neighbour.
    """
    across, down = _difference(image), _difference(image.mT).mT
    strength = across.square() + down.square()
    best, dx, dy = strength[0], across[0], down[0]
    for other, x, y in zip(strength[1:], across[1:], down[1:], strict=True):
        more = other > best
        best, dx, dy = torch.where(more, other, best), torch.where(more, x, dx), torch.where(more, y, dy)
    return best.sqrt(), torch.atan2(dy.abs(), torch.where(dy < 0, -dx, dx))


def _difference(image: Tensor) -> Tensor:
    if image.shape[-1] < 2:
        return torch.zeros_like(image)
    inner = (image[..., 2:] - image[..., :-2]) * 0.5
    return torch.cat([image[..., 1:2] - image[..., :1], inner, image[..., -1:] - image[..., -2:-1]], -1)


def orientation_shares(magnitude: Tensor, orientation: Tensor, bins: int = 6) -> Tensor:
    """`[bins, H, W]`: a magnitude divided linearly between the two bins nearest to its orientation; the last meets the
    first."""
    place = orientation * (bins / torch.pi)
    low = place.floor()
    share = magnitude * (place - low)
    index = low.long() % bins
    shares = magnitude.new_zeros((bins, *magnitude.shape))
    return shares.scatter_(0, index[None], (magnitude - share)[None]).scatter_(
        0, ((index + 1) % bins)[None], share[None]
    )


def channel_features(
    colours: Tensor, shrink: int = 4, bins: int = 6, *, smooth: int = 1, radius: int = 5, constant: float = 0.005
) -> Tensor:
    """The channels of an image that is LUV already.

    Args:
        colours: `[3, H, W]` of `luv`.
        shrink: Side in pixels of the squares that are averaged; what is left over at the right and bottom is cut off.
        bins: Orientations over 180 degrees.
        smooth: Radius of the triangle that blurs the colours first.
        radius: Of the triangle whose mean magnitude each magnitude is divided by.
        constant: Added to that mean.

    Returns:
        `[4 + bins, H // shrink, W // shrink]`: L, U, V, magnitude, orientations.
    """
    height, width = (side // shrink * shrink for side in colours.shape[-2:])
    colours = triangle_blur(colours[:, :height, :width], smooth)
    magnitude, orientation = gradient(colours)
    magnitude = magnitude / (triangle_blur(magnitude[None], radius)[0] + constant)
    channels = torch.cat([colours, magnitude[None], orientation_shares(magnitude, orientation, bins)])
    return F.avg_pool2d(channels[None], shrink)[0]
