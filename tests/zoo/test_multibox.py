"""MultiBox: the loss by the sheet's numbers and by trying all assignments, what is cut out, and learning."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from ops.images import Batch, Frame
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target
from zoo import CATALOG, build, checkpoints
from zoo.one_stage import multibox as module
from zoo.one_stage.multibox import MultiBox, MultiBoxOutputs, assign_predictions, match_losses, multibox

PLACES = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9], [0.2, 0.2, 0.4, 0.4]])
LOGITS = torch.tensor([0.9, 0.6, 0.2]).logit()
OBJECTS = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.55, 0.6, 0.95, 0.9]])


def test_loss_by_numbers() -> None:
    matches = assign_predictions(OBJECTS, PLACES, LOGITS, alpha=0.3)
    assert matches.tolist() == [0, 1, -1]
    far, wrong = match_losses(PLACES, LOGITS, OBJECTS, matches)
    assert far.item() == pytest.approx(0.0075)
    assert wrong.item() == pytest.approx(0.8393297, abs=1e-6)
    assert (0.3 * far + wrong).item() == pytest.approx(0.8415797, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_assignment_is_the_least_of_all(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    places, objects = torch.rand((5, 4), generator=generator), torch.rand((3, 4), generator=generator)
    logits = torch.randn(5, generator=generator)

    def whole(matches: Tensor) -> float:
        far, wrong = match_losses(places, logits, objects, matches)
        return (4.0 * far + wrong).item()

    tried = []
    for chosen in itertools.permutations(range(5), 3):
        matches = torch.full((5,), -1)
        matches[torch.tensor(chosen)] = torch.arange(3)
        tried.append(whole(matches))
    assert whole(assign_predictions(objects, places, logits, 4.0)) == pytest.approx(min(tried))


def test_a_sure_box_may_take_an_object_from_a_nearer_one() -> None:
    places = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.6, 0.6]])
    target = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    logits = torch.tensor([-2.0, 2.0])
    assert assign_predictions(target, places, logits, alpha=0.3).tolist() == [-1, 0]
    assert assign_predictions(target, places, logits, alpha=1e4).tolist() == [0, -1]


def test_parameters() -> None:
    """CaffeNet's connected layers twice; layer widths are assumed, so that these are counts and no paper's figure."""
    convolutions = sum(o * i * k * k + o for o, i, k in CONVOLUTIONS)
    common = convolutions + (256 * 36 + 1) * 4_096 + 4_097 * 4_096
    with torch.device("meta"):
        model = multibox(20)
    locator, classifier = (sum(p.numel() for p in part.parameters()) for part in (model.locator, model.classifier))
    assert locator == common + 4_097 * 500
    assert classifier == common + 4_097 * 21
    assert CATALOG["multibox"].golden.parameters == {20: locator + classifier}
    with torch.device("meta"):
        assert multibox(200, boxes=200).num_boxes((227, 227)) == 200


CONVOLUTIONS = [(96, 3, 11), (256, 48, 5), (384, 256, 3), (384, 192, 3), (256, 192, 3)]


def little(**overrides: Any) -> MultiBox:
    torch.manual_seed(0)
    own = {"backbone": "small", "widths": (8, 8, 8), "crop_widths": (8, 8, 8), "size": 64, "crop": 16, "boxes": 12}
    heads = {"head": (), "crop_head": (), "dropout": 0.0, "std": 57.0}
    return multibox(2, **{**own, **heads, **overrides}).eval()


def outputs_of(model: MultiBox, places: Tensor, logits: Tensor, regions: list[Tensor]) -> MultiBoxOutputs:
    sure = [torch.full((len(r),), 0.5) for r in regions]
    generator = torch.Generator().manual_seed(1)
    answer = torch.randn((sum(map(len, regions)), 1 + model.num_classes), generator=generator)
    return MultiBoxOutputs(places, logits, regions, sure, answer)


BATCH = Batch(torch.zeros(2, 3, 64, 64), (Frame((64, 64), (64, 64), (1.0, 1.0)),) * 2)


@pytest.mark.parametrize("match", ["priors", "predictions"])
def test_losses_against_loops(match: str) -> None:
    model = little(match=match, alpha=7.0)
    generator = torch.Generator().manual_seed(2)
    places, logits = torch.rand((2, 12, 4), generator=generator), torch.randn((2, 12), generator=generator)
    some = Target(torch.tensor([[4.0, 8, 30, 40], [32.0, 6, 60, 30]]), torch.tensor([1, 0]))
    regions = [
        torch.tensor([[4.0, 8, 30, 40], [30.0, 6, 60, 30], [4.0, 8, 16, 40], [0.0, 50, 20, 64]]),
        torch.tensor([[0.0, 0, 20, 20]]),
    ]
    outputs = outputs_of(model, places, logits, regions)
    losses = model.losses(outputs, BATCH, [some, empty_target()])

    entropy = -outputs.logits.log_softmax(-1)
    # The third region covers 0.46 of an object: neither it nor nothing.
    wanted = (entropy[0, 2] + entropy[1, 1] + entropy[3, 0] + entropy[4, 0]) / 4
    torch.testing.assert_close(losses["class"], wanted)

    objects = some.boxes / 64
    best = (float("inf"), 0, 0)
    for i, j in itertools.permutations(range(12), 2):
        at = model.priors if match == "priors" else places[0]
        paid = 7 * 0.5 * ((at[i] - objects[0]).square().sum() + (at[j] - objects[1]).square().sum()).item()
        if match == "predictions":
            paid += sum(F.softplus(-logits[0, k]).item() - F.softplus(logits[0, k]).item() for k in (i, j))
        best = min(best, (paid, i, j))
    _, i, j = best
    far = 0.5 * ((places[0, i] - objects[0]).square().sum() + (places[0, j] - objects[1]).square().sum())
    torch.testing.assert_close(losses["place"], 7 * far / 2)
    asked = torch.zeros(2, 12)
    asked[0, [i, j]] = 1
    entropies = F.binary_cross_entropy_with_logits(logits, asked, reduction="sum")
    torch.testing.assert_close(losses["confidence"], entropies / 2)


def test_an_untrained_network_gives_its_priors() -> None:
    model = little()
    torch.nn.init.zeros_(model.locator[-1].weight)
    places, confidences = model.locate(torch.randn(1, 3, 64, 64))
    assert torch.equal(places[0], model.priors)
    torch.testing.assert_close(confidences.sigmoid(), torch.full((1, 12), 0.05))
    assert model.priors.shape == (12, 4)
    boxes = torch.rand((40, 2)) * 0.5
    model.set_priors(torch.cat([boxes, boxes + 0.2], 1))
    torch.testing.assert_close(model.priors[:, 2:] - model.priors[:, :2], torch.full((12, 2), 0.2))
    with pytest.raises(ValueError, match="cannot make 12"):
        model.set_priors(model.priors[:3])


def test_clusters_are_made_for_training_alone(monkeypatch) -> None:
    trained, meta = checkpoints.load(checkpoints.find("multibox", "shapes"))

    def refuse(*_: object) -> None:
        raise AssertionError("clusters")

    monkeypatch.setattr(module, "cluster_boxes", refuse)
    fresh = build("multibox", meta.num_classes, **meta.overrides)
    sides = fresh.priors[:, 2:] - fresh.priors[:, :2]
    assert ((fresh.priors >= 0) & (fresh.priors <= 1)).all()
    assert (sides > 0).all()
    assert len(fresh.priors.unique(dim=0)) == len(fresh.priors) == trained.num_boxes((160, 160))
    again, _ = checkpoints.load(checkpoints.find("multibox", "shapes"))
    assert torch.equal(again.priors, trained.priors)
    assert not torch.equal(again.priors, fresh.priors)
    with pytest.raises(AssertionError, match="clusters"):
        fresh.set_priors(trained.priors)


def test_boxes_lie_inside_whatever_the_network_says() -> None:
    places = torch.tensor([[[0.5, -0.2, 0.25, 1.5]]])
    assert little().boxes(places, BATCH).tolist() == [[[16, 0, 32, 64]]]


def test_what_is_cut_out() -> None:
    model = little(kept=3)
    batch = model.preprocess([torch.rand(3, 50, 80)])
    with torch.no_grad():
        outputs = model.network(batch)
    (regions,) = outputs.regions
    assert len(regions) == 3 == len(outputs.logits)
    assert box_iou(regions, regions).triu(1).max() <= 0.5
    order = outputs.confidences[0].argsort(descending=True)
    torch.testing.assert_close(regions[0], model.boxes(outputs.places, batch)[0, order[0]])
    assert outputs.sure[0][0] == outputs.confidences[0, order[0]].sigmoid()


def test_what_training_cuts_out() -> None:
    torch.manual_seed(0)
    model = little()
    target = Target(torch.tensor([[10.0, 10, 40, 40]]), torch.tensor([1]))
    found = torch.tensor([[12.0, 12, 44, 42], [25.0, 10, 55, 40]])
    for _ in range(5):
        overlap = box_iou(model._draw(found, target), target.boxes)[:, 0]
        assert len(overlap) == 8
        assert (overlap >= 0.5).sum() == 4
        assert (overlap < 0.2).sum() == 4
    assert len(model._draw(found, empty_target())) == 8


def test_scores_are_confidence_times_class() -> None:
    model = little(nms_iou=0.5)
    regions = [torch.tensor([[0.0, 0, 20, 20], [40.0, 40, 60, 60]]), torch.zeros((0, 4))]
    outputs = outputs_of(model, torch.rand(2, 12, 4), torch.randn(2, 12), regions)
    outputs = replace(outputs, sure=[torch.tensor([0.9, 0.4]), torch.zeros(0)])
    found, nothing = model.postprocess(outputs, BATCH)
    assert len(nothing) == 0
    wanted = (torch.tensor([[0.9], [0.4]]) * outputs.logits.softmax(-1)[:, 1:]).flatten().sort(descending=True).values
    torch.testing.assert_close(found.scores, wanted)


def test_proposals_come_the_surest_first_in_pixels_of_the_image() -> None:
    model = little()
    image = torch.rand(3, 50, 80)
    (boxes,) = model.proposals([image])
    batch = model.preprocess([image])
    places, confidences = model.locate(batch.pixels)
    surest = batch.frames[0].to_image(model.boxes(places, batch)[0, confidences[0].argmax()][None])
    torch.testing.assert_close(boxes[:1], surest.detach())
    assert box_iou(boxes, boxes).triu(1).max() <= 0.5


def test_small_is_a_detector() -> None:
    torch.manual_seed(0)
    model = build("multibox", 8, small=True)
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000
    assert_is_detector(model)


def test_small_overfits() -> None:
    assert_overfits(build("multibox", 2, small=True), steps=60, lr=3e-3)
