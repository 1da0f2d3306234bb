"""A digit that is touched in a page, in a paper's table or in a Record is found and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import reports.__main__ as cli
from benchmarks.answers import answer_hashes
from benchmarks.manifest import MANIFEST, changed, seal
from benchmarks.papers import FOLDER, read_tables
from benchmarks.rescore import contradictions, kept_detections, rescored
from benchmarks.results import Record
from reports.verify import stale
from tests.reports.samples import metrics, record, samples


def classes(ap: float) -> dict[str, dict[str, float]]:
    """Two classes around the totals of `metrics`."""
    found = metrics(ap)
    totals = {"AP": ap, "AP50": ap + 0.2, "FD": found["fd"]["FD"], "AP07": ap + 0.21, "AP10": ap + 0.22}
    return {name: {key: value + by for key, value in totals.items()} for name, by in (("a", 0.01), ("b", -0.01))}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records, papers' tables, manifests and pages of a project of its own."""
    results, papers = tmp_path / "results", tmp_path / "papers"
    record("accuracy", metrics={**metrics(0.4125), "per_class": classes(0.4125)}).write(results / "cpu-2core")
    timed = {"end_to_end": {"median": 0.02}}
    record("latency", samples=samples(0.02), metrics=timed).write(results / "cpu-2core")
    papers.mkdir()
    shutil.copy(FOLDER / "refinedet_table1.toml", papers)
    sealed = {results: "*/*.json", papers: "*.toml"}
    for folder, pattern in sealed.items():
        seal(folder, pattern)
    monkeypatch.setattr(cli, "COMMITTED", results)
    monkeypatch.setattr(cli, "PAGES", tmp_path / "pages")
    monkeypatch.setattr(cli, "SEALED", sealed)
    monkeypatch.setattr(cli, "read_tables", lambda: read_tables(papers))
    # What does not hang on these Records and tables only takes time here.
    monkeypatch.setattr("reports.render.detector_pages", lambda shelf: {})
    monkeypatch.setattr("reports.render.pictures", lambda shelf: [])
    assert cli.main([]) == 0
    return tmp_path


def touch(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) >= 1, f"{old} does not stand in {path}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(list(arguments)) == 1
    return capsys.readouterr().err


