from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ops.images import Batch, Frame
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, toy_images
from zoo import CATALOG, build
from zoo.backbones.caffe_resnet import Bottleneck
from zoo.one_stage import dssd
from zoo.one_stage.dssd import DSSD, dssd321_r101, dssd513_r101, ssd321_r101, ssd513_r101

Builder = Callable[..., DSSD]

# Parameters, 10^9 multiply-accumulates of 20 and of 80 classes, numbers in BatchNorm blobs.
PAPER: list[tuple[Builder, str, int, float, int, float, int]] = [
    (ssd321_r101, "script", 116_526_320, 35.925, 158_799_920, 61.099, 156_688),
    (ssd321_r101, "uniform", 116_526_320, 35.925, 158_799_920, 61.099, 156_688),
    (ssd321_r101, "paper", 109_972_720, 29.372, 136_517_680, 38.816, 156_688),
    (dssd321_r101, "script", 172_380_912, 53.879, 214_654_512, 79.052, 172_063),
    (dssd321_r101, "paper", 165_827_312, 47.326, 192_372_272, 56.770, 172_063),
    (ssd513_r101, "script", 120_303_544, 87.851, 173_145_304, 139.691, 169_496),
    (ssd513_r101, "uniform", 113_530_296, 91.752, 160_228_056, 156.175, 166_936),
    (ssd513_r101, "paper", 106_976_696, 74.975, 137_945_816, 99.132, 166_936),
    (dssd513_r101, "script", 231_633_336, 175.758, 254_983_896, 207.970, 199_736),
    (dssd513_r101, "uniform", 175_286_712, 137.643, 221_984_472, 202.066, 185_386),
    (dssd513_r101, "paper", 168_733_112, 120.866, 199_702_232, 145.024, 185_386),
]
SMALL = ["ssd321_r101", "dssd321_r101"]


def small(name: str, classes: int = 3, **overrides: object) -> DSSD:
    model = build(name, classes, small=True, **overrides)
    assert isinstance(model, DSSD)
    return model


def meta(builder: Builder, classes: int = 20, **overrides: object) -> DSSD:
    with torch.device("meta"):
        return builder(classes, **overrides).eval()


