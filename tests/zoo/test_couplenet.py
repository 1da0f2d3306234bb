"""CoupleNet: golden numbers, and how the two branches are joined."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.contract import assert_is_detector, assert_overfits
from zoo import build
from zoo.parts.roi_head import RegionPool
from zoo.two_stage.couplenet import CoupledMaps, CoupledVote, couplenet_r101, enlarge
from zoo.two_stage.rfcn import RFCN, ScoreMaps, Vote


def on_meta(num_classes: int = 20, **changes: object) -> RFCN:
    with torch.device("meta"):
        return couplenet_r101(num_classes, **changes)  # type: ignore[arg-type]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_by_part() -> None:
    model = on_meta()
    assert parameters(model) == 103_262_702
    vote = model.roi_heads.box_predictor
    assert parameters(vote) == 462 + 52_460_573
    assert parameters(vote.local_cls_score) == 462  # type: ignore[arg-type]
    assert parameters(on_meta(context=True)) - parameters(model) == 51_380_224


@pytest.mark.parametrize("context", [False, True])
def test_pooled_features(context: bool) -> None:
    """Votes of R-FCN, then RoI pooling of the region, then of twice the region, all from the same convolution."""
    torch.manual_seed(0)
    maps = CoupledMaps(3, 2, 8, width=4, size=3, context=context)
    plain = ScoreMaps(3, 2, 8, width=4, size=3)
    plain.load_state_dict(maps.state_dict())
    x = torch.randn(1, 3, 12, 12)
    boxes = [torch.tensor([[20.0, 20, 60, 50], [0, 0, 90, 90]])]
    features = maps.conv_new_1(x).relu()
    expected = [plain([x], boxes), RegionPool(8, 3)([features], boxes)]
    if context:
        expected.append(RegionPool(8, 3)([features], [torch.tensor([[0.0, 5, 80, 65], [-45, -45, 135, 135]])]))
    assert torch.equal(maps([x], boxes), torch.cat(expected, 1))


def test_enlarged_about_the_centre() -> None:
    assert enlarge(torch.tensor([[10.0, 20, 30, 60]])).tolist() == [[0, 0, 40, 80]]


def test_branches_are_added_before_the_softmax() -> None:
    """Against plain matrix products: local scores pass a full matrix, local boxes do not."""
    torch.manual_seed(0)
    vote = CoupledVote(2, inputs=4, width=5, size=3)
    for parameter in vote.parameters():
        nn.init.normal_(parameter)
    pooled = torch.randn(6, 3 + 8 + 4, 3, 3)
    logits, offsets = vote(pooled)
    scores, boxes = Vote(2)(pooled[:, : 3 + 8])
    x = F.linear(pooled[:, 3 + 8 :].flatten(1), vote.conv_pool5.weight.flatten(1), vote.conv_pool5.bias).relu()
    x = F.linear(x, vote.conv_pool5_1.weight[..., 0, 0], vote.conv_pool5_1.bias).relu()
    local = F.linear(scores, vote.local_cls_score.weight[..., 0, 0], vote.local_cls_score.bias)
    whole = F.linear(x, vote.global_cls_score.weight[..., 0, 0], vote.global_cls_score.bias)
    torch.testing.assert_close(logits, local + whole)
    moved = F.linear(x, vote.global_bbox_pred.weight[..., 0, 0], vote.global_bbox_pred.bias)
    torch.testing.assert_close(offsets, boxes + moved.view(6, 2, 4))


@pytest.mark.parametrize("context", [False, True])
def test_small_is_a_detector(context: bool) -> None:
    torch.manual_seed(0)
    assert_is_detector(build("couplenet_r101", 8, small=True, context=context))


def test_small_overfits() -> None:
    assert_overfits(build("couplenet_r101", 2, small=True, hard=16), steps=80)


def test_small_is_the_same_class_and_fits_into_a_megabyte() -> None:
    model = build("couplenet_r101", 8, small=True)
    assert type(model) is type(on_meta())
    assert isinstance(model.roi_heads, nn.Module)
    assert all(p.requires_grad for p in model.parameters())
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000
