"""Where a detector's errors are: `python -m benchmarks analyse`.

The kinds of its errors and what they cost, whether its scores mean what they say, how recall grows with the number of
detections, which classes it takes for which, its miss rates with exact intervals, and the images with most errors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.metrics import ScoreError, load_detections, load_ground_truth, match, miss_rates, proposal_recall
from benchmarks.metrics.calibration import calibration
from benchmarks.metrics.coco import COCO, mean_or_none
from benchmarks.metrics.confusion import confusion
from benchmarks.metrics.data import GroundTruth, Results
from benchmarks.metrics.errors import Errors, find_errors, summary
from benchmarks.metrics.filters import chosen
from benchmarks.metrics.matching import CAP, Matches
from benchmarks.results import write_atomically
from benchmarks.score import misses_table

__all__ = ["NUMBERS", "Analysis", "analyse", "print_analysis", "recall_by_number", "run_analysis"]

NUMBERS = (1, 2, 3, 5, 10, 20, 50, CAP)
"""So many detections are looked at when recall is taken; of all classes together, ten times as many too."""

_WORST = 9


@dataclass(frozen=True)
class Analysis:
    """What was found out.

    Attributes:
        numbers: What JSON can hold: `errors`, `calibration`, `recall`, `confusion`, `misses`, `worst`.
        shown: Detections of at least the score that `confusion` and `worst` look at.
        errors: Of these.
    """

    numbers: dict[str, Any]
    shown: Results
    errors: Errors


def analyse(truth: GroundTruth, results: Results, *, floor: float = 0.3) -> Analysis:
    """Look at the errors of a list of detections.

    Args:
        truth: The objects.
        results: The detections.
        floor: Confusion and worst images are of detections that score at least this: of what a user would see.

    Returns:
        Under `numbers`: `errors` as `metrics.errors.summary` gives it; `calibration` likewise; `recall`, the AR of the
        first so many detections of a class in an image (`by_class`), and of an image whatever their class
        (`proposals`); `confusion`, with `floor`, `labels`, `matrix` (true class by class said, background and missed
        last) and `pairs`, the classes that are most often mistaken; `misses`; `worst`, the images with most errors.
    """
    matches = match(truth, results)
    shown = chosen(results, results.scores >= floor)
    errors = find_errors(truth, shown, match(truth, shown))
    matrix = confusion(truth, shown, errors)
    numbers = {
        "errors": summary(find_errors(truth, results, matches), truth.labels),
        "calibration": calibration(truth, results, matches),
        "recall": {"by_class": recall_by_number(matches), "proposals": _proposals(truth, results)},
        "confusion": {
            "floor": floor,
            "labels": list(truth.labels),
            "matrix": matrix.tolist(),
            "pairs": _pairs(matrix, truth.labels),
        },
        "misses": miss_rates(matches, truth.labels),
        "worst": _worst(truth, errors),
    }
    return Analysis(numbers, shown, errors)


def recall_by_number(matches: Matches) -> dict[str, float | None]:
    """COCO's AR of the first 1, 2, ... detections of a class in an image, by that number."""
    objects = np.bincount(matches.truth_category[~matches.truth_ignored[:, 0]], minlength=matches.classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(objects > 0, 1 / objects, np.nan)
    found: dict[str, list[NDArray[np.float64]]] = {str(number): [] for number in NUMBERS}
    for t in range(COCO.start, COCO.stop):
        bit = np.uint32(1 << t)
        right = (matches.matched[:, 0] & bit != 0) & (matches.ignored[:, 0] & bit == 0)
        for number in NUMBERS:
            counted = matches.category[right & (matches.rank < number)]
            found[str(number)].append(share * np.bincount(counted, minlength=matches.classes))
    return {number: mean_or_none(np.stack(values)) for number, values in found.items()}


def _proposals(truth: GroundTruth, results: Results) -> dict[str, float | None]:
    """AR of the first detections of an image, classes not told apart."""
    order = np.lexsort((-results.scores, results.image))
    parts = np.split(results.boxes[order], np.searchsorted(results.image[order], np.arange(1, len(truth.image_ids))))
    budgets = (*NUMBERS, *(10 * number for number in NUMBERS if 10 * number > CAP))
    found = proposal_recall(truth, dict(zip(truth.image_ids, parts, strict=True)), budgets)
    return {str(most): found[f"AR{most}"] for most in budgets}


def _pairs(matrix: NDArray[np.int64], labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """The ten pairs of classes that are taken for each other most often."""
    between = matrix[:-1, :-1].copy()
    np.fill_diagonal(between, 0)
    places = np.argsort(-between, axis=None, kind="stable")[:10]
    pairs = [divmod(int(place), len(labels)) for place in places] if len(labels) else []
    return [{"true": labels[i], "said": labels[j], "count": int(between[i, j])} for i, j in pairs if between[i, j]]


def _worst(truth: GroundTruth, errors: Errors) -> list[dict[str, Any]]:
    """The images with most errors, each error counted once."""
    matches = errors.matches
    wrong = np.bincount(matches.image[errors.kind >= 0], minlength=matches.images)
    missed = np.bincount(matches.truth_image[errors.missed], minlength=matches.images)
    order = np.argsort(-(wrong + missed), kind="stable")[:_WORST]
    return [
        {"image_id": truth.image_ids[i], "wrong": int(wrong[i]), "missed": int(missed[i])}
        for i in order
        if wrong[i] + missed[i]
    ]


def run_analysis(
    gt: Path, detections: Path, out: Path, *, images: Path | None = None, floor: float = 0.3
) -> dict[str, Any]:
    """Read, analyse, print, and write `analysis.json`, `analysis.png` and, with an image folder, `worst.png`.

    Args:
        gt: COCO's instances JSON.
        detections: As `score` takes them.
        out: Folder to write to.
        images: Folder in which the images lie, at whatever depth, by the names that the ground truth gives them.
        floor: See `analyse`.

    Raises:
        ScoreError: Input that cannot be scored, or an image is missing.
    """
    from benchmarks.analysis_plots import draw_analysis, draw_worst

    if images is not None and not images.is_dir():
        raise ScoreError(f"{images}: is no folder; name the one that holds the images")
    console = Console()
    with console.status("reading and matching"):
        truth = load_ground_truth(gt)
        found = analyse(truth, load_detections(detections, truth), floor=floor)
    print_analysis(found.numbers, console)
    files: dict[str, str | bytes] = {}
    with console.status("drawing"):
        files["analysis.json"] = json.dumps(found.numbers, indent=2, allow_nan=False) + "\n"
        files["analysis.png"] = draw_analysis(found.numbers)
        if images is not None and found.numbers["worst"]:
            files["worst.png"] = draw_worst(truth, found, images)
    for name, content in files.items():
        write_atomically(out / name, content)
        console.print(str(out / name), soft_wrap=True)
    return found.numbers


def print_analysis(numbers: dict[str, Any], console: Console | None = None) -> None:
    """The numbers as tables, in percent and points."""
    console = console or Console()
    errors = numbers["errors"]
    table = Table("error", title=f"AP50 {_percent(errors['AP50'])}; dAP50 is gained if these are mended alone")
    for head in ("count", "dAP50"):
        table.add_column(head, justify="right")
    rows = {
        **errors["kinds"],
        **{name.replace("_", " "): errors[name] for name in ("false_positives", "false_negatives")},
    }
    for name, row in rows.items():
        table.add_row(name, f"{row['count']:,}", _percent(row["dAP"]))
    console.print(table)
    sure = numbers["calibration"]
    if sure["undefined"]:
        console.print(f"Calibration: not measured, for {sure['undefined']}.")
    else:
        covers = "" if sure["D-ECE"] is None else f" (of {_percent(sure['D-ECE_covers'])} % of the detections)"
        console.print(
            f"Scores against precision at IoU .5: ECE {_percent(sure['ECE'])}, D-ECE {_percent(sure['D-ECE'])}{covers}."
        )
    for part, title in (("by_class", "AR of the first detections of a class"), ("proposals", "and of all classes")):
        recall = numbers["recall"][part]
        table = Table(*recall, title=f"{title} in an image")
        table.add_row(*(_percent(value) for value in recall.values()))
        console.print(table)
    mistaken = numbers["confusion"]
    if mistaken["pairs"]:
        said = "; ".join(f"{pair['true']} for {pair['said']} ({pair['count']})" for pair in mistaken["pairs"])
        console.print(f"Most often mistaken, from score {mistaken['floor']:g} on: {said}.")
    console.print(misses_table(numbers["misses"]), highlight=False)
    if numbers["worst"]:
        worst = "; ".join(
            f"{row['image_id']} ({row['wrong']} wrong, {row['missed']} missed)" for row in numbers["worst"]
        )
        console.print(f"Images with most errors, from score {mistaken['floor']:g} on: {worst}.")
    console.print("In percent; - is undefined. Low and high hold the rate 95 times in 100 (exact binomial intervals).")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
