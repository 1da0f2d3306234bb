"""Score a file of results for people who have nothing but that: `python -m benchmarks score`."""

from __future__ import annotations

import glob
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import psutil
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from tabulate import tabulate

from benchmarks.metrics import PROTOCOLS, ScoreError, load_detections, load_ground_truth, mask_ap, read_masks, score

__all__ = ["bytes_of", "misses_table", "print_scores", "run_score"]

_GROWTH, _GROWTH_OF_OBJECTS = 3, 12
"""Bytes of memory for each byte of the files of results and of the ground truth, where all is read at once."""


def run_score(
    gt: Path,
    detections: Path,
    protocol: str = "all",
    out: Path | None = None,
    *,
    intervals: int = 0,
    seed: int = 0,
    memory: int | None = None,
) -> dict[str, Any]:
    """Read both files, print the scores as tables and return them.

    Results in several JSON files, or longer than memory, are scored in parts (`benchmarks.metrics.stream`): the same
    numbers, of boxes, without intervals. Where the detections hold masks, so do the scores: `masks`, COCO's twelve
    numbers on them. A detection that has nothing but a mask has the box of that mask.

    Args:
        gt: COCO's instances JSON.
        detections: COCO's results JSON (a file, a folder or a pattern of several), or VOC's comp3/comp4 text files
            (likewise).
        protocol: coco, fd, voc07, voc10 or all.
        out: Where to write the scores as JSON besides; `-` writes them to the standard output, and the tables to the
            standard error.
        intervals: Resamples of the images from which 95 % intervals are taken; 0 for no intervals.
        seed: Of the resamples.
        memory: Bytes that the process may take; by default half of what is free, where that must be kept.

    Raises:
        ScoreError: Input that cannot be scored, or output that cannot be written.
    """
    if intervals and intervals < 100:
        raise ScoreError(f"{intervals} resamples are too few for the ends of an interval; ask for 100 or more")
    parts, limit = _in_parts(gt, detections, memory)
    if limit is not None and not (intervals and memory is None and parts == [detections]):
        if intervals:
            raise ScoreError("--intervals: resamples need all detections at once; leave it out, or --memory")
        scores = _score_in_parts(gt, parts, protocol, limit)
    else:
        scores = _score_at_once(gt, detections, protocol, intervals, seed)
    to_screen = out is not None and str(out) == "-"
    print_scores(scores, sys.stderr if to_screen else sys.stdout)
    if out is not None:
        text = json.dumps(scores, indent=2, allow_nan=False) + "\n"
        if to_screen:
            sys.stdout.write(text)
        else:
            from benchmarks.results import write_atomically

            try:
                write_atomically(out, text)
            except OSError as error:
                raise ScoreError(f"{out}: cannot be written ({error.strerror}); choose another place") from error
    return scores


def _score_at_once(gt: Path, detections: Path, protocol: str, intervals: int, seed: int) -> dict[str, Any]:
    truth = load_ground_truth(gt)
    entries = read_masks(detections)
    found = load_detections(detections if entries is None else entries, truth)
    scores = score(truth, found, protocol, intervals=intervals, seed=seed)
    if entries is not None and protocol in ("coco", "all"):
        scores["masks"] = mask_ap(gt, entries)
    return scores


def _in_parts(gt: Path, detections: Path, memory: int | None) -> tuple[list[Path], int | None]:
    """The files of results in COCO's format, and how many bytes to keep to where they are to be scored in parts.

    Raises:
        ScoreError: Memory is limited, and there are none.
    """
    if detections.is_dir():
        files = [] if any(detections.glob("comp*_det_*.txt")) else sorted(detections.glob("*.json"))
    elif not detections.exists() and glob.has_magic(str(detections)):
        files = [Path(name) for name in sorted(glob.glob(str(detections))) if name.endswith(".json")]
    else:
        files = [detections] if detections.suffix != ".txt" else []
    if memory is not None:
        if not files:
            raise ScoreError(f"{detections}: holds no COCO results JSON, which --memory is for; leave it out")
        return files, memory
    if not all(path.is_file() for path in (gt, *files)):
        return files, None
    free = psutil.virtual_memory().available
    needed = _GROWTH * sum(path.stat().st_size for path in files) + _GROWTH_OF_OBJECTS * gt.stat().st_size
    if not files or (files == [detections] and needed <= free):
        return files, None
    if needed > free:
        print(
            f"about {needed / 1e9:.1f} GB would be needed at once, {free / 1e9:.1f} are free: scored in parts",
            file=sys.stderr,
        )
    return files, free // 2


