"""Any network that a Caffe file describes, as a torch module: the layers of a `.prototxt` (or of a `.caffemodel` that
holds a whole deployable network) with the numbers of a `.caffemodel`.

Only what detection needs is there: layers as they run in the test phase. Where Caffe and torch differ, this is Caffe:
pooling rounds map sizes up, priors have whole pixels, normalisation uses the stored statistics. Layers that the
released SSD branch added (Normalize, Permute, PriorBox, DetectionOutput) and Darknet converters' Upsample are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ops.anchors import centred_shapes, grid_anchors
from ops.nms import classwise_nms
from zoo.formats.caffe import CaffeError, Layer, Net, read_caffemodel, read_prototxt

_FARTHEST = 4096
"""Pixels of a stride or a padding."""

__all__ = ["CaffeNet", "DetectionOutput", "PriorBox", "read_caffe_net"]


def read_caffe_net(caffemodel: Path, prototxt: Path | None = None) -> CaffeNet:
    """A network from its files, in evaluation mode.

    Args:
        caffemodel: Its numbers.
        prototxt: Its layers; left out, those of the caffemodel itself.

    Raises:
        CaffeError: A file is damaged, the two do not fit, or a layer is of a type that is not known here.
    """
    weights = read_caffemodel(caffemodel)
    return CaffeNet(weights if prototxt is None else read_prototxt(prototxt), weights).eval()


class CaffeNet(nn.Module):
    """The layers of a file, run in its order.

    Args:
        net: The layers.
        weights: Layers of the same names, with blobs. Each layer that needs blobs must have them, and each blob must be
            used.

    Attributes:
        inputs: Shape of each input, as declared; the map's sides may be others in a call.
        outputs: Names of the maps that no layer reads.
        layers: The modules, one a layer that is left.
        steps: For each of them, the layer of the file.
    """

    def __init__(self, net: Net, weights: Net) -> None:
        super().__init__()
        self.path = net.path
        self.inputs: dict[str, tuple[int, ...]] = dict(net.inputs)
        blobs = {layer.name: layer.blobs for layer in weights.layers if layer.blobs}
        steps: list[Layer] = []
        modules: list[nn.Module] = []
        given = set(self.inputs)
        for layer in net.layers:
            if not layer.runs_in_test:
                blobs.pop(layer.name, None)
                continue
            if layer.type == "Input":
                shapes = [shape.get("dim", ()) for shape in layer.settings("input_param", "shape")]
                if not shapes:
                    raise _wrong(net, layer, "no shape; declare one in input_param")
                for index, top in enumerate(layer.tops):
                    self.inputs[top] = shapes[min(index, len(shapes) - 1)]
                given.update(layer.tops)
                continue
            if len(set(layer.tops)) < len(layer.tops) or not layer.tops:
                raise _wrong(net, layer, "gives no map, or two of one name; give each a name of its own")
            missing = [name for name in layer.bottoms if name not in given]
            if missing:
                raise _wrong(net, layer, f"reads {missing[0]!r}, which nothing gives; give a deployable .prototxt too")
            if layer.type not in _BUILDERS:
                known = ", ".join(sorted(_BUILDERS))
                raise _wrong(net, layer, f"is a {layer.type or 'layer without type'}, known are {known}, Input")
            modules.append(_built(_Given(net, layer, blobs.pop(layer.name, ()), weights.path)))
            steps.append(layer)
            given.update(layer.tops)
        if blobs:
            raise CaffeError(
                f"{weights.path}: layer {next(iter(blobs))!r} has blobs that no layer of {net.path} uses "
                f"({len(blobs)} layers in all); give the two files of one network"
            )
        self.layers = nn.ModuleList(modules)
        self.steps = tuple(steps)
        # A layer in place reads a name and gives it anew.
        open_names = dict.fromkeys(self.inputs)
        for layer in steps:
            for name in layer.bottoms:
                open_names.pop(name, None)
            open_names.update(dict.fromkeys(layer.tops))
        self.outputs = tuple(name for name in open_names if name not in self.inputs)

    def forward(self, pixels: Tensor | Mapping[str, Tensor], wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Run the network.

        Args:
            pixels: The input, or inputs by name.
            wanted: Maps to give back, as they are when the last layer that names them has run; left out, all outputs.
                Layers behind them do not run.
        """
        wanted = self.outputs if wanted is None else tuple(wanted)
        unknown = set(wanted) - set(self.inputs) - {top for layer in self.steps for top in layer.tops}
        if unknown:
            raise ValueError(f"{self.path}: no layer gives {sorted(unknown)[0]!r}")
        maps = dict(pixels) if isinstance(pixels, Mapping) else {next(iter(self.inputs)): pixels}
        needed, runs = set(wanted), [False] * len(self.steps)
        for index, layer in reversed(list(enumerate(self.steps))):
            if needed.intersection(layer.tops):
                runs[index] = True
                needed.update(layer.bottoms)
        last = {name: index for index, layer in enumerate(self.steps) if runs[index] for name in layer.bottoms}
        for index, (layer, module) in enumerate(zip(self.steps, self.layers, strict=True)):
            if not runs[index]:
                continue
            results = module(*(maps[name] for name in layer.bottoms))
            for name in layer.bottoms:
                if last[name] == index and name not in wanted:
                    del maps[name]
            maps.update(zip(layer.tops, [results] * len(layer.tops), strict=True))
        return {name: maps[name] for name in wanted}


