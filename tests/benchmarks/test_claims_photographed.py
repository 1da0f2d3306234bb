"""Claims on photographs: what is counted against slow definitions, and the rules that judge it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from benchmarks.claims import RULES, Evidence, Verdict, read_claims
from benchmarks.claims.measure import TIMES, measure, photographs
from benchmarks.datasets import open_dataset
from benchmarks.results import DatasetId, Record
from ops.proposals import SelectiveSearch
from tests.reports.samples import record
from zoo.classical.opencv_cascade import opencv_cascade
from zoo.parts.cascade import Sums

PHOTOS = DatasetId(name="voc", split="2012_test", fingerprint="0" * 64, images=50, objects=149)
CASCADE = {"features": 2913, "stages": 25, "windows": 10**7, "images": 50, "cascade": "faces.xml"}


def verdict(claim: str, part: str, metrics: dict[str, Any] | None = None) -> Verdict:
    (rule,) = [rule for rule in RULES if (rule.claim, rule.part, rule.level) == (claim, part, "F")]
    made: list[Record] = []
    if metrics is not None:
        made = [record("claim", "none", metrics=metrics, dataset=PHOTOS, weights=None, protocol={"claim": claim})]
    return rule.judge(read_claims()[claim], Evidence((), ((f"m/{one.name}.json", one) for one in made)))


@pytest.fixture
def few_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "opencv_cascade", partial(opencv_cascade, scale_step=2.0))


@pytest.mark.usefixtures("few_scales")
def test_work_of_a_cascade_against_stages_on_all_windows() -> None:
    """Whoever is left meets a stage's features: the tensor path, stage after stage, over every window."""
    image = open_dataset("shapes")[0][0]
    detector = opencv_cascade(Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml", scale_step=2.0)
    cascades: Any = detector.cascades
    windows = met = after_two = after_all = 0
    for level in detector.pyramid.levels(image, cascades.windows):
        sums = Sums.of(level.pixels[None])
        fits, _ = level.places(cascades.window)
        starts = level.starts(torch.nonzero(fits[0]).flatten(), sums.columns)
        contrast = sums.contrast(starts, (24, 24))
        alive = contrast > cascades.least_contrast * 22 * 22
        windows += len(starts)
        for number, (rows, limit) in enumerate(cascades.stages(0), 1):
            left = torch.nonzero(alive).flatten()
            met += (rows.stop - rows.start) * len(left)
            alive[left] = cascades.weak.votes(0, rows, sums, starts[left], contrast[left]) >= limit
            after_two += int(alive.sum()) if number == 2 else 0
        after_all += int(alive.sum())
    found = photographs.cascade_work(open_dataset("shapes"), 1).metrics
    assert (found["windows"], found["features"], found["stages"]) == (windows, 2913, 25)
    assert found["features_met"] * windows == pytest.approx(met)
    assert found["left_after_two"] * windows == pytest.approx(after_two)
    assert found["left_after_all"] * windows == pytest.approx(after_all)
    assert after_two > 0
    assert found["decided_otherwise_by_all_stages"] == 0


@pytest.mark.usefixtures("few_scales")
def test_a_window_that_leaves_too_early_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = photographs.Cascades.judge

    def lenient(self: Any, *rest: Any) -> Any:
        passed, margins = judge(self, *rest)
        return torch.where(passed == 0, len(self.stages(0)), passed), margins

    monkeypatch.setattr(photographs.Cascades, "judge", lenient)
    assert photographs.cascade_work(open_dataset("shapes"), 1).metrics["decided_otherwise_by_all_stages"] > 0


def test_proposals_are_counted_timed_and_held_against_the_objects() -> None:
    shapes = open_dataset("shapes")
    threads = cv2.getNumThreads()
    found = photographs.region_proposals(shapes, 2).metrics
    assert cv2.getNumThreads() == threads
    counts = sorted(len(SelectiveSearch()(shapes[index][0])) for index in range(2))
    assert found["boxes"]["median"] == sum(counts) / 2
    assert found["objects"] == sum(int((~shapes.target(index).ignore).sum()) for index in range(2))
    assert 0 <= found["recall50_2000"] <= found["recall50_all"] <= 1
    assert 0 < found["seconds"]["low"] <= found["seconds"]["high"]


def test_without_photographs_there_is_no_record(tmp_path: Path) -> None:
    wanted = [one.claim for one in TIMES if one.data == ("voc", "2012_test")]
    assert {"cascade-front", "ss-2000"} <= set(wanted)
    assert measure(wanted, data_root=tmp_path, out=tmp_path) == []


@pytest.mark.parametrize(
    ("claim", "part", "metrics", "word"),
    [
        ("cascade-front", "features", {"share_met": 0.01, "features_met": 29.1}, "holds"),
        ("cascade-front", "features", {"share_met": 0.06, "features_met": 175.0}, "fails"),
        ("cascade-front", "first stages", {"left_after_two": 0.2}, "holds"),
        ("cascade-front", "first stages", {"left_after_two": 0.7}, "fails"),
        ("cascade-front", "nothing is lost", {"decided_otherwise_by_all_stages": 0}, "holds"),
        ("cascade-front", "nothing is lost", {"decided_otherwise_by_all_stages": 1}, "fails"),
        ("ss-2000", "boxes", {"boxes": {"low": 900, "median": 1500, "high": 2500}}, "holds"),
        ("ss-2000", "boxes", {"boxes": {"low": 900, "median": 900, "high": 2500}}, "fails"),
        ("ss-2000", "seconds", {"seconds": {"low": 2.0, "median": 2.5, "high": 4}}, "holds"),
        ("ss-2000", "seconds", {"seconds": {"low": 0.2, "median": 0.5, "high": 4}}, "fails"),
        ("ss-2000", "coverage", {"recall50_all": 0.99, "objects": 149}, "holds"),
        ("ss-2000", "coverage", {"recall50_all": 0.93, "objects": 149}, "cannot tell"),
        ("ss-2000", "coverage", {"recall50_all": 0.80, "objects": 149}, "fails"),
    ],
)
def test_rules(claim: str, part: str, metrics: dict[str, Any], word: str) -> None:
    assert verdict(claim, part).word == "cannot tell"
    assert verdict(claim, part, {**CASCADE, **metrics}).word == word
