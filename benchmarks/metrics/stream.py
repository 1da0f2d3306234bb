"""Scores of results that are longer than memory: the same numbers, to the bit, in memory of a size that is given.

Three passes. The first reads the files in windows and puts objects and detections aside on disk by ranges of images,
so that those of an image come together wherever they stood. The second matches one range after another, which is all
that matching asks for, and puts what became of each detection aside by class. The third walks down each class by
descending score. Two orders make the numbers equal to those of `score`: a part keeps the order of the files, and
ranges follow each other as images do; so a class comes out ordered by image, score, place in the file, and one stable
sort by score puts it into the order of `Matches`. A range with more detections than fit is divided into smaller ones,
and a class into ranges of scores; equal scores need no sorting.

What is in memory at one time, besides the program: some 200 bytes an image; 8 bytes an object while their ids are
compared, and for those of one class while they are found; `_ROW` bytes for each row of a part, of which a part has as
many as the rest of the given size holds; one window of text. (A single image with more detections than that is held
whole.) Time grows linearly, but for the sorts within parts. On disk lie 48 bytes a detection, and then 42 more, in
files without names: whatever ends the process, nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.metrics import scores_of
from benchmarks.metrics.coco import Curves, Tally, curves_of, objects_to_find
from benchmarks.metrics.data import GroundTruth, Note, Oddities, Results, ScoreError
from benchmarks.metrics.matching import CAP, Matches, match
from benchmarks.metrics.pieces import lists_of_object
from benchmarks.metrics.rows import FOUND, OBJECT, Tell, found_rows, object_rows, read_frame, size_of
from benchmarks.metrics.spill import Rows, Spill
from benchmarks.metrics.voc import VocTally, voc_objects

__all__ = ["Limits", "stream_score"]

_JUDGED = np.dtype([("score", "f8"), ("matched", "u4", 4), ("ignored", "u4", 4), ("rank", "u1"), ("voc", "u1")])

_ROW = 320
"""Bytes that a row takes while its part is matched or sorted, with all arrays that are made of it."""

_SHORTEST_ROW = 60
"""Bytes of text that a detection takes at least."""

_READING = 8
"""Bytes that a byte of a window takes while it is read."""

_LEAST, _HEAD = 64 << 20, 1 << 16


@dataclass(frozen=True)
class Limits:
    """How much is held at one time: rows of a part, and bytes of a window of text."""

    rows: int
    window: int

    @classmethod
    def within(cls, memory: int) -> Limits:
        """What a process may hold that is to stay within so many bytes, with all it has now.

        Raises:
            ScoreError: They are too few.
        """
        used = psutil.Process().memory_info().rss
        room = memory - used
        if room < _LEAST:
            raise ScoreError(
                f"--memory {memory / 1e6:.0f}M: the program and the images take {used / 1e6:.0f} MB, and detections "
                f"need {_LEAST / 1e6:.0f} MB at least; give more"
            )
        window = min(room // 16, 16 << 20)
        return cls(rows=(room - _READING * window) // _ROW, window=window)


def stream_score(
    gt: Path,
    detections: Sequence[Path],
    protocol: str = "all",
    *,
    memory: int,
    tell: Tell = lambda stage, done, total: None,
    folder: Path | None = None,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """What `benchmarks.metrics.score` returns, of files of any length.

    Args:
        gt: COCO's instances JSON.
        detections: Files of COCO's results, which are read one after another as if they were one list.
        protocol: As of `score`.
        memory: Bytes that the process may take.
        tell: Called with what is under way, how much of it is done, and how much there is.
        folder: For temporary files; by default where the system has them.
        limits: Instead of those that follow from `memory`.

    Raises:
        ScoreError: Something cannot be read or scored, or the disk is full.
    """
    asked, limits = limits, limits or Limits.within(memory)
    lists = lists_of_object(gt, limits.window)
    for key in ("images", "categories", "annotations"):
        if key not in lists:
            raise ScoreError(f"{gt}: has no list {key!r}; COCO's instances JSON holds images, annotations, categories")
    frame = read_frame(gt, lists, limits.window)
    rows = sum(size_of(path) for path in detections) // _SHORTEST_ROW
    edges = _edges(0, len(frame.image_ids), rows // limits.rows)
    with ExitStack() as stack:
        looked = Oddities.of_annotations(), Oddities.of_detections()
        objects = stack.enter_context(Spill(OBJECT, len(edges) - 1, folder))
        for part in object_rows(frame, gt, lists["annotations"], looked[0], limits.window // 8, tell):
            objects.scatter(_part(edges, part), part)
        match(frame, _results(frame, np.zeros(0, dtype=FOUND)))  # the program's machine code counts too
        limits = asked or Limits.within(memory)
        found = stack.enter_context(Spill(FOUND, len(edges) - 1, folder))
        for part in found_rows(frame, detections, looked[1], limits.window, tell):
            found.scatter(_part(edges, part), part)
        frame = replace(frame)  # without the places by id
        classes = len(frame.category_ids)
        judged = stack.enter_context(Spill(_JUDGED, classes, folder))
        counts = _Counts(classes)
        total, done = sum(found.counts), 0
        for truth, results in _ranges(frame, objects, found, edges, limits.rows, folder):
            counts.add(truth, _judge(truth, results, judged))
            done += len(results.scores)
            tell("matching", done, total)
        objects.close()
        found.close()
        curves, voc = _curves(judged, counts, limits.rows, folder, tell)
    notes = (*looked[0].notes(), *looked[1].notes(), *_masks(detections))
    return scores_of(frame, curves, voc, counts.objects, notes, protocol)


def _masks(files: Sequence[Path]) -> list[Note]:
    """A note where files begin with masks, which are not scored here."""
    found = []
    for path in files:
        with path.open("rb") as file:
            if b'"segmentation"' in file.read(_HEAD):
                found.append(path)
    if not found:
        return []
    message = f"the masks of {found[0]} are not scored, only boxes: masks need all detections at once, without --memory"
    return [Note(kind="masks_left_out", count=len(found), message=message)]


class _Counts:
    """How many objects there are of each class: for COCO by scale `[4, K]`, for VOC, and without crowds."""

    def __init__(self, classes: int) -> None:
        self.coco = np.zeros((4, classes), dtype=np.int64)
        self.voc, self.objects = np.zeros(classes, dtype=np.int64), np.zeros(classes, dtype=np.int64)

    def add(self, truth: GroundTruth, matches: Matches) -> None:
        """Those of further images."""
        self.coco += objects_to_find(matches)
        self.voc += voc_objects(matches)
        self.objects += np.bincount(truth.category[~truth.crowd], minlength=matches.classes)


def _edges(low: int, high: int, parts: int) -> NDArray[np.int64]:
    """Ends of about so many ranges of images."""
    return np.unique(np.linspace(low, max(high, low + 1), min(max(parts, 1), 4_096) + 1).astype(np.int64))


def _part(edges: NDArray[np.int64], rows: Rows) -> NDArray[np.int64]:
    """In which range each row's image lies."""
    return np.searchsorted(edges, rows["image"], side="right") - 1