def light(builder: Builder, **overrides: object) -> DSSD:
    """The paper's priors without allocating the network."""
    real = DSSD._lay_priors

    def lay(self: DSSD, size: tuple[int, int]) -> Tensor:
        with torch.device("cpu"):
            return real(self, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DSSD, "_lay_priors", lay)
        return meta(builder, **overrides)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def randomise(module: nn.Module) -> None:
    """Every number of a module away from where it starts."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.5)
            part.running_mean.normal_(std=0.2)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        elif isinstance(part, nn.ConvTranspose2d):
            nn.init.normal_(part.bias)  # type: ignore[arg-type]


@pytest.mark.parametrize("row", PAPER, ids=lambda row: f"{row[0].__name__}-{row[1]}")
def test_paper_size(row: tuple[Builder, str, int, float, int, float, int]) -> None:
    builder, heads, *facts, statistics = row
    for classes, parameters, giga_macs in ((20, *facts[:2]), (80, *facts[2:])):
        if heads == "script":
            golden = CATALOG[builder.__name__].golden
            side, _ = CATALOG[builder.__name__].input_size
            assert golden.parameters[classes] == parameters
            assert golden.macs[(classes, side, side)] / 1e9 == pytest.approx(giga_macs, abs=6e-4)
            if classes == 80:
                continue  # The catalog's test counts these.
        model = meta(builder, classes, heads=heads)
        side = model.size[0]
        boxes = {321: 17_080, 513: 43_688}[side]
        batch = Batch(torch.zeros((1, 3, side, side), device="meta"), (Frame((side, side), (side, side), (1.0, 1.0)),))
        with FlopCounterMode(display=False) as counter:
            outputs = model.network(batch)
        assert count(model) == parameters
        assert counter.get_total_flops() / 2e9 == pytest.approx(giga_macs, abs=6e-4)
        norms = [module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        assert sum(2 * channels + 1 for channels in norms) == statistics
        assert model.num_boxes(model.size) == boxes == len(model.priors)
        assert outputs.offsets.shape == (1, boxes, 4)
        assert outputs.logits.shape == (1, boxes, 1 + classes)


def test_maps() -> None:
    for builder, sides in ((ssd321_r101, [40, 20, 10, 5, 3, 1]), (ssd513_r101, [64, 32, 16, 8, 4, 2, 1])):
        model = meta(builder)
        assert model.map_sizes(model.size) == [(side, side) for side in sides]
        maps = model.levels(torch.zeros((1, 3, *model.size), device="meta"))
        assert [tuple(x.shape[1:]) for x in maps] == [
            (width * 4, side, side) for width, side in zip(model.neck.narrow, sides, strict=True)
        ]
        assert [extra.channels for extra in model.extras] == [1024] * (len(sides) - 2)
    assert meta(ssd513_r101).neck.narrow == (128, 512, 256, 256, 256, 256, 256)
    conv = meta(ssd513_r101, 80).class_heads[1]
    assert count(conv) == 33_178_248, "the 5x5 predictor that sees 2048 channels"


def test_deconvolutions_of_the_scripts() -> None:
    for builder, wanted in (
        (dssd321_r101, [(2, 2), (2, 2), (2, 2), (3, 1), (3, 1)]),
        (dssd513_r101, [(2, 2), (2, 2), (2, 2), (2, 2), (2, 2), (2, 1)]),
    ):
        decoder = meta(builder).neck.decoder
        assert decoder is not None
        ups = [stage.up for stage in decoder.stages]
        assert [(up.kernel_size[0], up.stride[0]) for up in ups] == wanted
        assert {up.padding for up in ups} == {(0, 0)}
        assert [up.in_channels for up in ups] == [512] * (len(ups) - 1) + [1024]
        assert all(up.bias is not None for up in ups)


def test_priors() -> None:
    priors = light(ssd321_r101).priors
    sides = (priors[:, 2:] - priors[:, :2]).double()
    # 10 and 20 % of 321 are cut to 32 and 64 pixels, 92 and 110 % to 295 and 353.
    shapes = []
    for smallest, largest in ((32, 64), (295, 353)):
        sizes = [(smallest, smallest), (math.sqrt(smallest * largest),) * 2]
        for ratio in (1.6, 2, 3):
            sizes += [(smallest * ratio**0.5, smallest / ratio**0.5), (smallest / ratio**0.5, smallest * ratio**0.5)]
        shapes.append(torch.tensor(sizes, dtype=torch.float64))
    torch.testing.assert_close(sides[:8], shapes[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(sides[-8:], shapes[1], atol=1e-3, rtol=0)
    squares = sides[torch.tensor([0, 8 * 1600, 8 * 2000, 8 * 2100, 8 * 2125, 8 * 2134]), 0]
    torch.testing.assert_close(squares, torch.tensor([32, 64, 121, 179, 237, 295], dtype=torch.float64))
    centres = ((priors[:, :2] + priors[:, 2:]) / 2)[::8]
    assert centres[:2].tolist() == [[4, 4], [12, 4]]
    assert centres[40].tolist() == [4, 12]
    assert centres[1600:1602].tolist() == [[8, 8], [24, 8]]
    # 5x5 and 3x3 maps both step by 64.
    torch.testing.assert_close(centres[2124], torch.tensor([288.0, 288.0]))
    torch.testing.assert_close(centres[2133], torch.tensor([160.0, 160.0]))
    torch.testing.assert_close(centres[2134], torch.tensor([160.5, 160.5]))

    priors = light(dssd513_r101).priors
    sides = (priors[:, 2:] - priors[:, :2]).double()
    cells = torch.tensor([0, 4096, 1024, 256, 64, 16, 4]).cumsum(0)
    wanted = torch.tensor([20, 51, 138, 225, 312, 400, 487], dtype=torch.float64)
    torch.testing.assert_close(sides[8 * cells, 0], wanted, atol=1e-3, rtol=0)
    assert float(sides[-7, 0]) == pytest.approx(math.sqrt(487 * 574), abs=1e-3)


def test_starts() -> None:
    plain = light(ssd321_r101).priors
    moved = light(ssd321_r101, starts=(2.5, 2.5, 10.5, 26.5, 90.5, 160.5)).priors
    torch.testing.assert_close(moved[:, 2:] - moved[:, :2], plain[:, 2:] - plain[:, :2], atol=1e-4, rtol=0)
    centres = ((moved[:, :2] + moved[:, 2:]) / 2)[::8]
    rows = torch.tensor([0, 1, 40, 1600, 2000, 2100, 2125, 2126, 2134])
    wanted = [[2.5, 2.5], [10.5, 2.5], [2.5, 10.5], [2.5, 2.5], [10.5, 10.5], [26.5, 26.5], [90.5, 90.5]]
    wanted += [[154.5, 90.5], [160.5, 160.5]]
    torch.testing.assert_close(centres[rows], torch.tensor(wanted), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="6 levels need as many starts"):
        light(ssd321_r101, starts=(2.5, 2.5))


def normed(part: nn.Module, x: Tensor, **settings: int) -> Tensor:
    norm = part.norm
    x = F.conv2d(x, part.conv.weight, **settings)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-3)


def slow_module(block: Bottleneck, x: Tensor) -> Tensor:
    y = normed(block.branch2a, x).relu()
    y = normed(block.branch2b, y, padding=1).relu()
    short = x if isinstance(block.branch1, nn.Identity) else normed(block.branch1, x)
    return (normed(block.branch2c, y) + short).relu()


@pytest.mark.parametrize("combine", ["product", "sum"])
def test_decoder_is_the_scripts(combine: str) -> None:
    """From the coarsest map on: enlarge, smooth, join with the SSD's map; then the prediction module."""
    torch.manual_seed(0)
    model = small("dssd321_r101", combine=combine).eval()
    randomise(model)
    pixels = 40 * torch.randn(2, 3, 160, 160)
    decoder = model.neck.decoder
    assert decoder is not None
    with torch.no_grad():
        sources = list(model.backbone(pixels))
        for extra in model.extras:
            sources.append(extra(sources[-1]))
        assert [x.shape[-1] for x in sources] == [40, 20, 10, 5, 3]
        above = sources[-1]
        wanted = [above]
        for level in (3, 2, 1, 0):
            stage = decoder.stages[level]
            # 3 to 5 by a window of 3, then twice as large by windows of 2 that do not overlap.
            up = F.conv_transpose2d(above, stage.up.weight, stage.up.bias, stride=1 if level == 3 else 2)
            assert up.shape[-2:] == sources[level].shape[-2:]
            deep = normed(stage.after, up, padding=1)
            side = normed(stage.side2, normed(stage.side1, sources[level], padding=1).relu(), padding=1)
            above = (deep * side if combine == "product" else deep + side).relu()
            wanted.insert(0, above)
        wanted = [slow_module(block[0], x) for block, x in zip(model.neck.blocks, wanted, strict=True)]
        for found, expected in zip(model.levels(pixels), wanted, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
        outputs = model.network(Batch(pixels, (Frame((160, 160), (160, 160), (1.0, 1.0)),) * 2))
        logits = [
            F.conv2d(x, head.weight, head.bias, padding=1).permute(0, 2, 3, 1).reshape(2, -1, 4)
            for head, x in zip(model.class_heads, wanted, strict=True)
        ]
        torch.testing.assert_close(outputs.logits, torch.cat(logits, 1), atol=1e-2, rtol=1e-3)


def test_prediction_modules() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 40, 6, 6)
    models = {letter: small("ssd321_r101", module=letter).eval() for letter in "abcd"}
    blocks = {}
    for letter, model in models.items():
        randomise(model)
        blocks[letter] = model.neck.blocks[0]
        assert [head.in_channels for head in model.box_heads] == list(model.neck.channels)
    with torch.no_grad():
        assert blocks["a"](x) is x
        for letter, inner in (("b", 1), ("c", 1), ("d", 2)):
            wanted = x
            for block in blocks[letter]:
                wanted = slow_module(block, wanted)
            assert len(blocks[letter]) == inner
            torch.testing.assert_close(blocks[letter](x), wanted, atol=1e-4, rtol=1e-4)
    assert isinstance(blocks["b"][0].branch1, nn.Identity)
    assert blocks["b"](x).shape[1] == 40
    assert blocks["c"](x).shape[1] == blocks["d"](x).shape[1] == 48
    # The paper's plain SSD 321: 3x3 predictors right on the maps.
    plain = meta(ssd321_r101, module="a", heads="paper")
    channels = [512, 2048, 1024, 1024, 1024, 1024]
    assert list(plain.neck.channels) == channels
    assert count(plain.box_heads) == sum(9 * c * 32 + 32 for c in channels)
    assert count(plain.neck) == 0


