"""FAN, from Jianfeng Wang, Ye Yuan and Gang Yu, "Face Attention Network: An Effective Face Detector for the Occluded
Faces" (2017, https://arxiv.org/abs/1711.07246).

RetinaNet for faces, with attention. A branch says at each place of each level how much of a face of this level's size
there is, and the level's features are multiplied by the exponential of that before both heads read them. What is seen
of a covered face speaks louder; nothing falls silent, as it would under a sigmoid, so that the surroundings still help.
The branch learns the boxes of the faces that the level's own anchors are to find, filled.

Anchors start at 16 px and grow by a third of an octave to 406 px, upright by 1 and 1.5. We know the paper from notes.
What they do not give is ours: the attention branch is built like the heads; both weights are 1; in each level the loss
of classes is divided by all of its anchors that learn, that of boxes by its positives; faces of a shorter side under 8
px are left out, and their places are background; schedule, backbone and sizes of images are RetinaNet's; a cell belongs
to a box that touches it; the jitter of colours is mild. The small size divides by positives as RetinaNet does, for a
short training from scratch: over all anchors the loss of classes is a small part of the boxes'. And it is `bounded`:
nearly every cell is background, whose logit falls far below 0. After 2,400 steps with its exponential, features of the
finest level were multiplied by less than a thousandth at half of all places, and small objects were lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.augment import Colour, flip, place
from ops.images import Batch
from ops.match import BETWEEN
from ops.structures import Target
from zoo.one_stage import retinanet
from zoo.one_stage.retinanet import RetinaNet, RetinaNetOutputs

__all__ = ["FACES", "FAN", "RECIPE", "SMALL", "SMALL_RECIPE", "FANOutputs", "fan", "fan_augment", "fill_boxes"]

FACES: dict[str, Any] = {"base": 2.0, "ratios": (1.0, 1.5)}
"""Anchors of 16 to 406 px on strides 8 to 128, six a cell, height over width 1 and 1.5."""


def fan_augment(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Flip, jitter the colours, and cut out a square of 0.3 to 1 of the shorter side; faces whose middle is in it stay.

    The square keeps its pixels: the detector resizes.
    """
    gain, contrast, saturation = (0.8 + 0.4 * float(torch.rand(())) for _ in range(3))
    image = Colour(image).gain(gain).contrast(contrast).saturation(saturation).apply()
    height, width = int(image.shape[-2]), int(image.shape[-1])
    side = max(1, round((0.3 + 0.7 * float(torch.rand(()))) * min(height, width)))
    left, top = (int(torch.randint(0, free - side + 1, ())) for free in (width, height))
    image, target = place(image, target, (left, top, side, side), (side, side))
    return flip(image, target) if float(torch.rand(())) < 0.5 else (image, target)


RECIPE = replace(retinanet.RECIPE, augment=fan_augment, source="RetinaNet's: the paper's schedule is not established")
SMALL_RECIPE = retinanet.SMALL_RECIPE

SMALL: dict[str, Any] = {
    **retinanet.SMALL,
    "scales": 2,
    "ratios": (1.0,),
    "least": 0.0,
    "divide_by": "positives",
    "bounded": True,
}
"""For `discs`, which are wide as often as upright: RetinaNet's small size and attention."""


@dataclass(frozen=True)
class FANOutputs(RetinaNetOutputs):
    """RetinaNet's, and attention.

    Attributes:
        attention: `[B, 1, H_i, W_i]` each, logits.
    """

    attention: list[Tensor]


