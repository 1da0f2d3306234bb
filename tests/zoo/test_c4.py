"""Faster R-CNN on conv4 of ResNet: golden numbers in both conventions, and where the stages lie and stride."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet
from torchvision.ops import roi_align
from torchvision.ops.misc import FrozenBatchNorm2d

from tests.contract import assert_is_detector, assert_overfits
from zoo import CATALOG, build
from zoo.backbones.resnet import ResNet
from zoo.two_stage.c4 import RECIPE, StageHead, faster_rcnn_r50_c4, faster_rcnn_r101_c4
from zoo.two_stage.faster_rcnn import FasterRCNN

CAFFE: dict[str, Any] = {"rpn_width": 512, "softmax": True}


def on_meta(num_classes: int = 80, **changes: Any) -> FasterRCNN:
    with torch.device("meta"):
        return faster_rcnn_r50_c4(num_classes, **changes)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def affine(module: nn.Module) -> int:
    """Scales and shifts of normalisation that never learns."""
    return sum(m.weight.numel() + m.bias.numel() for m in module.modules() if isinstance(m, FrozenBatchNorm2d))


@pytest.mark.parametrize(
    ("num_classes", "depth", "changes", "with_affine"),
    [
        (80, 50, {}, 33_852_960),
        (80, 101, {}, 52_845_088),
        (20, 50, {**CAFFE, "scales": (8, 16, 32)}, 28_469_983),
        (20, 101, {**CAFFE, "scales": (8, 16, 32)}, 47_462_111),
        (80, 50, {**CAFFE, "scales": (4, 8, 16, 32)}, 29_093_917),
        (80, 101, {**CAFFE, "scales": (4, 8, 16, 32)}, 48_086_045),
    ],
)
def test_parameters_with_the_norms(num_classes: int, depth: int, changes: dict[str, Any], with_affine: int) -> None:
    model = on_meta(num_classes, depth=depth, **changes)
    assert affine(model) == {50: 53_120, 101: 105_344}[depth]
    assert parameters(model) + affine(model) == with_affine


@pytest.mark.parametrize(("depth", "count"), [(50, 33_791_644), (101, 52_731_548)])
def test_parameters_as_detectron2_counts(depth: int, count: int) -> None:
    """Without norms, and without a box of the background."""
    model = on_meta(depth=depth)
    assert parameters(model) - 4 * (2_048 + 1) == count


def test_parameters_by_part() -> None:
    model = on_meta()
    assert parameters(model.rpn) == 9_515_083
    assert parameters(model.roi_heads.box_predictor) == 821_649 + 4 * 2_049
    assert parameters(model.roi_heads.box_head) == 14_942_208
    assert affine(model.roi_heads.box_head) == 22_528
    assert parameters(model.backbone) == 9_408 + 212_992 + 1_212_416 + 7_077_888
    frozen = {name.split(".")[2] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}


def test_shapes_and_strides() -> None:
    """The head halves 14x14 to 7x7, on the 1x1 of its first block and on the projection."""
    model = on_meta()
    head = model.roi_heads.box_head
    assert isinstance(head, StageHead)
    with torch.device("meta"):
        assert model.backbone(torch.zeros(1, 3, 600, 1000))[0].shape == (1, 1_024, 38, 63)
        assert head.stage(torch.zeros(2, 1_024, 14, 14)).shape == (2, 2_048, 7, 7)
        assert head(torch.zeros(2, 1_024, 14, 14)).shape == (2, 2_048)
    (first, *_) = head.stage.children()
    assert isinstance(first, resnet.Bottleneck)
    assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))
    assert model.num_boxes((600, 1000)) == 38 * 63 * 15
    assert on_meta(scales=(8, 16, 32)).num_boxes((600, 1000)) == 21_546


def test_head_is_the_network_cut_in_two() -> None:
    """A region pooled to just the map (RoIAlign lies half a cell off) goes the way of the uncut network."""
    torch.manual_seed(0)
    whole = ResNet(18, trainable=5).eval()
    image = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        expected = whole(image)[-1].mean((2, 3))
        assert whole.strides == (4, 8, 16, 32)
        head = StageHead(whole.pop_stage())
        assert (whole.strides, whole.channels) == ((4, 8, 16), (64, 128, 256))
        assert "layer4" not in dict(whole.named_children())
        cut = whole(image)[-1]
        pooled = roi_align(cut, [torch.tensor([[-8.0, -8, 88, 88]])], 6, 1 / 16, 1)
        torch.testing.assert_close(pooled, cut)
        torch.testing.assert_close(head(pooled), expected)


def test_stride_on_the_first_convolution_samples_every_second_pixel() -> None:
    torch.manual_seed(0)
    block = ResNet(50, stride_first=True).layer2[0]
    assert isinstance(block, resnet.Bottleneck)
    x = torch.rand(1, 256, 8, 8)
    short = F.conv2d(x[..., ::2, ::2], block.downsample[0].weight)  # type: ignore[index]
    y = F.conv2d(x[..., ::2, ::2], block.conv1.weight)
    y = block.bn1(y).relu()
    y = block.bn2(F.conv2d(y, block.conv2.weight, padding=1)).relu()
    y = block.bn3(F.conv2d(y, block.conv3.weight))
    torch.testing.assert_close(block(x), (y + block.downsample[1](short)).relu())  # type: ignore[index]


def test_settings_of_detectron() -> None:
    model = on_meta()
    heads = model.roi_heads
    assert (model.rpn.before_nms, model.rpn.after_nms, model.rpn.inside_only) == ((12_000, 6_000), (2_000, 1_000), True)
    assert (heads.samples, heads.nms, heads.limit, heads.score_floor, heads.beta) == (512, 0.5, 100, 0.05, 1.0)
    assert heads.box_pool.size == 14
    assert (RECIPE.batch, RECIPE.rate(0), RECIPE.rate(500), RECIPE.rate(179_999)) == pytest.approx(
        (8, 0.01 * (1 / 3 + 2 / 1500), 0.01, 1e-4)
    )
    widths = model.rpn.get_buffer("shapes0")
    with torch.device("cpu"):
        shapes = faster_rcnn_r50_c4(2, backbone="small").rpn.get_buffer("shapes0")
    assert widths.shape == shapes.shape == (15, 4)


def test_deep_one_is_the_other_deeper() -> None:
    with torch.device("meta"):
        model = faster_rcnn_r101_c4(80)
    assert parameters(model) == CATALOG["faster_rcnn_r101_c4"].golden.parameters[80]
    assert type(model) is type(on_meta())


def test_small_is_a_detector() -> None:
    torch.manual_seed(0)
    assert_is_detector(build("faster_rcnn_r101_c4", 8, small=True))


def test_small_overfits() -> None:
    model = build("faster_rcnn_r101_c4", 2, small=True, widths=(16, 24, 32, 48), pool_size=6, samples=24)
    assert_overfits(model, steps=100)


def test_small_fits_into_a_megabyte() -> None:
    model = build("faster_rcnn_r101_c4", 8, small=True)
    assert type(model) is type(on_meta())
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000
