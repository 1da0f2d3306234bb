"""Deformable R-FCN: golden numbers, worked examples of its operators, and what it is before anything moves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.position_sensitive import deformable_ps_roi_pool
from tests.contract import assert_is_detector, assert_overfits
from zoo import build
from zoo.two_stage.deformable import RECIPE, DeformableConv, DeformableMaps, deformable_rfcn_r101
from zoo.two_stage.rfcn import RFCN, rfcn_r101


def on_meta(num_classes: int = 20, **changes: object) -> RFCN:
    with torch.device("meta"):
        return deformable_rfcn_r101(num_classes, **changes)  # type: ignore[arg-type]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_by_part() -> None:
    model = on_meta()
    assert parameters(model) == 54_007_111
    convolutions = [module for module in model.modules() if isinstance(module, DeformableConv)]
    assert [parameters(layer.offset) for layer in convolutions] == [331_848] * 3
    assert {(layer.dilation, layer.offset.dilation, layer.offset.out_channels) for layer in convolutions} == {
        ((2, 2), (2, 2), 72)
    }
    maps = model.roi_heads.box_pool
    assert isinstance(maps, DeformableMaps)
    assert (parameters(maps.rfcn_cls_offset_t), parameters(maps.rfcn_bbox_offset_t)) == (2_109_450, 100_450)
    coco = on_meta(80, scales=(4, 8, 16, 32))
    assert parameters(coco) == 63_056_845
    assert RECIPE.rate(999) == pytest.approx(4e-3)


def shifted(offset: dict[int, float], weight: Tensor | None = None) -> Tensor:
    """A 3x3 convolution of ones, padded by 1, over 5x5 `arange`, with these biases of the offset's channels."""
    plain = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    plain.weight.data = torch.ones(1, 1, 3, 3) if weight is None else weight
    layer = DeformableConv(plain, groups=1)
    for channel, value in offset.items():
        layer.offset.bias.data[channel] = value  # type: ignore[union-attr]
    with torch.no_grad():
        return layer(torch.arange(25.0).view(1, 1, 5, 5))[0, 0]


@pytest.mark.parametrize(
    ("offset", "row"),
    [
        ({}, [63, 99, 108, 117, 81]),
        ({2 * tap: 0.5 for tap in range(9)}, [78, 121.5, 130.5, 139.5, 96]),
        ({2 * tap + 1: 0.5 for tap in range(9)}, [81, 103.5, 112.5, 99, 61.5]),
        ({8: 1.0}, [68, 104, 113, 122, 86]),
    ],
)
def test_deformable_convolution_worked_example(offset: dict[int, float], row: list[float]) -> None:
    torch.testing.assert_close(shifted(offset)[2], torch.tensor(row, dtype=torch.float32))


def test_outside_of_the_map_are_zeros() -> None:
    centre = F.pad(torch.ones(1, 1, 1, 1), (1, 1, 1, 1))
    torch.testing.assert_close(shifted({9: 0.5}, centre)[0], torch.tensor([0.5, 1.5, 2.5, 3.5, 2.0]))


def test_without_movement_it_is_rfcn_with_sampled_pooling() -> None:
    torch.manual_seed(0)
    settings = {"backbone": "small", "scales": (1, 2), "rpn_width": 8, "width": 16, "size": 3, "short": 96}
    ours = deformable_rfcn_r101(2, **settings).eval()
    plain = rfcn_r101(2, **settings).eval()
    missing = plain.load_state_dict(
        {name: value for name, value in ours.state_dict().items() if "offset" not in name}, strict=True
    )
    assert not missing.missing_keys
    images = torch.rand(2, 3, 96, 96)
    boxes = [torch.tensor([[10.0, 10, 50, 70], [30, 5, 90, 90]]), torch.tensor([[0.0, 0, 96, 96]])]
    with torch.no_grad():
        maps, wanted = ours.backbone(images), plain.backbone(images)
        torch.testing.assert_close(maps, wanted)
        heads, theirs = ours.roi_heads, plain.roi_heads
        x = theirs.box_pool.conv_new_1(wanted[-1]).relu()  # type: ignore[attr-defined]
        bank = torch.cat([theirs.box_pool.rfcn_cls(x), theirs.box_pool.rfcn_bbox(x)], 1)  # type: ignore[attr-defined]
        pooled = deformable_ps_roi_pool(bank, boxes, 3, 8, samples=4)
        for mine, other in zip(heads(maps, boxes), theirs.predict(pooled), strict=True):
            torch.testing.assert_close(mine, other)
        assert not torch.allclose(pooled, theirs.box_pool(wanted, boxes)), "means of whole bins are something else"


def test_each_class_moves_by_itself_and_all_boxes_together() -> None:
    torch.manual_seed(0)
    maps = DeformableMaps(4, 2, 8, width=8, size=2)
    x, boxes = torch.randn(1, 4, 12, 12), [torch.tensor([[16.0, 16, 72, 60]])]
    with torch.no_grad():
        before = maps([x], boxes)
        moved = copy.deepcopy(maps)
        # The offsets of class 1 (of 0, 1, 2) to the right.
        moved.rfcn_cls_offset_t.bias.data.view(3, 2, 4)[1, 0] = 2.0
        after = moved([x], boxes)
        changed = (after != before).flatten(2).any(2)[0]
        assert changed.tolist() == [False, True, False] + [False] * 8
        moved.rfcn_bbox_offset_t.bias.data[:] = 1.0
        changed = (moved([x], boxes) != before).flatten(2).any(2)[0]
        assert changed.tolist() == [False, True, False] + [True] * 8


def test_the_offsets_learn_first() -> None:
    """They start at zero and get a gradient from the first step on."""
    torch.manual_seed(0)
    maps = DeformableMaps(4, 2, 8, width=8, size=2)
    boxes = [torch.tensor([[16.0, 16, 72, 60]])]
    maps([torch.randn(1, 4, 12, 12)], boxes).square().sum().backward()
    for layer in (maps.rfcn_cls_offset_t, maps.rfcn_bbox_offset_t):
        assert not layer.weight.any()
        assert layer.weight.grad is not None
        assert layer.weight.grad.any()


def test_classes_lie_where_it_says() -> None:
    model = on_meta()
    state = model.state_dict()
    for name, layout in model.class_channels().items():
        assert len(layout.channels(len(state[name]), 20, range(20))) == len(state[name])
        assert len(layout.channels(len(state[name]), 20, range(5))) == len(state[name]) * 6 // 21
    assert len(model.class_channels()) == 4


def test_small_is_a_detector() -> None:
    torch.manual_seed(0)
    assert_is_detector(build("deformable_rfcn_r101", 8, small=True))


def test_small_overfits() -> None:
    assert_overfits(build("deformable_rfcn_r101", 2, small=True, size=3, hard=16), steps=80)


def test_small_is_the_same_class_and_fits_into_a_megabyte() -> None:
    model = build("deformable_rfcn_r101", 8, small=True)
    assert type(model) is type(on_meta())
    assert sum(isinstance(module, DeformableConv) for module in model.modules()) == 2
    assert all(p.requires_grad for p in model.parameters())
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000
