"""Repulsion loss: the sheet's values, its laws, and what it does to two overlapping objects."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from ops.losses import iog, repel_boxes, repel_objects, smooth_ln
from ops.structures import Target
from tests.contract import assert_is_detector, squares
from zoo import build
from zoo.parts.roi_head import Samples
from zoo.two_stage.faster_rcnn import FasterRCNN

X = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
TWO = torch.tensor([[0.0, 0, 40, 100], [20, 0, 60, 100]])


@pytest.mark.parametrize(
    ("sigma", "values"),
    [
        (0.0, [0.1, 0.3, 0.5, 0.7, 0.9]),
        (0.5, [0.105361, 0.356675, 0.693147, 1.093147, 1.493147]),
        (0.9, [0.105361, 0.356675, 0.693147, 1.203973, 2.302585]),
        (1.0, [0.105361, 0.356675, 0.693147, 1.203973, 2.302585]),
    ],
)
def test_smooth_ln(sigma: float, values: list[float]) -> None:
    torch.testing.assert_close(smooth_ln(X, sigma), torch.tensor(values), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 0.9])
def test_smooth_ln_goes_on_as_its_tangent(sigma: float) -> None:
    x = torch.tensor([sigma - 1e-4, sigma + 1e-4, 1.0], dtype=torch.float64).clamp(min=0).requires_grad_()
    smooth_ln(x, sigma).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[1:], torch.full((2,), 1 / (1 - sigma), dtype=torch.float64))
    if sigma:
        assert float(x.grad[0]) == pytest.approx(1 / (1 - sigma), rel=2e-3)


def test_smooth_ln_is_finite_at_one_and_wants_a_sigma() -> None:
    assert float(smooth_ln(torch.ones(()), 1.0)) == pytest.approx(-math.log(1e-6), rel=0.01)
    with pytest.raises(ValueError, match="from 0 to 1"):
        smooth_ln(X, 1.5)


def test_iog() -> None:
    share = iog(torch.tensor([[10.0, 10, 60, 110]]), torch.tensor([[40.0, 20, 90, 120]]))
    assert float(share) == pytest.approx(0.36)
    assert float(smooth_ln(share, 1.0)) == pytest.approx(0.446287, abs=1e-6)
    assert float(iog(TWO[:1], TWO[:1])) == 1
    assert float(iog(TWO[:1], TWO[1:] + 100)) == 0
    # A larger box covers no less: shrinking it is no way out as with an IoU.
    assert float(iog(torch.tensor([[-50.0, -50, 200, 200]]), TWO[:1])) == 1


def test_repelling_object_is_the_other_one_that_the_proposal_overlaps_most() -> None:
    objects = torch.tensor([[0.0, 0, 40, 100], [20, 0, 60, 100], [35, 0, 75, 100]])
    proposals = torch.tensor([[2.0, 0, 42, 100], [18.0, 0, 58, 100], [34, 0, 74, 100]])
    predicted = torch.tensor([[0.0, 0, 50, 100], [0, 0, 60, 100], [30, 0, 70, 100]])
    own = torch.tensor([0, 1, 2])
    # Their proposals overlap 1, 2 (17 px apart, less than 18) and 1.
    expected = [-math.log(1 - 30 / 40), -math.log(1 - 25 / 40), -math.log(1 - 30 / 40)]
    found = repel_objects(predicted, proposals, own, objects)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=0)


def slow_repel_boxes(predicted: Tensor, own: Tensor) -> list[float]:
    values = []
    for i in range(len(predicted)):
        for j in range(i + 1, len(predicted)):
            overlap = float(box_iou(predicted[i : i + 1], predicted[j : j + 1]))
            if own[i] != own[j] and overlap > 0:
                values.append(overlap)
    return values


def test_boxes_of_different_objects_repel_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    low = 50 * torch.rand((12, 2), generator=generator)
    predicted = torch.cat([low, low + 5 + 20 * torch.rand((12, 2), generator=generator)], 1)
    own = torch.randint(0, 3, (12,), generator=generator)
    expected = slow_repel_boxes(predicted, own)
    assert 3 < len(expected) < 66
    torch.testing.assert_close(repel_boxes(predicted, own), torch.tensor(expected), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_nothing_to_repel_is_zero_with_a_gradient(count: int) -> None:
    predicted = TWO[:count].clone().requires_grad_()
    own = torch.zeros(count, dtype=torch.int64)
    for values in (repel_objects(predicted, TWO[:count], own, TWO[:1]), repel_boxes(predicted, own)):
        assert values.sum().item() == 0
        predicted.grad = None
        values.sum().backward()
        assert predicted.grad is not None
        assert not predicted.grad.any()


def test_gradients_push_away() -> None:
    predicted = torch.tensor([[10.0, 0, 50, 100], [15.0, 0, 55, 100]], requires_grad=True)
    repel_objects(predicted, TWO, torch.tensor([0, 1]), TWO).sum().backward()
    grad = predicted.grad
    assert grad is not None
    # Down the gradient, the first draws in its right side, the second its left.
    assert grad[0, 2] > 0
    assert grad[0, 0] == 0
    assert grad[1, 0] < 0
    assert grad[1, 2] == 0


def descend(repulsion: tuple[float, float]) -> Tensor:
    """Two boxes that start over the middle of two objects, and are drawn to theirs slowly."""
    predicted = torch.tensor([[15.0, 0, 55, 100], [16.0, 0, 56, 100]], requires_grad=True)
    own = torch.tensor([0, 1])
    optimizer = torch.optim.SGD([predicted], lr=1.0)
    for _ in range(40):
        optimizer.zero_grad()
        attract = F.smooth_l1_loss(predicted, TWO, reduction="sum") / 10
        repel = repulsion[0] * repel_objects(predicted, TWO, own, TWO).sum()
        (attract + repel + repulsion[1] * repel_boxes(predicted, own).sum()).backward()
        optimizer.step()
    return predicted.detach()


@pytest.mark.parametrize("repulsion", [(2.0, 0.0), (0.0, 2.0)])
def test_two_overlapping_objects_are_told_apart_sooner(repulsion: tuple[float, float]) -> None:
    alone, repelled = descend((0.0, 0.0)), descend(repulsion)
    overlaps = [float(box_iou(boxes[:1], boxes[1:])) for boxes in (alone, repelled)]
    assert overlaps[1] < overlaps[0] - 0.01, overlaps


def small(**changes: object) -> FasterRCNN:
    torch.manual_seed(0)
    model = build("faster_rcnn_r50_fpn", 2, small=True, **changes)
    assert isinstance(model, FasterRCNN)
    return model


def test_second_stage_decodes_before_it_repels() -> None:
    head = small(repulsion=(0.5, 0.25)).roi_heads
    boxes = torch.tensor([[10.0, 0, 50, 100], [12.0, 0, 52, 100], [200, 200, 220, 220]])
    samples = [Samples(boxes, torch.tensor([1, 2, 0]), torch.tensor([0, 1, -1]))]
    offsets = torch.zeros(3, 3, 4)
    # The first box moves by 8 px to the left: a fifth of its width, times 10.
    offsets[0, 1, 0] = -2.0
    target = Target(TWO, torch.tensor([0, 1]))
    losses = head.losses(torch.zeros(3, 3), offsets, samples, [target])
    covered = [22 / 40, 28 / 40]
    assert float(losses["repel_objects"]) == pytest.approx(0.5 * sum(-math.log(1 - x) for x in covered) / 2, rel=1e-4)
    assert float(losses["repel_boxes"]) == pytest.approx(0.25 * 30 / 50, rel=1e-4)


def test_an_option_that_is_left_out_changes_nothing() -> None:
    images, targets = squares()
    losses = []
    for repulsion in (None, (0.5, 0.5)):
        model = small(repulsion=repulsion).train()
        torch.manual_seed(1)
        losses.append(model(images, targets))
    assert set(losses[1]) - set(losses[0]) == {"repel_objects", "repel_boxes"}
    assert all(losses[1][name] == value for name, value in losses[0].items())


def test_detector_that_repels() -> None:
    assert_is_detector(small(repulsion=(0.5, 0.5)))
