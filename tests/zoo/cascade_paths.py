"""The two ways through a cascade: window by window in machine code, and stage by stage in tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def assert_decided_alike(model: Any, sums: Any, starts: Tensor, stages: int, beside: Tensor | None = None) -> None:
    """`beside` is what the weak classifiers need of a window besides its place; every number of stages must occur."""
    passed, margins = model.cascades.judge(0, sums, starts, stages)
    beside = margins if beside is None else beside
    alive, count, last = torch.arange(len(starts)), torch.zeros_like(passed), torch.zeros_like(margins)
    for rows, limit in model.cascades.stages(0):
        total = model.cascades.weak.votes(0, rows, sums, starts[alive], beside[alive])
        last[alive] = total - limit
        alive = alive[total >= limit]
        count[alive] += 1
    assert len(passed.unique()) == stages + 1
    assert torch.equal(passed, count)
    torch.testing.assert_close(margins, last, rtol=0, atol=1e-12)
