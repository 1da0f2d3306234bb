"""Where a number comes from: the commit of this project, the versions that can move it, images and weights."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.results import DatasetId, Weights

if TYPE_CHECKING:
    from benchmarks.datasets import Dataset

__all__ = ["code", "commit", "dataset_id", "sha256", "versions", "weights_id"]

_ROOT = Path(__file__).resolve().parent.parent
_LIBRARIES = ("numpy", "numba", "opencv-contrib-python-headless", "pillow", "scikit-learn", "torch", "torchvision")


def commit() -> str:
    """Abbreviated commit of the working tree, with `+` where code in it differs; `unknown` outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", "*.py", "*.toml")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def code() -> str:
    """Hash of the sources that detections come from, which also tells one state of a changed tree from another."""
    digest = hashlib.sha256()
    for folder in ("benchmarks", "ops", "zoo"):
        for file in sorted((_ROOT / folder).rglob("*.py")):
            digest.update(f"{file.relative_to(_ROOT)} {sha256(file)}\n".encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Python and the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "absent"
    return found


def dataset_id(dataset: Dataset) -> DatasetId:
    """What a Record says of a dataset."""
    return DatasetId(
        name=dataset.name,
        split=dataset.split,
        fingerprint=dataset.fingerprint,
        images=len(dataset),
        objects=dataset.num_objects,
        skipped=getattr(dataset, "skipped", ()),
    )


def weights_id(path: Path) -> Weights:
    """What a Record says of a checkpoint."""
    return Weights(file=path.name, sha256=sha256(path))


def sha256(path: Path) -> str:
    """Hash of a file's bytes; of a folder, hash of the names and hashes of its files."""
    if path.is_dir():
        lines = (f"{file.name} {sha256(file)}\n" for file in sorted(path.iterdir()) if file.is_file())
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
