"""Windows of an image, counted by formula and by loops."""

from __future__ import annotations

import pytest

from benchmarks.window_count import all_windows, scanned_windows, window_positions


def test_windows_of_every_size() -> None:
    assert all_windows((600, 800)) == all_windows((800, 600)) == 320_400 * 180_300 == 57_768_120_000
    assert [all_windows(size) for size in ((1, 1), (2, 2), (14, 14))] == [1, 9, 11_025]
    for height, width in ((3, 5), (7, 2)):
        sizes = [(h, w) for h in range(1, height + 1) for w in range(1, width + 1)]
        assert all_windows((height, width)) == sum(window_positions((height, width), size) for size in sizes)


def test_positions_of_one_size() -> None:
    assert [window_positions((side, side), (14, 14), stride=2) for side in (14, 16, 28)] == [1, 4, 64]
    assert window_positions((600, 800), (1, 1)) == 480_000
    assert window_positions((600, 800), (600, 800)) == 1
    assert window_positions((600, 800), (601, 1)) == 0
    assert window_positions((5, 9), (2, 3), stride=3) == len(range(0, 4, 3)) * len(range(0, 7, 3))
    with pytest.raises(ValueError, match="at least 1"):
        all_windows((0, 5))


def test_windows_of_one_shape() -> None:
    # 20 x 30, 10 x 15, 5 x 7: the last holds two windows down and three across.
    assert scanned_windows((20, 30), (4, 5), 2.0) == 17 * 26 + 7 * 11 + 2 * 3
    assert scanned_windows((20, 30), (4, 5), 2.0, stride=4) == 5 * 7 + 2 * 3 + 1 * 1
    assert scanned_windows((3, 30), (4, 5), 2.0) == 0
    assert scanned_windows((1, 1), (1, 1), 1.5) == 1
    with pytest.raises(ValueError, match="growth"):
        scanned_windows((20, 30), (4, 5), 1.0)
