"""Light-Head R-CNN, from Zeming Li, Chao Peng, Gang Yu, Xiangyu Zhang, Yangdong Deng and Jian Sun, "Light-Head R-CNN:
In Defense of Two-Stage Object Detector" (2017, https://arxiv.org/abs/1711.07264).

A delta of R-FCN: its score maps grow with the number of classes, and its vote has no layer that learns. Here the
banks hold ten thin features instead of the classes, made by large separable convolutions (15x1 and 1x15, in both
orders, added), and one fully connected layer reads what a region pools from them.

Layers and constants are those of the release for ResNet-101 (zengarden/light_head_rcnn). Its boxes belong to classes;
the paper says that classes share one, which is `shared`. What we do otherwise: continuous boxes, and hard regions are
chosen image by image rather than over both images of a processor.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from ops.images import Batch
from ops.position_sensitive import ps_roi_pool
from ops.structures import Target
from zoo.backbones.resnet import ResNet
from zoo.detector import Recipe
from zoo.parts.frozen import FrozenNorm
from zoo.parts.roi_head import BoxPredictor, RoIHead
from zoo.subsample import ClassChannels
from zoo.two_stage import rfcn
from zoo.two_stage.fast_rcnn import TwoStageOutputs, flip_half
from zoo.two_stage.faster_rcnn import on_one_map
from zoo.two_stage.rfcn import RFCN, SMALL_RECIPE, Trunk

__all__ = ["RECIPE", "SMALL", "SMALL_RECIPE", "LightHeadRCNN", "ThinMaps", "light_head_rcnn_r101"]

RECIPE = Recipe(
    batch=16,
    steps=150_000,
    lr=0.01,
    momentum=0.9,
    weight_decay=1e-4,
    milestones=(95_000, 125_000),
    warmup=500,
    warmup_factor=1 / 3,
    augment=flip_half,
    source="light_head_rcnn, experiments/lizeming/light_head_rcnn.ori_res101.coco: COCO trainval35k",
)

SMALL: dict[str, Any] = {
    **{key: value for key, value in rfcn.SMALL.items() if key != "width"},
    "after_nms": (200, 100),
    "kernel": 7,
    "middle": 24,
    "head_width": 256,
}
"""For `shapes`: as R-FCN's, but for twice as many proposals in training; the kernel is a third of the map as well."""


