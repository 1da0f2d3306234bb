"""RefineDet: Single-Shot Refinement Neural Network for Object Detection. Shifeng Zhang, Longyin Wen, Xiao Bian,
Zhen Lei, Stan Z. Li. CVPR 2018.

https://arxiv.org/abs/1711.06897

An SSD that looks twice. Heads on the backbone's maps (the anchor refinement module, ARM) say of every tiled anchor
whether anything is there, and move it. From the same maps a top-down path (the transfer connection blocks, TCB) makes
richer ones, whose heads (the object detection module, ODM) say which class is there and move the *refined* anchor once
more. Anchors of which the ARM is sure that they see nothing are neither detections nor hard negatives.

The ablation of Table 2 as switches; each variant of the paper leaves out one more:

- `negative_filtering=False` is the paper's threshold 1.0: every anchor goes on to the ODM. Nothing else changes.
- `two_step=False` besides: the ODM is matched to, and moves, the tiled anchors. The ARM keeps both of its losses, but
  no answer depends on it any more: it only teaches the maps that it shares with the ODM. (The paper says no more than
  that tiled anchors replace refined ones; that it credits the TCB of this variant with features of the ARM speaks for
  this reading.)
- `transfer=False` besides: no TCB; the ODM's heads read the backbone's maps. With neither refinement nor filtering
  left, the paper lets the ARM itself detect all classes: there are no binary heads and no ARM loss. What is left is an
  SSD with RefineDet's maps and anchors.

Not in the paper: `top_down=False` leaves the transfer connection blocks their layers and takes away what they hand
down, the enlarged answer of the coarser block: what is left of their gain then is that of more layers.

Other combinations mean what they say: the ARM and its losses are there unless all three are off.

Where paper and released code differ, this is the code, with which the published numbers were made: 1,000 candidates a
class enter suppression and 500 detections stay (paper: 400 and 200; `before_per_class=400, limit=200`). The paper keeps
anchors under the threshold from training altogether; the code drops negatives only and learns every matched anchor.
Otherwise than the code: what SSD's file says; and a coarse map that is more than half the finer one is cut to fit, so
that inputs need not be multiples of the last stride.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ops.anchors import centred_shapes, grid_anchors, prior_shapes
from ops.augment import ssd_augment
from ops.coders import CenterSizeCoder
from ops.images import Batch, normalise, stack, warp
from ops.structures import Detections, Target
from zoo.backbones import small
from zoo.backbones.caffe_resnet import Bottleneck, CaffeResNet
from zoo.backbones.vgg import VGG16Reduced
from zoo.detector import Detector, Recipe
from zoo.one_stage.ssd import SmallSources
from zoo.parts.multibox import (
    Assignment,
    Predictions,
    assign,
    caffe_xavier,
    detect_multibox,
    flatten_heads,
    multibox_loss,
)
from zoo.subsample import ClassChannels

__all__ = [
    "RECIPE",
    "RECIPE_R101",
    "RECIPE_R101_512",
    "SMALL",
    "SMALL_RECIPE",
    "Outputs",
    "RefineDet",
    "refinedet320_r101",
    "refinedet320_vgg16",
    "refinedet320_vgg16_no_tcb",
    "refinedet320_vgg16_one_step",
    "refinedet320_vgg16_unfiltered",
    "refinedet512_r101",
    "refinedet512_vgg16",
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
    source="sections 4 and 5.1, for VOC 2007 + 2012, from ImageNet weights",
)
RECIPE_R101 = replace(
    RECIPE, steps=400_000, milestones=(280_000, 360_000), source="section 5.3, for COCO, from ImageNet weights"
)
RECIPE_R101_512 = replace(
    RECIPE_R101, batch=20, steps=540_000, milestones=(400_000, 480_000), source="section 5.3, footnote 7, for COCO"
)
SMALL_RECIPE = small.SMALL_RECIPE

SMALL: dict[str, Any] = {
    "size": 160,
    "backbone": "small",
    "deepen": 32,
    "width": 28,
    "norm": True,
    "trains_on_ignored": False,
}
"""Strides and anchors are half the paper's, as the input is: 6,375 anchors here too."""


