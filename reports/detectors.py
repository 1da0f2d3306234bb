"""A page for each detector of the catalog: what it is, what it is made of, what was measured, how to run it.

The idea is the docstring of the detector's file, read and not run; everything that is counted or measured comes from
Records.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.records import NOT_MEASURED, Entry, Shelf
from reports.sections import Grid, Header, Notes, Section, literal, tested_on, timed_on
from reports.tree import ZOO, Row, imports, parsed, read_catalog
from reports.usage import usage

__all__ = ["detector_pages"]

_METRICS = (("AP", "stats.AP"), ("AP50", "stats.AP50"), ("AP75", "stats.AP75"), ("FD", "fd.FD"), ("VOC07", "voc.mAP07"))
_STAGES = ("preprocess", "network", "proposals", "postprocess", "end_to_end")

_IDLE = {
    "warmup": ("warmup_factor", "warmup_power"),
    "milestones": ("gamma",),
    "sizes": ("resize_every",),
}
"""Settings that mean nothing where another is not used."""

_Block = str | tuple[str, ...] | Grid


def detector_pages(shelf: Shelf, zoo: Path = ZOO) -> dict[str, list[Section]]:
    """Sections by file name, `detectors/<name>.md`, and of `detectors/README.md`, which lists them."""
    rows = read_catalog(zoo)
    parents = imports(rows, zoo)
    published = tomllib.loads((zoo / "weights.toml").read_text(encoding="utf-8"))["checkpoint"]
    pages = {"detectors/README.md": [_index(shelf, rows)]}
    for row in rows:
        weights = [entry for entry in published if entry["detector"] == row.name]
        pages[f"detectors/{row.name}.md"] = _page(shelf, row, rows, parents, weights, zoo)
    return pages


def _index(shelf: Shelf, rows: Sequence[Row]) -> Section:
    cells = []
    for row in rows:
        cost = shelf.paper_cost(row.name, next(iter(row.golden.get("parameters", {20: 0}))))
        plain = [e for e in shelf.accuracies if e.record.detector == row.name and e.test == "shapes test" and not e.own]
        parameters = cost.count("parameters") if cost else NOT_MEASURED
        found = plain[0].metric("stats.AP") if plain else NOT_MEASURED
        cells.append(
            (f"[`{row.name}`]({row.name}.md)", str(row.year), row.family, literal(row.paper), parameters, found)
        )
    heads = (
        Header("detector", text=True),
        Header("year"),
        Header("family", text=True),
        Header("paper", text=True),
        Header("parameters"),
        Header("AP, shapes test"),
    )
    intro = (
        "A page each: the idea, the stages with their shapes, golden numbers, results, recipe, and how to run it. "
        "Parameters are those of the paper's size; AP is that of the small size on the drawn images of `shapes`. All "
        "comparisons stand in [the tables](../tables.md)."
    )
    return Section("Detectors of the zoo", "detectors", (intro, Grid(heads, tuple(cells))), level=1)


def _page(
    shelf: Shelf,
    row: Row,
    rows: Sequence[Row],
    parents: Mapping[str, set[str]],
    weights: Sequence[Mapping[str, Any]],
    zoo: Path,
) -> list[Section]:
    cost = shelf.paper_cost(row.name, next(iter(row.golden.get("parameters", {20: 0}))))
    title, *idea = _docstring(zoo / f"{row.module}.py")
    notes = idea[1:]
    sections = [
        Section(row.name, row.name, (title, _line(row, rows, parents)), level=1),
        Section("Idea", "idea", tuple(idea[:1])),
        *([Section("Constants, and what is done otherwise", "otherwise", tuple(notes))] if notes else []),
        Section("Architecture", "architecture", tuple(_architecture(cost))),
        Section("Golden numbers", "golden", tuple(_golden(shelf, row))),
        Section("Results", "results", tuple(_results(shelf, row))),
        Section("Recipe", "recipe", tuple(_recipe(cost))),
        Section("Use", "use", tuple(usage(row, cost, weights, zoo))),
    ]
    return [section for section in sections if section.blocks]


def _docstring(path: Path) -> list[str]:
    """Title with its link, then the paragraphs, each in one line."""
    text = ast.get_docstring(parsed(path)) or path.stem
    found = [re.sub(r"(?<!\*)\*(?!\*)", r"\\*", " ".join(part.split())) for part in text.split("\n\n")]
    if len(found) > 1 and re.fullmatch(r"https?://\S+", found[1]):
        found[:2] = [f"{found[0]} {found[1]}"]
    return found


def _line(row: Row, rows: Sequence[Row], parents: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Family and file, and what a detector builds on or is built on."""
    children = {module for module, found in parents.items() if row.module in found}
    parts = [
        f"{row.family}, {row.year}: {literal(row.paper)}",
        f"code: [`zoo/{row.module}.py`](../../zoo/{row.module}.py)",
    ]
    for text, modules in (("builds on", parents[row.module]), ("is built on by", children)):
        names = [next(other.name for other in rows if other.module == module) for module in sorted(modules)]
        if names:
            parts.append(f"{text} {', '.join(f'[`{name}`]({name}.md)' for name in names)}")
    beside = [f"[`{other.name}`]({other.name}.md)" for other in rows if other.module == row.module and other != row]
    if beside:
        parts.append(f"in the same file: {', '.join(beside)}")
    return tuple(parts)


