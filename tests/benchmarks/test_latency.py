"""Latency: stages add up, samples follow the images, warm-up ends when it should and says when it did not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.hardware import WarmUp
from benchmarks.latency import STAGES, by_stage, is_steady, measure_latency, summarise
from benchmarks.proposals import Memory
from ops.images import Batch, stack, warp
from ops.structures import Detections, Target
from zoo.detector import Detector, stage

QUICK = WarmUp(window=2, slope=10.0, at_least=4, at_most=6, seconds=5.0)


class Images:
    """Image `i` is `8 + i` pixels high, so that a test can tell which one a call was given."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return torch.zeros((3, 8 + index, 8)), Target(torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64))


class Sleeper(Detector):
    """Takes 2, 8 and 4 ms, and writes down what it was called with."""

    def __init__(self) -> None:
        super().__init__(num_classes=1)
        self.seen: list[list[int]] = []
        self.states: set[tuple[bool, bool, int]] = set()

    def preprocess(self, images: list[Tensor]) -> Batch:
        self.seen.append([int(image.shape[1]) - 8 for image in images])
        time.sleep(0.002)
        return stack([warp(image, (8, 8)) for image in images])

    def network(self, batch: Batch, targets: list[Target] | None = None) -> Tensor:
        self.states.add((self.training, torch.is_inference_mode_enabled(), torch.get_num_threads()))
        time.sleep(0.008)
        return batch.pixels

    def postprocess(self, outputs: Any, batch: Batch) -> list[Detections]:
        time.sleep(0.004)
        empty = Detections(torch.zeros((0, 4)), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
        return [empty] * len(batch.frames)


def test_stages_are_told_apart_and_add_up() -> None:
    result = measure_latency(Sleeper(), Images(12), images=12, threads=1, warmup=QUICK)
    assert tuple(result.samples) == STAGES
    assert all(len(seconds) == 12 for seconds in result.samples.values())
    parts = np.array([result.samples[stage] for stage in STAGES[:3]])
    assert_add_up(parts, result.samples["end_to_end"])
    least = parts.min(1)
    assert (least >= [0.002, 0.008, 0.004]).all()
    # The least of twelve: a busy machine oversleeps, but not always.
    assert (least < [0.0075, 0.0135, 0.0095]).all()


def assert_add_up(parts: np.ndarray, whole: Sequence[float]) -> None:
    """Nothing is counted twice, and next to nothing left out; a busy machine may stop between stages now and then."""
    left = np.array(whole) - parts.sum(0)
    assert (left > -1e-9).all()
    assert np.median(left) < 1e-4


class Proposer(Sleeper):
    """Proposes for 16 ms, in two parts of two layers each, within a network of 8 ms."""

    def network(self, batch: Batch, targets: list[Target] | None = None) -> Tensor:
        for _ in range(2):
            with stage("proposals"), stage("sorting"):
                time.sleep(0.008)
        return super().network(batch, targets)


def test_proposals_are_a_stage_of_their_own_and_stages_add_up() -> None:
    result = measure_latency(Proposer(), Images(12), images=12, threads=1, warmup=QUICK)
    assert tuple(result.samples) == ("preprocess", "network", "proposals", "postprocess", "end_to_end")
    parts = np.array([result.samples[name] for name in list(result.samples)[:4]])
    assert_add_up(parts, result.samples["end_to_end"])
    least = parts.min(1)
    assert (least >= [0.002, 0.008, 0.016, 0.004]).all()
    assert least[1] < 0.024, "the network's time is without that of the proposals"
    assert result.summary()["proposals"]["samples"] == 12


def test_a_slow_detector_is_timed_on_fewer_images_but_enough_for_its_percentiles() -> None:
    result = measure_latency(Sleeper(), Images(40), images=40, threads=1, warmup=QUICK, seconds=0.0)
    assert result.protocol["images"] == len(result.samples["network"]) == 20
    assert result.summary()["end_to_end"]["p95"] is not None
    result = measure_latency(Sleeper(), Images(25), images=25, threads=1, warmup=QUICK, seconds=60.0)
    assert result.protocol["images"] == 25


def test_a_part_that_some_calls_lack_took_no_time_there() -> None:
    plain = dict.fromkeys(STAGES, 1.0)
    samples = by_stage([plain, {**plain, "proposals": 2.0}])
    assert list(samples) == ["preprocess", "network", "proposals", "postprocess", "end_to_end"]
    assert samples["proposals"] == [0.0, 2.0]
    assert tuple(by_stage([plain])) == STAGES


def test_remembered_proposals_are_not_timed(tmp_path) -> None:
    model = Sleeper()
    model.proposer = Memory(everything, tmp_path)
    with pytest.raises(ValueError, match="memory cannot be timed"):
        measure_latency(model, Images(2), images=2, warmup=QUICK)
    model.proposer = everything
    measure_latency(model, Images(2), images=2, warmup=QUICK)


def everything(image: Tensor) -> Tensor:
    return torch.tensor([[0.0, 0.0, image.shape[2], image.shape[1]]])


def test_measured_calls_follow_the_images_after_warm_up() -> None:
    model = Sleeper()
    result = measure_latency(model, Images(5), images=4, threads=1, warmup=QUICK)
    warm = len(result.warmup_samples)
    assert model.seen[:warm] == [[0], [1]] * (warm // 2)
    assert model.seen[warm:] == [[0], [1], [2], [3]]
    assert result.protocol["images"] == 4
    assert result.protocol["warmup"]["calls"] == warm == 4


def test_batches_leave_out_the_rest() -> None:
    model = Sleeper()
    result = measure_latency(model, Images(5), images=100, batch=2, threads=1, warmup=QUICK)
    assert model.seen[-2:] == [[0, 1], [2, 3]]
    assert (result.protocol["batch"], result.protocol["images"], len(result.samples["network"])) == (2, 4, 2)


def test_state_of_model_and_threads() -> None:
    before = torch.get_num_threads()
    wanted = 2 if before == 1 else 1
    model = Sleeper().train()
    result = measure_latency(model, Images(3), threads=wanted, warmup=QUICK)
    assert model.states == {(False, True, wanted)}
    assert result.protocol["threads"] == wanted
    assert torch.get_num_threads() == before
    assert measure_latency(model, Images(3), warmup=QUICK).protocol["threads"] == before


def test_an_unsteady_machine_is_said_to_be_so() -> None:
    class Slower(Sleeper):
        def network(self, batch: Batch, targets: list[Target] | None = None) -> Tensor:
            time.sleep(0.003 * len(self.seen))
            return batch.pixels

    rule = WarmUp(window=2, slope=0.02, at_least=4, at_most=8)
    result = measure_latency(Slower(), Images(2), threads=1, warmup=rule)
    assert not result.converged
    assert len(result.warmup_samples) == 8
    assert result.summary()["converged"] is False


def test_warm_up_ends_after_its_time() -> None:
    rule = WarmUp(window=2, slope=1e-9, at_least=4, at_most=1000, seconds=0.1)
    result = measure_latency(Sleeper(), Images(2), threads=1, warmup=rule)
    assert not result.converged
    assert 4 <= len(result.warmup_samples) < 20


def test_steady_is_a_flat_moving_median() -> None:
    rule = WarmUp(window=4, slope=0.05, at_least=8)
    assert is_steady([1.0] * 8, rule)
    assert not is_steady([1.0] * 7, rule)
    assert is_steady([9.0] * 20 + [1.0] * 8, rule), "only the last two windows count"
    assert not is_steady([2.0 - 0.05 * turn for turn in range(8)], rule)
    assert is_steady([2.0 - 0.005 * turn for turn in range(8)], rule)
    # Images of four sizes in turn are steady, though each call differs from the one before.
    assert is_steady([1.0, 3.0, 2.0, 7.0] * 2, rule)
    # One hiccup does not count.
    assert is_steady([1.0] * 5 + [50.0] + [1.0] * 2, rule)


def test_summary_against_numpy_and_too_few_samples() -> None:
    seconds = list(np.random.default_rng(0).gamma(4.0, size=137))
    found = summarise(seconds)
    assert found["samples"] == 137
    assert found["median"] == pytest.approx(np.median(seconds), abs=1e-12)
    assert found["iqr"] == pytest.approx(np.subtract(*np.percentile(seconds, [75, 25])), abs=1e-12)
    for name, share in (("p90", 90), ("p95", 95), ("p99", 99)):
        assert found[name] == pytest.approx(np.percentile(seconds, share), abs=1e-12)
    assert summarise(seconds[:99])["p99"] is None
    assert summarise(seconds[:100])["p99"] is not None
    assert summarise(seconds[:19])["p95"] is None
    assert summarise(seconds[:9])["p90"] is None
    with pytest.raises(ValueError, match="no samples"):
        summarise([])


def test_foreign_load_counts_others_and_not_us() -> None:
    result = measure_latency(Sleeper(), Images(4), threads=1, warmup=QUICK)
    assert result.foreign_load >= 0
    assert result.summary()["foreign_load"] == result.foreign_load


@pytest.mark.parametrize("wrong", [{"images": 0}, {"threads": 0}, {"batch": 0}])
def test_numbers_must_be_positive(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        measure_latency(Sleeper(), Images(4), **{"threads": 1, **wrong})


def test_a_batch_must_fill() -> None:
    with pytest.raises(ValueError, match="3 images fill no batch of 4"):
        measure_latency(Sleeper(), Images(3), batch=4, threads=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_stages_add_up_to_the_host_clock() -> None:
    result = measure_latency(Sleeper(), Images(12), device="cuda", threads=1, warmup=QUICK)
    stages = [np.median(result.samples[stage]) for stage in STAGES]
    assert sum(stages[:3]) == pytest.approx(stages[3], rel=0.1)
    assert stages[1] >= 0.008
