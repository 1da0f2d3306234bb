"""What was recorded and what was transcribed, by its bytes: the file `MANIFEST.sha256` of a folder.

A figure of a Record or of a paper's table can be changed without any test seeing it, as pages are rendered from them.
Their hashes stand in a file of its own, in the format of `sha256sum`: a change then needs two files, and the second one
is written only by what writes Records and by `python -m benchmarks seal`, after someone has looked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from benchmarks import papers
from benchmarks.provenance import sha256
from benchmarks.results import COMMITTED, write_atomically

__all__ = ["MANIFEST", "SEALED", "ManifestError", "changed", "note", "seal"]

MANIFEST = "MANIFEST.sha256"

SEALED = {COMMITTED: "*/*.json", papers.FOLDER: "*.toml", papers.FOLDER.parent / "claims": "*.toml"}
"""Folders whose files have a manifest, and which files."""


class ManifestError(ValueError):
    """A manifest is missing or cannot be read; the message names the file and the remedy."""


def seal(folder: Path, pattern: str) -> Path:
    """Write the manifest of a folder anew from the files that are there."""
    return _write(folder, {name: sha256(folder / name) for name in _names(folder, pattern)})


def note(path: Path) -> None:
    """Enter a file that was just written, where the folder above its own has a manifest."""
    folder = path.parent.parent
    if (folder / MANIFEST).exists() and path.parent.name != "local":
        with FileLock(folder / f".{MANIFEST}.lock"):
            _write(folder, {**_read(folder), path.relative_to(folder).as_posix(): sha256(path)})


def changed(folder: Path, pattern: str) -> list[str]:
    """A sentence for each file that is not what its manifest says, that it does not know, or that is missing.

    Raises:
        ManifestError: There is no manifest, or it is none.
    """
    known = _read(folder)
    there = set(_names(folder, pattern))
    remedy = "restore it, or, where the change is meant, run `python -m benchmarks seal`"
    found = [f"{folder / name}: is missing, but stands in {MANIFEST}; {remedy}" for name in sorted(set(known) - there)]
    for name in sorted(there):
        if name not in known:
            found.append(f"{folder / name}: stands in no {MANIFEST}; where it belongs here, run `benchmarks seal`")
        elif sha256(folder / name) != known[name]:
            found.append(f"{folder / name}: was changed since it was sealed; {remedy}")
    return found


def _names(folder: Path, pattern: str) -> Iterator[str]:
    found = (path.relative_to(folder) for path in sorted(folder.glob(pattern)))
    return (name.as_posix() for name in found if name.parts[0] != "local")


def _read(folder: Path) -> dict[str, str]:
    path = folder / MANIFEST
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}); run `python -m benchmarks seal`") from error
    found = {}
    for number, line in enumerate(lines, 1):
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64:
            raise ManifestError(f"{path}: line {number} is {line[:80]!r}, not a sha256 and a file; restore the file")
        found[name] = digest
    return found


def _write(folder: Path, hashes: dict[str, str]) -> Path:
    path = folder / MANIFEST
    write_atomically(path, "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items())))
    return path
