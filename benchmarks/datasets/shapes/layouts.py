"""A split on disk, in COCO's layout and in VOC's."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from benchmarks.datasets.shapes.forms import CLASS_NAMES
from benchmarks.datasets.shapes.scenes import Scene

__all__ = ["Drawn", "write_layouts"]

Drawn = tuple[int, NDArray[np.uint8], list[dict[str, Any]]]
"""An image of a split: its index, and what `draw` answers."""


def write_layouts(folder: Path, split: str, scene: Scene, drawn: Iterable[Drawn]) -> None:
    """Write `annotations/` and `images/<split>/`, and `VOCdevkit/VOC2007/` whose images are the same files."""
    coco_images, voc = folder / "images" / split, folder / "VOCdevkit" / "VOC2007"
    for path in (
        coco_images,
        folder / "annotations",
        *(voc / p for p in ("Annotations", "JPEGImages", "ImageSets/Main")),
    ):
        path.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    names: list[str] = []
    for index, pixels, objects in drawn:
        name = f"{index + 1:06d}"
        file = coco_images / f"{name}.png"
        file.write_bytes(_png(pixels))
        try:
            os.link(file, voc / "JPEGImages" / file.name)
        except OSError:  # Some file systems have no links.
            shutil.copyfile(file, voc / "JPEGImages" / file.name)
        (voc / "Annotations" / f"{name}.xml").write_text(_xml(file.name, scene.side, objects))
        names.append(name)
        images.append({"id": index + 1, "file_name": file.name, "width": scene.side, "height": scene.side})
        for thing in objects:
            encoded = coco_mask.encode(np.asfortranarray(thing["mask"], dtype=np.uint8))
            annotations.append({
                "id": len(annotations) + 1,
                "image_id": index + 1,
                "category_id": thing["label"] + 1,
                "bbox": thing["bbox"],
                "area": thing["area"],
                "iscrowd": thing["iscrowd"],
                "difficult": thing["difficult"],
                "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
            })  # fmt: skip
    categories = [{"id": label + 1, "name": CLASS_NAMES[label]} for label in scene.labelled]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(truth))
    (voc / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of stored, not packed, pixels: its bytes depend on no compressor, and it reads fast."""
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + width * 3), dtype=np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    raw, most = rows.tobytes(), 0xFFFF
    blocks = [
        struct.pack("<BHH", start + most >= len(raw), len(block), len(block) ^ 0xFFFF) + block
        for start in range(0, len(raw), most)
        for block in [raw[start : start + most]]
    ]
    stream = b"\x78\x01" + b"".join(blocks) + struct.pack(">I", zlib.adler32(raw))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def _xml(file: str, side: int, objects: list[dict[str, Any]]) -> str:
    """VOC's annotation: inclusive pixels from 1. It knows no crowds: those are difficult there."""
    lines = [f"<annotation>\n\t<filename>{file}</filename>"]
    lines.append(f"\t<size><width>{side}</width><height>{side}</height><depth>3</depth></size>")
    for thing in objects:
        x, y, width, height = thing["bbox"]
        lines.append(
            f"\t<object>\n\t\t<name>{CLASS_NAMES[thing['label']]}</name>\n\t\t<truncated>0</truncated>\n"
            f"\t\t<difficult>{thing['difficult'] or thing['iscrowd']}</difficult>\n"
            f"\t\t<bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + width}</xmax><ymax>{y + height}</ymax>"
            "</bndbox>\n\t</object>"
        )
    return "\n".join([*lines, "</annotation>", ""])
