"""EAST: Zhou, Yao, Wen, Wang, Zhou, He, Liang, "EAST: An Efficient and Accurate Scene Text Detector", CVPR 2017.

https://arxiv.org/abs/1704.03155

Text runs in any direction, so its boxes must turn. One fully convolutional network, which merges its maps from coarse
to fine, says at every cell of stride 4 whether it lies in the middle of a text, and the geometry of that text: either
the distances to the four sides of a turned rectangle and its angle (`rbox`), learnt by IoU and by the angle's cosine,
or where the four corners of a quadrilateral lie (`quad`). Thousands of cells say nearly the same, so they are merged
with their neighbours row by row before duplicates are suppressed.

How turned boxes are given: `Detections.quads` has the corners, `boxes` the upright boxes around them, so that every
metric for boxes holds; with `turned` there are `masks` as well, the filled quadrilaterals, so that mask AP judges the
turned boxes themselves. How they are learnt: from the boxes of the targets, whose angle is 0, or with `turned` from
their masks, around each of which the smallest rectangle is laid (for `quad`, too: its corners are then that
rectangle's).

No training code was released; the layers are those of SakuraRiven's PyTorch version with VGG-16 and batch
normalisation, whose state dict loads as it is (`REIMPLEMENTATION` has what else it does otherwise). The paper's
networks (PVANET, and VGG-16 without normalisation) are not built. What the paper leaves open: distances are a sigmoid
times `scope`, the angle a sigmoid over half a turn; the cross entropy of scores is divided by the sum of its weights
over a batch; geometry is averaged over positive cells; a cell in two texts learns the smaller. Texts that are too small
for a cell of their own, or marked to be ignored, count for nothing. An image is padded, not resized, to multiples of
32. Classes have a score map each and share the geometry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.dense import balanced_cross_entropy, cell_points, dice_loss, inside_frame, log_iou, owners, paint
from ops.images import Batch, Frame, normalise, resize_short_side, stack
from ops.patches import scaled_crop
from ops.quads import (
    box_quads,
    fill_quads,
    hulls,
    inside_quads,
    locality_aware_nms,
    quad_smooth_l1,
    rectangle_angles,
    rectangle_sides,
    restore_rectangles,
    shrink_quads,
    smallest_rectangles,
)
from ops.structures import Detections, Target
from zoo.backbones import small
from zoo.backbones.small import SmallNet
from zoo.backbones.vgg import VGG16BN
from zoo.detector import Detector, Recipe
from zoo.subsample import ClassChannels

__all__ = ["EAST", "RECIPE", "REIMPLEMENTATION", "SMALL", "SMALL_RECIPE", "EASTMaps", "Merge", "Output", "east"]

RECIPE = Recipe(
    batch=24,
    steps=81_900,
    lr=1e-3,
    optimizer="adam",
    milestones=(27_300, 54_600),
    augment=scaled_crop,
    source="section 4.2 (from memory): 512x512 crops, a tenth of the rate every 27,300 steps down to 1e-5",
)
SMALL_RECIPE = small.SMALL_RECIPE

SMALL: dict[str, Any] = {
    "backbone": "small",
    "widths": (64, 48, 32, 32),
    "scope": 160.0,
    "turned": True,
    "smallest": 6.0,
    "score_floor": 0.5,
    "merged": "peak",
}
"""For `bars`, whose masks tell their angles. A detection scores as its surest cell there: sums would rank objects by
their size."""

REIMPLEMENTATION: dict[str, Any] = {"offset": 0.0, "score_floor": 0.9, "score_loss": "dice", "smooth": 1.0}
"""What SakuraRiven's version does otherwise; it also resizes images to multiples of 32."""


class EASTMaps(NamedTuple):
    """What is said of every cell.

    Attributes:
        score: `[B, C, H, W]`, logits.
        geometry: `rbox`: `[B, 5, H, W]`, distances to the top, bottom, left and right side in pixels, and the angle in
            radians; `quad`: `[B, 8, H, W]`, `(x, y)` of the four corners less the cell's, in pixels.
    """

    score: Tensor
    geometry: Tensor


