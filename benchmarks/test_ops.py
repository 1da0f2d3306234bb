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


@pytest.mark.parametrize("pool", [top_pool, bottom_pool, left_pool, right_pool], ids=lambda pool: pool.__name__)
def test_corner_pool(benchmark, pool):
    x = torch.randn((1, 128, 128, 128), generator=torch.Generator().manual_seed(0))
    assert benchmark(pool, x).shape == x.shape
