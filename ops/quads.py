"""Quadrilaterals and turned rectangles, for text that runs in any direction.

From Zhou, Yao, Wen, Wang, Zhou, He and Liang, "EAST" (CVPR 2017, https://arxiv.org/abs/1704.03155).

A quadrilateral is `[4, 2]`: its corners `(x, y)`, clockwise as one sees them (y runs down), the upper left one first.
Angles are in radians and positive where the right end of the upper side is the higher one. The sides of a rectangle
run top, bottom, left, right, as in `ops.dense`, in the rectangle's own directions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "box_quads",
    "fill_quads",
    "hulls",
    "inside_quads",
    "locality_aware_nms",
    "quad_iou",
    "quad_nms",
    "quad_smooth_l1",
    "rectangle_angles",
    "rectangle_sides",
    "restore_rectangles",
    "shrink_quads",
    "smallest_rectangles",
]

_Points = NDArray[np.float64]
_CYCLES = (np.arange(4)[:, None] + np.arange(4)) % 4


def box_quads(boxes: Tensor) -> Tensor:
    """Corners `[N, 4, 2]` of boxes `[N, 4]`."""
    return boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(1, (4, 2))


def hulls(quads: Tensor) -> Tensor:
    """The upright boxes `[N, 4]` around quadrilaterals `[N, 4, 2]`."""
    return torch.cat([quads.amin(1), quads.amax(1)], 1)


def shrink_quads(quads: Tensor, share: float = 0.3) -> Tensor:
    """Move the ends of each side inward along it, first of the longer pair of opposite sides, then of the other.

    Each end moves by `share` of the length of the shorter side that meets there (EAST, section 3.3.1).

    Args:
        quads: `[N, 4, 2]`.
        share: See above.
    """
    lengths = (quads.roll(-1, 1) - quads).norm(dim=2)  # [N, 4], of the side that begins at each corner
    moves = share * torch.minimum(lengths, lengths.roll(1, 1))
    first_is_longer = lengths[:, 0] + lengths[:, 2] > lengths[:, 1] + lengths[:, 3]
    one, other = _shrink_pair(quads, moves, 0), _shrink_pair(quads, moves, 1)
    return torch.where(
        first_is_longer[:, None, None], _shrink_pair(one, moves, 1), _shrink_pair(other, moves, 0)
    )  # fmt: skip


def _shrink_pair(quads: Tensor, moves: Tensor, first: int) -> Tensor:
    begin, end = [first, first + 2], [first + 1, (first + 3) % 4]
    along = quads[:, end] - quads[:, begin]
    along = along / along.norm(dim=2, keepdim=True).clamp(min=1e-6)
    moved = quads.clone()
    moved[:, begin] += moves[:, begin, None] * along
    moved[:, end] -= moves[:, end, None] * along
    return moved


def inside_quads(points: Tensor, quads: Tensor) -> Tensor:
    """Which of the points `[P, 2]` lie in each of convex `[M, 4, 2]`, borders included, bool `[M, P]`.

    Corners may also run the other way round.
    """
    along = quads.roll(-1, 1) - quads
    away = points[:, None] - quads[:, None]  # [M, P, 4, 2]
    side = along[:, None, :, 0] * away[..., 1] - along[:, None, :, 1] * away[..., 0]
    return (side >= 0).all(-1) | (side <= 0).all(-1)


def rectangle_angles(rectangles: Tensor) -> Tensor:
    """Angles `[M]` of the upper sides of `[M, 4, 2]`."""
    along = rectangles[:, 1] - rectangles[:, 0]
    return torch.atan2(-along[:, 1], along[:, 0])


def rectangle_sides(points: Tensor, rectangles: Tensor) -> Tensor:
    """Distances `[M, P, 4]` of points `[P, 2]` to the sides of rectangles `[M, 4, 2]`; negative beyond a side."""
    low, high = points - rectangles[:, None, 0], rectangles[:, None, 2] - points
    angle = rectangle_angles(rectangles)[:, None]
    cosine, sine = angle.cos(), angle.sin()

    def turned(offset: Tensor) -> tuple[Tensor, Tensor]:
        x, y = offset.unbind(-1)
        return cosine * x - sine * y, sine * x + cosine * y

    (left, top), (right, bottom) = turned(low), turned(high)
    return torch.stack([top, bottom, left, right], -1)


def restore_rectangles(points: Tensor, sides: Tensor, angles: Tensor) -> Tensor:
    """Rectangles `[N, 4, 2]` from points `[N, 2]` in them, distances `[N, 4]` and angles `[N]`."""
    top, bottom, left, right = sides.unbind(-1)
    across = torch.stack([-left, right, right, -left], 1)
    down = torch.stack([-top, -top, bottom, bottom], 1)
    cosine, sine = angles.cos()[:, None], angles.sin()[:, None]
    return points[:, None] + torch.stack([cosine * across + sine * down, cosine * down - sine * across], -1)


def smallest_rectangles(masks: Tensor) -> Tensor:
    """The rectangle of least area, at any angle, around all pixels of each mask.

    Args:
        masks: bool `[M, H, W]`, none empty.

    Returns:
        `[M, 4, 2]`; angles are over -45 and up to 45 degrees.

    Raises:
        ValueError: A mask is empty.
    """
    import cv2

    rectangles = np.zeros((len(masks), 4, 2))
    for index, mask in enumerate(masks.cpu().numpy()):
        rows = np.flatnonzero(mask.any(1))
        if not len(rows):
            raise ValueError(f"mask {index} is empty: no rectangle lies around it")
        shown = mask[rows]
        first, last = shown.argmax(1), mask.shape[1] - shown[:, ::-1].argmax(1)
        corners = [np.stack([x, rows + step], 1) for x in (first, last) for step in (0, 1)]
        points = np.concatenate(corners).astype(np.float32)
        rectangles[index] = _upright_first(cv2.boxPoints(cv2.minAreaRect(points)).astype(np.float64))
    return torch.from_numpy(rectangles).to(masks.device, torch.float32)


def _upright_first(rectangle: _Points) -> _Points:
    """The same corners, clockwise, from the one whose side runs most to the right."""
    x, y = rectangle.T
    if (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() < 0:
        rectangle = rectangle[::-1]
    along = np.roll(rectangle, -1, 0) - rectangle
    # Of the four directions one lies in the quarter about the right; half a quarter up belongs to it, down does not.
    turn = np.arctan2(-along[:, 1], along[:, 0])
    start = int(np.argmin(np.abs(turn - 1e-6)))
    return np.roll(rectangle, -start, 0)


def fill_quads(quads: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks bool `[N, H, W]` of the pixels whose middles lie in quadrilaterals `[N, 4, 2]` of an image `(H, W)`."""
    ys, xs = (torch.arange(side, device=quads.device) + 0.5 for side in size)
    points = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1).flatten(0, 1)
    masks = torch.zeros((len(quads), *size), dtype=torch.bool, device=quads.device)
    for mask, quad in zip(masks, quads, strict=True):
        mask.copy_(inside_quads(points, quad[None])[0].reshape(size))
    return masks


