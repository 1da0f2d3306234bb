"""A scanner for results files of the usual shape: a list of flat objects with image_id, category_id, bbox and score.

It reads bytes into arrays without making a Python object for each number, which is where a results file's time and
memory go. Whatever is not of that shape (another nesting, escapes, wrong JSON) it declines, and the caller takes the
`json` module, whose error messages are also the better ones. What it accepts is valid JSON and means the same.

Numbers are exactly Python's `float(text)`. Up to 2**53 with a power of ten up to 22, both operands are doubles and one
division rounds once (Clinger, "How to read floating point numbers accurately", 1990). Up to 19 digits, the product
with a 64-bit power of five bounds the true value from both sides (the idea of Lemire, "Number parsing at a gigabyte
per second", 2021, https://arxiv.org/abs/2101.11408); where both bounds round alike the double is certain, and where
they do not (one number in a thousand) Python reads that number.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ops.compiled import compiled

__all__ = ["read_bytes", "scan_results"]

_REACH = 64
"""Powers of ten from -_REACH to _REACH are read here; Python reads the rest."""


def _powers_of_five() -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """5**q = digits * 2**exponent, digits having 64 bits and rounded down, for q from -_REACH to _REACH."""
    digits, exponents = [], []
    for q in range(-_REACH, _REACH + 1):
        if q >= 0:
            shift = (5**q).bit_length() - 64
            digits.append(5**q >> shift if shift > 0 else 5**q << -shift)
        else:
            shift = -((5**-q).bit_length() + 63)
            digits.append((1 << -shift) // 5**-q)
        exponents.append(shift)
    return np.array(digits, dtype=np.uint64), np.array(exponents, dtype=np.int64)


_FIVES, _FIVES_EXPONENT = _powers_of_five()
_TENS = np.array([10.0**q for q in range(23)])
_TWO_BIAS = 512
_TWOS = np.array([2.0 ** (e - _TWO_BIAS) for e in range(2 * _TWO_BIAS)])

_INVALID, _INTEGER, _REAL, _UNDECIDED = 0, 1, 2, 3

_IMAGE = np.frombuffer(b"image_id", dtype=np.uint8).copy()
_CATEGORY = np.frombuffer(b"category_id", dtype=np.uint8).copy()
_BOX = np.frombuffer(b"bbox", dtype=np.uint8).copy()
_SCORE = np.frombuffer(b"score", dtype=np.uint8).copy()

_QUOTE, _BACKSLASH, _COMMA, _COLON, _MINUS, _PLUS, _POINT = 34, 92, 44, 58, 45, 43, 46
_OPEN_LIST, _CLOSE_LIST, _OPEN_OBJECT, _CLOSE_OBJECT = 91, 93, 123, 125
_ZERO, _NINE, _SMALL_E, _LARGE_E = 48, 57, 101, 69


def read_bytes(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file and one zero byte, which no JSON text holds and at which every step of the scanner stops.

    Raises:
        OSError: The file cannot be read.
    """
    if not path.is_file():  # a pipe does not say how much it will give
        return np.frombuffer(bytearray(path.read_bytes() + b"\0"), dtype=np.uint8)
    with path.open("rb") as file:
        size = path.stat().st_size
        data = np.empty(size + 1, dtype=np.uint8)
        view = memoryview(data)[:size]  # type: ignore[arg-type]
        filled = 0
        while filled < size and (read := file.readinto(view[filled:])):
            filled += read
    data[filled] = 0
    return data[: filled + 1]


def scan_results(
    data: NDArray[np.uint8],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]] | None:
    """Read a results file's bytes, as `read_bytes` gives them.

    Returns:
        image_id `[N]`, category_id `[N]` and, for each entry, x, y, width, height, score `[N, 5]`, in the order of the
        file; None where the text is not of the usual shape.
    """
    capacity = _count(data, _OPEN_OBJECT)
    images = np.empty(capacity, dtype=np.int64)
    categories = np.empty(capacity, dtype=np.int64)
    numbers = np.empty((capacity, 5), dtype=np.float64)
    undecided = np.empty((capacity * 5, 3), dtype=np.int64)
    count, doubtful = _scan(data, images, categories, numbers, undecided)
    if count < 0:
        return None
    flat = numbers.reshape(-1)
    for place, start, stop in undecided[:doubtful].tolist():
        flat[place] = float(data[start:stop].tobytes())
    return images[:count], categories[:count], numbers[:count]


