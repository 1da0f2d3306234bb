"""CornerNet: Law & Deng, "Detecting Objects as Paired Keypoints", ECCV 2018, https://arxiv.org/abs/1808.01244.

An object is the pair of its top left and bottom right corners. Two heatmaps say where corners of each class are, an
embedding (tag) a cell says which two belong together, offsets give back what the stride of 4 took. Corners often lie
on nothing; corner pooling brings to them what is seen along the two edges that meet there.

Where the paper leaves details open they are those of the authors' code: corners are rounded down to cells, sigma is a
sixth of a bump's diameter, pull and push are summed over images. Modules bear the code's names, so that its checkpoints
load (`zoo.formats.cornernet`). What differs: a batch may hold images of differing sizes, which then share one padded
size, and boxes go back to an image by the ratio of its sides, where the code divides by the scale although it rounds
sides down.

A test at several scales is a `look` at each (`preprocess` takes the scale), then `settle` over all that was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.augment import cornernet_augment, shapes_augment
from ops.heatmap import Keypoints, find_keypoints, gaussian_heatmaps, gaussian_radius, pair_corners
from ops.images import Batch, Frame, normalise, resize_short_side, warp
from ops.losses import associative_embedding, penalty_reduced_focal
from ops.nms import soft_nms, soft_nms_merge
from ops.pool import bottom_pool, left_pool, right_pool, top_pool
from ops.structures import Detections, Target
from zoo.backbones.hourglass import Convolution, Hourglass, Residual, conv_bn, hourglass_stem
from zoo.detector import Detector, Recipe

__all__ = [
    "RECIPE",
    "SMALL",
    "SMALL_104",
    "SMALL_RECIPE",
    "Candidates",
    "CornerNet",
    "CornerPool",
    "KeypointMaps",
    "Look",
    "Pool",
    "cornernet511_hg52",
    "cornernet511_hg104",
    "join_views",
]

RECIPE = Recipe(
    batch=49,
    steps=500_000,
    lr=2.5e-4,
    optimizer="adam",
    milestones=(450_000,),
    augment=cornernet_augment,
    source="CornerNet, section 4.2",
)
SMALL_RECIPE = Recipe(
    batch=8,
    steps=5000,
    lr=2e-3,
    optimizer="adam",
    cosine=True,
    warmup=100,
    clip_norm=10.0,
    ema=0.998,
    augment=shapes_augment,
    source="ours, for minutes on a CPU",
)

SMALL: dict[str, Any] = {
    "widths": (16, 32, 48, 64),
    "blocks": (1, 1, 1, 1),
    "stem": 16,
    "pool_width": 16,
    "head_width": 16,
    "size": 160,
    "modulus": 32,
    "spare": 0,
    "gaussian_iou": 0.3,
    "radius_variant": "corrected",
    "top_k": 70,
}
SMALL_104: dict[str, Any] = {**SMALL, "widths": (16, 24, 32, 32)}

_MEAN = (0.40789654, 0.44719302, 0.47026115)
_STD = (0.28863828, 0.27408164, 0.27809835)
"""Of COCO's pixels, blue first (authors' code)."""

Pool = Callable[[Tensor], Tensor]


class KeypointMaps(NamedTuple):
    """What the heads say of one kind of keypoint.

    Attributes:
        heat: `[B, C, H, W]`, logits.
        offset: `[B, 2, H, W]`, `(x, y)` in cells.
        tag: `[B, 1, H, W]`, or None for keypoints that are not paired.
    """

    heat: Tensor
    offset: Tensor
    tag: Tensor | None


class Candidates(NamedTuple):
    """Boxes of one image, duplicates not yet suppressed.

    Attributes:
        boxes: `[N, 4]`, in its pixels.
        scores: `[N]`.
        labels: int64 `[N]`.
        corners: `[N, 2]`, scores of the top left and the bottom right corner; None where these are no pairs of corners.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    corners: Tensor | None = None

    def only(self, rows: Tensor | slice) -> Candidates:
        """Some of them."""
        corners = None if self.corners is None else self.corners[rows]
        return Candidates(self.boxes[rows], self.scores[rows], self.labels[rows], corners)


class Look(NamedTuple):
    """What was seen of one image at one scale: pairs of corners, and centers as boxes without extent, where found."""

    pairs: Candidates
    centers: Candidates | None = None


