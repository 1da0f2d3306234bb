"""Level S: what a step of training costs by the images in its batch. Returns numbers, and judges nothing."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.claims.measure.turns import Timed
from benchmarks.datasets import Dataset
from benchmarks.descent import optimizer_for
from benchmarks.latency import ForeignLoad, fixed_threads, interleaved
from zoo import CATALOG, build

__all__ = ["SIZES", "step_costs"]

SIZES = (1, 2, 4, 8, 16, 32)
"""Images in a batch."""

_DETECTOR, _ROUNDS = "retinanet_r50_fpn", 30


def step_costs(dataset: Dataset, _: int) -> Timed:
    """Times of whole steps of the small RetinaNet on one core: forward, back, and the weights moved.

    Each size takes the first of the same images, as many as it needs, in float32 and without augmentation; one network
    learns from all of them by turns.
    """
    recipe = CATALOG[_DETECTOR].small_recipe
    assert recipe is not None
    torch.manual_seed(0)
    model = build(_DETECTOR, len(dataset.class_names), small=True).train()
    optimizer = optimizer_for(model, recipe)
    pictures, targets = map(list, zip(*(dataset[index] for index in range(max(SIZES))), strict=True))
    samples: dict[int, list[float]] = {size: [] for size in SIZES}

    def step(size: int) -> float:
        start = time.perf_counter()
        losses = model(pictures[:size], targets[:size])
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        return time.perf_counter() - start

    with fixed_threads(1):
        for size in SIZES:
            step(size)
        load = ForeignLoad()
        for order in interleaved(SIZES, _ROUNDS, 1, "steps"):
            for size in order:
                samples[size].append(round(step(size), 9))
        foreign = load.cores()
    protocol: dict[str, Any] = {
        "threads": 1,
        "rounds": _ROUNDS,
        "order": "size by size, the first one changing",
        "from": "decoded images and boxes in host memory",
        "to": "weights moved",
    }
    about = {"sizes": list(SIZES), "foreign_load": foreign}
    return Timed(about, {f"{_DETECTOR} batch {size}": values for size, values in samples.items()}, protocol)
