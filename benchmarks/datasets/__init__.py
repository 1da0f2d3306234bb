"""Images to measure on: `open_dataset(name)` answers index -> (image, Target)."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.datasets.dataset import Dataset, DatasetError, cache_folder, read_image

__all__ = [
    "DATASETS",
    "DRAWN",
    "Dataset",
    "DatasetError",
    "cache_folder",
    "download_dataset",
    "open_dataset",
    "read_image",
]

DRAWN = ("shapes", "discs", "bars")
"""Those that are drawn on the spot."""

DATASETS = {**dict.fromkeys(DRAWN, "test"), "bccd": "test", "voc": "2007_test", "coco": "val2017"}
"""Known names, and the split that is meant where none is named."""


def open_dataset(name: str, split: str | None = None, data_root: Path | None = None, *, masks: bool = False) -> Dataset:
    """Open a split.

    Args:
        name: One of `DATASETS`. `shapes`, `discs` (one class of it) and `bars` (which lean, as text does) draw
            themselves and `bccd` (10 MB) is fetched at its first use; the others lie on disk as their owners packed
            them.
        split: `shapes`: train, val, test, or a named scene such as `crowd`, `crowd-train`. `discs` and `bars`: train,
            test. `bccd`: trainval, test.
            `voc`: `2007_test`, `2012_trainval`, `0712_trainval` (both years, one after the other).
            `coco`: `val2017` and the like.
        data_root: The folder as its owner unpacked it: one holding `VOCdevkit/`, or `images/` (or `val2017/`) and
            `annotations/`. Left out, it is `$DETECTOR_ZOO_DATA/<name>` if that exists, else `<name>` in the cache
            folder, where downloads go.
        masks: Decode segmentations into `Target.masks` (drawn sets and coco).

    Raises:
        DatasetError: The name or split is unknown, or files are missing or damaged.
    """
    split = _split(name, split)
    if masks and name in ("bccd", "voc"):
        raise DatasetError(f"{name}: its XML files hold no masks; open it without")
    if name in DRAWN:
        from benchmarks.datasets.shapes import open_shapes

        return open_shapes(split, name=name, masks=masks)
    if name == "bccd":
        from benchmarks.datasets.bccd import download_bccd, open_bccd

        if data_root is None:
            data_root = _default_root(name)
            download_bccd(data_root)
        return open_bccd(split, data_root)
    if data_root is None:
        data_root = _default_root(name)
        if not data_root.is_dir():
            raise DatasetError(
                f"{name}: there is no {data_root}; give --data-root, or set DETECTOR_ZOO_DATA to a folder that holds "
                f"{name}/, or fetch it by `python -m benchmarks.datasets {name} --split {split}`"
            )
    if name == "coco":
        from benchmarks.datasets.coco import open_coco

        return open_coco(split, data_root, masks=masks)
    from benchmarks.datasets.voc import open_voc

    return open_voc(split, data_root)


def download_dataset(name: str, split: str | None = None, folder: Path | None = None) -> Path:
    """Fetch a split from its owner unless it is there, check it, and return the folder to open it from.

    Args:
        name: One of `DATASETS`; some are drawn.
        split: As for `open_dataset`.
        folder: Where to; `<name>` in the cache folder by default.

    Raises:
        DatasetError: The split is not served, the transfer fails, or what came is not what was expected.
    """
    split = _split(name, split)
    folder = folder or cache_folder() / name
    if name in DRAWN:
        from benchmarks.datasets.shapes import write

        return write(split, folder, name)
    if name == "bccd":
        from benchmarks.datasets.bccd import download_bccd

        download_bccd(folder)
    elif name == "coco":
        from benchmarks.datasets.coco import download_coco

        download_coco(split, folder)
    else:
        from benchmarks.datasets.voc import download_voc

        download_voc(split, folder)
    return folder


def _split(name: str, split: str | None) -> str:
    if name not in DATASETS:
        raise DatasetError(f"data set {name!r} is unknown; there are {', '.join(DATASETS)}")
    return split or DATASETS[name]


def _default_root(name: str) -> Path:
    data = os.environ.get("DETECTOR_ZOO_DATA")
    if data and (folder := Path(data).expanduser() / name).is_dir():
        return folder
    return cache_folder() / name
