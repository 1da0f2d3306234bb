"""MegDet, from Chao Peng, Tete Xiao, Zeming Li, Yuning Jiang, Xiangyu Zhang, Kai Jia, Gang Yu and Jian Sun, "MegDet: A
Large Mini-Batch Object Detector" (CVPR 2018, https://arxiv.org/abs/1711.07240).

A way to train rather than a network: Faster R-CNN on a feature pyramid in batches of 256 images on many devices. The
learning rate grows with the batch, is warmed up, and batch normalisation, which other detectors freeze because a
device holds two images, learns from statistics over the devices.

The authors released no code. What the paper leaves open, or what we could not establish, is filled in so: the schedule
is Detectron's for 16 images (about 12 passes over COCO), counted in images; warm-up keeps its number of steps and
therefore spans more images the larger the batch; it starts at Detectron's rate for 16 images, whatever the batch; and
the backbone is what is normalised, not the pyramid or the heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch.distributed as dist
from torch import Tensor, nn

from ops.images import Batch
from ops.structures import Target
from zoo.backbones.resnet import ResNet
from zoo.backbones.small import SmallNet
from zoo.detector import Recipe
from zoo.parts.fpn import FPN, BackboneWithFPN
from zoo.parts.sync_norm import SyncBatchNorm
from zoo.two_stage import fpn
from zoo.two_stage.fast_rcnn import TwoStageOutputs
from zoo.two_stage.faster_rcnn import FasterRCNN

__all__ = ["RECIPE", "SMALL", "SMALL_RECIPE", "MegDet", "large_batch", "megdet_r50_fpn"]


def large_batch(recipe: Recipe, batch: int) -> Recipe:
    """`recipe` for another batch, by the linear rule: k times the images a step, k times the rate, as many images.

    The gradient of k times as many images has a k-th of the variance, so that one step at k times the rate moves the
    weights with the variance of k steps (section 3.1). Warm-up starts where that of `recipe` does and takes as many
    steps (3.2). An average of the weights reaches back as many images.

    Args:
        recipe: For some batch.
        batch: Images a step.

    Raises:
        ValueError: The batch is not positive, or no step would be left.
    """
    if batch < 1 or round(recipe.steps * recipe.batch / batch) < 1:
        raise ValueError(f"a batch of {batch} images leaves no step of {recipe.steps} with {recipe.batch}")
    k = batch / recipe.batch
    return replace(
        recipe,
        batch=batch,
        steps=round(recipe.steps / k),
        lr=recipe.lr * k,
        milestones=tuple(round(step / k) for step in recipe.milestones),
        warmup_factor=recipe.warmup_factor / k,
        ema=None if recipe.ema is None else recipe.ema**k,
    )


RECIPE = replace(
    large_batch(fpn.RECIPE, 256),
    source="section 4 and Detectron's schedule, see zoo/two_stage/megdet.py: COCO train2017, 256 images on 128 GPUs",
)

SMALL: dict[str, Any] = fpn.SMALL
"""For `shapes`: that of the pyramid, its normalisation synchronised where there are several processes."""

SMALL_RECIPE = large_batch(fpn.SMALL_RECIPE, 32)
"""The idea is the batch: twice that of its siblings and half the steps, so that it sees as many images as they do."""


class MegDet(FasterRCNN):
    """Faster R-CNN whose second stage's losses are divided by the regions of all processes."""

    def losses(self, outputs: TwoStageOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Of both stages. Averaged over processes, they are those of the whole batch.

        Every process samples as many anchors; regions may run short in one of them.

        Raises:
            ValueError: The outputs come from a network that was not given the targets.
        """
        losses = super().losses(outputs, batch, targets)
        if not (dist.is_available() and dist.is_initialized()):
            return losses
        assert outputs.samples is not None
        own = losses["class"].new_tensor(sum(len(sample.boxes) for sample in outputs.samples))
        mean = own.clone()
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
        share = own / mean.clamp(min=1)
        return {name: value * share if name in ("class", "boxes") else value for name, value in losses.items()}


def megdet_r50_fpn(
    num_classes: int,
    *,
    backbone: Literal["resnet", "small"] = "resnet",
    trainable: int = 5,
    widths: Sequence[int] = (16, 24, 40, 64, 64),
    width: int = 256,
    **settings: Any,
) -> FasterRCNN:
    """MegDet's detector on ResNet-50; nothing of it is frozen.

    Args:
        num_classes: Foreground classes.
        backbone: ResNet, or the zoo's small network.
        trainable: How many of the five parts of the ResNet learn, counted from the end.
        widths: Channels of the small network.
        width: Channels of the pyramid and of the proposal network.
        settings: As `on_pyramid`.
    """
    if backbone == "resnet":
        body: ResNet | SmallNet = ResNet(50, trainable=trainable, norm=SyncBatchNorm)
    else:
        body = _synchronised(SmallNet(tuple(widths)))
    return fpn.on_pyramid(
        num_classes,
        BackboneWithFPN(body, FPN(body.channels, width)),
        [*body.strides, 2 * body.strides[-1]],
        kind=MegDet,
        width=width,
        **settings,
    )


def _synchronised(body: SmallNet) -> SmallNet:
    """Put synchronised normalisation in the place of the plain one, in place."""
    for module in list(body.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                norm = SyncBatchNorm(child.num_features)
                norm.load_state_dict(child.state_dict())
                setattr(module, name, norm)
    return body
