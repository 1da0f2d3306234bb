"""Networks that were run in another mode than the plain one, and what a profile says besides a latency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.records import NOT_MEASURED, Shelf
from reports.sections import Grid, Header, literal

__all__ = ["modes", "profiles"]


def modes(shelf: Shelf) -> Grid:
    """Accuracy and time in other modes, a row a Record; those of the plain mode stand elsewhere."""
    rows = []
    for entry in shelf.in_modes():
        record = entry.record
        if record.kind not in ("accuracy", "latency"):
            continue
        times = [entry.milliseconds(stage) for stage in ("network", "end_to_end")]
        cells = ["none" if time is None else f"{time:.2f}" for time in times]
        ap = entry.metric("stats.AP") if record.kind == "accuracy" else "none"
        rows.append((record.detector, record.scale, literal(record.mode or ""), entry.test, entry.clock, ap, *cells))
    texts = ("detector", "size", "mode", "images of", "machine")
    return Grid(
        (*(Header(text, text=True) for text in texts), *map(Header, ("AP", "network ms", "end to end ms"))),
        tuple(rows),
    )


_FIGURES = (
    ("ms a 1,000 candidates", ("candidates", "seconds_per_1000_candidates", "median"), 1e3),
    ("J an image", ("energy", "joules"), 1.0),
    ("network / floor", ("roofline", "ratio"), 1.0),
    ("s to first detections", ("fresh", "seconds", "to_first_detections"), 1.0),
    ("MiB of growth", ("fresh", "mib", "peak_growth"), 1.0),
)
"""Head, place below `metrics`, and factor."""


def profiles(shelf: Shelf) -> Grid:
    """A row a Record, with the best throughput and the batch that gives it."""
    rows = []
    for entry in (*shelf.of("profile"), *(other for other in shelf.in_modes() if other.record.kind == "profile")):
        record = entry.record
        found = [_at(record.metrics, place) for _, place, _ in _FIGURES]
        cells = [
            NOT_MEASURED if value is None else f"{value * factor:.2f}"
            for value, (_, _, factor) in zip(found, _FIGURES, strict=True)
        ]
        batches = record.metrics.get("throughput")
        done = [row for row in batches if "images_per_second" in row] if isinstance(batches, list) else []
        best = max(done, key=lambda row: float(row["images_per_second"]), default=None)
        speed = NOT_MEASURED if best is None else f"{best['images_per_second']:.1f} (batch {best['batch']})"
        rows.append(
            (record.detector, record.scale, literal(record.mode or "plain"), entry.test, entry.clock, speed, *cells)
        )
    texts = ("detector", "size", "mode", "images of", "machine")
    heads = ("images / s", *(head for head, _, _ in _FIGURES))
    return Grid((*(Header(text, text=True) for text in texts), *map(Header, heads)), tuple(rows))


def _at(metrics: Mapping[str, Any], place: tuple[str, ...]) -> float | None:
    """A number somewhere below; None where it was not measured."""
    value: Any = metrics
    for key in place:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None
