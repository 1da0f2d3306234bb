"""Fast R-CNN, from Ross Girshick, "Fast R-CNN" (ICCV 2015, https://arxiv.org/abs/1504.08083).

The convolutions run once over the whole image. Features of each proposal are pooled from their last map to one size,
and a small network classifies the proposal and corrects its box, trained with both losses at once.

Constants are those of the author's release (rbgirshick/fast-rcnn). What we do otherwise: boxes are continuous, and
offsets are divided by fixed deviations (0.1, 0.1, 0.2, 0.2), as in the author's later code, instead of by those of the
training set, so that a decoder needs no statistics. Detections must score over 0.05 and are at most 100 an image, as
in that later code too; the release adapts a threshold to each class over a whole test set instead. An image without
objects teaches nothing: the release leaves such images out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ops.augment import flip
from ops.images import Batch, normalise, resize_short_side, stack
from ops.proposals import SMALL_SEARCH, SelectiveSearch
from ops.structures import Detections, Target
from zoo.backbones.resnet import ResNet
from zoo.backbones.small import SMALL_RECIPE, SmallNet
from zoo.backbones.vgg import VGG16
from zoo.detector import Detector, Recipe, stage
from zoo.parts.roi_head import BoxHead, BoxPredictor, RegionPool, RoIHead, Samples
from zoo.parts.rpn import RPNOutputs
from zoo.subsample import ClassChannels

__all__ = [
    "BGR_MEAN",
    "RECIPE",
    "SMALL",
    "SMALL_RECIPE",
    "FastRCNN",
    "LastMap",
    "Proposer",
    "ThinLinear",
    "TwoStageOutputs",
    "compress",
    "fast_rcnn_vgg16",
    "flip_half",
    "truncate",
    "with_search",
]

BGR_MEAN = (102.9801, 115.9465, 122.7717)
"""Mean colour of the author's ImageNet networks, blue first, in bytes."""

Proposer = Callable[[Tensor], Tensor]
"""Image float RGB `[3, H, W]` in [0, 1] to boxes `[P, 4]` in its pixels, the likeliest first."""