def _score_in_parts(gt: Path, files: Sequence[Path], protocol: str, memory: int) -> dict[str, Any]:
    from benchmarks.metrics.stream import stream_score

    if protocol not in PROTOCOLS:
        raise ScoreError(f"protocol {protocol!r} is unknown; choose one of {', '.join(PROTOCOLS)}")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage)
            bar.update(tasks[stage], completed=done, total=total)

        return stream_score(gt, files, protocol, memory=memory, tell=tell)


def bytes_of(text: str) -> int:
    """Bytes from `2G`, `500M` or a number.

    Raises:
        ScoreError: It is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text.strip())
    if found is None:
        raise ScoreError(f"--memory {text}: write a size such as 2G or 500M")
    return int(float(found[1]) * 1_000 ** " kMGT".index(found[2] or " "))


def print_scores(scores: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Print what `score` returned: totals, classes and notes, in percent as papers print them."""
    sure: Mapping[str, Any] = scores.get("intervals", {})
    blocks = [
        _totals(scores[name], sure.get(name))
        for name in ("stats", "fd", "voc")
        if any(value is not None for value in scores[name].values())
    ]
    if "proposals" in scores:
        blocks.append(_proposals(scores["proposals"]))
    if "misses" in scores:
        blocks.append(misses_table(scores["misses"]))
    if "masks" in scores:
        masks = tabulate([_percent(scores["masks"].values())], headers=list(scores["masks"]), disable_numparse=True)
        blocks.insert(1, f"Masks:\n{masks}")
    classes = scores["per_class"]
    blocks.append(_classes(classes, sure.get("per_class", {})))
    if not any(row["objects"] for row in classes.values()):
        blocks.append("The ground truth holds no object, so no score is defined.")
    blocks += [f"note: {note['message']}" for note in scores.get("notes", ())]
    meaning = "In percent; - is undefined."
    if sure:
        meaning += (
            f" Low and high, or the brackets, are to hold the score on as many images of the same kind "
            f"{100 * sure['level']:.0f} times in 100 (from {sure['draws']} resamples of the images)."
        )
    print("\n\n".join(blocks), "", meaning, sep="\n", file=file)


def _proposals(part: Mapping[str, Any]) -> str:
    """Recalls of the regions, then how many there are."""
    found = dict(part)
    counts = {"proposals an image": f"{found.pop('per_image'):.1f}", "most": str(found.pop("most"))}
    rows = [[*_percent(found.values()), *counts.values()]]
    return tabulate(rows, headers=[*found, *counts], disable_numparse=True, stralign="right")


def _classes(classes: Mapping[str, Any], ends: Mapping[str, Any]) -> str:
    """A row a class, of the numbers that were asked for, with intervals where there are any."""
    columns = [
        key for key in ("AP", "AP50", "FD", "AP07", "AP10") if any(row[key] is not None for row in classes.values())
    ]
    rows = [
        [name, row["objects"], *(_with_ends(row[key], ends.get(name, {}).get(key)) for key in columns)]
        for name, row in classes.items()
    ]
    return tabulate(
        rows,
        headers=["class", "objects", *columns],
        disable_numparse=True,
        colalign=("left", *["right"] * (1 + len(columns))) if rows else None,
    )


def _totals(part: Mapping[str, Any], ends: Mapping[str, Any] | None) -> str:
    """The numbers, and below them the ends of their intervals where there are any."""
    rows, heads = [_percent(part.values())], list(part)
    if ends is not None:
        low, high = (["" if not ends.get(key) else f"{100 * ends[key][side]:.1f}" for key in part] for side in (0, 1))
        rows, heads = [["score", *rows[0]], ["low", *low], ["high", *high]], ["", *heads]
    return tabulate(rows, headers=heads, disable_numparse=True, stralign="right")


def _with_ends(value: float | None, ends: list[float] | None) -> str:
    (text,) = _percent([value])
    return text if ends is None else f"{text} ({100 * ends[0]:.1f}-{100 * ends[1]:.1f})"


def misses_table(part: Mapping[str, Any]) -> str:
    """Miss rates, and what is found at a number of false positives, with intervals where there are any."""
    ends = part.get("intervals")
    rates, found = (_totals(pick(part), None if ends is None else pick(ends)) for pick in (_rates, _found))
    return f"Missed:\n{rates}\n\nFound at so many false positives:\n{found}"


def _rates(part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "log-average": part["log_average"],
        **{f"{rate} FPPI": value for rate, value in part["at_fppi"].items()},
        **{f"{rate} FPPW": value for rate, value in part["at_fppw"].items()},
    }


def _found(part: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{count} false": value for count, value in part["found_at"].items()}


def _percent(values: Any) -> list[str]:
    return ["-" if value is None else f"{100 * value:.1f}" for value in values]
