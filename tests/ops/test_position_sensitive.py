"""Position-sensitive RoI pooling, plain and deformable, against worked numbers and against definitions as loops."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
import torchvision
from torch import Tensor

from ops.position_sensitive import deformable_ps_roi_pool, ps_roi_pool


def ramp(channels: int = 18, side: int = 6) -> Tensor:
    """`z[c, y, x] = 100 c + side y + x`."""
    return (
        100.0 * torch.arange(channels)[:, None, None]
        + side * torch.arange(side)[:, None]
        + torch.arange(side, dtype=torch.float32)
    )[None]


def inclusive(*corners: float) -> Tensor:
    """A box whose last pixel is counted in, as the released code writes it, in continuous corners."""
    return torch.tensor([corners], dtype=torch.float32) + torch.tensor([0.0, 0, 1, 1])


@pytest.mark.parametrize(
    ("box", "first"),
    [
        ((0, 0, 5, 5), [3.5, 105.5, 207.5, 315.5, 417.5, 519.5, 627.5, 729.5, 831.5]),
        ((1, 1, 4, 4), [10.5, 111.5, 212.5, 316.5, 417.5, 518.5, 622.5, 723.5, 824.5]),
    ],
)
def test_numbers_of_the_released_layer(box: tuple[float, ...], first: list[float]) -> None:
    pooled = ps_roi_pool(ramp(), [inclusive(*box)], 3, 1)
    assert pooled.shape == (1, 2, 3, 3)
    expected = torch.tensor(first)
    torch.testing.assert_close(pooled[0].flatten(1), torch.stack([expected, expected + 900]))
    assert pooled.mean((2, 3)).tolist() == [[417.5, 1317.5]]


def test_torchvisions_operator_is_another() -> None:
    regions = torch.tensor([[0.0, 1, 1, 4, 4]])
    theirs = torchvision.ops.ps_roi_pool(ramp(), regions, 3)
    assert theirs.mean((2, 3)).tolist() == [[414, 1314]]


def loops(maps: Tensor, boxes: list[Tensor], size: int, stride: int) -> Tensor:
    """Bin by bin, in fractions; also the gradient's definition, by autograd through single elements."""
    _, channels, height, width = maps.shape
    answers = []
    for image, rows in enumerate(boxes):
        for box in rows.tolist():
            x1, y1, x2, y2 = (Fraction(math.floor(Fraction(value) + Fraction(1, 2)), stride) for value in box)
            across, down = (max(side, Fraction(1, 10)) / size for side in (x2 - x1, y2 - y1))
            cells = []
            for c in range(channels // size**2):
                for i in range(size):
                    for j in range(size):
                        ys = range(max(0, math.floor(y1 + i * down)), min(height, math.ceil(y1 + (i + 1) * down)))
                        xs = range(max(0, math.floor(x1 + j * across)), min(width, math.ceil(x1 + (j + 1) * across)))
                        plane = maps[image, (c * size + i) * size + j].double()
                        values = [plane[y, x] for y in ys for x in xs]
                        cells.append(torch.stack(values).mean() if values else plane.new_zeros(()))
            answers.append(torch.stack(cells).view(-1, size, size))
    return torch.stack(answers).float()


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (2, 8), (4, 16)])
def test_against_loops(size: int, stride: int) -> None:
    torch.manual_seed(size)
    maps = torch.randn(2, 2 * size**2, 7, 9, requires_grad=True)
    extent = torch.tensor([9.0, 7, 9, 7]) * stride
    boxes = []
    for count in (5, 4):
        points = torch.rand(count, 2, 2) * 1.3 - 0.15  # beyond the border on all sides
        boxes.append(torch.cat([points.amin(1), points.amax(1)], 1) * extent)
    boxes[1] = torch.cat([boxes[1], extent[None] * torch.tensor([0.5, 0.5, 0.5, 0.5]), extent[None] + stride])
    boxes[1] = torch.cat([boxes[1], extent[None] * torch.tensor([0.0, 0, 1, 1])])
    ours = ps_roi_pool(maps, boxes, size, stride)
    theirs = loops(maps, boxes, size, stride)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert (theirs[-2] == 0).all(), "a region outside of the map"
    weight = torch.randn_like(ours)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weight).sum(), maps)[0],
        torch.autograd.grad((theirs * weight).sum(), maps)[0],
        atol=1e-5,
        rtol=0,
    )


def test_halves_round_up_and_last_row_counts() -> None:
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert ps_roi_pool(maps, [torch.tensor([[0.5, 2.5, 4, 4]])], 1, 1).item() == 14  # row 3, columns 1 to 3
    assert ps_roi_pool(maps, [torch.tensor([[3.0, 3, 4, 4]])], 1, 1).item() == 15


def test_large_values_keep_their_digits() -> None:
    """Means are taken directly: differences of running sums would lose digits at the far corner of a map."""
    maps = 1000 + torch.rand(1, 1, 60, 60)
    box = torch.tensor([[58.0, 58, 60, 60]])
    assert ps_roi_pool(maps, [box], 1, 1).item() == pytest.approx(maps[0, 0, 58:, 58:].double().mean().item(), abs=1e-4)


