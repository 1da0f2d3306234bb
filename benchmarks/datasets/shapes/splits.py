"""The splits by name: drawn once into the cache folder, and read back by the loader of COCO."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock
from rich.progress import track

from benchmarks.datasets.coco import open_coco
from benchmarks.datasets.dataset import Dataset, DatasetError, cache_folder
from benchmarks.datasets.shapes.drawing import draw
from benchmarks.datasets.shapes.layouts import write_layouts
from benchmarks.datasets.shapes.scenes import OWN, SCENES, Scene

__all__ = ["FINGERPRINTS", "open_shapes", "write"]

FINGERPRINTS = {
    "train": "d70179f93f28d4341aa71db5b07a799f810ecfb1d0e6891b424cb9404136b35b",
    "val": "1fee963d8a589b2ac3a078558e824cef36564574097461e4cf1c0aaedb836ea4",
    "test": "44dbbad232d8abb4a71f8c4ebc4534b0013b2432717c66a6c521e8ed35f0d7eb",
    "discs-train": "7dd9e9d90a22e8a635bc016874e46dd6f927b41a4c3ebd00b7df4058791862bd",
    "discs-test": "66787f8bb0eb2c378f8da7f7868974cca0090a3342d2d55d0a44ab50ac76b5d3",
    "bars-train": "99db76426d223f1e009b0c15e9f49d92392a11264dd1bbc1aaad1791bbda2028",
    "bars-test": "82be4ffcf20ae649e4681724fb457148b9f41dfacf09b875d2af9cbf54ad33be",
}
"""`Dataset.fingerprint` of the frozen splits, over pixels and boxes; of those of `OWN`, `<name>-<split>`."""

_EDITION = 1  # Goes up when a pixel or a box of any scene changes.

_FROZEN = {"train": 2000, "val": 300, "test": 300}


def open_shapes(split: str, *, name: str = "shapes", masks: bool = False) -> Dataset:
    """Open a split, drawing it first where the cache folder lacks it.

    Args:
        split: `train`, `val` or `test` of the frozen scene; or a scene's name (its test split), or `<scene>-train`.
            Of the sets of `OWN` `train` or `test`.
        name: `shapes`, or a key of `OWN`.
        masks: Decode the objects' masks.

    Raises:
        DatasetError: There is no such split.
    """
    return open_coco(split, write(split, name=name), name=name, masks=masks)


def _plan(split: str, data: str) -> tuple[Scene, int, int]:
    """Scene, number of the split, and images of a split's name."""
    numbers = {"train": 0, "val": 1, "test": 2}
    if data in OWN:
        if split not in ("train", "test"):
            raise DatasetError(f"{data}: split {split!r} is unknown; there are train and test")
        return OWN[data], numbers[split], OWN[data].images[split == "train"]
    if split in _FROZEN:
        return SCENES["mix"], numbers[split], _FROZEN[split]
    name, _, part = split.partition("-")
    if name not in SCENES or name == "mix" or part not in ("", "train", "test"):
        scenes = ", ".join(name for name in SCENES if name != "mix")
        raise DatasetError(
            f"shapes: split {split!r} is unknown; there are train, val, test, and the scenes {scenes}, "
            "each also as <scene>-train"
        )
    number = numbers[part or "test"]
    return SCENES[name], number, SCENES[name].images[number == 0]


def write(split: str, folder: Path | None = None, name: str = "shapes") -> Path:
    """Draw a split into `folder` (by default `<name>/` in the cache folder) unless it is there, and say where it lies.

    The folder appears whole or not at all; a second process waits for the first. It holds COCO's layout
    (`annotations/`, `images/<split>/`) and VOC's (`VOCdevkit/VOC2007/`), whose images are the same files.
    """
    scene, number, count = _plan(split, name)
    folder = folder or cache_folder() / name
    place = folder / f"{split}.{_EDITION}"
    if place.is_dir():
        return place
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{split}.lock"):
        if not place.is_dir():
            # What a process that was killed left: the lock is ours, so none draws there now.
            for left in folder.glob(f".{split}.*/"):
                shutil.rmtree(left, ignore_errors=True)
            temporary = Path(tempfile.mkdtemp(dir=folder, prefix=f".{split}."))
            try:
                images = track(range(count), f"Drawing {name} {split}", transient=True)
                write_layouts(temporary, split, scene, ((index, *draw(scene, number, index)) for index in images))
                drawn = open_coco(split, temporary, name=name).fingerprint
                frozen = FINGERPRINTS.get(split if name == "shapes" else f"{name}-{split}", drawn)
                if drawn != frozen:
                    raise DatasetError(
                        f"{name} {split}: this machine drew other pixels or boxes (fingerprint {drawn}, frozen is "
                        f"{frozen}); results on them would not compare, please report its platform"
                    )
                os.replace(temporary, place)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
    return place
