"""The command line: `python -m reports`. Exit status 0; 1 where `--check` finds a stale page; 2 on bad input."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.papers import TableError, read_tables
from benchmarks.results import COMMITTED, RecordError, write_atomically
from reports.records import ReportError, read_entries
from reports.render import render, stale

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
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is stale")
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
    try:
        return _check(options.out or PAGES) if options.check else _write(options.results, options.out)
    except (RecordError, TableError, ReportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _check(folder: Path) -> int:
    found = stale(render(read_entries(COMMITTED), read_tables()), folder)
    for sentence in found:
        print(sentence, file=sys.stderr)
    if found:
        print("render anew with: python -m reports", file=sys.stderr)
    return 1 if found else 0


def _write(results: list[Path] | None, out: Path | None) -> int:
    local = COMMITTED / "local"
    own = results if results is not None else [local] if local.is_dir() else []
    tables = read_tables()
    # The project's pages hold the project's Records alone: else one run of one's own would leave them stale for good.
    places: dict[Path, list[Path]] = {PAGES: []} if out is None else {}
    if own or out is not None:
        places[out or own[0]] = own
    for folder, folders in places.items():
        for name, page in render(read_entries(COMMITTED, folders), tables).items():
            write_atomically(folder / name, page)
            print(folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
