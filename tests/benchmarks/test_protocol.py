"""The identity of a number: equal where everything is equal, named where it is not, refused where it matters."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.coverage import population
from benchmarks.metrics import ScoreError, score
from benchmarks.protocol import (
    NUMBERS,
    UNKNOWN,
    Identity,
    ProtocolError,
    differing,
    hash_of_ids,
    hash_of_labels,
    identities,
    identity_of,
    identity_of_record,
    refuse_different,
)
from benchmarks.ranking import read_numbers, refuse_different_runs
from benchmarks.results import COMMITTED, Record, read_records

TRUTH, ROWS = population(12, (2,))
SCORES = score(TRUTH, ROWS)
SETTINGS: dict[str, Any] = SCORES["protocol"]
AP = identity_of("stats.AP", SETTINGS)
assert AP is not None


def test_every_number_carries_the_hash_of_its_own() -> None:
    assert list(SETTINGS["identity"]) == list(NUMBERS)
    for number in NUMBERS:
        section, _, key = number.partition(".")
        assert key in SCORES[section]
        identity = identity_of(number, SETTINGS)
        assert identity is not None
        assert identity.unknown == ()
        assert SETTINGS["identity"][number] == identity.hash
        assert len(identity.hash) == 12
    assert len(set(SETTINGS["identity"].values())) == len(NUMBERS), "no two of these are the same number"
    alone = score(TRUTH, ROWS, "voc07")["protocol"]["identity"]
    assert alone == {"voc.mAP07": SETTINGS["identity"]["voc.mAP07"]}


def test_the_hash_is_of_the_content_alone() -> None:
    backwards = json.loads(json.dumps(dict(reversed(list(SETTINGS.items())))))
    assert identities(backwards) == SETTINGS["identity"]
    again = Identity(**{**json.loads(AP.canonical), "iou": AP.iou, "area_range": AP.area_range})
    assert (again, again.hash) == (AP, AP.hash)
    assert hash_of_ids([3, 1, 2]) == hash_of_ids((1, 2, 3)) != hash_of_ids([1, 2])
    assert hash_of_ids([1, 2]) != hash_of_ids(["1", "2"])
    assert (
        hash_of_labels([1, 2], ["a", "b"]) == hash_of_labels([2, 1], ["b", "a"]) != hash_of_labels([1, 2], ["b", "a"])
    )


def changed(path: str, value: Any) -> dict[str, Any]:
    settings = copy.deepcopy(SETTINGS)
    *steps, last = path.split("/")
    place = settings
    for step in steps:
        place = place[step]
    place[last] = value
    return settings


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("coco/iou", [0.5], "iou"),
        ("coco/recall_points", 11, "interpolation"),
        ("coco/candidate", "object of highest IoU, taken or not", "matching"),
        ("boxes", "x, y, width, height, inclusive pixels", "plus_one"),
        ("coco/area_of_object", "box", "area_source"),
        ("coco/area_of_detection", "mask", "area_source"),
        ("coco/area_bounds", "exclusive", "area_source"),
        ("coco/areas", {"all": [0, 1e5]}, "area_range"),
        ("coco/max_detections_per_class_and_image", [1, 10, 300], "max_detections"),
        ("coco/max_detections_per_class_and_image", None, "max_detections"),
        ("score_floor", 0.05, "score_floor"),
        ("label_map", "classes 0", "label_map"),
        ("images", "ids 0", "images"),
    ],
)
def test_each_setting_moves_the_hash_and_is_named_with_both_values(path: str, value: Any, field: str) -> None:
    other = identity_of("stats.AP", changed(path, value))
    assert other is not None
    (found,) = differing(AP, other)
    assert found.field == field
    assert (found.first, found.second) == (getattr(AP, field), getattr(other, field))
    assert other.hash not in (AP.hash, UNKNOWN)
    with pytest.raises(ProtocolError, match=f"AP are of different protocols and cannot be ranked: {field} is "):
        refuse_different(AP, other, "AP")


def test_rules_of_difficult_objects_and_crowds_are_told_apart() -> None:
    both = identity_of("stats.AP", changed("coco/ignored", "difficult, iscrowd"))
    none = identity_of("stats.AP", changed("coco/ignored", ""))
    assert both is not None
    assert none is not None
    assert [one.field for one in differing(AP, both)] == ["difficult"]
    assert [one.field for one in differing(AP, none)] == ["crowd"]


def test_numbers_of_one_file_differ_in_what_they_are() -> None:
    def fields(first: str, second: str) -> set[str]:
        pair = [identity_of(number, SETTINGS) for number in (first, second)]
        assert pair[0] is not None
        assert pair[1] is not None
        return {one.field for one in differing(*pair)}

    assert fields("stats.AP", "stats.AP50") == {"iou"}
    assert fields("stats.AP", "stats.AP_S") == {"area_range"}
    assert fields("stats.AR1", "stats.AR100") == {"max_detections"}
    assert fields("stats.AP50", "fd.FD50") == {"measure"}
    assert fields("voc.mAP07", "voc.mAP10") == {"interpolation"}
    assert fields("stats.AP50", "voc.mAP10") == {
        *("interpolation", "matching", "difficult", "area_source", "max_detections")
    }
    assert refuse_different(AP, AP) is None


def test_other_images_and_other_classes_are_seen() -> None:
    fewer = {**TRUTH, "images": TRUTH["images"][:-1]}
    fewer["annotations"] = [row for row in TRUTH["annotations"] if row["image_id"] != TRUTH["images"][-1]["id"]]
    rows = [row for row in ROWS if row["image_id"] != TRUTH["images"][-1]["id"]]
    renamed = {**TRUTH, "categories": [{**row, "name": f"{row['name']}!"} for row in TRUTH["categories"]]}
    for truth, found, field in ((fewer, rows, "images"), (renamed, ROWS, "label_map")):
        other = identity_of("stats.AP", score(truth, found)["protocol"])
        assert other is not None
        assert [one.field for one in differing(AP, other)] == [field]


def test_what_is_unknown_is_not_ranked() -> None:
    settings = copy.deepcopy(SETTINGS)
    del settings["coco"]["area_bounds"]
    less = identity_of("stats.AP", settings)
    assert less is not None
    assert (less.hash, less.unknown) == (UNKNOWN, ("area_source",))
    assert [one.field for one in differing(less, less)] == ["area_source"], "unknown is not even itself"
    assert identity_of("stats.AP", {"batch": 1}) is None
    assert identity_of_record({"batch": 1}, "f") == UNKNOWN
    assert identity_of_record(settings, "f") == UNKNOWN


def test_records_of_before_have_the_identity_of_those_of_today() -> None:
    old = {key: SETTINGS[key] for key in SETTINGS if key not in ("score_floor", "images", "label_map", "identity")}
    assert identity_of_record(old, "f" * 64) == identity_of_record(SETTINGS, "f" * 64) != UNKNOWN
    assert identity_of_record(old, "f" * 64) != identity_of_record(old, "0" * 64)
    assert identity_of_record(old, None) == UNKNOWN, "which images it was is not known"
    found = {
        (record.dataset.fingerprint, identity_of_record(record.protocol, record.dataset.fingerprint))
        for record in read_records(COMMITTED)
        if record.kind == "accuracy" and record.dataset is not None
    }
    assert found
    assert UNKNOWN not in {identity for _, identity in found}
    assert len(found) == len({fingerprint for fingerprint, _ in found}), "the project has one protocol a test"


def write(folder: Path, name: str, value: Any) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return str(path)


def test_compare_ranks_numbers_of_one_protocol_alone(tmp_path: Path) -> None:
    half = score(TRUTH, ROWS[::2])
    files = [write(tmp_path, f"{name}.json", value) for name, value in (("a", SCORES), ("b", half))]
    out = tmp_path / "out.json"
    good = CliRunner().invoke(app, ["compare", *files, "--json", str(out)])
    assert good.exit_code == 0, good.output
    row = json.loads(out.read_text())["totals"]["stats.AP"]
    assert row["difference"] == SCORES["stats"]["AP"] - half["stats"]["AP"]
    assert row["protocol"] == AP.hash
    other = write(tmp_path, "c.json", {**SCORES, "protocol": changed("score_floor", 0.05)})
    bad = CliRunner().invoke(app, ["compare", files[0], other])
    assert bad.exit_code == 2
    assert "score_floor is 0.0 in the first and 0.05 in the second" in bad.output
    detections = write(tmp_path, "d.json", ROWS)
    mixed = CliRunner().invoke(app, ["compare", files[0], detections])
    assert (mixed.exit_code, "one holds numbers and one detections" in mixed.output) == (2, True)
    without = CliRunner().invoke(app, ["compare", detections, detections])
    assert (without.exit_code, "name it by --gt" in without.output) == (2, True)


def test_records_are_numbers_too(tmp_path: Path) -> None:
    paths = sorted(COMMITTED.glob("cpu-2core/accuracy.*.shapes-test.json"))[:2]
    first, second = (Record.read(path) for path in paths)
    found = CliRunner().invoke(app, ["compare", *map(str, paths)])
    assert found.exit_code == 0, found.output
    assert f"{100 * (first.metrics['stats']['AP'] - second.metrics['stats']['AP']):+.1f}" in found.output
    elsewhere = next(COMMITTED.glob("cpu-2core/accuracy.*.bccd-test.json"))
    refused = CliRunner().invoke(app, ["compare", str(paths[0]), str(elsewhere)])
    assert refused.exit_code == 2
    assert "images is of the test 44dbbad232d8abb4 in the first and of the test" in refused.output


def test_detections_of_different_tests_are_refused(tmp_path: Path) -> None:
    for name, settings in (("a", SETTINGS), ("b", changed("images", "ids 0")), ("c", SETTINGS)):
        write(tmp_path, f"{name}/metrics.json", {**SCORES, "protocol": settings})
        write(tmp_path, f"{name}/detections.json", ROWS)
    first, second, third = (tmp_path / name / "detections.json" for name in "abc")
    refuse_different_runs(first, third)
    refuse_different_runs(first, tmp_path / "elsewhere" / "detections.json")
    with pytest.raises(ProtocolError, match=r"run on different tests: images is ids .* and ids 0 in the second"):
        refuse_different_runs(first, second)
    gt = write(tmp_path, "gt.json", TRUTH)
    refused = CliRunner().invoke(app, ["compare", str(first), str(second), "--gt", gt])
    assert (refused.exit_code, "run on different tests" in refused.output) == (2, True)


def test_what_is_no_file_of_numbers_is_left_alone_or_named(tmp_path: Path) -> None:
    assert read_numbers(Path(write(tmp_path, "list.json", ROWS))) is None
    assert read_numbers(Path(write(tmp_path, "truth.json", {"images": []}))) is None
    broken = tmp_path / "broken.json"
    broken.write_text('{"stats": {')
    with pytest.raises(ProtocolError, match=r"broken\.json: cannot be read as numbers"):
        read_numbers(broken)
    assert issubclass(ScoreError, ValueError)
    assert issubclass(ProtocolError, ValueError)
