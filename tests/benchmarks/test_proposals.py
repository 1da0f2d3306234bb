from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import train as training
from benchmarks.datasets import Dataset
from benchmarks.evaluate import evaluate, load_subject
from benchmarks.proposals import Memory, _collect, proposer_of, remembering, with_proposals
from zoo import build as zoo_build


@dataclass(frozen=True)
class Stub:
    """Proposes what the image's first pixels say, and writes down that it was asked."""

    diary: str
    shift: float = 0.0

    def __call__(self, image: Tensor) -> Tensor:
        diary = Path(self.diary)
        diary.mkdir(exist_ok=True)
        (diary / str(len(list(diary.iterdir())))).touch()
        start = (255 * image[0, 0, :4]).round() + self.shift
        return torch.stack([start, start + torch.tensor([0.0, 0, 10, 10])])


def box_in(image: Tensor) -> Tensor:
    return torch.tensor([[0.0, 0.0, image.shape[2], image.shape[1]]])


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    rng = np.random.default_rng(0)
    images, paths = [], []
    for index in range(6):
        path = tmp_path / f"{index}.png"
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(path)
        images.append({"id": index + 1, "height": 20, "width": 30})
        paths.append(path)
    truth = {
        "images": images,
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    return Dataset("fake", "test", truth, paths)


def asked(stub: Stub) -> int:
    folder = Path(stub.diary)
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_a_view_carries_what_the_proposer_says_and_asks_once(dataset, tmp_path):
    stub = Stub(str(tmp_path / "diary"))
    view = with_proposals(dataset, stub, folder=tmp_path / "memory", workers=1, quiet=True)
    assert asked(stub) == 6
    assert len(view) == 6
    assert view.fingerprint == dataset.fingerprint
    assert view.class_names == ("thing",)
    plain = Stub(str(tmp_path / "other"))
    for index in range(6):
        image, target = view[index]
        assert torch.equal(image, dataset[index][0])
        assert torch.equal(target.proposals, plain(image))
        assert torch.equal(target.boxes, dataset[index][1].boxes)
        assert torch.equal(view.target(index).proposals, target.proposals)
    assert torch.equal(view[-1][1].proposals, view[5][1].proposals)
    again = with_proposals(dataset, stub, folder=tmp_path / "memory", workers=1, quiet=True)
    assert torch.equal(again[3][1].proposals, view[3][1].proposals)
    assert asked(stub) == 6


def test_only_whole_pixels_are_kept_as_whole_numbers(dataset, tmp_path):
    image = dataset[0][0]
    for shift, stored in ((0.0, np.int16), (0.25, np.float32), (40_000.0, np.float32)):
        memory = Memory(Stub(str(tmp_path / "diary"), shift), tmp_path / f"memory{shift}")
        said = memory(image)
        (file,) = memory.folder.rglob("*.npy")
        assert np.load(file).dtype == stored
        assert torch.equal(memory(image), said)
        assert said.dtype == memory.read(memory.key(image)).dtype == torch.float32


def test_nothing_proposed_is_remembered_too(tmp_path):
    memory = Memory(none_in, tmp_path)
    image = torch.zeros(3, 4, 4)
    assert memory(image).shape == (0, 4)
    assert memory.read(memory.key(image)).shape == (0, 4)


def none_in(image: Tensor) -> Tensor:
    return torch.zeros(0, 4)


def test_the_name_of_an_entry_follows_pixels_shape_and_settings(tmp_path):
    stub = Stub("a")
    image = torch.rand(3, 4, 6)
    keys = {
        Memory(stub, tmp_path).key(image),
        Memory(replace(stub, shift=1.0), tmp_path).key(image),
        Memory(stub, tmp_path).key(image.reshape(3, 6, 4)),
        Memory(stub, tmp_path).key(image + 1e-3),
        Memory(box_in, tmp_path).key(image),
    }
    assert len(keys) == 5
    turned = image.transpose(1, 2).contiguous().transpose(1, 2)
    assert Memory(stub, tmp_path).key(turned) == Memory(stub, tmp_path).key(image), "the layout in memory is no content"


def test_other_code_of_the_same_settings_is_another_proposer(tmp_path, monkeypatch):
    file = tmp_path / "someones_proposer.py"
    text = "class Fixed:\n    def __repr__(self):\n        return 'Fixed()'\n\n    def __call__(self, image):\n        "
    monkeypatch.syspath_prepend(str(tmp_path))
    file.write_text(text + "pass\n")
    import someones_proposer

    proposer, image = someones_proposer.Fixed(), torch.rand(3, 4, 4)
    before = Memory(proposer, tmp_path).key(image)
    assert Memory(proposer, tmp_path).key(image) == before
    file.write_text(text + "return image[0]\n")
    assert Memory(proposer, tmp_path).key(image) != before


def test_a_proposer_that_does_not_tell_its_settings_is_refused(tmp_path):
    with pytest.raises(ValueError, match="dataclass of settings"):
        Memory(lambda image: image[0], tmp_path)
    with pytest.raises(ValueError, match="dataclass of settings"):
        Memory(type("Dumb", (), {"__call__": box_in})(), tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "empty", "text", "shape", "nan", "pickle"])
