"""Networks of a Darknet cfg, from the command line's point of view: loaded by name or path, scored, recorded, drawn."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torchvision.io import write_png
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.datasets import open_dataset
from benchmarks.evaluate import EvaluationError, evaluate, load_subject
from benchmarks.results import Record
from tests.darknet_cfgs import Cfg
from zoo import checkpoints
from zoo.formats.darknet import write_weights
from zoo.one_stage.darknet_cfg import DarknetDetector, darknet_detector

ROW = """
[[checkpoint]]
name = "tiny-shapes.weights"
detector = "tiny-of-somebody"
dataset = "shapes"
num_classes = 8
overrides = {{ placement = "warp", score_floor = 0.2 }}
format = "darknet"
urls = []
sha256 = "{weights}"
bytes = {size}
licence = "none"
published = "shapes AP50 99.9"
year = 2019
paper = "somebody"
family = "one-stage"

[checkpoint.config]
name = "tiny-shapes.cfg"
urls = []
sha256 = "{cfg}"
bytes = {length}
"""


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network of eight classes that weights.toml knows."""
    cfg = Cfg(64)
    cfg.convs((4, 3), "mp", (8, 3), "mp")
    cfg.yolo("0,1", "20,20, 60,60", 8)
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "tiny-shapes.cfg").write_text(cfg.text())
    torch.manual_seed(0)
    write_weights(folder / "tiny-shapes.weights", darknet_detector(cfg.text()).darknet_layers())
    content = {suffix: (folder / f"tiny-shapes.{suffix}").read_bytes() for suffix in ("cfg", "weights")}
    sums = {suffix: hashlib.sha256(data).hexdigest() for suffix, data in content.items()}
    toml = tmp_path / "weights.toml"
    toml.write_text(ROW.format(**sums, size=len(content["weights"]), length=len(content["cfg"])))
    known = checkpoints.list_weights(toml)
    monkeypatch.setattr(checkpoints, "list_weights", lambda: known)
    monkeypatch.setenv("DETECTOR_ZOO_WEIGHTS", str(folder))
    monkeypatch.setenv("DETECTOR_ZOO_CACHE", str(tmp_path / "cache"))
    return folder


class Few:
    """The first images of `shapes`."""

    def __init__(self) -> None:
        self.whole = open_dataset("shapes")

    def __getattr__(self, name: str) -> object:
        return getattr(self.whole, name)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> object:
        return self.whole[index]


def test_a_record_names_the_network_and_where_it_comes_from(published: Path, tmp_path: Path) -> None:
    subject = load_subject("tiny-of-somebody", checkpoints.find("tiny-of-somebody", "shapes"), 99)
    model = subject.model
    assert isinstance(model, DarknetDetector)
    assert (model.num_classes, model.placement, model.score_floor) == (8, "warp", 0.2)
    record = evaluate(subject, Few(), out=tmp_path / "out", note="on two images", quiet=True)  # type: ignore[arg-type]
    assert record.name == "accuracy.tiny-of-somebody.paper.shapes-test.tiny-shapes"
    assert Record.read(tmp_path / "out" / f"{record.name}.json") == record
    assert record.metrics["year"] == 2019
    assert (record.metrics["paper"], record.metrics["family"]) == ("somebody", "one-stage")
    assert record.overrides == {"placement": "warp", "score_floor": 0.2}
    assert record.note == "its authors state shapes AP50 99.9; on two images"
    assert record.weights is not None
    assert record.weights.file == "tiny-shapes.weights"


def test_names_and_weights_must_fit(published: Path) -> None:
    weights = published / "tiny-shapes.weights"
    with pytest.raises(EvaluationError, match="holds tiny-of-somebody, not yolov3_tiny"):
        load_subject("yolov3_tiny", weights, 80)
    other = weights.rename(published / "mine.weights")
    with pytest.raises(EvaluationError, match=r"nothing is not in the catalog, and mine.weights .*tiny-of-somebody"):
        load_subject("nothing", other, 80)


def test_a_cfg_of_ones_own_runs_by_its_path(published: Path, tmp_path: Path) -> None:
    image, _ = open_dataset("shapes")[0]
    write_png((image * 255).to(torch.uint8), str(tmp_path / "picture.png"))
    names = tmp_path / "own.names"
    names.write_text("".join(f"thing {number}\n" for number in range(8)))
    cfg, weights = str(published / "tiny-shapes.cfg"), str(published / "tiny-shapes.weights")
    command = ["predict", cfg, str(tmp_path / "picture.png"), "--out", str(tmp_path / "drawn"), "--threshold", "0.01"]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 2
    assert "give its file by --weights" in run.output
    run = CliRunner().invoke(app, [*command, "--weights", weights, "--names", str(names), "--set", "score_floor=0.01"])
    assert run.exit_code == 0, run.output
    assert (tmp_path / "drawn" / "picture.png").exists()
    names.write_text("one\n")
    run = CliRunner().invoke(app, [*command, "--weights", weights, "--names", str(names)])
    assert run.exit_code == 2
    assert "1 lines for 8 classes" in run.output
    subject = load_subject(cfg, Path(weights), 3)
    assert (subject.name, subject.origin, subject.note) == ("tiny-shapes", {"family": "one-stage"}, "")
