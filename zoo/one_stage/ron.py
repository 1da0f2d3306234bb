"""RON: Reverse Connection with Objectness Prior Networks for Object Detection. Tao Kong, Fuchun Sun, Anbang Yao,
Huaping Liu, Ming Lu, Yurong Chen. CVPR 2017.

https://arxiv.org/abs/1707.01691

Four maps of a backbone detect, each with heads of its own. What a coarse map knows is handed down: it is enlarged by a
learned deconvolution and added to the next finer one, so that fine maps know what coarse ones do (the reverse
connection). At every place of every map a first head says whether an anchor holds any object at all; only where it does
is the class learnt and asked, and the score of a detection is the product of both answers (the objectness prior). Boxes
move alike for all classes. Positives and negatives are drawn one to three, over the batch, level by level.

Where paper and released code differ, this is the code: the three losses are added up as they are (the paper weights
each by a third); class negatives need not overlap any object while objectness negatives must. Otherwise than the code:
right and lower edges of boxes are continuous; images are resized with torch's pixel centres; at most 400 candidates a
class enter suppression; the recipe's augmentation is SSD's, from which the authors' differs in crops and in expansion
(twice at most, on shuffled pixels); an image without objects, which the code cannot read, gives class negatives only;
and a decoded size is bounded, so that an untrained network cannot overflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from ops.anchors import caffe_shapes, grid_anchors
from ops.augment import ssd_augment
from ops.coders import CenterSizeCoder
from ops.images import Batch, normalise, stack, warp
from ops.nms import classwise_nms
from ops.sample import balanced_sample
from ops.structures import Detections, Target
from zoo.backbones import small
from zoo.backbones.small import SmallNet
from zoo.backbones.vgg import vgg16_layers
from zoo.detector import Detector, Recipe
from zoo.subsample import ClassChannels

__all__ = ["RECIPE", "RON", "SMALL", "SMALL_384", "SMALL_RECIPE", "RONOutputs", "ron320_vgg16", "ron384_vgg16"]

RECIPE = Recipe(
    batch=20,
    steps=120_000,
    lr=1e-3,
    momentum=0.9,
    weight_decay=5e-4,
    bias_lr=2.0,
    milestones=(90_000,),
    augment=ssd_augment,
    source="the released train_voc.sh and solver.prototxt, for VOC 2007 + 2012, from ImageNet weights",
)
SMALL_RECIPE = small.SMALL_RECIPE

SMALL: dict[str, Any] = {
    "size": 160,
    "backbone": "small",
    "width": 24,
    "hidden": 24,
    "mixed": 16,
    "base": 10,
    "scales": ((1.0, 1.4), (2.0, 2.8), (4.0, 5.6), (8.0, 11.3)),
    "ratios": ((1.0,), (0.5, 1.0, 2.0), (0.5, 1.0, 2.0), (0.5, 1.0, 2.0)),
    "min_side": 3.0,
}
SMALL_384: dict[str, Any] = {**SMALL, "size": 192, "base": 12}


@dataclass(frozen=True)
class RONOutputs:
    """What the network says of every anchor, the finest level first.

    Attributes:
        objectness: `[B, N, 2]`, background first.
        offsets: `[B, N, 4]`, as `CenterSizeCoder` codes them.
        logits: `[B, N, 1 + C]`, background first.
        anchors: `[N, 4]` in network pixels.
        counts: Anchors of each level.
    """

    objectness: Tensor
    offsets: Tensor
    logits: Tensor
    anchors: Tensor
    counts: tuple[int, ...]


class RON(Detector):
    """RON over a backbone of four maps.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input; a multiple of the coarsest level's stride.
        backbone: VGG-16 with its fully connected layers as convolutions (section 3.1), the same thinned out as in the
            released "reduced" model, or the small one that small sizes share.
        width: Channels of the maps that the heads read (section 3.2).
        hidden: Channels between in the objectness and box heads.
        mixed: Channels of each of the two convolutions that are put side by side in the class head (section 3.4).
        kernel: Side of the convolutions of reverse connections and of hidden ones in objectness and box heads.
        base: Side of the anchor of scale 1; None is a tenth of the input, rounded down (section 3.3).
        scales: Anchor sides of each level as multiples of `base`, the finest level first.
        ratios: Height over width of each level's anchors.
        border: How far an anchor may reach over the image's border and still be learnt, as a share of its level's
            stride.
        overlap: Objectness: over the first and under the second IoU an anchor is a negative, from the third a positive.
        rescue: An object's best anchor of a level is a positive too where its IoU is over this.
        class_overlap: Classes: under the first IoU an anchor is a negative, from the second a positive.
        class_rescue: As `rescue`, for classes.
        objectness: Whether an anchor's objectness is learnt and asked. If not, each counts as an object: classes learn
            at all anchors, and score alone, so that what the prior is worth can be seen.
        objectness_floor: Anchors of less objectness learn no class, and, at test, give no detection (section 3.4).
        negatives: Negatives a positive, level by level over the batch (section 3.5).
        quotas: Negatives of each level where it has no positive.
        score_floor: Least score of a detection.
        nms_iou: IoU above which the lesser detection of a class goes.
        min_side: Least side of a detection in pixels of the image.
        min_aspect: Least ratio of a detection's shorter side to its longer one.
        before_per_class: Candidates of a class that enter suppression.
        limit_per_class: Most detections of a class in an image.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        size: int = 320,
        backbone: Literal["vgg16", "vgg16_reduced", "small"] = "vgg16",
        width: int = 512,
        hidden: int = 512,
        mixed: int = 512,
        kernel: int = 3,
        base: int | None = None,
        scales: Sequence[Sequence[float]] = ((1, 2), (3, 4), (5, 6), (7, 8)),
        ratios: Sequence[Sequence[float]] = ((0.333, 0.5, 1, 2, 3),) * 4,
        border: float = 0.5,
        overlap: tuple[float, float, float] = (0.001, 0.3, 0.5),
        rescue: float = 0.1,
        class_overlap: tuple[float, float] = (0.3, 0.6),
        class_rescue: float = 0.3,
        objectness: bool = True,
        objectness_floor: float = 0.03,
        negatives: int = 3,
        quotas: Sequence[int] = (512, 512, 256, 256),
        score_floor: float = 0.01,
        nms_iou: float = 0.4,
        min_side: float = 10.0,
        min_aspect: float = 0.167,
        before_per_class: int | None = 400,
        limit_per_class: int = 80,
    ) -> None:
        super().__init__(num_classes)
        self.backbone = SmallNet() if backbone == "small" else _VGG16Convolutions(reduced=backbone == "vgg16_reduced")
        self.strides = (*self.backbone.strides[:-1], 2 * self.backbone.strides[-2])
        self.resize(size)
        self.border, self.overlap, self.rescue = border, overlap, rescue
        self.class_overlap, self.class_rescue = class_overlap, class_rescue
        self.objectness = objectness
        self.objectness_floor, self.negatives, self.quotas = objectness_floor, negatives, tuple(quotas)
        self.score_floor, self.nms_iou = score_floor, nms_iou
        self.min_side, self.min_aspect = min_side, min_aspect
        self.before_per_class, self.limit_per_class = before_per_class, limit_per_class
        self.coder = CenterSizeCoder()

        if not len(scales) == len(ratios) == len(quotas) == len(self.strides):
            raise ValueError(
                f"{len(self.strides)} levels need as many scales, ratios and quotas, "
                f"got {len(scales)}, {len(ratios)} and {len(quotas)}"
            )
        base = size // 10 if base is None else base
        # The authors' cell has its corner at a multiple of the stride, and its anchors the middle of the base box.
        shapes = [caffe_shapes(base, r, s) + base / 2 for r, s in zip(ratios, scales, strict=True)]
        self.shapes_per_cell = tuple(len(shape) for shape in shapes)
        for level, shape in enumerate(shapes):
            self.register_buffer(f"shapes{level}", shape, persistent=False)

        halves = self.backbone.strides[-1] < self.strides[-1]
        self.lateral = nn.ModuleList(_conv_bn_relu(inputs, width, kernel) for inputs in self.backbone.channels[:-1])
        coarsest = self.backbone.channels[-1]
        self.lateral.append(_conv_bn_relu(coarsest, width, 2, 2) if halves else _conv_bn_relu(coarsest, width, kernel))
        self.reverse = nn.ModuleList(nn.ConvTranspose2d(width, width, 2, 2) for _ in self.strides[1:])
        self.heads = nn.ModuleList(_Head(width, hidden, mixed, kernel, n, num_classes) for n in self.shapes_per_cell)
        for module in (*self.lateral.modules(), *self.heads.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for module in self.reverse:
            assert isinstance(module, nn.ConvTranspose2d)
            nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def resize(self, size: int | tuple[int, int]) -> None:
        """Change the input; anchors keep their shapes.

        Raises:
            ValueError: A side is no multiple of the coarsest level's stride.
        """
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 1 or height % self.strides[-1] or width % self.strides[-1]:
            raise ValueError(f"size must be a multiple of {self.strides[-1]}, the coarsest level's stride; got {size}")
        self.size = (height, width)

    def num_boxes(self, size: tuple[int, int]) -> int:
        """Anchors over all levels."""
        return sum(
            n * (size[0] // stride) * (size[1] // stride)
            for n, stride in zip(self.shapes_per_cell, self.strides, strict=True)
        )

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: behind the background, each with all anchors of its cell."""
        return {
            f"heads.{level}.classes.2.{part}": ClassChannels(leading=1, inner=anchors)
            for level, anchors in enumerate(self.shapes_per_cell)
            for part in ("weight", "bias")
        }

    def caffe_names(self) -> dict[str, str | tuple[str, ...]]:
        """Modules as the released models call them; see `zoo.formats.caffe`.

        Raises:
            ValueError: The backbone is not VGG-16.
        """
        if not isinstance(self.backbone, _VGG16Convolutions):
            raise ValueError(f"Caffe's models of RON have VGG-16, not {type(self.backbone).__name__}")
        names: dict[str, str | tuple[str, ...]] = {}
        for layer in ("fc6", "fc7"):
            names[f"backbone.{layer}"] = layer if self.backbone.reduced else f"{layer}-conv"
        for name, module in self.backbone.stages.named_modules():
            if isinstance(module, nn.Conv2d):
                names[f"backbone.stages.{name}"] = name.rpartition(".")[2]
        # The authors number levels by the stage of VGG-16 that they come from: 4 is the finest.
        for level in range(4):
            k = level + 4
            norm = f"lrn{k}" if k == 7 else f"lrn{k}_1"
            names[f"lateral.{level}.0"] = f"rpn_conv{k}"
            names[f"lateral.{level}.1"] = (f"rpn_{norm}", f"scale_{norm}")
            if level < 3:
                names[f"reverse.{level}"] = f"rpn_lrn{k + 1}_d"
            for ours, hidden, last in (
                ("objectness", f"rpn_cls_score_{k}a", f"rpn_cls_score_{k}"),
                ("boxes", f"rpn_bbox_{k}a", f"rpn_bbox_pred_{k}"),
            ):
                names[f"heads.{level}.{ours}.0.0"] = hidden
                names[f"heads.{level}.{ours}.0.1"] = (f"{hidden}_bn", f"{hidden}_scale")
                names[f"heads.{level}.{ours}.1"] = last
            theirs = f"det_cls_score_{k}"
            for index, (block, suffix) in enumerate((("a", ""), ("b", "b"))):
                prefix = f"heads.{level}.classes.{index}"
                names[f"{prefix}.conv3"] = f"{theirs}1{suffix}"
                names[f"{prefix}.conv1"] = f"{theirs}2{suffix}"
                names[f"{prefix}.bn"] = (f"{theirs}{block}_bn", f"{theirs}{block}_scale")
            names[f"heads.{level}.classes.2"] = theirs
        return names

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Warped to the square input; BGR bytes less the ImageNet mean."""
        batch = stack([warp(image, self.size) for image in images])
        pixels = normalise(batch.pixels, (102.9801, 115.9465, 122.7717), (1, 1, 1), bgr=True, peak=255)
        # Convolutions run a quarter faster in this order of memory.
        return replace(batch, pixels=pixels.contiguous(memory_format=torch.channels_last))

    def levels(self, pixels: Tensor) -> list[Tensor]:
        """The maps that the heads read, the finest first (section 3.2, equation 1)."""
        maps = [lateral(x) for lateral, x in zip(self.lateral, self.backbone(pixels), strict=True)]
        for level in reversed(range(len(self.reverse))):
            maps[level] = (maps[level] + self.reverse[level](maps[level + 1]).relu()).relu()
        return maps

    def network(self, batch: Batch, targets: list[Target] | None = None) -> RONOutputs:
        """Objectness, offsets and logits of all anchors."""
        objectness, offsets, logits, anchors = [], [], [], []
        for level, (head, x) in enumerate(zip(self.heads, self.levels(batch.pixels), strict=True)):
            prior, boxes, classes = head(x)
            objectness.append(_rows_of_blocks(prior, 2))
            logits.append(_rows_of_blocks(classes, 1 + self.num_classes))
            offsets.append(boxes.permute(0, 2, 3, 1).reshape(len(x), -1, 4))
            cells, stride = (int(x.shape[-2]), int(x.shape[-1])), self.strides[level]
            anchors.append(grid_anchors(self.get_buffer(f"shapes{level}"), cells, (stride, stride), offset=0.0))
        return RONOutputs(
            torch.cat(objectness, 1),
            torch.cat(offsets, 1),
            torch.cat(logits, 1),
            torch.cat(anchors),
            tuple(map(len, anchors)),
        )

    def postprocess(self, outputs: RONOutputs, batch: Batch) -> list[Detections]:
        """Decode where there is some object, go back to the image, drop slivers, suppress class by class."""
        objectness = self._prior(outputs)
        answers = []
        for image, frame in enumerate(batch.frames):
            rows = (objectness[image] > self.objectness_floor).nonzero()[:, 0]
            boxes = frame.to_image(self.coder.decode(outputs.offsets[image, rows].float(), outputs.anchors[rows]))
            sides = boxes[:, 2:] - boxes[:, :2]
            shorter, longer = sides.amin(1), sides.amax(1)
            fit = (shorter >= self.min_side) & (shorter > self.min_aspect * longer)
            rows, boxes = rows[fit], boxes[fit]
            classes = outputs.logits[image, rows].float().softmax(-1)[:, 1:]
            found = classwise_nms(
                boxes,
                objectness[image, rows, None] * classes,
                score_floor=self.score_floor,
                iou=self.nms_iou,
                limit=None,
                before_per_class=self.before_per_class,
            )
            same = F.one_hot(found.labels, self.num_classes)
            rank = same.cumsum(0)[torch.arange(len(found), device=boxes.device), found.labels]
            answers.append(found[rank <= self.limit_per_class])
        return answers

    def losses(self, outputs: RONOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Means over the anchors that each level draws, summed over the levels (section 3.5).

        The box loss of an image is divided by the anchors that its objectness drew there, negatives too, and averaged
        over the batch.
        """
        prior = self._prior(outputs).detach()
        assigned = [self._assign(target, outputs, batch.size) for target in targets]
        objects, classes, nearest = (torch.stack(parts) for parts in zip(*assigned, strict=True))
        classes = classes.masked_fill(prior < self.objectness_floor, -1)
        boxes = torch.cat([target.boxes for target in targets])
        before = torch.tensor([0, *map(len, targets[:-1])], device=nearest.device).cumsum(0)
        nearest = nearest + before[:, None]
        sums = {name: outputs.logits.new_zeros((), dtype=torch.float32) for name in ("objectness", "box", "class")}
        first = 0
        for count, quota in zip(outputs.counts, self.quotas, strict=True):
            level = slice(first, first + count)
            first += count
            rows, positives, wanted = self._draw(objects[:, level], quota)
            if self.objectness:
                sums["objectness"] += _mean_entropy(outputs.objectness[:, level].flatten(0, 1)[rows], wanted)
            drawn = torch.bincount(rows // count, minlength=len(targets)).clamp(min=1)
            images, places = positives // count, positives % count
            found = outputs.offsets[:, level][images, places].float()
            goal = self.coder.encode(boxes[nearest[:, level][images, places]], outputs.anchors[level][places])
            error = F.smooth_l1_loss(found, goal, beta=1 / 9, reduction="none").sum(1)
            sums["box"] += (error / drawn[images]).sum() / len(targets)
            rows, _, wanted = self._draw(classes[:, level], quota)
            sums["class"] += _mean_entropy(outputs.logits[:, level].flatten(0, 1)[rows], wanted)
        return sums

    def _prior(self, outputs: RONOutputs) -> Tensor:
        """How likely each anchor is one on an object, `[B, N]`."""
        found = outputs.objectness.float().softmax(-1)[..., 1]
        return found if self.objectness else torch.ones_like(found)

    def _assign(self, target: Target, outputs: RONOutputs, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Of each anchor: object (1) or none (0), class (0 is background), -1 where it takes no part in either, and
        the object that it overlaps most."""
        anchors = outputs.anchors
        strides = torch.tensor(self.strides, dtype=anchors.dtype, device=anchors.device)
        counts = torch.tensor(outputs.counts, device=anchors.device)
        margin = torch.repeat_interleave(self.border * strides, counts, output_size=len(anchors))
        height, width = size
        inside = (anchors[:, :2] >= -margin[:, None]).all(1)
        # The code asks the last pixel of the anchor, which lies one before the edge.
        inside &= (anchors[:, 2] - 1 < width + margin) & (anchors[:, 3] - 1 < height + margin)
        if not len(target):
            nothing = torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
            return nothing, nothing.masked_fill(inside, 0), nothing
        iou = box_iou(target.boxes, anchors).masked_fill(~inside, -1)
        overlap, nearest = iou.max(0)
        least, low, high = self.overlap
        objects = torch.where((overlap > least) & (overlap < low), 0, -1)
        classes = torch.where(inside & (overlap < self.class_overlap[0]), 0, -1)
        first = 0
        for level in iou.split(list(outputs.counts), 1):
            best, row = level.max(1)
            objects[first + row[best > self.rescue]] = 1
            sure = best > self.class_rescue
            classes[first + row[sure]] = 1 + target.labels[sure]
            first += level.shape[1]
        objects[overlap >= high] = 1
        classes = torch.where(overlap >= self.class_overlap[1], 1 + target.labels[nearest], classes)
        return objects, classes, nearest

    def _draw(self, labels: Tensor, quota: int) -> tuple[Tensor, Tensor, Tensor]:
        """From labels `[B, n]`: rows of the flattened level that are learnt, its positives, labels of the former."""
        labels = labels.flatten()
        positive = labels > 0
        count = (1 + self.negatives) * int(positive.sum()) or quota
        positives, negatives = balanced_sample(positive, labels == 0, count, positive_share=1.0)
        rows = torch.cat([positives, negatives])
        return rows, positives, labels[rows]


def _rows_of_blocks(x: Tensor, values: int) -> Tensor:
    """A head's `[B, values * A, H, W]`, value by value, as rows `[B, H * W * A, values]`."""
    batch, _, height, width = x.shape
    return x.reshape(batch, values, -1, height, width).permute(0, 3, 4, 2, 1).flatten(1, 3)


def _mean_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), labels, reduction="sum") / max(1, len(labels))


def _conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """The authors' convolutions keep their bias under batch normalisation."""
    padding = 0 if stride > 1 else kernel // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class _Mixed(nn.Module):
    """A 3x3 and a 1x1 convolution side by side, batch normalisation, ReLU."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(inputs, width, 3, padding=1)
        self.conv1 = nn.Conv2d(inputs, width, 1)
        self.bn = nn.BatchNorm2d(2 * width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(torch.cat([self.conv3(x), self.conv1(x)], 1))
        return out.relu()


class _Head(nn.Module):
    """Objectness `[B, 2 A, H, W]` (all of the background first), offsets `[B, 4 A, H, W]` (anchor by anchor) and
    logits `[B, (1 + C) A, H, W]` (class by class) of one level."""

    def __init__(self, inputs: int, hidden: int, mixed: int, kernel: int, anchors: int, classes: int) -> None:
        super().__init__()
        self.objectness = nn.Sequential(
            _conv_bn_relu(inputs, hidden, kernel), nn.Conv2d(hidden, 2 * anchors, 3, padding=1)
        )
        self.boxes = nn.Sequential(_conv_bn_relu(inputs, hidden, kernel), nn.Conv2d(hidden, 4 * anchors, 3, padding=1))
        self.classes = nn.Sequential(
            _Mixed(inputs, mixed),
            _Mixed(2 * mixed, mixed),
            nn.Conv2d(2 * mixed, (1 + classes) * anchors, 3, padding=1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.objectness(x), self.boxes(x), self.classes(x)


class _VGG16Convolutions(nn.Module):
    """VGG-16 to conv4_3, conv5_3, fc6 and fc7, the latter two as convolutions; conv1_1 and conv1_2 do not learn.

    Args:
        reduced: fc6 and fc7 with 1,024 channels, fc6 with 3x3 places three apart instead of 7x7.
    """

    def __init__(self, *, reduced: bool) -> None:
        super().__init__()
        self.reduced = reduced
        width = 1024 if reduced else 4096
        self.channels = (512, 512, width, width)
        self.strides = (8, 16, 32, 32)
        self.stages = vgg16_layers()
        self.pool5 = nn.MaxPool2d(2, 2)
        self.fc6 = nn.Conv2d(512, width, 3, padding=3, dilation=3) if reduced else nn.Conv2d(512, width, 7, padding=3)
        self.fc7 = nn.Conv2d(width, width, 1)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.stages[0].requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        for stage in self.stages[:4]:
            x = stage(x)
        maps = [x, self.stages[4](x)]
        maps.append(self.fc6(self.pool5(maps[-1])).relu())
        maps.append(self.fc7(maps[-1]).relu())
        return maps


_REDUCED: dict[str, Any] = {"backbone": "vgg16_reduced", "hidden": 256, "mixed": 256, "kernel": 1}


def ron320_vgg16(num_classes: int, *, reduced: bool = False, **overrides: Any) -> RON:
    """RON320: four levels, 21,250 anchors.

    Args:
        num_classes: Foreground classes.
        reduced: The lighter network that the authors released beside the paper's.
        overrides: Arguments of `RON`.
    """
    return RON(num_classes, **{"size": 320, **(_REDUCED if reduced else {}), **overrides})


def ron384_vgg16(num_classes: int, *, reduced: bool = False, **overrides: Any) -> RON:
    """RON384: four levels, 30,600 anchors; as `ron320_vgg16`."""
    return RON(num_classes, **{"size": 384, **(_REDUCED if reduced else {}), **overrides})
