"""Two detectors on the same resamples: verdicts, how often they are wrong, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from benchmarks.compare import run_compare
from benchmarks.metrics import ScoreError, comparison, load_detections, load_ground_truth, match, score
from benchmarks.metrics.bootstrap import TOTALS, resample
from benchmarks.metrics.comparison import adjusted, compare, images_to_decide, verdict
from tests.benchmarks.test_intervals import generated


def blurred(rows: list[dict], share: float, seed: int) -> list[dict]:
    """The same detections, of which so many are moved off their object."""
    rng = np.random.default_rng(seed)
    moved = []
    for row in rows:
        x, y, w, h = row["bbox"]
        off = 0.8 if rng.random() < share else 0.0
        moved.append({**row, "bbox": [x + off * w, y, w, h]})
    return moved


def test_draws_are_the_same_for_both() -> None:
    truth, rows = generated(30, 0, 6)
    read = load_ground_truth(truth)
    first, second = load_detections(rows, read), load_detections(blurred(rows, 0.3, 1), read)
    found = compare(read, first, second, draws=200, seed=2)
    draws = [resample(match(read, one), 200, 2).totals[:, TOTALS.index("AP")] for one in (first, second)]
    row = found["totals"]["AP"]
    assert row["first"] == score(read, first)["stats"]["AP"]
    assert row["difference"] == pytest.approx(row["first"] - row["second"], abs=1e-15)
    paired = np.std(draws[0] - draws[1])
    assert row["interval"][1] - row["interval"][0] == pytest.approx(2 * 1.96 * paired, rel=0.2)
    assert paired < 0.8 * np.hypot(np.std(draws[0]), np.std(draws[1])), "what is paired must gain by it"


def test_a_detector_is_equivalent_to_itself_and_better_than_a_worse_one() -> None:
    truth, rows = generated(60, 0, 6)
    read = load_ground_truth(truth)
    same, worse = load_detections(rows, read), load_detections(blurred(rows, 0.6, 1), read)
    alike = compare(read, same, same, draws=100)
    assert {row["verdict"] for row in alike["totals"].values() if row["interval"]} == {"equivalent"}
    assert {row["verdict"] for row in alike["per_class"].values()} == {"equivalent"}
    found = compare(read, same, worse, draws=100)
    turned = compare(read, worse, same, draws=100)
    for name in ("AP", "AP50", "FD", "FD50", "mAP10"):
        assert found["totals"][name]["verdict"] == "better", name
        assert turned["totals"][name]["verdict"] == "worse", name
    assert found["totals"]["AP"]["difference"] > 0 > found["totals"]["FD"]["difference"]
    assert {row["verdict"] for row in found["per_class"].values()} == {"better"}
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("ends", "lower", "said"),
    [
        ((0.001, 0.02), False, "better"),
        ((0.001, 0.02), True, "worse"),
        ((-0.02, -0.001), False, "worse"),
        ((-0.004, 0.005), False, "equivalent"),
        ((-0.004, 0.0051), False, "cannot tell"),
        ((-0.0051, 0.004), True, "cannot tell"),
        ((0.0, 0.0), False, "equivalent"),
    ],
)
def test_verdicts(ends: tuple[float, float], lower: bool, said: str) -> None:
    assert verdict(ends, 0.005, lower_is_better=lower) == said


def test_images_to_decide() -> None:
    # Deviation .01 at 100 images; a difference of .007 needs (2.80 * .01 / .007)^2 = 16 times as many.
    reach = 1.959964 * 0.01
    assert images_to_decide(0.007, (0.007 - reach, 0.007 + reach), 100, 0.0, 0.95) == 1_602
    # To show that .001 is within .005: (2.80 * .01 / .004)^2 = 49.1 times as many; from 0 it would take 785.
    assert images_to_decide(0.001, (0.001 - reach, 0.001 + reach), 100, 0.005, 0.95) == 4_906
    assert images_to_decide(0.0, (-reach, reach), 100, 0.0, 0.95) is None
    assert images_to_decide(0.03, (-0.001, 0.061), 100, 0.0, 0.95) >= 101


def test_classes_differ_by_benjamini_and_hochberg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three p-values of .04, .03 and .045 all fall at 5 %, though none would by Bonferroni; .06 alone does not."""
    truth, rows = generated(40, 0, 6)
    read = load_ground_truth(truth)
    pair = [load_detections(rows, read), load_detections(blurred(rows, 0.4, 1), read)]
    for values, said in (((0.04, 0.03, 0.045), True), ((0.04, 0.03, 0.06), False), ((0.001, 0.6, 0.7), None)):
        left = iter(values)
        monkeypatch.setattr(comparison, "_p_value", lambda *_, left=left: next(left))
        found = [row["verdict"] == "better" for row in compare(read, *pair, draws=100)["per_class"].values()]
        assert found == ([True, False, False] if said is None else [said] * 3)


@pytest.mark.parametrize(
    "p_values", [[], [0.3], [0.2, 0.2, 0.01, 1.0], [0.0, 1.0, 0.5], np.random.default_rng(0).random(80) ** 3]
)
def test_adjusted_p_values(p_values: list[float]) -> None:
    expected = false_discovery_control(p_values, method="bh") if len(p_values) else []
    assert adjusted(p_values) == pytest.approx(list(expected), rel=1e-14, abs=0)


def test_no_difference_is_seldom_called_one() -> None:
    """Two detectors of equal quality on 60 sets: of 60 at 95 %, more than 9 happen once in a thousand times."""
    called = 0
    for draw in range(60):
        truth, rows = generated(40, 500 + draw, 6)
        read = load_ground_truth(truth)
        pair = [load_detections(blurred(rows, 0.2, 2 * draw + which), read) for which in (0, 1)]
        called += compare(read, *pair, draws=150, margin=0.0)["totals"]["AP"]["verdict"] in ("better", "worse")
    assert called <= 9


def test_what_is_printed_and_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, rows = generated(25, 0, 6)
    files = {"gt": truth, "one": rows, "two": blurred(rows, 0.5, 0)}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    gt, one, two = (tmp_path / f"{name}.json" for name in files)
    found = run_compare(one, two, gt, draws=200, margin=1.5, out=tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == found
    assert found["margin"] == 0.015
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    row = found["totals"]["AP"]
    low, high = row["interval"]
    wanted = ["AP", f"{100 * row['first']:.1f}", f"{100 * row['second']:.1f}", f"{100 * row['difference']:+.1f}"]
    assert [*wanted, f"{100 * low:+.1f}", "to", f"{100 * high:+.1f}", "better"] in lines
    assert str(two) in text
    assert "equivalent is within 1.5 points" in text
    with pytest.raises(ScoreError, match="too few"):
        run_compare(one, two, gt, draws=10)
    with pytest.raises(ScoreError, match="must be fractions"):
        run_compare(one, two, gt, margin=-1)
