"""Deformable convolution against torchvision's operator and against the plain one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from ops.deformable import deformable_convolution


@pytest.mark.parametrize(
    ("groups", "size", "stride", "padding", "dilation"), [(1, 3, 1, 1, 1), (2, 3, 2, 2, 2), (4, 1, 1, 0, 1)]
)
def test_against_torchvision(groups: int, size: int, stride: int, padding: int, dilation: int) -> None:
    torch.manual_seed(groups)
    x, weight = torch.randn(2, 4, 7, 9), torch.randn(5, 4, size, size)
    plain = F.conv2d(x, weight, None, stride, padding, dilation)
    offsets = 3 * torch.randn(2, groups * 2 * size**2, *plain.shape[-2:])  # many leave the map
    settings = {"stride": stride, "padding": padding, "dilation": dilation}
    torch.testing.assert_close(
        deformable_convolution(x, torch.zeros_like(offsets), weight, **settings), plain, atol=1e-4, rtol=1e-4
    )
    tensors = [tensor.requires_grad_() for tensor in (x, offsets, weight)]
    ours, theirs = deformable_convolution(*tensors, **settings), deform_conv2d(*tensors, **settings)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    direction = torch.randn_like(plain)
    for mine, wanted in zip(
        torch.autograd.grad((ours * direction).sum(), tensors),
        torch.autograd.grad((theirs * direction).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(mine, wanted, atol=1e-3, rtol=1e-3)
