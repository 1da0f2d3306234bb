from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.backbones.hourglass import Convolution, Hourglass, Residual, hourglass_stem


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_at_the_papers_size() -> None:
    with torch.device("meta"):
        hourglass = Hourglass((256, 256, 384, 384, 384, 512), (2, 2, 2, 2, 2, 4))
        stem = hourglass_stem(128, 256)
    assert parameters(hourglass) == 92_134_400
    assert parameters(stem) == 938_112
    assert stem(torch.empty((1, 3, 511, 511), device="meta")).shape == (1, 256, 128, 128)
    assert hourglass(torch.empty((1, 256, 128, 128), device="meta")).shape == (1, 256, 128, 128)


def test_sizes_and_widths_on_the_way_down() -> None:
    with torch.device("meta"):
        level = Hourglass((256, 256, 384, 384, 384, 512), (2, 2, 2, 2, 2, 4))
        x = torch.empty((1, 256, 128, 128), device="meta")
        seen = []
        while isinstance(level, Hourglass):
            x = level.low1(x)
            seen.append((x.shape[1], x.shape[2]))
            level = level.low2  # type: ignore[assignment]
    assert seen == [(256, 64), (384, 32), (384, 16), (384, 8), (512, 4)]
    assert len(level) == 4  # type: ignore[arg-type]


def test_the_width_changes_first_on_the_way_down_and_last_on_the_way_up() -> None:
    hourglass = Hourglass((4, 6), (2, 1))
    assert [block.conv1.in_channels for block in hourglass.low1] == [4, 6]
    assert [block.conv1.stride for block in hourglass.low1] == [(2, 2), (1, 1)]
    assert [block.conv2.out_channels for block in hourglass.low3] == [6, 4]
    assert [len(block.skip) for block in hourglass.low3] == [0, 2]
    assert [len(block.skip) for block in hourglass.up1] == [0, 0]


def test_residual_is_two_convolutions_and_a_shortcut() -> None:
    torch.manual_seed(0)
    block = Residual(3, 5, 2).eval()
    x = torch.randn(2, 3, 9, 8)
    inner = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    torch.testing.assert_close(block(x), (inner + block.skip[1](block.skip[0](x))).relu())
    plain = Residual(3, 3).eval()
    nn.init.zeros_(plain.bn2.weight)
    assert torch.equal(plain(x), x.relu())


def test_two_levels_equal_the_written_out_sum() -> None:
    torch.manual_seed(0)
    hourglass = Hourglass((4, 6), (1, 2)).eval()
    x = torch.randn(1, 4, 6, 10)
    below = hourglass.low3(hourglass.low2(hourglass.low1(x)))
    expected = hourglass.up1(x) + below.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(hourglass(x), expected)


def test_any_size_comes_back() -> None:
    hourglass = Hourglass((4, 4, 6), (1, 1, 1))
    assert hourglass(torch.randn(2, 4, 7, 13)).shape == (2, 4, 7, 13)


def test_convolution_has_a_bias_only_without_normalisation() -> None:
    assert Convolution(2, 3).conv.bias is None
    assert set(Convolution(2, 3, norm=False).state_dict()) == {"conv.weight", "conv.bias"}


@pytest.mark.parametrize(("widths", "blocks"), [((4, 4), (1,)), ((4,), (1,))])
def test_widths_and_blocks_must_fit(widths: tuple[int, ...], blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="as many, at least 2"):
        Hourglass(widths, blocks)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_stem_has_a_block_a_halving(stride: int) -> None:
    with torch.device("meta"):
        stem = hourglass_stem(6, 10, stride)
        assert stem(torch.empty((1, 3, 64, 96), device="meta")).shape == (1, 10, 64 // stride, 96 // stride)
    assert [block.conv1.in_channels for block in stem[1:]] == [6, 10, 10][: len(stem) - 1]


@pytest.mark.parametrize("stride", [0, 2, 6])
def test_stem_of_another_stride(stride: int) -> None:
    with pytest.raises(ValueError, match=f"got {stride}"):
        hourglass_stem(6, 10, stride)