def batch_of_two() -> tuple[list[Tensor], list[Target]]:
    target = Target(torch.tensor([[20.0, 30.0, 90.0, 100.0], [60.0, 20.0, 110.0, 60.0]]), torch.tensor([0, 1]))
    return toy_images(), [target, target]


def statistics(module: nn.Module) -> list[Tensor]:
    return [b.clone() for name, b in module.named_buffers() if "running" in name]


def test_first_stage_learns_decoder_and_heads_only() -> None:
    torch.manual_seed(0)
    model = small("dssd321_r101").train()
    model.freeze(1)
    resting = (model.backbone, model.extras)
    learning = (model.neck, model.box_heads, model.class_heads)
    before = [statistics(part) for part in (*resting, model.neck)]
    sum(model.train()(*batch_of_two()).values()).backward()
    for part in resting:
        assert all(p.grad is None and not p.requires_grad for p in part.parameters())
    for part in learning:
        assert all(p.grad is not None for p in part.parameters())
    after = [statistics(part) for part in (*resting, model.neck)]
    same = [
        all(torch.equal(a, b) for a, b in zip(old, new, strict=True)) for old, new in zip(before, after, strict=True)
    ]
    assert same == [True, True, False], "statistics of the SSD rest too"
    assert model.training
    assert not model.backbone.training


