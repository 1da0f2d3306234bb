"""What a shipped checkpoint's detections were, so that a later version can be set against them image by image.

Beside `zoo/weights/NAME.safetensors` stand `NAME.matches.npz` and `NAME.fingerprints.json`. The first holds no boxes
and no scores, but all that a resample of the images needs: in which order the detections of a class stand, in which
image each is, and at which overlaps it found an object. That is about a byte and a half a detection, and exact: the
score that follows from it is the one that was measured. What comes behind the last find of its class changes no average
precision and is left out.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.datasets import Dataset
from benchmarks.evaluate import category_of_label, detect, load_subject
from benchmarks.fingerprints import read_fingerprints, write_fingerprints
from benchmarks.metrics import (
    GroundTruth,
    Matches,
    Results,
    accumulate,
    load_detections,
    load_ground_truth,
    match,
)
from benchmarks.metrics.coco import COCO, coco_stats
from benchmarks.metrics.matching import RIGHT
from benchmarks.metrics.voc import voc_average_precision
from benchmarks.proposals import remembering
from benchmarks.provenance import sha256
from benchmarks.results import write_atomically
from benchmarks.shipped import Expectation
from benchmarks.suite import BENCHMARKS
from zoo import checkpoints

__all__ = [
    "Reference",
    "StoredReferenceError",
    "headlines",
    "pack",
    "place_of_fingerprints",
    "place_of_matches",
    "read",
    "store",
    "write",
]

_LARGEST = 64 << 20
"""Bytes of a stored reference once it is unpacked; the largest that ships has two million."""

_BITS = COCO.stop - COCO.start
_MASK = np.uint32((1 << _BITS) - 1)
_TIED = np.uint32(1 << 31)


class StoredReferenceError(ValueError):
    """A stored reference cannot be used; the message names the file, the entry and the remedy."""


@dataclass(frozen=True)
class Reference:
    """Detections of all classes, class by class and by descending score, up to the last find of each class.

    Attributes:
        checkpoint: sha256 of the checkpoint that made them.
        split: Fingerprint of the images.
        starts: Where each class begins, `[K + 1]`.
        image: Of each detection, its position among the images `[N]`.
        outcome: Bits `[N]`: 0-9 has an object at IoU .50:.05:.95, 10-19 is ignored there, 20-21 VOC's rule, 31 its
            score is that of the one before, in the same image.
    """

    checkpoint: str
    split: str
    starts: NDArray[np.int64]
    image: NDArray[np.uint16]
    outcome: NDArray[np.uint32]

    def matches(self, truth: GroundTruth) -> Matches:
        """As of detections just matched with `truth`, in so far as COCO's AP of all sizes and VOC's need it."""
        nothing = np.zeros(0, dtype=np.int64)
        bare = match(truth, Results("nothing", nothing, nothing, np.zeros((0, 4)), np.zeros(0), ()))
        count = len(self.image)
        if len(self.starts) != bare.classes + 1 or (count and int(self.image.max()) >= bare.images):
            raise StoredReferenceError("the stored reference is of other images; write it anew by gate --store")
        category = np.repeat(np.arange(bare.classes), np.diff(self.starts))
        cell = category * bare.images + self.image
        found, skipped = self.outcome & _MASK, (self.outcome >> np.uint32(_BITS)) & _MASK
        columns = np.zeros((2, count, bare.truth_ignored.shape[1]), dtype=np.uint32)
        columns[0, :, 0], columns[1, :, 0] = found << np.uint32(COCO.start), skipped << np.uint32(COCO.start)
        return replace(
            bare,
            category=category,
            image=self.image.astype(np.int64),
            score=-np.cumsum((self.outcome & _TIED) == 0).astype(np.float64),
            rank=_places(cell),
            matched=columns[0],
            ignored=columns[1],
            voc=((self.outcome >> np.uint32(2 * _BITS)) & np.uint32(3)).astype(np.uint8),
            order=np.arange(count),
            starts=self.starts,
        )


def _places(cell: NDArray[np.int64]) -> NDArray[np.int32]:
    """How many of the same cell stand before each."""
    order = np.argsort(cell, kind="stable")
    ordered = cell[order]
    first = np.searchsorted(ordered, ordered)
    places = np.empty(len(cell), dtype=np.int32)
    places[order] = np.arange(len(cell)) - first
    return places


def pack(matches: Matches, checkpoint: str, split: str) -> Reference:
    """The reference of detections that are matched.

    Args:
        matches: All of them.
        checkpoint: sha256 of the checkpoint.
        split: Fingerprint of the images.
    """
    if matches.images > 2**16:
        raise StoredReferenceError(f"{matches.images} images are more than the {2**16} that a reference is made for")
    order = matches.order
    category, image, score = matches.category[order], matches.image[order], matches.score[order]
    found = (matches.matched[order, 0] >> np.uint32(COCO.start)) & _MASK
    skipped = (matches.ignored[order, 0] >> np.uint32(COCO.start)) & _MASK
    voc = matches.voc[order]
    tied = np.zeros(len(order), dtype=np.bool_)
    tied[1:] = (score[1:] == score[:-1]) & (image[1:] == image[:-1]) & (category[1:] == category[:-1])
    outcome = found | skipped << np.uint32(_BITS) | voc.astype(np.uint32) << np.uint32(2 * _BITS)
    outcome = np.where(tied, outcome | _TIED, outcome).astype(np.uint32)
    keep = np.zeros(len(order), dtype=np.bool_)
    finds = (found != 0) | (voc == RIGHT)
    for start, stop in zip(matches.starts[:-1], matches.starts[1:], strict=True):
        last = np.flatnonzero(finds[start:stop])
        end = start + last[-1] + 1 if len(last) else start
        # A tie with the last find belongs to it: its order counts in a resample.
        while start < end < stop and tied[end]:
            end += 1
        keep[start:end] = True
    starts = np.searchsorted(category[keep], np.arange(matches.classes + 1))
    return Reference(checkpoint, split, starts, image[keep].astype(np.uint16), outcome[keep])


def headlines(matches: Matches) -> dict[str, float | None]:
    """AP, AP50, AP75, mAP07 and mAP10, as fractions: what a reference can be asked for."""
    stats = coco_stats(accumulate(matches))
    found = {name: stats[name] for name in ("AP", "AP50", "AP75")}
    for name, values in zip(("mAP07", "mAP10"), voc_average_precision(matches), strict=True):
        found[name] = float(np.nanmean(values)) if np.isfinite(values).any() else None
    return found


def place_of_matches(checkpoint: Path) -> Path:
    """File of a checkpoint's reference."""
    return checkpoint.with_suffix(".matches.npz")


