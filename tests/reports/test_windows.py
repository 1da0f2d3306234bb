"""The section that counts windows."""

from __future__ import annotations

from reports.sections import Grid
from reports.windows import windows


def test_the_lectures_figure_stands_beside_the_count() -> None:
    text, grid = windows().blocks
    assert isinstance(text, str)
    assert isinstance(grid, Grid)
    assert "57,768,120,000, not 57 million" in text
    assert grid.rows[0][1:] == ("57,768,120,000", "57 million")
    # The sum over sides k of k (k + 200), k from 1 to 600.
    assert grid.rows[1][1] == f"{600 * 601 * 1201 // 6 + 200 * 180_300:,}"
    counts = [int(row[1].replace(",", "")) for row in grid.rows]
    assert counts == sorted(counts[:2], reverse=True) + counts[2:]
    assert max(counts[2:]) < 10_000_000
