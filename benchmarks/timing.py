"""Latency Records: the measurement of `benchmarks.latency` with what it was measured on."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from benchmarks import hardware
from benchmarks.datasets import Dataset
from benchmarks.evaluate import Subject, dataset_id
from benchmarks.latency import measure_latency
from benchmarks.provenance import commit, sha256, versions
from benchmarks.results import Record, Weights
from zoo import CATALOG

__all__ = ["latency_record", "print_latency"]


def latency_record(subject: Subject, dataset: Dataset, *, device: str, threads: int, images: int) -> Record:
    """Time a detector on the first images of a split and make the Record."""
    result = measure_latency(subject.model, dataset, device=device, threads=threads, images=images)
    spec = CATALOG[subject.name]
    return Record(
        kind="latency",
        detector=subject.name,
        scale=subject.scale,
        overrides=json.loads(json.dumps(subject.overrides, default=str)),
        num_classes=subject.model.num_classes,
        weights=Weights(file=subject.weights.name, sha256=sha256(subject.weights)),
        dataset=dataset_id(dataset),
        protocol=result.protocol,
        hardware=hardware.stamp(device, threads),
        commit=commit(),
        versions=versions(),
        metrics={**result.summary(), "year": spec.year, "paper": spec.paper, "family": spec.family},
        samples=result.samples,
    )


def print_latency(record: Record) -> None:
    """Median and spread of each stage, in milliseconds."""
    table = Table("stage", "median ms", "IQR ms", "p95 ms", title=f"{record.detector} on {record.hardware.device}")
    for stage in record.samples:
        row = record.metrics[stage]
        table.add_row(stage, *(f"{1000 * row[key]:.2f}" for key in ("median", "iqr", "p95")))
    Console().print(table)
