"""Level X: operators on inputs of which the answer is known. Each function returns numbers, and judges nothing.

The operator is an argument, so that a test can hand in a broken one and see the verdict turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, roi_pool

from ops.deformable import deformable_convolution
from ops.dense import boxes_from_sides, cell_points, discs, log_iou, owners
from ops.nms import soft_nms, suppress
from ops.position_sensitive import deformable_ps_roi_pool
from ops.roi_align import roi_align
from ops.sample import hardest
from zoo.one_stage.centernet import central_regions

__all__ = [
    "center_regions",
    "deformable_identity",
    "disc_areas",
    "disc_overlap",
    "focal_laws",
    "hard_negatives",
    "overlap_loss",
    "pooled_ramp",
    "suppression",
]


def pooled_ramp(
    align: Callable[..., Tensor] = roi_align, pool: Callable[..., Tensor] = roi_pool, slope: float = 3.0
) -> dict[str, float]:
    """Shift a region over a linear ramp by fractions of a cell and watch what both kinds of pooling answer."""
    ramp = slope * torch.arange(32.0).expand(1, 1, 32, 32).contiguous()
    shifts = torch.arange(0, 1, 0.05)
    zeros = torch.zeros_like(shifts)
    regions = torch.stack([zeros, 8.05 + shifts, zeros + 8, 15.05 + shifts, zeros + 15], 1)
    aligned = align(ramp, regions, 7, 1.0)[:, 0].mean((1, 2))
    pooled = pool(ramp, regions, 7, 1.0)[:, 0].mean((1, 2))
    moved = pooled / slope - shifts
    return {
        "align_error": float((aligned - aligned[0] - slope * shifts).abs().max()),
        "pool_levels": len(pooled.round(decimals=4).unique()),
        "pool_flat": float(((pooled[1:] - pooled[:-1]).abs() < 1e-4).float().mean()),
        "pool_offset_cells": float((moved.max() - moved.min()) / 2),
    }


def overlap_loss(loss: Callable[[Tensor, Tensor], Tensor] = log_iou) -> dict[str, float]:
    """The loss of overlap and the squared error, of two boxes and of the same boxes twice as large."""
    sides, wanted = torch.tensor([3.0, 5, 4, 6], dtype=torch.float64), torch.tensor([4.0, 4, 5, 5], dtype=torch.float64)
    once, twice = float(loss(sides, wanted)), float(loss(2 * sides, 2 * wanted))
    squared = [float(((scale * (sides - wanted)) ** 2).sum()) for scale in (1, 2)]
    origin = torch.zeros(1, 2, dtype=torch.float64)
    boxes = [boxes_from_sides(origin, row[None]) for row in (sides, wanted)]
    return {
        "loss": once,
        "loss_change": abs(twice - once),
        "squared_ratio": squared[1] / squared[0],
        "iou": float(box_iou(*boxes)),
    }


def deformable_identity() -> dict[str, float]:
    """Deformable operators without offsets beside their plain forms, and how they follow a region that moves."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 8, 16, 16, generator=generator)
    weight = torch.rand(4, 8, 3, 3, generator=generator)
    still = deformable_convolution(x, torch.zeros(1, 18, 16, 16), weight, padding=1)
    box = torch.tensor([[3.0, 3.0, 10.0, 10.0]])
    maps = torch.rand(1, 2 * 9, 16, 16, generator=generator)
    bins = deformable_ps_roi_pool(maps, [box], 3, 1)
    moved = [deformable_ps_roi_pool(maps, [box + by], 3, 1) for by in (0.0, 0.3)]
    aligned = [roi_align(maps, F.pad(box + by, (1, 0)), 3, 1.0) for by in (0.0, 0.3)]
    steps = [deformable_ps_roi_pool(maps, [box], 3, 1, torch.full((1, 2, 3, 3), by)) for by in (0.0, 1e-4)]
    return {
        "convolution_error": float((still - F.conv2d(x, weight, padding=1)).abs().max()),
        "pooling_error": float((bins - _sampled(maps, box[0], 3, 4)).abs().max()),
        "offset_step": float((steps[1] - steps[0]).abs().max()),
        "region_step": float((moved[1] - moved[0]).abs().max()),
        "align_region_step": float((aligned[1] - aligned[0]).abs().max()),
    }


