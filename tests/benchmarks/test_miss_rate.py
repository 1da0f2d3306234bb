"""Miss rates: against a definition written as loops, the example of the sheets, and in a Record."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.evaluate import Subject, evaluate
from benchmarks.metrics import load_detections, load_ground_truth, match, miss_rates
from benchmarks.metrics.miss_rate import AT_FALSE, AT_FPPI, log_average, missed_at
from benchmarks.score import print_scores
from ops.structures import Detections, Target
from zoo.detector import Detector

Json = dict[str, Any]


def iou(a: list[float], b: list[float]) -> tuple[float, float]:
    """IoU of two boxes, and the share of the first that the second covers."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    return common / (a[2] * a[3] + b[2] * b[3] - common), common / (a[2] * a[3])


def slowly(truth: Json, detections: list[Json], category: int) -> list[tuple[int, float]]:
    """After each detection, by score, the wrong ones and the share of objects missed."""
    own = [entry for entry in truth["annotations"] if entry["category_id"] == category]
    objects = [entry for entry in own if not entry["iscrowd"]]
    taken: set[int] = set()
    points, wrong = [], 0
    for found in sorted(detections, key=lambda entry: -entry["score"]):
        if found["category_id"] != category:
            continue
        free = [o for o in objects if o["image_id"] == found["image_id"] and o["id"] not in taken]
        best = max(free, key=lambda o: iou(found["bbox"], o["bbox"])[0], default=None)
        if best is not None and iou(found["bbox"], best["bbox"])[0] >= 0.5:
            taken.add(best["id"])
        elif any(
            entry["iscrowd"] and entry["image_id"] == found["image_id"] and iou(found["bbox"], entry["bbox"])[1] >= 0.5
            for entry in own
        ):
            continue
        else:
            wrong += 1
        points.append((wrong, 1 - len(taken) / len(objects)))
    return points


def at(points: list[tuple[int, float]], most: float) -> float:
    rate = 1.0
    for wrong, missed in points:
        if wrong <= most:
            rate = missed
    return rate


def scene(seed: int, images: int = 5) -> tuple[Json, list[Json]]:
    chance = np.random.default_rng(seed)
    annotations = [
        {
            "id": number,
            "image_id": int(chance.integers(1, images + 1)),
            "category_id": int(chance.choice([3, 7])),
            "bbox": [*chance.uniform(0, 150, 2).tolist(), *chance.uniform(20, 60, 2).tolist()],
            "area": 900.0,
            "iscrowd": int(number > 4 and chance.random() < 0.15),
        }
        for number in range(1, 31)
    ]
    detections = []
    for score in chance.permutation(200):
        entry = annotations[int(chance.integers(30))]
        box = np.array(entry["bbox"]) + chance.normal(size=4) * [12, 12, 6, 6]
        image = entry["image_id"] if chance.random() < 0.8 else int(chance.integers(1, images + 1))
        row = {"image_id": image, "category_id": entry["category_id"], "bbox": np.abs(box).tolist()}
        detections.append({**row, "score": float(score) / 200})
    truth = {
        "images": [{"id": i, "width": 220, "height": 220, "file_name": f"{i}.jpg"} for i in range(1, images + 1)],
        "categories": [{"id": 3, "name": "face"}, {"id": 7, "name": "person"}, {"id": 9, "name": "absent"}],
        "annotations": annotations,
    }
    return truth, detections


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_definition_written_as_loops(seed: int) -> None:
    truth, detections = scene(seed)
    loaded = load_ground_truth(truth)
    found = miss_rates(match(loaded, load_detections(detections, loaded)), loaded.labels, windows=30_000)
    curves = [slowly(truth, detections, category) for category in (3, 7)]
    averages = [math.exp(sum(math.log(max(at(points, 5 * rate), 1e-10)) for rate in AT_FPPI) / 9) for points in curves]
    assert found["log_average"] == pytest.approx(sum(averages) / 2)
    assert found["per_class"] == {
        "face": pytest.approx(averages[0]),
        "person": pytest.approx(averages[1]),
        "absent": None,
    }
    for rate in ("0.01", "0.1", "1"):
        assert found["at_fppi"][rate] == pytest.approx(np.mean([at(points, 5 * float(rate)) for points in curves]))
    for rate in ("1e-06", "1e-05", "0.0001"):
        # A third of the windows is each class's.
        assert found["at_fppw"][rate] == pytest.approx(np.mean([at(p, 10_000 * float(rate)) for p in curves]))
    for count in AT_FALSE:
        assert found["found_at"][str(count)] == pytest.approx(1 - np.mean([at(points, count) for points in curves]))
    assert found["found_at"]["50"] > found["found_at"]["10"] > 0


