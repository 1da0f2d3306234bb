"""Ground truth and detections as arrays, read from COCO JSON, from VOC's comp3/comp4 text files or from memory.

Everything is checked here, once: what cannot be scored is refused by a `ScoreError` that names the file, the entry
(counted from 0) and the remedy; what can be scored but looks wrong becomes a `Note`. Boxes are x, y, width, height in
continuous pixels, as COCO writes them.
"""

from __future__ import annotations

import glob
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from benchmarks.jsons import parse_json
from benchmarks.metrics.scan import read_bytes, scan_results

__all__ = ["GroundTruth", "Note", "Results", "ScoreError", "load_detections", "load_ground_truth", "read_json"]

Id = int | str
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

OUTSIDE = 0.1
"""A box that reaches out of its image by more than this share of the image's side is reported."""

_BEYOND = 1e150
"""No coordinate is as large: the area of such a box is no number any more."""

_SEQUENCES = (list, tuple, np.ndarray)
_COMP_FILE = re.compile(r"comp\d+_det_(?P<rest>.+)\.txt")


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
                f"{name}: holds {_kind(data)} where COCO's instances JSON is expected "
                "(an object with images, annotations and categories); were ground truth and detections swapped?"
            )
    images = _sorted_by_id(name, "images", _entries(name, data, "images"))
    categories = _sorted_by_id(name, "categories", _entries(name, data, "categories"))
    image_ids = tuple(entry["id"] for entry in images)
    category_ids = tuple(entry["id"] for entry in categories)
    sizes = np.array(
        [[_size(entry.get("width")), _size(entry.get("height"))] for entry in images], dtype=np.float64
    ).reshape(-1, 2)

    image_at = {id_: position for position, id_ in enumerate(image_ids)}
    category_at = {id_: position for position, id_ in enumerate(category_ids)}
    seen: set[Id] = set()
    strangers: Counter[Id] = Counter()
    rows: list[tuple[int, int]] = []
    numbers: list[list[float]] = []
    flags: list[tuple[bool, bool]] = []
    for index, entry in enumerate(_entries(name, data, "annotations")):
        where = f"{name}: annotations[{index}]"
        image, category, box, id_, area = _values(where, entry, ("image_id", "category_id", "bbox", "id", "area"))
        if not _is_id(id_):
            raise ScoreError(f"{where}: id is {_show(id_)}; ids are integers or strings")
        if id_ in seen:
            raise ScoreError(f"{where}: id {_show(id_)} was used before; give every annotation an id of its own")
        seen.add(id_)
        numbers.append([*_box(where, box), _number(where, "area", area)])
        flags.append((_flag(where, entry, "iscrowd"), _flag(where, entry, "difficult")))
        position = image_at.get(image) if _is_id(image) else None
        if position is None:
            raise ScoreError(
                f"{where}: image_id {_show(image)} is not among the images; list the image or remove the annotation"
            )
        rows.append((position, category_at.get(category, -1) if _is_id(category) else -1))
        if rows[-1][1] < 0:
            strangers[str(category)] += 1
    values = np.array(numbers, dtype=np.float64).reshape(-1, 5)
    _check_boxes(name, "annotations[{}]", values[:, :4])
    for index in np.flatnonzero(~(np.isfinite(values[:, 4]) & (values[:, 4] >= 0)))[:1]:
        raise ScoreError(
            f"{name}: annotations[{index}]: area is {values[index, 4]}; give the object's area in square pixels"
        )
    placed = np.array(rows, dtype=np.int64).reshape(-1, 2)
    marks = np.array(flags, dtype=np.bool_).reshape(-1, 2)
    known = placed[:, 1] >= 0
    notes = [
        *_unknown_categories("annotation", strangers, "categories"),
        *_far_outside("annotation", np.flatnonzero(known), placed[known, 0], values[known, :4], sizes),
    ]
    return GroundTruth(
        name=name,
        image_ids=image_ids,
        image_sizes=sizes,
        image_stems=tuple(PurePosixPath(str(entry.get("file_name", ""))).stem for entry in images),
        category_ids=category_ids,
        category_names=tuple(str(entry.get("name", entry["id"])) for entry in categories),
        image=placed[known, 0],
        category=placed[known, 1],
        boxes=values[known, :4],
        area=values[known, 4],
        crowd=marks[known, 0],
        difficult=marks[known, 1],
        notes=tuple(notes),
    )


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
        return _from_list("detections", source, truth)
    path = Path(source)
    if path.is_dir():
        return _from_comp_files(str(path), sorted(path.glob("comp*_det_*.txt")), truth)
    if path.suffix == ".txt" and path.exists():
        return _from_comp_files(str(path), [path], truth)
    if not path.exists() and glob.has_magic(str(path)):
        return _from_comp_files(str(path), [Path(file) for file in sorted(glob.glob(str(path)))], truth)
    data = _bytes(path)
    scanned = scan_results(data)
    if scanned is None:
        entries = _parse(str(path), data)
        if not isinstance(entries, list):
            raise ScoreError(
                f"{path}: holds {_kind(entries)} where COCO's results JSON is expected "
                "(a list of detections); write the list itself"
            )
        return _from_list(str(path), entries, truth)
    image_ids, category_ids, numbers = scanned
    del data
    image = _positions(image_ids, truth.image_ids)
    category = _positions(category_ids, truth.category_ids)
    for index in np.flatnonzero(image < 0)[:1]:
        raise _unknown_image(f"{path}: entry {index}", int(image_ids[index]), truth)
    strangers: Counter[Id] = Counter()
    for id_, count in zip(*np.unique(category_ids[category < 0], return_counts=True), strict=True):
        strangers[int(id_)] = int(count)
    return _results(str(path), image, category, numbers, strangers, truth)


