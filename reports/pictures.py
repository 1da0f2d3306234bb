"""What the HTML page shows besides tables: curves, bars, the family tree, and what detectors see."""

from __future__ import annotations

import base64
import statistics
import tomllib
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from reports.curves import Curve, Ranked, curves, ranked
from reports.records import Entry, ReportError, Shelf
from reports.sections import Plot, Section, stands_beside
from reports.svg import FAMILIES
from reports.tree import ZOO, draw, imports, read_catalog

__all__ = ["SHEET", "pictures"]

SHEET = Path(__file__).parent / "detections.png"
"""What `python -m benchmarks gallery` drew; `detections.toml` beside it says of what."""

_TEST = "shapes test"
_SCALES = (("small objects", "stats.AP_S"), ("medium", "stats.AP_M"), ("large", "stats.AP_L"))
_SMOOTH = 5


def pictures(shelf: Shelf, sheet: Path = SHEET, zoo: Path = ZOO) -> list[Section]:
    """A section each, those left out of which no Record holds the data.

    Raises:
        ReportError: A Record holds no curve where it should, or the sheet's description cannot be used.
    """
    found = (entry for entry in shelf.accuracies if entry.test == _TEST)
    small = [entry for entry in found if entry.record.scale == "small" or stands_beside(entry)]
    small.sort(key=lambda entry: -_percent(entry, "stats.AP"))
    drawn = [_scales(small), _false(small), _precision(shelf, small), _courses(shelf, small)]
    sections = [*drawn, _seen(sheet), _tree(zoo)]
    return [section for section in sections if section is not None]


def _percent(entry: Entry, place: str) -> float:
    value = entry.fraction(place)
    return 100 * value if isinstance(value, float) else -1.0


def _known(entry: Entry, place: str) -> float | None:
    value = _percent(entry, place)
    return None if value < 0 else value


def _label(entry: Entry) -> str:
    return f"{entry.record.detector} (own)" if entry.own else entry.record.detector


def _scales(small: Sequence[Entry]) -> Section | None:
    if not small:
        return None
    rows = [Ranked(_label(entry), tuple(_known(entry, place) for _, place in _SCALES)) for entry in small]
    title = f"AP by size of object, small detectors on {_TEST}"
    svg = ranked(rows, [name for name, _ in _SCALES], title=title, x_title="AP")
    caption = "In the order of AP. Small objects have less than 32x32 pixels, large ones more than 96x96."
    return Section("Small, medium and large objects", "scales", (Plot(svg, caption),))


def _false(small: Sequence[Entry]) -> Section | None:
    found = sorted((entry for entry in small if _known(entry, "fd.FD") is not None), key=lambda e: _percent(e, "fd.FD"))
    if not found:
        return None
    rows = [Ranked(_label(entry), (_known(entry, "fd.FD"),)) for entry in found]
    title = f"False discovery rate, small detectors on {_TEST}"
    svg = ranked(rows, ["FD"], title=title, x_title="FD, percent: lower is better")
    caption = "1 - AP over IoU 0.05 to 0.5, as CenterNet's paper measures how many boxes are about nothing."
    return Section("Boxes about nothing", "false-discovery", (Plot(svg, caption),))


def _precision(shelf: Shelf, small: Sequence[Entry]) -> Section | None:
    held = [(entry, entry.record.metrics.get("precision")) for entry in small]
    found = [(entry, curve) for entry, curve in held if curve]
    if not found:
        return None
    named = _best(shelf, [entry for entry, _ in found])
    panels = []
    for key, heading in (("IoU50", "IoU 0.5"), ("IoU75", "IoU 0.75")):
        lines = []
        for entry, curve in found:
            values = curve.get(key) if isinstance(curve, dict) else None
            if not isinstance(values, list) or len(values) < 2:
                raise entry.wrong(f"metrics.precision.{key}", values, "a precision for each of the points of recall")
            points = tuple((100 * at / (len(values) - 1), 100 * value) for at, value in enumerate(values))
            lines.append(Curve(_label(entry), shelf.about(entry.record.detector, "family"), points, entry in named))
        panels.append((heading, lines))
    title = f"Precision by recall, small detectors on {_TEST}"
    svg = curves(panels, title=title, x_title="recall", y_title="precision")
    caption = (
        f"Mean over the classes. The best of each family has a colour, the other {len(found) - len(named)} are grey."
    )
    return Section("Precision and recall", "precision", (Plot(svg, caption),))


