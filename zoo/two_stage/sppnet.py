"""SPPnet for detection, from Kaiming He, Xiangyu Zhang, Shaoqing Ren and Jian Sun, "Spatial Pyramid Pooling in Deep
Convolutional Networks for Visual Recognition" (ECCV 2014, https://arxiv.org/abs/1406.4729), section 4.

R-CNN runs its convolutions once for each of 2,000 overlapping regions; SPPnet runs them once over the image. A region's
window on the last map is divided into 6 x 6, 3 x 3, 2 x 2 and 1 x 1 parts, and the largest value of each part describes
the region: 50 numbers a channel, whatever the region's shape. The rest is R-CNN's: two fully connected layers, SVMs
with hard negatives, box regressors over the pooled features, trained in three stages of which only the first is
gradient descent, over the fully connected layers alone.

Constants are those of the authors' release (ShaoqingRen/SPP_net). What we do otherwise: boxes are continuous. The
middle of the five scales is the paper's 864 (Fast R-CNN reports it too; the released script has 874), and a region goes
to the scale at which its area is nearest 224 x 224, as the paper says. The release reads how far a cell reaches from a
file of settings that it does not hold: 6.5 pixels is the value of an older file in it. A window's pixels are counted
from 0 here: its first cell is `floor((x - first + reach) / stride + 0.5)`, its last one
`ceil((x - first - reach) / stride - 0.5)`. And see `rcnn`.

The small size has one scale, and a map of stride 8. It has no ImageNet to learn convolutions from, so that fine-tuning
goes through the pooling down to the pixels, as later in Fast R-CNN, and learns from as many regions of an image as the
small Fast R-CNN: from 8, as R-CNN's enlarged crops do, it learned nothing that its SVMs could tell apart (9.0 AP on
`shapes`). It sees as many images as every small detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.ops import roi_pool

from ops.images import Batch, resize_short_side, stack
from ops.proposals import SMALL_SEARCH, SelectiveSearch
from zoo.backbones.small import SmallNet
from zoo.backbones.zf import ZF5
from zoo.parts.region_fit import RegionTraining
from zoo.two_stage import rcnn
from zoo.two_stage.rcnn import RCNN

__all__ = ["RECIPE", "SMALL", "SMALL_RECIPE", "SPPNet", "map_windows", "pyramid_pool", "sppnet_zf5"]

RECIPE = replace(
    rcnn.RECIPE,
    steps=90_000,
    milestones=(30_000, 60_000),
    source="SPP_net, pascal_finetune_fc_spm_solver: VOC 2007 trainval, 128 regions a step",
)
"""Of the first stage of `fit`."""

SMALL_RECIPE = rcnn.SMALL_RECIPE

SMALL: dict[str, Any] = {
    "backbone": "small",
    "scales": (160,),
    "longest": 160,
    "head_width": 96,
    "dropout": 0.0,
    "min_side": SMALL_SEARCH.min_side,
    "search_scales": SMALL_SEARCH.scales,
    "min_segment": SMALL_SEARCH.min_segment,
    "objects": 12,
    "samples": 48,
    "mined": 96,
    "regressed": 24,
    "std": 57.0,
}
"""For `shapes`: one scale, on which a map of stride 8 has 50 bins of 48 channels a region."""


def map_windows(boxes: Tensor, size: tuple[int, int], stride: int, first: float, reach: float) -> Tensor:
    """Cells of a map that each box covers, int64 `[R, 4]` `(x1, y1, x2, y2)`, the last ones included.

    Args:
        boxes: `[R, 4]` in pixels of the network's input.
        size: `(h, w)` of the map.
        stride: Pixels from cell to cell.
        first: Pixel, counted from 0, at the centre of the first cell.
        reach: Pixels by which a box may miss a cell's centre and still hold it: less than half a stride.
    """
    low = ((boxes[:, :2] - first + reach) / stride + 0.5).floor()
    # The last pixel of a continuous box is the one before its end.
    high = ((boxes[:, 2:] - 1 - first - reach) / stride - 0.5).ceil()
    middle = ((low + high) / 2).trunc()
    low, high = torch.where(low > high, middle, low), torch.where(low > high, middle, high)
    limit = boxes.new_tensor([size[1] - 1, size[0] - 1])
    return torch.cat([torch.minimum(low.clamp(min=0), limit), torch.minimum(high.clamp(min=0), limit)], 1).long()


def pyramid_pool(features: Tensor, windows: Tensor, divisions: Sequence[int]) -> Tensor:
    """Largest values `[R, C * bins]` of each part of windows `[R, 4]` on a map `[C, h, w]`.

    A level of `n` divides `s` cells into parts from `floor(i s / n)` to `ceil((i + 1) s / n)`, as RoI pooling of whole
    cells does. Level by level; in each, channels first, then rows and columns of parts.
    """
    rows = [windows.to(torch.float32)]
    levels = [roi_pool(features[None].float(), rows, division).flatten(1) for division in divisions]
    return torch.cat(levels, 1)


class SPPNet(RCNN):
    """R-CNN whose regions share the convolutions."""

    def __init__(
        self,
        num_classes: int,
        *,
        maps: nn.Module,
        stride: int,
        first: float,
        divisions: Sequence[int] = (6, 3, 2, 1),
        reach: float = 6.5,
        scales: Sequence[int] = (480, 576, 688, 864, 1200),
        longest: int = 2_000,
        expected: float = 224.0,
        **parts: Any,
    ) -> None:
        """Join the parts.

        Args:
            num_classes: Foreground classes.
            maps: Image `[B, 3, H, W]` to `[B, C, h, w]`.
            stride: Of the map, in pixels.
            first: Pixel, counted from 0, at the centre of its first cell.
            divisions: Parts along each side of a window, by level (4.2).
            reach: See `map_windows`.
            scales: Shorter sides to which an image is resized (4.1).
            longest: Longest side; a longer image is resized less.
            expected: Side of a square as large as a region should be at its scale.
            parts: As `RCNN`.
        """
        super().__init__(num_classes, features=maps, crop=0, context=0, **parts)
        self.stride, self.first, self.reach = stride, first, reach
        self.divisions, self.scales = tuple(divisions), tuple(scales)
        self.longest, self.expected = longest, expected

    def describe(self, batch: Batch, regions: list[Tensor]) -> Tensor:
        """Pooled features `[sum R_i, D]` of regions `[R_i, 4]` of each image."""
        images = [
            pixels[:, : frame.inner[0], : frame.inner[1]]
            for pixels, frame in zip(batch.pixels, batch.frames, strict=True)
        ]
        levels = [stack([resize_short_side(image, scale, self.longest) for image in images]) for scale in self.scales]
        maps = [self.features(level.pixels) for level in levels]
        described = []
        for index, boxes in enumerate(regions):
            best = self.best_scales(boxes, [level.frames[index].scale for level in levels])
            pooled = maps[0].new_zeros((len(boxes), maps[0].shape[1] * sum(n * n for n in self.divisions)))
            for number, level in enumerate(levels):
                rows = torch.nonzero(best == number).flatten()
                if not len(rows) and number:
                    continue
                frame = level.frames[index]
                # Of the padding beside a smaller image nothing is seen.
                inner = [-(-side // self.stride) for side in frame.inner]
                features = maps[number][index, :, : inner[0], : inner[1]]
                size = (int(features.shape[1]), int(features.shape[2]))
                windows = map_windows(frame.to_network(boxes[rows]), size, self.stride, self.first, self.reach)
                pooled = pooled.index_put((rows,), pyramid_pool(features, windows, self.divisions).to(pooled))
            described.append(pooled)
        return torch.cat(described)

    def best_scales(self, boxes: Tensor, scales: Sequence[tuple[float, float]]) -> Tensor:
        """`[R]`: the scale at which each region's area is nearest that of a square of `expected` pixels."""
        side = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6).prod(1).sqrt()
        factors = boxes.new_tensor(scales).prod(1).sqrt()
        # Sides compare by their ratio: half as large is as far off as twice as large.
        return (side[:, None] * factors / self.expected).log().abs().argmin(1)

    def network_for_cost(self, batch: Batch) -> Tensor:
        """Every scale of the image, and the fully connected layers on a fixed number of regions."""
        for scale in self.scales:
            self.features(stack([resize_short_side(image, scale, self.longest) for image in batch.pixels]).pixels)
        return self.svms(self.head(batch.pixels.new_empty((self.cost_regions, self.fc6.in_features))))


