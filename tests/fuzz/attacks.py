"""What the attacks share: how a refusal must read, and a ground truth with one entry changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fuzz.data_readers import TRUTH

__all__ = ["changed", "refused"]


def refused(error: type[Exception], words: str, read: Callable[..., object], *arguments: Any) -> None:
    """One sentence, which does not quote half of the file."""
    with pytest.raises(error, match=words) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def changed(kind: str, index: int, **entries: Any) -> dict[str, Any]:
    rows = [dict(row) for row in TRUTH[kind]]
    rows[index] |= entries
    return {**TRUTH, kind: rows}
