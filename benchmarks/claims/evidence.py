"""What claims are judged by: the papers' tables, and the Records that exist. Nothing here measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property

from benchmarks.again import either_way, moves
from benchmarks.claims.ledger import LedgerError, MissingTable
from benchmarks.papers import FOLDER, Row, Table
from benchmarks.results import Record

__all__ = ["Arm", "Evidence", "Found", "Quantity", "points"]

Quantity = Callable[[Record], float | None]
"""A figure of an accuracy Record, None where it has none."""


@dataclass(frozen=True, eq=False)
class Found:
    """A Record and its place below the results."""

    place: str
    record: Record

    def number(self, *keys: str) -> float:
        """A number of the metrics.

        Raises:
            LedgerError: There is none.
        """
        value: object = self.record.metrics
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise LedgerError(f"{self.place}: metrics.{'.'.join(keys)} is {value!r}, no number; measure it again")
        return float(value)


Arm = Mapping[int, Found]
"""One side of a comparison: trainings by seed."""


def points(place: str) -> Quantity:
    """The quantity at a place of the JSON of `score`, such as `stats.AP75`, in percent."""
    section, _, key = place.partition(".")

    def of(record: Record) -> float | None:
        value = (record.metrics.get(section) or {}).get(key)
        return None if value is None else 100 * float(value)

    return of


class Evidence:
    """Tables and Records, with the questions that rules ask of them."""

    def __init__(self, tables: Iterable[Table], records: Iterable[tuple[str, Record]]) -> None:
        self.tables = {table.id: table for table in tables}
        self.found = tuple(Found(place, record) for place, record in records)

    # What the papers print

    def rows(self, table: str) -> tuple[Row, ...]:
        """All rows of a table."""
        return self.table(table).rows

    def table(self, name: str) -> Table:
        """A table by its id.

        Raises:
            MissingTable: It is not there.
        """
        if name not in self.tables:
            raise MissingTable(f"{FOLDER / name}.toml: is missing, and claims rest on it; restore it")
        return self.tables[name]

    def row(self, table: str, **cells: str) -> Row:
        """The one row with these cells.

        Raises:
            LedgerError: There is none, or more than one.
        """
        found = [
            row
            for row in self.rows(table)
            if all(self.table(table).cell(row, key) == value for key, value in cells.items())
        ]
        if len(found) != 1:
            named = ", ".join(f"{key} = {value}" for key, value in cells.items())
            raise LedgerError(f"{FOLDER / table}.toml: {len(found)} rows have {named}, and a claim rests on one")
        return found[0]

    def printed(self, table: str, column: str, **cells: str) -> Decimal:
        """The figure in a column of the row with these cells, exactly as printed.

        Raises:
            LedgerError: There is no such row, or no figure.
        """
        return self.figure(table, self.row(table, **cells), column)

    def figure(self, table: str, row: Row, column: str) -> Decimal:
        """A row's figure, exactly as printed.

        Raises:
            LedgerError: The cell holds none.
        """
        cell = self.table(table).cell(row, column)
        try:
            return Decimal(cell)
        except InvalidOperation as error:
            name = self.table(table).cell(row, "method")
            raise LedgerError(
                f"{FOLDER / table}.toml: {name}: {column} is {cell!r}, no figure; compare it with the paper"
            ) from error

    def has(self, table: str, row: Row, column: str) -> bool:
        """Whether a figure stands in a cell."""
        try:
            self.figure(table, row, column)
        except LedgerError:
            return False
        return True

    # What was measured

    def of(self, kind: str) -> list[Found]:
        """Records of one kind, of networks in the plain mode."""
        return [one for one in self.found if one.record.kind == kind and not one.record.mode]

    @cached_property
    def _trained(self) -> dict[str, Found]:
        return {one.record.weights.sha256: one for one in self.of("training") if one.record.weights is not None}

    def seed(self, found: Found) -> int | None:
        """Of the training: what the Record says, or that of the training of the same weights."""
        if found.record.seed is not None or found.record.weights is None:
            return found.record.seed
        training = self._trained.get(found.record.weights.sha256)
        return None if training is None else training.record.seed

    def images_seen(self, found: Found) -> int | None:
        """Steps times batch of the training; None where it did not go by steps, or is not known."""
        weights = found.record.weights
        training = None if weights is None else self._trained.get(weights.sha256)
        if training is None:
            return None
        steps, batch = training.record.metrics.get("steps"), (training.record.recipe or {}).get("batch")
        return steps * batch if isinstance(steps, int) and isinstance(batch, int) else None

    def arm(
        self,
        detector: str,
        test: str,
        suppression: str | None = None,
        images: int | None = None,
        multi_scale: str | None = None,
    ) -> dict[int, Found]:
        """Accuracies of a small detector by seed of training, tested as it is, or with another suppression, or at the
        sizes of a protocol; `images` is of those that it learned from, None for all.

        A variant goes by the name that `Record.called` gives it: `ssd300_vgg16 sampler=all`.
        """
        arm: dict[int, Found] = {}
        for one in self.of("accuracy"):
            record = one.record
            if (record.called, record.scale, _test(record)) != (detector, "small", test) or record.truth:
                continue
            way = (record.learned_from, record.suppression, record.multi_scale)
            if way != (images, suppression, multi_scale):
                continue
            seed = self.seed(one)
            if seed is not None:
                arm.setdefault(seed, one)
        return dict(sorted(arm.items()))

    def detectors(self, test: str) -> list[str]:
        """Small detectors that were tested."""
        small = (one.record for one in self.of("accuracy") if one.record.scale == "small")
        return sorted({record.called for record in small if _test(record) == test})

    def latency(self, detector: str, test: str) -> Found | None:
        """Times of a small detector on a machine that conforms to a profile."""
        for one in self.of("latency"):
            record = one.record
            conforms = record.hardware is not None and record.hardware.profile is not None
            if conforms and (record.called, record.scale, _test(record)) == (detector, "small", test):
                return one
        return None

    @cached_property
    def moves(self) -> tuple[float, ...]:
        """Of every detector that was timed again, how many times the shorter of two medians the longer was."""
        return tuple(either_way(ratio) for one in self.of("latency") for ratio in moves(one.record))

    @property
    def farthest_move(self) -> float:
        """The largest of the moves; 1 where there are none."""
        return max(self.moves, default=1.0)

    def beside(self, detectors: Iterable[str], test: str) -> Found | None:
        """Times of small detectors that were taken side by side."""
        wanted = set(detectors)
        for one in self.of("comparison"):
            names = {key.partition(" ")[0] for key in one.record.samples}
            if one.record.scale == "small" and _test(one.record) == test and wanted <= names:
                return one
        return None

    def cost(self, detector: str, scale: str = "paper") -> Found | None:
        """What a detector's architecture costs."""
        found = (one for one in self.of("cost") if (one.record.detector, one.record.scale) == (detector, scale))
        return next(found, None)

    def measured(self, claim: str, *, data: str | None = None, detector: str | None = None) -> list[Found]:
        """What was measured for a claim alone, by data set and detector where these are given."""
        return [
            one
            for one in self.of("claim")
            if one.record.protocol.get("claim") == claim
            and (data is None or _test(one.record) == data)
            and (detector is None or one.record.called == detector)
        ]

    def swept(self, claim: str, test: str, detector: str) -> dict[int, Found]:
        """What was measured of a detector's trainings for a claim, by their seed."""
        measured = self.measured(claim, data=test, detector=detector)
        return {seed: one for one in measured if (seed := self.seed(one)) is not None}


def _test(record: Record) -> str:
    return "" if record.dataset is None else f"{record.dataset.name} {record.dataset.split}"
