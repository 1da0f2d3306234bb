"""Level S: what it costs to look inside the boxes of a CornerNet, by regions or by the centre. Returns numbers, and
judges nothing."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from benchmarks.claims.measure.turns import Rival, Timed, timed_by_turns
from benchmarks.datasets import Dataset
from benchmarks.evaluate import find_subject
from benchmarks.provenance import weights_id
from ops.images import Batch
from ops.structures import Detections, Target
from zoo.detector import Detector
from zoo.one_stage.cornernet import Candidates, CornerNet, KeypointMaps
from zoo.parts.roi_head import BoxHead, BoxPredictor

__all__ = ["COUNTS", "Looking", "inside_costs"]

COUNTS = (100, 1_000)
"""Most boxes of an image that are looked into; CornerNet pairs no more than the larger."""

_CORNERS = "cornernet511_hg52"
_CHECKED = ("centernet511_hg52_cre", "centernet511_hg52")
_POOL, _WIDTH = 5, 128
"""Cells along a region's side and channels of the layers behind, as in the small Faster R-CNN with FPN."""
_IMAGES, _ROUNDS = 60, 3


class Looking(Detector):
    """A CornerNet, and behind it a second stage that pools its best boxes and says once more what they hold.

    The second stage is untrained: it costs what a trained one would, and its scores mean nothing, so that those of the
    corners stay and duplicates are suppressed as without it.

    Args:
        corners: The first stage.
        regions: Most boxes of an image that are pooled, the best ones.
    """

    def __init__(self, corners: CornerNet, regions: int) -> None:
        super().__init__(corners.num_classes)
        self.corners, self.regions = corners, regions
        self.features: Tensor | None = None
        self.looked: list[int] = []
        last = corners.cnvs[-1]
        width = next(layer for layer in last.modules() if isinstance(layer, nn.Conv2d)).out_channels
        self.head = nn.Sequential(BoxHead(width * _POOL**2, _WIDTH), BoxPredictor(_WIDTH, corners.num_classes))
        last.register_forward_hook(self._remember)

    def _remember(self, _: nn.Module, inputs: tuple[Tensor, ...], features: Tensor) -> None:
        self.features = features

    def preprocess(self, images: list[Tensor]) -> Batch:
        """As the CornerNet does."""
        return self.corners.preprocess(images)

    def network(self, batch: Batch, targets: list[Target] | None = None) -> list[dict[str, KeypointMaps]]:
        """As the CornerNet does."""
        return self.corners.network(batch, targets)

    def postprocess(self, outputs: list[dict[str, KeypointMaps]], batch: Batch) -> list[Detections]:
        """Pairs of corners, the best of them looked into, and then suppression."""
        found = self.corners.candidates(outputs[-1], batch)
        best = [pairs.only(pairs.scores.topk(min(self.regions, len(pairs.scores))).indices) for pairs in found]
        self.look(best, batch)
        return [self.corners.settle(pairs) for pairs in found]

    def look(self, pairs: list[Candidates], batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits `[N, C + 1]` and offsets `[N, C + 1, 4]` of the boxes of all images."""
        assert self.features is not None
        # Behind the images may come their mirror images.
        maps = self.features[: len(pairs)].float()
        boxes = [frame.to_network(one.boxes) for frame, one in zip(batch.frames, pairs, strict=True)]
        self.looked += map(len, boxes)
        pooled = roi_align(maps, boxes, _POOL, maps.shape[-1] / batch.size[1], sampling_ratio=2, aligned=True)
        logits, offsets = self.head(pooled)
        return logits, offsets


def inside_costs(dataset: Dataset, images: int) -> Timed:
    """Times of the small CornerNet-52 alone, with its best boxes pooled, and with the centre checked: the check alone
    (`cre`), and with all of CenterNet's pooling.

    All have the weights that ship; the second stage has random ones.
    """
    weights, models = {}, dict[str, Detector]()
    for name in (_CORNERS, *_CHECKED):
        subject = find_subject(name, dataset.name, len(dataset.class_names))
        weights[name], models[name] = weights_id(subject.weights).model_dump(), subject.model
    looking: dict[int, Looking] = {}
    for count in COUNTS:
        # One of its own for each, so that no hook of another costs it time.
        own = find_subject(_CORNERS, dataset.name, len(dataset.class_names)).model
        assert isinstance(own, CornerNet)
        torch.manual_seed(0)
        looking[count] = Looking(own, count).eval()
        models[f"{_CORNERS} {count}"] = looking[count]
    pictures = [dataset[index][0] for index in range(min(images, _IMAGES, len(dataset)))]
    rivals = [Rival(name, model) for name, model in models.items()]
    timed = timed_by_turns(rivals, pictures, _ROUNDS, ("end_to_end",))
    about: dict[str, Any] = {
        "regions": {str(count): statistics.fmean(one.looked) for count, one in looking.items()},
        "weights": weights,
    }
    return replace(timed, metrics={**about, **timed.metrics})
