"""Darknet's `.weights` files: a short header, then every layer's float32 numbers in the order of the cfg file.

Nothing in a file says which layer a number belongs to. So the network says which layers it has, in order, and a file
must hold exactly as many numbers as they take.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["DarknetError", "Header", "Layer", "conv_layers", "read_weights", "write_weights"]

Layer = tuple[nn.Module, nn.BatchNorm2d | nn.BatchNorm1d | None]
"""A module with `weight` (convolution, linear or locally connected), and the batch normalisation behind it if any."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class DarknetError(ValueError):
    """A weights file does not fit; the message names the file, the entry and the remedy."""


@dataclass(frozen=True)
class Header:
    """The head of a file: the version of Darknet that wrote it, and how many images the network had seen."""

    major: int = 0
    minor: int = 2
    revision: int = 0
    seen: int = 0

    @property
    def size(self) -> int:
        """Bytes: `seen` is a 64-bit number from version 0.2 on, a 32-bit one before."""
        return 20 if self.major * 10 + self.minor >= 2 else 16

    @property
    def transposed(self) -> bool:
        """Whether the weights of linear layers are stored `[in, out]`."""
        return self.major > 1000 or self.minor > 1000


def conv_layers(module: nn.Module) -> Iterator[Layer]:
    """The layers of a module whose submodules are registered in the order of the cfg file.

    Every module with a weight of its own (Conv2d, Linear, LocallyConnected2d), with the batch normalisation that is
    registered right behind it.
    """
    leaves = [leaf for leaf in module.modules() if isinstance(getattr(leaf, "weight", None), Tensor)]
    for leaf, follower in zip(leaves, [*leaves[1:], None], strict=True):
        if not isinstance(leaf, _NORMS):
            yield leaf, follower if isinstance(follower, _NORMS) else None


def _entries(layer: Layer) -> list[tuple[str, Tensor]]:
    """The tensors of a layer as the file orders them."""
    module, norm = layer
    weight = ("weights", module.weight)
    if norm is None:
        return [("biases", module.bias), weight]  # type: ignore[list-item]
    statistics = [("scales", norm.weight), ("means", norm.running_mean), ("variances", norm.running_var)]
    # Connected layers alone hold their weights before the scales.
    order = [("biases", norm.bias), weight, *statistics]
    return order if isinstance(module, nn.Linear) else [order[0], *statistics, weight]  # type: ignore[return-value,list-item]


def _read_header(path: Path, content: bytes) -> Header:
    if len(content) < 16:
        raise DarknetError(f"{path}: header: {len(content)} bytes are no Darknet weights; download the file again")
    header = Header(*struct.unpack_from("<3i", content))
    if not all(0 <= part <= 10_000 for part in (header.major, header.minor, header.revision)):
        raise DarknetError(
            f"{path}: header: version {header.major}.{header.minor}.{header.revision} is none of Darknet's; "
            f"give a .weights file, or download it again"
        )
    if len(content) < header.size:
        raise DarknetError(f"{path}: header: cut off after {len(content)} bytes; download the file again")
    (seen,) = struct.unpack_from("<q" if header.size == 20 else "<i", content, 12)
    return Header(header.major, header.minor, header.revision, seen)


def read_weights(path: Path, layers: Iterable[Layer]) -> Header:
    """Load a file into layers. They stay as they were when anything is wrong.

    Args:
        path: The file.
        layers: In the order of the file.

    Raises:
        DarknetError: The file cannot be read, is longer or shorter than the layers, or holds numbers that no training
            leaves behind (NaN, infinity, a negative variance).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DarknetError(f"{path}: cannot be read ({error.strerror}); fetch the weights first") from error
    header = _read_header(path, content)
    layers = list(layers)
    count = sum(tensor.numel() for layer in layers for _, tensor in _entries(layer))
    expected = header.size + 4 * count
    if len(content) != expected:
        remedy = "download it again" if len(content) < expected else "it belongs to a larger network"
        raise DarknetError(
            f"{path}: {len(content):,} bytes, but {len(layers)} layers take {expected:,} (header {header.size} bytes, "
            f"{count:,} numbers); {remedy}, or build the detector with the file's classes and widths"
        )
    numbers = np.frombuffer(content, "<f4", offset=header.size)
    filled: list[tuple[Tensor, Tensor]] = []
    position = 0
    for index, layer in enumerate(layers):
        for name, tensor in _entries(layer):
            values = numbers[position : position + tensor.numel()]
            position += tensor.numel()
            wrong = ~np.isfinite(values)
            if name == "variances":
                wrong |= values < 0
            if wrong.any():
                raise DarknetError(
                    f"{path}: {name} of layer {index}: {values[wrong][0]} at byte "
                    f"{header.size + 4 * (position - values.size + int(wrong.argmax())):,}; the file is damaged or "
                    f"belongs to another network, download it again"
                )
            block = torch.from_numpy(values.astype(np.float32))
            if header.transposed and isinstance(layer[0], nn.Linear) and name == "weights":
                block = block.reshape(tensor.shape[::-1]).T
            filled.append((tensor, block.reshape(tensor.shape)))
    with torch.no_grad():
        for tensor, block in filled:
            tensor.copy_(block)
    return header


def write_weights(path: Path, layers: Iterable[Layer], header: Header | None = None) -> None:
    """Write layers as a file that Darknet, and `read_weights`, can read."""
    header = header or Header()
    seen = struct.pack("<q" if header.size == 20 else "<i", header.seen)
    blocks = [struct.pack("<3i", header.major, header.minor, header.revision), seen]
    for layer in layers:
        for name, tensor in _entries(layer):
            values = tensor.detach().cpu()
            if header.transposed and isinstance(layer[0], nn.Linear) and name == "weights":
                values = values.T
            blocks.append(values.contiguous().numpy().astype("<f4").tobytes())
    path.write_bytes(b"".join(blocks))
