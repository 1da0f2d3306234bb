"""`Table`: a table of a paper as data, one TOML file each. What a paper printed stays as it was printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from benchmarks.tomls import read_toml

__all__ = ["DASH", "FOLDER", "Column", "Row", "Table", "TableError", "read_table", "read_tables"]

FOLDER = Path(__file__).parent
"""Where the tables of the project lie."""

DASH = "–"
"""A cell in which the paper prints a dash or nothing."""

Structure = Literal["input", "boxes", "parameters", "macs", "operations"]
Speed = Literal["frames a second", "milliseconds", "as written"]

_METRIC = re.compile(r"^(stats|fd|voc)\.[A-Za-z0-9_]+$")
_FIGURE = re.compile(r"^\d+(\.\d+)?$")
_TIME = re.compile(r"^(\d+(?:\.\d+)?)(?: (fps|ms|s))?$")
_UNITS = {"frames a second": "fps", "milliseconds": "ms", "as written": None}


class TableError(ValueError):
    """A table cannot be used; the message names the file, the entry and the remedy."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(_Frozen):
    """A column as the paper prints it, and the measured quantity that corresponds to it.

    Attributes:
        key: Short name, unique in the table.
        title: Heading.
        kind: `text`; `number` (figures of which a cell may hold two or none, so that they are compared with nothing);
            `structure` (follows from the architecture alone); `speed` (of one image on the paper's machine); `metric`
            (an accuracy in percent).
        measures: For a metric the place in the JSON of `score`, such as `fd.FD5`; for a structure `input`, `boxes`,
            `parameters`, `macs` or `operations` (billions, two a multiply-accumulate); for a speed `frames a second`,
            `milliseconds`, or `as written` where each cell has its unit; else empty.
        dataset: For a metric, the data set and split that the paper tested on, named as Records name them.
        images: For a metric, the number of images of that split: a Record of fewer is a Record of another test.
        better: Whether a higher or a lower metric is better.
    """

    key: str = Field(pattern=r"^[A-Za-z0-9_]+$")
    title: str = Field(min_length=1)
    kind: Literal["text", "number", "structure", "speed", "metric"]
    measures: str = ""
    dataset: str = ""
    images: int = Field(default=0, ge=0)
    better: Literal["higher", "lower"] = "higher"

    @model_validator(mode="after")
    def _kind_and_measures(self) -> Column:
        if self.kind == "metric" and not (_METRIC.match(self.measures) and self.dataset and self.images):
            raise ValueError("a metric needs measures (such as fd.FD5), dataset and images")
        if self.kind == "structure" and self.measures not in get_args(Structure):
            raise ValueError(f"a structure measures one of {', '.join(get_args(Structure))}")
        if self.kind == "speed" and self.measures not in get_args(Speed):
            raise ValueError(f"a speed measures one of {', '.join(get_args(Speed))}")
        if self.kind in ("text", "number") and (self.measures or self.dataset or self.images):
            raise ValueError("only a metric, a structure or a speed is measured")
        return self


class Row(_Frozen):
    """A row as printed.

    Attributes:
        cells: One string a column, digits and all; `–` where the paper prints no figure.
        detector: Catalog name of what implements the row, or None.
        of: Catalog name of the network of a row without `detector`: one that the row tests in another way than its own.
        overrides: Constructor arguments where the row's network is another than the catalog's.
        note: What a reader must know, such as an error of the scan that was transcribed.
    """

    cells: tuple[str, ...]
    detector: str | None = None
    of: str | None = None
    overrides: dict[str, Any] = {}
    note: str = ""

    @model_validator(mode="after")
    def _one_name(self) -> Row:
        if self.detector and self.of:
            raise ValueError(f"detector {self.detector} and of {self.of}: name one")
        return self

    @property
    def network(self) -> str | None:
        """Catalog name of what is built for the row, however it is tested."""
        return self.detector or self.of


