"""Resampled scores against scores of duplicated sets, and what intervals promise."""

from __future__ import annotations

import contextlib
import io
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.metrics import ScoreError, load_detections, load_ground_truth, match, score
from benchmarks.metrics.bootstrap import PER_CLASS, TOTALS, Resampled, draw_weights, resample
from benchmarks.metrics.intervals import METHODS, interval, intervals_of
from benchmarks.score import run_score

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_val2014_100"


def generated(images: int, seed: int, digits: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Three classes, crowds, difficult and odd-sized objects; scores of few digits tie within and across images."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        for _ in range(rng.poisson(3)):
            side = rng.lognormal(3.7, 0.9, 2)
            box = [*rng.uniform(0, 200, 2).tolist(), *side.tolist()]
            kind = int(rng.integers(1, 4))
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image, "category_id": kind, "bbox": box,
                    "area": 0.8 * box[2] * box[3], "iscrowd": int(rng.random() < 0.08),
                    "difficult": int(rng.random() < 0.1),
                }
            )  # fmt: skip
            for _ in range(rng.poisson(1.5)):
                moved = (np.array(box) + rng.normal(0, 0.1, 4) * np.tile(box[2:], 2)).tolist()
                moved[2:] = np.abs(moved[2:]).tolist()
                found = {"image_id": image, "category_id": kind, "bbox": moved}
                detections.append({**found, "score": round(float(rng.random()), digits)})
        for _ in range(rng.poisson(2)):
            box = [*rng.uniform(0, 200, 2).tolist(), *rng.lognormal(3.7, 0.9, 2).tolist()]
            wrong = {"image_id": image, "category_id": int(rng.integers(1, 4)), "bbox": box}
            detections.append({**wrong, "score": round(float(rng.random()), digits)})
    truth = {
        "images": [{"id": i, "width": 640, "height": 480} for i in range(1, images + 1)],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, 4)],
        "annotations": annotations,
    }
    return truth, detections


def real() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    truth = json.loads((REAL / "instances_val2014_100.json").read_text())
    found = json.loads((REAL / "instances_val2014_fakebbox100_results.json").read_text())
    ids = {image["id"] for image in truth["images"]}
    return truth, [row for row in found if row["image_id"] in ids]


