import pytest
import torch
from torch.nn import functional as F

from ops.reorg import reorg

# Of 4 channels of 4x4 that count from 0 to 63.
DARKNET = [
    *(0, 2, 4, 6, 16, 18, 20, 22, 32, 34, 36, 38, 48, 50, 52, 54),
    *(1, 3, 5, 7, 17, 19, 21, 23, 33, 35, 37, 39, 49, 51, 53, 55),
    *(8, 10, 12, 14, 24, 26, 28, 30, 40, 42, 44, 46, 56, 58, 60, 62),
    *(9, 11, 13, 15, 25, 27, 29, 31, 41, 43, 45, 47, 57, 59, 61, 63),
]


def darknet_loop(x: torch.Tensor, stride: int) -> torch.Tensor:
    """The released loop over one image: where each number of the output is read."""
    channels, height, width = x.shape
    flat, out = x.flatten().tolist(), []
    narrow = channels // stride**2
    for k in range(channels):
        for j in range(height):
            for i in range(width):
                c2, offset = k % narrow, k // narrow
                w2, h2 = i * stride + offset % stride, j * stride + offset // stride
                out.append(flat[w2 + width * stride * (h2 + height * stride * c2)])
    return torch.tensor(out).reshape(channels * stride**2, height // stride, width // stride)


def test_order_is_darknets() -> None:
    folded = reorg(torch.arange(64.0).reshape(1, 4, 4, 4))
    assert folded.shape == (1, 16, 2, 2)
    assert folded.flatten().tolist() == DARKNET


def test_it_is_not_space_to_depth() -> None:
    x = torch.arange(64.0).reshape(1, 4, 4, 4)
    assert sorted(reorg(x).flatten().tolist()) == sorted(F.pixel_unshuffle(x, 2).flatten().tolist())
    assert not torch.equal(reorg(x), F.pixel_unshuffle(x, 2))


@pytest.mark.parametrize(("shape", "stride"), [((64, 26, 26), 2), ((8, 4, 6), 2), ((9, 6, 3), 3)])
def test_loop(shape: tuple[int, int, int], stride: int) -> None:
    x = torch.rand(2, *shape)
    folded = reorg(x, stride)
    for image, answer in zip(x, folded, strict=True):
        assert torch.equal(answer, darknet_loop(image, stride))


@pytest.mark.parametrize("shape", [(1, 6, 4, 4), (1, 4, 5, 4), (1, 4, 4, 3)])
def test_what_cannot_be_folded(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="reorg by 2"):
        reorg(torch.zeros(shape))
