"""Fully connected layers as convolutions: the lecture's worked sizes, and equality with one window after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ops.images import warp
from ops.nms import suppress
from ops.sliding import as_convolution, as_kernel, fully_convolutional, interleave, offset_pools, reach


def worked() -> nn.Sequential:
    """The lecture's network for windows of 14x14: four classes."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(5 * 5 * 16, 400),
        nn.ReLU(),
        nn.Linear(400, 400),
        nn.ReLU(),
        nn.Linear(400, 4),
    ).eval()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("side", "cells"), [(14, 1), (16, 2), (28, 8)])
def test_worked_sizes(side: int, cells: int) -> None:
    network = worked()
    dense = fully_convolutional(network, (14, 14))
    image = torch.randn(2, 3, side, side)
    with torch.no_grad():
        answer = dense(image).softmax(1)
        assert answer.shape == (2, 4, cells, cells)
        assert cells**2 == ((side - 14) // 2 + 1) ** 2 == {14: 1, 16: 4, 28: 64}[side]
        for i in range(cells):
            for j in range(cells):
                window = image[:, :, 2 * i : 2 * i + 14, 2 * j : 2 * j + 14]
                torch.testing.assert_close(answer[:, :, i, j], network(window).softmax(1))


def test_worked_parameters() -> None:
    network = worked()
    assert count(network) == count(fully_convolutional(network, (14, 14))) == 323_620
    assert reach((5, 2, 5, 1, 1), (1, 2, 1, 1, 1)) == (14, 2)


def test_lenet_layers() -> None:
    kernels = [as_convolution(nn.Linear(i, o), size) for i, o, size in LENET]
    assert [tuple(conv.weight.shape) for conv in kernels] == [(120, 16, 5, 5), (84, 120, 1, 1), (10, 84, 1, 1)]
    assert [count(conv) for conv in kernels] == [48_120, 10_164, 850]


LENET = [(400, 120, (5, 5)), (120, 84, (1, 1)), (84, 10, (1, 1))]


def test_both_ways_of_the_lecture_agree() -> None:
    """A kernel as large as the map, or 1x1 kernels over the map laid out as channels."""
    torch.manual_seed(0)
    linear, volume = nn.Linear(3 * 4 * 5, 7), torch.randn(2, 3, 4, 5)
    whole, flat = as_convolution(linear, (4, 5)), as_convolution(linear)
    wanted = linear(volume.flatten(1))
    torch.testing.assert_close(whole(volume).flatten(1), wanted)
    torch.testing.assert_close(flat(volume.reshape(2, -1, 1, 1)).flatten(1), wanted)


def test_the_network_itself_is_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(8, 3)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    dense = fully_convolutional(network, (4, 4), channels=1)
    assert dense.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    image = torch.randn(1, 1, 6, 7)
    wanted = torch.stack([network.eval()(image[:, :, i : i + 4, j : j + 4])[0] for i in range(3) for j in range(4)])
    torch.testing.assert_close(dense.eval()(image)[0].flatten(1).T, wanted)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), "layer 0"),
        (nn.Conv2d(3, 4, 3, padding="same"), "layer 0"),
        (nn.MaxPool2d(2, ceil_mode=True), "ceil_mode"),
        (nn.AdaptiveAvgPool2d(3), "adaptive"),
        (nn.Linear(14, 3), "Flatten"),
    ],
)
def test_what_cannot_slide_is_refused(layer: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fully_convolutional(nn.Sequential(layer), (14, 14))


def test_kernel_of_another_map_is_refused() -> None:
    with pytest.raises(ValueError, match="5x5 cells"):
        as_kernel(torch.zeros(7, 401), (5, 5))


@pytest.mark.parametrize("depth", range(6))
def test_reach_of_stacked_3x3_convolutions(depth: int) -> None:
    assert reach((3,) * depth, (1,) * depth) == (1 + 2 * depth, 1)


def test_offset_pools_against_loops() -> None:
    x = torch.randn(2, 3, 11, 9)
    pooled = offset_pools(x, 3)
    assert pooled.shape == (3, 3, 2, 3, 3, 2)
    together = interleave(pooled)
    assert together.shape == (2, 3, 9, 6)
    for i in range(9):
        for j in range(6):
            wanted = x[:, :, i : i + 3, j : j + 3].amax((2, 3))
            assert torch.equal(pooled[i % 3, j % 3, :, :, i // 3, j // 3], wanted)
            assert torch.equal(together[:, :, i, j], wanted)
    with pytest.raises(ValueError, match="no block of 3"):
        offset_pools(torch.zeros(1, 1, 4, 9), 3)


def test_dilation_is_offsets_put_between_one_another() -> None:
    torch.manual_seed(0)
    x, kernel = torch.randn(2, 3, 17, 20), torch.randn(4, 3, 5, 5)
    apart: Tensor = torch.stack([torch.stack([F.conv2d(x, kernel) for x in row]) for row in offset_pools(x, 3)])
    # 20 cells hold one more window than the nine offsets share.
    dilated = F.conv2d(F.max_pool2d(x, 3, 1), kernel, dilation=3)
    assert dilated.shape[-2:] == (3, 6)
    torch.testing.assert_close(dilated[..., :3, :6], interleave(apart), rtol=1e-4, atol=1e-4)


def test_one_pass_saves_work() -> None:
    network = worked().to("meta")
    counts = []
    for run, size in ((network, 14), (fully_convolutional(network, (14, 14)).to("meta"), 28)):
        with FlopCounterMode(display=False) as counter:
            run(torch.empty(1, 3, size, size, device="meta"))
        counts.append(counter.get_total_flops())
    alone = 100 * 75 * 16 + 400 * 400 + 400 * 400 + 400 * 4
    assert counts[0] == 2 * alone
    assert 64 * counts[0] / counts[1] > 1.2
    assert counts[1] == 2 * (24**2 * 75 * 16 + 64 * (400 * 400 + 400 * 400 + 400 * 4))


# The lecture's other examples, of what detectors here take from libraries.


def test_the_lectures_enlargements() -> None:
    small = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    nearest = F.interpolate(small[None, None], scale_factor=2.0, mode="nearest")[0, 0]
    assert nearest.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    bilinear, _ = warp(small.expand(3, 2, 2), (4, 4))
    assert bilinear[0].tolist() == [
        [1, 1.25, 1.75, 2],
        [1.5, 1.75, 2.25, 2.5],
        [2.5, 2.75, 3.25, 3.5],
        [3, 3.25, 3.75, 4],
    ]


def test_the_lectures_unpooling() -> None:
    x = torch.tensor([[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]])[None]
    pooled, places = F.max_pool2d(x, 2, return_indices=True)
    assert pooled[0].tolist() == [[5, 6], [7, 8]]
    later = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert F.max_unpool2d(later, places, 2)[0].tolist() == [[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]]
    nails = torch.tensor([[[0, 2], [8, 10]]])
    assert F.max_unpool2d(later, nails, 2)[0].tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(("overlap", "kept"), [(0.78, 1), (0.74, 1), (0.69, 2)])
def test_the_lectures_suppression(overlap: float, kept: int) -> None:
    moved = 10 * (1 - overlap) / (1 + overlap)
    boxes = torch.tensor([[0.0, 0, 10, 10], [moved, 0, 10 + moved, 10]])
    found, _ = suppress(boxes, torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64), iou=0.7, limit=None)
    assert len(found) == kept
