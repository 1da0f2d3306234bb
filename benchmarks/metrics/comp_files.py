"""Detections from VOC's comp3 and comp4 text files, a file a class."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.metrics.data import Floats, GroundTruth, Integers, Oddities, ScoreError
from benchmarks.metrics.entries import unknown_image
from benchmarks.sentences import quoted

__all__ = ["read_comp_files"]

_NAME = re.compile(r"comp\d+_det_(?P<rest>.+)\.txt")

_FIELDS = "a line is: image score xmin ymin xmax ymax"


def read_comp_files(
    name: str, files: Sequence[Path], truth: GroundTruth, oddities: Oddities
) -> tuple[Integers, Integers, Floats]:
    """Positions of image and category `[N]`, and x, y, width, height, score `[N, 5]`, file after file.

    Args:
        name: What was named: a file, a folder or a pattern.
        files: Found there.
        truth: Images and categories; a category that is not among them has position -1.
        oddities: Counts these.

    Raises:
        ScoreError: There are no files, or one of them, or a line, cannot be scored.
    """
    if not files:
        raise ScoreError(
            f"{name}: holds no VOC results files; name them comp4_det_test_CLASS.txt, or name a COCO results JSON"
        )
    image_at: dict[str, int] = {str(id_): position for position, id_ in enumerate(truth.image_ids)}
    stems = Counter(stem for stem in truth.image_stems if stem)
    image_at |= {stem: position for position, stem in enumerate(truth.image_stems) if stem}
    category_at = {category: position for position, category in enumerate(truth.category_names)}
    image: list[int] = []
    category: list[int] = []
    numbers: list[list[float]] = []
    files_by_class: dict[str, Path] = {}
    for file in files:
        class_name = _class_of(file, category_at)
        if class_name in files_by_class:
            raise ScoreError(
                f"{file}: class {class_name!r} is also in {files_by_class[class_name].name}; "
                "score one competition and one image set at a time"
            )
        files_by_class[class_name] = file
        for number, line in enumerate(_lines(file), start=1):
            where = f"{file}: line {number}"
            fields = line.split()
            if not fields:
                continue
            found = _numbers(where, fields)
            if stems[fields[0]] > 1:
                raise ScoreError(f"{where}: image {fields[0]} is the file name of several images; make them unique")
            if fields[0] not in image_at:
                raise unknown_image(where, fields[0], truth)
            image.append(image_at[fields[0]])
            category.append(category_at.get(class_name, -1))
            numbers.append(found)
            if class_name not in category_at:
                oddities.strangers[class_name] += 1
    return (
        np.array(image, dtype=np.int64),
        np.array(category, dtype=np.int64),
        np.array(numbers, dtype=np.float64).reshape(-1, 5),
    )


def _class_of(file: Path, known: Mapping[str, int]) -> str:
    """The class in `comp4_det_test_aeroplane.txt`: the longest known name at the end, else what follows the set."""
    match = _NAME.fullmatch(file.name)
    if match is None:
        raise ScoreError(f"{file}: the file name must be comp4_det_test_CLASS.txt, for it tells the class; rename it")
    parts = match["rest"].split("_")
    for start in range(1, len(parts)):
        if (candidate := "_".join(parts[start:])) in known:
            return candidate
    return "_".join(parts[1:]) or match["rest"]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScoreError(f"{file}: cannot be read ({error}); write it again") from error


def _numbers(where: str, fields: list[str]) -> list[float]:
    """x, y, width, height and score of a line; VOC counts inclusive pixels from 1."""
    if len(fields) != 6:
        raise ScoreError(f"{where}: has {len(fields)} fields; {_FIELDS}")
    try:
        # Python reads 1_000 as a thousand, nobody else does.
        score, xmin, ymin, xmax, ymax = (float(field.replace("_", "?")) for field in fields[1:])
    except ValueError as error:
        raise ScoreError(f"{where}: {quoted(' '.join(fields[1:]))} are not five numbers; {_FIELDS}") from error
    if not all(map(math.isfinite, (score, xmin, ymin, xmax, ymax))):
        raise ScoreError(f"{where}: a score or a coordinate is NaN or infinite; leave such detections out")
    x, y = xmin - 1, ymin - 1
    if xmax < x or ymax < y:
        raise ScoreError(f"{where}: xmax or ymax lies before xmin or ymin; write xmin ymin xmax ymax")
    return [x, y, xmax - x, ymax - y, score]
