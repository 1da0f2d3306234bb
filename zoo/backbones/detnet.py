"""DetNet-59, from Zeming Li, Chao Peng, Gang Yu, Xiangyu Zhang, Yangdong Deng and Jian Sun, "DetNet: Design Backbone
for Object Detection" (ECCV 2018, https://arxiv.org/abs/1804.06215).

A classifier halves its last maps because it does not care where things are; a detector does. DetNet is ResNet-50 up to
stride 16 and stays there: two more stages see as widely by dilated convolutions, and stay narrow to stay cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from zoo.backbones.resnet import ResNet
from zoo.backbones.small import SmallNet
from zoo.parts.frozen import FrozenBatchNorm

__all__ = ["DetNet59", "SmallDetNet", "dilated_stage"]


def dilated_stage(
    width: int, middle: int, norm: Callable[[int], nn.Module], *, blocks: int = 3, project: bool = True
) -> nn.Sequential:
    """Bottlenecks that keep the size and the width of a map, their 3x3 convolutions dilated by 2 (section 3.2).

    Args:
        width: Channels of the map.
        middle: Channels of the 3x3 convolutions.
        norm: Normalisation by number of channels.
        blocks: How many.
        project: Give the first block's shortcut a 1x1 convolution (figure 2, B): a new stage, whose features mean
            something else, even though no shape asks for it.
    """
    stage = nn.Sequential()
    for index in range(blocks):
        shortcut = None
        if project and index == 0:
            shortcut = nn.Sequential(nn.Conv2d(width, width, 1, bias=False), norm(width))
        # torchvision's blocks give four times their planes, and count their middle in parts of 64.
        planes = width // Bottleneck.expansion
        block = Bottleneck(
            width, planes, downsample=shortcut, base_width=64 * middle // planes, dilation=2, norm_layer=norm
        )
        stage.append(block)
    for layer in stage.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return stage


class DetNet59(ResNet):
    """Image `[B, 3, H, W]` to five maps: C2, C3, and C4, C5, C6 of one size."""

    def __init__(
        self,
        *,
        trainable: int = 6,
        norm: Callable[[int], nn.Module] | None = None,
        project: bool = True,
    ) -> None:
        """Build with He's initial weights.

        Args:
            trainable: How many of conv1, layer1, ..., layer5 learn, counted from the end.
            norm: Normalisation by number of channels. Left out, it is batch normalisation that never moves.
            project: Whether the last stage begins with a projection (table 4: DetNet-59-NoProj).

        Raises:
            ValueError: `trainable` is not 0 to 6.
        """
        if not 0 <= trainable <= 6:
            raise ValueError(f"DetNet59: trainable counts conv1 and five stages, 0 to 6, got {trainable}")
        norm = norm or partial(FrozenBatchNorm, eps=1e-5)
        super().__init__(50, norm=norm)
        self.layer4 = dilated_stage(1024, 256, norm)
        self.layer5 = dilated_stage(1024, 256, norm, project=project)
        self.channels = (256, 512, 1024, 1024, 1024)
        self.strides = (4, 8, 16, 16, 16)
        parts = [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4], [self.layer5]]
        for part in parts[: 6 - trainable]:
            for module in part:
                module.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps `[B, C_i, H / s_i, W / s_i]`, rounded up, the finest first."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4, self.layer5):
            x = stage(x)
            maps.append(x)
        return maps


class SmallDetNet(SmallNet):
    """The zoo's small network with DetNet's last two stages."""

    def __init__(self, widths: tuple[int, ...] = (16, 24, 40, 64), middle: int = 32) -> None:
        """Build.

        Args:
            widths: As `SmallNet`; the last is that of the dilated stages, too.
            middle: Channels of the dilated convolutions.
        """
        super().__init__(widths)
        for _ in range(2):
            stage = dilated_stage(widths[-1], middle, nn.BatchNorm2d)
            for block in stage:
                assert isinstance(block, Bottleneck)
                # As the blocks before: the identity at first.
                nn.init.zeros_(block.bn3.weight)
            self.stages.append(stage)
            self.channels = (*self.channels, widths[-1])
            self.strides = (*self.strides, self.strides[-1])
