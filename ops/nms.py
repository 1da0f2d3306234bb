"""Suppress duplicate detections. The hard kind is torchvision's; a box at exactly the threshold stays.

Soft-NMS lowers the scores of overlapping boxes instead (Bodla et al. 2017, https://arxiv.org/abs/1704.04503). It needs
no training, so that any detector can be tested with it: `suppressing` puts it in the place of the hard kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from ops.structures import Detections

__all__ = [
    "Suppression",
    "announce",
    "classwise_nms",
    "classwise_soft_nms",
    "soft_nms",
    "soft_nms_merge",
    "suppress",
    "suppressing",
    "watching",
]

Watcher = Callable[[Tensor, Tensor, Tensor | None], None]
"""Told the boxes `[N, 4]`, scores `[N]` and labels `[N]` that are about to be suppressed; None: all of one class."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Meanwhile, tell `watcher` of whatever enters suppression here, hard or soft; nothing is changed by it."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def announce(boxes: Tensor, scores: Tensor, labels: Tensor | None) -> None:
    """Tell whoever is `watching` what is about to be suppressed."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(boxes, scores, labels)


@dataclass(frozen=True)
class Suppression:
    """Soft-NMS in place of a detector's hard NMS, with the authors' constants; arguments of `soft_nms`.

    Attributes:
        method: `linear` or `gaussian`.
        sigma: Of `gaussian`.
        iou: Of `linear`; the detector's own threshold plays no part.
        floor: See `soft_nms`.
    """

    method: Literal["linear", "gaussian"] = "gaussian"
    sigma: float = 0.5
    iou: float = 0.3
    floor: float = 0.001

    def __post_init__(self) -> None:
        if self.method not in ("linear", "gaussian"):
            raise ValueError(f"soft NMS is linear or gaussian, not {self.method!r}")
        if not self.sigma > 0 or not 0 <= self.iou < 1 or not self.floor > 0:
            raise ValueError(f"soft NMS needs sigma > 0, 0 <= iou < 1 and floor > 0, got {self}")

    def describe(self) -> dict[str, Any]:
        """What matters of it, as a Record keeps it; constants other than the authors' are part of the name."""
        constant, usual = ("iou", 0.3) if self.method == "linear" else ("sigma", 0.5)
        value = getattr(self, constant)
        name = f"soft_nms_{self.method}" + ("" if value == usual else f"_{value:g}")
        return {"name": name, constant: value, "floor": self.floor}


@dataclass
class _Asked:
    """What takes the place of hard NMS, and whether anyone asked for it."""

    instead: Suppression | None
    used: bool = False


_asked: ContextVar[_Asked | None] = ContextVar("suppression", default=None)


@contextmanager
def suppressing(instead: Suppression | None) -> Iterator[_Asked]:
    """Meanwhile, detectors that suppress by `suppress` or `classwise_nms` do it by `instead`; None changes nothing.

    Gives an object whose `used` turns true when one does, so that a caller can tell a detector that has a way of its
    own.
    """
    asked = _Asked(instead)
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, *, iou: float, limit: int | None) -> tuple[Tensor, Tensor]:
    """Of the boxes of one image and class that overlap by more than `iou`, keep the highest-scoring.

    Under `suppressing`, scores are lowered instead.

    Args:
        boxes: `[N, 4]`.
        scores: `[N]`.
        labels: int64 `[N]`.
        iou: See above.
        limit: Most boxes over all classes; None keeps all.

    Returns:
        Indices `[K]` of the boxes that stay and their scores `[K]`, descending.
    """
    asked = _asked.get()
    if asked is None or asked.instead is None:
        announce(boxes, scores, labels)
        kept = batched_nms(boxes.float(), scores.float(), labels, iou)[:limit]
        return kept, scores[kept]
    asked.used = True
    soft = asked.instead
    return soft_nms(
        boxes, scores, labels=labels, method=soft.method, sigma=soft.sigma, iou=soft.iou, floor=soft.floor, limit=limit
    )


