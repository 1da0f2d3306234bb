"""Level P, chapters A, D, F, I and J: what RefineDet's tables, and CenterNet's of test-dev, say of themselves."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from decimal import Decimal

from benchmarks.claims.arithmetic import ROUNDING, fact, mean, signed, steps
from benchmarks.claims.evidence import Evidence
from benchmarks.claims.ledger import Claim, Rule, Verdict
from benchmarks.papers import Row

__all__ = ["RULES"]

_VOC, _ABLATION, _COCO, _PRETRAINED = (f"refinedet_table{number}" for number in (1, 2, 3, 4))
_DEV, _MS = "centernet_table2", "centernet_speed"


def _others(found: Evidence, stage: str) -> Iterator[Row]:
    """Rows of Table 1 that are no RefineDet."""
    table = found.table(_VOC)
    for row in table.rows:
        if table.cell(row, "stage") == stage and not table.cell(row, "method").startswith("RefineDet"):
            yield row


def _best_of_stages(_: Claim, found: Evidence) -> Verdict:
    best = {s: max(found.figure(_VOC, row, "VOC07") for row in _others(found, s)) for s in ("two", "one")}
    figure = f"best two-stage {best['two']}, best one-stage {best['one']}"
    return fact(best["two"] > best["one"], figure, _VOC)


def _mean_of_stages(_: Claim, found: Evidence) -> Verdict:
    average = {s: mean(found.figure(_VOC, row, "VOC07") for row in _others(found, s)) for s in ("two", "one")}
    figure = f"mean of two-stage rows {average['two']:.1f}, of one-stage rows {average['one']:.1f}"
    return fact(average["two"] > average["one"], figure, _VOC)


def _speed_of_stages(_: Claim, found: Evidence) -> Verdict:
    table = found.table(_VOC)
    rates = {
        stage: statistics.median(
            found.figure(_VOC, row, "FPS")
            for row in table.rows
            if table.cell(row, "stage") == stage and found.has(_VOC, row, "FPS")
        )
        for stage in ("two", "one")
    }
    figure = f"median {rates['one']} frames a second of one-stage rows, {rates['two']} of two-stage rows"
    return fact(rates["one"] > rates["two"], figure, _VOC)


def _front(found: Evidence) -> list[tuple[str, Decimal, Decimal]]:
    """Rows that no other beats at speed and accuracy together, the fastest first."""
    table = found.table(_VOC)
    timed = [
        (table.cell(row, "method"), found.figure(_VOC, row, "FPS"), found.figure(_VOC, row, "VOC07"))
        for row in table.rows
        if found.has(_VOC, row, "FPS")
    ]
    best = [
        one
        for one in timed
        if not any(o[1] >= one[1] and o[2] >= one[2] and (o[1] > one[1] or o[2] > one[2]) for o in timed)
    ]
    return sorted(best, key=lambda one: -one[1])


def _on_front(_: Claim, found: Evidence) -> Verdict:
    front = _front(found)
    both = {"RefineDet320", "RefineDet512"} <= {name for name, _, _ in front}
    return fact(both, "; ".join(f"{name} {fps} fps, {ap}" for name, fps, ap in front), _VOC)


def _alone_on_front(_: Claim, found: Evidence) -> Verdict:
    others = [name for name, _, _ in _front(found) if not name.startswith("RefineDet")]
    return fact(not others, f"also on it: {', '.join(others) or 'none'}", _VOC)


def _small_center(_: Claim, found: Evidence) -> Verdict:
    ours = {"method": "CenterNet511", "backbone": "Hourglass-52", "test_scales": "single"}
    theirs = {"method": "CornerNet511", "backbone": "Hourglass-104", "test_scales": "single"}
    ap = [found.printed(_DEV, "AP", **cells) for cells in (ours, theirs)]
    ms = [found.printed(_MS, "ms_per_image", method=name) for name in ("CenterNet511-52", "CornerNet511-104")]
    figure = f"{ms[0]} against {ms[1]} ms, AP {ap[0]} against {ap[1]} ({signed(ap[0] - ap[1])})"
    return fact(ms[0] < ms[1] and ap[0] > ap[1], figure, _DEV, _MS)


def _pair(found: Evidence, column: str, older: str, newer: str) -> tuple[Decimal, Decimal]:
    return tuple(found.printed(_COCO, column, method=name) for name in (older, newer))  # type: ignore[return-value]


def _small_repaired(older: str, newer: str) -> Rule:
    def judge(_: Claim, found: Evidence) -> Verdict:
        small, large = (_pair(found, column, older, newer) for column in ("APS", "APL"))
        gains = small[1] - small[0], large[1] - large[0]
        figure = f"AP_S {small[0]} to {small[1]} ({signed(gains[0])}), AP_L {large[0]} to {large[1]}"
        figure += f" ({signed(gains[1])})"
        return fact(gains[0] > 0 and gains[0] > gains[1], figure, _COCO)

    return Rule("weak-semantics", "P", "AP_S gains, and more than AP_L", judge, f"{older} to {newer}")


def _dssd(size: int, table: str, column: str) -> Rule:
    def judge(_: Claim, found: Evidence) -> Verdict:
        names = f"SSD{size}", f"DSSD{size}"
        accuracy = [found.printed(table, column, method=name) for name in names]
        fps = [found.printed(_VOC, "FPS", method=name) for name in names]
        gain = accuracy[1] - accuracy[0]
        figure = f"{accuracy[0]} to {accuracy[1]} ({signed(gain)}) at {fps[0]} to {fps[1]} frames a second"
        return fact(gain > 0 and fps[1] < fps[0], figure, *dict.fromkeys((table, _VOC)))

    where = "COCO" if table == _COCO else "VOC 2007"
    return Rule("dssd-gain-cost", "P", "more accurate and slower", judge, f"{size} pixels, {where}")


def _rpn(_: Claim, found: Evidence) -> Verdict:
    cells = {"backbone": "VGG-16"}
    fast, faster = (
        [found.printed(_VOC, column, method=name, **cells) for column in ("VOC07", "VOC12")]
        for name in ("Fast R-CNN", "Faster R-CNN")
    )
    gains = steps(faster, fast)
    figure = f"VOC07 {fast[0]} to {faster[0]}, VOC12 {fast[1]} to {faster[1]}"
    return fact(min(gains) >= 0, figure, _VOC)


def _refine_sums(claim: Claim, found: Evidence) -> Verdict:
    ladder = [found.figure(_ABLATION, row, "VOC07") for row in found.rows(_ABLATION)]
    drops = tuple(a - b for a, b in itertools.pairwise(ladder))
    text = tuple(claim.number(key) for key in ("filtering", "two_steps", "transfer_blocks"))
    figure = f"{' '.join(map(str, ladder))}: drops {' '.join(map(str, drops))}, sum {ladder[0] - ladder[-1]}; "
    figure += f"the text says {' '.join(map(str, text))}"
    return fact(drops == text, figure, _ABLATION, otherwise="print error")


def _refine_scan(claim: Claim, found: Evidence) -> Verdict:
    before = found.printed(_ABLATION, "VOC07", method="without filtering")
    scan, drop = claim.number("scan"), claim.number("two_steps")
    figure = f"the scan reads {scan}; {before} - {drop} = {before - drop}"
    return fact(before - drop == scan, figure, _ABLATION, otherwise="print error")


def _fps(claim: Claim, found: Evidence) -> Verdict:
    table = found.printed(_VOC, "FPS", method="RefineDet320")
    ms, introduction = claim.number("ms_320"), claim.number("introduction_fps")
    rate = 1000 / ms
    figure = f"1000 / {ms} ms = {rate:.2f}: {table} is right"
    figure += f", and {introduction} would be {1000 / introduction:.2f} ms"
    if abs(rate - table) >= ROUNDING / 2:
        return Verdict("print error", f"1000 / {ms} ms = {rate:.2f}, not {table}", rests_on=(_VOC,))
    return fact(introduction == table, figure, _VOC, otherwise="print error")


def _fps_512(claim: Claim, found: Evidence) -> Verdict:
    table, ms = found.printed(_VOC, "FPS", method="RefineDet512"), claim.number("ms_512")
    return fact(
        abs(1000 / ms - table) < ROUNDING / 2, f"1000 / {ms} ms = {1000 / ms:.2f}, printed {table}", _VOC,
        otherwise="print error",
    )  # fmt: skip


def _gap(method: str, key: str) -> Rule:
    def judge(claim: Claim, found: Evidence) -> Verdict:
        ours, theirs = (found.printed(_VOC, "VOC07", method=name) for name in ("RefineDet320", method))
        said = claim.number(key)
        figure = f"{ours} - {theirs} = {ours - theirs}, the text says {said}"
        return fact(ours - theirs == said, figure, _VOC, otherwise="print error")

    return Rule("ssd300-gap", "P", "the difference in the table is the text's", judge, f"gap to {method}")


def _faster_than_refinedet(_: Claim, found: Evidence) -> Verdict:
    table, ours = found.table(_VOC), found.printed(_VOC, "FPS", method="RefineDet320")
    faster = [
        table.cell(row, "method")
        for row in table.rows
        if found.has(_VOC, row, "FPS") and found.figure(_VOC, row, "FPS") > ours
    ]
    return fact(sorted(faster) == ["SSD300*", "YOLO"], f"faster than {ours}: {', '.join(faster)}", _VOC)


def _over_80(claim: Claim, found: Evidence) -> Verdict:
    ours, limit = found.printed(_VOC, "VOC07", method="RefineDet320"), claim.number("passed")
    return fact(ours > limit, f"printed is {ours}, which is not above {limit}", _VOC)


def _multi_scale(table: str, column: str, backbone: str) -> Rule:
    def judge(_: Claim, found: Evidence) -> Verdict:
        gains = []
        for size in (320, 512):
            one, many = (
                found.printed(table, column, method=f"RefineDet{size}{mark}", backbone=backbone) for mark in ("", "+")
            )
            gains.append(many - one)
        figure = f"{signed(gains[0])} from 320 pixels, {signed(gains[1])} from 512"
        return fact(min(gains) > 0 and gains[0] > gains[1], figure, table)

    where = f"{'VOC 2007' if table == _VOC else 'COCO'}, {backbone}"
    return Rule("ms-testing", "P", "both gains positive, that of the smaller input larger", judge, where)


def _pretrained(_: Claim, found: Evidence) -> Verdict:
    gains = {}
    for name in ("RefineDet320", "RefineDet512", "RefineDet320+", "RefineDet512+"):
        both = [[found.printed(t, c, method=name) for c in ("VOC07", "VOC12")] for t in (_PRETRAINED, _VOC)]
        gains[name] = steps(*both)
    figure = "; ".join(f"{name} {signed(a)} and {signed(b)}" for name, (a, b) in gains.items())
    smaller = all(
        many < one for size in (320, 512) for many, one in zip(
            gains[f"RefineDet{size}+"], gains[f"RefineDet{size}"], strict=True
        )
    )  # fmt: skip
    figure += "; smaller with several test sizes" if smaller else ""
    return fact(all(gain > 0 for pair in gains.values() for gain in pair), figure, _PRETRAINED, _VOC)


_BACKBONES = (
    ("RefineDet320", "RefineDet320"),
    ("RefineDet512", "RefineDet512"),
    ("RefineDet320+", "RefineDet320+"),
    ("RefineDet512+", "RefineDet512+"),
    ("SSD300*", "SSD321"),
    ("SSD512*", "SSD513"),
)


def _backbone_coco(_: Claim, found: Evidence) -> Verdict:
    gains = [
        found.printed(_COCO, "AP", method=deep, backbone="ResNet-101")
        - found.printed(_COCO, "AP", method=plain, backbone="VGG-16")
        for plain, deep in _BACKBONES
    ]
    return fact(min(gains) > 0, f"AP of {len(gains)} pairs: {' '.join(map(signed, gains))}", _COCO)


def _backbone_voc(_: Claim, found: Evidence) -> Verdict:
    gains = [
        found.printed(_VOC, "VOC07", method=deep) - found.printed(_VOC, "VOC07", method=plain)
        for plain, deep in _BACKBONES[-2:]
    ]
    figure = f"SSD on VOC 2007: {' and '.join(map(signed, gains))}"
    return fact(min(gains) <= 0, figure, _VOC)


def _mixed(_: Claim, found: Evidence) -> Verdict:
    cells = {"method": "RefineDet512", "backbone": "ResNet-101"}
    many, one = (found.printed(_DEV, "AP", test_scales=scales, **cells) for scales in ("multi", "single"))
    table = found.table(_COCO)
    others = {
        table.cell(row, "method"): found.figure(_COCO, row, "AP")
        for row in table.rows
        if not table.cell(row, "method").startswith("RefineDet")
    }
    ahead = [f"{name} {ap}" for name, ap in others.items() if ap > one]
    figure = f"{many} has several test sizes; with one it is {one}, behind {', '.join(ahead)}"
    return fact(not ahead, figure, _DEV, _COCO)


def _input_size(backbone: str) -> Rule:
    def judge(_: Claim, found: Evidence) -> Verdict:
        gains = {
            column: found.printed(_COCO, column, method="RefineDet512", backbone=backbone)
            - found.printed(_COCO, column, method="RefineDet320", backbone=backbone)
            for column in ("AP", "APS", "APM", "APL")
        }
        figure = ", ".join(f"{column} {signed(gain)}" for column, gain in gains.items())
        return fact(gains["AP"] > 0 and gains["APS"] > gains["APM"] > gains["APL"], figure, _COCO)

    return Rule("input-size", "P", "from 320 to 512 pixels AP gains, S most and L least", judge, backbone)


RULES: tuple[Rule, ...] = (
    Rule("two-stage-accuracy", "P", "the best two-stage row of RefineDet's Table 1 is ahead, RefineDet left out",
         _best_of_stages, "the best"),
    Rule("two-stage-accuracy", "P", "the mean of the two-stage rows is ahead", _mean_of_stages, "the typical"),
    Rule("one-stage-speed", "P", "the median rate of one-stage rows is higher", _speed_of_stages),
    Rule("refinedet-front", "P", "both are rows that none beats at speed and accuracy together", _on_front,
         "on the front"),
    Rule("refinedet-front", "P", "no other row is", _alone_on_front, "alone on it"),
    Rule("small-center-beats-big-corner", "P", "fewer milliseconds and more AP", _small_center),
    _small_repaired("SSD321", "DSSD321"),
    _small_repaired("SSD513", "DSSD513"),
    _dssd(321, _VOC, "VOC07"),
    _dssd(513, _VOC, "VOC07"),
    _dssd(321, _COCO, "AP"),
    _dssd(513, _COCO, "AP"),
    Rule("rpn-cheaper", "P", "no accuracy is lost from Fast to Faster R-CNN with VGG-16", _rpn),
    Rule("refine-ablation", "P", "the drops in the table are those of the text", _refine_sums, "the sums"),
    Rule("refine-ablation", "P", "the scan's figure and the text's drop agree", _refine_scan, "the scan"),
    Rule("fps-40", "P", "frames a second are 1000 over milliseconds, and the introduction says the same", _fps,
         "320 pixels"),
    Rule("fps-40", "P", "frames a second are 1000 over milliseconds", _fps_512, "512 pixels"),
    _gap("YOLO", "yolo_gap"),
    _gap("SSD300*", "ssd_gap"),
    Rule("ssd300-gap", "P", "the rows with a higher rate are these two", _faster_than_refinedet, "only two faster"),
    Rule("ssd300-gap", "P", "the printed accuracy is above 80", _over_80, "above 80 %"),
    _multi_scale(_VOC, "VOC07", "VGG-16"),
    _multi_scale(_COCO, "AP", "VGG-16"),
    _multi_scale(_COCO, "AP", "ResNet-101"),
    Rule("coco-pretrain", "P", "every difference of Tables 4 and 1 is positive", _pretrained),
    Rule("r101-vs-vgg", "P", "AP is higher in all pairs", _backbone_coco, "always on COCO"),
    Rule("r101-vs-vgg", "P", "in some pair it is not higher", _backbone_voc, "not always on VOC"),
    Rule("mixed-protocol-best", "P", "with one test size, as the others, it is still the best", _mixed),
    _input_size("VGG-16"),
    _input_size("ResNet-101"),
)  # fmt: skip
