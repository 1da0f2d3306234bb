"""Suppress duplicate detections. The hard kind is torchvision's; a box at exactly the threshold stays."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from ops.structures import Detections

__all__ = ["classwise_nms"]


def classwise_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_floor: float,
    iou: float,
    limit: int,
    before: int | None = None,
    before_per_class: int | None = None,
) -> Detections:
    """From boxes with a score a class to at most `limit` detections of one image.

    Args:
        boxes: `[N, 4]`, or `[N, C, 4]` where each class has a box of its own.
        scores: `[N, C]`, without background.
        score_floor: A detection must score more than this.
        iou: Of two boxes of one class that overlap by more, the lower-scoring goes.
        limit: Most detections that are kept, over all classes.
        before: Most candidates over all classes that enter suppression.
        before_per_class: Most candidates a class that enter suppression (SSD: 400).
    """
    num_classes = scores.shape[1]
    if before_per_class is not None and before_per_class < scores.shape[0]:
        kth = scores.topk(before_per_class, dim=0).values[-1]
        scores = torch.where(scores >= kth, scores, scores.new_tensor(-torch.inf))
    rows, labels = torch.nonzero(scores > score_floor, as_tuple=True)
    picked = scores[rows, labels]
    if before is not None and before < len(picked):
        picked, order = picked.topk(before)
        rows, labels = rows[order], labels[order]
    candidates = boxes[rows] if boxes.ndim == 2 else boxes.reshape(-1, num_classes, 4)[rows, labels]
    kept = batched_nms(candidates.float(), picked.float(), labels, iou)[:limit]
    return Detections.ranked(candidates[kept], picked[kept], labels[kept])
