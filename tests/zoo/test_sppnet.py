"""SPPnet: windows and pyramid by their slow definitions, the choice of a scale, and what `fit` promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tests.contract import assert_is_fitted_detector, toy_images
from zoo import build
from zoo.backbones.zf import ZF5, PlaneNorm
from zoo.two_stage.sppnet import SPPNet, map_windows, pyramid_pool, sppnet_zf5


def tiny(steps: int = 50, scales: tuple[int, ...] = (96,)) -> SPPNet:
    torch.manual_seed(0)
    sizes = {"widths": (8, 12, 16), "head_width": 32, "scales": scales, "longest": 400}
    model = build("sppnet_zf5", 2, small=True, **sizes, steps=steps)
    assert isinstance(model, SPPNet)
    return model


def slow_window(box: list[float], size: tuple[int, int], stride: int, first: float, reach: float) -> list[int]:
    """The release's, which counts pixels and cells from 1 and includes the last."""
    answer = [0, 0, 0, 0]
    for axis in range(2):
        low, high = box[axis] + 1, box[axis + 2]
        start = math.floor((low - (first + 1) + reach) / stride + 0.5) + 1
        end = math.ceil((high - (first + 1) - reach) / stride - 0.5) + 1
        if start > end:
            start = end = int((start + end) / 2)
        limit = size[1 - axis]
        answer[axis], answer[axis + 2] = (min(limit, max(1, cell)) - 1 for cell in (start, end))
    return answer


def test_windows_are_the_releases() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = (torch.rand((200, 2), generator=generator) * 600).round()
    boxes = torch.cat([corner, corner + 20 + (torch.rand((200, 2), generator=generator) * 300).round()], 1)
    windows = map_windows(boxes, (36, 50), 16, 20, 6.5)
    assert windows.tolist() == [slow_window(box, (36, 50), 16, 20, 6.5) for box in boxes.tolist()]
    assert bool((windows[:, 2:] >= windows[:, :2]).all())
    # A box that begins and ends at the edges of the cells around the centres 36 and 84.
    assert map_windows(torch.tensor([[28.0, 28, 92, 92]]), (36, 50), 16, 20, 6.5).tolist() == [[1, 1, 4, 4]]


def test_a_cells_centre_is_where_the_backbone_says() -> None:
    net = ZF5()
    for pool in ("pool1", "pool2"):
        # What a cell sees is symmetric, unlike the places of largest values.
        net.layers.register_module(pool, nn.AvgPool2d(3, 2, ceil_mode=True))
    image = torch.rand((1, 3, 224, 224)).requires_grad_()
    cells = net(image)
    assert cells.shape == (1, 256, 13, 13)
    cells[0, :, 6, 6].sum().backward()
    assert image.grad is not None
    seen = torch.nonzero(image.grad[0].abs().sum((0, 1))).flatten()
    assert (seen[0] + seen[-1]).item() / 2 == ZF5.first + 6 * ZF5.stride


def slow_pool(features: Tensor, window: list[int], divisions: tuple[int, ...]) -> list[float]:
    x1, y1, x2, y2 = window
    width, height = x2 - x1 + 1, y2 - y1 + 1
    values = []
    for n in divisions:
        for channel in features:
            for row in range(n):
                for column in range(n):
                    top, bottom = y1 + math.floor(row * height / n), y1 + math.ceil((row + 1) * height / n)
                    left, right = x1 + math.floor(column * width / n), x1 + math.ceil((column + 1) * width / n)
                    values.append(channel[top:bottom, left:right].max().item())
    return values


def test_pyramid_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.rand((2, 9, 12), generator=generator)
    windows = torch.tensor([[0, 0, 11, 8], [3, 2, 3, 2], [1, 1, 7, 4], [10, 0, 11, 8], [2, 3, 8, 9 - 1]])
    pooled = pyramid_pool(features, windows, (6, 3, 2, 1))
    assert pooled.shape == (5, 2 * 50)
    for row, window in zip(pooled, windows.tolist(), strict=True):
        assert row.tolist() == pytest.approx(slow_pool(features, window, (6, 3, 2, 1)))


def test_plane_norm_is_caffes() -> None:
    x = torch.rand((1, 2, 4, 5), generator=torch.Generator().manual_seed(0)) * 300
    answer = PlaneNorm(3, 5e-5, 0.75)(x)
    for channel, row, column in ((0, 0, 0), (1, 2, 3), (0, 3, 4)):
        near = x[0, channel, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        wanted = x[0, channel, row, column] / (1 + 5e-5 / 9 * (near**2).sum()) ** 0.75
        assert answer[0, channel, row, column].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_counts() -> None:
    with torch.device("meta"):
        model = sppnet_zf5(20)
    assert model.fc6.in_features == 12_800
    assert sum(p.numel() for p in model.features.parameters()) == 3_726_464
    assert sum(p.numel() for p in model.parameters()) == 73_026_709
    assert not any(p.requires_grad for p in model.features.parameters()), "only the fully connected layers learn"
    assert model.regressors.weight.shape == (20, 4, 12_800)


def test_regions_go_to_the_scale_at_which_they_are_nearest_to_224() -> None:
    model = tiny()
    boxes = torch.tensor([[0.0, 0, 224, 224], [0, 0, 112, 112], [0, 0, 448, 112], [0, 0, 30, 30], [0, 0, 900, 900]])
    assert model.best_scales(boxes, [(0.5, 0.5), (1.0, 1.0), (2.0, 2.0)]).tolist() == [1, 2, 1, 2, 0]


def test_each_region_is_pooled_at_its_own_scale() -> None:
    model = tiny(scales=(96, 192)).eval()
    images = toy_images()
    boxes = [torch.tensor([[0.0, 0, 160, 120], [10, 10, 30, 30]]), torch.tensor([[5.0, 5, 130, 160]])]
    with torch.no_grad():
        model.expected = 100.0
        best = model.best_scales(boxes[0], [(0.8, 0.8), (1.6, 1.6)])
        assert best.tolist() == [0, 1]
        both = model.describe(model.preprocess(images), boxes)
        for number, scale in enumerate(model.scales):
            single = tiny(scales=(scale,)).eval()
            single.load_state_dict(model.state_dict())
            alone = single.describe(single.preprocess(images[:1]), boxes[:1])
            torch.testing.assert_close(both[number], alone[number])
    assert both.shape == (3, 16 * 50)


def test_gradient_goes_through_the_pooling_at_the_small_size() -> None:
    model = tiny().train()
    images = toy_images()
    boxes = [torch.tensor([[5.0, 5, 60, 70]]), torch.tensor([[20.0, 30, 130, 160]])]
    model.head(model.describe(model.preprocess(images), boxes)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.features.parameters())


def test_contract() -> None:
    assert_is_fitted_detector(tiny, parameters=True)
