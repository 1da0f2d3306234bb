"""Caffe's `.caffemodel` and `.prototxt` files, read without Caffe and without a protobuf library.

A detector that takes such files has a method

    def caffe_names(self) -> dict[str, str | tuple[str, ...]]:

which says, for every module of it that holds parameters (by its name as in `named_modules()`), which layer of the file
fills it. The rules of `load_caffe` say how.

Both kinds of file hold one protobuf message, NetParameter, in binary or as text. Messages are trees of numbered fields;
lengths stand before contents, and are believed only as far as what surrounds them reaches.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["CaffeError", "Layer", "Message", "Names", "Net", "load_caffe", "read_caffemodel", "read_prototxt"]

Names = Mapping[str, str | tuple[str, ...]]
"""Module of ours to layer, or layers, of the file."""

Message = Mapping[str, tuple[Any, ...]]
"""Fields by name, each with all its values: numbers, bools, strings (enumerators too), or messages."""


class CaffeError(ValueError):
    """A Caffe file does not fit; the message names the file, the place in it and the remedy."""


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: Of the layer.
        type: As the current format spells it (`Convolution`), whatever the file's age.
        bottoms: Names of the maps that it reads.
        tops: Names of the maps that it gives.
        blobs: Its learned numbers, float32, as shaped in the file.
        fields: Everything else that the file says of it and that is known here.
    """

    name: str
    type: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    blobs: tuple[NDArray[np.float32], ...] = ()
    fields: Message = field(default_factory=dict)

    def settings(self, message: str, name: str) -> tuple[Any, ...]:
        """All values of a field of one of its messages: `settings("convolution_param", "pad")`."""
        return tuple(value for part in self.fields.get(message, ()) for value in part.get(name, ()))

    def setting(self, message: str, name: str, default: Any) -> Any:
        """The last of them, or `default` where there is none."""
        return (default, *self.settings(message, name))[-1]

    @property
    def runs_in_test(self) -> bool:
        """Whether the layer is there when the network detects; its `include` and `exclude` rules say so."""
        includes, excludes = self.fields.get("include", ()), self.fields.get("exclude", ())
        if includes:
            return any(_rule_holds(rule) for rule in includes)
        return not any(_rule_holds(rule) for rule in excludes)


def _rule_holds(rule: Message) -> bool:
    """Of a network in test phase, at level 0, without stages."""
    test = rule.get("phase", ("TEST",))[-1] == "TEST"
    level = rule.get("min_level", (0,))[-1] <= 0 <= rule.get("max_level", (0,))[-1]
    return test and level and not rule.get("stage")


@dataclass(frozen=True)
class Net:
    """A network as a file describes it.

    Attributes:
        path: The file.
        name: Of the network.
        layers: In the file's order.
        inputs: Shape of each input that is declared outside the layers.
    """

    path: Path
    name: str
    layers: tuple[Layer, ...]
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def _fields(text: str) -> dict[int, tuple[str, str]]:
    """`"pad:3:int ..."` as field number to name and kind; a kind is a scalar's, enumerators, or a message's name."""
    parts = (entry.split(":") for entry in text.split())
    return {int(number): (name, kind) for name, number, kind in parts}


