"""What detectors that learn by `fit` share: the images they learn from, where they note how far they got, progress."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from rich.console import Console
from rich.progress import track
from torch import Tensor

from ops.structures import Target

__all__ = ["Images", "State", "tracked"]


class Images(Protocol):
    """What `fit` learns from, and what is timed."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, Target]: ...


class State(Protocol):
    """Where a training keeps what it needs to go on after an interruption."""

    def save(self, state: dict[str, Any], /) -> None:
        """Keep tensors, numbers and dicts of them in place of what was kept before."""

    def load(self) -> dict[str, Any] | None:
        """What was kept last."""


def tracked(indices: Iterable[int], description: str) -> Iterator[int]:
    """The indices of images, one by one, with progress on the standard error."""
    order = [int(index) for index in indices]
    yield from track(order, description=description, console=Console(stderr=True))
