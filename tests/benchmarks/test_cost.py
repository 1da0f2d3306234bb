"""Cost: counts agree with what one computes by hand, without memory and without data."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import deform_conv2d, nms, roi_align

import benchmarks.cost
import zoo
from benchmarks.cost import cost, count_macs, parse_size
from ops.images import Batch, stack, warp
from zoo.detector import Detector, Spec


class Toy(Detector):
    """A grouped convolution with batch norm, a product, and a frozen weight."""

    def __init__(self, num_classes: int, width: int = 8, size: tuple[int, int] = (32, 32)) -> None:
        super().__init__(num_classes)
        self.size = size
        self.conv = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(width, width, 3, padding=1, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, num_classes)
        self.frozen = nn.Parameter(torch.zeros(5), requires_grad=False)
        self.register_buffer("derived", torch.zeros(1000), persistent=False)

    def preprocess(self, images: list[torch.Tensor]) -> Batch:
        return stack([warp(image, self.size) for image in images])

    def network(self, batch: Batch, targets: Any = None) -> torch.Tensor:
        assert not self.training
        x = self.norm(self.grouped(self.conv(batch.pixels)))
        return self.head(x.flatten(2).transpose(1, 2))

    def num_boxes(self, size: tuple[int, int]) -> int:
        return size[0] * size[1] // 4


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Spec("toy", Toy, 2000, "", "one-stage", None, {"width": 4, "size": (16, 24)}, None, (64, 48))
    for module in (zoo, benchmarks.cost):
        monkeypatch.setattr(module, "CATALOG", {"toy": spec})


def macs_of_toy(width: int, classes: int, cells: int) -> int:
    return cells * (27 * width + 9 * width * width // 4 + width * classes)


def parameters_of_toy(width: int, classes: int) -> int:
    return 28 * width + 9 * width * width // 4 + 2 * width + (width + 1) * classes + 5


@pytest.mark.usefixtures("toy")
def test_paper_size() -> None:
    assert cost("toy", 7) == {
        "parameters": parameters_of_toy(8, 7),
        "buffers": 2 * 8 + 1,
        "macs": macs_of_toy(8, 7, 32 * 24),
        "boxes": 32 * 24,
        "input": [64, 48],
    }


@pytest.mark.usefixtures("toy")
def test_default_is_cocos_classes() -> None:
    assert cost("toy")["parameters"] == parameters_of_toy(8, 80)


@pytest.mark.usefixtures("toy")
def test_size_and_overrides() -> None:
    found = cost("toy", 3, (10, 20), overrides={"width": 16})
    assert found["macs"] == macs_of_toy(16, 3, 5 * 10)
    assert found["parameters"] == parameters_of_toy(16, 3)
    assert found["input"] == [10, 20]


@pytest.mark.usefixtures("toy")
def test_small_size_takes_what_preprocessing_makes_of_shapes() -> None:
    found = cost("toy", 8, small=True)
    assert found["input"] == [16, 24]
    assert found["macs"] == macs_of_toy(4, 8, 8 * 12)


def test_regions_are_what_the_second_stage_looks_at_in_testing() -> None:
    for name, regions in (("rfcn_r101", 300), ("fast_rcnn_vgg16", 2000), ("hypernet_vgg16", 100)):
        with torch.device("meta"):
            assert benchmarks.cost._regions(zoo.build(name, 20)) == regions
    assert benchmarks.cost._regions(Toy(2)) is None


@pytest.mark.usefixtures("toy")
def test_a_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="0x20"):
        cost("toy", 3, (0, 20))


def test_operators_of_torchvision_count() -> None:
    class Proposals(Toy):
        def network(self, batch: Batch, targets: Any = None) -> torch.Tensor:
            maps = batch.pixels.expand(1, 3, -1, -1)
            boxes = torch.zeros((500, 4), device=maps.device)
            boxes = boxes[nms(boxes, boxes[:, 0], 0.5)[:300]]
            pooled = roi_align(maps, [boxes], 7)
            offsets = maps.new_zeros((300, 2 * 9, 7, 7))
            return deform_conv2d(pooled, offsets, maps.new_zeros((6, 3, 3, 3)), padding=1)

    with torch.device("meta"):
        model = Proposals(2)
    assert count_macs(model, (64, 64)) == 300 * 49 * 6 * 27


def test_the_heaviest_kind_of_network_takes_seconds() -> None:
    class Heavy(Toy):
        def __init__(self) -> None:
            super().__init__(1)
            self.layers = nn.Sequential(*(nn.Conv2d(1024, 1024, 3, padding=1) for _ in range(100)))

        def network(self, batch: Batch, targets: Any = None) -> torch.Tensor:
            return self.layers(batch.pixels.new_empty((1, 1024, 512, 512)))

    start = time.perf_counter()
    with torch.device("meta"):
        model = Heavy()
    assert count_macs(model, (512, 512)) == 100 * 1024 * 1024 * 9 * 512 * 512
    assert time.perf_counter() - start < 5


def test_parse_size() -> None:
    assert parse_size("300x512") == (300, 512)
    for wrong in ("300", "300x", "0x300", "300X300", "-3x4", "3x4x5", "3.0x4"):
        with pytest.raises(ValueError, match="height x width"):
            parse_size(wrong)
