"""`Dataset`: the images of one split and what is in them, whatever the layout they lie in."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.segments import decode_segment
from ops.structures import Target
from zoo.download import cache_folder

__all__ = ["Dataset", "DatasetError", "cache_folder", "read_image", "refuse_strays"]

_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP")
"""What is decoded. Pillow knows dozens of other formats, one of which (EPS) is a program that another program runs."""

_MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
_MODES = ("1", "CMYK", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr")
"""Eight bits a channel or less. Of 16 bits Pillow would keep what is below 256, and call the rest white."""


class DatasetError(ValueError):
    """A data set cannot be read; the message names the file, the entry and the remedy."""


def read_image(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """Read a file as float32 RGB `[3, H, W]` in 0..1; grey, palette and CMYK files are converted.

    An EXIF orientation is not applied: the annotations of VOC and COCO refer to the pixels as they are stored.

    The size is looked at before a pixel is decoded: a file of some kilobytes may claim thousands of megapixels.

    Args:
        path: JPEG, PNG, BMP, PPM or WebP, of 8 bits a channel.
        size: The `(H, W)` that the annotation states, or None to take what comes, up to 89 megapixels.

    Raises:
        DatasetError: It is missing, truncated, no image, too large, or of another size than stated.
    """
    if path.exists() and not path.is_file():
        raise DatasetError(f"{path}: the image is no plain file; unpack the archive again")
    try:
        with Image.open(path, formats=_FORMATS) as file:
            _refuse_header(path, file, size)
            pixels = np.array(file if file.mode == "RGB" else file.convert("RGB"))
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: the image is missing; unpack the archive again") from error
    except (DatasetError, MemoryError):
        raise
    # A damaged file can fail in any way: Pillow's decoders raise whatever they stumble upon.
    except Exception as error:
        raise DatasetError(f"{path}: the image cannot be decoded ({error}); unpack or download it again") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _refuse_header(path: Path, file: Image.Image, size: tuple[int, int] | None) -> None:
    width, height = file.size
    if size is not None and (height, width) != size:
        raise DatasetError(
            f"{path}: the file has {width}x{height} pixels, its annotation says {size[1]}x{size[0]}; take image and "
            "annotation from the same archive"
        )
    if width * height > _MOST_PIXELS:
        raise DatasetError(f"{path}: claims {width}x{height} pixels, over {_MOST_PIXELS:,}; cut or shrink the image")
    if file.mode not in _MODES:
        raise DatasetError(f"{path}: the image has pixels of mode {file.mode}; convert it to 8 bits a channel")


def refuse_strays(folder: Path, names: Iterable[str], root: Path) -> None:
    """Refuse a file of `folder` that is a link to outside of `root`, or no plain file.

    The folders themselves may be links: where a data set lies is its user's affair, not that of who packed it.

    Raises:
        DatasetError: There is one.
    """
    wanted = set(names)
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        odd = [entry for entry in entries if entry.name in wanted and not entry.is_file(follow_symlinks=False)]
    allowed = (root.resolve(), folder.resolve())
    for entry in odd:
        if not entry.is_file():
            raise DatasetError(f"{entry.path}: is no plain file; unpack the archive again")
        if not any(Path(entry.path).resolve().is_relative_to(place) for place in allowed):
            raise DatasetError(
                f"{entry.path}: is a link to outside of the data set; put the file itself there, or link its folder"
            )


class Dataset:
    """Index -> (image, Target), over a ground truth in COCO's terms.

    Attributes:
        name: Of the data set: shapes, discs, bars, bccd, voc, coco.
        split: For instance `test`, `2007_test`, `val2017`.
        class_names: Label -> name.
        category_ids: Label -> COCO category id (COCO's are sparse, ours run from 1).
        image_ids: Index -> COCO image id.
        paths: Index -> file.
        skipped: COCO ids of images that were left out because they cannot be decoded.

    Args:
        name: See above.
        split: See above.
        ground_truth: COCO's `images`, `annotations` and `categories`; annotations may carry `difficult`.
            Taken as checked and as the caller's no more.
        paths: One file an image, in the order of `images`.
        masks: Decode `segmentation` into `Target.masks`.
    """

    skipped: tuple[int, ...] = ()

    def __init__(
        self, name: str, split: str, ground_truth: Mapping[str, Any], paths: Sequence[Path], *, masks: bool = False
    ) -> None:
        self.name, self.split = name, split
        self.paths = tuple(paths)
        self._truth = dict(ground_truth)
        self._masks = masks
        categories = self._truth["categories"]
        self.class_names = tuple(str(category["name"]) for category in categories)
        self.category_ids = tuple(int(category["id"]) for category in categories)
        self.image_ids = tuple(int(image["id"]) for image in self._truth["images"])
        self._sizes = [(int(image["height"]), int(image["width"])) for image in self._truth["images"]]
        rows: dict[int, list[Mapping[str, Any]]] = {image_id: [] for image_id in self.image_ids}
        for annotation in self._truth["annotations"]:
            # COCO's training set has boxes of no width, which no detector can learn; the ground truth keeps them.
            if min(annotation["bbox"][2:]) > 0:
                rows[annotation["image_id"]].append(annotation)
        self._rows = [rows[image_id] for image_id in self.image_ids]
        self._targets = [self._target(rows) for rows in self._rows]

    def _target(self, rows: Sequence[Mapping[str, Any]]) -> Target:
        labels = {category: label for label, category in enumerate(self.category_ids)}
        boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return Target(
            boxes=boxes.float(),
            labels=torch.tensor([labels[row["category_id"]] for row in rows], dtype=torch.int64),
            ignore=torch.tensor([bool(row["iscrowd"] or row.get("difficult", 0)) for row in rows], dtype=torch.bool),
            area=torch.tensor([row["area"] for row in rows], dtype=torch.float32),
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def __iter__(self) -> Iterator[tuple[Tensor, Target]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Image float32 RGB `[3, H, W]` in 0..1, and its objects; a fresh copy each time.

        Raises:
            DatasetError: The file is missing, damaged, or not of the annotated size.
            IndexError: There is no such index.
        """
        stored = self._targets[index]
        masks = self._decode(index) if self._masks else None
        area = None if stored.area is None else stored.area.clone()
        target = Target(stored.boxes.clone(), stored.labels.clone(), stored.ignore.clone(), area, masks)
        return read_image(self.paths[index], self._sizes[index]), target

    @property
    def has_masks(self) -> bool:
        """Whether every object has a segmentation."""
        return all(row.get("segmentation") for rows in self._rows for row in rows)

    def with_masks(self) -> Dataset:
        """The same images, whose targets bring masks.

        Raises:
            DatasetError: An object has none.
        """
        if not self.has_masks:
            raise DatasetError(f"{self.name} {self.split}: its annotations hold no masks; choose boxes or other data")
        other = copy.copy(self)
        other._masks = True
        return other

    def first(self, count: int) -> Dataset:
        """Its first images alone, which are another test, of another fingerprint.

        Raises:
            DatasetError: There are not so many.
        """
        if not 0 < count <= len(self):
            raise DatasetError(f"{self.name} {self.split}: has {len(self)} images; ask for 1 to all, not for {count}")
        return self._part(range(count), self.category_ids, self.split)

    def only(self, class_names: Sequence[str]) -> Dataset:
        """The images with an object of these classes, and only these classes' objects: a test for their detectors.

        Its split is called for instance `val2017-only-person`.

        Raises:
            DatasetError: A class is unknown, or no image has one.
        """
        by_name = dict(zip(self.class_names, self.category_ids, strict=True))
        if unknown := [name for name in class_names if name not in by_name]:
            raise DatasetError(
                f"{self.name} {self.split}: has no class {unknown[0]!r}; it has {', '.join(self.class_names)}"
            )
        wanted = [by_name[name] for name in class_names]
        indices = [i for i, rows in enumerate(self._rows) if any(row["category_id"] in wanted for row in rows)]
        if not indices:
            raise DatasetError(f"{self.name} {self.split}: no image has any {' or '.join(class_names)}")
        return self._part(indices, wanted, f"{self.split}-only-{'-'.join(class_names)}")

    def without(self, indices: Sequence[int]) -> Dataset:
        """All images but these, which are named as `skipped`: another test, called for instance `val2017-without-2`.

        Raises:
            DatasetError: None is left.
        """
        left = sorted(set(range(len(self))) - set(indices))
        if not left:
            raise DatasetError(f"{self.name} {self.split}: none of its {len(self)} images can be used; unpack it again")
        part = self._part(left, self.category_ids, f"{self.split}-without-{len(self) - len(left)}")
        part.skipped = (*self.skipped, *(self.image_ids[index] for index in sorted(set(indices))))
        return part

    def _part(self, indices: Sequence[int], categories: Sequence[int], split: str) -> Dataset:
        ids = {self.image_ids[index] for index in indices}
        truth = {
            **self._truth,
            "images": [self._truth["images"][index] for index in indices],
            "annotations": [
                row for row in self._truth["annotations"] if row["image_id"] in ids and row["category_id"] in categories
            ],
            "categories": [row for row in self._truth["categories"] if row["id"] in categories],
        }
        return Dataset(self.name, split, truth, [self.paths[index] for index in indices], masks=self._masks)

    def target(self, index: int) -> Target:
        """The objects of an image without reading its pixels."""
        return self._targets[index][:]

    def size(self, index: int) -> tuple[int, int]:
        """`(H, W)` of an image without reading its pixels."""
        return self._sizes[index]

    @property
    def num_objects(self) -> int:
        """Annotated objects, difficult and crowd ones too."""
        return len(self._truth["annotations"])

    def coco(self) -> dict[str, Any]:
        """The ground truth as COCO's JSON has it (a copy)."""
        return copy.deepcopy(self._truth)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over names, sizes, boxes, areas and flags, and over the bytes of every image file.

        Equal fingerprints are the same test. It reads all files, about 1 GB a second, once an object.
        """
        keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "difficult")
        facts = {
            "categories": list(zip(self.category_ids, self.class_names, strict=True)),
            "images": list(zip(self.image_ids, self._sizes, strict=True)),
            "annotations": [[row.get(key, 0) for key in keys] for row in self._truth["annotations"]],
        }
        digest = hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode())
        for path in self.paths:
            try:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError as error:
                raise DatasetError(f"{path}: the image cannot be read ({error.strerror}); unpack it again") from error
        return digest.hexdigest()

    def _decode(self, index: int) -> Tensor:
        height, width = self._sizes[index]
        masks = torch.zeros((len(self._rows[index]), height, width), dtype=torch.bool)
        for row, annotation in enumerate(self._rows[index]):
            segment = annotation.get("segmentation")
            if not segment:
                raise DatasetError(
                    f"{self.name} {self.split}: annotation {annotation['id']} has no segmentation; "
                    "open the data set without masks"
                )
            try:
                masks[row] = torch.from_numpy(decode_segment(segment, height, width))
            except ValueError as error:
                raise DatasetError(
                    f"{self.name} {self.split}: annotation {annotation['id']}: segmentation {error}; mend or remove it"
                ) from error
        return masks
