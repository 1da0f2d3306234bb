"""R-CNN, from Ross Girshick, Jeff Donahue, Trevor Darrell and Jitendra Malik, "Rich Feature Hierarchies for Accurate
Object Detection and Semantic Segmentation" (CVPR 2014, https://arxiv.org/abs/1311.2524).

Selective search proposes regions. Each is cut out with a little of its surroundings, warped to the input of a network
for classification, and described by it. A linear SVM a class says what the region holds; a linear regressor a class
corrects its box. `fit` trains in the paper's three stages: the network by gradient, as a classifier of warped regions;
the SVMs on its fc7, with hard negatives; the regressors on its pool5.

Constants are those of the authors' release (rbgirshick/rcnn). What we do otherwise: boxes are continuous. The mean
colour is taken off instead of ImageNet's mean image. The 128 regions of a fine-tuning step, a quarter of them objects,
come from 16 images, 2 and 6 of each, instead of from anywhere. A score is the logistic function of the margin: it keeps
the order. SVMs are trained again after 2,000 new negatives, but not before half as many came as they hold; the release
does not wait. Detections must score over 0.2, a margin of about -1.4; the release adapts a threshold to each class over
a whole test set instead.

The small size has no ImageNet to start from and learns from scratch. Its fine-tuning sees as many images as every small
detector, 2,400 steps of 16, and as many regions a step as the paper's; no average of the weights is kept. Its SVMs meet
96 proposals an image, its regressors 24 of those that overlap an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.coders import CenterSizeCoder
from ops.images import Batch, normalise, unscaled
from ops.nms import classwise_nms
from ops.proposals import SMALL_SEARCH, SelectiveSearch
from ops.structures import Detections, Target
from zoo.backbones import small
from zoo.backbones.alexnet import CaffeNet, start_layers
from zoo.backbones.small import SmallNet
from zoo.backbones.vgg import VGG16
from zoo.detector import Detector, Recipe, stage
from zoo.parts.fitting import Images, State
from zoo.parts.linear import BoxRegressors, LinearSVMs
from zoo.parts.region_fit import RegionTraining, fit_regions
from zoo.two_stage.fast_rcnn import BGR_MEAN, Proposer, flip_half

__all__ = [
    "RCNN",
    "RECIPE",
    "SMALL",
    "SMALL_RECIPE",
    "Pool5",
    "RegionOutputs",
    "crop_windows",
    "rcnn_alexnet",
    "rcnn_vgg16",
    "warp_regions",
]

RECIPE = Recipe(
    batch=16,
    steps=70_000,
    lr=1e-3,
    momentum=0.9,
    weight_decay=5e-4,
    bias_decay=5e-4,
    milestones=(20_000, 40_000, 60_000),
    augment=flip_half,
    source="rbgirshick/rcnn, pascal_finetune_solver: VOC 2007 trainval, 128 regions a step",
)
"""Of the first stage of `fit`."""

SMALL_RECIPE = replace(small.SMALL_RECIPE, ema=None)

SMALL: dict[str, Any] = {
    "backbone": "small",
    "crop": 48,
    "context": 4,
    "head_width": 112,
    "dropout": 0.0,
    "min_side": SMALL_SEARCH.min_side,
    "search_scales": SMALL_SEARCH.scales,
    "min_segment": SMALL_SEARCH.min_segment,
    "mined": 96,
    "regressed": 24,
    "std": 57.0,
}
"""For `shapes`: crops of 48 px, of which 4 on each side are surroundings, to 6 x 6 cells."""


@dataclass(frozen=True)
class RegionOutputs:
    """What the network says.

    Attributes:
        regions: `[R_i, 4]` of each image, in its pixels.
        margins: `[sum R_i, C]`, over 0 for the class.
        offsets: `[sum R_i, C, 4]`.
    """

    regions: list[Tensor]
    margins: Tensor
    offsets: Tensor


def crop_windows(boxes: Tensor, size: tuple[int, int], crop: int, context: int) -> tuple[Tensor, Tensor, Tensor]:
    """What is cut out for each box, and where it lies in its crop (the release's rcnn_im_crop, appendix A).

    A box is enlarged about its centre so that `context` pixels of the crop on each side are surroundings, and rounded
    to whole pixels; as in the release, which counts pixels from 1 and includes the last, one more to the right and
    below.

    Args:
        boxes: `[R, 4]` in pixels.
        size: `(H, W)` of the image.
        crop: Side of the crop.
        context: Pixels of the crop.

    Returns:
        Windows `[R, 4]`, clipped to the image; corners `[R, 2]` at which they begin in the crop, and sides `[R, 2]` to
        which they are resized, x before y.
    """
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * (crop / (crop - 2 * context))
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, high = (centre - half + 0.5).floor(), (centre + half + 1.5).floor()
    limit = boxes.new_tensor([size[1], size[0]])
    inside_low = torch.minimum(low.clamp(min=0), limit - 1)
    inside_high = torch.maximum(torch.minimum(high, limit), inside_low + 1)
    scale = crop / (high - low)
    start = ((inside_low - low) * scale + 0.5).floor().clamp(max=crop - 1)
    sides = ((inside_high - inside_low) * scale + 0.5).floor().clamp(min=1)
    return torch.cat([inside_low, inside_high], 1), start, torch.minimum(sides, crop - start)


def warp_regions(pixels: Tensor, boxes: Tensor, crop: int, context: int) -> Tensor:
    """Regions `[R, 3, crop, crop]` of an image `[3, H, W]`, each with its surroundings; 0 beyond the image.

    Each window is resized bilinearly on its own, whatever becomes of its aspect, and nothing is averaged.
    """
    height, width = pixels.shape[-2:]
    windows, start, sides = crop_windows(boxes.float(), (height, width), crop, context)
    places, seen = [], []
    for axis, limit in enumerate((width, height)):
        index = torch.arange(crop, device=pixels.device) - start[:, axis, None]
        low, high = windows[:, axis, None], windows[:, axis + 2, None]
        source = (index + 0.5) * ((high - low) / sides[:, axis, None]) - 0.5 + low
        places.append((torch.minimum(source.maximum(low), high - 1) * 2 + 1) / limit - 1)
        seen.append((index >= 0) & (index < sides[:, axis, None]))
    grid = torch.stack([places[0][:, None].expand(-1, crop, -1), places[1][:, :, None].expand(-1, -1, crop)], -1)
    crops = F.grid_sample(pixels[None], grid.reshape(1, -1, crop, 2), align_corners=False)
    crops = crops.reshape(3, len(boxes), crop, crop).transpose(0, 1)
    return crops * (seen[0][:, None, None] & seen[1][:, None, :, None])


class RCNN(Detector):
    """Regions described one by one, SVMs and regressors over their descriptions.

    Attributes:
        proposer: Where regions come from; harnesses may put a memory in its place.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        features: nn.Module,
        inputs: int,
        head_width: int = 4_096,
        dropout: float = 0.5,
        proposer: Proposer,
        most: int = 2_000,
        crop: int = 227,
        context: int = 16,
        mean: Sequence[float] = BGR_MEAN,
        std: float = 1.0,
        training: RegionTraining,
        score_floor: float = 0.2,
        nms_iou: float = 0.3,
        limit: int = 100,
        regress: bool = True,
        cost_regions: int = 2_000,
    ) -> None:
        """Join the parts.

        Args:
            num_classes: Foreground classes.
            features: Crops `[R, 3, crop, crop]` to what regressors look at, `[R, ...]`.
            inputs: Numbers of that for one region.
            head_width: Channels of fc6 and fc7.
            dropout: In both.
            proposer: Where regions come from.
            most: Proposals an image that are looked at.
            crop: Side of a warped region.
            context: Pixels of it on each side that are surroundings.
            mean: Of the colours, blue first, in bytes.
            std: What they are divided by.
            training: What `fit` does.
            score_floor: Detections must score more; 0.5 is the SVM's boundary.
            nms_iou: Of two boxes of one class that overlap by more, the lower-scoring goes.
            limit: Most detections an image.
            regress: Correct boxes; without, a detection has the box of its proposal (the paper's table 2, "FT fc7 BB"
                and "FT fc7"). What `fit` learns is the same.
            cost_regions: Proposals an image whose cost is counted.
        """
        super().__init__(num_classes)
        self.features = features
        self.fc6, self.fc7 = nn.Linear(inputs, head_width), nn.Linear(head_width, head_width)
        self.fc8 = nn.Linear(head_width, num_classes + 1)
        for layer in (self.fc6, self.fc7):
            start_layers(layer)
        nn.init.normal_(self.fc8.weight, std=0.01)
        nn.init.zeros_(self.fc8.bias)
        self.drop = nn.Dropout(dropout)
        self.svms, self.regressors = LinearSVMs(num_classes, head_width), BoxRegressors(num_classes, inputs)
        self.proposer, self.most = proposer, most
        self.crop, self.context, self.mean, self.std = crop, context, tuple(mean), std
        self.training_plan = training
        self.score_floor, self.nms_iou, self.limit = score_floor, nms_iou, limit
        self.regress = regress
        self.cost_regions = cost_regions
        self.coder = CenterSizeCoder()

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Take the mean colour off, and pad to one size: what lies beyond an image is the mean colour."""
        colours = [normalise(image, self.mean, (self.std,) * 3, bgr=True, peak=255.0) for image in images]
        return replace(unscaled(colours), images=tuple(images))

    def network(self, batch: Batch, targets: list[Target] | None = None) -> RegionOutputs:
        """Propose, describe each proposal, and ask the SVMs and the regressors."""
        with stage("proposals"):
            regions = [self.proposer(image)[: self.most].to(batch.pixels) for image in batch.images]
        pool5 = self.describe(batch, regions)
        return RegionOutputs(regions, self.svms(self.head(pool5)), self.regressors(pool5))

    def describe(self, batch: Batch, regions: list[Tensor]) -> Tensor:
        """pool5 `[sum R_i, D]` of regions `[R_i, 4]` of each image."""
        crops = [
            warp_regions(pixels[:, : frame.inner[0], : frame.inner[1]], boxes, self.crop, self.context)
            for pixels, frame, boxes in zip(batch.pixels, batch.frames, regions, strict=True)
        ]
        # Statistics of a step are those of all its regions; else memory is what matters.
        parts = torch.cat(crops).split(256) if not self.training else [torch.cat(crops)]
        return torch.cat([self.features(part).flatten(1) for part in parts])

    def head(self, pool5: Tensor) -> Tensor:
        """fc7 `[R, head_width]`, after its ReLU."""
        fc7: Tensor = self.drop(self.fc7(self.drop(self.fc6(pool5).relu())).relu())
        return fc7

    @torch.no_grad()
    def proposals(self, images: list[Tensor]) -> list[Tensor]:
        """The regions alone, `[R_i, 4]` in pixels of each image, the likeliest first."""
        return [self.proposer(image)[: self.most] for image in images]

    def postprocess(self, outputs: RegionOutputs, batch: Batch) -> list[Detections]:
        """Correct the boxes once, if they are to be, clip them to the image, and suppress within each class."""
        counts = [len(regions) for regions in outputs.regions]
        answers = []
        for frame, regions, margins, offsets in zip(
            batch.frames, outputs.regions, outputs.margins.split(counts), outputs.offsets.split(counts), strict=True
        ):
            corrections = offsets if self.regress else torch.zeros_like(offsets)
            answers.append(
                classwise_nms(
                    frame.to_image(self.coder.decode(corrections, regions[:, None])),
                    margins.sigmoid(),
                    score_floor=self.score_floor,
                    iou=self.nms_iou,
                    limit=self.limit,
                )
            )
        return answers

    def losses(self, outputs: Any, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """There are none.

        Raises:
            TypeError: Always.
        """
        raise TypeError("R-CNN learns by fit(dataset, seed), in three stages, not by gradient descent on one loss")

    def network_for_cost(self, batch: Batch) -> Tensor:
        """The network on a fixed number of regions."""
        crops = batch.pixels.new_empty((self.cost_regions, 3, self.crop, self.crop))
        return self.svms(self.head(self.features(crops).flatten(1)))

    def fit(self, dataset: Images, seed: int, state: State | None = None) -> None:
        """Fine-tune, train the SVMs, train the regressors, from `dataset[i]` -> (image, Target).

        Proposals that a target brings are taken as they are. The same seed and images give the same detector, from the
        same start. Weights are rounded to float16, as checkpoints keep them. Where `state` holds what an interrupted
        call has kept, this one goes on from there and ends with the same weights on a CPU.

        Raises:
            ValueError: A class has no object.
        """
        fit_regions(self, dataset, seed, state)


class Pool5(nn.Module):
    """The last map of a backbone, pooled once more where the paper's network does so."""

    def __init__(self, body: VGG16 | SmallNet, pooled: bool) -> None:
        super().__init__()
        self.body, self.pooled = body, pooled

    def forward(self, x: Tensor) -> Tensor:
        """Crops `[R, 3, S, S]` to `[R, C, s, s]`."""
        last = self.body(x)[-1]
        return F.max_pool2d(last, 2) if self.pooled else last


