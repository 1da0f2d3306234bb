"""Level X: what follows from operators and architectures alone, as it was measured on inputs of which all is known."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.claims.arithmetic import fact
from benchmarks.claims.evidence import Evidence, Found
from benchmarks.claims.ledger import Claim, Rule, Verdict

__all__ = ["RULES"]

_GIGA = 1e9


def _exact(claim: str, words: str, test: Callable[[Found], tuple[bool, str]], *, part: str = "") -> Rule:
    """The rule that a test of a claim's own measurement is true."""

    def judge(_: Claim, found: Evidence) -> Verdict:
        own = [one for one in found.measured(claim) if one.record.dataset is None]
        if not own:
            return Verdict("cannot tell", wanted=f"`python -m benchmarks claims {claim}`")
        true, figure = test(own[0])
        return fact(true, figure, own[0].place)

    return Rule(claim, "X", words, judge, part)


def _align(one: Found) -> tuple[bool, str]:
    error, levels = one.number("align_error"), one.number("pool_levels")
    offset = one.number("pool_offset_cells")
    figure = f"on a ramp RoIAlign follows a shift with an error of {error:.0e}; RoIPool takes {levels:.0f} values in a "
    return error < 1e-4 and offset >= 0.4, f"{figure}cell and is off by up to {offset:.2f} cells"


def _overlap(one: Found) -> tuple[bool, str]:
    change, times, loss = one.number("loss_change"), one.number("squared_ratio"), one.number("loss")
    figure = f"both boxes doubled: the loss of overlap {loss:.7f} changes by {change:.0e}, the squared error is "
    return change < 1e-6 and abs(times - 4) < 1e-6, f"{figure}{times:.0f} times as large"


def _one_pass(one: Found) -> tuple[bool, str]:
    sides = [one.number(f"side_{side}") for side in (14, 16, 28)]
    error = max(one.number("error"), one.number("conversions_error"))
    figure = f"outputs {', '.join(f'{side:.0f}x{side:.0f}' for side in sides)}; largest difference {error:.0e}"
    return sides == [1, 2, 8] and error < 1e-5, figure


def _cheaper_pass(one: Found) -> tuple[bool, str]:
    ratio = one.number("macs_ratio")
    figure = f"64 crops cost {ratio:.2f} times one pass: only the first layer is shared, the dense ones are not"
    return ratio > 3, figure


def _fields(one: Found) -> tuple[bool, str]:
    wrong = one.number("plain_wrong") + one.number("strided_wrong")
    figure = "1 to 10 layers as said, 1 to 6 with strides 2^(L+1) - 1; 90 % of the gradient lies in "
    return wrong == 0, f"{figure}{100 * one.number('effective_share'):.0f} % of the field of ten layers"


def _deformable(one: Found) -> tuple[bool, str]:
    error = max(one.number("convolution_error"), one.number("pooling_error"))
    return error < 1e-5, f"without offsets both equal their plain forms to {error:.0e}"


def _follows(one: Found) -> tuple[bool, str]:
    ours, theirs = one.number("region_step"), one.number("align_region_step")
    figure = f"a region that moves by 0.3 cells changes RoIAlign's answer by {theirs:.2f}, deformable pooling's by "
    return ours > 0, f"{figure}{ours:.2f}: it rounds regions as RoIPool does; its offsets alone move without steps"


def _suppression(one: Found) -> tuple[bool, str]:
    found = one.record.metrics
    laws = found["sorted"] and found["idempotent"] and found["largest_overlap"] <= 0.5
    kept = found["kept_scores"]
    figure = f"of four boxes {' and '.join(map(str, kept))} stay; on 200 boxes sorted, none of a class over the "
    figure += f"threshold, a second run changes nothing; a pair exactly at it keeps {found['kept_at_threshold']}"
    return laws and kept == [0.9, 0.75], figure


def _upsampling(one: Found) -> tuple[bool, str]:
    found = one.record.metrics
    worst = max(value for name, value in found.items() if name != "transposed_side")
    figure = f"six examples, largest difference {worst:.4f}; transposed 3x3 at stride 2 makes 2x2 to "
    return worst <= 0.005 and found["transposed_side"] == 5, f"{figure}{found['transposed_side']}x5"


def _disc_area(one: Found) -> tuple[bool, str]:
    slope = one.number("slope")
    return abs(slope - 2) <= 0.1, f"log cells rise with log side by {slope:.2f}: with the area"


