"""Light-Head R-CNN: golden numbers, the separable convolutions, the release's colours and losses."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ops.position_sensitive import ps_roi_pool
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits
from zoo import build
from zoo.parts.roi_head import RoIHead
from zoo.two_stage.light_head import RECIPE, LightHeadRCNN, ThinMaps, light_head_rcnn_r101


def on_meta(num_classes: int = 80, **changes: object) -> LightHeadRCNN:
    with torch.device("meta"):
        return light_head_rcnn_r101(num_classes, **changes)  # type: ignore[arg-type]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_by_part() -> None:
    model = on_meta()
    heads = model.roi_heads
    assert parameters(model) == 68_594_179
    assert parameters(model.rpn) == 4_765_274
    assert parameters(heads.box_pool) == 19_493_332  # type: ignore[arg-type]
    assert parameters(heads.box_head) == 1_005_568
    assert parameters(heads.box_predictor) == 165_969 + 663_876
    assert parameters(on_meta(shared=True)) == 67_938_499
    assert parameters(on_meta(middle=64).roi_heads.box_pool) == 4_874_068  # type: ignore[arg-type]


def test_maps_and_settings() -> None:
    model = on_meta()
    with torch.device("meta"):
        maps = model.backbone(torch.zeros(1, 3, 800, 1216))
        thin = model.roi_heads.box_pool.thin(maps[-1])  # type: ignore[attr-defined]
        pooled = model.roi_heads.box_pool(maps, [torch.zeros(1000, 4)])
    assert [tuple(x.shape) for x in maps] == [(1, 1024, 50, 76), (1, 2048, 50, 76)]
    assert thin.shape == (1, 490, 50, 76)
    assert pooled.shape == (1000, 10, 7, 7)
    body = model.backbone.body
    assert [block.conv2.dilation for block in body.layer4] == [(2, 2)] * 3  # type: ignore[union-attr]
    frozen = {name for name, p in model.named_parameters() if p.ndim == 4 and not p.requires_grad}
    assert {name.split(".")[2] for name in frozen} == {"conv1", "layer1"}
    assert (model.rpn.before_nms, model.rpn.after_nms, model.cost_regions) == ((12_000, 6_000), (2_000, 1_000), 1_000)
    assert (model.roi_heads.hard, model.roi_heads.nms, model.roi_heads.limit) == (256, 0.3, 100)
    rates = [RECIPE.rate(step) for step in (499, 94_999, 95_000, 125_000)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4])


def test_colours_are_rgb_bytes_less_the_mean() -> None:
    red = torch.tensor([1.0, 0.5, 0.0])[:, None, None].expand(3, 800, 800)
    batch = on_meta().preprocess([red])
    expected = [255 - 122.7717, 127.5 - 115.9465, 0 - 102.9801]
    torch.testing.assert_close(batch.pixels[0, :, 300, 300], torch.tensor(expected))


def test_separable_paths_are_convolutions_of_rank_one_added() -> None:
    """With one channel between, a path is one large convolution whose kernel is an outer product."""
    torch.manual_seed(0)
    maps = ThinMaps(2, 8, kernel=5, middle=1, channels=1, size=2)
    x = torch.randn(1, 2, 9, 8)
    kernels = [
        torch.einsum("iy,ox->oiyx", maps.w_pre.weight[0, :, :, 0], maps.w.weight[:, 0, 0]),
        torch.einsum("ix,oy->oiyx", maps.h_pre.weight[0, :, 0], maps.h.weight[:, 0, :, 0]),
    ]
    torch.testing.assert_close(maps.thin(x), F.conv2d(x, kernels[0] + kernels[1], padding=2).relu())
    boxes = [torch.tensor([[8.0, 8, 60, 50]])]
    assert torch.equal(maps([torch.zeros(0), x], boxes), ps_roi_pool(maps.thin(x), boxes, 2, 8)), "of the last map"


def test_boxes_count_twice() -> None:
    torch.manual_seed(0)
    model = build("light_head_rcnn_r101", 2, small=True)
    assert isinstance(model, LightHeadRCNN)
    targets = [Target(torch.tensor([[20.0, 20, 80, 90]]), torch.tensor([1]))]
    batch = model.preprocess([torch.rand(3, 160, 160)])
    outputs = model.network(batch, targets)
    assert outputs.samples is not None
    plain = RoIHead.losses(model.roi_heads, outputs.logits, outputs.offsets, outputs.samples, targets)
    ours = model.losses(outputs, batch, targets)
    assert plain["boxes"] > 0
    assert torch.equal(ours["boxes"], 2 * plain["boxes"])
    assert torch.equal(ours["class"], plain["class"])


@pytest.mark.parametrize("shared", [False, True])
def test_classes_lie_where_it_says(shared: bool) -> None:
    model = on_meta(20, shared=shared)
    state = model.state_dict()
    for name, layout in model.class_channels().items():
        assert len(layout.channels(len(state[name]), 20, range(20))) == len(state[name])
    assert len(model.class_channels()) == (2 if shared else 4)


def test_small_is_a_detector() -> None:
    torch.manual_seed(0)
    assert_is_detector(build("light_head_rcnn_r101", 8, small=True))


def test_small_with_one_box_for_all_classes_overfits() -> None:
    assert_overfits(build("light_head_rcnn_r101", 2, small=True, hard=16, shared=True), steps=80)


def test_small_is_the_same_class_and_fits_into_a_megabyte() -> None:
    model = build("light_head_rcnn_r101", 8, small=True)
    assert type(model) is type(on_meta())
    assert all(p.requires_grad for p in model.parameters())
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000