def flip_half(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirror left and right, one time in two: all the augmentation that the two-stage papers use."""
    return flip(image, target) if float(torch.rand(())) < 0.5 else (image, target)


RECIPE = Recipe(
    batch=2,
    steps=40_000,
    lr=1e-3,
    momentum=0.9,
    weight_decay=5e-4,
    bias_lr=2.0,
    milestones=(30_000,),
    augment=flip_half,
    source="rbgirshick/fast-rcnn, models/VGG16: VOC 2007 trainval, 2 images of 64 regions a step",
)

SMALL: dict[str, Any] = {
    "backbone": "small",
    "min_side": SMALL_SEARCH.min_side,
    "search_scales": SMALL_SEARCH.scales,
    "min_segment": SMALL_SEARCH.min_segment,
    "head_width": 112,
    "dropout": 0.0,
    "samples": 48,
    "short": 160,
    "longest": 160,
    "std": 57.0,
}
"""For `shapes`: stride 8, colours scaled so that statistics fit half precision."""


@dataclass(frozen=True)
class TwoStageOutputs:
    """What the network says.

    Attributes:
        maps: Features, for heads that look at the final boxes.
        rpn: What the proposal network says; None where proposals come from elsewhere.
        regions: `[R_i, 4]` of each image in network pixels: proposals, or, given targets, the samples.
        logits: `[sum R_i, C + 1]`, the background first.
        offsets: `[sum R_i, C + 1, 4]`, or `[sum R_i, 2, 4]` where classes share a box.
        samples: What the regions are to be, given targets.
    """

    maps: list[Tensor]
    rpn: RPNOutputs | None
    regions: list[Tensor]
    logits: Tensor
    offsets: Tensor
    samples: list[Samples] | None = None


class FastRCNN(Detector):
    """Regions over one backbone. The parts bring the constants; the builders bring the parts.

    Attributes:
        proposer: Where regions come from; harnesses may put a memory in its place.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: nn.Module,
        roi_heads: RoIHead,
        proposer: Proposer | None,
        most: int = 2_000,
        short: int,
        longest: int,
        divisor: int = 1,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        caffe: bool = False,
        cost_regions: int = 2_000,
    ) -> None:
        """Join the parts.

        Args:
            num_classes: Foreground classes.
            backbone: Image `[B, 3, H, W]` to maps, those that `roi_heads` looks at.
            roi_heads: What regions hold.
            proposer: Where regions come from; None for a network that proposes itself.
            most: Proposals an image that are looked at, of those of `proposer`.
            short: Images are resized to this shorter side,
            longest: or less where the longer side would pass this.
            divisor: Padded to a multiple of this.
            mean: Of the colours.
            std: Of the colours.
            caffe: Whether colours are BGR bytes instead of RGB in [0, 1], and sides are rounded to the nearest.
            cost_regions: Proposals an image whose cost is counted.
        """
        super().__init__(num_classes)
        self.backbone = backbone
        self.roi_heads = roi_heads
        self.proposer = proposer
        self.most = most
        self.short, self.longest, self.divisor = short, longest, divisor
        self.mean, self.std, self.caffe = tuple(mean), tuple(std), caffe
        self.cost_regions = cost_regions

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Normalise, resize by the shorter side, pad at the bottom and right with the mean colour."""
        peak = 255.0 if self.caffe else 1.0
        colours = [normalise(image, self.mean, self.std, bgr=self.caffe, peak=peak) for image in images]
        resized = [resize_short_side(image, self.short, self.longest, nearest=self.caffe) for image in colours]
        batch = stack(resized, self.divisor)
        return batch if self.proposer is None else replace(batch, images=tuple(images))

    @property
    def size(self) -> tuple[int, int]:
        """Shorter and longest side of the input."""
        return self.short, self.longest

    def resize(self, size: int | tuple[int, int]) -> None:
        """Fit images into `size`: the smaller of its sides for the shorter one, the larger for the longest."""
        sides = (size, size) if isinstance(size, int) else size
        self.short, self.longest = min(sides), max(sides)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> TwoStageOutputs:
        """Propose, and classify the proposals; given targets, a sample of the proposals and of the objects."""
        maps = self.backbone(batch.pixels)
        with stage("proposals"):
            first, regions = self.propose(maps, batch, targets)
        samples = None
        if targets is not None:
            samples = self.choose(maps, self.roi_heads.sample(regions, targets), targets)
            regions = [sample.boxes for sample in samples]
        logits, offsets = self.roi_heads(maps, regions)
        return TwoStageOutputs(maps, first, regions, logits, offsets, samples)

    def propose(
        self, maps: list[Tensor], batch: Batch, targets: list[Target] | None
    ) -> tuple[RPNOutputs | None, list[Tensor]]:
        """Regions `[R_i, 4]` of each image in network pixels, the likeliest first.

        Args:
            maps: Of the backbone.
            batch: The images.
            targets: In training. Proposals that they carry are taken as they are.
        """
        regions = []
        for index, frame in enumerate(batch.frames):
            ready = None if targets is None else targets[index].proposals
            if ready is None:
                if self.proposer is None:
                    raise ValueError("this detector has no proposer, and its targets bring no proposals")
                ready = frame.to_network(self.proposer(batch.images[index]).to(batch.pixels))
            regions.append(ready[: self.most])
        return None, regions

    def choose(self, maps: list[Tensor], samples: list[Samples], targets: list[Target]) -> list[Samples]:
        """Those of the sampled regions that are learned from: all, unless a subclass knows better."""
        return samples

    @torch.no_grad()
    def proposals(self, images: list[Tensor]) -> list[Tensor]:
        """The regions alone, `[R_i, 4]` in pixels of each image, the likeliest first."""
        batch = self.preprocess(images)
        # An outside algorithm looks at the image alone.
        maps = self.backbone(batch.pixels) if self.proposer is None else []
        _, regions = self.propose(maps, batch, None)
        return [frame.to_image(boxes) for frame, boxes in zip(batch.frames, regions, strict=True)]

    def postprocess(self, outputs: TwoStageOutputs, batch: Batch) -> list[Detections]:
        """Decode a box a class, suppress within each class, and go back to the pixels of each image."""
        return [
            Detections(frame.to_image(found.boxes), found.scores, found.labels)
            for frame, found in zip(batch.frames, self.detect(outputs, batch), strict=True)
        ]

    def detect(self, outputs: TwoStageOutputs, batch: Batch) -> list[Detections]:
        """Decode a box a class and suppress within each class; boxes are in network pixels."""
        counts = [len(regions) for regions in outputs.regions]
        rows = zip(outputs.logits.split(counts), outputs.offsets.split(counts), outputs.regions, strict=True)
        return [self.roi_heads.detect(*row, frame.inner) for row, frame in zip(rows, batch.frames, strict=True)]

    def losses(self, outputs: TwoStageOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Of classes and boxes, weighted alike (2.3).

        Raises:
            ValueError: The outputs come from a network that was not given the targets.
        """
        if outputs.samples is None:
            raise ValueError("losses need outputs of network(batch, targets): it samples the regions to learn from")
        return self.roi_heads.losses(outputs.logits, outputs.offsets, outputs.samples, targets)

    def network_for_cost(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The head on a fixed number of regions."""
        return self.head_for_cost(self.backbone(batch.pixels))

    def head_for_cost(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The same from maps."""
        size = self.roi_heads.box_pool.size
        pooled = maps[0].new_zeros((len(maps[0]) * self.cost_regions, maps[0].shape[1], size, size))
        return self.roi_heads.predict(pooled)

    def caffe_names(self) -> dict[str, str | tuple[str, ...]]:
        """Modules as the released VGG-16 models call them; see `zoo.formats.caffe`.

        Raises:
            ValueError: The backbone is another.
        """
        if not isinstance(body := getattr(self.backbone, "body", None), VGG16):
            raise ValueError(f"the released models have VGG-16, not {type(body or self.backbone).__name__}")
        convolutions = [name for name, module in body.named_modules() if isinstance(module, nn.Conv2d)]
        names: dict[str, str | tuple[str, ...]] = {
            f"backbone.body.{name}": name.rpartition(".")[2] for name in convolutions
        }
        names |= {f"roi_heads.box_head.{layer}": layer for layer in ("fc6", "fc7")}
        return names | {f"roi_heads.box_predictor.{layer}": layer for layer in ("cls_score", "bbox_pred")}

    @torch.no_grad()
    def after_caffe(self) -> None:
        """Snapshots give plain offsets: the deviations are multiplied in, which our decoder divides by again."""
        self._multiply_deviations(self.roi_heads.box_predictor.get_submodule("bbox_pred"))

    def _multiply_deviations(self, layer: nn.Module, cells: int = 1) -> None:
        """In place, where each of the four offsets of a class has `cells` neighbouring channels."""
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        assert layer.bias is not None
        factors = layer.bias.new_tensor(self.roi_heads.coder.weights).repeat_interleave(cells)
        factors = factors.repeat(len(layer.bias) // len(factors))
        layer.weight.mul_(factors.view(-1, *(1,) * (layer.weight.ndim - 1)))
        layer.bias.mul_(factors)

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: behind the background, each with a score and four offsets."""
        return {
            f"roi_heads.box_predictor.{layer}.{part}": ClassChannels(leading=1, inner=inner)
            for layer, inner in (("cls_score", 1), ("bbox_pred", 4))
            for part in ("weight", "bias")
        }


class LastMap(nn.Module):
    """The last map of a backbone alone; the first `frozen` children of its `stages` do not learn.

    Attributes:
        channels: Of the map.
        stride: Of the map.
    """

    def __init__(self, body: VGG16 | ResNet | SmallNet, frozen: int = 0) -> None:
        super().__init__()
        self.body = body
        self.channels, self.stride = body.channels[-1], body.strides[-1]
        for part in list(body.stages)[:frozen]:
            part.requires_grad_(False)

    @classmethod
    def of(cls, backbone: Literal["vgg16", "small"], widths: Sequence[int]) -> LastMap:
        """That of VGG-16, whose first four convolutions stay as ImageNet left them (4.5), or of the small network."""
        return cls(VGG16(ceil_mode=True), frozen=2) if backbone == "vgg16" else cls(SmallNet(tuple(widths)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image `[B, 3, H, W]` to one map `[B, C, h, w]`."""
        maps: list[Tensor] = self.body(x)
        return maps[-1:]


class ThinLinear(nn.Sequential):
    """A fully connected layer of limited rank, as two (3.1): the first without bias.

    Raises:
        ValueError: `rank` is not from 1 to the smaller of both sides.
    """

    def __init__(self, inputs: int, rank: int, outputs: int) -> None:
        if not 0 < rank <= min(inputs, outputs):
            raise ValueError(f"a layer of {inputs} by {outputs} has no rank {rank}")
        super().__init__(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs))


@torch.no_grad()
def truncate(layer: nn.Linear, rank: int) -> ThinLinear:
    """The two layers whose product is the best approximation of `layer` at this rank (3.1).

    The first has the largest singular values and their right vectors and no bias, the second the left vectors and the
    bias. They cost `rank * (inputs + outputs)` products where `layer` costs `inputs * outputs`.

    Raises:
        ValueError: `rank` is not from 1 to the smaller of both sides.
    """
    thin = ThinLinear(layer.in_features, rank, layer.out_features).to(layer.weight)
    left, values, right = torch.linalg.svd(layer.weight.float(), full_matrices=False)
    parts = {"0.weight": values[:rank, None] * right[:rank], "1.weight": left[:, :rank], "1.bias": layer.bias}
    thin.load_state_dict(parts)
    return thin


def compress(model: FastRCNN, ranks: Sequence[int] = (1_024, 256)) -> FastRCNN:
    """A copy whose fc6 and fc7 are truncated to `ranks`: 30 % faster and 0.3 mAP worse in the paper (3.1, 4.4).

    Its state dict fits what the builder makes with `svd=ranks`.

    Raises:
        ValueError: A rank is impossible.
        TypeError: The head has no such layers, or they are truncated already.
    """
    small = copy.deepcopy(model)
    head = small.roi_heads.box_head
    for name, rank in zip(("fc6", "fc7"), ranks, strict=True):
        layer = getattr(head, name, None)
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"{name} of {type(head).__name__} is {type(layer).__name__}, not a fully connected layer")
        head.register_module(name, truncate(layer, rank))
    return small