def sppnet_zf5(
    num_classes: int,
    *,
    backbone: Literal["zf5", "small"] = "zf5",
    widths: Sequence[int] = (16, 24, 48),
    divisions: Sequence[int] = (6, 3, 2, 1),
    scales: Sequence[int] = (480, 576, 688, 864, 1200),
    longest: int = 2_000,
    head_width: int = 4_096,
    dropout: float = 0.5,
    min_side: float = 20.0,
    search_scales: Sequence[int] = (),
    min_segment: int | None = None,
    most: int = 2_000,
    std: float = 1.0,
    steps: int | None = None,
    objects: int = 2,
    samples: int = 8,
    mined: int | None = None,
    regressed: int | None = None,
) -> SPPNet:
    """SPPnet on ZF-5, whose convolutions stay as ImageNet left them, or on the small network, all of which learns.

    Args:
        num_classes: Foreground classes.
        backbone: ZF-5 or the small network.
        widths: Channels of the small network.
        divisions: See `SPPNet`; so are `scales` and `longest`.
        scales: See there.
        longest: See there.
        head_width: Channels of fc6 and fc7.
        dropout: In both.
        min_side: Least side of a proposal in pixels of the image.
        search_scales: See `SelectiveSearch`, whose `scales` they are; so is `min_segment`.
        min_segment: See there.
        most: Proposals an image.
        std: What colours are divided by, after the mean is taken off.
        steps: Of fine-tuning; None for as many as the recipe has.
        objects: See `RegionTraining`; so are `samples`, `mined` and `regressed`.
        samples: See there.
        mined: See there.
        regressed: See there.
    """
    maps: nn.Module
    if backbone == "zf5":
        zf5 = ZF5().requires_grad_(False)
        maps, channels, geometry = zf5, zf5.channels, {"stride": zf5.stride, "first": zf5.first}
    else:
        body = SmallNet(tuple(widths))
        maps, channels = rcnn.Pool5(body, pooled=False), body.channels[-1]
        geometry = {"stride": body.strides[-1], "first": 0}
    recipe = SMALL_RECIPE if backbone == "small" else RECIPE
    return SPPNet(
        num_classes,
        maps=maps,
        **geometry,
        divisions=divisions,
        reach=6.5 * geometry["stride"] / 16,
        scales=scales,
        longest=longest,
        inputs=channels * sum(n * n for n in divisions),
        head_width=head_width,
        dropout=dropout,
        proposer=SelectiveSearch(min_side=min_side, scales=tuple(search_scales), min_segment=min_segment),
        most=most,
        std=std,
        training=RegionTraining(
            recipe if steps is None else replace(recipe, steps=steps),
            objects=objects,
            samples=samples,
            background=0.1,
            mined=mined,
            regressed=regressed,
            regressed_iou=0.5,
            penalty=4_000.0,
        ),
    )
