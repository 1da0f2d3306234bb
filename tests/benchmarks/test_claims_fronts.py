"""Rules on two sides, on RefineDet's parts, and on the front of speed and accuracy; all on made-up Records."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.claims import LedgerError, Verdict
from benchmarks.results import DatasetId, Record, Weights
from tests.benchmarks.made import evidence, swept, verdict
from tests.reports.samples import CPU, metrics, record

PLACES, TWO, ONE = "onestage-localisation", "faster_rcnn_vgg16", "ssd300_vgg16"
REFINEDET = "refinedet320_vgg16"
ALIGNED = "anchor-free-or-refined-alignment"


def placed(detector: str, seed: int, ious: list[list[float | None]], split: str = "test") -> Record:
    return swept(PLACES, detector, seed, {"ious": ious}, split)


def places(part: str, *records: Record) -> Verdict:
    return verdict(PLACES, f"{TWO} against {ONE}, {part}", evidence(*records))


def test_boxes_are_compared_on_the_objects_that_both_found() -> None:
    """Two stages lie better by 0.1 where both found an object, and worse on all that they found."""
    records = []
    for seed in range(3):
        more = 0.01 * seed
        records.append(placed(TWO, seed, [[0.8 + more, 0.5], [0.9 + more, 0.5, None]]))
        records.append(placed(ONE, seed, [[0.7, None], [0.8, None, 0.75]]))
    both, own = places("objects that both found", *records), places("objects that each found", *records)
    assert (both.word, own.word) == ("holds", "fails")
    assert f"{TWO} less {ONE}: +11.0 points (+10.0 +11.0 +12.0 by seed)" in both.figure
    # 67.5 on four objects against 75 on three, and half a point more a seed.
    assert "-7.0 points (-7.5 -7.0 -6.5 by seed)" in own.figure
    assert len(both.rests_on) == 6
    assert "over the images" not in both.figure


def test_one_training_tells_its_images() -> None:
    ious: list[list[float | None]] = [[0.8, 0.9], [0.7], [], [0.95, None]]
    less: list[list[float | None]] = [[0.7, 0.8], [0.6], [], [None, 0.7]]
    found = places("objects that both found", placed(TWO, 0, ious), placed(ONE, 0, less))
    assert (found.word, found.interval) == ("cannot tell", None)
    assert found.figure.endswith("+10.0 points (+10.0 by seed), +10.0 to +10.0 over the images of one training")
    assert found.wanted == "2 more seeds (`--checkpoint`)"


def test_sides_that_do_not_meet_decide_nothing() -> None:
    one = placed(TWO, 0, [[0.8]])
    assert f"3 seeds of {ONE}: `python -m benchmarks claims {PLACES}`" in places("objects that both found", one).wanted
    assert "in common" in places("objects that both found", one, placed(ONE, 1, [[0.7]])).wanted
    other = DatasetId(name="shapes", split="test", fingerprint="b" * 48, images=300, objects=9)
    elsewhere = placed(ONE, 0, [[0.7]]).model_copy(update={"dataset": other})
    assert "in common" in places("objects that both found", one, elsewhere).wanted
    fewer = placed(ONE, 0, [[0.7]]).model_copy(update={"protocol": {"claim": PLACES, "images": 1}})
    assert "in common" in places("objects that both found", one, fewer).wanted
    with pytest.raises(LedgerError, match=rf"{ONE}.*metrics\.ious is no list of images; measure it again"):
        places("objects that both found", one, swept(PLACES, ONE, 0, {"mean": 1}))


def test_sides_that_learned_from_other_numbers_of_images_decide_nothing() -> None:
    records = []
    for detector, steps, iou in ((TWO, 3000, 0.9), (ONE, 6000, 0.7)):
        for seed in range(3):
            own = Weights(file=f"{detector}.{seed}", sha256=f"{seed}{detector}".ljust(64, "0"))
            records.append(placed(detector, seed, [[iou + 0.001 * seed]]).model_copy(update={"weights": own}))
            records.append(record("training", detector, seed=seed, weights=own, metrics={"steps": steps}))
    found = places("objects that both found", *records)
    assert found.word == "cannot tell"
    assert found.wanted == f"both sides trained on as many images: {TWO} saw 48,000, {ONE} saw 96,000"


def rises(*values: float) -> list[Record]:
    step = {"rise": 0.0, "interval": [-1.0, 1.0]}
    return [
        swept("two-step", REFINEDET, seed, {"refined": step, "tiled": {"rise": rise, "interval": [rise - 1, rise + 1]}})
        for seed, rise in enumerate(values)
    ]


def test_the_first_step_must_raise_the_overlap() -> None:
    part = "first step, anchors matched as tiled"
    assert verdict("two-step", part, evidence(*rises(20, 21, 22))).word == "holds"
    assert verdict("two-step", part, evidence(*rises(3, 3.1, 3.2))).word == "holds, but too small to matter"
    assert verdict("two-step", part, evidence(*rises(-3, -3.1, -3.2))).word == "fails"
    one = verdict("two-step", part, evidence(*rises(20)))
    assert (one.word, one.wanted) == ("cannot tell", "2 more seeds (`--checkpoint`)")
    assert "+19.0 to +21.0 over the images of one training" in one.figure


def filter_of(anchors: float, positives: float, gain: float) -> dict[str, Any]:
    row = {"anchors": anchors, "tiled": positives, "refined": 50.0}
    return {"theta": {"0.99": row, "1": {"own_less": {"difference": gain, "interval": [gain - 1, gain + 1]}}}}


@pytest.mark.parametrize(
    ("part", "change", "word"),
    [
        ("many are dropped", {"anchors": 80.0}, "holds"),
        ("many are dropped", {"anchors": 4.0}, "fails"),
        ("none on objects, as tiled", {"positives": 0.2}, "holds"),
        ("none on objects, as tiled", {"positives": 3.0}, "fails"),
        ("none on objects, as the first step put them", {}, "fails"),
        ("at the test alone", {"gain": 1.0}, "holds"),
        ("at the test alone", {"gain": 0.01}, "holds, but too small to matter"),
        ("at the test alone", {"gain": -0.3}, "fails"),
    ],
)
def test_what_the_filter_drops_is_judged_by_seeds(part: str, change: dict[str, float], word: str) -> None:
    numbers = {"anchors": 80.0, "positives": 0.2, "gain": 1.0} | change
    records = [
        swept("naf", REFINEDET, s, filter_of(**{k: v * (1 + s / 99) for k, v in numbers.items()})) for s in range(3)
    ]
    assert verdict("naf", part, evidence(*records)).word == word


def test_scores_of_refined_anchors_are_judged_by_seeds() -> None:
    rank = {"0": {"difference": 9.0, "interval": None}, "0.3": {"difference": -9.0, "interval": [-10.0, -8.0]}}
    numbers = {"rank": rank, "swapped": {"gain": 2.0, "interval": [1.0, 3.0]}}
    records = [swept(ALIGNED, f"{REFINEDET}_unfiltered", seed, numbers) for seed in range(3)]
    words = {"anchors that touch an object": "holds", "anchors that overlap one by 0.3": "fails"}
    for part, word in {**words, "scores swapped": "holds"}.items():
        assert verdict(ALIGNED, part, evidence(*records)).word == word
    alone = verdict(ALIGNED, "anchors that touch an object", evidence(records[0]))
    assert alone.figure.endswith("(+9.0 by seed)"), "an interval over images need not be there"
    assert verdict(ALIGNED, "scores swapped", evidence()).word == "cannot tell"


def drawn(detector: str, ap: list[float], seconds: float, *, timed: str = "", **changes: Any) -> list[Record]:
    """A detector's trainings by seed, AP in percent, and times of the first one, or of other weights."""
    hashes = [f"{detector}{seed}".ljust(64, "0")[:64] for seed in range(len(ap))]
    made = []
    for seed, (value, sha) in enumerate(zip(ap, hashes, strict=True)):
        scores = metrics(value / 100) | {"intervals": {"stats": {"AP": [value / 100 - 0.02, value / 100 + 0.02]}}}
        own = Weights(file=f"{detector}.{seed}", sha256=sha)
        made.append(record("accuracy", detector, seed=seed, weights=own, metrics=scores))
    base = [0.9, 0.95, 1.0, 1.0, 1.05, 1.1, 0.97, 1.02, 1.01, 0.99]
    samples = {"end_to_end": [seconds * by for by in base]}
    weights = Weights(file=detector, sha256=timed or hashes[0])
    return [*made, record("latency", detector, weights=weights, samples=samples, **changes)]


