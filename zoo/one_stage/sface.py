"""SFace, after Jianfeng Wang, Ye Yuan, Boxun Li, Gang Yu and Jian Sun, "SFace: An Efficient Network for Face Detection
in Large Scale Variations" (2018, https://arxiv.org/abs/1804.06559).

**Built from a lecture's description, not from released code: there is none, and the layers of the paper's network are
not established here. What is measured with it says nothing of the paper's own numbers.**

In images of 4K, faces are of a few pixels and of a thousand. Anchors for all of these cost time. So faces of standard
sizes are found by anchors, which is accurate, and those too small or too large for the anchors without any, which is
quick and bound to no size; both branches learn their boxes by the IoU, and what they find is put together.

All that the description leaves open is ours. The network is RetinaNet's, the anchors are FAN's (the authors in common),
16 to 406 px, and a face whose side (root of its area) is of these sizes is theirs. A smaller one is learnt by the
finest level, a larger one by the coarsest, cell by cell as in UnitBox: a cell in the middle half of a face's box, or
the one that holds its centre, gives a score and the distances to the four sides, as exponentials, in strides. Each
branch takes the other's faces for background. Losses of scores are focal, all losses are divided by the positives of
their branch, all weights are 1. The scores of both are compared as they are: we found no account of the paper's way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from ops.anchors import grid_anchors
from ops.dense import boxes_from_sides, log_iou, owners, side_distances
from ops.images import Batch
from ops.losses import pair_log_iou
from ops.structures import Target
from zoo.one_stage import fan, retinanet
from zoo.one_stage.retinanet import RetinaNet, RetinaNetOutputs
from zoo.subsample import ClassChannels

__all__ = ["RECIPE", "SMALL", "SMALL_RECIPE", "SFace", "SFaceOutputs", "sface"]

RECIPE = replace(fan.RECIPE, source="FAN's, which is RetinaNet's: the paper's schedule is not established")
SMALL_RECIPE = retinanet.SMALL_RECIPE

SMALL: dict[str, Any] = {
    **retinanet.SMALL,
    "scales": 2,
    "ratios": (1.0,),
    "standard": (16.0, 64.0),
    "free_levels": (0, 3),
}
"""For `discs`: objects under 16 px on stride 4, over 64 px on stride 32, those between by anchors."""


@dataclass(frozen=True)
class SFaceOutputs(RetinaNetOutputs):
    """RetinaNet's, and what is said without anchors, on the finest and the coarsest of the levels that say so.

    Attributes:
        free_logits: `[B, P_i, C]` each.
        sides: `[B, P_i, 4]` each: logarithms of the distances to top, bottom, left and right, in strides.
        points: `[P_i, 2]` each: where the cells lie in network pixels.
    """

    free_logits: list[Tensor]
    sides: list[Tensor]
    points: list[Tensor]


class SFace(RetinaNet):
    """RetinaNet for standard sizes, and a branch without anchors for those beyond.

    Args:
        num_classes: Foreground classes; faces are one.
        standard: Sides, roots of areas in network pixels, from and to which objects are the anchors'.
        free_levels: Which levels learn smaller, and which larger objects.
        middle: Share of a box's sides in which a cell learns it.
        prior: Probability that all scores stand for at first.
        options: Of `RetinaNet`, with other defaults for `base` and `ratios`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        standard: Sequence[float] = (16.0, 406.0),
        free_levels: Sequence[int] = (0, -1),
        middle: float = 0.5,
        prior: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, **{**fan.FACES, "prior": prior, **options})
        if not 0 <= standard[0] <= standard[1]:
            raise ValueError(f"standard sizes must rise from at least 0, got {tuple(standard)}")
        self.head["free_classification_head"] = self.tower("cls_logits", outputs=num_classes, prior=prior)
        self.head["free_regression_head"] = self.tower("bbox_sides", outputs=4)
        self.standard, self.middle = tuple(standard), middle
        self.free_levels = tuple(level % len(self.strides) for level in free_levels)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> SFaceOutputs:
        """What both branches say."""
        maps = self.backbone(batch.pixels)
        found = self.heads(maps, batch)
        chosen = [maps[level] for level in self.free_levels]
        logits, sides = (
            [x.flatten(2).transpose(1, 2) for x in self.head[f"free_{kind}_head"](chosen)]
            for kind in ("classification", "regression")
        )
        points = []
        for x, level in zip(chosen, self.free_levels, strict=True):
            stride = self.strides[level]
            cells = (int(x.shape[-2]), int(x.shape[-1]))
            points.append(grid_anchors(x.new_zeros((1, 4), dtype=torch.float32), cells, (stride, stride))[:, :2])
        return SFaceOutputs(found.logits, found.offsets, found.anchors, logits, sides, points)

    def candidates(self, outputs: RetinaNetOutputs, index: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Those of the anchors, and those of the cells."""
        assert isinstance(outputs, SFaceOutputs)
        found = super().candidates(outputs, index)
        for place, level in enumerate(self.free_levels):
            rows, scores, labels = self.surest(outputs.free_logits[place][index])
            distances = self._distances(outputs.sides[place][index][rows], self.strides[level])
            found.append((boxes_from_sides(outputs.points[place][rows], distances), scores, labels))
        return found

    def class_channels(self) -> dict[str, ClassChannels]:
        """As RetinaNet's, and a map a class of the branch without anchors."""
        layer = "head.free_classification_head.cls_logits"
        return {**super().class_channels(), f"{layer}.weight": ClassChannels(), f"{layer}.bias": ClassChannels()}

    def _distances(self, sides: Tensor, stride: int) -> Tensor:
        return sides.float().clamp(max=self.coder.max_log_ratio).exp() * stride

    def losses(self, outputs: RetinaNetOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Focal losses, and `-ln IoU`, of objects of standard sizes and of the others."""
        assert isinstance(outputs, SFaceOutputs)
        sizes = [(t.boxes[:, 2:] - t.boxes[:, :2]).prod(1).sqrt() for t in targets]
        low, high = self.standard
        usual = [t[(size >= low) & (size <= high)] for t, size in zip(targets, sizes, strict=True)]
        terms = self.terms(outputs, usual)
        count = len(terms.boxes) or 1
        decoded = self.coder.decode(terms.offsets, terms.anchors)
        small = [t[size < low] for t, size in zip(targets, sizes, strict=True)]
        large = [t[size > high] for t, size in zip(targets, sizes, strict=True)]
        free = [self._free(outputs, place, chosen) for place, chosen in enumerate((small, large))]
        cells = sum(learnt for _, _, learnt in free) or 1
        return {
            "class": terms.focal.sum() / count,
            "box": pair_log_iou(decoded, terms.boxes).sum() / count,
            "free_class": torch.stack([classes for classes, _, _ in free]).sum() / cells,
            "free_box": torch.stack([box for _, box, _ in free]).sum() / cells,
        }

    def _free(self, outputs: SFaceOutputs, place: int, targets: list[Target]) -> tuple[Tensor, Tensor, int]:
        """Sums of both losses over the cells of one level, and how many of these have an object."""
        points, stride = outputs.points[place], self.strides[self.free_levels[place]]
        logits = outputs.free_logits[place].float()
        classes, wanted, learning = torch.zeros_like(logits), [], []
        for row, target in zip(classes, targets, strict=True):
            object_of = self._owners(points, target.boxes, stride)
            cells = (object_of >= 0).nonzero()[:, 0]
            row[cells, target.labels[object_of[cells]]] = 1
            wanted.append(side_distances(points, target.boxes)[object_of[cells], cells])
            learning.append(object_of >= 0)
        said = self._distances(outputs.sides[place][torch.stack(learning)], stride)
        # A centre's cell may lie beyond a side of a very small box: its point cannot.
        box = log_iou(said, torch.cat(wanted).clamp(min=0.01 * stride))
        return sigmoid_focal_loss(logits, classes, self.alpha, self.gamma).sum(), box.sum(), len(said)

    def _owners(self, points: Tensor, boxes: Tensor, stride: int) -> Tensor:
        """The object that each cell learns, the smallest of several, or -1: int64 `[P]`."""
        middle, extent = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        away = (points - middle).abs()
        core = (away <= extent[:, None] * self.middle / 2).all(-1)
        # Half a stride each way, and of two cells that touch the centre the one behind it.
        holds = ((points - middle > -stride / 2) & (points - middle <= stride / 2)).all(-1)
        return owners(core | holds, extent.prod(1)[:, None])

    def num_boxes(self, size: tuple[int, int]) -> int:
        """Anchors, and cells of the levels that speak without."""
        strides = [self.strides[level] for level in self.free_levels]
        return super().num_boxes(size) + sum(-(-size[0] // s) * -(-size[1] // s) for s in strides)


def sface(num_classes: int, **overrides: Any) -> SFace:
    """On ResNet-50: 134,400 anchors and 16,877 cells on 800x1344."""
    return SFace(num_classes, **overrides)