def test_example_of_two_images() -> None:
    people = [(1, [0, 0, 100, 200]), (1, [80, 0, 100, 200]), (1, [300, 0, 100, 200]), (2, [10, 10, 50, 100])]
    said = [
        (1, [2, 0, 100, 200], 0.9),
        (1, [85, 0, 100, 200], 0.8),
        (1, [200, 0, 80, 200], 0.6),
        (1, [310, 10, 80, 180], 0.3),
        (1, [520, 10, 80, 180], 0.7),
        (2, [12, 10, 50, 100], 0.95),
        (2, [14, 12, 50, 100], 0.5),
    ]
    annotations = [
        {"id": n, "image_id": image, "category_id": 1, "bbox": box, "area": 1.0, "iscrowd": 0}
        for n, (image, box) in enumerate(people, start=1)
    ]
    annotations.append(
        {"id": 9, "image_id": 1, "category_id": 1, "bbox": [500, 0, 400, 200], "area": 1.0, "iscrowd": 1}
    )
    truth = load_ground_truth(
        {
            "images": [{"id": i, "width": 1000, "height": 300, "file_name": f"{i}.jpg"} for i in (1, 2)],
            "categories": [{"id": 1, "name": "person"}],
            "annotations": annotations,
        }
    )
    detections = [{"image_id": i, "category_id": 1, "bbox": box, "score": s} for i, box, s in said]
    found = miss_rates(match(truth, load_detections(detections, truth)), truth.labels)
    assert found["log_average"] == pytest.approx(0.022580, abs=5e-7)
    # Three are found before the first wrong detection, the fourth between the second and the third.
    assert found["at_fppi"] == {"0.01": 0.25, "0.1": 0.25, "1": 0.0}
    assert found["at_fppw"] == {}


def test_all_is_missed_before_the_first_detection() -> None:
    assert missed_at(np.array([1.0, 1.0, 2.0]), np.array([1.0, 0.5, 0.5]), [0.5, 1, 3]).tolist() == [1, 0.5, 0.5]
    assert log_average(np.zeros(0), np.zeros(0)) == pytest.approx(1)
    assert log_average(np.array([0.0]), np.array([0.0])) == pytest.approx(1e-10)


def test_without_objects_nothing_is_defined() -> None:
    truth, _ = scene(0)
    loaded = load_ground_truth({**truth, "annotations": []})
    found = miss_rates(match(loaded, load_detections([], loaded)), loaded.labels)
    assert found["log_average"] is None
    assert set(found["found_at"].values()) == {None}


class Four:
    """Four images with an object each."""

    name, split, fingerprint, has_masks = "four", "test", "0" * 64, False
    class_names, category_ids, image_ids, num_objects = ("face",), (1,), (1, 2, 3, 4), 4

    def __len__(self) -> int:
        return 4

    def size(self, index: int) -> tuple[int, int]:
        return 40, 50 + index % 2

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        target = Target(torch.tensor([[4.0, 6, 24, 30]]), torch.tensor([0]))
        return torch.full((3, *self.size(index)), 0.25 * index), target

    def coco(self) -> Json:
        return {
            "images": [{"id": i, "height": 40, "width": 50 + (i - 1) % 2} for i in self.image_ids],
            "categories": [{"id": 1, "name": "face"}],
            "annotations": [
                {"id": i, "image_id": i, "category_id": 1, "bbox": [4, 6, 20, 24], "area": 480, "iscrowd": 0}
                for i in self.image_ids
            ],
        }


class FindsThreeOfFour(Detector):
    """Right in all but the darkest image, where it is wrong, and less sure than in two of the others."""

    def num_boxes(self, size: tuple[int, int]) -> int:
        return size[1]

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> list[Detections]:
        place = [[4.0, 6.0, 24.0, 30.0], [25.0, 6.0, 45.0, 30.0]]
        return [
            Detections(
                torch.tensor([place[0] if image.max() else place[1]]),
                image.max()[None] if image.max() else torch.tensor([0.4]),
                torch.tensor([0]),
            )
            for image in images
        ]


@pytest.mark.parametrize(("windows", "asked"), [(True, False), (False, True), (False, False)])
def test_records_hold_miss_rates(
    tmp_path: Path, windows: bool, asked: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    model = FindsThreeOfFour(1)
    model.classifies_windows = windows
    (tmp_path / "weights").write_bytes(b"")
    subject = Subject("finds_three", model, "small", {}, None, tmp_path / "weights")
    record = evaluate(subject, Four(), misses=asked, quiet=True)  # type: ignore[arg-type]
    assert ("misses" in record.metrics) == ("misses" in record.protocol) == (windows or asked)
    if not windows and not asked:
        return
    found = record.metrics["misses"]
    assert found["at_fppi"] == {"0.01": 0.5, "0.1": 0.5, "1": 0.25}
    assert found["found_at"]["10"] == 0.75
    # Some references lie below the quarter of a false positive an image at which the third object is found.
    below = sum(rate < 0.25 for rate in AT_FPPI)
    assert found["log_average"] == pytest.approx(0.5 ** (below / 9) * 0.25 ** ((9 - below) / 9))
    assert found["windows"] == (202 if windows else None)
    assert found["at_fppw"] == ({"1e-06": 0.5, "1e-05": 0.5, "0.0001": 0.5} if windows else {})
    print_scores(record.metrics)
    lines = capsys.readouterr().out.splitlines()
    row = lines[lines.index("Missed:") + 3].split()
    assert row[0] == "score"
    assert row[2:5] == ["50.0", "50.0", "25.0"]
    assert lines[lines.index("Missed:") + 4].split()[0] == "low"
