"""Faulty machines and faulty data: each is named, nothing is measured on less than was asked without saying so."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.compare import run_compare
from benchmarks.datasets import DatasetError
from benchmarks.datasets.coco import open_coco
from benchmarks.datasets.intact import without_corrupt
from benchmarks.descent import Draws, fit_by_gradient
from benchmarks.evaluate import Subject, evaluate
from benchmarks.evaluate.partial import PARTIAL
from benchmarks.protocol import ProtocolError
from benchmarks.provenance import dataset_id
from benchmarks.results import DatasetId, Record
from benchmarks.stopping import alone_in
from benchmarks.training_state import TrainingError
from reports.protocols import by_protocol
from reports.records import Entry
from tests.benchmarks import toy_training as toy
from tests.faults.driver import write_data
from tests.faults.jobs import Toy


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_data(tmp_path / "data", images=7)
    return tmp_path / "data"


def cut(data: Path, index: int = 3) -> Path:
    """A download that broke off in the middle of the set."""
    path = data / "images" / "tiny" / f"{index:03d}.png"
    path.write_bytes(path.read_bytes()[:-900])
    return path


def toy_subject(folder: Path, kind: type[Toy] = Toy) -> Subject:
    weights = folder / "toy.bin"
    weights.write_bytes(b"weights")
    torch.manual_seed(0)
    return Subject("toy", kind(2).eval(), "small", {}, ("a", "b"), weights)


def test_a_corrupt_image_is_named(data: Path, tmp_path: Path) -> None:
    path = cut(data)
    with pytest.raises(DatasetError, match=r"003\.png: the image cannot be decoded") as error:
        evaluate(toy_subject(tmp_path), open_coco("tiny", data), out=tmp_path / "out", quiet=True)
    assert str(path) in str(error.value)
    assert not list((tmp_path / "out").glob("accuracy*"))


def test_skipped_only_when_asked_and_then_no_longer_comparable(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = toy_subject(tmp_path)
    whole = evaluate(subject, open_coco("tiny", data), out=tmp_path / "whole", quiet=True)
    path = cut(data)
    part = without_corrupt(open_coco("tiny", data), quiet=True)
    assert f"skipped: {path}: " in capsys.readouterr().err
    assert (len(part), part.skipped, part.split) == (6, (103,), "tiny-without-1")
    record = evaluate(subject, part, out=tmp_path / "part", quiet=True)
    assert record.dataset is not None
    assert record.dataset.skipped == (103,)
    assert record.name != whole.name, "it would replace the Record of the whole test"
    files = [tmp_path / folder / f"{one.name}.json" for folder, one in (("whole", whole), ("part", record))]
    with pytest.raises(ProtocolError, match="images is"):
        run_compare(*files, None)
    with pytest.raises(ProtocolError, match="were run on different tests"):
        run_compare(*(tmp_path / name / "detections.json" for name in ("whole", "part")), data / "any.json")
    entries = [Entry(one, file, file.name) for one, file in zip((whole, record), files, strict=True)]
    assert entries[0].test != entries[1].test, "they would stand in one table"
    assert len(by_protocol(entries)) == 2, "they would be ranked with each other"


def test_an_intact_set_stays_what_it_is(data: Path) -> None:
    whole = open_coco("tiny", data)
    assert without_corrupt(whole, quiet=True) is whole
    assert dataset_id(whole).skipped == ()


def test_nothing_left_is_said(data: Path) -> None:
    for index in range(7):
        cut(data, index)
    with pytest.raises(DatasetError, match="none of its 7 images can be used"):
        without_corrupt(open_coco("tiny", data), quiet=True)


def test_records_of_before_say_nothing_of_skipped_images() -> None:
    old = {"name": "coco", "split": "val2017", "fingerprint": "ab", "images": 1, "objects": 1}
    assert DatasetId.model_validate(old).skipped == ()


def test_changed_data_under_the_same_name_are_refused(data: Path, tmp_path: Path) -> None:
    """One pixel, and one box."""
    subject = toy_subject(tmp_path)
    first = evaluate(subject, open_coco("tiny", data), out=tmp_path / "first", quiet=True)
    file = data / "annotations" / "instances_tiny.json"
    truth = json.loads(file.read_text())
    truth["annotations"][0]["bbox"][2] += 1
    file.write_text(json.dumps(truth))
    second = evaluate(subject, open_coco("tiny", data), out=tmp_path / "second", quiet=True)
    assert first.name == second.name
    with pytest.raises(ProtocolError, match="images is"):
        run_compare(*(tmp_path / name / f"{first.name}.json" for name in ("first", "second")), None)
    entries = [Entry(one, tmp_path, "x") for one in (first, second)]
    assert len(by_protocol(entries)) == 2, "they would be ranked with each other"
    image = data / "images" / "tiny" / "000.png"
    pixels = Image.open(image)
    pixels.putpixel((0, 0), (1, 2, 3))
    pixels.save(image)
    known = [one.dataset.fingerprint for one in (first, second) if one.dataset is not None]
    assert open_coco("tiny", data).fingerprint not in known


def test_an_evaluation_goes_on_and_ends_with_the_same_files(data: Path, tmp_path: Path) -> None:
    """Stopped by a corrupt image that is mended then: images before it are not looked at again."""
    subject, looked = toy_subject(tmp_path), []

    class Counting(Toy):
        def preprocess(self, images: list[torch.Tensor]) -> Any:
            looked.append(len(images))
            return super().preprocess(images)

    whole = evaluate(subject, open_coco("tiny", data), out=tmp_path / "whole", quiet=True)
    path = data / "images" / "tiny" / "005.png"
    good = path.read_bytes()
    dataset = open_coco("tiny", data)
    assert dataset.fingerprint, "taken while the image is whole, as a disk may fail later"
    path.write_bytes(good[:-900])
    counting = toy_subject(tmp_path, Counting)
    with pytest.raises(DatasetError):
        evaluate(counting, dataset, out=tmp_path / "out", quiet=True)
    assert len(looked) == 5
    assert (tmp_path / "out" / PARTIAL).exists()
    path.write_bytes(good)
    again = evaluate(counting, open_coco("tiny", data), out=tmp_path / "out", quiet=True)
    assert len(looked) == 7, "what was found before the fault was not used"
    assert again == whole
    for name in ("detections.json", "metrics.json", f"{whole.name}.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "out" / PARTIAL).exists()


def test_two_evaluations_into_one_folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.stopping._PATIENCE", 0.1)
    with alone_in(tmp_path / "out"), pytest.raises(RuntimeError, match="another process is at work here"):
        evaluate(toy_subject(tmp_path), open_coco("tiny", data), out=tmp_path / "out", quiet=True)


def test_a_loss_that_is_no_number_names_its_images(tmp_path: Path) -> None:
    """At the third step; the file lists what `Draws` drew for it, by the ids of the set."""

    class Images(toy.ToyImages):
        image_ids = tuple(range(500, 520))

    class Exploding(toy.ToyDetector):
        steps = 0

        def losses(self, outputs: Any, batch: Any, targets: Any) -> dict[str, torch.Tensor]:
            self.steps += 1
            parts = super().losses(outputs, batch, targets)
            return {**parts, "size": parts["size"] / (0 if self.steps == 3 else 1)}

    recipe = toy.recipe(9)
    with pytest.raises(TrainingError, match=r"step 2: .*not finite.*on images 5\d\d, .*lists; look") as error:
        fit_by_gradient(
            Exploding(), Images(), recipe, seed=4, out=tmp_path, identity={}, device=torch.device("cpu"), quiet=True
        )  # type: ignore[arg-type]
    (file,) = tmp_path.glob("not-finite.*.json")
    assert str(file) in str(error.value)
    found = json.loads(file.read_text())
    draws = Draws(Images(), recipe, 4)  # type: ignore[arg-type]
    assert found["image_ids"] == [500 + draws.index(position) for position in range(8, 12)]
    assert (found["step"], found["losses"]["size"]) == (2, "inf")


def test_losses_logged_before_the_first_state_are_not_logged_twice(tmp_path: Path) -> None:
    """Killed behind step 50 and before the first state, a training begins anew, and so does its log."""
    (tmp_path / "losses.jsonl").write_text('{"step": 50, "box": 9.0}\n{"step": 100, "bo')
    toy.run(tmp_path, 50, checkpoint_every=1000)
    (line,) = (tmp_path / "losses.jsonl").read_text().splitlines()
    assert json.loads(line)["box"] < 9


def test_a_state_is_saved_after_minutes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.training_state import TrainingState

    saved = []
    plain = TrainingState.save
    monkeypatch.setattr(TrainingState, "save", lambda self, state: saved.append(state["step"]) or plain(self, state))
    monkeypatch.setattr(TrainingState, "age", property(lambda self: 11.0 if len(saved) < 2 else 0.0))
    toy.run(tmp_path, 20, checkpoint_every=1000)
    assert saved == [1, 2, 20]


def test_a_full_disk_leaves_no_half_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        toy.run(tmp_path, 20)
    assert not list(tmp_path.glob("state*"))


def test_the_command_to_go_on_with_can_be_pasted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.datasets.open_dataset", stop)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "evaluate", "yolov1", "--note", "two words; and more"])
    done = CliRunner().invoke(app, ["evaluate", "yolov1", "--out", str(tmp_path)])
    assert done.exit_code == 130
    assert done.stderr == ("stopped; to go on: python -m benchmarks evaluate yolov1 --note 'two words; and more'\n")


def test_a_record_keeps_what_was_skipped(data: Path, tmp_path: Path) -> None:
    cut(data)
    record = evaluate(toy_subject(tmp_path), without_corrupt(open_coco("tiny", data), quiet=True), quiet=True)
    assert Record.read(record.write(tmp_path)).dataset == record.dataset
