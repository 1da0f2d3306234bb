"""Run a detector over a split and score what it says, exactly as a file of results would be scored."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import hardware
from benchmarks.answers import answer_hashes
from benchmarks.datasets import Dataset
from benchmarks.evaluate.detecting import Told, category_of_label, detect, propose
from benchmarks.evaluate.partial import PartialDetections
from benchmarks.evaluate.subject import EvaluationError, Subject
from benchmarks.jsons import as_json
from benchmarks.keypoints import KNOWN, Known, knowing
from benchmarks.metrics import (
    MASKS,
    accumulate,
    image_intervals,
    load_detections,
    load_ground_truth,
    mask_ap,
    match,
    miss_rates,
    precision_curves,
    proposal_recall,
    score_matches,
)
from benchmarks.metrics.miss_rate import PROTOCOL as MISSES
from benchmarks.metrics.proposals import PROTOCOL as PROPOSALS
from benchmarks.modes import Mode, running
from benchmarks.multiscale import protocol_named
from benchmarks.processes import Share, join_processes
from benchmarks.proposals import remembering
from benchmarks.protocol import identities
from benchmarks.provenance import code, commit, dataset_id, versions
from benchmarks.results import Record, to_json, write_atomically
from benchmarks.stopping import alone_in
from ops.nms import Suppression, suppressing
from zoo.detector import Detector

__all__ = ["evaluate"]


def evaluate(
    subject: Subject,
    dataset: Dataset,
    *,
    device: str = "cpu",
    batch: int = 1,
    multi_scale: str | None = None,
    soft_nms: Suppression | None = None,
    known: Known | None = None,
    misses: bool = False,
    mode: Mode | None = None,
    note: str = "",
    out: Path | None = None,
    quiet: bool = False,
) -> Record:
    """Detect, score and make the Record; with `out`, write `detections.json`, `metrics.json` and the Record there.

    What is scored is what was written: both go through the same reader. Beside the metrics stand their 95 % intervals
    from 1,000 resamples of the images. Of a detector that looks at regions the recall of these is measured too, from a
    second pass over the images that ends with the regions.

    Under `torchrun` the images are shared out among all processes, each image to exactly one; the first process scores
    and writes, and all return the same Record.

    With `out`, each batch's detections are kept there at once: killed at its end, the same call looks only at the
    images that are left, and ends with the same files. The second pass over the images starts over.

    Args:
        subject: What detects.
        dataset: Where.
        device: `cpu`, `cuda` or `cuda:N`; under `torchrun` `cuda` is the device of each process's place.
        batch: Images a step.
        multi_scale: Name of a protocol of `benchmarks.multiscale` or `benchmarks.keypoints`: look at each image in
            several sizes. The Record says so, in its name too.
        soft_nms: What suppresses duplicates in place of the detector's hard NMS. The Record says so, in its name too.
        known: What a detector of corners is told of each image, of `benchmarks.keypoints.KNOWN`: an error analysis. The
            Record says so, in its name too.
        misses: Measure miss rates against false positives, as is done anyhow for detectors that classify windows.
        mode: How the network is run. The Record says so, in its name too.
        note: What a reader of the Record must know besides what the subject says.
        out: Folder.
        quiet: Draw no progress.

    Raises:
        EvaluationError: The dataset has none of the detector's classes, or the detector suppresses duplicates in a
            way of its own, which `soft_nms` cannot take the place of.
        ValueError: There is no such protocol, the detector cannot take its sizes, it cannot be told the truth, or
            device or detector cannot run in the mode.
        BusyError: Another process evaluates into `out`.
    """
    mode, network = mode or Mode(), subject.model
    mode.check(device)
    subject, told, looks = _way_of_looking(subject, mode, known, multi_scale, soft_nms)
    categories = category_of_label(dataset, subject.model.num_classes, subject.class_names)
    if soft_nms is not None:
        _refuse_own_way(subject, dataset, categories, soft_nms, device)
    about = subject.as_recorded()
    place, share = str(join_processes(device, "gloo")), Share.joined()
    with ExitStack() as held:
        partial = None
        if out is not None:
            if share.rank == 0:
                held.enter_context(alone_in(out))
            weights = about["weights"].sha256
            identity = _identity(subject, weights, dataset, categories, device=device, batch=batch, looks=looks)
            partial = held.enter_context(PartialDetections(out, identity, share))
        held.enter_context(running(network, mode, place))
        rows, regions = _look(
            subject,
            dataset,
            categories,
            device=place,
            batch=batch,
            soft_nms=soft_nms,
            told=told,
            share=share,
            partial=partial,
            quiet=quiet,
        )
        record = None
        if share.rank == 0:
            if out is not None:
                write_atomically(out / "detections.json", json.dumps(rows, allow_nan=False))
            metrics, protocol = _scored(subject, dataset, rows, regions, misses)
            record = Record(
                kind="accuracy",
                **about,
                dataset=dataset_id(dataset),
                protocol={**protocol, "batch": batch, **looks},
                hardware=hardware.stamp(device, torch.get_num_threads(), **mode.facts()),
                seed=subject.seed,
                learned_from=subject.learned_from,
                commit=commit(),
                versions=versions(),
                metrics={**metrics, "detections": len(rows), **subject.origin},
                answers=answer_hashes(rows, dataset.image_ids),
                note="; ".join(part for part in (subject.note, note) if part),
            )
            if out is not None:
                write_atomically(out / "metrics.json", to_json({**metrics, "protocol": protocol}))
                record.write(out)
                print(f"wrote detections.json, metrics.json and {record.name}.json to {out}", file=sys.stderr)
        record = share.tell(record)
        if partial is not None:
            partial.remove()
        return record


def _way_of_looking(
    subject: Subject, mode: Mode, known: Known | None, multi_scale: str | None, soft_nms: Suppression | None
) -> tuple[Subject, Told | None, dict[str, Any]]:
    """The subject as it is tested, what detects in place of its model where it is told the truth, and what the Record
    says of all that is not the plain test."""
    told = None
    looks: dict[str, Any] = {"mode": mode.describe()} if mode.name else {}
    protocol = None if multi_scale is None else protocol_named(multi_scale)
    if known is not None:
        tested = knowing(subject.model, known, protocol)
        subject, told = replace(subject, model=tested.eval()), tested.told
        looks["truth"] = {"name": f"true_{known}", "as": KNOWN[known]}
    elif protocol is not None:
        subject = replace(subject, model=protocol.over(subject.model).eval())
    if protocol is not None:
        looks["multi_scale"] = as_json(protocol.describe())
    if soft_nms is not None:
        looks["suppression"] = soft_nms.describe()
    return subject, told, looks


def _refuse_own_way(
    subject: Subject, dataset: Dataset, categories: tuple[int | None, ...], soft_nms: Suppression, device: str
) -> None:
    """See on one image that a detector suppresses where `soft_nms` can take its place."""
    with remembering(subject.model, dataset, limit=1, quiet=True), suppressing(soft_nms) as asked:
        detect(subject.model, dataset, categories=categories, device=device, limit=1, quiet=True)
    if not asked.used:
        raise EvaluationError(f"{subject.name} suppresses duplicates in a way of its own: no soft NMS fits it")


def _identity(
    subject: Subject,
    weights: str,
    dataset: Dataset,
    categories: tuple[int | None, ...],
    *,
    device: str,
    batch: int,
    looks: dict[str, Any],
) -> dict[str, Any]:
    """All that detections depend on: what was kept of others is not gone on with."""
    return {
        "detector": subject.name,
        "weights": weights,
        "overrides": subject.overrides,
        "images": dataset.fingerprint,
        "categories": categories,
        "device": device,
        "threads": torch.get_num_threads(),
        "batch": batch,
        "looks": looks,
        "code": code(),
        "versions": versions(),
    }


def _look(
    subject: Subject,
    dataset: Dataset,
    categories: tuple[int | None, ...],
    *,
    device: str,
    batch: int,
    soft_nms: Suppression | None,
    told: Told | None,
    share: Share,
    partial: PartialDetections | None,
    quiet: bool,
) -> tuple[list[dict[str, Any]], dict[int | str, NDArray[np.float64]] | None]:
    """Detections, and of a detector that looks at regions these too; of a `share`'s first process alone."""
    start, known = time.monotonic(), 0 if partial is None else partial.images
    with remembering(subject.model, dataset, quiet=quiet):
        with suppressing(soft_nms):
            rows = detect(
                subject.model,
                dataset,
                categories=categories,
                device=device,
                batch=batch,
                told=told,
                share=share,
                partial=partial,
                quiet=quiet,
            )
        if share.rank == 0 and not known and (share.count > 1 or not quiet):
            pace = len(dataset) / (time.monotonic() - start)
            by = f", by {share.count} processes" if share.count > 1 else ""
            print(f"{len(dataset)} images, {pace:.1f} a second{by}", file=sys.stderr)
        proposes = hasattr(subject.model, "proposals")
        return rows, propose(subject.model, dataset, device=device, share=share, quiet=quiet) if proposes else None


