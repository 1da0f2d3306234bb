"""Detectors that were trained more than once: how far chance alone moves their figures."""

from __future__ import annotations

import statistics

from reports.records import Entry, Shelf
from reports.sections import Grid, Header, Notes, Section, tested_on

__all__ = ["repeated"]

_ACCURACIES = ("stats.AP", "stats.AP50", "stats.AP75", "stats.AP_S", "stats.AP_M", "stats.AP_L")
_DISCOVERIES = ("fd.FD", "fd.FD5", "fd.FD25", "fd.FD50", "fd.FD_S", "fd.FD_M", "fd.FD_L")


def repeated(shelf: Shelf) -> list[Section]:
    """Mean, spread and every single figure of detectors that were trained with several seeds; one table a test."""
    groups = shelf.retrained
    return [
        _section(test, {name: entries for (where, name), entries in groups.items() if where == test})
        for test in sorted({test for test, _ in groups})
    ]


def _section(test: str, groups: dict[str, list[Entry]]) -> Section:
    notes = Notes()
    ordered = dict(sorted(groups.items(), key=lambda item: -statistics.fmean(_values(item[1], "stats.AP") or [0.0])))
    accuracies, discoveries = (_grid(ordered, places, notes) for places in (_ACCURACIES, _DISCOVERIES))
    intro = (
        "Mean and standard deviation (n - 1) over trainings that differ in nothing but the seed: of the first weights, "
        "the order of the images and their augmentation. With three seeds a standard deviation is itself known to a "
        "factor of two at best; a difference of means below it decides nothing."
    )
    between = (
        "Rates of false discoveries of the same trainings: 1 - AP over IoU 0.05 to 0.50, at single overlaps, and by "
        "size of object. Lower is better."
    )
    anchor = f"seeds-{test.replace(' ', '-')}"
    return Section(f"Trained with several seeds, {test}", anchor, (intro, accuracies, between, discoveries))


def _grid(groups: dict[str, list[Entry]], places: tuple[str, ...], notes: Notes) -> Grid:
    rows = []
    for name, entries in groups.items():
        cells = [_mean(_values(entries, place)) for place in places]
        single = " ".join(entry.metric(places[0]) for entry in entries)
        mark = " ".join(dict.fromkeys(notes.mark(tested_on(entry)) for entry in entries))
        rows.append((name, str(len(entries)), *cells, single, mark))
    titles = [place.partition(".")[2] for place in places]
    heads = (
        Header("detector", text=True),
        Header("seeds"),
        *(Header(title) for title in titles),
        Header(f"{titles[0]} of each", text=True),
        Header("notes", text=True),
    )
    return Grid(heads, tuple(rows), notes=tuple(notes))


def _values(entries: list[Entry], place: str) -> list[float]:
    found = (entry.fraction(place) for entry in entries)
    return [100 * value for value in found if isinstance(value, float)]


def _mean(values: list[float]) -> str:
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else "undefined"
