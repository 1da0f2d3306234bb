"""What training on a data set changes, and that the committed Records were made so."""

from __future__ import annotations

import pytest

from benchmarks.results import COMMITTED, Record
from benchmarks.suite import BENCHMARKS
from zoo import CATALOG

TRAININGS = [Record.read(path) for path in sorted(COMMITTED.glob("*/training.*.small.*.json"))]


@pytest.mark.parametrize(
    ("detector", "changes"),
    [
        ("ssd300_vgg16", {"size": 256}),
        ("retinanet_r50_fpn", {"short": 256, "longest": 342}),
        ("rfcn_r101", {"short": 256, "longest": 342}),
        ("overfeat_fast", {"longest": 342}),
        ("hog_svm", {"largest_scale": 1.0}),
        ("dpm", {"largest_scale": 0.75}),
        ("acf", {}),
    ],
)
def test_photographs_are_seen_at_another_size_than_shapes(detector: str, changes: dict[str, float]) -> None:
    """By networks; by pyramids of filters they are seen smaller. R-FCN's `size` is that of its grid, and stays."""
    own = CATALOG[detector].small
    assert own is not None
    assert BENCHMARKS["bccd"].small_overrides(own) == changes
    assert BENCHMARKS["shapes"].small_overrides(own) == {}


def test_photographs_change_the_small_recipe() -> None:
    recipe = CATALOG["ssd300_vgg16"].small_recipe
    assert recipe is not None
    changed = BENCHMARKS["bccd"].small_recipe(recipe)
    assert (changed.steps, changed.batch, changed.lr) == (600, 8, recipe.lr)
    assert changed.augment is not recipe.augment
    assert BENCHMARKS["shapes"].small_recipe(recipe) == recipe


@pytest.mark.parametrize("training", TRAININGS, ids=lambda one: one.name)
def test_recorded_inputs_are_those_that_training_gives(training: Record) -> None:
    assert training.dataset is not None
    own = CATALOG[training.detector].small or {}
    given = BENCHMARKS[training.dataset.name].small_overrides(own)
    inputs = {key: own[key] for key in ("size", "short", "longest", "largest_scale") if key in own} | given
    inputs |= {key: value for key, value in training.variant.items() if key in inputs}
    assert {key: training.overrides[key] for key in inputs} == inputs


@pytest.mark.parametrize(
    ("name", "learned", "tested"),
    [
        ("shapes", "train", "test"),
        ("shapes", "twins-train", "twins"),
        ("discs", "train", "test"),
        ("bccd", "trainval", "test"),
        ("voc", "2012_trainval", "2007_test"),
        ("coco", "train2017", "val2017"),
    ],
)
def test_a_scene_is_tested_on_its_own(name: str, learned: str, tested: str) -> None:
    assert BENCHMARKS[name].test_of(learned) == tested
