"""HyperNet: parameters counted by hand, maps of one resolution, candidates pooled one by one, and its fast order."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import roi_pool

from ops.images import Batch, Frame
from tests.contract import assert_is_detector, assert_overfits
from zoo import CATALOG, build
from zoo.backbones.small import SmallNet
from zoo.parts.roi_head import RegionPool
from zoo.two_stage.hypernet import CandidateHead, HyperMaps, HyperNet, hypernet_vgg16


def on_meta(num_classes: int = 20, shared_first: bool = False) -> HyperNet:
    with torch.device("meta"):
        return hypernet_vgg16(num_classes, shared_first=shared_first)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(num_classes: int = 2, **changes: object) -> HyperNet:
    torch.manual_seed(0)
    model = build("hypernet_vgg16", num_classes, small=True, **changes)
    assert isinstance(model, HyperNet)
    return model


def test_parameters() -> None:
    model = on_meta()
    assert isinstance(model.backbone, HyperMaps)
    assert [parameters(thin) for thin in model.backbone.thin] == [67_242, 268_842, 537_642]
    first = (126 * 9 * 4 + 4) + (4 * 169 * 256 + 256) + 6 * 257
    second = (126 * 9 * 63 + 63) + (63 * 169 * 4096 + 4096) + (4096 * 4096 + 4096) + 105 * 4097
    assert parameters(model.rpn) == first
    assert parameters(model.roi_heads) == second
    enlarging = 512 * 8 * 8
    total = 14_714_688 + enlarging + 67_242 + 268_842 + 537_642 + first + second
    assert parameters(model) == total == CATALOG["hypernet_vgg16"].golden.parameters[20]
    assert parameters(on_meta(shared_first=True)) == total, "the fast order has the same layers"


@pytest.mark.parametrize(
    ("size", "cells"), [((600, 1000), (150, 250)), ((600, 901), (150, 226)), ((333, 250), (84, 63))]
)
def test_one_map_at_stride_four(size: tuple[int, int], cells: tuple[int, int]) -> None:
    model = on_meta()
    with torch.device("meta"):
        maps = model.backbone(torch.zeros(1, 3, *size))
    assert [tuple(x.shape) for x in maps] == [(1, 126, *cells)]


def test_candidates() -> None:
    model = on_meta()
    assert model.num_boxes((600, 1000)) == 38 * 63 * 12 == 28_728
    heads = model.roi_heads
    assert heads.box_pool == RegionPool(4, 13)
    assert (model.rpn.before_nms, model.rpn.after_nms, model.rpn.nms) == ((1_000, 1_000), (200, 100), 0.7)
    assert heads.nms == 0.3


def test_enlarging_begins_as_bilinear() -> None:
    torch.manual_seed(0)
    maps = HyperMaps(SmallNet((4, 5, 6, 7)), (0, 1, 2), 3)
    x = torch.rand(2, 7, 5, 6)
    expected = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(maps.up(x)[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])


def test_each_part_from_its_own_map() -> None:
    """Channels 0-2 know the fine map, 3-5 the middle one, 6-8 the coarse one."""
    torch.manual_seed(0)
    maps = HyperMaps(SmallNet((4, 5, 6, 7)), (0, 1, 2), 3).eval()
    x = torch.rand(1, 3, 70, 90)
    fine, middle, coarse = maps.body(x)
    (joined,) = maps(x)
    assert joined.shape == (1, 9, 9, 12)
    same = [F.max_pool2d(fine, 2, ceil_mode=True), middle, maps.up(coarse)[..., :9, :12]]
    for part, thin, y in zip(joined.split(3, 1), maps.thin, same, strict=True):
        expected = F.local_response_norm(thin(y).relu(), 5, alpha=1e-4, beta=0.75, k=1.0)
        torch.testing.assert_close(part, expected)


def test_orders_of_the_first_stage() -> None:
    """The paper's order convolves every candidate's pooled features; the fast one pools from a convolved map."""
    torch.manual_seed(0)
    head = CandidateHead(3, RegionPool(4, 5), 8, shared_first=False)
    for layer in (head.score, head.offsets):
        nn.init.normal_(layer.weight)
    x = torch.rand(2, 3, 16, 16)
    boxes = [torch.tensor([[4.0, 4, 40, 40], [0, 0, 60, 30]]), torch.tensor([[10.0, 20, 50, 60]])]

    def rest(pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = head.fc(pooled.flatten(1)).relu()
        return head.score(features).softmax(1)[:, 1], head.offsets(features)

    for order in (False, True):
        head.shared_first = order
        logits, offsets = head(x, boxes)
        if order:
            pooled = roi_pool(head.conv(x).relu(), boxes, 5, 0.25)
        else:
            pooled = head.conv(roi_pool(x, boxes, 5, 0.25)).relu()
        score, wanted = rest(pooled)
        torch.testing.assert_close(logits.sigmoid(), score)
        torch.testing.assert_close(offsets, wanted)


def test_rows_of_candidates_are_their_anchors() -> None:
    """A bright spot changes the scores of the candidates that cover it, in the image that has it, and of no other."""
    torch.manual_seed(0)
    model = small().eval()
    rpn = model.rpn
    nn.init.normal_(rpn.head.score.weight)
    x = torch.rand(2, 48, 20, 20)
    brighter = x.clone()
    brighter[1, :, 10, 5] += 10.0  # pixels 80 to 88 down, 40 to 48 across
    with torch.no_grad():
        before, after = rpn([x], (160, 160)), rpn([brighter], (160, 160))
    assert before.logits.shape == (2, 10 * 10 * 12)
    assert before.counts == (1_200,)
    changed = (before.logits - after.logits).abs() > 1e-4
    assert not bool(changed[0].any())
    a = before.anchors
    near = (a[:, 0] < 40 + 24) & (a[:, 2] > 48 - 24) & (a[:, 1] < 80 + 24) & (a[:, 3] > 88 - 24)
    assert bool(changed[1].any())
    assert not bool(changed[1][~near].any())


def test_at_most_so_many_proposals() -> None:
    model = small(after_nms=(7, 5)).eval()
    frame = Frame((160, 160), (160, 160), (1.0, 1.0))
    batch = Batch(torch.rand(1, 3, 160, 160), (frame,))
    outputs = model.rpn(model.backbone(batch.pixels), batch.size)
    assert len(model.rpn.propose(outputs, batch, training=True)[0]) == 7
    assert len(model.rpn.propose(outputs, batch, training=False)[0]) == 5


def test_small_is_a_detector() -> None:
    assert_is_detector(small())
    assert_is_detector(small(shared_first=False, scales=(2, 4)))


def test_small_overfits() -> None:
    assert_overfits(small(widths=(8, 16, 24, 24), width=12, reduced=24, head_width=64, scales=(2, 4)), steps=150)


def test_small_fits_into_a_megabyte() -> None:
    model = build("hypernet_vgg16", 8, small=True)
    assert all(p.requires_grad for p in model.parameters())
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000
