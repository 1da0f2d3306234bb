"""Latency: stages add up, samples follow the images, warm-up ends when it should and says when it did not.

Detectors are fakes that move the clock they are measured by, so that what is to be found is known, whatever else the
machine does.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.hardware import Stopping, WarmUp
from benchmarks.latency import (
    COPIES,
    STAGES,
    LatencyResult,
    by_stage,
    interleaved,
    is_steady,
    measure_latency,
    outliers,
    summarise,
)
from benchmarks.proposals import Memory
from ops.structures import Target
from tests.benchmarks.virtual import Clock, Fake, Images, steadily

QUICK = WarmUp(window=2, slope=10.0, at_least=4, at_most=6, seconds=5.0)


def measured(model: Fake, images: int = 12, **settings) -> LatencyResult:
    settings = {"images": images, "threads": 1, "warmup": QUICK, "clock": model.clock, **settings}
    return measure_latency(model, settings.pop("data", Images(images)), **settings)


def test_stages_are_told_apart_and_add_up() -> None:
    result = measured(Fake(Clock()))
    assert tuple(result.samples) == STAGES, "nothing is copied on a CPU, so that no copy is a stage"
    for stage, seconds in zip(STAGES, (0.002, 0.008, 0.004, 0.014), strict=True):
        assert result.samples[stage] == pytest.approx([seconds] * 12, abs=1e-9)


def test_proposals_are_a_stage_of_their_own_and_stages_add_up() -> None:
    """They are made in two parts of two layers each, within a network of 8 ms."""
    result = measured(Fake(Clock(), proposals=steadily(0.016)))
    assert tuple(result.samples) == ("preprocess", "network", "proposals", "postprocess", "end_to_end")
    for stage, seconds in zip(result.samples, (0.002, 0.008, 0.032, 0.004, 0.046), strict=True):
        assert result.samples[stage] == pytest.approx([seconds] * 12, abs=1e-9)
    assert result.summary()["proposals"]["samples"] == 12


class Scenes:
    """Images of many sizes; how many candidates one holds is told by its colour."""

    def __init__(self) -> None:
        draw = np.random.default_rng(4)
        self.sides = draw.integers(40, 200, size=(60, 2)).tolist()
        self.candidates = draw.integers(0, 1000, size=60).tolist()

    def __len__(self) -> int:
        return len(self.sides)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        image = torch.full((3, *self.sides[index]), self.candidates[index] / 1000)
        return image, Target(torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64))


def test_a_known_cost_model_is_recovered() -> None:
    """20 ns a pixel in the network and 3 us a candidate behind it, 3 % noise, and a clock that takes time to read."""
    draw, clock = np.random.default_rng(0), Clock(reading=2e-7)

    def noisy(seconds: float) -> float:
        return seconds * float(draw.lognormal(0, 0.03))

    model = Fake(
        clock,
        network=lambda image, turn: noisy(0.004 + 20e-9 * image[0].numel()),
        postprocess=lambda image, turn: noisy(0.001 + 3e-6 * 1000 * float(image[0, 0, 0])),
    )
    scenes = Scenes()
    result = measured(model, 60, data=scenes, stopping=Stopping(at_least=180, seconds=(0, 60)))
    rounds = result.protocol["rounds"]
    assert rounds >= 3
    pixels = [height * width for height, width in scenes.sides] * rounds
    assert np.polyfit(pixels, result.samples["network"], 1)[0] == pytest.approx(20e-9, rel=0.05)
    per_candidate = np.polyfit(scenes.candidates * rounds, result.samples["postprocess"], 1)[0]
    assert per_candidate == pytest.approx(3e-6, rel=0.05)
    parts = np.array([result.samples[stage] for stage in STAGES[:3]]).sum(0)
    assert parts == pytest.approx(np.array(result.samples["end_to_end"]), rel=0.02)


def test_a_slow_detector_is_timed_on_fewer_images_but_enough_for_its_percentiles() -> None:
    result = measured(Fake(Clock()), 40, seconds=0.0)
    assert result.protocol["images"] == len(result.samples["network"]) == 20
    assert result.summary()["end_to_end"]["p95"] is not None
    assert measured(Fake(Clock()), 25, seconds=60.0).protocol["images"] == 25


def test_a_detector_too_slow_for_its_rule_goes_through_fewer_images() -> None:
    model = Fake(Clock(), network=steadily(1.0))
    result = measured(model, 100, stopping=Stopping(at_least=1, seconds=(0.0, 90.0)))
    assert result.protocol["calls_a_round"] == 29
    assert model.seen[4 : 4 + 58] == [[image] for image in (*range(29), *range(29))]


def test_a_part_that_some_calls_lack_took_no_time_there() -> None:
    plain = dict.fromkeys(STAGES, 1.0)
    samples = by_stage([plain, {**plain, "proposals": 2.0}])
    assert list(samples) == ["preprocess", "network", "proposals", "postprocess", "end_to_end"]
    assert samples["proposals"] == [0.0, 2.0]
    assert tuple(by_stage([plain])) == STAGES


def test_copies_stand_where_they_happen() -> None:
    into, out = COPIES
    samples = by_stage([dict.fromkeys((*STAGES, out, "proposals", into), 1.0)])
    assert list(samples) == [into, "preprocess", "network", "proposals", "postprocess", out, "end_to_end"]


def test_remembered_proposals_are_not_timed(tmp_path) -> None:
    model = Fake(Clock())
    model.proposer = Memory(everything, tmp_path)
    with pytest.raises(ValueError, match="memory cannot be timed"):
        measured(model, 2)
    model.proposer = everything
    measured(model, 2)


def everything(image: Tensor) -> Tensor:
    return torch.tensor([[0.0, 0.0, image.shape[2], image.shape[1]]])


def test_measured_calls_follow_the_images_after_warm_up() -> None:
    model = Fake(Clock())
    result = measured(model, 4, data=Images(5))
    warm = len(result.warmup_samples)
    assert model.seen[:warm] == [[0], [1]] * (warm // 2)
    assert model.seen[warm:] == [[0], [1], [2], [3]]
    assert result.protocol["images"] == 4
    assert result.protocol["warmup"]["calls"] == warm == 4


def test_rounds_are_whole_and_the_detections_are_those_of_the_last() -> None:
    model = Fake(Clock())
    result = measured(model, 4, stopping=Stopping(at_least=10, seconds=(0.0, 60.0)))
    rounds = result.protocol["rounds"]
    assert model.seen[4:] == [[0], [1], [2], [3]] * rounds
    assert rounds >= 3
    assert len(result.samples["network"]) == 4 * rounds
    assert [float(answer.boxes[0, 3]) for answer in result.answers] == [8, 9, 10, 11]
    assert result.converged
    assert result.summary()["sampling"] == {"half_width": 0, "faults": [], "discarded": [], "disturbed": []}


def test_a_disturbed_round_is_repeated_and_counted() -> None:
    model, script = Fake(Clock()), [["the clock was lowered"], [], ["never asked"]]
    result = measured(model, 4, disturbed=lambda since, until: script.pop(0))
    assert model.seen[4:] == [[0], [1], [2], [3]] * 2
    assert len(result.samples["network"]) == 4
    assert result.summary()["sampling"]["discarded"] == ["the clock was lowered"]
    assert script == [["never asked"]]


def test_batches_leave_out_the_rest() -> None:
    model = Fake(Clock())
    result = measured(model, 100, data=Images(5), batch=2)
    assert model.seen[-2:] == [[0, 1], [2, 3]]
    assert (result.protocol["batch"], result.protocol["images"], len(result.samples["network"])) == (2, 4, 2)
    assert len(result.answers) == 4


def test_state_of_model_and_threads() -> None:
    before = torch.get_num_threads()
    wanted = 2 if before == 1 else 1
    model = Fake(Clock()).train()
    result = measured(model, 3, threads=wanted)
    assert model.states == {(False, True, wanted)}
    assert result.protocol["threads"] == wanted
    assert torch.get_num_threads() == before
    assert measured(Fake(Clock()), 3, threads=None).protocol["threads"] == before


def test_an_unsteady_machine_is_said_to_be_so() -> None:
    model = Fake(Clock(), network=lambda image, turn: 0.003 * (turn + 1))
    result = measured(model, 2, warmup=WarmUp(window=2, slope=0.02, at_least=4, at_most=8))
    assert not result.converged
    assert len(result.warmup_samples) == 8
    assert result.summary()["converged"] is False
    assert result.summary()["sampling"]["faults"] == ["the warm-up did not end steady"]


def test_warm_up_ends_after_its_time() -> None:
    rule = WarmUp(window=2, slope=1e-9, at_least=4, at_most=1000, seconds=0.1)
    model = Fake(Clock(), network=lambda image, turn: 0.01 + 0.0001 * turn)
    result = measured(model, 2, warmup=rule)
    assert not result.converged
    assert len(result.warmup_samples) == 7, "16 ms and a little more each"


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
        low, high = found["between"][name]
        assert low < found[name]
        assert high is None or found[name] < high
    assert found["between"]["p99"][1] is None
    assert summarise(seconds[:99])["p99"] is None
    assert summarise(seconds[:100])["p99"] is not None
    assert summarise(seconds[:19])["p95"] is None
    assert summarise(seconds[:9])["p90"] is None
    assert summarise(seconds[:3])["between"]["median"] == [None, None]
    with pytest.raises(ValueError, match="no samples"):
        summarise([])


def classes(seconds: Sequence[float], images: int | None = None) -> list[int]:
    found = outliers(seconds, images)
    return [found[name] for name in ("low_severe", "low_mild", "high_mild", "high_severe")]


def test_outliers_by_fences_that_one_can_compute() -> None:
    """Of 0, 1, ..., 100 the quartiles are 25 and 75 and stay so when single samples lie far off: fences at -50 and 150,
    -125 and 225."""
    usual = [float(value) for value in range(1, 100)]
    assert classes([*usual, -49.0, 149.0]) == [0, 0, 0, 0]
    assert classes([*usual, -51.0, 151.0]) == [0, 1, 1, 0]
    assert classes([*usual, -126.0, 226.0]) == [1, 0, 0, 1]
    assert classes([1.0] * 50) == [0, 0, 0, 0]


def test_an_image_that_takes_long_is_no_outlier_where_it_repeats() -> None:
    draw = np.random.default_rng(0)
    base = np.full(40, 0.01)
    base[7] = 0.1
    seconds = (base[None] * (1 + 0.01 * draw.uniform(-1, 1, size=(5, 40)))).ravel()
    assert classes(seconds)[3] == 5
    assert classes(seconds, 40)[::3] == [0, 0], "none is severe"
    seconds[40 + 12] *= 2
    seconds[40 + 7] *= 2
    assert classes(seconds, 40)[::3] == [0, 2]
    assert len(seconds) == 200, "nothing is dropped"


def test_foreign_load_counts_others_and_not_us() -> None:
    result = measured(Fake(Clock()), 4)
    assert result.foreign_load >= 0
    assert result.summary()["foreign_load"] == result.foreign_load


@pytest.mark.parametrize("wrong", [{"images": 0}, {"threads": 0}, {"batch": 0}])
def test_numbers_must_be_positive(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        measured(Fake(Clock()), **{"data": Images(4), **wrong})


def test_a_batch_must_fill() -> None:
    with pytest.raises(ValueError, match="3 images fill no batch of 4"):
        measured(Fake(Clock()), 3, batch=4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_stages_add_up_to_the_host_clock() -> None:
    class Working(Fake):
        def network(self, batch, targets=None):
            square = torch.ones(4096, 4096, device=batch.pixels.device)
            for _ in range(10):
                square = square @ square / 4096
            return super().network(batch, targets)

    result = measure_latency(Working(Clock()), Images(12), device="cuda", threads=1, warmup=QUICK)
    assert list(result.samples) == [COPIES[0], *STAGES[:3], COPIES[1], STAGES[3]]
    medians = {stage: np.median(seconds) for stage, seconds in result.samples.items()}
    assert sum(medians.values()) - medians["end_to_end"] == pytest.approx(medians["end_to_end"], rel=0.1)
    assert max(medians, key=lambda stage: medians[stage] if stage != "end_to_end" else 0) == "network"


def test_how_far_it_is_is_drawn_between_the_images_and_by_no_thread(capsys) -> None:
    before = threading.enumerate()
    for turn, order in enumerate(interleaved("ab", 3, 2, "timing")):
        assert threading.enumerate() == before
        assert order == tuple("ab" if (turn + turn // 3) % 2 == 0 else "ba")
    assert "timing" in (said := capsys.readouterr().err)
    assert "100%" in said
    assert len(list(interleaved("ab", 3, 2))) == 6
    assert not capsys.readouterr().err
