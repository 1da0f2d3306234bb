"""Losses per element or per object; a detector sums them up and divides as its paper says."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["associative_embedding", "penalty_reduced_focal"]


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
