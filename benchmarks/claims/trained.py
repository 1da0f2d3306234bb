"""Level S: detectors that were trained alike and differ in what a claim is about, seed by seed.

"holds" here means on this backbone and these data, never that a paper's figure was confirmed.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.claims.arithmetic import fact
from benchmarks.claims.evidence import Evidence, points
from benchmarks.claims.ledger import Claim, Rule, Verdict
from benchmarks.claims.pairs import Pair, crossed_rule, less, over, pair_rule, single_rule

__all__ = ["RULES"]

_TWO = ("faster_rcnn_vgg16", "faster_rcnn_vgg16_align", "faster_rcnn_r50_fpn")
_ONE = ("ssd300_vgg16", "retinanet_r50_fpn")
_AP, _AP50, _AP75 = points("stats.AP"), points("stats.AP50"), points("stats.AP75")
_SMALL, _LARGE = points("stats.AP_S"), points("stats.AP_L")
_SMALL_OVER_LARGE = less("stats.AP_S", "stats.AP_L")

_STAGES = {test: Pair(_TWO, _ONE, test) for test in ("shapes test", "bccd test")}
_DSSD = Pair(("dssd321_r101",), ("ssd300_vgg16",))
_ALIGN = Pair(("faster_rcnn_vgg16_align",), ("faster_rcnn_vgg16",))
_FRACTIONS = Pair(("faster_rcnn_vgg16_align",), ("faster_rcnn_vgg16 pool=mean",))
_R3, _R2, _R1, _R0 = (f"refinedet320_vgg16{name}" for name in ("", "_unfiltered", "_one_step", "_no_tcb"))
_FILTER, _STEPS, _BLOCKS = Pair((_R3,), (_R2,)), Pair((_R2,), (_R1,)), Pair((_R1,), (_R0,))
_BARE = f"{_R1} top_down=False"
_HANDED = Pair((_R1,), (_BARE,))
_SSD, _RETINA, _REFINE, _FPN = "ssd300_vgg16", "retinanet_r50_fpn", "refinedet320_vgg16", "faster_rcnn_r50_fpn"
_HARD = Pair((_SSD,), (f"{_SSD} sampler=random",))
_BEST_ALONE = Pair((_SSD,), (f"{_SSD} match_iou=None",))
# Where all negatives count the loss is another; the better of two learning rates stands for that side.
_NOT_ALL = Pair((_SSD,), (f"{_SSD} sampler=all", f"{_SSD} lr=0.001 sampler=all"))
_FOCAL = Pair((_RETINA,), (f"{_RETINA} alpha=0.5 gamma=0", f"{_RETINA} alpha=0.5 gamma=0 lr=0.001"))
# Cures of imbalance, and by how much two stages are ahead without.
_CURES = {
    name: (cure, Pair((_FPN,), cure.second)) for name, cure in (("focal loss", _FOCAL), ("hard negatives", _NOT_ALL))
}
_ONE_LEVEL = {stride: Pair((_RETINA,), (f"{_RETINA} single={level}",)) for stride, level in ((16, 2), (8, 1))}
_FEW = "batch=2 lr=0.00025"
_BATCH = Pair((_RETINA,), (f"{_RETINA} {_FEW} steps=19200",))
_GROUP = Pair((f"{_RETINA} norm=group",), (f"{_RETINA} {_FEW} norm=group steps=19200",))
_AT = {128: f"{_REFINE} size=128", 160: _REFINE, 192: f"{_REFINE} size=192"}
_LARGER = {"160 less 128 pixels": Pair((_AT[160],), (_AT[128],)), "192 less 160 pixels": Pair((_AT[192],), (_AT[160],))}
_SEVERAL = {side: Pair((name,), (name,), multi_scale=("relative", None)) for side, name in _AT.items()}
_SEVERAL_ALONE = {side: Pair((name,), (name,), multi_scale=("relative", "mirrored")) for side, name in _AT.items()}
_PRIOR = Pair(("ron320_vgg16",), ("ron320_vgg16 objectness=False",))
_LITTLE, _MUCH = Pair(("hog_svm",), (_SSD,), images=10), Pair((_SSD,), ("hog_svm",))
_K0, _K4 = "cornernet511_hg52", "centernet511_hg52"
_K1, _K2, _K3 = (f"centernet511_hg52_{name}" for name in ("ccp", "cre", "cre_ctp"))
_CHECK = Pair((_K2,), (_K0,))

_RADII = {radius: Pair(("densebox",), (f"densebox circle={radius}",), "discs test") for radius in (0.1, 0.5)}

_GAIN = "the difference is over 0 in every seed and in its interval"
_MORE_SMALL = "small objects gain more than large ones"


def _everywhere(test: Callable[[dict[str, float]], bool], *needed: str) -> Callable[[Claim, Evidence], Verdict]:
    """The rule that a test of COCO's and FD's numbers is true in every accuracy Record that has them."""

    def judge(_: Claim, found: Evidence) -> Verdict:
        wrong, count = [], 0
        for one in found.of("accuracy"):
            numbers = {**(one.record.metrics.get("stats") or {}), **(one.record.metrics.get("fd") or {})}
            if all(numbers.get(name) is not None for name in needed):
                count += 1
                wrong += [] if test(numbers) else [one.place]
        if not count:
            return Verdict("cannot tell", wanted="any accuracy Record")
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return fact(not wrong, f"{count} Records" + (f"; not in {', '.join(wrong[:3])}{more}" if wrong else ""))

    return judge


def _sums_to_one(numbers: dict[str, float]) -> bool:
    ordered = numbers["FD5"] - 1e-9 <= numbers["FD"] <= numbers["FD50"] + 1e-9
    return abs(numbers["FD50"] + numbers["AP50"] - 1) < 1e-6 and ordered


def _in_order(numbers: dict[str, float]) -> bool:
    return numbers["AP50"] >= numbers["AP"] and numbers["AR1"] <= numbers["AR10"] <= numbers["AR100"]


RULES: tuple[Rule, ...] = (
    *(
        pair_rule("two-stage-accuracy", pair, quantity, name, f"best two-stage less best one-stage: {_GAIN}",
                  part=f"{name}, {test}")
        for test, pair in _STAGES.items()
        for quantity, name in ((_AP, "AP"), (_AP50, "AP50"), (_AP75, "AP75"))
    ),
    pair_rule("small-center-beats-big-corner", Pair((_K4,), ("cornernet511_hg104",)), _AP, "AP", _GAIN, part="AP"),
    pair_rule("ohem-helps", Pair(("fast_rcnn_ohem_vgg16",), ("fast_rcnn_vgg16",)), _AP, "AP",
              f"Fast R-CNN that learns from hard regions, less one that samples: {_GAIN}",
              part="a witness of two stages: Fast R-CNN"),
    pair_rule("ohem-helps", _HARD, _AP, "AP", f"the hardest less a random choice, three a positive: {_GAIN}",
              part="hard less random"),
    pair_rule("ohem-helps", _NOT_ALL, _AP, "AP", f"the hardest three a positive less all of them: {_GAIN}",
              part="hard less all"),
    pair_rule("focal-helps", _FOCAL, _AP, "AP",
              f"focal loss less cross entropy of all anchors, with the same start: {_GAIN}"),
    pair_rule("objectness-prior", _PRIOR, _AP, "AP", "RON less RON without its prior: at most half a point is lost",
              part="nothing is lost", limit=-0.5),
    *(
        rule
        for stride, pair in _ONE_LEVEL.items()
        for rule in (
            pair_rule("pyramid-vs-single", pair, _AP, "AP",
                      f"five levels less one of stride {stride} with the anchors of all: {_GAIN}",
                      part=f"stride {stride}"),
            pair_rule("pyramid-vs-single", pair, less("stats.AP_S", "stats.AP_M"), "AP_S - AP_M",
                      "small objects gain as much as middle ones, or at most half a point less",
                      part=f"stride {stride}, small over middle", limit=-0.5),
        )
    ),
    *(
        rule
        for step, pair in _LARGER.items()
        for rule in (
            pair_rule("input-size", pair, _SMALL, "AP_S", _GAIN, part=f"{step}, small objects"),
            pair_rule("input-size", pair, _SMALL_OVER_LARGE, "AP_S - AP_L", _MORE_SMALL,
                      part=f"{step}, small over large"),
        )
    ),
    pair_rule("weak-semantics", _DSSD, _SMALL, "AP_S", _GAIN, part="DSSD, small objects"),
    pair_rule("weak-semantics", _DSSD, _SMALL_OVER_LARGE, "AP_S - AP_L", _MORE_SMALL, part="DSSD, small over large"),
    pair_rule("weak-semantics", _BLOCKS, _SMALL, "AP_S", _GAIN, part="RefineDet's transfer blocks, small objects"),
    pair_rule("weak-semantics", _BLOCKS, _SMALL_OVER_LARGE, "AP_S - AP_L", _MORE_SMALL,
              part="RefineDet's transfer blocks, small over large"),
    pair_rule("weak-semantics", _HANDED, _SMALL, "AP_S",
              f"less the blocks' layers without what they hand down: {_GAIN}",
              part="what RefineDet's blocks hand down, small objects"),
    pair_rule("dssd-gain-cost", _DSSD, _AP, "AP", _GAIN, part="more accurate"),
    pair_rule("roialign-ap75", _ALIGN, _AP75, "AP75", _GAIN, part="AP75"),
    pair_rule("roialign-ap75", _ALIGN, less("stats.AP75", "stats.AP50"), "AP75 - AP50", "AP75 gains more than AP50",
              part="AP75 over AP50"),
    pair_rule("roialign-ap75", _FRACTIONS, _AP75, "AP75",
              f"less one that rounds and takes the mean, where the other rounds and takes the largest: {_GAIN}",
              part="rounding alone"),
    *(
        pair_rule("onestage-localisation", pair, over("stats.AP75", "stats.AP50"), "AP75 as % of AP50",
                  "the share of AP50 that is left at IoU 0.75 is larger with two stages", part=test)
        for test, pair in _STAGES.items()
    ),
    pair_rule("rpn-cheaper", Pair(("faster_rcnn_vgg16",), ("fast_rcnn_vgg16",)), _AP, "AP",
              "at most half a point is lost", part="AP", limit=-0.5),
    *(
        pair_rule("rpn-cheaper", Pair(("faster_rcnn_vgg16",), ("fast_rcnn_vgg16",)),
                  points(f"proposals.recall50_{count}"), f"recall of {count}",
                  "of the proposals at IoU 0.5: at most a point is lost; the small RPN keeps 100 at most",
                  part=f"recall of {count} proposals", limit=-1.0)
        for count in (100, 300)
    ),
    pair_rule("light-head", Pair(("light_head_rcnn_r101",), ("rfcn_r101",)), _AP, "AP", "at most half a point is lost",
              part="AP", limit=-0.5),
    pair_rule("crop-small-objects", Pair(("rcnn_alexnet",), ("fast_rcnn_vgg16",)), _SMALL, "AP_S", _GAIN,
              part="small objects"),
    pair_rule("crop-small-objects", Pair(("rcnn_alexnet",), ("fast_rcnn_vgg16",)), _SMALL_OVER_LARGE, "AP_S - AP_L",
              _MORE_SMALL, part="small over large"),
    pair_rule("batch-bn", _BATCH, _AP, "AP", f"16 images a batch less 2, as many images seen: {_GAIN}",
              part="batch normalisation"),
    crossed_rule("batch-bn", _BATCH, _GROUP, _AP, "AP",
                 "16 images a batch less 2 gain more with batch than with group normalisation: over 0 in every seed "
                 "and in its interval", part="batch over group normalisation"),
    pair_rule("anchor-recall", _BEST_ALONE, points("stats.AR100"), "AR100",
              f"an object's best anchor and all over 0.5 less its best one alone: {_GAIN}", part="AR100"),
    *(
        crossed_rule("imbalance-gap", cure, gap, _AP, "AP",
                     f"what it brings less {words} of what two stages are ahead without it: over 0 in every seed and "
                     "in its interval", part=f"{name}, {words} of the gap", share=share)
        for name, (cure, gap) in _CURES.items()
        for share, words in ((0.5, "half"), (0.1, "a tenth"))
    ),
    *(
        pair_rule("densebox-area-weight", pair, _AP, "AP", f"discs of 0.3 of the shorter side against {radius}: "
                  "either is better by over 2 points, in every seed and in its interval", part=f"disc of {radius}",
                  limit=2.0, either=True)
        for radius, pair in _RADII.items()
    ),
    pair_rule("mask-multitask", Pair(("mask_rcnn_r50_fpn",), (_FPN,)), _AP, "AP of boxes", _GAIN,
              part="boxes"),
    pair_rule("detnet-resolution", Pair(("detnet59_fpn",), (_FPN,)), _AP, "AP", _GAIN, part="AP"),
    pair_rule("detnet-resolution", Pair(("detnet59_fpn",), (_FPN,)), _LARGE, "AP_L", _GAIN,
              part="large objects"),
    single_rule("corner-fd", _K0, points("fd.FD5"), "FD5", "over 10", part="many at IoU 0.05", limit=10.0),
    single_rule("corner-fd", _K0, less("fd.FD_S", "fd.FD_L"), "FD_S - FD_L", "small over large",
                part="small over large"),
    *(
        pair_rule("center-fd", Pair((_K0,), (_K2, _K4)), points(f"fd.{name}"), name,
                  "CornerNet's rate less that with the check of the centre is over 0", part=name)
        for name in ("FD", "FD5", "FD25", "FD50", "FD_S", "FD_M", "FD_L")
    ),
    pair_rule("center-fd", Pair((_K0,), (_K2, _K4)), less("fd.FD_S", "fd.FD_L"), "FD_S - FD_L",
              "FD of small objects falls more than of large ones", part="small over large"),
    pair_rule("cre-gain", _CHECK, _AP, "AP", _GAIN, part="AP"),
    pair_rule("cre-gain", _CHECK, _SMALL_OVER_LARGE, "AP_S - AP_L", _MORE_SMALL, part="small over large"),
    pair_rule("ctp-large", Pair((_K3,), (_K2,)), _LARGE, "AP_L", _GAIN, part="large objects"),
    pair_rule("ccp-interaction", Pair((_K1,), (_K0,)), _LARGE, "AP_L", "no difference of a point", part="alone",
              equal_within=1.0),
    pair_rule("ccp-interaction", Pair((_K4,), (_K3,)), _LARGE, "AP_L", _GAIN, part="with the check"),
    pair_rule("ar-improves", _CHECK, points("stats.AR100"), "AR100", _GAIN),
    pair_rule("data-curves", _LITTLE, _AP, "AP", "from 10 images hand-made features learn more", part="10 images",
              same_steps=False),
    pair_rule("data-curves", _MUCH, _AP, "AP", "from all 2,000 images a network learns more", part="2,000 images",
              same_steps=False),
    Rule("fd-arithmetic", "S", "FD50 + AP50 = 100 to 1e-6 and FD5 <= FD <= FD50 in every Record of ours",
         _everywhere(_sums_to_one, "FD50", "AP50", "FD5", "FD")),
    Rule("coco-average", "S", "AP50 >= AP and AR1 <= AR10 <= AR100 in every Record of ours",
         _everywhere(_in_order, "AP", "AP50", "AR1", "AR10", "AR100")),
    pair_rule("refine-ablation", _FILTER, _AP50, "AP50", _GAIN, part="filtering of negatives"),
    pair_rule("refine-ablation", _STEPS, _AP50, "AP50", _GAIN, part="regression in two steps"),
    pair_rule("refine-ablation", _BLOCKS, _AP50, "AP50", _GAIN, part="transfer blocks"),
    pair_rule("naf", _FILTER, _AP, "AP", "theta 0.99 less 1: over 0; fails where half a point is excluded",
              matters=0.5),
    pair_rule("two-step", _STEPS, _AP, "AP", _GAIN, part="AP"),
    pair_rule("two-step", _STEPS, _SMALL_OVER_LARGE, "AP_S - AP_L", _MORE_SMALL, part="small over large"),
    pair_rule("tcb", _BLOCKS, _AP, "AP", _GAIN, part="AP"),
    crossed_rule("tcb", _HANDED, _BLOCKS, _AP, "AP",
                 "without what they hand down, their layers kept, over half of their gain goes",
                 part="what is handed down", share=0.5),
    *(
        pair_rule("ms-testing", pairs[side], _AP, "AP",
                  f"0.6, 1 and 1.4 times the input, mirrored too and voted on, less {words}, same weights: {_GAIN}",
                  part=f"{side} pixels, several sizes{part}")
        for side in _AT
        for pairs, words, part in (
            (_SEVERAL, "the input alone", ""), (_SEVERAL_ALONE, "the input mirrored and voted on", " alone")
        )
    ),
    crossed_rule("ms-testing", _SEVERAL[128], _SEVERAL[192], _AP, "AP",
                 f"what several sizes bring at 128 less at 192 pixels: {_GAIN}", part="more from the smaller input"),
    *(
        pair_rule("soft-nms", Pair((_FPN,), (_FPN,), suppression=(kind, None)), _AP, "AP",
                  f"{kind} less the detector's own, same weights: {_GAIN}", part=f"{kind}, shapes test")
        for kind in ("soft_nms_gaussian", "soft_nms_linear")
    ),
)  # fmt: skip
