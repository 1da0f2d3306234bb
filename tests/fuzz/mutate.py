"""Damages files: bits and bytes, lengths and numbers, and the structure of text."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Sequence

__all__ = ["mutate"]

_LONGEST = 1 << 17
_INTEGERS = (0, 1, -1, 2, 127, 128, 255, 256, 65_535, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**62, -(2**63))
_FLOATS = (float("nan"), float("inf"), float("-inf"), 1e300, -1e300, 1e-320, 0.0, -0.0)
_WORDS = (
    *(str(value).encode() for value in (*_INTEGERS, *_FLOATS)),
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1e400", b"-1e30", b"0.5", b"1_0", b"null", b"true", b"[]", b"{}"),
    *(b'""', b'"\\ud800"', b"../../x", b"/etc/passwd", b"\x00", b"\xff\xfe", b"\xe2\x80\xa8", b"&#0;", b"<!--", b"\n"),
    *(b"9" * 400, b"9" * 5000, b"a" * 3000, b"inf", b"nan", b"1 2", b"=", b"[x]", b"]]>", b"'", b'"', b"\\"),
)
_PIECE = re.compile(rb"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|[A-Za-z_][\w]*|\s+|.", re.DOTALL)
_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_Change = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


def mutate(data: bytes, chance: random.Random, others: Sequence[bytes], text: bool) -> bytes:
    """`data` with one to four changes of random kinds.

    Args:
        data: A file that is right, or was once.
        chance: Decides.
        others: Files from which pieces are taken.
        text: Whether numbers, words and brackets mean something.
    """
    for _ in range(chance.choice((1, 1, 1, 2, 2, 4))):
        change = chance.choice(_OF_TEXT * 2 + _OF_BYTES if text else _OF_BYTES)
        data = change(data, chance, others)[:_LONGEST]
    return data


def _span(data: bytes, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + int(2 ** chance.uniform(0, 10)))


def _flip(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8)) if data else 0):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _delete(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    start, stop = _span(data, chance)
    return data[:start] + data[stop:]


def _repeat(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    start, stop = _span(data, chance)
    return data[:stop] + data[start:stop] * chance.choice((1, 2, 50)) + data[stop:]


def _splice(data: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    other = chance.choice(others)
    start, stop = _span(other, chance)
    place, end = _span(data, chance)
    return data[:place] + other[start:stop] + data[chance.choice((place, end)) :]


def _overwrite(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    """A number at the limits of its type, in binary, at any place."""
    if chance.random() < 0.3:
        content = struct.pack(chance.choice(("<f", "<d")), chance.choice((*_FLOATS[:3], 0.0, -1.0)))
    else:
        size = chance.choice((1, 2, 4, 4, 8))
        value = chance.choice(_INTEGERS) & ((1 << 8 * size) - 1)
        content = value.to_bytes(size, chance.choice(("little", "little", "big")))
    place = chance.randrange(len(data) + 1)
    return data[:place] + content + data[place + len(content) :]


def _inflate(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    """What may be a length, as it is not beyond the file, becomes another, mostly a larger one."""
    size = chance.choice((1, 2, 4, 4, 8))
    start = chance.randrange(max(1, len(data) - size))
    for place in (*range(start, min(len(data) - size, start + 4096)), start):
        value = int.from_bytes(data[place : place + size], "little")
        if 0 < value <= len(data):
            other = chance.choice((value + 1, value - 1, 2 * value, value * 1000, chance.choice(_INTEGERS)))
            return data[:place] + (other & ((1 << 8 * size) - 1)).to_bytes(size, "little") + data[place + size :]
    return data


def _pieces(data: bytes) -> list[bytes]:
    return _PIECE.findall(data)


def _replace_word(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    pieces = _pieces(data)
    numbers = [index for index, piece in enumerate(pieces) if _NUMBER.fullmatch(piece)]
    if pieces:
        at = chance.choice(numbers) if numbers and chance.random() < 0.7 else chance.randrange(len(pieces))
        pieces[at] = chance.choice(_WORDS) if chance.random() < 0.8 else chance.choice(pieces)
    return b"".join(pieces)


def _swap(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    pieces = _pieces(data)
    if pieces:
        one, two = chance.randrange(len(pieces)), chance.randrange(len(pieces))
        pieces[one], pieces[two] = pieces[two], pieces[one]
    return b"".join(pieces)


def _move_lines(data: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    """A line, or what stands between two marks of structure, is doubled, left out or taken from elsewhere."""
    mark = chance.choice((b"\n", b",", b">", b"}", b"{"))
    parts, foreign = data.split(mark), chance.choice(others).split(mark)
    at = chance.randrange(len(parts))
    parts[at : at + chance.choice((0, 1))] = chance.choice(([], [parts[at]] * 2, [chance.choice(foreign)]))
    return mark.join(parts)


def _nest(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    """Brackets within brackets, deep."""
    opened, closed = chance.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"<a>", b"</a>"), (b"a{", b"}"), (b"(", b")")))
    depth = chance.choice((3, 200, 2000, 20_000))
    place = chance.randrange(len(data) + 1)
    return data[:place] + opened * depth + (b"1" + closed * depth if chance.random() < 0.5 else b"") + data[place:]


_OF_BYTES: tuple[_Change, ...] = (_flip, _truncate, _delete, _repeat, _splice, _overwrite, _inflate, _inflate)
_OF_TEXT: tuple[_Change, ...] = (_replace_word, _replace_word, _replace_word, _swap, _move_lines, _move_lines, _nest)
