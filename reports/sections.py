"""What stands on the pages, in order, before it is known whether a page is Markdown or HTML.

Texts and cells are written in a little Markdown (`code`, *emphasis*, **strong**, bare links); `literal` guards what
comes from files.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

from benchmarks.results import Hardware
from reports.plots import Point, scatter
from reports.protocols import Group, by_protocol
from reports.records import NOT_MEASURED, Entry, Shelf

__all__ = [
    "Grid",
    "Header",
    "Notes",
    "Plot",
    "Section",
    "checkpoints",
    "conformity",
    "costed",
    "difference",
    "front",
    "leaderboards",
    "literal",
    "stands_beside",
    "tested_on",
]

_METRICS = (
    ("AP", "stats.AP"),
    ("AP50", "stats.AP50"),
    ("AP75", "stats.AP75"),
    ("AP_S", "stats.AP_S"),
    ("AP_M", "stats.AP_M"),
    ("AP_L", "stats.AP_L"),
    ("FD", "fd.FD"),
    ("VOC07", "voc.mAP07"),
)

_FRONT = (
    "Up and to the left is better; no detector beats one on the dashed line at both. A mark without room for its name "
    "tells it under the pointer."
)

_DATASETS = {
    "shapes": "drawn images of this project, 160x160, 8 classes; made on the spot, no download",
    "discs": "drawn likewise, 1 class, discs; other forms stand among them and are no objects",
    "bars": "drawn likewise, 1 class, bars that lean as lines of text do, in upright boxes; other forms are no objects",
    "bccd": "real photographs of blood cells, 3 classes",
}


@dataclass(frozen=True)
class Header:
    """Head of a column. `side` is the key of a label in the Grid: `paper` or `here`, or empty for neither."""

    title: str
    side: str = ""
    text: bool = False


@dataclass(frozen=True)
class Grid:
    """A table of a page.

    Attributes:
        headers: One a column.
        rows: Cells, ready to print.
        sides: What `paper` and `here` mean in this table.
        notes: Mark and text of each note under it.
    """

    headers: tuple[Header, ...]
    rows: tuple[tuple[str, ...], ...]
    sides: dict[str, str] = field(default_factory=dict)
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Plot:
    """A picture of the HTML page; Markdown leaves it out."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it; a string is a paragraph, a tuple of strings a list."""

    title: str
    anchor: str
    blocks: tuple[str | tuple[str, ...] | Grid | Plot, ...]
    level: int = 2


