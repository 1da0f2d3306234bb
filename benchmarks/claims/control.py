"""The A/A control: trainings of one configuration that differ in their seed alone go through the rule of the pairs.

Whatever is called a difference here is chance. Three detectors are drawn, and of each two trainings in random order, so
that the three differences are independent of each other, as those of three seeds of a pair are; with few detectors the
draws repeat, and the shares are shares of what chance did here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.claims.evidence import Evidence, points
from benchmarks.claims.verdicts import LEAST_SEEDS, Word, decide, student

__all__ = ["Control", "control"]

_DRAWS = 4_000
_TEST = "shapes test"


@dataclass(frozen=True)
class Control:
    """What the rule says where there is nothing to say.

    Attributes:
        metric: In words.
        detectors: Configurations that were trained with at least two seeds.
        trainings: Of these.
        shares: By verdict, of all draws.
        half_width: Median half of an interval's length, in points: about the smallest effect that three seeds can show.
    """

    metric: str
    detectors: tuple[str, ...]
    trainings: int
    shares: dict[Word, float]
    half_width: float


def control(found: Evidence) -> Control | None:
    """Pass pairs of trainings of one configuration through the rule; None with fewer than three configurations."""
    quantity = points("stats.AP")
    arms = {}
    for name in found.detectors(_TEST):
        values = [quantity(one.record) for one in found.arm(name, _TEST).values()]
        known = [value for value in values if value is not None]
        if len(known) > 1:
            arms[name] = known
    if len(arms) < LEAST_SEEDS:
        return None
    differences = _differences(list(arms.values()))
    means = differences.mean(1)
    # What `student` does, for all draws at once.
    reach = student([-1.0, 0.0, 1.0]).half_width or 0.0
    widths = reach * differences.std(1, ddof=1)
    same = np.abs(np.sign(differences - 1e-12).sum(1)) == LEAST_SEEDS
    words: Counter[Word] = Counter(
        decide(mean - width, mean + width, same_sign=agree)
        for mean, width, agree in zip(means.tolist(), widths.tolist(), same.tolist(), strict=True)
    )
    shares = {word: count / _DRAWS for word, count in sorted(words.items())}
    return Control("AP", tuple(arms), sum(map(len, arms.values())), shares, float(np.median(widths)))


def _differences(arms: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Differences of two trainings of three configurations, `[draws, 3]`."""
    rng = np.random.default_rng(0)
    chosen = rng.random((_DRAWS, len(arms))).argsort(1)[:, :LEAST_SEEDS]
    first, second = rng.random((2, _DRAWS, LEAST_SEEDS))
    found = np.empty(chosen.shape)
    for index, values in enumerate(arms):
        own = chosen == index
        one = (first[own] * len(values)).astype(int)
        other = (one + 1 + (second[own] * (len(values) - 1)).astype(int)) % len(values)
        found[own] = np.array(values)[one] - np.array(values)[other]
    return found
