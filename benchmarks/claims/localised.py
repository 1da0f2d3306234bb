"""Level S: how exactly the boxes of two detectors lie on the same objects, seed by seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.claims.evidence import Evidence, Found
from benchmarks.claims.ledger import Claim, LedgerError, Rule, Verdict
from benchmarks.claims.pairs import judge_values, of_alike, of_one_training, same_images
from benchmarks.claims.verdicts import LEAST_SEEDS
from benchmarks.metrics.intervals import means_apart

__all__ = ["RULES"]

_CLAIM, _TEST = "onestage-localisation", "shapes test"

_Counted = Callable[[NDArray[np.bool_], NDArray[np.bool_]], NDArray[np.bool_]]
"""Which objects count for a side, of which it found some and the other side some."""


def _both(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return first & second


def _own(first: NDArray[np.bool_], _: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return first


def _exacter(two: str, one: str, counted: _Counted, part: str) -> Rule:
    """The rule that the true positives of a two-stage detector overlap their objects more than a one-stage one's."""

    def judge(_: Claim, found: Evidence) -> Verdict:
        sides = [found.swept(_CLAIM, _TEST, name) for name in (two, one)]
        lacking = [name for name, side in zip((two, one), sides, strict=True) if not side]
        if lacking:
            wanted = f"{LEAST_SEEDS} seeds of {' and of '.join(lacking)}: `python -m benchmarks claims {_CLAIM}`"
            return Verdict("cannot tell", wanted=wanted)
        pairs = {seed: (sides[0][seed], sides[1][seed]) for seed in sorted(sides[0].keys() & sides[1].keys())}
        pairs = {seed: pair for seed, pair in pairs.items() if same_images(*pair)}
        if not pairs:
            return Verdict("cannot tell", wanted=f"a seed that {two} and {one} have in common, on the same images")
        apart = {seed: means_apart(*_sums(*pair, counted)) for seed, pair in pairs.items()}
        verdict = judge_values(
            {seed: difference for seed, (difference, _) in apart.items()},
            f"mean IoU, {two} less {one}",
            rests_on=[side.place for pair in pairs.values() for side in pair],
        )
        verdict = of_one_training(verdict, next(iter(apart.values()))[1])
        return of_alike(verdict, found, (two, sides[0]), (one, sides[1]))

    return Rule(_CLAIM, "S", _WORDS, judge, f"{two} against {one}, {part}")


def _sums(first: Found, second: Found, counted: _Counted) -> list[NDArray[np.float64]]:
    """Of either side, image by image, the sum of IoU in percent of the objects that count, and their number."""
    rows: list[list[list[float]]] = [[], []]
    for image in zip(_ious(first), _ious(second), strict=True):
        for side, own, other in ((0, *image), (1, *image[::-1])):
            count = counted(own > 0, other > 0)
            rows[side].append([100 * float(own[count].sum()), int(count.sum())])
    return [np.array(row, dtype=np.float64) for row in rows]


def _ious(one: Found) -> list[NDArray[np.float64]]:
    """IoU of each object with the box that found it, image by image; 0 where none did.

    Raises:
        LedgerError: The Record has none.
    """
    images = one.record.metrics.get("ious")
    try:
        return [np.array([value or 0.0 for value in image], dtype=np.float64) for image in images]  # type: ignore[union-attr]
    except (TypeError, ValueError) as error:
        raise LedgerError(f"{one.place}: metrics.ious is no list of images; measure it again") from error


_PAIRS = (
    ("faster_rcnn_vgg16", "ssd300_vgg16"),
    ("faster_rcnn_vgg16_align", "ssd300_vgg16"),
    ("faster_rcnn_r50_fpn", "retinanet_r50_fpn"),
)
_WORDS = "mean IoU of true positives, two stages less one: over 0 in every seed and in its interval"

RULES: tuple[Rule, ...] = tuple(
    _exacter(*pair, counted, part)
    for pair in _PAIRS
    for counted, part in ((_both, "objects that both found"), (_own, "objects that each found"))
)