@dataclass(frozen=True)
class Outputs:
    """What the heads say.

    Attributes:
        arm: Offsets from the tiled anchors and two logits, nothing and something; None where there is no ARM.
        odm: Offsets from the refined anchors and a logit a class, background first.
    """

    arm: Predictions | None
    odm: Predictions


class RefineDet(Detector):
    """RefineDet over four maps, each twice as coarse as the one before.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input, or `(H, W)`.
        backbone: VGG-16 with conv6 behind it, ResNet-101 with res6 behind it (section 4), or the small one that small
            sizes share.
        deepen: Channels of one more convolution on the small backbone's finest map; None leaves it out.
        width: Channels of the transfer connection blocks (section 3).
        norm: Normalise the transfer connection blocks' convolutions, as the released ResNet-101 networks do.
        residual: A residual block before each head, likewise.
        scale: Side of an anchor in strides of its level (section 4).
        ratios: Aspect ratios besides 1; each stands for itself and its inverse (section 4).
        negative_filtering: Drop anchors of which the ARM is sure that they see nothing (section 3).
        two_step: Move the anchors by the ARM first (section 3).
        transfer: Build the transfer connection blocks (section 3).
        top_down: Add the coarser block's answer in each of them; False is ours, see the module.
        objectness: Least probability of "something" of an anchor that is not dropped, 1 less the paper's threshold.
        match_iou: From this IoU on, an anchor learns an object besides the object's best one (section 4).
        negative_iou: An anchor that overlaps some object this much is no negative.
        negatives: Hardest negatives a positive, image by image, for each of the two losses (section 4).
        score_floor: Least score of a detection.
        nms_iou: IoU above which the lesser detection of a class goes (section 4).
        before_per_class: Candidates of a class that enter suppression.
        limit: Most detections an image.
        trains_on_ignored: Learn VOC's difficult objects too, as the released script does for VOC (not for COCO).

    Raises:
        ValueError: `deepen` is given with another backbone than the small one, or `top_down=False` without blocks.
    """

    priors: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        size: int | tuple[int, int],
        backbone: Literal["vgg16", "resnet101", "small"] = "vgg16",
        deepen: int | None = None,
        width: int = 256,
        norm: bool = False,
        residual: bool = False,
        scale: float = 4.0,
        ratios: Sequence[float] = (2.0,),
        negative_filtering: bool = True,
        two_step: bool = True,
        transfer: bool = True,
        top_down: bool = True,
        objectness: float = 0.01,
        match_iou: float = 0.5,
        negative_iou: float = 0.5,
        negatives: float = 3.0,
        score_floor: float = 0.01,
        nms_iou: float = 0.45,
        before_per_class: int = 1000,
        limit: int = 500,
        trains_on_ignored: bool = True,
    ) -> None:
        super().__init__(num_classes)
        self.negative_filtering, self.two_step, self.objectness = negative_filtering, two_step, objectness
        self.match_iou, self.negative_iou, self.negatives = match_iou, negative_iou, negatives
        self.score_floor, self.nms_iou = score_floor, nms_iou
        self.before_per_class, self.limit = before_per_class, limit
        self.trains_on_ignored = trains_on_ignored
        self.coder = CenterSizeCoder((10.0, 10.0, 5.0, 5.0))

        if deepen is not None and backbone != "small":
            raise ValueError(f"deepen belongs to the small backbone, not to {backbone}")
        if not (transfer or top_down):
            raise ValueError("top_down=False is about the transfer connection blocks, and transfer=False has none")
        self.backbone, self.extra, channels, self.strides = _sources(backbone, deepen)
        shapes = [prior_shapes(scale * stride, None, ratios) for stride in self.strides]
        self._shapes, self.shapes_per_cell = shapes, len(shapes[0])
        refines = negative_filtering or two_step or transfer
        self.arm = _Heads(channels, self.shapes_per_cell, 2, residual) if refines else None
        self.tcb = _Transfer(channels, width, norm, top_down) if transfer else None
        inputs = [width] * len(channels) if transfer else channels
        self.odm = _Heads(inputs, self.shapes_per_cell, 1 + num_classes, residual)
        self.register_buffer("priors", torch.empty(0), persistent=False)
        self.resize(size)

    def resize(self, size: int | tuple[int, int]) -> None:
        """Take inputs of this side, or `(H, W)`, from now on: the network has no layer that minds."""
        self.size = (size, size) if isinstance(size, int) else size
        levels = zip(self._shapes, self.map_sizes(self.size), self.strides, strict=True)
        priors = [grid_anchors(centred_shapes(s), sides, (step, step)) for s, sides, step in levels]
        self.priors = torch.cat(priors).to(self.priors.device)

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: behind the background of every anchor; see `zoo.subsample`."""
        layout = ClassChannels(groups=self.shapes_per_cell, leading=1)
        return {f"odm.logits.{name}": layout for name, _ in self.odm.logits.named_parameters()}

    def caffe_names(self) -> dict[str, str | tuple[str, ...]]:
        """Layers of the released files by module; see `zoo.formats.caffe`.

        Raises:
            ValueError: No file was released for this network.
        """
        if self.arm is None or self.tcb is None or not self.tcb.enlarge or isinstance(self.backbone, SmallSources):
            raise ValueError("RefineDet: the released models have VGG-16 or ResNet-101, an ARM and all of the TCB")
        names: dict[str, str | tuple[str, ...]] = {}
        if isinstance(self.backbone, CaffeResNet):
            sources = ["res3b3_relu", "res4b22_relu", "res5c_relu", "res6_relu"]
            names |= {f"backbone.{path}": layers for path, layers in self.backbone.caffe_names().items()}
            last = cast(Bottleneck, self.extra)
            names |= {f"extra.{path}": layers for path, layers in last.caffe_names("6").items()}
        else:
            sources = ["conv4_3_norm", "conv5_3_norm", "fc7", "conv6_2"]
            names |= {"backbone.l2norm": sources[0], "backbone.l2norm5": sources[1]}
            names |= {"extra.0": "conv6_1", "extra.2": "conv6_2"}
            for path, module in self.backbone.named_modules():
                if isinstance(module, nn.Conv2d):
                    names[f"backbone.{path}"] = path.rpartition(".")[2]
        names |= {f"tcb.{path}": layers for path, layers in self.tcb.caffe_names().items()}
        odm_sources = [f"P{3 + level}" for level in range(len(sources))]
        for part, heads, inputs in (("arm", self.arm, sources), ("odm", self.odm, odm_sources)):
            names |= {f"{part}.{path}": layers for path, layers in heads.caffe_names(inputs).items()}
        return names

    def port_names(self) -> dict[str, str]:
        """Modules of luuuyi's port to PyTorch (https://github.com/luuuyi/RefineDet.PyTorch) by ours that hold the same.

        Raises:
            ValueError: The port has no such network.
        """
        if self.arm is None or self.tcb is None or not self.tcb.enlarge or not isinstance(self.backbone, VGG16Reduced):
            raise ValueError("RefineDet: the PyTorch port has VGG-16, an ARM and all of the TCB only")
        names = {"backbone.l2norm": "conv4_3_L2Norm", "backbone.l2norm5": "conv5_3_L2Norm"}
        layers = [
            (f"stages.{i}.{name}", x)
            for i, stage in enumerate(self.backbone.stages)
            for name, x in stage.named_children()
        ]
        names |= {f"backbone.{path}": f"vgg.{row}" for row, (path, x) in enumerate(layers) if isinstance(x, nn.Conv2d)}
        names |= {"backbone.fc6": "vgg.31", "backbone.fc7": "vgg.33", "extra.0": "extras.0", "extra.2": "extras.1"}
        for level in range(4):
            names[f"tcb.first.{level}.conv"] = f"tcb0.{3 * level}"
            names[f"tcb.second.{level}.conv"] = f"tcb0.{3 * level + 2}"
            names[f"tcb.last.{level}.conv"] = f"tcb2.{3 * level + 1}"
            if level < 3:
                names[f"tcb.enlarge.{level}.conv"] = f"tcb1.{level}"
            for part in ("arm", "odm"):
                names |= {
                    f"{part}.box.{level}": f"{part}_loc.{level}",
                    f"{part}.logits.{level}": f"{part}_conf.{level}",
                }
        return names

    def map_sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """`(H, W)` of each level's map at network input `size`."""
        if isinstance(self.backbone, CaffeResNet):
            maps = self.backbone.map_sizes(size)
        else:
            maps = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in self.backbone.strides]
        if self.extra is not None:
            maps.append((-(-maps[-1][0] // 2), -(-maps[-1][1] // 2)))
        return maps

    def num_boxes(self, size: tuple[int, int]) -> int:
        """Anchors over all levels."""
        return sum(h * w for h, w in self.map_sizes(size)) * self.shapes_per_cell

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Warped to the input's size; BGR bytes less the ImageNet mean."""
        batch = stack([warp(image, self.size) for image in images])
        pixels = normalise(batch.pixels, (104, 117, 123), (1, 1, 1), bgr=True, peak=255)
        # Convolutions run a quarter faster in this order of memory.
        return replace(batch, pixels=pixels.contiguous(memory_format=torch.channels_last))

    def network(self, batch: Batch, targets: list[Target] | None = None) -> Outputs:
        """Offsets and logits of all anchors, twice."""
        maps: list[Tensor] = self.backbone(batch.pixels)
        if self.extra is not None:
            maps.append(self.extra(maps[-1]))
        arm = None if self.arm is None else self.arm(maps)
        return Outputs(arm, self.odm(maps if self.tcb is None else self.tcb(maps)))

    def refined(self, outputs: Outputs) -> Tensor:
        """What the ODM's offsets start from, `[B, N, 4]`: constants, through which no gradient flows."""
        if outputs.arm is None or not self.two_step:
            return self.priors.expand(len(outputs.odm.offsets), -1, -1)
        return self.coder.decode(outputs.arm.offsets.detach().float(), self.priors)

    def passed(self, outputs: Outputs) -> Tensor:
        """Which anchors the ARM lets through, bool `[B, N]`."""
        if outputs.arm is None or not self.negative_filtering:
            return torch.ones_like(outputs.odm.logits[..., 0], dtype=torch.bool)
        nothing, something = outputs.arm.logits.detach().float().unbind(-1)
        return (something - nothing).sigmoid() >= self.objectness

    def postprocess(self, outputs: Outputs, batch: Batch) -> list[Detections]:
        """Decode twice, drop what the ARM dropped, suppress class by class (section 4, inference)."""
        boxes = self.coder.decode(outputs.odm.offsets.float(), self.refined(outputs))
        scores = outputs.odm.logits.float().softmax(-1)[..., 1:] * self.passed(outputs)[..., None]
        return detect_multibox(
            boxes,
            scores,
            batch.frames,
            score_floor=self.score_floor,
            nms_iou=self.nms_iou,
            limit=self.limit,
            before_per_class=self.before_per_class,
        )

    def losses(self, outputs: Outputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Smooth L1 and cross entropy of both modules, each with its own matches, negatives and count (section 4)."""
        losses = {}
        if outputs.arm is not None:
            objects = [replace(target, labels=torch.zeros_like(target.labels)) for target in targets]
            tiled = [self._assign(target, self.priors) for target in objects]
            losses["arm_box"], losses["arm_class"] = multibox_loss(outputs.arm, tiled, negatives=self.negatives)
        refined = [self._assign(t, boxes) for t, boxes in zip(targets, self.refined(outputs), strict=True)]
        losses["box"], losses["class"] = multibox_loss(
            outputs.odm, refined, negatives=self.negatives, candidates=self.passed(outputs)
        )
        return losses

    def _assign(self, target: Target, anchors: Tensor) -> Assignment:
        return assign(target, anchors, self.coder, match_iou=self.match_iou, negative_iou=self.negative_iou)


class _Heads(nn.Module):
    """Two 3x3 convolutions a map: where the box is and what it holds.

    Args:
        channels: Of each map.
        shapes: Anchors of a cell.
        values: Logits of an anchor.
        residual: Let both read a residual block instead of the map.
    """

    def __init__(self, channels: Sequence[int], shapes: int, values: int, residual: bool) -> None:
        super().__init__()
        self.values = values
        self.before = nn.ModuleList(
            Bottleneck(c, 256, 1024, project=True) if residual else nn.Identity() for c in channels
        )
        widths = [1024 if residual else c for c in channels]
        self.box = nn.ModuleList(caffe_xavier(nn.Conv2d(c, 4 * shapes, 3, padding=1)) for c in widths)
        self.logits = nn.ModuleList(caffe_xavier(nn.Conv2d(c, values * shapes, 3, padding=1)) for c in widths)

    def forward(self, maps: list[Tensor]) -> Predictions:
        """Maps to the offsets and logits of all anchors."""
        maps = [before(x) for before, x in zip(self.before, maps, strict=True)]
        return Predictions(flatten_heads(self.box, maps, 4), flatten_heads(self.logits, maps, self.values))

    def caffe_names(self, sources: Sequence[str]) -> dict[str, str | tuple[str, ...]]:
        """Layers of the released files by module, for maps called `sources`."""
        names: dict[str, str | tuple[str, ...]] = {}
        for level, (source, block) in enumerate(zip(sources, self.before, strict=True)):
            if isinstance(block, Bottleneck):
                for path, layers in block.caffe_names(f"{source}_inter").items():
                    names[f"before.{level}.{path}"] = layers
                source = f"res{source}_inter"
            names |= {f"box.{level}": f"{source}_mbox_loc", f"logits.{level}": f"{source}_mbox_conf"}
        return names


class _Transfer(nn.Module):
    """The transfer connection blocks: each map, transferred, plus the coarser block's answer, enlarged (figure 2).

    Args:
        channels: Of each map, the finest first.
        width: Of all that is made of them.
        norm: A batch normalisation behind every convolution, which then has no bias.
        top_down: Whether a block has the coarser one's answer; without, no block knows of another.
    """

    def __init__(self, channels: Sequence[int], width: int, norm: bool, top_down: bool) -> None:
        super().__init__()
        self.norm = norm
        self.first = nn.ModuleList(_conv(c, width, norm) for c in channels)
        self.second = nn.ModuleList(_conv(width, width, norm) for _ in channels)
        handed = channels[1:] if top_down else []
        self.enlarge = nn.ModuleList(_conv(width, width, norm, up=True) for _ in handed)
        self.last = nn.ModuleList(_conv(width, width, norm) for _ in channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """As many maps of the same sides."""
        answers: list[Tensor] = []
        for level in reversed(range(len(maps))):
            x = self.second[level](self.first[level](maps[level]).relu())
            if answers and self.enlarge:
                x = x + self.enlarge[level](answers[-1])[..., : x.shape[-2], : x.shape[-1]]
            answers.append(self.last[level](x.relu()).relu())
        return answers[::-1]

    def caffe_names(self) -> dict[str, str | tuple[str, ...]]:
        """Layers of the released files by module; these count levels by the power of two of their stride."""
        convs: dict[str, str] = {}
        for level in range(len(self.first)):
            convs |= {f"first.{level}": f"TL{3 + level}_1", f"second.{level}": f"TL{3 + level}_2"}
            convs |= {f"last.{level}": f"P{3 + level}"}
        convs |= {f"enlarge.{level}": f"P{4 + level}-up" for level in range(len(self.enlarge))}
        names: dict[str, str | tuple[str, ...]] = {f"{path}.conv": layer for path, layer in convs.items()}
        if self.norm:
            names |= {f"{path}.norm": (f"{layer}_bn", f"{layer}_scale") for path, layer in convs.items()}
        return names


def _conv(inputs: int, outputs: int, norm: bool, up: bool = False) -> nn.Sequential:
    """3x3, or to twice the side, and what normalises it."""
    if up:
        conv: nn.Conv2d | nn.ConvTranspose2d = nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=not norm)
    else:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not norm)
    nn.init.kaiming_uniform_(conv.weight, nonlinearity="linear")
    if conv.bias is None:
        return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs)))
    nn.init.zeros_(conv.bias)
    return nn.Sequential(OrderedDict(conv=conv))


def _sources(
    backbone: str, deepen: int | None
) -> tuple[VGG16Reduced | CaffeResNet | SmallSources, nn.Module | None, list[int], tuple[int, ...]]:
    """Backbone, the level behind it, and channels and stride of each map."""
    if backbone == "vgg16":
        vgg = VGG16Reduced(stride=32, length=10.0, fifth_length=8.0)
        narrow, wide = caffe_xavier(nn.Conv2d(1024, 256, 1)), caffe_xavier(nn.Conv2d(256, 512, 3, 2, 1))
        extra = nn.Sequential(narrow, nn.ReLU(inplace=True), wide, nn.ReLU(inplace=True))
        return vgg, extra, [*vgg.channels, 512], (*vgg.strides, 64)
    if backbone == "resnet101":
        resnet = CaffeResNet(("res3", "res4", "res5"))
        block = Bottleneck(2048, 128, 512, stride=2)
        for module in block.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
        return resnet, block, [*resnet.channels, 512], (*resnet.strides, 64)
    sources = SmallSources(deepen)
    return sources, None, list(sources.channels), sources.strides


def refinedet320_vgg16(num_classes: int, *, size: int | tuple[int, int] = 320, **overrides: Any) -> RefineDet:
    """RefineDet320 on VGG-16: four levels, 6,375 anchors.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input, or `(H, W)`.
        overrides: Arguments of `RefineDet`.
    """
    return RefineDet(num_classes, size=size, **overrides)


def refinedet320_vgg16_unfiltered(num_classes: int, **overrides: Any) -> RefineDet:
    """Table 2's second variant: without negative anchor filtering.

    Args:
        num_classes: Foreground classes.
        overrides: Arguments of `refinedet320_vgg16`.
    """
    return refinedet320_vgg16(num_classes, **{"negative_filtering": False, **overrides})


def refinedet320_vgg16_one_step(num_classes: int, **overrides: Any) -> RefineDet:
    """Table 2's third variant: besides, the tiled anchors are moved once only.

    Args:
        num_classes: Foreground classes.
        overrides: Arguments of `refinedet320_vgg16`.
    """
    return refinedet320_vgg16_unfiltered(num_classes, **{"two_step": False, **overrides})


def refinedet320_vgg16_no_tcb(num_classes: int, **overrides: Any) -> RefineDet:
    """Table 2's fourth variant: besides, no transfer connection blocks.

    Args:
        num_classes: Foreground classes.
        overrides: Arguments of `refinedet320_vgg16`.
    """
    return refinedet320_vgg16_one_step(num_classes, **{"transfer": False, **overrides})


def refinedet512_vgg16(num_classes: int, *, size: int | tuple[int, int] = 512, **overrides: Any) -> RefineDet:
    """RefineDet512 on VGG-16: the same network, 16,320 anchors; arguments as for `refinedet320_vgg16`."""
    return RefineDet(num_classes, size=size, **overrides)


_R101: dict[str, Any] = {"backbone": "resnet101", "norm": True, "residual": True, "trains_on_ignored": False}


def refinedet320_r101(num_classes: int, *, size: int | tuple[int, int] = 320, **overrides: Any) -> RefineDet:
    """RefineDet320 on ResNet-101, for COCO: four levels, 6,375 anchors.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input, or `(H, W)`.
        overrides: Arguments of `RefineDet`.
    """
    return RefineDet(num_classes, size=size, **{**_R101, **overrides})


def refinedet512_r101(num_classes: int, *, size: int | tuple[int, int] = 512, **overrides: Any) -> RefineDet:
    """RefineDet512 on ResNet-101, for COCO: the same network, 16,320 anchors; arguments as for `refinedet320_r101`."""
    return RefineDet(num_classes, size=size, **{**_R101, **overrides})
