from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import references, shipping
from benchmarks.datasets import open_dataset
from benchmarks.evaluate import category_of_label, detect
from benchmarks.metrics import load_detections, load_ground_truth, score
from benchmarks.protocol import identities
from benchmarks.provenance import sha256
from benchmarks.results import Record
from benchmarks.shipped import WEIGHTS, Expectation, shipped
from benchmarks.shipping import LIMIT, ship
from benchmarks.train import train
from zoo import CATALOG, checkpoints


def test_missing_expectation_is_named(tmp_path):
    (tmp_path / "ssd300_vgg16_small.shapes.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"ssd300_vgg16_small\.shapes\.json"):
        shipped("shapes", folder=tmp_path)


def test_what_ships_is_small_known_and_described():
    files = sorted(WEIGHTS.glob("*.safetensors"))
    assert files, "no checkpoint ships"
    assert sum(path.stat().st_size for path in files) < 50e6
    for path in files:
        assert path.stat().st_size <= LIMIT
        described = json.loads(path.with_suffix(".json").read_text())
        assert described["detector"] in CATALOG
        assert path.name.startswith(f"{described['detector']}_small.{described['benchmark']}.")


def score_on_some(path: Path, count: int) -> float:
    data = open_dataset("shapes")
    model, meta = checkpoints.load(path)
    rows = detect(model, data, categories=category_of_label(data, model.num_classes, meta.class_names), limit=count)
    ids = set(data.image_ids[:count])
    truth = data.coco()
    truth["images"] = [row for row in truth["images"] if row["id"] in ids]
    truth["annotations"] = [row for row in truth["annotations"] if row["image_id"] in ids]
    loaded = load_ground_truth(truth)
    return score(loaded, load_detections(rows, loaded))["stats"]["AP50"]


def test_a_damaged_checkpoint_scores_less(tmp_path):
    """One tensor shifted: the numbers must see it."""
    path, _ = shipped("shapes", "ssd300_vgg16")[0]
    model, meta = checkpoints.load(path)
    state = load_file(path)
    name = "backbone.net.stem.0.weight"  # Whatever is detected passes through it.
    state[name] = torch.roll(state[name], 1, 0)
    model.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in state.items()})
    damaged = tmp_path / path.name
    checkpoints.save(
        damaged,
        model,
        detector=meta.detector,
        num_classes=meta.num_classes,
        overrides=meta.overrides,
        class_names=meta.class_names,
        small=meta.small,
    )
    assert score_on_some(damaged, 16) < score_on_some(path, 16) - 0.1


def test_only_a_first_whole_training_ships_and_others_leave_records(tmp_path, monkeypatch):
    run, results, weights = tmp_path / "run", tmp_path / "results", tmp_path / "weights"
    monkeypatch.setattr(shipping, "WEIGHTS", weights)
    monkeypatch.setattr(shipping, "open_dataset", lambda name, split, root: open_dataset(name, split, root).first(2))
    spec = CATALOG["yolov1"]
    monkeypatch.setitem(CATALOG, "yolov1", replace(spec, small_recipe=replace(spec.small_recipe, steps=1, batch=2)))
    train("yolov1", "shapes", out=run, images=3, threads=1, quiet=True)
    with pytest.raises(ValueError, match="was trained with 3 images; what ships is the first"):
        ship(run, results=results)
    assert not results.exists()
    written = ship(run, records_only=True, results=results)
    assert not weights.exists()
    assert [path.name for path in written] == [
        "accuracy.yolov1.small.shapes-test.of-3.json",
        "training.yolov1.small.shapes-train.of-3.json",
    ]
    other = {"overrides": {"coord": 4.0}, "recipe_changes": {"lr": 0.5, "steps": 1}}
    train("yolov1", "shapes", out=tmp_path / "again", seed=1, threads=1, quiet=True, **other)
    with pytest.raises(ValueError, match=r"was trained with seed 1, coord=4.0 lr=0.5; what ships is the first"):
        ship(tmp_path / "again", results=results)
    accuracy, _ = ship(tmp_path / "again", records_only=True, results=results)
    assert accuracy.name == "accuracy.yolov1.small.shapes-test.seed-1.coord-4.0.lr-0.5.json"
    assert Record.read(accuracy).called == "yolov1 coord=4.0 lr=0.5"
    train("yolov1", "shapes", out=tmp_path / "scene", split="pairs-train", images=3, threads=1, quiet=True)
    with pytest.raises(ValueError, match=r"was trained with 3 images, split=pairs-train; what ships"):
        ship(tmp_path / "scene", results=results)
    accuracy, _ = ship(tmp_path / "scene", records_only=True, results=results)
    assert accuracy.name == "accuracy.yolov1.small.shapes-pairs.of-3.split-pairs-train.json"
    train("yolov1", "shapes", out=tmp_path / "first", threads=1, quiet=True)
    checkpoint, expectation, prints, matches, accuracy, _ = ship(tmp_path / "first", results=results)
    assert checkpoint == weights / "yolov1_small.shapes.safetensors"
    assert Expectation.model_validate_json(expectation.read_bytes()).sha256 == sha256(checkpoint)
    stored = references.read(matches)
    assert stored is not None
    assert stored.checkpoint == sha256(checkpoint) == json.loads(prints.read_text())["checkpoint"]
    record = Record.read(accuracy)
    assert record.dataset is not None
    assert record.protocol["identity"] == identities(record.protocol, record.dataset.fingerprint)
    assert stored.split == record.dataset.fingerprint
