"""Shipped checkpoints once more, for what their Records of an older form lack, such as the intervals of metrics."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.datasets import open_dataset
from benchmarks.evaluate import evaluate, load_subject
from benchmarks.provenance import dataset_id, sha256
from benchmarks.results import COMMITTED, Record, RecordError
from benchmarks.shipped import shipped

__all__ = ["record_intervals"]

_NEW = ("intervals", "precision")
"""What Records were once written without."""

_MOVED = 1e-4
"""How far a metric may lie from that of the Record: another processor rounds otherwise, and no more."""


def record_intervals(
    dataset: str = "shapes", detector: str = "*", *, data_root: Path | None = None, folder: Path = COMMITTED
) -> list[Path]:
    """Evaluate shipped checkpoints whose Records under `folder` lack intervals or curves, and write them into these.

    What the Record holds already stays as it was.

    Args:
        dataset: What the checkpoints ship for.
        detector: Glob of their detectors.
        data_root: The data as unpacked.
        folder: Where the Records lie.

    Raises:
        RecordError: A metric is no longer what the Record says; Records before it are written already.
    """
    images = open_dataset(dataset, None, data_root)
    checkpoints = {sha256(path): path for path, _ in shipped(dataset, detector)}
    lacking = {
        path: record
        for path in sorted(folder.rglob("accuracy.*.json"))
        if not set(_NEW) <= (record := Record.read(path)).metrics.keys()
        and record.weights is not None
        and record.weights.sha256 in checkpoints
        and record.dataset == dataset_id(images)
        and not (record.multi_scale or record.suppression or record.truth)
    }
    written = []
    for path, record in track(lacking.items(), description="evaluating", console=Console(stderr=True)):
        assert record.weights is not None
        subject = load_subject(record.detector, checkpoints[record.weights.sha256], record.num_classes)
        again = evaluate(subject, images, batch=int(record.protocol.get("batch", 1)), quiet=True)
        _refuse_if_moved(path, record, again)
        # Of what both have the older stays, whatever it is that rounds.
        metrics, protocol = {**again.metrics, **record.metrics}, {**again.protocol, **record.protocol}
        written.append(record.model_copy(update={"metrics": metrics, "protocol": protocol}).write(path.parent))
    return written


def _refuse_if_moved(path: Path, record: Record, again: Record) -> None:
    for part in ("stats", "fd", "voc"):
        for key, value in record.metrics[part].items():
            now = again.metrics[part][key]
            if (value is None) != (now is None) or abs((value or 0.0) - (now or 0.0)) > _MOVED:
                raise RecordError(
                    f"{path}: metrics.{part}.{key}: is {value}, and the checkpoint gives {now} now; intervals of other "
                    "numbers are not written: find out what moved, or measure the Record anew"
                )
