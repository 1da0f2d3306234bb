"""Whether a `.mat` file holds what its tags claim, told before scipy makes arrays of the sizes that they claim.

Version 5 of the format (MathWorks, "MAT-File Format"): elements with a tag of type and length; a matrix is flags,
sides, a name, and its numbers or further matrices. Elements may lie compressed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection
from typing import Literal

__all__ = ["check_mat"]

_LARGEST = 256 << 20
"""Bytes of a variable once it is unpacked; those of the published models have some millions."""

_DEEPEST = _MOST_SIDES = 32
_Order = Literal["little", "big"]
_ORDERS: dict[bytes, _Order] = {b"IM": "little", b"MI": "big"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHARACTERS, _FUNCTION = 1, 2, 4, 16
_PLAIN = (4, *range(6, 16))
"""Classes of text and numbers."""

_NAME, _SIDES, _FLAGS = {1}, {5}, {6}
_NUMBERS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13}
_TEXT = {1, 2, 3, 4, 16, 17, 18}
"""Types of elements. At another one scipy ends the process."""


class _Elements:
    """Elements of some bytes, read one after the other."""

    def __init__(self, data: bytes, order: _Order, start: int = 0, stop: int | None = None) -> None:
        self.data, self.order, self.at = data, order, start
        self.stop = len(data) if stop is None else stop

    def number(self, at: int) -> int:
        return int.from_bytes(self.data[at : at + 4], self.order)

    def next(self) -> tuple[int, int, int]:
        """Type, and where the content starts and ends."""
        if self.stop - self.at < 8:
            raise ValueError("an element is cut off")
        first = self.number(self.at)
        if first >> 16:
            kind, length, start = first & 0xFFFF, first >> 16, self.at + 4
            if length > 4:
                raise ValueError("a short element claims more than four bytes")
            self.at += 8
        else:
            kind, length, start = first, self.number(self.at + 4), self.at + 8
            self.at = start + length
            if kind != _COMPRESSED:
                self.at += -length % 8
        if start + length > self.stop:
            raise ValueError(f"an element claims {length:,} bytes, where {self.stop - start:,} are left")
        return kind, start, start + length

    def content(self, kinds: Collection[int]) -> bytes:
        """Content of an element of one of these types."""
        kind, start, stop = self.next()
        if kind not in kinds:
            raise ValueError(f"an element is of type {kind}, where there should be one of {sorted(kinds)}")
        return self.data[start:stop]


def check_mat(content: bytes, wanted: str) -> None:
    """Walk through the variable `wanted` of a file.

    Raises:
        ValueError: The file is of another format, is cut off, has the variable twice, or something claims more than is
            there.
    """
    order = _ORDERS.get(content[126:128])
    if order is None:
        raise ValueError("it has not the head of version 5")
    elements, found = _Elements(content, order, 128), 0
    while elements.stop - elements.at >= 8:
        kind, start, stop = elements.next()
        if kind == _COMPRESSED:
            inner = _Elements(_inflated(content[start:stop], 4096), order)
            if _name(inner) == wanted:
                inner = _Elements(_inflated(content[start:stop], _LARGEST), order)
        elif kind == _MATRIX:
            inner = _Elements(content, order, start - 8, stop)
        else:
            raise ValueError(f"an element of type {kind} stands where a variable should")
        name = _name(inner)
        if name is None:
            raise ValueError("a variable is cut off before its name")
        if name == wanted:
            found += 1
            _check_matrix(inner, 0)
            if inner.stop - inner.at >= 8:
                raise ValueError(f"something stands behind {wanted} in its own element")
    if found > 1:
        raise ValueError(f"{wanted} stands in it twice")


def _inflated(data: bytes, most: int) -> bytes:
    whole = zlib.decompressobj().decompress(data, most + 1)
    if len(whole) > most and most == _LARGEST:
        raise ValueError(f"a variable unpacks to over {most:,} bytes")
    return whole


def _name(elements: _Elements) -> str | None:
    """Of the matrix that comes next; it stays the next."""
    head = _Elements(elements.data, elements.order, elements.at + 8, elements.stop)
    try:
        head.content(_FLAGS)
        head.content(_SIDES)
        return head.content(_NAME).decode("latin1")
    except ValueError:
        return None


def _check_matrix(elements: _Elements, depth: int) -> None:
    kind, start, stop = elements.next()
    if kind != _MATRIX:
        raise ValueError(f"an element of type {kind} stands where a matrix should")
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if start == stop:
        return
    inside = _Elements(elements.data, elements.order, start, stop)
    _check_inside(inside, depth)
    if inside.at != stop:
        # scipy goes on where the content ends, whatever length the matrix claims.
        raise ValueError(f"a matrix claims {stop - start:,} bytes, of which it fills {inside.at - start:,}")


def _check_inside(inside: _Elements, depth: int) -> None:
    flags, sides, _ = inside.content(_FLAGS), inside.content(_SIDES), inside.content(_NAME)
    if len(flags) != 8 or not 8 <= len(sides) <= 4 * _MOST_SIDES:
        raise ValueError(f"a matrix of {len(sides) // 4:,} sides is none")
    shape = [int.from_bytes(sides[at : at + 4], inside.order, signed=True) for at in range(0, len(sides) - 3, 4)]
    if min(shape) < 0:
        raise ValueError(f"a matrix of {shape} is none")
    count, form = math.prod(shape), flags[0 if inside.order == "little" else 3]
    if form in _PLAIN:
        complex_too = flags[1 if inside.order == "little" else 2] & 8
        for _ in range(2 if complex_too else 1):
            if count > len(inside.content(_TEXT if form == _CHARACTERS else _NUMBERS)):
                raise ValueError(f"a matrix claims {count:,} numbers, which it does not hold")
        return
    if form == _FUNCTION:
        # A model of the ACF toolbox names functions, which nobody looks at; scipy gives them as arrays.
        _check_matrix(inside, depth + 1)
        return
    if form not in (_CELL, _STRUCT):
        raise ValueError(f"a matrix of class {form}, which no model has")
    members = count
    if form == _STRUCT:
        width = int.from_bytes(inside.content(_SIDES), inside.order)
        names = inside.content(_NAME)
        # scipy looks for names where they do not end.
        if names and (not width or len(names) % width):
            raise ValueError(f"{len(names):,} bytes of names are no names of {width:,} bytes each")
        fields = len(names) // width if width else 0
        if not fields and count > 1:
            raise ValueError(f"{count:,} structures without a field")
        members *= fields
    if members > (inside.stop - inside.at) // 8:
        raise ValueError(f"a matrix claims {members:,} others, which it does not hold")
    for _ in range(members):
        _check_matrix(inside, depth + 1)
