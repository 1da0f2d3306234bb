"""Which files may be ranked: numbers of the same protocols, and detections of the same images.

Files of numbers are what `score --json` and `evaluate` write, and accuracy Records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.protocol import NUMBERS, Difference, ProtocolError, identity_of, refuse_different

__all__ = ["Numbers", "read_numbers", "refuse_different_numbers", "refuse_different_runs"]


@dataclass(frozen=True)
class Numbers:
    """Numbers that were measured before, from a file.

    Attributes:
        values: By their place in the JSON of `score`, fractions.
        settings: As `identity_of` takes them,
        fingerprint: likewise.
    """

    values: dict[str, float | None]
    settings: Mapping[str, Any]
    fingerprint: str | None


def read_numbers(path: Path) -> Numbers | None:
    """What `score --json` or `evaluate` wrote, or an accuracy Record; None for a file of anything else.

    Raises:
        ProtocolError: It is damaged.
    """
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            if not file.read(64).lstrip().startswith(b"{"):
                return None
        data = json.loads(path.read_bytes())
        scores = data["metrics"] if data.get("kind") == "accuracy" else data
        if not isinstance(scores.get("stats"), dict):
            return None
        places = (number.partition(".") for number in NUMBERS)
        values = {"".join(place): scores.get(place[0], {}).get(place[2]) for place in places}
        dataset = data.get("dataset") or {}
        return Numbers(values, data.get("protocol", {}), dataset.get("fingerprint"))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ProtocolError(f"{path}: cannot be read as numbers ({error}); score the detections anew") from error


def refuse_different_numbers(first: Numbers, second: Numbers) -> tuple[str, ...]:
    """The numbers that both have, all of which may be ranked.

    Raises:
        ProtocolError: They have none in common, or one of them is of different protocols.
    """
    both = tuple(name for name in NUMBERS if first.values[name] is not None and second.values[name] is not None)
    if not both:
        raise ProtocolError("the two files have no number in common; score both by the same protocol")
    for name in both:
        pair = [identity_of(name, one.settings, one.fingerprint) for one in (first, second)]
        if pair[0] is None or pair[1] is None:
            raise ProtocolError(f"{name}: its protocol is not stated in both files; score the detections anew")
        refuse_different(pair[0], pair[1], name)
    return both


def refuse_different_runs(first: Path, second: Path) -> None:
    """Let pass two files of detections, but for those that `evaluate` wrote of different images or classes.

    Detections are scored anew by the same rules, so nothing else can differ; `evaluate` leaves a `metrics.json` beside
    them, which says what was looked at.

    Raises:
        ProtocolError: They are known to be of different images or classes.
    """
    found = [_beside(path) for path in (first, second)]
    for entry in ("images", "label_map"):
        pair = [settings.get(entry) for settings in found]
        if None not in pair and pair[0] != pair[1]:
            said = Difference(entry, *pair)
            raise ProtocolError(f"{first} and {second} were run on different tests: {said}; run both on the same")


def _beside(detections: Path) -> Mapping[str, Any]:
    try:
        settings = json.loads((detections.parent / "metrics.json").read_bytes())["protocol"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return settings if detections.name == "detections.json" and isinstance(settings, dict) else {}
