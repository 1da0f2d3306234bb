"""Records as the pages need them: which one stands in a cell, and how its figure is written."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.again import EARLIER, moves
from benchmarks.results import Record

__all__ = ["NOT_MEASURED", "UNDEFINED", "Entry", "ReportError", "Shelf", "points", "read_entries"]

NOT_MEASURED = "not measured"
UNDEFINED = "undefined"
"""The metric was measured and has no value, such as AP_L on a test without large objects."""

_KINDS = ("accuracy", "claim", "comparison", "cost", "latency", "profile", "training")


class ReportError(ValueError):
    """A page cannot be made of what is there; the message names the file, the entry and the remedy."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A Record and where it was found.

    Attributes:
        record: The Record.
        path: Its file, as messages name it.
        place: Its file below the results, as pages name it; the folder is the machine.
        own: Whether it is a run of the reader's own and none of the project's.
    """

    record: Record
    path: Path
    place: str
    own: bool = False

    @property
    def test(self) -> str:
        """Data set and split, such as `coco val2017`."""
        dataset = self.record.dataset
        return "" if dataset is None else f"{dataset.name} {dataset.split}"

    @property
    def machine(self) -> str:
        """What pages call the machine: the folder, or the reader's own."""
        return "own machine" if self.own else self.place.partition("/")[0]

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return "" if self.record.hardware is None else self.record.hardware.device.partition(":")[0]

    @property
    def clock(self) -> str:
        """Machine and device, without saying `cpu` twice, and the threads where they are not the usual ones."""
        place = self.machine if self.device in self.machine else f"{self.machine}, {self.device}"
        return f"{place}, {self.record.threads}" if self.record.threads else place

    def metric(self, place: str) -> str:
        """An accuracy such as `fd.FD5` in percent with one decimal."""
        value = self.fraction(place)
        return value if isinstance(value, str) else points(value)

    def sure(self, place: str) -> str:
        """An accuracy with its 95 % interval in brackets, where the Record has one."""
        ends = self.interval(place)
        return self.metric(place) if ends is None else f"{self.metric(place)} ({points(ends[0])} to {points(ends[1])})"

    def interval(self, place: str) -> tuple[float, float] | None:
        """Both ends of the 95 % interval of an accuracy, as fractions; None where the Record has none.

        Raises:
            ReportError: The entry is no pair of numbers, low and high.
        """
        found: Any = self.record.metrics.get("intervals") or {}
        for key in place.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if found is None:
            return None
        pair = isinstance(found, list | tuple) and len(found) == 2
        if not pair or not all(isinstance(end, int | float) for end in found) or found[0] > found[1]:
            raise self.wrong(f"metrics.intervals.{place}", found, "low and high")
        return float(found[0]), float(found[1])

    def fraction(self, place: str) -> float | str:
        """An accuracy as a fraction, or why there is none.

        Raises:
            ReportError: The entry is no number.
        """
        section, _, key = place.partition(".")
        found = self.record.metrics.get(section, {})
        if not isinstance(found, dict) or key not in found:
            return NOT_MEASURED
        value = found[key]
        if value is None:
            return UNDEFINED
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(f"metrics.{place}", value, "a number or null")
        return float(value)

    def printed(self) -> dict[str, str]:
        """Every accuracy as it stands on a page."""
        sections = ("stats", "fd", "voc")
        places = [f"{name}.{key}" for name in sections for key in self.record.metrics.get(name) or {}]
        return {place: self.metric(place) for place in places}

    def count(self, key: str) -> str:
        """A whole number of a cost Record with its thousands apart; `none` where the detector has no such thing.

        Raises:
            ReportError: The entry is no whole number.
        """
        if key not in self.record.metrics:
            return NOT_MEASURED
        value = self.record.metrics[key]
        if value is None:
            return "none"
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(f"metrics.{key}", value, "a whole number or null")
        return f"{value:,}"

    def millions(self, key: str) -> str:
        """A whole number of a cost Record in millions with one decimal."""
        text = self.count(key)
        return f"{self.record.metrics[key] / 1e6:,.1f}" if text[0].isdigit() else text

    def size(self) -> str:
        """The network input of a cost Record, `HxW`.

        Raises:
            ReportError: The entry is no pair.
        """
        size: Any = self.record.metrics.get("input")
        if size is None:
            return NOT_MEASURED
        if not isinstance(size, list | tuple) or len(size) != 2:
            raise self.wrong("metrics.input", size, "[height, width]")
        return f"{size[0]}x{size[1]}"

    def milliseconds(self, stage: str) -> float | None:
        """Median of a stage's samples; None where the stage was not timed."""
        samples = self.record.samples.get(stage)
        return 1000 * statistics.median(samples) if samples else None

    @property
    def moves(self) -> list[float]:
        """How many times the median of each earlier run under the same conditions the present one is."""
        try:
            return moves(self.record)
        except (KeyError, TypeError, ZeroDivisionError) as error:
            earlier = self.record.metrics.get(EARLIER)
            raise self.wrong(f"metrics.{EARLIER}", earlier, "medians in seconds, as `latency` writes") from error

    def wrong(self, entry: str, value: object, wanted: str) -> ReportError:
        """The error for an entry that is none of what it should be."""
        return ReportError(f"{self.path}: {entry}: is {value!r}, not {wanted}; delete the file and measure again")


