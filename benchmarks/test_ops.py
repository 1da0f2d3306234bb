"""Operators that detectors spend their time in, beside what one would write without them."""

from __future__ import annotations

import pytest
import torch

from ops.nms import classwise_nms
from ops.pool import bottom_pool, left_pool, right_pool, top_pool


@pytest.fixture(autouse=True)
def only_measuring(measuring, threads):
    if not measuring:
        pytest.skip("measured only with --benchmark")


def test_classwise_nms(benchmark):
    generator = torch.Generator().manual_seed(0)
    corner = 300 * torch.rand((8732, 2), generator=generator)
    boxes = torch.cat([corner, corner + 20 + 100 * torch.rand((8732, 2), generator=generator)], 1)
    scores = torch.rand((8732, 20), generator=generator) ** 8
    kept = benchmark(classwise_nms, boxes, scores, score_floor=0.01, iou=0.45, limit=200, before_per_class=400)
    assert len(kept) == 200


POOLS = {"top": (top_pool, -2, True), "bottom": (bottom_pool, -2, False), "left": (left_pool, -1, True)}
POOLS["right"] = (right_pool, -1, False)


def by_cummax(x, dim, flipped):
    """What one would write without an operator of one's own."""
    return x.flip(dim).cummax(dim).values.flip(dim) if flipped else x.cummax(dim).values


@pytest.mark.parametrize("whose", ["ours", "cummax"])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous_format"])
@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "forward+backward"])
@pytest.mark.parametrize("name", POOLS)
def test_corner_pool(benchmark, device, name, gradient, layout, whose):
    """On the map of an input of 511 x 511; the hourglasses give channels_last."""
    benchmark.group = f"{name} pool, {'forward and backward' if gradient else 'forward'}, {layout}, {device}"
    pool, dim, flipped = POOLS[name]
    generator = torch.Generator().manual_seed(0)
    x, grad = (
        torch.randn((1, 128, 128, 128), generator=generator).contiguous(memory_format=getattr(torch, layout)).to(device)
        for _ in range(2)
    )
    x.requires_grad_(gradient)

    def run():
        out = pool(x) if whose == "ours" else by_cummax(x, dim, flipped)
        found = torch.autograd.grad(out, x, grad)[0] if gradient else out
        if x.is_cuda:
            torch.cuda.synchronize()
        return found

    assert benchmark(run).shape == x.shape
