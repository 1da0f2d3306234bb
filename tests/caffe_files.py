"""Writes Caffe's files for the tests: protobuf by hand, field numbers as the SSD branch's caffe.proto has them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, value: int | float | str | bytes) -> bytes:
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def message(*fields: tuple[int, Any]) -> bytes:
    return b"".join(field(number, value) for number, value in fields)


def shape(array: Array) -> bytes:
    return field(7, field(1, b"".join(varint(side) for side in array.shape)))


def packed(array: Array) -> bytes:
    return shape(array) + field(5, array.astype("<f4").tobytes())


def unpacked(array: Array) -> bytes:
    return b"".join(field(5, float(value)) for value in array.flat) + shape(array)


def in_two_runs(array: Array) -> bytes:
    flat = array.astype("<f4").ravel()
    return field(5, flat[:1].tobytes()) + shape(array) + field(5, flat[1:].tobytes())


def doubles(array: Array) -> bytes:
    return shape(array) + field(8, array.astype("<f8").tobytes())


def halves(array: Array) -> bytes:
    return shape(array) + field(10, 2) + field(12, array.astype("<f2").tobytes())


def legacy(array: Array) -> bytes:
    """Without a shape: four numbers, filled with ones from the left."""
    sides = (1,) * (4 - array.ndim) + array.shape
    return message(*enumerate(sides, start=1)) + field(5, array.astype("<f4").tobytes())


def layer(
    name: str,
    kind: str,
    bottoms: Sequence[str] = (),
    tops: Sequence[str] = (),
    blobs: Sequence[Array] = (),
    settings: bytes = b"",
    write: Any = packed,
) -> bytes:
    """One entry of NetParameter.layer."""
    names = [(1, name), (2, kind), *((3, bottom) for bottom in bottoms), *((4, top) for top in tops)]
    return field(100, message(*names) + b"".join(field(7, write(blob)) for blob in blobs) + settings)


def layer_v1(
    name: str,
    kind: int,
    bottoms: Sequence[str] = (),
    tops: Sequence[str] = (),
    blobs: Sequence[Array] = (),
    settings: bytes = b"",
    write: Any = legacy,
) -> bytes:
    """One entry of NetParameter.layers."""
    names = [*((2, bottom) for bottom in bottoms), *((3, top) for top in tops), (4, name), (5, kind)]
    return field(2, message(*names) + b"".join(field(6, write(blob)) for blob in blobs) + settings)


def write_caffemodel(path: Path, *layers: bytes) -> Path:
    path.write_bytes(field(1, "toy") + b"".join(layers))
    return path


def text(settings: Mapping[str, Any], indent: str = "") -> str:
    """A message as text: lists repeat a field, words in capitals are enumerators."""
    lines = []
    for name, values in settings.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, Mapping):
                lines.append(f"{indent}{name} {{\n{text(value, indent + '  ')}{indent}}}\n")
            elif isinstance(value, bool):
                lines.append(f"{indent}{name}: {str(value).lower()}\n")
            elif isinstance(value, str) and not value.isupper():
                lines.append(f'{indent}{name}: "{value}"\n')
            else:
                lines.append(f"{indent}{name}: {value}\n")
    return "".join(lines)


class Toy:
    """A small network, layer by layer, and its two files.

    `add` gives the name of the layer's map, which is the layer's own.
    """

    def __init__(self, *sides: int, seed: int = 0) -> None:
        self.numbers = np.random.default_rng(seed)
        self.layers: list[dict[str, Any]] = []
        self.blobs: list[tuple[str, str, list[Array]]] = []
        self.head: dict[str, Any] = {"name": "toy", "input": "data", "input_shape": {"dim": list(sides)}}

    def normal(self, *sides: int) -> Array:
        fan = int(np.prod(sides[1:])) or 1
        return (self.numbers.standard_normal(sides) / fan**0.5).astype(np.float32)

    def add(self, kind: str, *bottoms: str, blobs: Sequence[Array] = (), name: str = "", **settings: Any) -> str:
        name = name or f"{kind.lower()}{len(self.layers)}"
        self.layers.append({"name": name, "type": kind, "bottom": list(bottoms), "top": name, **settings})
        if blobs:
            self.blobs.append((name, kind, [np.asarray(blob, np.float32) for blob in blobs]))
        return name

    def conv(self, bottom: str, inputs: int, outputs: int, kernel: int = 3, name: str = "", **settings: Any) -> str:
        weight = self.normal(outputs, inputs // settings.get("group", 1), kernel, kernel)
        bias = [0.3 * self.normal(outputs)] if settings.get("bias_term", True) else []
        param = {"num_output": outputs, "kernel_size": kernel, **settings}
        return self.add("Convolution", bottom, blobs=[weight, *bias], name=name, convolution_param=param)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """The `.prototxt` and the `.caffemodel`."""
        prototxt = folder / "toy.prototxt"
        prototxt.write_text(text({**self.head, "layer": self.layers}))
        layers = [layer(name, kind, blobs=blobs) for name, kind, blobs in self.blobs]
        return prototxt, write_caffemodel(folder / "toy.caffemodel", *layers)
