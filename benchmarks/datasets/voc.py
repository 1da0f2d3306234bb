"""PASCAL VOC's layout: `VOCdevkit/VOC<year>/{Annotations,ImageSets/Main,JPEGImages}`.

VOC counts pixels from 1 and both corners belong to the box; here boxes are continuous: x1 = xmin - 1, x2 = xmax. An
object's area is that of its box. An image's id is the number made of the digits of its name (2007's `000001` is 1, as
in every COCO conversion of it) where those differ within the split, else its position, from 1.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from benchmarks.datasets.dataset import Dataset, DatasetError, refuse_strays
from benchmarks.datasets.download import Archive, fetch_and_unpack
from benchmarks.sentences import brief, quoted

__all__ = ["CLASS_NAMES", "download_voc", "ground_truth", "open_voc"]

CLASS_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

_OVERHANG = 2.0
"""Pixels by which a box may reach out of its image; it is then clipped. Official files contain such boxes."""

_LARGEST = 8 << 20
"""Bytes of an annotation; official ones have some thousands."""

_WIDEST = 1_000_000
"""Pixels of an image's side."""

_HOST = "http://host.robots.ox.ac.uk/pascal/VOC"
_ARCHIVES = {
    "2007_trainval": Archive(
        f"{_HOST}/voc2007/VOCtrainval_06-Nov-2007.tar",
        "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
        460_032_000,
    ),
    "2007_test": Archive(
        f"{_HOST}/voc2007/VOCtest_06-Nov-2007.tar",
        "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
        451_020_800,
    ),
    "2012_trainval": Archive(
        f"{_HOST}/voc2012/VOCtrainval_11-May-2012.tar",
        "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
        1_999_639_040,
    ),
}
_JOINT = {f"0712_{part}": (f"2007_{part}", f"2012_{part}") for part in ("train", "val", "trainval")}


def open_voc(split: str, data_root: Path, *, name: str = "voc", class_names: Sequence[str] = CLASS_NAMES) -> Dataset:
    """Open a split that lies in VOC's layout.

    Args:
        split: Year and image set, such as `2007_test`; `0712_trainval` is both years' one after the other. The year
            may be left out where only one is there.
        data_root: Holds `VOCdevkit/`.
        name: What the data set calls itself.
        class_names: Every name that may occur, in the order of the labels.

    Raises:
        DatasetError: A file is missing or damaged, an entry is missing, unknown, or no box within its image.
    """
    truth, folders = ground_truth(split, data_root, class_names)
    paths: list[Path] = []
    present: dict[Path, dict[str, str]] = {}
    for folder, image in zip(folders, truth["images"], strict=True):
        if folder not in present:
            files = os.listdir(folder) if folder.is_dir() else []
            present[folder] = {Path(file).stem: file for file in files if file.endswith((".jpg", ".png"))}
            refuse_strays(folder, present[folder].values(), data_root)
        stem = Path(image["file_name"]).stem
        if stem not in present[folder]:
            raise DatasetError(f"{folder / stem}.jpg: the image is missing; unpack the archive again")
        image["file_name"] = present[folder][stem]
        paths.append(folder / image["file_name"])
    return Dataset(name, split, truth, paths)


def ground_truth(
    split: str, data_root: Path, class_names: Sequence[str] = CLASS_NAMES
) -> tuple[dict[str, Any], list[Path]]:
    """The annotations of a split as COCO's dict, and the folder of each image; the images need not be there.

    Annotations carry `difficult` and `truncated` besides COCO's keys. Raises what `open_voc` raises.
    """
    stems: list[str] = []
    folders: list[Path] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    labels = {name: label for label, name in enumerate(class_names)}
    for part in _JOINT.get(split, (split,)):
        year, members = _members(part, data_root)
        for stem in members:
            size, objects = _read(year / "Annotations" / f"{stem}.xml", labels)
            stems.append(stem)
            folders.append(year / "JPEGImages")
            images.append({"id": len(stems), "file_name": f"{stem}.jpg", "height": size[0], "width": size[1]})
            annotations += [{"id": 0, "image_id": len(stems), **thing} for thing in objects]
    numbers = [int("".join(re.findall(r"\d", stem)) or 0) for stem in stems]
    if len(set(numbers)) == len(numbers):
        for image, number in zip(images, numbers, strict=True):
            image["id"] = number
        for annotation in annotations:
            annotation["image_id"] = numbers[annotation["image_id"] - 1]
    for count, annotation in enumerate(annotations, 1):
        annotation["id"] = count
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(class_names)]
    return {"images": images, "annotations": annotations, "categories": categories}, folders


def _members(part: str, data_root: Path) -> tuple[Path, list[str]]:
    """The year's folder and the names in an image set."""
    devkit = data_root if data_root.name == "VOCdevkit" else data_root / "VOCdevkit"
    years = sorted(path for path in devkit.glob("VOC????") if path.is_dir())
    if not years:
        raise DatasetError(f"{devkit}: holds no VOC<year> folder; point --data-root at the folder above VOCdevkit/")
    year, _, image_set = part.rpartition("_")
    wanted = [path for path in years if path.name == f"VOC{year}"] if year else years
    if len(wanted) != 1:
        found = ", ".join(path.name for path in years)
        raise DatasetError(f"{devkit}: split {part!r} does not say which of {found} is meant, as 2007_test does")
    file = wanted[0] / "ImageSets" / "Main" / f"{image_set}.txt"
    if not file.is_file():
        known = sorted(path.stem for path in file.parent.glob("*.txt") if "_" not in path.stem)
        raise DatasetError(f"{file}: there is no such split; there are {', '.join(known) or 'none'}")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: cannot be read ({error}); unpack the archive again") from error
    stems = [line.split()[0] for line in lines if line.strip()]
    for stem in stems:
        if Path(stem).name != stem or "\0" in stem:
            raise DatasetError(f"{file}: {stem!r} is no file's name without its folder; remove the line")
    doubled = sorted({stem for stem in stems if stems.count(stem) > 1}) if len(set(stems)) < len(stems) else []
    if doubled:
        raise DatasetError(f"{file}: {doubled[0]} stands twice; an image counts once, remove one of the lines")
    refuse_strays(wanted[0] / "Annotations", (f"{stem}.xml" for stem in stems), data_root)
    return wanted[0], stems