_ENGINE = "DEFAULT|CAFFE|CUDNN"
_PHASE = "TRAIN|TEST"
_CODE = "|CORNER|CENTER_SIZE|CORNER_SIZE"
_SETTINGS = {
    "batch_norm_param": "use_global_stats:1:bool moving_average_fraction:2:float eps:3:float",
    "concat_param": "axis:2:int concat_dim:1:int",
    "convolution_param": "num_output:1:int bias_term:2:bool pad:3:int kernel_size:4:int stride:6:int dilation:18:int "
    "pad_h:9:int pad_w:10:int kernel_h:11:int kernel_w:12:int stride_h:13:int stride_w:14:int group:5:int axis:16:int",
    "detection_output_param": "num_classes:1:int share_location:2:bool background_label_id:3:int nms_param:4:nms_param "
    f"code_type:6:{_CODE} variance_encoded_in_target:8:bool keep_top_k:7:int confidence_threshold:9:float",
    "eltwise_param": "operation:1:PROD|SUM|MAX coeff:2:float",
    "flatten_param": "axis:1:int end_axis:2:int",
    "inner_product_param": "num_output:1:int bias_term:2:bool axis:5:int transpose:6:bool",
    "input_param": "shape:1:shape",
    "norm_param": "across_spatial:1:bool channel_shared:3:bool eps:4:float",
    "permute_param": "order:1:int",
    "pooling_param": "pool:1:MAX|AVE|STOCHASTIC pad:4:int pad_h:9:int pad_w:10:int kernel_size:2:int kernel_h:5:int "
    "kernel_w:6:int stride:3:int stride_h:7:int stride_w:8:int global_pooling:12:bool round_mode:13:CEIL|FLOOR",
    "prelu_param": "channel_shared:2:bool",
    "prior_box_param": "min_size:1:float max_size:2:float aspect_ratio:3:float flip:4:bool clip:5:bool "
    "variance:6:float img_size:7:int img_h:8:int img_w:9:int step:10:float step_h:11:float step_w:12:float "
    "offset:13:float",
    "relu_param": "negative_slope:1:float",
    "reshape_param": "shape:1:shape axis:2:int num_axes:3:int",
    "scale_param": "axis:1:int num_axes:2:int bias_term:4:bool",
    "softmax_param": "axis:2:int",
}
_RULES = {
    "shape": "dim:1:int",
    "nms_param": "nms_threshold:1:float top_k:2:int eta:3:float",
    "rule": f"phase:1:{_PHASE} min_level:2:int max_level:3:int stage:4:str not_stage:5:str",
}
_NUMBERS = {
    "batch_norm_param": 139,
    "concat_param": 104,
    "convolution_param": 106,
    "detection_output_param": 204,
    "eltwise_param": 110,
    "flatten_param": 135,
    "inner_product_param": 117,
    "input_param": 143,
    "norm_param": 206,
    "permute_param": 202,
    "pooling_param": 121,
    "prelu_param": 131,
    "prior_box_param": 203,
    "relu_param": 123,
    "reshape_param": 133,
    "scale_param": 142,
    "softmax_param": 125,
}
_NUMBERS_V1 = {
    "concat_param": 9,
    "convolution_param": 10,
    "eltwise_param": 24,
    "inner_product_param": 17,
    "pooling_param": 19,
    "relu_param": 30,
    "softmax_param": 39,
}
_TYPES_V1 = {
    1: "Accuracy",
    2: "BNLL",
    3: "Concat",
    4: "Convolution",
    5: "Data",
    6: "Dropout",
    7: "EuclideanLoss",
    8: "Flatten",
    9: "HDF5Data",
    10: "HDF5Output",
    11: "Im2col",
    12: "ImageData",
    13: "InfogainLoss",
    14: "InnerProduct",
    15: "LRN",
    16: "MultinomialLogisticLoss",
    17: "Pooling",
    18: "ReLU",
    19: "Sigmoid",
    20: "Softmax",
    21: "SoftmaxWithLoss",
    22: "Split",
    23: "TanH",
    24: "WindowData",
    25: "Eltwise",
    26: "Power",
    27: "SigmoidCrossEntropyLoss",
    28: "HingeLoss",
    29: "MemoryData",
    30: "ArgMax",
    31: "Threshold",
    32: "DummyData",
    33: "Slice",
    34: "MVN",
    35: "AbsVal",
    36: "Silence",
    37: "ContrastiveLoss",
    38: "Exp",
    39: "Deconvolution",
}
_SPELT_V1 = {
    "INNER_PRODUCT": "InnerProduct",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    **{name.upper(): name for name in _TYPES_V1.values()},
}


def _known(numbers: Mapping[str, int]) -> str:
    return " ".join(f"{name}:{number}:{name}" for name, number in numbers.items())


