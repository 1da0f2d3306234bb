"""Level F and S: counts over the true boxes of real photographs, and of `shapes`. No network is run or trained.

Boxes are taken as a detector sees them: warped to its square input. All objects count, VOC's difficult ones too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from benchmarks.datasets import DatasetError, cache_folder, open_dataset
from benchmarks.datasets.voc import CLASS_NAMES, ground_truth
from benchmarks.provenance import dataset_id
from benchmarks.results import DatasetId
from ops.anchors import centred_shapes, grid_anchors, pyramid_shapes
from ops.coders import CenterSizeCoder
from ops.match import multibox_match, threshold_match

__all__ = [
    "SOURCES",
    "Boxes",
    "coverage",
    "crowding",
    "imbalance",
    "levels",
    "offsets",
    "open_boxes",
    "overlap_with_another",
    "shared_cells",
]

SOURCES = ("voc 2007_test", "bccd test", "shapes test", "shapes crowd")
"""Data sets whose boxes are counted."""

_STRIDES = (8, 16, 32, 64)
"""Of the levels of RefineDet, whatever its input."""


@dataclass(frozen=True)
class Boxes:
    """The objects of a split.

    Attributes:
        id: What a Record says of it.
        sizes: `(H, W)` of each image.
        boxes: `[M, 4]` of each image, in its pixels.
        labels: int64 `[M]` of each image.
    """

    id: DatasetId
    sizes: list[tuple[int, int]]
    boxes: list[Tensor]
    labels: list[Tensor]

    def warped(self, side: int, images: int | None = None) -> Iterator[Tensor]:
        """Boxes of each image with objects, as they lie in a square input."""
        for (height, width), boxes in zip(self.sizes[:images], self.boxes[:images], strict=True):
            if len(boxes):
                yield boxes * torch.tensor([side / width, side / height] * 2)


def open_boxes(source: str) -> Boxes | None:
    """The objects of one of `SOURCES`; None where the data are not there. VOC's images are not needed."""
    name, _, split = source.partition(" ")
    if name == "voc":
        truth = _voc(split)
        if truth is None:
            return None
        content = json.dumps([truth["images"], truth["annotations"]], sort_keys=True).encode()
        fingerprint, images, objects = hashlib.sha256(content).hexdigest(), truth["images"], truth["annotations"]
        about = DatasetId(name=name, split=split, fingerprint=fingerprint, images=len(images), objects=len(objects))
    else:
        try:
            dataset = open_dataset(name, split)
        except DatasetError:
            return None
        truth, about = dataset.coco(), dataset_id(dataset)
    boxes: dict[int, list[list[float]]] = {image["id"]: [] for image in truth["images"]}
    labels: dict[int, list[int]] = {image["id"]: [] for image in truth["images"]}
    for thing in truth["annotations"]:
        if not thing["iscrowd"]:
            x, y, width, height = thing["bbox"]
            boxes[thing["image_id"]].append([x, y, x + width, y + height])
            labels[thing["image_id"]].append(thing["category_id"])
    return Boxes(
        about,
        [(image["height"], image["width"]) for image in truth["images"]],
        [torch.tensor(boxes[image["id"]], dtype=torch.float32).reshape(-1, 4) for image in truth["images"]],
        [torch.tensor(labels[image["id"]], dtype=torch.int64) for image in truth["images"]],
    )


def _voc(split: str) -> dict[str, Any] | None:
    """VOC's truth: from a COCO JSON of it (`voc2007_gt/instances_voc2007_test.json`), or from VOC's own files."""
    root = Path(os.environ.get("DETECTOR_ZOO_DATA") or cache_folder()).expanduser()
    year, _, part = split.partition("_")
    file = root / f"voc{year}_gt" / f"instances_voc{year}_{part}.json"
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    folder = root / "voc"
    return ground_truth(split, folder, CLASS_NAMES)[0] if folder.is_dir() else None


