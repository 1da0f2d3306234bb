"""The regression gate: no shipped checkpoint may have lost accuracy since it was shipped."""

from __future__ import annotations

import pytest

from benchmarks.evaluate import category_of_label, detect, evaluate, load_subject
from benchmarks.gate import Gated, bits_of, judge_detections, unfit
from benchmarks.metrics import load_detections, load_ground_truth, score
from benchmarks.provenance import sha256


def test_accuracy(
    shipped_checkpoint, images, device, threads, records, measuring, table_row, gated, tmp_path, pytestconfig
):
    path, expectation = shipped_checkpoint
    if images.fingerprint != expectation.fingerprint:
        pytest.fail(
            f"{expectation.detector}: was measured on split {expectation.fingerprint[:12]}, "
            f"this one is {images.fingerprint[:12]}: the images or boxes differ",
            pytrace=False,
        )
    subject = load_subject(expectation.detector, path, len(images.class_names))
    if not measuring:
        # The self-check: a few images through the whole chain.
        categories = category_of_label(images, subject.model.num_classes, subject.class_names)
        rows = detect(subject.model, images, categories=categories, limit=8, quiet=True)
        truth = load_ground_truth(images.coco())
        assert 0 < score(truth, load_detections(rows, truth))["stats"]["AR100"] < 1
        return
    record = evaluate(subject, images, device=device, out=tmp_path, quiet=True)
    record.write(records)
    stats, fd = record.metrics["stats"], record.metrics["fd"]
    shown = {"AP": stats["AP"], "AP50": stats["AP50"], "AP75": stats["AP75"], "FD": fd["FD"]}
    figures = {name: None if value is None else 100 * value for name, value in shown.items()}
    table_row(year=record.metrics["year"], **figures, expected=expectation.expected)
    reason = unfit(path, expectation)
    if reason is not None:
        table_row(gate="UNFIT")
        gated.append(str(Gated(path.stem, unfit=reason)))
        return
    judged = judge_detections(path, expectation, images, tmp_path / "detections.json", record.metrics)
    found = Gated(path.stem, bits_of(path), judged)
    table_row(gate=judged.outcome, finds=100 * (judged.detectable or float("nan")))
    if judged.outcome != "PASS" or found.bits is None or not found.bits.same:
        gated.append(str(found))
    strict = pytestconfig.getoption("--inconclusive-fails")
    if judged.outcome == "FAIL" or (strict and judged.outcome == "INCONCLUSIVE"):
        changed = "" if sha256(path) == expectation.sha256 else f" ({path.name} is not the file that was shipped)"
        pytest.fail(str(found) + changed, pytrace=False)
