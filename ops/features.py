"""Features of images that nobody learned: histograms of oriented gradients (Dalal and Triggs, CVPR 2005).

The numbers, not only the idea, are those of OpenCV's `HOGDescriptor`: https://lear.inrialpes.fr/people/triggs/pubs/Dalal-cvpr05.pdf
describes what is computed, section 6 each choice below.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["hog_blocks", "hog_descriptor", "orientation_votes"]


def orientation_votes(image: Tensor, bins: int = 9, *, gamma: bool = True) -> Tensor:
    """Each pixel's gradient magnitude, shared between the two nearest of `bins` orientations over 180 degrees.

    Gradients are `[-1, 0, 1]` without smoothing, of the channel in which they are strongest (sections 6.1 to 6.3).

    Args:
        image: `[C, H, W]` in [0, 1], at least 2 x 2.
        bins: Orientations; the centre of bin `k` lies at `(k + 0.5) / bins` of 180 degrees.
        gamma: Take the square root of intensities first (section 6.1).

    Returns:
        `[bins, H, W]`, on the scale of intensities 0 to 255, or of their roots.
    """
    levels = image * 255
    if gamma:
        levels = levels.clamp(min=0).sqrt()
    # Mirrored about the outermost pixel, so that there the gradient across the border is 0.
    padded = F.pad(levels[None], (1, 1, 1, 1), mode="reflect")[0]
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    across, down = _strongest_channel(across, down)
    magnitude = torch.hypot(across, down)
    # Directions and their opposites are one orientation: turn all into the half plane `down >= 0`.
    place = torch.atan2(down.abs(), torch.where(down < 0, -across, across)) * (bins / torch.pi) - 0.5
    lower = place.floor()
    share = magnitude * (place - lower)
    # Bins -1 and `bins` lie beyond the ends and are the last and the first.
    lower = lower.long()[None] + 1
    votes = levels.new_zeros((bins + 2, *image.shape[-2:]))
    votes.scatter_(0, lower, (magnitude - share)[None]).scatter_(0, lower + 1, share[None])
    votes[bins] += votes[0]
    votes[1] += votes[bins + 1]
    return votes[1:-1]


def _strongest_channel(across: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """`[C, H, W]` to `[H, W]`; of equally strong channels the last of RGB, which is OpenCV's first."""
    best = across[0], down[0], across[0].square() + down[0].square()
    for x, y in zip(across[1:], down[1:], strict=True):
        strength = x.square() + y.square()
        better = strength >= best[2]
        best = torch.where(better, x, best[0]), torch.where(better, y, best[1]), torch.where(better, strength, best[2])
    return best[0], best[1]


def hog_blocks(
    image: Tensor, cell: int = 8, bins: int = 9, *, gamma: bool = True, sigma: float | None = None, clip: float = 0.2
) -> Tensor:
    """The normalised blocks of 2 x 2 cells at every cell of an image.

    A pixel votes into the cells about it by its bilinear distance to their centres, and with a Gaussian weight about
    the block's centre; both depend only on its place in the block, and are products of a part in x and one in y. So
    all blocks come from one convolution a direction, and a detection window is a rectangle of the result.

    Args:
        image: `[C, H, W]` in [0, 1], at least one block high and wide.
        cell: Side of a cell in pixels, and the distance between blocks.
        bins: Orientations.
        gamma: As for `orientation_votes`.
        sigma: Of the Gaussian in pixels; None for a quarter of the block's side, as OpenCV has it (the paper: half).
        clip: Where normalised values are cut before they are normalised again (L2-Hys, section 6.4).

    Returns:
        `[4 * bins, H // cell - 1, W // cell - 1]`; channel `(2 * cx + cy) * bins + bin` for cell column `cx` and row
        `cy` of the block.

    Raises:
        ValueError: The image is smaller than a block.
    """
    if min(image.shape[-2:]) < 2 * cell:
        raise ValueError(f"an image of {image.shape[-2]}x{image.shape[-1]} holds no block of {2 * cell}x{2 * cell}")
    votes = orientation_votes(image, bins, gamma=gamma)
    weights = _cell_weights(cell, cell / 2 if sigma is None else sigma).to(votes)
    height, width = votes.shape[-2] // cell, votes.shape[-1] // cell
    votes = votes[:, : height * cell, : width * cell]
    # Every row of cells gives to its own block's and to the one before: first in x, then in y.
    votes = votes.reshape(bins, height * cell, width, cell) @ weights.T
    votes = weights @ votes.reshape(bins, height, cell, width * 4)
    half = votes.reshape(bins, height, 2, 2, width, 2, 2)  # [bin, row, half, cy, column, half, cx]
    half = half[:, :-1, 0] + half[:, 1:, 1]
    half = half[..., :-1, 0, :] + half[..., 1:, 1, :]
    blocks = half.permute(4, 2, 0, 1, 3).flatten(0, 2)
    blocks = blocks / (blocks.square().sum(0).sqrt() + 0.1 * len(blocks))
    blocks = blocks.clamp(max=clip)
    return blocks / (blocks.square().sum(0).sqrt() + 1e-3)


def hog_descriptor(image: Tensor, cell: int = 8, bins: int = 9, *, gamma: bool = True) -> Tensor:
    """The descriptor of one window, in OpenCV's order: blocks column by column, then cells likewise, then bins.

    `image` is `[C, H, W]`; 64 x 128 pixels give 3,780 numbers.
    """
    return hog_blocks(image, cell, bins, gamma=gamma).permute(2, 1, 0).flatten()


def _cell_weights(cell: int, sigma: float) -> Tensor:
    """`[4, cell]`: what a block's first half gives to its first and second cell, then what its second half does."""
    pixel = torch.arange(2 * cell, dtype=torch.float64)
    # OpenCV puts the Gaussian's centre on a pixel, half a pixel beyond the block's; the golden numbers depend on it.
    gaussian = torch.exp(-((pixel - cell) ** 2) / (2 * sigma**2))
    distance = (pixel + 0.5) / cell - 0.5 - torch.arange(2, dtype=torch.float64)[:, None]
    weights = gaussian * (1 - distance.abs()).clamp(min=0)
    return weights.reshape(2, 2, cell).transpose(0, 1).flatten(0, 1)
