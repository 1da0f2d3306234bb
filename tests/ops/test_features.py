"""HOG equals OpenCV's, number by number, and a naive one written as loops."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from ops.features import hog_blocks, hog_descriptor, orientation_votes

# OpenCV's arc tangent is a polynomial that errs by up to 0.01 degrees, which moves a vote by 5e-4 of itself.
OPENCV = 4e-4


def ramp() -> np.ndarray:
    y, x = np.mgrid[:128, :64]
    return ((3 * x + 5 * y) % 256).astype(np.uint8)


def checker() -> np.ndarray:
    y, x = np.mgrid[:128, :64]
    return (((x // 8 + y // 8) % 2) * 255).astype(np.uint8)


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth noise of several scales in three channels that differ, with the whole range of intensities."""
    noise = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(noise.normal(size=(height, width, 3)), (0, 0), s) * s for s in (0.7, 2, 6)]
    return cv2.normalize(sum(layers), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def tensor(image: np.ndarray) -> Tensor:
    """OpenCV's bytes, BGR or grey, as we take images."""
    return torch.from_numpy(np.atleast_3d(image)[..., ::-1].copy()).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize(
    ("image", "total", "length", "first", "score"),
    [
        (ramp(), 328.56573, 10.229029, [0.009155, 0, 0.352721, 0.352721, 0.023638, 0, 0, 0, 0.009155], -5.689566),
        (
            checker(),
            452.12036,
            10.232202,
            [0.244440, 0.026726, 0.079975, 0, 0.287386, 0, 0.078076, 0.026092, 0.244440],
            -4.453545,
        ),
        (np.zeros((128, 64), np.uint8), 0.0, 0.0, [0.0] * 9, -6.6657915),
    ],
    ids=["ramp", "checker", "black"],
)
def test_golden_descriptors(image: np.ndarray, total: float, length: float, first: list[float], score: float) -> None:
    found = hog_descriptor(tensor(image))
    assert found.shape == (3780,)
    assert found.sum().item() == pytest.approx(total, rel=1e-4)
    assert found.norm().item() == pytest.approx(length, abs=1e-5)
    np.testing.assert_allclose(found[:9], first, rtol=0, atol=OPENCV)
    vector = torch.from_numpy(cv2.HOGDescriptor.getDefaultPeopleDetector()).flatten()
    assert (found @ vector[:-1] + vector[-1]).item() == pytest.approx(score, abs=2e-3)


def test_block_norms_of_the_ramp() -> None:
    norms = hog_blocks(tensor(ramp())).norm(dim=0)
    assert norms.shape == (15, 7)
    assert norms.min().item() == pytest.approx(0.997893, abs=2e-5)
    assert norms.max().item() == pytest.approx(0.998447, abs=2e-5)
    assert hog_blocks(tensor(ramp())).max().item() == pytest.approx(0.421431, abs=OPENCV)


@pytest.mark.parametrize("gamma", [True, False])
@pytest.mark.parametrize(("height", "width"), [(128, 64), (96, 48), (131, 70)])
def test_equals_opencv(height: int, width: int, gamma: bool) -> None:
    image = photograph(height, width)
    inside = (width // 8 * 8, height // 8 * 8)
    theirs = cv2.HOGDescriptor(inside, (16, 16), (8, 8), (8, 8), 9, 1, -1, 0, 0.2, gamma).compute(image)
    blocks = (inside[0] // 8 - 1) * (inside[1] // 8 - 1)
    ours = hog_descriptor(tensor(image), gamma=gamma)
    # The gradient at the right and bottom edge sees the pixels beyond the window, as OpenCV's does.
    windows = theirs.reshape(-1, blocks * 36)
    assert len(windows) == 1
    np.testing.assert_allclose(ours, windows[0], rtol=0, atol=OPENCV)
    assert ours.sum().item() == pytest.approx(windows.sum(), rel=1e-4)


def test_small_cells_equal_opencv() -> None:
    image = photograph(64, 48)
    theirs = cv2.HOGDescriptor((48, 64), (8, 8), (4, 4), (4, 4), 9, 1, -1, 0, 0.2, True).compute(image)
    np.testing.assert_allclose(hog_descriptor(tensor(image), cell=4), theirs, rtol=0, atol=OPENCV)


def test_windows_are_rectangles_of_the_block_map() -> None:
    image = photograph(176, 144, seed=1)
    theirs = cv2.HOGDescriptor().compute(image, winStride=(8, 8))
    blocks = hog_blocks(tensor(image))
    assert blocks.shape == (36, 21, 17)
    windows = [blocks[:, y : y + 15, x : x + 7].permute(2, 1, 0).flatten() for y in range(7) for x in range(11)]
    np.testing.assert_allclose(torch.stack(windows), theirs.reshape(77, 3780), rtol=0, atol=OPENCV)


def test_votes_against_their_definition() -> None:
    image = torch.rand((3, 9, 11), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = orientation_votes(image)
    levels = (image * 255).sqrt()
    for y in range(1, 8):
        for x in range(1, 10):
            gradients = [
                ((c[y, x + 1] - c[y, x - 1]).item(), (c[y + 1, x] - c[y - 1, x]).item()) for c in levels.unbind()
            ]
            dx, dy = max(gradients, key=lambda g: math.hypot(*g))
            degrees = math.degrees(math.atan2(dy, dx)) % 180
            for k in range(9):
                away = abs(degrees - (20 * k + 10))
                share = max(0.0, 1 - min(away, 180 - away) / 20)
                assert found[k, y, x].item() == pytest.approx(share * math.hypot(dx, dy), abs=1e-9)


def test_votes_wrap_at_the_horizontal() -> None:
    """A vertical edge lies between the last orientation and the first, whichever side is bright."""
    image = torch.zeros((1, 4, 6))
    image[..., 3:] = 1
    for side in (image, 1 - image):
        votes = orientation_votes(side, gamma=False)[:, 1, 3]
        np.testing.assert_allclose(votes, [127.5] + [0] * 7 + [127.5], atol=1e-3)


def test_of_equally_strong_channels_opencv_takes_blue() -> None:
    y, x = np.mgrid[:32, :32].astype(np.uint8)
    image = np.stack([4 * y, 4 * x, 4 * (31 - x)], -1)
    theirs = cv2.HOGDescriptor((32, 32), (16, 16), (8, 8), (8, 8), 9, 1, -1, 0, 0.2, False).compute(image)
    np.testing.assert_allclose(hog_descriptor(tensor(image), gamma=False), theirs, rtol=0, atol=OPENCV)


def test_contrast_changes_little_and_position_much() -> None:
    image = tensor(photograph(128, 64, seed=2))
    descriptor = hog_descriptor(image)
    assert (hog_descriptor(0.5 * image) - descriptor).abs().max() < 0.03
    assert (hog_descriptor(image.roll(4, 2)) - descriptor).abs().max() > 0.1


def test_an_image_without_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match=r"15x64 holds no block of 16x16"):
        hog_blocks(torch.zeros((3, 15, 64)))