def test_a_damaged_entry_is_computed_anew(dataset, tmp_path, damage):
    stub = Stub(str(tmp_path / "diary"))
    view = with_proposals(dataset, stub, folder=tmp_path / "memory", workers=1, quiet=True)
    memory = Memory(stub, tmp_path / "memory")
    file = memory._path(memory.key(dataset[2][0]))
    sound = file.read_bytes()
    if damage == "truncate":
        file.write_bytes(sound[:-3])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "text":
        file.write_text("no array")
    elif damage == "shape":
        np.save(file, np.zeros(8, np.int16))
    elif damage == "nan":
        np.save(file, np.full((2, 4), np.nan, np.float32))
    else:
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    before = asked(stub)
    assert torch.equal(view[2][1].proposals, stub(dataset[2][0]))
    assert asked(stub) == before + 2, "once by the view, once here"
    assert file.read_bytes() == sound
    file.write_bytes(sound[:40])
    with_proposals(dataset, stub, folder=tmp_path / "memory", workers=1, quiet=True)
    assert file.read_bytes() == sound


def test_processes_say_the_same_and_what_was_computed_is_kept(dataset, tmp_path):
    stub = Stub(str(tmp_path / "diary"))
    with_proposals(dataset, stub, folder=tmp_path / "memory", workers=1, limit=2, quiet=True)
    assert asked(stub) == 2
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "memory").rglob("*.npy")}
    view = with_proposals(dataset, stub, folder=tmp_path / "memory", workers=2, quiet=True)
    plain = Stub(str(tmp_path / "other"))
    for image, target in view:
        assert torch.equal(target.proposals, plain(image))
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "memory").rglob("*.npy")}
    assert len(files) == 6
    assert all(files[file] == time for file, time in times.items())
    assert not [path for path in (tmp_path / "memory").rglob("*") if path.is_file() and path.suffix != ".npy"]


def test_beyond_the_limit_proposals_come_at_first_use(dataset, tmp_path):
    stub = Stub(str(tmp_path / "diary"))
    view = with_proposals(dataset, stub, folder=tmp_path / "memory", workers=1, limit=2, quiet=True)
    assert torch.equal(view.target(4).proposals, Stub(str(tmp_path / "other"))(dataset[4][0]))
    assert asked(stub) == 3


def fails(image: Tensor) -> Tensor:
    raise ValueError("this image has no regions")


def test_an_error_of_the_proposer_is_told(dataset, tmp_path):
    with pytest.raises(ValueError, match="no regions") as raised:
        with_proposals(dataset, fails, folder=tmp_path / "memory", workers=1, quiet=True)
    assert raised.value.__notes__[0].startswith("while proposing for image ")
    assert not list((tmp_path / "memory").rglob("*.npy"))
    future = Future()
    future.set_exception(ValueError("no regions"))
    with pytest.raises(ValueError, match="no regions") as raised:
        _collect({future: 4}, print, everything=False)
    assert raised.value.__notes__ == ["while proposing for image 4"]


def test_a_detector_takes_remembered_proposals_for_a_while(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTOR_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("benchmarks.proposals._cores", lambda: 1)
    stub = Stub(str(tmp_path / "diary"))
    model = SimpleNamespace(proposer=stub)
    with remembering(model, dataset, limit=3, quiet=True) as view:
        assert asked(stub) == 3
        assert torch.equal(model.proposer(dataset[1][0]), view[1][1].proposals)
        assert asked(stub) == 3
        model.proposer(dataset[5][0].flip(-1))
        assert asked(stub) == 4
    assert model.proposer is stub
    with pytest.raises(KeyError), remembering(model, dataset, limit=1, quiet=True):
        raise KeyError
    assert model.proposer is stub
    alone = SimpleNamespace(proposer=None)
    with remembering(alone, dataset, quiet=True) as same:
        assert same is dataset
    assert proposer_of(alone) is None
    assert proposer_of(SimpleNamespace()) is None


def test_training_and_evaluation_take_remembered_proposals(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTOR_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("benchmarks.proposals._cores", lambda: 1)
    stub = Stub(str(tmp_path / "diary"))
    seen = []

    def build_with_stub(*arguments, **settings):
        model = zoo_build(*arguments, **settings)
        model.proposer = stub
        return model

    def look(model, data, *_, **__):
        seen.append(data[3][1].proposals)
        return {"steps": 0}

    monkeypatch.setattr(training, "open_dataset", lambda *_, **__: dataset)
    monkeypatch.setattr(training, "build", build_with_stub)
    monkeypatch.setattr(training, "fit_by_gradient", look)
    path = training.train("fast_rcnn_vgg16", "shapes", out=tmp_path / "run", quiet=True)
    assert asked(stub) == 6
    assert torch.equal(seen[0], Stub(str(tmp_path / "other"))(dataset[3][0]))

    subject = load_subject("fast_rcnn_vgg16", path, 1)
    subject.model.proposer = stub
    record = evaluate(subject, dataset, quiet=True)
    assert asked(stub) == 6, "each image was searched once, for training"
    assert subject.model.proposer is stub
    assert record.metrics["proposals"]["per_image"] == 2
    assert record.protocol["proposals"]["budgets"] == [100, 300, 1000, 2000]
