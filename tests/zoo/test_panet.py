"""PANet: a path from the bottom up, and regions pooled from all levels."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from tests.contract import assert_is_detector, assert_overfits
from zoo import build
from zoo.two_stage.panet import (
    RECIPE,
    AdaptivePool,
    BottomUpPath,
    FusedBoxHead,
    FusedMaskHead,
    MaskPANet,
    PANet,
    panet_mask_r50_fpn,
    panet_r50_fpn,
)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters() -> None:
    with torch.device("meta"):
        model = panet_r50_fpn(80)
        assert parameters(BottomUpPath(norm_groups=0)) == 3_540_480
        assert parameters(BottomUpPath()) == 3_543_552
        assert parameters(FusedBoxHead()) == 16_978_432
    assert parameters(model.backbone.path) == 3_543_552
    assert parameters(model.roi_heads.box_head) == 16_978_432
    frozen_r50_fpn = 41_704_036
    assert parameters(model) == frozen_r50_fpn + 3_543_552 - 13_895_680 + 16_978_432


def test_parameters_of_masks() -> None:
    with torch.device("meta"):
        boxes, masks = panet_r50_fpn(80), panet_mask_r50_fpn(80)
    predictor = masks.roi_heads.get_submodule("mask_predictor")
    trunk = parameters(masks.roi_heads.get_submodule("mask_head")) + parameters(predictor.get_submodule("conv5_mask"))
    assert trunk == 24_950_032
    assert parameters(masks) == parameters(boxes) + trunk + 81 * (256 + 1)


def test_path_goes_up_level_by_level() -> None:
    torch.manual_seed(0)
    path = BottomUpPath(4, 3, norm_groups=2)
    levels = [torch.randn(1, 4, 9, 14), torch.randn(1, 4, 5, 7), torch.randn(1, 4, 3, 4)]
    first, second, third = path(levels)
    assert torch.equal(first, levels[0])

    def layer(part: nn.Module, x: torch.Tensor, stride: int) -> torch.Tensor:
        conv, norm = part[0], part[1]
        x = F.conv2d(x, conv.weight, conv.bias, stride, 1)
        return F.group_norm(x, 2, norm.weight, norm.bias).relu()

    wanted = layer(path.smooth[0], layer(path.halve[0], levels[0], 2) + levels[1], 1)
    torch.testing.assert_close(second, wanted)
    wanted = layer(path.smooth[1], layer(path.halve[1], wanted, 2) + levels[2], 1)
    torch.testing.assert_close(third, wanted)


def test_proposals_look_at_the_new_path_too() -> None:
    """The coarsest level, for proposals alone, takes every second pixel of the path's last, not of the pyramid's."""
    torch.manual_seed(0)
    model = build("panet_r50_fpn", 2, small=True).eval()
    with torch.no_grad():
        levels = model.backbone(torch.rand(1, 3, 96, 160))
        assert [tuple(x.shape[2:]) for x in levels] == [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]
        assert torch.equal(levels[4], levels[3][:, :, ::2, ::2])
        assert (levels[3] >= 0).all(), "the path ends in a ReLU, the pyramid does not"


def test_pool_takes_every_region_from_every_level() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 32 // 2**level, 40 // 2**level) for level in range(4)]
    boxes = [torch.tensor([[3.0, 5, 60, 70], [10, 10, 20, 15]]), torch.tensor([[0.0, 0, 150, 120]])]
    pooled = AdaptivePool((4, 8, 16, 32), 5)([*maps, torch.zeros(1)], boxes)
    assert pooled.shape == (3, 12, 5, 5)
    for level, x in enumerate(maps):
        wanted = roi_align(x, boxes, 5, 1 / 4 / 2**level, 2)
        torch.testing.assert_close(pooled[:, 3 * level : 3 * level + 3], wanted)


@pytest.mark.parametrize("norm_groups", [0, 4])
def test_head_keeps_the_largest_answer_of_the_levels(norm_groups: int) -> None:
    """Against one convolution and normalisation for each level, and a maximum over them, step by step."""
    torch.manual_seed(0)
    head = FusedBoxHead(8, 6, size=3, levels=2, convs=1, norm_groups=norm_groups)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.5)
    pooled = torch.randn(5, 16, 3, 3)

    def layer(part: nn.Module, x: torch.Tensor, rows: slice) -> torch.Tensor:
        bias = None if part[0].bias is None else part[0].bias[rows]
        x = F.conv2d(x, part[0].weight[rows], bias, padding=1)
        return F.group_norm(x, 4, part[1].weight[rows], part[1].bias[rows]).relu() if norm_groups else x.relu()

    first = layer(head.own, pooled[:, :8], slice(0, 8))
    second = layer(head.own, pooled[:, 8:], slice(8, 16))
    assert (first > second).any()
    assert (second > first).any()
    rest = layer(head.convs[0], torch.maximum(first, second), slice(0, 8))
    torch.testing.assert_close(head(pooled), head.fc(rest.flatten(1)).relu())


@pytest.mark.parametrize("norm_groups", [0, 2])
def test_mask_head_adds_foreground_to_the_class(norm_groups: int) -> None:
    """Step by step, and with the grids of all classes, of which one is taken."""
    torch.manual_seed(0)
    plain = {"backbone": "small", "widths": (8, 8, 8, 8, 8), "width": 8, "head_width": 8, "convs": 1, "pool_size": 3}
    model = panet_mask_r50_fpn(3, norm_groups=norm_groups, mask_pool=3, mask_width=8, **plain)
    heads = model.roi_heads
    head, predictor = heads.get_submodule("mask_head"), heads.get_submodule("mask_predictor")
    assert isinstance(head, FusedMaskHead)
    for parameter in [*head.parameters(), *predictor.parameters()]:
        nn.init.normal_(parameter, std=0.3)
    pooled, labels = torch.randn(5, 32, 3, 3), torch.tensor([3, 1, 2, 2, 1])

    def layer(part: nn.Module, x: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        bias = None if part[0].bias is None else part[0].bias[rows]
        x = F.conv2d(x, part[0].weight[rows], bias, padding=1)
        return F.group_norm(x, 2, part[1].weight[rows], part[1].bias[rows]).relu() if norm_groups else x.relu()

    own = [layer(head.own, pooled[:, a : a + 8], slice(a, a + 8)) for a in (0, 8, 16, 24)]
    x = layer(head.convs[1], layer(head.convs[0], torch.stack(own).amax(0)))
    whole = head.fc(layer(head.squeeze[1], layer(head.squeeze[0], x)).flatten(1)).relu().reshape(5, 6, 6)
    grids = predictor.mask_fcn_logits(predictor.conv5_mask(layer(head.last, x)).relu()) + whole[:, None]
    assert head.squeeze[1][0].out_channels == 4
    assert whole.any()
    assert (whole == 0).any()
    torch.testing.assert_close(model._predict_masks(pooled, labels), grids[torch.arange(5), labels])


def test_many_sizes() -> None:
    assert RECIPE.sizes == (1_200, 1_200, 1_000, 800, 600, 400)
    with torch.device("meta"):
        model = panet_r50_fpn(2)
        assert isinstance(model, PANet)
        for short, inner in ((1_200, (1_050, 1_400)), (400, (400, 533))):
            model.resize(short)
            assert model.preprocess([torch.zeros(3, 480, 640)]).frames[0].inner == inner
    model.resize((700, 900))
    assert model.size == (700, 900)


@pytest.mark.parametrize("name", ["panet_r50_fpn", "panet_mask_r50_fpn"])
def test_small_is_a_detector(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, 8, small=True)
    assert isinstance(model, PANet)
    assert isinstance(model, MaskPANet) == model.trains_on_masks == (name == "panet_mask_r50_fpn")
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000
    assert_is_detector(model)


TINY = {"short": 128, "longest": 128, "after_nms": (60, 60), "samples": 24}


def test_small_overfits() -> None:
    torch.manual_seed(0)
    assert_overfits(build("panet_r50_fpn", 2, small=True, **TINY), steps=140)
