"""Training in four steps: what learns when, whose proposals are learned from, and that interruptions leave no trace."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.descent import fit_by_gradient
from benchmarks.train import describe_recipe
from ops.structures import Target
from tests.contract import assert_is_detector, squares
from zoo import build
from zoo.detector import Recipe
from zoo.two_stage.alternate import RECIPE, SMALL_RECIPE, AlternateFasterRCNN
from zoo.two_stage.faster_rcnn import FasterRCNN, faster_rcnn_vgg16

STEPS = 12
"""Two steps a unit: the stages start at 0, 4, 6 and 10."""


def tiny(seed: int = 0) -> AlternateFasterRCNN:
    torch.manual_seed(seed)
    model = build(
        "faster_rcnn_vgg16_alternate",
        2,
        small=True,
        widths=(4, 6, 8),
        head_width=8,
        rpn_width=8,
        pool_size=3,
        short=64,
        longest=64,
        samples=12,
        scales=(2, 4),
    )
    assert isinstance(model, AlternateFasterRCNN)
    return model


class Squares:
    """Four images with one or two squares each."""

    class_names = ("red", "blue")

    def __init__(self, fail_at: int | None = None) -> None:
        self.images, self.targets = squares(size=64)
        self.seen, self.fail_at = 0, fail_at

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        self.seen += 1
        if self.fail_at is not None and self.seen > self.fail_at:
            raise KeyboardInterrupt
        return self.images[index], self.targets[index]


def recipe(**changes: object) -> Recipe:
    settings = {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1, "ema": 0.5, "stages": (2, 1, 2, 1)}
    return Recipe(batch=2, steps=STEPS, **{**settings, **changes})  # type: ignore[arg-type]


def run(out: Path, fail_at: int | None = None, **changes: object) -> AlternateFasterRCNN:
    out.mkdir(exist_ok=True)
    model = tiny()
    fit_by_gradient(
        model,
        Squares(fail_at),  # type: ignore[arg-type]
        recipe(**changes),
        seed=1,
        out=out,
        identity={},
        device=torch.device("cpu"),
        checkpoint_every=1,
        quiet=True,
    )
    return model


def test_schedule_of_the_release() -> None:
    starts = (0, 80_000, 120_000, 200_000)
    assert [RECIPE.stage_at(step)[0] for step in starts] == [0, 1, 2, 3]
    assert [RECIPE.stage_at(step - 1)[0] for step in starts[1:]] == [0, 1, 2]
    assert RECIPE.stage_at(239_999) == (3, 200_000, 240_000)
    for start, before in zip(starts, (60_000, 30_000, 60_000, 30_000), strict=True):
        assert RECIPE.rate(start) == RECIPE.rate(start + before - 1) == pytest.approx(1e-3)
        assert RECIPE.rate(start + before) == pytest.approx(1e-4)
    assert [SMALL_RECIPE.stage_at(step)[1] for step in (0, 800, 1_200, 2_000)] == [0, 800, 1_200, 2_000]
    assert SMALL_RECIPE.steps == 2_400


def test_each_stage_has_a_whole_cosine() -> None:
    staged = recipe(cosine=True, warmup=1)
    for start, end in ((0, 4), (4, 6), (6, 10), (10, 12)):
        alone = recipe(cosine=True, warmup=1, stages=())
        alone = Recipe(**{**vars(alone), "steps": end - start})
        assert [staged.rate(step) for step in range(start, end)] == [alone.rate(step) for step in range(end - start)]


def test_stages_need_a_step_each() -> None:
    with pytest.raises(ValueError, match="3 steps"):
        Recipe(batch=1, steps=3, lr=1, stages=(2, 1, 2, 1)).rate(0)


def test_recipes_without_stages_are_described_as_ever() -> None:
    assert "stages" not in describe_recipe(recipe(stages=()))
    assert describe_recipe(recipe())["stages"] == (2, 1, 2, 1)


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Parts, by first name, of which anything changed, statistics included."""
    return {name.split(".")[0] for name in before if name in after and not torch.equal(before[name], after[name])}