def with_search(
    num_classes: int,
    backbone: nn.Module,
    roi_heads: RoIHead,
    *,
    kind: Callable[..., FastRCNN] = FastRCNN,
    min_side: float = 20.0,
    search_scales: Sequence[int] = (),
    min_segment: int | None = None,
    most: int = 2_000,
    short: int = 600,
    longest: int = 1_000,
    std: float = 1.0,
) -> FastRCNN:
    """Parts joined with proposals of selective search and the input of the author's release.

    Args:
        num_classes: Foreground classes.
        backbone: Image to maps.
        roi_heads: What regions hold.
        kind: Class of the detector.
        min_side: Least side of a proposal in pixels of the image.
        search_scales: See `SelectiveSearch`, whose `scales` they are; so is `min_segment`.
        min_segment: See there.
        most: Proposals an image.
        short: Shorter side of the input.
        longest: Longest side of the input.
        std: What colours are divided by, after the mean is taken off.
    """
    return kind(
        num_classes,
        backbone=backbone,
        roi_heads=roi_heads,
        proposer=SelectiveSearch(min_side=min_side, scales=tuple(search_scales), min_segment=min_segment),
        most=most,
        short=short,
        longest=longest,
        mean=BGR_MEAN,
        std=(std, std, std),
        caffe=True,
    )


