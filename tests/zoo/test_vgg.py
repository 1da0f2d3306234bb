import pytest
import torch
from torchvision.models import vgg16

from zoo.backbones.vgg import VGG16, vgg16_layers


def test_parameters() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in VGG16().parameters()) == 14_714_688


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_same_maps_as_torchvision(ceil_mode: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = VGG16(ceil_mode), vgg16(weights=None).features[:30].eval()
    for layer in theirs:
        if isinstance(layer, torch.nn.MaxPool2d):
            layer.ceil_mode = ceil_mode
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.rand(1, 3, 38, 50)
    with torch.no_grad():
        maps = ours(x)
        torch.testing.assert_close(maps[4], theirs(x))
        torch.testing.assert_close(maps[3], theirs[:23](x))
    assert [m.shape[1] for m in maps] == list(ours.channels)


def test_ceil_mode_gives_ssd_its_38() -> None:
    with torch.device("meta"):
        image = torch.empty(1, 3, 300, 300)
        assert [m.shape[-1] for m in VGG16(ceil_mode=True)(image)] == [300, 150, 75, 38, 19]
        assert [m.shape[-1] for m in VGG16(ceil_mode=False)(image)] == [300, 150, 75, 37, 18]


def test_layers_are_named_as_in_the_paper() -> None:
    with torch.device("meta"):
        names = [name for stage in vgg16_layers() for name, _ in stage.named_children()]
    convs = [name for name in names if name.startswith("conv")]
    assert convs == ["conv1_1", "conv1_2", "conv2_1", "conv2_2"] + [
        f"conv{s}_{i}" for s in (3, 4, 5) for i in (1, 2, 3)
    ]
    assert [name for name in names if name.startswith("pool")] == ["pool1", "pool2", "pool3", "pool4"]


def test_signal_keeps_its_scale() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        maps = VGG16()(torch.randn(1, 3, 64, 64))
    assert 0.1 < maps[-1].std() < 10
