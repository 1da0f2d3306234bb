"""Losses per element or per object; a detector sums them up and divides as its paper says."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

__all__ = [
    "associative_embedding",
    "iog",
    "pair_log_iou",
    "penalty_reduced_focal",
    "repel_boxes",
    "repel_objects",
    "smooth_ln",
]


def penalty_reduced_focal(logits: Tensor, heat: Tensor, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """CornerNet's focal loss (equation 1): cells near a keypoint are punished less for saying that they are one.

    `-(1 - p)^alpha ln p` where `heat` is 1, `-(1 - heat)^beta p^alpha ln(1 - p)` elsewhere, with `p` the sigmoid, kept
    within 1e-4 of 0 and 1 as in the authors' code (beyond that there is no gradient).

    Args:
        logits: Any shape.
        heat: Same shape, 1 at keypoints and falling to 0 around them.
        alpha: Power of the focal weight.
        beta: Power of the reduction.

    Returns:
        Loss per element; the paper divides the sum by the number of keypoints.
    """
    p = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    hit = (1 - p) ** alpha * p.log()
    miss = (1 - heat) ** beta * p**alpha * (1 - p).log()
    return -torch.where(heat == 1, hit, miss)


def associative_embedding(
    first: Tensor, second: Tensor, image: Tensor, margin: float = 1.0, eps: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """Tags of an object's corners should be alike, those of two objects of an image `margin` apart (CornerNet, 3.3).

    With `e` the mean of an object's two tags and `n` the objects of its image, an object is charged
    `((first - e)^2 + (second - e)^2) / (n + eps)` and `sum_j (max(0, margin - |e - e_j|) - 1 / (n + eps)) / (n (n - 1)
    + eps)` over all objects `j` of the image, itself included. The constant takes the latter's share out; it does so
    only for n > 1, and a lone object is charged about 1, without gradient, as in the authors' code.

    Args:
        first: `[N]`, tags of the objects' first corners, over all images.
        second: `[N]`, of their second corners.
        image: int64 `[N]`, the image of each object.
        margin: Distance at which two objects no longer push each other.
        eps: Of the authors' code.

    Returns:
        Pull `[N]` and push `[N]`; the paper's losses are their sums.
    """
    mean = (first + second) / 2
    same = image[:, None] == image
    count = same.sum(1).to(mean.dtype)
    pull = ((first - mean) ** 2 + (second - mean) ** 2) / (count + eps)
    near = (margin - (mean[:, None] - mean).abs()).clamp(min=0) - (1 / (count + eps))[:, None]
    push = torch.where(same, near, 0.0).sum(1) / (count * (count - 1) + eps)
    return pull, push


def smooth_ln(x: Tensor, sigma: float) -> Tensor:
    """`-ln(1 - x)` up to `sigma`, from there on its tangent: `(x - sigma) / (1 - sigma) - ln(1 - sigma)`.

    From Wang et al., "Repulsion Loss: Detecting Pedestrians in a Crowd" (CVPR 2018, https://arxiv.org/abs/1711.07752),
    equation 6. The smaller `sigma` is, the less do single large values count; at 0 it is `x` itself.

    Args:
        x: Overlaps, 0 to 1.
        sigma: 0 to 1. At 1 there is no tangent, and `x` is kept 1e-6 below 1.

    Returns:
        Loss per element.

    Raises:
        ValueError: `sigma` is out of range.
    """
    if not 0 <= sigma <= 1:
        raise ValueError(f"sigma must lie from 0 to 1, got {sigma}")
    curve = -torch.log1p(-x.clamp(max=min(sigma, 1 - 1e-6)))
    return curve if sigma == 1 else curve + (x - sigma).clamp(min=0) / (1 - sigma)


def iog(boxes: Tensor, objects: Tensor) -> Tensor:
    """The share of each object `[N, 4]` that the box `[N, 4]` of the same row covers, `[N]` (Repulsion loss, 3.2)."""
    sides = torch.minimum(boxes[:, 2:], objects[:, 2:]) - torch.maximum(boxes[:, :2], objects[:, :2])
    area = (objects[:, 2:] - objects[:, :2]).prod(1)
    return sides.clamp(min=0).prod(1) / area.clamp(min=1e-6)


def pair_log_iou(boxes: Tensor, objects: Tensor, eps: float = 1e-6) -> Tensor:
    """`-ln IoU` of boxes `[N, 4]` and objects `[N, 4]`, row by row (UnitBox's loss, for boxes that share no point).

    Without overlap the loss is `-ln eps` and has no gradient.
    """
    sides = torch.minimum(boxes[:, 2:], objects[:, 2:]) - torch.maximum(boxes[:, :2], objects[:, :2])
    shared = sides.clamp(min=0).prod(1)
    areas = sum((rows[:, 2:] - rows[:, :2]).prod(1) for rows in (boxes, objects))
    return -(shared / (areas - shared).clamp(min=eps)).clamp(min=eps).log()


def repel_objects(predicted: Tensor, proposals: Tensor, own: Tensor, objects: Tensor, sigma: float = 1.0) -> Tensor:
    """A box shall not cover the object that its proposal overlaps most besides its own (RepGT, equations 4 and 5).

    Args:
        predicted: `[N, 4]`, decoded boxes of positive proposals.
        proposals: `[N, 4]`, what they were decoded from.
        own: int64 `[N]`, the object of each.
        objects: `[M, 4]`, of one image.
        sigma: Of `smooth_ln`.

    Returns:
        Loss per box `[N]`, 0 where there is no other object; the paper divides the sum by N.
    """
    if len(objects) < 2:
        return predicted.sum(1) * 0
    overlaps = box_iou(proposals, objects).scatter(1, own[:, None], -1.0)
    return smooth_ln(iog(predicted, objects[overlaps.argmax(1)]), sigma)


def repel_boxes(predicted: Tensor, own: Tensor, sigma: float = 0.0) -> Tensor:
    """Boxes of different objects shall not overlap, or suppression takes one for the other (RepBox, equation 7).

    Args:
        predicted: `[N, 4]`, decoded boxes of positive proposals of one image.
        own: int64 `[N]`, the object of each.
        sigma: Of `smooth_ln`.

    Returns:
        Loss per pair that overlaps at all `[K]`; the paper divides the sum by K.
    """
    overlaps = box_iou(predicted, predicted)
    pairs = ((own[:, None] != own) & (overlaps.detach() > 0)).triu(1)
    return smooth_ln(overlaps[pairs], sigma)
