"""YOLO9000: Better, Faster, Stronger. Joseph Redmon, Ali Farhadi. CVPR 2017.

https://arxiv.org/abs/1612.08242

YOLOv2 is YOLO without connected layers: every cell of a map of stride 32 predicts, for each of five anchor shapes found
by clustering, a centre within the cell (sigmoids), a size relative to the anchor (exponentials), the overlap with an
object (a sigmoid) and the classes (a softmax). The backbone is Darknet-19, with batch normalisation throughout; a
passthrough folds the map of stride 16 onto the coarse one. Fully convolutional, it is trained at sizes that change
every ten batches and runs at any multiple of 32.

An object is learnt by one anchor, the most like it in shape, in the cell that holds its centre; its objectness learns
the overlap it reaches. Predictions that overlap some object by more than .6 are not told that they see nothing. While
the first 12,800 images pass, all others are drawn to their anchors a little.

Where paper and released code differ, this is the code: a 1x1 convolution narrows what is passed through to 64 channels
(`passthrough=0` passes it whole, as the paper says), Darknet's reorg folds it, centres and objectness are learnt by
squared error behind their sigmoids. Otherwise than the code: images are resized with torch's pixel centres; a decoded
size is bounded, so that an untrained network cannot overflow; no colour or scale augmentation is part of the recipe;
images seen are counted by each process for itself; the last 200 batches are drawn like all others (there they have 608
pixels).
"""

from __future__ import annotations

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
from ops.reorg import reorg
from ops.structures import Detections, Target
from zoo.backbones import small
from zoo.backbones.darknet import DARKNET19, DarknetChain, DarknetTiny, conv_bn_leaky
from zoo.backbones.small import SmallNet
from zoo.detector import Detector, Recipe
from zoo.formats.darknet import Layer, conv_layers
from zoo.subsample import ClassChannels

__all__ = ["RECIPE", "SMALL", "SMALL_RECIPE", "SMALL_TINY", "YOLOv2", "yolov2", "yolov2_tiny"]

RECIPE = Recipe(
    batch=64,
    steps=80_200,
    lr=1e-3,
    momentum=0.9,
    weight_decay=5e-4,
    milestones=(40_000, 60_000),
    warmup=1000,
    warmup_factor=0.0,
    warmup_power=4.0,
    sizes=tuple(range(320, 609, 32)),
    source="yolov2-voc.cfg of the released code, for VOC, from ImageNet weights",
)
Anchors = tuple[tuple[float, float], ...]
VOC_ANCHORS: Anchors = (
    (1.3221, 1.73145),
    (3.19275, 4.00944),
    (5.05587, 8.09892),
    (9.47112, 4.84053),
    (11.2364, 10.0071),
)
COCO_ANCHORS: Anchors = (
    (0.57273, 0.677385),
    (1.87446, 2.06253),
    (3.33843, 5.47434),
    (7.88282, 3.52778),
    (9.77052, 9.16828),
)
TINY_VOC_ANCHORS: Anchors = ((1.08, 1.19), (3.42, 4.41), (6.63, 11.38), (9.42, 5.11), (16.62, 10.52))
_LARGEST_LOG = 8.0

SMALL: dict[str, Any] = {
    "size": 160,
    "backbone": "small",
    "widths": (16, 24, 40, 64),
    "before": (64, 64),
    "passthrough": 24,
    "after": (128,),
    "anchors": ((0.875, 0.875), (1.625, 1.625), (2.85, 2.85), (4.9, 4.9), (8.9, 8.9)),
    "drawn": 1_600,
    "bn_momentum": 0.1,
    "prior": 0.1,
    "limit": 100,
}
"""For `shapes`: cells of 16 pixels; the anchors are the medians of five clusters of its objects."""

SMALL_TINY: dict[str, Any] = {
    **SMALL,
    "widths": (8, 16, 32, 64),
    "before": (),
    "passthrough": None,
    "after": (96,),
}

SMALL_RECIPE = replace(small.SMALL_RECIPE, lr=5e-3, clip_norm=20.0)


