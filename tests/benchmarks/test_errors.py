"""The six kinds of errors against their definitions written as loops, by planted errors and by laws; confusion."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from benchmarks.metrics import load_detections, load_ground_truth, match, score
from benchmarks.metrics.confusion import confusion
from benchmarks.metrics.data import GroundTruth, Results
from benchmarks.metrics.errors import KINDS, Errors, find_errors, summary
from tests.benchmarks.test_explain import overlap
from tests.benchmarks.test_intervals import REAL, generated, real

Json = dict[str, Any]


def read(truth: Json, rows: list[Json]) -> tuple[GroundTruth, Results, Errors]:
    known = load_ground_truth(truth)
    results = load_detections(rows, known)
    return known, results, find_errors(known, results, match(known, results))


def scene(objects: list[tuple[int, int, list[float]]], said: list[tuple[int, int, list[float], float]]) -> Any:
    truth = {
        "images": [{"id": i, "width": 1000, "height": 1000} for i in (1, 2)],
        "categories": [{"id": k, "name": name} for k, name in ((1, "cat"), (2, "dog"))],
        "annotations": [
            {"id": n, "image_id": image, "category_id": kind, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for n, (image, kind, box) in enumerate(objects, start=1)
        ],
    }
    return truth, [{"image_id": i, "category_id": k, "bbox": box, "score": s} for i, k, box, s in said]


BOX = [100.0, 100.0, 100.0, 100.0]
ANOTHER = [600.0, 600.0, 100.0, 100.0]
HALF_OFF = [150.0, 100.0, 100.0, 100.0]  # IoU 1/3
NOWHERE = [400.0, 800.0, 50.0, 50.0]

PLANTED = {
    "classification": [(1, 2, BOX, 0.8)],
    "localisation": [(1, 1, HALF_OFF, 0.8)],
    "both": [(1, 2, HALF_OFF, 0.8)],
    "duplicate": [(1, 1, BOX, 0.9), (1, 1, BOX, 0.8)],
    "background": [(1, 1, NOWHERE, 0.8)],
    "missed": [],
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_planted_error_is_found_as_such(kind: str) -> None:
    """Beside a cat that is missed, unless it is found or pointed to, and one dog and one cat that are found."""
    said = [(2, 1, BOX, 0.99), (2, 2, ANOTHER, 0.99), *PLANTED[kind]]
    _, _, errors = read(*scene([(1, 1, BOX), (2, 1, BOX), (2, 2, ANOTHER)], said))
    found = {name: errors.count(name) for name in KINDS}
    unfound = kind not in ("classification", "localisation", "duplicate")
    assert found == {name: int(name == kind or (name == "missed" and unfound)) for name in KINDS}
    if kind in ("classification", "localisation"):
        assert errors.mended([kind]) == pytest.approx(1)


def test_a_mended_detection_must_not_be_the_second_of_its_object() -> None:
    """Of two that point to the same object the better-scored one stands for it; of a found object neither."""
    said = [(1, 1, HALF_OFF, 0.7), (1, 1, [60.0, 100.0, 100.0, 100.0], 0.9), (2, 2, BOX, 0.8), (2, 1, BOX, 0.99)]
    _, _, errors = read(*scene([(1, 1, BOX), (2, 1, BOX)], said))
    assert {name: errors.count(name) for name in KINDS} == dict.fromkeys(KINDS, 0) | {
        "localisation": 2,
        "classification": 1,
    }
    assert errors.mended(()) == pytest.approx(51 / 101)
    assert errors.mended(["localisation"]) == pytest.approx(1), "two detections for two objects"
    assert errors.mended(["classification"]) == errors.mended(()), "its object is found already, so it goes"


def test_a_perfect_detector_makes_no_error() -> None:
    truth, _ = generated(20, 0, 9)
    rows = [
        {"image_id": one["image_id"], "category_id": one["category_id"], "bbox": one["bbox"], "score": 0.9}
        for one in truth["annotations"]
        if not one["iscrowd"]
    ]
    known, _, errors = read(truth, rows)
    found = summary(errors, known.labels)
    assert found["AP50"] == pytest.approx(1)
    parts = [*found["kinds"].values(), found["false_positives"], found["false_negatives"]]
    assert all(part == {"count": 0, "dAP": 0} for part in parts)
    assert {count for row in found["per_class"].values() for count in row.values()} == {0}


CASES = {"all digits": lambda: generated(25, 0, 9), "ties": lambda: generated(25, 1, 1), "real": real}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Json, list[Json]]:
    if request.param == "real" and not REAL.is_dir():
        pytest.skip("needs the real data sets beside the checkout")
    return CASES[request.param]()


def test_all_errors_mended_give_an_ap_of_1(case: tuple[Json, list[Json]]) -> None:
    known, results, errors = read(*case)
    assert errors.mended(()) == pytest.approx(score(known, results)["stats"]["AP50"], abs=1e-12)
    assert 0.1 < (errors.mended(()) or 0) < 0.9
    assert errors.mended(KINDS) == pytest.approx(1)
    everything = summary(errors, known.labels)
    for kind in KINDS:
        assert everything["kinds"][kind]["count"] == sum(row[kind] for row in everything["per_class"].values())
    wrong = sum(everything["kinds"][kind]["count"] for kind in KINDS if kind != "missed")
    assert wrong == everything["false_positives"]["count"]
    # What is right stays; only wrong ones go: precision is 1 up to the recall that there is.
    assert everything["false_positives"]["dAP"] >= max(everything["kinds"][k]["dAP"] for k in ("both", "duplicate"))


def slowly(
    truth: Json, rows: list[Json]
) -> tuple[Counter[str], dict[str, list[tuple[int, float, bool]]], Counter[str]]:
    """Kinds by count; by kind that is mended, class, score and outcome of each detection; missed objects by class.

    Of distinct scores, no ignored objects, and at most 100 detections of a class in an image.
    """
    kinds: Counter[str] = Counter()
    taken: dict[int, Json] = {}
    judged = []
    for row in sorted(rows, key=lambda row: -row["score"]):
        near = [o for o in truth["annotations"] if o["image_id"] == row["image_id"]]
        own = [(overlap(row["bbox"], o["bbox"]), o) for o in near if o["category_id"] == row["category_id"]]
        other = [(overlap(row["bbox"], o["bbox"]), o) for o in near if o["category_id"] != row["category_id"]]
        free = [(iou, o) for iou, o in own if iou >= 0.5 and o["id"] not in taken]
        if free:
            taken[max(free, key=lambda pair: pair[0])[1]["id"]] = row
            judged.append((row, "right", None))
            continue
        best_own = max(own, key=lambda pair: pair[0], default=(0.0, None))
        best_other = max(other, key=lambda pair: pair[0], default=(0.0, None))
        if 0.1 <= best_own[0] < 0.5:
            judged.append((row, "localisation", best_own[1]))
        elif best_other[0] >= 0.5:
            judged.append((row, "classification", best_other[1]))
        elif best_own[0] >= 0.5:
            judged.append((row, "duplicate", None))
        elif max(best_own[0], best_other[0]) <= 0.1:
            judged.append((row, "background", None))
        else:
            judged.append((row, "both", None))
    kinds.update(kind for _, kind, _ in judged)
    pointed = {o["id"] for _, _, o in judged if o is not None}
    missed = [o for o in truth["annotations"] if o["id"] not in taken and o["id"] not in pointed]
    kinds["missed"] = len(missed)
    lists: dict[str, list[tuple[int, float, bool]]] = {}
    for mended in ("nothing", *KINDS):
        done: set[int] = set()
        lists[mended] = []
        for row, kind, o in judged:
            if kind == "right" or kind != mended:
                lists[mended].append((row["category_id"], row["score"], kind == "right"))
            elif o is not None and o["id"] not in taken and o["id"] not in done:
                done.add(o["id"])
                lists[mended].append((o["category_id"], row["score"], True))
    return kinds, lists, Counter(o["category_id"] for o in missed)


def slow_ap(listed: list[tuple[int, float, bool]], objects: Counter[int]) -> float:
    values = []
    for category, total in objects.items():
        if not total:
            continue
        outcomes = [right for kind, _, right in sorted(listed, key=lambda entry: -entry[1]) if kind == category]
        found = np.cumsum(outcomes)
        curve = [(found[i] / total, found[i] / (i + 1)) for i in range(len(found))]
        points = [max((p for r, p in curve if r >= point), default=0.0) for point in np.linspace(0, 1, 101)]
        values.append(sum(points) / 101)
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(3))
def test_kinds_and_their_cost_equal_the_definitions_written_as_loops(seed: int) -> None:
    truth, rows = generated(25, seed, 9)
    rng = np.random.default_rng(seed)
    truth["annotations"] = [{**one, "iscrowd": 0} for one in truth["annotations"]]
    rows = [
        {**row, "category_id": int(rng.integers(1, 4)) if rng.random() < 0.2 else row["category_id"]} for row in rows
    ]
    known, _, errors = read(truth, rows)
    found = summary(errors, known.labels)
    kinds, lists, missed = slowly(truth, rows)
    assert {kind: found["kinds"][kind]["count"] for kind in KINDS} == {kind: kinds[kind] for kind in KINDS}
    assert min(kinds.values()) > 0, "each kind is tried"
    objects = Counter(one["category_id"] for one in truth["annotations"])
    before = slow_ap(lists["nothing"], objects)
    assert found["AP50"] == pytest.approx(before, abs=1e-12)
    for kind in KINDS:
        left = objects - missed if kind == "missed" else objects
        wanted = slow_ap(lists[kind], left) - before
        assert found["kinds"][kind]["dAP"] == pytest.approx(wanted, abs=1e-12), kind
    only_right = [entry for entry in lists["nothing"] if entry[2]]
    assert found["false_positives"]["dAP"] == pytest.approx(slow_ap(only_right, objects) - before, abs=1e-12)
    have = Counter(kind for kind, _, _ in only_right)
    assert found["false_negatives"]["dAP"] == pytest.approx(slow_ap(lists["nothing"], have) - before, abs=1e-12)


def test_without_objects_nothing_is_defined() -> None:
    truth, rows = scene([], [(1, 1, BOX, 0.5)])
    known, _, errors = read(truth, rows)
    found = summary(errors, known.labels)
    assert found["AP50"] is None
    assert found["kinds"]["background"] == {"count": 1, "dAP": None}
    known, _, errors = read(*scene([(1, 1, BOX)], []))
    assert summary(errors, known.labels)["kinds"]["missed"]["count"] == 1


def test_confusion_of_planted_mistakes() -> None:
    objects = [(1, 1, BOX), (1, 2, ANOTHER), (2, 1, BOX), (2, 2, ANOTHER)]
    said = [
        (1, 1, BOX, 0.9),
        (1, 2, BOX, 0.8),  # on a cat that is found: of nothing
        (1, 1, ANOTHER, 0.7),  # a dog taken for a cat
        (1, 1, [605.0, 600.0, 100.0, 100.0], 0.6),  # a second time: of nothing
        (2, 2, NOWHERE, 0.9),
        (2, 2, ANOTHER, 0.5),
    ]
    known, results, errors = read(*scene(objects, said))
    assert confusion(known, results, errors).tolist() == [
        [1, 0, 1],  # a cat found, one missed
        [1, 1, 0],
        [1, 2, 0],
    ]


def test_confusion_counts_every_object_and_every_detection_once(case: tuple[Json, list[Json]]) -> None:
    known, results, errors = read(*case)
    matrix = confusion(known, results, errors)
    real_objects = ~errors.matches.truth_ignored[:, 0]
    assert matrix[:-1].sum(1).tolist() == np.bincount(
        errors.matches.truth_category[real_objects], minlength=len(known.labels)
    ).tolist()  # fmt: skip
    counted = errors.right | (errors.kind >= 0)
    assert matrix[:, :-1].sum(0).tolist() == np.bincount(
        errors.matches.category[counted], minlength=len(known.labels)
    ).tolist()  # fmt: skip
    assert np.diag(matrix)[:-1].sum() == errors.found.sum() == errors.right.sum()
