"""From Records and paper tables to two pages: `tables.md`, and `index.html`, which needs no other file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from benchmarks.papers import Table
from reports.amount import amounts
from reports.appendix import appendix
from reports.papers import paper_section, printed_figures
from reports.records import NOT_MEASURED, UNDEFINED, Entry, Shelf
from reports.sections import Grid, Plot, Section, checkpoints, front, leaderboards
from reports.seeds import repeated
from reports.speed import speeds
from reports.two_stage import ablations, line, read_chosen
from reports.windows import windows

__all__ = ["render", "stale"]

_INLINE = re.compile(
    r"\\(?P<literal>[\\`*<])|\[`(?P<page>[^`]+)`\]\(detectors/(?P=page)\.md\)|`(?P<code>[^`]+)`"
    r"|\*\*(?P<strong>[^*]+)\*\*|\*(?P<em>[^*]+)\*|(?P<a>https://[^\s,)]+)"
)
_ELEMENTS = {
    "literal": Markup("{0}"),
    "page": Markup('<a href="detectors/{0}.md"><code>{0}</code></a>'),
    "code": Markup("<code>{0}</code>"),
    "strong": Markup("<strong>{0}</strong>"),
    "em": Markup("<em>{0}</em>"),
    "a": Markup('<a href="{0}">{0}</a>'),
}


def render(entries: Sequence[Entry], tables: Sequence[Table]) -> dict[str, str]:
    """Every page by file name.

    Raises:
        ReportError: A Record holds what no page can show.
    """
    shelf, chosen = Shelf(entries), read_chosen()
    sections = [
        front(shelf),
        *leaderboards(shelf),
        *line(shelf, chosen),
        *repeated(shelf),
        *ablations(shelf, chosen),
        *amounts(shelf),
        checkpoints(shelf, printed_figures(tables)),
        *(paper_section(shelf, table) for table in tables),
        speeds(shelf, tables),
        windows(),
        *appendix(shelf),
    ]
    return {"tables.md": _markdown(sections), "index.html": _html(sections)}


def stale(pages: Mapping[str, str], folder: Path) -> list[str]:
    """For each page whose file under `folder` differs, a sentence that names the first differing line."""
    found = []
    for name, page in pages.items():
        path = folder / name
        if not path.exists():
            found.append(f"{path}: is missing")
            continue
        there = path.read_bytes().decode(errors="replace")
        if there == page:
            continue
        old, new = there.splitlines(), page.splitlines()
        line = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        was, should = (_clip(lines[line]) if line < len(lines) else "the end of the file" for lines in (old, new))
        found.append(f"{path}: line {line + 1} is stale:\n  there is   {was}\n  should be  {should}")
    return found


def _clip(line: str) -> str:
    return line if len(line) <= 160 else f"{line[:157]}..."


def _markdown(sections: Sequence[Section]) -> str:
    parts = ["<!-- Written by `python -m reports`; change Records or benchmarks/papers, never this file. -->"]
    for section in sections:
        parts.append(f"{'#' * section.level} {section.title}")
        for block in section.blocks:
            match block:
                case str():
                    parts.append(block)
                case Grid():
                    parts.append(_markdown_grid(block))
                case tuple() if block:
                    parts.append("\n".join(f"- {item}" for item in block))
    return "\n\n".join(parts) + "\n"


def _markdown_grid(grid: Grid) -> str:
    titles = [f"{header.side}: {header.title}" if header.side else header.title for header in grid.headers]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in grid.rows]
    frame = pd.DataFrame(cells, columns=pd.Index(titles))
    align = ["left" if header.text else "right" for header in grid.headers]
    table = frame.to_markdown(index=False, colalign=align, disable_numparse=True)
    lines = [f"*{key}*: {label}" for key, label in grid.sides.items()]
    lines += [f"*{mark}*: {text}" for mark, text in grid.notes]
    return "\n\n".join([table, "  \n".join(lines)]) if lines else table


def _html(sections: Sequence[Section]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"inline": _inline, "heads": _heads}
    environment.tests |= {
        "grid": lambda block: isinstance(block, Grid),
        "plot": lambda block: isinstance(block, Plot),
    }
    return environment.get_template("index.html.j2").render(sections=sections, missing=(NOT_MEASURED, UNDEFINED))


def _inline(text: str) -> Markup:
    """Code, strong, emphasis, links and links to detectors' pages of a paragraph; everything else is text."""
    parts = []
    end = 0
    for match in _INLINE.finditer(text):
        element = match.lastgroup or "literal"
        parts += [escape(text[end : match.start()]), _ELEMENTS[element].format(match[element])]
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def _heads(grid: Grid) -> list[tuple[str, str, int]]:
    """The upper row of the head: key and label of a side, and over how many columns it stands."""
    spans = [(side, len(list(run))) for side, run in groupby(grid.headers, key=lambda header: header.side)]
    return [(side, grid.sides.get(side, ""), span) for side, span in spans]
