"""What all plots are drawn with: SVG, written letter by letter, so that no library can change a byte of it.

Colours stand in the elements, for a picture that is taken out of its page, and in classes, for the page's own light
and dark ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = [
    "FAMILIES",
    "LEFT",
    "LETTER",
    "OTHER",
    "RIGHT",
    "WIDTH",
    "Axis",
    "grid",
    "log_ticks",
    "marker",
    "picture",
    "rules",
    "slug",
    "text",
    "ticks",
    "year_ticks",
]

FAMILIES = {
    "classical": ("#555555", "cross"),
    "two-stage": ("#0072B2", "square"),
    "one-stage": ("#D55E00", "circle"),
    "keypoint": ("#009E73", "triangle"),
}
"""Colour and marker of a family. The colours are told apart by the colour-blind, the markers on paper."""

OTHER = ("#CC79A7", "diamond")
"""Of a detector whose family no Record tells."""

WIDTH, LEFT, RIGHT = 860, 62, 18
"""Of a plot, and its margins, in pixels."""

LETTER = 7.4
"""Pixels a letter of a 12 px label may take: as wide as the widest common font draws it, so that no label can touch
another."""


@dataclass(frozen=True)
class Axis:
    """From values between `low` and `high` to places between `start` and `end`, in pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def marker(family: str, x: float, y: float, *, hollow: bool = False, title: str = "") -> str:
    """The mark of a family around a place, with what a pointer over it, or a screen reader, is told."""
    colour, kind = FAMILIES.get(family, OTHER)
    style = f'fill="{"#fff" if hollow else colour}" stroke="{colour}" stroke-width="1.6"'
    match kind:
        case "circle":
            drawn = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {style}/>'
        case "square":
            drawn = f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" {style}/>'
        case "cross":
            strokes = f"M{x - 4.5:.1f} {y - 4.5:.1f}l9 9m0 -9l-9 9"
            drawn = f'<path d="{strokes}" fill="none" stroke="{colour}" stroke-width="{1.6 if hollow else 3}"/>'
        case "triangle":
            drawn = f'<path d="M{x:.1f} {y - 6:.1f}l5.5 10h-11z" {style}/>'
        case _:
            drawn = f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z" {style}/>'
    named = f"<title>{escape(title)}</title>" if title else ""
    return f'<g class="mark {slug(family)}{" hollow" if hollow else ""}">{drawn}{named}</g>'


def slug(name: str) -> str:
    """A name as a class: of a family that is not known, `other`."""
    return name if name in FAMILIES else "other"


def grid(
    across: Axis, up: Axis, x_ticks: Sequence[float], y_ticks: Sequence[float], x_title: str, y_title: str
) -> list[str]:
    """Rules and figures of both axes, and what they are called."""
    parts = rules(up, y_ticks)
    for tick in x_ticks:
        x = across(tick)
        parts.append(f'<line x1="{x:.1f}" y1="{up.start:.1f}" x2="{x:.1f}" y2="{up.end:.1f}" class="rule"/>')
        parts.append(text(x, up.start + 17, f"{tick:g}", "middle", "tick"))
    parts.append(text((across.start + across.end) / 2, up.start + 40, x_title, "middle", "axis"))
    middle = (up.start + up.end) / 2
    turned = text(16, middle, y_title, "middle", "axis")
    return [*parts, f'<g transform="rotate(-90 16 {middle:.1f})">{turned}</g>']


def rules(up: Axis, at: Sequence[float]) -> list[str]:
    """Horizontal rules with their figures at the left."""
    parts = []
    for tick in at:
        y = up(tick)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" class="rule"/>')
        parts.append(text(LEFT - 7, y + 4, f"{tick:g}", "end", "tick"))
    return parts


def ticks(top: float) -> list[float]:
    """From 0 past `top`, in steps of 1, 2 or 5 times a power of ten, at most seven of them."""
    if top <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(top))
    step = next(factor * power for factor in (0.2, 0.5, 1, 2) if top * 1.04 / (factor * power) <= 7)
    return [round(step * index, 6) for index in range(math.ceil(top * 1.04 / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten around the values."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    every = [round(factor * 10.0**power, 9) for power in powers for factor in (1, 2, 5)]
    first = max(index for index, tick in enumerate(every) if tick <= low * 0.9)
    last = min(index for index, tick in enumerate(every) if tick >= high * 1.1)
    return every[first : last + 1]


def year_ticks(low: float, high: float) -> list[float]:
    """Whole years around the values."""
    step = max(1, math.ceil((high - low + 2) / 10))
    first = math.floor(low) - 1
    return [float(first + step * index) for index in range(math.ceil((high + 2 - first) / step) + 1)]


def text(x: float, y: float, words: str, anchor: str, style: str) -> str:
    """Words on a baseline; `anchor` is what of them stands at `x`: start, middle or end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">{escape(words)}</text>'


def picture(parts: Iterable[str], title: str, height: float, width: float = WIDTH) -> str:
    """The whole picture; screen readers tell its title."""
    body = "\n".join(parts)
    kind = ' class="broad"' if width > WIDTH else ""
    return (
        f'<svg{kind} viewBox="0 0 {width:.0f} {height:.0f}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>\n{body}\n</svg>"
    )
