"""The matching engine: one pass over images and classes decides every detection at all thresholds and scales.

A *cell* is one class in one image; nothing is ever matched across cells. Within a cell detections are taken in
descending order of score, and detections of equal score in the order of their file (COCO's rule). Across cells of one
class, equal scores are ordered by image id and then as within the image. Two rules of matching run side by side:

* COCO (and FD): at each threshold a detection takes the free object with the highest IoU, the later one of equals, and
  turns to an ignored object (a crowd, or one outside the scale) only where no other object will do. A crowd is never
  used up, and the overlap with it is the share of the detection that it covers. An unmatched detection whose own area
  lies outside the scale is ignored. The best 100 detections of a cell take part.
* VOC: a detection is judged by the object it overlaps most, the first of equals, at IoU 0.5: right if that object is
  still free, wrong if it is taken (though another may be free), neither if it is difficult or a crowd. All take part.

What comes out are arrays by detection and by object, with the image of each: whoever wants other images, or images
with weights, need not match again.

Source: Lin et al., "Microsoft COCO: Common objects in context", 2014, and its evaluation code; Everingham et al., "The
PASCAL visual object classes challenge", 2010, and its development kit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.data import GroundTruth, Results
from ops.compiled import compiled

__all__ = ["AREAS", "AT50", "CAP", "NEITHER", "RIGHT", "THRESHOLDS", "VOC_THRESHOLD", "WRONG", "Matches", "match"]

THRESHOLDS = np.concatenate((np.linspace(0.05, 0.5, 10), np.linspace(0.5, 0.95, 10)[1:]))
"""IoU .05 to .95 in steps of .05, to the bit those of pycocotools for .50:.05:.95 and for .05:.05:.50."""

AT50 = 9
"""Place of IoU .5 in `THRESHOLDS`."""

AREAS = {"all": (0.0, 1e10), "S": (0.0, 32.0**2), "M": (32.0**2, 96.0**2), "L": (96.0**2, 1e10)}
"""COCO's scales in square pixels; both bounds belong to the scale, so an area of 1024 is small and medium."""

CAP = 100
"""How many detections of a class in an image COCO looks at."""

VOC_THRESHOLD = 0.5

WRONG, RIGHT, NEITHER = 0, 1, 2