def _ranges(
    frame: GroundTruth, objects: Spill, found: Spill, edges: NDArray[np.int64], most: int, folder: Path | None
) -> Iterator[tuple[GroundTruth, Results]]:
    """Objects and detections of one range of images after another, each of at most so many rows if it can be."""
    for part, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        count = objects.counts[part] + found.counts[part]
        if count > most and high - low > 1:
            finer = _edges(low, high, 1 + 2 * count // most)
            with Spill(OBJECT, len(finer) - 1, folder) as fewer, Spill(FOUND, len(finer) - 1, folder) as less:
                for source, target in ((objects, fewer), (found, less)):
                    for rows in source.pieces(part, most):
                        target.scatter(_part(finer, rows), rows)
                yield from _ranges(frame, fewer, less, finer, most, folder)
        elif count:
            yield _truth(frame, objects.read(part)), _results(frame, found.read(part))


def _truth(frame: GroundTruth, rows: Rows) -> GroundTruth:
    return replace(
        frame,
        image=rows["image"].astype(np.int64),
        category=rows["category"].astype(np.int64),
        boxes=np.ascontiguousarray(rows["box"]),
        area=np.ascontiguousarray(rows["area"]),
        crowd=np.ascontiguousarray(rows["crowd"]),
        difficult=np.ascontiguousarray(rows["difficult"]),
    )


def _results(frame: GroundTruth, rows: Rows) -> Results:
    return Results(
        name=frame.name,
        image=rows["image"].astype(np.int64),
        category=rows["category"].astype(np.int64),
        boxes=np.ascontiguousarray(rows["box"]),
        scores=np.ascontiguousarray(rows["score"]),
        notes=(),
    )


def _judge(truth: GroundTruth, results: Results, judged: Spill) -> Matches:
    """Match, and put aside what became of each detection."""
    matches = match(truth, results)
    rows = np.empty(len(matches.score), dtype=_JUDGED)
    rows["score"], rows["voc"] = matches.score, matches.voc
    rows["matched"], rows["ignored"] = matches.matched, matches.ignored
    rows["rank"] = np.minimum(matches.rank, CAP)
    for k in np.unique(matches.category).tolist():
        judged.append(k, rows[matches.starts[k] : matches.starts[k + 1]])
    return matches


def _curves(
    judged: Spill, counts: _Counts, most: int, folder: Path | None, tell: Tell
) -> tuple[Curves, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """COCO's curves and VOC's two averages, class by class."""
    averages = []

    def walked(k: int) -> Tally:
        coco, voc = Tally(counts.coco[:, k]), VocTally(int(counts.voc[k]))
        for rows in _descending(judged, k, most, folder):
            voc.add(rows["voc"])
            matched, ignored = (np.ascontiguousarray(rows[key]) for key in ("matched", "ignored"))
            coco.add(np.arange(len(rows)), rows["rank"].astype(np.int32), matched, ignored)
        averages.append(voc.read())
        tell("adding up", k + 1, len(judged.counts))
        return coco

    curves = curves_of(counts.coco, map(walked, range(len(judged.counts))))
    ap07, ap10 = np.array(averages).reshape(-1, 2).T
    return curves, (ap07, ap10)


def _descending(judged: Spill, part: int, most: int, folder: Path | None) -> Iterator[Rows]:
    """The rows of a part by descending score, those of equal score as they stand, in lots of at most so many."""
    if judged.counts[part] <= most:
        rows = judged.read(part)
        yield rows[np.argsort(-rows["score"], kind="stable")]
        return
    sample = np.concatenate([rows["score"][:: 1 + judged.counts[part] // most] for rows in judged.pieces(part, most)])
    ends = [(rows["score"].min(), rows["score"].max()) for rows in judged.pieces(part, most)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if low == high:
        yield from judged.pieces(part, most)
        return
    # No cut is the highest score, so that each divides the rest and this comes to an end.
    places = np.linspace(0, 1, 2 + 2 * judged.counts[part] // most)[1:-1]
    cuts = np.unique(np.minimum(np.quantile(sample, places, method="lower"), np.nextafter(high, -np.inf)))
    with Spill(_JUDGED, len(cuts) + 1, folder) as finer:
        for rows in judged.pieces(part, most):
            finer.scatter(len(cuts) - np.searchsorted(cuts, rows["score"], side="left"), rows)
        for finer_part in range(len(cuts) + 1):
            yield from _descending(finer, finer_part, most, folder)
