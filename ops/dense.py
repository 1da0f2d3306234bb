"""Detectors that speak at every cell of a map: which cell learns which object, losses over cells, boxes from cells.

What DenseBox (Huang et al. 2015, https://arxiv.org/abs/1509.04874), UnitBox (Yu et al. 2016,
https://arxiv.org/abs/1608.01471) and EAST (Zhou et al. 2017, https://arxiv.org/abs/1704.03155) have in common. Cells
run row by row and stand for the point in their middle. The four distances from a point to the sides of a box run top,
bottom, left, right, and all are positive inside the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ops.anchors import grid_anchors
from ops.images import Frame
from ops.nms import classwise_nms
from ops.structures import Detections

__all__ = [
    "balanced_cross_entropy",
    "boxes_from_sides",
    "cell_points",
    "components",
    "detect_cells",
    "dice_loss",
    "discs",
    "inside_frame",
    "log_iou",
    "near",
    "owners",
    "paint",
    "side_distances",
]


def cell_points(
    map_size: tuple[int, int], size: tuple[int, int], device: torch.device | None = None, offset: float = 0.5
) -> Tensor:
    """Where each cell of a map lies in the network's input.

    Args:
        map_size: `(H, W)` of the map.
        size: `(H, W)` of the input in pixels.
        device: Of the answer.
        offset: Where a cell's point lies in it: 0.5 is its middle, 0 its upper left corner.

    Returns:
        `[H * W, 2]`, `(x, y)` in pixels of the input.
    """
    step = (size[0] / map_size[0], size[1] / map_size[1])
    return grid_anchors(torch.zeros((1, 4), device=device), map_size, step, offset)[:, :2]


def owners(inside: Tensor, cost: Tensor) -> Tensor:
    """The object that each cell learns: of those it belongs to, that of the least cost.

    Args:
        inside: bool `[M, P]`, whether a cell belongs to an object.
        cost: `[M, P]` or `[M, 1]`.

    Returns:
        int64 `[P]`, -1 where a cell belongs to none.
    """
    if not len(inside):
        return torch.full(inside.shape[1:], -1, dtype=torch.int64, device=inside.device)
    return torch.where(inside.any(0), torch.where(inside, cost, torch.inf).argmin(0), -1)


def paint(inside: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Which cells show each class, bool `[C, P]`, from those of each object, bool `[M, P]`, and labels int64 `[M]`."""
    maps = torch.zeros((num_classes, inside.shape[1]), device=inside.device)
    return maps.index_add_(0, labels, inside.float()) > 0


def discs(middles: Tensor, radii: Tensor, points: Tensor, stride: float) -> tuple[Tensor, Tensor]:
    """Which points `[P, 2]` lie in each of `M` discs, bool `[M, P]`, and how far from its middle.

    Args:
        middles: `[M, 2]`.
        radii: `[M]`; a disc is made as large as it must be to hold a cell's point.
        points: Of the cells.
        stride: Distance of neighbouring points.
    """
    away = torch.cdist(middles, points, compute_mode="donot_use_mm_for_euclid_dist")
    # No place in a cell is further from its middle than this.
    return away <= radii.clamp(min=0.7072 * stride)[:, None], away


def near(marked: Tensor, radius: float, metric: Literal["euclidean", "chessboard"] = "euclidean") -> Tensor:
    """Cells with a marked one at most `radius` cells away, marked ones included.

    Args:
        marked: bool `[..., H, W]`.
        radius: In cells.
        metric: Straight lines, or the larger of the steps across and down.

    Returns:
        bool, of the same shape.
    """
    reach = int(radius)
    steps = torch.arange(-reach, reach + 1, device=marked.device)
    across, down = steps[None].abs(), steps[:, None].abs()
    window = across**2 + down**2 <= radius**2 if metric == "euclidean" else torch.maximum(across, down) <= radius
    planes = marked.reshape(-1, 1, *marked.shape[-2:]).float()
    return (F.conv2d(planes, window[None, None].float(), padding=reach) > 0.5).reshape(marked.shape)