def _disc_overlap(one: Found) -> tuple[bool, str]:
    rows = one.record.metrics["rows"]
    shared = [row["cells_of_both"] for row in rows]
    figure = f"shared cells {', '.join(f'{100 * share:.0f} %' for share in shared)} at IoU "
    figure += f"{', '.join(str(row['iou']) for row in rows)}; of two concentric boxes one is left without a cell"
    return shared == sorted(shared) and rows[-1]["without_cell"] == 0.5, figure


def _focal(one: Found) -> tuple[bool, str]:
    error, factor = one.number("gamma_0_error"), one.number("easy_factor")
    golden = abs(one.number("positive_at_0") - 0.0433217) < 1e-6 and abs(one.number("negative_at_0") - 0.1299651) < 1e-6
    figure = f"gamma 0 is weighted cross entropy to {error:.0e}; at p = 0.9 the factor is {factor:.4f}"
    return golden and error < 1e-6 and abs(factor - 0.01) < 1e-6, figure


def _hard(one: Found) -> tuple[bool, str]:
    over, left = one.number("over_three"), one.number("harder_left")
    return over <= 0 and left <= 0, "never more than three a positive, and none is left that is harder"


def _regions(one: Found) -> tuple[bool, str]:
    found = one.record.metrics
    right = found["n_3"] == [30, 30, 60, 60] and found["n_5"] == [36, 36, 54, 54]
    return right, f"of (0, 0, 90, 90) for n = 3 {found['n_3']}, for n = 5 {found['n_5']}"


