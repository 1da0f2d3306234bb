"""DSSD: Deconvolutional Single Shot Detector. Cheng-Yang Fu, Wei Liu, Ananth Ranga, Ambrish Tyagi, Alexander C. Berg.
2017.

https://arxiv.org/abs/1701.06659

SSD on ResNet-101, with a residual block before each level's predictors (the prediction module), and with an hourglass'
second half: from the coarsest map on, a deconvolution enlarges what is known of the whole image, and its element-wise
product with SSD's own map of that size is what the predictors see. Small objects are told apart by their surroundings.
The decoder is learnt over an SSD that no longer moves.

The released scripts are followed where the paper is silent or says otherwise: 5x5 predictors on the two finest levels,
prior sizes cut to whole pixels, and in the 513 scripts other widths (`heads`). Otherwise than there: a prior's centre
is (i + 0.5) steps. The scripts pass first centres that are right as pixels (2.5, 2.5, 10.5, ...: the middles of what a
cell sees), but the released PriorBox layer multiplies them by the step; which of both the published models were
trained with is unknown. `starts` takes such pixels. Both factors of a product start about 1,
not about 0, or a decoder that is trained together with its SSD learns nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F

from ops.augment import ssd_augment
from zoo.backbones import small
from zoo.backbones.caffe_resnet import Bottleneck, CaffeResNet, conv_norm
from zoo.detector import Recipe
from zoo.one_stage import ssd
from zoo.one_stage.ssd import SSD, Extra, SmallSources
from zoo.parts.multibox import caffe_xavier

__all__ = [
    "DECODER_RECIPE",
    "DECODER_RECIPE_513",
    "DSSD",
    "FINETUNE_RECIPE",
    "RECIPE",
    "RECIPE_513",
    "SMALL",
    "SMALL_RECIPE",
    "SMALL_SSD",
    "dssd321_r101",
    "dssd513_r101",
    "ssd321_r101",
    "ssd513_r101",
]

RECIPE = Recipe(
    batch=32,
    steps=80_000,
    lr=1e-3,
    momentum=0.9,
    weight_decay=5e-4,
    bias_lr=2.0,
    milestones=(40_000, 60_000),
    augment=ssd_augment,
    source="the released ssd_pascal_resnet_321.py, for VOC 2007 + 2012, from ImageNet weights",
)
RECIPE_513 = replace(
    RECIPE,
    batch=40,
    steps=250_000,
    milestones=(130_000, 210_000),
    source="the released ssd_coco_resnet_513.py, from ImageNet weights",
)
DECODER_RECIPE = replace(
    RECIPE,
    steps=30_000,
    milestones=(20_000,),
    source="section 3.4, first stage, after `start_from` a trained SSD and `freeze(1)`; the released deconv_321.py",
)
DECODER_RECIPE_513 = replace(
    DECODER_RECIPE,
    steps=150_000,
    milestones=(80_000, 130_000),
    source="likewise; the released deconv_513.py",
)
FINETUNE_RECIPE = replace(
    RECIPE,
    lr=1e-4,
    steps=40_000,
    milestones=(20_000,),
    source="section 3.4, second stage, which did not help: after `freeze(2)`; the released deconv_ft_321.py",
)
SMALL_RECIPE = small.SMALL_RECIPE
"""Decoder and all are learnt from scratch in one stage: at the small size, there is no SSD to start from."""

SMALL_SSD: dict[str, Any] = {
    **ssd.SMALL,
    "heads": "paper",
    "narrow": 12,
    "norm_momentum": 0.1,
}
SMALL: dict[str, Any] = {**SMALL_SSD, "narrow": 6, "decoder": 24}

_R101_321: dict[str, Any] = {
    "extras": ((256, 1024, 2, 2), (256, 1024, 2, 2), (256, 1024, 3, 1), (256, 1024, 3, 1)),
    "percents": (10, 20, 38, 56, 74, 92, 110),
    "ratios": ((1.6, 2, 3),) * 6,
}
_R101_513: dict[str, Any] = {
    "extras": ((256, 1024, 2, 2),) * 5,
    "percents": (4, 10, 27, 44, 61, 78, 95, 112),
    "ratios": ((1.6, 2, 3),) * 7,
    "trains_on_ignored": False,
}
_STEPS_321 = (8, 16, 32, 64, 64, 321)
_STEPS_513 = (8, 16, 32, 64, 128, 256, 513)


class DSSD(SSD):
    """SSD with prediction modules and, where it has one, a decoder.

    Args:
        num_classes: Foreground classes.
        neck: Decoder and prediction modules.
        starts: Centre of each level's first prior in pixels of the input; None: the middle of the first cell.
        arguments: Of `SSD`.

    Raises:
        ValueError: `starts` fits another number of levels.
    """

    neck: Neck

    def __init__(
        self, num_classes: int, *, neck: Neck, starts: Sequence[float] | None = None, **arguments: Any
    ) -> None:
        super().__init__(num_classes, neck=neck, **arguments)
        self._still: list[nn.Module] = []
        if starts is not None:
            self._shift(starts)

    def _shift(self, starts: Sequence[float]) -> None:
        if len(starts) != len(self.shapes_per_cell):
            raise ValueError(f"DSSD: {len(self.shapes_per_cell)} levels need as many starts, got {len(starts)}")
        first = 0
        for start, (height, width), shapes in zip(starts, self.map_sizes(self.size), self.shapes_per_cell, strict=True):
            last = first + height * width * shapes
            # Every box of the first cell has its middle where the first box, a square, has it.
            self.priors[first:last] += start - (self.priors[first, 0] + self.priors[first, 2]) / 2
            first = last

    def resize(self, size: int | tuple[int, int]) -> None:
        """As `SSD.resize`, without a decoder.

        Raises:
            ValueError: There is a decoder: its deconvolutions fit the maps of one input only.
        """
        if self.neck.decoder is not None:
            raise ValueError(f"DSSD cannot change its input to {size}: its deconvolutions fit {self.size} only")
        super().resize(size)

    def start_from(self, trained: SSD) -> None:
        """Take backbone and extra levels from a trained SSD of the same size (section 3.4).

        Raises:
            RuntimeError: The layers differ.
        """
        self.backbone.load_state_dict(trained.backbone.state_dict())
        self.extras.load_state_dict(trained.extras.state_dict())

    def freeze(self, stage: Literal[0, 1, 2]) -> None:
        """Say what is learnt (section 3.4).

        Args:
            stage: 1: decoder and heads; the SSD under them rests, its norms' statistics too. 2: everything but the
                norms. 0: everything.

        Raises:
            ValueError: Stage 1 without a decoder.
        """
        if stage == 1 and self.neck.decoder is None:
            raise ValueError("DSSD: the first stage learns a decoder, and this model has none")
        self.requires_grad_(True)
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        still: dict[int, list[nn.Module]] = {0: [], 1: [self.backbone, self.extras], 2: [*norms]}
        self._still = still[stage]
        for module in self._still:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> DSSD:
        """As of any module; what is frozen keeps its statistics."""
        super().train(mode)
        for module in self._still:
            module.eval()
        return self

    def caffe_names(self) -> dict[str, str | tuple[str, ...]]:
        """Layers of the released files, by module.

        Raises:
            ValueError: The backbone is not that of the released models.
        """
        if not isinstance(self.backbone, CaffeResNet):
            raise ValueError("DSSD: the released models have ResNet-101 as their backbone, and this one has not")
        names = {f"backbone.{path}": layers for path, layers in self.backbone.caffe_names().items()}
        for row, extra in enumerate(self.extras):
            added = cast(Bottleneck, extra).caffe_names(str(6 + row))
            names |= {f"extras.{row}.{path}": layers for path, layers in added.items()}
        sources = ["res3b3_relu", "res5c_relu", *(f"res{6 + row}_relu" for row in range(len(self.extras)))]
        added, sources = self.neck.caffe_names(sources)
        names |= {f"neck.{path}": layers for path, layers in added.items()}
        suffix = "" if self.neck.decoder is None else "new"
        for kind, path, heads in (("loc", "box_heads", self.box_heads), ("conf", "class_heads", self.class_heads)):
            for level, (source, head) in enumerate(zip(sources, heads, strict=True)):
                layer = f"{source}_mbox_{kind}{suffix}"
                if isinstance(head, nn.Conv2d):
                    names[f"{path}.{level}"] = layer
                else:
                    names[f"{path}.{level}.inter.conv"] = f"{layer}_inter"
                    names[f"{path}.{level}.inter.norm"] = (f"{layer}_inter_bn", f"{layer}_inter_scale")
                    names[f"{path}.{level}.predict"] = layer
        return names


class Deconvolution(nn.Module):
    """Join a coarse map, enlarged, to the finer one of the SSD (figure 3).

    Args:
        coarse: Channels of the coarse map.
        fine: Channels of the SSD's map.
        width: Channels that go out.
        sides: Sides of both maps, the coarse one's first.
        combine: Element-wise product, or sum (table 4).
        norm: Normalisation by number of channels.
    """

    def __init__(
        self,
        coarse: int,
        fine: int,
        width: int,
        sides: tuple[int, int],
        combine: Literal["product", "sum"],
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        # The paper's 2x2 at stride 2 wherever the side doubles; unpadded windows at stride 1 where it grows by less.
        kernel = sides[1] - 2 * (sides[0] - 1)
        stride = 2 if kernel >= 2 and sides[0] > 1 else 1
        kernel = kernel if stride == 2 else sides[1] - sides[0] + 1
        self.combine = combine
        self.up = nn.ConvTranspose2d(coarse, width, kernel, stride)
        nn.init.kaiming_uniform_(self.up.weight, nonlinearity="linear")
        nn.init.zeros_(self.up.bias)  # type: ignore[arg-type]
        self.after = conv_norm(width, width, 3, padding=1, norm=norm)
        self.side1 = conv_norm(fine, width, 3, padding=1, norm=norm)
        self.side2 = conv_norm(width, width, 3, padding=1, norm=norm)
        if combine == "product":
            # About 0, each factor would cut the other off from its gradient, through a chain of such products.
            for factor in (self.after, self.side2):
                nn.init.ones_(factor.norm.bias)  # type: ignore[union-attr, arg-type]

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Both maps to `[B, width, H, W]` of the finer one's size, activated."""
        above = self.after(self.up(coarse))
        side = self.side2(F.relu(self.side1(fine), inplace=True))
        return F.relu(above * side if self.combine == "product" else above + side, inplace=True)


