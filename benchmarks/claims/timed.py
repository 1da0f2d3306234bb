"""Level S: times of the small detectors on one machine. Shares and ratios are of medians, images drawn again.

A time depends on the weights only through what is suppressed, so that one training each is timed; the interval is over
images, and says nothing of another machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from benchmarks.claims.evidence import Evidence, Found
from benchmarks.claims.ledger import Claim, Rule, Verdict
from benchmarks.claims.verdicts import decide
from benchmarks.metrics.intervals import ratio_of_medians

__all__ = ["RULES", "judge_ratio"]

_TEST = "shapes test"
_HERE = "on this machine, with these weights"


def judge_ratio(
    upper: Sequence[float],
    lower: Sequence[float],
    name: str,
    *,
    limit: float,
    fails_under: float,
    rests_on: Sequence[str],
    how: str = "",
) -> Verdict:
    """The verdict on a ratio of medians of paired samples, which is to exceed `limit`."""
    count = min(len(upper), len(lower))
    ratio = ratio_of_medians(upper[:count], lower[:count])
    word = decide(ratio["low"], ratio["high"], limit=limit, matters=fails_under, fails_under=fails_under)
    figure = f"{name}: {ratio['median']:.2f}, {count} images{how}"
    wanted = f"more images; {count} so far" if word == "cannot tell" else ""
    return Verdict(word, figure, (ratio["low"], ratio["high"]), tuple(rests_on), wanted)


def _times(found: Evidence, detector: str, other: str) -> tuple[Found, list[float], list[float]] | None:
    """Seconds of two detectors that were timed side by side."""
    record = found.beside((detector, other), _TEST)
    if record is None:
        return None
    samples = record.record.samples
    return record, samples[f"{detector} end_to_end"], samples[f"{other} end_to_end"]


def _slower(
    claim: str, slow: str, fast: str, words: str, *, part: str, limit: float = 1.0, fails_under: float = 1.0
) -> Rule:
    """The rule that one detector takes more than `limit` times another's time."""

    def judge(_: Claim, found: Evidence) -> Verdict:
        name = f"time of {slow} over {fast}"
        if (both := _times(found, slow, fast)) is not None:
            record, first, second = both
            return judge_ratio(first, second, name, limit=limit, fails_under=fails_under, rests_on=[record.place],
                               how=", side by side")  # fmt: skip
        apart = [found.latency(detector, _TEST) for detector in (slow, fast)]
        lacking = [d for d, one in zip((slow, fast), apart, strict=True) if one is None]
        if apart[0] is None or apart[1] is None:
            return Verdict("cannot tell", wanted=f"latency of {' and '.join(lacking)} on {_TEST}")
        return judge_ratio(
            *(one.record.samples["end_to_end"] for one in apart if one is not None),
            name,
            limit=limit,
            fails_under=fails_under,
            rests_on=[one.place for one in apart if one is not None],
            how=", timed apart",
        )

    return Rule(claim, "S", f"{words}, {_HERE}", judge, part)


def _little(_: Claim, found: Evidence) -> Verdict:
    """CenterNet over CornerNet is to stay under 1.25: the ratio turned round is to exceed 0.8."""
    apart = [found.latency(name, _TEST) for name in ("cornernet511_hg52", "centernet511_hg52")]
    if apart[0] is None or apart[1] is None:
        return Verdict("cannot tell", wanted=f"latencies of CornerNet and CenterNet on {_TEST}")
    verdict = judge_ratio(
        apart[0].record.samples["end_to_end"], apart[1].record.samples["end_to_end"],
        "time of cornernet511_hg52 over centernet511_hg52", limit=0.8, fails_under=0.8,
        rests_on=[one.place for one in apart if one is not None], how=", timed apart",
    )  # fmt: skip
    return verdict


def _network_alone(_: Claim, found: Evidence) -> Verdict:
    """R-CNN over Fast R-CNN, proposals left out."""
    record = found.beside(("rcnn_alexnet", "fast_rcnn_vgg16"), _TEST)
    if record is None:
        return Verdict("cannot tell", wanted="rcnn_alexnet and fast_rcnn_vgg16 timed side by side")
    samples = record.record.samples
    rest = [
        [whole - part for whole, part in zip(samples[f"{n} end_to_end"], samples[f"{n} proposals"], strict=True)]
        for n in ("rcnn_alexnet", "fast_rcnn_vgg16")
        if f"{n} proposals" in samples
    ]
    if len(rest) < 2:
        return Verdict("cannot tell", wanted="their proposals timed apart")
    return judge_ratio(*rest, "R-CNN over Fast R-CNN without proposals", limit=10, fails_under=10,
                       rests_on=[record.place], how=", side by side")  # fmt: skip


def _search_share(_: Claim, found: Evidence) -> Verdict:
    one = found.latency("fast_rcnn_vgg16", _TEST)
    if one is None or "proposals" not in one.record.samples:
        return Verdict("cannot tell", wanted=f"latency of fast_rcnn_vgg16 on {_TEST}, proposals timed apart")
    samples = one.record.samples
    return judge_ratio(samples["proposals"], samples["end_to_end"], "selective search's share of the time",
                       limit=0.5, fails_under=0.5, rests_on=[one.place])  # fmt: skip


def _proposals(_: Claim, found: Evidence) -> Verdict:
    both = [found.latency(name, _TEST) for name in ("fast_rcnn_vgg16", "faster_rcnn_vgg16")]
    if any(one is None or "proposals" not in one.record.samples for one in both):
        return Verdict("cannot tell", wanted="latencies of fast_rcnn_vgg16 and faster_rcnn_vgg16 with proposals apart")
    return judge_ratio(
        *(one.record.samples["proposals"] for one in both if one is not None), "selective search over RPN",
        limit=10, fails_under=10, rests_on=[one.place for one in both if one is not None], how=", timed apart",
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
    Rule("center-cost", "S", f"at most 1.25 times the time, so that the ratio turned round is over 0.8, {_HERE}",
         _little, "time"),
)  # fmt: skip