def _one_size(one: Found) -> tuple[bool, str]:
    found = one.record.metrics
    boxes = found["yolov2_boxes"]
    right = all(count == 5 * (int(size) // 32) ** 2 for size, count in boxes.items())
    figure = f"another input ends in {found['refused'] or 'an answer'}; YOLOv2 has "
    figure += ", ".join(f"{count:,} boxes at {size}" for size, count in boxes.items())
    return bool(found["refused"]) and right, figure


def _context(one: Found) -> tuple[bool, str]:
    seen = one.number("seen")
    return seen > 0.999, f"one corner cell's answer depends on {100 * seen:.1f} % of the pixels"


def _batch(one: Found) -> tuple[bool, str]:
    slope, error, times = (one.number(k) for k in ("slope", "shards_error", "times_over_independent_places"))
    figure = (
        f"variance of a batch's mean falls with the batch by a slope of {slope:.2f}, and is {times:.0f} times that "
    )
    figure += f"of as many independent places; statistics pooled over shards are the whole batch's to {error:.0e}"
    return abs(slope + 1) <= 0.15 and error < 1e-5, figure


def _dogs(one: Found) -> tuple[bool, str]:
    area, eleven, many = (one.number(key) for key in ("area", "points_11", "points_101"))
    figure = f"area {area:.4f}, 11 points {eleven:.4f}, 101 points {many:.4f}: the protocol decides the second digit"
    return any(abs(value - 0.86) < 0.005 for value in (area, eleven, many)), figure


def _perfect(one: Found) -> tuple[bool, str]:
    found = one.record.metrics
    below = min(value for row in found["below"].values() for value in row.values())
    above = max(found["above"].values())
    figure = f"up to 20 false boxes below the last hit: AP {below:.2f}; one above it: at most {above:.3f}"
    return below > 1 - 1e-9 and above < 1 - 1e-9, figure


def _no_false_box(one: Found) -> tuple[bool, str]:
    below = one.record.metrics["below"]["20"]["area"]
    return below < 1 - 1e-9, f"with 20 false boxes below all hits AP is {below:.2f}: enough, and not needed"


def _edge(at_least: bool) -> Callable[[Found], tuple[bool, str]]:
    def test(one: Found) -> tuple[bool, str]:
        counted = {name: value > 0.5 for name, value in one.record.metrics.items()}
        figure = ", ".join(f"{name} {'counts' if yes else 'does not count'} it" for name, yes in counted.items())
        return all(yes is at_least for yes in counted.values()), f"a box at IoU exactly 0.5: {figure}"

    return test


def _share_toy(one: Found) -> tuple[bool, str]:
    fd, share = 100 * one.number("FD5"), 100 * one.number("share")
    return abs(fd - share) <= 5, f"perfect boxes for half the objects, and no other: FD5 {fd:.1f}, share {share:.1f}"


def _tail(one: Found) -> tuple[bool, str]:
    total = one.number("total")
    extras, dense, heads = (one.number(key) / total for key in ("extras", "fc6_fc7", "heads"))
    figure = f"of {total / _GIGA:.2f} G MACs {100 * extras:.1f} %, with fc6 and fc7 {100 * (extras + dense):.1f} %; "
    return extras + dense >= 0.1, f"{figure}the heads {100 * heads:.1f} %"


def _share_of_head(net: str, regions: int) -> Rule:
    def test(one: Found) -> tuple[bool, str]:
        shared, region = one.number(net, "shared"), one.number(net, "region")
        share = regions * region / (shared + regions * region)
        figure = f"{shared / _GIGA:.1f} G shared and {regions} x {region / _GIGA:.3f} G: "
        figure += f"the regions take {100 * share:.0f} %"
        return share < 0.5, figure

    named = {"vgg16": "VGG-16", "resnet101_split": "ResNet-101, last stage a region"}[net]
    return _exact(
        "backbone-share", "the part of all regions is under half of the MACs", test, part=f"{named}, {regions}"
    )


def _rfcn(one: Found) -> tuple[bool, str]:
    once = one.number("rfcn_maps_80") + one.number("rfcn_last_stage")
    split = 300 * one.number("split_region")
    figure = f"maps {one.number('rfcn_maps_20') / _GIGA:.1f} G (VOC) or {one.number('rfcn_maps_80') / _GIGA:.1f} G "
    figure += f"(COCO) and last stage {one.number('rfcn_last_stage') / _GIGA:.1f} G once, against {split / _GIGA:.0f} G"
    return once < split, f"{figure} for 300 regions; channels 49(C + 1): {49 * 21} and {49 * 81}"


RULES: tuple[Rule, ...] = (
    _exact("densebox-overlap", "shared cells rise with IoU; concentric equal boxes leave one without", _disc_overlap),
    _exact("densebox-area-weight", "cells grow with the square of the side, over 8 cells", _disc_area, part="area"),
    _exact("easy-loss-share", "laws of the focal loss", _focal, part="laws"),
    _exact("ohem-helps", "what is chosen is hardest, three a positive", _hard, part="what is chosen"),
    _exact("ssd-tail", "over a tenth of the MACs, fc6 and fc7 counted in", _tail),
    _exact("roialign-shift", "RoIAlign follows a shift to 1e-4, RoIPool is off by 0.4 cells or more", _align),
    _exact("iou-loss-scale", "doubling changes the loss of overlap by under 1e-6, squares by 4", _overlap),
    _share_of_head("vgg16", 2000),
    _share_of_head("vgg16", 300),
    _share_of_head("resnet101_split", 300),
    _exact("rfcn-roi-cost", "maps and last stage once cost less than the last stage for 300 regions", _rfcn),
    _exact("deform-identity", "without offsets as the plain operators to 1e-5", _deformable, part="without offsets"),
    _exact("deform-identity", "it follows a region by fractions, as RoIAlign does", _follows, part="moving regions"),
    _exact("batch-bn", "slope of log variance on log batch -1 +- 0.15; shards add up to 1e-5", _batch,
           part="statistics"),
    _exact("fd-not-share", "the two differ by at most 5 points", _share_toy, part="half the objects found"),
    _exact("region-switch", "golden regions of a box of 90 pixels", _regions, part="golden"),
    _exact("nms-toy", "the lecture's boxes and three laws", _suppression),
    _exact("fc-conv", "outputs 1, 2 and 8 a side, equal to the crops' to 1e-5", _one_pass, part="the same answer"),
    _exact("fc-conv", "64 crops cost over 3 times one pass", _cheaper_pass, part="the saving"),
    _exact("receptive-field", "exact for 1 to 10 layers, and with strides", _fields),
    _exact("yolo-fixed-input", "another size is refused, and YOLOv2 takes it", _one_size, part="one size"),
    _exact("yolo-fixed-input", "a corner cell sees the whole image", _context, part="context"),
    _exact("upsample-toys", "to 0.005", _upsampling),
    _exact("ap-toy", "0.86 to two digits by some protocol", _dogs, part="by the evaluator"),
    _exact("perfect-ap", "false boxes below all hits change nothing, one above the last lowers AP", _perfect,
           part="no false box above a true one"),
    _exact("perfect-ap", "a false box below all hits lowers AP", _no_false_box, part="no false box at all"),
    _exact("iou-edge", "0.5 counts in every code path", _edge(True), part="from 0.5 on"),
    _exact("iou-edge", "0.5 counts in no code path", _edge(False), part="over 0.5"),
)  # fmt: skip
