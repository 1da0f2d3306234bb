"""A convolution whose weights differ from place to place (YOLO's released v1.1 network, Darknet's `[local]`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LocallyConnected2d"]


class LocallyConnected2d(nn.Module):
    """Map `[B, C, H, W]` of one fixed size to `[B, filters, H', W']`, each place with filters of its own.

    Args:
        channels: C.
        filters: Of every place.
        kernel: Side of the window.
        size: `(H, W)` of the input.
        stride: Between windows.
        padding: Zeros around the input.

    Attributes:
        out_size: `(H', W')`.
        weight: `[H' W', filters, C, kernel, kernel]`, places row by row, as Darknet's files hold them.
        bias: `[filters, H', W']`.
    """

    def __init__(
        self, channels: int, filters: int, kernel: int, size: tuple[int, int], *, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.size, self.kernel, self.stride, self.padding = size, kernel, stride, padding
        rows, columns = ((side + 2 * padding - kernel) // stride + 1 for side in size)
        if rows < 1 or columns < 1:
            raise ValueError(f"LocallyConnected2d: a window of {kernel} does not fit into {size} padded by {padding}")
        self.out_size = (rows, columns)
        self.weight = nn.Parameter(torch.empty(rows * columns, filters, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(filters, rows, columns))
        bound = (6 / (channels * kernel * kernel)) ** 0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, filters, H', W']`."""
        if tuple(x.shape[-2:]) != self.size:
            raise ValueError(f"LocallyConnected2d was built for maps of {self.size}, got {tuple(x.shape[-2:])}")
        windows = F.unfold(x, self.kernel, padding=self.padding, stride=self.stride)  # [B, C k k, H' W']
        out = torch.einsum("bil,lni->bnl", windows, self.weight.flatten(2))
        return out.reshape(len(out), *self.bias.shape) + self.bias
