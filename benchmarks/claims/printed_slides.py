"""Level P, chapters F, M and N: what the slides and the lecture say, against themselves and the papers' tables."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from benchmarks.claims.arithmetic import fact, mean
from benchmarks.claims.evidence import Evidence
from benchmarks.claims.ledger import Claim, LedgerError, Rule, Verdict
from benchmarks.window_count import all_windows

__all__ = ["RULES"]

_SLIDES, _VOC, _PRETRAINED = "slides_table", "refinedet_table1", "refinedet_table4"
_COCO_TABLES = ("centernet_table2", "centernet_table4", "centernet_table5", "refinedet_table3")
_ALIKE = Decimal("0.1")
"""Two figures of one quantity may differ by a tenth of themselves."""


def _pairs(found: Evidence, method: str, column: str) -> tuple[str, ...]:
    """Figures of a cell of the slides; their unit left out."""
    cell = found.table(_SLIDES).cell(found.row(_SLIDES, method=method), column)
    return tuple(cell.partition(" ")[0].split("/"))


def _seconds(found: Evidence, method: str) -> Decimal:
    row = found.row(_SLIDES, method=method)
    seconds = found.table(_SLIDES).seconds(row, "time")
    if seconds is None:
        raise LedgerError(f"{_SLIDES}: {method}: the time is no figure; compare it with the slides")
    return Decimal(str(round(seconds, 6)))


def _shared_compute(claim: Claim, found: Evidence) -> Verdict:
    slow, rate = claim.number("rcnn_seconds"), found.printed(_VOC, "FPS", method="Fast R-CNN")
    quick = claim.number("slide_seconds")
    figure = f"{slow} / {quick} s = {slow / quick:.0f} times (slides), {slow} / {1 / rate} s = {slow * rate:.1f} times"
    return fact(min(slow / quick, slow * rate) > 10, f"{figure} (RefineDet's {rate} frames a second)", _VOC, _SLIDES)


def _windows(claim: Claim, _: Evidence) -> Verdict:
    size = int(claim.number("height")), int(claim.number("width"))
    counted, printed = all_windows(size), int(claim.number("windows"))
    figure = f"{size[0]} x {size[0] + 1} / 2 times {size[1]} x {size[1] + 1} / 2 = {counted:,}, printed {printed:,}"
    figure += f": {counted / printed:,.0f} times as many"
    near = abs(counted - printed) <= printed // 50
    return fact(near, figure, otherwise="print error")


def _rpn_anchors(claim: Claim, _: Evidence) -> Verdict:
    sizes, shapes = claim.number("sizes"), claim.number("shapes")
    width, height = claim.number("width"), claim.number("height")
    stride = width / claim.number("map_width")
    cells = claim.number("map_width") * claim.number("map_height")
    vgg = claim.number("vgg_stride")
    more = (width // vgg) * (height // vgg)
    figure = f"{width}x{height} at stride {stride}: {cells} cells; VGG-16's stride is {vgg}: {more} cells, "
    figure += f"{more * sizes * shapes:,} anchors with {sizes * shapes} a cell"
    return fact(stride == height / claim.number("map_height") == vgg, figure)


def _rpn_balance(claim: Claim, _: Evidence) -> Verdict:
    classes, boxes = 1 / claim.number("class_normaliser"), claim.number("box_weight") / claim.number("box_normaliser")
    ratio = boxes / classes
    return fact(abs(ratio - 1) <= _ALIKE, f"{classes:.4f} and {boxes:.4f}: {ratio:.2f} to 1")


def _ap_by_hand(claim: Claim) -> Fraction:
    """Area under the envelope of precision, in fractions."""
    hits = [int(value) for value in claim.numbers("hits")]
    objects = int(claim.number("objects"))
    precisions = [Fraction(sum(hits[: rank + 1]), rank + 1) for rank in range(len(hits))]
    return sum((max(precisions[rank:]) for rank, hit in enumerate(hits) if hit), Fraction(0)) / objects


def _dogs(claim: Claim, _: Evidence) -> Verdict:
    area, printed = _ap_by_hand(claim), claim.number("AP")
    digits = Decimal(area.numerator) / Decimal(area.denominator)
    figure = f"{area} = {digits:.4f}, which rounds to {digits:.2f}; printed {printed}"
    return fact(round(digits, 2) == printed, figure, otherwise="print error")


def _mean_of_classes(claim: Claim, _: Evidence) -> Verdict:
    values, printed = claim.numbers("mean_of"), claim.number("mean")
    average = mean(values)
    return fact(round(average, 2) == printed, f"mean of {', '.join(map(str, values))} = {average:.4f}; {printed}")


def _columns_in_order(_: Claim, found: Evidence) -> Verdict:
    wrong, rows = [], 0
    for name in _COCO_TABLES:
        table = found.table(name)
        for row in table.rows:
            cells = {c.key: found.figure(name, row, c.key) for c in table.metrics if found.has(name, row, c.key)}
            rows += 1
            chains = (("AP75", "AP", "AP50"), ("APS", "APM", "APL"), ("AR1", "AR10", "AR100"))
            for chain in chains:
                values = [cells[key] for key in chain if key in cells]
                if chain[0] == "AP75":
                    # AP50 lies above AP and AP75; between these two nothing is fixed.
                    ordered = all(cells["AP50"] > cells[key] for key in ("AP", "AP75") if key in cells)
                else:
                    ordered = values == sorted(values)
                if not ordered:
                    wrong.append(
                        f"{table.work} {table.name}, {table.cell(row, 'method')}: {' '.join(map(str, values))}"
                    )
    return fact(not wrong, f"{rows} rows of {len(_COCO_TABLES)} tables" + "".join(f"; {w}" for w in wrong),
                *_COCO_TABLES, otherwise="print error")  # fmt: skip


def _aeroplane(key: str, column: str) -> Rule:
    def judge(claim: Claim, found: Evidence) -> Verdict:
        slide = Decimal(_pairs(found, "Fast R-CNN", column)[0])
        table, classes = found.printed(_VOC, column, method="Fast R-CNN"), claim.numbers(key)
        average = mean(classes)
        figure = f"the slides print {slide}, the first of twenty classes (aeroplane {classes[0]}); "
        figure += f"their mean is {average:.2f}, and RefineDet prints {table}"
        if abs(average - table) > Decimal("0.05"):
            return Verdict("cannot tell", figure, rests_on=(_SLIDES, _VOC), wanted="the twenty figures of the paper")
        return fact(slide == table, figure, _SLIDES, _VOC, otherwise="print error")

    return Rule("fast-rcnn-77", "P", "the slide's figure is the mean over the classes", judge, column)


def _same_time(_: Claim, found: Evidence) -> Verdict:
    slides, rate = _seconds(found, "Fast R-CNN"), found.printed(_VOC, "FPS", method="Fast R-CNN")
    times = (1 / rate) / slides
    figure = f"{slides} s on the slides, {rate} frames a second = {1 / rate} s in RefineDet: {times:.0f} times"
    return fact(abs(times - 1) <= _ALIKE, figure, _SLIDES, _VOC, otherwise="print error")


def _faster_slides(claim: Claim, found: Evidence) -> Verdict:
    seconds, rate = _seconds(found, "Faster R-CNN"), claim.number("faster_slide_fps")
    figure = f"{seconds} s and {rate} frames a second: {rate * seconds:.2f} to 1"
    return fact(abs(rate * seconds - 1) <= _ALIKE, figure, _SLIDES, otherwise="print error")


def _other_rates(method: str, note: str, **cells: str) -> Rule:
    def judge(_: Claim, found: Evidence) -> Verdict:
        rate, printed = 1 / _seconds(found, method), found.printed(_VOC, "FPS", method=method, **cells)
        figure = f"{rate:.1f} frames a second on the slides, {printed} in RefineDet: {note}"
        return fact(abs(rate / printed - 1) <= _ALIKE, figure, _SLIDES, _VOC)

    return Rule("slide-speeds", "P", "slides and RefineDet within a tenth", judge, f"{method} in both")


def _yolo_swapped(claim: Claim, found: Evidence) -> Verdict:
    first = {column: claim.printed[f"first_slide_{column.lower()}"].split("/") for column in ("VOC07", "VOC12")}
    paper = {column: str(found.printed(_VOC, column, method="YOLO")) for column in ("VOC07", "VOC12")}
    right = all(paper[column] in first[column] for column in paper)
    swapped = paper["VOC07"] in first["VOC12"] and paper["VOC12"] in first["VOC07"]
    figure = f"RefineDet prints {paper['VOC07']} for VOC 2007 and {paper['VOC12']} for VOC 2012; the first slide has "
    figure += "them swapped" if swapped else "them" if right else "neither"
    return fact(right, figure, _VOC, otherwise="print error")


def _yolo_pairs(_: Claim, found: Evidence) -> Verdict:
    accuracies, rates = _pairs(found, "YOLO", "VOC07"), _pairs(found, "YOLO", "time")
    where = accuracies.index(str(found.printed(_VOC, "VOC07", method="YOLO")))
    speed = str(found.printed(_VOC, "FPS", method="YOLO"))
    figure = f"{accuracies[where]} belongs to {speed} frames a second; printed are {'/'.join(accuracies)} and "
    return fact(rates[where] == speed, f"{figure}{'/'.join(rates)}", _SLIDES, _VOC, otherwise="print error")


def _ron(_: Claim, found: Evidence) -> Verdict:
    slide = [Decimal(_pairs(found, "RON", column)[0]) for column in ("VOC07", "VOC12")]
    rate = Decimal(_pairs(found, "RON", "time")[0])
    timed = [found.printed(_VOC, column, method="RON384") for column in ("VOC07", "VOC12")]
    many = [found.printed(_PRETRAINED, column, method="RON384++") for column in ("VOC07", "VOC12")]
    same_speed = rate == found.printed(_VOC, "FPS", method="RON384")
    figure = f"{rate} frames a second belong to {timed[0]} and {timed[1]}; {slide[0]} and {slide[1]} are RON384++'s, "
    figure += f"with several test sizes after COCO: {slide[0] - timed[0]} and {slide[1] - timed[1]} points apart"
    if slide == timed and same_speed:
        return Verdict("holds", figure, rests_on=(_SLIDES, _VOC))
    return Verdict("print error" if slide == many else "fails", figure, rests_on=(_SLIDES, _VOC, _PRETRAINED))


def _rcnn(claim: Claim, found: Evidence) -> Verdict:
    slide = Decimal(_pairs(found, "R-CNN", "VOC07")[0])
    vgg, alexnet = mean(claim.numbers("vgg16")), mean(claim.numbers("alexnet"))
    figure = (
        f"{slide} is VGG-16's (mean of twenty classes {vgg:.2f}); the paper on the slide has AlexNet's {alexnet:.2f}"
    )
    return fact(abs(slide - vgg) < Decimal("0.5"), figure, _SLIDES, otherwise="print error")


def _rcnn_cited(claim: Claim, found: Evidence) -> Verdict:
    slide, alexnet = Decimal(_pairs(found, "R-CNN", "VOC07")[0]), mean(claim.numbers("alexnet"))
    figure = f"{slide} on the slide, {alexnet:.2f} in the paper that it names: the row must name its backbone"
    return fact(abs(slide - alexnet) < Decimal("0.5"), figure, _SLIDES, otherwise="print error")


RULES: tuple[Rule, ...] = (
    Rule("fast-shared-compute", "P", "over ten times faster by either printed time", _shared_compute),
    Rule("sliding-count", "P", "H(H+1)/2 x W(W+1)/2 within 2 % of the printed figure", _windows),
    Rule("rpn-shapes", "P", "the map's cells follow from the image and the stride of VGG-16", _rpn_anchors, "the map"),
    Rule("rpn-shapes", "P", "both losses weigh alike within a tenth", _rpn_balance, "balance of the losses"),
    Rule("ap-toy", "P", "area under the envelope of precision, to two digits", _dogs, "AP of dogs"),
    Rule("ap-toy", "P", "the mean of the three classes, to two digits", _mean_of_classes, "mean AP"),
    Rule("coco-average", "P", "AP50 above AP and AP75, AP_S < AP_M < AP_L, AR1 < AR10 < AR100 in each row",
         _columns_in_order),
    _aeroplane("voc07", "VOC07"),
    _aeroplane("voc12", "VOC12"),
    Rule("slide-speeds", "P", "the slides' second and RefineDet's rate are one time", _same_time, "Fast R-CNN"),
    Rule("slide-speeds", "P", "200 ms and 5 frames a second are one time", _faster_slides, "Faster R-CNN"),
    _other_rates("Faster R-CNN", "other hardware may be right", backbone="VGG-16"),
    _other_rates("R-FCN", "two trainings (79.5 against 80.5) and perhaps other hardware"),
    Rule("yolo-columns", "P", "the first slide's columns are RefineDet's", _yolo_swapped, "the first slide"),
    Rule("yolo-columns", "P", "accuracies and rates stand in one order", _yolo_pairs, "order of the pairs"),
    Rule("ron-row", "P", "accuracy and speed belong to one set-up", _ron),
    Rule("rcnn-66", "P", "66 is VGG-16's mean over the classes", _rcnn, "which backbone"),
    Rule("rcnn-66", "P", "66 is the figure of the paper that is named", _rcnn_cited, "the paper on the slide"),
)  # fmt: skip
