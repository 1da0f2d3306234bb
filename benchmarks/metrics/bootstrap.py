"""Scores of resampled images: how far would they move with other images of the same kind?

A resample draws as many images as there are, with replacement. Matching knows nothing of other images, so nothing is
matched again: each image gets the number of times it was drawn as its weight, and precision and recall are read anew. A
resample so computed equals the score of a data set in which the images really stand so many times, side by side; an
image drawn twice brings its objects, right detections and wrong ones twice (evaluators that drop the multiplicity find
errors a quarter too small).

Of a class, scale and threshold only the detections that found an object matter to the curve, and of each of those only
how many detections count up to it. The former are listed once; the latter are running sums of the weights.

Source of the method: Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.cores import usable_cores
from benchmarks.metrics.coco import COCO, RECALLS
from benchmarks.metrics.fd import FD
from benchmarks.metrics.matching import AREAS, CAP, NEITHER, RIGHT, THRESHOLDS, Matches
from benchmarks.metrics.resampled import ALSO_COUNTS, COUNTS_NOT, LANES, resampled_precision

__all__ = ["PER_CLASS", "TOTALS", "Resampled", "draw_weights", "resample"]

TOTALS = (
    *("AP", "AP50", "AP75", *(f"AP_{scale}" for scale in AREAS if scale != "all")),
    *("FD", "FD5", "FD25", "FD50", *(f"FD_{scale}" for scale in AREAS if scale != "all")),
    *("mAP07", "mAP10"),
)
"""What is resampled, by the names that `score` gives it."""

PER_CLASS = ("AP", "AP50", "FD", "AP07", "AP10")


@dataclass(frozen=True)
class Resampled:
    """Scores of `B` resamples, as fractions; NaN where a resample has no object to be found.

    Attributes:
        totals: `[B, len(TOTALS)]`.
        per_class: `[B, K, len(PER_CLASS)]`.
    """

    totals: NDArray[np.float64]
    per_class: NDArray[np.float64]


def draw_weights(images: int, seed: int, start: int, stop: int) -> NDArray[np.uint16]:
    """How often each image is drawn `[stop - start, images]`; draw `b` depends on the seed and on `b` alone."""
    weights = np.empty((stop - start, images), dtype=np.uint16)
    for row, draw in enumerate(range(start, stop)):
        chosen = np.random.default_rng((seed, draw)).integers(images, size=images)
        weights[row] = np.bincount(chosen, minlength=images)
    return weights


def resample(
    matches: Matches, draws: int = 1_000, seed: int = 0, weights: NDArray[np.uint16] | None = None
) -> Resampled:
    """Score `draws` resamples of the images.

    Args:
        matches: Of all images.
        draws: How many.
        seed: Of the draws: the same seed and number of images give the same draws, whatever was detected.
        weights: `[B, images]`, how often each image counts, in place of random draws.

    Raises:
        ValueError: Images count so often that sums of them would not fit 32 bits.
    """
    if weights is not None and int(weights.max(initial=0)) * len(matches.score) >= 2**31:
        raise ValueError("the weights are too large to be added up; scale them down")
    plan = _plan(matches)
    total = draws if weights is None else len(weights)

    def some(bounds: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        start, stop = bounds
        rows = draw_weights(matches.images, seed, start, stop) if weights is None else weights[start:stop]
        return plan.score(rows)

    with ThreadPoolExecutor(usable_cores()) as pool:
        parts = list(pool.map(some, _chunks(total, LANES)))
    if not parts:
        return Resampled(np.empty((0, len(TOTALS))), np.empty((0, matches.classes, len(PER_CLASS))))
    return Resampled(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + size, total)) for start in range(0, total, size))


@dataclass(frozen=True)
class _Rule:
    """Detections and objects under one rule of matching and counting: a scale of COCO's, or VOC's.

    Lists run class by class and within it by descending score; `E` events are grouped by class, then threshold.

    Attributes:
        counted: Image of each detection that counts at all thresholds unless an event says otherwise.
        counted_starts: Where each class begins in it, `[K + 1]`.
        events: `[K, T + 1]`, where the events of each class and threshold begin.
        image: Of each event's detection, `[E]`.
        before: How many counted detections of the class there are up to the event's, its own included, `[E]`.
        kind: 0, `ALSO_COUNTS` or `COUNTS_NOT`, `[E]`.
        untied: Whether a class and threshold has no event in a tie, `[K, T]`.
        tie: Number of the group of equal scores in the same image and class, 0 for none, `[E]`.
        place: Counted detections of that group up to this one, `[E]`,
        size: and in all of it, `[E]`.
        objects: Image of each object that is to be found, by class.
        object_starts: Where each class begins in it, `[K + 1]`.
    """

    counted: NDArray[np.uint32]
    counted_starts: NDArray[np.int64]
    events: NDArray[np.int64]
    image: NDArray[np.uint32]
    before: NDArray[np.uint32]
    kind: NDArray[np.uint8]
    untied: NDArray[np.bool_]
    tie: NDArray[np.int32]
    place: NDArray[np.int32]
    size: NDArray[np.int32]
    objects: NDArray[np.uint32]
    object_starts: NDArray[np.int64]

    def precisions(self, weights: NDArray[np.uint16], voc: bool) -> NDArray[np.float64]:
        """Average precision of each resample, class and threshold `[B, K, T]`, of VOC's both `[B, K, 2]`."""
        return resampled_precision(
            weights,
            self.counted,
            self.counted_starts,
            self.events,
            self.image,
            self.before,
            self.kind,
            self.untied,
            self.tie,
            self.place,
            self.size,
            self.objects,
            self.object_starts,
            RECALLS,
            voc,
        )


