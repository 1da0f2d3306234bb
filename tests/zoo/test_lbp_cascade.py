"""Cascades of block patterns: what a table says, how it is learned, and what `fit` promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ops.integral import pattern_codes
from tests.contract import assert_is_fitted_detector
from tests.zoo.cascade_paths import assert_decided_alike
from zoo import build
from zoo.classical.lbp_cascade import lbp_cascade
from zoo.parts.boosting import GentleBoost
from zoo.parts.cascade import Sums


def test_boosting_takes_the_table_of_least_squared_error() -> None:
    chance = np.random.default_rng(0)
    values = chance.integers(0, 5, (4, 60)).astype(np.uint8)
    good = (chance.random(60) < 0.4) ^ (values[2] == 3)
    learner = GentleBoost(values, good)
    weights = np.where(good, 0.5 / good.sum(), 0.5 / (~good).sum())
    signs = np.where(good, 1.0, -1.0)
    for _ in range(3):
        learned = learner.round()
        assert learned is not None
        weights = weights / weights.sum()
        errors = []
        for codes in values:
            table = np.zeros(256)
            for code in range(5):
                own = codes == code
                table[code] = (weights * signs)[own].sum() / (weights[own].sum() + 0.5 / 60)
            errors.append((weights * (signs - table[codes]) ** 2).sum())
            if len(errors) - 1 == learned.feature:
                np.testing.assert_allclose(learned.entries, table, atol=1e-3)
        assert errors[learned.feature] == pytest.approx(min(errors), abs=1e-3)
        weights = weights * np.exp(-signs * learned.votes(values[learned.feature]))


def test_tables_say_what_loops_say() -> None:
    model = lbp_cascade(2, window=(9, 12), stages=1, weak=5)
    weak, generator = model.cascades.weak, torch.Generator().manual_seed(0)
    weak.get_buffer("cells")[1] = torch.tensor(
        [[0, 0, 4, 3], [1, 2, 1, 1], [3, 0, 3, 2], [5, 4, 2, 1], [9, 6, 1, 1]], dtype=torch.uint8
    )
    weak.get_buffer("entries").normal_(generator=generator)
    image = torch.randint(0, 256, (12, 16), generator=generator, dtype=torch.uint8)
    sums = Sums.of(image[None])
    starts = torch.tensor([0, 4, 2 * 17 + 1, 3 * 17 + 4])
    votes = weak.votes(1, slice(1, 5), sums, starts, torch.zeros(4, dtype=torch.float64))
    for start, vote in zip(starts.tolist(), votes.tolist(), strict=True):
        y, x = divmod(start, 17)
        total = 0.0
        for row in range(1, 5):
            a, b, w, h = weak.get_buffer("cells")[1, row].tolist()
            cells = image[y + b : y + b + 3 * h, x + a : x + a + 3 * w].long().reshape(3, h, 3, w).sum((1, 3))
            total += weak.get_buffer("entries")[1, row, int(pattern_codes(cells.flatten()))].item()
        assert vote == pytest.approx(total, abs=1e-6)


def test_machine_code_decides_as_tensors_do() -> None:
    model = lbp_cascade(1, window=(9, 12), stages=3, weak=9)
    weak, generator = model.cascades.weak, torch.Generator().manual_seed(0)
    weak.get_buffer("cells")[0] = weak.candidates((9, 12), 9, np.random.default_rng(0))
    weak.get_buffer("entries").normal_(generator=generator)
    model.cascades.ends[:] = torch.tensor([2, 5, 9])
    model.cascades.thresholds[:] = -0.5
    sums = Sums.of(torch.randint(0, 256, (1, 30, 40), generator=generator, dtype=torch.uint8))
    starts = (torch.arange(21)[:, None] * 41 + torch.arange(28)).flatten()
    assert_decided_alike(model, sums, starts, 3)


def test_codes_of_patches_are_codes_of_windows() -> None:
    model = lbp_cascade(1, window=(9, 9), stages=1, weak=5)
    weak = model.cascades.weak
    patches = torch.randint(0, 256, (7, 9, 9), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    cells = weak.candidates((9, 9), None, np.random.default_rng(0))
    codes = weak.answers(cells, patches)
    assert codes.shape == (len(cells), 7)
    weak.get_buffer("entries")[:] = torch.arange(256)
    for row in (0, len(cells) // 2, len(cells) - 1):
        weak.get_buffer("cells")[0, 0] = cells[row]
        starts = torch.arange(7) * 100
        votes = weak.votes(0, slice(0, 1), Sums.of(patches), starts, torch.zeros(7, dtype=torch.float64))
        assert votes.tolist() == codes[row].tolist()


def test_contract() -> None:
    # Rates and overlaps that the few objects of the toy images allow.
    rates = {"hit_rate": 0.99, "positive_iou": 0.65, "negative_iou": 0.5}
    settings = {"stages": 8, "features": 150, "positives": 80, "negatives": 300, "weak": 120, "tolerated": 2}
    assert_is_fitted_detector(lambda: build("lbp_cascade", 2, small=True, **settings, **rates))


def test_trees_are_refused() -> None:
    with pytest.raises(ValueError, match="a table has one feature, not 2"):
        lbp_cascade(1, nodes=2)
