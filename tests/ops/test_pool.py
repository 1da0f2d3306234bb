from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ops.pool import bottom_pool, cascade_pool, column_pool, left_pool, right_pool, row_pool, top_pool

X = torch.tensor([[1, 3, 2, 0], [4, 1, 0, 2], [0, 5, 1, 1], [2, 0, 3, 6]], dtype=torch.float32)
POOLS = {"top": top_pool, "bottom": bottom_pool, "left": left_pool, "right": right_pool}


def rows(*lines: str) -> Tensor:
    return torch.tensor([[float(n) for n in line.split()] for line in lines])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("top", rows("4 5 3 6", "4 5 3 6", "2 5 3 6", "2 0 3 6")),
        ("bottom", rows("1 3 2 0", "4 3 2 2", "4 5 2 2", "4 5 3 6")),
        ("left", rows("3 3 2 0", "4 2 2 2", "5 5 1 1", "6 6 6 6")),
        ("right", rows("1 3 3 3", "4 4 4 4", "0 5 5 5", "2 2 3 6")),
    ],
)
def test_worked_example(name: str, expected: Tensor) -> None:
    assert torch.equal(POOLS[name](X), expected)
    assert torch.equal(POOLS[name](X.expand(2, 3, 4, 4)), expected.expand(2, 3, 4, 4))


def test_corners_and_centers_of_the_worked_example() -> None:
    assert torch.equal(top_pool(X) + left_pool(X), rows("7 8 5 6", "8 7 5 8", "7 10 4 7", "8 6 9 12"))
    assert torch.equal(bottom_pool(X) + right_pool(X), rows("2 6 5 3", "8 7 6 6", "4 10 7 7", "6 7 6 12"))
    assert torch.equal(column_pool(X) + row_pool(X), rows("7 8 6 9", "8 9 7 10", "9 10 8 11", "10 11 9 12"))


def test_cascades_of_the_worked_example() -> None:
    a, b = cascade_pool(X, X, top_pool, left_pool), cascade_pool(X, X, left_pool, top_pool)
    assert torch.equal(a, rows("8 10 9 12", "8 10 9 12", "8 10 9 12", "8 6 9 12"))
    assert torch.equal(b, rows("8 8 6 6", "8 8 8 8", "10 10 7 7", "12 12 12 12"))
    assert torch.equal(a + b, rows("16 18 15 18", "16 18 17 20", "18 20 16 19", "20 18 21 24"))
    a, b = cascade_pool(X, X, bottom_pool, right_pool), cascade_pool(X, X, right_pool, bottom_pool)
    assert torch.equal(a, rows("2 6 5 3", "8 6 5 6", "8 10 6 6", "8 10 6 12"))
    assert torch.equal(b, rows("2 6 6 6", "8 8 8 8", "4 10 10 10", "6 6 6 12"))


def test_cascade_mixes_before_it_pools_along_the_edge() -> None:
    doubled = cascade_pool(X, X, top_pool, left_pool, lambda total: -total)
    assert torch.equal(doubled, top_pool(-(X + left_pool(X))))


def slow_pool(x: Tensor, grad: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Value and gradient as the authors' kernel defines them: one scan, a strictly larger value takes over."""
    height, width = x.shape
    out, back = torch.zeros_like(x), torch.zeros_like(x)
    vertical = name in ("top", "bottom")
    for line in range(width if vertical else height):
        length = height if vertical else width
        steps = range(length - 1, -1, -1) if name in ("top", "left") else range(length)
        best: tuple[int, int] | None = None
        for step in steps:
            place = (step, line) if vertical else (line, step)
            if best is None or x[place] > x[best]:
                best = place
            out[place] = x[best]
            back[best] += grad[place]
    return out, back


LAYOUTS = {
    "rows": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "columns": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(7, 5), (1, 6), (6, 1), (16, 33)])
def test_equals_the_loop_with_ties(name: str, layout: str, shape: tuple[int, int]) -> None:
    """In both layouts of memory: that in which a line's pixels lie side by side has another way of its own."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randint(-2, 3, (2, 3, *shape), generator=generator).double()
    x = LAYOUTS[layout](values).requires_grad_()
    grad = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    out = POOLS[name](x)
    out.backward(grad)
    assert x.grad is not None
    for b in range(2):
        for c in range(3):
            value, back = slow_pool(x.detach()[b, c], grad[b, c], name)
            assert torch.equal(out[b, c], value)
            torch.testing.assert_close(x.grad[b, c], back)


@pytest.mark.parametrize(
    ("whole", "first", "second"), [(column_pool, top_pool, bottom_pool), (row_pool, left_pool, right_pool)]
)
def test_whole_lines_are_two_pools_in_series(whole: object, first: object, second: object) -> None:
    generator = torch.Generator().manual_seed(4)
    values = torch.randint(0, 4, (2, 3, 9, 6), generator=generator).double()
    grad = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    answers = []
    for function in (whole, lambda x: second(first(x))):  # type: ignore[operator]
        x = values.clone().requires_grad_()
        y = function(x)  # type: ignore[operator]
        y.backward(grad)
        assert x.grad is not None
        answers.append((y.detach(), x.grad))
    assert torch.equal(answers[0][0], answers[1][0])
    torch.testing.assert_close(answers[0][1], answers[1][1])


@pytest.mark.parametrize("name", POOLS)
def test_gradient_agrees_with_differences(name: str) -> None:
    x = torch.randn((1, 2, 5, 4), dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(POOLS[name], (x,))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", POOLS)
def test_both_ways_agree_on_real_numbers(name: str, layout: str) -> None:
    """Where nothing ties, values and gradients are those of torch.cummax on the flipped map."""
    dim, flipped = (-2 if name in ("top", "bottom") else -1), name in ("top", "left")
    generator = torch.Generator().manual_seed(5)
    values = torch.randn((2, 4, 20, 13), generator=generator)
    grad = torch.randn(values.shape, generator=generator)
    answers = []
    for function in (
        POOLS[name],
        lambda x: x.flip(dim).cummax(dim).values.flip(dim) if flipped else x.cummax(dim).values,
    ):
        x = LAYOUTS[layout](values.clone()).requires_grad_()
        out = function(x)
        out.backward(grad)
        answers.append((out.detach(), x.grad))
    assert torch.equal(answers[0][0], answers[1][0])
    torch.testing.assert_close(answers[0][1], answers[1][1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_gathers_in_full(layout: str) -> None:
    x = torch.zeros(1, 2, 300, 3)
    x[:, :, -1] = 1
    low = LAYOUTS[layout](x.bfloat16()).requires_grad_()
    out = top_pool(low)
    out.backward(torch.ones_like(out))
    assert out.dtype == low.grad.dtype == torch.bfloat16
    # 256 and 1 are 256 in eight bits of precision; the maximum of each column has all 300.
    assert float(low.grad[0, 0, -1, 0]) == 300.0


@pytest.mark.parametrize("name", POOLS)
def test_leaves_its_input_alone_and_takes_any_layout(name: str) -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1)).transpose(2, 3)
    before = x.clone()
    out = POOLS[name](x)
    assert torch.equal(x, before)
    assert torch.equal(out, POOLS[name](x.contiguous()))


def test_runs_on_the_meta_device() -> None:
    x = torch.empty((1, 2, 8, 8), device="meta")
    assert all(pool(x).shape == x.shape for pool in (*POOLS.values(), column_pool, row_pool))
