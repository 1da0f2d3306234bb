"""CenterNet: Duan et al., "Keypoint Triplets for Object Detection", ICCV 2019, https://arxiv.org/abs/1904.08189.

CornerNet pairs corners without having looked at what lies between them, so many of its boxes are wrong. Here a third
keypoint, the object's center, is found too, and a pair of corners stands only if a center of its class lies in the
middle of its box (CRE). The center's features are pooled over its whole column and row (CTP); the corners' look into
the object before they look along its edges (CCP). Table 4 switches the three on one by one, and so do `cre`, `ctp`
and `ccp`; its five rows are `cornernet511_hg52`, the three builders named after what they have, and
`centernet511_hg52`.

Not to be confused with "Objects as Points", which bears the same name. What the paper leaves open is as in the
authors' code: the region narrows at an area of 150 x 150, a center's bump is wider than a corner's, radii come from
CornerNet's first formula at an overlap of 0.7, boxes far out of the image are dropped. For the plain convolutions in
place of center pooling, which no source gives, the pooling module keeps its layers and loses its maxima.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ops.images import Batch
from ops.pool import cascade_pool, column_pool, row_pool
from zoo.backbones.hourglass import Convolution
from zoo.one_stage import cornernet
from zoo.one_stage.cornernet import Candidates, CornerNet, CornerPool, KeypointMaps, Look, Pool, join_views

__all__ = [
    "RECIPE",
    "SMALL",
    "SMALL_104",
    "SMALL_RECIPE",
    "CascadeCornerPool",
    "CenterNet",
    "centernet511_hg52",
    "centernet511_hg52_ccp",
    "centernet511_hg52_cre",
    "centernet511_hg52_cre_ctp",
    "centernet511_hg104",
    "central_regions",
    "check_centers",
]

RECIPE = replace(cornernet.RECIPE, batch=48, steps=480_000, source="CenterNet, section 3.4")
SMALL_RECIPE = cornernet.SMALL_RECIPE

SMALL: dict[str, Any] = {**cornernet.SMALL, "reference_side": 640.0}
SMALL_104: dict[str, Any] = {**cornernet.SMALL_104, "reference_side": 640.0}


class CenterNet(CornerNet):
    """CornerNet and a third keypoint.

    `network` has maps of kind `ct` too, without tags. `options` are those of `CornerNet`, with other defaults for
    `gaussian_iou`, `radius_variant`, `top_k` (section 3.4) and `outside`.

    Args:
        num_classes: Foreground classes.
        cre: Central region exploration: the center branch, and the check of each box against it (section 3.2).
        ctp: Center pooling; without it the branch has plain convolutions (section 3.3).
        ccp: Cascade corner pooling; without it CornerNet's (section 3.3).
        parts: The region is one part in so many of a box's sides, for small and large boxes (section 3.2).
        scale_switch: A box is large if its area is over the square of this, in pixels of the image (section 3.2).
        reference_side: If given, `scale_switch` is meant for images whose long side is this and grows with it.
        options: Of `CornerNet`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        cre: bool = True,
        ctp: bool = True,
        ccp: bool = True,
        parts: tuple[int, int] = (3, 5),
        scale_switch: float = 150.0,
        reference_side: float | None = None,
        **options: Any,
    ) -> None:
        if ctp and not cre:
            raise ValueError(
                "centernet: ctp pools for the center branch, which cre=False leaves out; pass ctp=False too"
            )
        own: dict[str, Any] = {"gaussian_iou": 0.7, "radius_variant": "centernet_official", "top_k": 70, "outside": 5.0}
        super().__init__(num_classes, corner_module=CascadeCornerPool if ccp else CornerPool, **{**own, **options})
        self.cre, self.parts, self.scale_switch, self.reference_side = cre, parts, scale_switch, reference_side
        if cre:
            pools = (column_pool, row_pool) if ctp else (nn.Identity(), nn.Identity())
            module = partial(CornerPool, self.width, self.pool_width, *pools)
            self.add_branch("ct", module, tagged=False, sigma_share=1 / 5)

    def look(self, maps: dict[str, KeypointMaps], batch: Batch) -> list[Look]:
        """Pairs of corners, and centers."""
        looks = super().look(maps, batch)
        if not self.cre:
            return looks
        return [Look(look.pairs, found) for look, found in zip(looks, self.centers(maps, batch), strict=True)]

    def check(self, look: Look, size: tuple[int, int]) -> Candidates:
        """Pairs of corners with a center of their class in their central region; three keypoints make the score."""
        if look.centers is None:
            return look.pairs
        grown = 1.0 if self.reference_side is None else max(size) / self.reference_side
        regions = central_regions(look.pairs.boxes, self.parts, self.scale_switch * grown)
        return check_centers(look.pairs, regions, look.centers)

    def centers(self, maps: dict[str, KeypointMaps], batch: Batch) -> list[Candidates]:
        """Centers of both views of each image, as boxes without extent, those of its mirror image last."""
        found = self.keypoints(maps["ct"])
        points = self.to_pixels(found.points.repeat(1, 1, 2), maps["ct"], batch)
        scores, labels = (join_views(rows, len(batch.frames)) for rows in (found.scores, found.labels))
        return [
            Candidates(frame.to_image(point), score, label)
            for frame, point, score, label in zip(batch.frames, points, scores, labels, strict=True)
        ]


