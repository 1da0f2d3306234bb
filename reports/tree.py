"""The family tree of the zoo: which detector is written as a delta of which, read off the files' imports.

In this house a paper that builds on another imports it, so that the imports are the citations. Years and families are
those of the catalog. Everything is read from the syntax trees: nothing of the zoo is run.
"""

from __future__ import annotations

import ast
import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from reports.records import ReportError
from reports.svg import FAMILIES, marker, picture, slug, text

__all__ = ["ZOO", "Row", "draw", "imports", "parsed", "read_catalog"]

ZOO = Path(__file__).resolve().parent.parent / "zoo"

_ROW, _LEFT, _TOP, _GAP = 25, 22, 86, 44
_LETTER = 6.4
"""Pixels a letter of a name takes."""


@dataclass(frozen=True)
class Row:
    """What the catalog says of a detector that needs no code to run.

    Attributes:
        name: Of the detector.
        module: Its file, below the zoo and without ending, such as `one_stage/ssd`.
        year: Of the paper.
        family: As in the catalog.
        paper: Authors, title, where.
        small: Whether there is a small size.
        golden: By kind (parameters, boxes, macs) the recounted facts by their key.
    """

    name: str
    module: str
    year: int
    family: str
    paper: str
    small: bool
    golden: Mapping[str, Mapping[Any, int]]


@cache
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file; several pages ask for it."""
    return _parsed(path.read_text(encoding="utf-8"))


def read_catalog(zoo: Path = ZOO) -> tuple[Row, ...]:
    """The rows of `catalog.py`, by year.

    Raises:
        ReportError: A row is no plain call of `Spec`.
    """
    path = zoo / "catalog.py"
    tree = parsed(path)
    files = {
        alias.asname or alias.name: f"{(node.module or '').removeprefix('zoo.').replace('.', '/')}/{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _called(node) == "Spec"]
    rows = []
    for call in calls:
        entries = {keyword.arg: keyword.value for keyword in call.keywords}
        try:
            built = entries["build"]
            assert isinstance(built, ast.Attribute)
            assert isinstance(built.value, ast.Name)
            golden = entries.get("golden")
            facts = golden.keywords if isinstance(golden, ast.Call) else []
            rows.append(
                Row(
                    name=ast.literal_eval(entries["name"]),
                    module=files[built.value.id],
                    year=ast.literal_eval(entries["year"]),
                    family=ast.literal_eval(entries["family"]),
                    paper=ast.literal_eval(entries["paper"]),
                    small=not isinstance(entries["small"], ast.Constant),
                    golden={
                        str(fact.arg): ast.literal_eval(_Constants(files, zoo).visit(copy.deepcopy(fact.value)))
                        for fact in facts
                    },
                )
            )
        except (KeyError, ValueError, AssertionError) as error:
            place = f"{path}:{call.lineno}"
            raise ReportError(f"{place}: the row is no plain Spec ({error!r}); write it like the others") from error
    return tuple(sorted(rows, key=lambda row: row.year))


class _Constants(ast.NodeTransformer):
    """Puts the numbers of other files, such as `dsod.BOXES`, in the places where they are named."""

    def __init__(self, files: Mapping[str, str], zoo: Path) -> None:
        self.files, self.zoo = files, zoo

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """The value that is assigned to the name at the top of its file.

        Raises:
            ValueError: There is none.
        """
        if isinstance(node.value, ast.Name):
            tree = parsed(self.zoo / f"{self.files[node.value.id]}.py")
            for line in tree.body:
                if isinstance(line, ast.Assign) and any(ast.unparse(to) == node.attr for to in line.targets):
                    return line.value
        raise ValueError(f"{ast.unparse(node)} is no constant of a file")


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def imports(rows: Iterable[Row], zoo: Path = ZOO) -> dict[str, set[str]]:
    """Of each file with a detector the files with detectors that it builds on, whose papers are no younger.

    Who stands between two others is enough: where A imports B and B imports C, an import of C in A is left out.
    """
    years: dict[str, int] = {}
    for row in rows:
        years[row.module] = min(row.year, years.get(row.module, row.year))
    direct: dict[str, set[str]] = {}
    for module in years:
        tree = parsed(zoo / f"{module}.py")
        named = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zoo"):
                base = (node.module or "").removeprefix("zoo").lstrip(".").replace(".", "/")
                named |= {base, *(f"{base}/{alias.name}" for alias in node.names)}
        direct[module] = {other for other in named & set(years) if other != module and years[other] <= years[module]}
    return {module: found - _beyond(found, direct) for module, found in direct.items()}


def _beyond(found: set[str], direct: Mapping[str, set[str]]) -> set[str]:
    """Everything that the found ones build on in turn."""
    reached: set[str] = set()
    waiting = [parent for other in found for parent in direct[other]]
    while waiting:
        if (one := waiting.pop()) not in reached:
            reached.add(one)
            waiting += direct[one]
    return reached


def draw(rows: Iterable[Row], parents: Mapping[str, set[str]], title: str) -> str:
    """The tree: a column a year, a band a family, a line from each file to those that build on it."""
    first: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (row.year, row.name)):
        first.setdefault(row.module, row)
    columns, width = _columns(first)
    places, bands, bottom = _places(first, parents, columns)
    parts = [text(_LEFT - 8, 20, title, "start", "title")]
    for year, x in columns.items():
        parts.append(f'<line x1="{x:.1f}" y1="52" x2="{x:.1f}" y2="{bottom:.0f}" class="rule"/>')
        parts.append(text(x, 46, str(year), "middle", "panel"))
    for family, top in bands:
        parts.append(text(_LEFT - 8, top - 14, family, "start", "halo tick"))
    for module, found in sorted(parents.items()):
        parts += [_link(places[other], places[module], first[other], module) for other in sorted(found)]
    for module, row in first.items():
        x, y = places[module]
        name = module.rpartition("/")[2]
        others = ", ".join(sorted(other.rpartition("/")[2] for other in parents.get(module, ())))
        about = f"{name}, {row.year}: {row.paper}" + (f"; builds on {others}" if others else "")
        parts += [marker(row.family, x, y, title=about), text(x + 10, y + 4, name, "start", "halo label")]
    return picture(parts, title, bottom + 12, width)


def _columns(first: Mapping[str, Row]) -> tuple[dict[int, float], float]:
    """Where each year's column stands, as wide as its longest name, and where the last one ends."""
    longest: dict[int, int] = defaultdict(int)
    for module, row in first.items():
        longest[row.year] = max(longest[row.year], len(module.rpartition("/")[2]))
    found, x = {}, float(_LEFT)
    for year in sorted(longest):
        found[year] = x
        x += 44 + _LETTER * longest[year]
    return found, x - 20


