"""What is said of an error, in one line: to a user, or by one process to another; and of what is wrong in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = ["brief", "entry_and_reason", "quoted", "said"]


def said(error: Exception) -> str:
    """The message of an error, on one line."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        why = str(error).partition(". ")[0]
        return (
            f"out of memory{f' ({why})' if why else ''}; nothing was made smaller to fit, and no Record is written: "
            "free some, or choose a smaller --batch or another --device"
        )
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(line.strip() for line in str(text).splitlines() if line.strip())


def brief(error: Exception) -> str:
    """What another library says of a file, on one line; as it may quote the file, no more than a sentence holds."""
    return _cut(said(error))


def entry_and_reason(error: ValidationError) -> tuple[str, str]:
    """Where the first wrong entry of a file stands, and what is wrong with it."""
    first = error.errors()[0]
    return _cut(".".join(map(str, first["loc"]))) or "the file", _cut(first["msg"])


def _cut(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:297]}..."


def quoted(value: Any) -> str:
    """A value as error messages quote it: no more of it than shows which one is meant."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