@compiled
def _count(data: NDArray[np.uint8], byte: int) -> int:
    count = 0
    for i in range(len(data)):
        if data[i] == byte:
            count += 1
    return count


@compiled
def _space(data: NDArray[np.uint8], i: int) -> int:
    while data[i] == 32 or data[i] == 10 or data[i] == 13 or data[i] == 9:
        i += 1
    return i


@compiled
def _is(data: NDArray[np.uint8], start: int, stop: int, word: NDArray[np.uint8]) -> bool:
    if stop - start != len(word):
        return False
    for j in range(len(word)):  # noqa: SIM110 - numba has no all()
        if data[start + j] != word[j]:
            return False
    return True


@compiled
def _plain_string(data: NDArray[np.uint8], i: int) -> int:
    """End of the text that starts at `i`, behind a quote: where the closing quote stands, or -1 if it is not plain."""
    while data[i] != _QUOTE:
        if data[i] < 32 or data[i] > 126 or data[i] == _BACKSLASH:
            return -1
        i += 1
    return i


@compiled
def _high_half(a: np.uint64, b: np.uint64) -> np.uint64:
    """Upper 64 bits of the product of two 64-bit numbers."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    a0, a1, b0, b1 = a & low, a >> half, b & low, b >> half
    middle = a1 * b0 + ((a0 * b0) >> half)
    other = a0 * b1 + (middle & low)
    return a1 * b1 + (middle >> half) + (other >> half)


@compiled
def _scale(digits: np.uint64, power: int) -> tuple[bool, float]:
    """digits * 10**power as the nearest double, and whether that is certain. `digits` is not 0, |power| <= _REACH."""
    one = np.uint64(1)
    top = np.uint64(63)
    shift = 0
    while digits >> top == 0:
        digits <<= one
        shift += 1
    # The product's upper half falls short of the truth by less than 2: once for the lower half that is left out, once
    # for the digits of the power of five that are left out.
    product = _high_half(digits, _FIVES[power + _REACH])
    drop = 11 if product >> top else 10
    rest = product & ((one << np.uint64(drop)) - one)
    half = one << np.uint64(drop - 1)
    mantissa = product >> np.uint64(drop)
    if rest > half:
        mantissa += one
    elif rest + np.uint64(2) > half:
        return False, 0.0
    exponent = drop + 64 - shift + _FIVES_EXPONENT[power + _REACH] + power
    return True, float(mantissa) * _TWOS[exponent + _TWO_BIAS]


@compiled
def _number(data: NDArray[np.uint8], i: int) -> tuple[int, int, int, float]:
    """Read the number at `i`: where it ends, its kind, its value as an integer (if it is one) and as a double."""
    negative = data[i] == _MINUS
    if negative:
        i += 1
    first = i
    digits = np.uint64(0)
    ten = np.uint64(10)
    while _ZERO <= data[i] <= _NINE:
        digits = digits * ten + np.uint64(data[i] - _ZERO)
        i += 1
    length = i - first
    if length == 0 or (length > 1 and data[first] == _ZERO):
        return i, _INVALID, 0, 0.0
    whole = True
    power = 0
    if data[i] == _POINT:
        whole = False
        i += 1
        start = i
        while _ZERO <= data[i] <= _NINE:
            digits = digits * ten + np.uint64(data[i] - _ZERO)
            i += 1
        power = start - i
        if power == 0:
            return i, _INVALID, 0, 0.0
        length -= power
    if data[i] == _SMALL_E or data[i] == _LARGE_E:
        whole = False
        i += 1
        down = data[i] == _MINUS
        if down or data[i] == _PLUS:
            i += 1
        start = i
        exponent = 0
        while _ZERO <= data[i] <= _NINE:
            if exponent < 100000:
                exponent = exponent * 10 + (data[i] - _ZERO)
            i += 1
        if i == start:
            return i, _INVALID, 0, 0.0
        power += -exponent if down else exponent
    if length > 19:  # perhaps only for its leading zeros, as in 0.000012345678901234567
        j = first
        while data[j] == _ZERO or data[j] == _POINT:
            length -= data[j] == _ZERO
            j += 1
    if length > 19 or (whole and length > 18):
        return i, _UNDECIDED, 0, 0.0
    sign = -1.0 if negative else 1.0
    if whole:
        integer = int(np.int64(digits))  # signed, for 64 unsigned bits would not turn negative
        integer = -integer if negative else integer
        return i, _INTEGER, integer, float(integer)
    if digits == 0:
        return i, _REAL, 0, sign * 0.0
    if digits <= np.uint64(1 << 53) and -22 <= power <= 22:
        value = float(digits)
        value = value / _TENS[-power] if power < 0 else value * _TENS[power]
        return i, _REAL, 0, sign * value
    if not -_REACH <= power <= _REACH:
        return i, _UNDECIDED, 0, 0.0
    certain, value = _scale(digits, power)
    return i, (_REAL if certain else _UNDECIDED), 0, sign * value


@compiled
def _scan(
    data: NDArray[np.uint8],
    images: NDArray[np.int64],
    categories: NDArray[np.int64],
    numbers: NDArray[np.float64],
    undecided: NDArray[np.int64],
) -> tuple[int, int]:
    """Fill the arrays; the number of entries (-1: not the usual shape) and of numbers left to Python."""
    declined = (-1, 0)
    row = 0
    doubtful = 0
    i = _space(data, 0)
    if data[i] != _OPEN_LIST:
        return declined
    i = _space(data, i + 1)
    if data[i] == _CLOSE_LIST:
        return (0, 0) if _space(data, i + 1) == len(data) - 1 else declined
    while True:
        if data[i] != _OPEN_OBJECT:
            return declined
        seen = 0
        while True:
            i = _space(data, i + 1)
            if data[i] != _QUOTE:
                return declined
            start = i + 1
            stop = _plain_string(data, start)
            if stop < 0:
                return declined
            i = _space(data, stop + 1)
            if data[i] != _COLON:
                return declined
            i = _space(data, i + 1)
            key = 0
            if _is(data, start, stop, _IMAGE):
                key = 1
            elif _is(data, start, stop, _CATEGORY):
                key = 2
            elif _is(data, start, stop, _BOX):
                key = 4
            elif _is(data, start, stop, _SCORE):
                key = 8
            if seen & key:
                return declined
            seen |= key
            if key == 4:
                if data[i] != _OPEN_LIST:
                    return declined
                for column in range(4):
                    begin = _space(data, i + 1)
                    i, kind, _, value = _number(data, begin)
                    if kind == _INVALID:
                        return declined
                    numbers[row, column] = value
                    if kind == _UNDECIDED:
                        undecided[doubtful, 0] = row * 5 + column
                        undecided[doubtful, 1] = begin
                        undecided[doubtful, 2] = i
                        doubtful += 1
                    i = _space(data, i)
                    if data[i] != (_CLOSE_LIST if column == 3 else _COMMA):
                        return declined
                i += 1
            elif key == 0 and data[i] == _QUOTE:
                i = _plain_string(data, i + 1) + 1
                if i == 0:
                    return declined
            else:
                begin = i
                i, kind, integer, value = _number(data, begin)
                if kind == _INVALID or (key & 3 and kind != _INTEGER):
                    return declined
                if key == 1:
                    images[row] = integer
                elif key == 2:
                    categories[row] = integer
                elif key == 8:
                    numbers[row, 4] = value
                    if kind == _UNDECIDED:
                        undecided[doubtful, 0] = row * 5 + 4
                        undecided[doubtful, 1] = begin
                        undecided[doubtful, 2] = i
                        doubtful += 1
            i = _space(data, i)
            if data[i] == _CLOSE_OBJECT:
                break
            if data[i] != _COMMA:
                return declined
        if seen != 15:
            return declined
        row += 1
        i = _space(data, i + 1)
        if data[i] == _CLOSE_LIST:
            break
        if data[i] != _COMMA:
            return declined
        i = _space(data, i + 1)
    return (row, doubtful) if _space(data, i + 1) == len(data) - 1 else declined