class Notes:
    """Marks `a`, `b`, ... for the notes of one table; equal notes share one."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def mark(self, text: str) -> str:
        """The mark of a note."""
        if text not in self._marks:
            number = len(self._marks)
            self._marks[text] = (chr(ord("a") + number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)
        return self._marks[text]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((mark, text) for text, mark in self._marks.items())


def literal(text: str) -> str:
    """Text that is to be printed as it is."""
    return re.sub(r"([\\`*<])", r"\\\1", text)


def front(shelf: Shelf) -> Section:
    """How to read the pages."""
    records = len(shelf.entries)
    own = sum(entry.own for entry in shelf.entries)
    paragraphs = [
        "Every figure here is one of two kinds, and the two never share a column. **Printed** figures are those of a "
        "paper's table, digit by digit; their columns are headed *paper*. **Measured** figures come from a Record that "
        "this project's commands wrote; their columns are headed *here*, or *small* where other images or another size "
        "were measured than the paper's, or stand in a table without any printed figure. A dash and a letter are a "
        "figure that could not be measured, and the note of that letter says why. Under each table a note says which "
        "images a figure was measured on, on which machine, and with which protocol; the weights are named by the "
        "first digits of their sha256. The appendix lists every Record.",
        "Accuracies are in percent, times in milliseconds for one image from pixels to detections (median, batch 1). "
        f"{_how_sure(shelf)}*{NOT_MEASURED}* means that no Record fits; *undefined* that a metric has no value on "
        "these images. "
        "Detectors called *small* are the papers' architectures at a size that trains in minutes on two processor "
        "cores, on small data: they can be compared with each other, never with a printed figure. Unless said "
        f"otherwise, each is one training run with one seed. {_by_chance(shelf)}",
    ]
    if own:
        paragraphs.append(
            f"**This page includes {own} Record{'s' if own != 1 else ''} of the reader's own machine**, marked *own "
            f"machine*; the other {records - own} are the project's."
        )
    return Section("Detectors, measured and compared with their papers", "top", tuple(paragraphs), level=1)


def _how_sure(shelf: Shelf) -> str:
    """What stands in brackets behind an accuracy, where any Record has it."""
    kinds = set()
    for entry in shelf.accuracies:
        found = entry.record.metrics.get("intervals")
        if isinstance(found, dict):
            kinds.add((found.get("level", 0), found.get("method", ""), found.get("draws", 0)))
    return "".join(
        f"In brackets behind an accuracy stands the interval that is to hold it on as many images of the same kind "
        f"{100 * level:.0f} times in 100, from {draws:,} resamples of the images (method *{method}*); that another "
        "training would give other weights is no part of it. "
        for level, method, draws in sorted(kinds)
    )


def _by_chance(shelf: Shelf) -> str:
    """How far apart two trainings lie that differ in nothing but the seed."""
    found = [[entry.fraction("stats.AP") for entry in entries] for entries in shelf.retrained.values()]
    groups = [[100 * value for value in values if isinstance(value, float)] for values in found]
    groups = [values for values in groups if len(values) > 1]
    if not groups:
        return "How far another seed would move it is not known."
    freedom = sum(len(values) - 1 for values in groups)
    deviation = math.sqrt(sum((len(values) - 1) * statistics.variance(values) for values in groups) / freedom)
    apart = NormalDist().inv_cdf(0.975) * math.sqrt(2) * deviation
    return (
        f"Trainings that differ in nothing but the seed have a standard deviation of {deviation:.1f} points of AP "
        f"(pooled over {len(groups)} detectors, {freedom + len(groups)} trainings), so that two detectors of which one "
        f"training each was tested must lie more than {apart:.1f} points apart before chance is an unlikely reason."
    )


def stands_beside(entry: Entry) -> bool:
    """Whether it is a detector of the reader's, of whatever size, on images that small detectors are tested on."""
    return entry.own and entry.record.scale == "other" and entry.test.partition(" ")[0] in _DATASETS


def leaderboards(shelf: Shelf) -> list[Section]:
    """The small detectors, one table a test; `shapes` test always, the others where there are Records."""
    found = (*shelf.accuracies, *shelf.multi_scale)
    small = [entry for entry in found if entry.record.scale == "small" or stands_beside(entry)]
    tests = sorted(
        {entry.test for entry in small} - {"shapes test"}, key=lambda test: (not test.startswith("bccd"), test)
    )
    return [
        _leaderboard(shelf, test, group)
        for test in ("shapes test", *tests)
        for group in by_protocol([entry for entry in small if entry.test == test])
    ]


def _leaderboard(shelf: Shelf, test: str, group: Group) -> Section:
    entries: Sequence[Entry] = group.entries
    title, anchor = f"Small detectors on {test}", f"small-{test.replace(' ', '-')}"
    if group.identity:
        title, anchor = f"{title}, protocol {group.identity}", f"{anchor}-{group.identity}"
    if not entries:
        return Section(title, anchor, (f"{NOT_MEASURED.capitalize()}: there is no Record of a small detector.",))
    entries = sorted(entries, key=lambda entry: (-_number(entry, "stats.AP"), entry.record.detector, entry.own))
    times = {entry: shelf.latencies(entry) for entry in entries}
    machines = sorted({machine for found in times.values() for machine in found}, key=lambda m: ("own" in m, m))
    notes = Notes()
    rows = []
    for entry in entries:
        cost = shelf.cost(entry)
        clocks = [times[entry].get(machine) for machine in machines]
        about = [tested_on(entry), *(timed_on(clock) for clock in clocks if clock), *([costed(cost)] if cost else [])]
        rows.append(
            (
                _name(entry),
                shelf.about(entry.record.detector, "year"),
                shelf.about(entry.record.detector, "family"),
                entry.sure(_METRICS[0][1]),
                *(entry.metric(place) for _, place in _METRICS[1:]),
                *(_milliseconds(clock) for clock in clocks),
                cost.count("parameters") if cost else NOT_MEASURED,
                cost.millions("macs") if cost else NOT_MEASURED,
                _images_seen(shelf.training(entry)),
                _weights(entry),
                " ".join(notes.mark(text) for text in about),
            )
        )
    heads = (
        Header("detector", text=True),
        Header("year"),
        Header("family", text=True),
        *(Header(name) for name, _ in _METRICS),
        *(Header(f"ms ({machine})" if machine else "ms") for machine in machines or [""]),
        Header("parameters"),
        Header("MACs (M)"),
        Header("images seen"),
        Header("weights", text=True),
        Header("notes", text=True),
    )
    if not machines:
        rows = [(*row[:-5], NOT_MEASURED, *row[-5:]) for row in rows]
    intro = [f"`{test}`: {_DATASETS[name]}." for name in [test.partition(" ")[0]] if name in _DATASETS]
    intro.append(
        "Sorted by AP. FD is 1 - AP over low overlaps (lower is better), VOC07 the 11-point mean AP at IoU 0.5. "
        "*Images seen* is steps times batch of the training: compare rows of which it is the same."
    )
    if group.text:
        intro.append(group.text)
    if len({entry.record.dataset.fingerprint for entry in entries if entry.record.dataset}) > 1:
        intro.append(
            "**The rows were not all tested on the same images**: compare only those whose first note is the same."
        )
    grid = Grid(heads, tuple(rows), notes=tuple(notes))
    plain = [entry for entry in entries if not entry.record.multi_scale]
    return Section(title, anchor, (" ".join(intro), grid, *_plots(shelf, test, plain, times, machines)))


