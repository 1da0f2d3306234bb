from __future__ import annotations

import ast
import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import commands
from benchmarks.__main__ import app
from benchmarks.commands.common import settings_of


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_list_gives_the_catalog_by_year():
    code, out, _ = run("list", "--json", "-")
    assert code == 0
    rows = json.loads(out)
    assert {"faster_rcnn_r50_fpn", "ssd300_vgg16", "yolov3"} <= {row["name"] for row in rows}
    years = [row["year"] for row in rows]
    assert years == sorted(years)


def test_cost():
    code, out, _ = run("cost", "ssd300_vgg16", "--classes", 20, "--json", "-")
    assert code == 0
    found = json.loads(out)
    assert (found["parameters"], found["boxes"], found["input"]) == (26_285_486, 8732, [300, 300])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cost", "sdd300_vgg16"], "ssd300_vgg16"),
        (["cost", "ssd300_vgg16", "--size", "300"], "height x width"),
        (["train", "ssd300_vgg16", "--size", "tiny"], "choose small or paper"),
        (["train", "ssd300_vgg16", "--set", "size"], "name=value"),
        (["train", "ron320_vgg16", "--set", "objectness=off"], "objectness=off: write True, False or None"),
        (["train", "ron320_vgg16", "--set", "objectness=FALSE"], "objectness=FALSE: write True, False or None"),
        (["evaluate", "ssd300_vgg16", "--dataset", "voc", "--data-root", "nowhere", "--out", "x"], "nowhere"),
        (["score", "--gt", "absent.json", "--detections", "absent.json"], "absent.json"),
        (["weights", "yolov9"], "yolov9"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == 2
    assert words in err
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    assert not out
    assert list(tmp_path.iterdir()) == [], "nothing half-written is left"


def test_a_setting_written_as_in_python_is_no_text():
    """`bool("False")` is true: a training without its switch would look like one with it."""
    given = ["a=False", "b=true", "c=None", "d=0.5", "e=random", "f=[1, 2]", "i=(1, [True])", 'g="off"', "h="]
    assert settings_of(given) == {
        "a": False, "b": True, "c": None, "d": 0.5, "e": "random", "f": (1, 2), "i": (1, [True]), "g": "off", "h": "",
    }  # fmt: skip


def test_score_reads_files_and_writes_json(tmp_path):
    truth = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 5, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 5, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0}
        ],
    }
    found = [{"image_id": 1, "category_id": 5, "bbox": [10, 10, 40, 40], "score": 0.5}]
    for name, value in (("gt", truth), ("det", found)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    out = tmp_path / "scores.json"
    code, text, _ = run("score", "--gt", tmp_path / "gt.json", "--detections", tmp_path / "det.json", "--json", out)
    assert code == 0
    assert "100.0" in text
    scores = json.loads(out.read_text())
    assert scores["stats"]["AP"] == pytest.approx(1)
    assert scores["stats"]["AP_S"] is None
    assert scores["fd"]["FD"] == pytest.approx(0)


def test_what_several_commands_take_is_declared_once():
    """In `common`; equal types and words in two places would drift apart."""
    found = Counter[str]()
    for path in Path(commands.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Annotated":
                found[ast.unparse(node.slice)] += 1
    assert len(found) > 50
    assert [declared for declared, times in found.items() if times > 1] == []