def _sampled(maps: Tensor, box: Tensor, size: int, samples: int) -> Tensor:
    """Plain mean of bilinear samples that start at each bin's upper left corner, bin (i, j) from its own channels."""
    _, channels, _height, _width = maps.shape
    x1, y1, x2, y2 = (box.round() - 0.5).tolist()
    answer = torch.zeros(1, channels // size**2, size, size)
    side_x, side_y = (x2 - x1) / size, (y2 - y1) / size
    for i in range(size):
        for j in range(size):
            for a in range(samples):
                for b in range(samples):
                    y, x = y1 + (i + a / samples) * side_y, x1 + (j + b / samples) * side_x
                    for c in range(channels // size**2):
                        plane = maps[0, c * size**2 + i * size + j]
                        answer[0, c, i, j] += _bilinear(plane, y, x) / samples**2
    return answer


def _bilinear(plane: Tensor, y: float, x: float) -> float:
    y, x = min(max(y, 0.0), plane.shape[0] - 1.0), min(max(x, 0.0), plane.shape[1] - 1.0)
    top, left = int(y), int(x)
    low, right = min(top + 1, plane.shape[0] - 1), min(left + 1, plane.shape[1] - 1)
    v, u = y - top, x - left
    upper = (1 - u) * plane[top, left] + u * plane[top, right]
    return float((1 - v) * upper + v * ((1 - u) * plane[low, left] + u * plane[low, right]))


def suppression() -> dict[str, Any]:
    """The lecture's four boxes, laws on random ones, and a pair exactly at the threshold."""
    boxes = torch.tensor(
        [[0.0, 0, 100, 100], [0, 0, 100, 78], [200, 0, 300, 100], [200, 0, 300, 74]], dtype=torch.float32
    )
    scores = torch.tensor([0.9, 0.8, 0.75, 0.6])
    labels = torch.zeros(4, dtype=torch.int64)
    kept, _ = suppress(boxes, scores, labels, iou=0.7, limit=None)
    edge = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]])
    at, _ = suppress(edge, torch.tensor([0.9, 0.8]), labels[:2], iou=0.5, limit=None)
    generator = torch.Generator().manual_seed(0)
    corner = 80 * torch.rand(200, 2, generator=generator)
    many = torch.cat([corner, corner + 5 + 30 * torch.rand(200, 2, generator=generator)], 1)
    confidence, classes = torch.rand(200, generator=generator), torch.randint(3, (200,), generator=generator)
    rows, after = suppress(many, confidence, classes, iou=0.5, limit=None)
    again, _ = suppress(many[rows], after, classes[rows], iou=0.5, limit=None)
    overlap = box_iou(many[rows], many[rows]).fill_diagonal_(0)
    overlap[classes[rows][:, None] != classes[rows]] = 0
    soft, _ = soft_nms(boxes, scores, method="gaussian", sigma=0.5, floor=0.0)
    return {
        "kept_scores": sorted((round(float(value), 4) for value in scores[kept]), reverse=True),
        "kept_at_threshold": len(at),
        "sorted": bool((after[:-1] >= after[1:]).all()),
        "largest_overlap": float(overlap.max()),
        "idempotent": len(again) == len(rows),
        "soft_keeps": len(soft),
    }


def disc_areas(share: float = 0.3, stride: float = 4.0) -> dict[str, float]:
    """How many cells a disc in an object claims, by the object's side: the slope of the logarithms over 8 cells."""
    side = 1024
    points = cell_points((side // int(stride),) * 2, (side, side))
    sides = torch.tensor([64.0, 96, 128, 192, 256, 384, 512])
    middles = torch.full((len(sides), 2), side / 2 + 0.37)
    inside, _ = discs(middles, share * sides, points, stride)
    cells = inside.sum(1).float()
    logs = torch.stack([sides.log(), cells.log()])
    slope = float(torch.cov(logs)[0, 1] / torch.cov(logs)[0, 0])
    return {
        "slope": slope,
        "share_ratio": float(cells[-1] / cells[0]),
        "area_ratio": float((sides[-1] / sides[0]) ** 2),
    }


def disc_overlap(share: float = 0.3, stride: float = 4.0) -> dict[str, Any]:
    """Pairs of equal boxes that overlap more and more: cells in both discs, and objects left without a cell."""
    side, box, rows = 256, 64.0, []
    points = cell_points((side // int(stride),) * 2, (side, side))
    for iou in (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0):
        shift = box * (1 - iou) / (1 + iou)
        middles = torch.tensor([[100.2, 120.3], [100.2 + shift, 120.3]])
        inside, away = discs(middles, torch.full((2,), share * box), points, stride)
        own = owners(inside, away)
        without = sum(int(not (own == index).any()) for index in range(2))
        both = float((inside[0] & inside[1]).sum() / inside[0].sum())
        rows.append({"iou": iou, "cells_of_both": both, "without_cell": without / 2})
    return {"rows": rows}


def focal_laws() -> dict[str, float]:
    """The focal loss at the golden logits, at gamma 0, and what it takes from an easy example."""
    from torchvision.ops import sigmoid_focal_loss

    logits = torch.linspace(-4, 4, 9)
    wanted = (torch.arange(9) % 2).float()
    weights = torch.where(wanted > 0, 0.25, 0.75)
    plain = weights * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    easy = torch.logit(torch.tensor([0.9]))
    parts = [float(sigmoid_focal_loss(easy, torch.ones(1), alpha=-1, gamma=gamma)) for gamma in (2.0, 0.0)]
    return {
        "positive_at_0": float(sigmoid_focal_loss(torch.zeros(1), torch.ones(1))),
        "negative_at_0": float(sigmoid_focal_loss(torch.zeros(1), torch.zeros(1))),
        "gamma_0_error": float((sigmoid_focal_loss(logits, wanted, gamma=0) - plain).abs().max()),
        "easy_factor": parts[0] / parts[1],
    }


def hard_negatives(choose: Callable[[Tensor, Tensor, Tensor], Tensor] = hardest) -> dict[str, float]:
    """Three negatives a positive of many: their number, and by how much any that was left is harder."""
    generator = torch.Generator().manual_seed(0)
    losses, positives = torch.rand(8, 500, generator=generator), torch.randint(1, 40, (8,), generator=generator)
    candidates = torch.rand(8, 500, generator=generator) > 0.1
    chosen = choose(losses, candidates, 3 * positives)
    left = losses.masked_fill(chosen | ~candidates, -1).amax(1)
    least = losses.masked_fill(~chosen, 2).amin(1)
    return {
        "over_three": float((chosen.sum(1) - 3 * positives).clamp(min=0).max()),
        "harder_left": float((left - least).max()),
    }


def center_regions() -> dict[str, list[float]]:
    """The central region of a box of 90 pixels, small and large."""
    box = torch.tensor([[0.0, 0, 90, 90]])
    return {f"n_{n}": central_regions(box, (n, n))[0].tolist() for n in (3, 5)}
