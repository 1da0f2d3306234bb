"""Fast R-CNN, from Ross Girshick, "Fast R-CNN" (ICCV 2015, https://arxiv.org/abs/1504.08083).

The convolutions run once over the whole image. Features of each proposal are pooled from their last map to one size,
and a small network classifies the proposal and corrects its box, trained with both losses at once.

Constants are those of the author's release (rbgirshick/fast-rcnn). What we do otherwise: boxes are continuous, and
offsets are divided by fixed deviations (0.1, 0.1, 0.2, 0.2), as in the author's later code, instead of by those of the
training set, so that a decoder needs no statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ops.augment import flip
from ops.images import Batch, normalise, resize_short_side, stack
from ops.structures import Detections, Target
from zoo.backbones.small import SmallNet
from zoo.backbones.vgg import VGG16
from zoo.detector import Detector, stage
from zoo.parts.roi_head import RoIHead, Samples
from zoo.parts.rpn import RPNOutputs
from zoo.subsample import ClassChannels

__all__ = ["FastRCNN", "LastMap", "Proposer", "TwoStageOutputs", "flip_half"]

Proposer = Callable[[Tensor], Tensor]
"""Image float RGB `[3, H, W]` in [0, 1] to boxes `[P, 4]` in its pixels, the likeliest first."""


def flip_half(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirror left and right, one time in two: all the augmentation that the two-stage papers use."""
    return flip(image, target) if float(torch.rand(())) < 0.5 else (image, target)


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

    def network(self, batch: Batch, targets: list[Target] | None = None) -> TwoStageOutputs:
        """Propose, and classify the proposals; given targets, a sample of the proposals and of the objects."""
        maps = self.backbone(batch.pixels)
        with stage("proposals"):
            first, regions = self.propose(maps, batch, targets)
        samples = None
        if targets is not None:
            samples = self.roi_heads.sample(regions, targets)
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

    @torch.no_grad()
    def proposals(self, images: list[Tensor]) -> list[Tensor]:
        """The regions alone, `[R_i, 4]` in pixels of each image, the likeliest first."""
        batch = self.preprocess(images)
        _, regions = self.propose(self.backbone(batch.pixels), batch, None)
        return [frame.to_image(boxes) for frame, boxes in zip(batch.frames, regions, strict=True)]

    def postprocess(self, outputs: TwoStageOutputs, batch: Batch) -> list[Detections]:
        """Decode a box a class, suppress within each class, and go back to the pixels of each image."""
        counts = [len(regions) for regions in outputs.regions]
        answers = []
        for frame, regions, logits, offsets in zip(
            batch.frames, outputs.regions, outputs.logits.split(counts), outputs.offsets.split(counts), strict=True
        ):
            found = self.roi_heads.detect(logits, offsets, regions, frame.inner)
            answers.append(Detections(frame.to_image(found.boxes), found.scores, found.labels))
        return answers

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

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: behind the background, each with a score and four offsets."""
        return {
            f"roi_heads.box_predictor.{layer}.{part}": ClassChannels(leading=1, inner=inner)
            for layer, inner in (("cls_score", 1), ("bbox_pred", 4))
            for part in ("weight", "bias")
        }


class LastMap(nn.Module):
    """The last map of a backbone alone; the first `frozen` children of its `stages` do not learn."""

    def __init__(self, body: VGG16 | SmallNet, frozen: int = 0) -> None:
        super().__init__()
        self.body = body
        for part in list(body.stages)[:frozen]:
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image `[B, 3, H, W]` to one map `[B, C, h, w]`."""
        maps: list[Tensor] = self.body(x)
        return maps[-1:]
