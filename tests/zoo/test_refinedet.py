from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from ops.images import Batch, Frame
from ops.match import multibox_match
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target, toy_images
from zoo import CATALOG, build
from zoo.backbones.vgg import VGG16Reduced
from zoo.one_stage.refinedet import (
    Outputs,
    RefineDet,
    refinedet320_r101,
    refinedet320_vgg16,
    refinedet320_vgg16_no_tcb,
    refinedet512_r101,
    refinedet512_vgg16,
)
from zoo.parts.multibox import Predictions

VARIANTS = {
    "full": {},
    "unfiltered": {"negative_filtering": False},
    "one_step": {"negative_filtering": False, "two_step": False},
    "no_tcb": {"negative_filtering": False, "two_step": False, "transfer": False},
}
"""Table 2, from left to right."""


def small(classes: int = 3, **overrides: Any) -> RefineDet:
    model = build("refinedet320_vgg16", classes, small=True, **overrides)
    assert isinstance(model, RefineDet)
    return model


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def pixels(size: tuple[int, int], images: int = 1) -> Batch:
    return Batch(torch.zeros(images, 3, *size), (Frame(size, size, (1.0, 1.0)),) * images)


# The networks


@pytest.mark.parametrize(
    ("builder", "classes", "parameters", "side", "sides"),
    [
        (refinedet320_vgg16, 20, 34_440_884, 320, (40, 20, 10, 5)),
        (refinedet512_vgg16, 20, 34_440_884, 512, (64, 32, 16, 8)),
        (refinedet320_r101, 80, 82_451_588, 320, (40, 20, 10, 5)),
        (refinedet512_r101, 80, 82_451_588, 512, (64, 32, 16, 8)),
    ],
)
def test_paper_size(builder: Any, classes: int, parameters: int, side: int, sides: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = builder(classes)
        outputs = model.network(pixels((side, side)))
    assert count(model) == parameters
    boxes = 3 * sum(s * s for s in sides)
    assert boxes == {320: 6_375, 512: 16_320}[side]
    assert model.map_sizes((side, side)) == [(s, s) for s in sides]
    assert model.num_boxes((side, side)) == len(model.priors) == boxes
    assert outputs.arm.offsets.shape == outputs.odm.offsets.shape == (1, boxes, 4)
    assert outputs.arm.logits.shape == (1, boxes, 2)
    assert outputs.odm.logits.shape == (1, boxes, 1 + classes)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sum(2 * m.num_features + 1 for m in norms) == (156_699 if builder.__name__.endswith("r101") else 0)


def test_vgg_as_released() -> None:
    with torch.device("meta"):
        body = refinedet320_vgg16(20).backbone
        maps = body(torch.empty(1, 3, 320, 320))
    assert body.fc6.dilation == body.fc6.padding == (3, 3)
    assert (body.pool5.kernel_size, body.pool5.stride) == (2, 2)
    assert [tuple(m.shape[1:]) for m in maps] == [(512, 40, 40), (512, 20, 20), (1024, 10, 10)]
    assert body.channels == (512, 512, 1024)
    assert body.strides == (8, 16, 32)
    with torch.device("meta"):
        ssd = VGG16Reduced()
    assert ssd.fc6.dilation == (6, 6)
    assert body.state_dict().keys() - ssd.state_dict().keys() == {"l2norm5.weight"}


def port_forward(state: dict[str, Tensor], x: Tensor, classes: int) -> dict[str, Tensor]:
    """The sheet's network over the port's state dict, layer after layer."""

    def conv(x: Tensor, key: str, **settings: int) -> Tensor:
        return F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], **settings)

    def length(x: Tensor, key: str) -> Tensor:
        return x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) * state[f"{key}.weight"][None, :, None, None]

    sources = []
    for row in range(30):
        if row in (4, 9, 16, 23):
            x = F.max_pool2d(x, 2, 2, ceil_mode=row == 16)
        elif f"vgg.{row}.weight" in state:
            x = conv(x, f"vgg.{row}", padding=1)
        else:
            x = x.relu()
        if row in (22, 29):
            sources.append(length(x, "conv4_3_L2Norm" if row == 22 else "conv5_3_L2Norm"))
    x = conv(F.max_pool2d(x, 2, 2), "vgg.31", padding=3, dilation=3).relu()
    x = conv(x, "vgg.33").relu()
    sources.append(x)
    x = conv(x, "extras.0").relu()
    sources.append(conv(x, "extras.1", stride=2, padding=1).relu())

    levels: list[Tensor] = []
    for k in (3, 2, 1, 0):
        y = conv(sources[k], f"tcb0.{3 * k}", padding=1).relu()
        y = conv(y, f"tcb0.{3 * k + 2}", padding=1)
        if k < 3:
            y = y + F.conv_transpose2d(levels[0], state[f"tcb1.{k}.weight"], state[f"tcb1.{k}.bias"], stride=2)
        levels.insert(0, conv(y.relu(), f"tcb2.{3 * k + 1}", padding=1).relu())
    found = {}
    for part, values in (("arm_loc", 4), ("arm_conf", 2), ("odm_loc", 4), ("odm_conf", 1 + classes)):
        maps = sources if part.startswith("arm") else levels
        rows = [
            conv(m, f"{part}.{k}", padding=1).permute(0, 2, 3, 1).reshape(1, -1, values) for k, m in enumerate(maps)
        ]
        found[part] = torch.cat(rows, 1)
    return found


