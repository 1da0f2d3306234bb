"""Several processes, on one machine or more, that `torchrun` starts to do one piece of work."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
import torch.distributed as dist

__all__ = ["Share", "join_processes"]

T = TypeVar("T")


def join_processes(device: str, backend: str | None = None) -> torch.device:
    """The device of this process; under `torchrun`, after joining the others.

    Args:
        device: Such as `cpu`, or `cuda` for that of the process's place on its machine.
        backend: By which they speak; by default `nccl` between GPUs, `gloo` else.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return torch.device(device)
    if not dist.is_initialized():
        dist.init_process_group(backend or ("nccl" if device == "cuda" else "gloo"))
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device("cpu")


@dataclass(frozen=True)
class Share:
    """This process's part of work on numbered items, of which each belongs to exactly one process.

    Attributes:
        rank: Which process this is, from 0.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def joined(cls) -> Self:
        """That of this process among those that have joined."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    def positions(self, total: int) -> range:
        """Which of so many items are this process's: none is done twice to fill up the last round."""
        return range(self.rank, total, self.count)

    def gather(self, own: Mapping[int, T], total: int) -> dict[int, T]:
        """What all processes found, by ascending position, in the first process; nothing in the others.

        Raises:
            RuntimeError: An item was left out, or done twice, or there are more than `total`.
        """
        parts: list[Mapping[int, T] | None] = [own]
        if self.count > 1:
            parts = [None] * self.count
            dist.gather_object(own, parts if self.rank == 0 else None)
        if self.rank:
            return {}
        done = Counter(position for part in parts for position in part or ())
        if wrong := sorted(position for position in {*done, *range(total)} if done[position] != (position < total)):
            raise RuntimeError(
                f"item {wrong[0]} of {total} was done {done[wrong[0]]} times by {self.count} processes; do all of them "
                "see the same data?"
            )
        whole = {position: value for part in parts for position, value in (part or {}).items()}
        return dict(sorted(whole.items()))

    def tell(self, value: T | None) -> T:
        """What the first process gives, in all of them."""
        told = [value]
        if self.count > 1:
            dist.broadcast_object_list(told)
        assert told[0] is not None
        return told[0]
