"""The ledger of claims as a page: how many of which verdict, what chance does, every claim and what it rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.claims import Evidence, LedgerError, Ruling, judge, read_claims
from benchmarks.claims.control import Control, control
from benchmarks.claims.ledger import LEVELS, Claim, Claims, Level, Verdict
from benchmarks.claims.verdicts import WORDS
from benchmarks.papers import Table
from reports.records import ReportError, Shelf
from reports.sections import Grid, Header, Section, literal

__all__ = ["Judged", "judged", "ledger", "overview"]

_TITLE = "What the papers claim, and what became of it"

_LEVELS = {
    "P": "print: additions and comparisons of what the documents print",
    "X": "structure: operators on constructed inputs, and counts of the papers' architectures; nothing is trained",
    "S": "small: trained or counted here at a small size on small data",
    "F": "full: the papers' own data, designs or weights",
}

_ABOUT = (
    "Five documents on object detection make 100 claims that a measurement or an addition can judge. Each stands here "
    "in our words, with the rule that judges it and the verdict that the rule gave. A claim with two halves has two "
    "lines, and a claim that can be judged at several levels has a line for each: levels are never mixed. ★ marks the "
    "45 claims that were to be judged first.",
    "At level S a difference is taken seed by seed, both sides trained with the same seeds on as many images, and "
    "tested on the same ones; its 95 % interval is Student's over the seeds. *holds here* is meant as it reads, on "
    "this backbone and these data, and confirms no paper's figure. Fewer than three seeds decide nothing. The limits "
    "that part small, medium and large objects are COCO's 32 and 96 pixels, and are not scaled to the small images. "
    "Times are of one machine and one training each; their intervals are over images.",
    "*holds*: the interval lies over what the claim says, in every seed. *holds, but too small to matter*: it does, "
    "and all of it is under a point. *fails*: the interval excludes the claim, or any effect that matters (a point, "
    "unless the rule says otherwise). *equal*: it lies within the margin. *cannot tell*: all else, with what would "
    "decide it. *print error*: the documents contradict themselves or each other; the figure that is right follows. A "
    "verdict on print or structure is exact and has no interval. ✓ marks findings that survive when all findings of "
    "this page are taken together (Holm), ✗ those that may be chance among so many.",
)


class Judged(NamedTuple):
    """Every claim, with what it was judged by."""

    found: Evidence
    claims: Claims
    rulings: Sequence[Ruling]


def judged(shelf: Shelf, tables: Sequence[Table]) -> Judged:
    """All claims judged by all Records and tables.

    Raises:
        ReportError: A table or a Record that a claim rests on cannot be used.
    """
    found = Evidence(tables, ((entry.place, entry.record) for entry in shelf.entries))
    try:
        claims = read_claims()
        return Judged(found, claims, judge(found, claims))
    except LedgerError as error:
        raise ReportError(str(error)) from error


def ledger(of: Judged) -> list[Section]:
    """The whole page."""
    blocks = (*_ABOUT, _levels(), _counts(of.rulings))
    top = Section(_TITLE, "claims", blocks, level=1)
    chapters = [_chapter(of.claims, letter, of.rulings) for letter in sorted(of.claims.chapters)]
    return [top, _chance(control(of.found)), *chapters]


def overview(of: Judged) -> Section:
    """A line a claim, for the page of everything."""
    text = (
        "A line each; [claims.md](claims.md) has rules, figures, intervals, the Records that they rest on, and what "
        "would decide the open ones. Behind the letter of a level stand its verdicts, with their number where a claim "
        "has several parts."
    )
    rows = []
    for claim in of.claims.claims:
        own = [ruling for ruling in of.rulings if ruling.claim.id == claim.id]
        by_level = {level: [one.verdict for one in own if one.level == level] for level in LEVELS}
        summed = "; ".join(f"**{level}** {_summed(verdicts)}" for level, verdicts in by_level.items() if verdicts)
        rows.append((_named(claim), summed, _said(claim)))
    heads = tuple(Header(title, text=True) for title in ("claim", "verdicts", "in our words"))
    return Section(_TITLE, "claims", (text, _levels(), _counts(of.rulings), Grid(heads, tuple(rows))))


def _levels() -> tuple[str, ...]:
    return tuple(f"**{level}**, {text}" for level, text in _LEVELS.items())


def _summed(verdicts: Sequence[Verdict]) -> str:
    """The verdicts of one level, the most frequent first."""
    words = Counter(_word(verdict) for verdict in verdicts)
    return ", ".join(f"{word} ({count})" if count > 1 else word for word, count in words.most_common())


def _named(claim: Claim) -> str:
    return f"`{claim.id}`{' ★' if claim.first else ''}"


def _said(claim: Claim) -> str:
    return f"{literal(claim.says)} ({literal(claim.source)})"


def _counts(rulings: Sequence[Ruling]) -> Grid:
    counts = Counter((one.verdict.word, one.level) for one in rulings)
    rows = []
    for word in WORDS:
        own = [counts[word, level] for level in LEVELS]
        if any(own):
            rows.append((word, *(str(count) if count else "" for count in own), str(sum(own))))
    total = [sum(one.level == level for one in rulings) for level in LEVELS]
    rows.append(("**lines**", *map(str, total), str(sum(total))))
    return Grid((Header("verdict", text=True), *map(Header, LEVELS), Header("all")), tuple(rows))


def _chance(found: Control | None) -> Section:
    title = "What the rule says where there is nothing to say"
    if found is None:
        return Section(title, "control", ("Not measured: this needs three detectors with several seeds each.",))
    said = ", ".join(f"*{word}* {100 * share:.1f} %" for word, share in found.shares.items())
    text = (
        f"Trainings of one configuration that differ in nothing but the seed went through the rule of the pairs: "
        f"{found.trainings} trainings of {len(found.detectors)} detectors on `shapes test`, three differences of "
        f"{found.metric} drawn at random 4,000 times. It said: {said}. *holds* where nothing is should come at most "
        f"5 % of the times. The interval of three seeds reaches {found.half_width:.1f} points to either side "
        f"(median): an effect below that is rarely seen with three seeds, so that *cannot tell* is "
        f"then no evidence against a claim."
    )
    return Section(title, "control", (text,))


def _chapter(claims: Claims, letter: str, rulings: Sequence[Ruling]) -> Section:
    rows = []
    last = ""
    for one in rulings:
        if one.claim.chapter != letter:
            continue
        verdict = one.verdict
        rows.append(
            (
                f"{_named(one.claim)}: {_said(one.claim)}" if one.claim.id != last else "〃",
                one.level,
                literal(": ".join(text for text in (one.part, one.words) if text)) or "no rule yet",
                _marked(verdict, one.level),
                literal(verdict.figure) + _interval(verdict),
                " ".join(_link(place, number) for number, place in enumerate(dict.fromkeys(verdict.rests_on), 1)),
                literal(verdict.wanted),
            )
        )
        last = one.claim.id
    titles = ("claim", "level", "rule", "verdict", "figure and 95 % interval", "rests on", "what would decide it")
    grid = Grid(tuple(Header(title, text=True) for title in titles), tuple(rows))
    title = f"{letter}. {claims.chapters[letter]}"
    return Section(title, f"claims-{letter.lower()}", (grid,))


def _marked(verdict: Verdict, level: Level) -> str:
    word = _word(verdict)
    word = f"**{word.replace('holds', 'holds here') if level == 'S' else word}**"
    if verdict.survives is None or verdict.word not in ("holds", "holds, but too small to matter"):
        return word
    return f"{word} {'✓' if verdict.survives else '✗'}"


def _word(verdict: Verdict) -> str:
    return f"equal within {verdict.within}" if verdict.word == "equal" else str(verdict.word)


def _interval(verdict: Verdict) -> str:
    return "" if verdict.interval is None else f", {verdict.interval[0]:.2f} to {verdict.interval[1]:.2f}"


def _link(place: str, number: int) -> str:
    if place.startswith("own/"):
        return literal(place)
    if "/" not in place:
        return f"[{place}](../benchmarks/papers/{place}.toml)"
    return f"[{number}](../benchmarks/results/{place})"
