"""SSD: Single Shot MultiBox Detector. Wei Liu, Dragomir Anguelov, Dumitru Erhan, Christian Szegedy, Scott Reed,
Cheng-Yang Fu, Alexander C. Berg. ECCV 2016.

https://arxiv.org/abs/1512.02325

Maps of ever coarser stride (the backbone's last ones, then extra layers behind it) each watch over objects of their own
size: at every cell, a 3x3 convolution says for a few default boxes ("priors") of fixed scale and shape which class is
there and how the box must move. An object is learnt by its best prior and by every other that overlaps it enough; of
the many priors that see nothing, only the three hardest a positive are looked at. There is no second stage.

Where paper and released code differ, this is the code: `steps` rather than the map's size place the priors, and sizes
are cut to whole pixels, as Caffe's PriorBox does. Otherwise than the code: images are resized bilinearly with torch's
pixel centres, and in augmentation too; a decoded size is bounded, so that an untrained network cannot overflow.
torchvision's SSD300 is this network too: its state dict loads as it is, and with the overrides `TORCHVISION` it gives
the same detections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from ops.anchors import centred_shapes, grid_anchors, prior_shapes
from ops.augment import ssd_augment
from ops.coders import CenterSizeCoder
from ops.images import Batch, normalise, stack, warp
from ops.structures import Detections, Target
from zoo.backbones import small
from zoo.backbones.small import SmallNet, conv_bn_relu
from zoo.backbones.vgg import VGG16Reduced
from zoo.detector import Detector, Recipe
from zoo.parts.multibox import Predictions, assign, caffe_xavier, detect_multibox, flatten_heads, multibox_loss
from zoo.subsample import ClassChannels

__all__ = [
    "RECIPE",
    "SMALL",
    "SMALL_512",
    "SMALL_RECIPE",
    "SSD",
    "TORCHVISION",
    "Extra",
    "assemble",
    "ssd300_vgg16",
    "ssd512_vgg16",
]

RECIPE = Recipe(
    batch=32,
    steps=120_000,
    lr=1e-3,
    momentum=0.9,
    weight_decay=5e-4,
    bias_lr=2.0,
    milestones=(80_000, 100_000),
    augment=ssd_augment,
    source="section 3.1 and the released ssd_pascal.py, for VOC 2007 + 2012, from ImageNet weights",
)
SMALL_RECIPE = small.SMALL_RECIPE

SMALL: dict[str, Any] = {
    "size": 160,
    "backbone": "small",
    "deepen": 40,
    "extras": ((48, 64, 3, 2, 1),),
    "percents": (6.5, 12, 24, 44, 70, 95),
    "ratios": ((), (2,), (2,), (2,), (2,)),
    "steps": None,
    "whole_pixels": False,
    "trains_on_ignored": False,
}
SMALL_512: dict[str, Any] = {
    **SMALL,
    "size": 192,
    "extras": ((48, 64, 3, 2, 1), (32, 48, 3, 1, 0)),
    "percents": (5.5, 10.5, 20, 36, 58, 80, 100),
    "ratios": ((), (2,), (2,), (2,), (2,), (2,)),
}

TORCHVISION: dict[str, Any] = {
    "sizes": "coco",
    "mean": (122.99925, 116.9991, 103.9992),
    "bgr": False,
    "clip_priors": True,
    "clip_boxes": True,
}
"""Overrides that make `ssd300_vgg16` torchvision's model of that name."""

_PERCENTS_300 = {"voc": (10, 20, 37, 54, 71, 88, 105), "coco": (7, 15, 33, 51, 69, 87, 105)}
_PERCENTS_512 = {"voc": (7, 15, 30, 45, 60, 75, 90, 105), "coco": (4, 10, 26, 42, 58, 74, 90, 106)}


_EXTRAS_300 = ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0))
_EXTRAS_512 = ((256, 512, 3, 2, 1), *((128, 256, 3, 2, 1),) * 3, (128, 256, 4, 1, 1))


