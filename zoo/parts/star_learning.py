"""Steps of learning stars: windows and examples that roots begin with, where parts are put, boxes from their places.

From P. Felzenszwalb, R. Girshick, D. McAllester, D. Ramanan, "Object Detection with Discriminatively Trained Part Based
Models" (PAMI 2010), sections 5.2 and 7.1. What is learned goes into one class's `group` of a `StarModels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ops.part_features import directed_gradients, mirror_features, part_features
from ops.resample import cut
from zoo.parts.linear import ridge
from zoo.parts.star_model import StarModels, relative

__all__ = ["add_parts", "alike", "by_aspect", "choose_window", "learn_boxes", "part_places", "turned", "warped"]


def by_aspect(boxes: Tensor, groups: int) -> list[tuple[list[int], float]]:
    """Groups of `[M, 4]` of one size, the narrowest first: their indices, and the median of width over height.

    Of fewer boxes than groups, the groups that lack one are left out.
    """
    shapes = ((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])).log().double().numpy()
    ranks = np.argsort(np.argsort(shapes, kind="stable"), kind="stable")
    chosen = [np.flatnonzero(ranks * groups // len(boxes) == group) for group in range(groups)]
    return [(own.tolist(), math.exp(float(np.median(shapes[own])))) for own in chosen if len(own)]


def choose_window(models: StarModels, label: int, group: int, aspect: float, area: int) -> None:
    """Give a root about `area` cells, `aspect` times as wide as high, as far as the canvas and the parts allow."""
    least = -(-models.part.shape[-1] // 2)
    for axis, side in enumerate((math.sqrt(area / aspect), math.sqrt(area * aspect))):
        models.window[label, group, axis] = min(models.canvas[axis], max(least, round(side)))


def warped(image: Tensor, box: Tensor, window: Sequence[int], cell: int) -> Tensor:
    """Features `[32, rows, columns]` of an object of `[3, H, W]` that is resized to fill its root."""
    rows, columns = window
    x1, y1, x2, y2 = box.tolist()
    across, down = (x2 - x1) / columns, (y2 - y1) / rows
    around = (x1 - across, y1 - down, x2 + across, y2 + down)
    pixels = cut(image * 255, around, ((rows + 2) * cell, (columns + 2) * cell))
    return part_features(*directed_gradients(pixels), cell)


def alike(features: Tensor) -> Tensor:
    """Each of `[N, 32, H, W]` or its mirror image, whichever is more like the others."""
    mirrored, chosen, mean = mirror_features(features), features, features[0]
    for _ in range(5):
        better = (features * mean).flatten(1).sum(1) >= (mirrored * mean).flatten(1).sum(1)
        chosen = torch.where(better[:, None, None, None], features, mirrored)
        mean = chosen.mean(0)
    return chosen


def add_parts(models: StarModels) -> None:
    """Parts where the roots, at twice their resolution, are strong, a tenth as long as their filters at first."""
    count, side = models.part.shape[2], models.part.shape[-1]
    for label, group in torch.cartesian_prod(*map(torch.arange, models.root.shape[:2])).tolist():
        rows, columns = models.window[label, group].tolist()
        root = models.root[label, group, :, :rows, :columns]
        fine = F.interpolate(root[None], scale_factor=2, mode="bicubic", align_corners=False)[0]
        for index, (x, y) in enumerate(part_places(fine.clamp(min=0).square().sum(0), side, count)):
            weights = fine[:, y : y + side, x : x + side]
            models.part[label, group, index] = (0.1 * weights / (weights.norm() + 1e-6)).half().float()
            models.anchor[label, group, index] = models.anchor.new_tensor([x, y])


def part_places(energy: Tensor, side: int, count: int) -> list[tuple[int, int]]:
    """Greedily, x and y of the squares of `side` that hold most of `energy [H, W]`; what one holds, no other counts."""
    energy, found = energy.clone(), []
    for _ in range(count):
        sums = F.avg_pool2d(energy[None, None], side, stride=1)[0, 0]
        y, x = divmod(int(sums.argmax()), sums.shape[1])
        energy[y : y + side, x : x + side] = 0
        found.append((x, y))
    return found


def learn_boxes(
    models: StarModels, label: int, group: int, places: Sequence[tuple[Tensor, Tensor]], penalty: float
) -> None:
    """Regress objects `[4]` on the boxes `[1 + P, 4]` of root and parts, mirror images turned round."""
    if len(places) <= models.part.shape[2]:
        return
    filters, objects = torch.stack([own for own, _ in places]), torch.stack([box for _, box in places])
    roots = filters[:, 0]
    given = relative(roots, filters).double()
    wanted = (objects - roots).double() / (roots[:, 2:] - roots[:, :2] - 1).repeat(1, 2)
    weights = ridge(given.T @ given, given.T @ wanted, penalty).T.half().to(models.box)
    if not models.mirrored:
        models.box[label, group] = weights
        return
    models.box[label, 2 * group] = weights
    # Mirrored, left is right and x runs backwards; the constant and y do not.
    other = weights[[2, 1, 0, 3]] * weights.new_tensor([-1.0, 1, -1, 1])[:, None]
    signs = weights.new_tensor([-1.0, 1]).repeat(models.part.shape[2] + 1)
    models.box[label, 2 * group + 1] = torch.cat([other[:, :-1] * signs, other[:, -1:]], 1)


def turned(boxes: Tensor) -> Tensor:
    """Boxes of the mirrored image, whose x runs backwards."""
    return boxes[..., [2, 1, 0, 3]] * boxes.new_tensor([-1.0, 1, -1, 1])
