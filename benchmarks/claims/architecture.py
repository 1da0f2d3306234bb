"""Level X: boxes, parameters and multiply-accumulates of the papers' architectures, as cost Records count them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from benchmarks.claims.arithmetic import fact
from benchmarks.claims.evidence import Evidence, Found
from benchmarks.claims.ledger import Claim, Rule, Verdict

__all__ = ["RULES"]

_VOC = "refinedet_table1"
_GIGA = 1e9
_CHECKS = ("cornernet511_hg52", "centernet511_hg52_cre", "centernet511_hg52")
_KEYPOINTS = ("cornernet511_hg104", "centernet511_hg104")


def _costs(found: Evidence, names: tuple[str, ...]) -> dict[str, Found] | Verdict:
    """By name the cost of each architecture at the paper's size; or why nothing can be told."""
    costs = {name: found.cost(name) for name in names}
    lacking = [name for name, cost in costs.items() if cost is None]
    if lacking:
        return Verdict("cannot tell", wanted=f"costs of {', '.join(lacking)}: `python -m benchmarks record-costs`")
    return {name: cost for name, cost in costs.items() if cost is not None}


def _counted(
    claim: str, words: str, names: tuple[str, ...], test: Callable[..., tuple[bool, str]], part: str = ""
) -> Rule:
    """The rule that a test of what architectures cost at the papers' size is true."""

    def judge(_: Claim, found: Evidence) -> Verdict:
        costs = _costs(found, names)
        if isinstance(costs, Verdict):
            return costs
        true, figure = test(*costs.values())
        return fact(true, figure, *(cost.place for cost in costs.values()))

    return Rule(claim, "X", words, judge, part)


def _once(slow: Found, fast: Found) -> tuple[bool, str]:
    ratio = slow.number("macs") / fast.number("macs")
    figure = f"{slow.number('macs') / 1e12:.1f} T against {fast.number('macs') / _GIGA:.1f} G MACs: {ratio:.0f} times"
    return ratio > 10, figure


def _boxes(ours: str, others: tuple[str, ...]) -> Callable[[Claim, Evidence], Verdict]:
    def judge(_: Claim, found: Evidence) -> Verdict:
        costs = _costs(found, (ours, *others))
        if isinstance(costs, Verdict):
            return costs
        counted = {name: int(cost.number("boxes")) for name, cost in costs.items()}
        places = tuple(cost.place for cost in costs.values())
        figure = ", ".join(f"{name} {count:,}" for name, count in counted.items())
        less = all(counted[ours] < counted[name] for name in others)
        return fact(less, figure, *places, _VOC)

    return judge


def _printed_boxes(_: Claim, found: Evidence) -> Verdict:
    """Every printed count of a one-stage row of which the architecture stands in the zoo, at the printed input."""
    table, wrong, count, places = found.table(_VOC), [], 0, []
    for row in table.rows:
        cost = _at_input(found, row.detector, table.cell(row, "input")) if row.detector else None
        if cost is None or table.cell(row, "stage") != "one" or not found.has(_VOC, row, "boxes"):
            continue
        count += 1
        places.append(cost.place)
        ours, printed = int(cost.number("boxes")), found.figure(_VOC, row, "boxes")
        if Decimal(ours) != printed:
            wrong.append(f"{table.cell(row, 'method')} has {ours:,}, printed {printed:,}")
    if not count:
        return Verdict("cannot tell", wanted="cost Records of the table's detectors")
    return fact(
        not wrong, f"{count} rows; {'; '.join(wrong) or 'all as printed'}", _VOC, *places, otherwise="print error"
    )


def _at_input(found: Evidence, detector: str, size: str) -> Found | None:
    for one in found.of("cost"):
        height, width = one.record.metrics.get("input") or (0, 0)
        if (one.record.detector, f"{width}x{height}") == (detector, size) and one.record.scale != "small":
            return one
    return None


def _parameters(before: Found, after: Found) -> tuple[bool, str]:
    a, b = before.number("parameters"), after.number("parameters")
    return b < 1.25 * a, f"{a / 1e6:.1f} to {b / 1e6:.1f} million parameters: {100 * (b / a - 1):+.1f} %"


def _macs(before: Found, after: Found) -> tuple[bool, str]:
    a, b = before.number("macs"), after.number("macs")
    return b < 1.25 * a, f"{a / _GIGA:.0f} to {b / _GIGA:.0f} G MACs: {100 * (b / a - 1):+.1f} %"


def _no_proposal_layer(fast: Found, faster: Found) -> tuple[bool, str]:
    count, more = int(fast.number("parameters")), int(faster.number("parameters"))
    figure = f"{count:,} parameters and no layer that proposes; the list describes Faster R-CNN, {more:,} with its RPN"
    return count == 134_690_729 and fast.record.metrics["boxes"] is None, figure