# The messages that are read, each with the fields that are. Other fields are stepped over.
_SCHEMA = {name: _fields(text) for name, text in (_SETTINGS | _RULES).items()} | {
    "net": _fields("name:1:str input:3:str input_shape:8:shape input_dim:4:int layer:100:layer layers:2:v1"),
    "layer": _fields(
        f"name:1:str type:2:str bottom:3:str top:4:str phase:10:{_PHASE} blobs:7:blob include:8:rule exclude:9:rule "
        + _known(_NUMBERS)
    ),
    "v1": _fields(
        "v0:1:skip bottom:2:str top:3:str name:4:str type:5:type blobs:6:blob include:32:rule exclude:33:rule "
        + _known(_NUMBERS_V1)
    ),
    "blob": _fields(
        "shape:7:shape data:5:floats double_data:8:doubles num:1:int channels:2:int height:3:int width:4:int "
        "raw_data_type:10:DOUBLE|FLOAT|FLOAT16|INT|UINT raw_data:12:raw"
    ),
}
_MOST_FIELDS = 200_000
_MOST_SIDES = 32
_LONGEST_NAME = 200
_LONGEST_SIDE = 2**31 - 1
_KEYED = np.dtype([("key", "u1"), ("value", "<f4")])
_RAW_TYPES = {"DOUBLE": "<f8", "FLOAT": "<f4", "FLOAT16": "<f2"}


