"""JSON files that are longer than memory: the elements of their lists, so many as fit a window, as JSON text again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.data import ScoreError
from ops.compiled import compiled

__all__ = ["Piece", "list_of_file", "lists_of_object", "pieces"]

LONGEST = 1 << 26
"""Bytes of one element, at most: a file that claims more is not believed."""

_MOST_MARKS, _REACH = 4_000, 4_096
_BLANK = b" \t\r\n"
_QUOTE, _BACKSLASH, _COMMA = 34, 92, 44
_OPEN_LIST, _CLOSE_LIST, _OPEN_OBJECT, _CLOSE_OBJECT = 91, 93, 123, 125

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Piece:
    """Some elements of a list.

    Attributes:
        first: Place of the first of them in the list.
        begin, end: Bytes of the file that they were read from.
        text: A list of them, and a zero byte.
    """

    first: int
    begin: int
    end: int
    text: Bytes

    def place(self, prefix: bytes) -> str:
        """The place in the file behind `prefix` of the text, in words."""
        count, _ = _border(np.frombuffer(prefix + b" ", dtype=np.uint8), 1, len(prefix))
        return f"entry {self.first + count} (byte {self.begin + len(prefix) - 1})"


def pieces(path: Path, begin: int, end: int, window: int) -> Iterator[Piece]:
    """The elements between two bytes of a file, in windows of about so many bytes.

    Raises:
        ScoreError: They are not separated by commas, or one is longer than `LONGEST`.
    """
    held = np.zeros(0, dtype=np.uint8)
    first, at, size = 0, begin, window
    with path.open("rb") as file:
        file.seek(begin)
        while True:
            fresh = min(size, end - at)
            stop = 1 + len(held) + fresh
            text = np.empty(stop + 2, dtype=np.uint8)
            text[0], text[1 : 1 + len(held)] = _OPEN_LIST, held
            if file.readinto(text[1 + len(held) : stop].data) != fresh:
                raise ScoreError(f"{path}: became shorter while it was read; write it again")
            at += fresh
            from_byte = at - (stop - 1)
            count, cut = _border(text, 1, stop)
            if at < end and count == 0 and cut > 0:
                # No element is whole yet.
                if stop > LONGEST:
                    raise ScoreError(
                        f"{path}: entry {first} (byte {from_byte}) does not end within {LONGEST} bytes; write it again"
                    )
                held, size = text[1:stop], 2 * size
                continue
            if at == end or cut < 0:
                cut = stop
            if first and count:
                comma = _separator(text, 1, cut)
                if comma < 0:
                    raise ScoreError(f"{path}: entry {first} (byte {from_byte}): a comma is missing before it")
                text[comma] = _BLANK[0]
            held = text[cut:stop].copy()
            text[cut], text[cut + 1] = _CLOSE_LIST, 0
            if first == 0 or text[1:cut].tobytes().strip(_BLANK):
                yield Piece(first, from_byte, at - len(held), text[: cut + 2])
            if at == end and not len(held):
                return
            first, size = first + count, window


def list_of_file(path: Path) -> tuple[int, int]:
    """The bytes between the brackets of a file that holds a list.

    Raises:
        ScoreError: It cannot be read, is empty or ends too early, or holds no list.
    """
    begin, opening, end, closing = _ends(path)
    if opening != b"[":
        kind = "an object" if opening == b"{" else "no list"
        raise ScoreError(
            f"{path}: holds {kind} where COCO's results JSON is expected (a list of detections); write the list itself"
        )
    if closing != b"]" or end == begin:
        raise ScoreError(f"{path}: byte {end + 1}: the list does not end, the file is truncated: write it again")
    return begin + 1, end


def lists_of_object(path: Path, window: int) -> dict[str, tuple[int, int]]:
    """By key the bytes between the brackets of the lists in a file that holds an object.

    Raises:
        ScoreError: It cannot be read, is empty or ends too early, or holds no object.
    """
    _, opening, _, _ = _ends(path)
    if opening != b"{":
        kind = "a list" if opening == b"[" else "no object"
        raise ScoreError(
            f"{path}: holds {kind} where COCO's instances JSON is expected "
            "(an object with images, annotations and categories); were ground truth and detections swapped?"
        )
    marks: list[tuple[int, int]] = []
    found = np.zeros((_MOST_MARKS, 2), dtype=np.int64)
    depth, string, offset = 0, 0, 0
    with path.open("rb") as file:
        while text := file.read(window):
            count, depth, string = _outline(np.frombuffer(text, dtype=np.uint8), depth, string, found)
            marks += [(offset + int(place), int(kind)) for place, kind in found[:count]]
            if count < 0 or len(marks) > _MOST_MARKS:
                raise ScoreError(f"{path}: has too many keys; name COCO's instances JSON")
            offset += len(text)
        if depth or string:
            raise ScoreError(f"{path}: byte {offset}: the object does not end, the file is truncated: write it again")
        lists = {}
        for i, (place, mark) in enumerate(marks):
            # What opens stands behind the two quotes of its key, and before what closes.
            if mark == _OPEN_LIST and i >= 2:
                start, stop = marks[i - 2][0], marks[i - 1][0]
                file.seek(start)
                lists[str(json.loads(file.read(stop + 1 - start)))] = (place + 1, marks[i + 1][0])
    return lists


def _ends(path: Path) -> tuple[int, bytes, int, bytes]:
    """The first byte of a file that is not blank, and the last: their places, and what they are."""
    try:
        with path.open("rb") as file:
            head = file.read(_REACH)
            begin = len(head) - len(head.lstrip(_BLANK))
            start = max(0, path.stat().st_size - _REACH)
            file.seek(start)
            tail = file.read().rstrip(_BLANK)
    except OSError as error:
        raise ScoreError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if not head.strip(_BLANK):
        raise ScoreError(f"{path}: the file is empty; write it again (no detections are written as [])")
    return begin, head[begin : begin + 1], start + len(tail) - 1, tail[-1:]


@compiled
def _separator(text: Bytes, begin: int, end: int) -> int:
    """Where the comma is that text begins with, blanks aside; -1 if it does not."""
    for i in range(begin, end):
        if text[i] == _COMMA:
            return i
        if text[i] != 32 and text[i] != 10 and text[i] != 13 and text[i] != 9:
            return -1
    return -1


@compiled
def _border(text: Bytes, begin: int, end: int) -> tuple[int, int]:
    """How many lists and objects end in text, and the place behind the last; -1 if more close than open."""
    depth, count, cut = 0, 0, begin
    i = begin
    while i < end:
        byte = text[i]
        if byte == _QUOTE:
            i += 1
            while i < end and text[i] != _QUOTE:
                i += 2 if text[i] == _BACKSLASH else 1
        elif byte in (_OPEN_OBJECT, _OPEN_LIST):
            depth += 1
        elif byte in (_CLOSE_OBJECT, _CLOSE_LIST):
            depth -= 1
            if depth < 0:
                return count, -1
            if depth == 0:
                count += 1
                cut = i + 1
        i += 1
    return count, cut


@compiled
def _outline(text: Bytes, depth: int, string: int, found: NDArray[np.int64]) -> tuple[int, int, int]:
    """Quotes and brackets on the first level of an object: their number (-1: too many), and where the text stops.

    Args:
        text: A window.
        depth: Brackets that are open before it.
        string: 0 outside of strings, 1 in one, 2 behind a backslash in one.
        found: Place and kind of each.
    """
    count = 0
    for i in range(len(text)):
        byte = text[i]
        mark = False
        if string == 2:
            string = 1
        elif string == 1:
            if byte == _BACKSLASH:
                string = 2
            elif byte == _QUOTE:
                string = 0
                mark = depth == 1
        elif byte == _QUOTE:
            string = 1
            mark = depth == 1
        elif byte in (_OPEN_OBJECT, _OPEN_LIST):
            mark = depth == 1
            depth += 1
        elif byte in (_CLOSE_OBJECT, _CLOSE_LIST):
            depth -= 1
            mark = depth == 1
        if mark:
            if count == len(found):
                return -1, depth, string
            found[count, 0], found[count, 1] = i, byte
            count += 1
    return count, depth, string
