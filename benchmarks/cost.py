"""What a detector costs whatever it runs on: parameters, multiply-accumulates, boxes.

Everything is built and run on the meta device, which has shapes and no memory, so that the largest network takes
seconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.stages import stages, watched
from ops.images import Batch, Frame
from zoo import CATALOG, build
from zoo.detector import Detector

__all__ = ["SHAPES_SIZE", "NothingSuppressed", "cost", "count_macs", "flop_counter", "parse_size"]

SHAPES_SIZE = (160, 160)
"""Images of `shapes`, on which the small sizes are trained: what their cost is stated for."""


def cost(
    name: str,
    num_classes: int = 80,
    size: tuple[int, int] | None = None,
    *,
    small: bool = False,
    overrides: Mapping[str, Any] | None = None,
    by_stage: bool = False,
) -> dict[str, Any]:
    """Count a detector of the catalog.

    Args:
        name: Catalog name.
        num_classes: Foreground classes.
        size: `(H, W)` of the network's input; None for the paper's, or, for any other network than the paper's, for
            what its preprocessing makes of an image of `shapes`.
        small: The small size instead of the paper's.
        overrides: Constructor arguments besides.
        by_stage: Count the parts of the network, too.

    Returns:
        `parameters`: elements of all `nn.Parameter`s, frozen ones too.
        `buffers`: further elements of the state dict (statistics of normalisation; all of a fitted detector).
        `macs`: multiply-accumulates of one image in convolutions, matrix products and deformable convolutions, half
            of what PyTorch's flop counter gives; biases, norms, activations, pooling and resampling do not count.
        `boxes`: anchors, priors or cells, or None where the detector has none.
        `regions`, of detectors that have a second stage: the most regions that it looks at in testing.
        `input`: `[H, W]` of the network's input.
        `stages`, where asked for: the parts of the network, as `benchmarks.stages.stages` lists them.

    Raises:
        KeyError: There is no such detector.
        ValueError: It has no small size, or `size` is not positive.
    """
    if size is not None and min(size) < 1:
        raise ValueError(f"size must be positive, got {size[0]}x{size[1]}")
    with torch.device("meta"):
        model = build(name, num_classes, small=small, **(overrides or {}))
    model.to("meta").eval()
    if size is None and (small or overrides):
        size = model.preprocess([torch.empty((3, *SHAPES_SIZE), device="meta")]).size
    size = size or CATALOG[name].input_size
    parameters = sum(parameter.numel() for parameter in model.parameters())
    stored = {key: value for key, value in model.state_dict().items() if torch.is_tensor(value)}
    names = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    macs, parts = _counted(model, size)
    regions = _regions(model)
    return {
        "parameters": parameters,
        "buffers": sum(value.numel() for key, value in stored.items() if key not in names),
        "macs": macs,
        "boxes": model.num_boxes(size),
        **({} if regions is None else {"regions": regions}),
        "input": list(size),
        **({"stages": parts} if by_stage else {}),
    }


def _regions(model: Detector) -> int | None:
    """Of a detector with a region proposal network what this lets through in testing, else what the proposer gives."""
    network = getattr(model, "rpn", None)
    found = getattr(model, "most", None) if network is None else network.after_nms[1]
    return None if found is None else int(found)


def parse_size(text: str) -> tuple[int, int]:
    """`"300x400"` to `(300, 400)`, height first.

    Raises:
        ValueError: It is written otherwise.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise ValueError(f"size {text!r}: write height x width, such as 512x512")
    return int(match[1]), int(match[2])


def count_macs(model: Detector, size: tuple[int, int]) -> int:
    """Multiply-accumulates of `network_for_cost` on one image whose network input is `size`; `model` is on meta."""
    return _counted(model, size)[0]


def _counted(model: Detector, size: tuple[int, int]) -> tuple[int, list[dict[str, Any]]]:
    """The same, and the stages of the network."""
    frame = Frame(size, size, (1.0, 1.0))
    batch = Batch(torch.empty((1, 3, *size), device="meta"), (frame,))
    counter = flop_counter()

    def products() -> int:
        return int(counter.get_total_flops()) // 2

    with torch.no_grad(), counter, NothingSuppressed(), watched(model, products) as seen:
        model.network_for_cost(batch)
    return products(), stages(model, seen)


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter, for which a multiply-accumulate is two operations; it also knows deformable convolutions."""
    mapping = {torch.ops.torchvision.deform_conv2d: _deformable_convolution_flops}
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _deformable_convolution_flops(
    inputs: tuple[int, ...], weight: tuple[int, ...], *_: Any, out_shape: tuple[int, ...], **__: Any
) -> int:
    """A plain convolution's products; the bilinear samples are resampling and do not count."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


class NothingSuppressed(TorchDispatchMode):
    """Lets non-maximum suppression run without data: every box stays, so that a cut after it gives its fixed number."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.torchvision.nms.default:
            return torch.arange(args[0].shape[0], device=args[0].device)
        return func(*args, **(kwargs or {}))
