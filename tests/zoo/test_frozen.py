"""Frozen normalisation is torchvision's, to the bit on a processor, but takes no fresh memory there."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops.misc import FrozenBatchNorm2d

from zoo.parts.frozen import FrozenBatchNorm


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_as_torchvisions_in_place(order: torch.memory_format) -> None:
    torch.manual_seed(0)
    theirs, ours = FrozenBatchNorm2d(5, eps=1e-3), FrozenBatchNorm(5, eps=1e-3)
    for name in ("weight", "bias", "running_mean"):
        getattr(theirs, name).normal_()
    theirs.running_var.uniform_(0.1, 2)
    ours.load_state_dict(theirs.state_dict())
    before = torch.randn(2, 5, 7, 6).contiguous(memory_format=order)
    wanted, given = theirs(before), before.clone(memory_format=torch.preserve_format)
    found = ours(given)
    assert torch.equal(found, wanted)
    assert found.data_ptr() == given.data_ptr()
    assert found.stride() == before.stride()


def test_the_gradient_is_torchvisions() -> None:
    torch.manual_seed(0)
    theirs, ours = FrozenBatchNorm2d(3), FrozenBatchNorm(3)
    theirs.weight.normal_()
    ours.load_state_dict(theirs.state_dict())
    convolution, x = torch.nn.Conv2d(2, 3, 3), torch.randn(1, 2, 6, 6)
    gradients = []
    for norm in (theirs, ours):
        convolution.zero_grad()
        norm(convolution(x)).relu().square().sum().backward()
        gradients.append(convolution.weight.grad.clone())
    assert torch.equal(*gradients)


def test_half_precision_stays_half() -> None:
    assert FrozenBatchNorm(3)(torch.ones(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
