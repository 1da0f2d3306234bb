"""Score a file of results for people who have nothing but that: `python -m benchmarks score`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from tabulate import tabulate

from benchmarks.metrics import ScoreError, load_detections, load_ground_truth, mask_ap, read_masks, score

__all__ = ["misses_table", "print_scores", "run_score"]


def run_score(
    gt: Path,
    detections: Path,
    protocol: str = "all",
    out: Path | None = None,
    *,
    intervals: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Read both files, print the scores as tables and return them.

    Where the detections hold masks, so do the scores: `masks`, COCO's twelve numbers on them. A detection that has
    nothing but a mask has the box of that mask.

    Args:
        gt: COCO's instances JSON.
        detections: COCO's results JSON, or VOC's comp3/comp4 text files (a folder, a file, a pattern).
        protocol: coco, fd, voc07, voc10 or all.
        out: Where to write the scores as JSON besides; `-` writes them to the standard output, and the tables to the
            standard error.
        intervals: Resamples of the images from which 95 % intervals are taken; 0 for no intervals.
        seed: Of the resamples.

    Raises:
        ScoreError: Input that cannot be scored, or output that cannot be written.
    """
    if intervals and intervals < 100:
        raise ScoreError(f"{intervals} resamples are too few for the ends of an interval; ask for 100 or more")
    truth = load_ground_truth(gt)
    entries = read_masks(detections)
    scores = score(
        truth,
        load_detections(detections if entries is None else entries, truth),
        protocol,
        intervals=intervals,
        seed=seed,
    )
    if entries is not None and protocol in ("coco", "all"):
        scores["masks"] = mask_ap(gt, entries)
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


def print_scores(scores: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Print what `score` returned: totals, classes and notes, in percent as papers print them."""
    sure: Mapping[str, Any] = scores.get("intervals", {})
    blocks = [
        _totals(scores[name], sure.get(name))
        for name in ("stats", "fd", "voc")
        if any(value is not None for value in scores[name].values())
    ]
    if "proposals" in scores:
        found = dict(scores["proposals"])
        counts = {"proposals an image": f"{found.pop('per_image'):.1f}", "most": str(found.pop("most"))}
        shares = dict(zip(found, _percent(found.values()), strict=True))
        rows = [list(shares.values()) + list(counts.values())]
        blocks.append(tabulate(rows, headers=[*shares, *counts], disable_numparse=True, stralign="right"))
    if "misses" in scores:
        blocks.append(misses_table(scores["misses"]))
    if "masks" in scores:
        masks = tabulate([_percent(scores["masks"].values())], headers=list(scores["masks"]), disable_numparse=True)
        blocks.insert(1, f"Masks:\n{masks}")
    classes = scores["per_class"]
    columns = [
        key for key in ("AP", "AP50", "FD", "AP07", "AP10") if any(row[key] is not None for row in classes.values())
    ]
    ends = sure.get("per_class", {})
    rows = [
        [name, row["objects"], *(_with_ends(row[key], ends.get(name, {}).get(key)) for key in columns)]
        for name, row in classes.items()
    ]
    blocks.append(
        tabulate(
            rows,
            headers=["class", "objects", *columns],
            disable_numparse=True,
            colalign=("left", *["right"] * (1 + len(columns))) if rows else None,
        )
    )
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