def rcnn_alexnet(
    num_classes: int,
    *,
    backbone: Literal["caffenet", "vgg16", "small"] = "caffenet",
    widths: Sequence[int] = (16, 24, 48),
    crop: int = 227,
    context: int = 16,
    head_width: int = 4_096,
    dropout: float = 0.5,
    min_side: float = 20.0,
    search_scales: Sequence[int] = (),
    min_segment: int | None = None,
    most: int = 2_000,
    std: float = 1.0,
    regress: bool = True,
    steps: int | None = None,
    mined: int | None = None,
    regressed: int | None = None,
) -> RCNN:
    """R-CNN on CaffeNet, the release's AlexNet.

    Args:
        num_classes: Foreground classes.
        backbone: CaffeNet, VGG-16, or the zoo's small network.
        widths: Channels of the small network.
        crop: Side of a warped region.
        context: Pixels of it on each side that are surroundings.
        head_width: Channels of fc6 and fc7.
        dropout: In both.
        min_side: Least side of a proposal in pixels of the image.
        search_scales: See `SelectiveSearch`, whose `scales` they are; so is `min_segment`.
        min_segment: See there.
        most: Proposals an image.
        std: What colours are divided by, after the mean is taken off.
        regress: Whether boxes are corrected; see `RCNN`.
        steps: Of fine-tuning; None for as many as the recipe has.
        mined: See `RegionTraining`; so is `regressed`.
        regressed: See there.
    """
    features: nn.Module
    if backbone == "caffenet":
        features, channels, cells = CaffeNet(), CaffeNet.channels, 6
    elif backbone == "vgg16":
        features, channels, cells = Pool5(VGG16(), pooled=True), VGG16.channels[-1], crop // 32
    else:
        body = SmallNet(tuple(widths))
        features, channels, cells = Pool5(body, pooled=False), body.channels[-1], -(-crop // body.strides[-1])
    recipe = SMALL_RECIPE if backbone == "small" else RECIPE
    return RCNN(
        num_classes,
        features=features,
        inputs=channels * cells**2,
        head_width=head_width,
        dropout=dropout,
        proposer=SelectiveSearch(min_side=min_side, scales=tuple(search_scales), min_segment=min_segment),
        most=most,
        crop=crop,
        context=context,
        std=std,
        regress=regress,
        training=RegionTraining(
            recipe if steps is None else replace(recipe, steps=steps), mined=mined, regressed=regressed
        ),
    )


def rcnn_vgg16(num_classes: int, **settings: Any) -> RCNN:
    """R-CNN on VGG-16 (the authors' O-Net), whose crops have 224 pixels; settings as of `rcnn_alexnet`."""
    return rcnn_alexnet(num_classes, **{"backbone": "vgg16", "crop": 224, **settings})
