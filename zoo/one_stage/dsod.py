"""DSOD: Learning Deeply Supervised Object Detectors from Scratch. Zhiqiang Shen, Zhuang Liu, Jianguo Li, Yu-Gang Jiang,
Yurong Chen, Xiangyang Xue. ICCV 2017.

https://arxiv.org/abs/1708.01241

SSD without ImageNet: a dense network (every layer sees all layers before it), normalised everywhere, that is trained on
the detection losses from the first step. The maps of the pyramid are dense too: half of each is the pooled map before
it, half is new. All maps are L2-normalised, and the heads are convolutions without bias under batch normalisation.
Priors, matching, losses and inference are SSD's.

The tables of the paper and of those that cite it print 8,732 default boxes (`PRINTED_BOXES`), SSD300's number. The
released network has 8,744 (`BOXES`): its last map is 2x2 where SSD's is 1x1, since it halves 3x3 with rounding up.
Built here is the network.

Where paper and released code differ, this is the code. Otherwise than the code: as `ssd`; running statistics of
normalisation move by a tenth a step, not by a thousandth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from zoo.backbones import small
from zoo.backbones.dsod import DSODNet, numbered_layers
from zoo.one_stage import ssd
from zoo.one_stage.ssd import SSD
from zoo.parts.l2norm import L2Norm

__all__ = [
    "BOXES",
    "DSOD",
    "PRINTED_BOXES",
    "RECIPE",
    "SMALL",
    "SMALLEST",
    "SMALL_RECIPE",
    "NormedMaps",
    "dsod300",
    "head_names",
    "normed_head",
]

BOXES = 8_744
PRINTED_BOXES = 8_732
"""Default boxes of DSOD300: of the released network, and as the tables print them."""

RECIPE = replace(
    ssd.RECIPE,
    batch=128,
    steps=100_000,
    lr=0.1,
    bias_lr=1.0,
    milestones=(20_000, 40_000, 60_000, 80_000),
    source="section 4.1 and the released DSOD300_pascal.py, for VOC 2007 + 2012, from scratch",
)
SMALL_RECIPE = small.SMALL_RECIPE

SMALLEST: dict[str, Any] = {"growth": 16, "bottleneck": 64}
"""DS/64-64-16-1, the smallest network of the paper's table 2."""

SMALL: dict[str, Any] = {
    "size": 160,
    "stem": (8, 8, 16),
    "growth": 12,
    "bottleneck": 24,
    "layers": (1, 2, 4, 4),
    "side": 48,
    "downs": (48, 48, 48),
    "early_pool": False,
    **{name: ssd.SMALL[name] for name in ("percents", "ratios", "steps", "whole_pixels", "trains_on_ignored")},
}

_PERCENTS = {"voc": (10, 20, 37, 54, 71, 88, 105), "coco": (7, 15, 33, 51, 69, 87, 105)}


class DSOD(SSD):
    """SSD over a dense network.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input.
        stem: Channels of the stem's three convolutions (section 3.2).
        growth: Channels that a dense layer adds.
        bottleneck: Channels that it computes them from.
        layers: Of the four dense blocks.
        side: Channels of each half of the second map (section 3.3).
        downs: Channels of each half of the further maps.
        early_pool: Halve the map between the first two blocks; see `DSODNet`.
        arguments: Further ones of `SSD`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        size: int,
        stem: Sequence[int] = (64, 64, 128),
        growth: int = 48,
        bottleneck: int = 192,
        layers: Sequence[int] = (6, 8, 8, 8),
        side: int = 256,
        downs: Sequence[int] = (256, 128, 128, 128),
        early_pool: bool = True,
        **arguments: Any,
    ) -> None:
        net = DSODNet(stem, growth, bottleneck, layers, side, downs, early_pool=early_pool)
        neck = NormedMaps(net.channels)
        super().__init__(num_classes, size=size, backbone=net, neck=neck, head=normed_head, **arguments)

    def caffe_names(self) -> dict[str, str | tuple[str, ...]]:
        """Modules as the released models call them; see `zoo.formats.caffe`."""
        sources = ("First", "Second", "Third", "Fourth", "Fifth", "Sixth")
        # The last convolution of the second transition is the first source, and has its name.
        names = numbered_layers({"backbone": self.backbone}, {"backbone.transition2.conv": "First"})
        return names | head_names("neck", sources[: len(self.backbone.channels)])


class NormedMaps(nn.Module):
    """Every map L2-normalised, with learned scales from 20.

    Attributes:
        channels: Width of each map.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.norms = nn.ModuleList(L2Norm(width) for width in channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps, each as large as before."""
        return [norm(x) for norm, x in zip(self.norms, maps, strict=True)]


def normed_head(inputs: int, outputs: int, level: int) -> nn.Sequential:
    """A 3x3 convolution without bias and batch normalisation: the head of any level."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.normal_(conv.weight, std=0.01)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=1e-3))


def head_names(neck: str, sources: Sequence[str]) -> dict[str, str | tuple[str, ...]]:
    """Caffe's names of norms and heads over `sources`; `neck` is the name of the `NormedMaps`."""
    names: dict[str, str | tuple[str, ...]] = {}
    for level, source in enumerate(sources):
        names[f"{neck}.norms.{level}"] = f"{source}_norm"
        for ours, theirs in (("box_heads", "loc"), ("class_heads", "conf")):
            layer = f"{source}_norm_mbox_{theirs}"
            names[f"{ours}.{level}.0"] = layer
            names[f"{ours}.{level}.1"] = (f"{layer}_bn", f"{layer}_scale")
    return names


def dsod300(num_classes: int, *, size: int = 300, sizes: Literal["voc", "coco"] = "voc", **overrides: Any) -> DSOD:
    """DSOD300 DS/64-192-48-1: six levels, 8,744 priors (8,732 in the tables).

    Args:
        num_classes: Foreground classes.
        size: Side of the square input; at another than 300 the steps follow from the maps.
        sizes: Prior scales for VOC, or the smaller ones for COCO.
        overrides: Arguments of `DSOD`; `**SMALLEST` for the paper's smallest network.
    """
    paper = {
        "percents": _PERCENTS[sizes],
        "ratios": ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        "steps": (8, 16, 32, 64, 100, 300) if size == 300 else None,
    }
    return DSOD(num_classes, size=size, **{**paper, **overrides})
