"""Checkpoints of Detectron (Caffe2) and detectron2: pickles of NumPy arrays, read without running what they ask for.

A pickle is a program: it may call whatever it can name. Here a name is looked up in a short list, and what the list
gives is no function of NumPy or torch, but a recorder, which notes its arguments. The arrays are made afterwards, from
notes that were checked. Any other name is refused.

`read_detectron` also turns the layers' names into ours, of Faster R-CNN and Mask R-CNN on a pyramid and on conv4:

- Detectron keeps scale and shift of a normalisation whose statistics it has folded into them; ours get a mean of 0 and
  the variance that is 1 after their epsilon. What SGD remembered (`_momentum`) is left out.
- detectron2 counts the background last, ours and Detectron first; it has no boxes and no mask of the background, which
  nobody reads: they become 0.

Colours and anchors are the constructor's affair (`release`).
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.formats.pickles import check_pickle
from zoo.formats.state_dict import check_saved

__all__ = ["DetectronError", "read_detectron"]

_EPS = 1e-5
_RECORDED = {
    (module, name)
    for modules, names in (
        (("numpy.core.multiarray", "numpy._core.multiarray"), ("_reconstruct", "scalar")),
        (("numpy.core.numeric", "numpy._core.numeric"), ("_frombuffer",)),
        (("numpy",), ("ndarray", "dtype")),
        (("_codecs",), ("encode",)),
        (("torch._utils",), ("_rebuild_tensor_v2",)),
        (("torch.storage",), ("_load_from_bytes",)),
    )
    for module in modules
    for name in names
}
_CONTAINERS = {("collections", "OrderedDict"): OrderedDict}
_DIMENSIONS = 32
_KINDS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}


class DetectronError(ValueError):
    """A checkpoint does not fit; the message names the file, the entry and the remedy."""


class _Call:
    """What a pickle wanted called: the name, the arguments, and the state that it then wanted set."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.name, self.arguments, self.state = name, arguments, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Recorder:
    """Stands for a function that a pickle may name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any) -> _Call:
        return _Call(self.name, arguments)


class _Unpickler(pickle.Unpickler):
    def __init__(self, path: Path, content: bytes) -> None:
        # What Python 2 wrote as strings are bytes; latin1 keeps each of them.
        super().__init__(io.BytesIO(content), encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _CONTAINERS:
            return _CONTAINERS[module, name]
        if (module, name) in _RECORDED:
            return _Recorder(name)
        raise DetectronError(
            f"{self.path}: the pickle asks for {module}.{name}, which no checkpoint needs; nothing of it was run; do "
            f"not load this file elsewhere, and download it anew from its authors"
        )


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("latin1")
    if isinstance(value, _Call) and value.name == "encode" and len(value.arguments) == 2:
        text, encoding = value.arguments
        if isinstance(text, str) and encoding in ("latin1", "latin-1"):
            return text.encode("latin1")
    raise ValueError("no bytes")


def _dtype(value: Any) -> np.dtype[Any]:
    if not isinstance(value, _Call) or value.name != "dtype" or not value.arguments:
        raise ValueError("no element type")
    # Only text is turned into text: what a nested list would take to print has no bound.
    kind = value.arguments[0].lstrip("<>|=") if isinstance(value.arguments[0], str) else "object"
    if kind not in _KINDS:
        raise ValueError(f"elements of type {kind!r}")
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "<"
    return np.dtype(kind).newbyteorder(">" if order == ">" else "<")


def _array(raw: bytes, dtype: np.dtype[Any], shape: Any, columns_first: bool) -> Tensor:
    sides = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if len(sides) > _DIMENSIONS or not all(isinstance(side, int) and 0 <= side < 1 << 40 for side in sides):
        raise ValueError("a shape that is none")
    if math.prod(sides) * dtype.itemsize != len(raw):
        raise ValueError(f"{len(raw):,} bytes for a shape of {sides}")
    flat = np.frombuffer(raw, dtype)
    whole = flat.reshape(sides, order="F" if columns_first else "C")
    return torch.from_numpy(np.array(whole, dtype.newbyteorder("="), order="C"))


def _saved(content: bytes) -> Any:
    """What torch saved, read by its own restricted reader, whose long advice is not handed on."""
    try:
        check_saved(io.BytesIO(content))
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError("more or less than numbers saved by torch") from error


def _tensor(call: Any) -> Tensor:
    """The array or tensor that a recorded call describes.

    Raises:
        ValueError: It describes none.
    """
    if not isinstance(call, _Call):
        raise ValueError(f"{type(call).__name__} instead of an array")
    if call.name == "_reconstruct" and isinstance(call.state, tuple) and len(call.state) == 5:
        _, shape, dtype, columns_first, raw = call.state
        return _array(_bytes(raw), _dtype(dtype), shape, bool(columns_first))
    if call.name == "_frombuffer" and len(call.arguments) == 4:
        raw, dtype, shape, order = call.arguments
        return _array(_bytes(raw), _dtype(dtype), shape, order == "F")
    if call.name == "scalar" and len(call.arguments) == 2:
        return _array(_bytes(call.arguments[1]), _dtype(call.arguments[0]), (), False)
    if call.name == "_rebuild_tensor_v2" and len(call.arguments) >= 4:
        storage, offset, shape, stride = call.arguments[:4]
        if isinstance(storage, _Call) and storage.name == "_load_from_bytes":
            stored = _saved(_bytes(storage.arguments[0]))
            values = torch.tensor([], dtype=stored.dtype).set_(stored)
            if not isinstance(shape, tuple) or math.prod(shape) > values.numel():
                raise ValueError(f"a shape beyond its {values.numel():,} numbers")
            return values.as_strided(tuple(shape), tuple(stride), offset).clone()
    raise ValueError(f"{call.name} where an array should be")


def _within_storage(value: Tensor) -> Tensor:
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise ValueError("no plain tensor")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"{value.numel():,} numbers, which the file does not hold")
    return value


def read_detectron(path: Path) -> dict[str, Tensor]:
    """The state dict of one of our detectors, from a `.pkl` of Detectron or detectron2, or detectron2's `.pth`.

    Raises:
        DetectronError: The file is missing, damaged, asks for something that no checkpoint needs, or holds a layer
            that none of our detectors has.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DetectronError(f"{path}: cannot be read ({error.strerror}); fetch the checkpoint first") from error
    try:
        if content[:2] == b"PK":
            whole = _saved(content)
        else:
            check_pickle(io.BytesIO(content))
            whole = _Unpickler(path, content).load()
    except DetectronError:
        raise
    # A damaged pickle can fail in any way.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DetectronError(f"{path}: no whole pickle ({reason}); download the file again") from error
    for key, translate in (("blobs", _from_caffe2), ("model", _from_detectron2)):
        if isinstance(whole, Mapping) and isinstance(whole.get(key), Mapping):
            entries = {}
            for name, value in whole[key].items():
                if str(name).endswith("_momentum") or name in _LEFT_OUT:
                    continue
                try:
                    entries[str(name)] = _within_storage(value) if isinstance(value, Tensor) else _tensor(value)
                except Exception as error:
                    reason = " ".join(str(error).split())[:200]
                    raise DetectronError(f"{path}: {str(name)[:80]}: {reason}; download the file again") from error
            return translate(path, entries)
    raise DetectronError(f"{path}: holds neither `blobs` nor `model`; give a checkpoint of Detectron or detectron2")