def quad_smooth_l1(quads: Tensor, wanted: Tensor) -> Tensor:
    """Smooth L1 over eight coordinates, by the shortest side, of the order of corners that fits best (section 3.4.2).

    Args:
        quads: `[N, 4, 2]`.
        wanted: `[N, 4, 2]`; its corners may begin anywhere.

    Returns:
        Loss per quadrilateral `[N]`: the sum over `8` times the shortest side of `wanted`, the least of four orders.
    """
    shortest = (wanted.roll(-1, 1) - wanted).norm(dim=2).amin(1).clamp(min=1e-6)
    orders = wanted[:, torch.from_numpy(_CYCLES).to(wanted.device)]  # [N, 4 orders, 4, 2]
    loss = torch.nn.functional.smooth_l1_loss(quads[:, None].expand_as(orders), orders, reduction="none")
    return loss.sum((2, 3)).amin(1) / (8 * shortest)


def _convex(quad: _Points) -> tuple[Any, float]:
    import cv2

    hull = cv2.convexHull(quad.astype(np.float32))
    return hull, cv2.contourArea(hull)


def _iou(first: tuple[Any, float], second: tuple[Any, float]) -> float:
    import cv2

    if min(first[1], second[1]) <= 0:
        return 0.0
    shared = cv2.intersectConvexConvex(first[0], second[0])[0]
    return float(shared / max(first[1] + second[1] - shared, 1e-12))


