"""Viola-Jones: what its cascades decide, how they learn, and what `fit` promises."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.cost import cost
from ops.structures import Target
from tests.contract import assert_is_fitted_detector, forms
from tests.zoo.cascade_paths import assert_decided_alike
from zoo import build
from zoo.classical.viola_jones import ViolaJones, viola_jones
from zoo.parts.boosting import AdaBoost, floor_half
from zoo.parts.cascade import Sums
from zoo.parts.pyramid import Pyramid, visited
from zoo.parts.windows import median_aspects


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_boosting_is_table_1_of_the_paper() -> None:
    """AdaBoost written as loops over features and thresholds."""
    chance = np.random.default_rng(0)
    values = chance.integers(-6, 7, (5, 40)).astype(np.float32)
    good = chance.random(40) < 0.4
    learner = AdaBoost(values, good)
    weights = [0.5 / good.sum() if is_good else 0.5 / (~good).sum() for is_good in good]
    for _ in range(4):
        learned = learner.round()
        assert learned is not None
        total = sum(weights)
        weights = [weight / total for weight in weights]
        errors = {}
        for feature in range(5):
            for threshold in np.arange(-5.5, 6):
                for objects_below in (True, False):
                    wrong = [
                        weight
                        for weight, value, is_good in zip(weights, values[feature], good, strict=True)
                        if ((value < threshold) == objects_below) != is_good
                    ]
                    errors[feature, float(threshold), objects_below] = sum(wrong)
        below = learned.leaves[0] > 0
        lows = [key for key, error in errors.items() if error < min(errors.values()) + 1e-6]
        ours = [(learned.feature, t, below) for t in np.arange(-5.5, 6) if _splits_alike(values, learned, float(t))]
        assert set(ours) & set(lows)
        beta = min(errors.values()) / (1 - min(errors.values()))
        assert max(learned.leaves) == pytest.approx(np.log(1 / beta), rel=2e-3)
        assert min(learned.leaves) == 0
        said = learned.votes(values[learned.feature]) > 0
        weights = [w * (beta if s == g else 1) for w, s, g in zip(weights, said, good, strict=True)]
        np.testing.assert_allclose(learner.weights / learner.weights.sum(), np.array(weights) / sum(weights), rtol=1e-5)


def _splits_alike(values: np.ndarray, learned: object, threshold: float) -> bool:
    row = values[learned.feature]  # type: ignore[attr-defined]
    return bool(((row < threshold) == (row < learned.threshold)).all())  # type: ignore[attr-defined]


def test_features_without_use_end_a_stage() -> None:
    assert AdaBoost(np.zeros((3, 8), dtype=np.float32), np.arange(8) < 4).round() is None


def test_thresholds_are_rounded_down() -> None:
    assert floor_half(0.1) == float(np.float16(0.09998))
    assert floor_half(1.5) == 1.5
    assert all(floor_half(value) <= value for value in np.linspace(-3, 3, 101))


def random_cascade(model: ViolaJones, stages: int = 3) -> None:
    """Stumps of chance in every class's cascade."""
    chance = np.random.default_rng(0)
    weak = model.cascades.weak
    for label in range(model.num_classes):
        found = weak.candidates(model.cascades.windows[label], 6 * stages, chance)
        weak.get_buffer("rectangles")[label, : 6 * stages, 0] = found[..., :4].byte()
        weak.get_buffer("weights")[label, : 6 * stages, 0] = found[..., 4]
        weak.get_buffer("leaves")[label, : 6 * stages] = torch.from_numpy(chance.random((6 * stages, 2))).float()
    model.cascades.ends[:] = torch.tensor([6 * (s + 1) for s in range(stages)])
    model.cascades.thresholds[:] = 3.0


