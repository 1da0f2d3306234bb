from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ops.images import Batch, Frame
from tests.caffe_files import field, layer, message, write_caffemodel
from tests.contract import assert_is_detector, assert_overfits, empty_target, toy_images
from zoo import CATALOG, build
from zoo.backbones.dsod import DownBlock, bn_relu_conv, conv_bn_relu
from zoo.formats.caffe import load_caffe
from zoo.one_stage import ssd
from zoo.one_stage.dsod import BOXES, DSOD, PRINTED_BOXES, SMALLEST, dsod300
from zoo.one_stage.grp_dsod import GRPDSOD, GatedPyramid, grp_dsod320
from zoo.parts.l2norm import L2Norm

PAPER: list[tuple[Callable[..., ssd.SSD], int, dict[str, Any], int, int, float | None]] = [
    (dsod300, 20, {}, 14_715_804, 14_795_828, 15.080),
    (dsod300, 80, {"sizes": "coco"}, 21_700_524, 21_784_148, 18.368),
    (dsod300, 20, SMALLEST, 5_833_372, 5_872_372, None),
    (grp_dsod320, 20, {}, 15_928_690, 15_955_327, 19.278),
    (grp_dsod320, 80, {}, 27_159_490, 27_191_407, 28.498),
]
MAPS = {
    "dsod300": [(800, 38), (512, 19), (512, 10), (256, 5), (256, 3), (256, 2)],
    "grp_dsod320": [(1184, 40), (513, 20), (258, 10), (258, 5), (258, 3), (256, 2)],
}
COUNTS = {"dsod300": [5776, 2166, 600, 150, 36, 16], "grp_dsod320": [12800, 3200, 800, 200, 54, 24]}


def batch_of(side: int, images: int = 1) -> Batch:
    return Batch(torch.zeros(images, 3, side, side), (Frame((side, side), (side, side), (1.0, 1.0)),) * images)


def small(name: str = "dsod300", classes: int = 3, **overrides: object) -> ssd.SSD:
    model = build(name, classes, small=True, **overrides)
    assert isinstance(model, DSOD | GRPDSOD)
    return model


@pytest.mark.parametrize(("builder", "classes", "overrides", "parameters", "floats", "giga_macs"), PAPER)
def test_paper_size(
    builder: Callable[..., ssd.SSD],
    classes: int,
    overrides: dict[str, Any],
    parameters: int,
    floats: int,
    giga_macs: float | None,
) -> None:
    name = builder.__name__
    with torch.device("meta"):
        model = builder(classes, **overrides).eval()
        batch = batch_of(model.size[0])
        with FlopCounterMode(display=False) as counter:
            outputs = model.network(batch)
        maps = model.levels(batch.pixels)
    assert sum(p.numel() for p in model.parameters()) == parameters
    statistics = sum(2 * m.num_features + 1 for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert parameters + statistics == floats, "what the caffemodel holds"
    if giga_macs is not None:
        assert counter.get_total_flops() / 2e9 == pytest.approx(giga_macs, abs=5e-4)
    if not overrides or "sizes" in overrides:
        assert [(m.shape[1], m.shape[2]) for m in maps] == MAPS[name]
    assert [m.shape[2] for m in maps] == [height for height, _ in model.map_sizes(model.size)]
    assert [a * m.shape[2] ** 2 for a, m in zip(model.shapes_per_cell, maps, strict=True)] == COUNTS[name]
    boxes = sum(COUNTS[name])
    assert model.num_boxes(model.size) == len(model.priors) == outputs.offsets.shape[1] == boxes
    assert outputs.logits.shape == (1, boxes, 1 + classes)
    assert not any(m.bias is not None for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))


def test_printed_and_built() -> None:
    assert (BOXES, PRINTED_BOXES) == (8744, 8732)
    assert sum(COUNTS["dsod300"]) == BOXES
    # SSD300's last map is 1x1, DSOD300's 2x2: three more cells of four priors.
    assert BOXES - PRINTED_BOXES == 3 * 4


def test_golden_facts_stand_in_the_catalog() -> None:
    for builder, classes, overrides, parameters, _, giga_macs in PAPER:
        if overrides is SMALLEST:
            continue
        spec = CATALOG[builder.__name__]
        assert spec.golden.parameters[classes] == parameters
        assert spec.golden.boxes[spec.input_size] == sum(COUNTS[spec.name])
        assert spec.golden.macs[(classes, *spec.input_size)] / 1e9 == pytest.approx(giga_macs, abs=5e-4)