def _built(given: _Given) -> nn.Module:
    try:
        return _BUILDERS[given.layer.type](given)
    except CaffeError:
        raise
    # A setting may be of any type and size, and only the constructor knows what it can do with it.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise given.wrong(
            f"cannot be built from its settings ({reason}); mend the layer, or give another file"
        ) from error


def _wrong(net: Net, layer: Layer, what: str) -> CaffeError:
    return CaffeError(f"{net.path}: layer {layer.name!r}: {what}")


class _Given:
    """A layer and its blobs, as a builder sees them."""

    def __init__(self, net: Net, layer: Layer, blobs: tuple[NDArray[np.float32], ...], weights: Path) -> None:
        self.net, self.layer, self._blobs, self._weights = net, layer, blobs, weights

    def wrong(self, what: str) -> CaffeError:
        return _wrong(self.net, self.layer, what)

    def of_another_network(self, what: str) -> CaffeError:
        """Blobs and layer do not fit."""
        place = "" if self._weights == self.net.path else f" of {self.net.path}"
        return CaffeError(
            f"{self._weights}: layer {self.layer.name!r}{place}: {what}; give the two files of one network"
        )

    def blobs(self, count: int) -> list[Tensor]:
        if len(self._blobs) != count:
            raise self.of_another_network(f"{self.layer.type} has {len(self._blobs)} blobs instead of {count}")
        return [torch.from_numpy(np.array(blob, np.float32)) for blob in self._blobs]

    def vector(self, blob: Tensor, length: int) -> Tensor:
        """A blob of `length` numbers, whatever its sides."""
        if blob.numel() != length:
            raise self.of_another_network(f"{blob.numel():,} numbers instead of {length:,}")
        return blob.flatten()

    def pair(self, message: str, name: str, default: int, short: str | None = None) -> tuple[int, int]:
        """A setting for `(y, x)`: `pad`, once or twice, or `pad_h` and `pad_w`."""
        short = name if short is None else short
        values = self.layer.settings(message, name) or (default,)
        height = self.layer.setting(message, f"{short}_h", values[0])
        width = self.layer.setting(message, f"{short}_w", values[-1])
        return int(height), int(width)


def _convolution(given: _Given) -> nn.Module:
    layer = given.layer
    message = "convolution_param"
    kernel = given.pair(message, "kernel_size", 0, "kernel")
    biased = bool(layer.setting(message, "bias_term", True))
    weight, *bias = given.blobs(1 + biased)
    groups = int(layer.setting(message, "group", 1))
    outputs = int(layer.setting(message, "num_output", 0))
    transposed = layer.type == "Deconvolution"
    stride, padding, dilation = (given.pair(message, *own) for own in (("stride", 1), ("pad", 0), ("dilation", 1)))
    if min(*stride, *dilation) < 1 or min(padding) < 0 or max(*stride, *dilation, *padding) > _FARTHEST:
        raise given.wrong(f"a stride of {stride}, padding {padding} and dilation {dilation}; mend the layer")
    if weight.ndim != 4 or tuple(weight.shape[2:]) != kernel or min(*kernel, groups) < 1:
        raise given.of_another_network(f"weights {tuple(weight.shape)} for a kernel of {kernel}")
    inputs = weight.shape[0] if transposed else weight.shape[1] * groups
    if outputs != (weight.shape[1] * groups if transposed else weight.shape[0]):
        raise given.of_another_network(f"weights {tuple(weight.shape)} for {outputs} outputs")
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    module = kind(
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=biased,
    )
    module.weight = nn.Parameter(weight)
    if biased:
        module.bias = nn.Parameter(given.vector(bias[0], outputs))
    return module


