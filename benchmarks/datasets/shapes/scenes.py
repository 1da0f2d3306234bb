"""What the generator can vary, and the scenes that there are."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OWN", "SCENES", "Scene"]


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
    "twins": Scene(
        forms=(0,) * 10 + tuple(range(1, 8)), labelled=(0,), objects=(2, 4), area=(240, 4800), large=0.0, difficult=0.0,
        clump=0.0, neighbours=(2, 2), overlap=(0.0, 0.8), hidden=0.9, whole=True, seed=11,
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
