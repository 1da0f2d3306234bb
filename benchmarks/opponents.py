"""torchvision's own detectors beside ours: the same network twice, with the same weights.

Random weights detect nothing, or everything. So that both have about as much to do as on a photograph, the last layers
of random networks are scaled until a few objects an image stand out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from zoo import build, checkpoints
from zoo.detector import Detector
from zoo.one_stage import retinanet, ssd

__all__ = ["CLASSES", "OPPONENTS", "Pair", "generated_images", "pair_up"]

CLASSES = 90
"""Of torchvision's models for COCO, the background not counted."""


@dataclass(frozen=True)
class Pair:
    """One network twice.

    Attributes:
        name: In the catalog.
        ours: In evaluation mode.
        theirs: torchvision's, likewise.
        overrides: Constructor arguments of ours.
        weights: The file that both were loaded from; None for random ones.
        seed: Of the random ones.
    """

    name: str
    ours: Detector
    theirs: nn.Module
    overrides: dict[str, Any]
    weights: Path | None
    seed: int


def _ssd(sides: dict[str, int]) -> nn.Module:
    return detection.ssd300_vgg16(weights=None, weights_backbone=None)


def _resnet(**layers: Any) -> nn.Module:
    # As their published weights come: normalisation frozen.
    return resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3, **layers)


def _retinanet(sides: dict[str, int]) -> nn.Module:
    backbone = _resnet(returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return detection.RetinaNet(backbone, 1 + CLASSES, **sides)


def _faster_rcnn(sides: dict[str, int]) -> nn.Module:
    return detection.FasterRCNN(_resnet(), 1 + CLASSES, **sides)


def _mask_rcnn(sides: dict[str, int]) -> nn.Module:
    return detection.MaskRCNN(_resnet(), 1 + CLASSES, **sides)


@dataclass(frozen=True)
class _Opponent:
    """How torchvision's model of a catalog row is built, and which overrides make ours the same."""

    title: str
    build: Callable[[dict[str, int]], nn.Module]
    overrides: dict[str, Any]
    resizes: bool = True


OPPONENTS: dict[str, _Opponent] = {
    "ssd300_vgg16": _Opponent("ssd300_vgg16", _ssd, ssd.TORCHVISION, resizes=False),
    "retinanet_r50_fpn": _Opponent("retinanet_resnet50_fpn", _retinanet, retinanet.TORCHVISION),
    "faster_rcnn_r50_fpn": _Opponent("fasterrcnn_resnet50_fpn", _faster_rcnn, {}),
    "mask_rcnn_r50_fpn": _Opponent("maskrcnn_resnet50_fpn", _mask_rcnn, {}),
}
"""By catalog name."""


def pair_up(
    name: str,
    *,
    short: int | None = None,
    weights: Path | None = None,
    seed: int = 0,
    examples: Sequence[Tensor] = (),
) -> Pair:
    """Build ours and theirs with the same weights.

    Args:
        name: One of `OPPONENTS`.
        short: Shorter side of the input; None for the paper's. SSD has one size.
        weights: torchvision's checkpoint; None for random weights, scaled so that about as much is detected as in a
            photograph.
        seed: Of the random weights.
        examples: Images to scale random weights by; left out, a generated one.

    Raises:
        ValueError: There is no such opponent.
    """
    if name not in OPPONENTS:
        raise ValueError(f"torchvision has no {name} to compare with; choose from {', '.join(OPPONENTS)}")
    opponent = OPPONENTS[name]
    overrides, sides = dict(opponent.overrides), {}
    if short is not None and opponent.resizes:
        longest = short * 1_333 // 800
        overrides |= {"short": short, "longest": longest}
        sides = {"min_size": short, "max_size": longest}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        theirs = opponent.build(sides).eval()
        if weights is None:
            _enliven(theirs, list(examples) or generated_images(1, seed=1))
        elif opponent.resizes:
            # Trained so; the file does not say it.
            overrides["norm_eps"] = 0.0
            overwrite_eps(theirs, 0.0)
        ours = build(name, CLASSES, **overrides).eval()
    if weights is not None:
        checkpoints.load_into(ours, weights)
        theirs.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    else:
        ours.load_state_dict(theirs.state_dict())
    return Pair(name, ours, theirs, overrides, weights, seed)


@torch.no_grad()
def _enliven(model: nn.Module, images: list[Tensor]) -> None:
    """Scale the last layers of a random network of torchvision's so that a few objects an image stand out."""
    per_anchor = 1 + CLASSES
    if isinstance(model, detection.ssd.SSD):
        classes = list(model.head.classification_head.module_list)
        boxes = list(model.head.regression_head.module_list)
        _spread(model, images, {**dict.fromkeys(classes, 1.5), **dict.fromkeys(boxes, 0.5)})
        for layer in classes:
            layer.bias.view(-1, per_anchor)[:, 0] += 9.0
    elif isinstance(model, detection.RetinaNet):
        layer = model.head.classification_head.cls_logits
        logits = _spread(model, images, {layer: 1.0, model.head.regression_head.bbox_reg: 0.3})[layer]
        # 1,500 candidates an image, of 0.05 to 0.95: sigmoids nearer to 1 are equal but for rounding.
        surest = logits.flatten().topk(min(1_500 * len(images), logits.numel())).values
        factor = 6.0 / (surest[0] - surest[-1])
        layer.weight *= factor
        layer.bias.copy_((layer.bias - surest[-1]) * factor - 3.0)
        # Its first output stands for no class, as a trained network has learnt.
        layer.bias.view(-1, per_anchor)[:, 0] = -100.0
    elif isinstance(model, detection.FasterRCNN):
        _spread(model, images, {model.rpn.head.cls_logits: 2.0, model.rpn.head.bbox_pred: 0.3})
        predictor = model.roi_heads.box_predictor
        _spread(model, images, {predictor.cls_score: 1.5, predictor.bbox_pred: 0.7})
        predictor.cls_score.bias[0] += 7.0
        if isinstance(model, detection.MaskRCNN):
            _spread(model, images, {model.roi_heads.mask_predictor.mask_fcn_logits: 2.0})


def _spread(model: nn.Module, images: list[Tensor], deviations: dict[nn.Module, float]) -> dict[nn.Module, Tensor]:
    """Bring each channel of the layers' answers to mean 0 and the layer's standard deviation; give the answers."""
    seen: dict[nn.Module, list[Tensor]] = {layer: [] for layer in deviations}

    def keep(layer: nn.Module, _inputs: Any, answer: Tensor) -> None:
        seen[layer].append(answer if answer.ndim == 2 else answer.movedim(1, -1).flatten(0, -2))

    handles = [layer.register_forward_hook(keep) for layer in deviations]
    try:
        for image in images:
            model([image])
    finally:
        for handle in handles:
            handle.remove()
    spread_out = {}
    for layer, deviation in deviations.items():
        answers = torch.cat(seen[layer])
        weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
        if len(answers) > 1:
            centre, spread = answers.mean(0), answers.std(0)
        else:
            # SSD's coarsest map is a single cell, whose channels have no deviation of their own.
            centre, spread = answers.mean(), answers.std()
        factor = (deviation / spread).expand(len(bias))
        bias.copy_((bias - centre) * factor)
        weight.mul_(factor.reshape(-1, *[1] * (weight.ndim - 1)))
        spread_out[layer] = (answers - centre) * factor
    return spread_out


def generated_images(count: int, size: tuple[int, int] = (480, 640), seed: int = 0) -> list[Tensor]:
    """Smooth random images `[3, H, W]`, for where there are no photographs."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, size[0] // 16, size[1] // 16, generator=generator)
    return list(F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1))
