"""Level S: trained small detectors at other settings, as `python -m benchmarks claims` ran them, a value a training."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from scipy.stats import spearmanr

from benchmarks.claims.evidence import Evidence, Found
from benchmarks.claims.ledger import Claim, Rule, Verdict
from benchmarks.claims.pairs import judge_values, of_alike, of_one_training, same_images
from benchmarks.claims.verdicts import LEAST_SEEDS, decide

__all__ = ["RULES"]


def _swept(
    claim: str,
    detector: str,
    words: str,
    value: Callable[[Found], float],
    name: str,
    *,
    part: str = "",
    test: str = "shapes test",
    limit: float = 0.0,
    matters: float | None = None,
    images: Callable[[Found], tuple[float, float] | None] | None = None,
    rests: str = "",
) -> Rule:
    """The rule that a value of each training exceeds a limit; `images` is its interval over the images of one."""

    def judge(_: Claim, found: Evidence) -> Verdict:
        own = found.swept(rests or claim, test, detector)
        if not own:
            return Verdict(
                "cannot tell",
                wanted=f"{LEAST_SEEDS} seeds of {detector}: `python -m benchmarks claims {rests or claim}`",
            )
        values = {seed: value(one) for seed, one in own.items()}
        verdict = judge_values(
            values, f"{name}, {detector}", limit=limit, matters=matters, rests_on=[one.place for one in own.values()]
        )
        return verdict if images is None else of_one_training(verdict, images(next(iter(own.values()))))

    return Rule(claim, "S", words, judge, part)


def _apart(
    claim: str,
    first: str,
    second: str,
    words: str,
    value: Callable[[Found], float],
    name: str,
    *,
    part: str,
    test: str = "shapes test",
) -> Rule:
    """The rule that a value of a detector exceeds that of another of the same seed, both swept on the same images."""

    def judge(_: Claim, found: Evidence) -> Verdict:
        sides = [(side, found.swept(claim, test, side)) for side in (first, second)]
        lacking = [side for side, own in sides if not own]
        common = sorted(sides[0][1].keys() & sides[1][1].keys())
        seeds = [seed for seed in common if same_images(*(own[seed] for _, own in sides))]
        if not seeds:
            wanted = f"{LEAST_SEEDS} seeds of {' and of '.join(lacking or (first, second))} on the same images"
            return Verdict("cannot tell", wanted=f"{wanted}: `python -m benchmarks claims {claim}`")
        values = {seed: value(sides[0][1][seed]) - value(sides[1][1][seed]) for seed in seeds}
        places = [own[seed].place for seed in seeds for _, own in sides]
        return of_alike(judge_values(values, f"{name}, {first} less {second}", rests_on=places), found, *sides)

    return Rule(claim, "S", words, judge, part)


def _ends(*keys: str) -> Callable[[Found], tuple[float, float] | None]:
    def of(one: Found) -> tuple[float, float] | None:
        value = one.record.metrics
        for key in keys:
            value = value[key]
        ends = value["interval"]
        return None if ends is None else (ends[0], ends[1])

    return of


def _kept(*keys: str) -> Callable[[Found], float]:
    """What is left of a hundred."""
    return lambda one: 100 - one.number(*keys)


def _at(*keys: str) -> Callable[[Found], float]:
    return lambda one: one.number(*keys)


def _centre_steps(one: Found) -> float:
    """The least rise from one bin of IoU to the next."""
    shares = [row["share"] for row in one.record.metrics["by_iou"]]
    return min(b - a for a, b in itertools.pairwise(shares))


def _wrong_by_size(one: Found) -> float:
    shares = one.record.metrics["wrong_by_size"]
    return float(shares[-1] - shares[0])


def _small_recall_falls(one: Found) -> float:
    """Recall of small objects from the whole box to a ninth of its side."""
    return one.number("settings", "n_1", "AR_S") - one.number("settings", "n_9", "AR_S")


def _large_precision_rises(one: Found) -> float:
    return one.number("settings", "n_9", "precision_large") - one.number("settings", "n_1", "precision_large")


def _lost_by_level(one: Found) -> float:
    """Whether levels lose the sizes they learn: agreement of the median side with where most AP is lost, of 100."""
    lost = one.record.metrics["lost"]
    sizes = {"AP_S": 0, "AP_M": 1, "AP_L": 2}
    rows = [lost[level] for level in sorted(lost) if lost[level]["median_side"] is not None]
    most = [sizes[max(sizes, key=lambda name: row[name])] for row in rows]
    return 100 * float(spearmanr([row["median_side"] for row in rows], most).statistic)


def _recall_of_missed(one: Found) -> float:
    """How much more is found of objects that some proposal overlaps, with 20 proposals."""
    row = one.record.metrics["by_proposals"]["20"]
    return float(row["recall_of_met"] - row["recall_of_missed"])


def _recall_follows(one: Found) -> float:
    rows = list(one.record.metrics["by_proposals"].values())
    rank = spearmanr([row["proposal_recall"] for row in rows], [row["recall"] for row in rows]).statistic
    return 100 * float(rank)


def _crowd_threshold(_: Claim, found: Evidence) -> Verdict:
    """The best threshold on the crowd against that on the sparse scene, of the same weights."""
    own = {scene: found.swept("nms-crowd", f"shapes {scene}", "ssd300_vgg16") for scene in ("crowd", "sparse")}
    seeds = own["crowd"].keys() & own["sparse"].keys()
    if not seeds:
        return Verdict(
            "cannot tell", wanted=f"{LEAST_SEEDS} seeds of ssd300_vgg16: `python -m benchmarks claims nms-crowd`"
        )
    values = {
        s: 100 * (own["crowd"][s].number("best_threshold") - own["sparse"][s].number("best_threshold")) for s in seeds
    }
    places = [own[scene][seed].place for seed in sorted(seeds) for scene in ("crowd", "sparse")]
    return judge_values(values, "best IoU threshold, crowd less sparse, in hundredths, ssd300_vgg16", rests_on=places)


def _published(name: str, words: str, part: str) -> Rule:
    """The rule on weights as they were published, where what is drawn again is the images: 0.3 points matter."""

    def judge(_: Claim, found: Evidence) -> Verdict:
        own = found.measured("input-size", data="coco val2017")
        if not own:
            return Verdict("cannot tell", wanted="COCO's images and `python -m benchmarks claims input-size`")
        one = own[0]
        low, high = one.record.metrics["gains"][name]["interval"]
        word = decide(low, high, matters=0.3)
        size = one.record.dataset
        figure = f"{name} from 224 to 416 pixels: {one.number('gains', name, 'gain'):+.1f}, {one.record.detector}, "
        figure += f"{size.images if size else 0} images"
        wanted = "more images" if word == "cannot tell" else ""
        return Verdict(word, figure, (low, high), (one.place,), wanted)

    return Rule("input-size", "F", words, judge, part)


_CENTER, _HERE = "centernet511_hg52", "over 0 in every seed and in its interval"
_REFINEDET = "refinedet320_vgg16"
_ANCHORS = {"tiled": "as tiled", "refined": "as the first step put them"}
_HANDED_DOWN = (
    ("dssd321_r101", "ssd300_vgg16", "DSSD against SSD"),
    (f"{_REFINEDET}_one_step", f"{_REFINEDET}_one_step top_down=False", "RefineDet with and without top-down path"),
)
_PAINTED, _TILED = "densebox split=twins-train", "ssd300_vgg16 split=twins-train"
_FALL = "recall of objects that overlap another by at most 0.2 less of those by 0.4 to 0.6"
_NEAR = {"0": "touch an object", "0.3": "overlap one by 0.3"}

RULES: tuple[Rule, ...] = (
    *(
        _swept("fd-not-share", name, "the two differ by over 5 points, so that the reading is wrong", _at("apart"),
               "FD5 and the share, apart", part=f"the reading is wrong, {name}", limit=5.0)
        for name in ("cornernet511_hg52", _CENTER)
    ),
    _swept("gt-centers", _CENTER, "true centres bring over 5 points", _at("AP", "difference"), "AP with true centres",
           part="bottleneck", limit=5.0, images=_ends("AP")),
    _swept("center-hit", _CENTER, "from bin to bin of IoU the share rises", _centre_steps, "least rise",
           part="each step"),
    _swept("center-hit", _CENTER, "top bin less bottom bin over 30 points", _at("top_less_bottom"), "top less bottom",
           part="top over bottom", limit=30.0),
    _swept("center-hit", _CENTER, "among wrong boxes the share rises with size", _wrong_by_size,
           "large less small third", part="small wrong boxes least"),
    _swept("region-switch", _CENTER, f"AP of the switch less the better fixed share: {_HERE}; fails under 0.2",
           _at("switch_less_fixed", "difference"), "AP", part="switch", matters=0.2, images=_ends("switch_less_fixed")),
    _swept("region-size-effect", _CENTER, f"recall of small objects, n = 1 less n = 9: {_HERE}", _small_recall_falls,
           "AR_S", part="small objects are lost", rests="region-switch"),
    _swept("region-size-effect", _CENTER, f"precision of large boxes, n = 9 less n = 1: {_HERE}", 
           _large_precision_rises, "precision", part="large boxes get through", rests="region-switch"),
    _swept("easy-loss-share", "retinanet_r50_fpn", "cross entropy's share less the focal loss's over 20 points",
           _at("difference"), "share of easy anchors", part="same weights", limit=20.0),
    _swept("objectness-prior", "ron320_vgg16", "under 10 % of the anchors pass the gate of 0.03",
           lambda one: 10 - one.number("gates", "0.03", "anchors"), "10 % less the share that passes", part="few pass"),
    _swept("objectness-prior", "ron320_vgg16", "at least 99 % of the anchors on objects pass it",
           lambda one: one.number("gates", "0.03", "positives") - 99, "share of positives less 99 %",
           part="those on objects do"),
    _swept("level-by-scale", "ssd300_vgg16", "a silent level costs most AP at its own size: ranks agree", 
           _lost_by_level, "rank agreement in hundredths", part="silent levels", limit=90.0),
    _swept("proposal-recall-cap", "faster_rcnn_vgg16", "recall of objects that a proposal met less that of the others",
           _recall_of_missed, "recall", part="with 20 proposals", limit=30.0),
    _swept("proposal-recall-cap", "faster_rcnn_vgg16", "final recall rises with that of the proposals (Spearman)",
           _recall_follows, "rank agreement in hundredths", part="5 to 100 proposals", limit=90.0),
    _swept("box-regression", "rcnn_alexnet", f"corrected boxes less proposals, same scores: {_HERE}",
           _at("gains", "AP50", "gain"), "AP50", part="AP50", images=_ends("gains", "AP50")),
    _swept("box-regression", "rcnn_alexnet", f"what AP75 gains less what AP50 gains: {_HERE}",
           _at("gains", "AP75 - AP50", "gain"), "AP75 - AP50", part="AP75 over AP50",
           images=_ends("gains", "AP75 - AP50")),
    *(
        _swept("two-step", _REFINEDET, f"IoU with their objects after it less before: {_HERE}; under 5 points "
               "it does not matter", _at(chosen, "rise"), "mean IoU", matters=5.0, images=_ends(chosen),
               part=f"first step, anchors matched {how}")
        for chosen, how in _ANCHORS.items()
    ),
    _swept("naf", _REFINEDET, "theta 0.99 drops over 50 % of the anchors", _at("theta", "0.99", "anchors"),
           "share of anchors dropped", part="many are dropped", limit=50.0),
    *(
        _swept("naf", _REFINEDET, "theta 0.99 leaves over 99 % of those that overlap an object by 0.5",
               _kept("theta", "0.99", chosen), "share of positives left", part=f"none on objects, {how}", limit=99.0)
        for chosen, how in _ANCHORS.items()
    ),
    _swept("naf", _REFINEDET, f"theta 0.99 less 1 at the test, same weights: {_HERE}; fails where half a point is "
           "excluded", _at("theta", "1", "own_less", "difference"), "AP", part="at the test alone", matters=0.5,
           images=_ends("theta", "1", "own_less")),
    *(
        _swept("anchor-free-or-refined-alignment", f"{_REFINEDET}_unfiltered",
               f"rank correlation of score and IoU, refined less tiled: {_HERE}",
               _at("rank", reach, "difference"), f"rank agreement in hundredths less that of {_REFINEDET}_one_step",
               images=_ends("rank", reach), part=f"anchors that {which}")
        for reach, which in _NEAR.items()
    ),
    _swept("anchor-free-or-refined-alignment", f"{_REFINEDET}_unfiltered",
           f"AP of equal boxes by scores of refined less of tiled anchors, mean over the boxes of both: {_HERE}",
           _at("swapped", "gain"), f"AP by scores less those of {_REFINEDET}_one_step",
           images=_ends("swapped"), part="scores swapped"),
    _swept("densebox-overlap", _PAINTED, f"{_FALL}: {_HERE}", _at("fall"), "fall of recall", test="shapes twins",
           part="recall falls with overlap"),
    _apart("densebox-overlap", _PAINTED, _TILED, f"{_FALL} falls more than with anchors: {_HERE}", _at("fall"),
           "fall of recall", test="shapes twins", part="more than with anchors"),
    *(
        _apart("weak-semantics", deep, shallow, "a linear classifier of the finest map that the heads read is right "
               f"about more small objects: {_HERE}", _at("accuracy"), "accuracy", part=f"finest features, {pair}")
        for deep, shallow, pair in _HANDED_DOWN
    ),
    _published("AP", "the interval over the images is over 0", "one set of weights, AP"),
    _published("AP_S", "the interval over the images is over 0", "one set of weights, small objects"),
    _published("AP_S - AP_L", "small objects gain more than large ones", "one set of weights, small over large"),
    Rule("nms-crowd", "S", "the best threshold is higher on the crowd than on the sparse scene", _crowd_threshold,
         "best threshold"),
    *(
        _swept("soft-nms", "ssd300_vgg16", f"{way} less the best hard threshold: {_HERE}",
               _at("soft_less_best", way, "difference"), "AP", part=f"{way}, crowd", test="shapes crowd",
               images=_ends("soft_less_best", way), rests="nms-crowd")
        for way in ("gaussian", "linear")
    ),
)  # fmt: skip