def test_frozen_deconvolutions_of_grp_dsod() -> None:
    with torch.device("meta"):
        model = grp_dsod320(20)
    still = {name: p.numel() for name, p in model.named_parameters() if not p.requires_grad}
    assert sum(still.values()) == 388_728
    assert set(still) == {f"neck.ups.{level}.deconv.weight" for level in range(5)}
    assert [model.get_parameter(name).shape[-1] for name in sorted(still)] == [2, 2, 2, 1, 1]
    for level in range(4):
        weight = small("grp_dsod320").get_parameter(f"neck.ups.{level}.deconv.weight")
        # Caffe's bilinear filler at these sizes is one pixel, for each pair of channels.
        wanted = torch.zeros_like(weight)
        wanted[..., 0, 0] = 1
        torch.testing.assert_close(weight, wanted)


def test_priors() -> None:
    with torch.device("meta"):
        shell = dsod300(1)
    assert shell.shapes_per_cell == (4, 6, 6, 6, 4, 4)
    # The same priors as SSD300 up to the last level, whose cells lie 300 pixels apart.
    ours, theirs = light(dsod300), light(ssd.ssd300_vgg16)
    assert torch.equal(ours[: PRINTED_BOXES - 4], theirs[: PRINTED_BOXES - 4])
    centres = (ours[-16:, :2] + ours[-16:, 2:]) / 2
    assert centres[::4].tolist() == [[150, 150], [450, 150], [150, 450], [450, 450]]
    torch.testing.assert_close(ours[-4:] - 300, theirs[-4:])

    grp = light(grp_dsod320)
    sides = grp[:, 2:] - grp[:, :2]
    first = [(32, 32), (45.2548, 45.2548), (40.4772, 25.2982), (25.2982, 40.4772), (45.2548, 22.6274)]
    torch.testing.assert_close(sides[:5], torch.tensor(first), atol=1e-3, rtol=0)
    starts = torch.tensor([0, *COUNTS["grp_dsod320"]]).cumsum(0)[:-1]
    assert sides[starts, 0].round().tolist() == [32, 64, 118, 172, 227, 281]
    assert (grp[0, :2] + sides[0] / 2).tolist() == [4, 4]
    assert (grp[-1, :2] + sides[-1] / 2).tolist() == [480, 480]


def light(builder: Callable[..., ssd.SSD]) -> Tensor:
    """Priors of the paper's size; the weights beside them go at once."""
    return builder(1).priors


def test_units_and_down_blocks() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 7)
    before, behind = bn_relu_conv(6, 4, 3).eval(), conv_bn_relu(6, 4, 3).eval()
    for unit in (before, behind):
        for parameter in unit.bn.parameters():
            nn.init.uniform_(parameter, 0.5, 2)
        nn.init.uniform_(unit.bn.running_mean, -1, 1)
        nn.init.uniform_(unit.bn.running_var, 0.5, 2)

    def normed(bn: nn.BatchNorm2d, value: Tensor, eps: float) -> Tensor:
        scale = bn.weight / (bn.running_var + eps).sqrt()
        return (value - bn.running_mean[:, None, None]) * scale[:, None, None] + bn.bias[:, None, None]

    with torch.no_grad():
        wanted = F.conv2d(normed(before.bn, x, 1e-5).relu(), before.conv.weight, padding=1)
        torch.testing.assert_close(before(x), wanted, atol=1e-5, rtol=1e-5)
        wanted = normed(behind.bn, F.conv2d(x, behind.conv.weight, padding=1), 1e-4).relu()
        torch.testing.assert_close(behind(x), wanted, atol=1e-5, rtol=1e-5)

        block = DownBlock(6, 3, bn_relu_conv).eval()
        out = block(x)
        pooled = F.max_pool2d(x, 2, 2, ceil_mode=True)
        assert out.shape == (2, 6, 3, 4)
        torch.testing.assert_close(out[:, :3], block.reused[1](pooled))
        torch.testing.assert_close(out[:, 3:], block.learned(x))


def test_what_each_map_of_dsod_is_made_of() -> None:
    torch.manual_seed(0)
    net = small().backbone.eval()
    x = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        maps = net(x)
        halved = F.max_pool2d(maps[0], 2, 2, ceil_mode=True)
        side = net.side(halved)
    width = side.shape[1]
    torch.testing.assert_close(maps[1][:, width:], side)
    assert (maps[0] < 0).any(), "a source is a raw convolution's output: no ReLU behind it"
    # In a dense block the input comes first, unchanged.
    inputs = torch.randn(1, net.block3[0].narrow.bn.num_features, 8, 8)
    kept = inputs.clone()
    with torch.no_grad():
        torch.testing.assert_close(net.block3(inputs)[:, : inputs.shape[1]], kept)


