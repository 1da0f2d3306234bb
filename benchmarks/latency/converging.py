"""When a detector is warm, and when enough was sampled; windows in which something disturbed are sampled again.

Enough is when the median is known (`Stopping`): when half the width of its interval, by order statistics, is at most
the share of it that is aimed at. That takes samples for independent. A drift is no noise and makes no interval wide, so
that the medians of the first and the second half of the rounds must besides be as near to each other as the intervals
of two halves allow, which is twice the aim.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.hardware import Stopping, WarmUp
from benchmarks.latency.samples import LEVEL
from benchmarks.metrics.quantiles import quantile_between

__all__ = ["Call", "Discard", "Disturbed", "Sampled", "is_steady", "relative_half_width", "sample", "warm_up"]

Call = Mapping[str, float]
"""Seconds of one call by stage."""

Disturbed = Callable[[float, float], list[str]]
"""Given two times on the clock of the measurement, what disturbed in between, a sentence each; empty for nothing."""

Discard = Callable[[float, float], None]
"""Told of the two ends of a window that was thrown away."""

_WINDOW = 0.5
"""Seconds of whole rounds that are kept or thrown away together: what is watched is looked at ten times a second."""


@dataclass(frozen=True)
class Sampled:
    """What was sampled, and how it ended.

    Attributes:
        calls: By stage, in the order in which they were made; whole rounds.
        rounds: How often all images were gone through.
        half_width: Of the median's interval end to end, as a share of the median; None where so few calls bound none.
        faults: Why the samples did not converge, a sentence each; empty where they did, or nothing was asked.
        discarded: Of each window that was discarded, what disturbed it.
        disturbed: Of each disturbed window that was kept, because no more were to be discarded.
    """

    calls: list[Call]
    rounds: int
    half_width: float | None
    faults: tuple[str, ...] = ()
    discarded: tuple[str, ...] = ()
    disturbed: tuple[str, ...] = ()


def is_steady(seconds: Sequence[float], rule: WarmUp) -> bool:
    """Whether the moving median of the last calls runs flat (see `WarmUp`)."""
    if len(seconds) < max(rule.at_least, 2 * rule.window):
        return False
    last = np.asarray(seconds[-2 * rule.window :], dtype=np.float64)
    medians = np.median(np.lib.stride_tricks.sliding_window_view(last, rule.window), axis=1)
    slope = np.polyfit(np.arange(len(medians)), medians, 1)[0]
    return bool(abs(slope) * rule.window <= rule.slope * np.median(medians))


def warm_up(
    call: Callable[[int], float], calls: int, rule: WarmUp, clock: Callable[[], float]
) -> tuple[list[float], bool]:
    """Seconds of each call of the warm-up, and whether it ended steady; `call(i)` makes the i-th of `calls`."""
    # Always the same few images: a moving median over whole rounds of them changes only as the machine does.
    rounds, seconds, start = min(rule.window, calls), list[float](), clock()
    while len(seconds) < rule.at_most:
        seconds.append(call(len(seconds) % rounds))
        if is_steady(seconds, rule):
            return seconds, True
        if clock() - start > rule.seconds:
            break
    return seconds, False


def relative_half_width(seconds: Sequence[float]) -> float | None:
    """Half the width of the median's 95 % interval, as a share of the median; None where nothing bounds it."""
    low, high = quantile_between(seconds, 0.5, LEVEL)
    return None if low is None or high is None else (high - low) / 2 / statistics.median(seconds)


def sample(
    go_through: Callable[[], Sequence[Call]],
    rule: Stopping | None,
    clock: Callable[[], float],
    disturbed: Disturbed | None = None,
    discard: Discard | None = None,
    progress: Callable[[str], None] | None = None,
) -> Sampled:
    """Go through the images until the rule is met, or its maximum is reached.

    Args:
        go_through: Calls the detector once on every image, in order.
        rule: None for one round, whatever it shows, disturbed windows repeated as often as the rule's defaults say.
        clock: In seconds.
        disturbed: What disturbed a window; asked as each window ends.
        discard: Told of windows that are thrown away.
        progress: Called with a sentence after each window.
    """
    limits = rule or Stopping()
    calls: list[Call] = []
    rounds, faults, start = 0, ["nothing was sampled"], clock()
    discarded: list[str] = []
    kept: list[str] = []
    while faults:
        since, window, gone_through = clock(), list[Call](), 0
        while not gone_through or (rule is not None and clock() - since < _WINDOW):
            window += go_through()
            gone_through += 1
        until = clock()
        reasons = [] if disturbed is None else disturbed(since, until)
        if reasons and len(discarded) < limits.repeats:
            discarded.append("; ".join(reasons))
            if discard is not None:
                discard(since, until)
            continue
        kept += ["; ".join(reasons)] if reasons else []
        calls, rounds = calls + window, rounds + gone_through
        if rule is None:
            break
        times, seconds = [call["end_to_end"] for call in calls], clock() - start
        faults = _faults(times, rounds, seconds, rule)
        if progress is not None:
            progress(f"{rounds} rounds, median {1000 * statistics.median(times):.2f} ms; {'; '.join(faults) or 'done'}")
        if len(calls) >= rule.at_most or seconds >= rule.seconds[1]:
            break
    faults = [] if rule is None else faults
    faults += [f"{len(kept)} disturbed windows were kept after {len(discarded)} had been repeated"] if kept else []
    half_width = relative_half_width([call["end_to_end"] for call in calls])
    return Sampled(calls, rounds, half_width, tuple(faults), tuple(discarded), tuple(kept))


def _faults(times: Sequence[float], rounds: int, seconds: float, rule: Stopping) -> list[str]:
    """What is missing until the rule is met."""
    found = []
    if len(times) < rule.at_least or seconds < rule.seconds[0]:
        least = f"{rule.at_least} in {rule.seconds[0]:g} s are the least"
        found.append(f"{len(times)} calls in {seconds:.1f} s, {least}")
    width = relative_half_width(times)
    if width is None or width > rule.noise:
        known = "unknown" if width is None else f"known to {100 * width:.1f} %"
        found.append(f"the median is {known}, {100 * rule.noise:g} % is aimed at")
    drift = _drift(times, rounds)
    if drift is None:
        found.append("one round tells no drift")
    elif abs(drift) > 2 * rule.noise:
        found.append(f"the median drifts: {100 * drift:+.1f} % from the first half to the second")
    return found


def _drift(times: Sequence[float], rounds: int) -> float | None:
    """How far the median of the second half of the rounds lies above that of the first, as a share of it."""
    if rounds < 2:
        return None
    half = rounds // 2 * (len(times) // rounds)
    first, second = statistics.median(times[:half]), statistics.median(times[-half:])
    return second / first - 1
