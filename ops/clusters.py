"""Priors from data: boxes that lie where objects lie, by k-means.

As Erhan et al. choose theirs ("Scalable Object Detection using Deep Neural Networks", CVPR 2014,
https://arxiv.org/abs/1312.2249, section 3.3): over the four coordinates, with the squared distance that their loss has.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["cluster_boxes", "drawn_boxes"]


def cluster_boxes(boxes: Tensor, count: int, seed: int = 0) -> Tensor:
    """Centres `[count, 4]` of clusters of boxes, the smallest box first.

    Args:
        boxes: `[N, 4]` in shares of their images' sides, 0 to 1.
        count: Of clusters.
        seed: Of the first centres.

    Raises:
        ValueError: There are fewer boxes than clusters.
    """
    from sklearn.cluster import KMeans

    if len(boxes) < count:
        raise ValueError(
            f"{len(boxes)} boxes cannot make {count} clusters; give more images, or build with fewer boxes"
        )
    found = KMeans(count, n_init=1, random_state=seed).fit(boxes.detach().cpu().double().numpy()).cluster_centers_
    order = np.argsort((found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1]), kind="stable")
    return torch.from_numpy(found[order].astype(np.float32))


def drawn_boxes(count: int, smallest: float = 0.06, largest: float = 0.9, seed: int = 0) -> Tensor:
    """Boxes `[count, 4]` as objects lie where nothing is known of them, in shares of the image.

    Sizes (roots of areas) are as likely in one octave as in another, aspects within 1:2, places anywhere inside.
    """
    draw = np.random.default_rng(seed)
    side = np.exp(draw.uniform(np.log(smallest), np.log(largest), count))
    root = np.exp(draw.uniform(-0.5, 0.5, count) * np.log(2))
    extent = np.minimum(np.stack([side * root, side / root], 1), 1.0)
    corner = draw.uniform(size=(count, 2)) * (1 - extent)
    return torch.from_numpy(np.concatenate([corner, corner + extent], 1).astype(np.float32))