@dataclass(frozen=True)
class _Plan:
    """COCO's rule at each scale, and VOC's."""

    scales: tuple[_Rule, ...]
    voc: _Rule

    def score(self, weights: NDArray[np.uint16]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        coco = [rule.precisions(weights, False) for rule in self.scales]
        voc = self.voc.precisions(weights, True)
        at50, at75 = COCO.start, COCO.start + 5
        fd5, fd25 = FD.start, FD.start + 4
        whole = coco[0]
        totals = [
            *(_mean(part) for part in (whole[:, :, COCO], whole[:, :, at50], whole[:, :, at75])),
            *(_mean(scale[:, :, COCO]) for scale in coco[1:]),
            *(1 - _mean(part) for part in (whole[:, :, FD], whole[:, :, fd5], whole[:, :, fd25], whole[:, :, at50])),
            *(1 - _mean(scale[:, :, FD]) for scale in coco[1:]),
            *(_mean(voc[:, :, which]) for which in (0, 1)),
        ]
        classes = [
            whole[:, :, COCO].mean(2),
            whole[:, :, at50],
            1 - whole[:, :, FD].mean(2),
            voc[:, :, 0],
            voc[:, :, 1],
        ]
        return np.stack(totals, 1), np.stack(classes, 2)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each row over what is defined; NaN where nothing is."""
    rows = values.reshape(len(values), -1)
    defined = ~np.isnan(rows)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(defined, rows, 0).sum(1) / defined.sum(1)
    return mean


def _plan(matches: Matches) -> _Plan:
    order, thresholds = matches.order, len(THRESHOLDS)
    category, image, score = matches.category[order], matches.image[order], matches.score[order]
    # Where a group of equal scores in one image and class begins, and its number.
    same = np.zeros(len(order), dtype=np.bool_)
    same[1:] = (category[1:] == category[:-1]) & (image[1:] == image[:-1]) & (score[1:] == score[:-1])
    group = np.cumsum(~same) - 1
    tied = np.bincount(group, minlength=1)[group] > 1 if len(group) else same
    everywhere = np.uint32((1 << thresholds) - 1)
    seen = matches.rank[order] < CAP
    common = (category, image, group, tied, matches.classes)
    scales = []
    for a in range(len(AREAS)):
        matched, ignored = matches.matched[order, a], matches.ignored[order, a]
        # Counts wherever nothing else is said. One outside the scale is ignored wherever it has found nothing.
        counts = seen & ((ignored == 0) | ((matched | ignored) != everywhere))
        found = seen & (matched != 0)
        busy = np.flatnonzero(found | (counts & (ignored != 0)))
        rows, kinds = [], []
        for t in range(thresholds):
            bit = np.uint32(1 << t)
            right = (matched[busy] & bit != 0) & (ignored[busy] & bit == 0)
            skipped = (ignored[busy] & bit != 0) & counts[busy]
            chosen = right | skipped
            rows.append(busy[chosen])
            kinds.append(np.where(right, np.where(counts[busy], 0, ALSO_COUNTS), COUNTS_NOT)[chosen].astype(np.uint8))
        to_find = ~matches.truth_ignored[:, a]
        objects = (matches.truth_category[to_find], matches.truth_image[to_find])
        scales.append(_rule(counts, rows, kinds, objects, *common))
    counts = matches.voc[order] != NEITHER
    right = np.flatnonzero(matches.voc[order] == RIGHT)
    to_find = ~matches.truth_excused
    objects = (matches.truth_category[to_find], matches.truth_image[to_find])
    voc = _rule(counts, [right], [np.zeros(len(right), dtype=np.uint8)], objects, *common)
    return _Plan(tuple(scales), voc)


def _rule(
    counts: NDArray[np.bool_],
    rows: Sequence[NDArray[np.int64]],
    kinds: Sequence[NDArray[np.uint8]],
    objects: tuple[NDArray[np.int64], NDArray[np.int64]],
    category: NDArray[np.int64],
    image: NDArray[np.int64],
    group: NDArray[np.int64],
    tied: NDArray[np.bool_],
    classes: int,
) -> _Rule:
    """Put events in the order of classes, and say of each how many detections count up to it."""
    up_to = np.cumsum(counts)
    counted_starts = np.concatenate(([0], np.cumsum(np.bincount(category[counts], minlength=classes))))
    # Counted detections before each group, and in it.
    firsts = np.flatnonzero(np.diff(group, prepend=-1)) if len(group) else group
    earlier: NDArray[np.int64] = up_to[firsts] - counts[firsts]
    sizes: NDArray[np.int64] = np.diff(earlier, append=up_to[-1] if len(up_to) else 0)
    row = np.concatenate(rows)
    kind = np.concatenate(kinds)
    at = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
    first = np.lexsort((at, category[row]))
    row, kind, at = row[first], kind[first], at[first]
    cells = np.bincount(category[row] * len(rows) + at, minlength=classes * len(rows))
    ends = np.cumsum(cells).reshape(classes, len(rows))
    ties = np.bincount((category[row] * len(rows) + at)[tied[row]], minlength=classes * len(rows)).reshape(ends.shape)
    events = np.concatenate([(ends[:, :1] - cells.reshape(classes, -1)[:, :1]), ends], axis=1)
    return _Rule(
        counted=image[counts].astype(np.uint32),
        counted_starts=counted_starts,
        events=events,
        image=image[row].astype(np.uint32),
        before=(up_to[row] - counted_starts[category[row]]).astype(np.uint32),
        kind=kind,
        untied=ties == 0,
        tie=np.where(tied[row], group[row] + 1, 0).astype(np.int32),
        place=(up_to[row] - earlier[group[row]]).astype(np.int32),
        size=sizes[group[row]].astype(np.int32),
        objects=objects[1].astype(np.uint32),
        object_starts=np.searchsorted(objects[0], np.arange(classes + 1)),
    )
