"""Accuracy against time and years, lines with their spread, and grouped bars, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from reports.svg import (
    FAMILIES,
    LEFT,
    LETTER,
    OTHER,
    RIGHT,
    WIDTH,
    Axis,
    grid,
    log_ticks,
    marker,
    picture,
    rules,
    slug,
    text,
    ticks,
    year_ticks,
)

__all__ = ["FAMILIES", "Bars", "Line", "Point", "bars", "lines", "scatter"]

_SERIES = ("#D55E00", "#0072B2", "#E69F00", "#56B4E9")
_HEIGHT, _TOP, _BOTTOM = 490, 58, 52

_NEAR = 14
"""Pixels between mark and label up to which no leader is needed."""

_Box = tuple[float, float, float, float]
_Place = tuple[float, float, str]


@dataclass(frozen=True)
class Point:
    """A mark of a scatter plot; `family` chooses colour and marker, `hollow` marks a run of the reader's own."""

    label: str
    x: float
    y: float
    family: str
    hollow: bool = False


@dataclass(frozen=True)
class Bars:
    """A panel of a bar plot: a heading, and for each series one value a group (None where there is none)."""

    title: str
    groups: tuple[str, ...]
    series: tuple[tuple[str, tuple[float | None, ...]], ...]
    printed: bool


@dataclass(frozen=True)
class Line:
    """A line of a plot: its name, the family that gives it colour and marker, and `(x, mean, lowest, highest)`."""

    label: str
    family: str
    points: tuple[tuple[float, float, float, float], ...]


