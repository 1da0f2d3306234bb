"""Checkpoints judged ahead, in processes of their own, as they are judged one by one."""

from pathlib import Path

import pytest

from benchmarks.datasets import open_dataset
from benchmarks.judged import judge_checkpoint, judging
from benchmarks.shipped import shipped


@pytest.mark.slow
def test_ahead_finds_what_is_found_one_by_one_and_a_damaged_checkpoint_fails_alone(tmp_path: Path) -> None:
    ((path, expectation),) = shipped("shapes", "yolov1")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(path.read_bytes()[:-100])
    rows = [(damaged, expectation), (path, expectation)]
    with judging(rows) as found:
        ahead = found(path)
        with pytest.raises(ValueError, match=r"damaged\.safetensors"):
            found(damaged)
    alone = judge_checkpoint((path, expectation), open_dataset("shapes"))

    assert ahead.record.hardware is not None
    assert ahead.record.hardware.threads == 1
    assert ahead.record.metrics["stats"]["AP"] == pytest.approx(expectation.stats["AP"], abs=1e-6)
    assert ahead.record.metrics["stats"]["AP"] == pytest.approx(alone.record.metrics["stats"]["AP"], abs=1e-6)
    assert ahead.gated.judgement is not None
    assert alone.gated.judgement is not None
    assert ahead.gated.judgement.outcome == alone.gated.judgement.outcome == "PASS"
