"""Keypoint heatmaps: Gaussian targets, peaks, and the grouping of corners by their embeddings.

Sources: Law & Deng, CornerNet (2018), section 3.2, and the code that was released with it and with CenterNet (2019).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Keypoints",
    "Pairs",
    "find_keypoints",
    "gaussian_heatmaps",
    "gaussian_radius",
    "local_peaks",
    "pair_corners",
]


class Keypoints(NamedTuple):
    """The `K` best keypoints of each of `B` images, the surest first.

    Attributes:
        scores: `[B, K]`.
        labels: int64 `[B, K]`, the class of the map each was found on.
        points: `[B, K, 2]`, `(x, y)` in heatmap cells, offsets added.
        tags: `[B, K]`, embeddings that are alike for corners of one object; None for keypoints without.
    """

    scores: Tensor
    labels: Tensor
    points: Tensor
    tags: Tensor | None


class Pairs(NamedTuple):
    """The `N` best pairs of corners of each of `B` images, the surest first.

    Attributes:
        boxes: `[B, N, 4]`, in heatmap cells.
        scores: `[B, N]`; -1 for pairs that are none.
        labels: int64 `[B, N]`, the class of the top left corner.
        corners: `[B, N, 2]`, the scores of the top left and of the bottom right corner.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    corners: Tensor


def gaussian_radius(
    height: Tensor,
    width: Tensor,
    iou: float,
    variant: Literal["corrected", "centernet_official"] = "corrected",
) -> Tensor:
    """How far both corners of a box may move for it still to overlap the true one by `iou`.

    Three cases give three quadratic equations: one corner moves in and one out, both move in, both move out; the
    radius is the smallest of their roots.

    Args:
        height: Of the boxes, in heatmap cells, any shape.
        width: Same shape.
        iou: Smallest overlap, over 0 and below 1.
        variant: `corrected` solves the equations. `centernet_official` takes `(b + sqrt(b^2 - 4ac)) / 2` for each,
            as CornerNet's first release and CenterNet's do; its radii are about twice to four times as large.

    Returns:
        Radii in cells, not rounded.
    """
    total, area = height + width, height * width
    mixed = area * (1 - iou) / (1 + iou)
    inside = (1 - iou) * area
    outside = (iou - 1) * area
    root_mixed = (total**2 - 4 * mixed).clamp(min=0).sqrt()
    root_inside = (4 * total**2 - 16 * inside).clamp(min=0).sqrt()
    root_outside = (4 * iou**2 * total**2 - 16 * iou * outside).sqrt()
    if variant == "corrected":
        radii = (
            (total - root_mixed) / 2,
            (2 * total - root_inside) / 8,
            (-2 * iou * total + root_outside) / (8 * iou),
        )
    elif variant == "centernet_official":
        radii = (
            (total + root_mixed) / 2,
            (2 * total + root_inside) / 2,
            (-2 * iou * total + root_outside) / 2,
        )
    else:
        raise ValueError(f"variant must be 'corrected' or 'centernet_official', got {variant!r}")
    return torch.stack(radii).amin(0)


def gaussian_heatmaps(
    cells: Tensor, planes: Tensor, radii: Tensor, size: tuple[int, int, int], sigma_share: float = 1 / 6
) -> Tensor:
    """Maps that are 1 at each keypoint's cell and fall off around it; where bumps meet, the larger value counts.

    Args:
        cells: int64 `[N, 2]`, `(x, y)` of the keypoints.
        planes: int64 `[N]`, the map each is drawn on.
        radii: int64 `[N]`; beyond `radius` cells from the keypoint, in x or in y, its bump is 0.
        size: `(planes, H, W)`.
        sigma_share: Standard deviation as a share of the diameter `2 * radius + 1`: 1/6 for corners; CenterNet's code
            takes 1/5 for centers.

    Returns:
        float32 `[planes, H, W]`.
    """
    count, height, width = size
    maps = torch.zeros((count, height, width), device=cells.device)
    sigma = (2 * radii + 1)[:, None] * sigma_share

    def profile(centre: Tensor, length: int) -> Tensor:
        distance = (torch.arange(length, device=cells.device)[None] - centre[:, None]).abs()
        value = torch.exp(-(distance.float() ** 2) / (2 * sigma**2))
        return torch.where(distance <= radii[:, None], value, value.new_zeros(()))

    bumps = profile(cells[:, 1], height)[:, :, None] * profile(cells[:, 0], width)[:, None, :]
    return maps.scatter_reduce_(0, planes[:, None, None].expand_as(bumps), bumps, "amax")


def local_peaks(heat: Tensor, kernel: int = 3) -> Tensor:
    """Zero all of `[B, C, H, W]` but the cells that are the maximum of the `kernel` x `kernel` cells around them.

    All cells of a plateau stay.
    """
    return heat * (F.max_pool2d(heat, kernel, 1, kernel // 2) == heat)


def find_keypoints(heat: Tensor, offsets: Tensor, k: int, tags: Tensor | None = None, kernel: int = 3) -> Keypoints:
    """The `k` highest local peaks over all classes and cells of an image.

    Args:
        heat: `[B, C, H, W]`, probabilities.
        offsets: `[B, 2, H, W]`, what is lost of `(x, y)` by rounding down to cells.
        k: Keypoints an image; fewer where the maps have fewer values.
        tags: `[B, 1, H, W]`, or None.
        kernel: See `local_peaks`.
    """
    _, classes, height, width = heat.shape
    scores, places = local_peaks(heat, kernel).flatten(1).topk(min(k, classes * height * width))
    cells = places % (height * width)
    corner = torch.stack([cells % width, cells // width], -1)
    offset = offsets.flatten(2).gather(2, cells[:, None].expand(-1, 2, -1)).transpose(1, 2)
    found = None if tags is None else tags.flatten(1).gather(1, cells)
    return Keypoints(scores, places // (height * width), corner + offset, found)


def pair_corners(top_left: Keypoints, bottom_right: Keypoints, ae_threshold: float, limit: int) -> Pairs:
    """Boxes from all pairs of corners; a pair scores the mean of its two (CornerNet, section 3.1).

    A pair whose classes differ, whose tags are more than `ae_threshold` apart, or whose corners are the wrong way round
    scores -1.

    Returns:
        The `limit` best of each image.
    """
    if top_left.tags is None or bottom_right.tags is None:
        raise ValueError("pair_corners: both kinds of corner need tags")
    batch, first, second = *top_left.scores.shape, bottom_right.scores.shape[1]
    low = top_left.points[:, :, None].expand(batch, first, second, 2)
    high = bottom_right.points[:, None].expand(batch, first, second, 2)
    labels = top_left.labels[:, :, None].expand(batch, first, second)
    alike = labels == bottom_right.labels[:, None]
    alike &= (top_left.tags[:, :, None] - bottom_right.tags[:, None]).abs() <= ae_threshold
    alike &= (high >= low).all(-1)
    one = top_left.scores[:, :, None].expand(batch, first, second)
    corners = torch.stack([one, bottom_right.scores[:, None].expand_as(one)], -1)
    scores = torch.where(alike, corners.sum(-1) / 2, corners.new_tensor(-1.0)).flatten(1)
    scores, rows = scores.topk(min(limit, first * second))

    def chosen(values: Tensor) -> Tensor:
        return values.flatten(1, 2).gather(1, rows[:, :, None].expand(-1, -1, values.shape[-1]))

    return Pairs(chosen(torch.cat([low, high], -1)), scores, labels.flatten(1).gather(1, rows), chosen(corners))
