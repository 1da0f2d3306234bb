"""Sampling ends when the median is known, never on a drift, and throws away what was disturbed; noise is simulated."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

from benchmarks.hardware import Stopping
from benchmarks.latency.converging import Call, Sampled, sample
from tests.benchmarks.virtual import Clock

IMAGES = 50
RULE = Stopping(noise=0.01, at_least=100, at_most=3000, seconds=(2.0, 60.0), repeats=3)


class Simulated:
    """Rounds over images, each call of which takes `cost(k)` seconds, k calls having gone before."""

    def __init__(self, cost: Callable[[int], float]) -> None:
        self.clock, self.cost, self.made = Clock(), cost, 0

    def __call__(self) -> list[Call]:
        found = []
        for _ in range(IMAGES):
            seconds = self.cost(self.made)
            self.clock.sleep(seconds)
            found.append({"end_to_end": seconds, "number": float(self.made)})
            self.made += 1
        return found


def sampled(cost: Callable[[int], float], rule: Stopping | None = RULE, **settings) -> Sampled:
    rounds = Simulated(cost)
    return sample(rounds, rule, rounds.clock, **settings)


def noise(seed: int, spread: float, base: float = 0.01) -> Callable[[int], float]:
    """Log-normal, over images of which the slowest takes a fifth longer than the fastest."""
    draw = np.random.default_rng(seed)
    images = 1 + 0.2 * np.random.default_rng(99).random(IMAGES)
    return lambda number: base * float(images[number % IMAGES]) * float(draw.lognormal(0, spread))


def test_the_target_is_reached_and_holds_what_it_says() -> None:
    """The true median is that of endlessly many calls."""
    cost = noise(0, 0.05)
    truth = np.median([cost(number) for number in range(20_000)])
    apart, counts = [], []
    for seed in range(30):
        found = sampled(noise(seed, 0.05))
        assert found.faults == ()
        assert found.half_width is not None
        assert found.half_width <= RULE.noise
        assert len(found.calls) == found.rounds * IMAGES
        apart.append(abs(np.median([call["end_to_end"] for call in found.calls]) / truth - 1))
        counts.append(len(found.calls))
    assert np.mean(np.array(apart) <= RULE.noise) >= 0.9
    assert max(counts) < RULE.at_most


def test_more_noise_takes_more_samples() -> None:
    means = [np.mean([len(sampled(noise(seed, spread)).calls) for seed in range(5)]) for spread in (0.01, 0.1, 0.2)]
    assert means[0] < means[1] < means[2]


def test_a_minimum_of_calls_and_of_time() -> None:
    found = sampled(lambda number: 0.0101)
    assert len(found.calls) == 200, "two seconds"
    found = sampled(lambda number: 0.1)
    assert len(found.calls) == 100
    assert found.faults == ()
    assert found.half_width == 0


def test_heavy_noise_is_said_not_to_converge() -> None:
    draw = np.random.default_rng(1)
    found = sampled(lambda number: 0.01 * float(draw.lognormal(0, 0.6)), RULE.model_copy(update={"at_most": 500}))
    assert len(found.calls) == 500
    assert any("1 % is aimed at" in fault for fault in found.faults)


def test_time_runs_out_at_the_end_of_a_round() -> None:
    draw = np.random.default_rng(1)
    found = sampled(lambda number: 0.3 * float(1 + draw.pareto(0.7)))
    assert len(found.calls) % IMAGES == 0
    assert sum(call["end_to_end"] for call in found.calls[:-IMAGES]) < 60
    assert found.faults


@pytest.mark.parametrize("slope", [5e-4, 2e-3, -5e-4])
def test_a_drift_does_not_converge_however_little_noise_there_is(slope: float) -> None:
    cost = noise(2, 0.002)
    found = sampled(lambda number: cost(number) * (1 + slope) ** number)
    assert len(found.calls) >= RULE.at_most or sum(call["end_to_end"] for call in found.calls) >= 60
    assert any("drifts" in fault for fault in found.faults)


def test_a_step_in_the_middle_is_a_drift() -> None:
    cost = noise(2, 0.005)
    rule = RULE.model_copy(update={"at_least": 400, "at_most": 400})
    found = sampled(lambda number: cost(number) * (1.05 if number >= 200 else 1.0), rule)
    assert any("drifts: +" in fault for fault in found.faults)


def test_one_round_tells_no_drift() -> None:
    found = sampled(lambda number: 3.0, Stopping(at_least=1, seconds=(0.0, 60.0)))
    assert found.faults == ("one round tells no drift",)


def test_without_a_rule_there_is_one_round() -> None:
    found = sampled(noise(0, 0.5), None)
    assert len(found.calls) == IMAGES
    assert found.faults == ()
    assert found.half_width is not None


class Script:
    """Answers as written, and keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), list[tuple[float, float]]()

    def __call__(self, since: float, until: float) -> list[str]:
        self.asked.append((since, until))
        answer = self.answers.pop(0) if self.answers else ""
        return [answer] if answer else []


def test_a_disturbed_window_is_thrown_away_as_a_whole_and_repeated() -> None:
    script, thrown = Script("", "throttled", "", "an intruder", ""), list[tuple[float, float]]()
    found = sampled(lambda number: 0.0101, disturbed=script, discard=lambda *ends: thrown.append(ends))
    # A round takes half a second, which is a window.
    rounds = sorted({int(call["number"]) // IMAGES for call in found.calls})
    assert rounds == [0, 2, 4]
    assert len(found.calls) == 150
    assert found.discarded == ("throttled", "an intruder")
    assert found.disturbed == ()
    assert found.faults == ()
    assert thrown == [script.asked[1], script.asked[3]]
    for (_, end), (begin, _) in zip(script.asked, script.asked[1:], strict=False):
        assert end == begin, "every moment lies in a window"


def test_windows_are_repeated_a_few_times_and_then_kept_and_said() -> None:
    found = sampled(lambda number: 0.0101, disturbed=Script(*["throttled"] * 5))
    assert found.discarded == ("throttled",) * 3
    assert found.disturbed == ("throttled",) * 2
    assert found.faults == ("2 disturbed windows were kept after 3 had been repeated",)
    assert len(found.calls) == 100


def test_short_rounds_share_a_window() -> None:
    script = Script()
    sampled(lambda number: 0.001, disturbed=script)
    assert all(until - since >= 0.5 - 1e-9 for since, until in script.asked)
    assert len(script.asked) == 4


@pytest.mark.parametrize("wrong", [{"at_least": 9, "at_most": 8}, {"seconds": (2.0, 1.0)}, {"noise": 0.0}])
def test_a_rule_that_contradicts_itself_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Stopping(**wrong)
