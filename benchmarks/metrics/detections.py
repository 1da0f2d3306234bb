"""Detections from COCO's results JSON or from VOC's text files, at once or in parts."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.comp_files import read_comp_files
from benchmarks.metrics.data import Floats, GroundTruth, Integers, Oddities, Results, ScoreError
from benchmarks.metrics.entries import (
    box_of,
    bytes_of,
    check_boxes,
    is_id,
    kind_of,
    number_of,
    parse,
    unknown_image,
    values_of,
    whole,
)
from benchmarks.metrics.scan import scan_results
from benchmarks.sentences import quoted

__all__ = ["detections_of_text", "load_detections"]


def load_detections(source: Path | str | Sequence[Mapping[str, Any]], truth: GroundTruth) -> Results:
    """Read detections: COCO's results JSON (a file, or the list itself) or VOC's comp3/comp4 text files.

    A JSON entry needs `image_id`, `category_id`, `bbox` (x, y, width, height) and `score`; other keys are ignored. For
    VOC name a folder, one file or a pattern of files `comp4_det_test_aeroplane.txt`, a file a class, with lines
    `image score xmin ymin xmax ymax` in VOC's inclusive pixels counted from 1 (so x1 = xmin - 1 and x2 = xmax); the
    image is the stem of the ground truth's `file_name`, or its id.

    Detections of a category that the ground truth does not list are left out, counted and reported. A box that reaches
    far out of its image is reported and scored as it stands.

    Raises:
        ScoreError: It cannot be read, or an entry cannot be scored.
    """
    if not isinstance(source, str | Path):
        return _from_list("detections", source, truth, Oddities.of_detections())
    path = Path(source)
    name, oddities = str(path), Oddities.of_detections()
    if (files := _comp_files(path)) is not None:
        return _results(name, *read_comp_files(name, files, truth, oddities), oddities, truth)
    return detections_of_text(name, bytes_of(path), truth, oddities)


def _comp_files(path: Path) -> list[Path] | None:
    """The text files that a folder, one of them or a pattern stands for; None for what is taken as JSON."""
    if path.is_dir():
        return sorted(path.glob("comp*_det_*.txt"))
    if path.suffix == ".txt" and path.exists():
        return [path]
    if not path.exists() and glob.has_magic(str(path)):
        return [Path(file) for file in sorted(glob.glob(str(path)))]
    return None


def detections_of_text(
    name: str,
    data: NDArray[np.uint8],
    truth: GroundTruth,
    oddities: Oddities,
    first: int = 0,
    where: Callable[[bytes], str] | None = None,
) -> Results:
    """What the text of COCO's results JSON says, or that of a list of some of its entries.

    Args:
        name: What error messages call it.
        data: The text, and a zero byte.
        truth: Images and categories.
        oddities: Counts what should be looked at.
        first: Place of the first entry in the file.
        where: What to call the place up to which text is valid JSON; by default its line and column.

    Raises:
        ScoreError: It is no list, or an entry cannot be scored.
    """
    scanned = scan_results(data)
    if scanned is None:
        entries = parse(name, data, where)
        if not isinstance(entries, list):
            raise ScoreError(
                f"{name}: holds {kind_of(entries)} where COCO's results JSON is expected "
                "(a list of detections); write the list itself"
            )
        return _from_list(name, entries, truth, oddities, first)
    image_ids, category_ids, numbers = scanned
    del data
    image = _positions(image_ids, truth.image_numbers)
    category = _positions(category_ids, truth.category_numbers)
    for index in np.flatnonzero(image < 0)[:1]:
        raise unknown_image(f"{name}: entry {first + index}", int(image_ids[index]), truth)
    for id_, count in zip(*np.unique(category_ids[category < 0], return_counts=True), strict=True):
        oddities.strangers[int(id_)] += int(count)
    return _results(name, image, category, numbers, oddities, truth, first)


def _from_list(
    name: str, entries: Sequence[Mapping[str, Any]], truth: GroundTruth, oddities: Oddities, first: int = 0
) -> Results:
    image_at, category_at = truth.image_at, truth.category_at
    image = np.empty(len(entries), dtype=np.int64)
    category = np.empty(len(entries), dtype=np.int64)
    numbers = np.empty((len(entries), 5), dtype=np.float64)
    for index, entry in enumerate(entries):
        where = f"{name}: entry {first + index}"
        image_id, category_id, box, score = values_of(where, entry, ("image_id", "category_id", "bbox", "score"))
        image_id, category_id = whole(image_id), whole(category_id)
        position = image_at.get(image_id) if is_id(image_id) else None
        if position is None:
            raise unknown_image(where, image_id, truth)
        if not is_id(category_id):
            raise ScoreError(f"{where}: category_id is {quoted(category_id)}; ids are integers or strings")
        image[index] = position
        category[index] = category_at.get(category_id, -1)
        if category[index] < 0:
            oddities.strangers[category_id] += 1
        numbers[index, :4] = box_of(where, box)
        numbers[index, 4] = number_of(where, "score", score)
    return _results(name, image, category, numbers, oddities, truth, first)


def _results(
    name: str,
    image: Integers,
    category: Integers,
    numbers: Floats,
    oddities: Oddities,
    truth: GroundTruth,
    first: int = 0,
) -> Results:
    """What all readers end with: checks on the numbers, notes, and unknown categories left out."""
    scores = numbers[:, 4]
    for index in np.flatnonzero(~np.isfinite(scores))[:1]:
        raise ScoreError(
            f"{name}: entry {first + index}: score is {scores[index]}; leave out detections without a finite score"
        )
    check_boxes(name, "entry {}", numbers[:, :4], first)
    known = category >= 0
    if not known.all():
        image, category, numbers = image[known], category[known], numbers[known]
    oddities.look(first + np.flatnonzero(known), image, numbers[:, :4], truth.image_sizes)
    boxes, scores = np.ascontiguousarray(numbers[:, :4]), np.ascontiguousarray(numbers[:, 4])
    return Results(name, image, category, boxes, scores, oddities.notes())


def _positions(ids: Integers, ascending: Integers) -> Integers:
    """Where each id stands among the ascending ones; -1 where it does not."""
    if not len(ascending):
        return np.full(len(ids), -1, dtype=np.int64)
    positions = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    return np.where(ascending[positions] == ids, positions, -1)
