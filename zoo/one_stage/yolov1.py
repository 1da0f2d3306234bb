"""You Only Look Once: Unified, Real-Time Object Detection. Redmon, Divvala, Girshick, Farhadi. CVPR 2016.

https://arxiv.org/abs/1506.02640

Detection as one regression from the whole image: a convolutional network and fully connected layers behind it give, for
each cell of a 7x7 grid, the classes' probabilities and two boxes with a confidence each. The cell that holds an
object's centre learns it; of that cell's boxes the one that overlaps the object best at the moment is responsible for
it and learns its place, and its confidence learns that very overlap. All losses are squared errors; sizes are learnt
as square roots, so that a pixel weighs more in small objects than in large ones.

`yolov1` is the paper's network: 24 convolutions without normalisation, two connected layers. `variant="v1.1"` is the
one whose weights were released: batch normalisation, a locally connected layer in place of the first connected one, and
three boxes a cell. `yolov1_tiny` is Fast YOLO by its released cfg.

Outputs lie as in the released code: the classes of all cells, then all confidences, then all boxes. Of several objects
in a cell the first one listed is learnt. Where the paper is silent this is the released code: the loss has a factor of
one half, no activation bounds what is predicted, where no box overlaps the object the nearest is responsible.
Otherwise than paper and code: images are resized with torch's pixel centres; no colour or scale augmentation is part
of the recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ops.images import Batch, stack, warp
from ops.nms import classwise_nms
from ops.structures import Detections, Target
from zoo.backbones import small
from zoo.backbones.darknet import FAST, GOOGLENET_LIKE, DarknetChain, conv_bn_leaky
from zoo.backbones.small import SmallNet
from zoo.detector import Detector, Recipe
from zoo.formats.darknet import Layer, conv_layers
from zoo.parts.local import LocallyConnected2d
from zoo.subsample import ClassChannels

__all__ = ["RECIPE", "SMALL", "SMALL_RECIPE", "SMALL_TINY", "YOLOv1", "yolov1", "yolov1_tiny"]

RECIPE = Recipe(
    batch=64,
    steps=34_900,
    lr=1e-2,
    momentum=0.9,
    weight_decay=5e-4,
    milestones=(19_400, 27_150),
    warmup=600,
    warmup_factor=0.1,
    source="section 2.2: 75, 30 and 30 epochs of VOC 2007 + 2012 (16,551 images); warm-up as long as in yolov1.cfg",
)

SMALL: dict[str, Any] = {
    "size": 160,
    "backbone": "small",
    "narrow": 24,
    "hidden": 200,
    "dropout": 0.0,
    "grid": 5,
    "limit": 100,
}
"""For `shapes`: the common backbone, and connected layers as wide as a megabyte allows. All cells pass through one
hidden layer: with 49 cells, too few of its units would be left for each to learn from.

