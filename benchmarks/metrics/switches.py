"""A protocol as a list of switches, so that any two can be set against each other, switch by switch.

`average_precision_of` scores the same detections under any setting of them by the one matching engine. The named
settings give what `score` gives: `coco` its AP, `coco50` its AP50, `voc07` and `voc10` its two mAPs. The switches take
effect in the order in which `Protocol` lists them: first what is done to the detections, then which images count, then
how boxes are matched and the curve is averaged.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.coco import RECALLS, mean_or_none
from benchmarks.metrics.data import GroundTruth, Results, ScoreError
from benchmarks.metrics.filters import chosen, first_of_equals, on_images, ranks, suppressed
from benchmarks.metrics.matching import AREAS, RIGHT, THRESHOLDS, WRONG, Matches, match
from benchmarks.metrics.voc import average_precision

__all__ = [
    "FACTORS",
    "NAMED",
    "Protocol",
    "average_precision_of",
    "differing",
    "filtered",
    "parse_protocol",
    "per_class_precision",
]

Candidate = Literal["free", "nearest"]
Difficult = Literal["count", "ignore"]
Duplicates = Literal["keep", "drop"]
Points = Literal["11", "101", "all"]
Scale = Literal["all", "S", "M", "L"]
Source = Literal["annotation", "box"]
Side = Literal["continuous", "inclusive"]


@dataclass(frozen=True)
class Protocol:
    """Everything that an AP depends on besides the detections themselves; the defaults are COCO's.

    Attributes:
        duplicates: Whether of equal boxes of a class in an image all are kept, or the one of highest score.
        nms: Greedy suppression by class at this IoU before anything is scored; a box at exactly this IoU stays.
        floor: Detections of a lower score are left out.
        per_image: So many detections of an image are scored, over all classes, the best ones.
        max_detections: So many detections of a class in an image.
        box_decimals: Digits behind the point of the detections' x, y, width and height.
        score_decimals: Digits behind the point of their scores.
        images: `all`, `annotated` (those with an object), `detected` (those with a detection), a number (the first so
            many by id), or a text file that names an image id a line.
        side: `inclusive` adds 1 to the width and height of all boxes, as VOC's kit does for corners that are pixels.
        area: Which area of an object COCO's scales go by: the annotation's, or that of its box.
        scale: The scale that is scored.
        difficult: Whether objects that are marked difficult are to be found, or are ignored.
        candidate: Which object a detection is judged by: the `free` one of highest IoU (COCO), or the `nearest`, which
            may be taken already (VOC).
        iou: One threshold, or first and last in steps of .05, of .05 to .95.
        points: Precision is averaged over 11 or 101 points of recall, or over `all` (the area under the curve).
    """

    duplicates: Duplicates = "keep"
    nms: float | None = None
    floor: float | None = None
    per_image: int | None = None
    max_detections: int | None = 100
    box_decimals: int | None = None
    score_decimals: int | None = None
    images: str = "all"
    side: Side = "continuous"
    area: Source = "annotation"
    scale: Scale = "all"
    difficult: Difficult = "count"
    candidate: Candidate = "free"
    iou: tuple[float, float] = (0.5, 0.95)
    points: Points = "101"

    def shown(self, factor: str) -> str:
        """The setting of one switch, as `parse_protocol` reads it."""
        value = getattr(self, factor)
        if factor == "iou":
            return f"{value[0]:g}" if value[0] == value[1] else f"{value[0]:g}:{value[1]:g}"
        return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


_ONE_PIXEL = np.array([0.0, 0.0, 1.0, 1.0])
FACTORS = tuple(field.name for field in fields(Protocol))
_TYPES: dict[str, Any] = get_type_hints(Protocol)

_VOC07 = Protocol(max_detections=None, difficult="ignore", candidate="nearest", iou=(0.5, 0.5), points="11")
NAMED: dict[str, Protocol] = {
    "coco": Protocol(),
    "coco50": Protocol(iou=(0.5, 0.5)),
    "coco75": Protocol(iou=(0.75, 0.75)),
    **{f"coco_{scale}": Protocol(scale=scale) for scale in get_args(Scale) if scale != "all"},
    "voc07": _VOC07,
    "voc10": replace(_VOC07, points="all"),
}


def parse_protocol(text: str) -> Protocol:
    """Read `voc07`, `coco,floor=0.05,iou=0.5` or `nms=0.5`: a name of `NAMED`, by default coco, then switches.

    Raises:
        ScoreError: A name, a switch or its value is unknown.
    """
    name, *pairs = [part.strip() for part in text.split(",") if part.strip()] or ["coco"]
    if "=" in name:
        name, pairs = "coco", [name, *pairs]
    if name not in NAMED:
        raise ScoreError(f"protocol {name!r} is unknown; choose one of {', '.join(NAMED)}, or write switch=value")
    settings: dict[str, Any] = {}
    for pair in pairs:
        factor, separator, value = pair.partition("=")
        if not separator or factor not in FACTORS:
            raise ScoreError(f"protocol {text!r}: {pair!r} sets nothing; write switch=value, of {', '.join(FACTORS)}")
        settings[factor] = _value(factor, value)
    return replace(NAMED[name], **settings)


def _value(factor: str, text: str) -> Any:
    """One switch's value, checked."""
    kind = _TYPES[factor]
    if choices := get_args(kind) if getattr(kind, "__origin__", None) is Literal else ():
        if text not in choices:
            raise ScoreError(f"{factor}={text}: choose one of {', '.join(choices)}")
        return text
    if factor == "images":
        return text
    try:
        if factor == "iou":
            ends = [float(part) for part in text.split(":")]
            first, last = (*ends, *ends)[:2] if len(ends) == 1 else ends
            _bits((first, last))
            return first, last
        if text == "none":
            return None
        number = int(text) if factor not in ("nms", "floor") else float(text)
    except ValueError as error:
        remedy = "one of .05, .10 to .95, or two with a colon" if factor == "iou" else "a number, or none"
        raise ScoreError(f"{factor}={text}: write {remedy}") from error
    if number < 0 or (factor in ("per_image", "max_detections") and number == 0) or (factor == "nms" and number > 1):
        raise ScoreError(f"{factor}={text}: is out of range")
    return number


