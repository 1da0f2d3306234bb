"""A detector whose times are known because it makes them: it moves the clock that it is measured by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ops.images import Batch, stack, warp
from ops.structures import Detections, Target
from zoo.detector import Detector, stage

Cost = Callable[[Tensor, int], float]
"""Seconds from the first image of a call and the number of calls before it."""


class Clock:
    """Stands still but for `sleep`, and for what it takes to read it."""

    def __init__(self, reading: float = 0.0) -> None:
        self.now = 0.0
        self.reading = reading

    def __call__(self) -> float:
        self.now += self.reading
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Images:
    """Image `i` is `8 + i` pixels high, so that a test can tell which one a call was given."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return torch.zeros((3, 8 + index, 8)), Target(torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64))


def steadily(seconds: float) -> Cost:
    return lambda image, turn: seconds


class Fake(Detector):
    """Takes 2, 8 and 4 ms unless told otherwise, and writes down what it was called with.

    Answers one box, as high as the image is.
    """

    def __init__(self, clock: Clock, **costs: Cost) -> None:
        super().__init__(num_classes=1)
        self.clock = clock
        self.costs: Mapping[str, Cost] = {
            "preprocess": steadily(0.002),
            "network": steadily(0.008),
            "postprocess": steadily(0.004),
            **costs,
        }
        self.seen: list[list[int]] = []
        self.states: set[tuple[bool, bool, int]] = set()
        self._image = torch.zeros(0)

    def _take(self, part: str) -> None:
        self.clock.sleep(self.costs[part](self._image, len(self.seen) - 1))

    def preprocess(self, images: list[Tensor]) -> Batch:
        self._image = images[0]
        self.seen.append([int(image.shape[1]) - 8 for image in images])
        self._take("preprocess")
        return stack([warp(image, (8, 8)) for image in images])

    def network(self, batch: Batch, targets: list[Target] | None = None) -> Tensor:
        self.states.add((self.training, torch.is_inference_mode_enabled(), torch.get_num_threads()))
        if "proposals" in self.costs:
            for _ in range(2):
                with stage("proposals"), stage("sorting"):
                    self._take("proposals")
        self._take("network")
        return batch.pixels

    def postprocess(self, outputs: Any, batch: Batch) -> list[Detections]:
        self._take("postprocess")
        return [
            Detections(torch.tensor([[0.0, 0.0, 8.0, 8.0 + index]]), torch.ones(1), torch.zeros(1, dtype=torch.int64))
            for index in self.seen[-1]
        ]
