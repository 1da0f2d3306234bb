"""How many images a detector has to learn from: accuracy against the size of the training set."""

from __future__ import annotations

import statistics
from collections import defaultdict

from reports.plots import Line, lines
from reports.records import NOT_MEASURED, Entry, Shelf
from reports.sections import Grid, Header, Notes, Plot, Section, tested_on

__all__ = ["amounts"]


def amounts(shelf: Shelf) -> list[Section]:
    """Accuracy by number of training images, of detectors that were trained with several; one section a test."""
    groups: dict[str, dict[str, dict[int, list[Entry]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for entry in shelf.of_any_number:
        training = shelf.training(entry)
        learned = None if training is None else training.record.dataset
        if entry.record.scale == "small" and learned is not None and isinstance(entry.fraction("stats.AP"), float):
            images = learned.images
            groups[entry.test][entry.record.detector][images].append(entry)
    sections = []
    for test, detectors in sorted(groups.items()):
        several = {name: found for name, found in detectors.items() if len(found) > 1}
        if several:
            sections.append(_section(shelf, test, several))
    return sections


def _section(shelf: Shelf, test: str, detectors: dict[str, dict[int, list[Entry]]]) -> Section:
    notes = Notes()
    counts = sorted({count for found in detectors.values() for count in found})
    rows, drawn = [], []
    for name, found in sorted(detectors.items(), key=lambda item: -_values(item[1][max(item[1])])[0]):
        entries = [entry for count in sorted(found) for entry in found[count]]
        mark = " ".join(dict.fromkeys(notes.mark(tested_on(entry)) for entry in entries))
        rows.append((name, *(_cell(found.get(count, [])) for count in counts), mark))
        values = {count: _values(found[count]) for count in sorted(found)}
        points = tuple((float(n), statistics.fmean(v), min(v), max(v)) for n, v in values.items())
        drawn.append(Line(name, shelf.about(name, "family"), points))
    heads = (Header("detector", text=True), *(Header(f"{count:,}") for count in counts), Header("notes", text=True))
    intro = (
        f"AP on {test} of detectors that learned from the first so many images of the training split, all else equal: "
        "the same number of steps, so that fewer images come more often. Where there are several trainings, the mean "
        "stands with the lowest and the highest."
    )
    plot = lines(drawn, title=f"AP on {test} against training images", x_title="training images", y_title="AP")
    title = f"How many images it takes, {test}"
    note = "Bars reach from the lowest to the highest training."
    grid = Grid(heads, tuple(rows), notes=tuple(notes))
    return Section(title, f"amount-{test.replace(' ', '-')}", (intro, grid, Plot(plot, note)))


def _values(entries: list[Entry]) -> list[float]:
    found = (entry.fraction("stats.AP") for entry in entries)
    return [100 * value for value in found if isinstance(value, float)]


def _cell(entries: list[Entry]) -> str:
    if not entries:
        return NOT_MEASURED
    values = _values(entries)
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.fmean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