def _places(
    first: Mapping[str, Row], parents: Mapping[str, set[str]], years: Mapping[int, float]
) -> tuple[dict[str, tuple[float, float]], list[tuple[str, float]], float]:
    """Where each file stands, where each band begins, and where the picture ends.

    Within a year the files of a family stand in the order of their parents' heights, so that few lines cross.
    """
    places: dict[str, tuple[float, float]] = {}
    bands: list[tuple[str, float]] = []
    top = float(_TOP)
    for family in FAMILIES:
        columns: dict[int, list[str]] = defaultdict(list)
        for module, row in first.items():
            if row.family == family:
                columns[row.year].append(module)
        if not columns:
            continue
        bands.append((family, top))
        for year in sorted(columns):
            ordered = sorted(
                columns[year], key=lambda m: (_depth(m, columns[year], parents), _wish(m, parents, places, top))
            )
            taken = -1
            for module in ordered:
                wish = int((_wish(module, parents, places, top)[0] - top) / _ROW + 0.5)
                taken = max(taken + 1, min(wish, 3))
                places[module] = (years[year], top + taken * _ROW)
        top = max(places[module][1] for found in columns.values() for module in found) + _ROW + _GAP
    return places, bands, top - _GAP


def _depth(module: str, beside: list[str], parents: Mapping[str, set[str]]) -> int:
    """How many files of the same year and family lie between a file and the first of its line."""
    return max((1 + _depth(other, beside, parents) for other in parents.get(module, set()) & set(beside)), default=0)


def _wish(
    module: str, parents: Mapping[str, set[str]], places: Mapping[str, tuple[float, float]], top: float
) -> tuple[float, str]:
    heights = [places[other][1] for other in parents.get(module, ()) if other in places]
    return (max(sum(heights) / len(heights), top) if heights else top, module)


def _link(start: tuple[float, float], end: tuple[float, float], parent: Row, module: str) -> str:
    (x1, y1), (x2, y2) = start, end
    if x1 == x2:
        way = f"M{x1:.1f} {y1:.1f}C{x1 - 34:.1f} {y1:.1f} {x2 - 34:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    else:
        # From behind the name, and in a bow where others of the same height may stand between.
        x1 += 14 + _LETTER * len(parent.module.rpartition("/")[2])
        bow = 15 if y1 == y2 and x2 - x1 > 60 else 0
        bend = max((x2 - x1) * 0.45, 20)
        way = f"M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1 - bow:.1f} {x2 - bend:.1f} {y2 - bow:.1f} {x2:.1f} {y2:.1f}"
    colour = FAMILIES.get(parent.family, ("#888", ""))[0]
    name = module.rpartition("/")[2]
    return (
        f'<path d="{way}" class="run {slug(parent.family)}" fill="none" stroke="{colour}" stroke-width="1.3" '
        f'opacity="0.55"><title>{name} builds on {parent.module.rpartition("/")[2]}</title></path>'
    )
