"""DenseBox: Huang, Yang, Deng, Yu, "Unifying Landmark Localization with End to End Object Detection", 2015.

https://arxiv.org/abs/1509.04874

No proposals, no anchors: a fully convolutional network says at every cell of a map of stride 4 whether it lies in the
middle of an object, and how far away the two corners of that object's box are. All losses are squared errors. Objects
are learnt at one standard height only, and found at others by a pyramid of images. Fewer cells than one in a hundred
are positive, so the loss looks at all of these and at as many negatives, half of them hard. Landmarks can be learnt
beside the boxes; a few layers then refine the score by what the landmarks say.

Trained on patches with a face of standard height in the middle. There another face counts if it is about as high as
the one in the middle; here, if it is about as high as the standard, so that losses need not know the middle. Classes
have a score map each, and share the boxes: a cell in the circles of two objects learns the nearer middle's box.

What the paper leaves open, or no source could confirm: a cell stands for its middle; a circle's radius is a share of
the *shorter* side, which is the height only of square faces, and each object has at least one cell; the ignored ring
is measured in straight lines; hard are one in a hundred of all cells of all maps of a batch; sums are divided by the
positives of the batch; there are a ReLU and dropout of one half within the branches; the refining layers' kernels (3
and 5) are those of a re-implementation; the pyramid is that of the experiment on MALF, from memory, as is the schedule.
No data set of the project has landmarks: points at fixed places of the box stand in for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.dense import cell_points, detect_cells, discs, near, owners, paint
from ops.images import Batch
from ops.patches import object_patch
from ops.sample import half_hard
from ops.structures import Detections, Target
from zoo.backbones import small
from zoo.backbones.small import SmallNet, small_body
from zoo.backbones.vgg import VGG19FourStages, vgg_batch
from zoo.detector import Detector, Recipe
from zoo.subsample import ClassChannels

__all__ = [
    "CORNERS",
    "RECIPE",
    "SMALL",
    "SMALL_RECIPE",
    "DenseBox",
    "DenseBoxMaps",
    "densebox",
]

RECIPE = Recipe(
    batch=10,
    steps=300_000,
    lr=1e-3,
    momentum=0.9,
    weight_decay=5e-4,
    milestones=(100_000, 200_000),
    augment=object_patch,
    source="section 3 (from memory): a tenth of the rate every 100,000 steps; the number of steps is ours",
)


def small_patch(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """A patch of the small size: half as large as the paper's, as is the standard height."""
    return object_patch(image, target, size=120, standard=24.0, shift=12.0)


SMALL_RECIPE = replace(small.SMALL_RECIPE, augment=small_patch)

SMALL: dict[str, Any] = {
    "backbone": "small",
    "taps": (0, 1),
    "width": 96,
    "dropout": 0.0,
    "standard": 24.0,
    "margin": 1.6,
    "scales": tuple(2.0 ** (step / 2) for step in range(-5, 3)),
    "score_floor": 0.2,
}
"""For `discs`: all lengths are about half of the paper's. Its maps, of strides 4 and 8, see 23 and 63 pixels: one
standard height and 2.6 of them, as the paper's see 48 and 116. Scales from 0.18 to 2 find heights from 10 to 170.

Discs of all heights stand side by side here, unlike faces in a crowd: were those that are a little too small or too
large background, they would be most of what is hard."""

CORNERS = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
"""Landmarks at the corners of the box, as on a licence plate."""

_PYRAMID = tuple(2.0 ** (0.3 * step) for step in range(-10, 5))


class DenseBoxMaps(NamedTuple):
    """What is said at one scale.

    Attributes:
        score: `[B, C, H, W]`; about 1 near an object's middle, about 0 elsewhere. Refined where there are landmarks.
        corners: `[B, 4, H, W]`, the cell's place less the upper left corner's, and less the lower right one's, `(x, y)`
            each, in standard heights.
        first: `[B, C, H, W]`, the score before it was refined, or None.
        landmarks: `[B, N, H, W]`, about 1 near each landmark, or None.
    """

    score: Tensor
    corners: Tensor
    first: Tensor | None = None
    landmarks: Tensor | None = None