def _best(shelf: Shelf, entries: Iterable[Entry]) -> list[Entry]:
    """The first of each family, of entries that are sorted by AP."""
    first: dict[str, Entry] = {}
    for entry in entries:
        first.setdefault(shelf.about(entry.record.detector, "family"), entry)
    return [entry for family, entry in first.items() if family in FAMILIES]


def _courses(shelf: Shelf, small: Sequence[Entry]) -> Section | None:
    lines = []
    for entry in small:
        training = shelf.training(entry)
        course: Any = None if training is None else training.record.metrics.get("course")
        if not course or training is None or (training.record.recipe or {}).get("stages"):
            continue
        try:
            steps = [float(step) for step, _ in course]
            losses = [float(loss) for _, loss in course]
            smooth = [statistics.fmean(losses[max(0, at - _SMOOTH + 1) : at + 1]) for at in range(len(losses))]
            points = tuple((step, 100 * loss / losses[0]) for step, loss in zip(steps, smooth, strict=True))
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise training.wrong("metrics.course", course, "pairs of step and loss") from error
        lines.append((entry, points))
    if not lines:
        return None
    named = _best(shelf, [entry for entry, _ in lines])
    drawn = [
        Curve(_label(entry), shelf.about(entry.record.detector, "family"), points, entry in named)
        for entry, points in lines
    ]
    title = f"Loss along the training, small detectors on {_TEST.partition(' ')[0]}"
    svg = curves([("training loss", drawn)], title=title, x_title="step", y_title="percent of the first")
    caption = (
        f"Mean of {_SMOOTH} logged steps. Losses of different detectors are different sums: compare shapes alone. "
        "Trainings in stages, of which each has other losses, are left out."
    )
    return Section("How they learn", "courses", (Plot(svg, caption),))


def _tree(zoo: Path) -> Section:
    rows = read_catalog(zoo)
    parents = imports(rows, zoo)
    svg = draw(rows, parents, "Which detector is written as a delta of which, by year of the paper")
    caption = (
        "Read off the imports between the detectors' files, in which a paper that builds on another imports it, and "
        "the years of the catalog. Detectors that share an idea but no code have no line, such as YOLO's versions."
    )
    return Section("The family tree", "tree", (Plot(svg, caption),))


class _Sheet(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    split: str
    images: tuple[int, ...]
    detectors: tuple[str, ...]


def _seen(sheet: Path) -> Section | None:
    described = sheet.with_suffix(".toml")
    if not sheet.exists() or not described.exists():
        return None
    try:
        about = _Sheet.model_validate(tomllib.loads(described.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ReportError(f"{described}: {error}; draw it again by `python -m benchmarks gallery`") from error
    heads = ["the truth", *about.detectors]
    columns = "".join(f"<span>{escape(head).replace('_', '_<wbr>')}</span>" for head in heads)
    data = base64.b64encode(sheet.read_bytes()).decode()
    alt = f"{len(about.images)} images of {about.dataset} {about.split} with the boxes of {', '.join(heads)}"
    picture = (
        f'<div class="sheet"><div class="heads" style="--columns:{len(heads)}" aria-hidden="true">{columns}</div>'
        f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}"></div>'
    )
    caption = f"Images {', '.join(map(str, about.images))} of {about.dataset} {about.split}; scores beside the classes."
    return Section("What they see", "seen", (Plot(picture, caption),))
