"""Features and deformation of part models: P. Felzenszwalb, R. Girshick, D. McAllester, D. Ramanan, PAMI 2010.

https://cs.brown.edu/people/pfelzens/papers/lsvm-pami.pdf, sections 6 (features) and 4.1 (distance transforms), in the
form of the authors' release voc-release5, for which its models were trained.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["TRUNCATION", "directed_gradients", "distance_transform", "mirror_features", "part_features"]

TRUNCATION = 31
"""The channel that is 1 beyond the image and 0 within."""

_MIRROR = [(9 - k) % 18 for k in range(18)] + [18 + (9 - k) % 9 for k in range(9)] + [29, 30, 27, 28, TRUNCATION]


def directed_gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    """Length and direction of the gradient at every pixel but the outermost.

    Gradients are central differences, of the first channel in which they are longest. A direction is one of 18, those
    of nine unit vectors (of four decimals, as the release has them) and their opposites; of equally near ones the
    first.

    Args:
        image: float `[3, H, W]`, 0 to 255, at least 3 x 3.

    Returns:
        Lengths `[H - 2, W - 2]` and directions, int64, likewise.
    """
    across = image[:, 1:-1, 2:] - image[:, 1:-1, :-2]
    down = image[:, 2:, 1:-1] - image[:, :-2, 1:-1]
    strength = across.square() + down.square()
    dx, dy, best = across[0], down[0], strength[0]
    for x, y, other in zip(across[1:], down[1:], strength[1:], strict=True):
        longer = other > best
        dx, dy, best = torch.where(longer, x, dx), torch.where(longer, y, dy), torch.where(longer, other, best)
    nearest = torch.zeros_like(best)
    direction = torch.zeros_like(best, dtype=torch.int64)
    for index in range(9):
        along = dx * round(math.cos(math.pi * index / 9), 4) + dy * round(math.sin(math.pi * index / 9), 4)
        size = along.abs()
        nearer = size > nearest
        nearest = torch.where(nearer, size, nearest)
        direction = torch.where(nearer, index + 9 * (along < 0), direction)
    return best.sqrt(), direction


def part_features(length: Tensor, direction: Tensor, cell: int) -> Tensor:
    """What `directed_gradients` gave, as 32 features a cell.

    A pixel votes with its gradient's length for its direction in the four cells about it, bilinearly. Each cell's
    histogram is divided by the energies of the four blocks of 2 x 2 cells that it belongs to, and cut off at 0.2. Half
    the sum over the four are the features: 18 directions, 9 orientations (opposites together), then 4 textures, which
    are 0.2357 times the sum over directions for each block, and the truncation feature, 0 within an image.

    Args:
        length: `[H - 2, W - 2]` of an image of H x W pixels.
        direction: Likewise, 0 to 17.
        cell: Side of a cell in pixels.

    Returns:
        `[32, rows - 2, columns - 2]`, where rows = round(H / cell) and columns = round(W / cell), halves upwards as in
        C: the outermost cells have no four blocks. Nothing where that is not positive.
    """
    height, width = length.shape
    rows, columns = (math.floor((side + 2) / cell + 0.5) for side in (height, width))
    if rows < 3 or columns < 3:
        return length.new_zeros((32, max(rows - 2, 0), max(columns - 2, 0)))
    # Where the last cell ends beyond the image, its last gradients are repeated; outermost pixels never vote.
    ys = torch.arange(rows * cell - 2, device=length.device).clamp(max=height - 1)
    xs = torch.arange(columns * cell - 2, device=length.device).clamp(max=width - 1)
    votes = length.index_select(0, ys).index_select(1, xs)
    bins = direction.index_select(0, ys).index_select(1, xs)
    top, below = _shares(rows * cell, cell, length)
    left, right = _shares(columns * cell, cell, length)
    first = (bins * (rows + 2) + top[:, None]) * (columns + 2) + left
    histogram = length.new_zeros(18 * (rows + 2) * (columns + 2))
    for step, vertical in ((0, 1 - below), (columns + 2, below)):
        rest = votes * vertical[:, None]
        second = rest * right
        histogram.index_add_(0, (first + step).flatten(), (rest - second).flatten())
        histogram.index_add_(0, (first + (step + 1)).flatten(), second.flatten())
    histogram = histogram.reshape(18, rows + 2, columns + 2)[:, 1:-1, 1:-1]
    both = histogram[:9] + histogram[9:]
    energy = both.square().sum(0)
    blocks = energy[:-1, :-1] + energy[1:, :-1] + energy[:-1, 1:] + energy[1:, 1:]
    scale = (blocks + 1e-4).rsqrt()
    inner, both = histogram[:, 1:-1, 1:-1], both[:, 1:-1, 1:-1]
    scales = (scale[1:, 1:], scale[:-1, 1:], scale[1:, :-1], scale[:-1, :-1])
    directed = [(inner * one).clamp(max=0.2) for one in scales]
    oriented = [(both * one).clamp(max=0.2) for one in scales]
    texture = torch.stack([one.sum(0) for one in directed]) * 0.2357
    halves = torch.cat([sum(directed[1:], directed[0]), sum(oriented[1:], oriented[0])]) * 0.5
    return torch.cat([halves, texture, torch.zeros_like(texture[:1])])


def _shares(side: int, cell: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """For pixels 1 to side - 2: the first of the two cells that each votes for, counted from one before the image, and
    the other's share."""
    place = (torch.arange(1, side - 1, dtype=torch.float64, device=like.device) + 0.5) / cell - 0.5
    low = place.floor()
    return low.long() + 1, (place - low).to(like.dtype)


def mirror_features(features: Tensor) -> Tensor:
    """Features `[..., 32, H, W]` of the mirrored image; a filter is mirrored alike."""
    return features.index_select(-3, torch.tensor(_MIRROR, device=features.device)).flip(-1)


def distance_transform(scores: Tensor, cost: Tensor, reach: int | None = None) -> Tensor:
    """The best that a part can have near each place: its score anywhere, less the cost of being moved there.

    `out(y, x) = max over (v, u) of scores(v, u) - ax (x-u)^2 - bx (x-u) - ay (y-v)^2 - by (y-v)`. The cost is a sum of
    one in x and one in y, and so is the search. Exact; P. Felzenszwalb's and D. Huttenlocher's lower envelope of
    parabolas gives the same numbers in linear time, but not on whole maps at once.

    Args:
        scores: `[F, H, W]`; minus infinity where a part cannot be.
        cost: `[F, 4]`: ax, bx, ay, by.
        reach: Farthest that a part moves along an axis, in cells. voc-release5 detects with 4; None: anywhere.
    """
    ax, bx, ay, by = cost.T[..., None, None]
    return _spread(_spread(scores.mT, ay, by, reach).mT, ax, bx, reach)


def _spread(scores: Tensor, quadratic: Tensor, linear: Tensor, reach: int | None) -> Tensor:
    side = scores.shape[-1]
    best = scores.clone()
    for step in range(1, min(side - 1, side if reach is None else reach) + 1):
        # From `step` behind, then from `step` ahead of each place.
        square, straight = quadratic * step**2, linear * step
        ahead, behind = best[..., step:], best[..., :-step]
        torch.maximum(ahead, scores[..., :-step] - (square + straight), out=ahead)
        torch.maximum(behind, scores[..., step:] - (square - straight), out=behind)
    return best
