"""Level S: what a network's features know. Returns numbers, and judges nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torchvision.ops import roi_align

from benchmarks.claims.measure.running import seen
from benchmarks.datasets import Dataset, open_dataset
from benchmarks.evaluate import Subject
from benchmarks.metrics.matching import AREAS
from zoo.one_stage.refinedet import RefineDet
from zoo.one_stage.ssd import SSD

__all__ = ["told_apart"]


def told_apart(subject: Subject, dataset: Dataset, images: int) -> dict[str, Any]:
    """How many small objects in a hundred a linear classifier tells right from what the finest heads read of them.

    An object's features are the mean of the map over its box. The classifier learns from the images of `val`, which the
    network never saw; `commonest` is how many are right where the commonest class is always said.
    """
    learned, tested = (
        _objects(subject, *part) for part in ((open_dataset(dataset.name, "val"), 10**9), (dataset, images))
    )
    # Scaled, so that the one strength of regularisation is the same for all networks.
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5_000)).fit(*learned)
    return {
        "accuracy": 100 * float(classifier.score(*tested)),
        "commonest": 100 * float(np.bincount(tested[1]).max() / len(tested[1])),
        "channels": learned[0].shape[1],
        "learned_objects": len(learned[0]),
        "objects": len(tested[0]),
    }


def _objects(subject: Subject, dataset: Dataset, images: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features `[N, C]` and labels `[N]` of the small objects."""
    features, labels = [], []
    with _reading(subject) as read:
        for _, image, target in seen(dataset, images, f"{subject.name}: features of small objects"):
            batch = subject.model.preprocess([image])
            subject.model.network(batch)
            sides = target.boxes[:, 2:] - target.boxes[:, :2]
            small = target[~target.ignore & (sides.prod(1) < AREAS["S"][1])]
            boxes = batch.frames[0].to_network(small.boxes)
            scale = read[-1].shape[-1] / batch.size[1]
            pooled = roi_align(read.pop().float(), [boxes], 1, spatial_scale=scale, sampling_ratio=4, aligned=True)
            features.append(pooled.flatten(1).numpy())
            labels.append(small.labels.numpy())
    return np.concatenate(features), np.concatenate(labels)


@contextmanager
def _reading(subject: Subject) -> Iterator[list[Tensor]]:
    """Gives the maps that the finest of the heads for classes is given, one an image."""
    model = subject.model
    assert isinstance(model, SSD | RefineDet)
    heads = model.class_heads if isinstance(model, SSD) else model.odm.logits
    assert isinstance(heads, nn.ModuleList)
    read: list[Tensor] = []

    def remember(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        read.append(inputs[0])

    handle = heads[0].register_forward_pre_hook(remember)
    try:
        yield read
    finally:
        handle.remove()