def scatter(
    points: Sequence[Point], *, title: str, x_title: str, y_title: str, log: bool = False, front: str = ""
) -> str:
    """Marks with their names.

    Args:
        points: What to draw; `x` must be positive where `log`.
        title: Heading, read out by screen readers too.
        x_title: Of the horizontal axis.
        y_title: Of the vertical axis, which starts at 0.
        log: Whether the horizontal axis is logarithmic.
        front: What to call the line through the points that no other beats on both axes; none is drawn where empty.
    """
    xs = [point.x for point in points]
    x_ticks = log_ticks(min(xs), max(xs)) if log else year_ticks(min(xs), max(xs))
    y_ticks = ticks(max(point.y for point in points))
    across = Axis(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT, log)
    up = Axis(0, y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [text(LEFT, 18, title, "start", "title")]
    parts += grid(across, up, x_ticks, y_ticks, x_title, y_title)
    if front:
        best = sorted(_front(points), key=lambda point: point.x)
        line = " ".join(f"{across(p.x):.1f},{up(p.y):.1f}" for p in best)
        parts.append(f'<polyline points="{line}" class="front"><title>{escape(front)}</title></polyline>')
    places = [(across(point.x), up(point.y)) for point in points]
    for point, (x, y), label in zip(points, places, _labels(points, places), strict=True):
        parts.append(_marker(point, x, y, point.label))
        if label is not None:
            parts += _label(point.label, x, y, label)
    families = [name for name in FAMILIES if any(point.family == name for point in points)]
    families += sorted({point.family for point in points} - set(families))
    return picture(parts + _legend(families, any(point.hollow for point in points)), title, _HEIGHT)


def lines(found: Sequence[Line], *, title: str, x_title: str, y_title: str) -> str:
    """Lines over a logarithmic axis, with the lowest and the highest value of each point as a bar.

    Args:
        found: What to draw, at least one line of at least one point; x must be positive.
        title: Heading, read out by screen readers too.
        x_title: Of the horizontal axis.
        y_title: Of the vertical axis, which starts at 0.
    """
    marks = [
        Point(line.label if index == len(line.points) - 1 else "", x, y, line.family)
        for line in found
        for index, (x, y, _, _) in enumerate(line.points)
    ]
    xs = [mark.x for mark in marks]
    x_ticks = log_ticks(min(xs), max(xs))
    y_ticks = ticks(max(top for line in found for _, _, _, top in line.points))
    across = Axis(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT, log=True)
    up = Axis(0, y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [text(LEFT, 18, title, "start", "title")]
    parts += grid(across, up, x_ticks, y_ticks, x_title, y_title)
    for line in found:
        colour, _ = FAMILIES.get(line.family, OTHER)
        way = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y, _, _ in line.points)
        style = f'class="run {slug(line.family)}" fill="none" stroke="{colour}" stroke-width="1.6"'
        parts.append(f'<polyline points="{way}" {style}/>')
        for x, _, low, high in line.points:
            if low < high:
                at = f'x1="{across(x):.1f}" y1="{up(low):.1f}" x2="{across(x):.1f}" y2="{up(high):.1f}"'
                parts.append(f'<line {at} stroke="{colour}" stroke-width="3" opacity="0.4"/>')
    places = [(across(mark.x), up(mark.y)) for mark in marks]
    labels = _labels(marks, places)
    names = [line.label for line in found for _ in line.points]
    for mark, name, (x, y), label in zip(marks, names, places, labels, strict=True):
        parts.append(_marker(mark, x, y, name))
        if mark.label and label is not None:
            parts += _label(mark.label, x, y, label)
    families = [name for name in FAMILIES if any(mark.family == name for mark in marks)]
    families += sorted({mark.family for mark in marks} - set(families))
    return picture(parts + _legend(families, own=False), title, _HEIGHT)


def bars(panels: Sequence[Bars], *, title: str) -> str:
    """Grouped bars, one panel below the other on the same scale; panels of printed figures are hatched."""
    top = max((v for panel in panels for _, values in panel.series for v in values if v is not None), default=1.0)
    steps = ticks(top)
    height = 250
    hatch = "".join(letter if letter.isalnum() else "-" for letter in title.lower())
    parts = [_hatches(hatch), text(LEFT, 18, title, "start", "title")]
    for index, panel in enumerate(panels):
        base = 40 + index * height
        up = Axis(0, steps[-1], base + 182, base + 24)
        parts.append(text(LEFT, base + 8, panel.title, "start", "panel"))
        parts += rules(up, steps)
        parts += _panel(panel, up, hatch)
    return picture(parts, title, 40 + len(panels) * height)


def _panel(panel: Bars, up: Axis, hatch: str) -> list[str]:
    parts = []
    slot = (WIDTH - LEFT - RIGHT) / len(panel.groups)
    width = min(32.0, slot * 0.92 / len(panel.series))
    floor = up(0)
    for group, name in enumerate(panel.groups):
        middle = LEFT + slot * (group + 0.5)
        parts.append(text(middle, floor + 16, name, "middle", "tick"))
        for index, (method, values) in enumerate(panel.series):
            value = values[group]
            if value is None:
                continue
            x = middle + (index - len(panel.series) / 2) * width
            bar = _bar(x + 1, up(value), width - 2, floor - up(value), index, hatch if panel.printed else "")
            parts.append(f"<g>{bar}<title>{escape(f'{method}, {name}: {value:.1f}')}</title></g>")
            parts.append(text(x + width / 2, up(value) - 4, f"{value:.1f}", "middle", "value"))
    x = float(LEFT)
    for index, (method, _) in enumerate(panel.series):
        parts.append(_bar(x, floor + 27, 12, 12, index, hatch if panel.printed else ""))
        parts.append(text(x + 18, floor + 37, method, "start", "tick"))
        x += 36 + LETTER * len(method)
    return parts


def _bar(x: float, y: float, width: float, height: float, index: int, hatch: str) -> str:
    colour = _SERIES[index % len(_SERIES)]
    fill = f"url(#{hatch}{index % len(_SERIES)})" if hatch else colour
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{fill}" stroke="{colour}"/>'


def _hatches(name: str) -> str:
    patterns = []
    for index, colour in enumerate(_SERIES):
        angle = 45 if index % 2 == 0 else -45
        patterns.append(
            f'<pattern id="{name}{index}" width="6" height="6" patternUnits="userSpaceOnUse" '
            f'patternTransform="rotate({angle})"><rect class="ground" width="6" height="6" fill="#fff"/>'
            f'<line x1="0" y1="0" x2="0" y2="6" stroke="{colour}" stroke-width="4"/></pattern>'
        )
    return f"<defs>{''.join(patterns)}</defs>"


def _front(points: Iterable[Point]) -> list[Point]:
    """The points that no other is left of (or at) and above (or at)."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if not kept or point.y > kept[-1].y:
            kept.append(point)
    return kept


def _labels(points: Sequence[Point], places: Sequence[tuple[float, float]]) -> list[_Place | None]:
    """Where each label goes, so that none touches another, a mark or a leader; None where there is no room."""
    marks: list[_Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    taken: list[_Box] = []
    found: list[_Place | None] = [None] * len(points)
    best = {id(point) for point in _front(points)}
    order = sorted(range(len(points)), key=lambda i: (id(points[i]) not in best, -points[i].y, points[i].x))
    for index in order:
        x, y = places[index]
        width = LETTER * len(points[index].label)
        for place in _candidates(x, y):
            left = place[0] - {"start": 0.0, "middle": width / 2, "end": width}[place[2]]
            box = (left - 2, place[1] - 11, left + width + 2, place[1] + 4)
            leader = _along(x, y, place)
            if _is_free(box, [*marks, *taken]) and all(_is_free(step, taken) for step in leader):
                taken += [box, *leader]
                found[index] = place
                break
    return found


def _along(x: float, y: float, place: _Place) -> list[_Box]:
    """Small boxes along the leader from a mark to its label; none where the label stands at the mark."""
    end = _leader_end(y, place)
    length = math.dist(end, (x, y))
    if length <= _NEAR:
        return []
    shares = [step / length for step in range(0, int(length), 3)]
    at = [(x + share * (end[0] - x), y + share * (end[1] - y)) for share in shares]
    return [(across - 1, up - 1, across + 1, up + 1) for across, up in at]


def _leader_end(y: float, place: _Place) -> tuple[float, float]:
    return place[0], min(max(y, place[1] - 10), place[1] + 3)


def _candidates(x: float, y: float) -> Iterator[_Place]:
    """Places around a mark, the near ones first."""
    for far in (10, 18, 28, 40, 52):
        aside = far * 0.7
        yield from (
            (x + far, y + 4, "start"),
            (x - far, y + 4, "end"),
            (x, y - far, "middle"),
            (x, y + far + 8, "middle"),
            (x + aside, y - aside, "start"),
            (x + aside, y + aside + 8, "start"),
            (x - aside, y - aside, "end"),
            (x - aside, y + aside + 8, "end"),
        )


def _is_free(box: _Box, taken: Iterable[_Box]) -> bool:
    inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= _TOP and box[3] <= _HEIGHT - _BOTTOM
    return inside and not any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken
    )


def _label(words: str, x: float, y: float, place: _Place) -> list[str]:
    """A label, with a line to its mark where it stands apart."""
    at, baseline, anchor = place
    parts = []
    end = _leader_end(y, place)
    if math.dist(end, (x, y)) > _NEAR:
        parts.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" class="leader"/>')
    return [*parts, text(at, baseline, words, anchor, "label")]


def _marker(point: Point, x: float, y: float, label: str) -> str:
    title = f"{label}: {point.y:.1f} at {point.x:.4g}"
    return marker(point.family, x, y, hollow=point.hollow, title=title)


def _legend(families: Sequence[str], own: bool) -> list[str]:
    parts = []
    x = LEFT + 6.0
    for name in families:
        known = name if name in FAMILIES else "family not recorded"
        parts += [marker(name, x, 36), text(x + 10, 40, known, "start", "tick")]
        x += 34 + LETTER * len(known)
    if own:
        parts.append(text(x, 40, "hollow: own machine", "start", "tick"))
    return parts