def fast_rcnn_vgg16(
    num_classes: int,
    *,
    backbone: Literal["vgg16", "small"] = "vgg16",
    widths: Sequence[int] = (16, 24, 48),
    pool_size: int = 7,
    head_width: int = 4_096,
    dropout: float = 0.5,
    svd: Sequence[int] | None = None,
    samples: int = 64,
    background: float = 0.1,
    hard: int | None = None,
    hard_nms: float | None = None,
    **settings: Any,
) -> FastRCNN:
    """Fast R-CNN on VGG-16 (the paper's model L) and proposals of selective search.

    Args:
        num_classes: Foreground classes.
        backbone: VGG-16, or the zoo's small network, all of which learns.
        widths: Channels of the small network.
        pool_size: Cells along each side of a region.
        head_width: Channels of both fully connected layers.
        dropout: In both.
        svd: Ranks of both, where they are truncated (3.1): the author's are 1024 and 256.
        samples: Regions an image that the head learns from.
        background: Negatives are drawn from regions that overlap an object by at least this (2.3).
        hard: See `RoIHead`; so is `hard_nms`.
        hard_nms: See there.
        settings: As `with_search`.
    """
    body = LastMap.of(backbone, widths)
    inputs = body.channels * pool_size**2
    head = BoxHead(inputs, head_width, dropout)
    if svd is not None:
        head.register_module("fc6", ThinLinear(inputs, svd[0], head_width))
        head.register_module("fc7", ThinLinear(head_width, svd[1], head_width))
    roi_heads = RoIHead(
        RegionPool(body.stride, pool_size),
        head,
        BoxPredictor(head_width, num_classes),
        samples=samples,
        background=background,
        nms=0.3,
        hard=hard,
        hard_nms=hard_nms,
    )
    return with_search(num_classes, body, roi_heads, **settings)