def _from_list(name: str, entries: Sequence[Mapping[str, Any]], truth: GroundTruth) -> Results:
    image_at = {id_: position for position, id_ in enumerate(truth.image_ids)}
    category_at = {id_: position for position, id_ in enumerate(truth.category_ids)}
    image = np.empty(len(entries), dtype=np.int64)
    category = np.empty(len(entries), dtype=np.int64)
    numbers = np.empty((len(entries), 5), dtype=np.float64)
    strangers: Counter[Id] = Counter()
    for index, entry in enumerate(entries):
        where = f"{name}: entry {index}"
        image_id, category_id, box, score = _values(where, entry, ("image_id", "category_id", "bbox", "score"))
        image_id, category_id = _whole(image_id), _whole(category_id)
        position = image_at.get(image_id) if _is_id(image_id) else None
        if position is None:
            raise _unknown_image(where, image_id, truth)
        if not _is_id(category_id):
            raise ScoreError(f"{where}: category_id is {_show(category_id)}; ids are integers or strings")
        image[index] = position
        category[index] = category_at.get(category_id, -1)
        if category[index] < 0:
            strangers[category_id] += 1
        numbers[index, :4] = _box(where, box)
        numbers[index, 4] = _number(where, "score", score)
    return _results(name, image, category, numbers, strangers, truth)


def _from_comp_files(name: str, files: Sequence[Path], truth: GroundTruth) -> Results:
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
    strangers: Counter[Id] = Counter()
    files_by_class: dict[str, Path] = {}
    for file in files:
        match = _COMP_FILE.fullmatch(file.name)
        if match is None:
            raise ScoreError(
                f"{file}: the file name must be comp4_det_test_CLASS.txt, for it tells the class; rename it"
            )
        class_name = _class_name(match["rest"], category_at)
        if class_name in files_by_class:
            raise ScoreError(
                f"{file}: class {class_name!r} is also in {files_by_class[class_name].name}; "
                "score one competition and one image set at a time"
            )
        files_by_class[class_name] = file
        try:
            lines = file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ScoreError(f"{file}: cannot be read ({error}); write it again") from error
        for number, line in enumerate(lines, start=1):
            where = f"{file}: line {number}"
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 6:
                raise ScoreError(f"{where}: has {len(fields)} fields; a line is: image score xmin ymin xmax ymax")
            try:
                # Python reads 1_000 as a thousand, nobody else does.
                score, xmin, ymin, xmax, ymax = (float(field.replace("_", "?")) for field in fields[1:])
            except ValueError as error:
                wrong = f"{_show(' '.join(fields[1:]))} are not five numbers"
                raise ScoreError(f"{where}: {wrong}; a line is: image score xmin ymin xmax ymax") from error
            if not all(map(math.isfinite, (score, xmin, ymin, xmax, ymax))):
                raise ScoreError(f"{where}: a score or a coordinate is NaN or infinite; leave such detections out")
            x, y = xmin - 1, ymin - 1
            if xmax < x or ymax < y:
                raise ScoreError(f"{where}: xmax or ymax lies before xmin or ymin; write xmin ymin xmax ymax")
            if stems[fields[0]] > 1:
                raise ScoreError(f"{where}: image {fields[0]} is the file name of several images; make them unique")
            if fields[0] not in image_at:
                raise _unknown_image(where, fields[0], truth)
            image.append(image_at[fields[0]])
            category.append(category_at.get(class_name, -1))
            numbers.append([x, y, xmax - x, ymax - y, score])
            if class_name not in category_at:
                strangers[class_name] += 1
    return _results(
        name,
        np.array(image, dtype=np.int64),
        np.array(category, dtype=np.int64),
        np.array(numbers, dtype=np.float64).reshape(-1, 5),
        strangers,
        truth,
    )


