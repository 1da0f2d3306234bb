"""The network that a Darknet `.cfg` describes, of the three generations of YOLO.

Layer numbers, paddings and orders are those of the code that trained with such files (pjreddie/darknet and, for what
came later, AlexeyAB/darknet): pooling pads by its size less one and begins half of that outside the map, a shortcut
adds the channels and pixels that both maps have, connected layers read maps channel by channel. Batch normalisation
adds 1e-5 to the variance, as the networks were trained on GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.reorg import reorg
from zoo.formats.darknet import Layer, conv_layers
from zoo.formats.darknet_cfg import Cfg, Section
from zoo.parts.local import LocallyConnected2d

__all__ = ["CfgNetwork", "Head"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(0.1, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "logistic": nn.Sigmoid,
    "mish": nn.Mish,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
    "ramp": lambda: _Ramp(),
}


def _activation(section: Section, default: str) -> nn.Module:
    name = section.text("activation", default)
    if name not in _ACTIVATIONS:
        raise section.error(
            f"{section.shown('activation')} is not built here; there is {', '.join(_ACTIVATIONS)}", "activation"
        )
    return _ACTIVATIONS[name]()


class _Ramp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu() + 0.1 * x


class _Weighted(nn.Module):
    """A layer with weights, batch normalisation if the section asks for it, and activation."""

    def __init__(self, layer: nn.Module, norm: nn.Module | None, activation: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x.flatten(1) if isinstance(self.layer, nn.Linear) else x)
        x = self.activation(x if self.norm is None else self.norm(x))
        return x


class _MaxPool(nn.Module):
    """Windows begin `padding // 2` before the map; what lies outside never wins."""

    def __init__(self, size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.size, self.stride, self.before, self.padding = size, stride, padding // 2, padding

    def out_side(self, side: int) -> int:
        return (side + self.padding - self.size) // self.stride + 1

    def forward(self, x: Tensor) -> Tensor:
        after = [
            max(0, (self.out_side(side) - 1) * self.stride + self.size - side - self.before) for side in x.shape[-2:]
        ]
        if self.before or any(after):
            x = F.pad(x, (self.before, after[1], self.before, after[0]), value=-math.inf)
        return F.max_pool2d(x, self.size, self.stride)


class _AvgPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class _Softmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).softmax(1)


class _Sum(nn.Module):
    """Adds to the first map what the others share with it: their first channels, and every n-th pixel of the larger."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            if other.shape == x.shape:
                x = x + other
                continue
            out = x.clone()
            channels = min(x.shape[1], other.shape[1])
            step = max(1, other.shape[-1] // x.shape[-1])
            spread = max(1, x.shape[-1] // other.shape[-1])
            out[:, :channels, ::spread, ::spread] += other[:, :channels, ::step, ::step]
            x = out
        x = self.activation(x)
        return x


class _Crop(nn.Module):
    """The middle of the image, and colours from -1 to 1 where Darknet adjusts them."""

    def __init__(self, size: tuple[int, int], adjust: bool) -> None:
        super().__init__()
        self.size, self.adjust = size, adjust

    def forward(self, x: Tensor) -> Tensor:
        top, left = (x.shape[-2] - self.size[0]) // 2, (x.shape[-1] - self.size[1]) // 2
        x = x[..., top : top + self.size[0], left : left + self.size[1]]
        return 2 * x - 1 if self.adjust else x


class _Route(nn.Module):
    """Part `group` of `groups` of each map, joined."""

    def __init__(self, groups: int, group: int) -> None:
        super().__init__()
        self.groups, self.group = groups, group

    def forward(self, *maps: Tensor) -> Tensor:
        parts = [x if self.groups == 1 else x.chunk(self.groups, 1)[self.group] for x in maps]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class _Upsample(nn.Module):
    def __init__(self, stride: int, scale: float) -> None:
        super().__init__()
        self.stride, self.scale = stride, scale

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=float(self.stride), mode="nearest")
        return x if self.scale == 1 else x * self.scale


class _Reorg(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return reorg(x, self.stride)


@dataclass(frozen=True)
class Head:
    """A layer that predicts boxes.

    Attributes:
        kind: `detection` (YOLO), `region` (YOLOv2) or `yolo` (YOLOv3 and later).
        classes: Foreground classes.
        boxes: A cell.
        anchors: Width and height of each box: in cells (region), in pixels of the input (yolo); none for detection.
        side: Cells a side (detection); 0 where the map says.
        scale: Of the sigmoid that places centres within a cell, about its middle (`scale_x_y`).
        softmax: Whether classes exclude one another.
        squared: Whether the network predicts the square roots of widths and heights (detection).
    """

    kind: Literal["detection", "region", "yolo"]
    classes: int
    boxes: int
    anchors: tuple[tuple[float, float], ...] = ()
    side: int = 0
    scale: float = 1.0
    softmax: bool = False
    squared: bool = False


_Shape = tuple[int, ...]
"""`(C, H, W)`, or `(N,)` of a vector."""


class CfgNetwork(nn.Module):
    """The network of a cfg: image `[B, C, H, W]` to what its heads are given, in the order of the file.

    Without a head (a classifier, or a trunk) it gives what its last layer computes.

    Args:
        cfg: The file.

    Attributes:
        heads: Of the network.
        shapes: What each layer computes, `(C, H, W)` or `(N,)`, at the size that the cfg names.
        head_shapes: Likewise, what each head is given.
        resizable: Whether inputs of other sizes than the cfg's fit.

    Raises:
        DarknetError: Layers do not fit one another.
    """

    def __init__(self, cfg: Cfg) -> None:
        super().__init__()
        self.cfg = cfg
        self.layers = nn.ModuleList()
        self.heads: tuple[Head, ...] = ()
        self.shapes: list[_Shape] = []
        self._sources: list[tuple[int, ...]] = []
        self._outputs: list[int] = []
        channels = cfg.net.integer("channels", 3, least=1)
        layer: nn.Module
        weights = 0
        for index, section in enumerate(cfg.layers):
            self._sources.append(_sources(section, index))
            inputs = [self.shapes[source] if source >= 0 else (channels, *cfg.size) for source in self._sources[-1]]
            if section.name in ("detection", "region", "yolo"):
                self.heads = (*self.heads, _head(section, inputs[0]))
                self._outputs.append(index)
                layer, shape = nn.Identity(), inputs[0]
            else:
                layer, shape = _BUILDERS[section.name](section, inputs)
            if min(shape) < 1:
                raise section.error(f"nothing is left of a map of {inputs[0]}; enlarge the input or mend the strides")
            weights += sum(value.numel() for value in layer.parameters())
            if weights > 2 * _LARGEST_LAYER:
                raise section.error(f"is the layer with which the network has {weights:,} weights; mend its sizes")
            if math.prod(shape) > _LARGEST_MAP:
                raise section.error(f"makes a map of {shape}, over {_LARGEST_MAP:,} numbers; mend its sizes")
            self.layers.append(layer)
            self.shapes.append(shape)
        self._outputs = self._outputs or [len(self.layers) - 1]
        self.head_shapes = tuple(self.shapes[index] for index in self._outputs)
        last_use = {source: index for index, sources in enumerate(self._sources) for source in sources}
        self._spent = [[s for s in sources if last_use[s] == i] for i, sources in enumerate(self._sources)]
        self.resizable = not any(section.name in ("connected", "local", "detection", "crop") for section in cfg.layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """One tensor a head, `[B, C_i, H_i, W_i]` or `[B, N]`."""
        kept: dict[int, Tensor] = {-1: x}
        found = []
        for index, (layer, sources) in enumerate(zip(self.layers, self._sources, strict=True)):
            kept[index] = layer(*(kept[source] for source in sources))
            if index in self._outputs:
                found.append(kept[index])
            for source in set(self._spent[index]):
                del kept[source]
        return found

    def darknet_layers(self) -> Iterator[Layer]:
        """The layers in the order of the cfg and of its weights file."""
        return conv_layers(self.layers)


def _sources(section: Section, index: int) -> tuple[int, ...]:
    """The layers that a layer reads; -1 is the image."""
    if section.name not in ("route", "shortcut"):
        return (index - 1,)
    entry = "layers" if section.name == "route" else "from"
    named = tuple(i + index if i < 0 else i for i in section.integers(entry))
    for layer in named:
        if not 0 <= layer < index:
            raise section.error(f"layer {layer} is none of those before layer {index}; mend the number", entry)
    return named if section.name == "route" else (index - 1, *named)


def _map(section: Section, shape: _Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise section.error(f"needs a map, but is given a vector of {shape[0]}; move it before [connected]")
    return shape[0], shape[1], shape[2]


_Built = tuple[nn.Module, _Shape]

_MOST_BOXES = 1_000
_LARGEST_MAP = _LARGEST_LAYER = 1 << 28
"""Numbers; the first YOLO has a layer of three quarters as many, and all layers together may have twice as many."""


def _bound(section: Section, numbers: int) -> None:
    if numbers > _LARGEST_LAYER:
        raise section.error(f"takes {numbers:,} weights, over {_LARGEST_LAYER:,}; mend its sizes")


def _convolutional(section: Section, inputs: list[_Shape]) -> _Built:
    channels, height, width = _map(section, inputs[0])
    filters, size = section.integer("filters", 1, least=1), section.integer("size", 1, least=1)
    stride, groups = section.integer("stride", 1, least=1), section.integer("groups", 1, least=1)
    dilation = section.integer("dilation", 1, least=1)
    padding = section.integer("padding", 0)
    if section.integer("pad", 0):
        padding = size // 2
    if size == 1:
        dilation = 1
    padding *= dilation
    for name, count in (("its input has", channels), ("filters are", filters)):
        if count % groups:
            raise section.error(f"{groups} groups do not divide the {count} channels that {name}; mend it", "groups")
    norm = bool(section.integer("batch_normalize", 0))
    _bound(section, filters * (channels // groups) * size * size)
    conv = nn.Conv2d(channels, filters, size, stride, padding, dilation, groups, bias=not norm)
    sides = tuple((side + 2 * padding - dilation * (size - 1) - 1) // stride + 1 for side in (height, width))
    activation = _activation(section, "logistic")
    return _Weighted(conv, nn.BatchNorm2d(filters) if norm else None, activation), (filters, *sides)


def _local(section: Section, inputs: list[_Shape]) -> _Built:
    channels, height, width = _map(section, inputs[0])
    filters, size = section.integer("filters", 1, least=1), section.integer("size", 1, least=1)
    padding = section.integer("pad", 0, most=1)
    _bound(section, filters * channels * size * size * height * width)
    if padding and size != 3:
        raise section.error("only a window of 3 is padded by Darknet itself without contradiction; set pad=0", "pad")
    try:
        local = LocallyConnected2d(
            channels, filters, size, (height, width), stride=section.integer("stride", 1, least=1), padding=padding
        )
    except ValueError as error:
        raise section.error(str(error)) from error
    return _Weighted(local, None, _activation(section, "logistic")), (filters, *local.out_size)


def _connected(section: Section, inputs: list[_Shape]) -> _Built:
    outputs = section.integer("output", 1, least=1)
    norm = bool(section.integer("batch_normalize", 0))
    _bound(section, outputs * math.prod(inputs[0]))
    linear = nn.Linear(math.prod(inputs[0]), outputs, bias=not norm)
    return _Weighted(linear, nn.BatchNorm1d(outputs) if norm else None, _activation(section, "logistic")), (outputs,)


def _maxpool(section: Section, inputs: list[_Shape]) -> _Built:
    channels, height, width = _map(section, inputs[0])
    stride = section.integer("stride", 1, least=1)
    size = section.integer("size", stride, least=1)
    pool = _MaxPool(size, stride, section.integer("padding", size - 1))
    return pool, (channels, pool.out_side(height), pool.out_side(width))


def _avgpool(section: Section, inputs: list[_Shape]) -> _Built:
    return _AvgPool(), (_map(section, inputs[0])[0], 1, 1)


def _same(section: Section, inputs: list[_Shape]) -> _Built:
    return nn.Identity(), inputs[0]


def _crop(section: Section, inputs: list[_Shape]) -> _Built:
    channels, height, width = _map(section, inputs[0])
    size = section.integer("crop_height", least=1), section.integer("crop_width", least=1)
    if size[0] > height or size[1] > width:
        raise section.error(f"crops {size} out of {(height, width)}; make the crop smaller or the input larger")
    return _Crop(size, not section.integer("noadjust", 0)), (channels, *size)


def _softmax(section: Section, inputs: list[_Shape]) -> _Built:
    return _Softmax(), (math.prod(inputs[0]),)


def _shortcut(section: Section, inputs: list[_Shape]) -> _Built:
    if section.text("weights_type", "none") != "none":
        raise section.error("weighted sums are not built here; only weights_type=none is", "weights_type")
    for other in inputs[1:]:
        if other == inputs[0]:
            continue
        mine, theirs = _map(section, inputs[0])[1:], _map(section, other)[1:]
        down, across = (max(a, b) / min(a, b) for a, b in zip(mine, theirs, strict=True))
        if down != across or down % 1 or (mine[0] > theirs[0]) != (mine[1] > theirs[1]):
            raise section.error(f"adds a map of {theirs} to one of {mine}; one must be a multiple of the other", "from")
    return _Sum(_activation(section, "linear")), inputs[0]


def _route(section: Section, inputs: list[_Shape]) -> _Built:
    groups, group = section.integer("groups", 1, least=1), section.integer("group_id", 0)
    if group >= groups:
        raise section.error(f"there is no group {group} of {groups}; they are numbered from 0", "group_id")
    if len(inputs) == 1 and groups == 1:
        return _Route(1, 0), inputs[0]
    maps = [_map(section, shape) for shape in inputs]
    for channels, *sides in maps:
        if sides != list(maps[0][1:]):
            raise section.error(f"joins maps of {maps[0][1:]} and {tuple(sides)}; they must be of one size", "layers")
        if channels % groups:
            raise section.error(f"{groups} groups do not divide {channels} channels; mend it", "groups")
    return _Route(groups, group), (sum(shape[0] for shape in maps) // groups, *maps[0][1:])


def _upsample(section: Section, inputs: list[_Shape]) -> _Built:
    channels, height, width = _map(section, inputs[0])
    stride = section.integer("stride", 2, least=1)
    return _Upsample(stride, section.number("scale", 1.0)), (channels, height * stride, width * stride)


def _reorg(section: Section, inputs: list[_Shape]) -> _Built:
    channels, height, width = _map(section, inputs[0])
    stride = section.integer("stride", 1, least=1)
    if height % stride or width % stride or channels % stride**2:
        raise section.error(f"cannot fold {(channels, height, width)} by {stride}; change the input or the stride")
    return _Reorg(stride), (channels * stride**2, height // stride, width // stride)


_BUILDERS: dict[str, Callable[[Section, list[_Shape]], _Built]] = {
    "convolutional": _convolutional,
    "local": _local,
    "connected": _connected,
    "maxpool": _maxpool,
    "avgpool": _avgpool,
    "dropout": _same,
    "cost": _same,
    "crop": _crop,
    "softmax": _softmax,
    "shortcut": _shortcut,
    "route": _route,
    "upsample": _upsample,
    "reorg": _reorg,
}


def _head(section: Section, shape: _Shape) -> Head:
    classes = section.integer("classes", 20 if section.name == "yolo" else 1, least=1)
    if section.name == "detection":
        if section.integer("coords", 1) != 4:
            raise section.error("only boxes of 4 coordinates are built here; set coords=4", "coords")
        boxes, side = section.integer("num", 1, least=1, most=_MOST_BOXES), section.integer("side", 7, least=1)
        _expect(section, math.prod(shape), side * side * (5 * boxes + classes), "outputs")
        return Head(
            "detection",
            classes,
            boxes,
            side=side,
            softmax=bool(section.integer("softmax", 0)),
            squared=bool(section.integer("sqrt", 0)),
        )
    channels = _map(section, shape)[0]
    boxes = section.integer("num", 1, least=1, most=_MOST_BOXES)
    if section.name == "region":
        if section.integer("coords", 4) != 4:
            raise section.error("only boxes of 4 coordinates are built here; set coords=4", "coords")
        anchors = _anchors(section, boxes, "0.5," * (2 * boxes))
        _expect(section, channels, boxes * (5 + classes), "channels")
        return Head("region", classes, boxes, anchors, softmax=bool(section.integer("softmax", 0)))
    if section.text("nms_kind", "default") not in ("default", "greedynms"):
        raise section.error("only greedynms is built here; choose it", "nms_kind")
    anchors = _anchors(section, boxes)
    mask = section.integers("mask", ",".join(map(str, range(boxes))))
    if any(not 0 <= row < boxes for row in mask):
        raise section.error(f"names an anchor that is none of 0 to {boxes - 1}; mend it", "mask")
    _expect(section, channels, len(mask) * (5 + classes), "channels")
    scale = section.number("scale_x_y", 1.0)
    return Head("yolo", classes, len(mask), tuple(anchors[row] for row in mask), scale=scale)


def _anchors(section: Section, count: int, default: str | None = None) -> tuple[tuple[float, float], ...]:
    values = section.numbers("anchors", default)
    if len(values) != 2 * count or min(values) <= 0:
        raise section.error(f"{len(values)} values instead of {count} positive widths and heights; mend it", "anchors")
    return tuple(zip(values[::2], values[1::2], strict=True))


def _expect(section: Section, found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise section.error(
            f"its classes and boxes take {wanted} {what}, but the layer before it gives {found}; set its filters (or "
            f"output) to {wanted}"
        )
