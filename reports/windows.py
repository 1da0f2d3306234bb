"""How many windows an image has: why detectors propose and share, and a printed figure that is a thousandth of it."""

from __future__ import annotations

from benchmarks.window_count import all_windows, scanned_windows, window_positions
from reports.sections import Grid, Header, Section

__all__ = ["windows"]

_IMAGE = (600, 800)


def windows() -> Section:
    """Windows of an image of 800x600 pixels, counted; no Record is needed for it."""
    height, width = _IMAGE
    squares = sum(window_positions(_IMAGE, (side, side)) for side in range(1, min(_IMAGE) + 1))
    rows = (
        ("every size at every place", f"{all_windows(_IMAGE):,}", "57 million"),
        ("squares of every size at every place", f"{squares:,}", "none"),
        ("64x128, 8 pixels apart, on images shrunk by 1.05 each time", _scan((128, 64), 1.05, 8), "none"),
        ("24x24, 1 pixel apart, on images shrunk by 1.25 each time", _scan((24, 24), 1.25, 1), "none"),
    )
    grid = Grid(
        (Header("windows", text=True), Header("counted", "here"), Header("count", "paper")),
        rows,
        {"here": "counted by `benchmarks.window_count`", "paper": "printed in a lecture on detection"},
    )
    text = (
        f"A window of h x w pixels has (H - h + 1)(W - w + 1) places in an image of H x W; over all sizes that is "
        f"H(H + 1)/2 x W(W + 1)/2. For {width}x{height} pixels the lecture that prints this formula gives a thousandth "
        f"of what it comes to: {all_windows(_IMAGE):,}, not 57 million. Thousands to a million are left of one "
        "shape, with a stride and a step between scales."
    )
    return Section("How many windows an image has", "windows", (text, grid))


def _scan(window: tuple[int, int], growth: float, stride: int) -> str:
    return f"{scanned_windows(_IMAGE, window, growth, stride):,}"