def _class_name(rest: str, known: Mapping[str, int]) -> str:
    """The class in `test_aeroplane`: the longest known name at the end, else what follows the first underscore."""
    parts = rest.split("_")
    for start in range(1, len(parts)):
        if (candidate := "_".join(parts[start:])) in known:
            return candidate
    return "_".join(parts[1:]) or rest


def _results(
    name: str, image: Integers, category: Integers, numbers: Floats, strangers: Counter[Id], truth: GroundTruth
) -> Results:
    """What all readers end with: checks on the numbers, notes, and unknown categories left out."""
    scores = numbers[:, 4]
    for index in np.flatnonzero(~np.isfinite(scores))[:1]:
        raise ScoreError(
            f"{name}: entry {index}: score is {scores[index]}; leave out detections without a finite score"
        )
    _check_boxes(name, "entry {}", numbers[:, :4])
    known = category >= 0
    notes = _unknown_categories("detection", strangers, "the ground truth's categories")
    if not known.all():
        image, category, numbers = image[known], category[known], numbers[known]
    notes += _far_outside("detection", np.flatnonzero(known), image, numbers[:, :4], truth.image_sizes)
    boxes, scores = np.ascontiguousarray(numbers[:, :4]), np.ascontiguousarray(numbers[:, 4])
    return Results(name, image, category, boxes, scores, tuple(notes))


def _unknown_categories(what: str, strangers: Counter[Id], listed_in: str) -> list[Note]:
    if not strangers:
        return []
    total = strangers.total()
    shown = ", ".join(f"{id_} ({count})" for id_, count in strangers.most_common(10))
    more = ", ..." if len(strangers) > 10 else ""
    message = f"{total} {what}{'s' * (total > 1)} left out: category not among {listed_in}: {shown}{more}"
    return [Note(kind=f"unknown_{what}_category", count=total, message=message)]


def _far_outside(what: str, entries: Integers, image: Integers, boxes: Floats, sizes: Floats) -> list[Note]:
    """A note on boxes that reach out of their images; `entries` are their places in the file."""
    size = sizes[image]
    margin = OUTSIDE * size
    start, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    outside = np.flatnonzero(((start < -margin) | (end > size + margin)).any(axis=1))
    if not len(outside):
        return []
    first = outside[0]
    message = (
        f"{len(outside)} of {len(boxes)} {what} boxes reach out of their image by more than {OUTSIDE:.0%} of its side "
        f"(first: entry {entries[first]}, {boxes[first].tolist()} in an image of {size[first].tolist()}); they are "
        "scored as they stand. Boxes are x, y, width, height: were x1, y1, x2, y2 written?"
    )
    return [Note(kind=f"{what}_outside_image", count=len(outside), message=message)]


def _positions(ids: Integers, known: tuple[Id, ...]) -> Integers:
    """Where each id stands in the ascending `known`; -1 where it does not."""
    if not known or isinstance(known[0], str):
        return np.full(len(ids), -1, dtype=np.int64)
    ascending = np.array(known, dtype=np.int64)
    positions = np.minimum(np.searchsorted(ascending, ids), len(known) - 1)
    return np.where(ascending[positions] == ids, positions, -1)


def _bytes(path: Path) -> NDArray[np.uint8]:
    try:
        data = read_bytes(path)
    except OSError as error:
        raise ScoreError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if len(data) == 1:
        raise ScoreError(f"{path}: the file is empty; write it again (no detections are written as [])")
    return data


