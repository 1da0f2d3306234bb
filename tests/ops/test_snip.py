"""SNIP: gradients from objects in range only; others are neither right nor wrong; so with detections at test."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from benchmarks.multiscale import PROTOCOLS, MultiScale, Protocol, Scale
from ops.match import BETWEEN
from ops.nms import Suppression
from ops.snip import check_range, in_range, regions_in_range, without_invalid
from ops.structures import Detections, Target
from tests.contract import assert_is_detector, squares, toy_images
from zoo import build
from zoo.detector import Detector
from zoo.two_stage.faster_rcnn import FasterRCNN


def squares_of(*sides: float) -> Tensor:
    return torch.tensor([[0.0, 0.0, side, side] for side in sides])


@pytest.mark.parametrize(
    ("given", "checked"), [(None, None), ((0, 80), (0, 80)), ([120, None], (120, None)), ((None, 5), (0.0, 5))]
)
def test_a_range_has_two_ends(given: object, checked: object) -> None:
    assert check_range(given) == checked  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [(1.0,), (1.0, 2.0, 3.0), (80.0, 40.0), (5.0, 5.0), (-1.0, 5.0)])
def test_wrong_ranges(wrong: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="a valid range"):
        check_range(wrong)


def test_size_is_the_root_of_the_area() -> None:
    boxes = torch.cat([squares_of(39.9, 40, 160, 160.1), torch.tensor([[10.0, 0, 20, 160], [5, 5, 1, 1]])])
    assert in_range(boxes, (40, 160)).tolist() == [False, True, True, False, True, False]
    assert in_range(boxes, (120, None)).tolist() == [False, False, True, True, False, False]


def test_anchors_near_an_invalid_object_take_no_part() -> None:
    matches = torch.tensor([0, -1, -1, BETWEEN, 1])
    overlaps = torch.tensor([[0.31, 0.3, 0.0, 0.0, 0.0], [0.0, 0.0, 0.9, 0.9, 0.1]])
    assert without_invalid(matches, overlaps).tolist() == [BETWEEN, -1, BETWEEN, BETWEEN, 1]
    assert torch.equal(without_invalid(matches, overlaps[:0]), matches)


def test_regions_need_a_valid_size_and_a_valid_object() -> None:
    found = squares_of(10, 50)
    boxes = squares_of(10, 12, 22, 48, 50, 60)
    objects = torch.tensor([0, 0, 0, 1, 1, -1])
    assert regions_in_range(boxes, objects, found, (11, 55)).tolist() == [False, False, False, True, True, False]
    assert regions_in_range(boxes, torch.full((6,), -1), found[:0], (11, 55)).tolist() == [0, 1, 1, 1, 1, 0]


def small(**changes: object) -> FasterRCNN:
    torch.manual_seed(0)
    model = build("faster_rcnn_r50_fpn", 2, small=True, **changes)
    assert isinstance(model, FasterRCNN)
    return model


TWO = Target(torch.tensor([[16.0, 16, 32, 32], [60, 50, 140, 130]]), torch.tensor([0, 1]))


def test_which_anchors_and_regions_learn() -> None:
    model = small(valid_range=(30, None)).train()
    everything = 10**6
    model.rpn.samples = model.roi_heads.samples = everything
    batch = model.preprocess([torch.rand(3, 160, 160)])
    outputs = model.network(batch, [TWO])
    (sample,) = outputs.samples or [None]
    assert sample is not None
    assert 0 not in sample.objects.tolist(), "the small object teaches nothing"
    assert 1 in sample.objects.tolist()
    assert in_range(sample.boxes, (30, None)).all()
    assert outputs.rpn is not None
    # The loss of an anchor that lies on the small object does not matter.
    anchors = outputs.rpn.anchors
    on_small = (anchors - TWO.boxes[0]).abs().sum(1).argmin()
    logits = outputs.rpn.logits.detach().clone().requires_grad_()
    losses = model.rpn.losses(type(outputs.rpn)(logits, outputs.rpn.offsets, anchors, outputs.rpn.counts), batch, [TWO])
    losses["objectness"].backward()
    assert logits.grad is not None
    assert logits.grad[0, on_small] == 0
    assert (logits.grad[0] < 0).sum() > 0, "the large one's anchors are positives"
    whole = small().train()
    whole.rpn.samples = everything
    logits.grad = None
    whole.rpn.losses(type(outputs.rpn)(logits, outputs.rpn.offsets, anchors, outputs.rpn.counts), batch, [TWO])[
        "objectness"
    ].backward()
    assert logits.grad[0, on_small] < 0


def test_a_range_that_holds_everything_changes_nothing() -> None:
    images, targets = squares()
    losses = []
    for valid_range in (None, (0, None)):
        model = small(valid_range=valid_range).train()
        torch.manual_seed(1)
        losses.append(model(images, targets))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("valid_range", [(20, 60), (500, None)])
def test_detector_with_a_range(valid_range: tuple[float, float | None]) -> None:
    """Where nothing at all is in range, too."""
    assert_is_detector(small(valid_range=valid_range))


class Sizes(Detector):
    """Sees a box of 20 px and one of 100 px in each resolution, each a pixel further right the larger the input."""

    def __init__(self) -> None:
        super().__init__(1)
        self.size: int | tuple[int, int] = 100

    def resize(self, size: int | tuple[int, int]) -> None:
        self.size = size

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> list[Detections]:
        side = self.size if isinstance(self.size, int) else min(self.size)
        left = side / 100
        boxes = torch.tensor([[left, 0, left + 20, 20], [left, 0, left + 100, 100]])
        scores, labels = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
        return [Detections(boxes, scores, labels) for _ in images]


def test_detections_out_of_range_are_dropped() -> None:
    scales = (Scale(400, valid_range=(0, 40)), Scale(100, valid_range=(40, None)))
    (found,) = MultiScale(Sizes(), Protocol("x", scales, flip=False, merge=Suppression()))([torch.zeros(3, 200, 200)])
    assert found.boxes.tolist() == [[4, 0, 24, 20], [1, 0, 101, 100]]


def test_duplicates_are_merged_softly() -> None:
    scales = (Scale(400, valid_range=(0, 150)), Scale(100, valid_range=(0, 40)))
    (found,) = MultiScale(Sizes(), Protocol("x", scales, flip=False, merge=Suppression("linear")))(
        [torch.zeros(3, 200, 200)]
    )
    overlap = 17 / 23
    assert [box[2] - box[0] for box in found.boxes.tolist()] == [20, 100, 20]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8, 0.9 * (1 - overlap)]))


def test_protocols() -> None:
    for name in ("snip", "snip_small"):
        protocol = PROTOCOLS[name]
        assert isinstance(protocol.merge, Suppression)
        assert not protocol.flip
        ranges = [scale.valid_range for scale in protocol.scales]
        assert all(r is not None for r in ranges)
        assert ranges[-1][1] is None  # type: ignore[index]
        content = json.loads(json.dumps(protocol.describe()))
        assert content["merge"]["method"] == "gaussian"
        assert content["scales"][0]["valid_range"][0] == 0


def test_two_stage_detectors_take_several_resolutions() -> None:
    model = small().eval()
    with torch.no_grad():
        answers = MultiScale(model, PROTOCOLS["snip_small"])(toy_images())
    assert all(len(answer) <= 100 for answer in answers)
    assert (model.short, model.longest) == (160, 160)
    model.resize((96, 64))
    assert (model.short, model.longest) == (64, 96)