def classwise_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_floor: float,
    iou: float,
    limit: int | None,
    before: int | None = None,
    before_per_class: int | None = None,
) -> Detections:
    """From boxes with a score a class to at most `limit` detections of one image.

    Args:
        boxes: `[N, 4]`, or `[N, C, 4]` where each class has a box of its own.
        scores: `[N, C]`, without background.
        score_floor: A detection must score more than this.
        iou: Of two boxes of one class that overlap by more, the lower-scoring goes, unless under `suppressing`.
        limit: Most detections that are kept, over all classes; None keeps all.
        before: Most candidates over all classes that enter suppression.
        before_per_class: Most candidates a class that enter suppression (SSD: 400).
    """
    num_classes = scores.shape[1]
    rows, labels = torch.nonzero(scores > score_floor, as_tuple=True)
    if before_per_class is not None and len(rows) > before_per_class:
        stay = _strongest_of_class(scores, labels, before_per_class)[rows, labels]
        rows, labels = rows[stay], labels[stay]
    picked = scores[rows, labels]
    if before is not None and before < len(picked):
        picked, order = picked.topk(before)
        rows, labels = rows[order], labels[order]
    candidates = boxes[rows] if boxes.ndim == 2 else boxes.reshape(-1, num_classes, 4)[rows, labels]
    kept, rescored = suppress(candidates, picked, labels, iou=iou, limit=limit)
    return Detections.ranked(candidates[kept], rescored, labels[kept])


def _strongest_of_class(scores: Tensor, labels: Tensor, count: int) -> Tensor:
    """Bool `[N, C]`: not to be left out for `count` stronger ones; sorted are only classes with more candidates."""
    stays = torch.ones_like(scores, dtype=torch.bool)
    crowded = (labels.bincount(minlength=scores.shape[1]) > count).nonzero()[:, 0]
    if len(crowded):
        strongest = scores[:, crowded].topk(count, dim=0).indices
        stays[:, crowded] = torch.zeros_like(stays[:, crowded]).scatter_(0, strongest, True)
    return stays


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    labels: Tensor | None = None,
    method: Literal["linear", "gaussian", "hard"] = "gaussian",
    sigma: float = 0.5,
    iou: float = 0.3,
    floor: float = 0.001,
    extent: float = 0.0,
    limit: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Take the highest-scoring box, lower the scores of those that overlap it, and again with the scores as they are.

    Args:
        boxes: `[N, 4]`.
        scores: `[N]`, 0 or more.
        labels: `[N]`; a box only lowers boxes of its own class. Left out, all are of one class.
        method: `linear` multiplies by `1 - IoU` where that is over `iou`, `gaussian` by `exp(-IoU^2 / sigma)`
            everywhere, `hard` by 0 where the IoU is over `iou`.
        sigma: Of `gaussian`.
        iou: Of `linear` and `hard`.
        floor: A box whose score falls below this is dropped.
        extent: Added to widths and heights; 1 where boxes are inclusive pixels, as in the authors' code.
        limit: Most boxes over all classes. Scores only fall, so stopping early changes none of those taken.

    Returns:
        Indices `[K]` of the boxes that stay and their new scores `[K]`, descending.
    """
    kept: list[int] = []
    values: list[float] = []
    for best, score, _ in islice(_rounds(boxes, scores, labels, method, sigma, iou, floor, extent), limit):
        kept.append(best)
        values.append(score)
    device, dtype = scores.device, scores.dtype
    return torch.tensor(kept, dtype=torch.int64, device=device), torch.tensor(values, dtype=dtype, device=device)


def _rounds(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    method: Literal["linear", "gaussian", "hard"],
    sigma: float,
    iou: float,
    floor: float,
    extent: float,
) -> Iterator[tuple[int, float, Tensor]]:
    """The rounds of `soft_nms`: the box taken, its score, and by how much it lowers each box `[N]`.

    Of a box that is taken or dropped, 1: it is not lowered any more.
    """
    if method not in ("linear", "gaussian", "hard"):
        raise ValueError(f"method must be 'linear', 'gaussian' or 'hard', got {method!r}")
    announce(boxes, scores, labels)
    # One box after the other: on a GPU the waits would cost more than the sums.
    left, top, right, bottom = boxes.detach().cpu().double().unbind(-1)
    right, bottom = right + extent, bottom + extent
    area = (right - left) * (bottom - top)
    alive = scores.detach().cpu().double()
    alive = torch.where(alive >= floor, alive, alive.new_tensor(-1.0))
    groups = torch.zeros(len(alive), dtype=torch.int64) if labels is None else labels.cpu()
    while len(alive):
        best = int(alive.argmax())
        score = float(alive[best])
        if score < 0:
            return
        across = (torch.minimum(right, right[best]) - torch.maximum(left, left[best])).clamp(min=0)
        down = (torch.minimum(bottom, bottom[best]) - torch.maximum(top, top[best])).clamp(min=0)
        shared = across * down * (groups == groups[best])
        overlap = shared / (area + area[best] - shared).clamp(min=1e-12)
        if method == "gaussian":
            weight = torch.exp(-(overlap**2) / sigma)
        else:
            weight = torch.where(overlap > iou, 1 - overlap if method == "linear" else torch.zeros_like(overlap), 1.0)
        alive[best] = -1.0
        weight = torch.where(alive >= 0, weight, 1.0)
        yield best, score, weight
        lowered = alive * weight
        alive = torch.where((alive >= 0) & (lowered >= floor), lowered, alive.new_tensor(-1.0))


def soft_nms_merge(
    boxes: Tensor,
    scores: Tensor,
    corners: Tensor,
    *,
    labels: Tensor | None = None,
    exponent: float = 10.0,
    method: Literal["linear", "gaussian", "hard"] = "gaussian",
    sigma: float = 0.5,
    iou: float = 0.3,
    floor: float = 0.001,
    extent: float = 0.0,
    limit: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`soft_nms` in which a box that is taken moves towards those that it lowers, as CornerNet's code tests at scales.

    A box that is lowered by the factor `w` counts `(1 - w) ** exponent`, times the score of its top left corner for the
    left and top side, of its bottom right corner for the others. In the authors' code rows change places without the
    scores of their corners; here a box keeps its own.

    Args:
        boxes: `[N, 4]`.
        scores: `[N]`, 0 or more.
        corners: `[N, 2]`, scores of the top left and the bottom right corner, 0 or more.
        labels: As `soft_nms`; so are the arguments after `exponent`.
        exponent: See above; 10 in the authors' settings.
        method: See `soft_nms`.
        sigma: See `soft_nms`.
        iou: See `soft_nms`.
        floor: See `soft_nms`.
        extent: See `soft_nms`.
        limit: See `soft_nms`.

    Returns:
        What `soft_nms` gives, and the moved boxes `[K, 4]`.
    """
    places = boxes.detach().cpu().double().unflatten(1, (2, 2))
    # A corner may score 0 where a map has fewer peaks than are asked for; its box must keep a place.
    trust = corners.detach().cpu().double().clamp(min=1e-9)
    kept: list[int] = []
    values: list[float] = []
    moved: list[Tensor] = []
    for best, score, weight in islice(_rounds(boxes, scores, labels, method, sigma, iou, floor, extent), limit):
        share = (1 - weight) ** exponent
        share[best] = 1.0
        counts = trust * share[:, None]
        moved.append(((places * counts[:, :, None]).sum(0) / counts.sum(0)[:, None]).flatten())
        kept.append(best)
        values.append(score)
    rows = torch.tensor(kept, dtype=torch.int64, device=scores.device)
    rescored = torch.tensor(values, dtype=scores.dtype, device=scores.device)
    return rows, rescored, torch.stack(moved).to(boxes) if moved else boxes[:0]


