"""Accuracies of different protocols, which no table ranks together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.protocol import UNKNOWN, differing, identity_of, identity_of_record
from reports.records import Entry

__all__ = ["Group", "by_protocol"]

_SHOWN = ("stats.AP", "fd.FD", "voc.mAP07")
"""Numbers of a leaderboard; all others follow from the same settings."""


@dataclass(frozen=True)
class Group:
    """Entries of one protocol.

    Attributes:
        entries: Those of it.
        identity: Its hash where there are several protocols; else empty.
        text: Why the table stands alone, where there are several.
    """

    entries: tuple[Entry, ...]
    identity: str = ""
    text: str = ""


def by_protocol(entries: Sequence[Entry]) -> list[Group]:
    """Entries by protocol, the largest group first; one group without a word where all are of the same."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(_identity(entry), []).append(entry)
    if len(groups) < 2:
        return [Group(tuple(entries))]
    ordered = sorted(groups.items(), key=lambda item: (item[0] == UNKNOWN, -len(item[1]), item[0]))
    first = ordered[0][1][0]
    return [Group(tuple(rows), identity, _text(identity, rows[0], first)) for identity, rows in ordered]


def _identity(entry: Entry) -> str:
    return identity_of_record(entry.record.protocol, _fingerprint(entry))


def _fingerprint(entry: Entry) -> str | None:
    return None if entry.record.dataset is None else entry.record.dataset.fingerprint


def _text(identity: str, entry: Entry, first: Entry) -> str:
    if identity == UNKNOWN:
        return "**The protocol of these rows is not wholly known**, so they are ranked with no others."
    text = f"Protocol `{identity}`: figures of other protocols stand in tables of their own."
    if entry is first:
        return text
    found: dict[str, str] = {}
    for number in _SHOWN:
        there, here = (identity_of(number, one.record.protocol, _fingerprint(one)) for one in (first, entry))
        if there is not None and here is not None:
            found |= {
                one.field: f"{one.field} ({one.first} there, {one.second} here)" for one in differing(there, here)
            }
    return f"{text} It differs from the first in {', '.join(found.values())}." if found else text
