"""DetNet: a backbone that stays at stride 16, and a pyramid whose coarse levels have one size."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.contract import assert_is_detector, assert_overfits
from zoo import build
from zoo.backbones.detnet import DetNet59, SmallDetNet, dilated_stage
from zoo.parts.fpn import FPN
from zoo.two_stage.detnet import RECIPE, detnet59_fpn
from zoo.two_stage.faster_rcnn import FasterRCNN


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def body() -> DetNet59:
    with torch.device("meta"):
        return DetNet59(norm=nn.BatchNorm2d)


def test_parameters_by_stage(body: DetNet59) -> None:
    stages = [body.layer1, body.layer2, body.layer3, body.layer4, body.layer5]
    assert [parameters(stage) for stage in stages] == [215_808, 1_219_584, 7_098_368, 4_402_176, 4_402_176]
    assert parameters(body.conv1) + parameters(body.bn1) == 9_536
    assert parameters(body) == 17_347_648
    assert parameters(body) + parameters(nn.Linear(1024, 1000)) == 18_372_648, "with the classifier of ImageNet"
    convolutions = [name for name, m in body.named_modules() if isinstance(m, nn.Conv2d) and "downsample" not in name]
    assert len(convolutions) + 1 == 59, "layers, the classifier included"


def test_maps_and_operations(body: DetNet59) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        maps = body(torch.zeros(1, 3, 224, 224))
        nn.Linear(1024, 1000)(maps[-1].mean((2, 3)))
    assert [tuple(x.shape[1:]) for x in maps] == [(256, 56, 56), (512, 28, 28), *[(1024, 14, 14)] * 3]
    assert counter.get_total_flops() / 2e9 == pytest.approx(5.000, abs=5e-4)


def test_blocks_dilate_and_only_the_first_projects(body: DetNet59) -> None:
    for stage in (body.layer4, body.layer5):
        for index, block in enumerate(stage):
            assert (block.conv2.dilation, block.conv2.padding, block.conv2.stride) == ((2, 2), (2, 2), (1, 1))
            assert (block.downsample is not None) == (index == 0)
    with torch.device("meta"):
        plain = DetNet59(norm=nn.BatchNorm2d, project=False)
    assert plain.layer4[0].downsample is not None
    assert plain.layer5[0].downsample is None
    assert parameters(body) - parameters(plain) == 1024 * 1024 + 2 * 1024


def test_a_dilated_stage_sees_six_cells_to_each_side() -> None:
    """Three 3x3 convolutions spread by 2; strided or plain ones would see another neighbourhood."""
    torch.manual_seed(0)
    stage = dilated_stage(16, 8, nn.BatchNorm2d).eval()
    x = torch.randn(1, 16, 31, 31, requires_grad=True)
    stage(x)[0, :, 15, 15].sum().backward()
    assert x.grad is not None
    rows, columns = x.grad[0].abs().sum(0).nonzero().unbind(1)
    for seen in (rows, columns):
        assert set(seen.tolist()) <= set(range(9, 22, 2)), "every second cell"
        assert (seen.min(), seen.max()) == (9, 21)


def test_what_learns() -> None:
    with torch.device("meta"):
        model = DetNet59(trainable=5)
        fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
        assert fixed == {"conv1.weight"}
        assert not any(p.requires_grad for p in DetNet59(trainable=0).parameters())
        with pytest.raises(ValueError, match="0 to 6, got 7"):
            DetNet59(trainable=7)


def test_pyramid_adds_levels_of_one_size_as_they_are() -> None:
    torch.manual_seed(0)
    pyramid = FPN((3, 4, 5), 6, extra=None)
    maps = [torch.randn(1, 3, 8, 10), torch.randn(1, 4, 4, 5), torch.randn(1, 5, 4, 5)]
    with torch.no_grad():
        levels = pyramid(maps)
        lateral = [inner(x) for inner, x in zip(pyramid.inner_blocks, maps, strict=True)]
        p4 = lateral[2]
        p3 = lateral[1] + p4
        p2 = lateral[0] + F.interpolate(p3, scale_factor=2, mode="nearest")
    assert len(levels) == 3, "no level beyond the coarsest map"
    for level, smooth, wanted in zip(levels, pyramid.layer_blocks, (p2, p3, p4), strict=True):
        torch.testing.assert_close(level, smooth(wanted))


def test_detector_at_papers_size(body: DetNet59) -> None:
    with torch.device("meta"):
        model = detnet59_fpn(80)
        levels = model.backbone(torch.zeros(1, 3, 800, 1088))
    assert parameters(model.backbone.fpn) == 984_320 + 2_950_400
    # The count that is known has the scale and shift of the normalisation, which are frozen here.
    affine = sum(parameters(m) for m in body.modules() if isinstance(m, nn.BatchNorm2d))
    assert parameters(model) + affine == 36_187_108
    assert [tuple(x.shape[2:]) for x in levels] == [(200, 272), (100, 136), *[(50, 68)] * 3]
    assert model.num_boxes((800, 1088)) == 3 * (54_400 + 13_600 + 3 * 3_400)
    assert (model.rpn.strides, model.roi_heads.box_pool.strides) == ((4, 8, 16, 16, 16), (4, 8, 16, 16))
    assert (model.rpn.before_nms, model.rpn.after_nms) == ((12_000, 6_000), (2_000, 1_000))


def test_recipe() -> None:
    assert [RECIPE.rate(step) for step in (500, 119_999, 120_000, 160_000)] == pytest.approx([0.02, 0.02, 2e-3, 2e-4])
    assert RECIPE.rate(0) == pytest.approx(0.02 * 0.3, rel=0.01)


def test_regions_of_every_level_are_pooled_at_their_stride() -> None:
    """Large regions come from the last of the levels of stride 16, and at a sixteenth of their coordinates."""
    with torch.device("meta"):
        pool = detnet59_fpn(2).roi_heads.box_pool
    boxes = torch.tensor([[0.0, 0, 60, 60], [0, 0, 130, 130], [0, 0, 256, 256], [0, 0, 480, 480]])
    across = [torch.arange(512 // s).float().expand(1, 1, 512 // s, 512 // s).clone() + 1e3 * i
              for i, s in enumerate((4, 8, 16, 16))]  # fmt: skip
    middles = pool(across, [boxes]).mean((1, 2, 3))
    expected = [30 / 4 - 0.5, 1e3 + 65 / 8 - 0.5, 2e3 + 128 / 16 - 0.5, 3e3 + 240 / 16 - 0.5]
    torch.testing.assert_close(middles, torch.tensor(expected), atol=0.6, rtol=0)


def test_small_is_a_detector() -> None:
    torch.manual_seed(0)
    model = build("detnet59_fpn", 8, small=True)
    assert isinstance(model, FasterRCNN)
    assert isinstance(model.backbone.body, SmallDetNet)
    assert model.backbone.body.strides == (4, 8, 16, 16, 16)
    sides = [float((shapes[1, 2:] - shapes[1, :2])[0]) for shapes in model.rpn._shapes()]
    assert sides == [8, 16, 32, 64, 128], "three sizes of anchor at stride 16"
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000
    assert_is_detector(model)


def test_small_overfits() -> None:
    torch.manual_seed(0)
    tiny = {"short": 128, "longest": 128, "after_nms": (60, 60), "samples": 24}
    assert_overfits(build("detnet59_fpn", 2, small=True, **tiny), steps=80)
