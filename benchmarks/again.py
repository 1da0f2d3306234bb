"""The same detector timed again: how far its median moves from one run to the next.

The interval of a median says how well one run knows it. Another process, hour or neighbour on the same host moves all
samples of a run together, which no interval sees. So a latency Record that takes the place of one that was taken under
the same conditions keeps that one's median.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.results import Record

__all__ = ["EARLIER", "either_way", "moves", "with_earlier"]

EARLIER = "earlier"
"""Under this name a latency Record's metrics hold the medians end to end of earlier runs, seconds, oldest first."""

_KEPT = 20
"""So many earlier medians are kept, the latest ones."""

_SAME_PROTOCOL = ("batch", "threads", "mode", "warmup", "stopping")


def with_earlier(record: Record, folder: Path) -> Record:
    """A latency Record with the medians of the one of its name in a folder, if that is of the same conditions.

    The same are weights, images, machine, profile, libraries, and the rules of measuring; the commit may be another:
    a change that makes a detector faster shows, too.

    Raises:
        RecordError: There is a file of this name that is no Record.
    """
    path = folder / f"{record.name}.json"
    if not path.exists():
        return record
    before = Record.read(path)
    # As a file holds it, where a tuple is a list.
    if _conditions(before) != _conditions(Record.model_validate_json(record.model_dump_json())):
        return record
    known = [*before.metrics.get(EARLIER, []), before.metrics["end_to_end"]["median"]]
    return record.model_copy(update={"metrics": {**record.metrics, EARLIER: known[-_KEPT:]}})


def moves(record: Record) -> list[float]:
    """How many times each earlier run's median the present one is; empty where there was none."""
    return [record.metrics["end_to_end"]["median"] / median for median in record.metrics.get(EARLIER, [])]


def either_way(ratio: float) -> float:
    """How many times the shorter of two medians the longer is, whichever was first: a halving moves as far as a
    doubling."""
    return max(ratio, 1 / ratio)


def _conditions(record: Record) -> tuple[object, ...]:
    rules = {key: record.protocol.get(key) for key in _SAME_PROTOCOL}
    if rules["warmup"] is not None:
        # How many calls it took is an outcome.
        rules["warmup"] = {key: value for key, value in rules["warmup"].items() if key != "calls"}
    on = record.hardware
    machine = None if on is None else (on.machine, on.device, on.profile, on.threads, on.precision)
    return (record.weights, record.overrides, record.dataset, rules, machine, record.versions)