_LEFT_OUT = {"pixel_mean", "pixel_std", "lr", "weight_order"} | {
    f"proposal_generator.anchor_generator.cell_anchors.{level}" for level in range(5)
}

_BRANCHES = {"branch1": "downsample.0", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
_NORMS = {"branch1": "downsample.1", "branch2a": "bn1", "branch2b": "bn2", "branch2c": "bn3"}
_SECOND_HEAD = "roi_heads.box_head.stage"
_PLAIN_CAFFE2 = {
    "fc6": "roi_heads.box_head.fc6",
    "fc7": "roi_heads.box_head.fc7",
    "cls_score": "roi_heads.box_predictor.cls_score",
    "bbox_pred": "roi_heads.box_predictor.bbox_pred",
    "conv5_mask": "roi_heads.mask_predictor.conv5_mask",
    "mask_fcn_logits": "roi_heads.mask_predictor.mask_fcn_logits",
    **{f"_[mask]_fcn{index + 1}": f"roi_heads.mask_head.{index}.0" for index in range(4)},
    **{f"conv_rpn{suffix}": "rpn.head.conv.0.0" for suffix in ("", "_fpn2")},
    **{f"rpn_cls_logits{suffix}": "rpn.head.cls_logits" for suffix in ("", "_fpn2")},
    **{f"rpn_bbox_pred{suffix}": "rpn.head.bbox_pred" for suffix in ("", "_fpn2")},
}
_PARTS = {"w": "weight", "b": "bias", "s": "weight"}


def _from_caffe2(path: Path, blobs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    on_conv4 = "conv_rpn_w" in blobs
    state: dict[str, Tensor] = {}
    for name, value in blobs.items():
        stem, _, part = name.rpartition("_")
        layer = _caffe2_layer(stem, on_conv4) if part in _PARTS else None
        if layer is None:
            raise DetectronError(f"{path}: {name}: no detector here has this layer; give a Faster or Mask R-CNN's")
        if not _put(state, f"{layer}.{_PARTS[part]}", value):
            raise DetectronError(f"{path}: {name}: fills {layer} a second time; download the file again")
        if part == "s":
            state[f"{layer}.running_mean"] = torch.zeros_like(value)
            state[f"{layer}.running_var"] = torch.full_like(value, 1 - _EPS)
    return state


def _put(state: dict[str, Tensor], name: str, value: Tensor) -> bool:
    new = name not in state
    state[name] = value.float() if value.is_floating_point() else value
    return new


def _caffe2_layer(stem: str, on_conv4: bool) -> str | None:
    """Our name of the layer `stem`."""
    if stem in ("conv1", "res_conv1_bn"):
        return "backbone.body.conv1" if stem == "conv1" else "backbone.body.bn1"
    if found := re.fullmatch(r"res([2-5])_(\d+)_(branch1|branch2[abc])(_bn)?", stem):
        stage, block, branch, norm = found.groups()
        return f"{_stage(int(stage), on_conv4)}.{block}.{(_NORMS if norm else _BRANCHES)[branch]}"
    if found := re.fullmatch(r"fpn_inner_res([2-5])_\d+_sum(_lateral)?", stem):
        return f"backbone.fpn.inner_blocks.{int(found[1]) - 2}.0"
    if found := re.fullmatch(r"fpn_res([2-5])_\d+_sum", stem):
        return f"backbone.fpn.layer_blocks.{int(found[1]) - 2}.0"
    return _PLAIN_CAFFE2.get(stem)


def _stage(number: int, on_conv4: bool) -> str:
    return _SECOND_HEAD if on_conv4 and number == 5 else f"backbone.body.layer{number - 1}"


_PLAIN_DETECTRON2 = {
    "proposal_generator.rpn_head.conv": "rpn.head.conv.0.0",
    "proposal_generator.rpn_head.objectness_logits": "rpn.head.cls_logits",
    "proposal_generator.rpn_head.anchor_deltas": "rpn.head.bbox_pred",
    "roi_heads.box_head.fc1": "roi_heads.box_head.fc6",
    "roi_heads.box_head.fc2": "roi_heads.box_head.fc7",
    "roi_heads.box_predictor.cls_score": "roi_heads.box_predictor.cls_score",
    "roi_heads.box_predictor.bbox_pred": "roi_heads.box_predictor.bbox_pred",
    "roi_heads.mask_head.deconv": "roi_heads.mask_predictor.conv5_mask",
    "roi_heads.mask_head.predictor": "roi_heads.mask_predictor.mask_fcn_logits",
    **{f"roi_heads.mask_head.mask_fcn{index + 1}": f"roi_heads.mask_head.{index}.0" for index in range(4)},
}


def _from_detectron2(path: Path, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, value in entries.items():
        stem, _, part = name.rpartition(".")
        layer = _detectron2_layer(stem)
        if layer is None or part not in ("weight", "bias", "running_mean", "running_var"):
            if part == "num_batches_tracked":
                continue
            raise DetectronError(f"{path}: {name}: no detector here has this layer; give a Faster or Mask R-CNN's")
        if layer.endswith("cls_score"):
            value = value.roll(1, 0)
        elif layer.endswith("box_predictor.bbox_pred"):
            value = torch.cat([torch.zeros_like(value[:4]), value])
        elif layer.endswith("mask_fcn_logits"):
            value = torch.cat([torch.zeros_like(value[:1]), value])
        if not _put(state, f"{layer}.{part}", value):
            raise DetectronError(f"{path}: {name}: fills {layer} a second time; download the file again")
    return state


def _detectron2_layer(stem: str) -> str | None:
    """Our name of the layer `stem`."""
    if found := re.fullmatch(r"backbone\.(?:bottom_up\.)?stem\.conv1(\.norm)?", stem):
        return "backbone.body.bn1" if found[1] else "backbone.body.conv1"
    block = r"(\d+)\.(?:conv([123])|(shortcut))(\.norm)?"
    if found := re.fullmatch(rf"(backbone\.(?:bottom_up\.)?|roi_heads\.)res([2-5])\.{block}", stem):
        place, stage, index, conv, _, norm = found.groups()
        parent = _stage(int(stage), place == "roi_heads.")
        if conv is None:
            return f"{parent}.{index}.downsample.{1 if norm else 0}"
        return f"{parent}.{index}.{'bn' if norm else 'conv'}{conv}"
    if found := re.fullmatch(r"backbone\.fpn_(lateral|output)([2-5])", stem):
        return f"backbone.fpn.{'inner' if found[1] == 'lateral' else 'layer'}_blocks.{int(found[2]) - 2}.0"
    return _PLAIN_DETECTRON2.get(stem)