class CornerNet(Detector):
    """Two kinds of corner over stacked hourglasses.

    `network` gives a list of stacks, each a dict of `KeypointMaps` by kind (`tl`, `br`). Given targets it has every
    stack; without them only the last, and with `flip_test` its rows are the B images, then their B mirror images,
    whose boxes `postprocess` mixes.

    Args:
        num_classes: Foreground classes C.
        stacks: Hourglasses; the code's "104" has 2, "52" has 1.
        widths: Channels of an hourglass at each size.
        blocks: Residual blocks of an hourglass at each size.
        stem: Channels of the first convolution.
        stride: Pixels a heatmap cell; 8 is CornerNet-Squeeze's.
        pool_width: Channels inside the pooling modules.
        head_width: Hidden channels of the heads.
        corner_module: Stands before the corners' heads; CenterNet brings another.
        corner_pooling: False leaves out the maxima and keeps the layers (Table 1).
        size: Resize the long side of an image to this; None leaves images as they are (section 4.2).
        modulus: Sides are padded to a multiple of this less `spare`: 511 is 4 * 128 less 1.
        spare: See `modulus`.
        gaussian_iou: Overlap that a box keeps when its corners move by the radius (section 3.2).
        radius_variant: See `ops.heatmap.gaussian_radius`.
        fixed_radius: One radius for all objects, in cells: 2 is the paper's 2.5, 0 reduces no penalty (Table 2).
        pull: Weight of the loss that draws the tags of an object together (section 3.4).
        push: Weight of the loss that drives the tags of two objects apart.
        flip_test: Look at the mirror image too (section 4.2).
        top_k: Corners of each kind (section 4.2).
        ae_threshold: Tags of one object are at most this far apart (section 4.2).
        max_pairs: Best pairs of a view that are looked at.
        outside: Drop boxes that lie this many network pixels or more out of the image; only CenterNet's code does.
        nms: Method of soft-NMS.
        nms_sigma: See `ops.nms.soft_nms`.
        nms_iou: See `ops.nms.soft_nms`.
        nms_floor: See `ops.nms.soft_nms`.
        limit: Detections an image.
    """

    pickle_format = "cornernet"

    def __init__(
        self,
        num_classes: int,
        *,
        stacks: int = 2,
        widths: Sequence[int] = (256, 256, 384, 384, 384, 512),
        blocks: Sequence[int] = (2, 2, 2, 2, 2, 4),
        stem: int = 128,
        stride: int = 4,
        pool_width: int = 128,
        head_width: int = 256,
        corner_module: Callable[[int, int, Pool, Pool], nn.Module] | None = None,
        corner_pooling: bool = True,
        size: int | None = None,
        modulus: int = 128,
        spare: int = 1,
        gaussian_iou: float = 0.3,
        radius_variant: Literal["corrected", "centernet_official"] = "corrected",
        fixed_radius: int | None = None,
        pull: float = 0.1,
        push: float = 0.1,
        flip_test: bool = True,
        top_k: int = 100,
        ae_threshold: float = 0.5,
        max_pairs: int = 1000,
        outside: float | None = None,
        nms: Literal["linear", "gaussian", "hard"] = "gaussian",
        nms_sigma: float = 0.5,
        nms_iou: float = 0.5,
        nms_floor: float = 0.001,
        limit: int = 100,
    ) -> None:
        super().__init__(num_classes)
        if stacks < 1:
            raise ValueError(f"stacks must be at least 1, got {stacks}")
        self.stacks, self.width, self.pool_width, self.head_width = stacks, widths[0], pool_width, head_width
        self.size, self.modulus, self.spare = size, modulus, spare
        self.gaussian_iou, self.radius_variant, self.fixed_radius = gaussian_iou, radius_variant, fixed_radius
        self.pull, self.push = pull, push
        self.flip_test, self.top_k, self.ae_threshold, self.max_pairs = flip_test, top_k, ae_threshold, max_pairs
        self.outside = outside
        self.suppression: dict[str, Any] = {
            "method": nms,
            "sigma": nms_sigma,
            "iou": nms_iou,
            "floor": nms_floor,
            "extent": 1.0,
            "limit": limit,
        }

        width = widths[0]
        self.pre = hourglass_stem(stem, width, stride)
        self.kps = nn.ModuleList(Hourglass(widths, blocks) for _ in range(stacks))
        self.cnvs = nn.ModuleList(Convolution(width, width) for _ in range(stacks))
        self.inters = nn.ModuleList(Residual(width, width) for _ in range(stacks - 1))
        self.inters_ = nn.ModuleList(conv_bn(width, width) for _ in range(stacks - 1))
        self.cnvs_ = nn.ModuleList(conv_bn(width, width) for _ in range(stacks - 1))
        self.sigma_shares: dict[str, float] = {}
        for kind, along, inward in (("tl", top_pool, left_pool), ("br", bottom_pool, right_pool)):
            pools = (along, inward) if corner_pooling else (nn.Identity(), nn.Identity())
            self.add_branch(kind, partial(corner_module or CornerPool, width, pool_width, *pools), tagged=True)

    def add_branch(
        self, kind: str, module: Callable[[], nn.Module], *, tagged: bool, sigma_share: float = 1 / 6
    ) -> None:
        """Add pooling `module` and heads of one kind of keypoint to every stack; bumps as `gaussian_heatmaps`."""
        self.sigma_shares[kind] = sigma_share
        self.add_module(f"{kind}_cnvs", nn.ModuleList(module() for _ in range(self.stacks)))
        for name, channels in {"heats": self.num_classes, "regrs": 2, "tags": int(tagged)}.items():
            if channels:
                heads = [_head(self.width, self.head_width, channels) for _ in range(self.stacks)]
                self.add_module(f"{kind}_{name}", nn.ModuleList(heads))
        for head in getattr(self, f"{kind}_heats"):
            nn.init.constant_(head[1].bias, -2.19)

    def preprocess(self, images: list[Tensor], scale: float = 1.0) -> Batch:
        """Center each image, `scale` times as large as otherwise, on black, which is then normalised with it."""
        placed = [self._resized(image, scale) for image in images]
        largest = [max(frame.inner[axis] for _, frame in placed) + self.spare for axis in (0, 1)]
        height, width = (-(-side // self.modulus) * self.modulus - self.spare for side in largest)
        canvas = images[0].new_zeros((len(images), 3, height, width))
        frames = []
        for row, (image, frame) in zip(canvas, placed, strict=True):
            top, left = height // 2 - frame.inner[0] // 2, width // 2 - frame.inner[1] // 2
            row[:, top : top + frame.inner[0], left : left + frame.inner[1]] = image
            frames.append(replace(frame, offset=(float(left), float(top))))
        return Batch(normalise(canvas, _MEAN, _STD, bgr=True), tuple(frames))

    def _resized(self, image: Tensor, scale: float) -> tuple[Tensor, Frame]:
        if self.size is None:
            height, width = (max(1, int(side * scale)) for side in image.shape[-2:])
            return warp(image, (height, width))
        side = max(1, int(self.size * scale))
        return resize_short_side(image, side, side)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> list[dict[str, KeypointMaps]]:
        """Maps of every stack given targets; else of the last one, the mirror images behind the images."""
        if targets is not None:
            return self._maps(batch.pixels, every_stack=True)
        mirrored = [batch.pixels.flip(-1)] if self.flip_test else []
        return self._maps(torch.cat([batch.pixels, *mirrored]), every_stack=False)

    def network_for_cost(self, batch: Batch) -> list[dict[str, KeypointMaps]]:
        """One look at the image; the flip test is a second one of the same cost."""
        return self._maps(batch.pixels, every_stack=False)

    def _maps(self, pixels: Tensor, every_stack: bool) -> list[dict[str, KeypointMaps]]:
        x, answers = self.pre(pixels.contiguous(memory_format=torch.channels_last)), []
        for stack in range(self.stacks):
            features = self.cnvs[stack](self.kps[stack](x))
            if every_stack or stack == self.stacks - 1:
                answers.append({kind: self._branch(kind, stack, features) for kind in self.sigma_shares})
            if stack < self.stacks - 1:
                x = self.inters[stack](F.relu(self.inters_[stack](x).add_(self.cnvs_[stack](features)), inplace=True))
        return answers

    def _branch(self, kind: str, stack: int, features: Tensor) -> KeypointMaps:
        x = getattr(self, f"{kind}_cnvs")[stack](features)
        tags = getattr(self, f"{kind}_tags", None)
        heat, offset = getattr(self, f"{kind}_heats")[stack](x), getattr(self, f"{kind}_regrs")[stack](x)
        return KeypointMaps(heat, offset, None if tags is None else tags[stack](x))

    def postprocess(self, outputs: list[dict[str, KeypointMaps]], batch: Batch) -> list[Detections]:
        """Pairs of corners, soft-NMS a class, the best `limit`."""
        return [self.settle(found) for found in self.candidates(outputs[-1], batch)]

    def candidates(self, maps: dict[str, KeypointMaps], batch: Batch) -> list[Candidates]:
        """Of each image those pairs of `look` that stand."""
        looks = self.look(maps, batch)
        return [self.check(look, frame.size) for look, frame in zip(looks, batch.frames, strict=True)]

    def look(self, maps: dict[str, KeypointMaps], batch: Batch) -> list[Look]:
        """Valid pairs of corners of both views of each image, those of its mirror image last."""
        top_left, bottom_right = (self.keypoints(maps[kind]) for kind in ("tl", "br"))
        pairs = pair_corners(top_left, bottom_right, self.ae_threshold, self.max_pairs)
        boxes = self.to_pixels(pairs.boxes, maps["tl"], batch)
        rest = (join_views(rows, len(batch.frames)) for rows in pairs[1:])
        answers = []
        for row, frame, score, label, corners in zip(boxes, batch.frames, *rest, strict=True):
            valid = (score > -1) & self._reaches_in(row, frame)
            answers.append(Look(Candidates(frame.to_image(row), score, label, corners).only(valid)))
        return answers

    def check(self, look: Look, size: tuple[int, int]) -> Candidates:
        """The pairs that stand, of an image of `size = (H, W)`: here all of them."""
        return look.pairs

    def settle(self, found: Candidates, merge: float | None = None) -> Detections:
        """Soft-NMS a class, the best `limit`; boxes move towards those that they suppress, given `merge`.

        Args:
            found: Pairs of corners, of any number of looks at one image.
            merge: Exponent of `ops.nms.soft_nms_merge`.
        """
        boxes, scores, labels, corners = found
        if merge is None:
            kept, rescored = soft_nms(boxes, scores, labels=labels, **self.suppression)
            return Detections(boxes[kept], rescored, labels[kept])
        if corners is None:
            raise ValueError("boxes are merged by the scores of their corners, and these have none")
        kept, rescored, moved = soft_nms_merge(
            boxes, scores, corners, labels=labels, exponent=merge, **self.suppression
        )
        return Detections(moved, rescored, labels[kept])

    def keypoints(self, maps: KeypointMaps) -> Keypoints:
        """The `top_k` peaks of each view."""
        tag = None if maps.tag is None else maps.tag.float()
        return find_keypoints(maps.heat.float().sigmoid(), maps.offset.float(), self.top_k, tag)

    def to_pixels(self, cells: Tensor, maps: KeypointMaps, batch: Batch) -> Tensor:
        """Boxes `[V * B, N, 4]` in cells of `V` views to network pixels of the images, `[B, V * N, 4]`."""
        images, (height, width) = len(batch.frames), maps.heat.shape[-2:]
        left, top, right, bottom = cells[images:].unbind(-1)
        mirrored = torch.stack([width - right, top, width - left, bottom], -1)
        boxes = torch.cat([cells[:images], mirrored]) * cells.new_tensor(
            [batch.size[1] / width, batch.size[0] / height] * 2
        )
        return join_views(boxes, images)

    def _reaches_in(self, boxes: Tensor, frame: Frame) -> Tensor:
        if self.outside is None:
            return torch.ones_like(boxes[:, 0], dtype=torch.bool)
        low = boxes.new_tensor(frame.offset)
        high = low + boxes.new_tensor([frame.inner[1], frame.inner[0]])
        return ((boxes[:, :2] > low - self.outside) & (boxes[:, 2:] < high + self.outside)).all(1)

    def losses(self, outputs: list[dict[str, KeypointMaps]], batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Focal, pull, push and offset losses (sections 3.2 to 3.4), each the mean over stacks."""
        (height, width), device = outputs[0]["tl"].heat.shape[-2:], batch.pixels.device
        counts = torch.tensor([len(target) for target in targets], device=device)
        image = torch.repeat_interleave(torch.arange(len(targets), device=device), counts)
        planes = image * self.num_classes + torch.cat([target.labels for target in targets])
        ratio = batch.pixels.new_tensor([width / batch.size[1], height / batch.size[0]] * 2)
        boxes = torch.cat([target.boxes for target in targets]) * ratio
        radii = self.radii(boxes)
        heat = pull = push = offset = boxes.new_zeros(())
        tags: list[list[Tensor]] = [[] for _ in outputs]
        for kind, share in self.sigma_shares.items():
            points, cells = self.cells(kind, boxes, (height, width))
            x, y = cells.unbind(1)
            shape = (len(targets) * self.num_classes, height, width)
            wanted = gaussian_heatmaps(cells, planes, radii, shape, share).unflatten(0, (len(targets), -1))
            positives = (wanted == 1).sum().clamp(min=1)
            for maps, found in zip(outputs, tags, strict=True):
                heat = heat + penalty_reduced_focal(maps[kind].heat.float(), wanted).sum() / positives
                moved = F.smooth_l1_loss(maps[kind].offset.float()[image, :, y, x], points - cells, reduction="sum")
                offset = offset + moved / (len(boxes) + 1e-4)
                tag = maps[kind].tag
                if tag is not None:
                    found.append(tag.float()[image, 0, y, x])
        for first, second in tags:
            together, apart = associative_embedding(first, second, image)
            pull, push = pull + together.sum(), push + apart.sum()
        parts = {"heat": heat, "pull": self.pull * pull, "push": self.push * push, "offset": offset}
        return {name: value / len(outputs) for name, value in parts.items()}

    def cells(self, kind: str, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Keypoints `[M, 2]` of one kind of boxes `[M, 4]`, all in cells, and the cells int64 of a map `(H, W)`."""
        points = {"tl": boxes[:, :2], "br": boxes[:, 2:], "ct": (boxes[:, :2] + boxes[:, 2:]) / 2}[kind]
        last = points.new_tensor([size[1] - 1, size[0] - 1])
        return points, torch.minimum(points.floor().clamp(min=0), last).long()

    def radii(self, boxes: Tensor) -> Tensor:
        """Radii int64 `[M]` of the bumps of boxes `[M, 4]`, both in cells."""
        if self.fixed_radius is not None:
            return torch.full_like(boxes[:, 0], self.fixed_radius, dtype=torch.int64)
        width, height = (boxes[:, 2:] - boxes[:, :2]).ceil().unbind(1)
        return gaussian_radius(height, width, self.gaussian_iou, self.radius_variant).long().clamp(min=0)


def join_views(rows: Tensor, images: int) -> Tensor:
    """`[V * B, N, ...]` of `V` views of `images` images to `[B, V * N, ...]`."""
    return rows.unflatten(0, (-1, images)).transpose(0, 1).flatten(1, 2)


class CornerPool(nn.Module):
    """Prediction module (section 3.5, figure 7): two pooled maps added, and a shortcut.

    Args:
        width: Channels of the features, and of what comes out.
        inner: Channels that are pooled.
        along: Pooling of the first map.
        inward: Pooling of the second.
    """

    def __init__(self, width: int, inner: int, along: Pool, inward: Pool) -> None:
        super().__init__()
        self.along, self.inward = along, inward
        self.p1_conv1 = Convolution(width, inner)
        self.p2_conv1 = Convolution(width, inner)
        self.p_conv1 = nn.Conv2d(inner, width, 3, padding=1, bias=False)
        self.p_bn1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = Convolution(width, width)

    def pooled(self, x: Tensor) -> Tensor:
        """The sum of the two pooled maps, `[B, inner, H, W]`."""
        return self.along(self.p1_conv1(x)) + self.inward(self.p2_conv1(x))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, width, H, W]` to the same shape."""
        return self.conv2(F.relu(self.p_bn1(self.p_conv1(self.pooled(x))).add_(self.bn1(self.conv1(x))), inplace=True))


def _head(width: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Convolution(width, hidden, norm=False), nn.Conv2d(hidden, outputs, 1))


def cornernet511_hg52(num_classes: int, **overrides: Any) -> CornerNet:
    """One hourglass, as the CenterNet paper compares it."""
    return CornerNet(num_classes, **{"stacks": 1, **overrides})


def cornernet511_hg104(num_classes: int, **overrides: Any) -> CornerNet:
    """Two hourglasses, as in the paper."""
    return CornerNet(num_classes, **overrides)