def test_an_untouched_project_has_no_fault(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--verify"]) == 0
    said = capsys.readouterr().out
    assert "no fault found" in said
    assert "0 of 1 accuracy Records scored again" in said


def test_a_latency_of_other_detections_than_were_scored(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = project / "results" / "cpu-2core"
    for path in folder.glob("*.json"):
        one = Record.read(path)
        answers = {"1": "a", "2": "b" if one.kind == "accuracy" else "c"}
        one.model_copy(update={"answers": answers, "protocol": {"batch": 1}}).write(folder)
    said = complaint(capsys, "--verify")
    assert "latency.ssd300_vgg16.small.shapes-test.cpu.json: void: the detections on the first 2 images" in said


def test_a_digit_of_a_page(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(project / "pages" / "tables.md", "| 41.2 ", "| 41.3 ")
    for option in ("--check", "--verify"):
        said = complaint(capsys, option)
        assert "section 'Small detectors on shapes test', row 'ssd300_vgg16', column 'AP'" in said
        assert "there is   41.3\n  should be  41.2" in said
        assert said.count("is stale") == 1


def test_a_digit_of_the_html_page(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(project / "pages" / "index.html", ">41.2<", ">41.9<")
    said = complaint(capsys, "--check")
    assert "index.html: line" in said
    assert "row 'ssd300_vgg16', column 'AP'" in said


def test_a_digit_of_a_papers_table(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(project / "papers" / "refinedet_table1.toml", '"77.2"', '"77.8"')
    said = complaint(capsys, "--verify")
    assert "refinedet_table1.toml: was changed since it was sealed" in said
    assert "'RefineDet, Table 1: detectors on PASCAL VOC'" in said
    assert "row 'SSD300\\\\*', column 'paper: VOC07'" in said
    assert "there is   77.2\n  should be  77.8" in said
    cli.main([])
    said = complaint(capsys, "--verify")
    assert "refinedet_table1.toml: was changed" in said, "new pages do not hide it"
    assert "is stale" not in said


def test_a_digit_of_a_record(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "results" / "cpu-2core" / "accuracy.ssd300_vgg16.small.shapes-test.json"
    touch(path, '"AP": 0.4125', '"AP": 0.4225')
    cli.main([])
    said = complaint(capsys, "--verify")
    assert f"{path}: metrics.stats.AP: is 0.4225, and 0.4125" in said
    assert f"{path}: was changed since it was sealed" in said
    seal(project / "results", "*/*.json")
    assert "metrics.stats.AP" in complaint(capsys, "--verify"), "a new manifest does not make it right"


def test_a_time_that_is_not_that_of_its_samples(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "results" / "cpu-2core" / "latency.ssd300_vgg16.small.shapes-test.cpu.json"
    touch(path, '"median": 0.02', '"median": 0.01')
    assert "metrics.end_to_end.median: is 0.01, and 0.02" in complaint(capsys, "--verify")


def test_records_that_come_or_go_are_named(project: Path) -> None:
    folder = project / "results"
    made = record("training").write(folder / "cpu-2core")
    assert changed(folder, "*/*.json") == [], "what writes a Record enters it"
    shutil.copy(made, made.with_name("training.other.json"))
    (sentence,) = changed(folder, "*/*.json")
    assert "training.other.json: stands in no" in sentence
    made.with_name("training.other.json").unlink()
    made.unlink()
    assert "is missing" in changed(folder, "*/*.json")[0]
    record("training").write(folder / "local")
    assert "local" not in (folder / MANIFEST).read_text()


def test_a_broken_manifest_is_a_fault(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "results" / MANIFEST).write_text("something\n")
    assert "line 1 is 'something'" in complaint(capsys, "--verify")
    (project / "results" / MANIFEST).unlink()
    assert "cannot be read" in complaint(capsys, "--verify")


def test_rows_that_are_only_wider_are_not_named(tmp_path: Path) -> None:
    page = "# T\n\n| a  | b |\n|:---|--:|\n| x  | 1 |\n| yy | 2 |\n"
    (tmp_path / "p.md").write_text(page.replace("| yy | 2 |", "| yy | 3 |").replace("| x  |", "| x |"))
    (sentence,) = stale({"p.md": page}, tmp_path)
    assert "section 'T', row 'yy', column 'b'" in sentence


def test_rows_that_change_places_are_held_against_themselves(tmp_path: Path) -> None:
    page = "# T\n\n| x | method |  AP |\n|---|---|--:|\n| 1 | a | 3 |\n| 2 | b | 2 |\n| 3 | c | 1 |\n"
    (tmp_path / "p.md").write_text(page.replace("| 2 | b | 2 |\n| 3 | c | 1 |", "| 3 | c | 1 |\n| 2 | b | 7 |"))
    (sentence,) = stale({"p.md": page}, tmp_path)
    assert "row 'b', column 'AP':\n  there is   7\n  should be  2" in sentence
    (tmp_path / "p.md").write_text(page.replace("| 2 | b | 2 |\n| 3 | c | 1 |", "| 3 | c | 1 |\n| 2 | b | 2 |"))
    assert "line 6 is stale:\n" in stale({"p.md": page}, tmp_path)[0], "the order alone"
    (tmp_path / "p.md").write_text(page.replace("# T", "# U"))
    assert "line 1 is stale:\n  there is   # U" in stale({"p.md": page}, tmp_path)[0]


TRUTH = {
    "images": [{"id": 1, "width": 100, "height": 100}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0}],
}


class _Images:
    """A test whose truth is known."""

    name, split, fingerprint, image_ids = "shapes", "test", "f" * 64, (1,)

    def __len__(self) -> int:
        return 1

    def coco(self) -> dict[str, object]:
        return TRUTH


def test_metrics_are_recomputed_from_kept_detections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.metrics import score

    monkeypatch.setattr("benchmarks.datasets.open_dataset", lambda *_: _Images())
    found = [{"image_id": 1, "category_id": 1, "bbox": [12, 10, 50, 50], "score": 0.9}]
    scores = score(TRUTH, found)
    test = {"name": "shapes", "split": "test", "fingerprint": "f" * 64, "images": 1, "objects": 1}
    made = record("accuracy", dataset=test, metrics={key: scores[key] for key in ("stats", "fd", "voc", "per_class")})
    path = made.write(tmp_path)
    assert kept_detections(path, made) is None
    (tmp_path / "detections.json").write_text(json.dumps(found))
    kept = kept_detections(path, made)
    assert kept is not None
    assert rescored(made, kept) == []
    assert contradictions(made) == []
    hashed = made.model_copy(update={"answers": answer_hashes(found, _Images.image_ids)})
    assert rescored(hashed, kept) == []
    assert rescored(made.model_copy(update={"answers": {"1": "a"}}), kept) == [
        "answers: are not the hashes of detections.json"
    ]
    kept.write_text(json.dumps([{**found[0], "bbox": [30, 10, 50, 50]}]))
    assert any(sentence.startswith("metrics.stats.AP75: is ") for sentence in rescored(made, kept))
    other = made.model_copy(update={"dataset": made.dataset.model_copy(update={"fingerprint": "0" * 64})})
    with pytest.raises(ValueError, match="not what the Record was tested on"):
        rescored(other, kept)
    record("accuracy", "yolov3").write(tmp_path)
    assert kept_detections(path, made) is None, "whose detections are they?"


def test_precision_curves_must_give_their_ap() -> None:
    held = {**metrics(0.3), "precision": {"IoU50": [0.5] * 101, "IoU75": [0.28] * 101}}
    made: Record = record("accuracy", metrics=held)
    assert contradictions(made) == []
    held["precision"]["IoU50"] = [0.6] * 101
    (sentence,) = contradictions(record("accuracy", metrics=held))
    assert sentence.startswith("metrics.stats.AP50: is 0.5, and 0.6")
