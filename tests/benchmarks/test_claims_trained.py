"""Claims on trainings: seeds, sides that are not alike, times, sweeps, chance; all on made-up Records."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import t

from benchmarks.claims import Evidence, LedgerError, Verdict, judge
from benchmarks.claims.control import control
from benchmarks.papers import read_tables
from benchmarks.results import DatasetId, Record
from tests.benchmarks.made import evidence, side, swept, trained, verdict
from tests.reports.samples import BCCD, record

TEST = "shapes test"
ALIGN, POOL = "faster_rcnn_vgg16_align", "faster_rcnn_vgg16"


def aligned(first: list[float], second: list[float]) -> Verdict:
    return verdict("roialign-ap75", "AP75", evidence(*side(ALIGN, first), *side(POOL, second)))


def test_three_seeds_that_agree_hold() -> None:
    """Differences 4, 5 and 6: mean 5, deviation 1, half-width 4.303 / sqrt(3) = 2.48."""
    found = aligned([34, 36, 38], [30, 31, 32])
    assert found.word == "holds"
    assert found.interval == pytest.approx((5 - 2.484, 5 + 2.484), abs=1e-3)
    assert "+5.0 points (+4.0 +5.0 +6.0 by seed)" in found.figure
    assert len(found.rests_on) == 6


def test_the_other_verdicts() -> None:
    assert aligned([30.5, 31.5, 32.5], [30, 31, 32]).word == "holds, but too small to matter"
    assert aligned([28, 29, 30], [30, 31, 32]).word == "fails"
    assert aligned([30.1, 31, 31.9], [30, 31, 32]).word == "fails", "an effect of a point is excluded"
    open_one = aligned([34, 31, 33], [30, 31, 32])
    assert open_one.word == "cannot tell"
    assert "seeds in all; the half-width is" in open_one.wanted


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_seeds_decide_nothing(count: int) -> None:
    found = aligned([90.0] * count, [10.0] * count)
    assert found.word == "cannot tell"
    assert found.interval is None
    assert found.p is None
    wanted = {0: f"3 seeds of {ALIGN} and of {POOL} on shapes test", 1: "2 more seeds", 2: "1 more seed"}
    assert found.wanted == wanted[count]


def test_only_common_seeds_of_the_same_images_are_paired() -> None:
    other = DatasetId(name="shapes", split="test", fingerprint="f" * 48, images=300, objects=9)
    uncommon = [*trained(POOL, 3, stats={"AP75": 1}), *trained(POOL, 4, stats={"AP75": 1})]
    found = evidence(*side(ALIGN, [34, 36, 38]), *trained(POOL, 0, stats={"AP75": 30}), *uncommon)
    assert verdict("roialign-ap75", "AP75", found).wanted == "2 more seeds"
    elsewhere = evidence(*side(ALIGN, [34, 36, 38]), *side(POOL, [30, 31, 32], dataset=other))
    assert verdict("roialign-ap75", "AP75", elsewhere).word == "cannot tell"
    assert "in common" in verdict("roialign-ap75", "AP75", elsewhere).wanted


def test_sides_that_saw_other_numbers_of_images_decide_nothing() -> None:
    found = evidence(*side(ALIGN, [34, 36, 38], steps=6000), *side(POOL, [30, 31, 32]))
    answer = verdict("roialign-ap75", "AP75", found)
    assert answer.word == "cannot tell"
    assert answer.wanted == f"both sides trained on as many images: {ALIGN} saw 96,000, {POOL} saw 48,000"


def test_a_seed_that_only_the_training_knows_counts() -> None:
    records = side(POOL, [30, 31, 32])
    forgot = [one.model_copy(update={"seed": None}) if one.kind == "accuracy" else one for one in records]
    assert sorted(evidence(*forgot).arm(POOL, "shapes test")) == [0, 1, 2]


def test_an_interaction_is_the_difference_of_differences() -> None:
    """AP75 gains 4, 5, 6 where AP50 gains 1 in each seed."""
    found = evidence(
        *(r for s, v in enumerate((34, 36, 38)) for r in trained(ALIGN, s, stats={"AP75": v, "AP50": 61})),
        *(r for s, v in enumerate((30, 31, 32)) for r in trained(POOL, s, stats={"AP75": v, "AP50": 60})),
    )
    assert "+4.0 points (+3.0 +4.0 +5.0 by seed)" in verdict("roialign-ap75", "AP75 over AP50", found).figure


def test_the_best_of_several_stands_for_them() -> None:
    records = [
        *side("faster_rcnn_vgg16", [30, 30, 30], "AP"),
        *side("faster_rcnn_r50_fpn", [50, 51, 52], "AP"),
        *side("ssd300_vgg16", [40, 42, 41], "AP"),
    ]
    found = verdict("two-stage-accuracy", "AP, shapes test", evidence(*records))
    assert found.word == "holds"
    assert "faster_rcnn_r50_fpn less ssd300_vgg16: +10.0" in found.figure
    assert verdict("two-stage-accuracy", "AP, bccd test", evidence(*records)).word == "cannot tell"
    lucky = [*records, *side("faster_rcnn_vgg16_align", [90], "AP")]
    assert verdict("two-stage-accuracy", "AP, shapes test", evidence(*lucky)).word == "holds", (
        "one seed stands for none"
    )
    here = [
        *side("faster_rcnn_vgg16", [50, 50, 50], "AP", dataset=BCCD),
        *side("ssd300_vgg16", [60, 61, 62], "AP", dataset=BCCD),
    ]
    assert verdict("two-stage-accuracy", "AP, bccd test", evidence(*here)).word == "fails"


def test_nothing_lost_is_not_something_gained() -> None:
    pair = ("light_head_rcnn_r101", "rfcn_r101")
    equal = evidence(*side(pair[0], [40, 41, 42], "AP"), *side(pair[1], [40.1, 40.9, 42], "AP"))
    assert verdict("light-head", "AP", equal).word == "holds"
    lost = evidence(*side(pair[0], [37, 38, 39], "AP"), *side(pair[1], [40.1, 40.9, 42], "AP"))
    assert verdict("light-head", "AP", lost).word == "fails"


def test_other_tests_of_the_same_weights_are_no_trainings() -> None:
    soft: dict[str, Any] = {"protocol": {"suppression": {"name": "soft_nms_linear"}}}
    told: dict[str, Any] = {"protocol": {"truth": {"name": "true_centers"}}}
    scaled: dict[str, Any] = {"protocol": {"multi_scale": {"name": "relative"}}}
    part: dict[str, Any] = {"learned_from": 50}
    for changes in (soft, told, scaled, part):
        assert evidence(*side(POOL, [30, 31, 32], **changes)).arm(POOL, "shapes test") == {}
    found = evidence(*side(POOL, [30, 31, 32], **soft))
    assert len(found.arm(POOL, "shapes test", "soft_nms_linear")) == 3
    assert len(evidence(*side(POOL, [30, 31, 32], **scaled)).arm(POOL, "shapes test", multi_scale="relative")) == 3


def test_several_test_sizes_are_set_against_one_and_their_gains_against_each_other() -> None:
    detector, several = "refinedet320_vgg16", {"protocol": {"multi_scale": {"name": "relative"}}}
    found = evidence(
        *side(detector, [30, 31, 32], "AP", variant={"size": 128}),
        *side(detector, [35, 37, 36], "AP", variant={"size": 128}, **several),
        *side(detector, [34, 36, 38], "AP", variant={"size": 128}, protocol={"multi_scale": {"name": "mirrored"}}),
        *side(detector, [40, 41, 42], "AP", variant={"size": 192}),
        *side(detector, [41, 42.5, 43], "AP", variant={"size": 192}, **several),
    )
    gain = verdict("ms-testing", "128 pixels, several sizes", found)
    assert gain.word == "holds"
    assert f"{detector} size=128 relative less {detector} size=128: +5.0 points (+5.0 +6.0 +4.0" in gain.figure
    alone = verdict("ms-testing", "128 pixels, several sizes alone", found)
    assert "(+1.0 +1.0 -2.0 by seed)" in alone.figure
    more = verdict("ms-testing", "more from the smaller input", found)
    assert more.word == "holds"
    assert "+3.8 points (+4.0 +4.5 +3.0 by seed)" in more.figure
    assert "with --multi-scale relative" in verdict("ms-testing", "160 pixels, several sizes", found).wanted
    assert "3 seeds" in verdict("ms-testing", "more from the smaller input", evidence()).wanted


def test_a_variant_is_a_side_of_its_own() -> None:
    """Hard mining against a random choice; of two learning rates without mining the better stands."""
    ssd = "ssd300_vgg16"
    hard = side(ssd, [40, 41, 42], "AP")
    random = side(ssd, [35, 37, 36], "AP", variant={"sampler": "random"})
    every = side(ssd, [30, 31, 32], "AP", variant={"sampler": "all"})
    slower = side(ssd, [33, 34, 35], "AP", variant={"sampler": "all", "lr": 0.001})
    found = evidence(*random, *every, *slower, *hard)
    figures = [one.record.metrics["stats"]["AP"] for one in found.arm(ssd, TEST).values()]
    assert figures == pytest.approx([0.40, 0.41, 0.42])
    assert found.detectors(TEST) == [ssd, f"{ssd} lr=0.001 sampler=all", f"{ssd} sampler=all", f"{ssd} sampler=random"]
    judged = verdict("ohem-helps", "hard less random", found)
    assert judged.word == "holds"
    assert "+5.0 points (+5.0 +4.0 +6.0 by seed)" in judged.figure
    assert "(+7.0 +7.0 +7.0 by seed)" in verdict("ohem-helps", "hard less all", found).figure


def test_recall_with_all_anchors_that_overlap_is_set_against_the_best_alone() -> None:
    ssd, part = "ssd300_vgg16", "AR100"
    every = side(ssd, [60, 61, 62], part)
    for values, word in (([50, 52, 51], "holds"), ([65, 66, 67], "fails")):
        alone = side(ssd, values, part, variant={"match_iou": None})
        assert verdict("anchor-recall", part, evidence(*every, *alone)).word == word


def test_sides_that_differ_may_do_so_either_way() -> None:
    """Over 2 points, whichever side has them, and chance counted on both sides."""
    part, dataset = "disc of 0.1", DatasetId(name="discs", split="test", fingerprint="d" * 48, images=300, objects=9)
    whole = side("densebox", [40, 41, 42], "AP", dataset=dataset)

    def against(*values: float) -> Verdict:
        other = side("densebox", list(values), "AP", dataset=dataset, variant={"circle": 0.1})
        return verdict("densebox-area-weight", part, evidence(*whole, *other))

    less, more = against(35, 37, 37), against(45, 45, 47)
    assert (less.word, more.word) == ("holds", "holds")
    assert "densebox less densebox circle=0.1: +4.7 points (+5.0 +4.0 +5.0 by seed)" in less.figure
    assert "densebox circle=0.1 less densebox: +4.7 points (+5.0 +4.0 +5.0 by seed)" in more.figure
    assert less.p == more.p == pytest.approx(2 * float(t.sf((14 / 3 - 2) * 3, 2)))
    assert {against(41, 42, 43).word, against(39, 40, 41).word} == {"fails"}, "a point is not two"


def test_a_cure_is_set_against_what_two_stages_are_ahead() -> None:
    """Two stages are 20 points ahead of plain cross entropy; the focal loss brings some of them."""
    retina, ce = "retinanet_r50_fpn", {"alpha": 0.5, "gamma": 0}
    rest = [*side("faster_rcnn_r50_fpn", [50, 51, 52], "AP"), *side(retina, [30, 31, 32], "AP", variant=ce)]

    def brings(*points: float) -> list[str]:
        found = evidence(*rest, *side(retina, [30 + s + one for s, one in enumerate(points)], "AP"))
        return [verdict("imbalance-gap", f"focal loss, {part} of the gap", found).word for part in ("half", "a tenth")]

    assert brings(15, 15.5, 14.5) == ["holds", "holds"]
    assert brings(5, 5.5, 4.5) == ["fails", "holds"]
    assert brings(1, 0.5, 1.5) == ["fails", "fails"]
    alone = evidence(*side(retina, [40, 41, 42], "AP"), *rest[6:])
    assert "3 seeds of faster_rcnn_r50_fpn" in verdict("imbalance-gap", "focal loss, half of the gap", alone).wanted


def test_the_gain_of_blocks_is_parted_from_that_of_their_layers() -> None:
    one_step, none = "refinedet320_vgg16_one_step", "refinedet320_vgg16_no_tcb"
    rest = [*side(one_step, [40, 41, 42], "AP"), *side(none, [36, 36, 38], "AP")]
    bare = {"variant": {"top_down": False}}
    found = evidence(*rest, *side(one_step, [36.5, 37, 38], "AP", **bare))
    judged = verdict("tcb", "what is handed down", found)
    assert judged.word == "holds"
    assert "+1.7 points (+1.5 +1.5 +2.0 by seed)" in judged.figure
    layers = evidence(*rest, *side(one_step, [40, 40.9, 42], "AP", **bare))
    assert verdict("tcb", "what is handed down", layers).word == "fails"
    assert "top_down=False" in verdict("tcb", "what is handed down", evidence(*rest)).wanted
    small = "what RefineDet's blocks hand down, small objects"
    assert "top_down=False" in verdict("weak-semantics", small, evidence(*rest)).wanted


def test_what_small_batches_cost_is_set_against_a_norm_that_knows_no_batch() -> None:
    detector = "retinanet_r50_fpn"
    few = {"batch": 2, "lr": 0.00025, "steps": 19200}
    found = evidence(
        *side(detector, [20, 21, 22], "AP"),
        *side(detector, [15, 16.5, 16], "AP", variant=few),
        *side(detector, [19, 20, 21], "AP", variant={"norm": "group"}),
        *side(detector, [18.5, 19, 20.5], "AP", variant={**few, "norm": "group"}),
    )
    assert verdict("batch-bn", "batch normalisation", found).word == "holds"
    crossed = verdict("batch-bn", "batch over group normalisation", found)
    assert crossed.word == "holds"
    assert "+4.5 points (+4.5 +3.5 +5.5 by seed)" in crossed.figure
    fewer = evidence(
        *side(detector, [20, 21, 22], "AP"),
        *side(detector, [15, 16.5, 16], "AP", variant=few),
        *side(detector, [19, 20, 21], "AP", variant={"norm": "group"}),
        *side(detector, [18.5, 19, 20.5], "AP", variant={**few, "norm": "group"}, steps=9),
    )
    unlike = verdict("batch-bn", "batch over group normalisation", fewer)
    assert unlike.word == "cannot tell"
    assert "both sides trained on as many images" in unlike.wanted


def test_what_learned_from_few_images_is_compared_with_its_like() -> None:
    hog, ssd = "hog_svm", "ssd300_vgg16"
    few = [*side(hog, [12, 13, 12.5], "AP", learned_from=10), *side(ssd, [5, 6, 7], "AP", learned_from=10, steps=9)]
    every = [*side(hog, [18, 19, 18.5], "AP", steps=0), *side(ssd, [36, 35, 37], "AP")]
    found = evidence(*few, *every)
    little, much = (verdict("data-curves", part, found) for part in ("10 images", "2,000 images"))
    assert (little.word, much.word) == ("holds", "holds"), "whoever learns without steps has seen no images twice"
    assert "hog_svm less ssd300_vgg16: +6.5 points (+7.0 +7.0 +5.5 by seed)" in little.figure
    assert "from 10 images" in verdict("data-curves", "10 images", evidence(*every)).wanted


def times(detector: str, seconds: float, **stages: float) -> Record:
    base = [0.9, 0.95, 1.0, 1.0, 1.05, 1.1, 0.97, 1.02, 1.01, 0.99]
    samples = {name: [by * scale for scale in base] for name, by in {"end_to_end": seconds, **stages}.items()}
    return record("latency", detector, samples=samples)


def test_ratios_of_times() -> None:
    slow = evidence(times("faster_rcnn_vgg16", 0.02), times("ssd300_vgg16", 0.01))
    found = verdict("one-stage-speed", "faster_rcnn_vgg16 against ssd300_vgg16", slow)
    assert found.word == "holds"
    assert "2.00, 10 images, timed apart" in found.figure
    even = evidence(times("faster_rcnn_vgg16", 0.0105), times("ssd300_vgg16", 0.01))
    assert verdict("one-stage-speed", "faster_rcnn_vgg16 against ssd300_vgg16", even).word == "cannot tell"
    quick = evidence(times("faster_rcnn_vgg16", 0.005), times("ssd300_vgg16", 0.01))
    assert verdict("one-stage-speed", "faster_rcnn_vgg16 against ssd300_vgg16", quick).word == "fails"
    alone = verdict("one-stage-speed", "faster_rcnn_vgg16 against ssd300_vgg16", evidence(times("ssd300_vgg16", 1)))
    assert alone.wanted == "latency of faster_rcnn_vgg16 on shapes test"


def again(made: Record, *earlier: float) -> Record:
    metrics = {"end_to_end": {"median": made.samples["end_to_end"][2]}, "earlier": list(earlier)}
    return made.model_copy(update={"metrics": metrics})


def test_times_taken_apart_decide_nothing_that_another_run_may_turn() -> None:
    pair, part = ("faster_rcnn_vgg16", "ssd300_vgg16"), "faster_rcnn_vgg16 against ssd300_vgg16"
    records = [again(times(pair[0], 0.02), 0.019), times(pair[1], 0.01), again(times("yolov3", 0.01), 0.005)]
    found = verdict("one-stage-speed", part, evidence(*records))
    assert found.word == "cannot tell"
    assert found.wanted == "both timed side by side (`compare-latency`)"
    assert found.interval is not None
    once = verdict("one-stage-speed", part, evidence(*records[:2])).interval
    assert once is not None
    # Twice as wide on either side in comparison with no move, by the one that moved most; 20 / 19 by the other alone.
    assert found.interval[1] / found.interval[0] == pytest.approx(once[1] / once[0] * (2 * 19 / 20) ** 2)
    beside = record(
        "comparison",
        pair[1],
        protocol={"beside": [pair[0]]},
        samples={f"{name} end_to_end": [seconds] * 10 for name, seconds in zip(pair, (0.02, 0.01), strict=True)},
    )
    found = verdict("one-stage-speed", part, evidence(*records, beside))
    assert found.word == "holds"
    assert "2.00, 10 images, side by side" in found.figure


def test_times_of_a_machine_without_profile_do_not_count() -> None:
    own = times("faster_rcnn_vgg16", 0.02)
    assert own.hardware is not None
    loose = own.model_copy(update={"hardware": own.hardware.model_copy(update={"profile": None})})
    found = evidence(loose, times("ssd300_vgg16", 0.01))
    assert verdict("one-stage-speed", "faster_rcnn_vgg16 against ssd300_vgg16", found).word == "cannot tell"


def test_shares_of_the_time() -> None:
    most = evidence(times("fast_rcnn_vgg16", 0.1, proposals=0.09))
    assert verdict("ss-dominates", "", most).word == "holds"
    least = evidence(times("fast_rcnn_vgg16", 0.1, proposals=0.02))
    assert verdict("ss-dominates", "", least).word == "fails"
    assert verdict("ss-dominates", "", evidence(times("fast_rcnn_vgg16", 0.1))).word == "cannot tell"


def test_what_costs_little_stays_under_a_quarter() -> None:
    for seconds, word in ((0.11, "holds"), (0.15, "fails")):
        found = evidence(times("cornernet511_hg52", 0.1), times("centernet511_hg52", seconds))
        assert verdict("center-cost", "time", found).word == word


def test_sweeps_are_judged_over_trainings() -> None:
    found = [swept("center-hit", "centernet511_hg52", s, {"top_less_bottom": v}) for s, v in enumerate((50, 52, 51))]
    assert verdict("center-hit", "top over bottom", evidence(*found)).word == "holds"
    assert verdict("center-hit", "top over bottom", evidence(*found[:2])).wanted == "1 more seed"
    low = [swept("center-hit", "centernet511_hg52", s, {"top_less_bottom": v}) for s, v in enumerate((5, 6, 7))]
    assert verdict("center-hit", "top over bottom", evidence(*low)).word == "fails"
    with pytest.raises(LedgerError, match=r"claim\.centernet511_hg52.*metrics\.top_less_bottom is None"):
        verdict("center-hit", "top over bottom", evidence(swept("center-hit", "centernet511_hg52", 0, {})))


def test_identities_are_looked_for_in_every_record() -> None:
    right = trained(POOL, 0, stats={"AP50": 60}, fd={"FD50": 40, "FD5": 30, "FD": 35})[0]
    assert verdict("fd-arithmetic", "", evidence(right)).word == "holds"
    wrong = trained(POOL, 1, stats={"AP50": 60}, fd={"FD50": 41, "FD5": 30, "FD": 35})[0]
    found = verdict("fd-arithmetic", "", evidence(right, wrong))
    assert found.word == "fails"
    assert "seed-1" in found.figure


def test_chance_is_seldom_called_an_effect() -> None:
    import random

    chance = random.Random(1)
    records = [one for n in range(12) for one in side(f"detector_{n}", [chance.gauss(40, 2) for _ in range(3)], "AP")]
    found = control(evidence(*records))
    assert found is not None
    assert (len(found.detectors), found.trainings) == (12, 36)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.shares["holds"] + found.shares.get("holds, but too small to matter", 0) < 0.06
    # 4.303 / sqrt(3) times the deviation of a difference, sqrt(2) * 2; the median deviation of three lies lower.
    assert 3 < found.half_width < 2.484 * 2.83
    assert control(evidence(*records[:12])) is None


def test_findings_of_chance_are_held_against_each_other() -> None:
    records = [
        *side(ALIGN, [34.0, 35.01, 36.0]),
        *side(POOL, [30.0, 31.0, 32.01]),
        *side("fast_rcnn_ohem_vgg16", [43, 46, 48], "AP"),
        *side("fast_rcnn_vgg16", [40, 41, 42], "AP"),
        *side("refinedet320_vgg16", [43, 41, 42], "AP"),
        *side("refinedet320_vgg16_unfiltered", [41, 42, 43], "AP"),
        *side("refinedet320_vgg16_one_step", [42, 43, 41], "AP"),
    ]
    rulings = judge(evidence(*records))
    known = {(one.claim.id, one.part): one.verdict for one in rulings if one.verdict.p is not None}
    assert known["roialign-ap75", "AP75"].survives
    weak = known["ohem-helps", "a witness of two stages: Fast R-CNN"]
    assert weak.word == "holds"
    assert weak.survives is False


def test_all_tables_and_made_up_records_make_a_ledger() -> None:
    from tests.reports.samples import collection

    found = Evidence(read_tables(), ((f"m/{one.name}.json", one) for one in collection()))
    assert len({one.claim.id for one in judge(found)}) == 100
