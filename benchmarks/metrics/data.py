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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from benchmarks.jsons import parse_json
from benchmarks.metrics.scan import read_bytes, scan_results

__all__ = [
    "GroundTruth",
    "Note",
    "Oddities",
    "Results",
    "ScoreError",
    "detections_of_text",
    "empty_ground_truth",
    "load_detections",
    "load_ground_truth",
    "objects_of",
    "parse",
    "read_json",
]

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
            [[_size(entry.get("width")), _size(entry.get("height"))] for entry in images], dtype=np.float64
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
            oddities.strangers[str(category)] += 1
    values = np.array(numbers, dtype=np.float64).reshape(-1, 5)
    _check_boxes(name, "annotations[{}]", values[:, :4], first)
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
    if path.is_dir():
        return _from_comp_files(str(path), sorted(path.glob("comp*_det_*.txt")), truth)
    if path.suffix == ".txt" and path.exists():
        return _from_comp_files(str(path), [path], truth)
    if not path.exists() and glob.has_magic(str(path)):
        return _from_comp_files(str(path), [Path(file) for file in sorted(glob.glob(str(path)))], truth)
    return detections_of_text(str(path), _bytes(path), truth, Oddities.of_detections())


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
                f"{name}: holds {_kind(entries)} where COCO's results JSON is expected "
                "(a list of detections); write the list itself"
            )
        return _from_list(name, entries, truth, oddities, first)
    image_ids, category_ids, numbers = scanned
    del data
    image = _positions(image_ids, truth.image_numbers)
    category = _positions(category_ids, truth.category_numbers)
    for index in np.flatnonzero(image < 0)[:1]:
        raise _unknown_image(f"{name}: entry {first + index}", int(image_ids[index]), truth)
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
            oddities.strangers[category_id] += 1
        numbers[index, :4] = _box(where, box)
        numbers[index, 4] = _number(where, "score", score)
    return _results(name, image, category, numbers, oddities, truth, first)


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
    oddities = Oddities.of_detections()
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
                oddities.strangers[class_name] += 1
    return _results(
        name,
        np.array(image, dtype=np.int64),
        np.array(category, dtype=np.int64),
        np.array(numbers, dtype=np.float64).reshape(-1, 5),
        oddities,
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
    _check_boxes(name, "entry {}", numbers[:, :4], first)
    known = category >= 0
    if not known.all():
        image, category, numbers = image[known], category[known], numbers[known]
    oddities.look(first + np.flatnonzero(known), image, numbers[:, :4], truth.image_sizes)
    boxes, scores = np.ascontiguousarray(numbers[:, :4]), np.ascontiguousarray(numbers[:, 4])
    return Results(name, image, category, boxes, scores, oddities.notes())


def _numbers_of(ids: tuple[Id, ...]) -> Integers:
    return np.array([] if ids and isinstance(ids[0], str) else ids, dtype=np.int64)


def _positions(ids: Integers, ascending: Integers) -> Integers:
    """Where each id stands among the ascending ones; -1 where it does not."""
    if not len(ascending):
        return np.full(len(ids), -1, dtype=np.int64)
    positions = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    return np.where(ascending[positions] == ids, positions, -1)


def _bytes(path: Path) -> NDArray[np.uint8]:
    try:
        data = read_bytes(path)
    except OSError as error:
        raise ScoreError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if len(data) == 1:
        raise ScoreError(f"{path}: the file is empty; write it again (no detections are written as [])")
    return data


def parse(name: str, data: NDArray[np.uint8], where: Callable[[bytes], str] | None = None) -> Any:
    """What JSON text and a zero byte behind it hold; `where` as for `detections_of_text`.

    Raises:
        ScoreError: It is no JSON.
    """
    try:
        return parse_json(data[:-1].tobytes())
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        if where is not None:
            place = where(error.doc[: error.pos].encode())
        raise ScoreError(
            f"{name}: {place}: {error.msg}; not valid JSON, perhaps truncated: write the file again"
        ) from error
    except ValueError as error:
        raise ScoreError(f"{name}: not JSON ({error}); name a JSON file") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ScoreError: It is missing, empty, truncated or no JSON.
    """
    return parse(str(path), _bytes(path))


def _entries(name: str, data: Mapping[str, Any], key: str) -> list[Any]:
    if key not in data:
        raise ScoreError(f"{name}: has no {key!r}; COCO's instances JSON holds images, annotations and categories")
    if not isinstance(data[key], list):
        raise ScoreError(f"{name}: {key} is {_kind(data[key])}; write a list")
    return data[key]


def _sorted_by_id(name: str, key: str, entries: Iterable[Any], first: int = 0) -> list[Mapping[str, Any]]:
    seen: dict[Id, int] = {}
    checked: list[Mapping[str, Any]] = []
    for index, entry in enumerate(entries, start=first):
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


def _check_boxes(name: str, entry: str, boxes: Floats, first: int = 0) -> None:
    """Refuse the first box that is not finite or is turned inside out."""
    wrong = ~np.isfinite(boxes).all(axis=1)
    for index in np.flatnonzero(wrong)[:1]:
        raise ScoreError(
            f"{name}: {entry.format(first + index)}: bbox is {boxes[index].tolist()}, which is not finite; leave it out"
        )
    for index in np.flatnonzero((np.abs(boxes) >= _BEYOND).any(axis=1))[:1]:
        raise ScoreError(
            f"{name}: {entry.format(index)}: bbox is {boxes[index].tolist()}, beyond any image; leave it out"
        )
    for index in np.flatnonzero((boxes[:, 2:] < 0).any(axis=1))[:1]:
        raise ScoreError(
            f"{name}: {entry.format(first + index)}: bbox is {boxes[index].tolist()} with a negative width or height; "
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