def test_every_map_is_normalised() -> None:
    torch.manual_seed(0)
    for name in ("dsod300", "grp_dsod320"):
        model = small(name).eval()
        with torch.no_grad():
            for x in model.levels(torch.randn(1, 3, 160, 160)):
                torch.testing.assert_close(x.norm(dim=1), torch.full_like(x[:, 0], 20))
        assert sum(isinstance(m, L2Norm) for m in model.modules()) == 5
        for head in (*model.box_heads, *model.class_heads):
            conv, norm = head
            assert conv.bias is None
            assert (conv.kernel_size, norm.eps) == ((3, 3), 1e-3)


def test_pyramid_and_gates() -> None:
    torch.manual_seed(0)
    pyramid = GatedPyramid([32, 40, 48], [16, 24], [2, 1]).eval()
    assert pyramid.channels == [48, 64, 48]
    maps = [torch.randn(2, c, side, side) for c, side in ((32, 10), (40, 5), (48, 3))]
    with torch.no_grad():
        for up in pyramid.ups:
            nn.init.uniform_(up.bn.weight, -2, 2)
        out = pyramid(maps)
        for level, (given, seen) in enumerate(zip(maps, out, strict=True)):
            x = given
            if level < 2:
                coarse = maps[level + 1].sum(1, keepdim=True)
                enlarged = torch.zeros(2, 1, *given.shape[-2:])
                enlarged[..., ::2, ::2] = coarse
                bn = pyramid.ups[level].bn
                up = (enlarged * (bn.weight / (1 + 1e-4) ** 0.5)[:, None, None]).relu()
                x = torch.cat([up, given], 1)
            gate = pyramid.gates[level]
            known = F.linear(x.mean((2, 3)), gate.shared.weight, gate.shared.bias).relu()
            assert known.shape == (2, x.shape[1] // 16)
            channel = torch.sigmoid(known @ gate.channel.weight.T + gate.channel.bias)
            whole = torch.sigmoid(known @ gate.whole.weight.T + gate.whole.bias)
            x = x + whole[..., None, None] * (channel[..., None, None] * x).relu()
            torch.testing.assert_close(seen, 20 * F.normalize(x, dim=1), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="3 maps need 2"):
        GatedPyramid([32, 40, 48], [16], [2])


def test_other_inputs() -> None:
    model = small()
    model.resize(200)
    outputs = model.network(model.preprocess(toy_images()))
    assert outputs.offsets.shape[1] == len(model.priors) == model.num_boxes((200, 200))
    gated = small("grp_dsod320")
    # 160 gives 40, 20, 10, 5, 3; 288 gives 72, 36, 18, 9, 5.
    gated.resize(288)
    assert gated.network(gated.preprocess(toy_images())).offsets.shape[1] == len(gated.priors)
    with pytest.raises(ValueError, match="odd at other levels"):
        gated.resize(256)
    with pytest.raises(ValueError, match="odd one way only"):
        gated.resize((160, 256))


def test_names_in_caffe() -> None:
    with torch.device("meta"):
        plain, gated = dsod300(20), grp_dsod320(20)
    for model in (plain, gated):
        names = model.caffe_names()
        modules = dict(model.named_modules())
        assert set(names) == {name for name, m in modules.items() if list(m.parameters(recurse=False))}
        layers = [layer for entry in names.values() for layer in ((entry,) if isinstance(entry, str) else entry)]
        assert len(set(layers)) == len(layers)
        convolutions = [name for name in layers if name.startswith("Convolution")]
        assert sorted(convolutions) == sorted(f"Convolution{n + 1}" for n in range(len(convolutions)))
        backbone = sum(isinstance(m, nn.Conv2d) for m in model.backbone.modules())
        assert len(convolutions) == backbone - (model is plain)
        assert sum(name.startswith("BatchNorm") for name in layers) == sum(
            isinstance(m, nn.BatchNorm2d) for m in (*model.backbone.modules(), *model.neck.modules())
        )
    names = plain.caffe_names()
    # Counted by hand: 3 of the stem, 12 of the first block, then the first transition.
    assert names["backbone.stem.0.conv"] == "Convolution1"
    assert names["backbone.block1.0.narrow.conv"] == "Convolution4"
    assert names["backbone.transition1.conv"] == "Convolution16"
    # The second transition is the source itself and takes no number of its own; its norm does: 3 + 12 + 1 + 16 + 1.
    assert names["backbone.block2.7.wide.conv"] == "Convolution32"
    assert names["backbone.transition2.conv"] == "First"
    assert names["backbone.transition2.bn"] == ("BatchNorm33", "Scale33")
    assert names["backbone.block3.0.narrow.conv"] == "Convolution33"
    assert names["backbone.block3.0.narrow.bn"] == ("BatchNorm34", "Scale34")
    # 32 before the third block, then 16 of it, a transition, 16 of the fourth, a transition. Down blocks reuse first.
    assert names["backbone.side.conv"] == "Convolution67"
    assert names["backbone.downs.0.reused.1.conv"] == "Convolution68"
    assert names["backbone.downs.0.learned.0.conv"] == "Convolution69"
    assert names["neck.norms.0"] == "First_norm"
    assert names["box_heads.5.0"] == "Sixth_norm_mbox_loc"
    assert names["class_heads.2.1"] == ("Third_norm_mbox_conf_bn", "Third_norm_mbox_conf_scale")
    names = gated.caffe_names()
    assert names["backbone.from_stem.conv"] == "Convolution34"
    assert names["neck.ups.4.deconv"] == "Deconvolution5"
    assert names["neck.gates.0.shared"] == "Recurrent1_fc"
    assert names["neck.gates.5.whole"] == "InnerProduct12"
    assert names["box_heads.1.0"] == "Recurrent2_gate_norm_mbox_loc"


def as_caffe(model: ssd.SSD) -> list[bytes]:
    """The layers of a file that holds the model."""
    modules = dict(model.named_modules())
    layers = []
    for name, names in model.caffe_names().items():
        module = modules[name]
        blobs = [p.detach().numpy() for p in module.parameters(recurse=False)]
        if isinstance(module, nn.BatchNorm2d):
            statistics = [999 * module.running_mean.numpy(), 999 * module.running_var.numpy(), np.float32([999])]
            eps = field(139, field(3, module.eps))
            layers.append(layer(names[0], "BatchNorm", blobs=statistics, settings=eps))
            layers.append(layer(names[1], "Scale", blobs=blobs))
            continue
        kinds = {nn.Conv2d: "Convolution", nn.ConvTranspose2d: "Deconvolution", nn.Linear: "InnerProduct"}
        kind = kinds.get(type(module), "Normalize")
        settings = field(206, message((1, 0), (3, 0))) if kind == "Normalize" else b""
        assert isinstance(names, str)
        layers.append(layer(names, kind, blobs=blobs, settings=settings))
    return layers


@pytest.mark.parametrize("name", ["dsod300", "grp_dsod320"])
def test_a_caffemodel_fills_the_network(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = small(name), small(name)
    x = first.preprocess(toy_images())
    with torch.no_grad():
        for module in first.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
        first.train().network(x)
        load_caffe(second, write_caffemodel(tmp_path / "a.caffemodel", *as_caffe(first)), second.caffe_names())
        wanted, found = first.eval().network(x), second.eval().network(x)
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.offsets, wanted.offsets, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["dsod300", "grp_dsod320"])
def test_small_size_is_a_detector(name: str) -> None:
    torch.manual_seed(0)
    model = small(name)
    assert_is_detector(model)
    assert sum(v.numel() for v in small(name, 8).state_dict().values()) < 480_000
    # The comparison with SSD is of networks alone.
    reference = build("ssd300_vgg16", 3, small=True)
    assert isinstance(reference, ssd.SSD)
    assert torch.equal(model.priors, reference.priors)
    assert model(toy_images(sizes=((100, 90),)), [empty_target()])["class"].item() == 0


@pytest.mark.parametrize("name", ["dsod300", "grp_dsod320"])
def test_small_size_at_a_larger_input(name: str) -> None:
    torch.manual_seed(0)
    model = small(name, size=256)
    assert len(model.priors) == model.num_boxes((256, 256)) == 64**2 * 2 + 4 * (32**2 + 16**2 + 8**2 + 4**2)
    with torch.no_grad():
        assert len(model(toy_images())) == 2


@pytest.mark.parametrize("name", ["dsod300", "grp_dsod320"])
def test_small_size_overfits(name: str) -> None:
    assert_overfits(small(name, 2), steps=45)
