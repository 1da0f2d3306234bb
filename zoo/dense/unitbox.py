"""UnitBox: Yu, Jiang, Wang, Cao, Huang, "UnitBox: An Advanced Object Detection Network", ACM Multimedia 2016.

https://arxiv.org/abs/1608.01471

DenseBox learns the four numbers of a box one by one, by squared errors: large objects drown small ones, and a box may
be wrong though each number is nearly right. Here the four distances from a pixel to the sides of its box are learnt as
one unit, by minus the logarithm of the IoU with the true box, which is the same at all scales. So objects of any size
are learnt at once, at one scale of the image, and every pixel of an object learns its box. `box_loss="l2"` is what the
paper compares with.

A second branch says where objects are: in the ellipse that fills the box, which suits faces. For boxes the paper fits
ellipses to what this branch is sure of and asks the pixels in their middles. That finds one object in a region, and
gives one list for one threshold; `inference="nms"` instead takes every pixel's box and suppresses duplicates, as
DenseBox does, and the small size is tested so. Classes have a confidence map each and share the boxes.

What the paper leaves open, or no source could confirm: both heads are 3x3 convolutions before the upsampling
(`kernel=1` is the other reading; a 1x1 convolution may as well come after, since the two commute); the threshold of the
ellipses, whose middles are the regions' centroids; both losses have weight 1, confidence is averaged over pixels and
added up over classes, boxes are averaged over the pixels that learn one; a pixel in two boxes learns the smaller. The
bias of the box head starts where every pixel says a box of two cells: at 0, ReLU would let no gradient through to half
of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.dense import (
    boxes_from_sides,
    cell_points,
    components,
    detect_cells,
    inside_frame,
    log_iou,
    owners,
    paint,
    side_distances,
)
from ops.images import Batch, Frame
from ops.structures import Detections, Target
from zoo.backbones import small
from zoo.backbones.small import SmallNet, small_body
from zoo.backbones.vgg import VGG16, vgg_batch
from zoo.detector import Detector, Recipe
from zoo.subsample import ClassChannels

__all__ = ["RECIPE", "SMALL", "SMALL_RECIPE", "UnitBox", "UnitBoxMaps", "unitbox"]

RECIPE = Recipe(
    batch=10,
    steps=100_000,
    lr=1e-8,
    momentum=0.9,
    weight_decay=2e-4,
    source="section 4 (from memory): no augmentation; the rate suits losses summed over pixels; the length is ours",
)
SMALL_RECIPE = replace(small.SMALL_RECIPE, steps=4_800, source="ours: one map for all sizes takes longer to learn")

SMALL: dict[str, Any] = {
    "backbone": "small",
    "blocks": (1, 2),
    "taps": (1, 2),
    "output_stride": 4,
    "unit": 4.0,
    "even": True,
    "inference": "nms",
}
"""For `discs`: maps of the same strides as the paper's, 8 and 16, which see 95 and 175 pixels (92 and 196 there); what
they say is enlarged to stride 4 instead of 1. Of discs the largest have a hundred times the pixels of the smallest,
which would hardly be learnt were it by pixels."""


class UnitBoxMaps(NamedTuple):
    """What is said of every pixel, or of every cell of `output_stride`.

    Attributes:
        confidence: `[B, C, H, W]`, logits.
        sides: `[B, 4, H, W]`, distances to the top, bottom, left and right side, in pixels, not negative.
    """

    confidence: Tensor
    sides: Tensor


class UnitBox(Detector):
    """UnitBox.

    Args:
        num_classes: Foreground classes C.
        backbone: VGG-16, or the zoo's small network.
        blocks: Residual blocks of each map of the small network; 1 beyond.
        taps: The maps that confidence and boxes are read from (section 3.2: conv4_3 and conv5_3).
        kernel: Of both heads.
        output_stride: Pixels a cell of the answers; 1 in the paper.
        unit: What the box branch says is in so many pixels.
        box_loss: `iou` or `l2` (section 3.1).
        confidence_weight: Of the confidences' loss.
        box_weight: Of the boxes' loss.
        even: Objects weigh alike in both losses; else their pixels do, as in the paper.
        inference: One box for each ellipse (section 3.2), or every cell's box and suppression.
        ellipse_floor: Confidence from which pixels form ellipses.
        score_floor: Least score of a detection by suppression.
        nms: IoU above which the lesser detection of a class goes.
        before: Most candidates that enter suppression.
        limit: Most detections an image.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Literal["vgg16", "small"] = "vgg16",
        blocks: Sequence[int] = (),
        taps: tuple[int, int] = (3, 4),
        kernel: int = 3,
        output_stride: int = 1,
        unit: float = 1.0,
        box_loss: Literal["iou", "l2"] = "iou",
        confidence_weight: float = 1.0,
        box_weight: float = 1.0,
        even: bool = False,
        inference: Literal["ellipses", "nms"] = "ellipses",
        ellipse_floor: float = 0.5,
        score_floor: float = 0.05,
        nms: float = 0.5,
        before: int = 1000,
        limit: int = 100,
    ) -> None:
        super().__init__(num_classes)
        if box_loss not in ("iou", "l2"):
            raise ValueError(f"unitbox: box_loss must be 'iou' or 'l2', got {box_loss!r}")
        if inference not in ("ellipses", "nms"):
            raise ValueError(f"unitbox: inference must be 'ellipses' or 'nms', got {inference!r}")
        self.body: VGG16 | SmallNet = VGG16() if backbone == "vgg16" else small_body(taps[1], blocks)
        self.taps, self.divisor = taps, self.body.strides[taps[1]]
        self.output_stride, self.unit, self.box_loss = output_stride, unit, box_loss
        self.confidence_weight, self.box_weight, self.even = confidence_weight, box_weight, even
        self.inference, self.ellipse_floor, self.score_floor = inference, ellipse_floor, score_floor
        self.nms, self.before, self.limit = nms, before, limit

        first, second = (self.body.channels[tap] for tap in taps)
        self.confidence = nn.Conv2d(first, num_classes, kernel, padding=kernel // 2)
        self.sides = nn.Conv2d(second, 4, kernel, padding=kernel // 2)
        for head, start in ((self.confidence, -2.0), (self.sides, self.divisor / unit)):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.constant_(head.bias, start)  # type: ignore[arg-type]

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: one map each."""
        return {f"confidence.{part}": ClassChannels() for part in ("weight", "bias")}

    def preprocess(self, images: list[Tensor]) -> Batch:
        """At their own size; bytes less VGG's mean."""
        return vgg_batch(images, self.divisor)

    def num_boxes(self, size: tuple[int, int]) -> int:
        """Cells of the answers: pixels, in the paper."""
        return -(-size[0] // self.output_stride) * -(-size[1] // self.output_stride)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> UnitBoxMaps:
        """Both branches, at the size of the input over `output_stride`."""
        maps = self.body(batch.pixels.contiguous(memory_format=torch.channels_last))
        size = [-(-side // self.output_stride) for side in batch.size]
        confidence, sides = (
            F.interpolate(head(maps[tap]), size, mode="bilinear")
            for head, tap in ((self.confidence, self.taps[0]), (self.sides, self.taps[1]))
        )
        return UnitBoxMaps(confidence.float(), (self.unit * sides.float()).relu())

    def postprocess(self, outputs: UnitBoxMaps, batch: Batch) -> list[Detections]:
        """Boxes from ellipses or by suppression, in the pixels of each image."""
        height, width = outputs.confidence.shape[-2:]
        points = cell_points((height, width), batch.size, outputs.confidence.device)
        boxes = boxes_from_sides(points, outputs.sides.flatten(2).transpose(1, 2))
        scores = outputs.confidence.sigmoid()
        if self.inference == "ellipses":
            return [
                self._from_ellipses(box, score, points, frame)
                for box, score, frame in zip(boxes, scores, batch.frames, strict=True)
            ]
        return detect_cells(
            boxes,
            scores.flatten(2).transpose(1, 2),
            points,
            batch.frames,
            score_floor=self.score_floor,
            nms_iou=self.nms,
            before=self.before,
            limit=self.limit,
        )

    def _from_ellipses(self, boxes: Tensor, scores: Tensor, points: Tensor, frame: Frame) -> Detections:
        """One detection for each region of each class, that of the cell in its middle; its score is the region's."""
        width = scores.shape[-1]
        found, sure, labels = [], [], []
        for label, plane in enumerate(scores):
            visible = plane * inside_frame(points, frame).unflatten(0, plane.shape)
            middles, means = components(visible, self.ellipse_floor)
            x, y = middles.round().long().unbind(1)
            found.append(boxes[y * width + x])
            sure.append(means)
            labels.append(torch.full_like(x, label))
        placed = frame.to_image(torch.cat(found))
        valid = (placed[:, 2:] > placed[:, :2]).all(1)
        return Detections.ranked(placed[valid], torch.cat(sure)[valid], torch.cat(labels)[valid], self.limit)

    def assign(self, target: Target, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What one image's objects ask of the pixels at `points`.

        Returns:
            Pixels that shall be confident of each class, bool `[C, P]`; the object whose box a pixel learns, int64
            `[P]`, -1 for none; the distances to that box's sides, `[P, 4]`.
        """
        low, high = target.boxes[:, :2], target.boxes[:, 2:]
        sides = side_distances(points, target.boxes)
        own = owners((sides > 0).all(-1), (high - low).prod(1)[:, None])
        away = (points - ((low + high) / 2)[:, None]) / ((high - low) / 2)[:, None]
        shown = paint(away.square().sum(-1) <= 1, target.labels, self.num_classes)
        if not len(target):
            return shown, own, points.new_zeros((len(points), 4))
        return shown, own, sides.gather(0, own.clamp(min=0)[None, :, None].expand(1, -1, 4))[0]

    def losses(self, outputs: UnitBoxMaps, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Cross entropy of confidences, and what `box_loss` names of boxes (section 3)."""
        size = outputs.confidence.shape[-2:]
        points = cell_points((size[0], size[1]), batch.size, outputs.confidence.device)
        asked = [self.assign(target, points) for target in targets]
        shown, own, wanted = (torch.stack([row[which] for row in asked]) for which in range(3))
        confidence = F.binary_cross_entropy_with_logits(
            outputs.confidence.flatten(2), shown.to(outputs.confidence.dtype), reduction="none"
        )
        learnt = own >= 0
        weights = _even(own) if self.even else torch.ones_like(own, dtype=torch.float32)
        sides, wanted = outputs.sides.flatten(2).transpose(1, 2)[learnt], wanted[learnt]
        box = log_iou(sides, wanted) if self.box_loss == "iou" else ((sides - wanted) / self.unit).square().sum(-1)
        return {
            "confidence": self.confidence_weight * (weights * confidence.sum(1)).mean(),
            "box": self.box_weight * (weights[learnt] * box).sum() / learnt.sum().clamp(min=1),
        }


def _even(own: Tensor) -> Tensor:
    """Weights `[B, P]` of pixels that learn the objects `own` `[B, P]` of their images: an object's add up alike.

    Pixels of no object weigh 1, those of objects 1 on average.
    """
    pixels = [row.bincount(minlength=1) for row in (own + 1)]
    objects = sum(int((row[1:] > 0).sum()) for row in pixels)
    share = float((own >= 0).sum()) / max(objects, 1)
    weights = torch.stack([share / counts.clamp(min=1)[row] for counts, row in zip(pixels, own + 1, strict=True)])
    return torch.where(own >= 0, weights, 1.0)


def unitbox(num_classes: int, **overrides: Any) -> UnitBox:
    """UnitBox on VGG-16, which answers for every pixel."""
    return UnitBox(num_classes, **overrides)