class Shelf:
    """All entries, with the project's before the reader's own, and each question a page asks of them."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = tuple(sorted(entries, key=lambda entry: (entry.own, entry.place)))

    def of(self, kind: str) -> Iterator[Entry]:
        """The entries of one kind, of networks as they are: other modes and variants are other numbers."""
        return (entry for entry in self._plain if entry.record.kind == kind and not entry.record.variant)

    def of_variants(self, kind: str) -> Iterator[Entry]:
        """The entries of one kind, of trainings that were given other settings than the detector's own."""
        return (entry for entry in self._plain if entry.record.kind == kind and entry.record.variant)

    @cached_property
    def _plain(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if not entry.record.mode)

    def in_modes(self) -> Iterator[Entry]:
        """The entries, of any kind, of networks in other modes."""
        return (entry for entry in self.entries if entry.record.mode)

    @cached_property
    def accuracies(self) -> tuple[Entry, ...]:
        """Accuracy Records of everybody's first training: what tables, plots and plain comparisons show."""
        return tuple(entry for entry in self.trainings if not entry.record.seed)

    @cached_property
    def trainings(self) -> tuple[Entry, ...]:
        """Accuracy Records without repetition, those of further seeds included, of tests in the detector's own way."""
        return tuple(e for e in self.of_any_number if not e.record.learned_from)

    @cached_property
    def of_any_number(self) -> tuple[Entry, ...]:
        """The same, those that learned from a part of the training images included."""
        return tuple(e for e in self._distinct if not e.record.multi_scale and not e.record.suppression)

    @cached_property
    def suppressed(self) -> tuple[Entry, ...]:
        """The same, of tests in which duplicates were suppressed in another way, such as Soft-NMS."""
        found = (e for e in self._distinct if e.record.suppression and not e.record.multi_scale)
        return tuple(entry for entry in found if not entry.record.learned_from)

    @cached_property
    def multi_scale(self) -> tuple[Entry, ...]:
        """Accuracy Records of tests of several sizes, the "+" of the papers; they stand in rows of their own."""
        found = (entry for entry in self._distinct if entry.record.multi_scale and not entry.record.suppression)
        return tuple(entry for entry in found if not entry.record.seed and not entry.record.learned_from)

    @cached_property
    def variants(self) -> tuple[Entry, ...]:
        """As `trainings`, of trainings that were given other settings than the detector's own."""
        found = (e for e in _without_repetition(self.of_variants("accuracy")) if not e.record.learned_from)
        return tuple(e for e in found if not e.record.multi_scale and not e.record.suppression)

    @cached_property
    def _distinct(self) -> tuple[Entry, ...]:
        return _without_repetition(self.of("accuracy"))

    @cached_property
    def retrained(self) -> dict[tuple[str, str], list[Entry]]:
        """Accuracies of small detectors that were trained with several seeds, by test and detector, in seeds' order."""
        groups: dict[tuple[str, str], list[Entry]] = {}
        for entry in self.trainings:
            if entry.record.scale == "small" and entry.record.seed is not None:
                groups.setdefault((entry.test, entry.record.detector), []).append(entry)
        return {
            key: sorted(entries, key=lambda entry: entry.record.seed or 0)
            for key, entries in groups.items()
            if len(entries) > 1
        }

    def latencies(self, accuracy: Entry) -> dict[str, Entry]:
        """Latency Records of the same weights on the same test, by machine and device; of one size, as all are."""
        wanted = accuracy.record
        found: dict[str, Entry] = {}
        if wanted.multi_scale:
            return found
        for entry in self.of("latency"):
            record = entry.record
            same = (record.detector, record.weights) == (wanted.detector, wanted.weights)
            if same and record.weights is not None and entry.test == accuracy.test:
                found.setdefault(entry.clock, entry)
        return found

    def cost(self, accuracy: Entry) -> Entry | None:
        """The cost Record of exactly the network that was tested, where it was run once an image."""
        wanted = accuracy.record
        if wanted.multi_scale:
            return None
        for entry in self.of("cost"):
            record = entry.record
            same = (record.detector, record.scale, record.num_classes, record.overrides)
            if same == (wanted.detector, wanted.scale, wanted.num_classes, wanted.overrides):
                return entry
        return None

    def training(self, accuracy: Entry) -> Entry | None:
        """The training Record of the weights that were tested, where these are known."""
        if accuracy.record.weights is None:
            return None
        found = (entry for entry in self.of("training") if entry.record.weights == accuracy.record.weights)
        return next(found, None)

    def paper_cost(self, detector: str | None, classes: int, overrides: dict[str, Any] | None = None) -> Entry | None:
        """The cost Record of a detector at the paper's size, if possible for so many foreground classes; with
        `overrides`, of another network than the catalog's, that of this network alone."""
        found = [e for e in self.of("cost") if e.record.detector == detector]
        if overrides:
            found = [e for e in found if e.record.scale != "small" and e.record.overrides == overrides]
        else:
            found = [e for e in found if e.record.scale == "paper"]
        return min(found, key=lambda entry: entry.record.num_classes != classes, default=None)

    @cached_property
    def catalog(self) -> frozenset[str]:
        """Names of the catalog: every row of it has a cost Record at the paper's size."""
        return frozenset(entry.record.detector for entry in self.of("cost") if entry.record.scale == "paper")

    def about(self, detector: str, key: str) -> str:
        """What any Record says of a detector itself (`year`, `paper`, `family`); a dash where none does."""
        for entry in self.entries:
            if entry.record.detector == detector and (value := entry.record.metrics.get(key)) is not None:
                return str(value)
        return "—"


