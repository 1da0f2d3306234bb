"""Two files of results on the same images: `python -m benchmarks compare`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.metrics import ScoreError, load_detections, load_ground_truth
from benchmarks.metrics.comparison import compare
from benchmarks.protocol import identity_of
from benchmarks.ranking import Numbers, read_numbers, refuse_different_numbers, refuse_different_runs
from benchmarks.results import write_atomically

__all__ = ["print_comparison", "run_compare"]


def run_compare(
    first: Path,
    second: Path,
    gt: Path | None,
    *,
    draws: int = 1_000,
    seed: int = 0,
    margin: float = 0.5,
    out: Path | None = None,
) -> dict[str, Any]:
    """Read, compare, print, and return what `benchmarks.metrics.comparison.compare` gives.

    Of two files of numbers (`score --json`, `evaluate`, Records) the differences alone are given: without detections
    nothing can be said of chance. Numbers of different protocols are refused.

    Args:
        first: COCO results JSON of the first detector, or its numbers.
        second: And of the second.
        gt: COCO's instances JSON; numbers need none.
        draws: Resamples of the images.
        seed: Of them.
        margin: Differences up to so many points are of no account.
        out: Where to write the comparison as JSON besides.

    Raises:
        ScoreError: Input that cannot be compared, or output that cannot be written.
        ProtocolError: The two are of different protocols.
    """
    if draws < 100:
        raise ScoreError(f"{draws} resamples are too few for the ends of an interval; ask for 100 or more")
    numbers = [read_numbers(path) for path in (first, second)]
    if numbers[0] is not None and numbers[1] is not None:
        found = _compare_numbers(numbers[0], numbers[1], str(first), str(second))
    elif numbers[0] is not None or numbers[1] is not None:
        raise ScoreError(f"of {first} and {second} one holds numbers and one detections; give two of a kind")
    else:
        found = _compare_detections(first, second, gt, draws, seed, margin)
    if out is not None:
        try:
            write_atomically(out, json.dumps(found, indent=2, allow_nan=False) + "\n")
        except OSError as error:
            raise ScoreError(f"{out}: cannot be written ({error.strerror}); choose another place") from error
    return found


def _compare_detections(
    first: Path, second: Path, gt: Path | None, draws: int, seed: int, margin: float
) -> dict[str, Any]:
    if gt is None:
        raise ScoreError("detections need the ground truth of their images; name it by --gt")
    refuse_different_runs(first, second)
    truth = load_ground_truth(gt)
    found = compare(
        truth,
        load_detections(first, truth),
        load_detections(second, truth),
        draws=draws,
        seed=seed,
        margin=margin / 100,
    )
    print_comparison(found, str(first), str(second))
    return found


def _compare_numbers(first: Numbers, second: Numbers, name: str, other: str) -> dict[str, Any]:
    """Differences of numbers of the same protocols, each with the hash of its own."""
    rows: dict[str, Any] = {}
    for number in refuse_different_numbers(first, second):
        values = [one.values[number] or 0.0 for one in (first, second)]
        protocol = identity_of(number, first.settings, first.fingerprint)
        hashed = None if protocol is None else protocol.hash
        rows[number] = {
            "first": values[0],
            "second": values[1],
            "difference": values[0] - values[1],
            "protocol": hashed,
        }
    heads = ["", "first", "second", "difference", "protocol"]
    cells = [
        [key.partition(".")[2], *(f"{100 * row[side]:.1f}" for side in ("first", "second")),
         f"{100 * row['difference']:+.1f}", row["protocol"]]
        for key, row in rows.items()
    ]  # fmt: skip
    print(f"first: {name}\nsecond: {other}\n")
    print(tabulate(cells, headers=heads, disable_numparse=True, colalign=("left", *["right"] * 3, "left")))
    print("\nIn percent and points; no verdict, which the detections themselves are needed for.")
    return {"totals": rows}


def print_comparison(found: dict[str, Any], first: str, second: str) -> None:
    """Totals, then the classes that differ, in points."""
    heads = ["", "first", "second", "difference", "interval", "first is"]
    rows = [_row(name, row) for name, row in found["totals"].items() if row["difference"] is not None]
    print(f"first: {first}\nsecond: {second}\n")
    print(tabulate(rows, headers=heads, disable_numparse=True, colalign=("left", *["right"] * 4, "left")))
    differing = {name: row for name, row in found["per_class"].items() if row["verdict"] in ("better", "worse")}
    known = sum(row["p"] is not None for row in found["per_class"].values())
    print(f"\nAP differs in {len(differing)} of {known} classes", end="")
    if differing:
        ordered = sorted(differing.items(), key=lambda item: -item[1]["difference"])
        lines = [_row(name, row) for name, row in ordered]
        print(":\n")
        print(tabulate(lines, headers=heads, disable_numparse=True, colalign=("left", *["right"] * 4, "left")))
    else:
        print(".")
    print(
        f"\nIn percent and points. {100 * found['level']:.0f} % intervals from {found['draws']} resamples of the "
        f"{found['images']} images, the same for both; equivalent is within {100 * found['margin']:g} points. Of the "
        f"classes that are said to differ at most one in {round(1 / (1 - found['level']))} is to be wrong.",
        file=sys.stdout,
    )


def _row(name: str, row: dict[str, Any]) -> list[str]:
    said = row["verdict"] or "not known: too few images hold it"
    if row["images"] is not None and said == "cannot tell":
        said += f" (about {row['images']:,} images would)"
    ends = "-" if row["interval"] is None else " to ".join(f"{100 * end:+.1f}" for end in row["interval"])
    return [
        name,
        f"{100 * row['first']:.1f}",
        f"{100 * row['second']:.1f}",
        f"{100 * row['difference']:+.1f}",
        ends,
        said,
    ]