def test_the_pytorch_ports_keys_and_outputs() -> None:
    torch.manual_seed(0)
    model = refinedet320_vgg16(4, size=128).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.bias, std=0.1)
    for norm, start in ((model.backbone.l2norm, 10.0), (model.backbone.l2norm5, 8.0)):
        assert set(norm.weight.tolist()) == {start}
        nn.init.uniform_(norm.weight, 5, 20)
    names = model.port_names()
    state = {}
    for key, value in model.state_dict().items():
        module, _, kind = key.rpartition(".")
        state[f"{names[module]}.{kind}"] = value
    vgg = [f"vgg.{row}" for row in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 31, 33)]
    heads = [f"{part}_{kind}.{k}" for part in ("arm", "odm") for kind in ("loc", "conf") for k in range(4)]
    tcb = [f"tcb0.{k}" for k in (0, 2, 3, 5, 6, 8, 9, 11)] + [f"tcb1.{k}" for k in range(3)]
    modules = [*vgg, "extras.0", "extras.1", *heads, *tcb, *(f"tcb2.{k}" for k in (1, 4, 7, 10))]
    keys = {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}
    assert state.keys() == keys | {"conv4_3_L2Norm.weight", "conv5_3_L2Norm.weight"}

    x = 50 * torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        outputs = model.network(Batch(x, pixels((128, 128)).frames))
        expected = port_forward(state, x, 4)
    found = {"arm_loc": outputs.arm.offsets, "arm_conf": outputs.arm.logits}
    found |= {"odm_loc": outputs.odm.offsets, "odm_conf": outputs.odm.logits}
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="PyTorch port"):
        small().port_names()


def residual_layers(name: str, inputs: int, narrow: int, outputs: int) -> dict[str, tuple[int, ...]]:
    shapes = {
        "branch1": (outputs, inputs, 1, 1),
        "branch2a": (narrow, inputs, 1, 1),
        "branch2b": (narrow, narrow, 3, 3),
        "branch2c": (outputs, narrow, 1, 1),
    }
    layers: dict[str, tuple[int, ...]] = {}
    for branch, shape in shapes.items():
        layers |= {f"res{name}_{branch}": shape}
        layers |= {f"{kind}{name}_{branch}": (shape[0],) for kind in ("bn", "scale")}
    return layers


