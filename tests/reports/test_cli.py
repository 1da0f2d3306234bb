from __future__ import annotations

from pathlib import Path

import pytest

import reports.__main__ as cli
from reports.sections import Section
from tests.reports.samples import metrics, record


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results and pages of a project of its own."""
    folder = tmp_path / "results"
    record("accuracy").write(folder / "cpu-2core")
    (tmp_path / "pages").mkdir()
    monkeypatch.setattr(cli, "COMMITTED", folder)
    monkeypatch.setattr(cli, "PAGES", tmp_path / "pages")
    # Pictures, and eighty pages, that hang on nothing here.
    monkeypatch.setattr("reports.render.pictures", lambda shelf: [])
    monkeypatch.setattr(
        "reports.render.detector_pages", lambda shelf: {"detectors/ssd.md": [Section("ssd", "ssd", ("a",))]}
    )
    return folder


def test_rendered_pages_are_current_until_a_record_changes(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    said = [line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()]
    assert said[:2] == ["tables.md", "index.html"]
    assert said[-1] == "detectors: 1 page"
    assert (committed.parent / "pages" / "detectors" / "ssd.md").exists()
    assert cli.main(["--check"]) == 0
    record("accuracy", metrics=metrics(0.5)).write(committed / "cpu-2core")
    assert cli.main(["--check"]) == 1
    complaint = capsys.readouterr().err
    assert "tables.md: line" in complaint
    assert "index.html: line" in complaint
    assert "python -m reports" in complaint


def test_missing_pages_are_stale(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--check"]) == 1
    missing = [line for line in capsys.readouterr().err.splitlines() if line.endswith("is missing")]
    assert {line.rpartition("/")[2].partition(":")[0] for line in missing} >= {"tables.md", "index.html", "ssd.md"}


def test_own_runs_get_pages_of_their_own(committed: Path, tmp_path: Path) -> None:
    cli.main([])
    before = {path.name: path.read_bytes() for path in (tmp_path / "pages").rglob("*.*")}
    record("accuracy", "yolov3", metrics=metrics(0.6)).write(committed / "local")
    assert cli.main([]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "pages").rglob("*.*")} == before
    assert "yolov3 (own machine)" in (committed / "local" / "tables.md").read_text()
    assert cli.main(["--check"]) == 0
    assert cli.main([]) == 0, "pages among the Records must not disturb them"


def test_other_folders_and_another_place(committed: Path, tmp_path: Path) -> None:
    record("accuracy", "yolov3").write(tmp_path / "run1")
    record("accuracy", "yolov3_tiny").write(tmp_path / "run2")
    arguments = ["--results", str(tmp_path / "run1"), str(tmp_path / "run2"), "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 0
    page = (tmp_path / "out" / "tables.md").read_text()
    assert "yolov3 (own machine)" in page
    assert "yolov3_tiny (own machine)" in page
    assert not list((tmp_path / "pages").iterdir())
    assert cli.main(["--out", str(tmp_path / "clean")]) == 0
    assert cli.main(["--check", "--out", str(tmp_path / "clean")]) == 0
    assert cli.main(["--check", "--out", str(tmp_path / "out")]) == 1


@pytest.mark.parametrize("check", [True, False])
def test_a_corrupt_record_is_exit_status_2(check: bool, committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = committed / "cpu-2core" / "latency.yolov3.small.shapes-test.cpu.json"
    path.write_text('{"kind": "latency", "detec')
    assert cli.main(["--check"] if check else []) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"error: {path}: ")
    assert "measure again" in complaint
    assert complaint.count("\n") == 1


def test_a_corrupt_table_is_exit_status_2(
    committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = tmp_path / "papers"
    tables.mkdir()
    (tables / "broken.toml").write_text("id = ")
    read_tables = cli.read_tables
    monkeypatch.setattr(cli, "read_tables", lambda: read_tables(tables))
    assert cli.main([]) == 2
    assert "broken.toml: is no TOML" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_exit_status_2(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--results", "/nowhere/at/all"]) == 2
    assert "/nowhere/at/all: is no folder" in capsys.readouterr().err


def test_check_takes_no_folders(committed: Path) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(["--check", "--results", "/tmp"])
    assert error.value.code == 2


@pytest.mark.parametrize(("form", "ending"), [("csv", "csv"), ("latex", "tex"), ("json", "json")])
def test_tables_are_exported(form: str, ending: str, committed: Path, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    assert cli.main(["--export", form, "--out", str(out)]) == 0
    assert (out / f"small-shapes-test.{ending}").exists()
    assert not list((tmp_path / "pages").iterdir())


def test_an_export_needs_a_folder(committed: Path) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(["--export", "csv"])
    assert error.value.code == 2
