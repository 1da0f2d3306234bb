"""RetinaNet, from Tsung-Yi Lin, Priya Goyal, Ross Girshick, Kaiming He and Piotr Dollár, "Focal Loss for Dense Object
Detection" (ICCV 2017, https://arxiv.org/abs/1708.02002).

A dense detector looks at a hundred thousand anchors an image, nearly all of them plain background, and their many small
losses drown the few objects. The focal loss turns down what is already answered well, so that all anchors can be learnt
from, with no sampling and no second stage. The network is a feature pyramid with two small convolutional heads, one for
classes and one for boxes, that all levels share.

Constants are the paper's, and where it is silent those of the authors' release (Detectron): anchors about the middles
of the cells, smooth L1 that turns straight at 0.11, an object's best anchor always learnt, both losses divided by the
positives of the whole batch. Otherwise than there: sides of anchors are not rounded; the ResNet is torchvision's, with
its colours, and strides on the 3x3 convolution of a block; the score floor holds on P7 too. `TORCHVISION` are the
overrides with which torchvision's model of the same name loads strictly and gives the same detections.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, clip_boxes_to_image, sigmoid_focal_loss
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from ops.anchors import grid_anchors, pyramid_shapes
from ops.coders import CenterSizeCoder
from ops.images import Batch, normalise, resize_short_side, stack
from ops.match import BETWEEN, threshold_match
from ops.nms import suppress
from ops.structures import Detections, Target
from zoo.backbones import small
from zoo.backbones.resnet import ResNet
from zoo.backbones.small import Norm, SmallNet
from zoo.detector import Detector, Recipe
from zoo.parts.fpn import FPN, BackboneWithFPN
from zoo.parts.frozen import FrozenBatchNorm
from zoo.subsample import ClassChannels
from zoo.two_stage.fast_rcnn import flip_half

__all__ = [
    "RECIPE",
    "SMALL",
    "SMALL_RECIPE",
    "TORCHVISION",
    "AnchorTerms",
    "DenseHead",
    "RetinaNet",
    "RetinaNetOutputs",
    "retinanet_r50_fpn",
    "retinanet_r101_fpn",
]

RECIPE = Recipe(
    batch=16,
    steps=90_000,
    lr=0.01,
    momentum=0.9,
    weight_decay=1e-4,
    bias_lr=2.0,
    milestones=(60_000, 80_000),
    warmup=500,
    warmup_factor=1 / 3,
    augment=flip_half,
    source="section 4.1 and Detectron, configs/12_2017_baselines/retinanet_R-50-FPN_1x: COCO train2017",
)
SMALL_RECIPE = small.SMALL_RECIPE

SMALL: dict[str, Any] = {
    "backbone": "small",
    "width": 24,
    "extras": 1,
    "head_depth": 2,
    "head_std": 0.033,
    "base": 2.0,
    "scales": 1,
    "short": 160,
    "longest": 160,
}
"""For `shapes`: strides 4 to 64, three anchors a cell, of 8 to 128 px. A convolution of 24 channels filled with 0.033
passes on as much as the paper's of 256 with 0.01."""

TORCHVISION: dict[str, Any] = {
    "p6_from": "P5",
    "whole_pixels": True,
    "centred": False,
    "background": True,
    "beta": 0.0,
    "limit": 300,
}
"""Overrides that make it torchvision's `retinanet_resnet50_fpn`; its published weights also need `norm_eps=0`."""


@dataclass(frozen=True)
class RetinaNetOutputs:
    """What both heads say of each anchor, level by level.

    Attributes:
        logits: `[B, N_i, C]` each.
        offsets: `[B, N_i, 4]` each.
        anchors: `[N_i, 4]` each, in network pixels.
    """

    logits: list[Tensor]
    offsets: list[Tensor]
    anchors: list[Tensor]


