"""A COCO data set of two images: categories with gaps between their ids, a polygon, a crowd in RLE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

TRUTH: dict[str, Any] = {
    "images": [
        {"id": 42, "file_name": "b.png", "width": 40, "height": 30},
        {"id": 7, "file_name": "a.png", "width": 20, "height": 10},
    ],
    "categories": [{"id": 3, "name": "car"}, {"id": 90, "name": "toothbrush"}],
    "annotations": [
        {"id": 11, "image_id": 7, "category_id": 90, "bbox": [1.5, 2, 3.25, 4], "area": 6.5, "iscrowd": 0,
         "segmentation": [[1.5, 2, 4.75, 2, 4.75, 6, 1.5, 6]]},
        {"id": 12, "image_id": 7, "category_id": 3, "bbox": [0, 0, 20, 10], "area": 100, "iscrowd": 1,
         "segmentation": {"size": [10, 20], "counts": [100, 50, 50]}},
    ],
}  # fmt: skip


def write_images(folder: Path) -> None:
    """The images of `TRUTH`, all of one grey."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in TRUTH["images"]:
        Image.new("RGB", (image["width"], image["height"]), (90, 90, 90)).save(folder / image["file_name"])


def write_coco(root: Path, truth: Any, images: str = "images/val2017") -> Path:
    """The data set as it unpacks, its annotations being `truth`, or that text; gives `root`."""
    write_images(root / images)
    (root / "annotations").mkdir(exist_ok=True)
    text = truth if isinstance(truth, str) else json.dumps(truth)
    (root / "annotations" / "instances_val2017.json").write_text(text)
    return root