def front(*records: Record) -> Verdict:
    return verdict("refinedet-front", "measured", evidence(*records))


OWN = drawn(REFINEDET, [40, 41, 40.5], 0.010)


def test_a_detector_is_on_the_front_unless_another_is_faster_and_as_accurate() -> None:
    slower, worse = drawn("grid_rcnn_r50_fpn", [55], 0.030), drawn("yolov1", [20, 21, 20], 0.004)
    found = front(*OWN, *slower, *worse)
    assert found.word == "holds"
    assert f"in 100.0 % of 2,000 draws of 3 detectors: {REFINEDET} 40.5 AP in 10.0 ms" in found.figure
    assert len(found.rests_on) == 4, "on its own three tests and its time; no other ever beat it"
    beaten = front(*OWN, *slower, *drawn("yolov3", [50], 0.006))
    assert beaten.word == "fails"
    assert "in 0.1 % of" in beaten.figure, "Student's distribution of three has long ends"
    assert "beaten in 100 % by yolov3 50.0 AP in 6.0 ms" in beaten.figure
    assert not beaten.wanted
    near = front(*OWN, *drawn("yolov3", [40.5], 0.006))
    assert near.word == "cannot tell"
    assert near.wanted == f"{REFINEDET}, yolov3 timed side by side, with 3 seeds each"