def test_a_window_is_judged_as_in_loops() -> None:
    model = viola_jones(1, window=(9, 8), stages=3, weak=18)
    random_cascade(model)
    weak, image = model.cascades.weak, noise(14, 15)
    sums = Sums.of(image[None])
    starts = torch.arange(6)[:, None] * 16 + torch.arange(8)
    passed, margins = model.cascades.judge(0, sums, starts.flatten(), 3)
    assert 0 < (passed == 3).sum() < 48
    for index, (stages, margin) in enumerate(zip(passed.tolist(), margins.tolist(), strict=True)):
        y, x = divmod(index, 8)
        patch = image[y : y + 9, x : x + 8].double()
        inner = patch[1:-1, 1:-1]
        spread = (inner.numel() * inner.square().sum() - inner.sum() ** 2).sqrt()
        for stage in range(3):
            total = 0.0
            for row in range(6 * stage, 6 * stage + 6):
                value = 0.0
                for (a, b, w, h), weight in zip(
                    weak.get_buffer("rectangles")[0, row, 0].tolist(),
                    weak.get_buffer("weights")[0, row, 0].tolist(),
                    strict=True,
                ):
                    value += weight * patch[b : b + h, a : a + w].sum().item()
                side = 0 if value / spread < 0 else 1
                total += weak.get_buffer("leaves")[0, row, side].item()
            if total < 3 or stage == 2:
                assert stages == stage + (total >= 3)
                assert margin == pytest.approx(total - 3, abs=1e-6)
                break


def test_machine_code_decides_as_tensors_do() -> None:
    """Trees of three nodes, some of turned rectangles, stage by stage over the windows that are left."""
    model = viola_jones(1, window=(9, 8), stages=3, weak=18, nodes=3)
    model.cascades.ends[:], model.cascades.thresholds[:] = torch.tensor([6, 12, 18]), 3.0
    weak, generator = model.cascades.weak, torch.Generator().manual_seed(1)
    found = weak.candidates((9, 8), 54, np.random.default_rng(1)).reshape(18, 3, 3, 5)
    weak.get_buffer("rectangles")[0], weak.get_buffer("weights")[0] = found[..., :4].byte(), found[..., 4]
    weak.get_buffer("branches")[0] = torch.tensor([[1, 2], [0, -1], [-2, -3]], dtype=torch.int8)
    weak.get_buffer("leaves")[0] = torch.rand((18, 4), generator=generator)
    # Small enough that, turned, they stay within the window.
    weak.get_buffer("turned")[0, ::4, 1] = True
    weak.get_buffer("rectangles")[0, ::4, 1] = torch.tensor([3, 1, 2, 2], dtype=torch.uint8)
    sums = Sums.of(noise(30, 40)[None], tilted=True)
    starts = (torch.arange(21)[:, None] * 41 + torch.arange(32)).flatten()
    assert_decided_alike(model, sums, starts, 3, sums.contrast(starts, (9, 8)))


def test_uniform_windows_hold_nothing() -> None:
    model = viola_jones(1, stages=1, weak=6)
    random_cascade(model, stages=1)
    model.cascades.thresholds[:] = -1.0
    grey = torch.full((3, 40, 40), 0.5) + 0.02 * torch.rand((3, 40, 40))
    assert len(model([grey])[0]) == 0
    assert len(model([torch.rand((3, 40, 40))])[0]) > 0


def test_tolerated_stages_add_detections_that_score_less() -> None:
    image = torch.rand((3, 60, 70), generator=torch.Generator().manual_seed(0))
    found = []
    for tolerated in (0, 2):
        model = viola_jones(1, stages=3, weak=18, opencv=True, tolerated=tolerated, limit=10_000)
        random_cascade(model)
        (answer,) = model([image])
        found.append({tuple(box): score for box, score in zip(answer.boxes.tolist(), answer.scores, strict=True)})
    strict, lenient = found
    assert 0 < len(strict) < len(lenient)
    assert all(lenient[box] == score for box, score in strict.items())
    assert max(score for box, score in lenient.items() if box not in strict) < min(strict.values())


def test_opencv_looks_past_the_neighbour_of_what_it_rejects() -> None:
    chance = np.random.default_rng(0)
    rejected = chance.random((20, 13)) < 0.7
    looked = np.zeros_like(rejected)
    for row in range(20):
        x = 0
        while x < 13:
            looked[row, x] = True
            x += 2 if rejected[row, x] else 1
    np.testing.assert_array_equal(visited(torch.from_numpy(rejected.ravel()), 13), looked.ravel())


def test_windows_of_a_384_x_288_image() -> None:
    total, scale = 0, 1.0
    while round(24 * scale) <= 288:
        total += max(0, round(288 / scale) - 23) * max(0, round(384 / scale) - 23)
        scale *= 1.25
    assert cost("viola_jones", 1, (288, 384))["boxes"] == total
    model = viola_jones(2, stride=2, largest_scale=1.5)
    model.cascades.window.copy_(torch.tensor([[20, 30], [24, 24]]))
    levels = model.pyramid.levels(torch.rand((3, 50, 61)), model.cascades.windows)
    scanned = sum(int(level.places(model.cascades.window)[0].sum()) for level in levels)
    assert model.num_boxes((50, 61)) == scanned > 500


