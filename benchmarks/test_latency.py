"""Latency of each shipped checkpoint, stage by stage, and end to end through pytest-benchmark."""

from __future__ import annotations

import itertools

import pytest
import torch

from benchmarks.evaluate import load_subject
from benchmarks.hardware import WarmUp
from benchmarks.recording import latency_record

SECONDS = 5.0
"""For the warm-up, and for the samples beyond those that the percentiles need: slow detectors have fewer of both."""


def test_latency(shipped_checkpoint, images, device, threads, records, measuring, table_row, benchmark):
    if not measuring:
        pytest.skip("measured only with --benchmark")
    path, expectation = shipped_checkpoint
    subject = load_subject(expectation.detector, path, len(images.class_names))
    record = latency_record(
        subject, images, device=device, threads=threads, images=60, seconds=SECONDS, warmup=WarmUp(seconds=SECONDS)
    )
    record.write(records)

    turn = itertools.cycle(range(len(images)))

    def next_image():
        return ([images[next(turn)][0].to(device)],), {}

    def run(batch):
        with torch.inference_mode():
            answer = subject.model(batch)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return answer

    median = record.metrics["end_to_end"]["median"]
    benchmark.pedantic(run, setup=next_image, rounds=max(5, min(20, int(2 / median))), warmup_rounds=1)
    medians = {stage: 1000 * record.metrics[stage]["median"] for stage in record.samples}
    benchmark.extra_info.update(
        detector=expectation.detector,
        weights=record.weights.sha256,
        fingerprint=images.fingerprint,
        profile=record.hardware.profile,
        deviations=list(record.hardware.deviations),
        median_ms=medians,
        converged=record.metrics.get("converged"),
    )
    assert all(value > 0 for value in medians.values())
    shown = {"ms": medians["end_to_end"], "network ms": medians["network"], "proposals ms": medians.get("proposals")}
    table_row(expectation.detector, **shown)
