"""Level S: times of the small detectors on one machine. Shares and ratios are of medians, images drawn again.

A time depends on the weights only through what is suppressed, so that one training each is timed; the interval is over
images, and says nothing of another machine. Two detectors are set against each other by times that were taken side by
side. Of two that were timed one after the other the interval is wider, by as much as the median of any detector has
moved that was timed again: a machine that others share may run a minute long at half its speed.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.claims.evidence import Evidence, Found
from benchmarks.claims.ledger import Claim, Rule, Verdict
from benchmarks.claims.verdicts import decide
from benchmarks.metrics.intervals import ratio_of_medians

__all__ = ["RULES", "by_image", "judge_ratio"]

_TEST = "shapes test"
_HERE = "on this machine, with these weights"


def judge_ratio(
    name: str,
    upper: Sequence[float],
    lower: Sequence[float],
    *,
    limit: float,
    fails_under: float,
    rests_on: Sequence[str],
    how: str = "",
    moved: float = 1.0,
    counted: str = "images",
) -> Verdict:
    """The verdict on a ratio of medians of paired samples, which is to exceed `limit`.

    Args:
        name: Of the ratio.
        upper: Samples of what is to be larger,
        lower: and of the other.
        limit: What the ratio is to exceed.
        fails_under: Below this the claim fails.
        rests_on: Places of the Records.
        how: What a reader must know of the times.
        moved: How many times its median a detector's time may be in another run; 1 where both are of one run.
        counted: What the samples are of.
    """
    count = min(len(upper), len(lower))
    ratio = ratio_of_medians(upper[:count], lower[:count])
    low, high = ratio["low"] / moved, ratio["high"] * moved
    word = decide(low, high, limit=limit, matters=fails_under, fails_under=fails_under)
    figure = f"{name}: {ratio['median']:.2f}, {count} {counted}{how}"
    lacking = "both timed side by side (`compare-latency`)" if moved > 1 else f"more {counted}; {count} so far"
    return Verdict(word, figure, (low, high), tuple(rests_on), lacking if word == "cannot tell" else "")


def _of_two(
    found: Evidence, detectors: tuple[str, str], name: str, *, limit: float, fails: float, stage: str = "end_to_end"
) -> Verdict:
    """The verdict on two detectors' times of a stage: side by side where they were so taken, else apart."""
    record = found.beside(detectors, _TEST)
    rules: dict[str, Any] = {"limit": limit, "fails_under": fails}
    if record is not None and all(f"{detector} {stage}" in record.record.samples for detector in detectors):
        first, second = (record.record.samples[f"{detector} {stage}"] for detector in detectors)
        return judge_ratio(name, first, second, **rules, rests_on=[record.place], how=", side by side")
    records = [found.latency(detector, _TEST) for detector in detectors]
    known = [one for one in records if one is not None and stage in one.record.samples]
    if len(known) < 2:
        lacking = [d for d, one in zip(detectors, records, strict=True) if one not in known]
        what = "" if stage == "end_to_end" else f", {stage} timed apart"
        return Verdict("cannot tell", wanted=f"latency of {' and '.join(lacking)} on {_TEST}{what}")
    first, second = (by_image(one, stage) for one in known)
    places = [one.place for one in known]
    return judge_ratio(name, first, second, **rules, rests_on=places, how=", timed apart", moved=found.farthest_move)


def by_image(found: Found, stage: str) -> list[float]:
    """Seconds of each image: the middle of its rounds, where it was timed in several."""
    samples = found.record.samples[stage]
    images = int(found.record.protocol.get("calls_a_round", len(samples)))
    return [statistics.median(samples[image::images]) for image in range(images)]


def _slower(claim: str, slow: str, fast: str, words: str, *, part: str, limit: float = 1.0) -> Rule:
    """The rule that one detector takes more than `limit` times another's time."""

    def judge(_: Claim, found: Evidence) -> Verdict:
        return _of_two(found, (slow, fast), f"time of {slow} over {fast}", limit=limit, fails=1.0)

    return Rule(claim, "S", f"{words}, {_HERE}", judge, part)


def _little(_: Claim, found: Evidence) -> Verdict:
    """CenterNet over CornerNet is to stay under 1.25: the ratio turned round is to exceed 0.8."""
    both = ("cornernet511_hg52", "centernet511_hg52")
    return _of_two(found, both, f"time of {both[0]} over {both[1]}", limit=0.8, fails=0.8)