def _plots(
    shelf: Shelf, test: str, entries: list[Entry], times: dict[Entry, dict[str, Entry]], machines: Sequence[str]
) -> list[Plot]:
    plots = []
    for machine in machines:
        points = [
            _point(shelf, entry, float(milliseconds))
            for entry in entries
            if (clock := times[entry].get(machine)) and (milliseconds := clock.milliseconds("end_to_end"))
            if isinstance(entry.fraction("stats.AP"), float)
        ]
        if len(points) > 1:
            title = f"AP against time, small detectors on {test}, {machine}"
            svg = scatter(
                points,
                title=title,
                x_title="milliseconds an image, end to end (logarithmic)",
                y_title="AP",
                log=True,
                front="no detector is both faster and more accurate",
            )
            plots.append(Plot(svg, _FRONT))
    if test == "shapes test":
        dated = [
            _point(shelf, entry, float(year))
            for entry in entries
            if (year := shelf.about(entry.record.detector, "year")).isdigit()
            if isinstance(entry.fraction("stats.AP"), float)
        ]
        if len({point.x for point in dated}) > 1:
            title = f"AP by year of the paper, small detectors on {test}"
            svg = scatter(dated, title=title, x_title="year of first publication", y_title="AP")
            caption = "All trained here on the same images; backbones that can be changed are the same small one."
            plots.append(Plot(svg, caption))
    return plots


def _point(shelf: Shelf, entry: Entry, x: float) -> Point:
    family = shelf.about(entry.record.detector, "family")
    return Point(entry.record.detector, x, 100 * _number(entry, "stats.AP"), family, hollow=entry.own)


def checkpoints(shelf: Shelf, printed: dict[str, list[tuple[str, str, str, float]]]) -> Section:
    """Checkpoints of other than the small size, on real images, beside what is printed of them.

    Args:
        shelf: All Records.
        printed: By detector: name of a metric, its place in the JSON of `score`, what was tested on, the figure.
    """
    title, anchor = "Checkpoints of full size on real images", "checkpoints"
    found = (*shelf.accuracies, *shelf.multi_scale)
    entries = [entry for entry in found if entry.record.scale != "small" and not stands_beside(entry)]
    if not entries:
        return Section(title, anchor, (f"{NOT_MEASURED.capitalize()}: there is no Record.",))
    notes = Notes()
    rows = []
    sentences = []
    for entry in sorted(entries, key=lambda entry: (entry.test, entry.record.detector, entry.own)):
        dataset = entry.record.dataset
        assert dataset is not None
        figures = [] if entry.record.multi_scale else printed.get(entry.record.detector, [])
        marks = [notes.mark(tested_on(entry)), *([notes.mark(literal(entry.record.note))] if entry.record.note else [])]
        rows.append(
            (
                _name(entry),
                entry.test,
                f"{dataset.images:,}",
                *(entry.metric(place) for _, place in _METRICS),
                "; ".join(f"{name} {figure:.1f} on {where}" for name, _, where, figure in figures) or "none",
                _weights(entry),
                " ".join(marks),
            )
        )
        sentences += [_beside(entry, *figure) for figure in figures]
    heads = (
        Header("detector", text=True),
        Header("test", "here", text=True),
        Header("images", "here"),
        *(Header(name, "here") for name, _ in _METRICS),
        Header("published", "paper", text=True),
        Header("weights", text=True),
        Header("notes", text=True),
    )
    sides = {"here": "measured here", "paper": "printed"}
    grid = Grid(heads, tuple(rows), sides, tuple(notes))
    intro = "Networks of the papers' size with weights as their authors published them, run by this project's code."
    return Section(title, anchor, (intro, grid, *([tuple(sentences)] if sentences else [])))