class _InnerProduct(nn.Linear):
    """Everything behind the batch in one row."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


def _inner_product(given: _Given) -> nn.Module:
    message = "inner_product_param"
    biased = bool(given.layer.setting(message, "bias_term", True))
    if given.layer.setting(message, "axis", 1) != 1:
        raise given.wrong("an axis other than 1 is not known here")
    weight, *bias = given.blobs(1 + biased)
    weight = weight.reshape(weight.shape[-2:])
    if given.layer.setting(message, "transpose", False):
        weight = weight.T.contiguous()
    module = _InnerProduct(weight.shape[1], weight.shape[0], bias=biased)
    module.weight = nn.Parameter(weight)
    if biased:
        module.bias = nn.Parameter(given.vector(bias[0], weight.shape[0]))
    return module


class _BatchNorm(nn.Module):
    """With the stored statistics, whatever the mode."""

    mean: Tensor
    variance: Tensor

    def __init__(self, mean: Tensor, variance: Tensor, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance, eps=self.eps)


def _batch_norm(given: _Given) -> nn.Module:
    if not given.layer.setting("batch_norm_param", "use_global_stats", True):
        raise given.wrong("use_global_stats false: statistics of the batch are not known here")
    mean, variance, factor = (blob.flatten() for blob in given.blobs(3))
    given.vector(factor, 1)
    given.vector(variance, mean.numel())
    share = 0.0 if float(factor[0]) == 0 else 1 / float(factor[0])
    mean, variance, eps = mean * share, variance * share, float(given.layer.setting("batch_norm_param", "eps", 1e-5))
    if not bool((mean.isfinite() & variance.isfinite()).all()) or not bool((variance + eps > 0).all()):
        raise given.wrong("means or variances are no numbers, or a variance is negative; download the file again")
    return _BatchNorm(mean, variance, eps)


class _Scale(nn.Module):
    """A factor and perhaps a summand along some axes, its own or another map's."""

    def __init__(self, axis: int, weight: Tensor | None, bias: Tensor | None) -> None:
        super().__init__()
        self.axis = axis
        self.weight = None if weight is None else nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        weight = self.weight if other is None else other
        assert weight is not None
        axis = self.axis % x.ndim
        shape = (1,) * axis + tuple(weight.shape) + (1,) * (x.ndim - axis - weight.ndim)
        x = x * weight.reshape(shape)
        return x if self.bias is None else x + self.bias.reshape(shape)


def _scale(given: _Given) -> nn.Module:
    own = len(given.layer.bottoms) == 1
    biased = bool(given.layer.setting("scale_param", "bias_term", False))
    blobs = [_trimmed(blob) for blob in given.blobs(own + biased)]
    axis = int(given.layer.setting("scale_param", "axis", 1))
    return _Scale(axis, blobs[0] if own else None, blobs[-1] if biased else None)


def _trimmed(blob: Tensor) -> Tensor:
    """Without the leading ones of old files."""
    while blob.ndim > 1 and blob.shape[0] == 1:
        blob = blob[0]
    return blob