def _architecture(cost: Entry | None) -> Iterable[_Block]:
    if cost is None:
        yield "Not counted yet: `python -m benchmarks record-costs` counts every detector."
        return
    metrics = cost.record.metrics
    stages = metrics.get("stages")
    sizes = f"at {cost.size()} for {_classes(cost.record.num_classes)}"
    if not stages:
        kept = cost.count("buffers")
        yield (
            f"No layers that learn by gradient: what it learns by `fit` is kept in {kept} numbers of its buffers."
            if stages is not None and not metrics.get("parameters")
            else "Its stages were not counted yet: `python -m benchmarks record-costs` counts them."
        )
    else:
        yield (
            f"Counted {sizes}, on shapes alone; the heaviest parts are taken apart. Shapes are channels x height x "
            "width, with the number of regions before them where there are several; MACs are multiply-accumulates."
        )
        yield _stages(cost, stages)
    boxes = cost.count("boxes")
    facts = f"**{cost.count('parameters')}** parameters, **{cost.millions('macs')}** million multiply-accumulates"
    yield f"In all {sizes}: {facts}" + (f", **{boxes}** boxes." if boxes[0].isdigit() else ".")


def _stages(cost: Entry, stages: Sequence[Mapping[str, Any]]) -> Grid:
    rows = []
    try:
        for stage in stages:
            shapes = [_shape(shape) for shape in stage["outputs"]]
            shown = ", ".join(shapes[:3]) + (", ..." if len(shapes) > 3 else "")
            runs = str(stage["calls"]) if stage["calls"] else "in parts" if stage["macs"] else "not here"
            counts = f"{stage['parameters']:,}", f"{stage['macs'] / 1e6:,.1f}"
            rows.append((f"`{stage['module']}`", f"`{stage['type']}`", shown or "-", runs, *counts))
        inside = sum(stage["macs"] for stage in stages)
    except (KeyError, TypeError, ValueError) as error:
        raise cost.wrong("metrics.stages", stages, "what `record-costs` writes") from error
    rest = cost.record.metrics["macs"] - inside
    if rest * 1000 > inside:
        rows.append(("between them", "", "-", "", "", f"{rest / 1e6:,.1f}"))
    heads = (
        Header("module", text=True),
        Header("type", text=True),
        Header("output", text=True),
        Header("runs"),
        Header("parameters"),
        Header("MACs (M)"),
    )
    return Grid(heads, tuple(rows))


def _classes(count: int) -> str:
    return f"{count} class{'es' if count != 1 else ''}"


def _shape(shape: Sequence[int]) -> str:
    """One image's maps without the one."""
    return "x".join(map(str, shape[1:] if len(shape) == 4 and shape[0] == 1 else shape))


