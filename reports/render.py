"""From Records and tables to pages: `tables.md`, `claims.md`, `index.html`, which needs no other file, `detectors/`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from benchmarks.papers import DASH, Table
from reports.amount import amounts
from reports.appendix import appendix
from reports.claims import Judged, judged, ledger, overview
from reports.detectors import detector_pages
from reports.ideas import ideas, read_ideas
from reports.papers import paper_section, printed_figures
from reports.pictures import pictures
from reports.records import NOT_MEASURED, UNDEFINED, Entry, Shelf
from reports.sections import Grid, Plot, Section, checkpoints, front, leaderboards
from reports.seeds import repeated
from reports.speed import speeds
from reports.svg import FAMILIES
from reports.two_stage import line, read_line
from reports.windows import windows

__all__ = ["breakable", "plain", "render", "sections_of"]

_INLINE = re.compile(
    r"\\(?P<literal>[\\`*<])|\[`(?P<page>[^`]+)`\]\(detectors/(?P=page)\.md\)|`(?P<code>[^`]+)`"
    r"|\[(?P<beside>[a-z]+\.md)\]\((?P=beside)\)"
    r"|\*\*(?P<strong>[^*]+)\*\*|\*(?P<em>[^*]+)\*|(?P<a>https://[^\s,)]+)"
)
_ELEMENTS = {
    "literal": Markup("{0}"),
    "page": Markup('<a href="detectors/{0}.md"><code>{0}</code></a>'),
    "beside": Markup('<a href="{0}">{0}</a>'),
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
    shelf = Shelf(entries)
    claims = judged(shelf, tables)
    sections = sections_of(shelf, tables, claims)
    # Pictures stand behind the first tables of the HTML page.
    shown = [*sections[:2], *pictures(shelf), *sections[2:]]
    pages = {name: _markdown(found) for name, found in detector_pages(shelf).items()}
    pages["claims.md"] = _markdown(ledger(claims))
    return {"tables.md": _markdown(sections), "index.html": _html(shown, _facts(shelf, tables)), **pages}


def sections_of(shelf: Shelf, tables: Sequence[Table], claims: Judged) -> list[Section]:
    """Everything that stands on `tables.md`, in order."""
    return [
        front(shelf),
        *leaderboards(shelf),
        *line(shelf, read_line()),
        *repeated(shelf),
        *ideas(shelf, read_ideas()),
        *amounts(shelf),
        overview(claims),
        checkpoints(shelf, printed_figures(tables)),
        *(paper_section(shelf, table) for table in tables),
        speeds(shelf, tables),
        windows(),
        *appendix(shelf),
    ]


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


def _facts(shelf: Shelf, tables: Sequence[Table]) -> list[tuple[str, str]]:
    """What there is, in figures: the head of the HTML page."""
    small = {entry.record.detector for entry in shelf.accuracies if entry.record.scale == "small"}
    printed = sum(cell != DASH for table in tables for row in table.rows for cell in row.cells)
    found = (
        (len(shelf.catalog), "detectors built as their papers say"),
        (len(small), "of them trained here at a small size"),
        (printed, f"printed cells of {len(tables)} tables"),
        (len(shelf.entries), "Records"),
    )
    return [(f"{count:,}", name) for count, name in found]


def _html(sections: Sequence[Section], facts: Sequence[tuple[str, str]]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"inline": _inline, "heads": _heads, "key": _key, "plain": plain, "breakable": breakable}
    environment.tests |= {
        "grid": lambda block: isinstance(block, Grid),
        "plot": lambda block: isinstance(block, Plot),
    }
    return environment.get_template("index.html.j2").render(
        sections=sections, facts=facts, families=(*FAMILIES, "other"), missing=(NOT_MEASURED, UNDEFINED)
    )


def _inline(text: str) -> Markup:
    """Code, strong, emphasis, links and links to detectors' pages of a paragraph; everything else is text."""
    parts = []
    end = 0
    for match in _INLINE.finditer(text):
        element = match.lastgroup or "literal"
        parts += [escape(text[end : match.start()]), _ELEMENTS[element].format(match[element])]
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def plain(text: str) -> str:
    """The same as text alone, for files that know no Markdown."""
    return _INLINE.sub(lambda match: match[match.lastgroup or 0], text)


def breakable(markup: str) -> Markup:
    """Names that may be broken behind an underscore; attributes stay as they are."""
    return Markup(re.sub(r"_(?![^<]*>)", "_<wbr>", markup))


def _key(grid: Grid) -> int:
    """Which column names the row, for screen readers and narrow screens."""
    titles = [header.title for header in grid.headers]
    return next((titles.index(name) for name in ("method", "detector", "Record") if name in titles), 0)


def _heads(grid: Grid) -> list[tuple[str, str, int]]:
    """The upper row of the head: key and label of a side, and over how many columns it stands."""
    spans = [(side, len(list(run))) for side, run in groupby(grid.headers, key=lambda header: header.side)]
    return [(side, grid.sides.get(side, ""), span) for side, span in spans]
