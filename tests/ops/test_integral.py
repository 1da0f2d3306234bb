"""Integral images and what is read from them, against OpenCV, sums written as loops, and the papers' counts."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from ops.integral import (
    corners,
    haar_features,
    integral_image,
    pattern_codes,
    pattern_features,
    tilted_integral_image,
)


def noise(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (height, width), generator=torch.Generator().manual_seed(height), dtype=torch.uint8)


def test_integral_of_one_to_sixteen() -> None:
    sums = integral_image(torch.arange(1, 17).reshape(4, 4))
    assert sums.tolist() == [
        [0, 0, 0, 0, 0],
        [0, 1, 3, 6, 10],
        [0, 6, 14, 24, 36],
        [0, 15, 33, 54, 78],
        [0, 28, 60, 96, 136],
    ]
    places = corners(torch.tensor([1, 1, 2, 2]), 5)
    a, b, c, d = sums.flatten()[places].tolist()
    assert a - b - c + d == 34


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (9, 1), (13, 8), (20, 31)])
def test_integrals_are_opencvs(height: int, width: int) -> None:
    image = noise(height, width)
    sums, squares, tilted = cv2.integral3(image.numpy(), sdepth=cv2.CV_32S, sqdepth=cv2.CV_64F)
    np.testing.assert_array_equal(integral_image(image), sums)
    np.testing.assert_array_equal(integral_image(image.long().square(), torch.int64), squares)
    np.testing.assert_array_equal(tilted_integral_image(image), tilted)


def test_tilted_rectangle_written_as_loops() -> None:
    image = noise(16, 16)
    tilted = tilted_integral_image(image).flatten()
    x, y, width, height = 7, 2, 4, 3
    a, b, c, d = tilted[corners(torch.tensor([x, y, width, height]), 17, torch.tensor(True))].tolist()
    # u counts pixels down to the right of the uppermost corner, v down to the left; w x h hold 2 w h pixels.
    inside = 0
    for j in range(16):
        for i in range(16):
            u, v = (i + 1 - x) + (j + 1 - y), (j - y) - (i - x)
            inside += int(image[j, i]) * (0 < u <= 2 * width and 0 < v <= 2 * height)
    assert a - b - c + d == inside


@pytest.mark.parametrize(
    ("side", "kinds"),
    [(24, [43_200, 43_200, 27_600, 27_600, 20_736]), (20, [21_000, 21_000, 13_230, 13_230, 10_000])],
)
def test_haar_features_are_counted(side: int, kinds: list[int]) -> None:
    rectangles, weights = haar_features(side, side)
    assert len(rectangles) == len(weights) == sum(kinds)
    assert sum(kinds) == {24: 162_336, 20: 78_460}[side]
    for kind, (start, count) in enumerate(zip(np.cumsum([0, *kinds]), kinds, strict=False)):
        whole = rectangles[start : start + count, 0].int()
        columns, rows = ((2, 1), (1, 2), (3, 1), (1, 3), (2, 2))[kind]
        assert (whole[:, 2] % columns == 0).all()
        assert (whole[:, 3] % rows == 0).all()
    assert len(torch.cat([rectangles.flatten(1).float(), weights], 1).unique(dim=0)) == len(rectangles)
    rectangles = rectangles.int()
    assert (rectangles[..., :2] + rectangles[..., 2:]).max() == side
    assert ((rectangles[..., 2] * rectangles[..., 3] * weights).sum(1) == 0).all(), "uniform ground answers 0"


def test_haar_features_of_a_window_that_is_not_square() -> None:
    assert len(haar_features(19, 19)[0]) == 63_960
    rectangles, _ = haar_features(2, 1)
    assert rectangles.tolist() == [[[0, 0, 1, 2], [0, 1, 1, 1], [0, 0, 0, 0]]]


def test_pattern_features_are_counted() -> None:
    assert len(pattern_features(24, 24)) == 8_464
    cells = pattern_features(20, 20).int()
    assert len(cells) == 3_969 == len(cells.unique(dim=0))
    assert (cells[:, :2] + 3 * cells[:, 2:]).max() == 20
    assert len(pattern_features(2, 9)) == 0


def test_pattern_code_of_the_example() -> None:
    assert pattern_codes(torch.tensor([6, 5, 2, 7, 6, 1, 9, 8, 7])).item() == 143
    assert pattern_codes(torch.zeros((2, 9))).tolist() == [255, 255]
