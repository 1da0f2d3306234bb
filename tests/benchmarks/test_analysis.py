"""Calibration and recall against definitions written as loops, exact intervals, and what `analyse` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torchvision.io import write_png
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.analysis import NUMBERS, analyse, recall_by_number
from benchmarks.metrics import Matches, load_detections, load_ground_truth, match, miss_rates, score
from benchmarks.metrics.calibration import calibration
from benchmarks.metrics.data import GroundTruth, Results
from benchmarks.metrics.miss_rate import exact_interval
from tests.benchmarks.test_intervals import generated


def read(truth: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[GroundTruth, Results, Matches]:
    known = load_ground_truth(truth)
    results = load_detections(rows, known)
    return known, results, match(known, results)


def test_calibration_equals_its_definition_written_as_loops() -> None:
    known, results, matches = read(*generated(120, 0, 9))
    found = calibration(known, results, matches)
    wrong, right = matches.judged()
    rows = np.flatnonzero(wrong | right)
    bins: dict[int, list[int]] = {}
    cells: dict[tuple[int, ...], list[int]] = {}
    for d in rows:
        bins.setdefault(min(int(matches.score[d] * 10), 9), []).append(d)
        x, y, w, h = results.boxes[matches.entry[d]]
        shares = (matches.score[d], (x + w / 2) / 640, (y + h / 2) / 480, w / 640, h / 480)
        cells.setdefault(tuple(min(max(int(share * 5), 0), 4) for share in shares), []).append(d)

    def gap(members: list[int]) -> float:
        return abs(float(np.mean(matches.score[members])) - float(np.mean(right[members])))

    assert found["ECE"] == pytest.approx(sum(len(m) * gap(m) for m in bins.values()) / len(rows))
    for place, row in enumerate(found["bins"]):
        assert row["detections"] == len(bins[place])
        assert row["precision"] == pytest.approx(np.mean(right[bins[place]]))
    full = [members for members in cells.values() if len(members) >= 8]
    covered = sum(map(len, full))
    assert 0.2 < covered / len(rows) < 1, "some bins are too small"
    assert found["D-ECE"] == pytest.approx(sum(len(m) * gap(m) for m in full) / covered)
    assert found["D-ECE_covers"] == pytest.approx(covered / len(rows))


def test_scores_that_are_shares_of_right_ones_are_calibrated() -> None:
    """A detection in four is right and all score .25; then all score .75."""
    truth, _ = generated(40, 1, 9)
    box = [10.0, 10.0, 40.0, 40.0]
    truth["annotations"] = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": box, "area": 1600.0, "iscrowd": 0} for i in range(1, 41, 4)
    ]
    rows = [{"image_id": i, "category_id": 1, "bbox": box, "score": 0.25} for i in range(1, 41)]
    known, results, matches = read(truth, rows)
    found = calibration(known, results, matches)
    assert (found["ECE"], found["D-ECE"], found["D-ECE_covers"]) == pytest.approx((0, 0, 1))
    known, results, matches = read(truth, [{**row, "score": 0.75} for row in rows])
    assert calibration(known, results, matches)["ECE"] == pytest.approx(0.5)
    known, results, matches = read({**truth, "images": [{"id": i} for i in range(1, 41)]}, rows)
    assert calibration(known, results, matches)["D-ECE"] is None
    known, results, matches = read(truth, [{**row, "score": 2.5} for row in rows])
    assert "no probabilities" in calibration(known, results, matches)["undefined"]
    known, results, matches = read(truth, [])
    assert calibration(known, results, matches)["undefined"] == "no detection counts"


def test_recall_by_number_goes_through_cocos_three() -> None:
    known, results, matches = read(*generated(40, 2, 2))
    found = recall_by_number(matches)
    stats = score(known, results)["stats"]
    for number in (1, 10, 100):
        assert found[str(number)] == pytest.approx(stats[f"AR{number}"], abs=1e-12)
    values = [found[str(number)] for number in NUMBERS]
    assert values == sorted(values)  # type: ignore[type-var]
    assert values[0] < values[3]  # type: ignore[operator]
    proposals = analyse(known, results).numbers["recall"]["proposals"]
    assert proposals["1"] < proposals["5"] <= proposals["1000"]
    assert proposals["1000"] >= found["100"] - 0.05, "whoever need not name the class finds more"


@pytest.mark.parametrize(("count", "total", "level"), [(0, 10, 0.95), (10, 10, 0.95), (3, 17, 0.9), (1, 400, 0.99)])
def test_exact_intervals(count: int, total: int, level: float) -> None:
    wanted = binomtest(count, total).proportion_ci(level, method="exact")
    assert [float(end) for end in exact_interval(count, total, level)] == pytest.approx([wanted.low, wanted.high])


def test_miss_rates_have_intervals() -> None:
    truth, rows = generated(60, 3, 9)
    only = [one for one in truth["annotations"] if one["category_id"] == 1 and not one["iscrowd"]]
    known, _, matches = read({**truth, "annotations": only}, rows)
    found = miss_rates(matches, known.labels, windows=30_000)
    sure = found["intervals"]
    missed = round(found["at_fppi"]["0.1"] * len(only))
    wanted = binomtest(missed, len(only)).proportion_ci(0.95, method="exact")
    assert sure["at_fppi"]["0.1"] == pytest.approx([wanted.low, wanted.high])
    low, high = sure["found_at"]["31"]
    assert low < found["found_at"]["31"] < high
    seen = round(found["found_at"]["31"] * len(only))
    wanted = binomtest(seen, len(only)).proportion_ci(0.95, method="exact")
    assert (low, high) == pytest.approx((wanted.low, wanted.high))
    assert sure["log_average"] == sure["per_class"]["class 1"]
    assert sure["log_average"][0] < found["log_average"] < sure["log_average"][1]
    assert sure["at_fppw"].keys() == found["at_fppw"].keys()
    # Of several classes: mean of intervals that hold all at once, so wider than each at its own level.
    known, _, matches = read(truth, rows)
    several = miss_rates(matches, known.labels)
    ends = []
    for k in range(3):
        objects = int((~matches.truth_ignored[matches.truth_category == k, 0]).sum())
        one = [o for o in truth["annotations"] if o["category_id"] == k + 1]
        alone, _, part = read({**truth, "annotations": one}, rows)
        rate = miss_rates(part, alone.labels)["at_fppi"]["1"]
        wanted = binomtest(round(rate * objects), objects).proportion_ci(1 - 0.05 / 3, method="exact")
        ends.append([wanted.low, wanted.high])
    assert several["intervals"]["at_fppi"]["1"] == pytest.approx(np.mean(ends, axis=0).tolist())
    known, _, matches = read({**truth, "annotations": []}, rows)
    assert miss_rates(matches, known.labels)["intervals"]["log_average"] is None


def test_intervals_of_a_miss_rate_hold_it_often_enough() -> None:
    """600 draws of 30 objects, found by chance: an exact interval may hold the rate more often than it says."""
    rng = np.random.default_rng(0)
    for rate in (0.05, 0.4):
        low, high = exact_interval(rng.binomial(30, rate, 600), 30)
        assert ((low <= rate) & (rate <= high)).mean() >= 0.95


def test_command_writes_numbers_and_pictures(tmp_path: Path) -> None:
    truth, rows = generated(12, 4, 9)
    folder = tmp_path / "images"
    folder.mkdir()
    for image in truth["images"]:
        image.update(file_name=f"part/{image['id']}.png", width=64, height=48)
        write_png(torch.full((3, 48, 64), 90, dtype=torch.uint8), str(folder / f"{image['id']}.png"))
    gt, found, out = tmp_path / "gt.json", tmp_path / "found.json", tmp_path / "out"
    gt.write_text(json.dumps(truth))
    found.write_text(json.dumps(rows))
    arguments = ["analyse", "--gt", str(gt), "--detections", str(found), "--out", str(out), "--images", str(folder)]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    numbers = json.loads((out / "analysis.json").read_text())
    assert numbers.keys() == {"errors", "calibration", "recall", "confusion", "misses", "worst"}
    for name in ("analysis.png", "worst.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    counts = [row["wrong"] + row["missed"] for row in numbers["worst"]]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 0
    (folder / f"{numbers['worst'][0]['image_id']}.png").unlink()
    assert CliRunner().invoke(app, arguments).exit_code == 2
    assert CliRunner().invoke(app, [*arguments[:-1], str(tmp_path / "nowhere")]).exit_code == 2
