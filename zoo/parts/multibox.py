"""What SSD's descendants share: which prior learns what, from which priors a loss learns, and how priors become
detections (Liu et al., "SSD", ECCV 2016, https://arxiv.org/abs/1512.02325, section 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from ops.coders import CenterSizeCoder
from ops.images import Frame
from ops.match import multibox_match
from ops.nms import classwise_nms
from ops.sample import hardest
from ops.structures import Detections, Target

__all__ = [
    "Assignment",
    "Predictions",
    "assign",
    "caffe_xavier",
    "detect_multibox",
    "flatten_heads",
    "multibox_loss",
]


@dataclass(frozen=True)
class Predictions:
    """What the heads say of every prior.

    Attributes:
        offsets: `[B, N, 4]`, as `CenterSizeCoder` codes them.
        logits: `[B, N, 1 + C]`, background first.
    """

    offsets: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Assignment:
    """What one image's objects ask of the priors.

    Attributes:
        classes: int64 `[N]`; 0 is background.
        offsets: `[N, 4]`, of priors that have an object; zero elsewhere.
        free: bool `[N]`: may be learnt as a negative.
    """

    classes: Tensor
    offsets: Tensor
    free: Tensor


def assign(
    target: Target,
    priors: Tensor,
    coder: CenterSizeCoder,
    *,
    match_iou: float | None = 0.5,
    negative_iou: float = 0.5,
) -> Assignment:
    """Give each object its best prior, and every other prior that overlaps one enough.

    Args:
        target: In network pixels, no object to be left out.
        priors: `[N, 4]`.
        coder: Of the offsets.
        match_iou: From this IoU on, a prior learns an object besides the object's best one; None: only the best.
        negative_iou: A prior that overlaps some object this much is no negative.
    """
    classes = torch.zeros(len(priors), dtype=torch.int64, device=priors.device)
    offsets = torch.zeros_like(priors)
    if not len(target):
        return Assignment(classes, offsets, classes == 0)
    iou = box_iou(target.boxes, priors)
    matches = multibox_match(iou, match_iou)
    rows = (matches >= 0).nonzero()[:, 0]
    classes[rows] = 1 + target.labels[matches[rows]]
    offsets[rows] = coder.encode(target.boxes[matches[rows]], priors[rows])
    return Assignment(classes, offsets, (matches < 0) & (iou.amax(0) < negative_iou))


def multibox_loss(
    predictions: Predictions,
    assignments: Sequence[Assignment],
    *,
    sampler: Literal["hard", "random", "all"] = "hard",
    negatives: float = 3.0,
    candidates: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Smooth L1 of positives, and cross entropy of positives and chosen negatives, both a positive of the batch.

    Args:
        predictions: Of B images.
        assignments: One an image.
        sampler: Which negatives are learnt: the hardest (of largest loss), any, or all.
        negatives: How many a positive, image by image.
        candidates: bool `[B, N]`: priors that may be negatives at all, where not every free one may (RefineDet).

    Returns:
        Box loss and class loss.
    """
    classes = torch.stack([a.classes for a in assignments])
    wanted = torch.stack([a.offsets for a in assignments])
    free = torch.stack([a.free for a in assignments])
    if candidates is not None:
        free = free & candidates
    positive = classes > 0
    offsets, logits = predictions.offsets.float(), predictions.logits.float()
    if sampler == "all":
        chosen = free
    else:
        known = logits.detach()
        hardness = known.logsumexp(-1) - known[..., 0] if sampler == "hard" else torch.rand_like(known[..., 0])
        chosen = hardest(hardness, free, (positive.sum(1) * negatives).long())
    learnt = positive | chosen
    count = positive.sum().clamp(min=1)
    box = F.smooth_l1_loss(offsets[positive], wanted[positive], reduction="sum")
    entropy = F.cross_entropy(logits[learnt], classes[learnt], reduction="sum")
    return box / count, entropy / count


def detect_multibox(
    boxes: Tensor,
    scores: Tensor,
    frames: Sequence[Frame],
    *,
    score_floor: float,
    nms_iou: float,
    limit: int,
    before_per_class: int,
) -> list[Detections]:
    """Suppress class by class and go back to the pixels of each image.

    Args:
        boxes: `[B, N, 4]` in network pixels.
        scores: `[B, N, C]`, without background.
        frames: One an image.
        score_floor: Least score of a detection.
        nms_iou: IoU above which the lesser detection of a class goes.
        limit: Most detections an image.
        before_per_class: Candidates of a class that enter suppression.
    """
    answers = []
    for box, score, frame in zip(boxes, scores, frames, strict=True):
        found = classwise_nms(
            box, score, score_floor=score_floor, iou=nms_iou, limit=limit, before_per_class=before_per_class
        )
        answers.append(replace(found, boxes=frame.to_image(found.boxes)))
    return answers


def flatten_heads(heads: nn.ModuleList, maps: Sequence[Tensor], values: int) -> Tensor:
    """Every head's `[B, A * values, H, W]` as rows of one `[B, N, values]`: level, then row, column, prior."""
    rows = [head(x).permute(0, 2, 3, 1).flatten(1) for head, x in zip(heads, maps, strict=True)]
    return torch.cat(rows, 1).unflatten(1, (-1, values))


def caffe_xavier(conv: nn.Conv2d) -> nn.Conv2d:
    """Fill as Caffe's `xavier` does (uniform, variance 1 / fan-in; bias 0), and return the same layer."""
    nn.init.kaiming_uniform_(conv.weight, nonlinearity="linear")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
