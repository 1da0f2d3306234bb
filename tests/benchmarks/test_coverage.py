"""The simulation that judges intervals."""

from __future__ import annotations

import json

import pytest

from benchmarks.coverage import _share, as_json, cover, population, print_coverage
from benchmarks.metrics import score
from benchmarks.metrics.bootstrap import TOTALS
from benchmarks.metrics.intervals import METHODS


def test_a_population_is_one() -> None:
    truth, detections = population(30, (1, 2))
    assert (truth, detections) == population(30, (1, 2))
    assert population(30, (1, 3))[1] != detections
    assert 0.2 < score(truth, detections)["stats"]["AP"] < 0.5


def test_shares_of_a_small_run(capsys: pytest.CaptureFixture[str]) -> None:
    found = cover(30, sets=12, draws=100, whole=300, quiet=True)
    assert len(found) == 2 * len(TOTALS) * len(METHODS)
    rows = {(one.number, one.method, one.target): one for one in found}
    for method in METHODS:
        one = rows["AP50", method, "same size"]
        assert 0.5 <= one.held <= 1
        assert one.low < one.held <= one.high + 1e-9
        assert 0.02 < one.width < 0.4
    json.dumps(as_json(found), allow_nan=False)
    print_coverage(found)
    assert "score of the population" in capsys.readouterr().out


def test_wilson_by_hand() -> None:
    # 18 of 20: centre (.9 + .0960) / 1.19207, reach 1.95996 / 1.19207 * sqrt(.0045 + .0024).
    assert _share(18, 20) == pytest.approx((0.9, 0.69897, 0.97213), abs=1e-4)
    share, low, high = _share(0, 0)
    assert share != share
    assert low != low
    assert high != high
