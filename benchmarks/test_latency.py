"""Latency of each shipped checkpoint, stage by stage; end to end also in the tables and files of pytest-benchmark.

Without `--hardware` a detector is timed once over some images, in this process. With a profile it is timed in a process
of its own until the profile's stopping rule is met.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from benchmarks.again import with_earlier
from benchmarks.answers import checked
from benchmarks.evaluate import load_subject
from benchmarks.hardware import WarmUp
from benchmarks.isolated import in_fresh_process
from benchmarks.recording import latency_record
from benchmarks.timing import Job, nonconformity

SECONDS = 3.0
"""For the warm-up, and for the samples beyond those that the percentiles need: slow detectors have fewer of both."""


class Replay:
    """A clock that pytest-benchmark reads before and after each round; what passes between is a measured sample.

    So its statistics are of the samples in the Record, and nothing is measured twice.
    """

    def __init__(self) -> None:
        self._steps = iter([0.0])
        self._now = 0.0

    def load(self, seconds: Sequence[float]) -> None:
        self._steps = itertools.chain.from_iterable((0.0, step) for step in seconds)

    def __call__(self) -> float:
        self._now += next(self._steps)
        return self._now


REPLAY = Replay()


@pytest.mark.benchmark(timer=REPLAY)
def test_latency(
    shipped_checkpoint, images, under, records, measuring, table_row, benchmark, data_root, nonconforming, pytestconfig
):
    if not measuring:
        pytest.skip("measured only with --benchmark")
    path, expectation = shipped_checkpoint
    if pytestconfig.getoption("--hardware"):
        job = Job(expectation.detector, under, images.name, images.split, data_root, path, says=False)
        record = in_fresh_process(Job.run, job)
    else:
        record = latency_record(
            load_subject(expectation.detector, path, len(images.class_names)),
            images,
            device=under.device,
            threads=under.threads,
            images=60,
            seconds=SECONDS,
            warmup=WarmUp(seconds=SECONDS),
        )
    record, same = checked(with_earlier(record, records), records)
    record.write(records)
    for sentence in nonconformity(record, under):
        nonconforming[sentence] = nonconforming.get(sentence, 0) + 1

    samples = record.samples["end_to_end"]
    REPLAY.load(samples)
    benchmark.pedantic(lambda: None, rounds=len(samples))
    medians = {stage: 1000 * record.metrics[stage]["median"] for stage in record.samples}
    benchmark.extra_info.update(
        detector=expectation.detector,
        weights=record.weights.sha256,
        fingerprint=images.fingerprint,
        profile=record.hardware.profile,
        deviations=list(record.hardware.deviations),
        protocol=record.protocol,
        median_ms=medians,
        median_between_ms=[side and 1000 * side for side in record.metrics["end_to_end"]["between"]["median"]],
        p99_between_ms=[side and 1000 * side for side in record.metrics["end_to_end"]["between"]["p99"]],
        outliers=record.metrics["end_to_end"]["outliers"],
        converged=record.metrics["converged"],
        sampling=record.metrics["sampling"],
        answers=record.answers,
        same_run=str(same),
    )
    assert all(value > 0 for value in medians.values())
    shown = {"ms": medians["end_to_end"], "network ms": medians["network"], "proposals ms": medians.get("proposals")}
    table_row(**shown)
    if same.state == "void":
        pytest.fail(f"{expectation.detector}: {same}", pytrace=False)