def test_bfloat16_no_regions_and_wrong_shapes() -> None:
    maps = torch.randn(2, 9, 5, 5, dtype=torch.bfloat16)
    pooled = ps_roi_pool(maps, [torch.zeros(0, 4), torch.tensor([[0.0, 0, 5, 5]])], 3, 1)
    assert (pooled.shape, pooled.dtype) == ((1, 1, 3, 3), torch.float32)
    assert ps_roi_pool(maps, [torch.zeros(0, 4)] * 2, 3, 1).shape == (0, 1, 3, 3)
    with pytest.raises(ValueError, match="9 channels"):
        ps_roi_pool(maps, [torch.zeros(0, 4)] * 2, 2, 1)
    with pytest.raises(ValueError, match="boxes of 1 images for maps of 2"):
        ps_roi_pool(maps, [torch.zeros(0, 4)], 3, 1)


@pytest.mark.parametrize(("move", "change"), [((0.0, 0.0), 0.0), ((1.0, 0.0), 0.4), ((0.0, 1.0), 2.4)])
@pytest.mark.parametrize("groups", [1, 2])
def test_numbers_of_the_deformable_operator(move: tuple[float, float], change: float, groups: int) -> None:
    """An offset of 1 is a tenth of the region, x first; here 0.4 cells, of which a row is worth 6."""
    offsets = torch.tensor(move * groups).view(1, -1, 1, 1).expand(-1, -1, 3, 3)
    pooled = deformable_ps_roi_pool(ramp(), [inclusive(1, 1, 4, 4)], 3, 1, offsets)
    first = torch.tensor([7, 108.333333, 209.666667, 315, 416.333333, 517.666667, 623, 724.333333, 825.666667])
    torch.testing.assert_close(pooled[0].flatten(1), torch.stack([first, first + 900]) + change)


def deformable_loops(
    maps: Tensor, boxes: list[Tensor], size: int, stride: int, offsets: Tensor, samples: int
) -> Tensor:
    """Sample by sample, with the four neighbours of each."""
    _, channels, height, width = maps.shape
    outputs, groups = channels // size**2, offsets.shape[1] // 2
    answers, region = [], 0
    for image, rows in enumerate(boxes):
        for box in rows.tolist():
            x1, y1, x2, y2 = (math.floor(value + 0.5) / stride for value in box)
            across, down = max(x2 - x1, 0.1), max(y2 - y1, 0.1)
            cells = []
            for c in range(outputs):
                group = c * groups // outputs
                for i in range(size):
                    for j in range(size):
                        plane = maps[image, (c * size + i) * size + j]
                        total, count = maps.new_zeros(()), 0
                        for v in range(samples):
                            for u in range(samples):
                                x = x1 - 0.5 + across * (j + u / samples) / size
                                y = y1 - 0.5 + down * (i + v / samples) / size
                                x = x + 0.1 * across * offsets[region, 2 * group, i, j]
                                y = y + 0.1 * down * offsets[region, 2 * group + 1, i, j]
                                if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
                                    continue
                                count += 1
                                x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
                                left, top = min(int(x), width - 2), min(int(y), height - 2)
                                for row in (top, top + 1):
                                    for column in (left, left + 1):
                                        share = (1 - (x - column).abs()) * (1 - (y - row).abs())
                                        total = total + share * plane[row, column]
                        cells.append(total / max(count, 1))
            answers.append(torch.stack(cells).view(outputs, size, size))
            region += 1
    return torch.stack(answers)


@pytest.mark.parametrize(("groups", "samples"), [(1, 2), (3, 1)])
def test_deformable_against_loops(groups: int, samples: int) -> None:
    torch.manual_seed(groups)
    maps = torch.randn(2, 3 * 4, 5, 6, requires_grad=True)
    boxes = [
        torch.tensor([[3.0, 2, 38, 30], [-20, -9, 20, 60]]),
        torch.tensor([[30.0, 20, 60, 50], [9, 9, 9, 9], [90, 90, 99, 99]]),
    ]
    offsets = torch.randn(5, 2 * groups, 2, 2, requires_grad=True)
    ours = deformable_ps_roi_pool(maps, boxes, 2, 8, offsets, samples=samples)
    theirs = deformable_loops(maps, boxes, 2, 8, offsets, samples)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert (theirs[-1] == 0).all(), "a region outside of the map"
    weight = torch.randn_like(ours)
    for mine, wanted in zip(
        torch.autograd.grad((ours * weight).sum(), (maps, offsets)),
        torch.autograd.grad((theirs * weight).sum(), (maps, offsets)),
        strict=True,
    ):
        torch.testing.assert_close(mine, wanted, atol=1e-4, rtol=0)


def test_deformable_without_regions() -> None:
    maps = torch.randn(2, 9, 5, 5)
    assert deformable_ps_roi_pool(maps, [torch.zeros(0, 4)] * 2, 3, 1).shape == (0, 1, 3, 3)
    box = torch.tensor([[0.0, 0, 5, 5]])
    offsets = torch.zeros(1, 2, 3, 3)
    assert deformable_ps_roi_pool(maps, [torch.zeros(0, 4), box], 3, 1, offsets).shape == (1, 1, 3, 3)
    with pytest.raises(ValueError, match="9 channels"):
        deformable_ps_roi_pool(maps, [box, box], 2, 1)
    with pytest.raises(ValueError, match="boxes of 1 images"):
        deformable_ps_roi_pool(maps, [box], 3, 1)
