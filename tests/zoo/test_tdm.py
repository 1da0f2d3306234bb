"""Top-down modulation: the modules step by step, and the detectors around them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.contract import assert_is_detector, assert_overfits
from zoo import build
from zoo.parts.roi_head import RegionPool
from zoo.two_stage.faster_rcnn import FasterRCNN
from zoo.two_stage.tdm import TopDown, faster_rcnn_tdm_r101, faster_rcnn_tdm_vgg16


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def conv(inputs: int, outputs: int, kernel: int = 3) -> int:
    return outputs * (inputs * kernel**2 + 1)


def test_parameters_by_hand() -> None:
    """VGG-16: laterals on conv3_3 and conv4_3, modules from conv5_3 and from conv4's concatenation, and the end."""
    with torch.device("meta"):
        vgg, resnet = faster_rcnn_tdm_vgg16(80), faster_rcnn_tdm_r101(80)
    both = conv(256, 128) + conv(512, 128) + conv(512, 256) + conv(128 + 256, 256) + conv(128 + 256, 256, 1)
    assert parameters(vgg.backbone.top_down) == both
    head = (256 * 49 + 1) * 4096 + 4097 * 4096 + 4097 * 5 * 81
    proposals = conv(256, 512) + conv(512, 12 * 6, 1)
    assert parameters(vgg) == 14_714_688 + both + proposals + head
    own = sum(conv(c, 128) for c in (256, 512, 1024)) + conv(2048, 256) + 2 * conv(384, 256) + conv(384, 256, 1)
    assert parameters(resnet.backbone.top_down) == own


def test_modules_against_their_definition() -> None:
    torch.manual_seed(0)
    net = TopDown((3, 4, 5), lateral=2, width=6)
    fine, middle, top = torch.randn(1, 3, 9, 13), torch.randn(1, 4, 5, 7), torch.randn(1, 5, 3, 4)
    with torch.no_grad():
        down = F.interpolate(net.downward[1](top).relu(), (5, 7), mode="bilinear")
        x = torch.cat([net.laterals[1](middle).relu(), down], 1)
        down = F.interpolate(net.downward[0](x).relu(), (9, 13), mode="bilinear")
        x = torch.cat([net.laterals[0](fine).relu(), down], 1)
        torch.testing.assert_close(net([fine, middle, top]), net.out(x).relu())


def test_the_coarsest_map_reaches_every_fine_cell() -> None:
    torch.manual_seed(0)
    net = TopDown((3, 4, 5), lateral=2, width=6)
    maps = [torch.randn(1, 3, 16, 16), torch.randn(1, 4, 8, 8), torch.randn(1, 5, 4, 4)]
    before = net(maps)
    maps[2] = maps[2] + 1
    assert ((net(maps) - before).abs().amax(1) > 0).float().mean() > 0.9


def test_detectors_at_papers_size() -> None:
    for make in (faster_rcnn_tdm_vgg16, faster_rcnn_tdm_r101):
        with torch.device("meta"):
            model = make(80)
            (x,) = model.backbone(torch.zeros(1, 3, 600, 800))
        assert x.shape == (1, 256, 150, 200)
        assert model.num_boxes((600, 800)) == 150 * 200 * 12
        assert model.roi_heads.box_pool == RegionPool(4, 7), "regions come from the finest map"


def test_small_is_a_detector() -> None:
    torch.manual_seed(0)
    model = build("faster_rcnn_tdm_vgg16", 8, small=True)
    assert isinstance(model, FasterRCNN)
    assert model.roi_heads.box_pool == RegionPool(8, 7)
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000
    assert_is_detector(model)


def test_small_overfits() -> None:
    torch.manual_seed(0)
    tiny = {"short": 128, "longest": 128, "after_nms": (60, 60), "samples": 24}
    assert_overfits(build("faster_rcnn_tdm_vgg16", 2, small=True, **tiny), steps=80)
