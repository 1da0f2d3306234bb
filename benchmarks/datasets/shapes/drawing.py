"""An image of a scene: what is painted where, and what of it is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.datasets.shapes.chance import Chance, Whole
from benchmarks.datasets.shapes.forms import DISTRACTORS, FILLED, FORMS, Bits, Pose, cover_of
from benchmarks.datasets.shapes.scenes import Scene
from benchmarks.datasets.shapes.textures import colour_of, fill_of, ground_of, lit

__all__ = ["draw"]


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
    chance = Chance(scene.seed, split, index)
    canvas = _Canvas(chance, scene)
    for _ in range(chance.integer(*scene.distractors)):
        form = DISTRACTORS[chance.integer(0, len(DISTRACTORS) - 1)]
        rows, columns, cover = cover_of(form, _pose(chance, scene, 0, chance.octaves(60, 5000)), scene.side)
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
    return lit(chance, scene, canvas.pixels), _annotate(canvas)


@dataclass
class _Object:
    """A painted object: its pixels as if nothing stood before it, their number, and how many may be hidden."""

    label: int
    full: Bits
    expected: float
    may_hide: float
    difficult: bool
    crowd: bool = False


class _Canvas:
    """An image under way: pixels, and which object shows in each."""

    def __init__(self, chance: Chance, scene: Scene) -> None:
        self.chance, self.scene = chance, scene
        self.pixels = ground_of(chance, scene)
        self.owner = np.full((scene.side, scene.side), -1, dtype=np.int32)
        self.objects: list[_Object] = []

    def visible(self, index: int) -> int:
        return int(np.count_nonzero(self.owner == index))

    def paint(self, rows: slice, columns: slice, cover: Whole, contrast: int) -> None:
        """Blend a form of a new colour that stands out from what it covers by at least `contrast`."""
        below = self.pixels[rows, columns]
        weight = max(1, int(cover.sum()))
        mean = (below * cover[..., None]).sum(axis=(0, 1), dtype=np.int64) // weight
        colour = colour_of(self.chance)
        while int(np.abs(colour - mean).sum()) < contrast:
            colour = colour_of(self.chance)
        fill = fill_of(self.chance, rows, columns, colour)
        if self.chance.happens(0.35):
            solid = cover >= 8
            inner = solid.copy()
            inner[1:] &= solid[:-1]
            inner[:-1] &= solid[1:]
            inner[:, 1:] &= solid[:, :-1]
            inner[:, :-1] &= solid[:, 1:]
            fill[solid & ~inner] //= 3
        self.pixels[rows, columns] = below + (fill - below) * cover[..., None] // 16

    def add(self, label: int, pose: Pose, hide: float, difficult: bool) -> bool:
        """Paint an object unless it or those it covers would show too little. Says whether it did."""
        rows, columns, cover = cover_of(FORMS[label], pose, self.scene.side)
        solid = cover >= 8
        count = int(np.count_nonzero(solid))
        expected = pose.half[0] * pose.half[1] * FILLED[label]
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


def _pose(chance: Chance, scene: Scene, label: int, area: float) -> Pose:
    """A pose whose form has about `area` square pixels, for the most part inside the image."""
    ratio = math.sqrt(chance.real(1, scene.stretch))
    if chance.happens(0.5):
        ratio = 1 / ratio
    half = math.sqrt(area / FILLED[label])
    # Half angles in a rational parametrisation: exact arithmetic where a sine would depend on a library.
    tangent = chance.real(-scene.lean, scene.lean) if scene.rotated else 0.0
    cosine, sine = (1 - tangent * tangent) / (1 + tangent * tangent), 2 * tangent / (1 + tangent * tangent)
    if scene.rotated and scene.lean == 1.0 and chance.happens(0.5):
        cosine, sine = -cosine, -sine
    margin = min(scene.side / 2, half * 0.9)
    return Pose(
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
        rows, columns, cover = cover_of(FORMS[label], near, scene.side)
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