def test_second_stage_learns_all_but_norms() -> None:
    torch.manual_seed(0)
    model = small("dssd321_r101")
    model.freeze(2)
    before = statistics(model)
    sum(model.train()(*batch_of_two()).values()).backward()
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(model), strict=True))
    norms = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    for parameter in model.parameters():
        assert (parameter.grad is None) == (id(parameter) in norms)
    model.freeze(0)
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())
    with pytest.raises(ValueError, match="none"):
        small("ssd321_r101").freeze(1)


def test_a_frozen_model_can_be_copied() -> None:
    model = small("dssd321_r101")
    model.freeze(1)
    other = copy.deepcopy(model).train()
    assert not other.backbone.training
    assert other.neck.training
    other.backbone.train()
    assert not model.backbone.training


def test_decoder_starts_from_an_ssd() -> None:
    torch.manual_seed(0)
    trained, model = small("ssd321_r101").eval(), small("dssd321_r101").eval()
    randomise(trained)
    model.start_from(trained)
    pixels = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        theirs = trained.extras[0](trained.backbone(pixels)[-1])
        torch.testing.assert_close(model.extras[0](model.backbone(pixels)[-1]), theirs)
    with pytest.raises(RuntimeError):
        model.start_from(small("ssd321_r101", deepen=24))


def test_resize() -> None:
    plain = small("ssd321_r101").eval()
    plain.resize(192)
    assert plain.num_boxes((192, 192)) == len(plain.priors)
    with torch.no_grad():
        plain(toy_images())
    with pytest.raises(ValueError, match="deconvolutions fit"):
        small("dssd321_r101").resize(192)


@pytest.mark.parametrize("builder", [ssd321_r101, dssd321_r101, ssd513_r101, dssd513_r101])
def test_caffe_names(builder: Builder) -> None:
    model = meta(builder)
    names = model.caffe_names()
    filled = {name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))}
    assert set(names) == filled
    layers = [layer for row in names.values() for layer in ([row] if isinstance(row, str) else row)]
    assert len(layers) == len(set(layers))
    assert names["backbone.res4.22.branch2c.conv"] == "res4b22_branch2c"
    assert names["extras.0.branch1.conv"] == "res6_branch1"
    assert names["extras.3.branch2b.norm"] == ("bn9_branch2b", "scale9_branch2b")
    deepest = {321: ("neck.decoder.stages.4", "8", "9"), 513: ("neck.decoder.stages.5", "9", "10")}[model.size[0]]
    stage, number, last = deepest
    level = stage[-1]
    if builder in (ssd321_r101, ssd513_r101):
        width = 256 if builder is ssd321_r101 else 128
        block = f"res3b3_relu_inter{width}"
        assert names["neck.blocks.0.0.branch1.conv"] == f"res{block}_branch1"
        assert names["neck.blocks.0.0.branch2a.norm"] == (f"bn{block}_branch2a", f"scale{block}_branch2a")
        assert names["box_heads.0"] == f"res{block}_mbox_loc"
        assert names["class_heads.2"] == "resres6_relu_inter256_mbox_conf"
        return
    assert names[f"{stage}.up"] == f"deconv_{number}"
    assert names["neck.decoder.stages.0.up"] == "deconv_3"
    assert names["neck.decoder.stages.1.after.conv"] == "deconv_5_pre"
    assert names["neck.decoder.stages.1.after.norm"] == ("deconv_5_pre_bn", "deconv_5_pre_scale")
    assert names[f"{stage}.side2.norm"] == (f"res{number}_relu_pre2_bn", f"res{number}_relu_pre2_scale")
    assert names["neck.decoder.stages.1.side1.conv"] == "res5c_relu_pre1"
    block = "combined_3_EltwisePROD_relu_inter256"
    assert names["neck.blocks.0.0.branch2a.conv"] == f"res{block}_branch2a"
    final = f"resres{last}_relu_inter256_mbox_confnew"
    if builder is dssd321_r101:
        assert names["box_heads.0"] == f"res{block}_mbox_locnew"
        assert names[f"class_heads.{int(level) + 1}"] == final
    else:
        assert names["box_heads.0.predict"] == f"res{block}_mbox_locnew"
        assert names["box_heads.0.inter.conv"] == f"res{block}_mbox_locnew_inter"
        assert names[f"class_heads.{int(level) + 1}.inter.norm"] == (f"{final}_inter_bn", f"{final}_inter_scale")