class _Calls(nn.Module):
    """A function of the maps, without numbers of its own."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *maps: Tensor) -> Tensor:
        return self.function(*maps)


def _simple(function: Callable[[Layer], Callable[..., Tensor]]) -> Callable[[_Given], nn.Module]:
    def build(given: _Given) -> nn.Module:
        given.blobs(0)
        return _Calls(function(given.layer))

    return build


def _relu(layer: Layer) -> Callable[..., Tensor]:
    slope = float(layer.setting("relu_param", "negative_slope", 0))
    return lambda x: F.leaky_relu(x, slope) if slope else F.relu(x)


class _PReLU(nn.PReLU):
    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight.numel())
        self.weight = nn.Parameter(weight.flatten())


def _pooling(given: _Given) -> nn.Module:
    given.blobs(0)
    layer, message = given.layer, "pooling_param"
    kind = layer.setting(message, "pool", "MAX")
    whole = bool(layer.setting(message, "global_pooling", False))
    kernel = given.pair(message, "kernel_size", 0, "kernel")
    stride, padding = given.pair(message, "stride", 1), given.pair(message, "pad", 0)
    up = layer.setting(message, "ceil_mode", layer.setting(message, "round_mode", "CEIL") == "CEIL")
    if kind not in ("MAX", "AVE"):
        raise given.wrong(f"{kind} pooling is not known here")
    if not whole and any(
        k < 1 or not 0 <= 2 * p <= k or s < 1 for k, p, s in zip(kernel, padding, stride, strict=True)
    ):
        raise given.wrong(f"a kernel of {kernel} with padding {padding} and stride {stride} is not known here")
    pool = F.max_pool2d if kind == "MAX" else F.avg_pool2d

    def run(x: Tensor) -> Tensor:
        if whole:
            return pool(x, tuple(x.shape[-2:]))
        # torch too drops a last window that starts in the padding.
        return pool(x, kernel, stride, padding, ceil_mode=up)

    return _Calls(run)


def _eltwise(layer: Layer) -> Callable[..., Tensor]:
    operation = layer.setting("eltwise_param", "operation", "SUM")
    factors = layer.settings("eltwise_param", "coeff") or (1.0,) * len(layer.bottoms)
    if len(factors) != len(layer.bottoms) or len(factors) < 2 or not all(map(math.isfinite, factors)):
        raise ValueError(f"{len(factors)} finite factors for {len(layer.bottoms)} maps, of which two are the least")

    def run(*maps: Tensor) -> Tensor:
        if operation == "SUM":
            scaled = [x if factor == 1 else x * factor for x, factor in zip(maps, factors, strict=True)]
            return torch.stack(scaled).sum(0) if len(scaled) > 2 else scaled[0] + scaled[1]
        result = maps[0]
        for x in maps[1:]:
            result = result * x if operation == "PROD" else torch.maximum(result, x)
        return result

    return run


def _concat(layer: Layer) -> Callable[..., Tensor]:
    axis = int(layer.setting("concat_param", "axis", layer.setting("concat_param", "concat_dim", 1)))
    return lambda *maps: torch.cat(maps, axis)


def _permute(layer: Layer) -> Callable[..., Tensor]:
    order = [int(axis) for axis in layer.settings("permute_param", "order")]
    return lambda x: x.permute(*order, *(axis for axis in range(x.ndim) if axis not in order))


def _flatten(layer: Layer) -> Callable[..., Tensor]:
    first = int(layer.setting("flatten_param", "axis", 1))
    last = int(layer.setting("flatten_param", "end_axis", -1))
    return lambda x: x.flatten(first, last)


def _reshape(layer: Layer) -> Callable[..., Tensor]:
    """0 copies a side, -1 takes what is left; only `num_axes` sides from `axis` on change."""
    wanted = [int(side) for shape in layer.settings("reshape_param", "shape") for side in shape.get("dim", ())]
    axis = int(layer.setting("reshape_param", "axis", 0))
    count = int(layer.setting("reshape_param", "num_axes", -1))

    def run(x: Tensor) -> Tensor:
        start = axis if axis >= 0 else x.ndim + 1 + axis
        stop = x.ndim if count == -1 else start + count
        sides = [x.shape[start + index] if side == 0 else side for index, side in enumerate(wanted)]
        return x.reshape(*x.shape[:start], *sides, *x.shape[stop:])

    return run


def _softmax(layer: Layer) -> Callable[..., Tensor]:
    axis = int(layer.setting("softmax_param", "axis", 1))
    return lambda x: x.softmax(axis)


def _upsample(given: _Given) -> nn.Module:
    given.blobs(0)
    scale = given.layer.setting("upsample_param", "scale", None)
    if scale is None:
        raise given.wrong("Upsample's scale is not known; give the .prototxt, where it is called upsample_param")
    if not 1 <= int(scale) <= 32:
        raise given.wrong(f"a scale of {int(scale)} is not known here; mend the layer")
    return nn.Upsample(scale_factor=int(scale), mode="nearest")


class _Normalize(nn.Module):
    """Each position's vector (or the whole map) at length 1, times a scale a channel."""

    def __init__(self, weight: Tensor, whole: bool, eps: float) -> None:
        super().__init__()
        self.whole, self.eps = whole, eps
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        squares = x.square().sum((1, 2, 3) if self.whole else 1, keepdim=True)
        return x / (squares + self.eps).sqrt() * self.weight.reshape(1, -1, 1, 1)


def _normalize(given: _Given) -> nn.Module:
    (weight,) = given.blobs(1)
    layer = given.layer
    return _Normalize(
        weight.flatten(),
        bool(layer.setting("norm_param", "across_spatial", True)),
        float(layer.setting("norm_param", "eps", 1e-10)),
    )


