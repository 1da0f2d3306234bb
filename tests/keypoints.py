"""What the tests of CornerNet and CenterNet share: constant weights, and heatmaps with chosen peaks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ops.images import Batch, Frame
from zoo.one_stage.cornernet import KeypointMaps

# Weights by layer, so that the two arms of a pooling module differ.
ARMS = {
    "p1_conv1": 1.0,
    "p2_conv1": 2.0,
    "P1_look_conv": 1.0,
    "P2_look_conv": 0.5,
    "look_conv1": 3.0,
    "look_conv2": 4.0,
}


def fill(module: nn.Module, factors: Mapping[str, float] | None = None) -> nn.Module:
    """Each convolution averages its inputs (times a factor by name) and each norm does nothing; float64.

    Works on modules built on the meta device: the weights are one number each, expanded. The expected numbers were made
    with weights that were rounded to float32 first.
    """

    def constant(value: float, shape: torch.Size) -> nn.Parameter:
        return nn.Parameter(torch.tensor(value).double().expand(shape), requires_grad=False)

    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d):
            factor = next((value for key, value in (factors or {}).items() if key in name), 1.0)
            part.weight = constant(factor / part.weight[0].numel(), part.weight.shape)
            if part.bias is not None:
                part.bias = constant(0.0, part.bias.shape)
        elif isinstance(part, nn.BatchNorm2d):
            part.weight, part.bias = constant(1.0, part.weight.shape), constant(0.0, part.bias.shape)
            part.running_mean = torch.zeros(part.num_features, dtype=torch.float64)
            part.running_var = torch.ones(part.num_features, dtype=torch.float64)
    return module.eval()


def ramp() -> Tensor:
    """`[1, 256, 8, 8]`, every channel `((3x + 5y) mod 7) / 7`, rounded to float32."""
    y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    return (((3 * x + 5 * y) % 7) / 7).double().expand(1, 256, 8, 8)


def stripes() -> Batch:
    """`[1, 3, 127, 127]`, channel `c` is `((x + 2y + 3c) mod 17) / 17`."""
    y, x = torch.meshgrid(torch.arange(127), torch.arange(127), indexing="ij")
    pixels = torch.stack([((x + 2 * y + 3 * c) % 17).double() / 17 for c in range(3)])[None]
    return Batch(pixels, (Frame((127, 127), (127, 127), (1.0, 1.0)),))


def samples(plane: Tensor) -> list[float]:
    """Mean, first and last element, and the one of row 1, column 2."""
    return [float(plane.mean()), float(plane[0, 0]), float(plane[-1, -1]), float(plane[1, 2])]


Peak = tuple[int, int, int, float]


def maps(
    views: list[list[Peak]],
    size: tuple[int, int, int],
    offset: float = 0.5,
    tags: list[dict[tuple[int, int], float]] | None = None,
) -> KeypointMaps:
    """Heatmaps `(classes, H, W)` at logit -10 with peaks `(class, y, x, p)`; tags by `(y, x)`, 0 elsewhere."""
    heat = torch.full((len(views), *size), -10.0)
    for view, peaks in enumerate(views):
        for label, y, x, p in peaks:
            heat[view, label, y, x] = math.log(p / (1 - p))
    tag = None
    if tags is not None:
        tag = torch.zeros(len(views), 1, *size[1:])
        for view, values in enumerate(tags):
            for (y, x), value in values.items():
                tag[view, 0, y, x] = value
    return KeypointMaps(heat, torch.full((len(views), 2, *size[1:]), offset), tag)


def scene() -> tuple[dict[str, KeypointMaps], Batch]:
    """Two objects A (class 0) and B (class 1) of a 200x240 image, seen directly and in the mirror, and its batch."""
    size = (2, 64, 64)
    views = {
        "tl": [[(0, 10, 12, 0.9), (1, 20, 50, 0.6)], [(0, 10, 19, 0.85), (1, 20, 7, 0.5)]],
        "br": [[(0, 40, 44, 0.8), (1, 26, 56, 0.7)], [(0, 40, 51, 0.75), (1, 26, 13, 0.6)]],
        "ct": [[(0, 25, 28, 0.7), (1, 23, 53, 0.5)], [(0, 25, 35, 0.65), (1, 23, 10, 0.4)]],
    }
    tags = {"tl": [{(20, 50): 3.0}, {(20, 7): 1.0}], "br": [{(26, 56): 3.2}, {(26, 13): 1.1}], "ct": None}
    outputs = {kind: maps(peaks, size, tags=tags[kind]) for kind, peaks in views.items()}
    frame = Frame((200, 240), (200, 240), (1.0, 1.0), (7.0, 27.0))
    return outputs, Batch(torch.zeros(1, 3, 255, 255), (frame,))


A = [42.8047, 14.8359, 170.3047, 134.3672]
B = [194.2109, 54.6797, 218.1172, 78.5859]
