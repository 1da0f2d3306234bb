"""What was timed is what was scored, or the latency is void: by hashes of the detections."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.answers import STEPS, accuracies_in, answer_hashes, checked, same_run
from benchmarks.datasets import Dataset
from benchmarks.evaluate import Subject, detect, evaluate
from benchmarks.hardware import WarmUp
from benchmarks.recording import latency_record
from benchmarks.results import Record
from tests.benchmarks.virtual import Clock, Fake
from tests.reports.samples import CPU, record


def row(image: int, score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": 1, "bbox": [0.0, 0.0, 1.0, 2.0], "score": score}


def test_beginnings_by_hand() -> None:
    rows = [row(7, 0.5), row(9, 0.25), row(7, 0.125)]
    found = answer_hashes(rows, [7, 8, 9])
    first = json.dumps([7, [rows[0], rows[2]]], sort_keys=True) + json.dumps([8, []])
    assert found == {
        "1": hashlib.sha256(json.dumps([7, [rows[0], rows[2]]], sort_keys=True).encode()).hexdigest(),
        "2": hashlib.sha256(first.encode()).hexdigest(),
        "3": hashlib.sha256((first + json.dumps([9, [rows[1]]], sort_keys=True)).encode()).hexdigest(),
    }
    assert list(answer_hashes([], range(5000))) == [str(step) for step in STEPS]
    assert answer_hashes([], []) == {}


def test_a_longer_run_has_the_beginnings_of_a_shorter_one() -> None:
    rows = [row(image, 0.5) for image in range(300)]
    whole, part = answer_hashes(rows, range(300)), answer_hashes(rows[:60], range(60))
    shared = whole.keys() & part.keys()
    assert shared == {"1", "2", "5", "10", "20", "50"}
    assert all(whole[count] == part[count] for count in shared)


@pytest.mark.parametrize(
    "changed",
    [
        [row(0, 0.5), row(1, 0.5000000001)],
        [row(0, 0.5)],
        [row(1, 0.5), row(1, 0.5)],
        [row(0, 0.5), {**row(1, 0.5), "category_id": 2}],
        [row(0, 0.5), row(1, 0.5), row(1, 0.1)],
    ],
)
def test_any_change_is_another_hash(changed: list[dict[str, Any]]) -> None:
    there = answer_hashes([row(0, 0.5), row(1, 0.5)], [0, 1])
    assert answer_hashes(changed, [0, 1])["2"] != there["2"]


def both(**changes: Any) -> tuple[Record, Record]:
    """An accuracy Record, and a latency Record of the same detections on the first images, but for what changes."""
    scored = record("accuracy", answers={"1": "a", "2": "b", "5": "c"}, protocol={"batch": 1})
    return scored, record("latency", **{"answers": {"1": "a", "2": "b", "3": "x"}, "protocol": {"batch": 1}, **changes})


def test_the_states() -> None:
    scored, timed = both()
    found = same_run(timed, [scored])
    assert (found.state, "first 2 images" in found.reason) == ("equal", True)
    scored, timed = both(answers={"1": "a", "2": "other"})
    found = same_run(timed, [scored])
    assert found.state == "void"
    assert "on the first 2 images are not those" in found.reason
    assert same_run(timed, []).state == "not checked"
    assert same_run(timed, [scored.model_copy(update={"answers": {}})]).state == "not checked"
    assert same_run(timed.model_copy(update={"answers": {}}), [scored]).state == "not checked"


@pytest.mark.parametrize(
    ("entry", "change"),
    [
        ("threads", {"hardware": CPU.model_copy(update={"threads": 1})}),
        ("device", {"hardware": CPU.model_copy(update={"device": "cuda: NVIDIA H200"})}),
        ("precision", {"hardware": CPU.model_copy(update={"precision": "tf32"})}),
        ("batch", {"protocol": {"batch": 4}}),
        ("torch", {"versions": {"python": "3.11.7", "torch": "3.0"}}),
    ],
)
def test_under_other_conditions_a_difference_proves_nothing(entry: str, change: dict[str, Any]) -> None:
    scored, timed = both(answers={"1": "other"}, **change)
    found = same_run(timed, [scored])
    assert found.state == "not checked"
    assert entry in found.reason
    scored, timed = both(**change)
    assert same_run(timed, [scored]).state == "equal", "what is equal is equal under any conditions"


def test_other_tests_are_no_accuracy_of_it() -> None:
    scored, timed = both(answers={"1": "other"})
    others = [
        scored.model_copy(update={"protocol": {"batch": 1, "multi_scale": {"name": "relative"}}}),
        scored.model_copy(update={"protocol": {"batch": 1, "mode": {"name": "bf16"}}}),
        scored.model_copy(update={"detector": "yolov3"}),
        scored.model_copy(update={"weights": None}),
    ]
    assert same_run(timed, others).state == "not checked"
    assert same_run(timed, [*others, scored]).state == "void"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    images, paths, objects = [], [], []
    for index in range(4):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (12, 8 + index), (40 * index, 0, 0)).save(path)
        images.append({"id": index + 1, "height": 8 + index, "width": 12})
        box = {"bbox": [0, 0, 8, 8], "area": 64, "iscrowd": 0}
        objects.append({"id": index + 1, "image_id": index + 1, "category_id": 1, **box})
        paths.append(path)
    truth = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "thing"}]}
    return Dataset("fake", "test", truth, paths)


def test_evaluate_and_latency_agree_until_the_detector_changes(dataset: Dataset, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"weights")
    threads = torch.get_num_threads()
    quick = WarmUp(window=2, slope=10.0, at_least=4, at_most=6)

    def subject(model: Fake) -> Subject:
        return Subject("ssd300_vgg16", model, "small", {}, None, weights)

    def timed(model: Fake) -> Record:
        return latency_record(subject(model), dataset, device="cpu", threads=threads, images=3, warmup=quick)

    out = tmp_path / "records"
    evaluate(subject(Fake(Clock())), dataset, out=out, quiet=True)
    (scored,) = accuracies_in(out, detector="ssd300_vgg16")
    assert scored.answers == answer_hashes(json.loads((out / "detections.json").read_text()), dataset.image_ids)
    assert scored.answers == answer_hashes(detect(Fake(Clock()), dataset, quiet=True), dataset.image_ids)

    kept, found = checked(timed(Fake(Clock())), out)
    assert list(kept.answers) == ["1", "2", "3"]
    assert (found.state, kept.metrics["same_run"]["state"], kept.note) == ("equal", "equal", "")

    class Moved(Fake):
        def postprocess(self, outputs, batch):
            first, *others = super().postprocess(outputs, batch)
            return [first[:0] if len(self.seen) % 3 == 0 else first, *others]

    kept, found = checked(timed(Moved(Clock())), out)
    assert found.state == "void"
    assert "void" in kept.note
    assert Record.read(kept.write(tmp_path / "void")) == kept