def _network_alone(_: Claim, found: Evidence) -> Verdict:
    """R-CNN over Fast R-CNN, proposals left out."""
    detectors = ("rcnn_alexnet", "fast_rcnn_vgg16")
    record = found.beside(detectors, _TEST)
    if record is None or any(f"{name} proposals" not in record.record.samples for name in detectors):
        return Verdict("cannot tell", wanted=f"{' and '.join(detectors)} timed side by side, proposals apart")
    samples = record.record.samples
    first, second = (
        [whole - part for whole, part in zip(samples[f"{n} end_to_end"], samples[f"{n} proposals"], strict=True)]
        for n in detectors
    )
    return judge_ratio(
        "R-CNN over Fast R-CNN without proposals", first, second, limit=10, fails_under=10, rests_on=[record.place],
        how=", side by side",
    )  # fmt: skip


def _search_share(_: Claim, found: Evidence) -> Verdict:
    one = found.latency("fast_rcnn_vgg16", _TEST)
    if one is None or "proposals" not in one.record.samples:
        return Verdict("cannot tell", wanted=f"latency of fast_rcnn_vgg16 on {_TEST}, proposals timed apart")
    part, whole = (by_image(one, stage) for stage in ("proposals", "end_to_end"))
    return judge_ratio(
        "selective search's share of the time", part, whole, limit=0.5,
        fails_under=0.5, rests_on=[one.place],
    )  # fmt: skip


def _proposals(_: Claim, found: Evidence) -> Verdict:
    both = ("fast_rcnn_vgg16", "faster_rcnn_vgg16")
    return _of_two(found, both, "selective search over RPN", limit=10, fails=10, stage="proposals")


_LITTLE = 0.2
"""Of what a region costs with a last stage of its own, less than this is next to nothing."""


def _of_regions(stage: str) -> Callable[[Claim, Evidence], Verdict]:
    """That further regions cost R-FCN less than `_LITTLE` of what they cost with a last stage a region, by slopes."""
    shared, apart = "rfcn_r101", "faster_rcnn_r101_c4"

    def judge(_: Claim, found: Evidence) -> Verdict:
        own = found.measured("rfcn-roi-cost", data=_TEST)
        if not own:
            return Verdict("cannot tell", wanted="`python -m benchmarks claims rfcn-roi-cost`")
        one = own[0]
        counts = [int(count) for count in one.record.metrics["regions"]]
        slopes = {}
        for name in (shared, apart):
            seconds = [by_image(one, f"{name} {count} {stage}") for count in counts]
            slopes[name] = np.polyfit(counts, seconds, 1)[0].tolist()
        ratio = ratio_of_medians(slopes[shared], slopes[apart])
        # What stays under a limit is, with its sign turned, over the limit with its sign turned.
        word = decide(-ratio["high"], -ratio["low"], limit=-_LITTLE, matters=-_LITTLE, fails_under=-_LITTLE)
        images = len(slopes[shared])
        costs = " and ".join(f"{1e5 * statistics.median(slopes[name]):.1f} ms in {name}" for name in slopes)
        maps, crops = (one.number("seen_by_last_stage", name, str(max(counts))) for name in slopes)
        figure = f"of {max(counts):,} regions the last stage sees {maps:,.0f} map against {crops:,.0f} crops; a "
        figure += f"hundred regions cost {costs}: ratio {ratio['median']:.2f}, {images} images, by turns"
        lacking = f"more images; {images} so far" if word == "cannot tell" else ""
        return Verdict(word, figure, (ratio["low"], ratio["high"]), (one.place,), lacking)

    return judge


_INPUTS = (128, 192)
"""Of the inputs that are timed, the smallest and the largest."""


def _of_inputs(*, as_pixels: bool) -> Callable[[Claim, Evidence], Verdict]:
    """That the largest input takes longer than the smallest, or at most as many times as long as it has more pixels."""
    small, large = _INPUTS
    pixels = (large / small) ** 2

    def judge(_: Claim, found: Evidence) -> Verdict:
        own = found.measured("input-size", data=_TEST)
        if not own:
            return Verdict("cannot tell", wanted="`python -m benchmarks claims input-size`")
        one = own[0]
        at_small, at_large = (by_image(one, f"refinedet320_vgg16 {side} end_to_end") for side in _INPUTS)
        if as_pixels:
            # What stays under a limit exceeds, turned round, the limit turned round.
            name, upper, lower, limit = f"time at {small} over {large} pixels", at_small, at_large, 1 / pixels
        else:
            name, upper, lower, limit = f"time at {large} over {small} pixels", at_large, at_small, 1.0
        return judge_ratio(
            name, upper, lower, limit=limit, fails_under=limit, rests_on=[one.place], how=", by turns on one core"
        )

    return judge


