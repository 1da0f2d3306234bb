"""The appendix: which Records the pages rest on, with everything that a number depends on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from reports.modes import modes, profiles
from reports.records import NOT_MEASURED, Entry, Shelf
from reports.sections import Grid, Header, Section, conformity, literal

__all__ = ["appendix"]

_Key = TypeVar("_Key")
_STAGES = ("preprocess", "network", "proposals", "postprocess", "end_to_end")


class _Lists:
    """Numbered lists of machines, versions and protocols; a Record names the entry that is its own."""

    def __init__(self) -> None:
        self.machines: dict[tuple[str, ...], str] = {}
        self.versions: dict[str, str] = {}
        self.protocols: dict[str, str] = {}

    def machine(self, entry: Entry) -> str:
        hardware = entry.record.hardware
        if hardware is None:
            return "none"
        name = hardware.machine if not entry.own else "own machine"
        threads = str(hardware.threads)
        facts = (literal(name), literal(hardware.device), threads, hardware.precision, conformity(hardware))
        return _number(self.machines, facts, "H")

    def version(self, entry: Entry) -> str:
        text = ", ".join(f"{name} {version}" for name, version in sorted(entry.record.versions.items()))
        return _number(self.versions, text, "V")

    def protocol(self, entry: Entry) -> str:
        if not entry.record.protocol:
            return "none"
        # Hashes follow from the rest.
        rules = {name: rule for name, rule in entry.record.protocol.items() if name != "identity"}
        return _number(self.protocols, json.dumps(rules, sort_keys=True), "P")


def _number(numbers: dict[_Key, str], key: _Key, letter: str) -> str:
    return numbers.setdefault(key, f"{letter}{len(numbers) + 1}")


def appendix(shelf: Shelf) -> list[Section]:
    """Times by stage, trainings, and the Records with their machines, versions and protocols."""
    if not shelf.entries:
        return [Section("Appendix", "appendix", ("There is no Record yet.",))]
    sections = [Section("Appendix", "appendix", ("What the figures rest on.",))]
    lists = _Lists()
    rows = [_row(entry, lists) for entry in shelf.entries]
    sections += _part("Time by stage", "stages", _times(shelf))
    sections += _part("In other modes", "modes", modes(shelf))
    sections += _part("Profiles", "profiles", profiles(shelf))
    sections += _part("Against other implementations", "comparisons", _comparisons(shelf))
    sections += _part("Side by side", "beside", _beside(shelf))
    sections += _part("Trainings", "trainings", _trainings(shelf))
    sections += _part("Machines", "machines", _machines(lists))
    sections += _part("Versions", "versions", _pairs("versions", lists.versions.items(), literal))
    sections += _part("Protocols", "protocols", _pairs("protocol", lists.protocols.items(), lambda text: f"`{text}`"))
    heads = ("Record", "detector", "size", "test", "fingerprint", "weights", "seed", "commit")
    grid = Grid(_heads(*heads, "machine", "versions", "protocol", "note"), tuple(rows))
    sections += _part("Records", "records", grid)
    return sections


def _part(title: str, anchor: str, grid: Grid) -> list[Section]:
    return [Section(title, anchor, (grid,), level=3)] if grid.rows else []


def _row(entry: Entry, lists: _Lists) -> tuple[str, ...]:
    record = entry.record
    weights = "none" if record.weights is None else f"{literal(record.weights.file)} `{record.weights.sha256[:12]}`"
    return (
        f"`{entry.place}`",
        record.detector,
        record.scale,
        entry.test or "none",
        "none" if record.dataset is None else f"`{record.dataset.fingerprint[:12]}`",
        weights,
        "none" if record.seed is None else str(record.seed),
        f"`{record.commit}`",
        lists.machine(entry),
        lists.version(entry),
        lists.protocol(entry),
        literal(record.note) or "none",
    )


def _times(shelf: Shelf) -> Grid:
    rows = []
    for entry in shelf.of("latency"):
        times = [entry.milliseconds(stage) for stage in _STAGES]
        cells = [NOT_MEASURED if time is None else f"{time:.2f}" for time in times]
        if times[2] is None:
            # An old Record of a network with proposals did not tell them apart; other networks have none.
            cells[2] = "in network" if shelf.about(entry.record.detector, "family") == "two-stage" else "none"
        samples = str(len(entry.record.samples.get("end_to_end", ())))
        before = ", ".join(f"{ratio:.2f}" for ratio in entry.moves) or "none"
        rows.append((entry.record.detector, entry.record.scale, entry.test, entry.clock, *cells, samples, before))
    names = (*(f"{stage.replace('_', ' ')} ms" for stage in _STAGES), "samples", "times earlier runs'")
    heads = (*_heads("detector", "size", "images of", "machine"), *(Header(name) for name in names))
    return Grid(heads, tuple(rows))


def _comparisons(shelf: Shelf) -> Grid:
    """The same weights in two implementations, timed turn by turn."""
    rows = []
    for entry in shelf.of("comparison"):
        record = entry.record
        if "beside" in record.protocol:
            continue
        metrics: dict[str, Any] = record.metrics
        try:
            times = [f"{1000 * metrics[who]['median']:.1f}" for who in ("ours", "theirs")]
            middle, low, high = (f"{metrics['ratio'][key]:.3f}" for key in ("median", "low", "high"))
            found = metrics["agreement"]
            same = f"{found['detections'] - found['alone']} of {found['detections']}"
        except (KeyError, TypeError) as error:
            raise entry.wrong("metrics", metrics, "what `against-torchvision` writes") from error
        images = entry.test if record.dataset else f"{record.protocol.get('images', 0)} generated"
        cells = (record.detector, literal(str(record.protocol.get("against", ""))), images, entry.clock, *times)
        rows.append((*cells, middle, f"{low} to {high}", same))
    heads = _heads("detector", "against", "images of", "machine")
    names = ("here ms", "there ms", "here / there", "95 % interval", "same detections")
    return Grid((*heads, *map(Header, names)), tuple(rows))


def _beside(shelf: Shelf) -> Grid:
    """Several detectors, timed image by image."""
    rows = []
    for entry in shelf.of("comparison"):
        if "beside" not in entry.record.protocol:
            continue
        try:
            found = entry.record.metrics["detectors"]
            for name, figures in found.items():
                medians = [figures["stages"].get(stage, {}).get("median") for stage in _STAGES]
                cells = ["none" if median is None else f"{1000 * median:.2f}" for median in medians]
                ratio = [f"{figures['ratio'][key]:.2f}" for key in ("median", "low", "high")]
                weights = f"`{figures['weights']['sha256'][:8]}`" if figures["weights"] else _random(figures)
                against = (entry.record.detector, ratio[0], f"{ratio[1]} to {ratio[2]}")
                rows.append((literal(name), figures["scale"], weights, entry.test, entry.clock, *cells, *against))
        except (KeyError, TypeError, AttributeError) as error:
            raise entry.wrong("metrics", entry.record.metrics, "what `compare-latency` writes") from error
    names = [f"{stage.replace('_', ' ')} ms" for stage in _STAGES]
    heads = (*_heads("detector", "size", "weights", "images of", "machine"), *map(Header, names))
    return Grid((*heads, Header("against", text=True), Header("ratio"), Header("95 % interval")), tuple(rows))


def _random(figures: Mapping[str, Any]) -> str:
    """Random weights, and at the paper's size in what the detector differs from the paper's."""
    # Records from before arguments could be given hold none.
    differs = figures.get("overrides", {}) if figures["scale"] == "paper" else {}
    return literal(", ".join(("random", *(f"{name} {value}" for name, value in differs.items()))))


def _trainings(shelf: Shelf) -> Grid:
    rows = []
    for entry in (*shelf.of("training"), *shelf.of_variants("training")):
        record = entry.record
        seconds, steps = record.metrics.get("seconds"), record.metrics.get("steps")
        minutes = f"{seconds / 60:.1f}" if isinstance(seconds, int | float) else NOT_MEASURED
        batch = (record.recipe or {}).get("batch", "none")
        rows.append(
            (
                literal(record.called),
                record.scale,
                entry.test,
                entry.machine,
                "none" if record.seed is None else str(record.seed),
                "none" if steps is None else str(steps),
                str(batch),
                minutes,
            )
        )
    heads = (*_heads("detector", "size", "trained on", "machine"), *map(Header, ("seed", "steps", "batch", "minutes")))
    return Grid(heads, tuple(rows))


def _machines(lists: _Lists) -> Grid:
    rows = [(number, *key) for key, number in lists.machines.items()]
    return Grid(_heads("", "machine", "device", "threads", "precision", "profile"), tuple(rows))


def _pairs(name: str, items: Iterable[tuple[str, str]], write: Callable[[str], str]) -> Grid:
    return Grid(_heads("", name), tuple((number, write(text)) for text, number in items))


def _heads(*titles: str) -> tuple[Header, ...]:
    return tuple(Header(title, text=True) for title in titles)