@dataclass(frozen=True)
class AnchorTerms:
    """What a batch asks of the anchors, and how far they are from it.

    Attributes:
        matches: int64 `[B, N]`: the object of each anchor, -1 for background, or `BETWEEN`.
        focal: `[B, N]`: each anchor's loss over all classes, 0 for those between.
        offsets: `[P, 4]`, what the positives say, image by image and anchor by anchor,
        anchors: `[P, 4]`, where they stand,
        boxes: `[P, 4]`, and their objects.
    """

    matches: Tensor
    focal: Tensor
    offsets: Tensor
    anchors: Tensor
    boxes: Tensor


class RetinaNet(Detector):
    """RetinaNet on a ResNet or on the zoo's small network."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Literal["resnet", "small"] = "resnet",
        depth: int = 50,
        trainable: int = 3,
        norm: Literal["frozen", "batch", "group"] = "frozen",
        norm_eps: float = 1e-5,
        width: int = 256,
        extras: int = 2,
        single: int | None = None,
        p6_from: Literal["C5", "P5"] = "C5",
        head_depth: int = 4,
        head_std: float = 0.01,
        prior: float = 0.01,
        background: bool = False,
        base: float = 4.0,
        scales: int = 3,
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        whole_pixels: bool = False,
        centred: bool = True,
        overlap: Sequence[float] = (0.4, 0.5),
        alpha: float = 0.25,
        gamma: float = 2.0,
        beta: float = 0.11,
        score_floor: float = 0.05,
        before_nms: int = 1_000,
        nms_iou: float = 0.5,
        limit: int = 100,
        short: int = 800,
        longest: int | None = None,
        divisor: int = 32,
    ) -> None:
        """Build with the paper's initial weights (section 4.1) over a backbone with He's.

        Args:
            num_classes: Foreground classes.
            backbone: ResNet, or the small one that small sizes share, which looks at all of its maps.
            depth: Of the ResNet.
            trainable: How many of its five parts learn, counted from the end.
            norm: The backbone's normalisation: all frozen, or as a batch normalisation whose scale and shift are
                parameters, as the small one has it anyhow; or `group`, by eight channels of an image at a time (Wu, He:
                Group Normalization, ECCV 2018), which knows nothing of the batch.
            norm_eps: Of the frozen one.
            width: Channels of the pyramid and of both heads.
            extras: Levels beyond the backbone's coarsest map.
            single: The one level, 0 the finest, that finds objects of all sizes, with the anchors of all levels: what
                the pyramid is worth is seen against it. None, as in the paper: each level finds those of its size.
            p6_from: Whether the first of them is made from the backbone's map or from the pyramid's (footnote 2).
            head_depth: Convolutions of each head before its last.
            head_std: Of the Gaussian that fills the heads.
            prior: What an untrained network says of each class at each anchor.
            background: The class head has a first output more, of no class, that nothing is read from.
            base: Side of a level's smallest anchor in strides: areas of 32^2 on P3 to 512^2 on P7.
            scales: Anchors an octave.
            ratios: Of the anchors, height over width.
            whole_pixels: Cut sides and round corners of anchors to whole pixels.
            centred: Anchors lie about the middles of the cells, a stride apart. If not, about their upper left
                corners, and as far apart as the whole of the input's side over the map's side says.
            overlap: Under the first IoU, an anchor is a negative; from the second, a positive; between, neither.
            alpha: Weight of positives in the focal loss; negatives have the rest.
            gamma: Its focusing parameter; 0 is cross entropy.
            beta: Where the smooth L1 loss turns from square to straight.
            score_floor: A detection must score more than this.
            before_nms: Most candidates a level that enter suppression, over all classes.
            nms_iou: IoU above which the lesser detection of a class goes.
            limit: Most detections an image.
            short: Images are resized to this shorter side,
            longest: or less where the longer side would pass this; left out, it is five thirds of `short`, as 1333 is
                of 800.
            divisor: Padded to a multiple of this.

        Raises:
            ValueError: There is no such single level, or no such normalisation.
        """
        super().__init__(num_classes)
        body, strides, channels = _body(backbone, depth, trainable, norm, norm_eps)
        fpn = FPN(channels, width, _CoarserLevels(channels[-1] if p6_from == "C5" else width, width, extras, p6_from))
        self.backbone = _Pyramid(body, fpn)
        self.strides = (*strides, *(strides[-1] * 2 ** (i + 1) for i in range(extras)))
        shapes = []
        for stride in self.strides:
            sides = [base * stride * 2 ** (octave / scales) for octave in range(scales)]
            sides = [float(int(side)) for side in sides] if whole_pixels else sides
            shapes.append(pyramid_shapes(sides, ratios, rounded=whole_pixels))
        self.single = single
        if single is not None:
            if not 0 <= single < len(self.strides):
                raise ValueError(f"single = {single}: there are levels 0 to {len(self.strides) - 1}")
            self.strides, shapes = (self.strides[single],), [torch.cat(shapes)]
        for level, of_level in enumerate(shapes):
            self.register_buffer(f"shapes{level}", of_level, False)
        anchors = len(shapes[0])
        self.hidden = int(background)
        logits = anchors * (num_classes + self.hidden)
        self.tower = partial(DenseHead, width=width, depth=head_depth, std=head_std)
        self.head = nn.ModuleDict(
            {
                "classification_head": self.tower("cls_logits", outputs=logits, prior=prior),
                "regression_head": self.tower("bbox_reg", outputs=4 * anchors),
            }
        )
        self.anchors_per_cell, self.centred = anchors, centred
        self.overlap, self.alpha, self.gamma, self.beta = tuple(overlap), alpha, gamma, beta
        self.score_floor, self.before_nms, self.nms_iou, self.limit = score_floor, before_nms, nms_iou, limit
        self.short, self.longest, self.divisor = short, longest or _longest(short), divisor
        self.coder = CenterSizeCoder()

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Normalise, resize by the shorter side, pad at the bottom and right with the mean colour."""
        colours = [normalise(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) for image in images]
        batch = stack([resize_short_side(image, self.short, self.longest) for image in colours], self.divisor)
        # Convolutions run faster in this order of memory, and the heads' answers need not be copied.
        return Batch(batch.pixels.contiguous(memory_format=torch.channels_last), batch.frames)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> RetinaNetOutputs:
        """Logits and offsets of all anchors."""
        maps = self.backbone(batch.pixels)
        return self.heads(maps if self.single is None else [maps[self.single]], batch)

    def heads(self, maps: list[Tensor], batch: Batch) -> RetinaNetOutputs:
        """What both heads say of the pyramid's levels."""
        logits = [_rows(x, self.num_classes + self.hidden) for x in self.head["classification_head"](maps)]
        offsets = [_rows(x, 4) for x in self.head["regression_head"](maps)]
        return RetinaNetOutputs(logits, offsets, self._anchors(maps, batch.size))

    def _anchors(self, maps: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        anchors = []
        for level, (x, stride) in enumerate(zip(maps, self.strides, strict=True)):
            shapes, cells = self.get_buffer(f"shapes{level}"), (int(x.shape[-2]), int(x.shape[-1]))
            if self.centred:
                anchors.append(grid_anchors(shapes, cells, (stride, stride)))
            else:
                anchors.append(grid_anchors(shapes, cells, (size[0] // cells[0], size[1] // cells[1]), offset=0.0))
        return anchors

    def postprocess(self, outputs: RetinaNetOutputs, batch: Batch) -> list[Detections]:
        """The surest of each level, decoded and cut to the image; suppression within each class (section 4.1)."""
        answers = []
        for index, frame in enumerate(batch.frames):
            found = self.candidates(outputs, index)
            boxes, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
            boxes = clip_boxes_to_image(boxes, frame.inner)
            kept, scores = suppress(boxes, scores, labels, iou=self.nms_iou, limit=self.limit)
            answers.append(Detections.ranked(frame.to_image(boxes[kept]), scores, labels[kept]))
        return answers

    def candidates(self, outputs: RetinaNetOutputs, index: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Boxes in network pixels, scores and labels of one image of the batch, level by level, not yet suppressed."""
        found = []
        for logits, offsets, anchors in zip(outputs.logits, outputs.offsets, outputs.anchors, strict=True):
            rows, scores, labels = self.surest(logits[index])
            found.append((self.coder.decode(offsets[index][rows].float(), anchors[rows]), scores, labels))
        return found

    def surest(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, scores and labels of the candidates of one level of one image, from logits `[N, C]`."""
        # Few pass the floor, so that only they are turned into scores.
        rows, columns = (logits > _logit(self.score_floor)).nonzero(as_tuple=True)
        if self.hidden:
            rows, columns = rows[columns > 0], columns[columns > 0]
        scores, best = logits[rows, columns].float().sigmoid().topk(min(self.before_nms, len(rows)))
        return rows[best], scores, columns[best] - self.hidden

    def losses(self, outputs: RetinaNetOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Focal loss over all anchors and smooth L1 over positives, both a positive of the batch (section 3)."""
        terms = self.terms(outputs, targets)
        count = (terms.matches >= 0).sum().clamp(min=1)
        wanted = self.coder.encode(terms.boxes, terms.anchors)
        box = F.smooth_l1_loss(terms.offsets, wanted, beta=self.beta, reduction="sum")
        return {"class": terms.focal.sum() / count, "box": box / count}

    def terms(self, outputs: RetinaNetOutputs, targets: list[Target]) -> AnchorTerms:
        """Which anchor learns what, and the focal loss of each."""
        anchors, offsets = torch.cat(outputs.anchors), torch.cat(outputs.offsets, 1)
        logits = torch.cat(outputs.logits, 1)[..., self.hidden :].float()
        low, high = self.overlap
        matches = torch.stack([threshold_match(box_iou(t.boxes, anchors), low, high, rescue=True) for t in targets])
        classes, places, boxes = torch.zeros_like(logits), [], []
        for row, match, target in zip(classes, matches, targets, strict=True):
            positive = (match >= 0).nonzero()[:, 0]
            row[positive, target.labels[match[positive]]] = 1
            places.append(anchors[positive])
            boxes.append(target.boxes[match[positive]])
        focal = sigmoid_focal_loss(logits, classes, self.alpha, self.gamma) * (matches != BETWEEN)[..., None]
        return AnchorTerms(matches, focal.sum(-1), offsets[matches >= 0].float(), torch.cat(places), torch.cat(boxes))

    def resize(self, size: int | tuple[int, int]) -> None:
        """Resize images to this shorter side, or less where the longer would pass five thirds of it, or the other."""
        sides = (size, _longest(size)) if isinstance(size, int) else sorted(size)
        self.short, self.longest = sides

    @property
    def size(self) -> tuple[int, int]:
        """The shorter side and the longest, as `resize` takes them."""
        return self.short, self.longest

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: anchor by anchor, each class with a score of its own."""
        layer = "head.classification_head.cls_logits"
        channels = ClassChannels(groups=self.anchors_per_cell, leading=self.hidden)
        return {f"{layer}.weight": channels, f"{layer}.bias": channels}

    def num_boxes(self, size: tuple[int, int]) -> int:
        """Anchors over all levels, for maps that round up."""
        return self.anchors_per_cell * sum(-(-size[0] // s) * -(-size[1] // s) for s in self.strides)


def _body(
    backbone: str, depth: int, trainable: int, norm: str, norm_eps: float
) -> tuple[nn.Module, tuple[int, ...], tuple[int, ...]]:
    """The backbone, and strides and channels of the maps that the pyramid stands on: a ResNet's C3 to C5."""
    layers: dict[str, Norm] = {
        "frozen": partial(FrozenBatchNorm, eps=norm_eps),
        "batch": nn.BatchNorm2d,
        "group": _by_image,
    }
    if norm not in layers:
        raise ValueError(f"norm = {norm!r}: choose {', '.join(layers)}")
    if backbone == "small":
        net = SmallNet(norm=layers["batch" if norm == "frozen" else norm])
        return net, net.strides, net.channels
    resnet = ResNet(depth, trainable=trainable, norm=layers[norm])
    return resnet, resnet.strides[1:], resnet.channels[1:]


def _by_image(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // 8, channels)


class _Pyramid(BackboneWithFPN):
    """A pyramid over the coarsest maps, as many as it was built for: C2 would have too many anchors (footnote 2)."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.fpn(self.body(x)[-len(self.fpn.inner_blocks) :])


class _CoarserLevels(ExtraFPNBlock):
    """P6, P7, ...: each a 3x3 convolution with stride 2 of the one before, with a ReLU between (footnote 2)."""

    def __init__(self, inputs: int, width: int, levels: int, source: Literal["C5", "P5"]) -> None:
        super().__init__()
        self.source = source
        for level in range(levels):
            conv = nn.Conv2d(width if level else inputs, width, 3, 2, 1)
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            self.add_module(f"p{6 + level}", conv)

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        x = c[-1] if self.source == "C5" else p[-1]
        for level, (name, conv) in enumerate(self.named_children()):
            x = conv(x.relu() if level else x)
            p, names = [*p, x], [*names, name]
        return p, names


class DenseHead(nn.Module):
    """3x3 convolutions with ReLU, and a last one without, with one set of weights for all levels (figure 3)."""

    def __init__(
        self, last: str, *, outputs: int, width: int, depth: int, std: float, prior: float | None = None
    ) -> None:
        """Build with Gaussian weights.

        Args:
            last: Name of the last convolution.
            outputs: Its channels.
            width: Channels of the others.
            depth: How many these are.
            std: Of the Gaussian.
            prior: Probability that the outputs stand for at first, as logits; None: their biases are 0.
        """
        super().__init__()
        bias = 0.0 if prior is None else _logit(prior)
        layers = [nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True)) for _ in range(depth)]
        self.conv = nn.Sequential(*layers)
        self.last = last
        self.add_module(last, nn.Conv2d(width, outputs, 3, padding=1))
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=std)
            else:
                nn.init.constant_(parameter, bias if name.startswith(last) else 0.0)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Levels `[B, width, H_i, W_i]` to `[B, outputs, H_i, W_i]`."""
        last = self.get_submodule(self.last)
        return [last(self.conv(x)) for x in maps]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # torchvision's checkpoints from before its convolutions were modules with their ReLU.
        for layer in range(len(self.conv)):
            for kind in ("weight", "bias"):
                if (old := f"{prefix}conv.{2 * layer}.{kind}") in state_dict:
                    state_dict[f"{prefix}conv.{layer}.0.{kind}"] = state_dict.pop(old)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _rows(x: Tensor, values: int) -> Tensor:
    """A map `[B, A * values, H, W]` as one row an anchor, `[B, H * W * A, values]`."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, values)


def _logit(p: float) -> float:
    return math.log(p / (1 - p)) if p > 0 else -math.inf


def _longest(short: int) -> int:
    return short * 1_333 // 800


def retinanet_r50_fpn(num_classes: int, **overrides: Any) -> RetinaNet:
    """RetinaNet on ResNet-50: 201,600 anchors on 800x1344; `short=500` gives the paper's fast one."""
    return RetinaNet(num_classes, **overrides)


def retinanet_r101_fpn(num_classes: int, **overrides: Any) -> RetinaNet:
    """RetinaNet on ResNet-101."""
    return RetinaNet(num_classes, **{"depth": 101, **overrides})
