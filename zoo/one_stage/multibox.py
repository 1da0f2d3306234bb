"""MultiBox, from Dumitru Erhan, Christian Szegedy, Alexander Toshev and Dragomir Anguelov, "Scalable Object Detection
using Deep Neural Networks" (CVPR 2014, https://arxiv.org/abs/1312.2249); also known as DeepMultiBox.

One network looks at the whole image once and gives K boxes, each with a confidence that there is an object of whatever
class. Which box learns which object is part of the loss: one to one, so that `alpha` times the squared distances plus
the logistic losses of the confidences are least (3.2). With priors, clusters of where objects lie, boxes are learnt as
differences from them and objects are given to the nearest priors (3.3). The few best boxes are cut out of the image,
and a second network says what each shows (3.4).

This is not SSD's MultiBox loss (`zoo.parts.multibox`), which took the name and little else. No code for training was
released. What the sources do not say is ours: both networks are CaffeNet with wide connected layers, and learn in the
same steps; `alpha` is 0.3; a score is confidence times class; crops that overlap an object by half or more show it,
those of less than a fifth show nothing, half of each; what the training plan was. The paper's further crops of the
image at several scales are left out. Until it is trained the priors are boxes drawn at random.

In the small size a linear layer reads the boxes directly off the last map, and `alpha` is larger: from scratch, in few
steps, squared shares of an image would move little beside the confidences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, nms

from ops.clusters import cluster_boxes, drawn_boxes
from ops.images import Batch, normalise, stack, warp
from ops.match import optimal_match
from ops.nms import classwise_nms
from ops.sample import balanced_sample
from ops.structures import Detections, Target
from zoo.backbones import small
from zoo.backbones.alexnet import CaffeNet, start_layers
from zoo.backbones.small import SmallNet, conv_bn_relu
from zoo.detector import Detector, Recipe, stage
from zoo.subsample import ClassChannels
from zoo.two_stage.fast_rcnn import BGR_MEAN, flip_half
from zoo.two_stage.rcnn import Pool5, warp_regions

__all__ = [
    "RECIPE",
    "SMALL",
    "SMALL_RECIPE",
    "MultiBox",
    "MultiBoxOutputs",
    "assign_predictions",
    "match_losses",
    "multibox",
]

RECIPE = Recipe(
    batch=128,
    steps=50_000,
    lr=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    milestones=(30_000, 40_000),
    augment=flip_half,
    source="ours: the sources do not give the paper's",
)
SMALL_RECIPE = small.SMALL_RECIPE

SMALL: dict[str, Any] = {
    "backbone": "small",
    "widths": (16, 24, 40, 56, 48),
    "narrow": 24,
    "size": 160,
    "boxes": 64,
    "head": (),
    "dropout": 0.0,
    "alpha": 30.0,
    "crop_widths": (8, 16, 24, 32),
    "crop": 32,
    "crop_head": (),
    "kept": 20,
    "std": 57.0,
}


@dataclass(frozen=True)
class MultiBoxOutputs:
    """What both networks say.

    Attributes:
        places: `[B, K, 4]`, boxes in shares of the image.
        confidences: `[B, K]`, logits.
        regions: `[R_i, 4]` of each image in network pixels: what was cut out.
        sure: `[R_i]`: the confidence of each region, 0 to 1; 1 for regions that training drew.
        logits: `[sum R_i, 1 + C]`, background first.
    """

    places: Tensor
    confidences: Tensor
    regions: list[Tensor]
    sure: list[Tensor]
    logits: Tensor


class MultiBox(Detector):
    """A network for boxes, and one that says what they hold."""

    priors: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Literal["caffenet", "small"] = "caffenet",
        widths: Sequence[int] = (),
        narrow: int | None = None,
        size: int = 227,
        boxes: int = 100,
        head: Sequence[int] = (4_096, 4_096),
        dropout: float = 0.5,
        alpha: float = 0.3,
        match: Literal["priors", "predictions"] = "priors",
        crop_widths: Sequence[int] = (),
        crop: int = 227,
        crop_head: Sequence[int] = (4_096, 4_096),
        samples: int = 8,
        held: float = 0.5,
        empty: float = 0.2,
        prior: float = 0.05,
        nms_iou: float = 0.5,
        kept: int = 10,
        score_floor: float = 0.01,
        limit: int = 100,
        mean: Sequence[float] = BGR_MEAN,
        std: float = 1.0,
    ) -> None:
        """Build both networks.

        Args:
            num_classes: Foreground classes.
            backbone: Of both.
            widths: Of the first's, where it is small.
            narrow: Channels that a 1x1 convolution leaves of its last map; None leaves it out.
            size: Side of the square that the whole image is warped to.
            boxes: K: 100 for VOC, 200 for ImageNet.
            head: Widths of the first's connected layers before its last.
            dropout: Behind each of these layers, in both networks.
            alpha: Weight of places against confidences (equation 3).
            match: What objects are given to: the nearest priors (3.3), or predictions by equation 3 itself.
            crop_widths: Of the second's backbone, where it is small.
            crop: Side of what it looks at.
            crop_head: Widths of its connected layers before its last.
            samples: Crops an image that a step learns from.
            held: IoU from which a crop shows the object,
            empty: and below which it shows nothing.
            prior: Confidence that an untrained network has.
            nms_iou: IoU above which the lesser of two boxes goes, before they are cut out and again in each class.
            kept: Most boxes of an image that are cut out.
            score_floor: Detections must score more.
            limit: Most detections an image.
            mean: Of the colours, blue first, in bytes.
            std: What they are divided by.
        """
        super().__init__(num_classes)
        self.size, self.crop = size, crop
        self.locator = _network(backbone, widths, narrow, size, head, 5 * boxes, dropout)
        self.classifier = _network(backbone, crop_widths, None, crop, crop_head, num_classes + 1, dropout)
        with torch.no_grad():
            self.locator.get_parameter(f"{len(self.locator) - 1}.bias")[4 * boxes :] = math.log(prior / (1 - prior))
        # No clusters here: the priors of training, or of a checkpoint, take their place.
        self.register_buffer("priors", torch.zeros((boxes, 4)))
        self.priors.copy_(drawn_boxes(boxes))
        self.alpha, self.match = alpha, match
        self.samples, self.held, self.empty = samples, held, empty
        self.nms_iou, self.kept, self.score_floor, self.limit = nms_iou, kept, score_floor, limit
        self.mean, self.std = tuple(mean), std

    def set_priors(self, boxes: Tensor) -> None:
        """Let the priors be clusters of the training set's boxes (3.3)."""
        self.priors.copy_(cluster_boxes(boxes, len(self.priors)))

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Warp whole images to the square; what is cut out later comes from the images as they are."""
        batch = stack([warp(self._colours(image), (self.size, self.size)) for image in images])
        return replace(batch, images=tuple(images))

    def _colours(self, image: Tensor) -> Tensor:
        return normalise(image, self.mean, (self.std,) * 3, bgr=True, peak=255.0)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> MultiBoxOutputs:
        """Boxes; then what the best of them show, or, given targets, what regions drawn about them show."""
        places, confidences = self.locate(batch.pixels)
        with stage("proposals"):
            boxes = self.boxes(places.detach(), batch)
            chosen = [self._best(*rows) for rows in zip(boxes, confidences.detach(), strict=True)]
            if targets is None:
                regions, sure = [b[k] for b, (k, _) in zip(boxes, chosen, strict=True)], [s for _, s in chosen]
            else:
                found = zip(boxes, chosen, targets, strict=True)
                regions = [self._draw(b[k], target) for b, (k, _), target in found]
                sure = [region.new_ones(len(region)) for region in regions]
        crops = [
            warp_regions(self._colours(image), frame.to_image(region), self.crop, 0)
            for image, frame, region in zip(batch.images, batch.frames, regions, strict=True)
        ]
        return MultiBoxOutputs(places, confidences, regions, sure, self.classifier(torch.cat(crops)))

    def locate(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Places `[B, K, 4]` in shares of the image, and confidences `[B, K]` as logits."""
        answer = self.locator(pixels).float()
        residuals, confidences = answer.split((4 * len(self.priors), len(self.priors)), 1)
        return self.priors + residuals.unflatten(1, (-1, 4)), confidences

    def boxes(self, places: Tensor, batch: Batch) -> Tensor:
        """Places `[B, K, 4]` as boxes in network pixels, inside the image."""
        inside = places.clamp(0, 1)
        low, high = torch.minimum(inside[..., :2], inside[..., 2:]), torch.maximum(inside[..., :2], inside[..., 2:])
        height, width = batch.size
        return torch.cat([low, high], -1) * places.new_tensor([width, height, width, height])

    def _best(self, boxes: Tensor, confidences: Tensor) -> tuple[Tensor, Tensor]:
        """Which boxes `[K, 4]` of one image are cut out, and how sure they are."""
        scores = confidences.sigmoid()
        rows = nms(boxes, scores, self.nms_iou)[: self.kept]
        return rows, scores[rows]

    def _draw(self, found: Tensor, target: Target) -> Tensor:
        """Regions to learn from: objects, boxes near them, boxes that were found, and boxes that lie anywhere."""
        near = target.boxes.repeat(3, 1)
        extent = near[:, 2:] - near[:, :2]
        shift, grow = (torch.rand_like(extent) - 0.5) * 0.4 * extent, (torch.rand_like(extent) - 0.5) * 0.4
        half, centre = extent / 2 * grow.exp(), (near[:, :2] + near[:, 2:]) / 2 + shift
        anywhere = self.priors[torch.randperm(len(self.priors), device=found.device)[: 2 * self.samples]] * self.size
        pool = torch.cat([target.boxes, torch.cat([centre - half, centre + half], 1), found, anywhere])
        pool = pool.clamp(0, self.size)
        overlap, _ = _most(pool, target.boxes)
        positives, negatives = balanced_sample(overlap >= self.held, overlap < self.empty, self.samples, 0.5)
        return pool[torch.cat([positives, negatives])]

    def postprocess(self, outputs: MultiBoxOutputs, batch: Batch) -> list[Detections]:
        """How sure a box is, times how sure its class; suppression within each class."""
        scores = outputs.logits.float().softmax(-1)[:, 1:].split([len(rows) for rows in outputs.regions])
        answers = []
        for boxes, sure, score, frame in zip(outputs.regions, outputs.sure, scores, batch.frames, strict=True):
            answers.append(
                classwise_nms(
                    frame.to_image(boxes),
                    sure[:, None] * score,
                    score_floor=self.score_floor,
                    iou=self.nms_iou,
                    limit=self.limit,
                )
            )
        return answers

    def losses(self, outputs: MultiBoxOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Equation 3, an image of the batch; cross entropy of the crops that show an object or nothing."""
        height, width = batch.size
        place, confidence, labels = [], [], []
        for index, target in enumerate(targets):
            objects = target.boxes / target.boxes.new_tensor([width, height, width, height])
            places, logits = outputs.places[index], outputs.confidences[index]
            if self.match == "priors":
                matches = optimal_match(_distances(objects, self.priors))
            else:
                matches = assign_predictions(objects, places, logits, self.alpha)
            far, wrong = match_losses(places, logits, objects, matches)
            place.append(far)
            confidence.append(wrong)
            overlap, nearest = _most(outputs.regions[index], target.boxes)
            shown = torch.zeros_like(nearest) if not len(target) else 1 + target.labels[nearest]
            labels.append(torch.where(overlap >= self.held, shown, torch.where(overlap < self.empty, 0, -1)))
        wanted = torch.cat(labels)
        entropy = F.cross_entropy(outputs.logits.float(), wanted, ignore_index=-1, reduction="sum")
        return {
            "place": self.alpha * torch.stack(place).mean(),
            "confidence": torch.stack(confidence).mean(),
            "class": entropy / (wanted >= 0).sum().clamp(min=1),
        }

    @torch.no_grad()
    def proposals(self, images: list[Tensor]) -> list[Tensor]:
        """The boxes alone, `[P_i, 4]` in pixels of each image, the surest first, without those that others cover."""
        batch = self.preprocess(images)
        places, confidences = self.locate(batch.pixels)
        answers = []
        for boxes, scores, frame in zip(self.boxes(places, batch), confidences, batch.frames, strict=True):
            answers.append(frame.to_image(boxes[nms(boxes, scores, self.nms_iou)]))
        return answers

    def network_for_cost(self, batch: Batch) -> Tensor:
        """The first network, and the second on as many crops as there are at most."""
        self.locate(batch.pixels)
        answer: Tensor = self.classifier(batch.pixels.new_empty((self.kept, 3, self.crop, self.crop)))
        return answer

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: in the second network's last layer, behind background."""
        last = len(self.classifier) - 1
        return {f"classifier.{last}.{part}": ClassChannels(leading=1) for part in ("weight", "bias")}

    def num_boxes(self, size: tuple[int, int]) -> int:
        """K."""
        return len(self.priors)


def assign_predictions(objects: Tensor, places: Tensor, logits: Tensor, alpha: float) -> Tensor:
    """Which prediction shall be which object so that equation 3 is least (3.2).

    Args:
        objects: `[M, 4]` in shares of the image; so are
        places: `[K, 4]`.
        logits: `[K]`, confidences.
        alpha: Of equation 3.

    Returns:
        int64 `[K]`: the object of each prediction, or -1.
    """
    # What a match adds to the sum: the distance, and -ln c in place of -ln(1 - c), which is minus the logit.
    return optimal_match(alpha * _distances(objects, places.detach()) - logits.detach().float())


def match_losses(places: Tensor, logits: Tensor, objects: Tensor, matches: Tensor) -> tuple[Tensor, Tensor]:
    """Equations 1 and 2: half the squared distances of matched boxes, and the logistic loss of all confidences.

    Args:
        places: `[K, 4]`.
        logits: `[K]`.
        objects: `[M, 4]`.
        matches: int64 `[K]`: the object of each box, or -1.
    """
    matched = matches >= 0
    far = 0.5 * (places[matched] - objects[matches[matched]]).square().sum()
    return far, F.binary_cross_entropy_with_logits(logits, matched.to(logits), reduction="sum")


def _distances(objects: Tensor, places: Tensor) -> Tensor:
    """Half the squared distances `[M, K]`."""
    return 0.5 * (objects[:, None].float() - places[None].float()).square().sum(-1)


def _most(regions: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """For each region `[R, 4]` its largest IoU with an object, and which it is; 0 and 0 without objects."""
    if not len(objects):
        return regions.new_zeros(len(regions)), torch.zeros(len(regions), dtype=torch.int64, device=regions.device)
    overlap, nearest = box_iou(regions, objects).max(1)
    return overlap, nearest


def _network(
    backbone: str,
    widths: Sequence[int],
    narrow: int | None,
    side: int,
    head: Sequence[int],
    outputs: int,
    dropout: float,
) -> nn.Sequential:
    """A backbone and connected layers, for squares of one side."""
    layers: list[nn.Module]
    if backbone == "caffenet":
        layers, channels, cells = [CaffeNet()], CaffeNet.channels, 6
    else:
        body = SmallNet(tuple(widths))
        layers, channels, cells = [Pool5(body, pooled=False)], body.channels[-1], -(-side // body.strides[-1])
    if narrow is not None:
        layers.append(conv_bn_relu(channels, narrow, 1))
        channels = narrow
    layers.append(nn.Flatten())
    inputs = channels * cells**2
    for width in head:
        layers += [nn.Linear(inputs, width), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        start_layers(layers[-3])
        inputs = width
    last = nn.Linear(inputs, outputs)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def multibox(num_classes: int, **overrides: Any) -> MultiBox:
    """100 boxes an image, of which ten are looked at more closely; `boxes=200` as for ImageNet."""
    return MultiBox(num_classes, **overrides)
