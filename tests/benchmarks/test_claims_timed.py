"""Claims timed by turns, and one swept over trainings: what is measured, and the rules that judge it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.claims import RULES, Evidence, LedgerError, Verdict, read_claims
from benchmarks.claims.measure import TIMES, batches, classical, inputs, looking, measure, networks, regions, running
from benchmarks.claims.measure.turns import Rival, Timed, timed_by_turns
from benchmarks.datasets import open_dataset
from benchmarks.evaluate import find_subject
from benchmarks.results import DatasetId, Record
from ops.images import Batch, unscaled
from ops.structures import Detections
from tests.opencv_cascades import boxes_of_opencv, cascade_xml, rgb, texture
from tests.reports.samples import record
from zoo import build
from zoo.detector import Detector
from zoo.one_stage.cornernet import CornerNet

TEST = DatasetId(name="shapes", split="test", fingerprint="a" * 48, images=300, objects=9)
PHOTOS = DatasetId(name="voc", split="2012_test", fingerprint="0" * 64, images=50, objects=149)


def verdict(claim: str, part: str, *records: Record, level: str = "S") -> Verdict:
    (rule,) = [rule for rule in RULES if (rule.claim, rule.part, rule.level) == (claim, part, level)]
    return rule.judge(read_claims()[claim], Evidence((), ((f"m/{one.name}.json", one) for one in records)))


class Toy(Detector):
    """Notes the width of each image that it is shown."""

    def __init__(self, shown: list[tuple[str, int, int]], name: str) -> None:
        super().__init__(1)
        self.shown, self.name, self.setting = shown, name, 0

    def preprocess(self, images: list[Tensor]) -> Batch:
        return unscaled(images)

    def network(self, batch: Batch, targets: Any = None) -> None:
        self.shown.append((self.name, batch.pixels.shape[-1], torch.get_num_threads()))

    def postprocess(self, outputs: None, batch: Batch) -> list[Detections]:
        return [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())]


def test_all_are_timed_on_an_image_before_the_next_comes() -> None:
    shown: list[tuple[str, int, int]] = []
    made_ready: list[str] = []
    rivals = [Rival(name, Toy(shown, name), lambda name=name: made_ready.append(name)) for name in "abc"]  # type: ignore[misc]
    found = timed_by_turns(rivals, [torch.zeros(3, 8, 10), torch.zeros(3, 8, 11)], 2, ("network", "end_to_end"))
    timed = shown[6:]
    assert [width for _, width, _ in timed] == [10] * 3 + [11] * 3 + [10] * 3 + [11] * 3
    for start in range(0, 12, 3):
        assert {name for name, _, _ in timed[start : start + 3]} == set("abc")
    assert len({timed[start][0] for start in range(0, 12, 3)}) > 1, "who goes first changes"
    assert {threads for *_, threads in timed} == {1}
    assert made_ready == [name for name, *_ in shown]
    assert sorted(found.samples) == [f"{name} {stage}" for name in "abc" for stage in ("end_to_end", "network")]
    assert all(len(values) == 4 for values in found.samples.values())
    assert (found.protocol["calls_a_round"], found.protocol["rounds"]) == (2, 2)


def test_both_see_as_many_regions_as_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "COUNTS", (5, 12))
    monkeypatch.setattr(regions, "_ROUNDS", 1)
    found = regions.region_costs(open_dataset("shapes", "test"), 1)
    assert found.metrics["seen_by_last_stage"] == {
        "rfcn_r101": {"5": 1, "12": 1},
        "faster_rcnn_r101_c4": {"5": 5, "12": 12},
    }
    assert len(found.samples) == 8
    assert "rfcn_r101 12 network" in found.samples


def test_the_best_regions_are_seen_whether_they_overlap_or_not() -> None:
    image = open_dataset("shapes", "test")[0][0]
    model: Any = find_subject("rfcn_r101", "shapes", 8).model
    kept = {}
    for count in (50, 300):
        regions._keep(model, count)
        (kept[count],) = model.proposals([image])
        assert len(kept[count]) == count
    assert torch.equal(kept[300][:50], kept[50])
    model.rpn.nms = 0.7
    assert len(model.proposals([image])[0]) < 300


def test_too_few_regions_are_refused() -> None:
    subject = find_subject("faster_rcnn_r101_c4", "shapes", 8)
    model: Any = subject.model
    model.rpn.min_side = 100.0
    with pytest.raises(LedgerError, match=r"safetensors: proposes \d+ regions in image 0, and 1000 are to be timed"):
        regions._check(subject.weights, model, [open_dataset("shapes", "test")[0][0]])


def test_opencvs_own_cascade_gives_its_boxes(tmp_path: Path) -> None:
    path = tmp_path / "cascade.xml"
    path.write_text(cascade_xml(), encoding="utf-8")
    image = texture(60, 80)
    (found,) = classical.OpenCVCascade(path)([rgb(image)])
    theirs = boxes_of_opencv(path, image, 1.1, 3)
    sides = torch.cat([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], 1)
    assert sorted(sides.int().tolist()) == theirs
    assert theirs


def test_what_classical_detectors_scan_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def timed(rivals: Any, pictures: Any, rounds: int, stages: Any) -> Timed:
        asked.append([one.name for one in rivals])
        return Timed({})

    monkeypatch.setattr(classical, "timed_by_turns", timed)
    monkeypatch.setenv("DETECTOR_ZOO_WEIGHTS", "")
    about = classical.classical_costs(open_dataset("shapes", "test"), 1).metrics["models"]
    assert asked == [["viola_jones", "opencv_cascade", "ssd300_vgg16", "ssd300_vgg16_small"]], "no file, no ACF"
    assert about["viola_jones"] == about["opencv_cascade"]
    assert about["viola_jones"]["smallest"] == [24, 24]
    # Scales by 1.1 as long as 24 pixels fit into 160; every second pixel below scale 2.
    sides = [round(160 / 1.1**n) - 24 for n in range(20) if round(24 * 1.1**n) <= 160]
    steps = [2 if 1.1**n < 2 else 1 for n in range(20)]
    wanted = sum((side // step + 1) ** 2 for side, step in zip(sides, steps, strict=False))
    assert about["viola_jones"]["windows"] == pytest.approx(wanted, rel=0.05)


def test_records_of_times_have_a_machine_and_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = [one for one in TIMES if one.claim == "rfcn-roi-cost"]
    timing = replace(found, run=lambda dataset, images: Timed({"seen": images}, {"a network": [0.1]}, {"rounds": 1}))
    monkeypatch.setattr("benchmarks.claims.measure.TIMES", (timing,))
    monkeypatch.setattr("benchmarks.claims.measure.EXACT", {})
    (path,) = measure([timing.claim], images=7, out=tmp_path)
    one = Record.read(path)
    assert (one.protocol, one.metrics) == ({"claim": timing.claim, "rounds": 1}, {"seen": 7})
    assert one.samples == {"a network": [0.1]}
    assert one.hardware is not None
    assert one.hardware.threads == 1
    assert one.name == "claim.none.small.shapes-test.rfcn-roi-cost"
    assert measure([timing.claim], out=tmp_path) == [], "what is there stays"


def of_regions(cheap: float, dear: float, spread: float = 0.0) -> Record:
    """Seconds a region of either, on 20 images and twice; the second round's first image was disturbed."""
    chance = np.random.default_rng(0)
    samples: dict[str, list[float]] = {}
    for name, slope in (("rfcn_r101", cheap), ("faster_rcnn_r101_c4", dear)):
        own = slope * (1 + spread * chance.normal(size=20))
        for count in (50, 100, 300, 1000):
            seconds = (0.02 + own * count).tolist() * 3
            seconds[20] += 100.0
            samples |= {f"{name} {count} {stage}": seconds for stage in ("network", "end_to_end")}
    seen = {"rfcn_r101": {"1000": 1}, "faster_rcnn_r101_c4": {"1000": 1000}}
    return record(
        "claim",
        "none",
        metrics={"regions": [50, 100, 300, 1000], "seen_by_last_stage": seen},
        samples=samples,
        dataset=TEST,
        weights=None,
        protocol={"claim": "rfcn-roi-cost", "calls_a_round": 20, "rounds": 3},
    )


