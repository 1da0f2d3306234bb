"""A split that many detectors look at in one session: its images are decoded once."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.datasets.dataset import Dataset
from ops.structures import Target

__all__ = ["keep_decoded"]

_LIMIT = 1 << 30


class _Decoded(Dataset):
    def __init__(self, dataset: Dataset, limit: int) -> None:
        self.__dict__.update(vars(dataset))
        self._inner, self._room = dataset, limit
        self._pixels: dict[int, Tensor] = {}

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        place = range(len(self))[index]
        pixels = self._pixels.get(place)
        if pixels is None or self._masks:
            image, target = self._inner[index]
            # A quarter of the room, and exact: a file holds bytes.
            found = (image * 255).round().to(torch.uint8)
            if found.numel() <= self._room and place not in self._pixels:
                self._room -= found.numel()
                self._pixels[place] = found
            return image, target
        stored = self._inner.target(place)
        return pixels.to(torch.float32).div_(255), stored[torch.arange(len(stored))]


def keep_decoded(dataset: Dataset, limit: int = _LIMIT) -> Dataset:
    """The same dataset, which remembers the pixels of images that it has read.

    Args:
        dataset: Any; one that decodes masks reads its files each time.
        limit: Most bytes that are kept; images beyond it are read each time.
    """
    return _Decoded(dataset, limit)
