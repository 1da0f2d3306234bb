"""Resizing by areas and lines, triangles, windows, and suppression by covered share, against loops."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from ops.cover import suppress_covered
from ops.resample import cut, resample, triangle_blur


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(12, 15), (17, 8), (9, 13), (1, 1)])
def test_shrinking_averages_areas(size: tuple[int, int]) -> None:
    image = noise(3, 24, 30)
    found = resample(image, size)
    # Above a factor of two OpenCV's area interpolation is another thing; below it averages areas.
    wanted = cv2.resize(image.permute(1, 2, 0).numpy(), size[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(found.permute(1, 2, 0), wanted, atol=1e-5)
    assert found.mean().item() == pytest.approx(image.mean().item(), abs=1e-6)


def test_growing_interpolates_between_centres() -> None:
    image = noise(2, 7, 9)
    wanted = torch.nn.functional.interpolate(image[None], (11, 20), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(resample(image, (11, 20)), wanted)
    assert resample(torch.ones((1, 1, 1)), (3, 2)).tolist() == [[[1, 1], [1, 1], [1, 1]]]


def test_axes_are_resized_apart() -> None:
    image = noise(1, 10, 6)
    torch.testing.assert_close(resample(image, (5, 12)), resample(resample(image, (5, 6)), (5, 12)))
    assert resample(image, (10, 6)) is image


def test_a_triangle_has_sum_one_and_the_right_shape() -> None:
    image = torch.zeros((1, 9, 9))
    image[0, 4, 4] = 16
    assert triangle_blur(image, 1)[0, 3:6, 3:6].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    blurred = triangle_blur(noise(2, 4, 3), 5)
    assert blurred.shape == (2, 4, 3), "an image narrower than the triangle is continued more than once"
    torch.testing.assert_close(triangle_blur(torch.ones((1, 6, 5)), 5), torch.ones((1, 6, 5)))


def test_a_window_is_cut_out_and_continued() -> None:
    image = torch.arange(20.0).reshape(1, 4, 5)
    assert cut(image, (1, 1, 3, 3), (2, 2)).tolist() == [[[6, 7], [11, 12]]]
    assert cut(image, (-2, 0, 2, 1), (1, 4)).tolist() == [[[0, 0, 0, 1]]]
    assert cut(image, (0, 0, 4, 4), (2, 2)).tolist() == [[[3, 5], [13, 15]]]
    assert cut(image, (2.2, 2.2, 2.3, 2.3), (1, 1)).item() == 12


def slow(boxes: list[list[float]], scores: list[float], share: float, of: str) -> list[int]:
    left = sorted(range(len(boxes)), key=lambda i: -scores[i])
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        for other in list(left):
            a, b = boxes[best], boxes[other]
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            area_a, area_b = ((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
            if width > 0 and height > 0 and width * height / (area_b if of == "lower" else min(area_a, area_b)) > share:
                left.remove(other)
    return kept


@pytest.mark.parametrize("of", ["lower", "smaller"])
def test_suppression_is_that_of_the_loops(of: str) -> None:
    corners = noise(40, 4) * 20
    boxes = torch.cat([corners[:, :2], corners[:, :2] + 1 + corners[:, 2:]], 1)
    scores = noise(40, seed=1)
    for share in (0.5, 0.65):
        found = suppress_covered(boxes, scores, share, of=of)  # type: ignore[arg-type]
        assert found.tolist() == slow(boxes.tolist(), scores.tolist(), share, of)
    assert suppress_covered(boxes, scores, 0.5, of=of, limit=2).tolist() == found[:2].tolist()  # type: ignore[arg-type]
    assert len(suppress_covered(boxes[:0], scores[:0], 0.5, of=of)) == 0  # type: ignore[arg-type]


def test_a_small_box_within_a_better_large_one_goes_but_not_the_reverse() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 3, 3]])
    assert suppress_covered(boxes, torch.tensor([1.0, 0.5]), 0.5, of="lower").tolist() == [0]
    assert suppress_covered(boxes, torch.tensor([0.5, 1.0]), 0.5, of="lower").tolist() == [1, 0]
    assert suppress_covered(boxes, torch.tensor([0.5, 1.0]), 0.5, of="smaller").tolist() == [1]
