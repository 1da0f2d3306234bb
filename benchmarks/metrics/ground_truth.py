"""Ground truth from COCO's instances JSON: a file, or its object, at once or in parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from benchmarks.metrics.data import GroundTruth, Id, Oddities, ScoreError
from benchmarks.metrics.entries import (
    box_of,
    check_boxes,
    flag_of,
    is_id,
    kind_of,
    number_of,
    read_json,
    side_of,
    values_of,
)
from benchmarks.sentences import quoted

__all__ = ["empty_ground_truth", "load_ground_truth", "objects_of"]


def load_ground_truth(source: Path | str | Mapping[str, Any]) -> GroundTruth:
    """Read COCO's instances JSON: a file or the object itself.

    Images need `id`; `width`, `height` and `file_name` are used where they are given. Categories need `id`.
    Annotations need `id`, `image_id`, `category_id`, `bbox` and `area`; `iscrowd` and `difficult` are 0 where they are
    absent. Annotations of a category that is not listed are left out, counted and reported.

    Raises:
        ScoreError: It cannot be read, or an entry cannot be scored.
    """
    if isinstance(source, Mapping):
        name, data = "ground truth", source
    else:
        name = str(source)
        data = read_json(Path(source))
        if not isinstance(data, dict):
            raise ScoreError(
                f"{name}: holds {kind_of(data)} where COCO's instances JSON is expected "
                "(an object with images, annotations and categories); were ground truth and detections swapped?"
            )
    frame = empty_ground_truth(name, _entries(name, data, "images"), _entries(name, data, "categories"))
    oddities = Oddities.of_annotations()
    truth = objects_of(frame, _entries(name, data, "annotations"), set(), oddities)
    return replace(truth, notes=oddities.notes())


def empty_ground_truth(
    name: str, image_entries: Iterable[Any], category_entries: Iterable[Any], first: int = 0
) -> GroundTruth:
    """Images and categories without objects; `first` is the place of the first image in the file.

    Raises:
        ScoreError: An entry has no id, or that of another.
    """
    images = _sorted_by_id(name, "images", image_entries, first)
    categories = _sorted_by_id(name, "categories", category_entries)
    none, no_flags = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.bool_)
    return GroundTruth(
        name=name,
        image_ids=tuple(entry["id"] for entry in images),
        image_sizes=np.array(
            [[side_of(entry.get("width")), side_of(entry.get("height"))] for entry in images], dtype=np.float64
        ).reshape(-1, 2),
        image_stems=tuple(PurePosixPath(str(entry.get("file_name", ""))).stem for entry in images),
        category_ids=tuple(entry["id"] for entry in categories),
        category_names=tuple(str(entry.get("name", entry["id"])) for entry in categories),
        image=none,
        category=none,
        boxes=np.zeros((0, 4)),
        area=np.zeros(0),
        crowd=no_flags,
        difficult=no_flags,
        notes=(),
    )


def objects_of(
    frame: GroundTruth, entries: Sequence[Any], seen: set[Id], oddities: Oddities, first: int = 0
) -> GroundTruth:
    """The same images and categories with these annotations, or a part of all, as objects.

    Args:
        frame: Images and categories.
        entries: Of `annotations`.
        seen: Ids of annotations before; those of these are added.
        oddities: Counts what should be looked at.
        first: Place of the first entry in the file.

    Raises:
        ScoreError: An entry cannot be scored.
    """
    name = frame.name
    rows: list[tuple[int, int]] = []
    numbers: list[list[float]] = []
    flags: list[tuple[bool, bool]] = []
    image_at, category_at = frame.image_at, frame.category_at
    for index, entry in enumerate(entries, start=first):
        where = f"{name}: annotations[{index}]"
        image, category, box, id_, area = values_of(where, entry, ("image_id", "category_id", "bbox", "id", "area"))
        if not is_id(id_):
            raise ScoreError(f"{where}: id is {quoted(id_)}; ids are integers or strings")
        if id_ in seen:
            raise ScoreError(f"{where}: id {quoted(id_)} was used before; give every annotation an id of its own")
        seen.add(id_)
        numbers.append([*box_of(where, box), number_of(where, "area", area)])
        flags.append((flag_of(where, entry, "iscrowd"), flag_of(where, entry, "difficult")))
        position = image_at.get(image) if is_id(image) else None
        if position is None:
            raise ScoreError(
                f"{where}: image_id {quoted(image)} is not among the images; list the image or remove the annotation"
            )
        rows.append((position, category_at.get(category, -1) if is_id(category) else -1))
        if rows[-1][1] < 0:
            oddities.strangers[str(category)] += 1
    values = np.array(numbers, dtype=np.float64).reshape(-1, 5)
    check_boxes(name, "annotations[{}]", values[:, :4], first)
    for index in np.flatnonzero(~(np.isfinite(values[:, 4]) & (values[:, 4] >= 0)))[:1]:
        raise ScoreError(
            f"{name}: annotations[{first + index}]: area is {values[index, 4]}; give the object's area in square pixels"
        )
    placed = np.array(rows, dtype=np.int64).reshape(-1, 2)
    marks = np.array(flags, dtype=np.bool_).reshape(-1, 2)
    known = placed[:, 1] >= 0
    oddities.look(first + np.flatnonzero(known), placed[known, 0], values[known, :4], frame.image_sizes)
    return replace(
        frame,
        image=placed[known, 0],
        category=placed[known, 1],
        boxes=values[known, :4],
        area=values[known, 4],
        crowd=marks[known, 0],
        difficult=marks[known, 1],
    )


def _entries(name: str, data: Mapping[str, Any], key: str) -> list[Any]:
    if key not in data:
        raise ScoreError(f"{name}: has no {key!r}; COCO's instances JSON holds images, annotations and categories")
    if not isinstance(data[key], list):
        raise ScoreError(f"{name}: {key} is {kind_of(data[key])}; write a list")
    return data[key]


def _sorted_by_id(name: str, key: str, entries: Iterable[Any], first: int = 0) -> list[Mapping[str, Any]]:
    seen: dict[Id, int] = {}
    checked: list[Mapping[str, Any]] = []
    for index, entry in enumerate(entries, start=first):
        where = f"{name}: {key}[{index}]"
        (id_,) = values_of(where, entry, ("id",))
        if not is_id(id_):
            raise ScoreError(f"{where}: id is {quoted(id_)}; ids are integers or strings")
        if checked and isinstance(id_, str) != isinstance(checked[0]["id"], str):
            raise ScoreError(f"{where}: id {quoted(id_)} is of another type than the ids before; use one type")
        if id_ in seen:
            raise ScoreError(
                f"{where}: id {quoted(id_)} is also that of {key}[{seen[id_]}]; give each an id of its own"
            )
        seen[id_] = index
        checked.append(entry)
    return sorted(checked, key=lambda entry: entry["id"])
