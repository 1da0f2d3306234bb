"""Level F: published methods on photographs, as `python -m benchmarks claims` counted and timed them. Where one is
timed beside a small detector, that line is of level S.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.claims.arithmetic import fact
from benchmarks.claims.evidence import Evidence, Found
from benchmarks.claims.ledger import Claim, Level, Rule, Verdict
from benchmarks.claims.timed import by_image, judge_ratio
from benchmarks.claims.verdicts import decide
from benchmarks.metrics.miss_rate import exact_interval

__all__ = ["RULES"]

_MILLION = 1e6


def _photographs(claim: str, words: str, test: Callable[[Found], Verdict], *, part: str, level: Level = "F") -> Rule:
    """The rule that a test of what a claim counted on photographs is true."""

    def judge(_: Claim, found: Evidence) -> Verdict:
        own = [one for one in found.measured(claim) if one.record.dataset is not None]
        if not own:
            return Verdict("cannot tell", wanted=f"VOC's photographs and `python -m benchmarks claims {claim}`")
        return test(own[0])

    return Rule(claim, level, words, judge, part)


def _features(one: Found) -> Verdict:
    figure = (
        f"{one.number('features_met'):.1f} of {one.number('features'):,.0f} features a window, "
        f"{one.number('windows') / _MILLION:.1f} million windows of {one.number('images'):.0f} photographs, "
        f"{one.record.metrics['cascade']}"
    )
    return fact(one.number("share_met") < 0.05, figure, one.place)


def _first_stages(one: Found) -> Verdict:
    left = one.number("left_after_two")
    figure = f"{100 * left:.1f} % of the windows are left after two of {one.number('stages'):.0f} stages"
    return fact(left < 0.5, figure, one.place)


def _nothing_lost(one: Found) -> Verdict:
    other = one.number("decided_otherwise_by_all_stages")
    return fact(other == 0, f"{other:.0f} windows of a sample are decided otherwise by all stages", one.place)


def _boxes(one: Found) -> Verdict:
    figure = f"{_spread(one, 'boxes', '.0f')} boxes an image, {one.number('images'):.0f} photographs"
    return fact(1_000 <= one.number("boxes", "median") <= 4_000, figure, one.place)


def _seconds(one: Found) -> Verdict:
    device = "unknown" if one.record.hardware is None else one.record.hardware.device
    figure = f"{_spread(one, 'seconds', '.1f')} s an image on one core ({device})"
    return fact(1 <= one.number("seconds", "median") <= 10, figure, one.place)


def _covered(one: Found) -> Verdict:
    objects = round(one.number("objects"))
    share = one.number("recall50_all")
    low, high = (100 * float(end) for end in exact_interval(round(share * objects), objects))
    word = decide(low, high, limit=90.0, matters=90.0, fails_under=90.0)
    figure = f"recall at IoU 0.5: {100 * share:.1f} % of {objects} objects"
    wanted = "more photographs" if word == "cannot tell" else ""
    return Verdict(word, figure, (low, high), (one.place,), wanted)


def _spread(one: Found, name: str, digits: str) -> str:
    low, middle, high = (one.number(name, part) for part in ("low", "median", "high"))
    return f"median {middle:{digits}} ({low:{digits}} to {high:{digits}} in eight of ten)"


def _faster(classical: str, network: str) -> Callable[[Found], Verdict]:
    """That a network takes longer than a classical detector, its own suppression left out: that of random weights would
    take longer than that of trained ones.
    """

    def test(one: Found) -> Verdict:
        about = one.record.metrics["models"].get(classical)
        if about is None:
            return Verdict("cannot tell", wanted=f"{classical}'s published file in a folder of DETECTOR_ZOO_WEIGHTS")
        before, within = (by_image(one, f"{network} {stage}") for stage in ("preprocess", "network"))
        height, width = about["smallest"]
        return judge_ratio(
            f"time of {network} over {classical} ({about['windows']:,.0f} windows a photograph, from {height} x "
            f"{width} pixels on in steps of {about['scale_step']:.2f})",
            [a + b for a, b in zip(before, within, strict=True)],
            by_image(one, f"{classical} end_to_end"),
            limit=1,
            fails_under=1,
            rests_on=[one.place],
            how=", by turns",
        )

    return test


_CLASSICAL = {
    "viola_jones": "OpenCV's face cascade in the zoo",
    "opencv_cascade": "OpenCV's face cascade in OpenCV",
    "acf": "ACF's pedestrians in the zoo",
}
_NETWORKS: dict[str, tuple[Level, str]] = {
    "ssd300_vgg16": ("F", "SSD300 of full width, random weights, before suppression"),
    "ssd300_vgg16_small": ("S", "the small SSD300 of 160 pixels, before suppression"),
}

RULES: tuple[Rule, ...] = (
    _photographs("cascade-front", "a window meets under 5 % of the features", _features, part="features"),
    _photographs("cascade-front", "two stages reject over half of the windows", _first_stages, part="first stages"),
    _photographs("cascade-front", "windows that leave early would not have passed all stages", _nothing_lost,
                 part="nothing is lost"),
    *(
        _photographs("classical-cpu", f"on one core {slow} takes longer", _faster(quick, network), part=part,
                     level=level)
        for network, (level, slow) in _NETWORKS.items()
        for quick, part in _CLASSICAL.items()
    ),
    _photographs("ss-2000", "the median is 1,000 to 4,000 boxes, fast mode", _boxes, part="boxes"),
    _photographs("ss-2000", "the median is 1 to 10 seconds on one core, fast mode", _seconds, part="seconds"),
    _photographs("ss-2000", "over 90 % of the objects are met at IoU 0.5", _covered, part="coverage"),
)  # fmt: skip