class SSD(Detector):
    """SSD over any backbone that gives a list of maps.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input.
        backbone: Image to a list of maps, the finest first. It says their `channels` and `strides`; where a map is not
            the input over its stride, rounded up, it brings `map_sizes`, as `Extra` does.
        extras: Levels behind the backbone, each computed from the level before.
        neck: Changes the maps before the heads look at them, but not their sizes; it says their `channels`.
        head: `head(inputs, outputs, level)` makes the layer that predicts from one map.
        percents: Prior scales in percent of `size`, one a level and a last one that only bounds the geometric mean
            (section 2.2, equation 4).
        ratios: Aspect ratios of each level besides 1; each stands for itself and its inverse.
        steps: Pixels between neighbouring cells of each level; None divides `size` by the map's side (section 2.2).
        whole_pixels: Cut prior sizes to whole pixels, as the released models do.
        clip_priors: Let no prior be wider or higher than the input.
        mean: Of the colours, taken off bytes.
        bgr: Whether the network sees blue first, as Caffe does.
        match_iou: From this IoU on, a prior learns an object besides the object's best one (section 2.2); None: only
            the best.
        negative_iou: A prior that overlaps some object this much is no negative.
        sampler: Which negatives are learnt: the hardest, any, or all.
        negatives: Negatives a positive, image by image (section 2.2).
        score_floor: Least score of a detection (section 2.2).
        nms_iou: IoU above which the lesser detection of a class goes.
        clip_boxes: Cut boxes to the image before suppression, not after it.
        before_per_class: Candidates of a class that enter suppression.
        limit: Most detections an image.
        trains_on_ignored: Learn VOC's difficult objects too, as the released script does for VOC (not for COCO).

    Attributes:
        size: `(H, W)` of the input.
        shapes_per_cell: Priors a cell of each level.
        priors: `[N, 4]` in network pixels.
    """

    priors: Tensor
    backbone: Any

    def __init__(
        self,
        num_classes: int,
        *,
        size: int,
        backbone: Any,
        extras: Sequence[Extra] = (),
        neck: Any = None,
        head: Callable[[int, int, int], nn.Module] | None = None,
        percents: Sequence[float],
        ratios: Sequence[Sequence[float]],
        steps: Sequence[float] | None = None,
        whole_pixels: bool = True,
        clip_priors: bool = False,
        mean: Sequence[float] = (104, 117, 123),
        bgr: bool = True,
        match_iou: float | None = 0.5,
        negative_iou: float = 0.5,
        sampler: Literal["hard", "random", "all"] = "hard",
        negatives: float = 3.0,
        score_floor: float = 0.01,
        nms_iou: float = 0.45,
        clip_boxes: bool = False,
        before_per_class: int = 400,
        limit: int = 200,
        trains_on_ignored: bool = True,
    ) -> None:
        super().__init__(num_classes)
        self.size = (size, size)
        self.match_iou, self.negative_iou = match_iou, negative_iou
        self.sampler, self.negatives = sampler, negatives
        self.score_floor, self.nms_iou = score_floor, nms_iou
        self.before_per_class, self.limit = before_per_class, limit
        self.mean, self.bgr, self.clip_boxes = tuple(mean), bgr, clip_boxes
        self.trains_on_ignored = trains_on_ignored
        self.coder = CenterSizeCoder((10.0, 10.0, 5.0, 5.0))

        self.backbone = backbone
        self.extras = nn.ModuleList(extras)
        self.neck = nn.Identity() if neck is None else neck
        channels = [*backbone.channels, *(extra.channels for extra in extras)] if neck is None else list(neck.channels)
        if not len(channels) == len(ratios) == len(percents) - 1:
            raise ValueError(
                f"{len(channels)} levels need as many ratios and one percent more, "
                f"got {len(ratios)} and {len(percents)}"
            )

        # Multiplied before it is divided: 300 * 37 / 100 is 111, where 300 * 0.37 may fall short of it.
        sides = [size * percent / 100 for percent in percents]
        if whole_pixels:
            sides = [float(int(side)) for side in sides]
        self._shapes = [prior_shapes(a, b, r) for a, b, r in zip(sides[:-1], sides[1:], ratios, strict=True)]
        if clip_priors:
            self._shapes = [[(min(w, size), min(h, size)) for w, h in shapes] for shapes in self._shapes]
        self._steps = {} if steps is None else {self.size: list(steps)}
        self.shapes_per_cell = tuple(len(shapes) for shapes in self._shapes)
        self.register_buffer("priors", self._lay_priors(self.size), persistent=False)
        make = _head if head is None else head
        levels = list(zip(range(len(channels)), channels, self.shapes_per_cell, strict=True))
        self.box_heads = nn.ModuleList(make(inputs, 4 * n, level) for level, inputs, n in levels)
        self.class_heads = nn.ModuleList(make(inputs, (1 + num_classes) * n, level) for level, inputs, n in levels)

    def _lay_priors(self, size: tuple[int, int]) -> Tensor:
        maps = self.map_sizes(size)
        pitch: list[tuple[float, float]] = [(size[0] / height, size[1] / width) for height, width in maps]
        if size in self._steps:
            pitch = [(step, step) for step in self._steps[size]]
        levels = zip(self._shapes, maps, pitch, strict=True)
        return torch.cat([grid_anchors(centred_shapes(shapes), sides, step) for shapes, sides, step in levels])

    def resize(self, size: int | tuple[int, int]) -> None:
        """Lay the same shapes over another input; steps then follow from the maps.

        Raises:
            ValueError: The input is too small for the last level.
        """
        self.size = (size, size) if isinstance(size, int) else size
        self.priors = self._lay_priors(self.size).to(self.priors.device)

    def map_sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """`(H, W)` of each level's map at network input `size`.

        Raises:
            ValueError: The input is too small for the last level.
        """
        if hasattr(self.backbone, "map_sizes"):
            maps = list(self.backbone.map_sizes(size))
        else:
            maps = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in self.backbone.strides]
        for extra in self.extras:
            maps.append(extra.map_size(maps[-1]))  # type: ignore[operator]
        if min(maps[-1]) < 1:
            raise ValueError(f"an input of {size} is too small for {len(maps)} levels: their maps are {maps}")
        return maps

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: behind the background of every prior, in a head's last convolution and after it."""
        found: dict[str, ClassChannels] = {}
        for level, (head, count) in enumerate(zip(self.class_heads, self.shapes_per_cell, strict=True)):
            layers = list(head.named_modules(prefix=f"class_heads.{level}"))
            last = max(place for place, (_, layer) in enumerate(layers) if isinstance(layer, nn.Conv2d))
            for name, layer in layers[last:]:
                own = [*layer.named_parameters(name, recurse=False), *layer.named_buffers(name, recurse=False)]
                found |= {entry: ClassChannels(groups=count, leading=1) for entry, value in own if value.ndim}
        return found

    def caffe_names(self) -> dict[str, str | tuple[str, ...]]:
        """Modules as the released VGG-16 models call them; see `zoo.formats.caffe`.

        Raises:
            ValueError: The backbone is another.
        """
        if not isinstance(self.backbone, VGG16Reduced):
            raise ValueError(f"Caffe's models of SSD have VGG-16, not {type(self.backbone).__name__}")
        names: dict[str, str | tuple[str, ...]] = {"backbone.l2norm": "conv4_3_norm"}
        for name, module in self.backbone.named_modules():
            if isinstance(module, nn.Conv2d):
                names[f"backbone.{name}"] = name.rpartition(".")[2]
        sources = ["conv4_3_norm", "fc7"]
        for level in range(len(self.extras)):
            names[f"extras.{level}.0"] = f"conv{level + 6}_1"
            names[f"extras.{level}.2"] = f"conv{level + 6}_2"
            sources.append(f"conv{level + 6}_2")
        for level, source in enumerate(sources):
            names[f"box_heads.{level}"] = f"{source}_mbox_loc"
            names[f"class_heads.{level}"] = f"{source}_mbox_conf"
        return names

    def num_boxes(self, size: tuple[int, int]) -> int:
        """Priors over all levels."""
        return sum(h * w * n for (h, w), n in zip(self.map_sizes(size), self.shapes_per_cell, strict=True))

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Warped to the square input; bytes less the ImageNet mean."""
        batch = stack([warp(image, self.size) for image in images])
        pixels = normalise(batch.pixels, self.mean, (1, 1, 1), bgr=self.bgr, peak=255)
        # Convolutions run a quarter faster in this order of memory.
        return replace(batch, pixels=pixels.contiguous(memory_format=torch.channels_last))

    def levels(self, pixels: Tensor) -> list[Tensor]:
        """The maps that the heads read, the finest first."""
        maps: list[Tensor] = list(self.backbone(pixels))
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return list(self.neck(maps))

    def network(self, batch: Batch, targets: list[Target] | None = None) -> Predictions:
        """Offsets and logits of all priors."""
        maps = self.levels(batch.pixels)
        offsets = flatten_heads(self.box_heads, maps, 4)
        return Predictions(offsets, flatten_heads(self.class_heads, maps, 1 + self.num_classes))

    def postprocess(self, outputs: Predictions, batch: Batch) -> list[Detections]:
        """Decode, suppress class by class, and go back to the pixels of each image (section 2.2, inference)."""
        boxes = self.coder.decode(outputs.offsets.float(), self.priors)
        return detect_multibox(
            clip_boxes_to_image(boxes, batch.size) if self.clip_boxes else boxes,
            outputs.logits.float().softmax(-1)[..., 1:],
            batch.frames,
            score_floor=self.score_floor,
            nms_iou=self.nms_iou,
            limit=self.limit,
            before_per_class=self.before_per_class,
        )

    def losses(self, outputs: Predictions, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Smooth L1 of positives and cross entropy of positives and chosen negatives, both a positive of the batch."""
        assigned = [
            assign(t, self.priors, self.coder, match_iou=self.match_iou, negative_iou=self.negative_iou)
            for t in targets
        ]
        box, classes = multibox_loss(outputs, assigned, sampler=self.sampler, negatives=self.negatives)
        return {"box": box, "class": classes}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if f"{prefix}backbone.scale_weight" in state_dict:
            _rename_torchvisions(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _rename_torchvisions(state: dict[str, Any], prefix: str) -> None:
    """The layers of torchvision's SSD300, numbered there, in place under our names."""
    features = iter((0, 2, 5, 7, 10, 12, 14, 17, 19, 21))
    names = {"backbone.scale_weight": "backbone.l2norm.weight"}
    layers = {"backbone.extra.0.7.1": "backbone.fc6", "backbone.extra.0.7.3": "backbone.fc7"}
    for stage, convolutions in enumerate((2, 2, 3, 3), start=1):
        for index in range(1, convolutions + 1):
            layers[f"backbone.features.{next(features)}"] = f"backbone.stages.{stage - 1}.conv{stage}_{index}"
    layers |= {f"backbone.extra.0.{2 * index - 1}": f"backbone.stages.4.conv5_{index}" for index in (1, 2, 3)}
    layers |= {f"backbone.extra.{level + 1}.{at}": f"extras.{level}.{at}" for level in range(4) for at in (0, 2)}
    for theirs, ours in (("classification", "class"), ("regression", "box")):
        layers |= {f"head.{theirs}_head.module_list.{level}": f"{ours}_heads.{level}" for level in range(6)}
    names |= {f"{old}.{part}": f"{new}.{part}" for old, new in layers.items() for part in ("weight", "bias")}
    for old, new in names.items():
        if prefix + old in state:
            state[prefix + new] = state.pop(prefix + old)


def _head(inputs: int, outputs: int, level: int) -> nn.Conv2d:
    return caffe_xavier(nn.Conv2d(inputs, outputs, 3, padding=1))


class Extra(nn.Sequential):
    """A level behind the backbone: 1x1 to `narrow` channels, then `kernel` to `channels`, ReLU after each (figure 2).

    Attributes:
        channels: Of the map that it gives.
    """

    def __init__(self, inputs: int, narrow: int, channels: int, kernel: int, stride: int, padding: int) -> None:
        first, second = nn.Conv2d(inputs, narrow, 1), nn.Conv2d(narrow, channels, kernel, stride, padding)
        super().__init__(caffe_xavier(first), nn.ReLU(inplace=True), caffe_xavier(second), nn.ReLU(inplace=True))
        self.channels = channels
        self._window = (kernel, stride, padding)

    def map_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """`(H, W)` of the map given from one of `size`."""
        kernel, stride, padding = self._window
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in size)
        return height, width