def _golden(shelf: Shelf, row: Row) -> Iterable[_Block]:
    rows = []
    for kind, facts in row.golden.items():
        for key, expected in facts.items():
            parts = key if isinstance(key, tuple) else (key,)
            classes = parts[0] if kind != "boxes" else None
            size = list(parts[-2:]) if kind != "parameters" else None
            found = [
                entry
                for entry in shelf.of("cost")
                if (entry.record.detector, entry.record.scale) == (row.name, "paper")
                and classes in (None, entry.record.num_classes)
                and size in (None, entry.record.metrics.get("input"))
            ]
            where = [_classes(classes)] if classes is not None else []
            where += [f"{size[0]}x{size[1]}"] if size is not None else []
            counted = found[0].count(kind) if found else "in the tests alone"
            rows.append((kind, ", ".join(where), f"{expected:,}", counted))
    if rows:
        yield "Facts of the paper's network that the tests recount; MACs are rounded in some rows."
        yield Grid(
            (Header("of", text=True), Header("for", text=True), Header("golden"), Header("counted")), tuple(rows)
        )


def _results(shelf: Shelf, row: Row) -> Iterable[_Block]:
    notes = Notes()
    tested = (*shelf.of("accuracy"), *shelf.of_variants("accuracy"))
    found = [entry for entry in tested if entry.record.detector == row.name]
    rows = [
        (
            entry.test,
            entry.record.scale,
            _way(entry),
            *(entry.metric(place) for _, place in _METRICS),
            notes.mark(tested_on(entry)),
        )
        for entry in found
    ]
    if rows:
        yield "Accuracy in percent (FD lower is better); one training each, the plain test unless said otherwise."
        heads = [Header(title, text=True) for title in ("test", "size", "training and test")]
        heads += [Header(name) for name, _ in _METRICS]
        yield Grid((*heads, Header("notes", text=True)), tuple(rows), notes=tuple(notes))
    else:
        yield f"Accuracy: {NOT_MEASURED}; no weights were trained here or got from its authors."
    clocks = [entry for entry in shelf.of("latency") if entry.record.detector == row.name]
    if clocks:
        marks = Notes()
        times = [(entry, [entry.milliseconds(stage) for stage in _STAGES]) for entry in clocks]
        lines = [
            (
                entry.test,
                entry.record.scale,
                entry.clock,
                *("-" if time is None else f"{time:.2f}" for time in stages),
                marks.mark(timed_on(entry)),
            )
            for entry, stages in times
        ]
        yield "Milliseconds an image by stage, medians, batch 1."
        texts = [Header(title, text=True) for title in ("images of", "size", "machine")]
        numbers = [Header(stage.replace("_", " ")) for stage in _STAGES]
        yield Grid((*texts, *numbers, Header("notes", text=True)), tuple(lines), notes=tuple(marks))


def _way(entry: Entry) -> str:
    """What is not plain about a training or a test."""
    record = entry.record
    parts = ["" if record.seed is None else f"seed {record.seed}"]
    parts.append("" if record.learned_from is None else f"{record.learned_from:,} images")
    parts += [part or "" for part in (record.changes, record.multi_scale, record.suppression, record.truth)]
    return literal(", ".join(part for part in parts if part)) or "as published"


def _recipe(cost: Entry | None) -> Iterable[_Block]:
    recipes = {} if cost is None else cost.record.metrics.get("recipes") or {}
    if not recipes:
        yield (
            "No gradient descent, or none that is part of the zoo."
            if cost and "recipes" in cost.record.metrics
            else ("Not recorded yet: `python -m benchmarks record-costs` does.")
        )
        return
    idle = {
        name
        for switch, names in _IDLE.items()
        if not any(recipe.get(switch) for recipe in recipes.values())
        for name in names
    }
    names = [
        name
        for name in dict.fromkeys(key for recipe in recipes.values() for key in recipe)
        if name not in {*idle, "source"}
    ]
    rows = [
        (f"`{name}`", *(_setting(recipe.get(name)) for recipe in recipes.values()))
        for name in names
        if any(_setting(recipe.get(name)) != "none" for recipe in recipes.values())
    ]
    titles = {"paper": "as the paper trains it", "small": "small size"}
    heads = (Header("setting", text=True), *(Header(titles.get(size, size), text=True) for size in recipes))
    yield tuple(
        f"{titles.get(size, size)}: {literal(recipe.get('source') or 'no source')}" for size, recipe in recipes.items()
    )
    yield Grid(heads, tuple(rows))


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_setting, value)) or "none"
    if value is None or value is False:
        return "none"
    if value is True:
        return "yes"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
