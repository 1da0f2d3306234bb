"""Level X: convolutions and networks of them on inputs of which the answer is known. Nothing is judged here."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.images import Batch, Frame
from zoo import build

__all__ = ["batch_statistics", "convolutional_classifier", "fixed_input", "receptive_fields", "upsampling"]


def convolutional_classifier(padding: int = 0) -> dict[str, float]:
    """The lecture's net for 14x14 pixels, run over larger images in one pass and crop by crop."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 16, 5, padding=padding), nn.MaxPool2d(2), nn.Conv2d(16, 400, 5), nn.ReLU(),
            nn.Conv2d(400, 400, 1), nn.ReLU(), nn.Conv2d(400, 4, 1),
        ).eval()  # fmt: skip
        image = torch.rand(1, 3, 28, 28)
    found: dict[str, float] = {}
    with torch.no_grad():
        for side in (14, 16, 28):
            found[f"side_{side}"] = net(image[:, :, :side, :side]).shape[-1]
        whole = net(image)[0]
        steps = range(0, 15, 2)
        crops = torch.cat([image[:, :, y : y + 14, x : x + 14] for y in steps for x in steps])
        apart = net(crops).mean((2, 3)) if padding else net(crops)[:, :, 0, 0]
    count = min(len(steps), whole.shape[-1])
    found["error"] = float((whole[:, :count, :count].flatten(1).T - apart[: count * count]).abs().max())
    found["macs_ratio"] = 64 * _macs(net, 14) / _macs(net, 28)
    dense = nn.Linear(16 * 25, 120)
    plane = torch.rand(1, 16, 5, 5)
    kernel = F.conv2d(plane, dense.weight.view(120, 16, 5, 5), dense.bias)
    flat = F.conv2d(plane.reshape(1, 400, 1, 1), dense.weight.view(120, 400, 1, 1), dense.bias)
    found["conversions_error"] = float((kernel - flat).abs().max().detach())
    return found


def _macs(net: nn.Sequential, side: int) -> int:
    total, shape = 0, (3, side, side)
    for layer in net:
        out = layer(torch.zeros(1, *shape)).shape[1:]
        if isinstance(layer, nn.Conv2d):
            total += out.numel() * layer.weight[0].numel()
        shape = tuple(out)
    return total


def receptive_fields(layers: int = 10) -> dict[str, float]:
    """Pixels with a gradient to one output cell behind L convolutions of 3x3, and the share that holds 90 % of it."""
    wrong, wrong_strided, effective = 0, 0, 1.0
    for count in range(1, layers + 1):
        x = torch.zeros(1, 1, 4 * layers + 5, 1, requires_grad=True)
        field = _field(x, count, 1)
        wrong += int((field > 0).sum()) != 1 + 2 * count
        effective = float(field.sort(descending=True).values.cumsum(0).lt(0.9).sum() + 1) / (1 + 2 * count)
    for count in range(1, 7):
        x = torch.zeros(1, 1, 2 ** (count + 2), 1, requires_grad=True)
        wrong_strided += int((_field(x, count, 2) > 0).sum()) != 2 ** (count + 1) - 1
    return {
        "plain_wrong": wrong,
        "strided_wrong": wrong_strided,
        "effective_share": effective,
        "strided_macs_ratio": sum(4.0 ** -(count + 1) for count in range(layers)) / layers,
    }