def _scored(
    subject: Subject,
    dataset: Dataset,
    rows: list[dict[str, Any]],
    regions: dict[int | str, NDArray[np.float64]] | None,
    misses: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics and protocol of detections, and of the regions that a detector looked at."""
    truth = load_ground_truth(dataset.coco())
    results = load_detections(rows, truth)
    matches = match(truth, results)
    metrics = score_matches(truth, results, matches)
    protocol = metrics.pop("protocol", {})
    protocol["identity"] = identities(protocol, dataset.fingerprint)
    # Those of single classes would make up most of a Record that nobody reads them from; `score` gives them.
    metrics["intervals"] = {
        part: ends for part, ends in image_intervals(metrics, matches).items() if part != "per_class"
    }
    metrics["precision"] = precision_curves(accumulate(matches))
    if misses or subject.model.classifies_windows:
        metrics["misses"] = miss_rates(matches, truth.labels, _windows(subject.model, dataset))
        protocol["misses"] = MISSES
    if subject.model.trains_on_masks and dataset.has_masks:
        metrics["masks"] = mask_ap(dataset.coco(), rows)
        protocol["masks"] = MASKS
    if regions is not None:
        metrics["proposals"] = proposal_recall(truth, regions)
        protocol["proposals"] = PROPOSALS
    return metrics, protocol


def _windows(model: Detector, dataset: Dataset) -> int | None:
    """How many windows a detector classifies in all images, over all classes; None for detectors that do not."""
    if not model.classifies_windows:
        return None
    counts = Counter(dataset.size(index) for index in range(len(dataset)))
    return sum(images * (model.num_boxes(size) or 0) for size, images in counts.items())
