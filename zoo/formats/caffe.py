"""Caffe's `.caffemodel` and `.prototxt` files, read without Caffe and without a protobuf library.

A detector that takes such files has a method

    def caffe_names(self) -> dict[str, str | tuple[str, ...]]:

which says, for every module of it that holds parameters (by its name as in `named_modules()`), which layer of the file
fills it. The rules of `load_caffe` say how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

__all__ = ["CaffeError", "Layer", "Names", "Net", "load_caffe", "read_caffemodel", "read_prototxt"]

Names = Mapping[str, str | tuple[str, ...]]
"""Module of ours to layer, or layers, of the file."""


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
        params: Its settings by message and field: `params["convolution_param"]["kernel_size"]`.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    blobs: tuple[NDArray[np.float32], ...]
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Net:
    """A network as a file describes it.

    Attributes:
        name: Of the network.
        layers: In the file's order.
        inputs: Shape of each input that is declared outside the layers.
    """

    name: str
    layers: tuple[Layer, ...]
    inputs: Mapping[str, tuple[int, ...]]


def read_caffemodel(path: Path) -> Net:
    """Layers and blobs of a binary file.

    Raises:
        CaffeError: The file is missing, cut off or damaged.
    """
    raise NotImplementedError


def read_prototxt(path: Path) -> Net:
    """Layers of a text file; their blobs are empty.

    Raises:
        CaffeError: The file is missing or no prototxt.
    """
    raise NotImplementedError


def load_caffe(model: nn.Module, path: Path, names: Names) -> None:
    """Fill a model from a `.caffemodel`, strictly: each parameter once, every blob of the file used once.

    The model stays as it was when anything is wrong. What stands in `names` for a module of the type

    - `Conv2d`, `Linear`: the name of its Convolution or InnerProduct layer. `(convolution, batch_norm, scale)` or
      `(convolution, scale)` folds the norm into the convolution, which then needs a bias (so where the module has no
      norm of its own);
    - `ConvTranspose2d`: its Deconvolution layer, with the same tuples;
    - `BatchNorm2d`: `(batch_norm, scale)`, or `batch_norm` where the file has no Scale layer (weight 1, bias 0). Mean and
      variance are divided by the layer's third blob;
    - `L2Norm`: its Normalize layer; `PReLU`: its PReLU layer;
    - a parameter's own name, as in `named_parameters()`: the layer whose only blob it is.

    A convolution without bias here may have a bias in the file only if it is zero throughout. Layers of the file
    without blobs need no mention.

    Args:
        model: The network.
        path: The file.
        names: For every module with parameters, the layers that fill it.

    Raises:
        CaffeError: The file is damaged, a layer is missing, left over, or of another shape, a parameter is not filled.
    """
    raise NotImplementedError
