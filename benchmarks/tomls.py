"""A TOML file as a checked model; what is wrong with it becomes one sentence that names file, entry and remedy."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from benchmarks.sentences import brief, entry_and_reason

__all__ = ["read_toml"]

Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path, model: type[Model], error: type[ValueError], remedy: str) -> Model:
    """Read a file of the project.

    Args:
        path: The file.
        model: What it holds.
        error: What is raised.
        remedy: For an entry that does not fit.

    Raises:
        ValueError: As `error`: it cannot be read, is no TOML, or an entry does not fit.
    """
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror}); restore it") from cause
    except RecursionError as cause:
        raise error(f"{path}: is no TOML (nested too deeply); mend it or restore it") from cause
    except ValidationError as cause:
        entry, reason = entry_and_reason(cause)
        raise error(f"{path}: {entry}: {reason.removeprefix('Value error, ')}; {remedy}") from cause
    # No TOML, no text, or a number of thousands of digits.
    except ValueError as cause:
        raise error(f"{path}: is no TOML ({brief(cause)}); mend it or restore it") from cause
