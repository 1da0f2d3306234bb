"""By which rules a number was measured, and whether two numbers may be set beside each other.

Half of what separates two published average precisions is no property of the detectors: overlaps, points of recall,
difficult objects, caps, the images themselves. `Identity` names all that one number depends on; equal hashes are the
same rules on the same images with the same classes. What is not known is no reason to believe that it is the same, so
that numbers of which a field is unknown are not ranked either.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any

__all__ = [
    "NUMBERS",
    "UNKNOWN",
    "Difference",
    "Identity",
    "ProtocolError",
    "differing",
    "hash_of_ids",
    "hash_of_labels",
    "identities",
    "identity_of",
    "identity_of_record",
    "refuse_different",
]

UNKNOWN = "unknown"
_NO_FLOOR = 0.0

NUMBERS = (
    *(f"stats.{name}" for name in ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")),
    *(f"stats.{name}" for name in ("AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L")),
    *(f"fd.{name}" for name in ("FD", "FD5", "FD25", "FD50", "FD_S", "FD_M", "FD_L")),
    *("voc.mAP07", "voc.mAP10"),
)
"""Numbers that have a protocol, by their place in the JSON of `score`."""

_AT = {"AP50": 0.5, "AP75": 0.75, "FD5": 0.05, "FD25": 0.25, "FD50": 0.5}
_RULE = {"stats": "coco", "fd": "fd", "mAP07": "voc07", "mAP10": "voc10"}


class ProtocolError(ValueError):
    """Numbers of different protocols were to be ranked; the message names the fields and both values."""


@dataclass(frozen=True)
class Identity:
    """All that one number depends on but the detections. Any field may be `UNKNOWN`.

    Attributes:
        measure: `average precision`, `1 - average precision` or `recall`.
        iou: Thresholds that are averaged over.
        interpolation: At which recalls precision is read.
        matching: Which object a detection is held against.
        plus_one: Whether a box of pixels 0 to 9 is 10 wide, as in VOC's devkit, and not 9.
        difficult: What objects marked difficult count as.
        crowd: And crowds.
        area_source: What decides the scale: of an object, of a detection, and whom a bound belongs to.
        area_range: Least and largest area of the objects that count, in square pixels.
        max_detections: Of a class in an image; `all` where there is no cap.
        score_floor: Detections that score less are left out by the evaluation; 0 where none are.
        label_map: Hash of the classes' ids and names, or of the whole test.
        images: Hash of the images' ids, or of the whole test: pixels, boxes and classes.
    """

    measure: str
    iou: tuple[float, ...] | str
    interpolation: str
    matching: str
    plus_one: bool | str
    difficult: str
    crowd: str
    area_source: str
    area_range: tuple[float, float] | str
    max_detections: int | str
    score_floor: float | str
    label_map: str
    images: str

    @property
    def unknown(self) -> tuple[str, ...]:
        """Fields that are not known."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) == UNKNOWN)

    @property
    def canonical(self) -> str:
        """JSON with sorted keys and without spaces: equal texts are equal protocols."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def hash(self) -> str:
        """The first 12 digits of the sha256 of `canonical`; `unknown` where a field is."""
        return UNKNOWN if self.unknown else _sha256(self.canonical)[:12]


@dataclass(frozen=True)
class Difference:
    """A field in which two protocols differ, or of which one does not tell, and both values."""

    field: str
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"{self.field} is {_short(self.first)} in the first and {_short(self.second)} in the second"


def differing(first: Identity, second: Identity) -> tuple[Difference, ...]:
    """The fields that forbid to rank numbers of two protocols; none where they are known and the same."""
    pairs = ((field.name, getattr(first, field.name), getattr(second, field.name)) for field in fields(Identity))
    return tuple(Difference(name, a, b) for name, a, b in pairs if a != b or a == UNKNOWN)


def refuse_different(first: Identity, second: Identity, what: str = "these numbers") -> None:
    """Let pass what may be ranked.

    Raises:
        ProtocolError: The protocols differ, or a field is unknown.
    """
    found = differing(first, second)
    if found:
        raise ProtocolError(
            f"{what} are of different protocols and cannot be ranked: {'; '.join(map(str, found))}; score both anew "
            f"by the same rules on the same images"
        )


def identity_of(number: str, settings: Mapping[str, Any], fingerprint: str | None = None) -> Identity | None:
    """The protocol of one number of `NUMBERS`.

    Args:
        number: Such as `stats.AP50`.
        settings: `protocol` of the JSON of `score`, or of a Record. Before it named them, the evaluation had no score
            floor, and a Record's images and classes were those of its fingerprint.
        fingerprint: Of the data set, which covers images and classes; None where it is not known.

    Returns:
        None where the number was not asked for, so that nothing is said of it.
    """
    section, _, name = number.partition(".")
    rule = settings.get(_RULE.get(section) or _RULE[name])
    if not isinstance(rule, Mapping):
        return None
    whole = UNKNOWN if fingerprint is None else f"of the test {fingerprint[:16]}"
    boxes = settings.get("boxes")
    base = Identity(
        measure="average precision",
        iou=_numbers(rule.get("iou")),
        interpolation=_interpolation(rule),
        matching=str(rule.get("candidate", "free object of highest IoU")),
        plus_one=UNKNOWN if boxes is None else "continuous" not in str(boxes),
        difficult=_excused(rule, "difficult", "an object like others"),
        crowd=_excused(rule, "crowd", "an object like others"),
        area_source="none" if section == "voc" else _area_source(rule),
        area_range=_area(rule, "all") if section != "voc" else (0.0, 1e10),
        max_detections=_cap(rule),
        score_floor=float(settings.get("score_floor") or _NO_FLOOR) if boxes is not None else UNKNOWN,
        label_map=whole if fingerprint is not None else str(settings.get("label_map", UNKNOWN)),
        images=whole if fingerprint is not None else str(settings.get("images", UNKNOWN)),
    )
    return _narrowed(base, name, rule)


def _narrowed(base: Identity, name: str, rule: Mapping[str, Any]) -> Identity:
    """The protocol of a section as one of its numbers has it."""
    if name in _AT:
        base = replace(base, iou=(_AT[name],))
    if name.startswith("FD"):
        base = replace(base, measure="1 - average precision")
    if name.startswith("AR"):
        most = int(name[2:]) if name[2:].isdigit() else base.max_detections
        base = replace(base, measure="recall", interpolation="none", max_detections=most)
    scale = name.partition("_")[2]
    return replace(base, area_range=_area(rule, scale)) if scale else base


def identities(settings: Mapping[str, Any], fingerprint: str | None = None) -> dict[str, str]:
    """The hash of each number's protocol, by its place in the JSON of `score`; arguments as for `identity_of`."""
    found = {number: identity_of(number, settings, fingerprint) for number in NUMBERS}
    return {number: protocol.hash for number, protocol in found.items() if protocol is not None}


