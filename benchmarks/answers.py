"""Accuracy and speed of the same run: hashes of the detections, in Records of both kinds.

What a detector answers on the first 1, 2, 5, 10, ... images of a split is hashed, image by image, as the COCO results
that are scored. A latency Record goes only as far as it was timed; two Records are compared by all beginnings that they
share. Where accuracy and latency of the same weights on the same split and under the same conditions differ, what was
timed is not what was scored, and the latency Record is void. Under other conditions (another machine, number of
threads, precision or library) sums are rounded otherwise: there equal hashes prove the same, and others prove nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.results import Record

__all__ = ["STEPS", "SameRun", "accuracies_in", "answer_hashes", "checked", "same_run"]

STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Beginnings of a split that are hashed."""

VOID = "void: what was timed detects otherwise than what was scored"


@dataclass(frozen=True)
class SameRun:
    """Whether a latency was taken of what was scored.

    Attributes:
        state: `void` where it was not; `not checked` where nothing could be compared.
        reason: In words.
    """

    state: Literal["equal", "void", "not checked"]
    reason: str

    def __str__(self) -> str:
        return f"{self.state}: {self.reason}"


def answer_hashes(rows: Iterable[Mapping[str, Any]], image_ids: Sequence[int]) -> dict[str, str]:
    """sha256 of what was detected on the first 1, 2, 5, ... images, by their number, and on all where these are fewer
    than 1,000.

    Args:
        rows: COCO results of these images; within an image in the order in which they were answered.
        image_ids: Of the images, in their order.
    """
    by_image: dict[int, list[Mapping[str, Any]]] = {image: [] for image in image_ids[: STEPS[-1]]}
    for row in rows:
        if row["image_id"] in by_image:
            by_image[row["image_id"]].append(row)
    digest, found = hashlib.sha256(), dict[str, str]()
    for count, item in enumerate(by_image.items(), start=1):
        digest.update(json.dumps(item, sort_keys=True, allow_nan=False).encode())
        if count in STEPS or count == len(by_image):
            found[str(count)] = digest.hexdigest()
    return found


def same_run(latency: Record, accuracies: Iterable[Record]) -> SameRun:
    """Hold a latency Record against the accuracy Records of the same weights on the same split."""
    if not latency.answers:
        return SameRun("not checked", "the latency Record holds no hash of its detections")
    wanted = _identity(latency)
    scored = [record for record in accuracies if record.kind == "accuracy" and _identity(record) == wanted]
    if not scored:
        return SameRun("not checked", "there is no accuracy Record of these weights on this split")
    verdicts = [_held_against(latency, record) for record in scored]
    # Where one of several is of exactly these detections, the others are of another state of the code.
    for state in ("equal", "void", "not checked"):
        for verdict in verdicts:
            if verdict.state == state:
                return verdict
    raise AssertionError("every verdict has one of three states")


def _identity(record: Record) -> tuple[Any, ...]:
    """What must be the same for detections to be; tests in another way than the plain one have no latency."""
    weights = None if record.weights is None else record.weights.sha256
    looks = (record.multi_scale, record.suppression, record.truth, record.protocol.get("mode"))
    return record.detector, record.scale, record.num_classes, record.overrides, weights, record.dataset, looks


def _held_against(latency: Record, accuracy: Record) -> SameRun:
    shared = sorted(latency.answers.keys() & accuracy.answers.keys(), key=int)
    if not shared:
        return SameRun("not checked", "the accuracy Record holds no hash of its detections")
    differing = [count for count in shared if latency.answers[count] != accuracy.answers[count]]
    if not differing:
        return SameRun("equal", f"the detections on the first {shared[-1]} images are those that were scored")
    others = list(_other_conditions(latency, accuracy))
    if others:
        return SameRun("not checked", f"accuracy was measured under other conditions: {'; '.join(others)}")
    place = "the first image" if differing[0] == "1" else f"the first {differing[0]} images"
    return SameRun("void", f"the detections on {place} are not those that were scored; evaluate and time again")


def _other_conditions(latency: Record, accuracy: Record) -> Iterator[str]:
    """What differs of that which moves the last digits of sums."""
    for entry in ("device", "threads", "precision"):
        there, here = getattr(accuracy.hardware, entry, None), getattr(latency.hardware, entry, None)
        if there != here:
            yield f"{entry} {there}, here {here}"
    there, here = accuracy.protocol.get("batch"), latency.protocol.get("batch")
    if there != here:
        yield f"batch {there}, here {here}"
    for library, version in latency.versions.items():
        if accuracy.versions.get(library) != version:
            yield f"{library} {accuracy.versions.get(library)}, here {version}"


def accuracies_in(*folders: Path, detector: str) -> Iterator[Record]:
    """Accuracy Records of a detector in or right under folders."""
    paths = {path for folder in folders for path in (*folder.glob("*.json"), *folder.glob("*/*.json"))}
    for path in sorted(paths):
        if path.name.startswith(f"accuracy.{detector}."):
            yield Record.read(path)


def checked(latency: Record, *folders: Path) -> tuple[Record, SameRun]:
    """A latency Record that says whether it is of what was scored, by the accuracy Records in folders; void, it says so
    in its note too."""
    found = same_run(latency, accuracies_in(*folders, detector=latency.detector))
    metrics = {**latency.metrics, "same_run": {"state": found.state, "reason": found.reason}}
    note = "; ".join(part for part in (latency.note, VOID if found.state == "void" else "") if part)
    return latency.model_copy(update={"metrics": metrics, "note": note}), found
