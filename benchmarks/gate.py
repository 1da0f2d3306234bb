"""The regression gate over what ships: `python -m benchmarks gate`, and `pytest benchmarks/ --benchmark`.

Two tiers. The first runs two images and names the first stage whose bits moved; it takes a tenth of a second and proves
nothing about accuracy. The second detects on the whole test and judges the headline metric against the reference
(`benchmarks.metrics.regression`). Where the bits cannot be compared, on another processor or version, the second tier
alone decides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks import references
from benchmarks.datasets import DRAWN, Dataset, open_dataset
from benchmarks.evaluate import evaluate, load_subject
from benchmarks.fingerprints import (
    Agreement,
    compare_stages,
    environment,
    fingerprint,
    read_fingerprints,
)
from benchmarks.metrics import load_detections, load_ground_truth, match
from benchmarks.metrics.regression import Judgement, Outcome, judge, judge_unpaired
from benchmarks.provenance import sha256
from benchmarks.ranking import refuse_different_runs
from benchmarks.results import Record, to_json, write_atomically
from benchmarks.shipped import WEIGHTS, Expectation, shipped
from benchmarks.suite import BENCHMARKS, headline_of
from zoo import CATALOG, checkpoints

__all__ = [
    "Exit",
    "Gated",
    "bits_of",
    "exit_code",
    "gate",
    "judge_detections",
    "measure_and_judge",
    "run_gate",
    "run_gate_files",
    "unfit",
]


class Exit(IntEnum):
    """Exit statuses of the gate; a status of 2 is bad input."""

    PASS = 0
    FAIL = 1
    INCONCLUSIVE = 3
    UNFIT = 4


@dataclass(frozen=True)
class Gated:
    """What the gate says of one checkpoint.

    Attributes:
        name: Of the checkpoint.
        bits: The first tier; None where no fingerprints are stored.
        judgement: The second; None where it did not run.
        unfit: Why nothing can be said here, or None.
    """

    name: str
    bits: Agreement | None = None
    judgement: Judgement | None = None
    unfit: str | None = None

    def __str__(self) -> str:
        if self.unfit is not None:
            return f"{self.name}: UNFIT: {self.unfit}"
        bits = "no fingerprints are stored" if self.bits is None else str(self.bits)
        return f"{self.name}: {bits}" if self.judgement is None else f"{self.name}: {self.judgement}; stages: {bits}"

    def as_json(self) -> dict[str, Any]:
        """For `--json`; fractions."""
        found = self.judgement
        judged = None if found is None else {**vars(found), "difference": found.difference}
        stages = None if self.bits is None else {"same": self.bits.same, **vars(self.bits)}
        return {"checkpoint": self.name, "unfit": self.unfit, "stages": stages, "judgement": judged}


def unfit(path: Path, expectation: Expectation, dataset: Dataset | None = None) -> str | None:
    """Why a checkpoint cannot be judged here, in a sentence; None where it can."""
    import torch

    if not path.exists():
        return f"{path} is missing; check the file out again"
    if dataset is not None and dataset.fingerprint != expectation.fingerprint:
        return (
            f"it was measured on split {expectation.fingerprint[:12]}, this one is {dataset.fingerprint[:12]}: the "
            f"images or boxes differ"
        )
    stored = read_fingerprints(references.place_of_fingerprints(path))
    then = "" if stored is None else stored.environment.get("torch", "")
    if then and then.partition(".")[0] != torch.__version__.partition(".")[0]:
        return f"its reference was made with torch {then}, here is {torch.__version__}; install that major version"
    return None


def bits_of(path: Path) -> Agreement | None:
    """The first tier for a checkpoint; None where no fingerprints of this file are stored."""
    stored = read_fingerprints(references.place_of_fingerprints(path))
    if stored is None:
        return None
    model, _ = checkpoints.load(path)
    here = environment()
    if stored.checkpoint != sha256(path):
        # Other weights: their bits are no matter of the code.
        here |= {"checkpoint": sha256(path)[:12]}
        stored = stored.model_copy(update={"environment": {**stored.environment, "checkpoint": stored.checkpoint[:12]}})
    return compare_stages(stored, fingerprint(model.eval()), here)


def judge_detections(
    path: Path, expectation: Expectation, dataset: Dataset, detections: Path, metrics: dict[str, Any]
) -> Judgement:
    """The second tier, of detections on the whole test.

    Args:
        path: The checkpoint, beside which its reference stands.
        expectation: What was measured when it shipped.
        dataset: The test.
        detections: File that `evaluate` wrote, and
        metrics: what it measured.
    """
    benchmark = BENCHMARKS[expectation.benchmark]
    truth = load_ground_truth(dataset.coco())
    measured = match(truth, load_detections(detections, truth))
    score = headline_of(benchmark.name, metrics) / 100
    number, margin = benchmark.headline[1], benchmark.margin / 100
    stored = references.read(references.place_of_matches(path))
    if stored is not None and (stored.checkpoint, stored.split) == (expectation.sha256, expectation.fingerprint):
        reference = stored.matches(truth)
        was = references.headlines(reference)[number]
        if was is not None:
            return judge(reference, measured, (was, score), number=number, margin=margin)
    same = _same(expectation.stats, metrics["stats"])
    was = score if same else expectation.expected / 100
    return judge_unpaired(measured, (was, score), same=same, number=number, margin=margin)


def measure_and_judge(
    path: Path, expectation: Expectation, dataset: Dataset, *, device: str = "cpu", quiet: bool = False
) -> tuple[Record, Judgement]:
    """Evaluate a checkpoint on the whole test, and judge what it detects by the second tier.

    Raises:
        ValueError: Checkpoint and dataset do not fit, or a file is damaged.
    """
    subject = load_subject(expectation.detector, path, len(dataset.class_names))
    with tempfile.TemporaryDirectory() as folder:
        record = evaluate(subject, dataset, device=device, out=Path(folder), quiet=quiet)
        return record, judge_detections(path, expectation, dataset, Path(folder) / "detections.json", record.metrics)


def _same(first: dict[str, float | None], second: dict[str, float | None]) -> bool:
    def close(a: float | None, b: float | None) -> bool:
        return a is b if a is None or b is None else abs(a - b) <= 1e-9

    return all(close(value, second.get(key)) for key, value in first.items())


def gate(
    rows: Sequence[tuple[Path, Expectation]], dataset: Dataset, *, device: str = "cpu", only_bits: bool = False
) -> Iterable[Gated]:
    """Both tiers for each checkpoint, in turn.

    Args:
        rows: What ships, of `benchmarks.shipped.shipped`.
        dataset: The test of all of them.
        device: Of the second tier.
        only_bits: Leave the second tier out.
    """
    for path, expectation in rows:
        reason = unfit(path, expectation, dataset)
        if reason is not None:
            yield Gated(path.stem, unfit=reason)
            continue
        bits = bits_of(path)
        if only_bits:
            yield Gated(path.stem, bits, unfit=None if bits is not None else "no fingerprints are stored")
            continue
        _, found = measure_and_judge(path, expectation, dataset, device=device)
        yield Gated(path.stem, bits, found)


def exit_code(found: Iterable[Gated]) -> Exit:
    """Of several: a FAIL decides, then one that is unfit, then one that is INCONCLUSIVE.

    Where the first tier alone ran, stages that moved are a FAIL, and those that cannot be compared are unfit.
    """
    codes = {_code(one) for one in found}
    return next((code for code in (Exit.FAIL, Exit.UNFIT, Exit.INCONCLUSIVE) if code in codes), Exit.PASS)


def _code(one: Gated) -> Exit:
    if one.unfit is not None:
        return Exit.UNFIT
    if one.judgement is not None:
        outcomes: dict[Outcome, Exit] = {"PASS": Exit.PASS, "FAIL": Exit.FAIL, "INCONCLUSIVE": Exit.INCONCLUSIVE}
        return outcomes[one.judgement.outcome]
    assert one.bits is not None
    return Exit.UNFIT if one.bits.others else Exit.FAIL if one.bits.moved else Exit.PASS


def run_gate_files(
    gt: Path | None, reference: Path, detections: Path, *, number: str = "AP", margin: float = 0.5, out: Path | None
) -> Exit:
    """The second tier for anybody's detector: two files of results on the same images; prints and gives the status.

    Args:
        gt: COCO's instances JSON.
        reference: COCO results of the version that is known to be good,
        detections: and of the one that is asked about.
        number: AP, AP50, AP75, mAP07 or mAP10.
        margin: Points of loss that are of no account.
        out: Where to write the judgement as JSON besides.

    Raises:
        ScoreError: A file cannot be scored.
        ValueError: The number or the margin is none that can be gated, or there is no ground truth.
    """
    if gt is None:
        raise ValueError("--files needs the ground truth of its images; name it by --gt")
    truth = load_ground_truth(gt)
    old, new = (match(truth, load_detections(path, truth)) for path in (reference, detections))
    was, now = (references.headlines(one).get(number) for one in (old, new))
    if was is None or now is None:
        raise ValueError(f"{number} is not defined on {gt}, or cannot be gated; choose AP, AP50, AP75, mAP07 or mAP10")
    refuse_different_runs(reference, detections)
    found = Gated(str(detections), judgement=judge(old, new, (was, now), number=number, margin=margin / 100))
    print(found.judgement)
    if out is not None:
        write_atomically(out, to_json([found.as_json()]))
    return _code(found)


def run_gate(
    patterns: Sequence[str],
    dataset: str | None = None,
    *,
    data_root: Path | None = None,
    device: str = "cpu",
    only_bits: bool = False,
    anew: bool = False,
    out: Path | None = None,
) -> Exit:
    """Judge what ships, print a line or two for each, and return the exit status.

    Args:
        patterns: Names or globs of detectors; none: all that ship for the data set.
        dataset: A key of `BENCHMARKS`; None: all sets that are drawn, each checkpoint on its own.
        data_root: The data as their owner unpacked them.
        device: Of the second tier.
        only_bits: Leave the second tier out.
        anew: Judge nothing; write the references of those that have none.
        out: Where to write the judgements as JSON besides.

    Raises:
        ValueError: There is no such data set or detector, or a stored file is damaged.
    """
    if dataset is not None and dataset not in BENCHMARKS:
        raise ValueError(f"--dataset {dataset}: choose one of {', '.join(BENCHMARKS)}")
    rows, missing = _chosen(patterns, DRAWN if dataset is None else (dataset,))
    found = list(missing)
    for name, ours in groupby(rows, key=lambda row: row[1].benchmark):
        images = open_dataset(name, BENCHMARKS[name].split, data_root)
        if anew:
            for path, expectation in ours:
                for written in references.store(path, expectation, images, device=device):
                    print(written)
            continue
        for one in gate(list(ours), images, device=device, only_bits=only_bits):
            print(one, flush=True)
            found.append(one)
    if anew:
        return exit_code(found)
    for one in missing:
        print(one)
    print(f"{len(found)} judged: {exit_code(found).name}")
    if out is not None:
        write_atomically(out, to_json([one.as_json() for one in found]))
    return exit_code(found)


def _chosen(patterns: Sequence[str], datasets: Sequence[str]) -> tuple[list[tuple[Path, Expectation]], list[Gated]]:
    """What is to be judged, set by set, and what cannot be because its checkpoint is missing."""
    rows: dict[str, dict[Path, Expectation]] = {name: {} for name in datasets}
    missing: list[Gated] = []
    for pattern in patterns or ["*"]:
        here = {name: dict(shipped(name, pattern)) for name in datasets}
        described = [path for name in datasets for path in WEIGHTS.glob(f"*.{name}.json")]
        named = [path for path in described if fnmatch(path.name, f"{pattern}_small.*")]
        lost = [path for path in named if not path.with_suffix(".safetensors").exists()]
        missing += [Gated(path.stem, unfit="its checkpoint is missing; check it out again") for path in sorted(lost)]
        if not any(here.values()) and not lost:
            wanted = " or ".join(datasets)
            if pattern not in CATALOG:
                raise ValueError(f"{pattern}: no such detector ships for {wanted}; see `python -m benchmarks list`")
            missing.append(Gated(pattern, unfit=f"no checkpoint of it ships for {wanted}; train it and ship it"))
        for name, found in here.items():
            rows[name] |= found
    return [row for found in rows.values() for row in found.items()], missing
