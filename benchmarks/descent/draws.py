"""Chance in a training: seeds by purpose and step, and the sequence of images that they make."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from benchmarks.datasets import Dataset
from ops.sample import seed_of
from ops.structures import Target
from zoo.detector import Recipe

__all__ = ["MODEL", "SIZE", "Draws", "collate", "seed_of_start"]

AUGMENT, MODEL, ORDER, START, SIZE = 1, 2, 3, 4, 5
"""Streams of chance that never share a seed."""


def seed_of_start(seed: int) -> int:
    """Of the weights that a training with this seed begins with."""
    return seed_of(seed, START)


class Draws(TorchDataset[tuple[Tensor, Target]]):
    """The endless, shuffled, augmented sequence of training images: position -> (image, Target)."""

    def __init__(self, dataset: Dataset, recipe: Recipe, seed: int) -> None:
        self.dataset, self.recipe, self.seed = dataset, recipe, seed
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)

    def index(self, position: int) -> int:
        """Which image stands at `position`: a new permutation each epoch."""
        epoch, rest = divmod(position, len(self.dataset))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, ORDER, epoch))
            self._epoch = epoch
            self._order = torch.randperm(len(self.dataset), generator=generator).numpy()
        return int(self._order[rest])

    def __getitem__(self, position: int) -> tuple[Tensor, Target]:
        image, target = self.dataset[self.index(position)]
        if self.recipe.augment is None:
            return image, target
        with torch.random.fork_rng(devices=[]):
            # `torch.manual_seed` would also write down the call stack for each device that there is not.
            torch.default_generator.manual_seed(seed_of(self.seed, AUGMENT, position))
            return self.recipe.augment(image, target)


def collate(samples: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    """A batch as detectors take it: images differ in size, so that they are not stacked."""
    return [image for image, _ in samples], [target for _, target in samples]