def released_layers(residual: bool, classes: int) -> dict[str, tuple[int, ...]]:
    """Layer of the official scripts' networks to the shape of its first blob; the residual backbone's left out."""
    layers: dict[str, tuple[int, ...]] = {}
    if residual:
        layers |= residual_layers("6", 2048, 128, 512)
        sources = {"res3b3_relu": 512, "res4b22_relu": 1024, "res5c_relu": 2048, "res6_relu": 512}
    else:
        widths = {1: (3, 64, 64), 2: (64, 128, 128), 3: (128, 256, 256, 256)}
        widths |= {4: (256, 512, 512, 512), 5: (512, 512, 512, 512)}
        for stage, channels in widths.items():
            for row, (inputs, outputs) in enumerate(itertools.pairwise(channels), start=1):
                layers[f"conv{stage}_{row}"] = (outputs, inputs, 3, 3)
        layers |= {"fc6": (1024, 512, 3, 3), "fc7": (1024, 1024, 1, 1)}
        layers |= {"conv6_1": (256, 1024, 1, 1), "conv6_2": (512, 256, 3, 3)}
        layers |= {"conv4_3_norm": (512,), "conv5_3_norm": (512,)}
        sources = {"conv4_3_norm": 512, "conv5_3_norm": 512, "fc7": 1024, "conv6_2": 512}
    for k, channels in zip((3, 4, 5, 6), sources.values(), strict=True):
        convs = {f"TL{k}_1": (256, channels, 3, 3), f"TL{k}_2": (256, 256, 3, 3), f"P{k}": (256, 256, 3, 3)}
        if k > 3:
            convs[f"P{k}-up"] = (256, 256, 2, 2)
        layers |= convs
        if residual:
            layers |= {f"{name}_{kind}": (256,) for name in convs for kind in ("bn", "scale")}
    for group, values in ((sources, 2), (dict.fromkeys(("P3", "P4", "P5", "P6"), 256), 1 + classes)):
        for source, channels in group.items():
            name = source
            if residual:
                layers |= residual_layers(f"{source}_inter", channels, 256, 1024)
                name, channels = f"res{source}_inter", 1024
            layers |= {f"{name}_mbox_loc": (12, channels, 3, 3), f"{name}_mbox_conf": (3 * values, channels, 3, 3)}
    return layers


@pytest.mark.parametrize("residual", [False, True])
def test_caffes_layers(residual: bool) -> None:
    """Every module with parameters has its layers, every layer of the official scripts its one place."""
    with torch.device("meta"):
        model = refinedet320_r101(80) if residual else refinedet320_vgg16(80)
    names = model.caffe_names()
    owners = {name for name, m in model.named_modules() if list(m.parameters(recurse=False))}
    assert names.keys() == owners
    found: dict[str, tuple[int, ...]] = {}
    for module, layers in names.items():
        if residual and module.startswith("backbone."):
            continue
        weight = tuple(model.get_submodule(module).weight.shape)  # type: ignore[union-attr]
        for layer in (layers,) if isinstance(layers, str) else layers:
            assert layer not in found
            found[layer] = weight
    assert found == released_layers(residual, 80)
    if residual:
        backbone = [names[key] for key in names if key.startswith("backbone.")]
        assert {"conv1", ("bn_conv1", "scale_conv1"), "res4b22_branch2c", "res5c_branch2b"} <= set(backbone)
    with torch.device("meta"):
        bare = refinedet320_vgg16(1, top_down=False)
    for bad in (small(), small(**VARIANTS["no_tcb"]), bare):
        with pytest.raises(ValueError, match="released models"):
            bad.caffe_names()
    with pytest.raises(ValueError, match="all of the TCB"):
        bare.port_names()


@pytest.mark.parametrize(("norm", "top_down"), [(False, True), (True, True), (False, False)])
def test_transfer_connection_block(norm: bool, top_down: bool) -> None:
    """Figure 2, on maps that do not halve evenly; and each block by itself."""
    torch.manual_seed(1)
    model = small(width=5, norm=norm, top_down=top_down).eval()
    tcb = model.tcb
    assert tcb is not None
    for layer in tcb.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            layer.running_mean.normal_()  # type: ignore[union-attr]
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and not norm:
            nn.init.normal_(layer.bias)
    maps = [
        torch.randn(1, c, *side) for c, side in zip((32, 40, 64, 64), ((9, 7), (5, 4), (3, 2), (2, 1)), strict=True)
    ]
    with torch.no_grad():
        found = tcb(maps)
        above = None
        for level in (3, 2, 1, 0):
            x = tcb.second[level](F.relu(tcb.first[level](maps[level])))
            if above is not None and top_down:
                up = tcb.enlarge[level](above)
                assert up.shape[-2:] == (2 * above.shape[-2], 2 * above.shape[-1])
                x = x + up[:, :, : x.shape[2], : x.shape[3]]
            above = F.relu(tcb.last[level](F.relu(x)))
            torch.testing.assert_close(found[level], above)
            assert found[level].shape == (1, 5, *maps[level].shape[-2:])
    for layer in tcb.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert (layer.bias is None) == norm


# Anchors


