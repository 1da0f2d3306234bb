"""ResNet, from He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016,
https://arxiv.org/abs/1512.03385), and ResNeXt, from Xie et al. (CVPR 2017, https://arxiv.org/abs/1611.05431).

The layers are torchvision's, and so are the names in the state dict: its ImageNet checkpoints fit but for `fc`. Unless
told otherwise, the stride lies on the 3x3 convolution of a block, not on the 1x1 as in the authors' Caffe files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torchvision.models import resnet

from zoo.parts.frozen import FrozenBatchNorm

__all__ = ["ResNet"]

_BLOCKS: dict[int, tuple[type[resnet.BasicBlock | resnet.Bottleneck], list[int]]] = {
    18: (resnet.BasicBlock, [2, 2, 2, 2]),
    34: (resnet.BasicBlock, [3, 4, 6, 3]),
    50: (resnet.Bottleneck, [3, 4, 6, 3]),
    101: (resnet.Bottleneck, [3, 4, 23, 3]),
    152: (resnet.Bottleneck, [3, 8, 36, 3]),
}


class ResNet(nn.Module):
    """Image `[B, 3, H, W]` to C2, C3, C4 and C5.

    Attributes:
        channels: Width of each map that `forward` gives.
        strides: Stride of each.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        trainable: int = 5,
        norm: Callable[[int], nn.Module] | None = None,
        norm_eps: float = 1e-5,
        groups: int = 1,
        group_width: int = 64,
        dilated: Sequence[bool] = (False, False, False),
        stride_first: bool = False,
    ) -> None:
        """Build with He's initial weights.

        Args:
            depth: 18, 34, 50, 101 or 152.
            trainable: How many of conv1, layer1, ..., layer4 learn, counted from the end; batches of detectors are too
                small to relearn the first ones.
            norm: Normalisation by number of channels. Left out, it is batch normalisation whose statistics, scale and
                shift are buffers and never move.
            norm_eps: Of that normalisation: torchvision's COCO checkpoint of Faster R-CNN was trained with 0.
            groups: Groups of the 3x3 convolution (ResNeXt: 32 or 64).
            group_width: Its width a group in the first stage (ResNeXt: 8 or 4).
            dilated: Whether layer2, layer3 and layer4 dilate where they would stride.
            stride_first: Let bottlenecks stride on their first 1x1 convolution, as the authors' own networks do, and
                Detectron's, which start from them.

        Raises:
            ValueError: There is no such depth, or `trainable` is not 0 to 5.
        """
        super().__init__()
        if depth not in _BLOCKS:
            raise ValueError(f"ResNet: depth must be one of {', '.join(map(str, _BLOCKS))}, got {depth}")
        if not 0 <= trainable <= 5:
            raise ValueError(f"ResNet: trainable counts conv1 and four stages, 0 to 5, got {trainable}")
        block, repeats = _BLOCKS[depth]
        whole = resnet.ResNet(
            block,
            repeats,
            num_classes=1,
            groups=groups,
            width_per_group=group_width,
            replace_stride_with_dilation=list(dilated),
            norm_layer=norm or partial(FrozenBatchNorm, eps=norm_eps),
        )
        self.conv1, self.bn1, self.relu, self.maxpool = whole.conv1, whole.bn1, whole.relu, whole.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4
        self.channels = tuple(width * block.expansion for width in (64, 128, 256, 512))
        strides = [4]
        for dilates in dilated:
            strides.append(strides[-1] * (1 if dilates else 2))
        self.strides = tuple(strides)
        self._stages = ["layer1", "layer2", "layer3", "layer4"]
        if stride_first:
            for module in self.modules():
                if isinstance(module, resnet.Bottleneck):
                    module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
        stages = [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]
        for stage in stages[: 5 - trainable]:
            for module in stage:
                module.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps `[B, C_i, H / s_i, W / s_i]`, rounded up, the finest first."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    @property
    def stages(self) -> list[nn.Module]:
        """What makes the maps, the finest first."""
        return [getattr(self, name) for name in self._stages]

    def pop_stage(self) -> nn.Module:
        """Give the last stage away: the network ends before it from now on."""
        stage = self.stages[-1]
        delattr(self, self._stages.pop())
        self.channels, self.strides = self.channels[:-1], self.strides[:-1]
        return stage