class Table(_Frozen):
    """A paper's table.

    Attributes:
        id: Name of the file without ending.
        work: What the paper is called in short, such as `CenterNet`.
        name: As the paper calls the table, such as `Table 3`.
        subject: What it is about, as a heading.
        paper: Authors, title, where and when.
        link: Where the paper is found; empty where it is not published.
        seed: Number of the seed document it was transcribed from; empty where it comes from elsewhere.
        place: Section or page.
        caption: In our words.
        split: What the paper measured on, in our words.
        classes: Foreground classes of these data, for which structure is counted.
        unit: Of the metrics.
        hardware: What the paper names for this table; empty where it names none.
        columns: In the paper's order; one has the key `method` and names the row.
        rows: In the paper's order.
        pairs: Methods that the paper sets against each other, the older one first.
        beside: Structure of our detectors that stands beside the paper's columns.
        notes: On the table as a whole.
    """

    id: str = Field(pattern=r"^[a-z0-9_]+$")
    work: str = Field(min_length=1)
    name: str = Field(min_length=1)
    subject: str = Field(min_length=1)
    paper: str = Field(min_length=1)
    link: str = Field(default="", pattern=r"^(https://\S+)?$")
    seed: str = Field(default="", pattern=r"^(\d{3})?$")
    place: str = Field(min_length=1)
    caption: str = Field(min_length=1)
    split: str = Field(min_length=1)
    classes: int = Field(ge=1)
    unit: Literal["percent"]
    hardware: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    beside: tuple[Structure, ...] = ()
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _rows_fit_columns(self) -> Table:
        keys = [column.key for column in self.columns]
        if len(set(keys)) != len(keys) or "method" not in keys:
            raise ValueError("columns: keys must be unique, and one of them is method")
        for index, row in enumerate(self.rows):
            if len(row.cells) != len(keys):
                raise ValueError(f"rows.{index}: {len(row.cells)} cells for {len(keys)} columns")
            for column, cell in zip(self.columns, row.cells, strict=True):
                if not cell or cell != cell.strip():
                    raise ValueError(f"rows.{index}.{column.key}: is {cell!r}; write {DASH} where nothing is printed")
                if column.kind == "metric" and cell != DASH and not _FIGURE.match(cell):
                    raise ValueError(f"rows.{index}.{column.key}: {cell!r} is no figure in percent")
        methods = [self.cell(row, "method") for row in self.rows]
        for method in (method for pair in self.pairs for method in pair):
            if methods.count(method) != 1:
                raise ValueError(f"pairs: {method!r} names {methods.count(method)} rows instead of one")
        return self

    def column(self, key: str) -> Column:
        """The column with this key."""
        return next(column for column in self.columns if column.key == key)

    def cell(self, row: Row, key: str) -> str:
        """What the paper prints for `row` in the column `key`."""
        return row.cells[self.columns.index(self.column(key))]

    def printed(self, row: Row, key: str) -> float | None:
        """The figure of a metric in percent; None where the paper prints none."""
        cell = self.cell(row, key)
        return None if cell == DASH else float(cell)

    def seconds(self, row: Row, key: str) -> float | None:
        """Time of one image by a column of speeds; None where a cell holds no figure, or two."""
        found = _TIME.match(self.cell(row, key))
        if found is None:
            return None
        figure, unit = float(found[1]), found[2] or _UNITS[self.column(key).measures]
        return {"fps": 1 / figure, "ms": figure / 1000, "s": figure}.get(unit or "")

    def row(self, method: str) -> Row:
        """The row of a method that is named once."""
        return next(row for row in self.rows if self.cell(row, "method") == method)

    @property
    def speeds(self) -> tuple[Column, ...]:
        """The columns of times and frame rates."""
        return tuple(column for column in self.columns if column.kind == "speed")

    @property
    def metrics(self) -> tuple[Column, ...]:
        """The columns that an accuracy Record can stand beside."""
        return tuple(column for column in self.columns if column.kind == "metric")


def read_table(path: Path) -> Table:
    """Read one file.

    Raises:
        TableError: It cannot be read, is no TOML, or an entry does not fit.
    """
    table = read_toml(path, Table, TableError, f"compare it with {FOLDER / 'centernet_table3.toml'}")
    if table.id != path.stem:
        raise TableError(f"{path}: id: is {table.id!r}; name the file and the table alike")
    return table


def read_tables(folder: Path = FOLDER) -> tuple[Table, ...]:
    """Every table of `folder`, in the order of the file names.

    Raises:
        TableError: One of them cannot be used.
    """
    return tuple(read_table(path) for path in sorted(folder.glob("*.toml")))
