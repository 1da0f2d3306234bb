"""Average precision of many resamples at once: the compiled part of `benchmarks.metrics.bootstrap`.

Of a class, scale and threshold the curve has a step at each *event*, a detection that found an object. Resamples are
computed side by side, in *lanes*, so that one instruction serves several: they share the events, and differ in the
weights of the images alone. Loops over lanes are short, end at a number that the compiler does not know, and look up at
most one thing: so it makes such instructions of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ops.compiled import compiled

__all__ = ["ALSO_COUNTS", "COUNTS_NOT", "LANES", "resampled_precision"]

LANES = 64
"""So many resamples at once take the least time each; any number is computed."""

ALSO_COUNTS, COUNTS_NOT = 1, 2
"""What an event does besides, if not 0: a detection outside the scale found an object, which counts as a detection all
the same; a detection in the scale fell to an ignored object, which then does not."""


@compiled
def _fill_reached(reached: NDArray[np.int32], total: int, points: int, recalls: NDArray[np.float64], voc: bool) -> None:
    """How many points of recall a number of finds reaches."""
    reached[: total + 1] = 0
    if total == 0:
        return
    for r in range(points):
        if voc:
            needed = max((r * total + 9) // 10, 1)
        else:
            needed = max(1, int(recalls[r] * total) - 1)
            while needed / total < recalls[r]:
                needed += 1
        reached[needed] += 1
    for j in range(1, total + 1):
        reached[j] += reached[j - 1]


@compiled
def _add_up(copies: NDArray[np.uint16], counted: NDArray[np.uint32], sums: NDArray[np.int32]) -> None:
    """Fill row `i` with the weight of the first `i` detections; row 0 is there."""
    lanes = copies.shape[1]
    # Kept apart: to read the row above back takes a quarter of all time more.
    so_far = np.zeros(lanes, dtype=np.int32)
    for i in range(len(counted)):
        row = copies[counted[i]]
        after = sums[i + 1]
        for b in range(lanes):
            so_far[b] += row[b]
            after[b] = so_far[b]


@compiled
def _tied(
    weight: NDArray[np.uint16],
    sums: NDArray[np.int32],
    reached: NDArray[np.int32],
    image: NDArray[np.uint32],
    before: NDArray[np.uint32],
    kind: NDArray[np.uint8],
    tie: NDArray[np.int32],
    place: NDArray[np.int32],
    size: NDArray[np.int32],
    e: int,
    last: int,
    least: float,
) -> tuple[float, float]:
    """Sum over points of recall, and area, of the events e to last where equal scores stand in one image."""
    length = 0
    for i in range(e, last):
        length += weight[image[i]]
    end = np.empty(length + 1, dtype=np.int64)
    precision = np.empty(length)
    end[0] = 0
    steps = 0
    right = 0
    besides = 0
    while e < last:
        first = e
        e += 1
        while tie[first] and e < last and tie[e] == tie[first]:
            e += 1
        copies = np.int64(weight[image[first]])
        start = sums[before[first]] - copies * place[first]
        # Copy after copy, each in its order.
        for copy in range(copies):
            for j in range(first, e):
                if kind[j] == COUNTS_NOT:
                    besides -= 1
                    continue
                if kind[j] == ALSO_COUNTS:
                    besides += 1
                right += 1
                precision[steps] = right / (start + copy * size[j] + place[j] + besides + least)
                steps += 1
                end[steps] = right
    average = 0.0
    area = 0.0
    best = 0.0
    for i in range(steps - 1, -1, -1):
        best = precision[i] if precision[i] > best else best
        average += best * (reached[end[i + 1]] - reached[end[i]])
        area += best * (end[i + 1] - end[i])
    return average, area


@compiled
def _untied(
    copies: NDArray[np.uint16],
    sums: NDArray[np.int32],
    reached: NDArray[np.int32],
    image: NDArray[np.uint32],
    before: NDArray[np.uint32],
    kind: NDArray[np.uint8],
    least: float,
    voc: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum over points of recall, and area, of events of which no two stand in a tie."""
    lanes = copies.shape[1]
    state = np.zeros((7, lanes))
    right, besides, left, best, average, area, fewer = state
    at = np.zeros(lanes, dtype=np.int32)
    for i in range(len(image)):
        row = copies[image[i]]
        what = kind[i]
        if what != COUNTS_NOT:
            for b in range(lanes):
                right[b] += row[b]
        if what == ALSO_COUNTS:
            for b in range(lanes):
                besides[b] += row[b]
        elif what == COUNTS_NOT:
            for b in range(lanes):
                besides[b] -= row[b]
    for b in range(lanes):
        left[b] = reached[b, np.uint32(right[b])]
    # From the last find to the first, each goes with the best precision of all later ones. Those whose image was not
    # drawn stay in: they lie below the one before. Taking away what was added up first needs no memory of each event,
    # which would cost more than adding twice.
    for i in range(len(image) - 1, -1, -1):
        row = copies[image[i]]
        what = kind[i]
        if what == COUNTS_NOT:
            for b in range(lanes):
                besides[b] += row[b]
            continue
        up_to = sums[before[i]]
        for b in range(lanes):
            precision = right[b] / (up_to[b] + besides[b] + least)
            best[b] = precision if precision > best[b] else best[b]
            earlier = right[b] - row[b]
            right[b] = earlier
            at[b] = np.int32(earlier)
        for b in range(lanes):
            fewer[b] = reached[b, np.uint32(at[b])]
        for b in range(lanes):
            average[b] += best[b] * (left[b] - fewer[b])
            left[b] = fewer[b]
        if voc:
            for b in range(lanes):
                area[b] += best[b] * row[b]
        if what == ALSO_COUNTS:
            for b in range(lanes):
                besides[b] -= row[b]
    return average, area


