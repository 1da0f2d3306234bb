"""From a finished training to a checkpoint that ships, what is expected of it, and its Records."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from benchmarks.datasets import Dataset, open_dataset
from benchmarks.evaluate import evaluate, load_subject
from benchmarks.provenance import sha256
from benchmarks.references import store
from benchmarks.results import COMMITTED, Record, write_atomically
from benchmarks.shipped import WEIGHTS, Expectation
from benchmarks.suite import BENCHMARKS, headline_of

__all__ = ["LIMIT", "ship"]

LIMIT = 1_000_000
"""Most bytes of a checkpoint that ships."""


def ship(
    run: Path, *, records_only: bool = False, data_root: Path | None = None, results: Path | None = None
) -> list[Path]:
    """Evaluate the checkpoint of a finished training and copy it, its expectation and its Records into the project.

    Args:
        run: Folder of the training.
        records_only: Copy the Records alone: of further seeds, of parts of the training images, of other sets.
        data_root: The data as their owner unpacked them.
        results: Where Records go; None for the project's own.

    Raises:
        ValueError: There is no checkpoint; or it is to ship, and is larger than 1 MB or no first, whole training.
    """
    trainings = [record for record in map(Record.read, sorted(run.glob("training.*.json"))) if record.weights]
    if not trainings:
        raise ValueError(f"{run}: no finished training here; run `python -m benchmarks train` to its end")
    written = []
    for training in trainings:
        assert training.weights is not None
        assert training.dataset is not None
        source = run / training.weights.file
        if not records_only:
            _check_that_it_may_ship(source, training)
        benchmark = BENCHMARKS[training.dataset.name]
        dataset = open_dataset(benchmark.name, benchmark.test_of(training.dataset.split), data_root)
        with tempfile.TemporaryDirectory() as scratch:
            record = evaluate(load_subject(training.detector, source, training.num_classes), dataset, out=Path(scratch))
            if not records_only:
                written += _copy(source, dataset, record, Path(scratch) / "detections.json")
        machine = "local" if record.hardware is None else record.hardware.machine
        folder = (results or COMMITTED) / machine
        written += [record.write(folder), training.write(folder)]
    return written


def _check_that_it_may_ship(source: Path, training: Record) -> None:
    if source.stat().st_size > LIMIT:
        raise ValueError(f"{source}: {source.stat().st_size:,} bytes; checkpoints that ship have at most {LIMIT:,}")
    skipped = training.dataset.skipped if training.dataset else ()
    special = (
        f"seed {training.seed}" if training.seed else "",
        f"{training.learned_from} images" if training.learned_from else "",
        f"all images but {len(skipped)}" if skipped else "",
        training.changes,
    )
    if any(special):
        raise ValueError(
            f"{source}: was trained with {', '.join(part for part in special if part)}; what ships is the first "
            f"training on all images with the detector's own settings. Give --records to keep its Records alone"
        )


def _copy(source: Path, dataset: Dataset, record: Record, detections: Path) -> list[Path]:
    """Put a checkpoint, what is expected of it and its reference into the project."""
    benchmark = BENCHMARKS[dataset.name]
    target = WEIGHTS / source.name
    WEIGHTS.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
    expectation = Expectation(
        detector=record.detector,
        benchmark=benchmark.name,
        split=benchmark.split,
        fingerprint=dataset.fingerprint,
        sha256=sha256(target),
        headline=benchmark.headline[1],
        expected=round(headline_of(benchmark.name, record.metrics), 3),
        stats=record.metrics["stats"],
    )
    described = target.with_suffix(".json")
    write_atomically(described, expectation.model_dump_json(indent=1) + "\n")
    return [target, described, *store(target, expectation, dataset, detections=detections)]
