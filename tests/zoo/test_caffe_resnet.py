from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.backbones.caffe_resnet import Bottleneck, CaffeResNet


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def randomise(module: nn.Module) -> None:
    """Statistics and scales away from where they start, so that an eval-mode network depends on each."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
            part.running_mean.normal_(std=0.2)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]


def test_parameters_of_resnet101() -> None:
    with torch.device("meta"):
        model = CaffeResNet()
        partial = CaffeResNet(("res3", "res4"))
    assert count(model) == 42_394_816 + 105_344
    # Caffe's blobs of a norm are 2 C + 1 numbers; torch keeps mean, variance and a counter: the same number.
    assert sum(b.numel() for b in model.buffers()) == 105_344 + 104
    stages = (model.res2, model.res3, model.res4, model.res5)
    assert [len(stage) for stage in stages] == [3, 4, 23, 3]
    assert model.channels == (256, 512, 1024, 2048)
    assert model.strides == (4, 8, 16, 32)
    assert partial.channels == (512, 1024)
    assert not hasattr(partial, "res5")


@pytest.mark.parametrize(
    ("side", "dilated", "sides"),
    [
        (321, True, [80, 40, 20, 20]),
        (513, True, [128, 64, 32, 32]),
        (320, False, [80, 40, 20, 10]),
        (512, False, [128, 64, 32, 16]),
        (223, False, [56, 28, 14, 7]),
        (333, True, [83, 42, 21, 21]),
    ],
)
def test_map_sizes(side: int, dilated: bool, sides: list[int]) -> None:
    with torch.device("meta"):
        model = CaffeResNet(dilated=dilated)
        for size in ((side, side), (side, 77)):
            assert [tuple(m.shape[-2:]) for m in model(torch.empty(1, 3, *size))] == model.map_sizes(size)
    assert [height for height, _ in model.map_sizes((side, side))] == sides
    assert model.strides == ((4, 8, 16, 16) if dilated else (4, 8, 16, 32))


def normed(part: nn.Module, x: Tensor, **settings: int) -> Tensor:
    norm = part.norm
    x = F.conv2d(x, part.conv.weight, **settings)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def plain_block(block: Bottleneck, x: Tensor, stride: int, dilation: int, project: bool) -> Tensor:
    """The released prototxt's layers, one after the other."""
    short = normed(block.branch1, x, stride=stride) if project else x
    y = normed(block.branch2a, x, stride=stride).relu()
    y = normed(block.branch2b, y, padding=dilation, dilation=dilation).relu()
    return (normed(block.branch2c, y) + short).relu()


@pytest.mark.parametrize("dilated", [False, True])
def test_maps_are_the_prototxts(dilated: bool) -> None:
    torch.manual_seed(0)
    model = CaffeResNet(blocks=(2, 1, 2, 2), width=4, dilated=dilated).eval()
    randomise(model)
    image = torch.randn(2, 3, 65, 47)
    with torch.no_grad():
        x = normed(model.conv1, image, stride=2, padding=3).relu()
        # Caffe's pooling: rounded up, windows cut off where the map ends.
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)
        for index, found in enumerate(model(image)):
            for row, block in enumerate(getattr(model, f"res{index + 2}")):
                last = dilated and index == 3
                stride = 1 if row or index == 0 or last else 2
                x = plain_block(block, x, stride, 2 if last else 1, project=row == 0)
            torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)


def test_bottleneck_with_a_wide_first_window() -> None:
    """DSSD's extra levels: both ways take the kernel and the stride, and pad nothing."""
    torch.manual_seed(0)
    block = Bottleneck(6, 4, 8, kernel=2, stride=2).eval()
    randomise(block)
    x = torch.randn(1, 6, 9, 8)
    with torch.no_grad():
        found = block(x)
        short = normed(block.branch1, x, stride=2)
        y = normed(block.branch2a, x, stride=2).relu()
        y = normed(block.branch2b, y, padding=1).relu()
        torch.testing.assert_close(found, (normed(block.branch2c, y) + short).relu(), atol=1e-5, rtol=1e-5)
    assert found.shape == (1, 8, 4, 4)
    assert block.map_size((9, 8)) == (4, 4)
    assert Bottleneck(6, 4, 8, kernel=3)(x).shape == (1, 8, 7, 6)
    assert Bottleneck(6, 4, 8, kernel=3).map_size((9, 8)) == (7, 6)


def test_projection() -> None:
    assert isinstance(Bottleneck(8, 2, 8).branch1, nn.Identity)
    assert not isinstance(Bottleneck(8, 2, 8, project=True).branch1, nn.Identity)
    assert not isinstance(Bottleneck(4, 2, 8).branch1, nn.Identity)
    with pytest.raises(ValueError, match="need a projection"):
        Bottleneck(8, 2, 8, stride=2, project=False)


def test_caffe_names() -> None:
    with torch.device("meta"):
        layers = CaffeResNet().caffe_names()
        names = dict(CaffeResNet().named_modules())
    wanted = {name for name, module in names.items() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)}
    assert set(layers) == wanted
    flat = [name for row in layers.values() for name in ([row] if isinstance(row, str) else row)]
    assert len(flat) == len(set(flat)) == 104 * 3
    assert layers["conv1.norm"] == ("bn_conv1", "scale_conv1")
    assert layers["res2.0.branch1.conv"] == "res2a_branch1"
    assert layers["res2.2.branch2c.norm"] == ("bn2c_branch2c", "scale2c_branch2c")
    assert layers["res3.3.branch2b.conv"] == "res3b3_branch2b"
    assert layers["res4.22.branch2a.norm"] == ("bn4b22_branch2a", "scale4b22_branch2a")
    assert layers["res5.1.branch2a.conv"] == "res5b_branch2a"
    with torch.device("meta"):
        shallow = CaffeResNet(blocks=(3, 4, 6, 3)).caffe_names()
    assert shallow["res4.5.branch2c.conv"] == "res4f_branch2c"


@pytest.mark.parametrize("stages", [(), ("res5", "res3"), ("layer1",)])
def test_refuses_stages(stages: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="CaffeResNet"):
        CaffeResNet(stages)


def test_refuses_tiny_inputs() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="too small"):
        CaffeResNet(("res2",)).map_sizes((4, 60))