def _field(x: Tensor, layers: int, stride: int) -> Tensor:
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[..., 1] = 1 / 3
    y = x
    for _ in range(layers):
        y = F.conv2d(y, kernel, stride=(stride, 1), padding=1)
    y[0, 0, y.shape[2] // 2, 0].backward()
    assert x.grad is not None
    field = x.grad[0, 0, :, 0]
    return field / field.sum()


def upsampling() -> dict[str, float]:
    """The lecture's worked examples: the largest error of each."""
    small = torch.tensor([[1.0, 2], [3, 4]])[None, None]
    wanted = {
        "nearest": [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]],
        "bilinear": [[1, 1.25, 1.75, 2], [1.5, 1.75, 2.25, 2.5], [2.5, 2.75, 3.25, 3.5], [3, 3.25, 3.75, 4]],
        "bicubic": [[0.68, 1.02, 1.56, 1.89], [1.35, 1.68, 2.23, 2.56], [2.44, 2.77, 3.32, 3.65],
                    [3.11, 3.44, 3.98, 4.32]],
    }  # fmt: skip
    found = {
        mode: float((F.interpolate(small, scale_factor=2, mode=mode)[0, 0] - torch.tensor(rows)).abs().max())
        for mode, rows in wanted.items()
    }
    nails = F.conv_transpose2d(small, torch.tensor([[1.0, 0], [0, 0]])[None, None], stride=2)
    nailed = torch.tensor([[1.0, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]])
    image = torch.tensor([[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]])[None, None]
    pooled, places = F.max_pool2d(image, 2, return_indices=True)
    back = F.max_unpool2d(small, places, (2, 2))
    unpooled = torch.tensor([[0.0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]])
    found["nails"] = float((nails[0, 0] - nailed).abs().max())
    found["pooling"] = float((pooled[0, 0] - torch.tensor([[5.0, 6], [7, 8]])).abs().max())
    found["unpooling"] = float((back[0, 0] - unpooled).abs().max())
    found["transposed_side"] = F.conv_transpose2d(small, torch.ones(1, 1, 3, 3), stride=2).shape[-1]
    return found


def fixed_input() -> dict[str, Any]:
    """Whether YOLO's network takes another input size, what one corner cell sees, and YOLOv2's boxes by size."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = build("yolov1", 20, small=True).eval()
    side = model.size[0]

    def run(size: int) -> tuple[Tensor, Tensor]:
        pixels = torch.rand(1, 3, size, size, requires_grad=True)
        frame = Frame((size, size), (size, size), (1.0, 1.0))
        return pixels, model.network(Batch(pixels, (frame,)))

    try:
        run(side + 64)
        refused = ""
    except (RuntimeError, ValueError) as error:
        refused = type(error).__name__
    pixels, outputs = run(side)
    outputs.reshape(-1)[0].backward()
    assert pixels.grad is not None
    with torch.device("meta"):
        later = build("yolov2", 20)
    boxes = {str(size): later.num_boxes((size, size)) for size in (320, 416, 544)}
    return {"refused": refused, "seen": float((pixels.grad.abs().amax(1) > 0).float().mean()), "yolov2_boxes": boxes}


def batch_statistics(images: int = 400) -> dict[str, Any]:
    """How far a channel's mean over a batch swings, by the batch, and whether shards add up to the whole.

    Maps are made up: places of one image are alike, as in real ones, so that an image counts for less than its places.
    """
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(images, 1, 1, 1, generator=generator)
    maps = own + 0.5 * torch.randn(images, 1, 8, 8, generator=generator)
    sizes = (2, 4, 8, 16, 32)
    swings = []
    for size in sizes:
        batches = torch.randint(images, (4_000, size), generator=generator)
        swings.append(float(maps[batches].mean((1, 2, 3, 4)).var()))
    logs = torch.tensor([[math.log(size) for size in sizes], [math.log(swing) for swing in swings]])
    slope = float(torch.cov(logs)[0, 1] / torch.cov(logs)[0, 0])
    whole = maps[:32]
    shards = whole.split(8)
    mean = sum(shard.mean() for shard in shards) / len(shards)
    square = sum(shard.pow(2).mean() for shard in shards) / len(shards)
    errors = ((mean - whole.mean()).abs(), (square - mean**2 - whole.var(correction=0)).abs())
    places = swings[0] * 2 * 64 / float(maps.var())
    return {"slope": slope, "shards_error": float(max(errors)), "times_over_independent_places": places}