def _read(file: Path, labels: dict[str, int]) -> tuple[tuple[int, int], list[dict[str, Any]]]:
    """`(H, W)` and objects of one XML file."""
    root = _parsed(file)
    height, width = (_number(file, "size", root.find("size"), key) for key in ("height", "width"))
    if not all(1 <= side <= _WIDEST and side.is_integer() for side in (height, width)):
        raise DatasetError(f"{file}: size {width:g}x{height:g} is no size of an image; mend the entry")
    objects = []
    for number, entry in enumerate(root.findall("object"), 1):
        name = (entry.findtext("name") or "").strip()
        where = f"object {number} ({name if len(name) <= 60 and name.isprintable() else quoted(name)})"
        if name not in labels:
            raise DatasetError(f"{file}: {where}: the class is unknown; known are {', '.join(labels)}")
        x1, y1, x2, y2 = _box(file, where, entry.find("bndbox"), width, height)
        objects.append({
            "category_id": labels[name] + 1,
            "bbox": [_plain(value) for value in (x1, y1, x2 - x1, y2 - y1)],
            "area": _plain((x2 - x1) * (y2 - y1)),
            "iscrowd": 0,
            "difficult": _flag(file, where, entry, "difficult"),
            "truncated": _flag(file, where, entry, "truncated"),
        })  # fmt: skip
    return (int(height), int(width)), objects


def _parsed(file: Path) -> Element:
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise DatasetError(f"{file}: the annotation is missing; unpack the archive again") from error
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error.strerror}); unpack the archive again") from error
    if len(content) > _LARGEST:
        raise DatasetError(f"{file}: has {len(content):,} bytes, more than any annotation; unpack the archive again")
    try:
        root: Element = ElementTree.fromstring(content, forbid_dtd=True)
    except DefusedXmlException as error:
        raise DatasetError(
            f"{file}: is no whole XML file, but one that declares types or entities, which no annotation needs; "
            "unpack the archive again"
        ) from error
    except (ParseError, LookupError, ValueError) as error:
        raise DatasetError(f"{file}: is no whole XML file ({brief(error)}); unpack the archive again") from error
    return root


def _box(
    file: Path, where: str, entry: Element | None, width: float, height: float
) -> tuple[float, float, float, float]:
    """Continuous corners, cut at the image's border."""
    xmin, ymin, xmax, ymax = (_number(file, where, entry, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    if xmax < xmin or ymax < ymin:
        raise DatasetError(f"{file}: {where}: box {xmin:g} {ymin:g} {xmax:g} {ymax:g} is inverted; mend the entry")
    if max(1 - xmin, 1 - ymin, xmax - width, ymax - height) > _OVERHANG:
        raise DatasetError(
            f"{file}: {where}: box {xmin:g} {ymin:g} {xmax:g} {ymax:g} reaches out of the {width:g}x{height:g} "
            "image by more than 2 pixels; mend the entry"
        )
    x1, y1, x2, y2 = max(0.0, xmin - 1), max(0.0, ymin - 1), min(width, xmax), min(height, ymax)
    if x2 <= x1 or y2 <= y1:
        raise DatasetError(f"{file}: {where}: nothing of the box lies in the image; mend the entry")
    return x1, y1, x2, y2


def _number(file: Path, where: str, parent: Element | None, key: str) -> float:
    text = None if parent is None else parent.findtext(key)
    try:
        value = math.nan if "_" in (text or "") else float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"{file}: {where}: {key} is {quoted(text)}, not a number; mend the entry")
    return value


def _flag(file: Path, where: str, entry: Element, key: str) -> int:
    """0 or 1; files that leave the flag out, or empty, mean 0."""
    text = (entry.findtext(key) or "0").strip()
    if text not in ("0", "1"):
        raise DatasetError(f"{file}: {where}: {key} is {quoted(text)}, not 0 or 1; mend the entry")
    return int(text)


def _plain(value: float) -> int | float:
    return int(value) if value.is_integer() else value


def download_voc(split: str, data_root: Path) -> None:
    """Fetch and unpack the official archives that hold `split` (0.5 GB each for 2007, 2 GB for 2012).

    Raises:
        DatasetError: No public archive holds the split, or fetching fails.
    """
    for part in _JOINT.get(split, (split,)):
        year, _, image_set = part.rpartition("_")
        key = f"{year}_{'test' if image_set == 'test' else 'trainval'}"
        if key not in _ARCHIVES:
            raise DatasetError(f"voc: no public archive holds {part!r}; there are {', '.join(_ARCHIVES)}")
        fetch_and_unpack(_ARCHIVES[key], data_root)
