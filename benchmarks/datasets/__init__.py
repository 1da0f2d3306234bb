"""Images to measure on: `open_dataset(name)` answers index -> (image, Target)."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.datasets.dataset import Dataset, DatasetError, cache_folder, read_image

__all__ = ["DATASETS", "Dataset", "DatasetError", "cache_folder", "open_dataset", "read_image"]

DATASETS = {"shapes": "test", "bccd": "test", "voc": "2007_test", "coco": "val2017"}
"""Known names, and the split that is meant where none is named."""


def open_dataset(name: str, split: str | None = None, data_root: Path | None = None, *, masks: bool = False) -> Dataset:
    """Open a split.

    Args:
        name: One of `DATASETS`. `shapes` draws itself; the others lie on disk as their owners packed them.
        split: `shapes`: train, val, test, or a named scene such as `crowd`, `crowd-train`. `bccd`: trainval, test.
            `voc`: `2007_test`, `2012_trainval`, `0712_trainval` (both years, one after the other).
            `coco`: `val2017` and the like.
        data_root: The folder as its owner unpacked it: one holding `VOCdevkit/`, or `images/` (or `val2017/`) and
            `annotations/`. Left out, it is `$DETECTOR_ZOO_DATA/<name>`, else `<name>` in the cache folder, where
            downloads go.
        masks: Decode segmentations into `Target.masks` (shapes and coco).

    Raises:
        DatasetError: The name or split is unknown, or files are missing or damaged.
    """
    if name not in DATASETS:
        raise DatasetError(f"data set {name!r} is unknown; there are {', '.join(DATASETS)}")
    split = split or DATASETS[name]
    if name == "shapes":
        from benchmarks.datasets.shapes import open_shapes

        return open_shapes(split, masks=masks)
    if data_root is None:
        data = os.environ.get("DETECTOR_ZOO_DATA")
        data_root = (Path(data).expanduser() if data else cache_folder()) / name
    if name == "coco":
        from benchmarks.datasets.coco import open_coco

        return open_coco(split, data_root, masks=masks)
    if name == "bccd":
        from benchmarks.datasets.bccd import open_bccd

        return open_bccd(split, data_root)
    from benchmarks.datasets.voc import open_voc

    return open_voc(split, data_root)
