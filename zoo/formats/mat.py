"""MATLAB's `.mat` files (version 5 to 7.2), field by field; nothing in a file is run or believed unseen."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.formats.mat_bounds import check_mat

__all__ = ["MatError", "Struct", "read_struct"]

_LARGEST = 64 << 20
"""Bytes; the published models have a few hundred thousand."""


class MatError(ValueError):
    """A `.mat` file is damaged or holds something else; the message names the file, the entry and the remedy."""


class Struct:
    """A structure in a file; every look at a field is a check.

    Args:
        path: The file, for messages.
        name: Of the structure, likewise.
        value: As scipy gives it.
    """

    def __init__(self, path: Path, name: str, value: Any) -> None:
        if not hasattr(value, "_fieldnames"):
            raise MatError(f"{path}: {name}: {type(value).__name__} instead of a structure; give another file")
        self.path, self.name, self._value = path, name, value

    def has(self, field: str) -> bool:
        """Whether there is such a field."""
        return field in self._value._fieldnames

    def error(self, field: str, what: str) -> MatError:
        """What to raise where `field` is not as it must be."""
        return MatError(f"{self.path}: {self.name}.{field}: {what}; get the file anew, or give another")

    def _raw(self, field: str) -> Any:
        if not self.has(field):
            raise self.error(field, "is missing")
        return getattr(self._value, field)

    def struct(self, field: str) -> Struct:
        """A field that is a structure."""
        return Struct(self.path, f"{self.name}.{field}", self._raw(field))

    def structs(self, field: str) -> list[Struct]:
        """A field that is a list of structures, or one."""
        values = np.atleast_1d(self._raw(field))
        return [Struct(self.path, f"{self.name}.{field}({i})", value) for i, value in enumerate(values.flat, 1)]

    def lists(self, field: str) -> list[list[Struct]]:
        """A field that is a cell array of lists of structures, some of them empty."""
        cells = np.atleast_1d(self._raw(field))
        name = f"{self.name}.{field}"
        return [
            [Struct(self.path, f"{name}{{{i}}}({j})", value) for j, value in enumerate(np.atleast_1d(cell).flat, 1)]
            for i, cell in enumerate(cells.flat, 1)
        ]

    def arrays(self, field: str, shape: tuple[int, ...]) -> list[npt.NDArray[np.float64]]:
        """A field that is a cell array of arrays of finite numbers of one shape."""
        raw = self._raw(field)
        cells = list(raw) if isinstance(raw, np.ndarray) and raw.dtype.kind == "O" else [raw]
        return [self._numbers(f"{field}{{{i}}}", cell, shape) for i, cell in enumerate(cells, 1)]

    def array(self, field: str, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.float64]:
        """A field of finite numbers."""
        return self._numbers(field, self._raw(field), shape)

    def _numbers(self, field: str, raw: Any, shape: tuple[int, ...] | None) -> npt.NDArray[np.float64]:
        value = np.asarray(raw)
        if value.dtype.kind not in "biuf":
            raise self.error(field, f"{type(raw).__name__} instead of numbers")
        if shape is not None and value.shape != shape:
            raise self.error(field, f"shape {value.shape} instead of {shape}")
        # As a float32, which is what models keep, a large double is infinite.
        with np.errstate(over="ignore"):
            narrow = value.astype(np.float32)
        if not np.isfinite(narrow).all():
            raise self.error(field, "holds NaN, infinity or a number beyond all use")
        return value.astype(np.float64)

    def number(self, field: str) -> float:
        """A field of one finite number."""
        return float(self.array(field, ()))

    def whole(self, field: str, least: int, most: int) -> int:
        """A field of one whole number from `least` to `most`."""
        value = self.number(field)
        if value != int(value) or not least <= value <= most:
            raise self.error(field, f"{value:g} is no whole number from {least} to {most}")
        return int(value)

    def text(self, field: str) -> str:
        """A field of text."""
        raw = self._raw(field)
        if not isinstance(raw, str):
            raise self.error(field, f"{type(raw).__name__} instead of text")
        return raw


def read_struct(path: Path, name: str) -> Struct:
    """The structure `name` of a file.

    Raises:
        MatError: There is no such file, it is damaged or too large, or holds no such structure.
    """
    from scipy.io import loadmat

    try:
        if path.stat().st_size > _LARGEST:
            raise MatError(f"{path}: {path.stat().st_size} bytes are too many for a model; give another file")
        whole = path.read_bytes()
        check_mat(whole, name)
        content = loadmat(io.BytesIO(whole), struct_as_record=False, squeeze_me=True, variable_names=[name])
    except MatError:
        raise
    except OSError as error:
        raise MatError(f"{path}: cannot be read ({error.strerror or error}); give the file of a model") from error
    except MemoryError as error:
        raise MatError(f"{path}: {name}: claims more than there is memory for; get the file anew") from error
    except Exception as error:
        # scipy raises whatever its parser happens to stumble upon.
        reason = " ".join(str(error).split())[:200]
        raise MatError(f"{path}: no whole .mat file of version 5 to 7.2 ({reason}); get the file anew") from error
    if name not in content:
        raise MatError(f"{path}: {name}: is missing; give the file of a model")
    return Struct(path, name, content[name])
