"""Box voting: detections of one object become one box, the mean of theirs (Gidaris, Komodakis, ICCV 2015, section 5).

https://arxiv.org/abs/1505.01749

This is the form in which RefineDet's authors merge what a detector says at several scales (`bbox_vote` of their tester,
and `soft_bbox_vote` for COCO): it suppresses and averages in one pass, where the paper votes after suppression.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ops.structures import Detections

__all__ = ["classwise_voting", "vote"]


def vote(
    boxes: Tensor, scores: Tensor, *, iou: float = 0.45, floor: float | None = None, extent: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Take the highest-scoring box with all that overlap it, make them one, and again with the rest.

    A cluster becomes the mean of its boxes, weighted by their scores, with the highest of their scores; a box that
    nothing overlaps stays as it is, to the bit.

    Args:
        boxes: `[N, 4]`, of one class.
        scores: `[N]`, more than 0.
        iou: A box of this IoU or more with the highest-scoring one belongs to its cluster.
        floor: The soft form, made for COCO: of a cluster, the boxes themselves stay too, with
            `score * (1 - IoU with the highest-scoring one)`, those for which that is `floor` or more. Left out, only
            the mean stays.
        extent: Added to widths and heights; 1 where boxes are inclusive pixels, as in the authors' code.

    Returns:
        Boxes `[K, 4]` and scores `[K]`, descending.

    Raises:
        ValueError: A score is 0 or less, or `floor` is.
    """
    if len(scores) and not bool((scores > 0).all()):
        raise ValueError(f"vote: scores weigh boxes and must be more than 0, the least is {float(scores.min())}")
    if floor is not None and floor <= 0:
        raise ValueError(f"vote: floor must be more than 0, got {floor}; None keeps only the mean of a cluster")
    # One cluster after the other: on a GPU the waits would cost more than the sums.
    order = scores.detach().argsort(descending=True, stable=True).cpu()
    rest, weights = boxes.detach().cpu().double()[order], scores.detach().cpu().double()[order]
    found_boxes, found_scores = [rest[:0]], [weights[:0]]
    while len(rest):
        overlap = _iou_with_first(rest, extent)
        together = overlap >= iou
        together[0] = True
        cluster, weight = rest[together], weights[together]
        if len(cluster) == 1:
            found_boxes.append(cluster)
        else:
            found_boxes.append((cluster * weight[:, None]).sum(0, keepdim=True) / weight.sum())
        found_scores.append(weight[:1])
        if floor is not None and len(cluster) > 1:
            lowered = weight * (1 - overlap[together])
            stays = lowered >= floor
            found_boxes.append(cluster[stays])
            found_scores.append(lowered[stays])
        rest, weights = rest[~together], weights[~together]
    voted = torch.cat(found_scores)
    ranks = voted.argsort(descending=True, stable=True)
    return torch.cat(found_boxes)[ranks].to(boxes), voted[ranks].to(scores)


def _iou_with_first(boxes: Tensor, extent: float) -> Tensor:
    left, top, right, bottom = boxes.unbind(-1)
    right, bottom = right + extent, bottom + extent
    area = (right - left) * (bottom - top)
    across = (torch.minimum(right, right[0]) - torch.maximum(left, left[0])).clamp(min=0)
    down = (torch.minimum(bottom, bottom[0]) - torch.maximum(top, top[0])).clamp(min=0)
    shared = across * down
    return shared / (area + area[0] - shared).clamp(min=1e-12)


def classwise_voting(
    found: Detections,
    *,
    iou: float = 0.45,
    floor: float | None = None,
    extent: float = 0.0,
    limit: int | None = None,
) -> Detections:
    """`vote` over the detections of one image, class by class; masks are left out.

    Args:
        found: Whatever is to be merged, of any number of runs.
        iou: See `vote`.
        floor: See `vote`.
        extent: See `vote`.
        limit: Most detections that are kept, over all classes; None keeps all.
    """
    boxes, scores, labels = [found.boxes[:0]], [found.scores[:0]], [found.labels[:0]]
    for label in found.labels.unique():
        mine = found.labels == label
        merged, rescored = vote(found.boxes[mine], found.scores[mine], iou=iou, floor=floor, extent=extent)
        boxes.append(merged)
        scores.append(rescored)
        labels.append(label.expand(len(merged)))
    return Detections.ranked(torch.cat(boxes), torch.cat(scores), torch.cat(labels), limit)