def test_what_moves_in_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all of it: neither weight decay, nor the average, nor the statistics of a normalisation touch the rest."""
    states: list[dict[str, Tensor]] = []
    enter = AlternateFasterRCNN.enter_stage

    def noting(self: AlternateFasterRCNN, stage: int | None, *, fresh: bool) -> None:
        if stage is not None:
            assert fresh
        else:
            states.append({k: v.clone() for k, v in self.state_dict().items()})
        if stage:
            states.append({k: v.clone() for k, v in self.state_dict().items()})
        enter(self, stage, fresh=fresh)
        if stage is not None:
            states.append({k: v.clone() for k, v in self.state_dict().items()})

    monkeypatch.setattr(AlternateFasterRCNN, "enter_stage", noting)
    run(tmp_path)
    assert len(states) == 8, "the beginning and the end of four stages"
    assert moved(states[0], states[1]) == {"first_backbone", "rpn"}
    assert moved(states[2], states[3]) == {"backbone", "roi_heads"}
    assert moved(states[4], states[5]) == {"rpn"}
    assert moved(states[6], states[7]) == {"roi_heads"}
    # Both copies of the convolutions start alike; the proposal network starts anew, once; nothing else ever jumps.
    for name, value in states[0].items():
        if name.startswith("first_"):
            assert torch.equal(value, states[0][name.removeprefix("first_")])
    assert moved(states[1], states[2]) == moved(states[5], states[6]) == set()
    assert moved(states[3], states[4]) == {"rpn"}
    assert "first_backbone.body.stem.0.weight" in states[3]
    assert not any(name.startswith("first_") for name in states[4])


def test_proposals_come_from_the_right_convolutions() -> None:
    model = tiny()
    images, targets = squares(size=64)
    batch = model.preprocess(images)
    placed = model.place(batch, targets)
    model.enter_stage(0, fresh=True)
    with torch.no_grad():
        for value in model.first_backbone.parameters():
            value.add_(0.05 * torch.randn_like(value))
    model.eval()

    def regions() -> list[Tensor]:
        return model.propose(model.backbone(batch.pixels), batch, placed)[1]

    def expected(backbone: torch.nn.Module) -> list[Tensor]:
        with torch.no_grad():
            return model.rpn.propose(model.rpn(backbone(batch.pixels), batch.size), batch, training=True)

    theirs, ours = expected(model.first_backbone), expected(model.backbone)
    assert not all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))
    model.enter_stage(1, fresh=True)
    assert all(torch.equal(a, b) for a, b in zip(regions(), theirs, strict=True))
    outputs = model.train().network(batch, placed)
    assert not model.first_backbone.training
    assert not model.rpn.training
    assert model.backbone.training
    assert set(model.losses(outputs, batch, placed)) == {"class", "boxes"}

    model.enter_stage(3, fresh=True)
    assert all(torch.equal(a, b) for a, b in zip(regions(), expected(model.backbone), strict=True))
    model.enter_stage(2, fresh=False)
    losses = model.losses(model.network(batch, placed), batch, placed)
    assert set(losses) == {"objectness", "proposal_boxes"}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert {name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None} == {"rpn"}
    with torch.no_grad():
        assert len(model(images)) == len(images), "it detects in any stage"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> AlternateFasterRCNN:
    """Trained without interruption."""
    return run(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("step", [4, 5, 9])
def test_interrupted_training_ends_alike(whole: AlternateFasterRCNN, tmp_path: Path, step: int) -> None:
    """Inside of stages, and just between two."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", fail_at=2 * step)
    assert torch.load(tmp_path / "broken" / "state.pt", weights_only=True)["step"] == step
    again = run(tmp_path / "broken")
    assert whole.state_dict().keys() == again.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_trained_it_is_faster_rcnn(whole: AlternateFasterRCNN) -> None:
    model = copy.deepcopy(whole)
    assert model.state_dict().keys() == tiny().state_dict().keys()
    assert all(value.requires_grad for value in model.parameters())
    assert_is_detector(model)


def test_frozen_layers_of_vgg_never_learn() -> None:
    with torch.device("meta"):
        model = build("faster_rcnn_vgg16_alternate", 20)
        plain = faster_rcnn_vgg16(20)
    assert isinstance(model, AlternateFasterRCNN)
    assert isinstance(model, FasterRCNN)
    frozen = {name for name, value in plain.named_parameters() if not value.requires_grad}
    assert len(frozen) == 8
    model.enter_stage(0, fresh=True)
    assert {f"first_{name}" for name in frozen} <= {n for n, p in model.named_parameters() if not p.requires_grad}
    learning = {name.split(".")[0] for name, value in model.named_parameters() if value.requires_grad}
    assert learning == {"first_backbone", "rpn"}
    model.enter_stage(None, fresh=False)
    assert {name for name, value in model.named_parameters() if not value.requires_grad} == frozen


def test_other_detectors_have_one_stage() -> None:
    with pytest.raises(ValueError, match="one stage"):
        build("faster_rcnn_vgg16", 2, small=True).enter_stage(0, fresh=True)
    with pytest.raises(ValueError, match="four steps"):
        tiny().enter_stage(4, fresh=True)
