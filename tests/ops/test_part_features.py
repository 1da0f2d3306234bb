"""Features and distance transforms of part models against the paper's definitions written as loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ops.part_features import (
    TRUNCATION,
    directed_gradients,
    distance_transform,
    mirror_features,
    part_features,
)


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed)).float()


def by_loops(image: Tensor, cell: int) -> Tensor:
    """Every vote by itself."""
    pixels = image.tolist()
    height, width = image.shape[1:]
    rows, columns = math.floor(height / cell + 0.5), math.floor(width / cell + 0.5)
    votes = [[[0.0] * columns for _ in range(rows)] for _ in range(18)]
    for y in range(1, rows * cell - 1):
        for x in range(1, columns * cell - 1):
            v, u = min(y, height - 2), min(x, width - 2)
            slopes = [(c[v][u + 1] - c[v][u - 1], c[v + 1][u] - c[v - 1][u]) for c in pixels]
            dx, dy = max(slopes, key=lambda slope: slope[0] ** 2 + slope[1] ** 2)
            angles = [(round(math.cos(k * math.pi / 9), 4), round(math.sin(k * math.pi / 9), 4)) for k in range(9)]
            dots = [dx * c + dy * s for c, s in angles]
            near = max(range(9), key=lambda k: abs(dots[k]))
            direction = near + 9 * (dots[near] < 0)
            py, px = (y + 0.5) / cell - 0.5, (x + 0.5) / cell - 0.5
            for row in (math.floor(py), math.floor(py) + 1):
                for column in (math.floor(px), math.floor(px) + 1):
                    if 0 <= row < rows and 0 <= column < columns:
                        weight = (1 - abs(py - row)) * (1 - abs(px - column))
                        votes[direction][row][column] += weight * math.hypot(dx, dy)

    def energy(row: int, column: int) -> float:
        return sum((votes[k][row][column] + votes[k + 9][row][column]) ** 2 for k in range(9))

    out = torch.zeros((32, rows - 2, columns - 2))
    for y in range(1, rows - 1):
        for x in range(1, columns - 1):
            for block, (top, left) in enumerate(((y, x), (y - 1, x), (y, x - 1), (y - 1, x - 1))):
                total = sum(energy(top + a, left + b) for a in (0, 1) for b in (0, 1))
                scale = 1 / math.sqrt(total + 1e-4)
                for k in range(18):
                    part = min(votes[k][y][x] * scale, 0.2)
                    out[k, y - 1, x - 1] += part / 2
                    out[27 + block, y - 1, x - 1] += 0.2357 * part
                for k in range(9):
                    out[18 + k, y - 1, x - 1] += min((votes[k][y][x] + votes[k + 9][y][x]) * scale, 0.2) / 2
    return out


@pytest.mark.parametrize(("height", "width", "cell"), [(24, 32, 8), (30, 37, 8), (21, 18, 4), (13, 27, 4)])
def test_features_are_those_of_the_loops(height: int, width: int, cell: int) -> None:
    image = noise(height, width)
    found = part_features(*directed_gradients(image), cell)
    torch.testing.assert_close(found, by_loops(image, cell), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "cells"), [((480, 640), (58, 78)), ((333, 500), (40, 61)), ((64, 128), (6, 14)), ((20, 16), (1, 0))]
)
def test_sizes(size: tuple[int, int], cells: tuple[int, int]) -> None:
    with torch.device("meta"):
        image = torch.empty((3, *size))
    assert part_features(*directed_gradients(image), 8).shape == (32, *cells)


def test_straight_edges_take_the_first_of_two_equally_near_directions() -> None:
    step = torch.zeros((3, 5, 5))
    step[:, 3:] = 100
    length, direction = directed_gradients(step)
    assert length[1:].unique().item() == 100
    assert direction[1:].unique().item() == 4, "80 and 100 degrees are equally near to 90"
    assert directed_gradients(step.flip(1))[1][0].unique().item() == 13
    assert directed_gradients(step.mT)[1][:, 1:].unique().item() == 0


def test_a_flat_image_has_no_features_and_edges_have_texture() -> None:
    assert part_features(*directed_gradients(torch.full((3, 32, 32), 7.0)), 8).abs().max() == 0
    found = part_features(*directed_gradients(noise(40, 40)), 8)
    assert found[:27].min() >= 0
    assert found[:27].max() <= 0.4 + 1e-6
    assert found[TRUNCATION].abs().max() == 0
    assert found[27:31].min() > 0


def test_mirrored_features_are_the_mirrored_image_s() -> None:
    # Not of whole numbers: of two equally near directions the first is taken, mirrored or not.
    image = torch.rand((3, 48, 64), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 255
    ours = mirror_features(part_features(*directed_gradients(image), 8))
    theirs = part_features(*directed_gradients(image.flip(2)), 8)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert torch.equal(mirror_features(mirror_features(ours)), ours)


def slow_transform(scores: Tensor, cost: Tensor, reach: int) -> Tensor:
    out = torch.full_like(scores, -math.inf)
    for f, (ax, bx, ay, by) in enumerate(cost.tolist()):
        for y in range(scores.shape[1]):
            for x in range(scores.shape[2]):
                for v in range(max(0, y - reach), min(scores.shape[1], y + reach + 1)):
                    for u in range(max(0, x - reach), min(scores.shape[2], x + reach + 1)):
                        dx, dy = x - u, y - v
                        value = scores[f, v, u] - ax * dx * dx - bx * dx - ay * dy * dy - by * dy
                        out[f, y, x] = max(out[f, y, x], value)
    return out


@pytest.mark.parametrize("reach", [None, 2])
def test_distance_transform_is_that_of_the_loops(reach: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn((3, 6, 7), generator=generator, dtype=torch.float64)
    scores[0, 2, 3] = scores[1, :, 0] = -math.inf
    cost = torch.rand((3, 4), generator=generator, dtype=torch.float64) * 0.3
    cost[1, 1], cost[2, 3] = -0.2, -0.1
    found = distance_transform(scores, cost, reach)
    torch.testing.assert_close(found, slow_transform(scores, cost, reach or 9))


@pytest.mark.parametrize(("a", "wanted"), [(1.0, [2, 3, 2, 1, 2]), (0.1, [2.9, 3.0, 2.9, 2.6, 2.1])])
def test_distance_transform_of_a_line(a: float, wanted: list[float]) -> None:
    line = torch.tensor([0.0, 3, 1, 0, 2])
    cost = torch.tensor([[a, 0, a, 0]])
    assert distance_transform(line[None, None], cost)[0, 0].tolist() == pytest.approx(wanted)
    assert distance_transform(line[None, :, None], cost)[0, :, 0].tolist() == pytest.approx(wanted)
