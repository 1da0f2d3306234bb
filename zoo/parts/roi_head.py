"""The second stage, from Girshick, "Fast R-CNN" (ICCV 2015, https://arxiv.org/abs/1504.08083): features of each region
are pooled to one size, and a small network says what the region holds and where exactly.

Pooling is a callable of `(maps, boxes of each image)`, `BoxHead` and `BoxPredictor` are the network, and `RoIHead`
joins them with sampling, losses and suppression. Names in the state dict are torchvision's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_iou, roi_pool

from ops.coders import CenterSizeCoder
from ops.losses import repel_boxes, repel_objects
from ops.match import threshold_match
from ops.nms import classwise_nms
from ops.roi_align import as_regions, roi_align
from ops.sample import balanced_sample
from ops.snip import check_range, regions_in_range
from ops.structures import Detections, Target

__all__ = ["BoxHead", "BoxPredictor", "Pool", "PyramidAlign", "RegionMean", "RegionPool", "RoIHead", "Samples"]


class Pool(Protocol):
    """Features of regions: `[sum R_i, C, size, size]` from maps and the boxes `[R_i, 4]` of each image."""

    @property
    def size(self) -> int:
        """Cells along each side of a region."""

    def __call__(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Pool; boxes are in network pixels."""


@dataclass(frozen=True)
class RegionPool:
    """The largest value of each cell, over whole pixels of the one map (Fast R-CNN, section 2.1).

    Attributes:
        stride: Of the map.
        size: Cells along each side.
    """

    stride: int
    size: int = 7

    def __call__(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Pool from the last of `maps`."""
        # torchvision's autocast covers RoIAlign only.
        return roi_pool(maps[-1].float(), boxes, self.size, 1 / self.stride)


@dataclass(frozen=True)
class RegionMean:
    """The mean of each cell, over the whole pixels of `RegionPool`: what parts its rounding from its maximum.

    Attributes:
        stride: Of the map.
        size: Cells along each side.
    """

    stride: int
    size: int = 7

    def __call__(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Pool from the last of `maps`."""
        values = maps[-1].double()
        height, width = values.shape[-2:]
        regions = as_regions(boxes)
        places = regions[:, 1:].double() / self.stride
        # Halves go away from 0, as C rounds and `torch.round` does not.
        left, top, right, bottom = (places + places.sign() / 2).trunc().long().unbind(1)
        rows, columns = self._edges(top, bottom, height), self._edges(left, right, width)
        # Sums over rectangles come from sums over all pixels above and to the left.
        sums = F.pad(values.cumsum(2).cumsum(3), (1, 0, 1, 0)).flatten(2).permute(0, 2, 1)
        image = regions[:, 0].long()[:, None, None]
        corner = [[sums[image, y[:, :, None] * (width + 1) + x[:, None]] for x in columns] for y in rows]
        pixels = (rows[1] - rows[0])[:, :, None] * (columns[1] - columns[0])[:, None]
        total = corner[1][1] - corner[0][1] - corner[1][0] + corner[0][0]
        return (total / pixels.clamp(min=1)[..., None]).permute(0, 3, 1, 2).to(maps[-1].dtype)

    def _edges(self, first: Tensor, last: Tensor, limit: int) -> tuple[Tensor, Tensor]:
        """Where the cells of regions begin and end, `[R, size]` each; those beyond the map are empty."""
        side = (last - first + 1).clamp(min=1)[:, None]
        cell = torch.arange(self.size, device=first.device)
        begin = first[:, None] + cell * side // self.size
        end = first[:, None] - (-(cell + 1) * side // self.size)
        return begin.clamp(0, limit), end.clamp(0, limit)


@dataclass(frozen=True)
class PyramidAlign:
    """Bilinear samples (Mask R-CNN, section 3), each region from the level that suits its size (FPN, section 4.2).

    Attributes:
        strides: Of the levels that regions are pooled from; further ones are not looked at.
        size: Cells along each side.
        sampling: Samples a cell along each side.
        canonical: A region of this side belongs to the level of `canonical_stride` (224, stride 16).
        canonical_stride: See there.
        aligned: A cell's value lies in its middle, as in detectron2, instead of in its corner: half a pixel apart.
    """

    strides: Sequence[int]
    size: int = 7
    sampling: int = 2
    canonical: float = 224.0
    canonical_stride: int = 16
    aligned: bool = False

    def levels(self, boxes: Tensor) -> Tensor:
        """Index into `strides` of each of the boxes `[N, 4]`: one further for each doubling of the side."""
        side = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
        level = torch.floor(math.log2(self.canonical_stride) + torch.log2(side / self.canonical) + 1e-6)
        finest = math.log2(self.strides[0])
        return (level - finest).clamp(0, len(self.strides) - 1).long()

    def __call__(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Pool from the first `len(strides)` of `maps`."""
        regions = as_regions(boxes)
        if len(self.strides) == 1:
            return roi_align(maps[0], regions, self.size, 1 / self.strides[0], self.sampling, self.aligned)
        levels = self.levels(regions[:, 1:])
        pooled = maps[0].new_zeros((len(regions), maps[0].shape[1], self.size, self.size))
        for level, stride in enumerate(self.strides):
            rows = (levels == level).nonzero()[:, 0]
            part = roi_align(maps[level], regions[rows], self.size, 1 / stride, self.sampling, self.aligned)
            pooled[rows] = part.to(pooled.dtype)
        return pooled


class BoxHead(nn.Module):
    """Two fully connected layers; the features of a region are read channel by channel, row by row."""

    def __init__(self, inputs: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc6 = nn.Linear(inputs, width)
        self.fc7 = nn.Linear(width, width)
        self.dropout = dropout

    def forward(self, pooled: Tensor) -> Tensor:
        """Regions `[R, C, h, w]` to `[R, width]`."""
        x = F.dropout(self.fc6(pooled.flatten(1)).relu(), self.dropout, self.training)
        return F.dropout(self.fc7(x).relu(), self.dropout, self.training)


class BoxPredictor(nn.Module):
    """Scores of the background and the classes, and a box for each of them (that of the background is never read).

    With `shared`, there is one box for all classes.
    """

    def __init__(self, inputs: int, num_classes: int, *, shared: bool = False) -> None:
        super().__init__()
        self.cls_score = nn.Linear(inputs, num_classes + 1)
        self.bbox_pred = nn.Linear(inputs, 4 * (1 if shared else num_classes + 1))
        # Fast R-CNN, section 2.3.
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[R, inputs]` to logits `[R, C + 1]` and offsets `[R, C + 1, 4]`, or `[R, 1, 4]` where they are shared."""
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))


@dataclass(frozen=True)
class Samples:
    """Regions of one image that the losses look at.

    Attributes:
        boxes: `[R, 4]` in network pixels.
        labels: int64 `[R]`, 0 for background, 1 to C.
        objects: int64 `[R]`, the object of each region, -1 for background.
    """

    boxes: Tensor
    labels: Tensor
    objects: Tensor


class RoIHead(nn.Module):
    """Classes and boxes of regions. Section numbers are those of Fast R-CNN."""

    def __init__(
        self,
        box_pool: Pool,
        box_head: nn.Module,
        box_predictor: nn.Module,
        *,
        overlap: float = 0.5,
        samples: int | None = 128,
        positive_share: float = 0.25,
        background: float = 0.0,
        beta: float = 1.0,
        weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0),
        score_floor: float = 0.05,
        nms: float = 0.5,
        limit: int = 100,
        hard: int | None = None,
        hard_nms: float | None = None,
        valid_range: Sequence[float | None] | None = None,
        repulsion: Sequence[float] | None = None,
    ) -> None:
        """Build from the parts.

        Args:
            box_pool: Features of regions.
            box_head: `[R, C, size, size]` to what the predictor reads.
            box_predictor: To logits `[R, C + 1]` and offsets `[R, C + 1, 4]`, or `[R, 2, 4]` or `[R, 1, 4]` where all
                classes share a box, the last.
            overlap: A region that overlaps an object by at least this is a positive, any other a negative (2.3).
            samples: Regions an image that the losses look at (2.3); None for all of them.
            positive_share: Most of them that are positives.
            background: Negatives overlap an object by at least this: .1 in Fast R-CNN (2.3), where that is the hard
                mining. Regions that overlap less are not learned from.
            beta: Where the smooth L1 loss turns from square to straight (2.3).
            weights: Of the box offsets.
            score_floor: A detection must score more than this.
            nms: Of two detections of one class that overlap by more, the lower-scoring goes.
            limit: Most detections an image.
            hard: Look at all regions and learn from this many of largest loss an image, instead of a drawn sample
                (OHEM, section 4).
            hard_nms: Of two of those that overlap by more, only the one of larger loss counts (OHEM, section 4.2: .7).
            valid_range: Least and most size (root of the area, in pixels of the network's input) of the objects and
                regions that are learned from (SNIP, `ops.snip`). Left out, all are.
            repulsion: Weights of two further losses, which keep boxes off the objects of others and off the boxes of
                others (Repulsion loss, equation 1: .5 and .5; `ops.losses`). Left out, there are none.
        """
        super().__init__()
        self.box_pool = box_pool
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.overlap, self.samples, self.positive_share, self.beta = overlap, samples, positive_share, beta
        self.background = background
        self.coder = CenterSizeCoder(weights)
        self.score_floor, self.nms, self.limit = score_floor, nms, limit
        self.hard, self.hard_nms = hard, hard_nms
        self.valid_range = check_range(valid_range)
        self.repulsion = None if repulsion is None else tuple(repulsion)

    def sample(self, proposals: list[Tensor], targets: list[Target]) -> list[Samples]:
        """Choose regions to learn from among the proposals and the objects themselves; with `hard`, all of them."""
        samples = []
        for proposed, target in zip(proposals, targets, strict=True):
            boxes = torch.cat([proposed, target.boxes])
            overlaps = box_iou(target.boxes, boxes)
            objects = threshold_match(overlaps, self.overlap, self.overlap)
            if self.valid_range is not None:
                valid = regions_in_range(boxes, objects, target.boxes, self.valid_range)
                boxes, objects, overlaps = boxes[valid], objects[valid], overlaps[:, valid]
            if self.hard is None and self.samples is not None:
                negative = objects < 0
                if self.background > 0:
                    negative &= (overlaps >= self.background).any(0)
                rows = torch.cat(balanced_sample(objects >= 0, negative, self.samples, self.positive_share))
                boxes, objects = boxes[rows], objects[rows]
            labels = torch.zeros_like(objects)
            labels[objects >= 0] = target.labels[objects[objects >= 0]] + 1
            samples.append(Samples(boxes, labels, objects))
        return samples

    def forward(self, maps: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits `[R, C + 1]` and offsets `[R, K, 4]` of the regions of all images, image by image."""
        return self.predict(self.box_pool(maps, boxes))

    def predict(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """The same from features `[R, channels, size, size]`."""
        logits, offsets = self.box_predictor(self.box_head(pooled))
        return logits, offsets

    def losses(
        self, logits: Tensor, offsets: Tensor, samples: list[Samples], targets: list[Target]
    ) -> dict[str, Tensor]:
        """Cross entropy, and smooth L1 of the true class's box, both divided by the number of regions (2.3).

        With `hard`, it is the number of hard regions, and the others cost nothing.
        """
        class_loss, box_loss = self.region_losses(logits, offsets, samples, targets)
        if self.hard is not None:
            chosen = torch.cat(self.hardest(class_loss + box_loss, samples))
            class_loss, box_loss = class_loss[chosen], box_loss[chosen]
        share = 1 / max(1, len(class_loss))
        losses = {"class": share * class_loss.sum(), "boxes": share * box_loss.sum()}
        return losses if self.repulsion is None else {**losses, **self._repel(offsets, samples, targets)}

    def _repel(self, offsets: Tensor, samples: list[Samples], targets: list[Target]) -> dict[str, Tensor]:
        """The losses that `repulsion` weighs, over the positives, image by image."""
        assert self.repulsion is not None
        objects, pairs = [], []
        parts = offsets.float().split([len(sample.boxes) for sample in samples])
        for part, sample, target in zip(parts, samples, targets, strict=True):
            rows = (sample.labels > 0).nonzero()[:, 0]
            columns = sample.labels[rows].clamp(max=offsets.shape[1] - 1)
            proposals, own = sample.boxes[rows], sample.objects[rows]
            predicted = self.coder.decode(part[rows, columns], proposals)
            objects.append(repel_objects(predicted, proposals, own, target.boxes))
            pairs.append(repel_boxes(predicted, own))
        named = {"repel_objects": torch.cat(objects), "repel_boxes": torch.cat(pairs)}
        return {
            name: weight * values.sum() / max(1, len(values))
            for weight, (name, values) in zip(self.repulsion, named.items(), strict=True)
        }

    def region_losses(
        self, logits: Tensor, offsets: Tensor, samples: list[Samples], targets: list[Target]
    ) -> tuple[Tensor, Tensor]:
        """Both losses of each region, `[R]`, that of the box being 0 for background."""
        labels = torch.cat([sample.labels for sample in samples])
        boxes = torch.cat([sample.boxes for sample in samples])
        rows = (labels > 0).nonzero()[:, 0]
        found = [
            target.boxes[sample.objects[sample.labels > 0]] for sample, target in zip(samples, targets, strict=True)
        ]
        wanted = self.coder.encode(torch.cat(found), boxes[rows])
        columns = labels[rows].clamp(max=offsets.shape[1] - 1)
        class_loss = F.cross_entropy(logits.float(), labels, reduction="none")
        apart = F.smooth_l1_loss(offsets.float()[rows, columns], wanted, beta=self.beta, reduction="none")
        return class_loss, torch.zeros_like(class_loss).index_add(0, rows, apart.sum(1))

    def hardest(self, losses: Tensor, samples: list[Samples]) -> list[Tensor]:
        """The `hard` regions of largest loss of each image, near duplicates left out (OHEM, section 4.2).

        Args:
            losses: `[R]`, of the regions of all images.
            samples: Of each image.

        Returns:
            Rows of `losses` for each image, those of largest loss first.
        """
        chosen, first = [], 0
        for sample in samples:
            own = losses[first : first + len(sample.boxes)].detach()
            if self.hard_nms is None:
                rows = own.argsort(descending=True)
            else:
                rows = batched_nms(sample.boxes, own, sample.labels, self.hard_nms)
            chosen.append(first + rows[: self.hard])
            first += len(sample.boxes)
        return chosen

    def detect(self, logits: Tensor, offsets: Tensor, boxes: Tensor, inner: tuple[int, int]) -> Detections:
        """Detections of one image in network pixels, clipped to its `inner = (H, W)`."""
        of_classes = offsets[:, 1:] if offsets.shape[1] == logits.shape[1] else offsets[:, -1:]
        decoded = self.coder.decode(of_classes.float(), boxes[:, None])
        decoded = decoded.expand(-1, logits.shape[1] - 1, -1)
        border = boxes.new_tensor(inner[::-1] * 2)
        decoded = torch.minimum(decoded.clamp(min=0), border)
        scores = logits.float().softmax(1)[:, 1:]
        # A box that was clipped to nothing is no detection.
        large = (decoded[..., 2:] - decoded[..., :2] >= 1e-2).all(-1)
        return classwise_nms(
            decoded, scores.masked_fill(~large, 0), score_floor=self.score_floor, iou=self.nms, limit=self.limit
        )
