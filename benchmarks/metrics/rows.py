"""Ground truth and detections of any length, as rows of numbers in the order of their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.data import GroundTruth, Oddities, ScoreError
from benchmarks.metrics.detections import detections_of_text
from benchmarks.metrics.entries import parse
from benchmarks.metrics.ground_truth import empty_ground_truth, objects_of
from benchmarks.metrics.pieces import Piece, list_of_file, pieces
from benchmarks.metrics.spill import Rows

__all__ = ["FOUND", "OBJECT", "Tell", "found_rows", "object_rows", "read_frame", "size_of"]

Tell = Callable[[str, int, int], None]
"""Called with what is under way, how much of it is done, and how much there is."""

OBJECT = np.dtype(
    [("image", "i4"), ("category", "i4"), ("box", "f8", 4), ("area", "f8"), ("crowd", "?"), ("difficult", "?")]
)
FOUND = np.dtype([("image", "i4"), ("category", "i4"), ("box", "f8", 4), ("score", "f8")])


def read_frame(gt: Path, lists: dict[str, tuple[int, int]], window: int) -> GroundTruth:
    """Images and categories of a ground truth whose lists lie at these bytes.

    Raises:
        ScoreError: One has no id, or that of another.
    """
    name = str(gt)
    found = [empty_ground_truth(name, [], _entries(name, piece)) for piece in _whole(gt, lists["categories"])]
    ids: list[int | str] = []
    sizes = [np.zeros((0, 2))]
    for piece in pieces(gt, *lists["images"], window // 8):
        part = empty_ground_truth(name, _entries(name, piece), [], piece.first)
        if ids and part.image_ids and type(ids[0]) is not type(part.image_ids[0]):
            raise ScoreError(f"{gt}: images: some ids are integers and some are strings; use one type")
        ids += part.image_ids
        sizes.append(part.image_sizes)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    ascending = tuple(ids[i] for i in order)
    for one, next_ in pairwise(ascending):
        if one == next_:
            raise _repeated(gt, "images", one)
    return replace(found[0], image_ids=ascending, image_sizes=np.concatenate(sizes)[order])


def _whole(path: Path, bounds: tuple[int, int]) -> Iterator[Piece]:
    return pieces(path, *bounds, bounds[1] - bounds[0])


def _entries(name: str, piece: Piece) -> list[Any]:
    entries: list[Any] = parse(name, piece.text, piece.place)
    return entries


def object_rows(
    frame: GroundTruth, gt: Path, bounds: tuple[int, int], looked: Oddities, window: int, tell: Tell
) -> Iterator[Rows]:
    """The objects between two bytes of a ground truth; afterwards their ids are compared.

    Raises:
        ScoreError: One cannot be scored, or has the id of another.
    """
    numbers: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    words: set[int | str] = set()
    for piece in pieces(gt, *bounds, window):
        ids: set[int | str] = set()
        truth = objects_of(frame, _entries(frame.name, piece), ids, looked, piece.first)
        texts = {id_ for id_ in ids if isinstance(id_, str)}
        for id_ in sorted(texts & words)[:1]:
            raise _repeated(gt, "annotations", id_)
        words |= texts
        numbers.append(np.array([id_ for id_ in ids if not isinstance(id_, str)], dtype=np.int64))
        rows = np.empty(len(truth.image), dtype=OBJECT)
        rows["image"], rows["category"], rows["box"], rows["area"] = (
            truth.image,
            truth.category,
            truth.boxes,
            truth.area,
        )
        rows["crowd"], rows["difficult"] = truth.crowd, truth.difficult
        yield rows
        tell("reading ground truth", piece.end - bounds[0], bounds[1] - bounds[0])
    ascending = np.concatenate(numbers)
    ascending.sort()
    for place in np.flatnonzero(ascending[1:] == ascending[:-1])[:1]:
        raise _repeated(gt, "annotations", int(ascending[place]))


def _repeated(gt: Path, key: str, id_: int | str) -> ScoreError:
    return ScoreError(f"{gt}: {key}: id {id_!r} is that of two; give each an id of its own")


def found_rows(frame: GroundTruth, files: Sequence[Path], looked: Oddities, window: int, tell: Tell) -> Iterator[Rows]:
    """The detections, file after file.

    Raises:
        ScoreError: One cannot be scored.
    """
    before, total = 0, sum(size_of(path) for path in files)
    for path in files:
        if len(files) > 1:
            looked.where = f"{path.name}: entry"
        for piece in pieces(path, *list_of_file(path), window):
            results = detections_of_text(str(path), piece.text, frame, looked, piece.first, piece.place)
            rows = np.empty(len(results.scores), dtype=FOUND)
            rows["image"], rows["category"], rows["box"], rows["score"] = (
                results.image,
                results.category,
                results.boxes,
                results.scores,
            )
            yield rows
            tell("reading detections", before + piece.end, total)
        before += size_of(path)


def size_of(path: Path) -> int:
    """Bytes of a file.

    Raises:
        ScoreError: There is none.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        raise ScoreError(f"{path}: cannot be read ({error.strerror}); check the path") from error
