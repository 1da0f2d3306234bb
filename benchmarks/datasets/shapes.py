"""`shapes`: drawn images that need no download. Eight forms on textured ground, with occlusion, crowds and distractors.

Every pixel follows from 64-bit integers (splitmix64) by additions, multiplications, divisions and square roots of
IEEE doubles taken element by element, so that no version of a library can move one. A split is drawn once into the
cache folder, in VOC's and in COCO's layout, and read back by the loaders of the real sets.

`mix` is the default scene and its three splits are frozen: every shipped checkpoint rests on them. The other scenes
serve single questions (crowds, pairs, concentric objects, bent forms, a sweep of sizes, bars at any angle); each has a
test split of 500 images, named like the scene, and a training split `<scene>-train`.

Detectors of one kind of object, faces or lines of text, have data sets of their own (`OWN`), frozen too: `discs`, in
which everything that is no disc is ground, and `bars`, which lean by up to 33 degrees, as lines of text do.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from rich.progress import track

from benchmarks.datasets.coco import open_coco
from benchmarks.datasets.dataset import Dataset, DatasetError, cache_folder

__all__ = ["CLASS_NAMES", "FINGERPRINTS", "OWN", "SCENES", "Scene", "draw", "open_shapes"]

CLASS_NAMES = ("disc", "square", "triangle", "star", "ring", "cross", "crescent", "bar")

FINGERPRINTS = {
    "train": "d70179f93f28d4341aa71db5b07a799f810ecfb1d0e6891b424cb9404136b35b",
    "val": "1fee963d8a589b2ac3a078558e824cef36564574097461e4cf1c0aaedb836ea4",
    "test": "44dbbad232d8abb4a71f8c4ebc4534b0013b2432717c66a6c521e8ed35f0d7eb",
    "discs-train": "7dd9e9d90a22e8a635bc016874e46dd6f927b41a4c3ebd00b7df4058791862bd",
    "discs-test": "66787f8bb0eb2c378f8da7f7868974cca0090a3342d2d55d0a44ab50ac76b5d3",
    "bars-train": "99db76426d223f1e009b0c15e9f49d92392a11264dd1bbc1aaad1791bbda2028",
    "bars-test": "82be4ffcf20ae649e4681724fb457148b9f41dfacf09b875d2af9cbf54ad33be",
}
"""`Dataset.fingerprint` of the frozen splits, over pixels and boxes; of those of `OWN`, `<name>-<split>`."""

_EDITION = 1  # Goes up when a pixel or a box of any scene changes.

Grid = NDArray[np.float64]
Whole = NDArray[np.int32]
Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """What the generator can vary.

    Attributes:
        side: Of the square images, pixels.
        images: Of the test split and of the training split.
        forms: Labels that occur, each as often as it stands here.
        labelled: Labels of the objects; other forms are painted likewise, and are no objects.
        objects: Fewest and most objects of small and medium size.
        area: Smallest and largest area that these aim at, square pixels; uniform over its octaves.
        large: Share of images with one object over 96^2 square pixels.
        hidden: Largest share of an object that others may cover.
        difficult: Share of objects that may be covered more, or are tiny; they carry the flag.
        clump: Share of images with a clump of tiny objects, annotated as one crowd.
        neighbours: Fewest and most objects of a row of same-class neighbours; (1, 1) is no row.
        overlap: IoU of neighbouring boxes.
        concentric: Share of objects around a smaller one with the same centre.
        rotated: Turn forms.
        lean: Tangent of half the largest angle by which they turn either way, 1 being a right angle; below that none
            stands upside down.
        stretch: Largest ratio of the two axes.
        bend: Largest curvature of a form's axis, in its own half sizes; 0 is rigid.
        texture: Strength of ground texture and pixel noise.
        distractors: Fewest and most marks on the ground that are no object.
        whole: Boxes and areas of whole objects, hidden parts too; else of the visible part, as in COCO.
        seed: Of the splits.
    """

    side: int = 160
    images: tuple[int, int] = (500, 2000)
    forms: tuple[int, ...] = tuple(range(8))
    labelled: tuple[int, ...] = tuple(range(8))
    objects: tuple[int, int] = (2, 10)
    area: tuple[int, int] = (64, 8192)
    large: float = 0.5
    hidden: float = 0.45
    difficult: float = 0.06
    clump: float = 0.1
    neighbours: tuple[int, int] = (1, 1)
    overlap: tuple[float, float] = (0.0, 0.0)
    concentric: float = 0.0
    rotated: bool = True
    lean: float = 1.0
    stretch: float = 1.3
    bend: float = 0.15
    texture: float = 1.0
    distractors: tuple[int, int] = (2, 7)
    whole: bool = False
    seed: int = 1


SCENES: dict[str, Scene] = {
    "mix": Scene(),
    "sparse": Scene(objects=(1, 3), area=(120, 3200), large=0.0, difficult=0.0, clump=0.0, seed=2),
    "crowd": Scene(
        objects=(1, 3), area=(120, 3200), large=0.0, difficult=0.0, clump=0.0, neighbours=(2, 5), overlap=(0.4, 0.7),
        hidden=0.85, whole=True, seed=3,
    ),
    "pairs": Scene(
        objects=(1, 2), area=(240, 4800), large=0.0, difficult=0.0, clump=0.0, neighbours=(2, 2), overlap=(0.0, 0.8),
        hidden=0.9, whole=True, seed=4,
    ),
    "concentric": Scene(
        objects=(1, 3), area=(500, 8000), large=0.2, difficult=0.0, clump=0.0, concentric=0.8, hidden=0.6, whole=True,
        seed=5,
    ),
    "rigid": Scene(difficult=0.0, clump=0.0, bend=0.0, stretch=1.0, seed=6),
    "bent": Scene(difficult=0.0, clump=0.0, bend=0.8, stretch=1.5, seed=6),
    "sweep": Scene(
        side=448, forms=(0,), objects=(1, 3), area=(13, 125_000), large=0.0, difficult=0.0, clump=0.0, stretch=1.1,
        bend=0.0, seed=7,
    ),
    "turned": Scene(
        forms=(7,), objects=(2, 8), area=(120, 3200), large=0.0, difficult=0.0, clump=0.0, bend=0.0, hidden=0.3,
        whole=True, seed=8,
    ),
}  # fmt: skip

OWN: dict[str, Scene] = {
    "discs": Scene(
        images=(300, 2000), forms=(0,) * 10 + tuple(range(1, 8)), labelled=(0,), objects=(3, 9), area=(120, 8192),
        large=0.25, difficult=0.0, clump=0.0, whole=True, seed=9,
    ),
    "bars": Scene(
        images=(300, 2000), forms=(7,) * 6 + (0, 1, 2, 5), labelled=(7,), objects=(4, 10), area=(300, 4000),
        large=0.0, difficult=0.0, clump=0.0, bend=0.0, lean=0.3, hidden=0.3, whole=True, seed=10,
    ),
}  # fmt: skip
"""Scenes that are data sets by themselves, of one class each: three in five of the forms are objects."""

_FROZEN = {"train": 2000, "val": 300, "test": 300}


class _Chance:
    """splitmix64: the numbers are part of the data set, so they are computed here."""

    _STEP, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1

    def __init__(self, *key: int) -> None:
        self._state = 0
        for part in key:
            self._state = (self._state ^ part) & self._MASK
            self._state = self.bits()

    def bits(self) -> int:
        self._state = (self._state + self._STEP) & self._MASK
        value = self._state
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & self._MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & self._MASK
        return value ^ (value >> 31)

    def integer(self, low: int, high: int) -> int:
        """Uniform in `low..high`, both included."""
        return low + self.bits() % (high - low + 1)

    def real(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * ((self.bits() >> 11) / (1 << 53))

    def happens(self, share: float) -> bool:
        return self.real() < share

    def octaves(self, low: float, high: float) -> float:
        """About uniform in the logarithm: an octave, then a number within it."""
        count = 1
        while low * (1 << count) < high:
            count += 1
        return min(high, low * (1 << self.integer(0, count - 1)) * self.real(1, 2))

    def bytes(self, *shape: int) -> Whole:
        """Uniform in 0..255."""
        count = 1
        for length in shape:
            count *= length
        words = -(-count // 8)
        with np.errstate(over="ignore"):
            value = np.uint64(self._state) + np.uint64(self._STEP) * np.arange(1, words + 1, dtype=np.uint64)
            self._state = int(value[-1])
            value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            value ^= value >> np.uint64(31)
        return value.astype("<u8").view(np.uint8)[:count].reshape(shape).astype(np.int32)


# --- forms: coordinates in, inside or not out; each about fills the square from -1 to 1


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


_FORMS: tuple[Callable[[Grid, Grid], Bits], ...] = (
    _disc, _square, _triangle, _star, _ring, _cross, _crescent, _bar,
)  # fmt: skip
_FILLED = (3.14, 2.96, 1.47, 1.40, 2.10, 2.20, 1.55, 1.28)  # Area of each in its own units.


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


_DISTRACTORS = (_half, _angle, _arc, _stroke, _stroke, _lattice)


@dataclass(frozen=True)
class _Pose:
    """Where and how a form stands: centre and half sizes in pixels, turn as (cosine, sine), curvature."""

    x: float
    y: float
    half: tuple[float, float]
    turn: tuple[float, float]
    bend: float


@dataclass
class _Object:
    """A painted object: its pixels as if nothing stood before it, their number, and how many may be hidden."""

    label: int
    full: Bits
    expected: float
    may_hide: float
    difficult: bool
    crowd: bool = False


def _cover(form: Callable[[Grid, Grid], Bits], pose: _Pose, side: int) -> tuple[slice, slice, Whole]:
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


def _waves(chance: _Chance, height: int, width: int, cell: int) -> Whole:
    """Value noise, 0..255: random numbers on a lattice, straight lines between them."""
    rows, columns = height // cell + 2, width // cell + 2
    lattice = chance.bytes(rows, columns)
    x, y = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)
    ix, fx, iy, fy = x // cell, x % cell, (y // cell), (y % cell)[:, None]
    across = lattice[:, ix] * (cell - fx) + lattice[:, ix + 1] * fx
    return np.asarray((across[iy] * (cell - fy) + across[iy + 1] * fy) // (cell * cell), dtype=np.int32)


def _stripes(chance: _Chance, height: int, width: int) -> Whole:
    """Stripes or a chequered pattern in any direction, 0 or 255."""
    a, b, period = chance.integer(-8, 8), chance.integer(-8, 8), chance.integer(24, 96)
    x, y = np.arange(width, dtype=np.int32)[None, :], np.arange(height, dtype=np.int32)[:, None]
    first = (a * x + b * y) // period % 2
    if chance.happens(0.4):
        first = first ^ ((b * x - a * y) // period % 2)
    return np.asarray(first * 255, dtype=np.int32)


def _colour(chance: _Chance) -> Whole:
    return chance.bytes(3)


def _ground(chance: _Chance, scene: Scene) -> Whole:
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
    dark, light = _colour(chance), _colour(chance)
    reach = int(256 * min(1.0, 0.75 * scene.texture))
    return dark + (light - dark) * ((mixed[..., None] - 128) * reach // 256 + 128) // 255


def _fill(chance: _Chance, rows: slice, columns: slice, colour: Whole) -> Whole:
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


class _Canvas:
    """An image under way: pixels, and which object shows in each."""

    def __init__(self, chance: _Chance, scene: Scene) -> None:
        self.chance, self.scene = chance, scene
        self.pixels = _ground(chance, scene)
        self.owner = np.full((scene.side, scene.side), -1, dtype=np.int32)
        self.objects: list[_Object] = []

    def visible(self, index: int) -> int:
        return int(np.count_nonzero(self.owner == index))

    def paint(self, rows: slice, columns: slice, cover: Whole, contrast: int) -> None:
        """Blend a form of a new colour that stands out from what it covers by at least `contrast`."""
        below = self.pixels[rows, columns]
        weight = max(1, int(cover.sum()))
        mean = (below * cover[..., None]).sum(axis=(0, 1), dtype=np.int64) // weight
        colour = _colour(self.chance)
        while int(np.abs(colour - mean).sum()) < contrast:
            colour = _colour(self.chance)
        fill = _fill(self.chance, rows, columns, colour)
        if self.chance.happens(0.35):
            solid = cover >= 8
            inner = solid.copy()
            inner[1:] &= solid[:-1]
            inner[:-1] &= solid[1:]
            inner[:, 1:] &= solid[:, :-1]
            inner[:, :-1] &= solid[:, 1:]
            fill[solid & ~inner] //= 3
        self.pixels[rows, columns] = below + (fill - below) * cover[..., None] // 16

    def add(self, label: int, pose: _Pose, hide: float, difficult: bool) -> bool:
        """Paint an object unless it or those it covers would show too little. Says whether it did."""
        rows, columns, cover = _cover(_FORMS[label], pose, self.scene.side)
        solid = cover >= 8
        count = int(np.count_nonzero(solid))
        expected = pose.half[0] * pose.half[1] * _FILLED[label]
        if count < max(8, 0.7 * expected):
            return False
        covered = self.owner[rows, columns][solid]
        for index in np.unique(covered[covered >= 0]).tolist():
            other = self.objects[index]
            left = self.visible(index) - int(np.count_nonzero(covered == index))
            if left < (1 - other.may_hide) * other.expected:
                return False
        full = np.zeros(self.owner.shape, dtype=bool)
        full[rows, columns] = solid
        self.paint(rows, columns, cover, 60 if self.chance.happens(0.3) else 110)
        self.owner[full] = len(self.objects)
        self.objects.append(_Object(label, full, float(count), hide, difficult))
        return True


def _pose(chance: _Chance, scene: Scene, label: int, area: float) -> _Pose:
    """A pose whose form has about `area` square pixels, for the most part inside the image."""
    ratio = math.sqrt(chance.real(1, scene.stretch))
    if chance.happens(0.5):
        ratio = 1 / ratio
    half = math.sqrt(area / _FILLED[label])
    # Half angles in a rational parametrisation: exact arithmetic where a sine would depend on a library.
    tangent = chance.real(-scene.lean, scene.lean) if scene.rotated else 0.0
    cosine, sine = (1 - tangent * tangent) / (1 + tangent * tangent), 2 * tangent / (1 + tangent * tangent)
    if scene.rotated and scene.lean == 1.0 and chance.happens(0.5):
        cosine, sine = -cosine, -sine
    margin = min(scene.side / 2, half * 0.9)
    return _Pose(
        x=chance.real(margin, scene.side - margin),
        y=chance.real(margin, scene.side - margin),
        half=(half * ratio, half / ratio),
        turn=(cosine, sine),
        bend=chance.real(-scene.bend, scene.bend),
    )


def _clump(canvas: _Canvas) -> None:
    """A crowd: 10 to 22 tiny objects of one class, too close to box one by one."""
    chance, scene = canvas.chance, canvas.scene
    label, reach = chance.integer(0, 7), chance.integer(14, 26)
    x, y = chance.real(reach, scene.side - reach), chance.real(reach, scene.side - reach)
    union = np.zeros(canvas.owner.shape, dtype=bool)
    for _ in range(chance.integer(10, 22)):
        pose = _pose(chance, scene, label, chance.real(22, 60))
        near = replace(pose, x=x + chance.real(-reach, reach), y=y + chance.real(-reach, reach))
        rows, columns, cover = _cover(_FORMS[label], near, scene.side)
        if cover.size and not (canvas.owner[rows, columns][cover >= 8] >= 0).any():
            canvas.paint(rows, columns, cover, 100)
            union[rows, columns] |= cover >= 8
    if np.count_nonzero(union) >= 150:
        canvas.owner[union] = len(canvas.objects)
        canvas.objects.append(_Object(label, union, float(np.count_nonzero(union)), 0.3, False, crowd=True))


def _row(canvas: _Canvas, label: int, area: float, hide: float, difficult: bool) -> None:
    """One object, or a row of neighbours of its class that overlap as the scene wants."""
    chance, scene = canvas.chance, canvas.scene
    for _ in range(12):
        first = _pose(chance, scene, label, area)
        if canvas.add(label, first, hide, difficult):
            break
    else:
        return
    ys, xs = np.nonzero(canvas.objects[-1].full)
    if chance.happens(scene.concentric):
        inner = scene.forms[chance.integer(0, len(scene.forms) - 1)]
        inside = _pose(chance, scene, inner, area * chance.real(0.08, 0.25))
        canvas.add(inner, replace(inside, x=first.x, y=first.y), hide, False)
    along_x = chance.happens(0.5)
    sign = 1 if chance.happens(0.5) else -1
    length = int(xs.max() - xs.min() if along_x else ys.max() - ys.min()) + 1
    last, turned = first, False
    for _ in range(chance.integer(*scene.neighbours) - 1):
        # Equal boxes that are moved by d along a side of length w overlap with IoU (w - d) / (w + d).
        overlap = chance.real(*scene.overlap)
        move = length * (1 - overlap) / (1 + overlap)
        following = replace(last, x=last.x + sign * move * along_x, y=last.y + sign * move * (not along_x))
        if not canvas.add(label, following, hide, difficult):
            if turned:
                return
            # The image ends here: the row goes on at its other end.
            sign, turned = -sign, True
            following = replace(first, x=first.x + sign * move * along_x, y=first.y + sign * move * (not along_x))
            if not canvas.add(label, following, hide, difficult):
                return
        last = following


def draw(scene: Scene, split: int, index: int) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """Draw one image.

    Args:
        scene: What to vary.
        split: Number of the split: 0 train, 1 val, 2 test.
        index: Of the image within it.

    Returns:
        Pixels uint8 `[side, side, 3]` and its objects: `label`, `bbox` (COCO's x, y, width, height), `area`,
        `iscrowd`, `difficult`, `mask` (bool `[side, side]`).
    """
    chance = _Chance(scene.seed, split, index)
    canvas = _Canvas(chance, scene)
    for _ in range(chance.integer(*scene.distractors)):
        form = _DISTRACTORS[chance.integer(0, len(_DISTRACTORS) - 1)]
        rows, columns, cover = _cover(form, _pose(chance, scene, 0, chance.octaves(60, 5000)), scene.side)
        if cover.any():
            canvas.paint(rows, columns, cover, 60)
    plan: list[float] = []
    if chance.happens(scene.large):
        plan.append(chance.real(10_200, 15_500))
    few, many = scene.objects
    small = [chance.octaves(*scene.area) for _ in range(chance.integer(few, many if not plan else max(few, many // 2)))]
    if chance.happens(0.7):
        small.sort(reverse=True)
    crowded = scene.neighbours[1] > 1 or scene.concentric > 0
    for area in plan + small:
        label = scene.forms[chance.integer(0, len(scene.forms) - 1)]
        hide, difficult = scene.hidden * (1.0 if crowded else chance.real()), False
        if chance.happens(scene.difficult):
            difficult, hide = True, 0.85
            if area < 2000:
                area = chance.real(18, 40)
        _row(canvas, label, area, hide, difficult)
    if chance.happens(scene.clump):
        _clump(canvas)
    return _finish(canvas), _annotate(canvas)


def _finish(canvas: _Canvas) -> NDArray[np.uint8]:
    """Light from one side and the noise of a sensor."""
    chance, side = canvas.chance, canvas.scene.side
    slope_x, slope_y = chance.integer(-48, 48), chance.integer(-48, 48)
    ramp = np.arange(side, dtype=np.int32) * 2 - side
    light = 256 + (ramp[None, :] * slope_x + ramp[:, None] * slope_y) // side
    strength = int(chance.integer(8, 48) * canvas.scene.texture)
    noise = (chance.bytes(side, side, 3) + chance.bytes(side, side, 3) - 255) * strength // 512
    return np.clip(canvas.pixels * light[..., None] // 256 + noise, 0, 255).astype(np.uint8)


def _annotate(canvas: _Canvas) -> list[dict[str, Any]]:
    found = []
    for index, thing in enumerate(canvas.objects):
        shown = canvas.owner == index
        mask = thing.full if canvas.scene.whole else shown
        visible, area = int(np.count_nonzero(shown)), int(np.count_nonzero(mask))
        if visible < 8 or thing.label not in canvas.scene.labelled:
            continue
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        x1, y1, x2, y2 = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        hard = thing.difficult and (visible < 0.5 * thing.expected or visible < 48)
        found.append({
            "label": thing.label,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": area,
            "iscrowd": int(thing.crowd),
            "difficult": int(hard),
            "mask": mask,
        })  # fmt: skip
    return found


# --- on disk

_Drawn = tuple[int, NDArray[np.uint8], list[dict[str, Any]]]
"""An image of a split: its index, and what `draw` answers."""


def open_shapes(split: str, *, name: str = "shapes", masks: bool = False) -> Dataset:
    """Open a split, drawing it first where the cache folder lacks it.

    Args:
        split: `train`, `val` or `test` of the frozen scene; or a scene's name (its test split), or `<scene>-train`.
            Of the sets of `OWN` `train` or `test`.
        name: `shapes`, or a key of `OWN`.
        masks: Decode the objects' masks.

    Raises:
        DatasetError: There is no such split.
    """
    return open_coco(split, write(split, name=name), name=name, masks=masks)


def _plan(split: str, data: str) -> tuple[Scene, int, int]:
    """Scene, number of the split, and images of a split's name."""
    numbers = {"train": 0, "val": 1, "test": 2}
    if data in OWN:
        if split not in ("train", "test"):
            raise DatasetError(f"{data}: split {split!r} is unknown; there are train and test")
        return OWN[data], numbers[split], OWN[data].images[split == "train"]
    if split in _FROZEN:
        return SCENES["mix"], numbers[split], _FROZEN[split]
    name, _, part = split.partition("-")
    if name not in SCENES or name == "mix" or part not in ("", "train", "test"):
        scenes = ", ".join(name for name in SCENES if name != "mix")
        raise DatasetError(
            f"shapes: split {split!r} is unknown; there are train, val, test, and the scenes {scenes}, "
            "each also as <scene>-train"
        )
    number = numbers[part or "test"]
    return SCENES[name], number, SCENES[name].images[number == 0]


def write(split: str, folder: Path | None = None, name: str = "shapes") -> Path:
    """Draw a split into `folder` (by default `<name>/` in the cache folder) unless it is there, and say where it lies.

    The folder appears whole or not at all; a second process waits for the first. It holds COCO's layout
    (`annotations/`, `images/<split>/`) and VOC's (`VOCdevkit/VOC2007/`), whose images are the same files.
    """
    scene, number, count = _plan(split, name)
    folder = folder or cache_folder() / name
    place = folder / f"{split}.{_EDITION}"
    if place.is_dir():
        return place
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{split}.lock"):
        if not place.is_dir():
            # What a process that was killed left: the lock is ours, so none draws there now.
            for left in folder.glob(f".{split}.*/"):
                shutil.rmtree(left, ignore_errors=True)
            temporary = Path(tempfile.mkdtemp(dir=folder, prefix=f".{split}."))
            try:
                images = track(range(count), f"Drawing {name} {split}", transient=True)
                _write_layouts(temporary, split, scene, ((index, *draw(scene, number, index)) for index in images))
                drawn = open_coco(split, temporary, name=name).fingerprint
                frozen = FINGERPRINTS.get(split if name == "shapes" else f"{name}-{split}", drawn)
                if drawn != frozen:
                    raise DatasetError(
                        f"{name} {split}: this machine drew other pixels or boxes (fingerprint {drawn}, frozen is "
                        f"{frozen}); results on them would not compare, please report its platform"
                    )
                os.replace(temporary, place)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
    return place


def _write_layouts(folder: Path, split: str, scene: Scene, drawn: Iterable[_Drawn]) -> None:
    coco_images, voc = folder / "images" / split, folder / "VOCdevkit" / "VOC2007"
    for path in (
        coco_images,
        folder / "annotations",
        *(voc / p for p in ("Annotations", "JPEGImages", "ImageSets/Main")),
    ):
        path.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    names: list[str] = []
    for index, pixels, objects in drawn:
        name = f"{index + 1:06d}"
        file = coco_images / f"{name}.png"
        file.write_bytes(_png(pixels))
        try:
            os.link(file, voc / "JPEGImages" / file.name)
        except OSError:  # Some file systems have no links.
            shutil.copyfile(file, voc / "JPEGImages" / file.name)
        (voc / "Annotations" / f"{name}.xml").write_text(_xml(file.name, scene.side, objects))
        names.append(name)
        images.append({"id": index + 1, "file_name": file.name, "width": scene.side, "height": scene.side})
        for thing in objects:
            encoded = coco_mask.encode(np.asfortranarray(thing["mask"], dtype=np.uint8))
            annotations.append({
                "id": len(annotations) + 1,
                "image_id": index + 1,
                "category_id": thing["label"] + 1,
                "bbox": thing["bbox"],
                "area": thing["area"],
                "iscrowd": thing["iscrowd"],
                "difficult": thing["difficult"],
                "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
            })  # fmt: skip
    categories = [{"id": label + 1, "name": CLASS_NAMES[label]} for label in scene.labelled]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(truth))
    (voc / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of stored, not packed, pixels: its bytes depend on no compressor, and it reads fast."""
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + width * 3), dtype=np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    raw, most = rows.tobytes(), 0xFFFF
    blocks = [
        struct.pack("<BHH", start + most >= len(raw), len(block), len(block) ^ 0xFFFF) + block
        for start in range(0, len(raw), most)
        for block in [raw[start : start + most]]
    ]
    stream = b"\x78\x01" + b"".join(blocks) + struct.pack(">I", zlib.adler32(raw))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def _xml(file: str, side: int, objects: list[dict[str, Any]]) -> str:
    """VOC's annotation: inclusive pixels from 1. It knows no crowds: those are difficult there."""
    lines = [f"<annotation>\n\t<filename>{file}</filename>"]
    lines.append(f"\t<size><width>{side}</width><height>{side}</height><depth>3</depth></size>")
    for thing in objects:
        x, y, width, height = thing["bbox"]
        lines.append(
            f"\t<object>\n\t\t<name>{CLASS_NAMES[thing['label']]}</name>\n\t\t<truncated>0</truncated>\n"
            f"\t\t<difficult>{thing['difficult'] or thing['iscrowd']}</difficult>\n"
            f"\t\t<bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + width}</xmax><ymax>{y + height}</ymax>"
            "</bndbox>\n\t</object>"
        )
    return "\n".join([*lines, "</annotation>", ""])