class _Wire:
    """A binary message of `content`. Positions are bytes of the file."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content
        self.left = _MOST_FIELDS
        self.layer = ""

    def fail(self, position: int, what: str) -> CaffeError:
        place = f"byte {position:,}" + (f", in layer {_short(self.layer)}" if self.layer else "")
        return CaffeError(
            f"{self.path}: {place}: {what}; the file is damaged or no .caffemodel, download it again (and compare its "
            f"sha256), or give another"
        )

    def varint(self, position: int, end: int) -> tuple[int, int]:
        value = 0
        for index in range(10):
            if position + index >= end:
                raise self.fail(position, "a number is cut off")
            byte = self.content[position + index]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, position + index + 1
        raise self.fail(position, "a number has more than ten bytes")

    def entries(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Field number, wire type, and where its content starts and ends (for numbers, the number's own bytes)."""
        position = start
        while position < end:
            self.left -= 1
            if self.left < 0:
                raise self.fail(position, f"over {_MOST_FIELDS:,} fields")
            at = position
            key, position = self.varint(position, end)
            number, wire = key >> 3, key & 7
            if number == 0 or number >= 1 << 29:
                raise self.fail(at, f"there is no field {number}")
            if wire == 0:
                stop = self.varint(position, end)[1]
            elif wire in (1, 5):
                stop = position + (8 if wire == 1 else 4)
            elif wire == 2:
                length, position = self.varint(position, end)
                stop = position + length
            else:
                raise self.fail(at, f"field {number} has wire type {wire}, which Caffe does not use")
            if stop > end:
                raise self.fail(
                    at, f"field {number} claims {stop - position:,} bytes, but {max(0, end - position):,} are left"
                )
            yield number, wire, position, stop
            position = stop

    def message(self, kind: str, start: int, end: int) -> dict[str, tuple[Any, ...]]:
        """A message's known fields."""
        schema = _SCHEMA[kind]
        found: dict[str, list[Any]] = {}
        for number, wire, position, stop in self.entries(start, end):
            if number not in schema:
                continue
            name, form = schema[number]
            values = found.setdefault(name, [])
            if form == "blob":
                values.append(self.blob(position, stop, f"blob {len(values)}"))
            elif form in ("layer", "v1"):
                values.append(self.layer_at(form, wire, position, stop))
            elif form in _SCHEMA:
                self.expect(wire == 2, position, name)
                values.append(self.message(form, position, stop))
            else:
                values.extend(self.scalars(name, form, wire, position, stop))
        return {name: tuple(values) for name, values in found.items()}

    def expect(self, right: bool, position: int, name: str) -> None:
        if not right:
            raise self.fail(position, f"field {name!r} has the wrong wire type")

    def scalars(self, name: str, form: str, wire: int, position: int, stop: int) -> Iterator[Any]:
        """The value of a field, or the values of a packed one."""
        if form == "skip":
            return
        if form == "str":
            self.expect(wire == 2, position, name)
            try:
                yield self.content[position:stop].decode()
            except UnicodeDecodeError as error:
                raise self.fail(position, f"{name!r} is no text") from error
            return
        if form == "float":
            self.expect(wire in (2, 5), position, name)
            if (stop - position) % 4:
                raise self.fail(position, f"{name!r} is no whole number of floats")
            self.left -= (stop - position) // 4
            if self.left < 0:
                raise self.fail(position, f"over {_MOST_FIELDS:,} fields")
            yield from struct.unpack_from(f"<{(stop - position) // 4}f", self.content, position)
            return
        self.expect(wire in (0, 2), position, name)
        while position < stop:
            self.left -= 1
            if self.left < 0:
                raise self.fail(position, f"over {_MOST_FIELDS:,} fields")
            value, position = self.varint(position, stop)
            if form == "bool":
                yield bool(value)
            elif form in ("int", "type"):
                yield value - (1 << 64) if value >> 63 else value
            else:
                choices = form.split("|")
                if value >= len(choices):
                    raise self.fail(position, f"{name!r} has {len(choices)} choices, not one with number {value}")
                yield choices[value]

    def layer_at(self, form: str, wire: int, start: int, end: int) -> Layer:
        self.layer = ""
        self.expect(wire == 2, start, "layer")
        # The name may stand behind what is wrong.
        named = next(number for number, (name, _) in _SCHEMA[form].items() if name == "name")
        for number, kind, position, stop in self.entries(start, end):
            if number == named:
                self.layer = "".join(self.scalars("name", "str", kind, position, stop))
                break
        fields = self.message(form, start, end)
        if form == "v1" and "v0" in fields:
            raise CaffeError(
                f"{self.path}: byte {start:,}: a layer in the format of 2013 (V0), which is not read; convert the file "
                f"with Caffe's upgrade_net_proto_binary"
            )
        layer = _layer(fields)
        self.layer = ""
        if _has_long_names(layer):
            raise self.fail(start, f"a layer has a name of over {_LONGEST_NAME} characters")
        return layer

    def floats_apart(self, position: int, end: int) -> NDArray[np.float32]:
        """Numbers of a blob's `data` that are not packed: each has its key before it."""
        count = min((end - position) // 5, 4096)
        pairs = np.frombuffer(self.content, _KEYED, count, position)
        other = pairs["key"] != 0x2D
        return pairs["value"][: int(other.argmax()) if other.any() else count]

    def array(self, kind: str, position: int, stop: int, which: str) -> NDArray[Any]:
        """Bytes as numbers, without a copy."""
        size = np.dtype(kind).itemsize
        if (stop - position) % size:
            raise self.fail(position, f"{which} holds {stop - position:,} bytes, no multiple of {size}")
        return np.frombuffer(self.content, kind, (stop - position) // size, position)

    def blob(self, start: int, end: int, which: str) -> NDArray[np.float32]:
        parts: list[NDArray[Any]] = []
        shape: tuple[int, ...] | None = None
        legacy: dict[str, int] = {}
        raw: list[tuple[int, int]] = []
        raw_type = "FLOAT"
        position = start
        while position < end:
            run = self.floats_apart(position, end)
            if len(run):
                parts.append(run)
                position += 5 * len(run)
                continue
            number, wire, content, position = next(self.entries(position, end))
            if number not in _SCHEMA["blob"]:
                continue
            name, form = _SCHEMA["blob"][number]
            if form in ("floats", "doubles"):
                size = 4 if form == "floats" else 8
                self.expect(wire in (2, 5 if size == 4 else 1), content, name)
                parts.append(self.array(f"<f{size}", content, position, which))
            elif form == "raw":
                self.expect(wire == 2, content, name)
                raw.append((content, position))
            elif form == "shape":
                self.expect(wire == 2, content, name)
                shape = (shape or ()) + self.message("shape", content, position).get("dim", ())
            else:
                for value in self.scalars(name, form, wire, content, position):
                    if name == "raw_data_type":
                        raw_type = value
                    else:
                        legacy[name] = value
        if raw and raw_type not in _RAW_TYPES:
            raise self.fail(start, f"{which} holds whole numbers ({raw_type})")
        parts += [self.array(_RAW_TYPES[raw_type], *piece, which) for piece in raw]
        if shape is None and legacy:
            shape = tuple(legacy.get(name, 0) for name in ("num", "channels", "height", "width"))
        count = sum(len(part) for part in parts)
        if shape is not None and (len(shape) > _MOST_SIDES or max(shape, default=0) > _LONGEST_SIDE):
            raise self.fail(start, f"{which} has a shape of {len(shape)} sides, {repr(shape[:4])[:80]} at first")
        if shape is None or any(side < 0 for side in shape) or math.prod(shape) != count:
            raise self.fail(
                start, f"{which} has {'no shape' if shape is None else f'shape {shape}'} but {count:,} numbers"
            )
        values = parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, np.float32)])
        # Where it can, it stays a view of the file's bytes.
        with np.errstate(over="ignore"):
            values = values.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise self.fail(start, f"{which} holds {values[~np.isfinite(values)][0]}")
        return values.reshape(shape)


