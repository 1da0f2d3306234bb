"""Whether a Record's numbers follow from what it rests on: from its own parts, and from the detections where kept."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.answers import answer_hashes
from benchmarks.results import Record

__all__ = ["contradictions", "kept_detections", "rescored"]

_MEANS = {
    "stats.AP": "AP",
    "stats.AP50": "AP50",
    "fd.FD": "FD",
    "voc.mAP07": "AP07",
    "voc.mAP10": "AP10",
}
"""Totals that are means over the classes, and what they are means of."""

_PARTS = ("stats", "fd", "voc", "per_class")


def contradictions(record: Record) -> list[str]:
    """Entries that do not follow from the Record's own parts, each with both values.

    Totals of accuracy are means over the classes and over the points of the precision curves; medians of time are those
    of the raw samples.
    """
    metrics = record.metrics
    pairs: list[tuple[str, Any, Any, float]] = []
    if record.kind == "accuracy":
        classes = [row for row in metrics.get("per_class", {}).values() if isinstance(row, dict)]
        for place, key in _MEANS.items():
            values = [row[key] for row in classes if isinstance(row.get(key), float)]
            if values:
                pairs.append((place, _at(metrics, place), statistics.fmean(values), 1e-9))
        for name, total in (("IoU50", "stats.AP50"), ("IoU75", "stats.AP75")):
            if curve := metrics.get("precision", {}).get(name):
                pairs.append((total, _at(metrics, total), statistics.fmean(curve), 1e-4))
    if record.kind == "latency":
        pairs += [
            (f"{stage}.median", _at(metrics, f"{stage}.median"), statistics.median(samples), 1e-9)
            for stage, samples in record.samples.items()
            if samples and stage in metrics
        ]
    return [
        f"metrics.{place}: is {there!r}, and {value!r} by the Record's own parts"
        for place, there, value, within in pairs
        if not _same(there, value, within)
    ]


def kept_detections(path: Path, record: Record) -> Path | None:
    """The detections that a Record was scored from, where they lie beside it as `evaluate --out` leaves them."""
    named = path.with_name(f"detections.{path.name}")
    if named.exists():
        return named
    beside = path.parent / "detections.json"
    alone = len(list(path.parent.glob("accuracy.*.json"))) == 1
    return beside if record.kind == "accuracy" and alone and beside.exists() else None


def rescored(record: Record, detections: Path) -> list[str]:
    """Entries of an accuracy Record that scoring its detections again does not give.

    Raises:
        ValueError: The images are not here, are others than those of the Record, or the detections cannot be scored.
    """
    from benchmarks.datasets import open_dataset
    from benchmarks.metrics import score

    assert record.dataset is not None
    dataset = open_dataset(record.dataset.name, record.dataset.split)
    if len(dataset) != record.dataset.images or dataset.fingerprint != record.dataset.fingerprint:
        raise ValueError(f"{detections}: {dataset.name} {dataset.split} here is not what the Record was tested on")
    found = score(dataset.coco(), detections)
    moved = [
        f"metrics.{place}: is {there!r}, and {value!r} by {detections.name}"
        for part in _PARTS
        for place, there, value in _leaves(part, record.metrics.get(part), found[part])
        if not _same(there, value, 1e-9)
    ]
    if record.answers:
        rows = json.loads(detections.read_text(encoding="utf-8"))
        if answer_hashes(rows, dataset.image_ids) != record.answers:
            moved.append(f"answers: are not the hashes of {detections.name}")
    return moved


def _leaves(place: str, there: Any, value: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{place}.{key}", there.get(key) if isinstance(there, Mapping) else None, inner)
    else:
        yield place, there, value


def _at(metrics: Mapping[str, Any], place: str) -> Any:
    part, _, key = place.partition(".")
    found = metrics.get(part)
    return found.get(key) if isinstance(found, Mapping) else None


def _same(a: Any, b: Any, within: float) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=0, abs_tol=within)
    return a == b