class LightHeadRCNN(RFCN):
    """R-FCN with a thin bank of features and a head that learns."""

    def losses(self, outputs: TwoStageOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Of both stages; the boxes of the second count twice, as in the release.

        Raises:
            ValueError: The outputs come from a network that was not given the targets.
        """
        losses = super().losses(outputs, batch, targets)
        return {**losses, "boxes": 2 * losses["boxes"]}

    def class_channels(self) -> dict[str, ClassChannels]:
        """Where the classes lie: as in Fast R-CNN, but that boxes may have no class."""
        name = "roi_heads.box_predictor"
        parts = {f"{name}.cls_score.{part}": ClassChannels(leading=1) for part in ("weight", "bias")}
        predictor = self.roi_heads.box_predictor
        assert isinstance(predictor, BoxPredictor)
        if predictor.bbox_pred.out_features > 4:
            parts |= {f"{name}.bbox_pred.{part}": ClassChannels(leading=1, inner=4) for part in ("weight", "bias")}
        return parts


class ThinMaps(nn.Module):
    """A thin bank of features by large separable convolutions (section 3.2), pooled for each region.

    Attributes:
        stride: Of the maps.
        size: Cells along each side of a region.
    """

    def __init__(
        self,
        inputs: int,
        stride: int,
        *,
        kernel: int = 15,
        middle: int = 256,
        channels: int = 10,
        size: int = 7,
        init_std: float = 0.01,
    ) -> None:
        super().__init__()
        self.stride, self.size = stride, size
        outputs, half = channels * size**2, kernel // 2
        self.w_pre = nn.Conv2d(inputs, middle, (kernel, 1), padding=(half, 0))
        self.w = nn.Conv2d(middle, outputs, (1, kernel), padding=(0, half))
        self.h_pre = nn.Conv2d(inputs, middle, (1, kernel), padding=(0, half))
        self.h = nn.Conv2d(middle, outputs, (kernel, 1), padding=(half, 0))
        for layer in (self.w_pre, self.w, self.h_pre, self.h):
            nn.init.normal_(layer.weight, std=init_std)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def thin(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, channels * size * size, H, W]`."""
        return (self.w(self.w_pre(x)) + self.h(self.h_pre(x))).relu()

    def forward(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Features `[R, channels, size, size]` from the last of `maps`."""
        return ps_roi_pool(self.thin(maps[-1]), boxes, self.size, self.stride)


class _LastTwo(nn.Module):
    def __init__(self, body: ResNet) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.body(x)[-2:]


def _trunk() -> Trunk:
    body = ResNet(101, trainable=3, norm=FrozenNorm, dilated=(False, False, True))
    # torchvision's first block of a dilated stage still looks at neighbours; the release dilates all three.
    first = body.layer4[0].conv2
    first.dilation = first.padding = (2, 2)
    return Trunk(_LastTwo(body), body.channels[2], body.channels[3], body.strides[3])


def light_head_rcnn_r101(
    num_classes: int,
    *,
    backbone: Literal["resnet", "small"] = "resnet",
    widths: Sequence[int] = (16, 24, 48),
    kernel: int = 15,
    middle: int = 256,
    channels: int = 10,
    size: int = 7,
    init_std: float = 0.01,
    head_width: int = 2_048,
    shared: bool = False,
    hard: int | None = 256,
    samples: int = 256,
    nms: float = 0.3,
    score_floor: float = 0.0,
    limit: int = 100,
    std: float = 1.0,
    **changes: Any,
) -> LightHeadRCNN:
    """Light-Head R-CNN on ResNet-101, the paper's "L".

    Args:
        num_classes: Foreground classes.
        backbone: ResNet-101, whose last stage is dilated, or the zoo's small network.
        widths: Channels of the small network.
        kernel: Of the separable convolutions.
        middle: Channels between the two halves of each; 64 in the paper's "S".
        channels: Features of each cell of a region.
        size: Cells along each side of a region.
        init_std: Of the Gaussian that the thin maps start from.
        head_width: Channels of the fully connected layer.
        shared: One box for all classes, as the paper has it, instead of one each.
        hard: Regions an image of largest loss that are learned from; None: a sample of `samples`.
        samples: See `hard`.
        nms: Of two detections of one class that overlap by more, the lower-scoring goes; 0.5 is better on COCO.
        score_floor: A detection must score more than this.
        limit: Most detections an image.
        std: What colours, bytes less the mean, are divided by.
        changes: As `faster_rcnn.on_one_map`.
    """
    trunk = _trunk() if backbone == "resnet" else Trunk.small(widths)
    heads = RoIHead(
        ThinMaps(
            trunk.last, trunk.stride, kernel=kernel, middle=middle, channels=channels, size=size, init_std=init_std
        ),
        nn.Sequential(
            OrderedDict(flat=nn.Flatten(), ps_fc_1=nn.Linear(channels * size**2, head_width), relu=nn.ReLU())
        ),
        BoxPredictor(head_width, num_classes, shared=shared),
        hard=hard,
        samples=samples,
        nms=nms,
        score_floor=score_floor,
        limit=limit,
    )
    settings: dict[str, Any] = {
        "scales": (2.0, 4.0, 8.0, 16.0, 32.0),
        "before_nms": (12_000, 6_000),
        "after_nms": (2_000, 1_000),
        "min_side": 1e-3,
        "short": 800,
        "longest": 1_333,
        # The release takes the mean off bytes and then turns BGR to RGB.
        "caffe": False,
        "mean": tuple(value / 255 for value in (122.7717, 115.9465, 102.9801)),
        "std": (std / 255,) * 3,
    }
    return on_one_map(
        num_classes, trunk.module, trunk.first, trunk.stride, heads, kind=LightHeadRCNN, **{**settings, **changes}
    )
