"""Ground truth and detections as arrays, and what is odd about them.

Boxes are x, y, width, height in continuous pixels, as COCO writes them. Input is checked once, where it is read, in
`ground_truth` and `detections`: what cannot be scored is refused by a `ScoreError` that names the file, the entry
(counted from 0) and the remedy; what can be scored but looks wrong becomes a `Note`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

__all__ = ["Flags", "Floats", "GroundTruth", "Id", "Integers", "Note", "Oddities", "Results", "ScoreError"]

Id = int | str
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

OUTSIDE = 0.1
"""A box that reaches out of its image by more than this share of the image's side is reported."""


class ScoreError(ValueError):
    """Input that cannot be scored; the message names the file, the entry, the reason and the remedy."""


class Note(TypedDict):
    """Something that was scored, or left out, but should be looked at."""

    kind: str
    count: int
    message: str


@dataclass(frozen=True)
class GroundTruth:
    """What is to be found. Images and categories are known by their position in ascending order of their ids.

    Attributes:
        name: What error messages call it: the file.
        image_ids: Ids in ascending order, all integers or all strings.
        image_sizes: Width and height `[I, 2]`, NaN where the file does not say.
        image_stems: File names without folder and ending; empty where the file does not say.
        category_ids: Ids in ascending order, all integers or all strings.
        category_names: Names as the file gives them; the id where it gives none.
        image, category: Positions `[G]` of each object's image and category, in the file's order.
        boxes: x, y, width, height `[G, 4]`.
        area: The annotation's area `[G]`, in square pixels: COCO's scales go by it, not by the box.
        crowd, difficult: COCO's `iscrowd` and VOC's `difficult` `[G]`.
        notes: What should be looked at.
    """

    name: str
    image_ids: tuple[Id, ...]
    image_sizes: Floats
    image_stems: tuple[str, ...]
    category_ids: tuple[Id, ...]
    category_names: tuple[str, ...]
    image: Integers
    category: Integers
    boxes: Floats
    area: Floats
    crowd: Flags
    difficult: Flags
    notes: tuple[Note, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """One key per category: its name, or its id as text where names repeat."""
        repeated = {name for name, count in Counter(self.category_names).items() if count > 1}
        pairs = zip(self.category_names, self.category_ids, strict=True)
        return tuple(str(id_) if name in repeated else name for name, id_ in pairs)

    @cached_property
    def image_at(self) -> dict[Id, int]:
        """Position of each image, by its id."""
        return {id_: position for position, id_ in enumerate(self.image_ids)}

    @cached_property
    def category_at(self) -> dict[Id, int]:
        """Position of each category, by its id."""
        return {id_: position for position, id_ in enumerate(self.category_ids)}

    @cached_property
    def image_numbers(self) -> Integers:
        """The ids of the images where they are integers, else nothing."""
        return _numbers_of(self.image_ids)

    @cached_property
    def category_numbers(self) -> Integers:
        """Likewise of the categories."""
        return _numbers_of(self.category_ids)


@dataclass(frozen=True)
class Results:
    """What was found, in the order of the file, without the detections of unknown categories.

    Attributes:
        name: What error messages call it: the file.
        image, category: Positions `[N]` in the ground truth's `image_ids` and `category_ids`.
        boxes: x, y, width, height `[N, 4]`.
        scores: Confidences `[N]`, of any finite value.
        notes: What should be looked at.
    """

    name: str
    image: Integers
    category: Integers
    boxes: Floats
    scores: Floats
    notes: tuple[Note, ...]


@dataclass
class Oddities:
    """What is left out, or scored, but should be looked at: counted while entries are read, in one part or in many.

    Attributes:
        what: annotation or detection.
        listed_in: Where its category should be listed.
        strangers: Entries left out, by the category that is not.
        boxes, outside: Boxes that were looked at, and those that reach far out of their image.
        first: The first of these, in words.
        where: What an entry is called there.
    """

    what: str
    listed_in: str
    where: str = "entry"
    strangers: Counter[Id] = field(default_factory=Counter)
    boxes: int = 0
    outside: int = 0
    first: str = ""

    @classmethod
    def of_annotations(cls) -> Oddities:
        """Of ground truth."""
        return cls("annotation", "categories")

    @classmethod
    def of_detections(cls) -> Oddities:
        """Of results."""
        return cls("detection", "the ground truth's categories")

    def look(self, entries: Integers, image: Integers, boxes: Floats, sizes: Floats) -> None:
        """Count the boxes that reach out of their images; `entries` are their places in the file."""
        size = sizes[image]
        margin = OUTSIDE * size
        start, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        outside = np.flatnonzero(((start < -margin) | (end > size + margin)).any(axis=1))
        self.boxes += len(boxes)
        self.outside += len(outside)
        if len(outside) and not self.first:
            at = outside[0]
            self.first = f"{self.where} {entries[at]}, {boxes[at].tolist()} in an image of {size[at].tolist()}"

    def notes(self) -> tuple[Note, ...]:
        """What to tell."""
        found = []
        if total := self.strangers.total():
            shown = ", ".join(f"{id_} ({count})" for id_, count in self.strangers.most_common(10))
            more = ", ..." if len(self.strangers) > 10 else ""
            message = (
                f"{total} {self.what}{'s' * (total > 1)} left out: category not among {self.listed_in}: {shown}{more}"
            )
            found.append(Note(kind=f"unknown_{self.what}_category", count=total, message=message))
        if self.outside:
            message = (
                f"{self.outside} of {self.boxes} {self.what} boxes reach out of their image by more than "
                f"{OUTSIDE:.0%} of its side (first: {self.first}); they are scored as they stand. Boxes are x, y, "
                "width, height: were x1, y1, x2, y2 written?"
            )
            found.append(Note(kind=f"{self.what}_outside_image", count=self.outside, message=message))
        return tuple(found)


def _numbers_of(ids: tuple[Id, ...]) -> Integers:
    return np.array([] if ids and isinstance(ids[0], str) else ids, dtype=np.int64)
