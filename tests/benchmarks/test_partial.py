"""An evaluation that is killed goes on from what it has kept, and from nothing that is not its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.evaluate.partial import PARTIAL, PartialDetections

SAME = {"weights": "ab" * 32, "images": "cd" * 32, "batch": 2, "categories": (3, None)}
ROWS = [{"image_id": 1, "category_id": 3, "bbox": [0.1, 1 / 3, 2.0, 1e-9], "score": 0.1 + 0.2}]


def fill(folder: Path, batches: int = 3) -> None:
    with PartialDetections(folder, SAME) as partial:
        for batch in range(batches):
            partial.add(2 * batch + 2, [{**ROWS[0], "image_id": batch}] * batch)


def test_what_was_kept_comes_back_to_the_bit(tmp_path: Path) -> None:
    fill(tmp_path)
    with PartialDetections(tmp_path, SAME) as partial:
        assert partial.images == 6
        assert partial.rows == [{**ROWS[0], "image_id": batch} for batch in (1, 2, 2)]
        partial.add(8, ROWS)
    with PartialDetections(tmp_path, SAME) as partial:
        assert (partial.images, len(partial.rows)) == (8, 4)
        partial.remove()
    assert not list(tmp_path.iterdir())


def test_cut_off_anywhere_it_goes_on_from_the_last_whole_batch(tmp_path: Path) -> None:
    """At each byte of the file: what comes back is always a beginning of what was kept, and can be gone on with."""
    fill(tmp_path)
    whole = (tmp_path / PARTIAL).read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for kept in range(len(whole) + 1):
        (tmp_path / PARTIAL).write_bytes(whole[:kept])
        batches = max(0, sum(end <= kept for end in ends) - 1)
        with PartialDetections(tmp_path, SAME) as partial:
            assert partial.images == 2 * batches
            assert len(partial.rows) == sum(range(batches))
            partial.add(100, ROWS)
        with PartialDetections(tmp_path, SAME) as partial:
            assert partial.images == 100, "what was added behind the cut was lost"


def test_a_hole_hides_what_is_behind_it(tmp_path: Path) -> None:
    """A crash of the machine may leave zeros where a block was not yet written."""
    fill(tmp_path)
    lines = (tmp_path / PARTIAL).read_bytes().splitlines(True)
    (tmp_path / PARTIAL).write_bytes(lines[0] + lines[1] + bytes(len(lines[2])) + lines[3])
    with PartialDetections(tmp_path, SAME) as partial:
        assert partial.images == 2


@pytest.mark.parametrize("change", [{"weights": "ee" * 32}, {"images": "ee" * 32}, {"batch": 1}, {"looks": {"a": 1}}])
def test_what_another_evaluation_kept_is_dropped(
    change: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path)
    with PartialDetections(tmp_path, {**SAME, **change}) as partial:
        assert (partial.images, partial.rows) == (0, [])
    assert f"other {next(iter(change))}; starting over" in capsys.readouterr().err
    assert json.loads((tmp_path / PARTIAL).read_text().splitlines()[0]) == json.loads(json.dumps({**SAME, **change}))


def test_a_file_of_something_else_is_dropped(tmp_path: Path) -> None:
    (tmp_path / PARTIAL).write_bytes(b"\xff\x00 no JSON\n[1, 2]\n")
    with PartialDetections(tmp_path, SAME) as partial:
        assert partial.images == 0