@pytest.mark.parametrize("part", ["time of the whole", "second stage before suppression"])
def test_slopes_are_what_a_region_costs(part: str) -> None:
    assert verdict("rfcn-roi-cost", part).word == "cannot tell"
    found = verdict("rfcn-roi-cost", part, of_regions(1e-5, 4e-4))
    assert found.word == "holds"
    assert "a hundred regions cost 1.0 ms in rfcn_r101 and 40.0 ms in faster_rcnn_r101_c4" in found.figure
    assert "sees 1 map against 1,000 crops" in found.figure
    assert found.interval == pytest.approx((0.025, 0.025), rel=1e-6)
    assert verdict("rfcn-roi-cost", part, of_regions(1e-4, 4e-4)).word == "fails"
    near = verdict("rfcn-roi-cost", part, of_regions(8e-5, 4e-4, spread=0.5))
    assert near.word == "cannot tell"
    assert near.wanted == "more images; 20 so far"


def of_inputs(small: float, large: float) -> Record:
    """Seconds at 128 and at 192 pixels, on 20 images and twice."""
    seconds = {128: small, 192: large}
    return record(
        "claim",
        "none",
        metrics={"sizes": [128, 160, 192]},
        samples={f"refinedet320_vgg16 {side} end_to_end": [seconds[side]] * 40 for side in seconds},
        dataset=TEST,
        weights=None,
        protocol={"claim": "input-size", "calls_a_round": 20, "rounds": 2},
    )


