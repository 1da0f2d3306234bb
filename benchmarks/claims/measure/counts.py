"""Level X: multiply-accumulates of the papers' architectures, part by part. Nothing is judged here."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from benchmarks.cost import NothingSuppressed
from ops.images import Batch, Frame
from zoo import build

__all__ = ["backbone_and_regions", "heads_of_maps", "looks_inside", "parts_of", "ssd_tail"]

_IMAGE = (600, 1000)
"""What the papers on regions make of a photograph."""


def parts_of(name: str, classes: int, size: tuple[int, int], **overrides: Any) -> Counter[str]:
    """Multiply-accumulates of each convolution and dense layer of a detector, by its name; one image of `size`."""
    with torch.device("meta"):
        model = build(name, classes, **overrides)
    model.to("meta").eval()
    found: Counter[str] = Counter()
    handles: list[RemovableHandle] = []
    for layer, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):

            def count(module: nn.Module, _: Any, out: Tensor, layer: str = layer) -> None:
                assert isinstance(module, nn.Conv2d | nn.Linear)
                found[layer] += out.numel() * module.weight[0].numel()

            handles.append(module.register_forward_hook(count))
    frame = Frame(size, size, (1.0, 1.0))
    with torch.no_grad(), NothingSuppressed():
        model.network_for_cost(Batch(torch.empty((1, 3, *size), device="meta"), (frame,)))
    for handle in handles:
        handle.remove()
    return found


def _sum(parts: Counter[str], *prefixes: str) -> int:
    return sum(count for name, count in parts.items() if name.startswith(prefixes))


def ssd_tail() -> dict[str, Any]:
    """SSD300 for VOC: the layers behind the backbone, with and without fc6 and fc7, and the heads."""
    parts = parts_of("ssd300_vgg16", 20, (300, 300))
    return {
        "total": parts.total(),
        "extras": _sum(parts, "extras."),
        "fc6_fc7": _sum(parts, "backbone.fc6", "backbone.fc7"),
        "heads": _sum(parts, "box_heads.", "class_heads."),
    }


def backbone_and_regions() -> dict[str, Any]:
    """What is shared, and what each region costs: VGG-16 as in Fast R-CNN, ResNet-101 with its last stage a region."""
    fast = parts_of("fast_rcnn_vgg16", 20, _IMAGE)
    split = parts_of("faster_rcnn_r101_c4", 80, _IMAGE)
    return {
        "vgg16": {"shared": _sum(fast, "backbone."), "region": _sum(fast, "roi_heads.") / 2000},
        "resnet101_split": {"shared": _sum(split, "backbone."), "region": _sum(split, "roi_heads.") / 1000},
    }


def heads_of_maps() -> dict[str, Any]:
    """R-FCN's maps and last stage beside a last stage a region, and Light-Head's thin maps at both its settings."""
    split = parts_of("faster_rcnn_r101_c4", 80, _IMAGE)
    found: dict[str, Any] = {"split_region": _sum(split, "roi_heads.") / 1000}
    for classes in (20, 80):
        parts = parts_of("rfcn_r101", classes, _IMAGE)
        found[f"rfcn_maps_{classes}"] = _sum(parts, "roi_heads.box_pool")
        found["rfcn_last_stage"] = _sum(parts, "backbone.res5")
    found["light_head_large"] = _sum(parts_of("light_head_rcnn_r101", 80, _IMAGE), "roi_heads.box_pool")
    small = parts_of("light_head_rcnn_r101", 80, _IMAGE, middle=64)
    found["light_head_small"] = _sum(small, "roi_heads.box_pool")
    return found


def looks_inside() -> dict[str, Any]:
    """What a region costs Faster R-CNN with FPN behind the pooling, for COCO."""
    return {"region": _sum(parts_of("faster_rcnn_r50_fpn", 80, _IMAGE), "roi_heads.") / 1000}