class FAN(RetinaNet):
    """RetinaNet whose levels are weighted by where they see faces.

    Args:
        num_classes: Foreground classes; faces are one.
        box_weight: Of the loss of boxes (lambda 1).
        attention_weight: Of the loss of attention (lambda 2).
        least: Objects with a shorter side than this, in network pixels, are not learnt.
        bounded: Features are multiplied by the exponential of the attention's probability, so by 1 to 2.7; else by that
            of its logit.
        divide_by: What the focal loss of a level is divided by: its `anchors` that learn, or the `positives` of all
            levels, by which the boxes' is divided then too.
        options: Of `RetinaNet`, with other defaults for `base` and `ratios`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        box_weight: float = 1.0,
        attention_weight: float = 1.0,
        least: float = 8.0,
        divide_by: Literal["anchors", "positives"] = "anchors",
        bounded: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, **{**FACES, **options})
        self.head["attention_head"] = self.tower("attention", outputs=1)
        self.box_weight, self.attention_weight = box_weight, attention_weight
        self.least, self.divide_by, self.bounded = least, divide_by, bounded

    def network(self, batch: Batch, targets: list[Target] | None = None) -> FANOutputs:
        """Logits and offsets of all anchors, read from weighted levels, and the weights."""
        maps = self.backbone(batch.pixels)
        attention = self.head["attention_head"](maps)
        gains = [(heat.sigmoid() if self.bounded else heat).exp() for heat in attention]
        found = self.heads([x * gain for x, gain in zip(maps, gains, strict=True)], batch)
        return FANOutputs(found.logits, found.offsets, found.anchors, attention)

    def losses(self, outputs: RetinaNetOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Focal loss, smooth L1, and cross entropy of the attention, each level by level, summed over levels."""
        assert isinstance(outputs, FANOutputs)
        targets = [t[(t.boxes[:, 2:] - t.boxes[:, :2]).amin(1) >= self.least] for t in targets]
        terms = self.terms(outputs, targets)
        sizes = [len(anchors) for anchors in outputs.anchors]
        positive, learnt = terms.matches >= 0, terms.matches != BETWEEN
        starts = torch.tensor(sizes, device=positive.device).cumsum(0)
        level_of = torch.bucketize(positive.nonzero()[:, 1], starts, right=True)
        wanted = self.coder.encode(terms.boxes, terms.anchors)
        box = F.smooth_l1_loss(terms.offsets, wanted, beta=self.beta, reduction="none").sum(1)
        if self.divide_by == "positives":
            count = positive.sum().clamp(min=1)
            classes, boxes = terms.focal.sum() / count, box.sum() / count
        else:
            levels = zip(terms.focal.split(sizes, 1), learnt.split(sizes, 1), strict=True)
            classes = torch.stack([focal.sum() / anchors.sum().clamp(min=1) for focal, anchors in levels]).sum()
            counts = torch.bincount(level_of, minlength=len(sizes)).clamp(min=1)
            boxes = (box / counts[level_of]).sum()
        matches = terms.matches.split(sizes, 1)
        attention = torch.stack(
            [
                F.binary_cross_entropy_with_logits(heat.float(), _faces(heat, found, targets, stride))
                for heat, found, stride in zip(outputs.attention, matches, self.strides, strict=True)
            ]
        ).sum()
        return {
            "class": classes,
            "box": self.box_weight * boxes,
            "attention": self.attention_weight * attention,
        }


def _faces(heat: Tensor, matches: Tensor, targets: Sequence[Target], stride: int) -> Tensor:
    """What the attention `[B, 1, H, W]` of one level is to be, from the matches `[B, N_i]` of its anchors."""
    cells = (int(heat.shape[-2]), int(heat.shape[-1]))
    maps = [
        fill_boxes(target.boxes[match[match >= 0].unique()], cells, stride)
        for match, target in zip(matches, targets, strict=True)
    ]
    return torch.stack(maps)[:, None]


def fill_boxes(boxes: Tensor, cells: tuple[int, int], stride: int) -> Tensor:
    """1 in each of `(H, W)` cells that one of `[M, 4]` boxes in network pixels touches, else 0: `[H, W]`."""
    rows, columns = (torch.arange(count, device=boxes.device) * stride for count in cells)
    down = (boxes[:, 1, None] < rows + stride) & (boxes[:, 3, None] > rows)
    across = (boxes[:, 0, None] < columns + stride) & (boxes[:, 2, None] > columns)
    return (down[:, :, None] & across[:, None]).any(0).float()


def fan(num_classes: int, **overrides: Any) -> FAN:
    """On ResNet-50: 134,400 anchors on 800x1344."""
    return FAN(num_classes, **overrides)