@pytest.mark.parametrize(
    ("large", "longer", "as_pixels"),
    [(0.012, "holds", "holds"), (0.009, "fails", "holds"), (0.022, "holds", "holds"), (0.023, "holds", "fails")],
)
def test_a_larger_input_takes_longer_but_not_more_than_its_pixels(large: float, longer: str, as_pixels: str) -> None:
    found = verdict("input-size", "time", of_inputs(0.010, large))
    assert found.word == longer
    assert f"time at 192 over 128 pixels: {large / 0.010:.2f}, 20 images" in found.figure
    assert verdict("input-size", "time against pixels", of_inputs(0.010, large)).word == as_pixels
    assert verdict("input-size", "time against pixels").word == "cannot tell"


def test_a_detector_is_timed_at_each_input(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, tuple[int, int]] = {}

    def timed(rivals: Any, pictures: Any, rounds: int, stages: Any) -> Timed:
        for one in rivals:
            seen[one.name] = tuple(one.model.preprocess(pictures).pixels.shape[-2:])
        return Timed({})

    monkeypatch.setattr(inputs, "timed_by_turns", timed)
    about = inputs.input_costs(open_dataset("shapes", "test"), 1).metrics
    assert seen == {f"refinedet320_vgg16 {side}": (side, side) for side in (128, 160, 192)}
    assert about["sizes"] == [128, 160, 192]
    assert len(about["weights"]["sha256"]) == 64


def test_steps_of_all_sizes_move_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SIZES", (1, 2, 4))
    monkeypatch.setattr(batches, "_ROUNDS", 3)
    seen: list[int] = []
    weights: list[Tensor] = []

    def spy(name: str, classes: int, **settings: Any) -> Detector:
        model = build(name, classes, **settings)

        def note(module: Any, args: tuple[Any, ...]) -> None:
            assert (torch.get_num_threads(), module.training) == (1, True)
            assert len(args[0]) == len(args[1])
            seen.append(len(args[0]))
            weights.append(next(module.parameters()).detach().clone())

        model.register_forward_pre_hook(note)
        return model

    monkeypatch.setattr(batches, "build", spy)
    found = batches.step_costs(open_dataset("shapes", "train"), 300)
    assert seen == [1, 2, 4, *(1, 2, 4), *(2, 4, 1), *(4, 1, 2)], "each once to warm up, then by turns"
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(weights))
    assert {name: len(values) for name, values in found.samples.items()} == {
        f"retinanet_r50_fpn batch {size}": 3 for size in (1, 2, 4)
    }
    assert found.metrics["sizes"] == [1, 2, 4]


@pytest.mark.parametrize(("at_2", "word"), [(0.08, "holds"), (0.03, "fails"), (0.048, "cannot tell")])
def test_small_batches_are_slow_for_an_image(at_2: float, word: str) -> None:
    """A step of 16 takes 0.256 s, 0.016 s an image."""
    chance = np.random.default_rng(1)
    samples = {
        f"retinanet_r50_fpn batch {n}": (s * chance.normal(1, 0.05, 30)).tolist() for n, s in ((2, at_2), (16, 0.256))
    }
    data = DatasetId(name="shapes", split="train", fingerprint="a" * 48, images=300, objects=9)
    one = record("claim", "none", dataset=data, samples=samples, protocol={"claim": "batch-time"})
    found = verdict("batch-time", "on a processor", one)
    assert found.word == word
    assert "30 steps, by turns" in found.figure
    assert "batch-time" in verdict("batch-time", "on a processor").wanted


