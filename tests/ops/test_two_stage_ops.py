"""Anchors, matching by thresholds and sampling of the two-stage family, against worked values and torchvision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from ops.anchors import caffe_shapes, grid_anchors, pyramid_shapes
from ops.match import BETWEEN, threshold_match
from ops.sample import balanced_sample

TOY = torch.tensor([[0.75, 0.45, 0.10, 0.65], [0.05, 0.40, 0.25, 0.20]])


def inclusive(shapes: Tensor) -> list[list[float]]:
    """As the released code prints them: about the middle of the first 16 px cell, the last pixel counted in."""
    return (shapes + 8 - torch.tensor([0.0, 0, 1, 1])).tolist()


def test_caffe_shapes() -> None:
    assert inclusive(caffe_shapes(scales=(2, 4, 8, 16, 32))) == [
        [-15, -4, 30, 19],
        [-38, -16, 53, 31],
        [-84, -40, 99, 55],
        [-176, -88, 191, 103],
        [-360, -184, 375, 199],
        [-8, -8, 23, 23],
        [-24, -24, 39, 39],
        [-56, -56, 71, 71],
        [-120, -120, 135, 135],
        [-248, -248, 263, 263],
        [-3, -14, 18, 29],
        [-14, -36, 29, 51],
        [-36, -80, 51, 95],
        [-80, -168, 95, 183],
        [-168, -344, 183, 359],
    ]


@pytest.mark.parametrize(
    ("size", "map_size", "count", "within"),
    [
        ((600, 800), (38, 50), 17_100, 5_944),
        ((600, 1000), (38, 63), 21_546, 8_151),
        ((600, 901), (38, 57), 19_494, 7_041),
        ((480, 640), (30, 40), 10_800, 2_956),
    ],
)
def test_caffe_anchors_within_the_image(
    size: tuple[int, int], map_size: tuple[int, int], count: int, within: int
) -> None:
    anchors = grid_anchors(caffe_shapes(), map_size, (16, 16))
    inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= size[1]) & (anchors[:, 3] <= size[0])
    assert (len(anchors), int(inside.sum())) == (count, within)


def test_pyramid_shapes() -> None:
    assert pyramid_shapes((32,)).tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    assert pyramid_shapes((512,))[0].tolist() == [-362, -181, 362, 181]
    torch.testing.assert_close(
        pyramid_shapes((32,), rounded=False)[0], torch.tensor([-22.627417, -11.313708, 22.627417, 11.313708])
    )


def test_pyramid_anchors_are_torchvisions() -> None:
    sizes, grids, size = (32, 64, 128, 256, 512), ((200, 272), (100, 136), (50, 68), (25, 34), (13, 17)), (800, 1088)
    oracle = AnchorGenerator(tuple((s,) for s in sizes), ((0.5, 1.0, 2.0),) * 5)
    expected = oracle(ImageList(torch.zeros(1, 3, *size), [size]), [torch.zeros(1, 1, *grid) for grid in grids])[0]
    found = torch.cat(
        [
            grid_anchors(pyramid_shapes((s,)), grid, (size[0] // grid[0], size[1] // grid[1]), offset=0)
            for s, grid in zip(sizes, grids, strict=True)
        ]
    )
    assert len(found) == 217_413
    assert torch.equal(found, expected)
    several = AnchorGenerator(((32, 64),), ((0.5, 1.0, 2.0),)).cell_anchors[0]
    assert torch.equal(pyramid_shapes((32, 64)), several)


def test_threshold_match_worked_example() -> None:
    # The second object rescues the second anchor, which then answers for the first object.
    assert threshold_match(TOY, 0.3, 0.7, rescue=True).tolist() == [0, 0, -1, BETWEEN]
    assert threshold_match(TOY, 0.3, 0.7).tolist() == [0, BETWEEN, -1, BETWEEN]
    assert threshold_match(TOY, 0.5, 0.5).tolist() == [0, -1, -1, 0]


def test_thresholds_are_inclusive_above() -> None:
    assert threshold_match(torch.tensor([[0.3, 0.7, 0.29999]]), 0.3, 0.7).tolist() == [BETWEEN, 0, -1]


@pytest.mark.parametrize("rescue", [False, True])
def test_threshold_match_equals_torchvisions(rescue: bool) -> None:
    torch.manual_seed(0)
    for _ in range(50):
        iou = (torch.rand(5, 40) * 20).round() / 20  # ties
        expected = Matcher(0.7, 0.3, allow_low_quality_matches=rescue)(iou)
        assert torch.equal(threshold_match(iou, 0.3, 0.7, rescue=rescue), expected)


def test_threshold_match_without_objects_or_overlap() -> None:
    assert threshold_match(torch.zeros(0, 3), 0.3, 0.7, rescue=True).tolist() == [-1, -1, -1]
    assert threshold_match(torch.zeros(2, 0), 0.3, 0.7, rescue=True).tolist() == []
    # Otherwise an object that no anchor overlaps would make positives of them all.
    assert threshold_match(torch.tensor([[0.0, 0.0], [0.0, 0.5]]), 0.3, 0.7, rescue=True).tolist() == [-1, 1]


@pytest.mark.parametrize(("positives", "negatives"), [(50, 300), (200, 300), (200, 20), (0, 10), (3, 0)])
def test_balanced_sample_equals_torchvisions(positives: int, negatives: int) -> None:
    labels = torch.tensor([1] * positives + [0] * negatives + [-1] * 30)
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    torch.manual_seed(7)
    chosen, others = balanced_sample(labels == 1, labels == 0, 128, 0.25)
    torch.manual_seed(7)
    expected, rest = BalancedPositiveNegativeSampler(128, 0.25)([labels.float()])
    assert torch.equal(chosen.sort().values, expected[0].nonzero()[:, 0])
    assert torch.equal(others.sort().values, rest[0].nonzero()[:, 0])
    assert len(chosen) == min(32, positives)
    assert len(others) == min(128 - len(chosen), negatives)


def test_balanced_sample_draws_anew() -> None:
    torch.manual_seed(0)
    everyone = torch.ones(100, dtype=torch.bool)
    draws = [tuple(balanced_sample(everyone, ~everyone, 20, 0.5)[0].tolist()) for _ in range(3)]
    assert len({frozenset(draw) for draw in draws}) == 3
    assert all(len(set(draw)) == 10 for draw in draws)