def classwise_soft_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_floor: float,
    limit: int | None,
    before: int | None = None,
    method: Literal["linear", "gaussian", "hard"] = "gaussian",
    sigma: float = 0.5,
    iou: float = 0.3,
    floor: float = 0.001,
    extent: float = 0.0,
) -> Detections:
    """`classwise_nms` with scores lowered instead of boxes removed; boxes and scores as there.

    Args:
        boxes: `[N, 4]`, or `[N, C, 4]` where each class has a box of its own.
        scores: `[N, C]`, without background.
        score_floor: A box must score more than this to enter.
        limit: Most detections that are kept, over all classes; None keeps all.
        before: Most candidates over all classes that enter.
        method: As `soft_nms`; so are the arguments after it.
        sigma: See `soft_nms`.
        iou: See `soft_nms`.
        floor: See `soft_nms`.
        extent: See `soft_nms`.
    """
    rows, labels = torch.nonzero(scores > score_floor, as_tuple=True)
    picked = scores[rows, labels]
    if before is not None and before < len(picked):
        picked, order = picked.topk(before)
        rows, labels = rows[order], labels[order]
    candidates = boxes[rows] if boxes.ndim == 2 else boxes.reshape(-1, scores.shape[1], 4)[rows, labels]
    kept, rescored = soft_nms(
        candidates,
        picked,
        labels=labels,
        method=method,
        sigma=sigma,
        iou=iou,
        floor=floor,
        extent=extent,
        limit=limit,
    )
    return Detections(candidates[kept].float(), rescored.float(), labels[kept])