def test_the_best_boxes_are_pooled_and_the_answer_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    corners = find_subject("cornernet511_hg52", "shapes", 8).model
    assert isinstance(corners, CornerNet)
    image = open_dataset("shapes")[0][0]
    with torch.inference_mode():
        (plain,) = corners([image])
        batch = corners.preprocess([image])
        (pairs,) = corners.candidates(corners.network(batch)[-1], batch)
        assert len(pairs.boxes) > 40
        model = looking.Looking(corners, 40).eval()
        told: list[Any] = []
        monkeypatch.setattr(model, "look", lambda best, batch, own=model.look: told.append((best, own(best, batch))))
        (found,) = model([image])
        assert all(torch.equal(a, b) for a, b in ((found.boxes, plain.boxes), (found.scores, plain.scores)))
        ((best,), (logits, offsets)) = told[0]
        assert (logits.shape, offsets.shape) == ((40, 9), (40, 9, 4))
        assert model.looked == [40]
        assert best.scores.tolist() == sorted(pairs.scores.tolist(), reverse=True)[:40]
        # A box is pooled from its own place of the image's map, not of its mirror image's.
        assert model.features is not None
        assert len(model.features) == 2
        left, top, right, bottom = batch.frames[0].to_network(best.boxes[:1])[0].tolist()
        side = model.features.shape[-1] / batch.size[1]
        outside = torch.ones(model.features.shape[-2:], dtype=torch.bool)
        margin = 2
        outside[
            max(0, int(top * side) - margin) : int(bottom * side) + margin + 1,
            max(0, int(left * side) - margin) : int(right * side) + margin + 1,
        ] = False
        assert outside.any()
        model.features = model.features.clone()
        model.features[0, :, outside] = 1e6
        model.features[1] = 1e6
        again, _ = looking.Looking.look(model, [best.only(slice(1))], batch)
        assert again[0].tolist() == pytest.approx(logits[0].tolist(), abs=1e-5)
        model.features[0] = 1e6
        assert looking.Looking.look(model, [best.only(slice(1))], batch)[0].abs().max() > 1_000


def test_all_are_timed_that_look_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(rivals: Any, pictures: Any, rounds: int, stages: Any) -> Timed:
        with torch.inference_mode():
            return Timed({"boxes": {one.name: len(one.model(pictures)[0]) for one in rivals}})

    monkeypatch.setattr(looking, "timed_by_turns", timed)
    about = looking.inside_costs(open_dataset("shapes", "test"), 1).metrics
    plain = "cornernet511_hg52"
    centers = {"centernet511_hg52", "centernet511_hg52_cre"}
    assert set(about["boxes"]) == centers | {plain, f"{plain} 100", f"{plain} 1000"}
    assert about["boxes"][plain] == about["boxes"][f"{plain} 100"] > 0
    assert about["regions"]["100"] == 100 < about["regions"]["1000"] <= 1000


@pytest.mark.parametrize(("pooled", "word"), [(0.031, "holds"), (0.029, "fails"), (0.030, "cannot tell")])
def test_pooling_is_set_against_twice_the_check(pooled: float, word: str) -> None:
    """Alone 20 ms, with the check 25: over 30 is over twice."""
    chance, plain = np.random.default_rng(2), "cornernet511_hg52"
    times = {plain: 0.020, f"{plain} 100": pooled, f"{plain} 1000": pooled, "centernet511_hg52_cre": 0.025}
    samples = {f"{name} end_to_end": (s * chance.normal(1, 0.01, 60)).tolist() for name, s in times.items()}
    one = record(
        "claim", "none", dataset=TEST, samples=samples, metrics={"regions": {"100": 100.0, "1000": 250.0}},
        protocol={"claim": "roi-vs-center", "calls_a_round": 60},
    )  # fmt: skip
    found = verdict("roi-vs-center", "1000 boxes against the check of the centre", one)
    assert found.word == word
    assert "250 boxes pooled add" in found.figure


def test_structure_is_not_judged_by_times() -> None:
    (rule,) = [rule for rule in RULES if (rule.claim, rule.level) == ("rfcn-roi-cost", "X")]
    assert rule.judge(read_claims()["rfcn-roi-cost"], Evidence((), [("m/a.json", of_regions(1, 1))])).word == (
        "cannot tell"
    )