def _tiled(side: int, ratios: tuple[float, ...], times: tuple[float, ...] = (1.0,), scale: float = 4.0) -> Tensor:
    """RefineDet's design: at strides 8 to 64, anchors of `scale` strides a side, of some ratios and further sizes."""
    levels = []
    for stride in _STRIDES:
        sizes = [
            (scale * by * stride * ratio**0.5, scale * by * stride / ratio**0.5) for by in times for ratio in ratios
        ]
        levels.append(grid_anchors(centred_shapes(sizes), (side // stride,) * 2, (stride, stride)))
    return torch.cat(levels)


def _ssd(name: str) -> Tensor:
    from zoo import build

    with torch.random.fork_rng():
        model: Any = build(name, 20)
    priors: Tensor = model.priors
    return priors


def _best(found: Boxes, side: int, anchors: Tensor) -> Tensor:
    """Each object's largest IoU with any anchor."""
    every = torch.cat(list(found.warped(side)))
    return torch.cat([box_iou(rows, anchors).amax(1) for rows in every.split(256)])


def coverage(found: Boxes) -> dict[str, Any]:
    """Share of objects whose best anchor overlaps them by 0.5 and by 0.7, for sets of anchors."""
    usual = (1.0, 2.0, 0.5)
    sets = {
        "one shape": (320, _tiled(320, (1.0,))),
        "RefineDet320": (320, _tiled(320, usual)),
        "five shapes": (320, _tiled(320, (*usual, 3.0, 1 / 3))),
        "five shapes, two sizes": (320, _tiled(320, (*usual, 3.0, 1 / 3), (1.0, 2**0.5))),
        "RefineDet320, sizes halved": (320, _tiled(320, usual, scale=2.0)),
        "RefineDet320, sizes doubled": (320, _tiled(320, usual, scale=8.0)),
        "RefineDet512": (512, _tiled(512, usual)),
        "SSD300": (300, _ssd("ssd300_vgg16")),
    }
    rows = {}
    for name, (side, anchors) in sets.items():
        best = _best(found, side, anchors)
        rows[name] = {"anchors": len(anchors), **{f"at_{t}": float((best >= t).float().mean()) for t in (0.5, 0.7)}}
    design = [rows[name] for name in ("one shape", "RefineDet320", "five shapes", "five shapes, two sizes")]
    rank = spearmanr([row["anchors"] for row in design], [row["at_0.7"] for row in design]).statistic
    return {"sets": rows, "spearman": float(rank)}


def imbalance(found: Boxes, images: int = 500) -> dict[str, Any]:
    """Negatives over positives an image after matching, before any sampling, and how their ratio swings by batch."""
    designs = {
        "SSD300": (300, _ssd("ssd300_vgg16"), False),
        "SSD512": (512, _ssd("ssd512_vgg16"), False),
        "RefineDet320": (320, _tiled(320, (1.0, 2.0, 0.5)), False),
        "RetinaNet, 512 pixels": (512, _retinanet(512), True),
    }
    rows: dict[str, Any] = {}
    for name, (side, anchors, thresholds) in designs.items():
        counts = []
        for boxes in found.warped(side, images):
            iou = box_iou(boxes, anchors)
            if thresholds:
                matches = threshold_match(iou, 0.4, 0.5, rescue=True)
                counts.append((int((matches >= 0).sum()), int((matches == -1).sum())))
            else:
                matches = multibox_match(iou)
                negative = (matches < 0) & (iou.amax(0) < 0.5)
                counts.append((int((matches >= 0).sum()), int(negative.sum())))
        table = np.array(counts, dtype=np.float64)
        ratio = table[:, 1] / np.maximum(table[:, 0], 1)
        rows[name] = {"anchors": len(anchors), "median": float(np.median(ratio)), **_swing(table)}
    return {"designs": rows, "images": min(images, len(found.boxes))}


def _swing(table: np.ndarray) -> dict[str, Any]:
    """Coefficient of variation of positives over negatives, over batches of images drawn at random."""
    rng = np.random.default_rng(0)
    sizes = (2, 4, 8, 16, 32)
    variation = []
    for size in sizes:
        drawn = table[rng.integers(len(table), size=(4_000, size))].sum(1)
        share = drawn[:, 0] / drawn[:, 1]
        variation.append(float(share.std() / share.mean()))
    slope = float(np.polyfit(np.log(sizes), np.log(variation), 1)[0])
    return {"variation": dict(zip(map(str, sizes), variation, strict=True)), "slope": slope}


def _retinanet(side: int) -> Tensor:
    sizes = [[base * 2 ** (octave / 3) for octave in range(3)] for base in (32, 64, 128, 256, 512)]
    levels = []
    for stride, level in zip((8, 16, 32, 64, 128), sizes, strict=True):
        levels.append(grid_anchors(pyramid_shapes(level), (-(-side // stride),) * 2, (stride, stride), 0.0))
    return torch.cat(levels)


def shared_cells(found: Boxes, grid: int = 7) -> dict[str, Any]:
    """Share of objects whose centre lies in the same cell of a grid over the image as another's."""
    shared = other = count = 0
    for (height, width), boxes, labels in zip(found.sizes, found.boxes, found.labels, strict=True):
        if not len(boxes):
            continue
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2 / torch.tensor([width, height]) * grid
        cells = middle.long().clamp(0, grid - 1) @ torch.tensor([1, grid])
        same = (cells[:, None] == cells) & ~torch.eye(len(cells), dtype=torch.bool)
        shared += int(same.any(1).sum())
        other += int((same & (labels[:, None] != labels)).any(1).sum())
        count += len(cells)
    return {"objects": count, "shared": shared / count, "with_another_class": other / count}


def overlap_with_another(boxes: Tensor, labels: Tensor) -> Tensor:
    """Of each object the largest IoU with another of its class `[G]`, 0 where there is none."""
    if not len(boxes):
        return torch.zeros(0)
    return (box_iou(boxes, boxes) * (labels[:, None] == labels)).fill_diagonal_(0).amax(1)


def crowding(found: Boxes) -> dict[str, Any]:
    """Share of objects with a neighbour of their class that overlaps them, and of those that suppression would lose."""
    count, over, lost = 0, {0.45: 0, 0.5: 0, 0.7: 0}, 0
    for boxes, labels in zip(found.boxes, found.labels, strict=True):
        largest = overlap_with_another(boxes, labels)
        count += len(boxes)
        for threshold in over:
            over[threshold] += int((largest > threshold).sum())
        lost += len(boxes) - len(batched_nms(boxes, torch.linspace(1, 0.5, len(boxes)), labels, 0.5))
    return {"objects": count, **{f"over_{t}": n / count for t, n in over.items()}, "lost_at_0.5": lost / count}


def offsets(found: Boxes, images: int = 500) -> dict[str, float]:
    """Mean absolute offset that regression is left to learn, over matched pairs, by shapes a cell."""
    coder = CenterSizeCoder()
    answer = {}
    designs = {
        1: _tiled(320, (1.0,)),
        3: _tiled(320, (1.0, 2.0, 0.5)),
        9: _tiled(320, (1.0, 2.0, 0.5), (1, 1.26, 1.59)),
    }
    for shapes, anchors in designs.items():
        sums, count = 0.0, 0
        for boxes in found.warped(320, images):
            matches = multibox_match(box_iou(boxes, anchors))
            rows = (matches >= 0).nonzero()[:, 0]
            coded = coder.encode(boxes[matches[rows]], anchors[rows])
            sums, count = sums + float(coded.abs().sum()), count + coded.numel()
        answer[str(shapes)] = sums / count
    return answer


def levels(found: Boxes, images: int = 500) -> dict[str, float]:
    """Median side of the objects that each level of SSD300 learns, in pixels of its input, the finest level first."""
    anchors = _ssd("ssd300_vgg16")
    bounds = np.cumsum([4 * 38**2, 6 * 19**2, 6 * 10**2, 6 * 5**2, 4 * 3**2, 4])
    sides: list[list[float]] = [[] for _ in bounds]
    for boxes in found.warped(300, images):
        matches = multibox_match(box_iou(boxes, anchors)).numpy()
        root = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
        rows = np.flatnonzero(matches >= 0)
        for row, level in zip(rows, np.searchsorted(bounds, rows, side="right"), strict=True):
            sides[level].append(float(root[matches[row]]))
    return {str(level + 1): float(np.median(own)) for level, own in enumerate(sides) if own}
