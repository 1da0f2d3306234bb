"""JSON from elsewhere, checked, and values of ours as JSON gives them back.

What Python's reader lets pass, or fails at in its own ways, is refused as any wrong JSON is.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["as_json", "parse_json"]


def parse_json(text: str | bytes, *, finite: bool = False) -> Any:
    """What a JSON text holds.

    A key that stands twice in an object is refused: readers differ in which of the two values they take.

    Args:
        text: With or without a byte order mark.
        finite: Refuse NaN and infinity, which JSON has not, but Python reads.

    Raises:
        ValueError: It is no JSON (then a `json.JSONDecodeError` says where), no text, holds a key twice or a number of
            thousands of digits, or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number if finite else None)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:60]!r} stands twice in an object")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def as_json(value: Any) -> Any:
    """A value as it comes back from JSON: tuples as lists, keys as text, what JSON cannot hold as text too.

    A Record made from it equals the one that is read from its file.
    """
    return json.loads(json.dumps(value, default=str))
