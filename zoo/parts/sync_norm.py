"""Batch normalisation over the images of all processes, from Chao Peng et al., "MegDet: A Large Mini-Batch Object
Detector" (CVPR 2018, https://arxiv.org/abs/1711.07240), section 3.3: a process holds too few images of a detector for
statistics, so the processes reckon them together.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["SyncBatchNorm", "sum_over_processes"]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        # Every process's loss depends on what this one put in.
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of every process's `x`, the same in all; the gradient is the sum of their gradients.

    All processes must call it, and if one of them goes backward through it, all must.
    """
    total: Tensor = _Sum.apply(x)
    return total


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over all processes, on any device and backend. Alone, it is torch's batch normalisation.

    torch's own `SyncBatchNorm` gives the same on CUDA and refuses CPUs, as does `DistributedDataParallel` for it.
    Two sums pass between the processes, that of the values and that of the squares of their distances from the mean
    (section 3.3), which loses no digits to a difference of large numbers. Processes may hold maps of differing sizes.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`[B, C, ...]` to the same; statistics are those of all processes while training."""
        alone = not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1
        if alone or not self.training:
            return super().forward(input)
        x = input.float()
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        own = torch.cat([x.sum(axes), x.new_tensor([x.numel() / x.shape[1]])])
        total = sum_over_processes(own)
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = x - mean.reshape(shape)
        variance = sum_over_processes(centred.square().sum(axes)) / count
        if self.track_running_stats:
            self._remember(mean.detach(), variance.detach() * count / (count - 1))
        x = centred * (variance + self.eps).rsqrt().reshape(shape)
        if self.affine:
            x = x * self.weight.reshape(shape) + self.bias.reshape(shape)
        return x.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)
