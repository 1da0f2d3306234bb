"""A bound on what a constructor allocates, for detectors that are built from what a file says of itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["Budget"]

_MAKERS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.randint, torch.randperm}
_RANGES = {torch.arange, torch.linspace, torch.eye}


class Budget(TorchFunctionMode):
    """While it is entered, tensors of more than so many numbers together are refused before there is memory for them.

    Counted is what torch's own factories are asked for, which is where modules get their parameters from.

    Args:
        numbers: All tensors together.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.left = numbers

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count, and go on.

        Raises:
            ValueError: The budget is spent.
        """
        kwargs = kwargs or {}
        if func in _MAKERS or func in _RANGES:
            self.left -= _numbers(func, args, kwargs)
            if self.left < 0:
                raise ValueError("they ask for more numbers than such a file can hold")
        return func(*args, **kwargs)


def _numbers(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """How many numbers a factory is asked for; of ranges the largest bound, which is no less where steps are whole."""
    values = [*args, *(kwargs[name] for name in ("size", "end", "steps", "n") if name in kwargs)]
    sides = [value for value in values if isinstance(value, Sequence) and not isinstance(value, str)]
    if sides and func not in _RANGES:
        return math.prod(int(side) for side in sides[0])
    whole = [int(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return max(map(abs, whole), default=0) if func in _RANGES else math.prod(whole)