class PriorBox(nn.Module):
    """Priors of one map as `[1, 2, N * 4]`: corners as shares of the image, then variances.

    Args:
        smallest: Sides of the squares, cut to whole pixels.
        largest: None, or one a square: a second square has the side of their geometric mean.
        ratios: Of wide boxes, each turned upright too where `flip` says so.
        flip: See `ratios`.
        clip: Cut boxes to the image.
        variances: One, or four.
        step: Pixels between cells, `(y, x)`; 0 divides the image by the map.
        image: `(H, W)` of the image; 0 takes the second input's.
        offset: Where a cell's point lies in it.
    """

    def __init__(
        self,
        smallest: Sequence[float],
        largest: Sequence[float] = (),
        ratios: Sequence[float] = (),
        *,
        flip: bool = True,
        clip: bool = False,
        variances: Sequence[float] = (0.1,),
        step: tuple[float, float] = (0, 0),
        image: tuple[int, int] = (0, 0),
        offset: float = 0.5,
    ) -> None:
        super().__init__()
        different: list[float] = [1.0]
        for ratio in ratios:
            if all(abs(ratio - other) >= 1e-6 for other in different):
                different += [ratio, 1 / ratio] if flip else [ratio]
        self.shapes: list[tuple[float, float]] = []
        for index, side in enumerate(map(int, smallest)):
            self.shapes.append((side, side))
            if largest:
                self.shapes.append((math.sqrt(side * int(largest[index])),) * 2)
            self.shapes += [(side * math.sqrt(r), side / math.sqrt(r)) for r in different[1:]]
        self.clip, self.step, self.image, self.offset = clip, step, image, offset
        self.variances = list(variances) * (4 if len(variances) == 1 else 1)

    def forward(self, x: Tensor, pixels: Tensor) -> Tensor:
        """For a map and the network's input; only their shapes matter."""
        height, width = self.image if all(self.image) else (int(pixels.shape[-2]), int(pixels.shape[-1]))
        rows, columns = int(x.shape[-2]), int(x.shape[-1])
        step = self.step if all(self.step) else (height / rows, width / columns)
        shapes = centred_shapes(self.shapes).to(x.device)
        boxes = grid_anchors(shapes, (rows, columns), step, self.offset) / x.new_tensor([width, height] * 2)
        boxes = boxes.clamp(0, 1) if self.clip else boxes
        variances = x.new_tensor(self.variances).expand(len(boxes), 4)
        return torch.stack([boxes.flatten(), variances.flatten()])[None].to(x.dtype)


def _prior_box(given: _Given) -> nn.Module:
    given.blobs(0)
    layer, message = given.layer, "prior_box_param"
    smallest, largest = layer.settings(message, "min_size"), layer.settings(message, "max_size")
    variances = layer.settings(message, "variance") or (0.1,)
    if not smallest or len(largest) not in (0, len(smallest)) or len(variances) not in (1, 4):
        raise given.wrong("needs min_size, as many max_size or none, and one variance or four")
    numbers = [*smallest, *largest, *variances, *layer.settings(message, "aspect_ratio")]
    if not all(0 < number < 1e6 for number in numbers):
        raise given.wrong("has a size, ratio or variance that is none; mend the layer")
    side, step = layer.setting(message, "img_size", 0), layer.setting(message, "step", 0)
    return PriorBox(
        smallest,
        largest,
        layer.settings(message, "aspect_ratio"),
        flip=bool(layer.setting(message, "flip", True)),
        clip=bool(layer.setting(message, "clip", False)),
        variances=variances,
        step=(layer.setting(message, "step_h", step), layer.setting(message, "step_w", step)),
        image=(layer.setting(message, "img_h", side), layer.setting(message, "img_w", side)),
        offset=float(layer.setting(message, "offset", 0.5)),
    )


