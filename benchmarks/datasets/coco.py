"""COCO's layout: `annotations/instances_<split>.json` and `images/<split>/` (or `<split>/`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks.datasets.dataset import Dataset, DatasetError, refuse_strays
from benchmarks.datasets.download import Archive, fetch_and_unpack
from benchmarks.jsons import parse_json
from benchmarks.sentences import quoted

__all__ = ["download_coco", "open_coco"]

_OVERHANG = 2.0
_WIDEST = 1_000_000
_BEYOND = 1e15

_HOST = "http://images.cocodataset.org"
_ANNOTATIONS = Archive(
    f"{_HOST}/annotations/annotations_trainval2017.zip",
    "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    252_907_541,
)
_IMAGES = {
    "val2017": Archive(
        f"{_HOST}/zips/val2017.zip",
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        815_585_330,
    ),
    "train2017": Archive(
        f"{_HOST}/zips/train2017.zip",
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        19_336_861_798,
    ),
}


def open_coco(split: str, data_root: Path, *, name: str = "coco", masks: bool = False) -> Dataset:
    """Open a split that lies in COCO's layout.

    The ground truth stays as the file has it, so that a score equals that of any other reader. Boxes of no width or
    height (the training set has a few) do not become targets. A box may reach 2 pixels out of its image.

    Args:
        split: The part of the file name after `instances_`.
        data_root: Holds `annotations/`.
        name: What the data set calls itself.
        masks: Decode segmentations into `Target.masks`.

    Raises:
        DatasetError: A file is missing or truncated, an entry is missing, doubled, unknown or not a number.
    """
    file = data_root / "annotations" / f"instances_{split}.json"
    return Dataset(name, split, *_read(file, _image_folder(data_root, split)), masks=masks)


def _image_folder(data_root: Path, split: str) -> Path:
    for folder in (data_root / "images" / split, data_root / split, data_root / "images"):
        if folder.is_dir():
            return folder
    raise DatasetError(
        f"{data_root}: holds neither images/{split}/ nor {split}/; point --data-root at the folder that holds "
        f"annotations/ and the images of {split}"
    )


def _read(file: Path, folder: Path) -> tuple[dict[str, Any], list[Path]]:
    try:
        truth = parse_json(file.read_bytes())
    except FileNotFoundError as error:
        known = sorted(path.stem.removeprefix("instances_") for path in file.parent.glob("instances_*.json"))
        raise DatasetError(f"{file}: is missing; splits here: {', '.join(known) or 'none'}") from error
    except (ValueError, OSError) as error:
        raise DatasetError(f"{file}: is no whole JSON file ({error}); unpack or download it again") from error
    if not isinstance(truth, dict):
        raise DatasetError(f"{file}: is a {type(truth).__name__}, not COCO's object of images and annotations")
    for key in ("images", "annotations", "categories"):
        if not isinstance(truth.get(key), list):
            raise DatasetError(f"{file}: has no list {key!r}; take an instances file, not a results file")

    images = _by_id(file, "images", truth["images"], ("id", "file_name", "width", "height"))
    categories = _by_id(file, "categories", truth["categories"], ("id", "name"))
    annotations = _by_id(file, "annotations", truth["annotations"], ("id", "image_id", "category_id", "bbox", "area"))
    for index, image in enumerate(truth["images"]):
        _check_image(f"{file}: images[{index}]", image)
    for number, annotation in annotations.items():
        where = f"{file}: annotation {number}"
        image, category = _id(where, annotation, "image_id"), _id(where, annotation, "category_id")
        if image not in images:
            raise DatasetError(f"{where}: image {image} is not in the file; remove the annotation")
        if category not in categories:
            raise DatasetError(f"{where}: category {category} is not in the file; add or remove it")
        _check_box(where, annotation, images[image])
        for flag in ("iscrowd", "difficult"):
            if annotation.get(flag, 0) not in (0, 1):
                raise DatasetError(f"{where}: {flag} is {quoted(annotation[flag])}; write 0 or 1")
        annotation.setdefault("iscrowd", 0)
    paths = [folder / image["file_name"] for image in truth["images"]]
    present = {path.name for path in folder.iterdir()}
    missing = [path for path in paths if path.name not in present]
    refuse_strays(folder, (path.name for path in paths), file.parent.parent)
    if missing:
        raise DatasetError(
            f"{file}: {len(missing)} of its images are not in {folder}, the first is {quoted(missing[0].name)}; "
            "unpack the images too"
        )
    return truth, paths


def _by_id(file: Path, kind: str, rows: list[Any], keys: tuple[str, ...]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for index, row in enumerate(rows):
        lacking = [key for key in keys if not isinstance(row, dict) or key not in row]
        if lacking:
            raise DatasetError(f"{file}: {kind}[{index}] has no {lacking[0]!r}; add it or remove the entry")
        number = _id(f"{file}: {kind}[{index}]", row, "id")
        if number in found:
            raise DatasetError(f"{file}: {kind}[{index}]: id {number} stands twice; give each entry its own")
        found[number] = row
    return found


def _id(where: str, row: Mapping[str, Any], key: str) -> int:
    if type(row[key]) is not int or abs(row[key]) >= 1 << 63:
        raise DatasetError(f"{where}: {key} is {quoted(row[key])}; write a whole number")
    return int(row[key])


def _check_image(where: str, image: Mapping[str, Any]) -> None:
    name = image["file_name"]
    if not isinstance(name, str) or PurePosixPath(name).name != name or "\0" in name:
        raise DatasetError(f"{where}: file_name is {quoted(name)}; write a file's name without its folder")
    for side in ("width", "height"):
        if type(image[side]) is not int or not 0 < image[side] <= _WIDEST:
            raise DatasetError(f"{where}: {side} is {quoted(image[side])}; write it in whole pixels")


def _check_box(where: str, annotation: Mapping[str, Any], image: Mapping[str, Any]) -> None:
    box, area = annotation["bbox"], annotation["area"]
    numbers = [*box, area] if isinstance(box, list) else []
    if len(numbers) != 5 or not all(type(v) in (int, float) and abs(v) < _BEYOND for v in numbers):
        raise DatasetError(
            f"{where}: bbox {quoted(box)} and area {quoted(area)} are not five finite numbers; mend or remove it"
        )
    if area < 0:
        raise DatasetError(f"{where}: area {area} is negative; give the object's area in square pixels")
    x, y, width, height = box
    if width < 0 or height < 0:
        raise DatasetError(f"{where}: bbox {box} has a negative side; it must be [x, y, width, height]")
    out = max(-x, -y, x + width - image["width"], y + height - image["height"])
    if out > _OVERHANG:
        raise DatasetError(
            f"{where}: bbox {box} reaches {out:g} pixels out of its {image['width']}x{image['height']} image; "
            "it must be [x, y, width, height], not two corners"
        )


def download_coco(split: str, data_root: Path) -> None:
    """Fetch and unpack the official annotations and the images of `split` (0.8 GB for val2017, 19 GB for train2017).

    Raises:
        DatasetError: The split is not one of 2017's, or fetching fails.
    """
    if split not in _IMAGES:
        raise DatasetError(f"coco: {split!r} is not served; there are {', '.join(_IMAGES)}")
    for archive in (_ANNOTATIONS, _IMAGES[split]):
        fetch_and_unpack(archive, data_root)
