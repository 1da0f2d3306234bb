"""Corner, center and cascade pooling: running maxima along one axis of a feature map.

The names say where the keypoint lies, not where the pooling looks: `top_pool` serves corners on the top edge of an
object and looks down from them, `left_pool` looks to the right (CornerNet, section 3.3). Where values tie, the
gradient goes to the one that the scan meets first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["bottom_pool", "cascade_pool", "column_pool", "left_pool", "right_pool", "row_pool", "top_pool"]


def _scan(x: Tensor, dim: int, backwards: bool) -> Tensor:
    """Running maximum of `x` along `dim`, in place; each pass doubles how far an element has looked."""
    length, reach = x.shape[dim], 1
    while reach < length:
        near, far = x.narrow(dim, 0, length - reach), x.narrow(dim, reach, length - reach)
        (near if backwards else far).copy_(torch.maximum(near, far))
        reach *= 2
    return x


def _line_by_line(x: Tensor, dim: int) -> bool:
    # A GPU wants few large steps, a processor few bytes; where neighbours lie side by side, lines are slow to gather.
    return x.device.type == "cpu" and x.stride(dim) > 1


def _scan_lines(x: Tensor, dim: int, backwards: bool) -> Tensor:
    """As `_scan`, into a new tensor, one line after the other."""
    best = torch.empty_like(x)
    steps = list(zip(x.unbind(dim), best.unbind(dim), strict=True))
    (first, before), *others = reversed(steps) if backwards else steps
    before.copy_(first)
    for line, out in others:
        before = torch.maximum(before, line, out=out)
    return best


def _grew(best: Tensor, dim: int, backwards: bool) -> tuple[Tensor, int]:
    """Where a running maximum is more than one step before, for all steps but the first, and where these lie."""
    length = best.shape[dim]
    near, far = best.narrow(dim, 0, length - 1), best.narrow(dim, 1, length - 1)
    return (near > far, 0) if backwards else (far > near, 1)


class _RunningMax(torch.autograd.Function):
    # Written out because torch.cummax is slower and gives tied gradients to the last that it meets.

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, backwards: bool) -> Tensor:
        best = _scan_lines(x, dim, backwards) if _line_by_line(x, dim) else _scan(x.clone(), dim, backwards)
        ctx.save_for_backward(best)
        ctx.dim, ctx.backwards = dim, backwards
        return best

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (best,) = ctx.saved_tensors
        route = _route_lines if _line_by_line(best, ctx.dim) else _route
        return route(best, grad, ctx.dim, ctx.backwards), None, None


def _route(best: Tensor, grad: Tensor, dim: int, backwards: bool) -> Tensor:
    """Gradient of a running maximum: each element's goes to the last place where the maximum grew."""
    # That place is a running maximum again, over scan steps.
    length = best.shape[dim]
    steps = torch.arange(length, device=best.device, dtype=torch.int16 if length < 2**15 else torch.int32)
    steps = (steps.flip(0) if backwards else steps).view([-1 if axis == dim else 1 for axis in range(best.ndim)])
    grew, start = _grew(best, dim, backwards)
    source = torch.zeros_like(best, dtype=steps.dtype)
    source.narrow(dim, start, length - 1).copy_(grew * steps.narrow(dim, start, length - 1))
    source = _scan(source, dim, backwards).long()
    if backwards:
        source = length - 1 - source
    wide = torch.promote_types(grad.dtype, torch.float32)
    return torch.zeros_like(grad, dtype=wide).scatter_add_(dim, source, grad.to(wide)).to(grad.dtype)


def _route_lines(best: Tensor, grad: Tensor, dim: int, backwards: bool) -> Tensor:
    """As `_route`, against the scan: what was gathered so far is handed over wherever the maximum grew."""
    wide = torch.promote_types(grad.dtype, torch.float32)
    mask, out = torch.ones_like(best, dtype=wide), torch.empty_like(best, dtype=wide)
    grew, start = _grew(best, dim, backwards)
    mask.narrow(dim, start, best.shape[dim] - 1).copy_(grew)
    steps = list(zip(grad.to(wide).unbind(dim), mask.unbind(dim), out.unbind(dim), strict=True))
    gathered = torch.zeros_like(out.select(dim, 0))
    for line, taken, answer in steps if backwards else reversed(steps):
        gathered += line
        torch.mul(gathered, taken, out=answer)
        gathered -= answer
    return out.to(grad.dtype)


def _running_max(x: Tensor, dim: int, backwards: bool) -> Tensor:
    return _RunningMax.apply(x, dim % x.ndim, backwards)


def top_pool(x: Tensor) -> Tensor:
    """`out[..., y, x] = max(x[..., y:, x])` of `[..., H, W]`: from the top edge down."""
    return _running_max(x, -2, True)


def bottom_pool(x: Tensor) -> Tensor:
    """`out[..., y, x] = max(x[..., : y + 1, x])` of `[..., H, W]`: from the bottom edge up."""
    return _running_max(x, -2, False)


def left_pool(x: Tensor) -> Tensor:
    """`out[..., y, x] = max(x[..., y, x:])` of `[..., H, W]`: from the left edge to the right."""
    return _running_max(x, -1, True)


def right_pool(x: Tensor) -> Tensor:
    """`out[..., y, x] = max(x[..., y, : x + 1])` of `[..., H, W]`: from the right edge to the left."""
    return _running_max(x, -1, False)


def _whole_line(x: Tensor, dim: int) -> Tensor:
    # The upward (leftward) pool meets the last of tied values first; torch.max answers with the first.
    return x.flip(dim).max(dim, keepdim=True).values.expand_as(x)


def column_pool(x: Tensor) -> Tensor:
    """Each pixel of `[..., H, W]` becomes the maximum of its column: `top_pool`, then `bottom_pool`.

    Center pooling is `column_pool(a) + row_pool(b)` (CenterNet, section 3.3).
    """
    return _whole_line(x, -2)


def row_pool(x: Tensor) -> Tensor:
    """Each pixel of `[..., H, W]` becomes the maximum of its row: `left_pool`, then `right_pool`."""
    return _whole_line(x, -1)


def cascade_pool(
    x: Tensor,
    look: Tensor,
    edge: Callable[[Tensor], Tensor],
    inward: Callable[[Tensor], Tensor],
    mix: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Cascade corner pooling: add what lies inside the object to each pixel of its edge, then pool along the edge.

    For the top left corner `edge` is `top_pool` with `inward` `left_pool`, and the two exchanged (CenterNet, fig. 5b).

    Args:
        x: `[..., H, W]`.
        look: Same shape; the features that `inward` gathers.
        edge: Pooling that reaches the corner.
        inward: Pooling that looks into the object.
        mix: Applied to the sum before `edge`; the paper has a 3x3 convolution here.
    """
    total = x + inward(look)
    return edge(total if mix is None else mix(total))
