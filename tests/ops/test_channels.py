"""Aggregate channel features against numbers of the toolbox's formulas and against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ops.channels import channel_features, gradient, luv, orientation_shares


@pytest.mark.parametrize(
    ("rgb", "wanted"),
    [
        ((0, 0, 0), (0, 0.325926, 0.496296)),
        ((1, 1, 1), (0.370370, 0.325926, 0.496294)),
        ((1, 0, 0), (0.200889, 0.986314, 0.638774)),
        ((0, 1, 0), (0.323416, 0.001132, 0.887304)),
        ((0, 0, 1), (0.118918, 0.291305, 0.016383)),
        ((0.5, 0.5, 0.5), (0.281738, 0.325926, 0.496295)),
    ],
)
def test_luv(rgb: tuple[float, ...], wanted: tuple[float, ...]) -> None:
    found = luv(torch.tensor(rgb, dtype=torch.float64)[:, None, None].expand(3, 2, 3))
    assert found.shape == (3, 2, 3)
    assert found[:, 1, 2].tolist() == pytest.approx(wanted, abs=1.5e-6)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gradient_is_that_of_the_loops() -> None:
    image = noise(3, 5, 6)
    magnitude, orientation = gradient(image)
    for y in range(5):
        for x in range(6):
            slopes = []
            for plane in image:
                left, right = max(0, x - 1), min(5, x + 1)
                top, bottom = max(0, y - 1), min(4, y + 1)
                dx = (plane[y, right] - plane[y, left]) / (right - left)
                dy = (plane[bottom, x] - plane[top, x]) / (bottom - top)
                slopes.append((float(dx), float(dy)))
            dx, dy = max(slopes, key=lambda slope: math.hypot(*slope))
            assert magnitude[y, x].item() == pytest.approx(math.hypot(dx, dy))
            assert orientation[y, x].item() == pytest.approx(math.atan2(dy, dx) % math.pi)


def test_orientations_share_linearly_and_lose_nothing() -> None:
    angles = torch.tensor([[0.0, 0.25, 5.5, 6.0, 2.0]], dtype=torch.float64) * math.pi / 6
    found = orientation_shares(torch.full_like(angles, 2.0), angles)
    wanted = torch.zeros((6, 1, 5), dtype=torch.float64)
    wanted[0, 0, 0] = wanted[0, 0, 3] = wanted[2, 0, 4] = 2
    wanted[0, 0, 1], wanted[1, 0, 1] = 1.5, 0.5
    wanted[5, 0, 2] = wanted[0, 0, 2] = 1
    torch.testing.assert_close(found, wanted)


def triangle_by_loops(plane: Tensor, radius: int) -> Tensor:
    out = torch.zeros_like(plane)
    height, width = plane.shape

    def mirrored(index: int, side: int) -> int:
        index %= 2 * side
        return index if index < side else 2 * side - 1 - index

    for y in range(height):
        for x in range(width):
            for a in range(-radius, radius + 1):
                for b in range(-radius, radius + 1):
                    weight = (radius + 1 - abs(a)) * (radius + 1 - abs(b)) / (radius + 1) ** 4
                    out[y, x] += weight * plane[mirrored(y + a, height), mirrored(x + b, width)]
    return out


def test_channels_are_those_of_the_loops() -> None:
    colours = noise(3, 18, 14)
    found = channel_features(colours)
    assert found.shape == (10, 4, 3)
    smooth = torch.stack([triangle_by_loops(plane, 1) for plane in colours[:, :16, :12]])
    magnitude, orientation = gradient(smooth)
    magnitude = magnitude / (triangle_by_loops(magnitude, 5) + 0.005)
    for row in range(4):
        for column in range(3):
            square = slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4)
            wanted = [plane[square].mean().item() for plane in (*smooth, magnitude)]
            bins = [0.0] * 6
            for size, angle in zip(magnitude[square].flatten(), orientation[square].flatten(), strict=True):
                place = angle.item() * 6 / math.pi
                low = math.floor(place)
                bins[low % 6] += (1 - place + low) * size.item() / 16
                bins[(low + 1) % 6] += (place - low) * size.item() / 16
            assert found[:, row, column].tolist() == pytest.approx(wanted + bins)


def test_the_padded_window_has_5120_features() -> None:
    assert channel_features(torch.zeros((3, 128, 64))).numel() == 5120


def test_a_flat_image_has_colour_and_nothing_else() -> None:
    found = channel_features(luv(torch.full((3, 16, 16), 0.5)))
    assert found[:3, 0, 0].tolist() == pytest.approx((0.281738, 0.325926, 0.496295), abs=1e-5)
    assert found[3:].abs().max() < 1e-4