class EAST(Detector):
    """EAST.

    Args:
        num_classes: Foreground classes C.
        geometry: `rbox` or `quad` (section 3.3).
        backbone: VGG-16 with batch normalisation, or the zoo's small network.
        widths: Channels of the three merged maps and of the last one (section 3.2).
        scope: Largest distance of a side, in pixels: the side of the crops it was trained on.
        spread: Range of the angle about 0, in radians.
        quad_unit: Corners are said in so many pixels.
        turned: Learn turned boxes from masks, and answer masks.
        shrink: Share by which texts are shrunk where scores are learnt (section 3.3.1).
        smallest: Texts with a shorter side than this, in pixels, count for nothing.
        offset: Where a cell's point lies in it: 0.5 is its middle.
        score_loss: Balanced cross entropy (section 3.4.1), or Dice.
        smooth: Added to intersection and union in the loss.
        geometry_weight: Of the geometry's loss (section 3.4).
        angle_weight: Of the angle's loss, within the geometry's (section 3.4.2).
        longest: Larger images are shrunk to this side; None: never.
        score_floor: Least score of a cell that says anything.
        nms: IoU above which cells are merged, and quadrilaterals suppressed.
        merged: Score of a detection: the sum of the cells' it was made of, as in the paper, or the highest of them.
        before: Most cells that say anything.
        limit: Most detections an image.
    """

    trains_on_ignored = True

    def __init__(
        self,
        num_classes: int,
        *,
        geometry: Literal["rbox", "quad"] = "rbox",
        backbone: Literal["vgg16_bn", "small"] = "vgg16_bn",
        widths: Sequence[int] = (128, 64, 32, 32),
        scope: float = 512.0,
        spread: float = math.pi,
        quad_unit: float = 32.0,
        turned: bool = False,
        shrink: float = 0.3,
        smallest: float = 10.0,
        offset: float = 0.5,
        score_loss: Literal["balanced", "dice"] = "balanced",
        smooth: float = 0.0,
        geometry_weight: float = 1.0,
        angle_weight: float = 10.0,
        longest: int | None = 2400,
        score_floor: float = 0.8,
        nms: float = 0.2,
        merged: Literal["sum", "peak"] = "sum",
        before: int = 2000,
        limit: int = 100,
    ) -> None:
        super().__init__(num_classes)
        for name, value, known in (
            ("geometry", geometry, ("rbox", "quad")),
            ("score_loss", score_loss, ("balanced", "dice")),
            ("merged", merged, ("sum", "peak")),
        ):
            if value not in known:
                raise ValueError(f"east: {name} must be {known[0]!r} or {known[1]!r}, got {value!r}")
        self.geometry, self.trains_on_masks = geometry, turned
        self.shrink, self.smallest, self.offset = shrink, smallest, offset
        self.score_loss, self.smooth = score_loss, smooth
        self.geometry_weight, self.angle_weight = geometry_weight, angle_weight
        self.longest, self.score_floor, self.nms, self.merged = longest, score_floor, nms, merged
        self.before, self.limit = before, limit
        self.extractor: VGG16BN | SmallNet = VGG16BN() if backbone == "vgg16_bn" else SmallNet()
        self.divisor = self.extractor.strides[-1]
        self.merge = Merge(self.extractor.channels, widths)
        said = partial(Output, scope=scope, spread=spread) if geometry == "rbox" else partial(Output, unit=quad_unit)
        self.output = said(widths[-1], num_classes)

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: one map each."""
        return {f"output.conv1.{part}": ClassChannels() for part in ("weight", "bias")}

    def preprocess(self, images: list[Tensor]) -> Batch:
        """At their own size unless they are too large; colours from -1 to 1."""
        placed = []
        for image in images:
            size = (int(image.shape[-2]), int(image.shape[-1]))
            shown, frame = resize_short_side(image, min(size), self.longest or max(size))
            placed.append((normalise(shown, (0.5,) * 3, (0.5,) * 3), frame))
        return stack(placed, self.divisor)

    def num_boxes(self, size: tuple[int, int]) -> int:
        """Cells."""
        return -(-size[0] // 4) * -(-size[1] // 4)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> EASTMaps:
        """Scores and geometry at stride 4."""
        maps = self.extractor(batch.pixels.contiguous(memory_format=torch.channels_last))
        answer: EASTMaps = self.output(self.merge(maps))
        return answer

    def quads(self, geometry: Tensor, points: Tensor) -> Tensor:
        """Quadrilaterals `[N, 4, 2]` from what cells at `[N, 2]` say, `[N, 5]` or `[N, 8]`."""
        if self.geometry == "rbox":
            return restore_rectangles(points, geometry[:, :4], geometry[:, 4])
        return points[:, None] + geometry.unflatten(1, (4, 2))

    def postprocess(self, outputs: EASTMaps, batch: Batch) -> list[Detections]:
        """Merge and suppress class by class (section 3.6), and go back to the pixels of each image."""
        height, width = outputs.score.shape[-2:]
        points = cell_points((height, width), batch.size, outputs.score.device, self.offset)
        answers = []
        for score, geometry, frame in zip(outputs.score, outputs.geometry, batch.frames, strict=True):
            scores = score.sigmoid().flatten(1) * inside_frame(points, frame)
            floor = self.score_floor
            if self.before < scores.numel():
                floor = max(floor, float(scores.flatten().kthvalue(scores.numel() - self.before).values))
            labels, cells = (scores > floor).nonzero(as_tuple=True)
            said = self.quads(geometry.flatten(1).T[cells], points[cells])
            answers.append(self._merged(said, scores[labels, cells], labels, frame))
        return answers

    def _merged(self, said: Tensor, scores: Tensor, labels: Tensor, frame: Frame) -> Detections:
        """One image's detections from what its cells say, class by class and row by row."""
        quads, sure, kinds = [said[:0]], [scores[:0]], [labels[:0]]
        for label in labels.unique().tolist():
            of_class = labels == label
            shapes, total, peaks = locality_aware_nms(said[of_class], scores[of_class], self.nms)
            quads.append(shapes)
            sure.append(total if self.merged == "sum" else peaks)
            kinds.append(labels.new_full((len(shapes),), label))
        shapes, total, classes = torch.cat(quads), torch.cat(sure), torch.cat(kinds)
        boxes = frame.to_image(hulls(shapes))
        shapes = (shapes - shapes.new_tensor(frame.offset)) / shapes.new_tensor(frame.scale)
        valid = (boxes[:, 2:] > boxes[:, :2]).all(1).nonzero()[:, 0]
        best = valid[total[valid].argsort(descending=True, stable=True)[: self.limit]]
        masks = fill_quads(shapes[best], frame.size) if self.trains_on_masks else None
        return Detections(boxes[best], total[best], classes[best], masks, shapes[best])

    def wanted_quads(self, target: Target, frame: Frame) -> Tensor:
        """Corners `[M, 4, 2]` of one image's objects in network pixels.

        Raises:
            ValueError: They shall come from masks, and there are none.
        """
        quads = box_quads(target.boxes)
        if not self.trains_on_masks or not len(target):
            return quads
        if target.masks is None:
            raise ValueError(
                "east: turned boxes are learnt from masks, which the targets lack; turned=False needs none"
            )
        # A crop may have left a corner of a box and nothing of the object.
        shown = target.masks.flatten(1).any(1)
        found = smallest_rectangles(target.masks[shown])
        quads[shown] = found * found.new_tensor(frame.scale) + found.new_tensor(frame.offset)
        return quads

    def assign(self, target: Target, points: Tensor, frame: Frame) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What one image's objects ask of the cells at `points`.

        Returns:
            Cells that shall score for each class, bool `[C, P]`; cells that count, bool `[P]`; the object whose
            geometry a cell learns, int64 `[P]`, -1 for none; all objects' corners `[M, 4, 2]`.
        """
        quads = self.wanted_quads(target, frame)
        inside = inside_quads(points, shrink_quads(quads, self.shrink))
        sides = (quads.roll(-1, 1) - quads).norm(dim=2)
        left_out = target.ignore | (sides.amin(1) < self.smallest) | ~inside.any(1)
        inside = inside & ~left_out[:, None]
        counts = inside.any(0) | ~inside_quads(points, quads[left_out]).any(0)
        own = owners(inside, sides[:, :2].prod(1)[:, None])
        return paint(inside, target.labels, self.num_classes), counts, own, quads

    def losses(self, outputs: EASTMaps, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Scores, and the geometry of positive cells (section 3.4)."""
        size = outputs.score.shape[-2:]
        points = cell_points((size[0], size[1]), batch.size, outputs.score.device, self.offset)
        asked = [self.assign(t, points, frame) for t, frame in zip(targets, batch.frames, strict=True)]
        wanted = torch.stack([row[0] for row in asked])
        counts = torch.stack([row[1] for row in asked])[:, None].expand_as(wanted)
        own = torch.stack([row[2] for row in asked])
        learnt = own >= 0
        said = outputs.geometry.flatten(2).transpose(1, 2)[learnt]
        quads = torch.cat([row[3][cells[cells >= 0]] for row, cells in zip(asked, own, strict=True)])
        places = torch.cat([points[cells >= 0] for cells in own])
        positives = learnt.sum().clamp(min=1)
        losses = {"score": self._score_loss(outputs.score.flatten(2), wanted, counts)}
        if self.geometry == "quad":
            corners = quad_smooth_l1(self.quads(said, places), quads)
            return {**losses, "corners": self.geometry_weight * corners.sum() / positives}
        sides = rectangle_sides(places[:, None], quads)[:, 0]
        turns = 1 - torch.cos(said[:, 4] - rectangle_angles(quads))
        overlap = log_iou(said[:, :4], sides, self.smooth)
        return {
            **losses,
            "sides": self.geometry_weight * overlap.sum() / positives,
            "angle": self.geometry_weight * self.angle_weight * turns.sum() / positives,
        }

    def _score_loss(self, logits: Tensor, wanted: Tensor, counts: Tensor) -> Tensor:
        if self.score_loss == "dice":
            return dice_loss(logits.sigmoid(), wanted, counts)
        number, positives = counts.sum(), (wanted & counts).sum()
        weights = 2 * positives * (number - positives) / number.clamp(min=1)
        return balanced_cross_entropy(logits, wanted, counts).sum() / weights.clamp(min=1)