Connected layers share nothing between cells, and each cell has but a twenty-fifth of the objects to learn from. The
paper starts from ImageNet; from scratch, in the budget in which its convolutional successors learn, this network comes
no further than the mean of its answers."""

SMALL_TINY: dict[str, Any] = {**SMALL, "widths": (8, 12, 20, 32, 32), "narrow": 16, "hidden": None, "grid": 7}

SMALL_RECIPE = small.SMALL_RECIPE


class YOLOv1(Detector):
    """YOLO: a grid of cells read from the whole image by connected layers.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input; a multiple of the backbone's stride. Connected layers fix it.
        backbone: The 24 convolutions, Fast YOLO's, or the small one that small sizes share.
        widths: Of the small backbone, where they differ from its own.
        normalised: Batch normalisation in the convolutions of the others, or biases.
        narrow: Channels that a 1x1 convolution leaves for the connected layers; None leaves it out.
        local: Channels of a locally connected 3x3 layer before the connected ones; None leaves it out.
        hidden: Width of the connected layer before the last; None leaves it out.
        dropout: Share of its outputs that is dropped in training (section 2.2).
        grid: S, cells along a side (section 2).
        boxes: B, boxes a cell (section 2).
        coord: Weight of places (section 2.2).
        noobject: Weight of confidences where there is nothing to be confident of (section 2.2).
        score_floor: Least score (confidence times class) of a detection.
        nms: IoU above which the lesser detection of a class goes.
        limit: Most detections an image; None keeps all, as the authors do.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        size: int = 448,
        backbone: Literal["googlenet_like", "fast", "small"] = "googlenet_like",
        widths: tuple[int, ...] | None = None,
        normalised: bool = False,
        narrow: int | None = None,
        local: int | None = None,
        hidden: int | None = 4096,
        dropout: float = 0.5,
        grid: int = 7,
        boxes: int = 2,
        coord: float = 5.0,
        noobject: float = 0.5,
        score_floor: float = 0.001,
        nms: float = 0.5,
        limit: int | None = None,
    ) -> None:
        super().__init__(num_classes)
        self.backbone: SmallNet | DarknetChain
        if backbone == "small":
            self.backbone = SmallNet() if widths is None else SmallNet(widths)
        else:
            steps = GOOGLENET_LIKE if backbone == "googlenet_like" else FAST
            self.backbone = DarknetChain(steps, normalised=normalised)
        stride, channels = self.backbone.strides[-1], self.backbone.channels[-1]
        if size % stride:
            raise ValueError(f"size must be a multiple of {stride}, got {size}")
        self.size = (size, size)
        self.grid, self.boxes = grid, boxes
        self.coord, self.noobject = coord, noobject
        self.score_floor, self.nms, self.limit = score_floor, nms, limit
        layers: list[nn.Module] = []
        if narrow is not None:
            layers.append(conv_bn_leaky(channels, narrow, 1))
            channels = narrow
        if local is not None:
            side = size // stride
            layers += [
                LocallyConnected2d(channels, local, 3, (side, side), padding=1),
                nn.LeakyReLU(0.1, inplace=True),
                nn.Dropout(dropout),
            ]
            channels = local
        layers.append(nn.Flatten())
        inputs = channels * (size // stride) ** 2
        if hidden is not None:
            layers += [nn.Linear(inputs, hidden), nn.LeakyReLU(0.1, inplace=True), nn.Dropout(dropout)]
            inputs = hidden
        layers.append(nn.Linear(inputs, grid * grid * (num_classes + 5 * boxes)))
        self.head = nn.Sequential(*layers)

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: of all cells, in front of all confidences and boxes."""
        layout = ClassChannels(groups=self.grid**2, tail=5 * self.boxes * self.grid**2)
        return {f"head.{len(self.head) - 1}.{part}": layout for part in ("weight", "bias")}

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Warped to the square input; colours stay in [0, 1]."""
        return stack([warp(image, self.size) for image in images])

    def network(self, batch: Batch, targets: list[Target] | None = None) -> Tensor:
        """`[B, S S (C + 5 B)]`: classes of all cells, confidences of all boxes, `(x, y, sqrt w, sqrt h)` of all boxes.

        Cells run row by row, boxes of a cell within. Centres are relative to the cell, sizes to the image.
        """
        answer: Tensor = self.head(self.backbone(batch.pixels)[-1])
        return answer

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The output as classes `[B, S S, C]`, confidences `[B, S S, B]` and boxes `[B, S S, B, 4]`."""
        cells = self.grid**2
        sizes = (cells * self.num_classes, cells * self.boxes, cells * self.boxes * 4)
        classes, confidences, places = outputs.float().split(sizes, dim=1)
        return (
            classes.unflatten(1, (cells, self.num_classes)),
            confidences.unflatten(1, (cells, self.boxes)),
            places.unflatten(1, (cells, self.boxes, 4)),
        )

    def decode(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes `[B, S S B, 4]` in network pixels, and scores `[B, S S B, C]` that nothing bounds to 0..1."""
        classes, confidences, places = self.split(outputs)
        index = torch.arange(self.grid**2, device=outputs.device)
        corner = torch.stack([index % self.grid, index // self.grid], -1)[:, None]
        extent = places.new_tensor([self.size[1], self.size[0]])
        centre = (places[..., :2] + corner) * extent / self.grid
        half = 0.5 * places[..., 2:].square() * extent
        boxes = torch.cat([centre - half, centre + half], -1)
        scores = confidences[..., None] * classes[:, :, None]
        return boxes.flatten(1, 2), scores.flatten(1, 2)

    def postprocess(self, outputs: Tensor, batch: Batch) -> list[Detections]:
        """Suppress class by class, and go back to the pixels of each image."""
        answers = []
        for boxes, scores, frame in zip(*self.decode(outputs), batch.frames, strict=True):
            found = classwise_nms(boxes, scores, score_floor=self.score_floor, iou=self.nms, limit=self.limit)
            answers.append(replace(found, boxes=frame.to_image(found.boxes)))
        return answers

    def losses(self, outputs: Tensor, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Equation 3, halved, averaged over the batch: centre, size, confidence with and without object, classes."""
        classes, confidences, places = self.split(outputs)
        images, cells, labels, wanted = self._assign(targets)
        picked = places[images, cells]  # [M, B, 4]
        with torch.no_grad():
            overlap, responsible = self._responsible(picked, wanted)
        row = torch.arange(len(cells), device=cells.device)
        mine = picked[row, responsible]
        confident = confidences[images, cells, responsible]
        nothing = torch.ones_like(confidences)
        nothing[images, cells, responsible] = 0
        kinds = torch.zeros_like(classes[images, cells])
        kinds[row, labels] = 1
        count = 2 * len(targets)
        return {
            "centre": self.coord * (mine[:, :2] - wanted[:, :2]).square().sum() / count,
            "size": self.coord * (mine[:, 2:] - wanted[:, 2:].sqrt()).square().sum() / count,
            "object": (confident - overlap).square().sum() / count,
            "noobject": self.noobject * (nothing * confidences.square()).sum() / count,
            "classes": (classes[images, cells] - kinds).square().sum() / count,
        }

    def _assign(self, targets: list[Target]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Image, cell, label and `(x, y, w, h)` of each object that is learnt: the first of every cell."""
        device = targets[0].boxes.device
        boxes = torch.cat([target.boxes for target in targets])
        labels = torch.cat([target.labels for target in targets])
        images = torch.repeat_interleave(
            torch.arange(len(targets), device=device), torch.tensor([len(t) for t in targets], device=device)
        )
        side = boxes.new_tensor([self.size[1], self.size[0]])
        position = (boxes[:, :2] + boxes[:, 2:]) / 2 * self.grid / side
        place = position.long().clamp(0, self.grid - 1)
        offset = (position - place).clamp(0, 1)
        wanted = torch.cat([offset, ((boxes[:, 2:] - boxes[:, :2]) / side).clamp(min=1e-6)], 1)
        cells = place[:, 1] * self.grid + place[:, 0]
        taken, member = torch.unique(images * self.grid**2 + cells, return_inverse=True)
        order = torch.arange(len(member), device=device)
        first = torch.zeros_like(taken).scatter_reduce(0, member, order, "amin", include_self=False)
        return images[first], cells[first], labels[first], wanted[first]

    def _responsible(self, places: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """IoU `[M]` of the responsible box with its object, and which of `places` `[M, B, 4]` it is.

        The one of most overlap; where none overlaps, the one whose place and size are nearest.
        """
        boxes = torch.cat([places[..., :2] / self.grid, places[..., 2:].square()], -1)
        truth = torch.cat([wanted[:, :2] / self.grid, wanted[:, 2:]], -1)[:, None]
        overlap = _iou(boxes, truth)
        distance = (boxes - truth).square().sum(-1)
        best = torch.where(overlap.amax(1) > 0, overlap.argmax(1), distance.argmin(1))
        return overlap.gather(1, best[:, None])[:, 0], best

    def num_boxes(self, size: tuple[int, int]) -> int:
        """S S B."""
        return self.grid**2 * self.boxes

    def darknet_layers(self) -> Iterator[Layer]:
        """Layers in the order of the released `.weights` files."""
        return conv_layers(self)


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of boxes `(x, y, w, h)` about their centres, `[..., 4]` each, one by one."""
    low = torch.maximum(boxes[..., :2] - boxes[..., 2:] / 2, others[..., :2] - others[..., 2:] / 2)
    high = torch.minimum(boxes[..., :2] + boxes[..., 2:] / 2, others[..., :2] + others[..., 2:] / 2)
    shared = (high - low).clamp(min=0).prod(-1)
    return shared / (boxes[..., 2:].prod(-1) + others[..., 2:].prod(-1) - shared)


def yolov1(num_classes: int, *, variant: Literal["paper", "v1.1"] = "paper", **overrides: Any) -> YOLOv1:
    """24 convolutions, a connected layer of 4,096, 98 boxes.

    Args:
        num_classes: Foreground classes.
        variant: The paper's network, or that of the released `yolov1.cfg` and its weights (147 boxes).
        overrides: Arguments of `YOLOv1`.
    """
    released = {"normalised": True, "local": 256, "hidden": None, "boxes": 3}
    return YOLOv1(num_classes, **{**(released if variant == "v1.1" else {}), **overrides})


def yolov1_tiny(num_classes: int, **overrides: Any) -> YOLOv1:
    """Fast YOLO as `yolov1-tiny.cfg` has it: eight convolutions and one connected layer."""
    return YOLOv1(num_classes, **{"backbone": "fast", "normalised": True, "hidden": None, **overrides})