def quad_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU `[N, M]` of quadrilaterals `[N, 4, 2]` and `[M, 4, 2]`, of their convex hulls where they are not convex.

    Those without area overlap nothing. To about 1e-5, and without a gradient.
    """
    rows, columns = ([_convex(quad) for quad in quads.detach().cpu().double().numpy()] for quads in (first, second))
    found = [[_iou(row, column) for column in columns] for row in rows]
    return first.new_tensor(found).reshape(len(rows), len(columns))


def quad_nms(quads: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Of quadrilaterals `[N, 4, 2]` that overlap by more than `iou`, keep the one of highest score `[N]`.

    Returns:
        Indices int64 `[K]`, by descending score.
    """
    order = scores.detach().argsort(descending=True, stable=True).tolist()
    shapes = [_convex(quad) for quad in quads.detach().cpu().double().numpy()]
    around = hulls(quads.detach()).cpu().numpy() if len(quads) else np.zeros((0, 4))
    kept: list[int] = []
    for index in order:
        taken = around[kept]
        near = (taken[:, :2] < around[index, 2:]).all(1) & (around[index, :2] < taken[:, 2:]).all(1)
        if all(_iou(shapes[index], shapes[kept[at]]) <= iou for at in np.flatnonzero(near)):
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64, device=scores.device)


def locality_aware_nms(quads: Tensor, scores: Tensor, iou: float = 0.2) -> tuple[Tensor, Tensor, Tensor]:
    """Merge neighbours as they come, then suppress what still overlaps (EAST, section 3.6, algorithm 1).

    A candidate that overlaps the last merged quadrilateral by more than `iou` is merged into it: coordinates are
    averaged by score, scores are added up, so that they may pass 1. Before, its corners are counted from the one that
    makes them lie nearest; the paper does not say so, but a rectangle turned by 45 degrees may begin at either of two.

    Args:
        quads: `[N, 4, 2]`, by rows of the map, and within a row from left to right.
        scores: `[N]`, positive.
        iou: See above; of suppression too.

    Returns:
        `K` quadrilaterals `[K, 4, 2]`, their scores `[K]`, descending, and the highest score among the candidates that
        each was made of, `[K]`.
    """
    merged: list[_Points] = []
    sums: list[float] = []
    peaks: list[float] = []
    last: tuple[Any, float] = (None, 0.0)
    for quad, score in zip(quads.detach().cpu().double().numpy(), scores.tolist(), strict=True):
        shape = _convex(quad)
        if merged and _iou(shape, last) > iou:
            before = merged[-1]
            orders = quad[_CYCLES]
            nearest = orders[((orders - before) ** 2).sum((1, 2)).argmin()]
            merged[-1] = (score * nearest + sums[-1] * before) / (score + sums[-1])
            sums[-1] += score
            peaks[-1] = max(peaks[-1], score)
            last = _convex(merged[-1])
        else:
            merged.append(quad)
            sums.append(score)
            peaks.append(score)
            last = shape
    shapes = quads.new_tensor(np.array(merged).reshape(-1, 4, 2))
    totals = scores.new_tensor(sums)
    kept = quad_nms(shapes, totals, iou)
    return shapes[kept], totals[kept], scores.new_tensor(peaks)[kept]
