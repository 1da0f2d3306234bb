"""MR-CNN, from Spyros Gidaris and Nikos Komodakis, "Object Detection via a Multi-Region and Semantic Segmentation-Aware
CNN Model" (ICCV 2015, https://arxiv.org/abs/1505.01749).

A delta of Fast R-CNN in what is looked at, and in what is done with the answers. A proposal is seen as ten regions, the
whole, its halves, its middle, its border and its surroundings, each with fully connected layers of its own, so that
what is seen of an object tells how well the box fits. The box that a second small network regresses from a slightly
larger region is scored and regressed again; boxes left after suppression become the mean of all that overlap them.

The regions are those of a public port (gidariss/mrcnn-object-detection); the rest of the sheet is from memory of the
paper. What we do otherwise: the paper trains linear SVMs on the concatenated features of networks that were trained one
by one, here all are trained at once by gradient, with a softmax over them, on Fast R-CNN's sample and schedule. Of a
ring, whole pixels inside the inner rectangle do not count; those on its border do. `semantic` adds the
segmentation-aware region: convolutions learn from boxes alone which class each cell belongs to, and their features are
pooled too; their width and number here are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, roi_pool

from ops.images import Batch
from ops.nms import suppress
from ops.rings import ring_pool
from ops.structures import Detections, Target
from zoo.backbones.small import SMALL_RECIPE
from zoo.parts.roi_head import BoxHead, RoIHead
from zoo.two_stage import fast_rcnn
from zoo.two_stage.fast_rcnn import FastRCNN, LastMap, TwoStageOutputs, with_search

__all__ = ["MRCNN", "RECIPE", "REGIONS", "SMALL", "SMALL_RECIPE", "MultiPool", "Region", "mr_cnn_vgg16"]

RECIPE = replace(fast_rcnn.RECIPE, source="Fast R-CNN's; the paper trains region by region and then SVMs")

SMALL: dict[str, Any] = {
    **{key: value for key, value in fast_rcnn.SMALL.items() if key != "dropout"},
    "widths": (16, 24, 32),
    "pool_size": 5,
    "head_width": 28,
    "samples": 32,
}
"""For `shapes`: eleven small heads in place of one, as many parameters in all."""


@dataclass(frozen=True)
class Region:
    """A part of a box or its surroundings.

    Attributes:
        outer: Scale of the outer rectangle about the box's middle.
        inner: Of the inner one, which is left out; 0 for none.
        half: One half of the box instead.
    """

    outer: float = 1.0
    inner: float = 0.0
    half: Literal["", "left", "right", "top", "bottom"] = ""

    def boxes(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Outer and inner rectangles `[N, 4]` of boxes `[N, 4]`."""
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        reach = (boxes[:, 2:] - boxes[:, :2]) / 2
        outer = torch.cat([middle - self.outer * reach, middle + self.outer * reach], 1)
        inner = torch.cat([middle - self.inner * reach, middle + self.inner * reach], 1)
        if self.half:
            side = ("right", "bottom", "left", "top").index(self.half)  # the edge that moves to the middle
            outer[:, side] = middle[:, side % 2]
        return outer, inner


REGIONS: tuple[Region, ...] = (
    Region(),
    *(Region(half=half) for half in ("left", "right", "top", "bottom")),
    Region(0.5),
    Region(0.8, 0.3),
    Region(1.0, 0.5),
    Region(1.5, 0.8),
    Region(1.8, 1.0),
)
"""The ten of the paper (section 3, figure 2), as scales of the box."""


