"""Level S: what a larger input costs a detector in time. Returns numbers, and judges nothing."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.claims.measure.turns import Rival, Timed, timed_by_turns
from benchmarks.datasets import Dataset
from benchmarks.evaluate import find_subject
from benchmarks.provenance import weights_id

__all__ = ["SIZES", "input_costs"]

SIZES = (128, 160, 192)
"""Sides of the input in pixels: the small detector's own, and a fifth less and more."""

_DETECTOR = "refinedet320_vgg16"
_IMAGES, _ROUNDS = 100, 3


def input_costs(dataset: Dataset, images: int) -> Timed:
    """Times of the small RefineDet320 at three inputs, with the weights that ship, trained at the middle one.

    The time of a forward pass does not depend on the weights; what suppression takes does, as it goes over what they
    find.
    """
    rivals = list[Rival]()
    for size in SIZES:
        subject = find_subject(_DETECTOR, dataset.name, len(dataset.class_names))
        subject.model.resize(size)
        rivals.append(Rival(f"{_DETECTOR} {size}", subject.model))
    pictures = [dataset[index][0] for index in range(min(images, _IMAGES, len(dataset)))]
    timed = timed_by_turns(rivals, pictures, _ROUNDS, ("network", "end_to_end"))
    about = {"sizes": list(SIZES), "weights": weights_id(subject.weights).model_dump()}
    return replace(timed, metrics={**about, **timed.metrics})
