"""The gate's verdicts, what it needs to know of a reference, and its exit statuses."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import conftest, gate, gate_rates, references
from benchmarks.__main__ import app
from benchmarks.coverage import population
from benchmarks.metrics import Matches, load_detections, load_ground_truth, match, score
from benchmarks.metrics.bootstrap import TOTALS, resample
from benchmarks.metrics.regression import detectable_drop, judge, judge_unpaired, lost_drop, resolved
from tests.benchmarks.test_comparison import blurred
from tests.benchmarks.test_intervals import generated

TRUTH, ROWS = population(150, (3, 1))
READ = load_ground_truth(TRUTH)


def matched(rows: list[dict[str, Any]]) -> tuple[Matches, float]:
    found = match(READ, load_detections(rows, READ))
    value = references.headlines(found)["AP"]
    assert value is not None
    return found, value


REFERENCE, VALUE = matched(ROWS)


MOVED = [blurred(ROWS, 0.1, seed) for seed in (1, 2)]
"""Neither is better than the other."""


def judged(rows: list[dict[str, Any]], margin: float = 0.005, old: list[dict[str, Any]] | None = None) -> Any:
    reference, was = (REFERENCE, VALUE) if old is None else matched(old)
    found, value = matched(rows)
    return judge(reference, found, (was, value), margin=margin, draws=300, power=False)


def test_the_same_passes_and_a_loss_fails() -> None:
    same = judged(ROWS)
    assert (same.outcome, same.difference, same.low, same.high) == ("PASS", 0, 0, 0)
    assert judged(ROWS, margin=0.0).outcome == "PASS"
    rounded = judge(REFERENCE, REFERENCE, (VALUE, VALUE + 1e-16), margin=0.0, draws=100, power=False)
    assert (rounded.outcome, "risen" in str(rounded)) == ("PASS", False)
    lost = judged(blurred(ROWS, 0.3, 1))
    assert lost.outcome == "FAIL"
    assert lost.high < 0
    assert lost.difference < -0.005
    risen = judge(matched(blurred(ROWS, 0.3, 1))[0], REFERENCE, (lost.measured, VALUE), margin=0.005, draws=300)
    assert risen.outcome == "PASS"
    assert "it has risen" in str(risen)


def test_what_images_cannot_tell_is_said_with_a_number() -> None:
    found = judged(MOVED[0], old=MOVED[1])
    assert found.outcome == "INCONCLUSIVE"
    # By hand: wrong one time in forty, found four times in five.
    deviation = (found.high - found.low) / 2 / 1.959964
    room = -found.difference if found.difference <= -0.005 else found.difference + 0.005
    assert found.needed == math.ceil(150 * ((1.959964 + 0.841621) * deviation / room) ** 2)
    assert f"{found.needed:,} images would decide" in str(found)
    # A wider margin is ruled out by the same images.
    assert judged(MOVED[0], margin=0.1, old=MOVED[1]).outcome == "PASS"


def test_a_verdict_never_turns_to_failure_as_the_margin_grows() -> None:
    order = {"FAIL": 0, "INCONCLUSIVE": 1, "PASS": 2}
    for share in (0.0, 0.01, 0.05, 0.2):
        rows = blurred(ROWS, share, 4)
        ranks = [order[judged(rows, margin).outcome] for margin in (0.0, 0.002, 0.01, 0.05, 0.2)]
        assert ranks == sorted(ranks), share


def test_without_the_references_detections_there_is_less_power() -> None:
    found, value = matched(blurred(ROWS, 0.3, 1))
    paired = judge(REFERENCE, found, (VALUE, value), margin=0.005, draws=300)
    apart = judge_unpaired(found, (VALUE, value), same=False, margin=0.005, draws=300)
    assert apart.high - apart.low > 1.3 * (paired.high - paired.low)
    assert apart.detectable > paired.detectable
    assert "not known" in str(apart)
    alone = resample(found, 300).totals[:, TOTALS.index("AP")]
    assert apart.high - apart.low == pytest.approx(2 * 1.96 * math.sqrt(2) * alone.std(), rel=0.15)
    same = judge_unpaired(found, (value, value), same=True, margin=0.005, draws=300)
    assert (same.outcome, same.paired) == ("PASS", False)


def test_what_can_be_found() -> None:
    few, many = (
        detectable_drop(match(read, load_detections(rows, read)), margin=0.0)
        for read, rows in ((load_ground_truth(one), two) for one, two in (population(60, (5,)), population(240, (5,))))
    )
    # `k` falls with the root of the images, and what is found with its square.
    assert 2 < few / many < 8
    with_margin = detectable_drop(REFERENCE, margin=0.02)
    assert 0.02 < with_margin < 0.05
    assert detectable_drop(REFERENCE, margin=0.0) < with_margin
    assert 0.5 * VALUE < lost_drop(REFERENCE) < 2 * VALUE
    nothing, _ = matched([])
    assert detectable_drop(nothing, margin=0.005) is None
    found = judged(blurred(ROWS, 0.3, 1))
    assert resolved(found) == pytest.approx(2.801585 * (found.high - found.low) / 2 / 1.959964, rel=1e-4)


def test_what_cannot_be_judged_is_refused() -> None:
    other = load_ground_truth(population(20, (1,))[0])
    bare = match(other, load_detections([], other))
    with pytest.raises(ValueError, match="the reference has 150 images and this test 20"):
        judge(REFERENCE, bare, (VALUE, 0.0), margin=0.005)
    with pytest.raises(ValueError, match="'FD' cannot be gated; choose one of AP, AP50"):
        judge(REFERENCE, REFERENCE, (VALUE, VALUE), number="FD", margin=0.005)
    with pytest.raises(ValueError, match=r"margin 5\.0 must be a fraction"):
        judge(REFERENCE, REFERENCE, (VALUE, VALUE), margin=5.0)


@pytest.mark.parametrize("digits", [1, 6])
def test_a_reference_is_exact(digits: int, tmp_path: Path) -> None:
    """Ties, crowds, difficult and odd-sized objects; every resample is the same."""
    truth, rows = generated(40, 7, digits)
    read = load_ground_truth(truth)
    whole = match(read, load_detections(rows, read))
    packed = references.pack(whole, "weights", "images")
    path = tmp_path / "x.matches.npz"
    references.write(path, packed)
    again = references.read(path)
    assert again is not None
    assert (again.checkpoint, again.split) == ("weights", "images")
    rebuilt = again.matches(read)
    scores = score(read, load_detections(rows, read))
    expected = {**scores["stats"], **scores["voc"]}
    for name, value in references.headlines(rebuilt).items():
        assert value == pytest.approx(expected[name], abs=1e-12), name
    first, second = (resample(one, 60, 1).totals for one in (whole, rebuilt))
    for name in ("AP", "AP50", "AP75", "mAP07", "mAP10"):
        column = TOTALS.index(name)
        np.testing.assert_allclose(first[:, column], second[:, column], rtol=0, atol=1e-12, err_msg=name)
    before = path.read_bytes()
    references.write(path, packed)
    assert path.read_bytes() == before
    assert len(packed.image) <= len(rows)


def test_a_damaged_or_foreign_reference_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.matches.npz"
    assert references.read(path) is None
    packed = references.pack(REFERENCE, "w", "i")
    references.write(path, packed)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(references.StoredReferenceError, match=r"x\.matches\.npz: cannot be read"):
        references.read(path)
    other = load_ground_truth(population(20, (1,))[0])
    with pytest.raises(references.StoredReferenceError, match="of other images"):
        packed.matches(other)


def run(folder: Path, rows: list[dict[str, Any]], *more: str, old: list[dict[str, Any]] = ROWS) -> Any:
    (folder / "gt.json").write_text(json.dumps(TRUTH))
    (folder / "old.json").write_text(json.dumps(old))
    (folder / "new.json").write_text(json.dumps(rows))
    names = [str(folder / name) for name in ("old.json", "new.json", "gt.json")]
    return CliRunner().invoke(app, ["gate", "--files", *names[:2], "--gt", names[2], *more])


def test_exit_statuses_of_files(tmp_path: Path) -> None:
    out = tmp_path / "judged.json"
    good = run(tmp_path, ROWS, "--json", str(out))
    assert (good.exit_code, good.output[:4]) == (0, "PASS")
    assert json.loads(out.read_text())[0]["judgement"]["outcome"] == "PASS"
    assert run(tmp_path, blurred(ROWS, 0.3, 1)).exit_code == 1
    unsure = run(tmp_path, MOVED[0], old=MOVED[1])
    assert unsure.exit_code == 3
    assert "images would decide" in unsure.output
    assert run(tmp_path, [{**ROWS[0], "image_id": 10**6}]).exit_code == 2
    assert run(tmp_path, ROWS, "--number", "FD").exit_code == 2
    assert run(tmp_path, ROWS, "--margin", "200").exit_code == 2


def test_exit_statuses_of_several() -> None:
    def one(outcome: str | None) -> gate.Gated:
        if outcome == "UNFIT":
            return gate.Gated("x", unfit="for a reason")
        return gate.Gated("x", judgement=replace_outcome(outcome))

    def replace_outcome(outcome: Any) -> Any:
        from dataclasses import replace

        return replace(judged(ROWS), outcome=outcome)

    cases = [(["PASS"], 0), (["PASS", "INCONCLUSIVE"], 3), (["INCONCLUSIVE", "UNFIT"], 4), (["UNFIT", "FAIL"], 1)]
    for outcomes, status in cases:
        assert int(gate.exit_code([one(outcome) for outcome in outcomes])) == status
    assert int(gate.exit_code([])) == 0


def test_unfit_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = next(path for path, _ in gate.shipped("shapes") if references.place_of_fingerprints(path).exists())
    expectation = dict(gate.shipped("shapes"))[checkpoint]
    for name in (checkpoint, references.place_of_fingerprints(checkpoint), checkpoint.with_suffix(".json")):
        (tmp_path / name.name).write_bytes(name.read_bytes())
    copy = tmp_path / checkpoint.name
    assert gate.unfit(copy, expectation) is None
    prints = references.place_of_fingerprints(copy)
    stored = json.loads(prints.read_text())
    stored["environment"]["torch"] = "1.13.1"
    prints.write_text(json.dumps(stored))
    assert "its reference was made with torch 1.13.1" in str(gate.unfit(copy, expectation))
    bits = gate.bits_of(copy)
    assert bits is not None
    assert bits.moved is None
    assert "torch" in str(bits)
    monkeypatch.setattr(gate, "WEIGHTS", tmp_path)
    monkeypatch.setattr(gate, "shipped", lambda dataset, pattern="*": [])
    copy.unlink()
    missing = CliRunner().invoke(app, ["gate", expectation.detector])
    assert missing.exit_code == 4
    assert "its checkpoint is missing" in missing.output
    unknown = CliRunner().invoke(app, ["gate", "no_such_detector"])
    assert unknown.exit_code == 2
    never = CliRunner().invoke(app, ["gate", "yolov3_spp"])
    assert (never.exit_code, "no checkpoint of it ships" in never.output) == (4, True)


def test_each_checkpoint_is_judged_on_its_own_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those for several sets, named one by one and out of order; a set that nothing is judged on is not opened."""
    ships = {"shapes": ["ssd", "yolov3"], "bars": ["east"]}
    opened: list[str] = []

    def shipped(dataset: str, pattern: str = "*") -> list[tuple[Path, Any]]:
        names = [name for name in ships.get(dataset, []) if pattern in ("*", name)]
        return [(Path(f"{name}_small.{dataset}.safetensors"), SimpleNamespace(benchmark=dataset)) for name in names]

    def open_dataset(name: str, split: str, root: Path | None) -> Any:
        opened.append(name)
        return SimpleNamespace(name=name)

    def judged(rows: Any, images: Any, **_: Any) -> list[gate.Gated]:
        return [gate.Gated(f"{path.stem} on {images.name}", unfit="a stub") for path, _ in rows]

    for name, stub in (("shipped", shipped), ("open_dataset", open_dataset), ("gate", judged)):
        monkeypatch.setattr(gate, name, stub)
    found = CliRunner().invoke(app, ["gate", "east", "yolov3"])
    assert re.findall(r"\w+\.\w+ on \w+", found.output) == ["yolov3_small.shapes on shapes", "east_small.bars on bars"]
    assert opened == ["shapes", "bars"]
    alone = CliRunner().invoke(app, ["gate", "--dataset", "bars"])
    assert re.findall(r"\w+\.\w+ on \w+", alone.output) == ["east_small.bars on bars"]