def side_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances `[M, P, 4]` of points `[P, 2]` to the sides of boxes `[M, 4]`; negative beyond a side."""
    low, high = points - boxes[:, None, :2], boxes[:, None, 2:] - points
    return torch.stack([low[..., 1], high[..., 1], low[..., 0], high[..., 0]], -1)


def boxes_from_sides(points: Tensor, sides: Tensor) -> Tensor:
    """Boxes `[..., P, 4]` whose sides lie `[..., P, 4]` from points `[P, 2]`; undoes `side_distances`."""
    top, bottom, left, right = sides.unbind(-1)
    x, y = points.unbind(-1)
    return torch.stack([x - left, y - top, x + right, y + bottom], -1)


def log_iou(sides: Tensor, wanted: Tensor, smooth: float = 0.0, eps: float = 1e-6) -> Tensor:
    """`-ln IoU` of two boxes about the same point (UnitBox, section 3.1), the same at all scales where `smooth` is 0.

    Both contain the point, so they always overlap, unless one has no extent: there the loss is large, and without a
    gradient.

    Args:
        sides: `[..., 4]`, not negative.
        wanted: `[..., 4]`, likewise.
        smooth: Added to intersection and union; 1 in re-implementations of EAST.
        eps: Least intersection whose logarithm is taken.

    Returns:
        Loss per box `[...]`.
    """
    height, width = (torch.minimum(sides, wanted)[..., two].sum(-1) for two in (slice(0, 2), slice(2, 4)))
    areas = (box[..., :2].sum(-1) * box[..., 2:].sum(-1) for box in (sides, wanted))
    shared = height * width
    union = sum(areas) - shared
    return (union + smooth).clamp(min=eps).log() - (shared + smooth).clamp(min=eps).log()


def balanced_cross_entropy(logits: Tensor, wanted: Tensor, counted: Tensor | None = None) -> Tensor:
    """Cross entropy in which positives together weigh as much as negatives (EAST, section 3.4.1).

    `-beta y ln p - (1 - beta) (1 - y) ln(1 - p)`, with `beta` the share of negatives.

    Args:
        logits: Any shape.
        wanted: bool, same shape.
        counted: bool, same shape: elements that count; the loss of the others is 0. Left out, all do.

    Returns:
        Loss per element. Its weights add up to `2 N beta (1 - beta)` over N elements that count.
    """
    counted = torch.ones_like(wanted) if counted is None else counted
    beta = 1 - (wanted & counted).sum() / counted.sum().clamp(min=1)
    weights = torch.where(wanted, beta, 1 - beta) * counted
    return weights * F.binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype), reduction="none")


def dice_loss(p: Tensor, wanted: Tensor, counted: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """1 less the Dice coefficient of probabilities and truth, `2 sum(p y) / (sum p + sum y)`, as one scalar.

    Args:
        p: Probabilities, any shape.
        wanted: bool, same shape.
        counted: bool, same shape: elements that count. Left out, all do.
        eps: Added to the denominator.
    """
    counted = torch.ones_like(wanted) if counted is None else counted
    p, y = p * counted, (wanted & counted).to(p.dtype)
    return 1 - 2 * (p * y).sum() / (p.sum() + y.sum() + eps)


def components(scores: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Connected regions of a map over `threshold`, diagonal neighbours included.

    Args:
        scores: `[H, W]`.
        threshold: See above.

    Returns:
        Middles `[K, 2]`, `(x, y)` in cells from the middle of the first one, and mean scores `[K]`. The middle is the
        centroid, which is also that of the ellipse with the region's moments.
    """
    import cv2

    values = scores.detach().float().cpu().numpy()
    count, regions, _, middles = cv2.connectedComponentsWithStats((values > threshold).astype(np.uint8), connectivity=8)
    sizes = np.bincount(regions.ravel(), minlength=count).clip(min=1)
    means = np.bincount(regions.ravel(), values.ravel(), minlength=count) / sizes
    return scores.new_tensor(middles[1:]).reshape(-1, 2), scores.new_tensor(means[1:])


def inside_frame(points: Tensor, frame: Frame) -> Tensor:
    """Which of the points `[P, 2]` of the network's input lie on the image, bool `[P]`, not on its padding."""
    low = points.new_tensor(frame.offset)
    high = low + points.new_tensor([frame.inner[1], frame.inner[0]])
    return ((points >= low) & (points < high)).all(1)


def detect_cells(
    boxes: Tensor,
    scores: Tensor,
    points: Tensor,
    frames: Sequence[Frame],
    *,
    score_floor: float,
    nms_iou: float,
    before: int | None,
    limit: int | None,
) -> list[Detections]:
    """Suppress class by class, and go back to the pixels of each image.

    Cells on padding, and boxes without extent, say nothing.

    Args:
        boxes: `[B, P, 4]` in network pixels.
        scores: `[B, P, C]`.
        points: `[P, 2]`, where the cells lie.
        frames: One an image.
        score_floor: See `ops.nms.classwise_nms`, as for the others.
        nms_iou: IoU above which the lesser detection of a class goes.
        before: Most candidates over all classes.
        limit: Most detections an image.
    """
    answers = []
    for box, score, frame in zip(boxes, scores, frames, strict=True):
        placed = frame.to_image(box)
        valid = inside_frame(points, frame) & (placed[:, 2:] > placed[:, :2]).all(1)
        answers.append(
            classwise_nms(placed[valid], score[valid], score_floor=score_floor, iou=nms_iou, limit=limit, before=before)
        )
    return answers