def central_regions(boxes: Tensor, parts: tuple[int, int] = (3, 5), scale_switch: float = 150.0) -> Tensor:
    """The middle of each of `[N, 4]` boxes (equation 1): one part in `parts[0]` of its sides, in `parts[1]` where its
    area is over the square of `scale_switch`.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    n = torch.where((high - low).prod(1) > scale_switch**2, float(parts[1]), float(parts[0]))[:, None]
    return torch.cat([(n + 1) * low + (n - 1) * high, (n - 1) * low + (n + 1) * high], 1) / (2 * n)


def check_centers(pairs: Candidates, regions: Tensor, centers: Candidates) -> Candidates:
    """Those of `N` pairs that have a center of their class strictly inside their region `[N, 4]`.

    The first such center in the order given counts; the score becomes the mean of the three keypoints'.
    """
    if not len(centers.scores):
        return pairs.only(slice(0))
    points = centers.boxes[None, :, :2]
    inside = ((points > regions[:, None, :2]) & (points < regions[:, None, 2:])).all(-1)
    inside &= centers.labels == pairs.labels[:, None]
    scores = (2 * pairs.scores + centers.scores[inside.byte().argmax(1)]) / 3
    return pairs._replace(scores=scores).only(inside.any(1))


class CascadeCornerPool(CornerPool):
    """`CornerPool` whose maps look into the object first: `along` and `inward` with their roles exchanged (fig. 5b)."""

    def __init__(self, width: int, inner: int, along: Pool, inward: Pool) -> None:
        super().__init__(width, inner, along, inward)
        self.look_conv1 = Convolution(width, inner)
        self.look_conv2 = Convolution(width, inner)
        self.P1_look_conv = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.P2_look_conv = nn.Conv2d(inner, inner, 3, padding=1, bias=False)

    def pooled(self, x: Tensor) -> Tensor:
        """The sum of the two pooled maps, `[B, inner, H, W]`."""
        first = cascade_pool(self.p1_conv1(x), self.look_conv1(x), self.along, self.inward, self.P1_look_conv)
        return first + cascade_pool(self.p2_conv1(x), self.look_conv2(x), self.inward, self.along, self.P2_look_conv)


def centernet511_hg52(num_classes: int, **overrides: Any) -> CenterNet:
    """One hourglass."""
    return CenterNet(num_classes, **{"stacks": 1, **overrides})


def centernet511_hg52_ccp(num_classes: int, **overrides: Any) -> CenterNet:
    """Table 4's second row: corners with cascade corner pooling, and nothing between them is checked."""
    return centernet511_hg52(num_classes, **{"cre": False, "ctp": False, **overrides})


def centernet511_hg52_cre(num_classes: int, **overrides: Any) -> CenterNet:
    """Table 4's third row: centers confirm boxes; both kinds of pooling are as without the paper."""
    return centernet511_hg52(num_classes, **{"ctp": False, "ccp": False, **overrides})


def centernet511_hg52_cre_ctp(num_classes: int, **overrides: Any) -> CenterNet:
    """Table 4's fourth row: centers confirm boxes, and their features are pooled."""
    return centernet511_hg52(num_classes, **{"ccp": False, **overrides})


def centernet511_hg104(num_classes: int, **overrides: Any) -> CenterNet:
    """Two hourglasses."""
    return CenterNet(num_classes, **overrides)
