"""Whether the pages say what the Records say, and the Records what was measured: `--check` and `--verify`."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.answers import same_run
from benchmarks.manifest import MANIFEST, ManifestError, changed
from benchmarks.rescore import contradictions, kept_detections, rescored
from reports.records import Entry

__all__ = ["figures", "sealed_files", "sound", "stale"]

_MOST = 10
"""Most places of a page that are named."""

_NAMES = ("method", "detector", "Record")
"""Columns that name a row; where a table has none of them, its first does."""

_CELL = re.compile(r"<t[dh][^>]*>(.*?)</t[dh]>")


def stale(pages: Mapping[str, str], folder: Path) -> list[str]:
    """A sentence for each line, or each cell of a table, in which the files under `folder` differ from the pages.

    Cells are named by section, row and column. Of a page that differs in more than ten places, or in its length, the
    first are named.
    """
    found = []
    for name, page in pages.items():
        path = folder / name
        if not path.exists():
            found.append(f"{path}: is missing")
            continue
        there = path.read_bytes().decode(errors="replace")
        if there != page:
            found += list(_differences(path, there, page))[:_MOST]
    return found


def _differences(path: Path, there: str, page: str) -> Iterator[str]:
    old, new = there.splitlines(), page.splitlines()
    count = min(len(old), len(new))
    lines = [index for index in range(count) if old[index] != new[index]]
    if len(old) != len(new) or not lines:
        lines = [*lines[:1], *([] if lines else [count])]
    cells = [sentence for line in lines for sentence in _cells(path, old, new, line)]
    if cells:
        yield from cells
        return
    for line in lines:
        was, should = (_clip(side[line]) if line < len(side) else "the end of the file" for side in (old, new))
        yield f"{path}: line {line + 1} is stale:\n  there is   {was}\n  should be  {should}"


def _cells(path: Path, old: Sequence[str], new: Sequence[str], line: int) -> Iterator[str]:
    """The differing cells, where the line is a row of a table in both; a row that moved is held against itself."""
    if line >= min(len(old), len(new)):
        return
    should, heads = _split(new[line]), _heads(new, line)
    if not should or len(heads) != len(should) or len(_split(old[line])) != len(should):
        return
    key = next((at for at, head in enumerate(heads) if head.rpartition(": ")[2] in _NAMES), 0)
    was = _counterpart(old, line, key, should[key])
    for head, before, after in zip(heads, was, should, strict=True):
        if before != after:
            place = f"section {_section(new, line)!r}, row {should[key]!r}, column {head!r}"
            yield f"{path}: line {line + 1} is stale: {place}:\n  there is   {before}\n  should be  {after}"


def _counterpart(lines: Sequence[str], line: int, key: int, name: str) -> list[str]:
    """The row of the same table that has the same name; where there is not exactly one, the row of the same place."""
    here = _split(lines[line])
    start = end = line
    while start and len(_split(lines[start - 1])) == len(here):
        start -= 1
    while end + 1 < len(lines) and len(_split(lines[end + 1])) == len(here):
        end += 1
    named = [cells for cells in map(_split, lines[start : end + 1]) if cells[key] == name]
    return named[0] if len(named) == 1 else here


def _split(line: str) -> list[str]:
    """The cells of a row, in Markdown or HTML; none where the line is no row."""
    if line.startswith("|"):
        return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])]
    if line.startswith("<tr"):
        return [html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in _CELL.findall(line)]
    return []


def _heads(lines: Sequence[str], line: int) -> list[str]:
    if lines[line].startswith("|"):
        first = line
        while first and lines[first - 1].startswith("|"):
            first -= 1
        return _split(lines[first])
    above = (text for text in reversed(lines[:line]) if text.startswith('<tr class="columns"'))
    return _split(next(above, ""))


def _section(lines: Sequence[str], line: int) -> str:
    for text in reversed(lines[:line]):
        if found := re.match(r"#+ (.*)|<h[1-6][^>]*>(.*?)</h", text):
            return html.unescape(re.sub(r"<[^>]+>", "", found[1] or found[2] or ""))
    return ""


def _clip(line: str) -> str:
    return line if len(line) <= 160 else f"{line[:157]}..."


def figures(pages: Mapping[str, str]) -> int:
    """Cells of the Markdown pages that hold a figure: what comparing them with a fresh rendering recomputes."""
    lines = (line for name, page in pages.items() if name.endswith(".md") for line in page.splitlines())
    return sum(any(letter.isdigit() for letter in cell) for line in lines for cell in _split(line))


def sealed_files(sealed: Mapping[Path, str]) -> list[str]:
    """A sentence for each Record or paper's table whose bytes are not those of its manifest."""
    found = []
    for folder, pattern in sealed.items():
        if any(folder.glob(pattern)) or (folder / MANIFEST).exists():
            try:
                found += changed(folder, pattern)
            except ManifestError as error:
                found.append(str(error))
    return found


def sound(entries: Sequence[Entry]) -> tuple[list[str], str]:
    """Faults of Records by what they rest on, and a sentence on how many could be recomputed from detections."""
    faults = [f"{entry.path}: {sentence}" for entry in entries for sentence in contradictions(entry.record)]
    accuracies = [entry for entry in entries if entry.record.kind == "accuracy"]
    scored = [entry.record for entry in accuracies]
    timed = ((entry, same_run(entry.record, scored)) for entry in entries if entry.record.kind == "latency")
    faults += [f"{entry.path}: {found}" for entry, found in timed if found.state == "void"]
    kept = [(entry, found) for entry in accuracies if (found := kept_detections(entry.path, entry.record))]
    done, reasons = 0, []
    for entry, path in track(kept, description="scoring again", console=Console(stderr=True), disable=not kept):
        try:
            faults += [f"{entry.path}: {sentence}" for sentence in rescored(entry.record, path)]
            done += 1
        except ValueError as error:
            reasons.append(str(error))
    without = len(accuracies) - len(kept)
    sentence = (
        f"{done} of {len(accuracies)} accuracy Records scored again from their detections; {without} have none beside "
        "them (`python -m benchmarks evaluate` repeats those whose weights ship)"
    )
    return faults, "; ".join([sentence, *reasons])
