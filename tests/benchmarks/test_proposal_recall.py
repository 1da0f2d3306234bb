"""Recall of proposals against pycocotools, and what does not count."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.evaluate import EvaluationError, propose
from benchmarks.metrics import load_ground_truth, proposal_recall
from benchmarks.score import print_scores
from tests.benchmarks.test_evaluate import FakeSet, Oracle

Json = dict[str, Any]


def truth_of(objects: list[tuple[int, list[float]]], **flags: Any) -> Json:
    """One-class images 1 and 2; `crowd` and `difficult` name objects."""
    return {
        "images": [{"id": i, "width": 200, "height": 200} for i in (1, 2)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {
                "id": n + 1,
                "image_id": image,
                "category_id": 1 + n % 2,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(n in flags.get("crowd", ())),
                "difficult": int(n in flags.get("difficult", ())),
            }
            for n, (image, box) in enumerate(objects)
        ],
    }


def pycocotools(gt: Json, proposals: dict[int, np.ndarray]) -> dict[str, float]:
    rows = [
        {"image_id": image, "category_id": 1, "bbox": box.tolist(), "score": 1 - place / 1e4}
        for image, boxes in proposals.items()
        for place, box in enumerate(boxes)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(gt))
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(rows), "bbox")
        judge.params.useCats = 0
        judge.params.maxDets = [100, 300, 1000, 2000]
        judge.evaluate()
        judge.accumulate()
    recall = judge.eval["recall"][:, 0, 0]
    budgets = (100, 300, 1000, 2000)
    means = {f"AR{most}": float(recall[:, m].mean()) for m, most in enumerate(budgets)}
    return means | {f"recall50_{most}": float(recall[0, m]) for m, most in enumerate(budgets)}


def assert_equal_to_pycocotools(gt: Json, proposals: dict[int, np.ndarray]) -> None:
    ours = proposal_recall(load_ground_truth(gt), proposals)
    for name, theirs in pycocotools(gt, proposals).items():
        assert ours[name] == pytest.approx(theirs, rel=0, abs=1e-9), name


def test_many_proposals_against_pycocotools() -> None:
    """Objects found early, late and not at all; the budgets differ."""
    rng = np.random.default_rng(0)
    objects, proposals = [], {}
    for image in (1, 2):
        corners, sides = rng.uniform(0, 150, (12, 2)), rng.uniform(5, 50, (12, 2))
        boxes = np.concatenate([corners, sides], 1)
        objects += [(image, box.tolist()) for box in boxes]
        near = boxes[rng.integers(0, 12, 2_500)]
        proposals[image] = np.abs(near + rng.normal(0, 9, near.shape)) + 1e-3
    gt = truth_of(objects, crowd={3, 17})
    assert_equal_to_pycocotools(gt, proposals)
    ours = proposal_recall(load_ground_truth(gt), proposals)
    assert 0 < ours["AR100"] < ours["AR300"] < ours["AR1000"] < ours["AR2000"] < 1
    assert ours["AR100"] < ours["recall50_100"]
    assert (ours["per_image"], ours["most"]) == (2_500, 2_500)


grid = st.integers(0, 6).map(lambda step: 10.0 * step)
boxes_on_a_grid = st.lists(st.tuples(grid, grid, grid.map(lambda x: x + 10), grid.map(lambda x: x + 10)), max_size=8)


@settings(max_examples=60, deadline=None)
@given(first=boxes_on_a_grid, second=boxes_on_a_grid, seen=boxes_on_a_grid, crowd=st.sets(st.integers(0, 7)))
def test_ties_and_shared_proposals_against_pycocotools(first, second, seen, crowd) -> None:
    """On a coarse grid IoUs tie and lie on thresholds, and one proposal fits several objects."""
    gt = truth_of([(1, list(box)) for box in first] + [(2, list(box)) for box in second], crowd=crowd)
    if len(set(range(len(first) + len(second))) - crowd) and seen:
        assert_equal_to_pycocotools(gt, {1: np.array(seen), 2: np.array(seen[::-1])})


def test_by_hand() -> None:
    """Two objects. The first proposal has IoU 0.8 with one, the 101st covers the other, the rest are far away."""
    gt = load_ground_truth(truth_of([(1, [0, 0, 10, 10]), (1, [50, 50, 10, 10])]))
    boxes = np.array([[0, 0, 10, 8], *[[150, 150, 5, 5]] * 99, [50, 50, 10, 10]], dtype=float)
    found = proposal_recall(gt, {1: boxes})
    assert found["AR100"] == pytest.approx(0.5 * 7 / 10), "IoU .5 to .8 are seven of ten thresholds"
    assert found["AR300"] == found["AR2000"] == pytest.approx(0.5 * 7 / 10 + 0.5)
    assert (found["recall50_100"], found["recall50_300"]) == (0.5, 1)
    assert (found["per_image"], found["most"]) == (50.5, 101)


def test_one_proposal_finds_one_object() -> None:
    gt = load_ground_truth(truth_of([(1, [0, 0, 10, 10]), (1, [0, 0, 10, 10])]))
    assert proposal_recall(gt, {1: np.array([[0.0, 0, 10, 10]])})["AR100"] == 0.5
    assert proposal_recall(gt, {1: np.array([[0.0, 0, 10, 10]] * 2)})["AR100"] == 1


def test_crowds_and_difficult_objects_neither_count_nor_take_proposals() -> None:
    objects = [(1, [0.0, 0, 10, 10]), (1, [0.0, 0, 10, 10]), (2, [5.0, 5, 20, 20])]
    for ignored in ({"crowd": {1, 2}}, {"difficult": {1, 2}}, {"crowd": {1}, "difficult": {2}}):
        gt = load_ground_truth(truth_of(objects, **ignored))
        found = proposal_recall(gt, {1: np.array([[0.0, 0, 10, 10]]), 2: np.zeros((0, 4))})
        assert found["AR100"] == found["recall50_2000"] == 1


def test_nothing_to_find_and_nothing_proposed() -> None:
    nothing = load_ground_truth(truth_of([(1, [0.0, 0, 10, 10])], crowd={0}))
    assert proposal_recall(nothing, {1: np.ones((3, 4))})["AR100"] is None
    something = load_ground_truth(truth_of([(1, [0.0, 0, 10, 10])]))
    assert proposal_recall(something, {})["AR2000"] == 0


@pytest.mark.parametrize("boxes", [np.zeros((3, 5)), np.zeros(4), np.full((1, 4), np.nan)])
def test_what_is_no_box_is_refused(boxes) -> None:
    gt = load_ground_truth(truth_of([(2, [0.0, 0, 10, 10])]))
    with pytest.raises(ValueError, match="image 2: proposals must be finite boxes"):
        proposal_recall(gt, {2: boxes})


class Proposing(Oracle):
    """Proposes the object and a corner."""

    def proposals(self, images):
        return [answer.boxes for answer in self(images)]


def test_a_detector_is_asked_for_its_regions(capsys) -> None:
    data = FakeSet()
    regions = propose(Proposing(2), data, quiet=True)
    assert list(regions) == [11, 5, 8]
    assert regions[5].tolist() == [[4, 6, 21, 24], [0, 0, 3, 3]]
    found = proposal_recall(load_ground_truth(data.coco()), regions)
    assert found["AR100"] == 1
    with pytest.raises(EvaluationError, match="Oracle proposes no regions"):
        propose(Oracle(2), data)
    print_scores({"stats": {}, "fd": {}, "voc": {}, "per_class": {}, "proposals": found})
    shown = capsys.readouterr().out
    assert "proposals an image" in shown
    assert "100.0" in shown
    assert "2.0" in shown