class SmallSources(nn.Module):
    """SmallNet, with one more convolution on its finest map: that level must tell small forms apart, and no deeper one
    helps it.

    Args:
        deepen: Channels of that convolution; None leaves it out.

    Attributes:
        channels: Width of each map that `forward` gives.
        strides: Stride of each; sides are rounded up.
    """

    def __init__(self, deepen: int | None) -> None:
        super().__init__()
        self.net = SmallNet()
        finest, *others = self.net.channels
        self.channels = (deepen or finest, *others)
        self.strides = self.net.strides
        self.deeper = nn.Identity() if deepen is None else conv_bn_relu(finest, deepen)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps at strides 4, 8, 16 and 32."""
        finest, *others = self.net(x)
        return [self.deeper(finest), *others]


def ssd300_vgg16(num_classes: int, *, size: int = 300, sizes: Literal["voc", "coco"] = "voc", **overrides: Any) -> SSD:
    """SSD300: six levels, 8,732 priors.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input; at another than 300 the steps follow from the maps.
        sizes: Prior scales for VOC, or the smaller ones for COCO (section 3.4).
        overrides: Arguments of `SSD`, with backbone and extras by name: see `assemble`.
    """
    paper = {
        "extras": _EXTRAS_300,
        "percents": _PERCENTS_300[sizes],
        "ratios": ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        "steps": (8, 16, 32, 64, 100, 300) if size == 300 else None,
    }
    return assemble(num_classes, size=size, **{**paper, **overrides})


def ssd512_vgg16(num_classes: int, *, size: int = 512, sizes: Literal["voc", "coco"] = "voc", **overrides: Any) -> SSD:
    """SSD512: seven levels, 24,564 priors.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input.
        sizes: Prior scales for VOC, or the smaller ones for COCO.
        overrides: Arguments of `SSD`, with backbone and extras by name: see `assemble`.
    """
    paper = {
        "extras": _EXTRAS_512,
        "percents": _PERCENTS_512[sizes],
        "ratios": ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    }
    return assemble(num_classes, size=size, **{**paper, **overrides})


def assemble(
    num_classes: int,
    *,
    size: int,
    extras: Sequence[Sequence[int]],
    backbone: Literal["vgg16", "small"] = "vgg16",
    deepen: int | None = None,
    **arguments: Any,
) -> SSD:
    """SSD from numbers and names, as a checkpoint can state them.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input.
        extras: Levels behind the backbone, each `(narrow, width, kernel, stride, padding)`: see `Extra`.
        backbone: VGG-16 with dilated fc6 (section 3), or the small one that small sizes share.
        deepen: Channels of one more convolution on the small backbone's finest map; None leaves it out.
        arguments: Further ones of `SSD`.
    """
    if deepen is not None and backbone != "small":
        raise ValueError(f"deepen belongs to the small backbone, not to {backbone}")
    body = VGG16Reduced() if backbone == "vgg16" else SmallSources(deepen)
    levels: list[Extra] = []
    inputs = body.channels[-1]
    for extra in extras:
        levels.append(Extra(inputs, *extra))
        inputs = levels[-1].channels
    return SSD(num_classes, size=size, backbone=body, extras=levels, **arguments)
