"""The regression gate: no shipped checkpoint may have lost accuracy since it was shipped."""

from __future__ import annotations

import pytest

from benchmarks.evaluate import category_of_label, detect, load_subject
from benchmarks.metrics import load_detections, load_ground_truth, score
from benchmarks.provenance import sha256


def test_accuracy(shipped_checkpoint, images, judge, records, measuring, table_row, gated, pytestconfig):
    path, expectation = shipped_checkpoint
    if images.fingerprint != expectation.fingerprint:
        pytest.fail(
            f"{expectation.detector}: was measured on split {expectation.fingerprint[:12]}, "
            f"this one is {images.fingerprint[:12]}: the images or boxes differ",
            pytrace=False,
        )
    if not measuring:
        subject = load_subject(expectation.detector, path, len(images.class_names))
        # The self-check: a few images through the whole chain.
        categories = category_of_label(images, subject.model.num_classes, subject.class_names)
        rows = detect(subject.model, images, categories=categories, limit=8, quiet=True)
        truth = load_ground_truth(images.coco())
        assert 0 < score(truth, load_detections(rows, truth))["stats"]["AR100"] < 1
        return
    found = judge(shipped_checkpoint, images)
    found.record.write(records)
    gate, metrics = found.gated, found.record.metrics
    shown = {name: metrics["stats"][name] for name in ("AP", "AP50", "AP75")} | {"FD": metrics["fd"]["FD"]}
    figures = {name: None if value is None else 100 * value for name, value in shown.items()}
    table_row(year=metrics["year"], **figures, expected=expectation.expected)
    if gate.judgement is None:
        table_row(gate="UNFIT")
        gated.append(str(gate))
        return
    judged = gate.judgement
    table_row(gate=judged.outcome, finds=100 * (judged.detectable or float("nan")))
    if judged.outcome != "PASS" or gate.bits is None or not gate.bits.same:
        gated.append(str(gate))
    strict = pytestconfig.getoption("--inconclusive-fails")
    if judged.outcome == "FAIL" or (strict and judged.outcome == "INCONCLUSIVE"):
        changed = "" if sha256(path) == expectation.sha256 else f" ({path.name} is not the file that was shipped)"
        pytest.fail(str(gate) + changed, pytrace=False)