def place_of_fingerprints(checkpoint: Path) -> Path:
    """File of a checkpoint's fingerprints."""
    return checkpoint.with_suffix(".fingerprints.json")


def write(path: Path, reference: Reference) -> None:
    """Write the file, whole or not at all; equal references give equal bytes."""
    buffer = io.BytesIO()
    # One byte of each number after the other: that is a quarter less.
    images, outcomes = (part.astype(f"<u{part.itemsize}").view(np.uint8).reshape(-1, part.itemsize).T.copy()
                        for part in (reference.image, reference.outcome))  # fmt: skip
    about = np.array([reference.checkpoint, reference.split])
    np.savez_compressed(buffer, about=about, starts=reference.starts, image=images, outcome=outcomes)
    write_atomically(path, buffer.getvalue())


def read(path: Path) -> Reference | None:
    """The stored reference; None where there is none.

    Raises:
        StoredReferenceError: The file is damaged.
    """
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > _LARGEST:
                raise ValueError(f"it unpacks to over {_LARGEST:,} bytes")
        with np.load(path, allow_pickle=False) as file:
            checkpoint, split = map(str, file["about"])
            image = np.ascontiguousarray(file["image"].T).view("<u2")[:, 0]
            outcome = np.ascontiguousarray(file["outcome"].T).view("<u4")[:, 0]
            return Reference(checkpoint, split, file["starts"], image, outcome)
    # A damaged archive can fail in any way.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise StoredReferenceError(
            f"{path}: cannot be read ({reason}); delete it, and write it anew by gate --store"
        ) from error


def store(
    path: Path, expectation: Expectation, dataset: Dataset, *, detections: Path | None = None, device: str = "cpu"
) -> list[Path]:
    """Write the reference of a checkpoint that ships, where it has none: its matches and its fingerprints.

    Args:
        path: The checkpoint.
        expectation: What was measured when it shipped.
        dataset: The test.
        detections: File that `evaluate` wrote for it; None detects anew.
        device: To detect on.

    Raises:
        ValueError: The detections do not score what was measured when it shipped.
    """
    written = []
    prints, matches = place_of_fingerprints(path), place_of_matches(path)
    here = sha256(path)
    stored = read_fingerprints(prints)
    if stored is None or stored.checkpoint != here:
        write_fingerprints(prints, checkpoints.load(path)[0].eval(), here)
        written.append(prints)
    known = read(matches)
    if known is not None and (known.checkpoint, known.split) == (here, dataset.fingerprint):
        return written
    truth = load_ground_truth(dataset.coco())
    found = match(truth, load_detections(detections or _detected(path, expectation, dataset, device), truth))
    packed = pack(found, here, dataset.fingerprint)
    name = BENCHMARKS[expectation.benchmark].headline[1]
    score = headlines(packed.matches(truth))[name]
    if score is None or abs(100 * score - expectation.expected) > 1e-3:
        raise ValueError(
            f"{path}: {name} is {'undefined' if score is None else f'{100 * score:.3f}'} here, and was "
            f"{expectation.expected:.3f} when it shipped; a reference must be what was shipped"
        )
    write(matches, packed)
    return [*written, matches]


def _detected(path: Path, expectation: Expectation, dataset: Dataset, device: str) -> list[dict[str, Any]]:
    subject = load_subject(expectation.detector, path, len(dataset.class_names))
    categories = category_of_label(dataset, subject.model.num_classes, subject.class_names)
    with remembering(subject.model, dataset):
        return detect(subject.model, dataset, categories=categories, device=device)
