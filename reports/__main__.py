"""The command line: `python -m reports`. Exit status 0; 1 where a check finds a fault; 2 on bad input."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.manifest import SEALED
from benchmarks.papers import TableError, read_tables
from benchmarks.results import COMMITTED, RecordError, write_atomically
from benchmarks.stopping import stoppable
from reports.claims import judged
from reports.exports import FORMATS, Form, export
from reports.records import ReportError, Shelf, read_entries
from reports.render import render, sections_of
from reports.verify import figures, sealed_files, sound, stale

__all__ = ["main"]

PAGES = Path(__file__).parent
"""Where the project's own pages lie."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Render the pages, or with `--check` compare them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m reports", description="Render the tables and plots.")
    parser.add_argument(
        "--results",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="folders with Records of your own (default: benchmarks/results/local where it exists)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="write nothing; exit 1 and name each cell that is stale")
    what.add_argument(
        "--verify",
        action="store_true",
        help="write nothing; besides --check hold Records and papers' tables against their manifests, Records against "
        "their own parts, and their metrics against the detections they were scored from, where these are kept",
    )
    what.add_argument("--export", choices=FORMATS, help="write each table as a file of its own under --out instead")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where the pages go (default: reports for the project's Records; pages with your own Records go to the "
        "first folder of these)",
    )
    options = parser.parse_args(arguments)
    if options.check and options.results:
        parser.error("--check looks at the project's own Records only: leave --results out")
    if options.export and options.out is None:
        parser.error("--export writes many files: name their folder with --out")
    try:
        if options.check:
            return _check(options.out or PAGES)
        if options.verify:
            return _verify(options.results or [], options.out)
        if options.export:
            return _export(options.results or [], options.export, options.out)
        return _write(options.results, options.out)
    except (RecordError, TableError, ReportError, OSError, MemoryError) as error:
        print(f"error: {str(error) or 'out of memory'}", file=sys.stderr)
        return 2


def _check(folder: Path) -> int:
    found = stale(render(read_entries(COMMITTED), read_tables()), folder)
    for sentence in found:
        print(sentence, file=sys.stderr)
    if found:
        print("render anew with: python -m reports", file=sys.stderr)
    return 1 if found else 0


def _export(own: list[Path], form: Form, out: Path) -> int:
    shelf, tables = Shelf(read_entries(COMMITTED, own)), read_tables()
    sections = sections_of(shelf, tables, judged(shelf, tables))
    print(f"{len(export(sections, form, out))} files in {out}")
    return 0


def _verify(own: list[Path], out: Path | None) -> int:
    """The project's pages and Records; or, with the reader's own folders, their Records and the pages in the first."""
    entries = read_entries(COMMITTED, own)
    pages = render(entries, read_tables())
    folder = out or (own[0] if own else PAGES)
    faults, scored = sound([entry for entry in entries if entry.own or not own])
    if not own or out is not None or any((folder / name).exists() for name in pages):
        faults += stale(pages, folder)
    faults += [] if own else sealed_files(SEALED)
    for sentence in faults:
        print(sentence, file=sys.stderr)
    print(f"{figures(pages):,} cells with figures rendered again from {len(entries)} Records; {scored}")
    print(f"faults: {len(faults)}" if faults else "no fault found")
    return 1 if faults else 0


def _write(results: list[Path] | None, out: Path | None) -> int:
    local = COMMITTED / "local"
    own = results if results is not None else [local] if local.is_dir() else []
    tables = read_tables()
    # The project's pages hold the project's Records alone: else one run of one's own would leave them stale for good.
    places: dict[Path, list[Path]] = {PAGES: []} if out is None else {}
    if own or out is not None:
        places[out or own[0]] = own
    for folder, folders in places.items():
        pages = render(read_entries(COMMITTED, folders), tables)
        for name, page in pages.items():
            write_atomically(folder / name, page)
        for name in (name for name in pages if "/" not in name):
            print(folder / name)
        for below, count in Counter(name.partition("/")[0] for name in pages if "/" in name).items():
            print(f"{folder / below}: {count} page{'s' if count != 1 else ''}")
    return 0


if __name__ == "__main__":
    with stoppable("python -m reports"):
        sys.exit(main())
