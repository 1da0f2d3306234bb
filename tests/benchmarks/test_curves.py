"""Curves that Records keep: precision by recall, loss by step; and what cost Records say of a detector besides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.descent.losses import course
from benchmarks.metrics import accumulate, load_detections, load_ground_truth, match, precision_curves, score
from benchmarks.recording import cost_record
from zoo import CATALOG


def test_means_of_the_curves_are_the_aps() -> None:
    draw = np.random.default_rng(0)
    truth = {
        "images": [{"id": n, "width": 100, "height": 100} for n in range(12)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": "nowhere"}],
        "annotations": [
            {"id": n + 1, "image_id": n % 12, "category_id": 1 + n % 2, "area": 900, "iscrowd": 0}
            | {"bbox": [*draw.uniform(0, 60, 2), 30, 30]}
            for n in range(40)
        ],
    }
    found = [
        {"image_id": row["image_id"], "category_id": row["category_id"], "score": draw.uniform()}
        | {"bbox": [row["bbox"][0] + draw.normal(0, 5), row["bbox"][1] + draw.normal(0, 5), 30, 30]}
        for row in truth["annotations"] * 2
    ]
    gt = load_ground_truth(truth)
    curves = precision_curves(accumulate(match(gt, load_detections(found, gt))))
    stats = score(truth, found)["stats"]
    assert 0.05 < stats["AP75"] < stats["AP50"] < 0.95
    for name, total in (("IoU50", "AP50"), ("IoU75", "AP75")):
        assert len(curves[name]) == 101
        assert np.mean(curves[name]) == pytest.approx(stats[total], abs=5e-5)
        assert np.all(np.diff(curves[name]) <= 0), "precision is made monotone"
    empty = load_ground_truth({**truth, "annotations": []})
    assert precision_curves(accumulate(match(empty, load_detections([], empty)))) == {}


def test_a_course_is_the_whole_loss_thinned_out(tmp_path: Path) -> None:
    log = tmp_path / "losses.jsonl"
    assert course(log) == []
    log.write_text("".join(json.dumps({"step": 50 * n, "box": 1.0 / (n + 1), "class": 2.0}) + "\n" for n in range(130)))
    found = course(log, most=60)
    assert len(found) <= 60
    assert found[0] == [0, 3.0]
    assert found[1] == [150, 2.25]


def test_a_cost_record_at_the_papers_size_tells_stages_and_recipes(tmp_path: Path) -> None:
    spec = CATALOG["yolov1_tiny"]
    made = cost_record(spec, 20)
    metrics = made.metrics
    assert sum(row["macs"] for row in metrics["stages"]) == metrics["macs"]
    assert sum(row["parameters"] for row in metrics["stages"]) == metrics["parameters"]
    assert metrics["recipes"]["paper"]["steps"] == spec.recipe.steps
    again = type(made).read(made.write(tmp_path))
    assert again.metrics == metrics, "as it was written, so that it is not written anew"
    assert "stages" not in cost_record(spec, 20, scale="small", overrides=dict(CATALOG["yolov1"].small or {})).metrics