class YOLOv2(Detector):
    """YOLOv2 over any backbone whose last two maps halve in size.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input; a multiple of the largest stride.
        backbone: Darknet-19, the tiny one, or the small one that small sizes share.
        widths: Of the backbone, where they differ from its own.
        before: Widths of 3x3 convolutions on the coarsest map before the finer one joins it.
        passthrough: Channels to which the finer map is narrowed before it is folded; 0 passes it whole, None not at
            all.
        after: Widths of the 3x3 convolutions behind that.
        anchors: Width and height in cells, whatever the size of the input (section 2).
        spare: From this IoU with any object, a prediction is not told that it sees nothing.
        objectness: Weight of an object's objectness.
        drawn: So many images are seen in training while predictions without object are drawn to their anchors.
        max_objects: Objects an image that are learnt.
        bn_momentum: Share of a new batch in the running statistics.
        prior: Objectness that an untrained head gives. The authors start at .5 and creep up to speed over 1,000 steps;
            short trainings start better from fewer objects.
        score_floor: Least score (objectness times class) of a detection.
        nms: IoU above which the lesser detection of a class goes.
        limit: Most detections an image; None keeps all, as the authors do.

    Attributes:
        seen: Images seen in training, a buffer of the state dict.
    """

    anchors: Tensor
    seen: Tensor
    size: tuple[int, int]

    def __init__(
        self,
        num_classes: int,
        *,
        size: int = 416,
        backbone: Literal["darknet19", "tiny", "small"] = "darknet19",
        widths: tuple[int, ...] | None = None,
        before: tuple[int, ...] = (1024, 1024),
        passthrough: int | None = 64,
        after: tuple[int, ...] = (1024,),
        anchors: Anchors = VOC_ANCHORS,
        spare: float = 0.6,
        objectness: float = 5.0,
        drawn: int = 12_800,
        max_objects: int = 30,
        bn_momentum: float = 0.01,
        prior: float = 0.5,
        score_floor: float = 0.005,
        nms: float = 0.45,
        limit: int | None = None,
    ) -> None:
        super().__init__(num_classes)
        self.backbone: DarknetChain | DarknetTiny | SmallNet
        if backbone == "darknet19":
            self.backbone = DarknetChain(DARKNET19)
        else:
            make = DarknetTiny if backbone == "tiny" else SmallNet
            self.backbone = make() if widths is None else make(widths)
        self.stride = int(self.backbone.strides[-1])
        self.resize(size)
        self.spare, self.objectness, self.drawn, self.max_objects = spare, objectness, drawn, max_objects
        self.score_floor, self.nms, self.limit = score_floor, nms, limit
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32), persistent=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.head = _Head(self.backbone.channels, before, passthrough, after, len(anchors) * (5 + num_classes))
        biases = torch.zeros(len(anchors), 5 + num_classes)
        biases[:, 4] = math.log(prior / (1 - prior))
        self.head.predict.bias = nn.Parameter(biases.flatten())
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = bn_momentum

    def resize(self, size: int | tuple[int, int]) -> None:
        """Any multiple of the stride, in both directions; anchors, counted in cells, stay as large as they are.

        Raises:
            ValueError: A side is no such multiple.
        """
        sides = (size, size) if isinstance(size, int) else size
        if any(side < 1 or side % self.stride for side in sides):
            raise ValueError(f"size must be a multiple of {self.stride}, got {size}")
        self.size = sides

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: behind box and objectness of every anchor."""
        layout = ClassChannels(groups=len(self.anchors), leading=5)
        return {"head.predict.weight": layout, "head.predict.bias": layout}

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Letterboxed into the square input on grey."""
        return stack([letterbox(image, self.size) for image in images])

    def network(self, batch: Batch, targets: list[Target] | None = None) -> Tensor:
        """`[B, A (5 + C), H, W]`; of each anchor the centre, the size, the objectness, then the classes."""
        fine, coarse = self.backbone(batch.pixels)[-2:]
        answer: Tensor = self.head(fine, coarse)
        return answer

    def decode(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes `[B, N, 4]` in network pixels and raw predictions `[B, N, 5 + C]`; N runs over anchor, y, x."""
        batch, _, height, width = outputs.shape
        raw = outputs.float().reshape(batch, len(self.anchors), 5 + self.num_classes, height, width)
        raw = raw.permute(0, 1, 3, 4, 2)
        columns = torch.arange(width, device=outputs.device)
        rows = torch.arange(height, device=outputs.device)
        corner = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
        centre = raw[..., :2].sigmoid() + corner
        half = 0.5 * self.anchors[:, None, None] * raw[..., 2:4].clamp(max=_LARGEST_LOG).exp()
        boxes = torch.cat([centre - half, centre + half], -1) * self.stride
        return boxes.flatten(1, 3), raw.flatten(1, 3)

    def postprocess(self, outputs: Tensor, batch: Batch) -> list[Detections]:
        """Score, suppress class by class, and go back to the pixels of each image."""
        answers = []
        for boxes, raw, frame in zip(*self.decode(outputs), batch.frames, strict=True):
            objectness = raw[:, 4].sigmoid()
            rows = objectness > self.score_floor
            scores = objectness[rows, None] * raw[rows, 5:].softmax(-1)
            found = classwise_nms(boxes[rows], scores, score_floor=self.score_floor, iou=self.nms, limit=self.limit)
            answers.append(replace(found, boxes=frame.to_image(found.boxes)))
        return answers

    def losses(self, outputs: Tensor, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Sums over each image, averaged over the batch: centre, size, objectness, classes, and the pull to anchors."""
        boxes, raw = self.decode(outputs)
        count = len(targets)
        targets = [target[: self.max_objects] for target in targets]
        slots, labels, wanted, weight = self._assign(targets, (int(outputs.shape[-2]), int(outputs.shape[-1])))
        truth = torch.cat([target.boxes for target in targets])
        # Two objects of one anchor and cell: the later.
        cells, member = torch.unique(slots, return_inverse=True)
        order = torch.arange(len(member), device=raw.device)
        last = torch.zeros_like(cells).scatter_reduce(0, member, order, "amax", include_self=False)
        labels, wanted, weight, truth = labels[last], wanted[last], weight[last, None], truth[last]
        picked = raw.flatten(0, 1)[cells]
        overlap = _paired_iou(boxes.detach().flatten(0, 1)[cells], truth)

        spared = torch.stack([self._spared(row, target) for row, target in zip(boxes.detach(), targets, strict=True)])
        others = torch.ones_like(spared).flatten()
        others[cells] = False
        others = others.view_as(spared)
        nothing = raw[..., 4].sigmoid().square() * (others & ~spared)
        found = (picked[:, 4].sigmoid() - overlap).square()
        if self.training:
            self.seen += count
        pull = 0.01 * (self.seen < self.drawn) * others[..., None]
        drawn = pull * torch.cat([raw[..., :2].sigmoid() - 0.5, raw[..., 2:4]], -1).square()
        return {
            "centre": (weight * (picked[:, :2].sigmoid() - wanted[:, :2]).square()).sum() / (2 * count),
            "size": (weight * (picked[:, 2:4] - wanted[:, 2:]).square()).sum() / (2 * count),
            "objectness": (self.objectness * found.sum() + nothing.sum()) / (2 * count),
            "classes": F.cross_entropy(picked[:, 5:], labels, reduction="sum") / count,
            "anchors": drawn.sum() / (2 * count),
        }

    def _spared(self, boxes: Tensor, target: Target) -> Tensor:
        """`[N]`: predictions that overlap an object so well that they are not punished for seeing one."""
        if not len(target):
            return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        return box_iou(boxes, target.boxes).amax(1) > self.spare

    def _assign(self, targets: list[Target], grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Who learns which object: slot of the B N predictions, label, `(x, y, ln w, ln h)` and weight."""
        device = self.anchors.device
        boxes = torch.cat([target.boxes for target in targets]) / self.stride
        labels = torch.cat([target.labels for target in targets])
        images = torch.repeat_interleave(
            torch.arange(len(targets), device=device), torch.tensor([len(t) for t in targets], device=device)
        )
        height, width = grid
        extent = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-4)
        shared = torch.minimum(extent[:, None], self.anchors).prod(-1)
        best = (shared / (extent.prod(-1)[:, None] + self.anchors.prod(-1) - shared)).argmax(1)
        position = (boxes[:, :2] + boxes[:, 2:]) / 2
        column = position[:, 0].long().clamp(0, width - 1)
        row = position[:, 1].long().clamp(0, height - 1)
        offset = (position - torch.stack([column, row], 1)).clamp(0, 1)
        slots = ((images * len(self.anchors) + best) * height + row) * width + column
        wanted = torch.cat([offset, (extent / self.anchors[best]).log()], 1)
        return slots, labels, wanted, 2 - extent.prod(-1) / (width * height)

    def num_boxes(self, size: tuple[int, int]) -> int:
        """Anchors times cells at network input `(H, W)`."""
        return len(self.anchors) * (size[0] // self.stride) * (size[1] // self.stride)

    def darknet_layers(self) -> Iterator[Layer]:
        """Layers in the order of the released `.weights` files."""
        return conv_layers(self)


def _paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU `[M]` of boxes `[M, 4]` with the boxes of the same rows."""
    low, high = torch.maximum(boxes[:, :2], others[:, :2]), torch.minimum(boxes[:, 2:], others[:, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1) + (others[:, 2:] - others[:, :2]).prod(-1)
    return shared / (areas - shared).clamp(min=1e-9)


class _Head(nn.Module):
    """Convolutions on the coarse map, the folded finer map in front of it, convolutions on both, the predictions.

    Args:
        channels: Of the two maps, the finer first.
        before: See `YOLOv2`.
        passthrough: See `YOLOv2`.
        after: See `YOLOv2`.
        outputs: Channels of the predictions.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        before: tuple[int, ...],
        passthrough: int | None,
        after: tuple[int, ...],
        outputs: int,
    ) -> None:
        super().__init__()
        fine, inputs = channels[-2:]
        layers = []
        for width in before:
            layers.append(conv_bn_leaky(inputs, width, 3))
            inputs = width
        self.before = nn.Sequential(*layers)
        self.joins = passthrough is not None
        self.narrow = conv_bn_leaky(fine, passthrough, 1) if passthrough else nn.Identity()
        if passthrough is not None:
            inputs += 4 * (passthrough or fine)
        layers = []
        for width in after:
            layers.append(conv_bn_leaky(inputs, width, 3))
            inputs = width
        self.after = nn.Sequential(*layers)
        self.predict = nn.Conv2d(inputs, outputs, 1)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        x = self.before(coarse)
        if self.joins:
            x = torch.cat([reorg(self.narrow(fine)), x], 1)
        answer: Tensor = self.predict(self.after(x))
        return answer


def yolov2(num_classes: int, *, cfg: Literal["voc", "coco"] | None = None, **overrides: Any) -> YOLOv2:
    """Darknet-19 with passthrough.

    Args:
        num_classes: Foreground classes.
        cfg: Anchors and size of `yolov2-voc.cfg` (416 pixels) or of `yolov2.cfg` (608); None: the latter for the 80
            classes of COCO.
        overrides: Arguments of `YOLOv2`.
    """
    coco = {"size": 608, "anchors": COCO_ANCHORS}
    return YOLOv2(num_classes, **{**(coco if _is_coco(cfg, num_classes) else {}), **overrides})


def yolov2_tiny(num_classes: int, *, cfg: Literal["voc", "coco"] | None = None, **overrides: Any) -> YOLOv2:
    """Eight convolutions and the predictions, without passthrough.

    Args:
        num_classes: Foreground classes.
        cfg: Anchors and last width of `yolov2-tiny-voc.cfg` (1,024) or of `yolov2-tiny.cfg` (512); None: the latter
            for the 80 classes of COCO.
        overrides: Arguments of `YOLOv2`.
    """
    coco = _is_coco(cfg, num_classes)
    tiny = {
        "backbone": "tiny",
        "before": (),
        "passthrough": None,
        "after": (512,) if coco else (1024,),
        "anchors": COCO_ANCHORS if coco else TINY_VOC_ANCHORS,
    }
    return YOLOv2(num_classes, **{**tiny, **overrides})


def _is_coco(cfg: Literal["voc", "coco"] | None, num_classes: int) -> bool:
    return cfg == "coco" or (cfg is None and num_classes == 80)