def test_small_windows_can_be_left_out() -> None:
    kept = [scale for scale, _ in Pyramid(smallest=30).scales((100, 100), [(24, 24)])]
    assert kept == [s for s, _ in Pyramid().scales((100, 100), [(24, 24)])][1:]
    assert list(Pyramid().scales((23, 100), [(24, 24)])) == []


def test_contract() -> None:
    # Rates and overlaps that the few objects of the toy images allow.
    rates = {"hit_rate": 0.99, "positive_iou": 0.65, "negative_iou": 0.5}
    settings = {"stages": 8, "features": 250, "positives": 80, "negatives": 300, "weak": 120, "tolerated": 2}
    assert_is_fitted_detector(lambda: build("viola_jones", 2, small=True, **settings, **rates))


def test_later_stages_learn_from_what_earlier_let_pass() -> None:
    model = build("viola_jones", 2, small=True, stages=4, features=150, positives=60, negatives=150, tolerated=0)
    model.fit(forms(6), seed=1)
    alarms = []
    for stages in range(1, 1 + min(len(model.cascades.stages(label)) for label in range(2))):
        passing = total = 0
        for image, target in forms(3, seed=5):
            scan, levels = model._scan(image, target, np.random.default_rng(0))
            free = scan.free(0, 0.3)
            sums = [Sums.of(level.pixels[None]) for level in levels]
            passing += len(model._passing(0, stages, levels, sums, free))
            total += len(free)
        alarms.append(passing / total)
    assert len(alarms) >= 2
    assert all(after < 0.8 * before for before, after in itertools.pairwise(alarms))


def test_windows_are_looked_at_until_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    model = viola_jones(1, window=(9, 8), stages=3, weak=18)
    random_cascade(model)
    image, target = forms(1)[0]
    scan, levels = model._scan(image, replace(target, labels=target.labels * 0), np.random.default_rng(0))
    sums = [Sums.of(level.pixels[None]) for level in levels]
    windows = scan.free(0, 0.5)
    every = model._passing(0, 1, levels, sums, windows)
    looked: list[int] = []
    judge = model.cascades.judge
    monkeypatch.setattr(model.cascades, "judge", lambda *given: looked.append(len(given[2])) or judge(*given))
    found = model._first_passing(0, 1, levels, sums, windows, 20)
    assert found.tolist() == every[:20].tolist()
    assert sum(looked) < len(windows) / 5
    assert model._first_passing(0, 1, levels, sums, windows, 10**6).tolist() == every.tolist()


def test_a_stage_looks_at_no_more_images_than_it_may() -> None:
    items, asked = forms(6), []

    class Counted:
        def __len__(self) -> int:
            return len(items)

        def __getitem__(self, index: int, /) -> tuple[Tensor, Target]:
            asked.append(index)
            return items[index]

    model = build("viola_jones", 2, small=True, stages=2, tolerated=0, negatives=10**6, searched=2)
    model._others(Counted(), np.random.default_rng(0), {0, 1}, 0)
    assert len(asked) == 2


def test_window_shapes_follow_the_objects() -> None:
    wide, tall = [0.0, 0, 40, 10], [0.0, 0, 10, 90]
    many = Target(torch.tensor([wide, tall, tall]), torch.tensor([0, 1, 0]), torch.tensor([False, False, True]))
    assert median_aspects([many], 2) == pytest.approx([4, 1 / 9])
    with pytest.raises(ValueError, match="class 2 has no object"):
        median_aspects([many], 3)


def test_a_class_that_no_window_covers_is_named() -> None:
    with pytest.raises(ValueError, match="class 0: no window overlaps"):
        viola_jones(2, window=(80, 80), stages=2, weak=9).fit(forms(2), seed=0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"scale_step": 1.0}, "scale_step"),
        ({"window": (2, 24)}, "sides must be"),
        ({"stages": 5, "weak": 4}, "give more, or fewer"),
        ({"stages": 5, "tolerated": 5}, "give more, or fewer"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        viola_jones(1, **wrong)