def _looking_inside(checked: str, count: int) -> Callable[[Claim, Evidence], Verdict]:
    """That pooling a CornerNet's best boxes adds over twice the time that a check of the centre adds.

    Where k is the time without either, r - k is over 2 (c - k) where r + k is over 2 c: a ratio of times, which a
    difference near 0 cannot upset.
    """
    plain = "cornernet511_hg52"

    def judge(_: Claim, found: Evidence) -> Verdict:
        own = found.measured("roi-vs-center", data=_TEST)
        if not own:
            return Verdict("cannot tell", wanted="`python -m benchmarks claims roi-vs-center`")
        one = own[0]
        alone, pooled, check = (by_image(one, f"{name} end_to_end") for name in (plain, f"{plain} {count}", checked))
        added = [1e3 * (statistics.median(times) - statistics.median(alone)) for times in (pooled, check)]
        looked = one.number("regions", str(count))
        how = f": {looked:.0f} boxes pooled add {added[0]:.1f} ms, the check {added[1]:.1f} ms, by turns on one core"
        return judge_ratio(
            f"time with boxes pooled and without, over twice that of {checked}",
            [a + b for a, b in zip(pooled, alone, strict=True)], [2 * c for c in check], limit=1, fails_under=1,
            rests_on=[one.place], how=how,
        )  # fmt: skip

    return judge


def _small_batches(_: Claim, found: Evidence) -> Verdict:
    """An image in a batch of 2 is to take over 1.5 times as long as one in a batch of 16."""
    own = found.measured("batch-time", data="shapes train")
    if not own:
        return Verdict("cannot tell", wanted="`python -m benchmarks claims batch-time`")
    one = own[0]
    few, many = ([s / size for s in one.record.samples[f"retinanet_r50_fpn batch {size}"]] for size in (2, 16))
    return judge_ratio(
        "time of an image in a batch of 2 over one of 16, retinanet_r50_fpn", few, many, limit=1.5, fails_under=1.5,
        rests_on=[one.place], how=", by turns on one core", counted="steps",
    )  # fmt: skip


_FAMILY = ("rcnn_alexnet", "fast_rcnn_vgg16", "faster_rcnn_vgg16", "rfcn_r101", "light_head_rcnn_r101")

RULES: tuple[Rule, ...] = (
    *(
        _slower("one-stage-speed", two, one, "over 1.1 holds, under 1 fails", part=f"{two} against {one}", limit=1.1)
        for two, one in (("faster_rcnn_vgg16", "ssd300_vgg16"), ("faster_rcnn_r50_fpn", "retinanet_r50_fpn"))
    ),
    *(
        _slower("family-speed-order", slow, fast, "over 1 holds", part=f"{slow} to {fast}")
        for slow, fast in itertools.pairwise(_FAMILY)
    ),
    _slower("small-center-beats-big-corner", "cornernet511_hg104", "centernet511_hg52", "over 1 holds", part="time"),
    _slower("dssd-gain-cost", "dssd321_r101", "ssd300_vgg16", "over 1 holds", part="slower"),
    _slower("light-head", "rfcn_r101", "light_head_rcnn_r101", "over 1 holds", part="time"),
    Rule("fast-shared-compute", "S", f"over 10 times without proposals holds, {_HERE}", _network_alone),
    Rule("ss-dominates", "S", f"over half of the time, images of 160 pixels, {_HERE}", _search_share),
    Rule("rpn-cheaper", "S", f"over 10 times faster holds, {_HERE}", _proposals, "time of proposals"),
    *(
        Rule("rfcn-roi-cost", "S", f"slope of the time under 0.2 times the other's, 50 to 1,000 regions, {_HERE}",
             _of_regions(stage), part)
        for part, stage in (("time of the whole", "end_to_end"), ("second stage before suppression", "network"))
    ),
    Rule("input-size", "S", f"refinedet320_vgg16, one set of weights, 192 over 128 pixels: over 1 holds, {_HERE}",
         _of_inputs(as_pixels=False), "time"),
    Rule("input-size", "S", "refinedet320_vgg16: at most 2.25 times the time for 2.25 times the pixels, so that the "
         f"ratio turned round is over 0.44, {_HERE}", _of_inputs(as_pixels=True), "time against pixels"),
    *(
        Rule("roi-vs-center", "S", f"a second stage on its best {count:,} boxes adds to CornerNet-52 over twice the "
             f"time that {words} adds, {_HERE}", _looking_inside(checked, count), f"{count} boxes against {words}")
        for checked, words in (
            ("centernet511_hg52_cre", "the check of the centre"), ("centernet511_hg52", "CenterNet")
        )
        for count in (100, 1_000)
    ),
    Rule("batch-time", "S", "images a second of training at 16 a batch over 1.5 times those at 2, on one core of this "
         "machine", _small_batches, "on a processor"),
    Rule("center-cost", "S", f"at most 1.25 times the time, so that the ratio turned round is over 0.8, {_HERE}",
         _little, "time"),
)  # fmt: skip