class DenseBox(Detector):
    """DenseBox.

    `network` gives a list of `DenseBoxMaps`, one a scale; with targets, that of the image's own scale.

    Args:
        num_classes: Foreground classes C.
        backbone: VGG-19's first four stages, or the zoo's small network.
        taps: Which two of the backbone's maps are joined, at the size of the first (section 3.2: conv3_4 and conv4_4).
        width: Hidden channels of a branch (section 3.2).
        dropout: Within a branch.
        landmarks: Places of landmarks in a box, `(x, y)` from 0 to 1; none leaves out what section 3.4 adds.
        landmark_radius: Of the positive circle about a landmark, in cells.
        standard: Height of an object that is learnt, in pixels (section 3.2).
        heights: Objects are learnt whose height is between these shares of the standard, others are background
            (section 3.2); None learns all.
        margin: Objects beyond these heights by up to this factor are neither learnt nor background; 1, in the paper.
        circle: Radius of the positive circle, a share of the box's shorter side (section 3.2).
        ring: Negatives at most so many cells from a positive are ignored (section 3.2).
        mining: Learn from all positives and as many negatives; else from all cells that are not ignored (section 3.3).
        hard_share: Of all cells; so many negatives of largest loss are hard.
        fewest: Where a batch has fewer positives, so many negatives are learnt, and sums divided by so many.
        box_weight: Of the corners' loss (section 3.3).
        landmark_weight: Of the landmarks' loss (section 3.4).
        scales: Of the image, at which it is looked at when no targets are given.
        score_floor: Least score of a detection.
        nms: IoU above which the lesser detection of a class goes.
        before: Most candidates that enter suppression.
        limit: Most detections an image.

    Attributes:
        places: `[N, 2]`, the landmarks' places in a box.
    """

    places: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Literal["vgg19", "small"] = "vgg19",
        taps: tuple[int, int] = (2, 3),
        width: int = 512,
        dropout: float = 0.5,
        landmarks: Sequence[tuple[float, float]] = (),
        landmark_radius: float = 1.0,
        standard: float = 50.0,
        heights: tuple[float, float] | None = (0.8, 1.25),
        margin: float = 1.0,
        circle: float = 0.3,
        ring: float = 2.0,
        mining: bool = True,
        hard_share: float = 0.01,
        fewest: int = 72,
        box_weight: float = 3.0,
        landmark_weight: float = 0.5,
        scales: Sequence[float] = _PYRAMID,
        score_floor: float = 0.3,
        nms: float = 0.5,
        before: int = 1000,
        limit: int = 100,
    ) -> None:
        super().__init__(num_classes)
        self.body: VGG19FourStages | SmallNet = VGG19FourStages() if backbone == "vgg19" else small_body(taps[1])
        self.taps, self.divisor = taps, self.body.strides[taps[1]]
        self.standard, self.heights, self.margin, self.circle, self.ring = standard, heights, margin, circle, ring
        self.mining, self.hard_share, self.fewest = mining, hard_share, fewest
        self.box_weight, self.landmark_weight, self.landmark_radius = box_weight, landmark_weight, landmark_radius
        self.scales, self.score_floor, self.nms = tuple(scales), score_floor, nms
        self.before, self.limit = before, limit

        channels = sum(self.body.channels[tap] for tap in taps)
        self.score = _branch(channels, width, num_classes, dropout)
        self.corners = _branch(channels, width, 4, dropout)
        self.landmarks = _branch(channels, width, len(landmarks), dropout) if landmarks else None
        self.refine = _refine(num_classes + len(landmarks), num_classes) if landmarks else None
        self.register_buffer("places", torch.tensor(landmarks).reshape(-1, 2), persistent=False)

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: one map each, in the last layer of the score's branch.

        Raises:
            ValueError: Further layers read that map.
        """
        if self.refine is not None:
            raise ValueError("densebox: classes cannot be cut out where landmarks refine their scores")
        return {f"score.3.{part}": ClassChannels() for part in ("weight", "bias")}

    def preprocess(self, images: list[Tensor]) -> Batch:
        """At their own size; bytes less VGG's mean."""
        return vgg_batch(images, self.divisor)

    def num_boxes(self, size: tuple[int, int]) -> int:
        """Cells at the image's own scale."""
        stride = self.body.strides[self.taps[0]]
        return -(-size[0] // stride) * -(-size[1] // stride)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> list[DenseBoxMaps]:
        """Maps of every scale, or given targets of scale 1 only."""
        if targets is not None:
            return [self.maps(batch.pixels)]
        answers = []
        for scale in self.scales:
            size = [max(1, round(side * scale / self.divisor)) * self.divisor for side in batch.size]
            same = tuple(size) == batch.size
            answers.append(self.maps(batch.pixels if same else F.interpolate(batch.pixels, size, mode="bilinear")))
        return answers

    def network_for_cost(self, batch: Batch) -> list[DenseBoxMaps]:
        """One scale, as the paper's patches have."""
        return [self.maps(batch.pixels)]

    def maps(self, pixels: Tensor) -> DenseBoxMaps:
        """Maps of `[B, 3, H, W]`."""
        maps = self.body(pixels.contiguous(memory_format=torch.channels_last))
        fine, coarse = (maps[tap] for tap in self.taps)
        joined = torch.cat([fine, F.interpolate(coarse, fine.shape[-2:], mode="bilinear")], 1)
        score, corners = self.score(joined).float(), self.corners(joined).float()
        if self.landmarks is None or self.refine is None:
            return DenseBoxMaps(score, corners)
        landmarks = self.landmarks(joined).float()
        refined = self.refine(torch.cat([score, landmarks], 1))
        refined = F.interpolate(refined.float(), fine.shape[-2:], mode="bilinear")
        return DenseBoxMaps(refined, corners, score, landmarks)

    def decode(self, corners: Tensor, points: Tensor) -> Tensor:
        """Boxes `[B, P, 4]` from corners `[B, 4, H, W]` of cells at `points` `[P, 2]`."""
        return points.repeat(1, 2) - self.standard * corners.flatten(2).transpose(1, 2)

    def postprocess(self, outputs: list[DenseBoxMaps], batch: Batch) -> list[Detections]:
        """Boxes of all scales, suppressed together (section 3.1)."""
        boxes, scores, places = [], [], []
        for maps in outputs:
            height, width = maps.score.shape[-2:]
            stride = self.body.strides[self.taps[0]]
            # What the network saw, and in it the pixels of the batch.
            seen = (height * stride, width * stride)
            points = cell_points((height, width), seen, maps.score.device)
            ratio = points.new_tensor([batch.size[1] / seen[1], batch.size[0] / seen[0]])
            boxes.append(self.decode(maps.corners, points) * ratio.repeat(2))
            scores.append(maps.score.flatten(2).transpose(1, 2))
            places.append(points * ratio)
        return detect_cells(
            torch.cat(boxes, 1),
            torch.cat(scores, 1),
            torch.cat(places),
            batch.frames,
            score_floor=self.score_floor,
            nms_iou=self.nms,
            before=self.before,
            limit=self.limit,
        )

    def assign(self, target: Target, points: Tensor, stride: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What one image's objects ask of the cells at `points`, which lie `stride` pixels apart.

        Returns:
            Positive cells of each class, bool `[C, P]`; of each landmark, bool `[N, P]`; the object whose box a cell
            learns, int64 `[P]`, -1 for none; that box's corners `[P, 4]`.
        """
        target = target[self._of_height(target, 1.0)]
        low, high = target.boxes[:, :2], target.boxes[:, 2:]
        inside, away = self._circles(target, points, stride)
        own = owners(inside, away)
        marks = (low[:, None] + self.places * (high - low)[:, None]).flatten(0, 1)
        marked, _ = discs(marks, torch.full_like(marks[:, 0], self.landmark_radius * stride), points, stride)
        kinds = torch.arange(len(self.places), device=points.device).repeat(len(target))
        owned = target.boxes[own.clamp(min=0)] if len(target) else points.new_zeros((len(points), 4))
        corners = (points.repeat(1, 2) - owned) / self.standard
        return paint(inside, target.labels, self.num_classes), paint(marked, kinds, len(self.places)), own, corners

    def spared(self, target: Target, points: Tensor, stride: float) -> Tensor:
        """Cells of one image's objects that are nearly of a height that is learnt, bool `[P]`: no background."""
        nearly = self._of_height(target, self.margin) & ~self._of_height(target, 1.0)
        return self._circles(target[nearly], points, stride)[0].any(0)

    def _of_height(self, target: Target, margin: float) -> Tensor:
        if self.heights is None:
            return torch.ones_like(target.ignore)
        shares = (target.boxes[:, 3] - target.boxes[:, 1]) / self.standard
        return (shares > self.heights[0] / margin - 1e-3) & (shares < self.heights[1] * margin + 1e-3)

    def _circles(self, target: Target, points: Tensor, stride: float) -> tuple[Tensor, Tensor]:
        low, high = target.boxes[:, :2], target.boxes[:, 2:]
        return discs((low + high) / 2, self.circle * (high - low).amin(1), points, stride)

    def losses(self, outputs: list[DenseBoxMaps], batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Squared errors of scores, corners and landmarks, each over the positives of its own (sections 3.3, 3.4)."""
        maps = outputs[0]
        size = maps.score.shape[-2:]
        points = cell_points((size[0], size[1]), batch.size, maps.score.device)
        stride = batch.size[1] / size[1]
        asked = [self.assign(target, points, stride) for target in targets]
        spared = torch.stack([self.spared(target, points, stride) for target in targets]).unflatten(-1, size)[:, None]
        positive, marked = (torch.stack([row[which] for row in asked]).unflatten(-1, size) for which in (0, 1))
        own, corners = torch.stack([row[2] for row in asked]), torch.stack([row[3] for row in asked])
        learnt = own >= 0
        error = (maps.corners.flatten(2).transpose(1, 2)[learnt] - corners[learnt]).square().sum()
        first = maps.score if maps.first is None else maps.first
        losses = {
            "score": self._score_loss(first, positive, spared),
            "box": self.box_weight * error / learnt.sum().clamp(min=1),
        }
        if maps.landmarks is not None:
            losses["landmarks"] = self.landmark_weight * self._score_loss(maps.landmarks, marked)
            losses["refined"] = self._score_loss(maps.score, positive, spared)
        return losses

    def _score_loss(self, score: Tensor, positive: Tensor, spared: Tensor | None = None) -> Tensor:
        errors = (score - positive.float()).square()
        free = ~near(positive if spared is None else positive | spared, self.ring)
        count = max(int(positive.sum()), self.fewest)
        chosen = half_hard(errors, free, count, self.hard_share) if self.mining else free
        return errors[chosen | positive].sum() / count


def _branch(inputs: int, width: int, outputs: int, dropout: float) -> nn.Sequential:
    layers = nn.Conv2d(inputs, width, 1), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Conv2d(width, outputs, 1)
    return _xavier(nn.Sequential(*layers))


def _refine(inputs: int, outputs: int) -> nn.Sequential:
    """From maps of scores and landmarks to scores at half their size (section 3.4)."""
    return _xavier(
        nn.Sequential(
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(inputs, 64, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, outputs, 1),
        )
    )


def _xavier(layers: nn.Sequential) -> nn.Sequential:
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layers


def densebox(num_classes: int, **overrides: Any) -> DenseBox:
    """DenseBox on VGG-19: a cell of 4x4 pixels, 240x240 patches; `landmarks` adds the second task."""
    return DenseBox(num_classes, **overrides)