def identity_of_record(settings: Mapping[str, Any], fingerprint: str | None) -> str:
    """One hash for all numbers of an accuracy Record; `unknown` where one is or there is none."""
    return _of_record(json.dumps(settings, sort_keys=True), fingerprint)


@cache
def _of_record(settings: str, fingerprint: str | None) -> str:
    found = identities(json.loads(settings), fingerprint)
    if not found or UNKNOWN in found.values():
        return UNKNOWN
    return _sha256(json.dumps(found, sort_keys=True))[:12]


def hash_of_ids(ids: Iterable[int | str]) -> str:
    """Hash of a set of image ids, whatever their order."""
    return f"ids {_sha256(json.dumps(sorted(ids, key=lambda one: (isinstance(one, str), one))))[:16]}"


def hash_of_labels(ids: Iterable[int | str], names: Iterable[str]) -> str:
    """Hash of which class id is called what."""
    return f"classes {_sha256(json.dumps(sorted(zip(map(str, ids), names, strict=True))))[:16]}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _numbers(value: Any) -> tuple[float, ...] | str:
    if value is None:
        return UNKNOWN
    return tuple(round(float(one), 4) for one in (value if isinstance(value, list | tuple) else [value]))


def _interpolation(rule: Mapping[str, Any]) -> str:
    if "average" in rule:
        return str(rule["average"])
    return f"{rule['recall_points']} points of recall" if "recall_points" in rule else UNKNOWN


def _excused(rule: Mapping[str, Any], word: str, otherwise: str) -> str:
    if "ignored" not in rule:
        return UNKNOWN
    return "neither right nor wrong" if word in str(rule["ignored"]) else otherwise


def _area_source(rule: Mapping[str, Any]) -> str:
    parts = [rule.get(f"area_{part}") for part in ("of_object", "of_detection", "bounds")]
    return UNKNOWN if None in parts else ", ".join(map(str, parts))


def _area(rule: Mapping[str, Any], scale: str) -> tuple[float, float] | str:
    found = rule.get("areas", {}).get(scale)
    return UNKNOWN if found is None else (float(found[0]), float(found[1]))


def _cap(rule: Mapping[str, Any]) -> int | str:
    key = "max_detections_per_class_and_image"
    if key not in rule:
        return UNKNOWN
    return "all" if rule[key] is None else int(max(rule[key]))


def _short(value: Any) -> str:
    if isinstance(value, tuple) and len(value) > 3:
        return f"{value[0]:g}, {value[1]:g}, ... {value[-1]:g}"
    return ", ".join(f"{one:g}" for one in value) if isinstance(value, tuple) else str(value)
