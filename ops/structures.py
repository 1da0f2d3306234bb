"""The two nouns that cross every border: what is in an image (`Target`) and what a detector says (`Detections`).

Boxes are float32 `(x1, y1, x2, y2)` in continuous pixels, so that width is `x2 - x1`; labels are int64 from 0 to C-1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

__all__ = ["Detections", "Target"]


class _Rows:
    """Row-wise operations over a dataclass of tensors that all share their first dimension."""

    def __len__(self) -> int:
        return int(self.boxes.shape[0])  # type: ignore[attr-defined]

    def to(self, device: torch.device | str) -> Self:
        """The same rows on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return replace(self, **{k: v.to(device) for k, v in values.items() if v is not None})  # type: ignore[type-var]

    def __getitem__(self, rows: Tensor | slice) -> Self:
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "proposals"}  # type: ignore[arg-type]
        return replace(self, **{k: v[rows] for k, v in values.items() if v is not None})  # type: ignore[type-var]


def _check_boxes(owner: str, boxes: Tensor, labels: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{owner}: boxes must be [N, 4], got {tuple(boxes.shape)}")
    if labels.shape != boxes.shape[:1]:
        raise ValueError(f"{owner}: {tuple(labels.shape)} labels for {boxes.shape[0]} boxes")


@dataclass(frozen=True)
class Target(_Rows):
    """What is in one image: `M` objects.

    Attributes:
        boxes: float32 `[M, 4]`, `(x1, y1, x2, y2)` in pixels.
        labels: int64 `[M]`, 0 to C-1.
        ignore: bool `[M]`, true where an object is neither right nor wrong (VOC difficult, COCO crowd).
            Left out, it is false everywhere.
        area: float32 `[M]`, the annotated area in square pixels (COCO's segment area), or None for the box's own.
        masks: bool `[M, H, W]`, or None.
        proposals: float32 `[P, 4]`, boxes that were proposed for the image before training began (selective search
            takes longer than a training step), or None. They belong to the image: choosing objects keeps them all.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor = None  # type: ignore[assignment]
    area: Tensor | None = None
    masks: Tensor | None = None
    proposals: Tensor | None = None

    def __post_init__(self) -> None:
        _check_boxes("Target", self.boxes, self.labels)
        if self.ignore is None:
            object.__setattr__(self, "ignore", torch.zeros_like(self.labels, dtype=torch.bool))


@dataclass(frozen=True)
class Detections(_Rows):
    """What a detector says of one image: `N` boxes, the surest first.

    Attributes:
        boxes: float32 `[N, 4]`, `(x1, y1, x2, y2)` in pixels of the image that the detector was given.
        scores: float32 `[N]`, descending.
        labels: int64 `[N]`, 0 to C-1.
        masks: bool `[N, H, W]`, or None.
        quads: float32 `[N, 4, 2]`, or None: corners `(x, y)` in pixels, clockwise as one sees them, of detectors whose
            boxes may be turned. `boxes` are then the upright boxes around them, cut to the image.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
    quads: Tensor | None = None

    def __post_init__(self) -> None:
        _check_boxes("Detections", self.boxes, self.labels)
        if self.quads is not None and self.quads.shape != (len(self.boxes), 4, 2):
            raise ValueError(f"Detections: quads must be [{len(self.boxes)}, 4, 2], got {tuple(self.quads.shape)}")
        if self.scores.shape != self.labels.shape:
            raise ValueError(f"Detections: {tuple(self.scores.shape)} scores for {len(self)} boxes")

    @classmethod
    def ranked(cls, boxes: Tensor, scores: Tensor, labels: Tensor, limit: int | None = None) -> Detections:
        """Sort rows by descending score (stable) and keep the first `limit`."""
        order = torch.argsort(scores, descending=True, stable=True)[:limit]
        return cls(boxes[order], scores[order], labels[order])