def duplicated(
    truth: dict[str, Any], detections: list[dict[str, Any]], weights: np.ndarray
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The set in which image i stands `weights[i]` times, copies side by side."""
    objects, found = defaultdict(list), defaultdict(list)
    for row in truth["annotations"]:
        objects[row["image_id"]].append(row)
    for row in detections:
        found[row["image_id"]].append(row)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for image, copies in zip(sorted(truth["images"], key=lambda i: i["id"]), weights, strict=True):
        for _ in range(copies):
            new = len(images) + 1
            images.append({**image, "id": new})
            for one in objects[image["id"]]:
                annotations.append({**one, "image_id": new, "id": len(annotations) + 1})
            rows += [{**one, "image_id": new} for one in found[image["id"]]]
    return {**truth, "images": images, "annotations": annotations}, rows


def by_name(scores: dict[str, Any]) -> list[float]:
    values = {**scores["stats"], **scores["fd"], **scores["voc"]}
    return [np.nan if values[name] is None else values[name] for name in TOTALS]


CASES = {
    "all digits": lambda: generated(25, 0, 9),
    "ties": lambda: generated(25, 1, 1),
    "one score": lambda: generated(12, 2, 0),
    "real": real,
}


@pytest.mark.parametrize("case", CASES)
def test_weights_equal_copies(case: str) -> None:
    """All numbers, of all classes, against a score of the set with real copies."""
    if case == "real" and not REAL.is_dir():
        pytest.skip("needs the real data sets beside the checkout")
    truth, detections = CASES[case]()
    read = load_ground_truth(truth)
    matches = match(read, load_detections(detections, read))
    weights = np.concatenate((np.ones((1, matches.images), dtype=np.uint16), draw_weights(matches.images, 5, 0, 3)))
    found = resample(matches, weights=weights)
    for row, totals, classes in zip(weights, found.totals, found.per_class, strict=True):
        copies, rows = duplicated(truth, detections, row)
        again = load_ground_truth(copies)
        wanted = score(again, load_detections(rows, again))
        np.testing.assert_allclose(totals, by_name(wanted), atol=1e-12, rtol=0, equal_nan=True)
        each = [[one[key] for key in PER_CLASS] for one in wanted["per_class"].values()]
        np.testing.assert_allclose(classes, np.array(each, dtype=float), atol=1e-12, rtol=0, equal_nan=True)


@pytest.mark.parametrize("case", ["ties", "one score", "real"])
def test_weights_equal_pycocotools_on_copies(case: str) -> None:
    if case == "real" and not REAL.is_dir():
        pytest.skip("needs the real data sets beside the checkout")
    truth, detections = CASES[case]()
    read = load_ground_truth(truth)
    weights = draw_weights(len(truth["images"]), 11, 0, 1)
    found = resample(match(read, load_detections(detections, read)), weights=weights)
    copies, rows = duplicated(truth, detections, weights[0])
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO()
        theirs.dataset = copies
        theirs.createIndex()
        evaluation = COCOeval(theirs, theirs.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    wanted = [np.nan if value < 0 else value for value in evaluation.stats[:6]]
    np.testing.assert_allclose(found.totals[0, :6], wanted, atol=1e-9, rtol=0, equal_nan=True)


def test_draws_are_of_all_images_and_repeat() -> None:
    weights = draw_weights(40, 3, 0, 50)
    assert weights.sum(1).tolist() == [40] * 50
    assert (draw_weights(40, 3, 20, 30) == weights[20:30]).all(), "a draw depends on its number alone"
    assert (draw_weights(40, 4, 0, 50) != weights).any()
    # Of an image 1/e of the draws know nothing.
    assert 0.3 < (weights == 0).mean() < 0.44


def test_threads_and_chunks_change_nothing() -> None:
    truth, detections = generated(10, 0, 2)
    read = load_ground_truth(truth)
    matches = match(read, load_detections(detections, read))
    many = resample(matches, 40, seed=1)
    assert np.array_equal(many.totals, resample(matches, 40, seed=1).totals, equal_nan=True)
    again = resample(matches, weights=draw_weights(matches.images, 1, 0, 40))
    assert np.array_equal(many.totals, again.totals, equal_nan=True)


def test_weights_beyond_32_bits_are_refused() -> None:
    truth, detections = generated(10, 0, 2)
    read = load_ground_truth(truth)
    results = load_detections(detections * 1_500, read)
    with pytest.raises(ValueError, match="too large"):
        resample(match(read, results), weights=np.full((1, 10), 65_535, dtype=np.uint16))


def test_methods_by_their_definitions() -> None:
    draws = np.arange(1.0, 1001.0) / 1000
    estimate = 0.4
    low, high = np.quantile(draws, [0.025, 0.975])
    bias = draws.mean() - estimate
    found = {method: interval(estimate, draws, method=method) for method in METHODS}
    assert found["percentile"] == pytest.approx((low, high))
    assert found["shifted"] == pytest.approx((low - bias, high - bias))
    assert found["basic"] == pytest.approx((2 * estimate - high, 2 * estimate - low))
    reach = 1.959964 * draws.std(ddof=1)
    assert found["normal"] == pytest.approx((estimate - bias - reach, estimate - bias + reach), abs=1e-6)
    # z of 0.3995 (399 below and half of one) is -0.25464: percentiles at Phi(-2.4693) and Phi(1.4507).
    assert found["bias_corrected"] == pytest.approx(tuple(np.quantile(draws, [0.006770, 0.926567])), abs=1e-4)
    centred = {method: interval(0.5005, draws, method=method) for method in METHODS}
    for method in ("shifted", "basic", "bias_corrected"):
        assert centred[method] == pytest.approx((low, high), abs=1e-3), "without bias all agree on a symmetric sample"
    with pytest.raises(ValueError, match="'wald' is unknown"):
        interval(0.5, draws, method="wald")  # type: ignore[arg-type]


def test_what_is_undefined_too_often_has_no_interval() -> None:
    draws = np.full(100, 0.5)
    draws[:11] = np.nan
    assert interval(0.5, draws) is None
    draws[0] = 0.5
    assert interval(0.5, draws) == pytest.approx((0.5, 0.5))
    assert interval(float("nan"), np.full(100, 0.5)) is None
    assert interval(0.5, np.empty(0)) is None


def test_intervals_are_laid_out_as_the_scores_and_cut_at_0_and_1() -> None:
    truth, detections = generated(10, 0, 3)
    scores = score(truth, detections)
    rng = np.random.default_rng(0)
    draws = Resampled(rng.normal(0.99, 0.1, (200, len(TOTALS))), rng.normal(0.01, 0.1, (200, 3, len(PER_CLASS))))
    found = intervals_of(scores, draws)
    assert (found["level"], found["draws"], found["method"]) == (0.95, 200, "shifted")
    assert set(found["stats"]) | set(found["fd"]) | set(found["voc"]) == set(TOTALS)
    assert found["per_class"].keys() == scores["per_class"].keys()
    ends = [pair for part in ("stats", "fd", "voc") for pair in found[part].values() if pair is not None]
    assert all(0 <= low <= high <= 1 for low, high in ends)
    json.dumps(found, allow_nan=False)


def test_intervals_hold_what_is_to_be_expected_about_as_often_as_they_promise() -> None:
    """80 sets of 60 images each; of 80 at 95 %, fewer than 68 happen once in ten thousand times."""
    places = (("stats", "AP"), ("stats", "AP50"), ("fd", "FD"), ("voc", "mAP10"))
    ends, values = defaultdict(list), defaultdict(list)
    for draw in range(80):
        truth, detections = generated(60, 200 + draw, 9)
        read = load_ground_truth(truth)
        results = load_detections(detections, read)
        scores = score(read, results)
        found = intervals_of(scores, resample(match(read, results), 200, seed=draw))
        for part, key in places:
            ends[key].append(found[part][key])
            values[key].append(scores[part][key])
    held = {key: sum(low <= np.mean(values[key]) <= high for low, high in ends[key]) for key in ends}
    assert all(68 <= count < 80 for count in held.values()), held


def test_intervals_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, detections = generated(20, 0, 3)
    gt, found, out = (tmp_path / name for name in ("gt.json", "found.json", "out.json"))
    gt.write_text(json.dumps(truth))
    found.write_text(json.dumps(detections))
    scores = run_score(gt, found, out=out, intervals=200, seed=4)
    assert json.loads(out.read_text()) == scores
    assert scores["intervals"]["seed"] == 4
    low, high = scores["intervals"]["stats"]["AP"]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in lines[2:5]] == [
        ["score", f"{100 * scores['stats']['AP']:.1f}"], ["low", f"{100 * low:.1f}"], ["high", f"{100 * high:.1f}"]
    ]  # fmt: skip
    first_class = scores["intervals"]["per_class"]["class 1"]["AP"]
    assert any(f"({100 * first_class[0]:.1f}-{100 * first_class[1]:.1f})" in line for line in lines)
    assert "200 resamples" in " ".join(lines[-1])
    assert "intervals" not in run_score(gt, found)
    with pytest.raises(ScoreError, match="99 resamples are too few"):
        run_score(gt, found, intervals=99)
