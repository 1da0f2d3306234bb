"""ION: sweeps against cells one by one, normalised skip pooling, and parameters counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import roi_pool

from tests.contract import assert_is_detector, assert_overfits
from zoo import CATALOG, build
from zoo.two_stage.ion import ION, IRNN, SkipPool, ion_vgg16


def boxes_everywhere(image: Tensor) -> Tensor:
    return torch.tensor(
        [[x, y, x + s, y + s] for s in (24.0, 40, 60) for x in range(0, 100, 10) for y in range(0, 100, 10)]
    )


def small(**changes: object) -> ION:
    torch.manual_seed(0)
    model = build("ion_vgg16", 2, small=True, **changes)
    assert isinstance(model, ION)
    model.proposer = boxes_everywhere
    return model


def test_parameters() -> None:
    """Counted by hand: VGG's convolutions, the context, scales, the mixing layer, and Fast R-CNN's head."""
    with torch.device("meta"):
        model = ion_vgg16(20)
    context = (512 * 512 + 512) + 4 * 512**2 + (2048 * 512 + 512) + 4 * 512**2 + (2048 * 512 + 512)
    pooled = 256 + 512 + 512 + 512
    skip = pooled + pooled * 512 + 512
    assert sum(p.numel() for p in model.backbone.parameters()) == 14_714_688 + context
    total = 134_690_729 + context + skip
    assert sum(p.numel() for p in model.parameters()) == total == CATALOG["ion_vgg16"].golden.parameters[20]


def slowly(layer: IRNN, x: Tensor) -> Tensor:
    """Cell by cell."""
    u = layer.input(x)
    batch, hidden, height, width = u.shape
    answer = torch.zeros(batch, 4, hidden, height, width)
    ways = [(0, 1), (0, -1), (1, 0), (-1, 0)]
    for image in range(batch):
        for way, (dy, dx) in enumerate(ways):
            rows = range(height) if dy >= 0 else range(height - 1, -1, -1)
            columns = range(width) if dx >= 0 else range(width - 1, -1, -1)
            for i in rows:
                for j in columns:
                    value = u[image, :, i, j]
                    if 0 <= i - dy < height and 0 <= j - dx < width:
                        value = value + layer.recurrent[way] @ answer[image, way, :, i - dy, j - dx].clone()
                    answer[image, way, :, i, j] = value.relu()
    return answer.flatten(1, 2)


def test_sweeps_against_cells() -> None:
    torch.manual_seed(0)
    layer = IRNN(3, 4)
    nn.init.normal_(layer.recurrent, std=0.4)
    x = torch.randn(2, 3, 4, 5)
    found, expected = layer(x), slowly(layer, x)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    ours = torch.autograd.grad((found * weight).sum(), list(layer.parameters()))
    theirs = torch.autograd.grad((expected * weight).sum(), list(layer.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_begins_as_running_sums() -> None:
    """With the identity and nothing negative, a cell hears the sum of all before it."""
    layer = IRNN(2, 2)
    with torch.no_grad():
        layer.input.weight.copy_(torch.eye(2)[:, :, None, None])
        layer.input.bias.zero_()
    x = torch.rand(1, 2, 3, 4)
    expected = [x.cumsum(3), x.flip(3).cumsum(3).flip(3), x.cumsum(2), x.flip(2).cumsum(2).flip(2)]
    torch.testing.assert_close(layer(x), torch.cat(expected, 1))


def test_two_layers_hear_of_the_whole_image() -> None:
    """After one layer a corner's gradient reaches its row and column; after two, every cell."""
    torch.manual_seed(0)
    model = small()
    x = torch.rand(1, 48, 5, 6, requires_grad=True)
    with torch.no_grad():
        for layer in (model.backbone.first, model.backbone.second):
            layer.input.weight.abs_()
    for layers, cells in ((1, 5 + 6 - 1), (2, 5 * 6)):
        y = model.backbone.first(x)
        if layers == 2:
            y = model.backbone.second(y)
        (gradient,) = torch.autograd.grad(y[..., 2, 3].sum(), x)
        assert int((gradient.abs().sum(1) > 0).sum()) == cells


def test_pooled_shares_have_length_one() -> None:
    torch.manual_seed(0)
    maps = [100 * torch.rand(2, 3, 16, 16), 0.1 * torch.rand(2, 5, 8, 8)]
    boxes = [torch.tensor([[4.0, 4, 30, 40], [0, 0, 60, 60]]), torch.tensor([[10.0, 0, 50, 20]])]
    pooled = SkipPool((4, 8), 7)(maps, boxes)
    assert pooled.shape == (3, 8, 7, 7)
    for share, x, stride in ((pooled[:, :3], maps[0], 4), (pooled[:, 3:], maps[1], 8)):
        torch.testing.assert_close(share.flatten(1).norm(dim=1), torch.ones(3))
        plain = roi_pool(x, boxes, 7, 1 / stride)
        torch.testing.assert_close(share, plain / plain.flatten(1).norm(dim=1)[:, None, None, None])
    assert bool(torch.isfinite(SkipPool((4, 8))([0 * x for x in maps], boxes)).all())


def test_maps_of_the_paper() -> None:
    with torch.device("meta"):
        model = ion_vgg16(20)
        maps = model.backbone(torch.zeros(1, 3, 600, 800))
    assert [tuple(x.shape[1:]) for x in maps] == [(256, 150, 200), (512, 75, 100), (512, 38, 50), (512, 38, 50)]
    assert isinstance(model.roi_heads.box_pool, SkipPool)
    assert model.roi_heads.box_pool.strides == (4, 8, 16, 16)


@pytest.mark.parametrize("part", ["first", "second"])
def test_sweeps_learn(part: str) -> None:
    model = small()
    assert getattr(model.backbone, part).recurrent.requires_grad


def test_small_is_a_detector() -> None:
    assert_is_detector(small())


def test_small_overfits() -> None:
    assert_overfits(small(widths=(8, 16, 24), hidden=8, reduced=24, head_width=48, samples=24), steps=100)


def test_small_fits_into_a_megabyte() -> None:
    model = build("ion_vgg16", 8, small=True)
    assert all(p.requires_grad for p in model.parameters())
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000
