"""No damaged file does more than raise its reader's one error. `--fuzz 10000` looks longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.hunt import Reader, hunt
from tests.fuzz.readers import READERS


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name.replace(" ", "-"))
def test_damaged_files(reader: Reader, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    count, seed = request.config.getoption("--fuzz"), request.config.getoption("--fuzz-seed")
    outcome = hunt(reader, count, seed, tmp_path)
    print(f"{reader.name}: {outcome.inputs} inputs, {outcome.accepted} accepted, {outcome.kept} kept")
    assert not outcome.problems, "\n".join(f"{what}\n    base64 {data}" for what, data in outcome.problems.items())
    assert outcome.inputs == count