@dataclass(frozen=True)
class MultiPool:
    """All regions of each box, one after the other along the channels.

    Attributes:
        stride: Of the maps.
        size: Cells along each side of each region.
        regions: Those that are pooled from the first map.
        semantic: That which is pooled from the second, if any, and comes last.
    """

    stride: int
    size: int
    regions: tuple[Region, ...]
    semantic: Region | None = None

    def __call__(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """`[sum R_i, C, size, size]`, C being the sum over regions."""
        parts = [self._pool(maps[0], boxes, region) for region in self.regions]
        if self.semantic is not None:
            parts.append(self._pool(maps[1], boxes, self.semantic))
        return torch.cat(parts, 1)

    def _pool(self, x: Tensor, boxes: list[Tensor], region: Region) -> Tensor:
        pairs = [region.boxes(rows) for rows in boxes]
        if not region.inner:
            return roi_pool(x.float(), [outer for outer, _ in pairs], self.size, 1 / self.stride)
        outer, inner = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return ring_pool(x.float(), outer, inner, self.size, 1 / self.stride)


class MultiHead(nn.Module):
    """Two fully connected layers for each region, of which the first one serves the boxes."""

    def __init__(self, channels: Sequence[int], size: int, width: int, dropout: float) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.heads = nn.ModuleList(BoxHead(count * size**2, width, dropout) for count in channels)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """`[R, sum C_i, size, size]` to what tells classes `[R, regions * width]`, and boxes `[R, width]`."""
        read = [head(part) for head, part in zip(self.heads, pooled.split(self.channels, 1), strict=True)]
        return torch.cat(read[1:], 1), read[0]


class MultiPredictor(nn.Module):
    """Classes from all regions, boxes from the one that is for them."""

    def __init__(self, regions: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(regions * width, num_classes + 1)
        self.bbox_pred = nn.Linear(width, 4 * (num_classes + 1))
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, features: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """To logits `[R, C + 1]` and offsets `[R, C + 1, 4]`."""
        return self.cls_score(features[0]), self.bbox_pred(features[1]).unflatten(1, (-1, 4))


class SemanticMaps(nn.Module):
    """The last map, features that know which class a cell belongs to, and their scores for each class."""

    def __init__(self, body: LastMap, width: int, num_classes: int) -> None:
        super().__init__()
        self.body = body
        self.features = nn.Conv2d(body.channels, width, 3, padding=1)
        self.score = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image to `[B, C, h, w]`, `[B, width, h, w]` and logits `[B, num_classes, h, w]`."""
        (last,) = self.body(x)
        features = self.features(last).relu()
        return [last, features, self.score(features)]


class MRCNN(FastRCNN):
    """Fast R-CNN that sees many regions of a box, and looks twice.

    Attributes:
        rounds: How often boxes are scored and regressed (section 5: 2).
        voting: Boxes that overlap a detection by at least this vote on its place (section 5: .5); None for no vote.
        most_again: Boxes an image that are looked at again.
    """

    rounds: int = 2
    voting: float | None = 0.5
    most_again: int = 300

    def postprocess(self, outputs: TwoStageOutputs, batch: Batch) -> list[Detections]:
        """Score and regress, again from the boxes that came out, suppress within each class, and vote."""
        counts = [len(regions) for regions in outputs.regions]
        answers = []
        rows = zip(
            batch.frames, outputs.regions, outputs.logits.split(counts), outputs.offsets.split(counts), strict=True
        )
        for index, (frame, regions, logits, offsets) in enumerate(rows):
            maps = [x[index : index + 1] for x in outputs.maps]
            border = regions.new_tensor(frame.inner[::-1] * 2)
            scores = logits.float().softmax(1)[:, 1:].flatten()
            labels = torch.arange(self.num_classes, device=regions.device).repeat(len(regions))
            boxes = self.roi_heads.coder.decode(offsets[:, 1:].float(), regions[:, None]).flatten(0, 1)
            found = [self._enough(boxes, scores, labels, border)]
            for _ in range(self.rounds - 1):
                boxes, scores, labels = (part[: self.most_again] for part in found[-1])
                logits, offsets = self.roi_heads(maps, [boxes])
                every = torch.arange(len(boxes), device=boxes.device)
                scores = logits.float().softmax(1)[every, labels + 1]
                boxes = self.roi_heads.coder.decode(offsets[every, labels + 1].float(), boxes)
                found.append(self._enough(boxes, scores, labels, border))
            boxes, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
            kept, surest = suppress(boxes, scores, labels, iou=self.roi_heads.nms, limit=self.roi_heads.limit)
            placed = boxes[kept]
            if self.voting is not None:
                same = (box_iou(placed, boxes) >= self.voting) & (labels[kept, None] == labels)
                weights = same * scores
                placed = weights @ boxes / weights.sum(1, keepdim=True).clamp(min=1e-12)
            answers.append(Detections(frame.to_image(placed), surest, labels[kept]))
        return answers

    def _enough(self, boxes: Tensor, scores: Tensor, labels: Tensor, border: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Those that score enough and lie in the image, the surest first."""
        boxes = torch.minimum(boxes.clamp(min=0), border)
        rows = ((scores > self.roi_heads.score_floor) & (boxes[:, 2:] - boxes[:, :2] >= 1e-2).all(1)).nonzero()[:, 0]
        rows = rows[scores[rows].argsort(descending=True, stable=True)]
        return boxes[rows], scores[rows], labels[rows]

    def losses(self, outputs: TwoStageOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """As Fast R-CNN's; with the semantic region also the mean cross entropy of each cell and class.

        A cell belongs to a class where its middle lies in a box of that class (section 4).
        """
        losses = super().losses(outputs, batch, targets)
        if len(outputs.maps) == 1:
            return losses
        logits = outputs.maps[2].float()
        wanted = torch.zeros_like(logits)
        height, width = logits.shape[-2:]
        across = (torch.arange(width, device=logits.device) + 0.5) * batch.size[1] / width
        down = (torch.arange(height, device=logits.device) + 0.5) * batch.size[0] / height
        for image, target in enumerate(targets):
            for (x1, y1, x2, y2), label in zip(target.boxes, target.labels, strict=True):
                inside = ((down >= y1) & (down < y2))[:, None] & ((across >= x1) & (across < x2))
                wanted[image, label][inside] = 1
        return {**losses, "semantic": F.binary_cross_entropy_with_logits(logits, wanted)}

    def head_for_cost(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """All regions' channels for a fixed number of boxes."""
        size, head = self.roi_heads.box_pool.size, self.roi_heads.box_head
        assert isinstance(head, MultiHead)
        shape = (len(maps[0]) * self.cost_regions, sum(head.channels), size, size)
        return self.roi_heads.predict(maps[0].new_zeros(shape))


def mr_cnn_vgg16(
    num_classes: int,
    *,
    backbone: Literal["vgg16", "small"] = "vgg16",
    widths: Sequence[int] = (16, 24, 48),
    regions: Sequence[Region] = REGIONS,
    box_region: float = 1.3,
    semantic: bool = False,
    semantic_width: int | None = None,
    pool_size: int = 7,
    head_width: int = 4_096,
    dropout: float = 0.5,
    samples: int = 64,
    rounds: int = 2,
    voting: float | None = 0.5,
    **settings: Any,
) -> MRCNN:
    """MR-CNN on VGG-16.

    Args:
        num_classes: Foreground classes.
        backbone: VGG-16, or the zoo's small network, all of which learns.
        widths: Channels of the small network.
        regions: Of each box, that tell its class.
        box_region: Scale of the region that boxes are regressed from (section 5).
        semantic: Whether a segmentation-aware region, of scale 1.5, joins the others (section 4).
        semantic_width: Channels of its features; None for as many as the last map has.
        pool_size: Cells along each side of each region.
        head_width: Channels of the fully connected layers of each region.
        dropout: In them.
        samples: Boxes an image that the head learns from.
        rounds: How often boxes are scored and regressed.
        voting: See `MRCNN`.
        settings: As `with_search`.
    """
    body = LastMap.of(backbone, widths)
    maps: nn.Module = body
    pooled = (Region(box_region), *regions)
    channels = [body.channels] * len(pooled)
    if semantic:
        channels.append(semantic_width or body.channels)
        maps = SemanticMaps(body, channels[-1], num_classes)
    roi_heads = RoIHead(
        MultiPool(body.stride, pool_size, pooled, Region(1.5) if semantic else None),
        MultiHead(channels, pool_size, head_width, dropout),
        MultiPredictor(len(channels) - 1, head_width, num_classes),
        samples=samples,
        background=0.1,
        nms=0.3,
    )
    model = with_search(num_classes, maps, roi_heads, kind=MRCNN, **settings)
    assert isinstance(model, MRCNN)
    model.rounds, model.voting = rounds, voting
    return model
