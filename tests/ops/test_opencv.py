"""Bytes and rectangles, against OpenCV itself."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from ops.opencv import grey_bytes, group_rectangles, resize_bytes


def test_grey_is_opencvs_for_every_pair_of_colours() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    theirs = cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY)
    ours = grey_bytes(torch.from_numpy(levels).permute(2, 0, 1).float() / 255)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("size", [(50, 70), (49, 69), (33, 70), (7, 5), (91, 140), (1, 1), (100, 140), (25, 35)])
def test_resized_bytes_are_opencvs(size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (50, 70), dtype=np.uint8)
    theirs = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR_EXACT)
    np.testing.assert_array_equal(resize_bytes(torch.from_numpy(image), size), theirs)


@pytest.mark.parametrize("least", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(8))
def test_groups_are_opencvs(seed: int, least: int) -> None:
    chance = np.random.default_rng(seed)
    middles = chance.integers(0, 200, (12, 2))[chance.integers(0, 12, 150)]
    sides = np.array([24, 26, 30, 60])[chance.integers(0, 4, (150, 1))].repeat(2, 1)
    rectangles = np.concatenate([middles + chance.integers(-3, 4, (150, 2)), sides], 1)
    theirs, _ = cv2.groupRectangles(rectangles.tolist(), least, 0.2)
    ours, belongs = group_rectangles(torch.from_numpy(rectangles), least)
    assert sorted(map(tuple, ours.tolist())) == sorted(tuple(map(int, row)) for row in theirs)
    assert belongs.shape == (150,)
    for index, mean in enumerate(ours.double()):
        members = torch.from_numpy(rectangles)[belongs == index].double()
        assert len(members) > least
        assert (members.mean(0) - mean).abs().max() <= 0.5 + 1e-4


def test_at_least_none_keeps_groups_of_one() -> None:
    rectangles = torch.tensor([[0, 0, 20, 20], [1, 1, 20, 20], [50, 50, 30, 30]])
    merged, belongs = group_rectangles(rectangles, 0)
    assert merged[belongs].tolist() == [[0, 0, 20, 20], [0, 0, 20, 20], [50, 50, 30, 30]]


def test_nothing_is_no_group() -> None:
    merged, belongs = group_rectangles(torch.zeros((0, 4), dtype=torch.int64), 3)
    assert merged.shape == (0, 4)
    assert belongs.shape == (0,)