class Merge(nn.Module):
    """From coarse to fine: enlarge, join with the next map, 1x1 and 3x3 convolution; then one more (section 3.2).

    Layers are named as in SakuraRiven's version.

    Args:
        channels: Of the maps, the finest first.
        widths: Of the merged maps, the coarsest first, and of the last convolution.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        inputs, number = channels[-1], 0
        for skip, width in zip(reversed(channels[:-1]), widths[:-1], strict=True):
            self._add(number + 1, nn.Conv2d(inputs + skip, width, 1))
            self._add(number + 2, nn.Conv2d(width, width, 3, padding=1))
            inputs, number = width, number + 2
        self._add(number + 1, nn.Conv2d(inputs, widths[-1], 3, padding=1))
        self.layers = number + 1

    def _add(self, number: int, conv: nn.Conv2d) -> None:
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.add_module(f"conv{number}", conv)
        self.add_module(f"bn{number}", nn.BatchNorm2d(conv.out_channels))

    def _layer(self, number: int, x: Tensor) -> Tensor:
        return F.relu(getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x)))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, the finest first, to `[B, widths[-1], H, W]` of the finest one's size."""
        x, number = maps[-1], 0
        for skip in reversed(maps[:-1]):
            enlarged = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=True)
            x = self._layer(number + 2, self._layer(number + 1, torch.cat([enlarged, skip], 1)))
            number += 2
        return self._layer(self.layers, x)


