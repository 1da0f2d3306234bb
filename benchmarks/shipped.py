"""The checkpoints that ship with the project, and what is expected of them.

Beside `zoo/weights/NAME.safetensors` stands `NAME.json`: the benchmark, the fingerprint of its test split, the sha256
of the checkpoint and the metrics that the project measured with it; and its reference (`benchmarks.references`).
"""

from __future__ import annotations

import fnmatch
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

__all__ = ["WEIGHTS", "Expectation", "shipped"]

WEIGHTS = Path(__file__).resolve().parent.parent / "zoo" / "weights"


class Expectation(BaseModel):
    """What a shipped checkpoint must reach.

    Attributes:
        detector: Catalog name.
        benchmark: A key of `BENCHMARKS`.
        split: Test split.
        fingerprint: Of the split.
        sha256: Of the checkpoint.
        headline: Name of the metric that is checked.
        expected: Its value in percent.
        stats: COCO's twelve numbers, fractions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    detector: str
    benchmark: str
    split: str
    fingerprint: str
    sha256: str
    headline: str
    expected: float
    stats: dict[str, float | None]


def shipped(dataset: str, pattern: str = "*", folder: Path = WEIGHTS) -> list[tuple[Path, Expectation]]:
    """Shipped checkpoints for a dataset whose detector matches a glob, with what is expected of each.

    Raises:
        ValueError: An expectation is missing or cannot be read.
    """
    found = []
    for path in sorted(folder.glob(f"*.{dataset}.safetensors")):
        described = path.with_suffix(".json")
        try:
            expectation = Expectation.model_validate_json(described.read_bytes())
        except (OSError, ValidationError) as error:
            raise ValueError(f"{described}: {error}; ship the checkpoint again to write it") from error
        if fnmatch.fnmatch(expectation.detector, pattern):
            found.append((path, expectation))
    return found
