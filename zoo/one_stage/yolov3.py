"""YOLOv3: An Incremental Improvement. Joseph Redmon, Ali Farhadi. arXiv 1804.02767, 2018.

https://arxiv.org/abs/1804.02767

Three heads look at maps of stride 32, 16 and 8; each cell of a map predicts a box for each of three anchor shapes: its
centre within the cell (sigmoids), its size relative to the anchor (exponentials), whether there is an object, and each
class on its own (sigmoids, since labels may overlap). A coarser head hands its features up: narrowed, enlarged, and
joined to the backbone's finer map. An object is learnt by one anchor only, the one that is most like it in shape, in
the cell that holds its centre; predictions that overlap some object well anyway are not told that they see nothing.

`yolov3_tiny` has seven convolutions and two heads, `yolov3_spp` pools the coarsest map at three more scales.

Where paper and released code differ, this is the code: predictions are spared from IoU .7 on (the paper says .5), and
centres are learnt with the gradient of binary cross-entropy (the paper says squared error). Otherwise than the code:
images are resized with torch's pixel centres rather than with aligned corners; a decoded size is bounded, so that an
untrained network cannot overflow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from ops.images import Batch, letterbox, stack
from ops.nms import classwise_nms
from ops.structures import Detections, Target
from zoo.backbones import small
from zoo.backbones.darknet import Darknet53, DarknetTiny, conv_bn_leaky
from zoo.backbones.small import SmallNet
from zoo.detector import Detector, Recipe
from zoo.formats.darknet import Layer, conv_layers
from zoo.subsample import ClassChannels

__all__ = [
    "RECIPE",
    "SMALL",
    "SMALL_RECIPE",
    "SMALL_SPP",
    "SMALL_TINY",
    "YOLOv3",
    "yolov3",
    "yolov3_spp",
    "yolov3_tiny",
]

RECIPE = Recipe(
    batch=64,
    steps=500_200,
    lr=1e-3,
    momentum=0.9,
    weight_decay=5e-4,
    milestones=(400_000, 450_000),
    warmup=1000,
    warmup_factor=0.0,
    warmup_power=4.0,
    sizes=tuple(range(320, 609, 32)),
    source="yolov3.cfg of the released code, for COCO, from ImageNet weights",
)
ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))
TINY_ANCHORS = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))
_LARGEST_LOG = 8.0

SMALL: dict[str, Any] = {
    "size": 160,
    "backbone": "small",
    "heads": (48, 40, 32),
    "depths": (3, 3, 3),
    "anchors": ((13, 13), (18, 18), (25, 25), (32, 32), (44, 44), (59, 59), (80, 80), (112, 112), (154, 154)),
    "bn_momentum": 0.1,
    "prior": 0.01,
    "limit": 100,
}
"""For `shapes`; the anchors are the medians of nine clusters of its objects, as the paper finds its own."""

SMALL_SPP: dict[str, Any] = {**SMALL, "heads": (40, 36, 32), "depths": (5, 3, 3)}

SMALL_TINY: dict[str, Any] = {
    "size": 160,
    "widths": (8, 16, 32, 48, 64, 96, 128),
    "heads": (64, 48),
    "anchors": ((14, 14), (21, 21), (33, 33), (51, 51), (82, 82), (143, 143)),
    "second_mask": (0, 1, 2),
    "bn_momentum": 0.1,
    "prior": 0.01,
    "limit": 100,
}

SMALL_RECIPE = replace(small.SMALL_RECIPE, lr=5e-3, clip_norm=20.0)


class YOLOv3(Detector):
    """YOLOv3 over any backbone whose maps halve in size.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input; a multiple of the largest stride.
        backbone: Darknet-53, the tiny one, or the small one that small sizes share.
        widths: Of the backbone, where they differ from its own.
        heads: Width of each head, the coarsest first (section 2.3; 1x1 convolutions have it, 3x3 ones twice it).
        depths: Convolutions of each head before those that are its own; odd, so that a narrow one is the last, or 0.
        pyramid: Pool the coarsest map at three more scales after its third convolution (`yolov3-spp.cfg`).
        anchors: Width and height in pixels of the input (section 2.3).
        masks: Which anchors each head predicts, the coarsest head first.
        ignore: From this IoU with any object, a prediction is not told that it sees nothing.
        max_objects: Objects an image that are learnt.
        bn_momentum: Share of a new batch in the running statistics.
        prior: Objectness that an untrained head gives. The authors start at .5 and creep up to speed over 1,000 steps;
            short trainings start better from few objects (RetinaNet, section 4.1).
        score_floor: Least score (objectness times class) of a detection.
        nms: IoU above which the lesser detection of a class goes.
        limit: Most detections an image; None keeps all, as the authors do.
    """

    anchors: Tensor
    size: tuple[int, int]

    def __init__(
        self,
        num_classes: int,
        *,
        size: int = 416,
        backbone: Literal["darknet53", "tiny", "small"] = "darknet53",
        widths: tuple[int, ...] | None = None,
        heads: tuple[int, ...] = (512, 256, 128),
        depths: tuple[int, ...] = (5, 5, 5),
        pyramid: bool = False,
        anchors: tuple[tuple[float, float], ...] = ANCHORS,
        masks: tuple[tuple[int, ...], ...] = ((6, 7, 8), (3, 4, 5), (0, 1, 2)),
        ignore: float = 0.7,
        max_objects: int = 90,
        bn_momentum: float = 0.01,
        prior: float = 0.5,
        score_floor: float = 0.005,
        nms: float = 0.45,
        limit: int | None = None,
    ) -> None:
        super().__init__(num_classes)
        make = {"darknet53": Darknet53, "tiny": DarknetTiny, "small": SmallNet}[backbone]
        self.backbone = make() if widths is None else make(widths)
        self.strides = tuple(reversed(self.backbone.strides))[: len(masks)]
        self.resize(size)
        if any(depth and depth % 2 == 0 for depth in depths):
            raise ValueError(f"depths must be odd or 0, got {depths}")
        self.masks = masks
        self.ignore, self.max_objects = ignore, max_objects
        self.score_floor, self.nms, self.limit = score_floor, nms, limit
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32), persistent=False)
        self.heads = nn.ModuleList()
        passed = 0
        channels = reversed(self.backbone.channels)
        for width, depth, mask, inputs in zip(heads, depths, masks, channels, strict=False):
            outputs = len(mask) * (5 + num_classes)
            head = _Head(inputs, passed, width, depth, outputs, pyramid and passed == 0)
            biases = torch.zeros(len(mask), 5 + num_classes)
            biases[:, 4] = math.log(prior / (1 - prior))
            head.predict.bias = nn.Parameter(biases.flatten())
            self.heads.append(head)
            passed = width
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = bn_momentum

    def resize(self, size: int | tuple[int, int]) -> None:
        """Any multiple of the largest stride, in both directions; anchors stay as large as they are.

        Raises:
            ValueError: A side is no such multiple.
        """
        sides = (size, size) if isinstance(size, int) else size
        if any(side < 1 or side % self.strides[0] for side in sides):
            raise ValueError(f"size must be a multiple of {self.strides[0]}, got {size}")
        self.size = sides

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Letterboxed into the square input on grey."""
        return stack([letterbox(image, self.size) for image in images])

    def network(self, batch: Batch, targets: list[Target] | None = None) -> list[Tensor]:
        """A map `[B, A (5 + C), H_i, W_i]` a head, the coarsest first."""
        maps = self.backbone(batch.pixels)
        outputs, passed = [], None
        for head, features in zip(self.heads, reversed(maps), strict=False):
            passed, output = head(features, passed)
            outputs.append(output)
        return outputs

    def decode(self, outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes `[B, N, 4]` in network pixels and raw predictions `[B, N, 5 + C]`; N runs over head, anchor, y, x."""
        boxes, raws = [], []
        for output, stride, mask in zip(outputs, self.strides, self.masks, strict=True):
            batch, _, height, width = output.shape
            raw = output.float().reshape(batch, len(mask), 5 + self.num_classes, height, width).permute(0, 1, 3, 4, 2)
            columns = torch.arange(width, device=output.device)
            rows = torch.arange(height, device=output.device)
            corner = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
            centre = (raw[..., :2].sigmoid() + corner) * stride
            anchors = self.anchors[list(mask)][:, None, None]
            half = 0.5 * anchors * raw[..., 2:4].clamp(max=_LARGEST_LOG).exp()
            boxes.append(torch.cat([centre - half, centre + half], -1).flatten(1, 3))
            raws.append(raw.flatten(1, 3))
        return torch.cat(boxes, 1), torch.cat(raws, 1)

    def postprocess(self, outputs: list[Tensor], batch: Batch) -> list[Detections]:
        """Score, suppress class by class, and go back to the pixels of each image."""
        answers = []
        for boxes, raw, frame in zip(*self.decode(outputs), batch.frames, strict=True):
            objectness = raw[:, 4].sigmoid()
            rows = objectness > self.score_floor
            scores = objectness[rows, None] * raw[rows, 5:].sigmoid()
            found = classwise_nms(boxes[rows], scores, score_floor=self.score_floor, iou=self.nms, limit=self.limit)
            answers.append(replace(found, boxes=frame.to_image(found.boxes)))
        return answers

    def losses(self, outputs: list[Tensor], batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Sums over each image, averaged over the batch: centre, size, objectness and classes."""
        boxes, raw = self.decode(outputs)
        targets = [target[: self.max_objects] for target in targets]
        images, slots, labels, wanted, weight = self._assign(targets)
        # Two objects of one anchor and cell: the classes of both, the place of the later.
        cells, member = torch.unique(images * raw.shape[1] + slots, return_inverse=True)
        order = torch.arange(len(member), device=raw.device)
        last = torch.zeros_like(cells).scatter_reduce(0, member, order, "amax", include_self=False)
        classes = raw.new_zeros(len(cells), self.num_classes)
        classes[member, labels] = 1
        wanted, weight = wanted[last], weight[last, None]
        picked = raw.flatten(0, 1)[cells]

        spared = torch.stack([self._spared(row, target) for row, target in zip(boxes.detach(), targets, strict=True)])
        learnt = torch.zeros_like(spared).flatten()
        learnt[cells] = True
        learnt = learnt.view_as(spared)
        objectness = F.binary_cross_entropy_with_logits(raw[..., 4], learnt.to(raw.dtype), reduction="none")
        centre = F.binary_cross_entropy_with_logits(picked[:, :2], wanted[:, :2], reduction="none")
        size = 0.5 * (picked[:, 2:4] - wanted[:, 2:]).square()
        kinds = F.binary_cross_entropy_with_logits(picked[:, 5:], classes, reduction="none")
        return {
            "centre": (weight * centre).sum() / len(targets),
            "size": (weight * size).sum() / len(targets),
            "objectness": (objectness * (learnt | ~spared)).sum() / len(targets),
            "classes": kinds.sum() / len(targets),
        }

    def _spared(self, boxes: Tensor, target: Target) -> Tensor:
        """`[N]`: predictions that overlap an object so well that they are not punished for seeing one."""
        if not len(target):
            return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        return box_iou(boxes, target.boxes).amax(1) > self.ignore

    def _assign(self, targets: list[Target]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Who learns which object: image, slot of the N predictions, label, `(x, y, ln w, ln h)` and weight.

        The anchor most like the object in shape; it may stand in several masks (an object then has several rows) or in
        none (nobody learns it).
        """
        device = self.anchors.device
        boxes = torch.cat([target.boxes for target in targets])
        labels = torch.cat([target.labels for target in targets])
        images = torch.repeat_interleave(
            torch.arange(len(targets), device=device), torch.tensor([len(t) for t in targets], device=device)
        )
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        extent = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3)
        shared = torch.minimum(extent[:, None], self.anchors).prod(-1)
        shape_iou = shared / (extent.prod(-1)[:, None] + self.anchors.prod(-1) - shared)
        best = shape_iou.argmax(1)
        weight = 2 - extent.prod(-1) / (self.size[0] * self.size[1])
        rows, slots, wanted = [], [], []
        start = 0
        for stride, mask in zip(self.strides, self.masks, strict=True):
            height, width = self.size[0] // stride, self.size[1] // stride
            mine, place = (best[:, None] == torch.tensor(mask, device=device)).nonzero(as_tuple=True)
            position = centre[mine] / stride
            column = position[:, 0].long().clamp(0, width - 1)
            row = position[:, 1].long().clamp(0, height - 1)
            offset = (position - torch.stack([column, row], 1)).clamp(0, 1)
            rows.append(mine)
            slots.append(start + (place * height + row) * width + column)
            wanted.append(torch.cat([offset, (extent[mine] / self.anchors[best[mine]]).log()], 1))
            start += len(mask) * height * width
        index = torch.cat(rows)
        return images[index], torch.cat(slots), labels[index], torch.cat(wanted), weight[index]

    def num_boxes(self, size: tuple[int, int]) -> int:
        """Anchors times cells over all heads."""
        return sum(len(m) * (size[0] // s) * (size[1] // s) for m, s in zip(self.masks, self.strides, strict=True))

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: behind box and objectness of every anchor."""
        return {
            f"heads.{level}.predict.{part}": ClassChannels(groups=len(mask), leading=5)
            for level, mask in enumerate(self.masks)
            for part in ("weight", "bias")
        }

    def darknet_layers(self) -> Iterator[Layer]:
        """The layers in the order of the authors' cfg and weights files."""
        return itertools.chain(conv_layers(self.backbone), conv_layers(self.heads))


class _Pyramid(nn.Module):
    """The map beside its maxima over 13, 9 and 5 pixels, in this order."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*(F.max_pool2d(x, side, 1, side // 2) for side in (13, 9, 5)), x], 1)


class _Head(nn.Module):
    """Join what the coarser head hands up, `depth` convolutions of 1x1 and 3x3 in turn, then the predictions.

    Args:
        inputs: Channels of the backbone's map.
        passed: Channels that the coarser head hands up; 0 for the coarsest.
        width: Of 1x1 convolutions; 3x3 ones have twice it.
        depth: Convolutions that this head shares with the next.
        outputs: Channels of the predictions.
        pyramid: Pool at further scales after the third convolution.
    """

    def __init__(self, inputs: int, passed: int, width: int, depth: int, outputs: int, pyramid: bool) -> None:
        super().__init__()
        self.lateral = conv_bn_leaky(passed, width, 1) if passed else None
        channels = inputs + (width if passed else 0)
        layers: list[nn.Module] = []
        for index in range(depth):
            if pyramid and index == 3:
                layers += [_Pyramid(), conv_bn_leaky(4 * width, width, 1)]
            outer, kernel = (2 * width, 3) if index % 2 else (width, 1)
            layers.append(conv_bn_leaky(channels, outer, kernel))
            channels = outer
        self.shared = nn.Sequential(*layers)
        self.own = conv_bn_leaky(channels, 2 * width, 3)
        self.predict = nn.Conv2d(2 * width, outputs, 1)

    def forward(self, x: Tensor, passed: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.lateral is not None:
            x = torch.cat([F.interpolate(self.lateral(passed), scale_factor=2.0, mode="nearest"), x], 1)
        x = self.shared(x)
        return x, self.predict(self.own(x))


def yolov3(num_classes: int, **overrides: Any) -> YOLOv3:
    """Darknet-53 and three heads."""
    return YOLOv3(num_classes, **overrides)


def yolov3_spp(num_classes: int, **overrides: Any) -> YOLOv3:
    """YOLOv3 with spatial pyramid pooling, at 608 pixels."""
    return YOLOv3(num_classes, **{"size": 608, "pyramid": True, **overrides})


def yolov3_tiny(num_classes: int, *, second_mask: tuple[int, ...] = (1, 2, 3), **overrides: Any) -> YOLOv3:
    """Seven convolutions and two heads.

    Args:
        num_classes: Foreground classes.
        second_mask: Anchors of the finer head. The released cfg says 0, 1, 2, but the released weights were trained
            with 1, 2, 3: on 197 images of COCO val2017 they reach AP50 40.6 so, and 23.1 by the cfg.
        overrides: Arguments of `YOLOv3`.
    """
    tiny = {
        "backbone": "tiny",
        "heads": (256, 128),
        "depths": (1, 0),
        "anchors": TINY_ANCHORS,
        "masks": ((3, 4, 5), second_mask),
    }
    return YOLOv3(num_classes, **{**tiny, **overrides})