def _parse(name: str, data: NDArray[np.uint8]) -> Any:
    try:
        return parse_json(data[:-1].tobytes())
    except json.JSONDecodeError as error:
        raise ScoreError(
            f"{name}: line {error.lineno}, column {error.colno}: {error.msg}; "
            "not valid JSON, perhaps truncated: write the file again"
        ) from error
    except ValueError as error:
        raise ScoreError(f"{name}: not JSON ({error}); name a JSON file") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ScoreError: It is missing, empty, truncated or no JSON.
    """
    return _parse(str(path), _bytes(path))


def _entries(name: str, data: Mapping[str, Any], key: str) -> list[Any]:
    if key not in data:
        raise ScoreError(f"{name}: has no {key!r}; COCO's instances JSON holds images, annotations and categories")
    if not isinstance(data[key], list):
        raise ScoreError(f"{name}: {key} is {_kind(data[key])}; write a list")
    return data[key]


def _sorted_by_id(name: str, key: str, entries: Iterable[Any]) -> list[Mapping[str, Any]]:
    seen: dict[Id, int] = {}
    checked: list[Mapping[str, Any]] = []
    for index, entry in enumerate(entries):
        where = f"{name}: {key}[{index}]"
        (id_,) = _values(where, entry, ("id",))
        if not _is_id(id_):
            raise ScoreError(f"{where}: id is {_show(id_)}; ids are integers or strings")
        if checked and isinstance(id_, str) != isinstance(checked[0]["id"], str):
            raise ScoreError(f"{where}: id {_show(id_)} is of another type than the ids before; use one type")
        if id_ in seen:
            raise ScoreError(f"{where}: id {_show(id_)} is also that of {key}[{seen[id_]}]; give each an id of its own")
        seen[id_] = index
        checked.append(entry)
    return sorted(checked, key=lambda entry: entry["id"])


def _values(where: str, entry: Any, keys: tuple[str, ...]) -> list[Any]:
    try:
        return [entry[key] for key in keys]
    except KeyError as error:
        raise ScoreError(f"{where}: has no {error.args[0]!r}; every entry needs {', '.join(keys)}") from error
    except (TypeError, IndexError) as error:
        raise ScoreError(f"{where}: is {_kind(entry)}; write an object with {', '.join(keys)}") from error


def _is_id(value: Any) -> bool:
    # By exact type first: this is asked of every entry, and isinstance of a union costs as much as the rest together.
    return type(value) is int or type(value) is str or isinstance(value, np.integer)


def _whole(value: Any) -> Any:
    """42.0 as 42: some writers know only floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(where: str, field: str, value: Any) -> float:
    if type(value) is float:
        return value
    if isinstance(value, Real) and not isinstance(value, bool | np.bool_):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    raise ScoreError(f"{where}: {field} is {_show(value)}; write a number")


def _box(where: str, value: Any) -> list[float]:
    if not isinstance(value, _SEQUENCES) or len(value) != 4:
        raise ScoreError(f"{where}: bbox is {_show(value)}; write the four numbers x, y, width, height")
    return [_number(where, "bbox", number) for number in value]


def _flag(where: str, entry: Mapping[str, Any], key: str) -> bool:
    value = entry.get(key, 0)
    if type(value) is int and (value == 0 or value == 1):
        return value == 1
    if isinstance(value, Real) and value in (0, 1):
        return bool(value)
    raise ScoreError(f"{where}: {key} is {_show(value)}; write 0 or 1")


def _size(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value < _BEYOND else math.nan


def _check_boxes(name: str, entry: str, boxes: Floats) -> None:
    """Refuse the first box that is not finite or is turned inside out."""
    wrong = ~np.isfinite(boxes).all(axis=1)
    for index in np.flatnonzero(wrong)[:1]:
        raise ScoreError(
            f"{name}: {entry.format(index)}: bbox is {boxes[index].tolist()}, which is not finite; leave it out"
        )
    for index in np.flatnonzero((np.abs(boxes) >= _BEYOND).any(axis=1))[:1]:
        raise ScoreError(
            f"{name}: {entry.format(index)}: bbox is {boxes[index].tolist()}, beyond any image; leave it out"
        )
    for index in np.flatnonzero((boxes[:, 2:] < 0).any(axis=1))[:1]:
        raise ScoreError(
            f"{name}: {entry.format(index)}: bbox is {boxes[index].tolist()} with a negative width or height; "
            "write x, y, width, height"
        )


def _unknown_image(where: str, image_id: Any, truth: GroundTruth) -> ScoreError:
    return ScoreError(
        f"{where}: image_id {_show(image_id)} is not in {truth.name}; score against the split that was detected on"
    )


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", type(None): "null", bool: "a truth value"}
    return kinds.get(type(value), "a number" if isinstance(value, Real) else f"a {type(value).__name__}")