class Output(nn.Module):
    """1x1 convolutions to scores and geometry (section 3.2): `conv1`; `conv2` and `conv3` of a rectangle's sides and
    angle, or `conv2` of corners where `unit` is given.
    """

    def __init__(
        self, inputs: int, num_classes: int, *, scope: float = 0.0, spread: float = 0.0, unit: float | None = None
    ) -> None:
        super().__init__()
        self.scope, self.spread, self.unit = scope, spread, unit
        self.conv1 = nn.Conv2d(inputs, num_classes, 1)
        self.conv2 = nn.Conv2d(inputs, 4 if unit is None else 8, 1)
        self.conv3 = nn.Conv2d(inputs, 1, 1) if unit is None else None
        for conv in (self.conv1, self.conv2, self.conv3):
            if conv is not None:
                # He's rule would fill a head of one channel so that its sigmoid starts at an end, and stays there.
                nn.init.normal_(conv.weight, std=0.01)
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        if unit is None:
            # A sixteenth of the scope: half of it, where a sigmoid starts by itself, is larger than most texts.
            nn.init.constant_(self.conv2.bias, -math.log(15))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> EASTMaps:
        """`[B, inputs, H, W]` to maps of the same size."""
        score, said = self.conv1(x).float(), self.conv2(x).float()
        if self.unit is not None or self.conv3 is None:
            return EASTMaps(score, said * (self.unit or 1.0))
        angle = (self.conv3(x).float().sigmoid() - 0.5) * self.spread
        return EASTMaps(score, torch.cat([said.sigmoid() * self.scope, angle], 1))


def east(num_classes: int, **overrides: Any) -> EAST:
    """EAST on VGG-16 with batch normalisation: a cell of 4x4 pixels, 512x512 crops."""
    return EAST(num_classes, **overrides)