class Decoder(nn.Module):
    """Deconvolutions from the coarsest map, which stays as it is, down to the finest.

    Args:
        channels: Of the SSD's maps, the finest first.
        sides: Of the same maps.
        width: Channels of every decoded map.
        combine: See `Deconvolution`.
        norm: Normalisation by number of channels.

    Attributes:
        channels: Of the maps that come out.
    """

    def __init__(
        self,
        channels: Sequence[int],
        sides: Sequence[int],
        width: int,
        combine: Literal["product", "sum"],
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.channels = (*(width for _ in channels[:-1]), channels[-1])
        self.stages = nn.ModuleList(
            Deconvolution(above, fine, width, (sides[level + 1], sides[level]), combine, norm)
            for level, (above, fine) in enumerate(zip(self.channels[1:], channels[:-1], strict=True))
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """As many maps of the same sizes, the finest first."""
        decoded = [maps[-1]]
        for stage, fine in zip(reversed(self.stages), reversed(maps[:-1]), strict=True):
            decoded.append(stage(decoded[-1], fine))
        return decoded[::-1]


class Neck(nn.Module):
    """A decoder, or none, and each level's prediction module.

    Args:
        decoder: From the SSD's maps to as many others.
        channels: Of the maps that the prediction modules take.
        narrow: Inner width of each one's bottleneck; four times that goes out.
        module: The prediction module by its letter in figure 2: (a) none, (b) a residual block around the map as it
            is, (c) one that projects it, (d) two of these.
        norm: Normalisation by number of channels.

    Attributes:
        channels: Of the maps that come out.
    """

    def __init__(
        self,
        decoder: Decoder | None,
        channels: Sequence[int],
        narrow: Sequence[int],
        module: Literal["a", "b", "c", "d"],
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.narrow = tuple(narrow)
        blocks: list[nn.Module] = []
        for inputs, width in zip(channels, narrow, strict=True):
            if module == "a":
                blocks.append(nn.Identity())
            elif module == "b":
                blocks.append(nn.Sequential(Bottleneck(inputs, width, inputs, norm=norm)))
            else:
                first = Bottleneck(inputs, width, 4 * width, project=True, norm=norm)
                others = [Bottleneck(4 * width, width, 4 * width, project=True, norm=norm)] if module == "d" else []
                blocks.append(nn.Sequential(first, *others))
        self.blocks = nn.ModuleList(blocks)
        self.channels = tuple(channels) if module in "ab" else tuple(4 * width for width in narrow)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One map a level, in the sizes of the SSD's."""
        maps = maps if self.decoder is None else self.decoder(maps)
        return [block(x) for block, x in zip(self.blocks, maps, strict=True)]

    def caffe_names(self, sources: Sequence[str]) -> tuple[dict[str, str | tuple[str, ...]], list[str]]:
        """Layers of the released files by module, and what the heads' names begin with, for maps called `sources`."""
        names: dict[str, str | tuple[str, ...]] = {}
        outputs = list(sources)
        if self.decoder is not None:
            for level, stage in enumerate(self.decoder.stages):
                number = level + 4 if level else 3
                parts = {
                    "after": f"deconv_{number}_pre",
                    "side1": f"{sources[level]}_pre1",
                    "side2": f"{sources[level]}_pre2",
                }
                names[f"decoder.stages.{level}.up"] = f"deconv_{number}"
                for part, name in parts.items():
                    names[f"decoder.stages.{level}.{part}.conv"] = name
                    names[f"decoder.stages.{level}.{part}.norm"] = (f"{name}_bn", f"{name}_scale")
                method = "PROD" if cast(Deconvolution, stage).combine == "product" else "SUM"
                outputs[level] = f"combined_{number}_Eltwise{method}_relu"
        for level, (block, width) in enumerate(zip(self.blocks, self.narrow, strict=True)):
            if isinstance(block, nn.Identity):
                continue
            inter = outputs[level]
            for row, residual in enumerate(cast(nn.Sequential, block)):
                inter += f"_inter{width}"
                for path, layers in cast(Bottleneck, residual).caffe_names(inter).items():
                    names[f"blocks.{level}.{row}.{path}"] = layers
            outputs[level] = f"res{inter}"
        return names, outputs


def assemble(
    num_classes: int,
    *,
    size: int,
    extras: Sequence[Sequence[int]],
    backbone: Literal["resnet101", "small"] = "resnet101",
    deepen: int | None = None,
    module: Literal["a", "b", "c", "d"] = "c",
    narrow: int | Sequence[int] = 256,
    decoder: int | None = None,
    combine: Literal["product", "sum"] = "product",
    wide: int = 2,
    inter: int | None = None,
    norm_momentum: float = 0.001,
    **arguments: Any,
) -> DSSD:
    """DSSD from numbers and names, as a checkpoint can state them.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input.
        extras: Levels behind ResNet-101, each `(narrow, channels, kernel, stride)`: see `Bottleneck`; behind the small
            backbone, those of SSD.
        backbone: ResNet-101 whose res5 is dilated (section 3.1), or the small one that small sizes share.
        deepen: Channels of one more convolution on the small backbone's finest map; None leaves it out.
        module: See `Neck`.
        narrow: Inner width of the prediction modules, of all or of each.
        decoder: Channels of the decoder; None leaves it out.
        combine: See `Deconvolution`.
        wide: On so many levels, the finest ones, predictors are 5x5 instead of 3x3.
        inter: Channels of one more 3x3 convolution in front of every predictor; None leaves it out.
        norm_momentum: Share of a batch in the norms' moving statistics.
        arguments: Further ones of `DSSD` and `SSD`.

    Raises:
        ValueError: `narrow` fits another number of levels.
    """
    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=norm_momentum)
    body: Any
    levels: list[Any] = []
    if backbone == "small":
        body = SmallSources(deepen)
        maps = [(-(-size // stride), -(-size // stride)) for stride in body.strides]
    else:
        body = CaffeResNet(("res3", "res5"), dilated=True, norm=norm)
        maps = body.map_sizes((size, size))
    channels = list(body.channels)
    for extra in extras:
        if backbone == "small":
            levels.append(Extra(channels[-1], *extra))
        else:
            first, width, kernel, stride = extra
            levels.append(Bottleneck(channels[-1], first, width, kernel=kernel, stride=stride, project=True, norm=norm))
        channels.append(levels[-1].channels)
        maps.append(levels[-1].map_size(maps[-1]))
    widths = [narrow] * len(channels) if isinstance(narrow, int) else list(narrow)
    if len(widths) != len(channels):
        raise ValueError(f"DSSD: {len(channels)} levels need as many widths of prediction modules, got {len(widths)}")
    decode = None if decoder is None else Decoder(channels, [side for side, _ in maps], decoder, combine, norm)
    neck = Neck(decode, channels if decode is None else decode.channels, widths, module, norm)

    def head(inputs: int, outputs: int, level: int) -> nn.Module:
        kernel = 5 if level < wide else 3
        predict = caffe_xavier(nn.Conv2d(inter or inputs, outputs, kernel, padding=kernel // 2))
        if inter is None:
            return predict
        before = conv_norm(inputs, inter, 3, padding=1, norm=norm)
        return nn.Sequential(OrderedDict(inter=before, relu=nn.ReLU(inplace=True), predict=predict))

    return DSSD(num_classes, size=size, backbone=body, extras=levels, neck=neck, head=head, **arguments)


Heads = Literal["script", "uniform", "paper"]
"""What predicts: as in the released script of that very network; prediction modules of 256 channels on all levels, with
5x5 predictors on the two finest; the same with 3x3 throughout, as the paper has it."""


def _heads(heads: Heads, **script: Any) -> dict[str, Any]:
    kinds: dict[str, dict[str, Any]] = {"script": script, "uniform": {}, "paper": {"wide": 0}}
    if heads not in kinds:
        raise ValueError(f"heads must be one of {', '.join(kinds)}, got {heads!r}")
    return kinds[heads]


def ssd321_r101(num_classes: int, *, size: int = 321, heads: Heads = "script", **overrides: Any) -> DSSD:
    """SSD 321: ResNet-101 and prediction modules, six levels, 17,080 priors. With `module="a"`, the paper's plain one.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input; at another than 321 the steps follow from the maps.
        heads: See `Heads`.
        overrides: Arguments of `assemble`.
    """
    paper = {**_R101_321, **_heads(heads), "steps": _STEPS_321 if size == 321 else None}
    return assemble(num_classes, size=size, **{**paper, **overrides})


def ssd513_r101(num_classes: int, *, size: int = 513, heads: Heads = "script", **overrides: Any) -> DSSD:
    """SSD 513: seven levels, 43,688 priors, whose scales are those for COCO.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input; at another than 513 the steps follow from the maps.
        heads: See `Heads`; the script has other widths on the two finest levels.
        overrides: Arguments of `assemble`.
    """
    kind = _heads(heads, narrow=(128, 512, 256, 256, 256, 256, 256))
    paper = {**_R101_513, **kind, "steps": _STEPS_513 if size == 513 else None}
    return assemble(num_classes, size=size, **{**paper, **overrides})


def dssd321_r101(num_classes: int, *, size: int = 321, heads: Heads = "script", **overrides: Any) -> DSSD:
    """DSSD 321: SSD 321 with a decoder of five deconvolutions.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input; at another than 321 steps and deconvolutions follow from the maps.
        heads: See `Heads`.
        overrides: Arguments of `assemble`.
    """
    return ssd321_r101(num_classes, size=size, heads=heads, **{"decoder": 512, **overrides})


def dssd513_r101(num_classes: int, *, size: int = 513, heads: Heads = "script", **overrides: Any) -> DSSD:
    """DSSD 513: SSD 513 with a decoder of six deconvolutions.

    Args:
        num_classes: Foreground classes.
        size: Side of the square input; at another than 513 steps and deconvolutions follow from the maps.
        heads: See `Heads`; the script has one more convolution in front of every predictor.
        overrides: Arguments of `assemble`.
    """
    paper = {"decoder": 512, "narrow": 256, **_heads(heads, inter=512)}
    return ssd513_r101(num_classes, size=size, heads="uniform", **{**paper, **overrides})