def _rpn_count(one: Found) -> tuple[bool, str]:
    height, width = one.record.metrics["input"]
    boxes, cells = int(one.number("boxes")), -(-height // 16) * -(-width // 16)
    return boxes == 9 * cells, f"{boxes:,} anchors on {width}x{height}: {boxes / cells:g} on each of {cells:,} cells"


def _cells(one: Found) -> tuple[bool, str]:
    boxes = int(one.number("boxes"))
    return boxes == 98, f"{boxes} boxes, two on each of 7 x 7 cells, which speak for one class: 49 objects at most"


def _light(setting: str) -> Rule:
    def judge(_: Claim, found: Evidence) -> Verdict:
        own = [one for one in found.measured("rfcn-roi-cost") if one.record.dataset is None]
        if not own:
            return Verdict("cannot tell", wanted="`python -m benchmarks claims rfcn-roi-cost`")
        ours, theirs = own[0].number(f"light_head_{setting}"), own[0].number("rfcn_maps_80")
        figure = f"its thin maps {ours / _GIGA:.1f} G MACs, R-FCN's {theirs / _GIGA:.1f} G; 490 channels against "
        return fact(ours < theirs, f"{figure}{49 * 81} + {49 * 8}", own[0].place)

    return Rule("family-speed-order", "X", "fewer MACs for the maps, COCO, 600x1000", judge,
                f"R-FCN to Light-Head, {setting}")  # fmt: skip


def _inside(boxes: int) -> Rule:
    """The rule that two dense layers on so many boxes take over twice the MACs that CenterNet's check adds."""

    def judge(_: Claim, found: Evidence) -> Verdict:
        own, costs = found.measured("roi-vs-center"), _costs(found, _CHECKS)
        if isinstance(costs, Verdict):
            return costs
        if not own:
            return Verdict("cannot tell", wanted="`python -m benchmarks claims roi-vs-center`")
        without, branch, whole = (costs[name].number("macs") for name in _CHECKS)
        inside = boxes * own[0].number("region")
        figure = f"{boxes:,} boxes {inside / _GIGA:.1f} G MACs; CenterNet adds {(whole - without) / _GIGA:.1f} G to "
        figure += f"CornerNet's {without / _GIGA:.0f} G, {(branch - without) / _GIGA:.1f} G with the check alone"
        return fact(inside > 2 * (whole - without), figure, own[0].place, *(cost.place for cost in costs.values()))

    words = "two dense layers on crops of 7x7 cells, cropping not counted: over twice the MACs that CenterNet-52 adds "
    words += "to CornerNet-52, 511x511, COCO"
    return Rule("roi-vs-center", "X", words, judge, f"{boxes:,} boxes")


RULES: tuple[Rule, ...] = (
    _inside(1_000),
    _inside(100),
    _counted("yolo-crowd", "98 boxes of 49 cells", ("yolov1",), _cells, "capacity"),
    _counted("fast-shared-compute", "over ten times fewer MACs, VGG-16, 2000 proposals", ("rcnn_vgg16",
             "fast_rcnn_vgg16"), _once),
    _light("large"),
    _light("small"),
    _counted("fast-proposal-source", "VGG-16's parameters without an RPN's", ("fast_rcnn_vgg16", "faster_rcnn_vgg16"),
             _no_proposal_layer),
    _counted("center-cost", "under a quarter more parameters, 104", _KEYPOINTS, _parameters, "parameters"),
    _counted("center-cost", "under a quarter more MACs, 104", _KEYPOINTS, _macs, "MACs"),
    Rule("box-counts", "X", "fewer than each at like input: 320 against 300, 321 and 384 pixels",
         _boxes("refinedet320_vgg16", ("ssd300_vgg16", "dssd321_r101", "ron384_vgg16", "dsod300")), "320 pixels"),
    Rule("box-counts", "X", "fewer than each at like input: 512 against 512 and 513 pixels",
         _boxes("refinedet512_vgg16", ("ssd512_vgg16", "dssd513_r101")), "512 pixels"),
    Rule("box-counts", "X", "fewer than each at any input",
         _boxes("refinedet512_vgg16", ("ssd300_vgg16", "yolov2")), "512 pixels against all"),
    Rule("box-counts", "X", "the built networks have as many boxes as the table prints", _printed_boxes, "the column"),
    _counted("rpn-shapes", "nine anchors a cell at stride 16", ("faster_rcnn_vgg16",), _rpn_count, "anchors built"),
)  # fmt: skip
