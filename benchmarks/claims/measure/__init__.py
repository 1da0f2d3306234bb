"""What claims need besides trainings, tests and times: measured by `python -m benchmarks claims`, a Record each.

What is there already stays, so that the command goes on where it was stopped, and a further checkpoint costs itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import hardware
from benchmarks.claims.ledger import LedgerError, read_claims
from benchmarks.claims.measure import (
    batches,
    boxes,
    classical,
    convolutions,
    counts,
    evaluators,
    inputs,
    looking,
    operators,
    photographs,
    published,
    regions,
)
from benchmarks.claims.measure.sweeping import SWEEPS, Sweep, partner_of, subjects
from benchmarks.claims.measure.turns import Timing
from benchmarks.datasets import DatasetError, open_dataset
from benchmarks.evaluate import Subject, load_subject
from benchmarks.provenance import commit, dataset_id, versions
from benchmarks.results import COMMITTED, DatasetId, Hardware, Record
from zoo import checkpoints

__all__ = ["BOXES", "EXACT", "SWEEPS", "TIMES", "measure"]

EXACT: dict[str, Callable[[], dict[str, Any]]] = {
    "roialign-shift": operators.pooled_ramp,
    "iou-loss-scale": operators.overlap_loss,
    "fc-conv": convolutions.convolutional_classifier,
    "receptive-field": convolutions.receptive_fields,
    "deform-identity": operators.deformable_identity,
    "nms-toy": operators.suppression,
    "upsample-toys": convolutions.upsampling,
    "batch-bn": convolutions.batch_statistics,
    "densebox-area-weight": operators.disc_areas,
    "densebox-overlap": operators.disc_overlap,
    "easy-loss-share": operators.focal_laws,
    "ohem-helps": operators.hard_negatives,
    "region-switch": operators.center_regions,
    "yolo-fixed-input": convolutions.fixed_input,
    "ap-toy": evaluators.ranked,
    "perfect-ap": evaluators.perfect,
    "iou-edge": evaluators.edge,
    "fd-not-share": evaluators.false_share,
    "ssd-tail": counts.ssd_tail,
    "backbone-share": counts.backbone_and_regions,
    "rfcn-roi-cost": counts.heads_of_maps,
    "roi-vs-center": counts.looks_inside,
}
"""By claim, what is the same wherever it is measured."""

BOXES: dict[str, Callable[[boxes.Boxes], dict[str, Any]]] = {
    "anchor-coverage": boxes.coverage,
    "negatives-dominate": boxes.imbalance,
    "yolo-crowd": boxes.shared_cells,
    "nms-crowd": boxes.crowding,
    "concentric-anchors": boxes.offsets,
    "level-by-scale": boxes.levels,
}
"""By claim, what is counted over the boxes of data sets."""

_PUBLISHED = ("input-size", "yolo-fastest-1.1-xl")
"""Claim, and the published network that is run at several inputs."""

_TAKEN = ("voc", "2012_test")

TIMES: tuple[Timing, ...] = (
    Timing("cascade-front", photographs.cascade_work, _TAKEN, "paper"),
    Timing("ss-2000", photographs.region_proposals, _TAKEN, "paper"),
    Timing("rfcn-roi-cost", regions.region_costs, ("shapes", "test"), "small"),
    Timing("roi-vs-center", looking.inside_costs, ("shapes", "test"), "small"),
    Timing("batch-time", batches.step_costs, ("shapes", "train"), "small"),
    Timing("input-size", inputs.input_costs, ("shapes", "test"), "small"),
    Timing("classical-cpu", classical.classical_costs, _TAKEN, "paper"),
)
"""What is timed or counted on one core."""


@dataclass(frozen=True)
class _Job:
    """One Record to be written: its name, the folder, and how."""

    title: str
    folder: Path
    make: Callable[[], Record | None]
    name: str


def measure(
    claims: Sequence[str] = (),
    *,
    extra: Sequence[Path] = (),
    images: int = 300,
    anew: bool = False,
    data_root: Path | None = None,
    out: Path | None = None,
) -> list[Path]:
    """Measure what is missing and write a Record each.

    Args:
        claims: Ids; none for all.
        extra: Further checkpoints of the small detectors, such as of other seeds.
        images: Of each split that trained detectors see, the first ones.
        anew: Measure also what is there.
        data_root: Where COCO's or VOC's photographs lie, as for `open_dataset`.
        out: Where Records go; by default the committed ones, of times those of this machine.

    Returns:
        The Records written.

    Raises:
        LedgerError: A claim is unknown, nothing is measured for it, or there are no images to see.
    """
    known = {*EXACT, *BOXES, *(one.claim for one in SWEEPS), *(one.claim for one in TIMES), _PUBLISHED[0]}
    for claim in claims:
        if claim not in {one.id for one in read_claims().claims}:
            raise LedgerError(f"there is no claim {claim}; benchmarks/claims/claims.toml lists them")
        if claim not in known:
            raise LedgerError(
                f"{claim}: rests on tables or on other Records alone; measured are {', '.join(sorted(known))}"
            )
    if images < 1:
        raise LedgerError(f"--images {images}: trained detectors must see at least one image")
    written = []
    console = Console(stderr=True)
    jobs = [
        job
        for job in _jobs(claims, extra, images, data_root, out)
        if anew or not (job.folder / f"{job.name}.json").exists()
    ]
    for number, job in enumerate(jobs, 1):
        console.print(f"{number} of {len(jobs)}: {job.title}")
        record = job.make()
        if record is None:
            print(
                f"{job.title}: data or weights are not there; set DETECTOR_ZOO_DATA and _WEIGHTS, or give weights of "
                f"its seed by --checkpoint",
                file=sys.stderr,
            )
            continue
        written.append(record.write(job.folder))
    return written


def _jobs(
    claims: Sequence[str], extra: Sequence[Path], images: int, data_root: Path | None, out: Path | None
) -> Iterator[_Job]:
    anywhere = out or COMMITTED / "any"
    for claim, run in EXACT.items():
        if not claims or claim in claims:
            yield _Job(claim, anywhere, partial(_record, claim, run), _record(claim, dict).name)
    for claim, count in BOXES.items():
        if not claims or claim in claims:
            for source in boxes.SOURCES:
                name = _name(claim, source)
                yield _Job(f"{claim}, {source}", anywhere, partial(_counted, claim, count, source), name)
    for sweep in SWEEPS:
        if not claims or sweep.claim in claims:
            for subject in subjects(sweep.detectors, extra, sweep.learned):
                for split in sweep.splits:
                    name = _swept_name(sweep.claim, subject, split)
                    title = f"{sweep.claim}, {subject.weights.name}, shapes {split}"
                    yield _Job(title, anywhere, partial(_swept, sweep, subject, split, images, extra), name)
    for timing in TIMES:
        if not claims or timing.claim in claims:
            where = hardware.stamp("cpu", 1)
            there = Record(**_about_times(timing, where), dataset=_named(*timing.data)).name
            make = partial(_timed, timing, images, data_root, where)
            yield _Job(f"{timing.claim}, {' '.join(timing.data)}", out or COMMITTED / where.machine, make, there)
    claim, name = _PUBLISHED
    if not claims or claim in claims:
        there = Record(**_base(claim), detector=name, num_classes=80, dataset=_named("coco", "val2017")).name
        yield _Job(f"{claim}, {name}, coco val2017", anywhere, partial(_published, data_root), there)


def _base(claim: str) -> dict[str, Any]:
    return {"kind": "claim", "scale": "paper", "protocol": {"claim": claim}, "commit": commit(), "versions": versions()}


def _named(name: str, split: str) -> DatasetId:
    """A test of which nothing is known yet but what the name of a Record takes from it."""
    return DatasetId(name=name, split=split, fingerprint="", images=0, objects=0)


def _record(claim: str, run: Callable[[], dict[str, Any]]) -> Record:
    return Record(**_base(claim), detector="none", num_classes=0, metrics=run())


def _name(claim: str, source: str) -> str:
    name, _, split = source.partition(" ")
    return Record(**_base(claim), detector="none", num_classes=0, dataset=_named(name, split)).name


def _counted(claim: str, count: Callable[[boxes.Boxes], dict[str, Any]], source: str) -> Record | None:
    found = boxes.open_boxes(source)
    if found is None:
        return None
    return Record(**_base(claim), detector="none", num_classes=0, dataset=found.id, metrics=count(found))


def _about(claim: str, subject: Subject) -> dict[str, Any]:
    return {
        **_base(claim),
        **subject.as_recorded(),
        "scale": "small",
        "seed": subject.seed,
    }


def _swept_name(claim: str, subject: Subject, split: str) -> str:
    return Record(**_about(claim, subject), dataset=_named("shapes", split)).name


def _published(data_root: Path | None) -> Record | None:
    claim, name = _PUBLISHED
    try:
        dataset = open_dataset("coco", "val2017", data_root)
        subject = load_subject(name, checkpoints.find(name, "coco"), 80)
    except (DatasetError, checkpoints.CheckpointError):
        return None
    about = {**_about(claim, subject), "scale": "paper", "overrides": {}}
    return Record(**about, dataset=dataset_id(dataset), metrics=published.input_sizes(subject, dataset))


def _about_times(timing: Timing, where: Hardware) -> dict[str, Any]:
    return {**_base(timing.claim), "detector": "none", "num_classes": 0, "scale": timing.scale, "hardware": where}


def _timed(timing: Timing, images: int, data_root: Path | None, where: Hardware) -> Record | None:
    try:
        dataset = open_dataset(*timing.data, data_root)
    except DatasetError:
        return None
    found = timing.run(dataset, images)
    about = _about_times(timing, where)
    about["protocol"] = {**about["protocol"], **found.protocol}
    return Record(**about, dataset=dataset_id(dataset), metrics=found.metrics, samples=found.samples)


def _swept(sweep: Sweep, subject: Subject, split: str, images: int, extra: Sequence[Path]) -> Record | None:
    dataset = open_dataset("shapes", split)
    about = _about(sweep.claim, subject)
    about["protocol"] = {**about["protocol"], "images": min(images, len(dataset))}
    beside: tuple[Subject, ...] = ()
    if sweep.partner:
        partner = partner_of(subject, sweep.partner, extra)
        if partner is None:
            return None
        about["protocol"]["partner"] = {key: partner.as_recorded()[key] for key in ("detector", "weights")}
        beside = (partner,)
    metrics = sweep.run(subject, dataset, images, *beside)
    return Record(**about, dataset=dataset_id(dataset), metrics=metrics)
