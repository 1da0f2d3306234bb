"""Made-up trainings, tests and sweeps, and what the rules on claims say of them."""

from __future__ import annotations

from typing import Any

from benchmarks.claims import RULES, Evidence, Verdict, read_claims
from benchmarks.results import DatasetId, Record, Weights
from tests.reports.samples import SHAPES, metrics, record


def evidence(*records: Record) -> Evidence:
    return Evidence((), ((f"m/{one.name}.json", one) for one in records))


def trained(detector: str, seed: int, steps: int = 3000, **changes: Any) -> tuple[Record, Record]:
    """A test and the training that it is of; `stats` and `fd` are replaced where given, in percent."""
    variant = changes.get("variant", {})
    told = "-".join(map(str, (detector, seed, steps, *variant.values())))
    own = Weights(file=f"{detector}.{seed}", sha256=told.ljust(64, "0")[:64])
    scores = metrics(0.4)
    for part in ("stats", "fd"):
        scores[part] |= {name: value / 100 for name, value in changes.get(part, {}).items()}
    dataset = changes.get("dataset", SHAPES)
    extra = {key: value for key, value in changes.items() if key not in ("stats", "fd", "dataset")}
    test = record("accuracy", detector, seed=seed, weights=own, metrics=scores, dataset=dataset, **extra)
    facts = {"steps": steps, "seconds": 1.0}
    return test, record("training", detector, seed=seed, weights=own, metrics=facts, dataset=dataset, variant=variant)


def side(detector: str, values: list[float], name: str = "AP75", **changes: Any) -> list[Record]:
    pairs = (trained(detector, seed, stats={name: value}, **changes) for seed, value in enumerate(values))
    return [one for pair in pairs for one in pair]


def verdict(claim: str, part: str, found: Evidence, level: str = "S") -> Verdict:
    (rule,) = [rule for rule in RULES if (rule.claim, rule.part, rule.level) == (claim, part, level)]
    return rule.judge(read_claims()[claim], found)


def swept(claim: str, detector: str, seed: int | None, numbers: dict[str, Any], split: str = "test") -> Record:
    dataset = DatasetId(name="shapes", split=split, fingerprint="a" * 48, images=300, objects=9)
    return record(
        "claim", detector, seed=seed, metrics=numbers, dataset=dataset, hardware=None, protocol={"claim": claim}
    )
