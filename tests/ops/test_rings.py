"""Pooling of rectangular rings, against RoI pooling and against pixels one by one."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import roi_pool

from ops.rings import ring_pool


def some_boxes(count: int = 30) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    corners = 120 * torch.rand(count, 2, generator=generator) - 20
    return torch.cat([corners, corners + 4 + 90 * torch.rand(count, 2, generator=generator)], 1)


def away(value: float) -> int:
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def slowly(x: Tensor, outer: list[float], inner: list[float], size: int, scale: float) -> Tensor:
    channels, height, width = x.shape
    left, top, right, bottom = (away(v * scale) for v in outer)
    a, b, c, d = (away(v * scale) for v in inner)
    wide, high = max(1, right - left + 1), max(1, bottom - top + 1)
    answer = torch.zeros(channels, size, size)
    for i in range(size):
        for j in range(size):
            rows = range(top + math.floor(i * high / size), top + math.ceil((i + 1) * high / size))
            columns = range(left + math.floor(j * wide / size), left + math.ceil((j + 1) * wide / size))
            pixels = [
                x[:, y, z]
                for y in rows
                for z in columns
                if 0 <= y < height and 0 <= z < width and not (b < y < d and a < z < c)
            ]
            if pixels:
                answer[:, i, j] = torch.stack(pixels).amax(0)
    return answer


def test_without_a_hole_it_is_roi_pooling() -> None:
    torch.manual_seed(0)
    x, boxes = torch.randn(3, 12, 14), some_boxes()
    middle = ((boxes[:, :2] + boxes[:, 2:]) / 2).repeat(1, 2)
    for size in (2, 5, 7):
        torch.testing.assert_close(
            ring_pool(x[None], [boxes], [middle], size, 1 / 8), roi_pool(x[None], [boxes], size, 1 / 8)
        )


def test_against_pixels() -> None:
    torch.manual_seed(0)
    x, outer = torch.randn(3, 12, 14), some_boxes()
    middle, reach = (outer[:, :2] + outer[:, 2:]) / 2, (outer[:, 2:] - outer[:, :2]) / 2
    for share in (0.3, 0.6, 0.9):
        inner = torch.cat([middle - share * reach, middle + share * reach], 1)
        found = ring_pool(x[None], [outer], [inner], 4, 1 / 4, most=1)
        expected = [slowly(x, a, b, 4, 1 / 4) for a, b in zip(outer.tolist(), inner.tolist(), strict=True)]
        torch.testing.assert_close(found, torch.stack(expected))
        assert torch.equal(found, ring_pool(x[None], [outer], [inner], 4, 1 / 4)), "in one go or region by region"


def test_what_is_inside_does_not_count() -> None:
    x = torch.zeros(1, 10, 10)
    x[0, 4:6, 4:6] = 5.0
    box, hole = torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([[3.0, 3, 6, 6]])
    assert ring_pool(x[None], [box], [hole], 1, 1.0).item() == 0
    x[0, 3, 4] = 2.0
    assert ring_pool(x[None], [box], [hole], 1, 1.0).item() == 2, "the hole's border belongs to the ring"


def test_gradient_goes_to_the_largest() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 6, 6, requires_grad=True)
    box, hole = torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([[1.0, 1, 4, 4]])
    ring_pool(x[None], [box], [hole], 1, 1.0).sum().backward()
    ring = x.detach().clone()
    ring[:, 2:4, 2:4] = -1
    expected = torch.zeros(2, 36)
    expected.scatter_(1, ring.flatten(1).argmax(1, keepdim=True), 1.0)
    assert x.grad is not None
    assert torch.equal(x.grad.flatten(1), expected)


def test_images_and_regions_keep_their_order() -> None:
    torch.manual_seed(0)
    x, outer = torch.randn(3, 2, 12, 14), some_boxes(9)
    parts = [outer[:4], outer[:0], outer[4:]]
    found = ring_pool(x, parts, [part * 0 for part in parts], 3, 1 / 8)
    torch.testing.assert_close(found, roi_pool(x, parts, 3, 1 / 8))


def test_no_regions() -> None:
    pooled = ring_pool(torch.rand(1, 2, 6, 6), [torch.zeros(0, 4)], [torch.zeros(0, 4)], 3, 1.0)
    assert pooled.shape == (0, 2, 3, 3)