class DetectionOutput(nn.Module):
    """From locations, scores and priors to detections.

    Args:
        num_classes: Background included.
        background: Its class, or -1.
        shared: Whether all classes share a box.
        code: `CORNER` or `CENTER_SIZE`.
        scaled: Whether locations already hold the variances.
        score_floor: Least score.
        nms_iou: IoU above which the lesser detection of a class goes.
        before_per_class: Candidates of a class that enter suppression; None: all.
        limit: Most detections an image; None: all.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        background: int = 0,
        shared: bool = True,
        code: str = "CORNER",
        scaled: bool = False,
        score_floor: float = -math.inf,
        nms_iou: float = 0.3,
        before_per_class: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.background, self.shared = num_classes, background, shared
        self.code, self.scaled = code, scaled
        self.score_floor, self.nms_iou = score_floor, nms_iou
        self.before_per_class, self.limit = before_per_class, limit

    def decode(self, location: Tensor, priors: Tensor) -> Tensor:
        """Boxes `[N, 4]` or `[N, classes, 4]` of one image, as shares of it."""
        corners, variances = priors[0].reshape(2, -1, 4)
        shifts = location.reshape(-1, 4) if self.shared else location.reshape(len(corners), -1, 4)
        if not self.shared:
            corners, variances = corners[:, None], variances[:, None]
        shifts = shifts if self.scaled else shifts * variances
        if self.code == "CORNER":
            return corners + shifts
        size = corners[..., 2:] - corners[..., :2]
        centre = (corners[..., 2:] + corners[..., :2]) / 2 + shifts[..., :2] * size
        half = size * shifts[..., 2:].exp() / 2
        return torch.cat([centre - half, centre + half], -1)

    def forward(self, locations: Tensor, scores: Tensor, priors: Tensor) -> Tensor:
        """Rows `(image, class, score, x1, y1, x2, y2)` as `[1, 1, K, 7]`, boxes as shares of the image.

        Class by class, the surest first within one. Without any detection K is 0 (Caffe gives one row of -1).
        """
        rows = []
        foreground = [c for c in range(self.num_classes) if c != self.background]
        for index, (location, score) in enumerate(zip(locations, scores, strict=True)):
            boxes = self.decode(location, priors)
            found = classwise_nms(
                boxes if self.shared else boxes[:, foreground],
                score.reshape(-1, self.num_classes)[:, foreground],
                score_floor=self.score_floor,
                iou=self.nms_iou,
                limit=self.limit,
                before_per_class=self.before_per_class,
            )
            found = found[found.labels.argsort(stable=True)]
            labels = torch.tensor(foreground, device=score.device)[found.labels]
            heads = torch.stack([torch.full_like(found.scores, index), labels.to(found.scores.dtype), found.scores], 1)
            rows.append(torch.cat([heads, found.boxes], 1))
        return torch.cat(rows)[None, None]


def _detection_output(given: _Given) -> nn.Module:
    given.blobs(0)
    layer, message = given.layer, "detection_output_param"
    nms = {name: values for part in layer.settings(message, "nms_param") for name, values in part.items()}
    code = layer.setting(message, "code_type", "CORNER")
    if code not in ("CORNER", "CENTER_SIZE") or nms.get("eta", (1,))[-1] < 1:
        raise given.wrong(f"code type {code} or eta below 1 is not known here")
    if not 1 <= int(layer.setting(message, "num_classes", 0)) <= 100_000:
        raise given.wrong("num_classes is missing or no number of classes; mend the layer")
    before, limit = int(nms.get("top_k", (-1,))[-1]), int(layer.setting(message, "keep_top_k", -1))
    return DetectionOutput(
        int(layer.setting(message, "num_classes", 0)),
        background=int(layer.setting(message, "background_label_id", 0)),
        shared=bool(layer.setting(message, "share_location", True)),
        code=code,
        scaled=bool(layer.setting(message, "variance_encoded_in_target", False)),
        score_floor=float(layer.setting(message, "confidence_threshold", -math.inf)),
        nms_iou=float(nms.get("nms_threshold", (0.3,))[-1]),
        before_per_class=None if before < 0 else before,
        limit=None if limit < 0 else limit,
    )


_BUILDERS: dict[str, Callable[[_Given], nn.Module]] = {
    "BatchNorm": _batch_norm,
    "Concat": _simple(_concat),
    "Convolution": _convolution,
    "ConvolutionDepthwise": _convolution,
    "Deconvolution": _convolution,
    "DepthwiseConvolution": _convolution,
    "DetectionOutput": _detection_output,
    "Dropout": _simple(lambda layer: lambda x: x),
    "Eltwise": _simple(_eltwise),
    "Flatten": _simple(_flatten),
    "InnerProduct": _inner_product,
    "Normalize": _normalize,
    "PReLU": lambda given: _PReLU(*given.blobs(1)),
    "Permute": _simple(_permute),
    "Pooling": _pooling,
    "PriorBox": _prior_box,
    "ReLU": _simple(_relu),
    "Reshape": _simple(_reshape),
    "Scale": _scale,
    "Sigmoid": _simple(lambda layer: torch.sigmoid),
    "Softmax": _simple(_softmax),
    "Split": _simple(lambda layer: lambda x: x),
    "TanH": _simple(lambda layer: torch.tanh),
    "Upsample": _upsample,
}
