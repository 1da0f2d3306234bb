"""The forms of objects and of marks that are none, and which pixels they cover."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.datasets.shapes.chance import Whole

__all__ = ["CLASS_NAMES", "DISTRACTORS", "FILLED", "FORMS", "Bits", "Grid", "Pose", "cover_of"]

CLASS_NAMES = ("disc", "square", "triangle", "star", "ring", "cross", "crescent", "bar")

Grid = NDArray[np.float64]
Bits = NDArray[np.bool_]

# Coordinates in, inside or not out; each about fills the square from -1 to 1.


def _disc(u: Grid, v: Grid) -> Bits:
    return u * u + v * v <= 1


def _square(u: Grid, v: Grid) -> Bits:
    return np.maximum(np.abs(u), np.abs(v)) <= 0.86


def _triangle(u: Grid, v: Grid) -> Bits:
    return (v <= 0.62) & (1.9 * np.abs(u) - v <= 1.05)


def _star(u: Grid, v: Grid) -> Bits:
    # Five tips: a point belongs to one if it lies within its two edges. Mirror symmetry leaves three to look at.
    u, inside = np.abs(u), np.zeros(u.shape, dtype=bool)
    for tip_u, tip_v in ((0.0, -1.0), (0.9510565163, -0.3090169944), (0.5877852523, 0.8090169944)):
        along = u * tip_u + v * tip_v
        inside |= (along >= 0) & (np.abs(u * tip_v - v * tip_u) <= 0.47 * (1 - along))
    return inside


def _ring(u: Grid, v: Grid) -> Bits:
    squared = u * u + v * v
    return (squared <= 1) & (squared >= 0.33)


def _cross(u: Grid, v: Grid) -> Bits:
    u, v = np.abs(u), np.abs(v)
    return (np.maximum(u, v) <= 1) & (np.minimum(u, v) <= 0.33)


def _crescent(u: Grid, v: Grid) -> Bits:
    shifted = u - 0.55
    return (u * u + v * v <= 1) & (shifted * shifted + v * v >= 0.6)


def _bar(u: Grid, v: Grid) -> Bits:
    return (np.abs(u) <= 1) & (np.abs(v) <= 0.32)


FORMS: tuple[Callable[[Grid, Grid], Bits], ...] = (
    _disc, _square, _triangle, _star, _ring, _cross, _crescent, _bar,
)  # fmt: skip
FILLED = (3.14, 2.96, 1.47, 1.40, 2.10, 2.20, 1.55, 1.28)  # Area of each in its own units.


def _half(u: Grid, v: Grid) -> Bits:
    return (u * u + v * v <= 1) & (v >= 0.05)


def _angle(u: Grid, v: Grid) -> Bits:
    return (np.maximum(np.abs(u), np.abs(v)) <= 0.9) & ((u <= -0.4) | (v >= 0.4))


def _arc(u: Grid, v: Grid) -> Bits:
    squared = u * u + v * v
    return (squared <= 1) & (squared >= 0.6) & (v >= 0.2)


def _stroke(u: Grid, v: Grid) -> Bits:
    return (np.abs(u) <= 1) & (np.abs(v) <= 0.05)


def _lattice(u: Grid, v: Grid) -> Bits:
    u, v = np.abs(u), np.abs(v)
    bars_u = (u <= 0.15) | ((u >= 0.4) & (u <= 0.6))
    bars_v = (v <= 0.15) | ((v >= 0.4) & (v <= 0.6))
    return (np.maximum(u, v) <= 0.88) & (bars_u | bars_v)


DISTRACTORS = (_half, _angle, _arc, _stroke, _stroke, _lattice)


@dataclass(frozen=True)
class Pose:
    """Where and how a form stands: centre and half sizes in pixels, turn as (cosine, sine), curvature."""

    x: float
    y: float
    half: tuple[float, float]
    turn: tuple[float, float]
    bend: float


def cover_of(form: Callable[[Grid, Grid], Bits], pose: Pose, side: int) -> tuple[slice, slice, Whole]:
    """Rows, columns and the share of each pixel, in 16ths, that the form covers."""
    reach = max(pose.half) * (1.25 + 0.65 * abs(pose.bend)) + 1
    x1, x2 = max(0, int(pose.x - reach)), min(side, int(pose.x + reach) + 1)
    y1, y2 = max(0, int(pose.y - reach)), min(side, int(pose.y + reach) + 1)
    if x1 >= x2 or y1 >= y2:
        return slice(0, 0), slice(0, 0), np.zeros((0, 0), dtype=np.int32)
    fine = 4 if max(pose.half) < 24 else 2
    dx = ((np.arange((x2 - x1) * fine) + 0.5) / fine + (x1 - pose.x))[None, :]
    dy = ((np.arange((y2 - y1) * fine) + 0.5) / fine + (y1 - pose.y))[:, None]
    cosine, sine = pose.turn
    u = cosine / pose.half[0] * dx + sine / pose.half[0] * dy
    v = cosine / pose.half[1] * dy - sine / pose.half[1] * dx
    if pose.bend:
        v += pose.bend * (u * u) - 0.35 * pose.bend
    inside = form(u, v).view(np.uint8)
    counts = np.zeros((y2 - y1, x2 - x1), dtype=np.uint8)
    for row in range(fine):
        for column in range(fine):
            counts += inside[row::fine, column::fine]
    return slice(y1, y2), slice(x1, x2), counts.astype(np.int32) * (16 // (fine * fine))