def _without_repetition(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Accuracies without repetition; of tests alone, as a detector that was told the truth is not tested.

    The same weights on the same images are one result, whatever the machine; a run of the reader's own counts as
    another as soon as it differs in print.

    Raises:
        ReportError: A Record does not say what was tested on.
    """
    kept: dict[tuple[object, ...], Entry] = {}
    for entry in entries:
        record = entry.record
        if record.truth:
            continue
        if record.dataset is None:
            raise entry.wrong("dataset", None, "the data set that was tested on")
        precision = None if record.hardware is None else record.hardware.precision
        key: tuple[object, ...] = (record.detector, record.scale, record.dataset, record.weights, precision)
        key = (*key, record.multi_scale, record.suppression)
        if key in kept and entry.own and entry.printed() != kept[key].printed():
            key = (*key, "own")
        kept.setdefault(key, entry)
    return tuple(kept.values())


def read_entries(committed: Path, own: Iterable[Path] = ()) -> list[Entry]:
    """Read Records: every folder under `committed` but `local`, and the reader's own folders.

    Files that are named otherwise than a Record (`detections.json`, `metrics.json`) are no Records and are left alone.

    Raises:
        RecordError: A Record is truncated, or an entry does not fit.
        ReportError: A folder of the reader's does not exist.
    """
    entries = [
        Entry(Record.read(path), path, path.relative_to(committed).as_posix())
        for folder in sorted(committed.iterdir())
        if folder.is_dir() and folder.name != "local"
        for path in _files(folder)
    ]
    for folder in own:
        if not folder.is_dir():
            raise ReportError(f"{folder}: is no folder; give one that `python -m benchmarks` wrote Records to")
        for path in _files(folder):
            entries.append(Entry(Record.read(path), path, f"own/{path.relative_to(folder).as_posix()}", own=True))
    return entries


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.json") if path.name.partition(".")[0] in _KINDS)


def points(fraction: float) -> str:
    """A fraction in percent, as the papers print it."""
    return f"{100 * fraction:.1f}"
