"""The ledger of claims: what five documents on object detection assert, and the verdict that print and Records allow.

    found = Evidence(read_tables(), places_and_records)
    for ruling in judge(found):
        print(ruling.claim.id, ruling.level, ruling.verdict.word, ruling.verdict.figure)

`claims.toml` lists the claims; `printed*`, `structure`, `architecture`, `geometry`, `trained`, `timed`, `sweeps`,
`localised`, `fronts` and `photographed` hold the rules, which read and never measure; `measure` measures, for `python
-m benchmarks claims`, and needs torch.
"""

from benchmarks.claims.evidence import Evidence
from benchmarks.claims.judge import RULES, judge
from benchmarks.claims.ledger import Claim, LedgerError, Rule, Ruling, Verdict, read_claims

__all__ = ["RULES", "Claim", "Evidence", "LedgerError", "Rule", "Ruling", "Verdict", "judge", "read_claims"]
