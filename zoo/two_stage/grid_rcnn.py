"""Grid R-CNN, from Xin Lu, Buyu Li, Yuxin Yue, Quanquan Li and Junjie Yan, "Grid R-CNN" (CVPR 2019,
https://arxiv.org/abs/1811.12030).

A delta of Faster R-CNN on a pyramid: the second stage only says what a region holds. Where the object is, a fully
convolutional branch says by nine points of a three by three grid over it, each on a map of its own; features of
neighbouring points are fused twice before, so that each side of a box rests on several pieces of evidence.

Layers and constants are those of the authors' release (STVIR/Grid-R-CNN), which is the later "Grid R-CNN Plus"
(https://arxiv.org/abs/1906.05688): maps of 28 cells, each for the part of the region where its point can be, instead
of 56 cells for all of it, and the first convolution at stride 2. What we do otherwise: backbone, proposals and sampling
are those of our Faster R-CNN on a pyramid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.grid_points import GridCoder
from ops.images import Batch
from ops.structures import Detections, Target
from zoo.detector import stage
from zoo.parts.roi_head import Pool, PyramidAlign, RoIHead
from zoo.subsample import ClassChannels
from zoo.two_stage import fpn
from zoo.two_stage.fast_rcnn import TwoStageOutputs
from zoo.two_stage.faster_rcnn import FasterRCNN
from zoo.two_stage.fpn import SMALL_RECIPE

__all__ = [
    "RECIPE",
    "SMALL",
    "SMALL_RECIPE",
    "ClassPredictor",
    "Fusion",
    "GridHead",
    "GridOutputs",
    "GridRCNN",
    "grid_rcnn_r50_fpn",
    "grid_rcnn_r101_fpn",
]

RECIPE = replace(
    fpn.RECIPE,
    steps=180_000,
    milestones=(120_000, 160_000),
    source="STVIR/Grid-R-CNN, 2x of the pyramid's schedule: COCO train2017",
)

SMALL: dict[str, Any] = {
    **fpn.SMALL,
    "head_width": 64,
    "convolutions": 3,
    "point_width": 6,
    "norm_groups": 9,
}
"""For `shapes`: that of the pyramid; the class head is half as wide, which pays for a grid branch of a tenth of the
channels."""


@dataclass(frozen=True)
class GridOutputs(TwoStageOutputs):
    """What the network says, points included.

    Attributes:
        found: Detections of each image in network pixels, their boxes still those of the regions; None given targets.
        grid_regions: `[N_i, 4]` of each image, those whose points are looked for.
        grid_objects: `[N_i, 4]`, the object of each, given targets.
        fused: `[sum N_i, points, size, size]`, logits of the points.
        unfused: The same from features that were not fused; None without targets.
    """

    found: tuple[Detections, ...] | None = None
    grid_regions: tuple[Tensor, ...] = ()
    grid_objects: tuple[Tensor, ...] | None = None
    fused: Tensor | None = None
    unfused: Tensor | None = None


class GridRCNN(FasterRCNN):
    """Faster R-CNN whose boxes come from points."""

    def __init__(
        self,
        num_classes: int,
        *,
        grid_pool: Pool,
        grid_head: GridHead,
        coder: GridCoder,
        jitter: float = 0.15,
        most_grids: int = 192,
        grid_weight: float = 15.0,
        **parts: Any,
    ) -> None:
        """Join the parts.

        Args:
            num_classes: Foreground classes.
            grid_pool: Features of regions, for the grid branch.
            grid_head: Maps of the points.
            coder: What they mean.
            jitter: Regions that the branch learns from are moved and resized by up to this share of their sides.
            most_grids: Most regions a step that it learns from.
            grid_weight: Of both of its losses.
            parts: As `FasterRCNN`.
        """
        super().__init__(num_classes, **parts)
        self.grid_pool, self.coder = grid_pool, coder
        self.grid_head = grid_head
        self.jitter, self.most_grids, self.grid_weight = jitter, most_grids, grid_weight

    def network(self, batch: Batch, targets: list[Target] | None = None) -> GridOutputs:
        """Classify regions; then look for the points of what is found or, given targets, of the positive samples."""
        both = super().network(batch, targets)
        if both.samples is None or targets is None:
            found = tuple(self.detect(both, batch))
            regions = tuple(part.boxes for part in found)
            with stage("points"):
                fused, _ = self.grid_head(self.grid_pool(both.maps, list(regions)))
            return GridOutputs(**vars(both), found=found, grid_regions=regions, fused=fused)
        positives = [(sample.labels > 0).nonzero()[:, 0] for sample in both.samples]
        total = sum(map(len, positives))
        kept = (torch.randperm(total, device=batch.pixels.device) < self.most_grids).split([*map(len, positives)])
        rows = [own[stays] for own, stays in zip(positives, kept, strict=True)]
        chosen = zip(both.samples, rows, batch.frames, strict=True)
        regions = tuple(self._moved(sample.boxes[own], frame.inner) for sample, own, frame in chosen)
        objects = tuple(
            target.boxes[sample.objects[own]] for target, sample, own in zip(targets, both.samples, rows, strict=True)
        )
        pooled = self.grid_pool(both.maps, list(regions))
        fused, unfused = self.grid_head(pooled)
        return GridOutputs(**vars(both), grid_regions=regions, grid_objects=objects, fused=fused, unfused=unfused)

    def _moved(self, boxes: Tensor, inner: tuple[int, int]) -> Tensor:
        """Move and resize regions at random, as much as detections are off; those left without an area stay."""
        sides = boxes[:, 2:] - boxes[:, :2]
        change = self.jitter * (2 * torch.rand_like(boxes) - 1)
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2 + change[:, :2] * sides
        half = sides * (1 + change[:, 2:]) / 2
        border = boxes.new_tensor(inner[::-1] * 2)
        moved = torch.minimum(torch.cat([middle - half, middle + half], 1).clamp(min=0), border)
        return torch.where((moved[:, 2:] - moved[:, :2] >= 1).all(1, keepdim=True), moved, boxes)

    def postprocess(self, outputs: TwoStageOutputs, batch: Batch) -> list[Detections]:
        """Boxes from points, in the pixels of each image; suppression came before, among the regions."""
        assert isinstance(outputs, GridOutputs)
        assert outputs.found is not None
        assert outputs.fused is not None
        heat = outputs.fused.float().sigmoid().split([len(found) for found in outputs.found])
        answers = []
        for frame, found, points in zip(batch.frames, outputs.found, heat, strict=True):
            boxes = frame.to_image(self.coder.decode(points, found.boxes))
            answers.append(Detections(boxes, found.scores, found.labels))
        return answers

    def losses(self, outputs: TwoStageOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Of proposals and classes, and the mean cross entropy of all cells, once fused and once not.

        Raises:
            ValueError: The outputs come from a network that was not given the targets.
        """
        losses = super().losses(outputs, batch, targets)
        # There are no offsets to learn.
        del losses["boxes"]
        assert isinstance(outputs, GridOutputs)
        assert outputs.grid_objects is not None
        wanted = self.coder.encode(torch.cat(outputs.grid_objects), torch.cat(outputs.grid_regions)).float()
        for name, logits in (("points", outputs.fused), ("points_unfused", outputs.unfused)):
            assert logits is not None
            apart = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="sum")
            losses[name] = self.grid_weight * apart / max(1, wanted.numel())
        return losses

    def head_for_cost(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The heads on fixed numbers of regions: the points of a hundred an image."""
        size = self.grid_pool.size
        pooled = maps[0].new_zeros((len(maps[0]) * self.roi_heads.limit, maps[0].shape[1], size, size))
        self.grid_head(pooled)
        return super().head_for_cost(maps)

    def class_channels(self) -> dict[str, ClassChannels]:
        """Scores of the classes behind that of the background; points belong to no class."""
        return {f"roi_heads.box_predictor.cls_score.{part}": ClassChannels(leading=1) for part in ("weight", "bias")}


class ClassPredictor(nn.Module):
    """Scores of the background and the classes; the box is that of the region."""

    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(inputs, num_classes + 1)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.zeros_(self.cls_score.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[R, inputs]` to logits `[R, C + 1]` and offsets `[R, 1, 4]`, which are 0."""
        return self.cls_score(x), x.new_zeros((len(x), 1, 4))


class Fusion(nn.Module):
    """Each point's features and what those of its neighbours along the grid's lines say of it (3.2)."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.width = width
        near = [[j for j in range(side**2) if _are_neighbours(i, j, side)] for i in range(side**2)]
        self.near = near
        self.hints = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(nn.Conv2d(width, width, 5, padding=2, groups=width), nn.Conv2d(width, width, 1))
                for _ in others
            )
            for others in near
        )

    def forward(self, own: Tensor, others: Tensor) -> Tensor:
        """Features of all points `[R, points width, h, w]`, and those that their neighbours speak with."""
        parts, speakers = own.split(self.width, 1), others.split(self.width, 1)
        fused = []
        for part, near, hints in zip(parts, self.near, self.hints, strict=True):
            for index, hint in zip(near, hints, strict=True):  # type: ignore[call-overload]
                part = part + hint(speakers[index])
            fused.append(part)
        return torch.cat(fused, 1)


def _are_neighbours(i: int, j: int, side: int) -> bool:
    return abs(i // side - j // side) + abs(i % side - j % side) == 1


class GridHead(nn.Module):
    """Features of regions to a map of logits for each point (3.1, 3.2)."""

    def __init__(self, inputs: int, side: int, *, convolutions: int, point_width: int, norm_groups: int) -> None:
        """Build with weights of the authors'.

        Args:
            inputs: Channels of the pooled features.
            side: Points along each side of the grid.
            convolutions: 3x3, the first at stride 2.
            point_width: Channels of each point.
            norm_groups: Of the normalisation after each convolution.
        """
        super().__init__()
        points = side**2
        width = points * point_width
        self.convs = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(width if index else inputs, width, 3, 1 if index else 2, 1),
                    nn.GroupNorm(norm_groups, width),
                    nn.ReLU(inplace=True),
                )
                for index in range(convolutions)
            )
        )
        self.first, self.second = Fusion(side, point_width), Fusion(side, point_width)
        self.deconv1 = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, groups=points)
        self.norm = nn.GroupNorm(points, width)
        self.deconv2 = nn.ConvTranspose2d(width, points, 4, stride=2, padding=1, groups=points)
        for layer in self.modules():
            if isinstance(layer, nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, std=0.001)
            elif isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        assert self.deconv2.bias is not None
        # At first, one cell in a hundred is a point.
        nn.init.constant_(self.deconv2.bias, -log(99))

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """`[R, C, s, s]` to logits `[R, points, 2 s, 2 s]`, from fused features and from those before."""
        x = self.convs(pooled)
        fused = self.second(x, self.first(x, x))
        return self._maps(fused), self._maps(x)

    def _maps(self, x: Tensor) -> Tensor:
        maps: Tensor = self.deconv2(self.norm(self.deconv1(x)).relu())
        return maps


def grid_rcnn_r50_fpn(
    num_classes: int,
    *,
    width: int = 256,
    canonical: float = 224.0,
    grid_pool: int = 14,
    side: int = 3,
    convolutions: int = 8,
    point_width: int = 64,
    norm_groups: int = 36,
    score_floor: float = 0.03,
    nms: float = 0.3,
    **changes: Any,
) -> GridRCNN:
    """Grid R-CNN on ResNet-50 and a feature pyramid.

    Args:
        num_classes: Foreground classes.
        width: Channels of the pyramid and of the proposal network.
        canonical: Regions of this side are pooled at stride 16.
        grid_pool: Cells along each side of a region for the grid branch, whose maps have twice as many.
        side: Points along each side of the grid; the paper tries 2, 3 and 4 (table 1).
        convolutions: Of the grid branch.
        point_width: Channels of each point.
        norm_groups: Of its normalisation.
        score_floor: A detection must score more than this.
        nms: Of two regions of one class that overlap by more, the lower-scoring goes.
        changes: As `faster_rcnn_r50_fpn`.
    """

    def join(num_classes: int, *, roi_heads: RoIHead, **parts: Any) -> GridRCNN:
        classes = ClassPredictor(roi_heads.box_predictor.cls_score.in_features, num_classes)  # type: ignore[union-attr,arg-type]
        return GridRCNN(
            num_classes,
            roi_heads=RoIHead(
                roi_heads.box_pool,
                roi_heads.box_head,
                classes,
                samples=roi_heads.samples,
                score_floor=score_floor,
                nms=nms,
                valid_range=roi_heads.valid_range,
            ),
            grid_pool=PyramidAlign((4, 8, 16, 32), grid_pool, canonical=canonical),
            grid_head=GridHead(
                width, side, convolutions=convolutions, point_width=point_width, norm_groups=norm_groups
            ),
            coder=GridCoder(side, 2 * grid_pool),
            **parts,
        )

    model = fpn.faster_rcnn_r50_fpn(num_classes, width=width, canonical=canonical, kind=join, **changes)
    assert isinstance(model, GridRCNN)
    return model


def grid_rcnn_r101_fpn(num_classes: int, **changes: Any) -> GridRCNN:
    """Grid R-CNN on ResNet-101 and a feature pyramid.

    Args:
        num_classes: Foreground classes.
        changes: As `grid_rcnn_r50_fpn`.
    """
    return grid_rcnn_r50_fpn(num_classes, **{"depth": 101, **changes})
