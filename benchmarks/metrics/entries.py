"""JSON that is to be scored: its text, and the values of its entries, each checked or refused by a `ScoreError`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.jsons import parse_json
from benchmarks.metrics.data import Floats, GroundTruth, ScoreError
from benchmarks.metrics.scan import read_bytes
from benchmarks.sentences import quoted

__all__ = [
    "box_of",
    "bytes_of",
    "check_boxes",
    "flag_of",
    "is_id",
    "kind_of",
    "number_of",
    "parse",
    "read_json",
    "side_of",
    "unknown_image",
    "values_of",
    "whole",
]

_BEYOND = 1e150
"""No coordinate is as large: the area of such a box is no number any more."""

_SEQUENCES = (list, tuple, np.ndarray)


def bytes_of(path: Path) -> NDArray[np.uint8]:
    """What a file holds, and a zero byte.

    Raises:
        ScoreError: It cannot be read, or is empty.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise ScoreError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if len(data) == 1:
        raise ScoreError(f"{path}: the file is empty; write it again (no detections are written as [])")
    return data


def parse(name: str, data: NDArray[np.uint8], where: Callable[[bytes], str] | None = None) -> Any:
    """What JSON text and a zero byte behind it hold.

    Args:
        name: What error messages call it.
        data: The text.
        where: What to call the place up to which text is valid JSON; by default its line and column.

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
    return parse(str(path), bytes_of(path))


def values_of(where: str, entry: Any, keys: tuple[str, ...]) -> list[Any]:
    """What an entry holds under keys that all must have.

    Raises:
        ScoreError: One is missing, or the entry is no object.
    """
    try:
        return [entry[key] for key in keys]
    except KeyError as error:
        raise ScoreError(f"{where}: has no {error.args[0]!r}; every entry needs {', '.join(keys)}") from error
    except (TypeError, IndexError) as error:
        raise ScoreError(f"{where}: is {kind_of(entry)}; write an object with {', '.join(keys)}") from error


def is_id(value: Any) -> bool:
    """Whether it can be the id of something: an integer or text."""
    # By exact type first: this is asked of every entry, and isinstance of a union costs as much as the rest together.
    return type(value) is int or type(value) is str or isinstance(value, np.integer)


def whole(value: Any) -> Any:
    """42.0 as 42: some writers know only floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def number_of(where: str, field: str, value: Any) -> float:
    """A number, infinite where it is too large for a double.

    Raises:
        ScoreError: It is none.
    """
    if type(value) is float:
        return value
    if isinstance(value, Real) and not isinstance(value, bool | np.bool_):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    raise ScoreError(f"{where}: {field} is {quoted(value)}; write a number")


def box_of(where: str, value: Any) -> list[float]:
    """The four numbers of a box.

    Raises:
        ScoreError: They are not four, or not numbers.
    """
    if not isinstance(value, _SEQUENCES) or len(value) != 4:
        raise ScoreError(f"{where}: bbox is {quoted(value)}; write the four numbers x, y, width, height")
    return [number_of(where, "bbox", number) for number in value]


def flag_of(where: str, entry: Mapping[str, Any], key: str) -> bool:
    """0 or 1; 0 where the key is missing.

    Raises:
        ScoreError: It is something else.
    """
    value = entry.get(key, 0)
    if type(value) is int and (value == 0 or value == 1):
        return value == 1
    if isinstance(value, Real) and value in (0, 1):
        return bool(value)
    raise ScoreError(f"{where}: {key} is {quoted(value)}; write 0 or 1")


def side_of(value: Any) -> float:
    """Width or height of an image; NaN for what can be none."""
    return float(value) if isinstance(value, int | float) and 0 < value < _BEYOND else math.nan


def check_boxes(name: str, entry: str, boxes: Floats, first: int = 0) -> None:
    """Refuse the first box that is not finite or is turned inside out.

    Args:
        name: Of the file.
        entry: What a box's entry is called, with `{}` for its place.
        boxes: x, y, width, height `[N, 4]`.
        first: Place of the first one in the file.

    Raises:
        ScoreError: There is one.
    """
    wrong = ~np.isfinite(boxes).all(axis=1)
    for index in np.flatnonzero(wrong)[:1]:
        raise ScoreError(
            f"{name}: {entry.format(first + index)}: bbox is {boxes[index].tolist()}, which is not finite; leave it out"
        )
    for index in np.flatnonzero((np.abs(boxes) >= _BEYOND).any(axis=1))[:1]:
        raise ScoreError(
            f"{name}: {entry.format(first + index)}: bbox is {boxes[index].tolist()}, beyond any image; leave it out"
        )
    for index in np.flatnonzero((boxes[:, 2:] < 0).any(axis=1))[:1]:
        raise ScoreError(
            f"{name}: {entry.format(first + index)}: bbox is {boxes[index].tolist()} with a negative width or height; "
            "write x, y, width, height"
        )


def unknown_image(where: str, image_id: Any, truth: GroundTruth) -> ScoreError:
    """What to raise for a detection on an image that the ground truth does not have."""
    return ScoreError(
        f"{where}: image_id {quoted(image_id)} is not in {truth.name}; score against the split that was detected on"
    )


def kind_of(value: Any) -> str:
    """What JSON calls the type of a value."""
    kinds = {dict: "an object", list: "a list", str: "a string", type(None): "null", bool: "a truth value"}
    return kinds.get(type(value), "a number" if isinstance(value, Real) else f"a {type(value).__name__}")
