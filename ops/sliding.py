"""A network for windows, run over every window of an image at once: fully connected layers as convolutions.

A fully connected layer behind a map of h x w cells is a convolution of kernel h x w without padding. Written so, the
network takes larger images, and each cell of its answer is its answer for one window (Sermanet et al., "OverFeat",
2013, https://arxiv.org/abs/1312.6229, section 3.5). Neighbouring windows share what they have in common.

Windows then lie as far apart as all strides multiplied. Pooling once for each offset of its grid, and putting the
answers between one another, brings them closer by the stride of that pooling (section 3.3): `offset_pools` and
`interleave`. A pooling of stride 1 and dilated kernels behind it give the same in one pass, and OverFeat here runs so.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "as_convolution",
    "as_kernel",
    "fully_convolutional",
    "interleave",
    "offset_pools",
    "reach",
]


def as_kernel(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Weights `[O, D * h * w]` of a connected layer over a map of `size = (h, w)` as a kernel `[O, D, h, w]`.

    Raises:
        ValueError: The map does not divide the inputs.
    """
    cells = size[0] * size[1]
    if weight.ndim != 2 or not cells or weight.shape[1] % cells:
        raise ValueError(f"weights {tuple(weight.shape)} are not those of a layer over {size[0]}x{size[1]} cells")
    return weight.reshape(len(weight), -1, *size)


def as_convolution(linear: nn.Linear, size: tuple[int, int] = (1, 1)) -> nn.Conv2d:
    """The same layer as a convolution over maps of at least `size` cells; its weights are copies."""
    kernel = as_kernel(linear.weight.detach(), size)
    conv = nn.Conv2d(kernel.shape[1], len(kernel), size, bias=linear.bias is not None)
    conv.to(kernel)
    with torch.no_grad():
        conv.weight.copy_(kernel)
        if linear.bias is not None and conv.bias is not None:
            conv.bias.copy_(linear.bias)
    return conv


def fully_convolutional(network: nn.Sequential, window: tuple[int, int], channels: int = 3) -> nn.Sequential:
    """A network for windows of one size, with its connected layers as convolutions.

    On an image `[B, channels, H, W]` its answer at `[:, :, i, j]` is that of `network` for the window whose corner is
    `(i * stride, j * stride)`. Layers without connected ones among them are shared, not copied. Statistics of batch
    normalisation and dropout keep their mode: the answers are equal in evaluation.

    Args:
        network: Convolutions, poolings and functions of single cells; a `Flatten`; then `Linear` layers.
        window: `(H, W)` of the images that `network` takes.
        channels: Of those images.

    Raises:
        ValueError: A layer's answer depends on where the window's border lies (padding, adaptive pooling, pooling that
            rounds up), or a `Linear` comes before a `Flatten`.
    """
    # Shapes alone are wanted, and no statistics of the network may change.
    probe = copy.deepcopy(network).to("meta").eval()
    x = torch.empty((1, channels, *window), device="meta")
    cells: tuple[int, int] | None = None
    layers: list[nn.Module] = []
    for index, (layer, shadow) in enumerate(zip(network, probe, strict=True)):
        _refuse_borders(index, layer)
        if isinstance(layer, nn.Flatten):
            cells = (int(x.shape[-2]), int(x.shape[-1]))
        elif not isinstance(layer, nn.Linear):
            layers.append(layer)
        elif cells is None:
            raise ValueError(f"layer {index}: a Linear layer needs a Flatten before it, to say how its inputs lie")
        else:
            layers.append(as_convolution(layer, cells))
            cells = (1, 1)
        x = shadow(x)
    return nn.Sequential(*layers).train(network.training)


def _refuse_borders(index: int, layer: nn.Module) -> None:
    padding = getattr(layer, "padding", 0)
    if isinstance(padding, str):
        padded = padding != "valid"
    else:
        padded = any(padding) if isinstance(padding, tuple) else bool(padding)
    rounds_up = bool(getattr(layer, "ceil_mode", False))
    if padded or rounds_up or isinstance(layer, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        raise ValueError(
            f"layer {index} ({layer}): what it gives depends on where the window ends, so that windows cannot share "
            "it; use no padding, no ceil_mode and no adaptive pooling"
        )


def reach(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """Side of the window that one cell looks at, and the distance of neighbouring windows, in pixels.

    Args:
        kernels: Of each layer in order, convolutions and poolings alike, along one side.
        strides: Likewise.
    """
    side, step = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        side, step = side + (kernel - 1) * step, step * stride
    return side, step


def offset_pools(x: Tensor, size: int) -> Tensor:
    """Maximum over blocks of `size`, once for each place at which the first block may begin (OverFeat, figure 3).

    Args:
        x: `[B, C, H, W]`.
        size: Side of a block, and the distance of blocks; offsets are 0 to `size - 1` down and across.

    Returns:
        `[size, size, B, C, h, w]`, `h` and `w` being what every offset has: `(H - size + 1) // size` down.

    Raises:
        ValueError: The map is too small to hold a block at every offset.
    """
    rows, columns = ((int(side) - size + 1) // size for side in x.shape[-2:])
    if min(rows, columns) < 1:
        raise ValueError(f"a map of {x.shape[-2]}x{x.shape[-1]} holds no block of {size} at each of its offsets")
    pooled = [
        F.max_pool2d(x[..., down : down + rows * size, across : across + columns * size], size)
        for down in range(size)
        for across in range(size)
    ]
    return torch.stack(pooled).unflatten(0, (size, size))


def interleave(x: Tensor) -> Tensor:
    """Answers for each offset `[k, k, B, C, h, w]` put between one another: `[B, C, k * h, k * w]`.

    Cell `(i, j)` of offset `(down, across)` comes to `(k * i + down, k * j + across)`.
    """
    down, across, batch, channels, rows, columns = x.shape
    return x.permute(2, 3, 4, 0, 5, 1).reshape(batch, channels, rows * down, columns * across)