@dataclass(frozen=True)
class Matches:
    """What became of every detection and object. Threshold t of `THRESHOLDS` is bit t of the masks.

    Detections `[N]` are ordered by class, image, descending score, place in the file; objects `[G]` by class, image,
    place in the file. Scales are those of `AREAS`, in its order.

    Attributes:
        classes, images: How many there are.
        entry: Place of each detection in the `Results`.
        category, image, score: Of each detection.
        rank: Place of the detection in its cell, from 0; COCO's rule leaves out those from `CAP` on.
        matched: Masks `[N, 4]` of the thresholds at which the detection has an object.
        ignored: Masks `[N, 4]` of the thresholds at which it counts neither as right nor as wrong.
        voc: `RIGHT`, `WRONG` or `NEITHER` under VOC's rule.
        order: The detections by class and descending score, equal scores as they stand above.
        starts: Class k's detections are `order[starts[k]:starts[k + 1]]` (and stand there above too).
        truth_entry: Place of each object in the `GroundTruth`.
        truth_category, truth_image: Of each object.
        truth_found: Masks `[G, 4]` of the thresholds at which a detection has the object (COCO's rule).
        truth_ignored: Whether the object is ignored at each scale `[G, 4]` (COCO's rule).
        truth_excused: Whether it is difficult or a crowd (VOC's rule).
    """

    classes: int
    images: int
    entry: NDArray[np.int64]
    category: NDArray[np.int64]
    image: NDArray[np.int64]
    score: NDArray[np.float64]
    rank: NDArray[np.int32]
    matched: NDArray[np.uint32]
    ignored: NDArray[np.uint32]
    voc: NDArray[np.uint8]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    truth_entry: NDArray[np.int64]
    truth_category: NDArray[np.int64]
    truth_image: NDArray[np.int64]
    truth_found: NDArray[np.uint32]
    truth_ignored: NDArray[np.bool_]
    truth_excused: NDArray[np.bool_]

    def judged(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which detections are wrong and which are right at IoU .5 under COCO's rule `[N]`; some are neither."""
        bit = np.uint32(1 << AT50)
        counts = (self.rank < CAP) & (self.ignored[:, 0] & bit == 0)
        matched = self.matched[:, 0] & bit != 0
        return counts & ~matched, counts & matched


def match(
    truth: GroundTruth,
    results: Results,
    *,
    cap: int = CAP,
    voc_threshold: float = VOC_THRESHOLD,
    ignore_difficult: bool = False,
) -> Matches:
    """Match all detections with all objects, once for every protocol.

    Args:
        truth: The objects.
        results: The detections.
        cap: How many detections of a cell COCO's rule looks at.
        voc_threshold: Least IoU under VOC's rule.
        ignore_difficult: Whether COCO's rule ignores difficult objects too (COCO knows none).
    """
    classes, images = len(truth.category_ids), len(truth.image_ids)
    by_cell = np.lexsort((-results.scores, _narrow(results.image, images), _narrow(results.category, classes)))
    category, image, score = results.category[by_cell], results.image[by_cell], results.scores[by_cell]
    objects = np.lexsort((_narrow(truth.image, images), _narrow(truth.category, classes)))
    truth_category, truth_image = truth.category[objects], truth.image[objects]
    crowd = truth.crowd[objects]
    excused = crowd | truth.difficult[objects]
    area = truth.area[objects]
    bounds = np.array(list(AREAS.values()))
    left_out = excused if ignore_difficult else crowd
    truth_ignored = left_out[:, None] | (area[:, None] < bounds[:, 0]) | (area[:, None] > bounds[:, 1])
    rank, matched, ignored, voc, found = _match_cells(
        category * images + image,
        results.boxes[by_cell],
        truth_category * images + truth_image,
        truth.boxes[objects],
        crowd,
        excused,
        truth_ignored,
        THRESHOLDS,
        bounds,
        cap,
        voc_threshold,
    )
    return Matches(
        classes=classes,
        images=images,
        entry=by_cell,
        category=category,
        image=image,
        score=score,
        rank=rank,
        matched=matched,
        ignored=ignored,
        voc=voc,
        order=np.lexsort((-score, _narrow(category, classes))),
        starts=np.searchsorted(category, np.arange(classes + 1)),
        truth_entry=objects,
        truth_category=truth_category,
        truth_image=truth_image,
        truth_found=found,
        truth_ignored=truth_ignored,
        truth_excused=excused,
    )


def _narrow(positions: NDArray[np.int64], count: int) -> NDArray[np.integer]:
    """The same numbers in the smallest type: numpy sorts 16 bits in linear time."""
    return positions.astype(np.min_scalar_type(max(count - 1, 0)))


@compiled
def _match_cells(
    cell: NDArray[np.int64],
    boxes: NDArray[np.float64],
    truth_cell: NDArray[np.int64],
    truth_boxes: NDArray[np.float64],
    crowd: NDArray[np.bool_],
    excused: NDArray[np.bool_],
    truth_ignored: NDArray[np.bool_],
    thresholds: NDArray[np.float64],
    bounds: NDArray[np.float64],
    cap: int,
    voc_threshold: float,
) -> tuple[NDArray[np.int32], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint8], NDArray[np.uint32]]:
    """Rank, matched, ignored, voc and truth_found of detections that are sorted by cell and descending score."""
    count, objects, scales = len(cell), len(truth_cell), len(bounds)
    one = np.uint32(1)
    everywhere = np.uint32((1 << len(thresholds)) - 1)
    rank = np.zeros(count, dtype=np.int32)
    matched = np.zeros((count, scales), dtype=np.uint32)
    ignored = np.zeros((count, scales), dtype=np.uint32)
    voc = np.zeros(count, dtype=np.uint8)
    taken = np.zeros((objects, scales), dtype=np.uint32)
    voc_taken = np.zeros(objects, dtype=np.bool_)
    near = np.empty(objects, dtype=np.int64)
    overlap = np.empty(objects, dtype=np.float64)
    begin = 0
    end = 0
    for d in range(count):
        if d > 0 and cell[d] == cell[d - 1]:
            rank[d] = rank[d - 1] + 1
        else:
            begin = end
            while begin < objects and truth_cell[begin] < cell[d]:
                begin += 1
            end = begin
            while end < objects and truth_cell[end] == cell[d]:
                end += 1

        x, y, w, h = boxes[d, 0], boxes[d, 1], boxes[d, 2], boxes[d, 3]
        area = w * h
        nearby = 0
        best = -1
        best_iou = voc_threshold
        for g in range(begin, end):
            width = min(x + w, truth_boxes[g, 0] + truth_boxes[g, 2]) - max(x, truth_boxes[g, 0])
            if width <= 0:
                continue
            height = min(y + h, truth_boxes[g, 1] + truth_boxes[g, 3]) - max(y, truth_boxes[g, 1])
            if height <= 0:
                continue
            common = width * height
            union = area + truth_boxes[g, 2] * truth_boxes[g, 3] - common
            iou = common / union
            if iou > best_iou or (best < 0 and iou == best_iou):
                best, best_iou = g, iou
            if crowd[g]:
                iou = common / area
            if iou >= thresholds[0]:
                near[nearby], overlap[nearby] = g, iou
                nearby += 1

        if best >= 0:
            if excused[best]:
                voc[d] = NEITHER
            elif not voc_taken[best]:
                voc[d] = RIGHT
                voc_taken[best] = True

        if rank[d] >= cap:
            continue
        for a in range(scales):
            has = np.uint32(0)
            skip = np.uint32(0)
            if nearby > 0:
                for t in range(len(thresholds)):
                    bit = one << np.uint32(t)
                    chosen = -1
                    for excuse in (False, True):
                        needed = thresholds[t]
                        for n in range(nearby):
                            g = near[n]
                            if truth_ignored[g, a] != excuse or overlap[n] < needed:
                                continue
                            if taken[g, a] & bit and not crowd[g]:
                                continue
                            chosen, needed = g, overlap[n]
                        if chosen >= 0:
                            break
                    if chosen >= 0:
                        has |= bit
                        taken[chosen, a] |= bit
                        if truth_ignored[chosen, a]:
                            skip |= bit
            if area < bounds[a, 0] or area > bounds[a, 1]:
                skip |= everywhere & ~has
            matched[d, a] = has
            ignored[d, a] = skip
    return rank, matched, ignored, voc, taken
