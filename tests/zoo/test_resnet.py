from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet50
from torchvision.ops.misc import FrozenBatchNorm2d

from zoo.backbones.resnet import ResNet


def count(model: nn.Module, learning: bool = False) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not learning)


@pytest.mark.parametrize(("depth", "convolutions", "norms"), [(50, 23_454_912, 53_120), (101, 42_394_816, 105_344)])
def test_parameters(depth: int, convolutions: int, norms: int) -> None:
    with torch.device("meta"):
        frozen, learning = ResNet(depth), ResNet(depth, norm=nn.BatchNorm2d)
    assert count(frozen) == convolutions
    assert count(learning) == convolutions + norms
    buffers = sum(b.numel() for b in frozen.buffers())
    assert buffers == 2 * norms, "scale, shift, mean and variance"


def test_parameters_by_stage() -> None:
    with torch.device("meta"):
        model = ResNet(50)
    stages = (model.conv1, model.layer1, model.layer2, model.layer3, model.layer4)
    assert [count(stage) for stage in stages] == [9_408, 212_992, 1_212_416, 7_077_888, 14_942_208]


def test_resnext() -> None:
    with torch.device("meta"):
        model = ResNet(101, groups=32, group_width=8)
    # torchvision's ResNeXt-101 32x8d without its fc (2,049,000) and with the norms (202,880) as buffers.
    assert count(model) == 88_791_336 - 2_049_000 - sum(b.numel() for b in model.buffers()) // 2


@pytest.mark.parametrize(
    ("trainable", "frozen"), [(5, ()), (4, ("conv1",)), (3, ("conv1", "layer1")), (1, ("conv1", "layer1", "layer3"))]
)
def test_what_learns(trainable: int, frozen: tuple[str, ...]) -> None:
    with torch.device("meta"):
        model = ResNet(18, trainable=trainable, norm=nn.BatchNorm2d)
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        learns = {p.requires_grad for p in model.get_submodule(name).parameters()}
        if name in frozen:
            assert learns == {False}
    assert {p.requires_grad for p in model.bn1.parameters()} == {trainable == 5}
    assert {p.requires_grad for p in model.layer4.parameters()} == {True}


def test_names_are_torchvisions() -> None:
    with torch.device("meta"):
        theirs = [key for key in resnet50(norm_layer=FrozenBatchNorm2d).state_dict() if not key.startswith("fc.")]
        assert list(ResNet(50).state_dict()) == theirs


def test_maps_are_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = resnet18(num_classes=1).eval()
    ours = ResNet(18, norm=nn.BatchNorm2d).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    image = torch.rand(1, 3, 70, 50)
    with torch.no_grad():
        maps = ours(image)
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        for found, stage in zip(maps, (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), strict=True):
            x = stage(x)
            assert torch.equal(found, x)
    for found, stride, channels in zip(maps, ours.strides, ours.channels, strict=True):
        assert found.shape == (1, channels, -(-70 // stride), -(-50 // stride))


def test_frozen_norms_fold_like_batch_norms() -> None:
    torch.manual_seed(0)
    plain, frozen = ResNet(18, norm=nn.BatchNorm2d).eval(), ResNet(18)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    frozen.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(frozen.train()(image), plain(image), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_dilation_keeps_the_stride() -> None:
    model = ResNet(50, dilated=(False, False, True))
    assert model.strides == (4, 8, 16, 16)
    with torch.no_grad():
        maps = model(torch.rand(1, 3, 64, 64))
    assert [x.shape[-1] for x in maps] == [16, 8, 4, 4]


@pytest.mark.parametrize("settings", [{"depth": 51}, {"trainable": 6}])
def test_refuses(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="ResNet"):
        ResNet(**settings)  # type: ignore[arg-type]
