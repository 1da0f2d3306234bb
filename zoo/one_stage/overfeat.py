"""OverFeat, from Pierre Sermanet, David Eigen, Xiang Zhang, Michaël Mathieu, Rob Fergus and Yann LeCun, "OverFeat:
Integrated Recognition, Localization and Detection using Convolutional Networks" (2013, ICLR 2014,
https://arxiv.org/abs/1312.6229).

A network for classification is slid over the image at several scales; as convolutions, its fully connected layers see
all windows in one pass. The last pooling is done at every offset, so that windows lie three times (fast: twice) as
dense as the network's stride. Beside the classifier, a regressor on the same maps says where in its window the object
ends. Boxes of all windows and scales are not suppressed but merged, and their scores added up (4.3).

`overfeat_fast` and `overfeat_accurate` are the networks of tables 1 and 3. The release holds no code for training, and
none for boxes. Where the paper is silent, and otherwise than there: classifier and regressor learn together, where the
paper trains the regressor alone on maps that stay as they are; a window learns an object's class from where its box is
learnt, an IoU of one half, and the best window of each object always; windows of an IoU from 0.3 to 0.5 teach nothing;
for each positive the three most offending negatives are learnt (5: "a few"); edges are learnt as distances from the
window's own, in its sides; the match score of two boxes has units of ours (`ops.merge`). Scales are given by the
shorter side, and all but the largest are made from it. Colours are taken together: one mean and one deviation, which we
have from memory. Dropout stands in front of the second and third layer, the release's 6 and 7.

The small size has a chain of its own of this kind with batch normalisation, over windows of 16 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, clip_boxes_to_image

from ops.anchors import grid_anchors
from ops.images import Batch, normalise, resize_short_side, stack
from ops.match import BETWEEN, threshold_match
from ops.merge import classwise_merge
from ops.sample import hardest
from ops.structures import Detections, Target
from zoo.backbones import small
from zoo.backbones.alexnet import start_layers
from zoo.detector import Detector, Recipe
from zoo.two_stage.fast_rcnn import flip_half

__all__ = [
    "ACCURATE",
    "FAST",
    "RECIPE",
    "SMALL",
    "SMALL_FAST",
    "SMALL_RECIPE",
    "Layer",
    "OverFeat",
    "OverFeatOutputs",
    "overfeat_accurate",
    "overfeat_fast",
]

RECIPE = Recipe(
    batch=128,
    steps=900_000,
    lr=0.05,
    momentum=0.6,
    weight_decay=1e-5,
    milestones=(300_000, 500_000, 600_000, 700_000, 800_000),
    gamma=0.5,
    augment=flip_half,
    source="section 3.2: halved after 30, 50, 60, 70 and 80 epochs of ImageNet; the last ten are ours",
)
SMALL_RECIPE = small.SMALL_RECIPE

Layer = tuple[int, int, int, int]
"""Of the chain: channels, kernel, stride, padding; a pooling has 0 channels."""

FAST: tuple[Layer, ...] = (
    (96, 11, 4, 0),
    (0, 2, 2, 0),
    (256, 5, 1, 0),
    (0, 2, 2, 0),
    (512, 3, 1, 1),
    (1024, 3, 1, 1),
    (1024, 3, 1, 1),
)
"""Table 1, up to the last pooling."""

ACCURATE: tuple[Layer, ...] = (
    (96, 7, 2, 0),
    (0, 3, 3, 0),
    (256, 7, 1, 0),
    (0, 2, 2, 0),
    (512, 3, 1, 1),
    (512, 3, 1, 1),
    (1024, 3, 1, 1),
    (1024, 3, 1, 1),
)
"""Table 3, up to the last pooling."""

SMALL: dict[str, Any] = {
    "layers": ((16, 3, 2, 1), (32, 3, 2, 1), (40, 3, 1, 1), (40, 3, 1, 1)),
    "normalised": True,
    "pool": 2,
    "kernel": 2,
    "window": 16,
    "hidden": (64, 64),
    "box_hidden": (48, 48),
    "dropout": 0.0,
    "box_weight": 10.0,
    "sides": (20, 28, 40, 56, 80, 113, 160),
    "longest": 160,
}
"""For `shapes`: windows of 16 to 128 px, each scale half an octave from the next."""

SMALL_FAST: dict[str, Any] = {
    **SMALL,
    "layers": ((16, 3, 2, 1), (32, 3, 2, 1), (48, 3, 1, 1)),
    "hidden": (48, 64),
}


@dataclass(frozen=True)
class OverFeatOutputs:
    """What is said of every window of every scale, the smallest scale first.

    Attributes:
        logits: `[B, N, 1 + C]`, background first.
        edges: `[B, N, 4]`, or `[B, N, C, 4]` where classes have regressors of their own: how far each edge of the box
            lies from the window's, in sides of the window.
        windows: `[N, 4]` in network pixels.
        sizes: Windows of each scale.
    """

    logits: Tensor
    edges: Tensor
    windows: Tensor
    sizes: tuple[int, ...]


class OverFeat(Detector):
    """A classifier and a regressor slid over the image."""

    def __init__(
        self,
        num_classes: int,
        *,
        layers: Sequence[Layer] = ACCURATE,
        normalised: bool = False,
        pool: int = 3,
        kernel: int = 5,
        window: int = 221,
        hidden: Sequence[int] = (4_096, 4_096),
        box_hidden: Sequence[int] = (4_096, 1_024),
        dropout: float = 0.5,
        class_wise: bool = False,
        overlap: Sequence[float] = (0.3, 0.5),
        negatives: float = 3.0,
        box_weight: float = 1.0,
        sides: Sequence[int] = (245, 281, 317, 389, 425, 461),
        longest: int = 768,
        mean: float = 118.380948,
        std: float = 61.896913,
        score_floor: float = 0.05,
        merge: float = 0.7,
        before: int = 100,
        limit: int = 100,
    ) -> None:
        """Build the chain, and both heads as convolutions.

        Args:
            num_classes: Foreground classes.
            layers: Up to the last pooling.
            normalised: Batch normalisation behind convolutions instead of biases. A step's statistics are those of all
                scales together.
            pool: Side of the last pooling, done at each of its offsets (3.3).
            kernel: Pooled cells along a window's side.
            window: Side of the input that has one window (tables 1 and 3).
            hidden: Channels of the classifier's two layers before its last.
            box_hidden: Likewise of the regressor (4.1).
            dropout: In the classifier (3.2).
            class_wise: Whether each class has a regressor of its own; all in common is better (figure 9).
            overlap: A window of an IoU below the first is background; from the second on it has an object (4.2).
            negatives: How many a positive.
            box_weight: Of the box loss.
            sides: Shorter sides of the image, a scale each (table 5 has the sizes).
            longest: No image is larger than this in the largest scale.
            mean: Of all colours, in bytes.
            std: Likewise their deviation.
            score_floor: A window's class must score more.
            merge: Match score up to which boxes merge (4.3).
            before: Windows of a class that are merged, those that score most.
            limit: Most detections an image.
        """
        super().__init__(num_classes)
        chain: list[nn.Module] = []
        channels, step = 3, 1
        for outputs, side, stride, padding in layers:
            step *= stride
            if outputs == 0:
                chain.append(nn.MaxPool2d(side, stride))
                continue
            chain.append(nn.Conv2d(channels, outputs, side, stride, padding, bias=not normalised))
            chain += [nn.BatchNorm2d(outputs)] if normalised else []
            chain.append(nn.ReLU())
            channels = outputs
        self.features = nn.ModuleList(chain)
        self.pool, self.step, self.window = pool, step, window
        boxes = 4 * (num_classes if class_wise else 1)
        self.classifier = _head(channels, kernel, pool, hidden, num_classes + 1, dropout)
        self.regressor = _head(channels, kernel, pool, box_hidden, boxes, 0.0)
        start_layers(self)
        for head in (self.classifier, self.regressor):
            nn.init.normal_(head.get_parameter(f"{len(head) - 1}.weight"), std=0.01)
        self.class_wise = class_wise
        self.overlap, self.negatives, self.box_weight = tuple(overlap), negatives, box_weight
        self.sides, self.longest = tuple(sorted(sides)), longest
        self.mean, self.std = mean, std
        self.score_floor, self.merge, self.before, self.limit = score_floor, merge, before, limit

    def preprocess(self, images: list[Tensor]) -> Batch:
        """The largest scale, padded with the mean colour to a whole number of windows."""
        colours = [normalise(image, (self.mean,) * 3, (self.std,) * 3, peak=255.0) for image in images]
        batch = stack([resize_short_side(image, self.sides[-1], self.longest) for image in colours])
        return Batch(self._fill(batch.pixels), batch.frames)

    def _fill(self, pixels: Tensor) -> Tensor:
        """Pad at the bottom and right to the next size that windows fill: `window + n * step`."""
        height, width = pixels.shape[-2:]
        down, across = (max(0, -(-(side - self.window) // self.step)) * self.step for side in (height, width))
        return F.pad(pixels, (0, self.window + across - width, 0, self.window + down - height))

    def network(self, batch: Batch, targets: list[Target] | None = None) -> OverFeatOutputs:
        """Classes and edges of every window of every scale."""
        factors = [side / self.sides[-1] for side in self.sides]
        maps = [self._fill(self._scaled(batch.pixels, factor)) for factor in factors]
        for layer in self.features:
            maps = _normed(layer, maps) if isinstance(layer, nn.BatchNorm2d) else [layer(x) for x in maps]
        # A pooling of stride 1, and kernels that skip what it repeats: every offset at once, in its place.
        maps = [F.max_pool2d(x, self.pool, 1) for x in maps]
        logits, edges = ([head(x) for x in maps] for head in (self.classifier, self.regressor))
        windows = [self._windows(x, factor) for x, factor in zip(logits, factors, strict=True)]
        answers = torch.cat([x.flatten(2) for x in edges], 2).transpose(1, 2)
        return OverFeatOutputs(
            torch.cat([x.flatten(2) for x in logits], 2).transpose(1, 2),
            answers.unflatten(2, (self.num_classes, 4)) if self.class_wise else answers,
            torch.cat(windows),
            tuple(len(rows) for rows in windows),
        )

    def _scaled(self, pixels: Tensor, factor: float) -> Tensor:
        if factor == 1:
            return pixels
        size = [max(1, round(int(side) * factor)) for side in pixels.shape[-2:]]
        return F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)

    def _windows(self, x: Tensor, factor: float) -> Tensor:
        """Where in network pixels the windows of one scale lie, `[N, 4]`."""
        shape = x.new_tensor([[0.0, 0.0, self.window, self.window]], dtype=torch.float32)
        return grid_anchors(shape, (int(x.shape[-2]), int(x.shape[-1])), (self.step, self.step), offset=0.0) / factor

    def boxes(self, outputs: OverFeatOutputs) -> Tensor:
        """`[B, N, 4]` or `[B, N, C, 4]` in network pixels."""
        windows = outputs.windows[:, None] if self.class_wise else outputs.windows
        sides = (windows[..., 2:] - windows[..., :2]).repeat_interleave(2, -1)
        return windows + outputs.edges.float() * sides

    def postprocess(self, outputs: OverFeatOutputs, batch: Batch) -> list[Detections]:
        """Merge the boxes of each class over all scales, and add their scores up (4.3)."""
        answers = []
        scores = outputs.logits.float().softmax(-1)[..., 1:]
        for boxes, score, frame in zip(self.boxes(outputs), scores, batch.frames, strict=True):
            low, high = torch.minimum(boxes[..., :2], boxes[..., 2:]), torch.maximum(boxes[..., :2], boxes[..., 2:])
            inside = clip_boxes_to_image(torch.cat([low, high], -1), frame.inner)
            merged, sums, labels = classwise_merge(
                inside, score, threshold=self.merge, score_floor=self.score_floor, before=self.before
            )
            answers.append(Detections.ranked(frame.to_image(merged), sums, labels, self.limit))
        return answers

    def class_scores(self, outputs: OverFeatOutputs) -> Tensor:
        """What the whole image shows, `[B, C]`: the largest score of each scale, and the mean over scales (3.3)."""
        scores = outputs.logits.float().softmax(-1)[..., 1:].split(outputs.sizes, 1)
        return torch.stack([scale.amax(1) for scale in scores]).mean(0)

    def losses(self, outputs: OverFeatOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Cross entropy of positives and of the most offending negatives; squared error of the edges (4.2, 5)."""
        windows, logits = outputs.windows, outputs.logits.float()
        low, high = self.overlap
        matches = torch.stack([threshold_match(box_iou(t.boxes, windows), low, high, rescue=True) for t in targets])
        classes, wanted = torch.zeros_like(matches), []
        sides = (windows[:, 2:] - windows[:, :2]).repeat_interleave(2, -1)
        for row, match, target in zip(classes, matches, targets, strict=True):
            rows = (match >= 0).nonzero()[:, 0]
            row[rows] = 1 + target.labels[match[rows]]
            wanted.append((target.boxes[match[rows]] - windows[rows]) / sides[rows])
        positive = classes > 0
        known = logits.detach()
        # An image without objects has something to say too.
        counts = (positive.sum(1) * self.negatives).clamp(min=self.negatives).long()
        chosen = hardest(known.logsumexp(-1) - known[..., 0], ~positive & (matches != BETWEEN), counts)
        count = positive.sum().clamp(min=1)
        learnt = positive | chosen
        edges = outputs.edges.float()[positive]
        if self.class_wise:
            edges = edges[torch.arange(len(edges), device=edges.device), classes[positive] - 1]
        box = 0.5 * (edges - torch.cat(wanted)).square().sum()
        return {
            "class": F.cross_entropy(logits[learnt], classes[learnt], reduction="sum") / count,
            "box": self.box_weight * box / count,
        }

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of windows at every offset for an input `(H, W)` of one scale; 0 where none fits."""
        rows, columns = (max(0, (side - self.window) // self.step + 1) for side in size)
        return rows, columns

    def num_boxes(self, size: tuple[int, int]) -> int:
        """Windows over all scales, where the largest has this size."""
        count = 0
        for side in self.sides:
            pixels = (max(1, round(s * side / self.sides[-1])) for s in size)
            rows, columns = (max(0, -(-(s - self.window) // self.step)) + 1 for s in pixels)
            count += rows * columns
        return count


def _head(inputs: int, kernel: int, pool: int, hidden: Sequence[int], outputs: int, dropout: float) -> nn.Sequential:
    """Connected layers over `kernel` x `kernel` pooled cells, as convolutions over a map pooled at every offset."""
    first, second = hidden
    return nn.Sequential(
        nn.Conv2d(inputs, first, kernel, dilation=pool),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(first, second, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(second, outputs, 1),
    )


def _normed(norm: nn.Module, maps: list[Tensor]) -> list[Tensor]:
    """Batch normalisation with statistics over maps of all sizes."""
    joint = norm(torch.cat([x.flatten(2) for x in maps], 2)[..., None])[..., 0]
    parts = joint.split([x.shape[-2] * x.shape[-1] for x in maps], 2)
    return [part.unflatten(2, x.shape[-2:]) for part, x in zip(parts, maps, strict=True)]


def overfeat_fast(num_classes: int, **overrides: Any) -> OverFeat:
    """The fast network: windows of 231 px, 16 apart. With 1,000 outputs, 145,920,872 parameters and the regressor's."""
    own = {"layers": FAST, "pool": 2, "kernel": 6, "window": 231, "hidden": (3_072, 4_096)}
    return OverFeat(num_classes, **{**own, **overrides})


def overfeat_accurate(num_classes: int, **overrides: Any) -> OverFeat:
    """The accurate one: windows of 221 px, 12 apart. With 1,000 outputs, 144,656,488 parameters and the regressor's."""
    return OverFeat(num_classes, **overrides)
