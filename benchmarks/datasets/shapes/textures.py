"""Ground, colours, patterns and light."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.datasets.shapes.chance import Chance, Whole
from benchmarks.datasets.shapes.scenes import Scene

__all__ = ["colour_of", "fill_of", "ground_of", "lit"]


def ground_of(chance: Chance, scene: Scene) -> Whole:
    """`[side, side, 3]`, 0..255: two colours mixed by waves of several lengths, patterns, light from one side."""
    side = scene.side
    mixed = np.zeros((side, side), dtype=np.int32)
    weights = 0
    for cell, weight in ((64, 4), (24, 3), (10, 2), (4, 2)):
        share = weight * chance.integer(1, 4)
        mixed += share * _waves(chance, side, side, cell)
        weights += share
    mixed //= weights
    # Averages of waves stay near the middle: spread them out.
    mixed = np.clip((mixed - 128) * 2 + 128, 0, 255)
    if chance.happens(0.4):
        mixed = (mixed * 3 + _stripes(chance, side, side)) // 4
    dark, light = colour_of(chance), colour_of(chance)
    reach = int(256 * min(1.0, 0.75 * scene.texture))
    return dark + (light - dark) * ((mixed[..., None] - 128) * reach // 256 + 128) // 255


def fill_of(chance: Chance, rows: slice, columns: slice, colour: Whole) -> Whole:
    """An object's own colours over its patch: plain, waves, stripes or a slope."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    kind, strength = chance.integer(0, 3), chance.integer(20, 80)
    if kind == 0:
        pattern = np.full((height, width), 128, dtype=np.int32)
    elif kind == 1:
        pattern = _waves(chance, height, width, chance.integer(3, 12))
    elif kind == 2:
        pattern = _stripes(chance, height, width)
    else:
        slope = np.arange(width, dtype=np.int32)[None, :] + np.arange(height, dtype=np.int32)[:, None]
        pattern = slope * 255 // max(1, height + width - 2)
    return np.clip(colour + ((pattern - 128) * strength // 128)[..., None], 0, 255)


def lit(chance: Chance, scene: Scene, pixels: Whole) -> NDArray[np.uint8]:
    """The pixels in light from one side, and with the noise of a sensor."""
    side = scene.side
    slope_x, slope_y = chance.integer(-48, 48), chance.integer(-48, 48)
    ramp = np.arange(side, dtype=np.int32) * 2 - side
    light = 256 + (ramp[None, :] * slope_x + ramp[:, None] * slope_y) // side
    strength = int(chance.integer(8, 48) * scene.texture)
    noise = (chance.bytes(side, side, 3) + chance.bytes(side, side, 3) - 255) * strength // 512
    return np.clip(pixels * light[..., None] // 256 + noise, 0, 255).astype(np.uint8)


def _waves(chance: Chance, height: int, width: int, cell: int) -> Whole:
    """Value noise, 0..255: random numbers on a lattice, straight lines between them."""
    rows, columns = height // cell + 2, width // cell + 2
    lattice = chance.bytes(rows, columns)
    x, y = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)
    ix, fx, iy, fy = x // cell, x % cell, (y // cell), (y % cell)[:, None]
    across = lattice[:, ix] * (cell - fx) + lattice[:, ix + 1] * fx
    return np.asarray((across[iy] * (cell - fy) + across[iy + 1] * fy) // (cell * cell), dtype=np.int32)


def _stripes(chance: Chance, height: int, width: int) -> Whole:
    """Stripes or a chequered pattern in any direction, 0 or 255."""
    a, b, period = chance.integer(-8, 8), chance.integer(-8, 8), chance.integer(24, 96)
    x, y = np.arange(width, dtype=np.int32)[None, :], np.arange(height, dtype=np.int32)[:, None]
    first = (a * x + b * y) // period % 2
    if chance.happens(0.4):
        first = first ^ ((b * x - a * y) // period % 2)
    return np.asarray(first * 255, dtype=np.int32)


def colour_of(chance: Chance) -> Whole:
    """Any colour `[3]`."""
    return chance.bytes(3)
