"""RoI operators as the two-stage detectors use them: worked values, and slow definitions for the pyramid."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align, roi_pool

from ops.roi_align import as_regions
from ops.roi_align import roi_align as ops_roi_align
from zoo.parts.roi_head import PyramidAlign, RegionMean, RegionPool

RAMP = torch.arange(64.0).reshape(1, 1, 8, 8)
ROI = torch.tensor([[1.0, 2, 6, 5]])
ROI16 = torch.tensor([[20.0, 36, 100, 90]])


def values(*numbers: float) -> Tensor:
    return torch.tensor(numbers)


def test_region_pool() -> None:
    """Coordinates are rounded, the last pixel counts, and bins overlap by a pixel: 5x4 px of features into 2x2."""
    assert torch.equal(RegionPool(1, 2)([RAMP], [ROI]).flatten(), values(27, 30, 43, 46))
    assert torch.equal(RegionPool(16, 2)([RAMP], [ROI16]).flatten(), values(35, 38, 51, 54))
    assert torch.equal(RegionPool(1, 3)([RAMP], [ROI]).flatten(), values(26, 28, 30, 34, 36, 38, 42, 44, 46))
    torch.testing.assert_close(
        RegionPool(1, 2)([RAMP.sin()], [ROI]).flatten(), values(0.956376, 0.912945, 0.999912, 0.901788)
    )


def test_region_pool_reads_the_right_image() -> None:
    maps = torch.cat([RAMP, RAMP + 100])
    pooled = RegionPool(1, 2)([maps], [ROI[:0], ROI])
    assert torch.equal(pooled.flatten(), values(127, 130, 143, 146))


def test_align() -> None:
    assert torch.equal(PyramidAlign((1,), 2)([RAMP], [ROI]).flatten(), values(24.25, 26.75, 36.25, 38.75))
    assert torch.equal(PyramidAlign((16,), 2)([RAMP], [ROI16]).flatten(), values(27.25, 29.75, 40.75, 43.25))
    torch.testing.assert_close(
        PyramidAlign((1,), 2)([RAMP.sin()], [ROI]).flatten(),
        values(0.313287, -0.013633, -0.063846, -0.252038),
        atol=1e-6,
        rtol=0,
    )
    # A region of less than a cell is read as one cell.
    tiny = torch.tensor([[2.0, 2, 2.2, 2.2]])
    torch.testing.assert_close(PyramidAlign((1,), 1)([RAMP], [tiny]).flatten(), values(22.5))


def test_torchvisions_half_pixel_shift_is_what_detectron2_needs() -> None:
    """The other convention, so that a change of the default upstream cannot pass unseen."""
    rois = torch.cat([torch.zeros(1, 1), ROI], 1)
    shifted = roi_align(RAMP, rois, 2, 1.0, 2, aligned=True).flatten()
    assert torch.equal(shifted, values(19.75, 22.25, 31.75, 34.25))
    tiny = torch.tensor([[0.0, 2, 2, 2.2, 2.2]])
    torch.testing.assert_close(roi_align(RAMP, tiny, 1, 1.0, 2, aligned=True).flatten(), values(14.4))


@pytest.mark.parametrize(
    ("side", "level"), [(10, 2), (111.9, 2), (112, 3), (223, 3), (224, 4), (447, 4), (448, 5), (2000, 5)]
)
def test_levels(side: float, level: int) -> None:
    pool = PyramidAlign((4, 8, 16, 32))
    boxes = torch.tensor([[3.0, 5, 3 + side, 5 + side]])
    assert pool.levels(boxes).tolist() == [level - 2]


def test_levels_go_by_area() -> None:
    assert PyramidAlign((4, 8, 16, 32)).levels(torch.tensor([[0.0, 0, 448, 112]])).tolist() == [2]
    # A quarter of the canonical side, the small size's, shifts the table by two levels.
    assert PyramidAlign((4, 8, 16, 32), canonical=56).levels(torch.tensor([[0.0, 0, 56, 56]])).tolist() == [2]


def test_pyramid_equals_torchvisions() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 512 // stride, 640 // stride) for stride in (4, 8, 16, 32, 64)]
    corners = torch.rand(2, 50, 2) * 200
    sides = torch.rand(2, 50, 2) ** 2 * 600 + 1
    boxes = list(torch.cat([corners, corners + sides], -1))
    ours = PyramidAlign((4, 8, 16, 32), 7)
    assert set(torch.cat([ours.levels(b) for b in boxes]).tolist()) == {0, 1, 2, 3}
    oracle = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    expected = oracle({str(i): x for i, x in enumerate(maps)}, boxes, [(512, 640), (512, 640)])
    assert torch.equal(ours(maps, boxes), expected)


def test_pyramid_without_regions() -> None:
    maps = [torch.randn(1, 3, 64 // stride, 64 // stride, requires_grad=True) for stride in (4, 8)]
    pooled = PyramidAlign((4, 8), 5)(maps, [torch.zeros(0, 4)])
    assert pooled.shape == (0, 3, 5, 5)


def test_region_pool_against_its_definition() -> None:
    """Fast R-CNN, section 2.1, as loops: bins of whole pixels, floor to ceil, the largest value of each."""
    torch.manual_seed(0)
    features = torch.randn(1, 2, 9, 11)
    box = [13.0, 22.0, 130.0, 97.0]
    x1, y1, x2, y2 = (round(v / 16) for v in box)
    expected = torch.zeros(2, 3, 3)
    height, width = max(1, y2 - y1 + 1), max(1, x2 - x1 + 1)
    for row in range(3):
        for column in range(3):
            top, bottom = y1 + math.floor(row * height / 3), y1 + math.ceil((row + 1) * height / 3)
            left, right = x1 + math.floor(column * width / 3), x1 + math.ceil((column + 1) * width / 3)
            expected[:, row, column] = features[0, :, top:bottom, left:right].amax((1, 2))
    assert torch.equal(RegionPool(16, 3)([features], [torch.tensor([box])])[0], expected)
    assert torch.equal(roi_pool(features, [torch.tensor([box])], 3, 1 / 16)[0], expected)


def test_region_mean_takes_the_pixels_of_region_pool() -> None:
    """Where one pixel alone is not 0, the cells that see it are the same, and the mean says of how many pixels."""
    odd = [[-40.0, -9.0, 30.0, 90.0], [60.0, 70.0, 80.0, 220.0], [10.0, 10.0, 10.5, 10.2], [-90.0, -90.0, -50.0, -60.0]]
    corners = torch.rand(30, 2) * 100
    boxes = [
        torch.cat([torch.tensor(odd), torch.cat([corners, corners + torch.rand(30, 2) * 90], 1)]),
        torch.zeros(0, 4),
    ]
    for _ in range(40):
        maps = torch.zeros(2, 1, 9, 11)
        maps[0, 0, torch.randint(9, ()), torch.randint(11, ())] = 1
        pooled, mean = RegionPool(16, 4)([maps], boxes), RegionMean(16, 4)([maps], boxes)
        assert torch.equal(mean > 1e-9, pooled > 0)
    assert RegionMean(16, 4)([maps], [torch.zeros(0, 4)] * 2).shape == (0, 1, 4, 4)


def test_region_mean_against_its_definition() -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 2, 9, 11, requires_grad=True)
    box = [13.0, 22.0, 130.0, 97.0]
    x1, y1, x2, y2 = (round(v / 16) for v in box)
    height, width = y2 - y1 + 1, x2 - x1 + 1
    cells = []
    for row, column in itertools.product(range(3), range(3)):
        top, bottom = y1 + math.floor(row * height / 3), y1 + math.ceil((row + 1) * height / 3)
        left, right = x1 + math.floor(column * width / 3), x1 + math.ceil((column + 1) * width / 3)
        cells.append(features[1, :, top:bottom, left:right].mean((1, 2)))
    expected = torch.stack(cells, 1).view(2, 3, 3)
    found = RegionMean(16, 3)([features], [torch.zeros(0, 4), torch.tensor([box]), torch.zeros(0, 4)])
    torch.testing.assert_close(found[0], expected)
    chance = torch.randn(2, 3, 3)
    (ours,) = torch.autograd.grad((found[0] * chance).sum(), features)
    (theirs,) = torch.autograd.grad((expected * chance).sum(), features)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling", [0, 1, 2, 3])
def test_gradient_of_align_equals_torchvisions(aligned: bool, sampling: int) -> None:
    """Regions of two of three images in no order, beyond all four edges, inverted, less than a cell, off the map."""
    maps = torch.randn(3, 4, 13, 9, requires_grad=True)
    odd = [[-20, -9, 30, 90], [60, 70, 80, 120], [10, 10, 10.5, 10.2], [30, 40, 20, 20], [-90, -90, -50, -60]]
    corners = torch.rand(40, 2) * 70
    boxes = torch.cat([torch.tensor(odd), torch.cat([corners, corners + torch.rand(40, 2) * 60], 1)])
    regions = torch.cat([torch.randint(0, 2, (len(boxes), 1)) * 2.0, boxes], 1)
    ours = ops_roi_align(maps, regions, 5, 1 / 8, sampling, aligned)
    theirs = roi_align(maps, regions, 5, 1 / 8, sampling, aligned)
    assert torch.equal(ours, theirs)
    grad = torch.randn_like(ours)
    (expected,) = torch.autograd.grad(theirs, maps, grad)
    (found,) = torch.autograd.grad(ours, maps, grad)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_align_keeps_half_precision_and_takes_no_regions() -> None:
    maps = torch.randn(2, 4, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    pooled = ops_roi_align(maps, as_regions([ROI, ROI[:0]]), 2, 1.0)
    assert pooled.dtype == torch.bfloat16
    assert ops_roi_align(maps, as_regions([ROI[:0]] * 2), 2, 1.0).sum().backward() is None
    assert maps.grad is not None
    assert not maps.grad.any()
