"""Every claim with every rule on it, in the order of the list: the ledger itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.claims import (
    architecture,
    fronts,
    geometry,
    localised,
    photographed,
    printed,
    printed_keypoints,
    printed_slides,
    structure,
    sweeps,
    timed,
    trained,
)
from benchmarks.claims.evidence import Evidence
from benchmarks.claims.ledger import LEVELS, Claim, Claims, MissingTable, Rule, Ruling, Verdict, read_claims
from benchmarks.claims.verdicts import holm

__all__ = ["RULES", "judge"]

RULES: tuple[Rule, ...] = (
    *printed.RULES,
    *printed_keypoints.RULES,
    *printed_slides.RULES,
    *structure.RULES,
    *architecture.RULES,
    *geometry.RULES,
    *trained.RULES,
    *timed.RULES,
    *sweeps.RULES,
    *localised.RULES,
    *fronts.RULES,
    *photographed.RULES,
)


def judge(found: Evidence, claims: Claims | None = None, rules: Sequence[Rule] = RULES) -> list[Ruling]:
    """Judge every claim of the list by every rule, level by level; what has no rule is `not measured`.

    Findings of chance are held against each other by Holm's method, all of the ledger together.

    Raises:
        LedgerError: A table or a Record that a rule rests on cannot be used.
    """
    claims = claims or read_claims()
    rulings = []
    for claim in claims.claims:
        for level in LEVELS:
            own = [rule for rule in rules if (rule.claim, rule.level) == (claim.id, level)]
            rulings += [Ruling(claim, level, rule.words, _judged(rule, claim, found), rule.part) for rule in own]
            if level in claim.needs:
                rulings.append(Ruling(claim, level, "", Verdict("not measured", wanted=claim.needs[level])))
    return _together(rulings)


def _judged(rule: Rule, claim: Claim, found: Evidence) -> Verdict:
    try:
        return rule.judge(claim, found)
    except MissingTable as error:
        return Verdict("cannot tell", wanted=str(error))


def _together(rulings: list[Ruling]) -> list[Ruling]:
    """Say of each finding whether it stands among all of them."""
    known = [index for index, one in enumerate(rulings) if one.verdict.p is not None]
    p_values = [one.verdict.p for one in rulings if one.verdict.p is not None]
    for index, survives in zip(known, holm(p_values), strict=True):
        rulings[index] = replace(rulings[index], verdict=replace(rulings[index].verdict, survives=survives))
    return rulings