def test_how_far_the_draws_reach() -> None:
    """Student's spread of three seeds, about 0.29 points; one training alone reaches 2 points to either side."""
    faster = 0.006
    assert front(*OWN, *drawn("yolov3", [39, 39.1, 39.05], faster)).word == "holds"
    assert front(*OWN, *drawn("yolov3", [39], faster)).word == "cannot tell"
    assert front(*OWN, *drawn("yolov3", [42.1, 42, 42.2], faster)).word == "fails"


def test_what_does_not_stand_beside_it() -> None:
    """Itself with a part left out, another training's times, times of another machine, experiments."""
    best: dict[str, Any] = {"ap": [60.0], "seconds": 0.001}
    others = drawn("yolov1", [20], 0.004)
    assert front(*OWN, *others, *drawn(f"{REFINEDET}_one_step", **best)).word == "holds"
    assert front(*OWN, *others, *drawn("yolov3", timed="f" * 64, **best)).word == "holds"
    loose = CPU.model_copy(update={"profile": None})
    assert front(*OWN, *others, *drawn("yolov3", hardware=loose, **best)).word == "holds"
    variant = [one.model_copy(update={"variant": {"lr": 0.1}}) for one in drawn("yolov3", **best)]
    assert front(*OWN, *others, *variant).word == "holds"
    assert "latency of the other detectors" in front(*OWN).wanted
    assert f"latency of {REFINEDET}" in front(*others).wanted


def test_what_moves_between_runs_is_drawn_too() -> None:
    rival = drawn("yolov3", [50], 0.009)
    assert front(*OWN, *rival).word == "fails"
    again = {"end_to_end": {"median": 0.01}, "earlier": [0.02, 0.0055]}
    moved = [one.model_copy(update={"metrics": again}) if one.kind == "latency" else one for one in OWN]
    assert front(*moved, *rival).word == "cannot tell"


OVERLAP = "densebox-overlap"


def falls(detector: str, *values: float, split: str = "twins-train") -> list[Record]:
    found = [swept(OVERLAP, detector, seed, {"fall": value}, "twins") for seed, value in enumerate(values)]
    return [one.model_copy(update={"variant": {"split": split} if split else {}}) for one in found]


def test_recall_falls_with_overlap_and_more_than_with_anchors() -> None:
    alone, more = "recall falls with overlap", "more than with anchors"
    painted = falls("densebox", 30, 32, 31)
    assert verdict(OVERLAP, alone, evidence(*painted)).word == "holds"
    assert verdict(OVERLAP, alone, evidence(*falls("densebox", -30, -32, -31))).word == "fails"
    assert f"3 seeds of {ONE} split=twins-train on" in verdict(OVERLAP, more, evidence(*painted)).wanted
    apart = verdict(OVERLAP, more, evidence(*painted, *falls(ONE, 20, 20, 20)))
    assert (apart.word, len(apart.rests_on)) == ("holds", 6)
    assert "+11.0 points (+10.0 +12.0 +11.0 by seed)" in apart.figure
    assert verdict(OVERLAP, more, evidence(*painted, *falls(ONE, 40, 41, 42))).word == "fails"
    assert "3 seeds of densebox" in verdict(OVERLAP, more, evidence(*painted[:1], *falls(ONE, 1, 1)[1:])).wanted
    fewer = [one.model_copy(update={"protocol": {**one.protocol, "images": 1}}) for one in falls(ONE, 20, 20, 20)]
    assert "on the same images" in verdict(OVERLAP, more, evidence(*painted, *fewer)).wanted
    usual = falls("densebox", 30, 32, 31, split="")
    assert verdict(OVERLAP, alone, evidence(*usual)).word == "cannot tell", "these learned from other images"
    with pytest.raises(LedgerError, match=r"densebox.*metrics\.fall is None, no number; measure it again"):
        verdict(OVERLAP, alone, evidence(painted[0].model_copy(update={"metrics": {}})))


def test_sides_of_a_sweep_saw_as_many_images() -> None:
    records = []
    for detector, steps, value in (("densebox", 3000, 30), (ONE, 6000, 20)):
        for seed, one in enumerate(falls(detector, value, value + 1, value - 1)):
            own = Weights(file=f"{detector}.{seed}", sha256=f"{seed}{detector}".ljust(64, "0"))
            records.append(one.model_copy(update={"weights": own}))
            records.append(record("training", detector, seed=seed, weights=own, metrics={"steps": steps}))
    found = verdict(OVERLAP, "more than with anchors", evidence(*records))
    assert found.word == "cannot tell"
    assert "densebox split=twins-train saw 48,000" in found.wanted