@pytest.mark.parametrize(("level", "network"), [("F", "ssd300_vgg16"), ("S", "ssd300_vgg16_small")])
def test_a_network_is_timed_without_its_suppression(level: str, network: str) -> None:
    part = "OpenCV's face cascade in OpenCV"
    about = {"smallest": [24, 24], "scale_step": 1.1, "windows": 1234.5}

    def timed(before: float, within: float, end: float) -> Record:
        samples = {
            f"{network} preprocess": [before] * 9,
            f"{network} network": [within] * 9,
            f"{network} end_to_end": [end] * 9,
            "opencv_cascade end_to_end": [0.1] * 9,
        }
        return record(
            "claim", "none", metrics={"models": {"opencv_cascade": about}}, samples=samples, dataset=PHOTOS,
            weights=None, protocol={"claim": "classical-cpu"},
        )  # fmt: skip

    found = verdict("classical-cpu", part, timed(0.05, 0.25, 9.0), level=level)
    assert found.word == "holds"
    assert found.interval == pytest.approx((3.0, 3.0))
    assert "from 24 x 24 pixels on in steps of 1.10" in found.figure
    assert verdict("classical-cpu", part, timed(0.01, 0.08, 9.0), level=level).word == "fails"
    assert verdict("classical-cpu", part, level=level).word == "cannot tell"
    lacking = verdict("classical-cpu", "ACF's pedestrians in the zoo", timed(0.05, 0.25, 9.0), level=level)
    assert lacking.word == "cannot tell"
    assert "DETECTOR_ZOO_WEIGHTS" in lacking.wanted


def test_boxes_that_are_a_little_off_lose_at_the_higher_overlap() -> None:
    """A side moved by a quarter of the width: IoU 0.6, right at 0.5 and wrong at 0.75 in every draw of the images."""
    dataset = open_dataset("shapes", "test")
    truth = running.truth_of(dataset, 4)
    things = [thing for thing in dataset.coco()["annotations"] if thing["image_id"] in dataset.image_ids[:4]]
    rows = [{key: thing[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5} for thing in things]
    off = [row | {"bbox": [row["bbox"][0] + row["bbox"][2] / 4, *row["bbox"][1:]]} for row in rows]
    found = running.gains(running.scored(truth, rows), running.scored(truth, off), ("AP50", "AP75"), ("AP75", "AP50"))
    same = running.against(truth, rows, off)
    for name in ("AP50", "AP75"):
        assert found[name]["gain"] == pytest.approx(same[name]["difference"])
    assert found["AP75"]["gain"] > found["AP50"]["gain"]
    assert found["AP75 - AP50"]["gain"] == pytest.approx(found["AP75"]["gain"] - found["AP50"]["gain"])
    low, high = found["AP75 - AP50"]["interval"]
    assert low <= found["AP75 - AP50"]["gain"] <= high


def test_regressors_are_switched_over_the_same_scores() -> None:
    subject = find_subject("rcnn_alexnet", "shapes", 8)
    dataset = open_dataset("shapes", "test")
    found = networks.corrected(subject, dataset, 2)
    model: Any = subject.model
    assert model.regress
    assert set(found["gains"]) == {"AP", "AP50", "AP75", "AP75 - AP50"}
    difference = found["regressed"]["AP50"] - found["not_regressed"]["AP50"]
    assert found["gains"]["AP50"]["gain"] == pytest.approx(difference)
    model.regressors.weight.zero_()
    model.regressors.bias.zero_()
    nothing = networks.corrected(subject, dataset, 2)
    assert nothing["regressed"] == nothing["not_regressed"] == found["not_regressed"]


def trained(seed: int, fifty: float, more: float) -> Record:
    gains = {"AP50": {"gain": fifty, "interval": [1.0, 9.0]}, "AP75 - AP50": {"gain": more, "interval": [-1.0, 5.0]}}
    return record(
        "claim", "rcnn_alexnet", seed=seed, metrics={"gains": gains}, dataset=TEST, hardware=None,
        protocol={"claim": "box-regression"},
    )  # fmt: skip


def test_regressors_are_judged_over_trainings() -> None:
    three = [trained(seed, 4.0 + seed, -3.0 - seed) for seed in range(3)]
    assert verdict("box-regression", "AP50", *three).word == "holds"
    assert verdict("box-regression", "AP75 over AP50", *three).word == "fails"
    one = verdict("box-regression", "AP75 over AP50", three[0])
    assert (one.word, one.wanted) == ("cannot tell", "2 more seeds (`--checkpoint`)")
    assert "-1.0 to +5.0 over the images of one training" in one.figure