def test_the_default_run_takes_all_drawn_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    def shipped(dataset: str, pattern: str) -> list[tuple[Path, Any]]:
        return [(Path(f"{pattern}.{dataset}"), SimpleNamespace(detector="some", benchmark=dataset))]

    monkeypatch.setattr("benchmarks.shipped.shipped", shipped)
    for asked, wanted in ((None, ["shapes", "discs", "bars"]), ("bccd", ["bccd"])):
        options = {"--dataset": asked, "--detectors": "a*", "--benchmark": True}
        given: list[Any] = []
        metafunc = SimpleNamespace(
            fixturenames=["shipped_checkpoint"],
            config=SimpleNamespace(getoption=options.__getitem__),
            parametrize=lambda name, rows, **_: given.extend(rows),  # noqa: B023 - called within this turn
        )
        conftest.pytest_generate_tests(metafunc)  # type: ignore[arg-type]
        assert [row[1].benchmark for row in given] == wanted
        assert [row[0].name for row in given] == [f"a*.{name}" for name in wanted]


def test_made_up_detectors_are_what_they_are_said_to_be() -> None:
    found = gate_rates.error_rates(2, 60, draws=100, quiet=True)
    assert [one.change.partition(":")[0] for one in found[:2]] == ["none", "none"]
    assert all(math.isclose(one.passed + one.failed + one.inconclusive, 1) for one in found)
    assert found[3].drop > found[2].drop > abs(found[0].drop)
    scene = gate_rates.Scene.drawn(40, np.random.default_rng(0))
    whole, less = scene.seen(1), scene.seen(1, lost=0.3)
    rights = [int((one.matched[:, 0] != 0).sum()) for one in (whole, less)]
    assert 0.5 < rights[1] / rights[0] < 0.9
    assert references.headlines(scene.seen(1, lost=1.0))["AP"] < 0.02
    json.dumps(gate_rates.as_json(found), allow_nan=False)


@pytest.mark.slow
def test_error_rates() -> None:
    """No change fails at most one time in twenty; twice the detectable drop is found at least nine times in ten."""
    rates = {one.change: one for one in gate_rates.error_rates(60, draws=200, quiet=True)}
    for change in ("none: another machine", "none: another training"):
        assert rates[change].low <= 0.05, change
        assert rates[change].failed <= 0.12, change
    assert rates["the detectable drop"].failed >= 0.6
    for change in ("twice the detectable drop", "twice that of another training"):
        assert rates[change].failed >= 0.9, change
