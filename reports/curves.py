"""Pictures of what single figures hide: precision by recall, loss by step, and each detector's scales and errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from reports.svg import FAMILIES, LEFT, OTHER, RIGHT, WIDTH, Axis, grid, picture, slug, text, ticks

__all__ = ["Curve", "Ranked", "curves", "ranked"]

_SERIES = ("#0072B2", "#E69F00", "#009E73")
_ROW = 19
_NAMES = 232


@dataclass(frozen=True)
class Curve:
    """A line of many points: its name, its family, and whether it is one of the few that are named in the picture."""

    label: str
    family: str
    points: tuple[tuple[float, float], ...]
    named: bool = True


@dataclass(frozen=True)
class Ranked:
    """A row of a ranking: a detector and its value in each series, None where there is none."""

    label: str
    values: tuple[float | None, ...]


def curves(panels: Sequence[tuple[str, Sequence[Curve]]], *, title: str, x_title: str, y_title: str) -> str:
    """Panels of curves over the same axes, one below the other; those that are not named are grey.

    Args:
        panels: A heading and the curves of each, at least one with points.
        title: Heading, read out by screen readers too.
        x_title: Of the horizontal axis, which starts at 0.
        y_title: Of the vertical axis, likewise.
    """
    everything = [point for _, found in panels for curve in found for point in curve.points]
    x_ticks, y_ticks = ticks(_nearly(max(x for x, _ in everything))), ticks(_nearly(max(y for _, y in everything)))
    height = 340
    parts = [text(LEFT, 18, title, "start", "title")]
    for index, (heading, found) in enumerate(panels):
        base = 34 + index * height
        across = Axis(0, x_ticks[-1], LEFT, WIDTH - RIGHT - 190)
        up = Axis(0, y_ticks[-1], base + height - 66, base + 18)
        parts.append(text(LEFT, base + 8, heading, "start", "panel"))
        parts += _frame(across, up, x_ticks, y_ticks, x_title, y_title)
        for curve in sorted(found, key=lambda curve: curve.named):
            parts.append(_run(curve, across, up))
        parts += _ends([curve for curve in found if curve.named], across, up)
    return picture(parts, title, 34 + len(panels) * height)


def _nearly(top: float) -> float:
    """So that an axis that ends at a round figure ends there."""
    return top / 1.04


def _frame(
    across: Axis, up: Axis, x_ticks: Sequence[float], y_ticks: Sequence[float], x_title: str, y_title: str
) -> list[str]:
    drawn = grid(across, up, x_ticks, y_ticks, x_title, y_title)
    return [line.replace(f'x2="{WIDTH - RIGHT}"', f'x2="{across.end:.1f}"') for line in drawn]


def _run(curve: Curve, across: Axis, up: Axis) -> str:
    colour, _ = FAMILIES.get(curve.family, OTHER)
    way = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in curve.points)
    style = f'class="run {slug(curve.family)}" stroke="{colour}" stroke-width="2.2"'
    if not curve.named:
        style = 'class="aside" stroke="#bbb" stroke-width="1"'
    return f'<polyline points="{way}" fill="none" {style}><title>{escape(curve.label)}</title></polyline>'


def _ends(found: Sequence[Curve], across: Axis, up: Axis) -> list[str]:
    """Names at the right, in the order of the curves' heights in the middle, with a stroke of their colour."""
    middle = [(curve.points[len(curve.points) // 2][1], curve) for curve in found]
    parts = []
    for index, (_, curve) in enumerate(sorted(middle, key=lambda pair: -pair[0])):
        colour, _ = FAMILIES.get(curve.family, OTHER)
        y = up.end + 14 + index * 22
        x = across.end + 14
        stroke = f'x1="{x:.1f}" y1="{y - 4:.1f}" x2="{x + 16:.1f}" y2="{y - 4:.1f}"'
        parts.append(f'<line {stroke} class="run {slug(curve.family)}" stroke="{colour}" stroke-width="2.6"/>')
        parts.append(text(x + 22, y, curve.label, "start", "tick"))
    return parts


def ranked(rows: Sequence[Ranked], series: Sequence[str], *, title: str, x_title: str) -> str:
    """Horizontal bars, a row a detector in the given order, as many in each as there are series.

    Args:
        rows: At least one.
        series: What the values of a row are.
        title: Heading, read out by screen readers too.
        x_title: Of the horizontal axis, which starts at 0.
    """
    steps = ticks(max((value for row in rows for value in row.values if value is not None), default=1.0))
    across = Axis(0, steps[-1], _NAMES, WIDTH - 40)
    step = _ROW if len(series) == 1 else 9 * len(series) + 8
    top = 34 if len(series) == 1 else 58
    bottom = top + step * len(rows)
    parts = [text(12, 18, title, "start", "title")]
    for tick in steps:
        x = across(tick)
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" class="rule"/>')
        parts.append(text(x, bottom + 16, f"{tick:g}", "middle", "tick"))
    parts.append(text((across.start + across.end) / 2, bottom + 36, x_title, "middle", "axis"))
    if len(series) > 1:
        for index, name in enumerate(series):
            x = _NAMES + index * 130
            parts += [_block(x, 32, 14, 11, index), text(x + 20, 42, name, "start", "tick")]
    for place, row in enumerate(rows):
        parts += _bars(row, series, across, top + place * step, step)
    return picture(parts, title, bottom + 46)


def _bars(row: Ranked, series: Sequence[str], across: Axis, y: float, step: float) -> list[str]:
    parts = [text(_NAMES - 8, y + step / 2 + 4, row.label, "end", "tick")]
    thick = (step - 7) / len(series)
    for index, value in enumerate(row.values):
        if value is None:
            continue
        at = y + 3 + index * thick
        about = f"{row.label}, {series[index]}: {value:.1f}" if len(series) > 1 else f"{row.label}: {value:.1f}"
        bar = _block(across.start, at, across(value) - across.start, thick - 1, index)
        parts.append(f"<g>{bar}<title>{escape(about)}</title></g>")
        if len(series) == 1:
            parts.append(text(across(value) + 5, y + step / 2 + 4, f"{value:.1f}", "start", "tick"))
    return parts


def _block(x: float, y: float, width: float, height: float, index: int) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}"'
    return f'<rect {place} class="bar b{index}" fill="{_SERIES[index % len(_SERIES)]}"/>'
