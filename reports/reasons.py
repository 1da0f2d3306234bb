"""Why a figure of a paper's table has none of ours beside it: from the row, the column and the Records, in this order.

Nothing here is written for a single cell. As soon as a Record fits, the figure stands there and the reason is gone.
"""

from __future__ import annotations

from benchmarks.papers import Column, Row, Table
from benchmarks.results import Hardware
from reports.records import Shelf

__all__ = ["NOT_OURS", "NOT_SO", "counts_for", "is_papers_machine", "why_not", "why_not_small"]

NOT_OURS = "no detector of the catalog is this row"
NOT_SO = "no Record of this network tested in this row's way"
_KEPT = {"coco test-dev": "COCO", "voc 2012_test": "VOC"}
"""Test sets of which the annotations were never published, and whose server keeps them."""


def why_not(shelf: Shelf, table: Table, row: Row, column: Column) -> str:
    """Why nothing was measured for this cell, in a clause."""
    if row.network is None:
        return NOT_OURS
    if row.detector is None and (column.kind != "structure" or not counts_for(row, column.measures)):
        return NOT_SO
    match column.kind:
        case "metric" if row.detector:
            return _why_no_accuracy(shelf, row.detector, column)
        case "speed" if row.detector:
            return _why_no_time(shelf, row.detector, table)
        case "structure":
            return "not counted yet: run `python -m benchmarks record-costs`"
        case _:
            return "a cell of this column may hold two figures, or none: no single Record is its match"


def why_not_small(row: Row) -> str:
    """Why there is no figure at the small size."""
    if row.detector is None:
        return NOT_OURS if row.of is None else NOT_SO
    return "no training at the small size is recorded"


def counts_for(row: Row, key: str) -> bool:
    """Whether what is counted of a network run once on an image is true of the row: tested otherwise, it has the same
    parameters, and nothing else that is sure to be the same."""
    return row.network is not None and (row.detector is not None or bool(row.overrides) or key == "parameters")


def _why_no_accuracy(shelf: Shelf, detector: str, column: Column) -> str:
    if column.dataset in _KEPT:
        return f"the annotations of {column.dataset} are kept by {_KEPT[column.dataset]}'s server"
    full = [entry.record for entry in shelf.accuracies if entry.record.scale == "paper"]
    datasets = [record.dataset for record in full if record.dataset and record.detector == detector]
    if datasets:
        images = max(one.images for one in datasets)
        return f"the checkpoint was run on other images or fewer ({images:,}): see the table below"
    covered = any(
        record.dataset is not None
        and f"{record.dataset.name} {record.dataset.split}" == column.dataset
        and record.dataset.images == column.images
        for record in full
    )
    if covered:
        return f"no weights of this size were run on {column.dataset}"
    return f"no Record covers the {column.images:,} images of {column.dataset}, and no weights of this size were run"


def _why_no_time(shelf: Shelf, detector: str, table: Table) -> str:
    if not table.hardware:
        return "no machine is named for this time"
    timed = [entry for entry in shelf.of("latency") if entry.record.detector == detector]
    full = sorted(
        {entry.record.hardware.device for entry in timed if entry.record.scale == "paper" and entry.record.hardware}
    )
    where = f"timed at this size on {', '.join(full)} only" if full else "not timed at this size"
    return f"{where}, never on the paper's {table.hardware}: ratios compare, under *Speed across decades*"


def is_papers_machine(hardware: Hardware | None, table: Table) -> bool:
    """Whether a Record's device is one that the table names."""
    name = "" if hardware is None else hardware.device.partition(": ")[2]
    return bool(name) and name in table.hardware
