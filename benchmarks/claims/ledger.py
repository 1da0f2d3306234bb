"""The nouns of the ledger: what a claim is, what judges it, and what was found. `read_claims` reads the list.

Four levels, which are never mixed:

- `P`, print: only what the documents print; additions and comparisons, always decidable.
- `X`, structure: operators on constructed inputs and counts of the papers' architectures; nothing is trained.
- `S`, small: trained here at a small size on small data; a verdict is one on this backbone and these data.
- `F`, full: the papers' designs, data or weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from benchmarks.claims.verdicts import Word
from benchmarks.tomls import read_toml

if TYPE_CHECKING:
    from benchmarks.claims.evidence import Evidence

__all__ = [
    "FILE",
    "LEVELS",
    "Claim",
    "Claims",
    "LedgerError",
    "Level",
    "MissingTable",
    "Rule",
    "Ruling",
    "Verdict",
    "read_claims",
]

FILE = Path(__file__).parent / "claims.toml"

Level = Literal["P", "X", "S", "F"]
LEVELS: tuple[Level, ...] = get_args(Level)


class LedgerError(ValueError):
    """A claim cannot be judged from what there is; the message names the file, the entry and the remedy."""


class MissingTable(LedgerError):
    """A table of a paper is not among those given."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Claim(_Frozen):
    """What a document asserts, in our words.

    Attributes:
        id: Short name.
        chapter: Letter of the chapter.
        says: The assertion.
        source: Document and place.
        kind: What sort of assertion it is.
        first: Whether it is one of those to be judged first.
        printed: Figures of sentences, as printed; those of tables lie in `benchmarks.papers`.
        needs: By level, what would have to be run where no rule exists yet.
    """

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    chapter: str = Field(pattern=r"^[A-Z]$")
    says: str = Field(min_length=1)
    source: str = Field(min_length=1)
    kind: Literal["numeric", "ordinal", "structural", "qualitative"]
    first: bool = False
    printed: dict[str, str] = {}
    needs: dict[Level, str] = {}

    def number(self, key: str) -> Decimal:
        """A printed figure.

        Raises:
            LedgerError: There is none of that name, or it is no number.
        """
        (value,) = self.numbers(key)[:1] or (None,)
        if value is None:
            raise LedgerError(f"{FILE}: {self.id}: printed.{key} is empty; compare it with the document")
        return value

    def numbers(self, key: str) -> tuple[Decimal, ...]:
        """Printed figures that stand in one entry, with blanks or slashes between.

        Raises:
            LedgerError: There are none of that name, or one is no number.
        """
        if key not in self.printed:
            raise LedgerError(f"{FILE}: {self.id}: printed.{key} is missing; restore it")
        try:
            return tuple(Decimal(text) for text in self.printed[key].replace("/", " ").split())
        except InvalidOperation as error:
            raise LedgerError(
                f"{FILE}: {self.id}: printed.{key} is {self.printed[key]!r}, no numbers; compare it with the document"
            ) from error


class Claims(_Frozen):
    """What `claims.toml` holds."""

    chapters: dict[str, str]
    claims: tuple[Claim, ...]

    @model_validator(mode="after")
    def _names_are_unique_and_chapters_known(self) -> Claims:
        names = [claim.id for claim in self.claims]
        for claim in self.claims:
            if names.count(claim.id) > 1:
                raise ValueError(f"{claim.id} stands twice")
            if claim.chapter not in self.chapters:
                raise ValueError(f"{claim.id}: there is no chapter {claim.chapter}")
        return self

    def __getitem__(self, name: str) -> Claim:
        return next(claim for claim in self.claims if claim.id == name)


@dataclass(frozen=True)
class Verdict:
    """What was found of a claim by one rule.

    Attributes:
        word: The verdict.
        figure: What it rests on, in figures, ready to print.
        interval: 95 % interval of the figure, in its unit; None where the figure is exact or undefined.
        rests_on: Places of Records below the results, and names of tables of `benchmarks.papers`.
        wanted: What would decide it, or decide it better: seeds, images, a run; empty where nothing is open.
        p: How likely the finding is by chance alone; None where it is exact.
        survives: Whether it stands when all findings of the ledger are taken together; None where `p` is.
        within: Margin of an `equal`, in words.
    """

    word: Word
    figure: str = ""
    interval: tuple[float, float] | None = None
    rests_on: tuple[str, ...] = ()
    wanted: str = ""
    p: float | None = None
    survives: bool | None = None
    within: str = ""


@dataclass(frozen=True)
class Rule:
    """How one half of a claim is judged at one level.

    Attributes:
        claim: Id of the claim.
        level: See the module.
        words: The rule in words.
        judge: The rule as code.
        part: Which half or witness of the claim; empty where there is one only.
    """

    claim: str
    level: Level
    words: str
    judge: Callable[[Claim, Evidence], Verdict]
    part: str = ""


@dataclass(frozen=True)
class Ruling:
    """A line of the ledger."""

    claim: Claim
    level: Level
    words: str
    verdict: Verdict
    part: str = ""


def read_claims(path: Path = FILE) -> Claims:
    """Read the list of claims.

    Raises:
        LedgerError: The file cannot be read, is no TOML, or an entry does not fit.
    """
    return read_toml(path, Claims, LedgerError, "mend the entry")
