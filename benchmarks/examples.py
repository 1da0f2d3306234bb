"""Made-up ground truth and detections of any size, written as fast as they can be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ops.compiled import compiled

__all__ = ["CLASSES", "DETECTIONS_PER_IMAGE", "write_example"]

CLASSES, DETECTIONS_PER_IMAGE = 80, 100

_BLOCK = 10_000
"""Images that are drawn at one time."""

_Form = tuple[str, tuple[int, ...]]
_IMAGE: _Form = ('{"id": @, "width": 640, "height": 480}', (0,))
_OBJECT: _Form = (
    '{"id": @, "image_id": @, "category_id": @, "bbox": [@, @, @, @], "area": @, "iscrowd": @}',
    (0, 0, 0, 2, 2, 2, 2, 3, 0),
)
_FOUND: _Form = ('{"image_id": @, "category_id": @, "bbox": [@, @, @, @], "score": @}', (0, 0, 13, 13, 13, 13, 16))

Floats = NDArray[np.float64]


def write_example(
    folder: Path, images: int, seed: int = 0, tell: Callable[[int], None] = lambda done: None
) -> tuple[Path, Path]:
    """A set shaped like COCO's validation set: 7 objects of 3 classes in an image, 100 detections an image.

    Half of the detections lie near an object, most of them with its class; scores and boxes have as many digits as
    detectors write. `tell` is called with the number of images that are written.

    Returns:
        Ground truth and detections.
    """
    gt, found = folder / "gt.json", folder / "detections.json"
    with gt.open("wb") as truth, found.open("wb") as results:
        truth.write(b'{"images": [')
        for start in range(0, images, _BLOCK):
            ids = np.arange(start + 1, min(start + _BLOCK, images) + 1, dtype=np.float64)
            truth.write((b", " if start else b"") + _text(*_IMAGE, ids[:, None]))
        kinds = [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
        truth.write(b'], "categories": ' + json.dumps(kinds).encode() + b', "annotations": [')
        results.write(b"[")
        written = 0
        for start in range(0, images, _BLOCK):
            count = min(_BLOCK, images - start)
            objects, detections = _draw(np.random.default_rng((seed, start)), count, start + 1, written + 1)
            written += len(objects)
            for file, rows, form in ((truth, objects, _OBJECT), (results, detections, _FOUND)):
                file.write((b", " if start else b"") + _text(*form, rows))
            tell(start + count)
        truth.write(b"]}")
        results.write(b"]")
    return gt, found


def _draw(rng: np.random.Generator, images: int, first_image: int, first_id: int) -> tuple[Floats, Floats]:
    """Objects and detections of some images: a row each, a column for each number that is written."""
    counts = 1 + rng.poisson(6.3, images)
    image = np.repeat(np.arange(images), counts)
    kinds = rng.random((images, CLASSES)).argpartition(3, axis=1)[:, :3] + 1
    labels = kinds[image, rng.integers(3, size=len(image))]
    sides = np.minimum(rng.lognormal(3.9, 1.0, (len(image), 2)), 400)
    corners = rng.uniform(0, 1, (len(image), 2)) * ((640, 480) - sides).clip(1)
    boxes = np.concatenate((corners, sides), axis=1).round(2)
    ids = first_id + np.arange(len(image))
    crowd = rng.random(len(image)) < 0.01
    objects = np.column_stack((ids, first_image + image, labels, boxes, 0.7 * boxes[:, 2] * boxes[:, 3], crowd))

    half = DETECTIONS_PER_IMAGE // 2
    starts = np.cumsum(counts) - counts
    near = (starts[:, None] + (rng.random((images, half)) * counts[:, None]).astype(np.int64)).reshape(-1)
    shaken = boxes[near] + rng.normal(0, 0.08, (len(near), 4)) * np.tile(boxes[near][:, 2:], 2)
    far = rng.uniform(0, 200, (images, DETECTIONS_PER_IMAGE - half, 4))
    places = np.abs(np.concatenate((shaken.reshape(images, half, 4), far), axis=1)).reshape(-1, 4)
    other = kinds[np.arange(images)[:, None], rng.integers(3, size=far.shape[:2])]
    chosen = np.concatenate((labels[near].reshape(images, half), other), axis=1).reshape(-1)
    anything = rng.integers(1, CLASSES + 1, len(chosen))
    chosen = np.where(rng.random(len(chosen)) < 0.3, anything, chosen)
    of = np.repeat(np.arange(images), DETECTIONS_PER_IMAGE) + first_image
    return objects, np.column_stack((of, chosen, places, rng.random(len(chosen)) ** 2))


def _text(template: str, decimals: Sequence[int], values: Floats) -> bytes:
    """The template for each row, with commas between; each `@` is a number with so many decimals."""
    words = [part.encode() for part in template.split("@")]
    words[-1] += b", "
    ends = np.cumsum([len(word) for word in words])
    out = np.empty(len(values) * (int(ends[-1]) + 20 * len(decimals)), dtype=np.uint8)
    length = _render(values, np.array(decimals), np.frombuffer(b"".join(words), dtype=np.uint8), ends, out)
    return out[: length - 2].tobytes()


@compiled
def _render(
    values: Floats,
    decimals: NDArray[np.int64],
    words: NDArray[np.uint8],
    ends: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> int:
    """Write rows of words with numbers, of which none is negative, between them; the length."""
    at = 0
    digits = np.empty(20, dtype=np.uint8)
    for row in range(len(values)):
        begin = 0
        for column in range(len(ends)):
            for i in range(begin, ends[column]):
                out[at] = words[i]
                at += 1
            begin = ends[column]
            if column == len(decimals):
                break
            rest = np.int64(round(values[row, column] * 10.0 ** decimals[column]))
            count = 0
            while rest > 0 or count <= decimals[column]:
                digits[count] = 48 + rest % 10
                rest //= 10
                count += 1
            for i in range(count - 1, -1, -1):
                if i == decimals[column] - 1:
                    out[at] = 46
                    at += 1
                out[at] = digits[i]
                at += 1
    return at
