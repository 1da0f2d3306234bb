"""Detectors that were trained more than once: how far chance alone moves their figures."""

from __future__ import annotations

import statistics
from collections import defaultdict

from reports.records import Entry, Shelf
from reports.sections import Grid, Header, Notes, Section, tested_on

__all__ = ["repeated"]

_METRICS = (("AP", "stats.AP"), ("AP50", "stats.AP50"), ("AP75", "stats.AP75"), ("FD", "fd.FD"))


def repeated(shelf: Shelf) -> list[Section]:
    """Mean, spread and every single figure of detectors that were trained with several seeds; one table a test."""
    groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in shelf.trainings:
        if entry.record.scale == "small" and entry.record.seed is not None:
            groups[entry.test, entry.record.detector].append(entry)
    tests = sorted({test for (test, _), entries in groups.items() if len(entries) > 1})
    return [
        _section(test, {name: e for (where, name), e in groups.items() if where == test and len(e) > 1})
        for test in tests
    ]


def _section(test: str, groups: dict[str, list[Entry]]) -> Section:
    notes = Notes()
    ordered = sorted(groups.items(), key=lambda item: -statistics.fmean(_values(item[1], "stats.AP") or [0.0]))
    rows = []
    for name, entries in ordered:
        entries = sorted(entries, key=lambda entry: entry.record.seed or 0)
        cells = [_mean(_values(entries, place)) for _, place in _METRICS]
        single = " ".join(entry.metric("stats.AP") for entry in entries)
        mark = " ".join(dict.fromkeys(notes.mark(tested_on(entry)) for entry in entries))
        rows.append((name, str(len(entries)), *cells, single, mark))
    heads = (
        Header("detector", text=True),
        Header("seeds"),
        *(Header(name) for name, _ in _METRICS),
        Header("AP of each", text=True),
        Header("notes", text=True),
    )
    intro = (
        "Mean and standard deviation (n - 1) over trainings that differ in nothing but the seed: of the first weights, "
        "the order of the images and their augmentation. With three seeds a standard deviation is itself known to a "
        "factor of two at best; a difference of means below it decides nothing."
    )
    anchor = f"seeds-{test.replace(' ', '-')}"
    return Section(f"Trained with several seeds, {test}", anchor, (intro, Grid(heads, tuple(rows), notes=tuple(notes))))


def _values(entries: list[Entry], place: str) -> list[float]:
    found = (entry.fraction(place) for entry in entries)
    return [100 * value for value in found if isinstance(value, float)]


def _mean(values: list[float]) -> str:
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else "undefined"