def _beside(entry: Entry, name: str, place: str, where: str, figure: float) -> str:
    dataset = entry.record.dataset
    assert dataset is not None
    here = f"{name} {entry.metric(place)} here on {entry.test} ({dataset.images:,} images)"
    text = f"`{entry.record.detector}`: {here}, {figure:.1f} printed for {where}"
    if isinstance(value := entry.fraction(place), float):
        text += f": {difference(round(100 * value, 1) - figure)}"
    return (
        f"{text}. The images differ, so this shows that the weights are read and run rightly, and reproduces nothing."
    )


def difference(by: float) -> str:
    """A difference of percentages in words, to one decimal."""
    rounded = round(by, 1)
    if rounded == 0:
        return "the same"
    return f"{abs(rounded):.1f} points {'higher' if rounded > 0 else 'lower'}"


def tested_on(entry: Entry) -> str:
    """The note of an accuracy."""
    dataset = entry.record.dataset
    assert dataset is not None
    images = f"{dataset.images:,} images with {dataset.objects:,} objects, fingerprint {dataset.fingerprint[:8]}"
    scales = f"; + is multi-scale testing, by {literal(entry.record.multi_scale)}" if entry.record.multi_scale else ""
    return f"accuracy on {entry.test} ({images}), run on {_machine(entry)}{scales}"


def timed_on(entry: Entry) -> str:
    """The note of a time."""
    hardware = entry.record.hardware
    if hardware is None:
        raise entry.wrong("hardware", None, "the machine that was timed")
    count = len(entry.record.samples.get("end_to_end", ()))
    return f"time on {_machine(entry)}, {count:,} samples, images of {entry.test}; {conformity(hardware)}"


def conformity(hardware: Hardware) -> str:
    """Which profile a machine conforms to, or why none."""
    if hardware.profile is not None:
        return f"conforms to the profile {hardware.profile}"
    return f"conforms to no profile ({'; '.join(map(literal, hardware.deviations)) or 'no reason recorded'})"


def costed(entry: Entry) -> str:
    """The note of a cost."""
    size = entry.size()
    place = "" if size == NOT_MEASURED else f" at {size}"
    return f"parameters and multiply-accumulates counted for {entry.record.num_classes} classes{place}"


def _machine(entry: Entry) -> str:
    hardware = entry.record.hardware
    if hardware is None:
        return entry.machine
    threads = f"{hardware.threads} thread{'s' if hardware.threads != 1 else ''}"
    return f"{entry.machine} ({entry.device}, {threads}, {hardware.precision})"


def _milliseconds(clock: Entry | None) -> str:
    value = None if clock is None else clock.milliseconds("end_to_end")
    return NOT_MEASURED if value is None else f"{value:.1f}"


def _images_seen(training: Entry | None) -> str:
    if training is None:
        return NOT_MEASURED
    steps, recipe = training.record.metrics.get("steps"), training.record.recipe or {}
    return f"{steps * recipe['batch']:,}" if isinstance(steps, int) and "batch" in recipe else "not by steps"


def _name(entry: Entry) -> str:
    several = entry.record.multi_scale
    name = f"{entry.record.detector}+ {several}" if several else entry.record.detector
    return f"{name} (own machine)" if entry.own else name


def _weights(entry: Entry) -> str:
    return "none" if entry.record.weights is None else f"`{entry.record.weights.sha256[:8]}`"


def _number(entry: Entry, place: str) -> float:
    value = entry.fraction(place)
    return value if isinstance(value, float) else -1.0
