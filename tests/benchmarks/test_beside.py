"""Several detectors timed image by image: the order, the stages, the ratios, and what is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.beside import Contender, compare_latency, contender, print_beside
from benchmarks.datasets import Dataset, open_dataset
from benchmarks.jsons import as_json
from benchmarks.metrics.intervals import ratio_of_medians
from benchmarks.proposals import Memory
from benchmarks.results import Record
from ops.images import Batch, stack, warp
from ops.structures import Detections, Target
from reports.appendix import appendix
from reports.records import Entry, ReportError, Shelf
from reports.sections import Grid
from zoo.detector import Detector, stage


class Sleeper(Detector):
    """Sleeps, and writes down which image it was given."""

    def __init__(self, name: str, seconds: float, diary: list[tuple[str, int]], *, proposes: bool = False) -> None:
        super().__init__(1)
        self.name, self.seconds, self.diary, self.proposes = name, seconds, diary, proposes

    def preprocess(self, images: list[Tensor]) -> Batch:
        self.diary.append((self.name, round(255 * float(images[0][0, 0, 0]))))
        return stack([warp(image, (8, 8)) for image in images])

    def network(self, batch: Batch, targets: list[Target] | None = None) -> Tensor:
        if self.proposes:
            with stage("proposals"):
                time.sleep(self.seconds)
        time.sleep(self.seconds)
        return batch.pixels

    def postprocess(self, outputs: Tensor, batch: Batch) -> list[Detections]:
        return [Detections(torch.zeros((0, 4)), torch.zeros(0), torch.zeros(0, dtype=torch.int64))]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    from PIL import Image

    images, paths = [], []
    for index in range(4):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (12, 10), (index, 0, 0)).save(path)
        images.append({"id": index + 1, "height": 10, "width": 12})
        paths.append(path)
    truth = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    return Dataset("fake", "test", truth, paths)


def three(diary: list[tuple[str, int]]) -> list[Contender]:
    return [
        Contender("slow", Sleeper("slow", 0.02, diary, proposes=True), "small"),
        Contender("middle", Sleeper("middle", 0.02, diary), "small"),
        Contender("fast", Sleeper("fast", 0.002, diary), "paper", {"size": 1}),
    ]


@pytest.fixture
def record(dataset: Dataset) -> Record:
    return compare_latency(three([]), dataset, images=3, threads=1, note="of a test")


def test_every_image_goes_through_all_before_the_next_and_another_is_first(dataset: Dataset, capsys) -> None:
    diary: list[tuple[str, int]] = []
    compare_latency(three(diary), dataset, images=3, rounds=2, threads=1)
    turns = diary[6:]
    assert [image for _, image in turns] == [image for image in (0, 1, 2, 0, 1, 2) for _ in range(3)]
    starts = [turns[at][0] for at in range(0, 18, 3)]
    assert starts == ["slow", "middle", "fast", "middle", "fast", "slow"]
    assert all({name for name, _ in turns[at : at + 3]} == {"slow", "middle", "fast"} for at in range(0, 18, 3))
    assert "timing" in capsys.readouterr().err


def test_the_record_tells_stages_and_ratios(record: Record, tmp_path: Path, capsys) -> None:
    found = record.metrics["detectors"]
    assert list(found) == ["slow", "middle", "fast"]
    assert "proposals" in found["slow"]["stages"]
    assert "proposals" not in found["fast"]["stages"]
    assert found["fast"]["ratio"] == {"median": 1, "low": 1, "high": 1}
    assert found["slow"]["ratio"]["median"] > found["middle"]["ratio"]["median"] > 1
    assert found["fast"]["pairs"]["ratio"] == 1
    assert found["slow"]["pairs"]["verdict"] == "cannot tell", "three pairs bound no median"
    assert found["slow"]["pairs"]["ratio"] > 1
    slow = found["slow"]["stages"]
    assert slow["proposals"]["median"] >= 0.02
    assert slow["network"]["median"] < slow["end_to_end"]["median"] - 0.015
    assert len(record.samples["slow proposals"]) == len(record.samples["fast end_to_end"]) == 3
    assert record.name == "comparison.fast.paper.fake-test.cpu.1-thread.slow.middle"
    assert (record.detector, record.overrides, record.note) == ("fast", {"size": 1}, "of a test")
    assert Record.read(record.write(tmp_path)) == record
    print_beside(record)
    assert "middle" in capsys.readouterr().out


def test_the_pages_show_it(record: Record) -> None:
    entry = Entry(record, Path("m/a.json"), "m/a.json")
    (part,) = (section for section in appendix(Shelf([entry])) if section.anchor == "beside")
    (grid,) = part.blocks
    assert isinstance(grid, Grid)
    assert [row[0] for row in grid.rows] == ["slow", "middle", "fast"]
    assert [row[2] for row in grid.rows] == ["random", "random", "random, size 1"]
    assert grid.rows[1][7] == "none", "it proposes nothing"
    assert float(grid.rows[0][7]) >= 20
    assert grid.rows[2][-3:] == ("fast", "1.00", "1.00 to 1.00")
    broken = record.model_copy(update={"metrics": {}})
    with pytest.raises(ReportError, match="compare-latency"):
        appendix(Shelf([Entry(broken, Path("m/a.json"), "m/a.json")]))


def test_what_cannot_be_compared_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    slow, middle, _ = three([])
    with pytest.raises(ValueError, match="different names, got slow"):
        compare_latency([slow], dataset)
    with pytest.raises(ValueError, match="different names, got slow, slow"):
        compare_latency([slow, slow], dataset)
    with pytest.raises(ValueError, match="at least one image"):
        compare_latency([slow, middle], dataset, images=0)
    middle.model.proposer = Memory(everything, tmp_path)
    with pytest.raises(ValueError, match="middle: proposals out of a memory"):
        compare_latency([slow, middle], dataset)


def everything(image: Tensor) -> Tensor:
    return torch.tensor([[0.0, 0.0, image.shape[2], image.shape[1]]])


def test_a_ratio_is_of_medians_and_its_interval_of_pairs() -> None:
    base = np.random.default_rng(0).uniform(1, 10, 50)
    found = ratio_of_medians(list(2 * base), list(base))
    assert found == pytest.approx({"median": 2, "low": 2, "high": 2})
    found = ratio_of_medians(list(base), [2.0] * 50)
    assert found["median"] == np.median(base) / 2
    assert found["low"] < found["median"] < found["high"]


def test_contenders_by_name_by_file_and_at_random() -> None:
    data = open_dataset("shapes")
    made = contender("yolov2", data, random=True, small=True)
    again = contender("yolov2", data, random=True, small=True)
    assert (made.scale, made.weights, made.model.num_classes) == ("small", None, 8)
    assert all(torch.equal(a, b) for a, b in zip(made.model.parameters(), again.model.parameters(), strict=True))
    with pytest.raises(ValueError, match="without a file"):
        contender("yolov2=a.safetensors", data, random=True)
    narrow = contender("centernet511_hg52", data, random=True, small=True, settings={"size": 96})
    assert (narrow.overrides["size"], narrow.overrides["modulus"]) == (96, 32)
    assert narrow.model.preprocess([torch.zeros(3, 160, 160)]).size == (96, 96)
    with pytest.raises(ValueError, match="--set goes with --random only"):
        contender("yolov2", data, settings={"size": 96})
    shipped = contender("yolov2", data)
    assert shipped.weights is not None
    file = Path("zoo/weights") / shipped.weights.file
    named = contender(f"yolov2={Path(__file__).parents[2] / file}", data)
    assert named.weights == shipped.weights


def test_the_command(tmp_path: Path) -> None:
    arguments = ["compare-latency", "yolov2", "yolov1", "--images", "2", "--threads", "1", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("comparison.yolov1.small.shapes-test.cpu.1-thread.yolov2.json")
    found = json.loads(path.read_text())["metrics"]["detectors"]
    assert set(found) == {"yolov1", "yolov2"}
    assert found["yolov2"]["overrides"] == as_json(contender("yolov2", open_dataset("shapes")).overrides)
    result = CliRunner().invoke(app, ["compare-latency", "yolov2", "--out", str(tmp_path)])
    assert result.exit_code == 2
