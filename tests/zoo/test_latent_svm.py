"""How stars are learned: what training keeps of what it has seen, and that it finds objects between others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision.ops import box_iou

from benchmarks.datasets.shapes import SCENES, draw
from ops.structures import Target
from tests.contract import assert_fit_goes_on, forms
from zoo.classical.dpm import SMALL, dpm
from zoo.parts.latent_svm import LatentSVM
from zoo.parts.star_learning import by_aspect


def drawn(split: int, count: int) -> list[tuple[torch.Tensor, Target]]:
    """Discs and rings on textured ground with marks that are neither."""
    scene = replace(SCENES["sparse"], forms=(0, 4), objects=(2, 3), area=(500, 2500), side=112)
    items = []
    for index in range(count):
        pixels, objects = draw(scene, split, index)
        x, y, w, h = torch.tensor([thing["bbox"] for thing in objects], dtype=torch.float32).T
        labels = torch.tensor([int(thing["label"] == 4) for thing in objects])
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        items.append((image, Target(torch.stack([x, y, x + w, y + h], 1), labels)))
    return items


def test_few_negatives_that_are_kept_are_enough() -> None:
    """A machine that has only the last mistakes of the one before finds none of these."""
    model = dpm(2, **{**SMALL, "groups": 1, "largest_scale": 1.0, "learning": {"negatives": 50}})
    model.fit(drawn(0, 20), seed=0)
    right = total = 0
    for image, target in drawn(1, 10):
        (answer,) = model([image])
        for label in target.labels.unique().tolist():
            surest = answer[answer.labels == label][:1]
            right += int((box_iou(surest.boxes, target.boxes[target.labels == label]) > 0.5).any())
            total += 1
    assert total > 10
    assert right / total > 0.5


def test_the_hardest_negatives_of_all_passes_are_kept() -> None:
    model = dpm(1, **{**SMALL, "groups": 1, "learning": {}})
    trainer = LatentSVM(model, 0, images=2, passes=1, negatives=30)
    items = [(image, replace(target, labels=torch.zeros(2, dtype=torch.int64))) for image, target in forms(2)]
    trainer.fit(items)
    before = trainer.others[0][0]
    assert 0 < len(before) <= 30
    trainer._pass(items, [0, 1], "again", parts=True)
    after = trainer.others[0][0]
    assert before.keys() & after.keys(), "what was learned earlier is not forgotten"
    weights = trainer._weights(0, 0, parts=True)
    trainer.negatives = len(after) // 2
    scores = {key: float(described.float() @ weights) for key, described in after.items()}
    trainer._train(0, 0, parts=True)
    left = trainer.others[0][0]
    assert len(left) == trainer.negatives
    new = {key: float(described.float() @ trainer._weights(0, 0, parts=True)) for key, described in after.items()}
    assert min(new[key] for key in left) >= max(new[key] for key in after.keys() - left.keys()) - 1e-4
    assert scores.keys() == after.keys()


@pytest.mark.parametrize("last", [1, 2, 3])
def test_an_interrupted_fit_goes_on_and_ends_alike(last: int) -> None:
    """After the roots, the mixtures and the first of two passes with parts, which hands on what it has found."""
    settings = {**SMALL, "groups": 1, "learning": {"passes": 2, "negatives": 40, "every": 3}}
    kept = assert_fit_goes_on(lambda: dpm(2, **settings), drawn(0, 6), last)
    assert [state["done"] for state in kept] == [1, 2, 3, 4]


def test_moving_costs_are_never_negative() -> None:
    model = dpm(2, **{**SMALL, "groups": 1, "learning": {"passes": 1}})
    LatentSVM(model, 0, passes=1, least_cost=0.02).fit(forms(4))
    assert bool((model.models.cost[:, :, :, [0, 2]] >= 0.0199).all())


def test_components_by_aspect() -> None:
    boxes = torch.tensor([[0.0, 0, 40, 10], [0, 0, 10, 40], [0, 0, 20, 20], [0, 0, 10, 20]])
    (narrow, first), (wide, second) = by_aspect(boxes, 2)
    assert (narrow, wide) == ([1, 3], [0, 2])
    assert first == pytest.approx(0.125**0.5)
    assert second == pytest.approx(2)
    assert [own for own, _ in by_aspect(boxes[:1], 2)] == [[0]]