def differing(first: Protocol, second: Protocol) -> tuple[str, ...]:
    """The switches that stand otherwise, in the order in which they take effect."""
    return tuple(factor for factor in FACTORS if getattr(first, factor) != getattr(second, factor))


def average_precision_of(truth: GroundTruth, results: Results, protocol: Protocol) -> float | None:
    """AP as a fraction, averaged over thresholds and the classes that have objects; None where none has."""
    return mean_or_none(per_class_precision(truth, results, protocol))


def per_class_precision(truth: GroundTruth, results: Results, protocol: Protocol) -> NDArray[np.float64]:
    """AP by class and IoU threshold `[K, T]`; NaN where a class has no object."""
    truth, results = filtered(truth, results, protocol)
    cap = max(len(results.scores), 1)  # `filtered` has cut already
    scale = list(AREAS).index(protocol.scale)
    columns = []
    if protocol.candidate == "free":
        matches = match(truth, results, cap=cap, ignore_difficult=protocol.difficult == "ignore")
        to_find = ~matches.truth_ignored[:, scale]
        matched, ignored = matches.matched[:, scale], matches.ignored[:, scale]
        for t in _bits(protocol.iou):
            bit = np.uint32(1 << t)
            counts = ignored & bit == 0
            columns.append(
                _average(matches, (matched & bit != 0) & counts, counts & (matched & bit == 0), to_find, protocol)
            )
        return np.stack(columns, axis=1)
    low, high = AREAS[protocol.scale]
    outside = (truth.area < low) | (truth.area > high)
    truth = replace(truth, difficult=outside | (truth.difficult & (protocol.difficult == "ignore")))
    area = results.boxes[:, 2] * results.boxes[:, 3]
    for t in _bits(protocol.iou):
        matches = match(truth, results, cap=0, voc_threshold=float(THRESHOLDS[t]))
        # As under COCO's rule, what is wrong and lies outside the scale does not count.
        within = ((area >= low) & (area <= high))[matches.entry]
        wrong = (matches.voc == WRONG) & within
        columns.append(_average(matches, matches.voc == RIGHT, wrong, ~matches.truth_excused, protocol))
    return np.stack(columns, axis=1)


def filtered(truth: GroundTruth, results: Results, protocol: Protocol) -> tuple[GroundTruth, Results]:
    """What the switches leave of ground truth and detections, down to `area`."""
    if protocol.duplicates == "drop":
        results = chosen(results, first_of_equals(results))
    if protocol.nms is not None:
        results = chosen(results, suppressed(results, protocol.nms))
    if protocol.floor is not None:
        results = chosen(results, results.scores >= protocol.floor)
    if protocol.per_image is not None:
        results = chosen(results, ranks(results.scores, results.image) < protocol.per_image)
    if protocol.max_detections is not None:
        results = chosen(results, ranks(results.scores, results.image, results.category) < protocol.max_detections)
    if protocol.box_decimals is not None:
        results = replace(results, boxes=results.boxes.round(protocol.box_decimals))
    if protocol.score_decimals is not None:
        results = replace(results, scores=results.scores.round(protocol.score_decimals))
    if protocol.images != "all":
        truth, results = on_images(truth, results, protocol.images)
    if protocol.side == "inclusive":
        truth = replace(truth, boxes=truth.boxes + _ONE_PIXEL)
        results = replace(results, boxes=results.boxes + _ONE_PIXEL)
    if protocol.area == "box":
        truth = replace(truth, area=truth.boxes[:, 2] * truth.boxes[:, 3])
    return truth, results


def _average(
    matches: Matches,
    right: NDArray[np.bool_],
    wrong: NDArray[np.bool_],
    to_find: NDArray[np.bool_],
    protocol: Protocol,
) -> NDArray[np.float64]:
    objects = np.bincount(matches.truth_category[to_find], minlength=matches.classes)
    recalls = RECALLS if protocol.points == "101" else np.arange(11) / 10
    order = matches.order
    points, area = average_precision(matches.starts, right[order], wrong[order], objects, recalls)
    return area if protocol.points == "all" else points


def _bits(iou: tuple[float, float]) -> range:
    """Places in `THRESHOLDS`.

    Raises:
        ValueError: The ends are no multiples of .05 from .05 to .95.
    """
    places = [round(20 * end) - 1 for end in iou]
    if any(not 0 <= p < len(THRESHOLDS) or abs(20 * end - p - 1) > 1e-6 for p, end in zip(places, iou, strict=True)):
        raise ValueError(f"IoU {iou} is not measured")
    if places[0] > places[1]:
        raise ValueError(f"IoU {iou} goes backwards")
    return range(places[0], places[1] + 1)
