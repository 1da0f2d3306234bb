"""Other people's detectors: images and ground truth go out, a file of results comes back as a Record.

No code of theirs runs, and none of ours in theirs: COCO's two JSON formats are all that is exchanged. `info` of an
exported ground truth says which test it is, so that what is scored against it stands beside the zoo's own detectors.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from benchmarks.metrics import ScoreError
from benchmarks.metrics.entries import read_json
from benchmarks.protocol import identities
from benchmarks.provenance import commit, dataset_id, sha256, versions
from benchmarks.results import DatasetId, Record, write_atomically

if TYPE_CHECKING:
    from benchmarks.datasets import Dataset

__all__ = ["dataset_of", "export", "write_record"]

_KEY = "detector_zoo"
_LISTS = ("images", "annotations", "categories")


def export(dataset: Dataset, out: Path) -> Path:
    """Write the images of a split and `instances.json`, its ground truth in COCO's format, under `out`.

    Returns:
        The ground truth. Its `images` name the files below `out/images`.
    """
    truth = dataset.coco()
    (out / "images").mkdir(parents=True, exist_ok=True)
    for image, path in zip(truth["images"], dataset.paths, strict=True):
        image["file_name"] = Path(image["file_name"]).name
        shutil.copyfile(path, out / "images" / image["file_name"])
    truth["info"] = {
        "description": f"{dataset.name} {dataset.split}",
        _KEY: dataset_id(dataset).model_dump(),
        "sha256": _digest(truth),
    }
    write_atomically(out / "instances.json", json.dumps(truth))
    return out / "instances.json"


def dataset_of(gt: Path) -> DatasetId:
    """Which test a ground truth is.

    An exported one says so itself. Of any other the name of the file must do, `instances_val2017.json` being COCO's;
    its fingerprint is that of the annotations alone, so that pages say that it may be another test than the zoo's.

    Raises:
        ScoreError: It cannot be read, or was changed since it was exported.
    """
    truth: dict[str, Any] = read_json(gt)
    if not isinstance(truth, dict) or not all(isinstance(truth.get(key), list) for key in _LISTS):
        raise ScoreError(f"{gt}: lacks a list of {', '.join(_LISTS)}; give COCO's instances JSON")
    info = truth.get("info")
    if isinstance(info, Mapping) and _KEY in info:
        if info.get("sha256") != _digest(truth):
            raise ScoreError(f"{gt}: was changed since it was exported; export it again")
        try:
            return DatasetId.model_validate(info[_KEY])
        except ValidationError as error:
            raise ScoreError(f"{gt}: info.{_KEY}: {error.errors()[0]['msg']}; export it again") from error
    coco = re.fullmatch(r"instances_(\w+)\.json", gt.name)
    return DatasetId(
        name="coco" if coco else gt.stem,
        split=coco[1] if coco else "test",
        fingerprint=f"annotations-{sha256(gt)}",
        images=len(truth["images"]),
        objects=len(truth["annotations"]),
    )


def write_record(name: str, scores: Mapping[str, Any], gt: Path, detections: Path, out: Path, note: str = "") -> Path:
    """Write the Record of a detector that is not of the zoo, and a copy of its detections, under `out`.

    Args:
        name: What pages call it.
        scores: What `score` returned.
        gt: The ground truth that was scored against.
        detections: COCO's results.
        out: Folder, for `python -m reports --results`.
        note: What a reader must know, in a sentence.

    Raises:
        ScoreError: The name is no file name, or the ground truth was changed since it was exported.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_+-]*", name):
        raise ScoreError(f"--record {name!r}: is a name of a file, too; choose letters, digits, _, + and -")
    test = dataset_of(gt)
    metrics = {key: value for key, value in scores.items() if key != "protocol"}
    protocol = dict(scores["protocol"])
    protocol["identity"] = identities(protocol, test.fingerprint)
    record = Record(
        kind="accuracy",
        detector=name,
        scale="other",
        num_classes=len(metrics["per_class"]),
        dataset=test,
        protocol=protocol,
        commit=commit(),
        versions=versions(),
        metrics=metrics,
        note=note,
    )
    path = record.write(out)
    if detections.is_file() and detections.suffix == ".json":
        write_atomically(path.with_name(f"detections.{path.name}"), detections.read_bytes())
    return path


def _digest(truth: Mapping[str, Any]) -> str:
    parts = [truth[key] for key in _LISTS]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