def _layer(fields: dict[str, Any]) -> Layer:
    """A layer from the fields of its message; V1's types in today's spelling."""
    kind = ("", *fields.pop("type", ()))[-1]
    if isinstance(kind, int):
        kind = _TYPES_V1.get(kind, f"V1 type {kind}")
    return Layer(
        name=("", *fields.pop("name", ()))[-1],
        type=kind,
        bottoms=fields.pop("bottom", ()),
        tops=fields.pop("top", ()),
        blobs=fields.pop("blobs", ()),
        fields=fields,
    )


def _has_long_names(layer: Layer) -> bool:
    return any(len(name) > _LONGEST_NAME for name in (layer.name, layer.type, *layer.bottoms, *layer.tops))


def _net(path: Path, fields: Mapping[str, Any]) -> Net:
    """A network from the fields of its message."""
    names = fields.get("input", ())
    dims = fields.get("input_dim", ())
    shapes = [shape.get("dim", ()) for shape in fields.get("input_shape", ())] or [
        dims[start : start + 4] for start in range(0, len(dims), 4)
    ]
    if len(shapes) != len(names):
        raise CaffeError(f"{path}: {len(names)} inputs, but {len(shapes)} shapes of inputs; declare one shape an input")
    if fields.get("layer") and fields.get("layers"):
        raise CaffeError(f"{path}: both 'layer' and 'layers'; convert the file with Caffe's upgrade_net_proto tools")
    layers = fields.get("layer", ()) + fields.get("layers", ())
    if not layers:
        raise CaffeError(f"{path}: no layers in it; give a .caffemodel or .prototxt of a network")
    return Net(path, ("", *fields.get("name", ()))[-1], layers, dict(zip(names, shapes, strict=True)))


def read_caffemodel(path: Path) -> Net:
    """Layers and blobs of a binary file.

    Raises:
        CaffeError: The file is missing, cut off or damaged.
    """
    content = _read(path)
    return _net(path, _Wire(path, content).message("net", 0, len(content)))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CaffeError(f"{path}: cannot be read ({error.strerror}); fetch the file first") from error