@compiled
def resampled_precision(
    weights: NDArray[np.uint16],
    counted: NDArray[np.uint32],
    counted_starts: NDArray[np.int64],
    events: NDArray[np.int64],
    image: NDArray[np.uint32],
    before: NDArray[np.uint32],
    kind: NDArray[np.uint8],
    untied: NDArray[np.bool_],
    tie: NDArray[np.int32],
    place: NDArray[np.int32],
    size: NDArray[np.int32],
    objects: NDArray[np.uint32],
    object_starts: NDArray[np.int64],
    recalls: NDArray[np.float64],
    voc: bool,
) -> NDArray[np.float64]:
    """Average precision of each draw, class and threshold `[B, K, T]`, of VOC's both `[B, K, 2]`; NaN without objects.

    Args:
        weights: `[B, images]`.
        counted, counted_starts, events, image, before, kind, untied, tie, place, size, objects, object_starts: As
            `benchmarks.metrics.bootstrap._Rule` explains them.
        recalls: Points of recall; VOC has its own.
        voc: Whether to average as VOC does.
    """
    draws, classes, thresholds = len(weights), len(counted_starts) - 1, events.shape[1] - 1
    answer = np.full((draws, classes, 2 if voc else thresholds), np.nan)
    # VOC divides by the plain count; what is added moves no count but 0.
    least = 1e-300 if voc else 2.0**-52
    longest = 0
    heaviest = 0
    for k in range(classes):
        longest = max(longest, counted_starts[k + 1] - counted_starts[k])
        heaviest = max(heaviest, object_starts[k + 1] - object_starts[k])
    most_copies = np.int64(weights.max())
    points = 11 if voc else len(recalls)
    copies = np.ascontiguousarray(weights.T)
    sums = np.zeros((longest + 1, draws), dtype=np.int32)
    reached = np.zeros((draws, heaviest * most_copies + 1), dtype=np.int32)
    totals = np.zeros(draws, dtype=np.int32)
    # Class by class, so that what is read of a class stays near the processor for all draws.
    for k in range(classes):
        totals[:] = 0
        for g in range(object_starts[k], object_starts[k + 1]):
            row = copies[objects[g]]
            for b in range(draws):
                totals[b] += row[b]
        _add_up(copies, counted[counted_starts[k] : counted_starts[k + 1]], sums)
        for b in range(draws):
            _fill_reached(reached[b], totals[b], points, recalls, voc)
        for t in range(thresholds):
            first = events[k, t]
            last = events[k, t + 1]
            if not untied[k, t]:
                for b in range(draws):
                    if totals[b]:
                        mean, under = _tied(
                            weights[b],
                            sums[:, b],
                            reached[b],
                            image,
                            before,
                            kind,
                            tie,
                            place,
                            size,
                            first,
                            last,
                            least,
                        )
                        answer[b, k, t] = mean / points
                        if voc:
                            answer[b, k, 1] = under / totals[b]
                continue
            average, area = _untied(
                copies,
                sums,
                reached,
                image[first:last],
                before[first:last],
                kind[first:last],
                least,
                voc,
            )
            for b in range(draws):
                if totals[b]:
                    answer[b, k, t] = average[b] / points
                    if voc:
                        answer[b, k, 1] = area[b] / totals[b]
    return answer
