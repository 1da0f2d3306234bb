"""BCCD: photographs of blood cells, three classes (github.com/Shenggan/BCCD_Dataset, MIT licence).

364 images of 640x480 pixels, 292 to train on and 72 to test, by the repository's own split. Two red cells are
annotated with a box of one pixel, slips that are read as they stand: they are two of 4,888 objects.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from benchmarks.datasets.dataset import Dataset, DatasetError
from benchmarks.datasets.download import Archive, fetch, tree_sha256, unpack
from benchmarks.datasets.voc import open_voc

__all__ = ["CLASS_NAMES", "download_bccd", "open_bccd"]

CLASS_NAMES = ("RBC", "WBC", "Platelets")

_COMMIT = "d272fb14cdff6e473fafeeeba32aba5f560e9e43"
_ARCHIVE = Archive(f"https://github.com/Shenggan/BCCD_Dataset/archive/{_COMMIT}.tar.gz")
_TREE = "72678e633401cc2ed8b65d631c2b34574a4cbf44d11915cb77d3c8d4ef585dde"


def open_bccd(split: str, data_root: Path) -> Dataset:
    """Open `trainval` or `test`.

    Raises:
        DatasetError: There is no such split, or files are missing or damaged.
    """
    if split not in ("trainval", "test"):
        raise DatasetError(f"bccd: split {split!r} is unknown; there are trainval and test")
    return open_voc(split, data_root, name="bccd", class_names=CLASS_NAMES)


def download_bccd(data_root: Path, archive: Archive = _ARCHIVE, tree: str = _TREE) -> None:
    """Fetch the repository at one commit (8 MB) and lay it out as VOC does, unless it is there.

    The server packs the archive anew now and then, so every file's sha256 is checked instead of the archive's.

    Raises:
        DatasetError: Fetching fails, or the files are not the ones this project was measured on.
    """
    devkit = data_root / "VOCdevkit"
    if devkit.is_dir():
        return
    data_root.mkdir(parents=True, exist_ok=True)
    with FileLock(data_root / ".download.lock"):
        if devkit.is_dir():
            return
        file = fetch(archive, data_root)
        temporary = Path(tempfile.mkdtemp(dir=data_root, prefix=".bccd."))
        try:
            unpack(file, temporary)
            file.unlink()
            laid_out = temporary / "VOCdevkit" / "VOC2007"
            for folder in temporary.glob("*/BCCD"):
                _lay_out(folder, laid_out)
            found = tree_sha256(laid_out)
            if found != tree:
                raise DatasetError(
                    f"{archive.url}: its files have the sha256 {found} together, expected is {tree}; removed. "
                    "Fetch again; if it stays so, the repository has changed and must not be compared with"
                )
            os.replace(temporary / "VOCdevkit", devkit)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _lay_out(source: Path, target: Path) -> None:
    for folder in ("Annotations", "JPEGImages"):
        shutil.copytree(source / folder, target / folder)
    (target / "ImageSets" / "Main").mkdir(parents=True)
    for split in ("trainval", "test"):
        shutil.copy(source / "ImageSets" / "Main" / f"{split}.txt", target / "ImageSets" / "Main")