def test_caffe_names_of_variants() -> None:
    summed = meta(dssd321_r101, combine="sum").caffe_names()
    assert summed["box_heads.1"] == "rescombined_5_EltwiseSUM_relu_inter256_mbox_locnew"
    assert meta(ssd321_r101, module="a").caffe_names()["box_heads.1"] == "res5c_relu_mbox_loc"
    with pytest.raises(ValueError, match="ResNet-101"):
        small("dssd321_r101").caffe_names()


def test_recipes() -> None:
    """The solvers of the released scripts."""
    facts = [(r.batch, r.steps, r.lr, r.milestones) for r in (dssd.RECIPE, dssd.RECIPE_513, dssd.DECODER_RECIPE)]
    assert facts == [
        (32, 80_000, 1e-3, (40_000, 60_000)),
        (40, 250_000, 1e-3, (130_000, 210_000)),
        (32, 30_000, 1e-3, (20_000,)),
    ]
    assert dssd.DECODER_RECIPE_513.rate(140_000) == pytest.approx(1e-5)
    assert dssd.DECODER_RECIPE_513.steps == 150_000
    assert dssd.FINETUNE_RECIPE.rate(0) == pytest.approx(1e-4)
    assert dssd.FINETUNE_RECIPE.steps == 40_000
    model = meta(ssd321_r101)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 1e-3)}
    assert model.trains_on_ignored
    assert not meta(ssd513_r101).trains_on_ignored


@pytest.mark.parametrize("settings", [{"heads": "5x5"}, {"narrow": (256, 256)}])
def test_refuses(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"heads must be|6 levels"):
        meta(ssd321_r101, **settings)


@pytest.mark.parametrize("name", SMALL)
def test_small_size_is_a_detector(name: str) -> None:
    torch.manual_seed(0)
    assert_is_detector(small(name))
    assert sum(v.numel() for v in small(name, 8).state_dict().values()) < 480_000


@pytest.mark.parametrize("name", SMALL)
def test_small_size_has_the_small_ssds_priors(name: str) -> None:
    model, plain = small(name), build("ssd300_vgg16", 3, small=True)
    assert torch.equal(model.priors, plain.priors)
    assert model.score_floor == plain.score_floor
    assert sum(p.numel() for p in model.backbone.parameters()) == sum(p.numel() for p in plain.backbone.parameters())


@pytest.mark.parametrize("size", [128, 192, 256])
def test_small_size_at_another_input(size: int) -> None:
    torch.manual_seed(0)
    model = small("dssd321_r101", size=size)
    assert [tuple(x.shape[-2:]) for x in model.levels(torch.zeros(2, 3, size, size))] == model.map_sizes((size, size))
    assert torch.isfinite(torch.stack(list(model(*batch_of_two()).values()))).all()


@pytest.mark.parametrize("name", SMALL)
def test_small_size_overfits(name: str) -> None:
    torch.manual_seed(0)
    assert_overfits(small(name, 2), steps=60)