_TOKEN = re.compile(
    r"""(?P<space>[\s,;]+|\#[^\n]*)|(?P<name>[A-Za-z_][\w./]*)|(?P<mark>[{}<>\[\]:])"""
    r"""|(?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?f?|inf|nan))"""
    r"""|(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
)
_DEEPEST = 32


class _Text:
    """A message as text."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text
        self.position = 0
        self.kind, self.token, self.at = "", "", 0
        self.advance()

    def fail(self, what: str) -> CaffeError:
        line = self.text.count("\n", 0, self.at) + 1
        return CaffeError(f"{self.path}: line {line}: {what}; mend the line, or give another .prototxt")

    def advance(self) -> tuple[str, str]:
        """Step to the next token; the one that was current comes back."""
        last = self.kind, self.token
        while True:
            self.at = self.position
            if self.position == len(self.text):
                self.kind, self.token = "end", "the end of the file"
                return last
            match = _TOKEN.match(self.text, self.position)
            if match is None:
                raise self.fail(f"{self.text[self.position]!r} belongs to no token")
            self.position = match.end()
            self.kind, self.token = match.lastgroup or "", match.group()
            if self.kind != "space":
                return last

    def message(self, closing: str, form: str = "", depth: int = 0) -> dict[str, Any]:
        """A message up to the token that closes it; `form` names it where it is known."""
        if depth > _DEEPEST:
            raise self.fail(f"messages are nested more than {_DEEPEST} deep")
        forms = dict(_SCHEMA.get(form, {}).values())
        found: dict[str, list[Any]] = {}
        while self.kind == "string" or self.token != closing:
            kind, name = self.advance()
            if kind != "name":
                raise self.fail(f"a field's name should stand before {_short(self.token)}, not {_short(name)}")
            values = found.setdefault(name, [])
            colon = self.token == ":"
            if colon:
                self.advance()
            if colon and self.token == "[":
                self.advance()
                while self.token != "]":
                    values.append(self.value(name, forms.get(name, ""), depth))
                self.advance()
            elif colon or self.token in ("{", "<"):
                values.append(self.value(name, forms.get(name, ""), depth))
            else:
                raise self.fail(f"{_short(name)} has no value")
        self.advance()
        return {name: tuple(values) for name, values in found.items()}

    def value(self, name: str, form: str, depth: int) -> Any:
        """One value, as the field's form wants it; of an unknown field, as it stands there."""
        kind, token = self.advance()
        value: Any
        if kind == "mark" and token in ("{", "<"):
            value = self.message("}" if token == "{" else ">", form, depth + 1)
            right = not form or form in _SCHEMA
        elif kind == "string":
            parts = [token]
            while self.kind == "string":
                parts.append(self.advance()[1])
            value = "".join(re.sub(r"\\(.)", r"\1", part[1:-1]) for part in parts)
            right = form in ("", "str")
        elif kind == "number":
            try:
                value = _number(token)
            except ValueError as error:
                raise self.fail(f"{name!r} has a number of {len(token):,} digits") from error
            right = form in ("", "float") or (form == "int" and isinstance(value, int))
        elif kind == "name":
            value = {"true": True, "false": False, "inf": math.inf, "nan": math.nan}.get(token, token)
            wanted = {"bool": bool, "float": float, "": object, "type": str}.get(form)
            right = isinstance(value, wanted) if wanted else token in form.split("|")
        else:
            raise self.fail(f"the value of {_short(name)} is missing before {_short(token)}")
        if not right:
            raise self.fail(f"{name!r} cannot be {_short(token)}")
        if form == "v1":
            value["type"] = tuple(_SPELT_V1.get(kind, kind) for kind in value.get("type", ()))
        if form in ("layer", "v1"):
            # What it says of numbers is not read: they come from a binary file.
            layer = _layer({key: own for key, own in value.items() if key != "blobs"})
            if _has_long_names(layer):
                raise self.fail(f"a layer has a name of over {_LONGEST_NAME} characters")
            return layer
        return value


def _short(token: str) -> str:
    return repr(token if len(token) <= 60 else f"{token[:57]}...")


def _number(token: str) -> int | float:
    if re.fullmatch(r"[-+]?(0[xX][0-9a-fA-F]+|\d+)", token):
        return int(token, 16 if "x" in token.lower() else 10)
    return float(token if "inf" in token else token.removesuffix("f"))


def read_prototxt(path: Path) -> Net:
    """Layers of a text file; their blobs are empty.

    Raises:
        CaffeError: The file is missing or no prototxt.
    """
    try:
        text = _read(path).decode()
    except UnicodeDecodeError as error:
        raise CaffeError(f"{path}: byte {error.start:,}: no text; give a .prototxt") from error
    return _net(path, _Text(path, text).message("the end of the file", "net"))


def load_caffe(model: nn.Module, path: Path, names: Names) -> None:
    """Fill a model from a `.caffemodel`, strictly: each parameter once, every blob of the file used once.

    The model stays as it was when anything is wrong. What stands in `names` for a module of the type

    - `Conv2d`, `Linear`: the name of its Convolution or InnerProduct layer. `(convolution, batch_norm, scale)` or
      `(convolution, scale)` folds the norm into the convolution, which then needs a bias;
    - `ConvTranspose2d`: its Deconvolution layer, with the same tuples;
    - `BatchNorm2d`: `(batch_norm, scale)`, or `batch_norm` where the file has no Scale layer (weight 1, bias 0);
    - `L2Norm`: its Normalize layer; `PReLU`: its PReLU layer;
    - any other: the layer with one blob, where the module itself holds one parameter.

    Mean and variance are divided by the third blob of their layer (unless it is 0). Where the file's eps is not the
    module's, the difference goes into the variance. A convolution without bias here may have one in the file only if it
    is zero throughout. Layers of the file without blobs need no mention.

    Args:
        model: The network.
        path: The file.
        names: For every module with parameters of its own, the layers that fill it.

    Raises:
        CaffeError: The file is damaged, a layer is missing, left over, or of another shape, a parameter is not filled.
    """
    filled = _Filler(read_caffemodel(path)).fill(model, names)
    with torch.no_grad():
        for tensor, values in filled:
            tensor.copy_(values)


class _Filler:
    """What the layers of a file put into a model's tensors."""

    def __init__(self, net: Net) -> None:
        self.path = net.path
        with_blobs = [layer for layer in net.layers if layer.blobs]
        twice = [name for name, count in Counter(layer.name for layer in with_blobs).items() if count > 1]
        if twice:
            raise CaffeError(f"{self.path}: layer {twice[0]!r}: two layers have this name; rename one of them")
        self.layers = {layer.name: layer for layer in with_blobs}
        self.free = set(self.layers)

    def fill(self, model: nn.Module, names: Names) -> list[tuple[Tensor, Tensor]]:
        modules = dict(model.named_modules())
        wanted: dict[str, Tensor] = dict(model.named_parameters())
        wanted |= {key: value for key, value in model.named_buffers() if key.endswith(("running_mean", "running_var"))}
        filled: dict[str, tuple[Tensor, Tensor]] = {}
        for prefix, given in names.items():
            if prefix not in modules:
                raise CaffeError(f"{self.path}: the model has no module {prefix!r}; mend its caffe_names()")
            layers = [self.take(prefix, name) for name in ((given,) if isinstance(given, str) else given)]
            for key, values in self.tensors(modules[prefix], prefix, layers).items():
                whole = f"{prefix}.{key}" if prefix else key
                if whole not in wanted or whole in filled:
                    raise CaffeError(
                        f"{self.path}: layer {layers[0].name!r} has no place for its {key} in {prefix!r}, or it is "
                        f"filled twice; mend caffe_names()"
                    )
                filled[whole] = (wanted[whole], self.fitting(layers[0], whole, values, wanted[whole]))
        empty = [key for key in wanted if key not in filled]
        if empty:
            raise CaffeError(
                f"{self.path}: nothing fills {empty[0]!r} ({len(empty)} tensors in all); the file belongs to another "
                f"network, or caffe_names() leaves the module out"
            )
        if self.free:
            first = next(name for name in self.layers if name in self.free)
            raise CaffeError(
                f"{self.path}: layer {first!r} is used nowhere ({len(self.free)} layers in all); the file belongs to a "
                f"larger network: build the detector that it was trained as"
            )
        return list(filled.values())

    def take(self, prefix: str, name: str) -> Layer:
        if name not in self.layers:
            raise CaffeError(
                f"{self.path}: no layer {name!r} with blobs, which should fill {prefix!r}; the file belongs to another "
                f"network"
            )
        if name not in self.free:
            raise CaffeError(f"{self.path}: layer {name!r} should fill {prefix!r} too; mend caffe_names()")
        self.free.discard(name)
        return self.layers[name]

    def fitting(self, layer: Layer, key: str, values: Tensor, tensor: Tensor) -> Tensor:
        if values.shape != tensor.shape:
            raise CaffeError(
                f"{self.path}: layer {layer.name!r}: shape {tuple(values.shape)} where {key!r} has "
                f"{tuple(tensor.shape)}; build the detector with the file's classes and sizes"
            )
        return values

    def blobs(self, layer: Layer, *counts: int) -> list[Tensor]:
        if len(layer.blobs) not in counts:
            raise CaffeError(
                f"{self.path}: layer {layer.name!r} ({layer.type}) has {len(layer.blobs)} blobs instead of "
                f"{' or '.join(map(str, counts))}; give a file of the network that caffe_names() describes"
            )
        # From a view of the file's bytes, which is read-only and may lie on odd addresses.
        return [torch.from_numpy(np.array(blob, np.float32)) for blob in layer.blobs]

    def tensors(self, module: nn.Module, prefix: str, layers: list[Layer]) -> dict[str, Tensor]:
        """What the layers say of a module's own tensors, by their names in it."""
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            return self.convolution(module, prefix, layers)
        if isinstance(module, nn.BatchNorm2d):
            mean, variance, weight, bias = self.norm(prefix, layers, module.num_features, module.eps)
            statistics = {"running_mean": mean, "running_var": variance}
            return statistics | ({"weight": weight, "bias": bias} if module.affine else {})
        own = list(module.named_parameters(recurse=False))
        if len(own) != 1 or len(layers) != 1:
            raise CaffeError(f"{self.path}: {prefix!r} is no module that one layer fills; mend caffe_names()")
        name, parameter = own[0]
        (blob,) = self.blobs(layers[0], 1)
        if layers[0].type == "Normalize" and layers[0].setting("norm_param", "across_spatial", False):
            raise CaffeError(
                f"{self.path}: layer {layers[0].name!r} normalises over the whole map, {prefix!r} each position; give "
                f"a file with across_spatial false"
            )
        return {name: blob.flatten().expand(parameter.shape) if blob.numel() == 1 else _reduced(blob, parameter.ndim)}

    def convolution(
        self, module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, prefix: str, layers: list[Layer]
    ) -> dict[str, Tensor]:
        first, *norms = layers
        blobs = self.blobs(first, 1, 2)
        weight = _reduced(blobs[0], module.weight.ndim)
        if first.type == "InnerProduct":
            weight = _reduced(blobs[0], 2)
            weight = weight.T if first.setting("inner_product_param", "transpose", False) else weight
            if isinstance(module, nn.Conv2d) and weight.numel() == module.weight.numel():
                weight = weight.reshape(module.weight.shape)
        self.fitting(first, f"{prefix}.weight", weight, module.weight)
        outputs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        bias = blobs[1].flatten() if len(blobs) == 2 else torch.zeros(outputs)
        if norms:
            mean, variance, gamma, beta = self.norm(prefix, norms, outputs, 0.0)
            factor = gamma / variance.sqrt()
            bias = (self.fitting(first, f"{prefix}.bias", bias, mean) - mean) * factor + beta
            if isinstance(module, nn.ConvTranspose2d):
                # [in, out / groups, kh, kw]: each group of inputs has its own outputs.
                factors = factor.reshape(module.groups, 1, -1).expand(-1, len(weight) // module.groups, -1)
                weight = weight * factors.flatten(0, 1)[..., None, None]
            else:
                weight = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
        if module.bias is not None:
            return {"weight": weight, "bias": bias}
        if bool(bias.any()):
            raise CaffeError(
                f"{self.path}: layer {first.name!r} has a bias, {prefix!r} has none; build it with a bias, or give the "
                f"norm behind it its own entry in caffe_names()"
            )
        return {"weight": weight}

    def norm(self, prefix: str, layers: list[Layer], channels: int, eps: float) -> tuple[Tensor, ...]:
        """Mean, variance (for a module with `eps`), weight and bias of BatchNorm and Scale layers."""
        mean, variance = torch.zeros(channels), torch.ones(channels)
        weight, bias = torch.ones(channels), torch.zeros(channels)
        kinds = [layer.type for layer in layers]
        if kinds not in (["BatchNorm", "Scale"], ["BatchNorm"], ["Scale"]):
            raise CaffeError(
                f"{self.path}: {prefix!r} needs a BatchNorm and a Scale layer, got {', '.join(kinds) or 'none'}; mend "
                f"caffe_names()"
            )
        for layer in layers:
            if layer.type == "BatchNorm":
                mean, variance, factor = (blob.flatten() for blob in self.blobs(layer, 3))
                if factor.numel() != 1:
                    raise CaffeError(f"{self.path}: layer {layer.name!r}: its third blob is no single number")
                share = 0.0 if float(factor) == 0 else 1 / float(factor)
                mean, variance = mean * share, variance * share + layer.setting("batch_norm_param", "eps", 1e-5)
                if bool((variance <= 0).any()):
                    raise CaffeError(
                        f"{self.path}: layer {layer.name!r}: a variance is {float(variance.min()):g}; the file is "
                        f"damaged, download it again"
                    )
            else:
                weight, *rest = (blob.flatten() for blob in self.blobs(layer, 1, 2))
                bias = rest[0] if rest else torch.zeros_like(weight)
        for layer, tensor in ((layers[0], mean), (layers[-1], weight), (layers[-1], bias)):
            self.fitting(layer, prefix, tensor, torch.empty(channels))
        self.fitting(layers[0], prefix, variance, mean)
        # What a module adds to the variance is taken off here.
        return mean, variance - eps, weight, bias


def _reduced(blob: Tensor, dimensions: int) -> Tensor:
    """Without the leading ones with which old files fill shapes up to four numbers."""
    while blob.ndim > dimensions and blob.shape[0] == 1:
        blob = blob[0]
    return blob