@pytest.mark.parametrize(
    ("builder", "centres", "extents", "last"),
    [
        (refinedet320_vgg16, 3187.5, 936.3961, (0.9, 0.9, 0.565685, 1.131371)),
        (refinedet512_vgg16, 8160.0, 1498.2338, (0.9375, 0.9375, 0.353553, 0.707107)),
    ],
)
def test_anchors(builder: Any, centres: float, extents: float, last: tuple[float, ...]) -> None:
    with torch.device("meta"):
        model = builder(1)
    side = model.size[0]
    model.priors = torch.empty(0)
    model.resize(side)
    boxes = model.priors.double() / side
    rows = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
    assert rows.sum(0).tolist() == pytest.approx([centres, centres, extents, extents], abs=1e-3)
    assert rows[-1].tolist() == pytest.approx(last, abs=1e-6)
    if side == 320:
        first = [(0.1, 0.1), (0.141421, 0.070711), (0.070711, 0.141421)]
        for row, shape in zip(rows, first, strict=False):
            assert row.tolist() == pytest.approx((0.0125, 0.0125, *shape), abs=1e-6)
        assert rows[3].tolist() == pytest.approx((0.0375, 0.0125, 0.1, 0.1), abs=1e-6)
        outside = (model.priors.amin(1) < 0) | (model.priors.amax(1) > side)
        assert int(outside.sum()) == 1_634


@pytest.mark.parametrize("builder", [refinedet320_vgg16, refinedet320_r101])
def test_other_inputs(builder: Any) -> None:
    """Anchors and maps of the multi-scale protocol, and of sides that no stride divides."""
    with torch.device("meta"):
        model = builder(2)
        for size in (192, (320, 192), (300, 333)):
            model.resize(size)
            height, width = (size, size) if isinstance(size, int) else size
            assert model.size == (height, width)
            outputs = model.network(pixels((height, width)))
            assert outputs.odm.offsets.shape[1] == outputs.arm.offsets.shape[1] == len(model.priors)
            assert model.num_boxes(model.size) == len(model.priors)
    assert not [key for key in model.state_dict() if "prior" in key]


def test_resized_small_network_detects() -> None:
    torch.manual_seed(0)
    model = small().eval()
    images = toy_images()
    with torch.no_grad():
        before = model(images)
        model.resize((96, 224))
        assert model.preprocess(images).size == (96, 224)
        # A rectangle's anchors are as large in pixels as a square's.
        assert model.priors[0].tolist() == pytest.approx([-6, -6, 10, 10])
        centre = (model.priors[-1, :2] + model.priors[-1, 2:]) / 2
        assert centre.tolist() == pytest.approx([208, 80])
        for answer in model(images):
            assert torch.isfinite(answer.boxes).all()
        model.resize(160)
        after = model(images)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one.boxes, other.boxes)


# Losses


def random_case(model: RefineDet, seed: int, objects: tuple[int, ...]) -> tuple[Outputs, Batch, list[Target]]:
    generator = torch.Generator().manual_seed(seed)
    images, anchors = len(objects), len(model.priors)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).requires_grad_()

    # Half of the anchors are dropped: the difference of the logits is about -ln 99.
    arm_logits = (torch.randn(images, anchors, 2, generator=generator) + torch.tensor([2.3, -2.3])).requires_grad_()
    arm = None if model.arm is None else Predictions(draw(images, anchors, 4), arm_logits)
    odm = Predictions(draw(images, anchors, 4), draw(images, anchors, 1 + model.num_classes, scale=2))
    side = model.size[0]
    targets = []
    for number in objects:
        corner = torch.rand(number, 2, generator=generator) * side * 0.6
        size = 6 + torch.rand(number, 2, generator=generator) * side * 0.35
        labels = torch.randint(0, model.num_classes, (number,), generator=generator)
        targets.append(Target(torch.cat([corner, corner + size], 1), labels))
    return Outputs(arm, odm), pixels(model.size, images), targets


