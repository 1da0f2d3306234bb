"""MR-CNN: its regions, one head each, looking twice, voting, and the segmentation-aware switch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou, roi_pool

from ops.images import Batch, Frame
from ops.rings import ring_pool
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits
from zoo import CATALOG, build
from zoo.two_stage.fast_rcnn import TwoStageOutputs
from zoo.two_stage.mr_cnn import MRCNN, REGIONS, MultiHead, MultiPool, Region, mr_cnn_vgg16


def boxes_everywhere(image: Tensor) -> Tensor:
    corners = [(x, y) for x in range(0, 100, 12) for y in range(0, 100, 12)]
    return torch.tensor([[x, y, x + side, y + side] for side in (24.0, 40, 60) for x, y in corners])


def small(num_classes: int = 2, **changes: object) -> MRCNN:
    torch.manual_seed(0)
    model = build("mr_cnn_vgg16", num_classes, small=True, **changes)
    assert isinstance(model, MRCNN)
    model.proposer = boxes_everywhere
    return model


def test_parameters() -> None:
    """Ten heads for classes and one for boxes, each with fc6 and fc7 as in Fast R-CNN."""
    head = 25_088 * 4_096 + 4_096 + 4_096 * 4_096 + 4_096
    with torch.device("meta"):
        model = mr_cnn_vgg16(20)
        aware = mr_cnn_vgg16(20, semantic=True)
    total = 14_714_688 + 11 * head + 21 * (10 * 4_096 + 1) + 84 * 4_097
    assert sum(p.numel() for p in model.parameters()) == total == CATALOG["mr_cnn_vgg16"].golden.parameters[20]
    more = head + 21 * 4_096 + (512 * 9 * 512 + 512) + 20 * 513
    assert sum(p.numel() for p in aware.parameters()) == total + more


def test_regions_of_the_paper() -> None:
    box = torch.tensor([[100.0, 50, 300, 150]])
    expected = [
        ([100, 50, 300, 150], None),
        ([100, 50, 200, 150], None),
        ([200, 50, 300, 150], None),
        ([100, 50, 300, 100], None),
        ([100, 100, 300, 150], None),
        ([150, 75, 250, 125], None),
        ([120, 60, 280, 140], [170, 85, 230, 115]),
        ([100, 50, 300, 150], [150, 75, 250, 125]),
        ([50, 25, 350, 175], [120, 60, 280, 140]),
        ([20, 10, 380, 190], [100, 50, 300, 150]),
    ]
    for region, (wanted, hole) in zip(REGIONS, expected, strict=True):
        outer, inner = region.boxes(box)
        torch.testing.assert_close(outer, torch.tensor([wanted]).float())
        assert (hole is None) == (region.inner == 0)
        if hole is not None:
            torch.testing.assert_close(inner, torch.tensor([hole]).float())


def test_each_region_is_pooled_and_read_by_its_own_head() -> None:
    torch.manual_seed(0)
    maps = [torch.rand(2, 3, 10, 10), torch.rand(2, 4, 10, 10)]
    boxes = [torch.tensor([[10.0, 10, 60, 70], [0, 20, 30, 40]]), torch.tensor([[5.0, 5, 50, 50]])]
    ring = Region(1.5, 0.8)
    pooled = MultiPool(8, 4, (Region(1.3), ring), Region(1.5))(maps, boxes)
    assert pooled.shape == (3, 10, 4, 4)
    first, second, third = pooled.split((3, 3, 4), 1)
    torch.testing.assert_close(first, roi_pool(maps[0], [Region(1.3).boxes(b)[0] for b in boxes], 4, 1 / 8))
    torch.testing.assert_close(third, roi_pool(maps[1], [Region(1.5).boxes(b)[0] for b in boxes], 4, 1 / 8))
    torch.testing.assert_close(second[2:], ring_pool(maps[0][1:], *([part] for part in ring.boxes(boxes[1])), 4, 1 / 8))

    head = MultiHead((3, 3, 4), 4, 6, 0.0)
    classes, places = head(pooled)
    torch.testing.assert_close(places, head.heads[0](first))
    torch.testing.assert_close(classes, torch.cat([head.heads[1](second), head.heads[2](third)], 1))


class Scripted(nn.Module):
    """A second stage that moves every box a tenth of its width to the right and is surer each time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Tensor] = []

    def forward(self, maps: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        (own,) = boxes
        self.calls.append(own)
        offsets = torch.zeros(len(own), 3, 4)
        offsets[:, :, 0] = 10 * 0.1
        return torch.tensor([[0.0, 2.0 + len(self.calls), 0]]).expand(len(own), 3), offsets


def looked_at(model: MRCNN, regions: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    script = Scripted()
    script.box_pool, script.coder = model.roi_heads.box_pool, model.roi_heads.coder
    script.score_floor, script.nms, script.limit = 0.05, 0.3, 100
    model.roi_heads = script  # type: ignore[assignment]
    frame = Frame((160, 160), (160, 160), (1.0, 1.0))
    logits, offsets = script([], [regions])
    outputs = TwoStageOutputs([torch.zeros(1, 1, 20, 20)], None, [regions], logits, offsets)
    with torch.no_grad():
        (found,) = model.postprocess(outputs, Batch(torch.zeros(1, 3, 160, 160), (frame,)))
    first = found[found.labels == 0]
    return first.boxes, first.scores, script.calls


def test_looking_twice() -> None:
    """The box that came out goes in again; scores are those of the box that went in."""
    box = torch.tensor([[20.0, 20, 60, 60]])
    boxes, scores, calls = looked_at(small(rounds=2, voting=None), box)
    assert calls[1].tolist()[0] == pytest.approx([24.0, 20, 64, 60])
    torch.testing.assert_close(boxes[:1], torch.tensor([[28.0, 20, 68, 60]]))
    assert scores[0].item() == pytest.approx(torch.tensor([0.0, 4, 0]).softmax(0)[1].item())
    boxes, _, calls = looked_at(small(rounds=1, voting=None), box)
    assert len(calls) == 1
    torch.testing.assert_close(boxes[:1], torch.tensor([[24.0, 20, 64, 60]]))


def test_voting() -> None:
    """A detection becomes the mean, by score, of all boxes of its class that overlap it by half, kept or not."""
    box = torch.tensor([[20.0, 20, 60, 60]])
    boxes, _, _ = looked_at(small(rounds=2, voting=0.5), box)
    sure = [torch.tensor([0.0, value, 0]).softmax(0)[1].item() for value in (3.0, 4.0)]
    left = (24 * sure[0] + 28 * sure[1]) / sum(sure)
    torch.testing.assert_close(boxes[:1], torch.tensor([[left, 20, left + 40, 60]]))
    assert float(box_iou(torch.tensor([[24.0, 20, 64, 60]]), torch.tensor([[28.0, 20, 68, 60]]))) > 0.5


def test_semantic_loss() -> None:
    """A cell belongs to a class where its middle lies in a box of it; a confident right answer costs nothing."""
    model = small(semantic=True)
    frame = Frame((160, 160), (160, 160), (1.0, 1.0))
    batch = Batch(torch.rand(1, 3, 160, 160), (frame,), (torch.rand(3, 160, 160),))
    target = Target(torch.tensor([[16.0, 32, 64, 80]]), torch.tensor([1]), proposals=torch.tensor([[20.0, 30, 60, 80]]))
    outputs = model.network(batch, [target])
    assert [tuple(x.shape) for x in outputs.maps] == [(1, 32, 20, 20), (1, 32, 20, 20), (1, 2, 20, 20)]
    right = torch.full((1, 2, 20, 20), -20.0)
    right[0, 1, 4:10, 2:8] = 20.0
    outputs.maps[2] = right
    assert model.losses(outputs, batch, [target])["semantic"].item() == pytest.approx(0, abs=1e-6)
    right[0, 1, 4, 2] = -20.0
    assert model.losses(outputs, batch, [target])["semantic"].item() == pytest.approx(20 / 800, rel=1e-4)


@pytest.mark.parametrize("semantic", [False, True])
def test_small_is_a_detector(semantic: bool) -> None:
    assert_is_detector(small(semantic=semantic))


def test_small_overfits() -> None:
    assert_overfits(small(widths=(8, 16, 16), head_width=16, pool_size=4, samples=24), steps=90)


def test_small_fits_into_a_megabyte() -> None:
    model = build("mr_cnn_vgg16", 8, small=True)
    assert all(p.requires_grad for p in model.parameters())
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000