def centred(box: list[float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def slow_decode(offsets: list[float], anchor: list[float]) -> list[float]:
    x, y, w, h = centred(anchor)
    x, y = x + 0.1 * offsets[0] * w, y + 0.1 * offsets[1] * h
    w, h = w * math.exp(0.2 * offsets[2]), h * math.exp(0.2 * offsets[3])
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def slow_multibox(
    predictions: Predictions, anchors: list[list[list[float]]], targets: list[Target], candidates: list[list[bool]]
) -> tuple[float, float, int, int]:
    """Anchor by anchor: box loss, class loss, positives, negatives."""
    box = classes = 0.0
    positives = chosen = 0
    for b, target in enumerate(targets):
        iou = box_iou(target.boxes, torch.tensor(anchors[b]))
        log_probability = predictions.logits[b].detach().log_softmax(-1).tolist()
        negatives = []
        mine = 0
        for row, match in enumerate(multibox_match(iou, 0.5).tolist()):
            if match < 0:
                near = len(target) > 0 and float(iou[:, row].max()) >= 0.5
                if not near and candidates[b][row]:
                    negatives.append(-log_probability[row][0])
                continue
            mine += 1
            classes -= log_probability[row][1 + int(target.labels[match])]
            ax, ay, aw, ah = centred(anchors[b][row])
            gx, gy, gw, gh = centred(target.boxes[match].tolist())
            wanted = [(gx - ax) / aw / 0.1, (gy - ay) / ah / 0.1, math.log(gw / aw) / 0.2, math.log(gh / ah) / 0.2]
            for value, want in zip(predictions.offsets[b, row].tolist(), wanted, strict=True):
                error = abs(value - want)
                box += 0.5 * error * error if error < 1 else error - 0.5
        kept = sorted(negatives, reverse=True)[: 3 * mine]
        classes += sum(kept)
        positives += mine
        chosen += len(kept)
    return box / max(1, positives), classes / max(1, positives), positives, chosen


def slow_losses(model: RefineDet, outputs: Outputs, targets: list[Target]) -> dict[str, tuple[float, float, int, int]]:
    tiled = [model.priors.tolist()] * len(targets)
    everyone = [[True] * len(model.priors)] * len(targets)
    if outputs.arm is None:
        return {"odm": slow_multibox(outputs.odm, tiled, targets, everyone)}
    things = [Target(target.boxes, torch.zeros_like(target.labels)) for target in targets]
    arm = slow_multibox(outputs.arm, tiled, things, everyone)
    anchors, candidates = tiled, everyone
    if model.two_step:
        anchors = [
            [slow_decode(o, a) for o, a in zip(offsets, boxes, strict=True)]
            for offsets, boxes in zip(outputs.arm.offsets.tolist(), tiled, strict=True)
        ]
    if model.negative_filtering:
        candidates = [[1 / (1 + math.exp(n - s)) >= 0.01 for n, s in rows] for rows in outputs.arm.logits.tolist()]
    return {"arm": arm, "odm": slow_multibox(outputs.odm, anchors, targets, candidates)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_are_the_loop(variant: str) -> None:
    model = small(size=64, **VARIANTS[variant])
    outputs, batch, targets = random_case(model, 1, (5, 0, 3))
    losses = model.losses(outputs, batch, targets)
    wanted = slow_losses(model, outputs, targets)
    assert losses.keys() == ({"box", "class"} if variant == "no_tcb" else {"arm_box", "arm_class", "box", "class"})
    for part, prefix in (("arm", "arm_"), ("odm", "")):
        if part not in wanted:
            continue
        box, classes, positives, negatives = wanted[part]
        assert losses[f"{prefix}box"].item() == pytest.approx(box, rel=1e-3)
        assert losses[f"{prefix}class"].item() == pytest.approx(classes, rel=1e-3)
        assert positives >= 8
        predictions = getattr(outputs, part)
        both = losses[f"{prefix}box"] + losses[f"{prefix}class"]
        others = [p for p in (outputs.arm, outputs.odm) if p is not None and p is not predictions]
        # Refined anchors are constants: no loss of the ODM reaches the ARM, nor the other way round.
        for other in others:
            assert torch.autograd.grad(both, other.offsets, retain_graph=True, allow_unused=True) == (None,)
            assert torch.autograd.grad(both, other.logits, retain_graph=True, allow_unused=True) == (None,)
        offsets, logits = torch.autograd.grad(both, (predictions.offsets, predictions.logits), retain_graph=True)
        assert int((offsets.abs().sum(-1) > 0).sum()) == positives
        assert int((logits.abs().sum(-1) > 0).sum()) == positives + negatives


def test_the_two_losses_have_counts_of_their_own() -> None:
    model = small(size=64)
    outputs, _, targets = random_case(model, 1, (5, 0, 3))
    wanted = slow_losses(model, outputs, targets)
    assert wanted["arm"][2] != wanted["odm"][2]
    without = slow_losses(small(size=64, negative_filtering=False), outputs, targets)
    assert without["arm"] == wanted["arm"]
    assert without["odm"][1] > wanted["odm"][1], "the hardest negatives are among those dropped"


def test_dropped_anchors_are_no_negatives_but_learn_their_object() -> None:
    model = small(size=64)
    outputs, batch, targets = random_case(model, 2, (4,))
    assert outputs.arm is not None
    certain = torch.tensor([5.0, -5.0]).expand_as(outputs.arm.logits)
    outputs = Outputs(Predictions(outputs.arm.offsets, certain), outputs.odm)
    assert not model.passed(outputs).any()
    loss = model.losses(outputs, batch, targets)
    grad = torch.autograd.grad(loss["class"], outputs.odm.logits)[0].abs().sum(-1) > 0
    iou = box_iou(targets[0].boxes, model.refined(outputs)[0])
    assert torch.equal(grad[0], multibox_match(iou, 0.5) >= 0)
    assert int(grad.sum()) >= 4


def test_the_threshold() -> None:
    """Just under and just over a foreground probability of 0.01."""
    model = small()
    for probability, passes in ((0.0099, False), (0.0101, True)):
        outputs = predictions(model, {})
        assert outputs.arm is not None
        outputs.arm.logits[0, 7] = torch.tensor([math.log(1 - probability), math.log(probability)])
        assert bool(model.passed(outputs)[0, 7]) == passes
        assert int((~model.passed(outputs)).sum()) == int(not passes)
        assert bool(small(negative_filtering=False).passed(outputs).all())


def test_images_without_objects() -> None:
    for overrides in VARIANTS.values():
        model = small(**overrides).train()
        losses = model(toy_images(sizes=((100, 90),)), [empty_target()])
        assert all(value.item() == 0 for value in losses.values())


def test_difficult_objects() -> None:
    target = Target(torch.tensor([[20.0, 30.0, 90.0, 100.0]]), torch.tensor([1]), ignore=torch.tensor([True]))
    with torch.device("meta"):
        assert refinedet320_vgg16(20).trains_on_ignored
        assert not refinedet320_r101(80).trains_on_ignored
    for learns in (True, False):
        model = small(trains_on_ignored=learns).eval()
        with torch.no_grad():
            losses = model(toy_images(sizes=((160, 160),)), [target])
        assert all((value.item() > 0) == learns for value in losses.values())


# Detections


def predictions(model: RefineDet, scores: dict[tuple[int, int], float]) -> Outputs:
    """All background, but the given probability for (anchor, class); every anchor passes the ARM."""
    logits = torch.zeros(1, len(model.priors), 1 + model.num_classes)
    logits[..., 1:] = -20
    for (row, label), score in scores.items():
        logits[0, row, 1 + label] = math.log(score / (1 - score))
    offsets = torch.zeros(1, len(model.priors), 4)
    arm = Predictions(offsets.clone(), torch.zeros(1, len(model.priors), 2))
    return Outputs(arm, Predictions(offsets, logits))


def test_boxes_are_moved_twice() -> None:
    model = small()
    row = 3 * (20 * 40 + 12)  # Finest level, cell (20, 12), the square: 16 pixels about (50, 82).
    torch.testing.assert_close(model.priors[row], torch.tensor([42.0, 74.0, 58.0, 90.0]))
    outputs = predictions(model, {(row, 2): 0.75})
    assert outputs.arm is not None
    # First to (66, 82), 32 by 16; then by .1 of these 32 and -.2 of these 16, to half the width and twice the height.
    outputs.arm.offsets[0, row] = torch.tensor([10.0, 0.0, 5 * math.log(2), 0.0])
    outputs.odm.offsets[0, row] = torch.tensor([1.0, -2.0, -5 * math.log(2), 5 * math.log(2)])
    frame = Frame((80, 320), (160, 160), (0.5, 2.0))
    (found,) = model.postprocess(outputs, Batch(torch.zeros(1, 3, 160, 160), (frame,)))
    # About (69.2, 78.8), 16 by 32, in the network's pixels.
    torch.testing.assert_close(found.boxes, torch.tensor([[122.4, 31.4, 154.4, 47.4]]), atol=1e-3, rtol=0)
    assert found.labels.tolist() == [2]
    assert found.scores.tolist() == pytest.approx([0.75])
    (once,) = small(two_step=False).postprocess(outputs, pixels((160, 160)))
    # From the tiled anchor: about (51.6, 78.8), 8 by 32.
    torch.testing.assert_close(once.boxes, torch.tensor([[47.6, 62.8, 55.6, 94.8]]), atol=1e-3, rtol=0)


def test_dropped_anchors_are_not_detected() -> None:
    model = small()
    outputs = predictions(model, {(0, 0): 0.9, (3000, 1): 0.8})
    assert outputs.arm is not None
    outputs.arm.logits[0, 0] = torch.tensor([5.0, 0.0])  # .0067
    assert model.postprocess(outputs, pixels((160, 160)))[0].labels.tolist() == [1]
    assert small(negative_filtering=False).postprocess(outputs, pixels((160, 160)))[0].labels.tolist() == [0, 1]
    # Without two steps, too, the ARM drops.
    assert small(two_step=False).postprocess(outputs, pixels((160, 160)))[0].labels.tolist() == [1]


def test_the_codes_limits_and_the_papers() -> None:
    scores = {(3 * cell, label): 0.3 + cell / 9000 for cell in range(1600) for label in range(3)}
    outputs = predictions(small(), scores)
    # No suppression, so that the limits show.
    found = small(nms_iou=1.0).postprocess(outputs, pixels((160, 160)))[0]
    assert len(found) == 500
    paper = small(nms_iou=1.0, before_per_class=400, limit=200).postprocess(outputs, pixels((160, 160)))[0]
    assert len(paper) == 200
    assert torch.equal(paper.scores, found.scores[:200])
    most = small(nms_iou=1.0, limit=5000).postprocess(outputs, pixels((160, 160)))[0]
    assert len(most) == 3 * 1000
    odds = (0.3 + 600 / 9000) / (0.7 - 600 / 9000)  # Against background; the three classes share what it leaves.
    assert float(most.scores.min()) == pytest.approx(odds / (1 + 3 * odds))


def test_perfect_predictions_cost_nothing_and_find_everything() -> None:
    model = small()
    outputs, batch, targets = random_case(model, 4, (6,))
    assert outputs.arm is not None
    arm = perfect(model, outputs.arm, model.priors, targets[0].boxes, torch.zeros(6, dtype=torch.int64))
    refined = model.refined(Outputs(arm, outputs.odm))[0]
    odm = perfect(model, outputs.odm, refined, targets[0].boxes, targets[0].labels)
    outputs = Outputs(arm, odm)
    for value in model.losses(outputs, batch, targets).values():
        assert value.item() == pytest.approx(0, abs=1e-4)
    found = model.postprocess(outputs, batch)[0]
    overlap = box_iou(found.boxes, targets[0].boxes) * (found.labels[:, None] == targets[0].labels[None])
    assert overlap.amax(0).min() > 0.99


def perfect(model: RefineDet, like: Predictions, anchors: Tensor, boxes: Tensor, labels: Tensor) -> Predictions:
    matches = multibox_match(box_iou(boxes, anchors), 0.5)
    rows = (matches >= 0).nonzero()[:, 0]
    logits = torch.full_like(like.logits, -50.0)
    logits[0, :, 0] = 50.0
    logits[0, rows, 0] = -50.0
    logits[0, rows, 1 + labels[matches[rows]]] = 50.0
    offsets = torch.zeros_like(like.offsets)
    offsets[0, rows] = model.coder.encode(boxes[matches[rows]], anchors[rows])
    return Predictions(offsets, logits)


# The ablation


def test_what_each_variant_has() -> None:
    parts = {}
    for name, overrides in VARIANTS.items():
        model = small(8, **overrides)
        assert sum(v.numel() for v in model.state_dict().values()) < 480_000
        parts[name] = {key.split(".")[0] for key in model.state_dict()}
    assert parts["full"] == parts["unfiltered"] == parts["one_step"] == {"backbone", "arm", "tcb", "odm"}
    assert parts["no_tcb"] == {"backbone", "odm"}


def test_rows_of_the_ablation_are_its_switches() -> None:
    for name, overrides in VARIANTS.items():
        row = "refinedet320_vgg16" + ("" if name == "full" else f"_{name}")
        model = build(row, 3, small=True)
        assert isinstance(model, RefineDet)
        switches = {"negative_filtering": True, "two_step": True} | overrides
        assert model.negative_filtering == switches["negative_filtering"]
        assert model.two_step == switches["two_step"]
        assert (model.tcb is not None) == overrides.get("transfer", True)
        assert model.state_dict().keys() == small(3, **overrides).state_dict().keys()


def test_blocks_without_what_is_handed_down_have_all_other_layers() -> None:
    whole, alone = small(**VARIANTS["one_step"]), small(**VARIANTS["one_step"], top_down=False)
    missing = whole.state_dict().keys() - alone.state_dict().keys()
    assert missing == {key for key in whole.state_dict() if key.startswith("tcb.enlarge.")}
    assert {key.split(".")[2] for key in missing} == {"0", "1", "2"}
    with pytest.raises(ValueError, match="transfer=False has none"):
        small(**VARIANTS["no_tcb"], top_down=False)


def test_the_last_variants_heads_read_the_backbone() -> None:
    with torch.device("meta"):
        model = refinedet320_vgg16_no_tcb(20)
    assert [head.in_channels for head in model.odm.logits] == [512, 512, 1024, 512]
    assert [head.out_channels for head in model.odm.logits] == [63] * 4
    backbone = 34_440_884 - count(refined_parts("arm")) - count(refined_parts("tcb")) - count(refined_parts("odm"))
    assert count(model) == backbone + 9 * (12 + 63) * (512 + 512 + 1024 + 512) + 4 * (12 + 63)


def refined_parts(part: str) -> nn.Module:
    with torch.device("meta"):
        return getattr(refinedet320_vgg16(20), part)  # type: ignore[no-any-return]


def test_without_both_uses_no_answer_depends_on_the_arm() -> None:
    torch.manual_seed(0)
    images = toy_images()
    for name, depends in (("full", True), ("unfiltered", True), ("one_step", False)):
        model = small(**VARIANTS[name]).eval()
        with torch.no_grad():
            before = model(images)
            for head in [*model.arm.box, *model.arm.logits]:  # type: ignore[union-attr]
                nn.init.normal_(head.bias, std=2)
            after = model(images)
        same = all(torch.equal(a.boxes, b.boxes) for a, b in zip(before, after, strict=True))
        assert same != depends


@pytest.mark.parametrize("switches", list(itertools.product([True, False], repeat=3)))
def test_every_combination_is_a_detector(switches: tuple[bool, bool, bool]) -> None:
    torch.manual_seed(0)
    names = ("negative_filtering", "two_step", "transfer")
    model = small(size=64, **dict(zip(names, switches, strict=True)))
    assert (model.arm is None) == (not any(switches))
    assert_is_detector(model)


def test_small_size_keeps_the_papers_proportions() -> None:
    """Input, strides and anchors are all half of RefineDet320's."""
    model = small()
    assert len(model.priors) == 6_375
    assert model.strides == (4, 8, 16, 32)
    sides = (model.priors[:, 2:] - model.priors[:, :2])[[0, 4800, 6000, 6300], 0]
    assert sides.tolist() == [16, 32, 64, 128]
    with pytest.raises(ValueError, match="small backbone"):
        refinedet320_vgg16(1, deepen=32)


@pytest.mark.parametrize("variant", ["full", "no_tcb"])
def test_small_size_overfits(variant: str) -> None:
    torch.manual_seed(0)
    assert_overfits(small(2, **VARIANTS[variant]), steps=60)


def test_golden_facts_stand_in_the_catalog() -> None:
    facts = {
        "refinedet320_vgg16": ({20: 34_440_884, 80: 36_100_484}, 6_375, {20: 37.773, 80: 38.654}),
        "refinedet512_vgg16": ({20: 34_440_884, 80: 36_100_484}, 16_320, {20: 96.699, 80: 98.955}),
        "refinedet320_r101": ({20: 75_815_348, 80: 82_451_588}, 6_375, {80: 32.975}),
        "refinedet512_r101": ({20: 75_815_348, 80: 82_451_588}, 16_320, {80: 84.417}),
    }
    for name, (parameters, boxes, giga_macs) in facts.items():
        spec = CATALOG[name]
        assert spec.golden.parameters == parameters
        assert spec.golden.boxes == {spec.input_size: boxes}
        assert spec.golden.macs.keys() == {(classes, *spec.input_size) for classes in giga_macs}
        for classes, wanted in giga_macs.items():
            assert spec.golden.macs[(classes, *spec.input_size)] / 1e9 == pytest.approx(wanted, abs=5e-4)
