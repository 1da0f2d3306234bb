import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.caffe_files import layer, write_caffemodel
from zoo import CATALOG, build, checkpoints
from zoo.checkpoints import CheckpointError
from zoo.download import DownloadError, SourcePackage, fetch_file
from zoo.formats.darknet import write_weights

TINY = {**(CATALOG["yolov3_tiny"].small or {}), "widths": (4, 4, 4, 4, 4, 4, 4), "heads": (4, 4)}
NAMES = ["disc", "square", "ring"]


def tiny(seed: int = 0, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    model = build("yolov3_tiny", classes, **TINY)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape))
    return model.eval()


def write(path: Path, model: nn.Module | None = None, **changes) -> Path:
    settings = {"num_classes": 3, "overrides": TINY, "class_names": NAMES, "small": True, **changes}
    checkpoints.save(path, model or tiny(), detector="yolov3_tiny", **settings)
    return path


def test_a_detector_comes_back_with_its_weights_and_its_shape(tmp_path: Path) -> None:
    model = tiny()
    path = write(tmp_path / "deep" / "a.safetensors", model, extra={"note": "of the test"})
    again, meta = checkpoints.load(path)
    assert meta.detector == "yolov3_tiny"
    assert meta.num_classes == 3
    assert meta.class_names == ("disc", "square", "ring")
    assert meta.small
    assert meta.extra == {"note": "of the test"}
    assert not again.training
    for name, value in again.state_dict().items():
        wanted = model.state_dict()[name]
        if value.is_floating_point():
            assert value.dtype == torch.float32
            wanted = wanted.half().float()
        assert torch.equal(value, wanted), name
    image = torch.rand(3, 100, 120)
    with torch.no_grad():
        assert isinstance(again([image])[0].boxes, torch.Tensor)
    assert path.stat().st_size < 2.2 * sum(v.numel() for v in model.state_dict().values()) + 20_000
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"], "nothing is left beside the file"


def test_the_file_holds_every_argument_of_its_size_so_that_it_outlives_a_change_of_the_catalog(tmp_path: Path) -> None:
    _, meta = checkpoints.load(write(tmp_path / "a.safetensors"))
    assert meta.overrides == TINY, "nothing of today's small size is added"
    assert meta.overrides["anchors"][0] == (14, 14), "tuples within tuples come back as tuples"
    assert isinstance(meta.overrides["anchors"], tuple)


def test_numbers_beyond_half_precision_keep_float32_and_integers_their_type(tmp_path: Path) -> None:
    model = tiny()
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    norm.running_var[0] = 1e6
    norm.num_batches_tracked.fill_(123_456)
    path = write(tmp_path / "a.safetensors", model)
    stored = load_file(path)
    assert {value.dtype for value in stored.values()} == {torch.float16, torch.float32, torch.int64}
    again, _ = checkpoints.load(path)
    norm = next(m for m in again.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.running_var[0] == 1e6
    assert norm.num_batches_tracked == 123_456


def test_what_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors")
    before = path.read_bytes()
    broken = tiny()
    broken.heads[0].predict.bias.data[3] = float("nan")
    with pytest.raises(CheckpointError, match=r"heads\.0\.predict\.bias.*NaN"):
        write(path, broken)
    with pytest.raises(CheckpointError, match="2 names for 3 classes"):
        write(path, class_names=["disc", "square"])
    with pytest.raises(CheckpointError, match="overrides"):
        write(path, overrides={**TINY, "backbone": nn.Identity()})
    assert path.read_bytes() == before


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.safetensors")
    before = path.read_bytes()

    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("zoo.checkpoints.os.fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        write(path, tiny(1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def rewritten(path: Path, state: Callable | None = None, **metadata: str | None) -> Path:
    """The file with its tensors changed by `state` and its metadata entries replaced, or removed where None."""
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        notes = {**file.metadata(), **metadata}
    tensors = load_file(path)
    if state is not None:
        state(tensors)
    save_file(tensors, path, {key: value for key, value in notes.items() if value is not None})
    return path


FIRST = "backbone.convs.0.0.weight"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p.unlink(), "no such file"),
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "no whole safetensors"),
        (lambda p: p.write_bytes(b""), "no whole safetensors"),
        (lambda p: p.write_bytes(b"not at all a checkpoint, but long enough"), "no whole safetensors"),
        (lambda p: rewritten(p, detector=None), "'detector'.*no checkpoint of a detector"),
        (lambda p: rewritten(p, detector=json.dumps("yolov33")), "yolov33.*not in the catalog"),
        (lambda p: rewritten(p, num_classes=json.dumps("three")), "num_classes.*no int"),
        (lambda p: rewritten(p, class_names="[unquoted]"), "class_names.*no JSON"),
        (lambda p: rewritten(p, overrides=json.dumps({"colour": 3})), "overrides.*cannot be built"),
        (lambda p: rewritten(p, overrides=json.dumps({"size": 161})), "overrides.*multiple of 32"),
        (lambda p: rewritten(p, num_classes=json.dumps(4)), "class_names.*3 names for 4 classes"),
        (lambda p: rewritten(p, num_classes="4", class_names=json.dumps([*"abcd"])), r"heads\.\d\.predict"),
        (lambda p: rewritten(p, lambda s: s.pop(FIRST)), f"Missing.*{FIRST}"),
        (lambda p: rewritten(p, lambda s: s.update(more=torch.zeros(1))), "Unexpected.*more"),
        (lambda p: rewritten(p, lambda s: s.update({FIRST: torch.zeros(1, 2)})), f"size mismatch for {FIRST}"),
        (lambda p: rewritten(p, lambda s: s[FIRST].view(-1)[:1].fill_(float("nan"))), f"{FIRST}.*NaN"),
        (lambda p: rewritten(p, lambda s: s[FIRST].view(-1)[:1].fill_(float("inf"))), f"{FIRST}.*infinity"),
        (lambda p: rewritten(p, lambda s: s.update({FIRST: s[FIRST].to(torch.int64)})), f"{FIRST}.*int64"),
    ],
)
def test_damaged_files_are_refused_with_one_sentence(tmp_path: Path, damage: Callable, words: str) -> None:
    path = write(tmp_path / "a.safetensors")
    damage(path)
    with pytest.raises(CheckpointError, match=words) as caught:
        checkpoints.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def same(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(value, other[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "model", "module", "untracked"])
@pytest.mark.parametrize("legacy", [False, True])
def test_state_dicts_of_torch_load_strictly(tmp_path: Path, wrap: str, legacy: bool) -> None:
    source, target = tiny(0), tiny(1)
    content = dict(source.state_dict())
    if wrap == "module":
        content = {f"module.{name}": value for name, value in content.items()}
    if wrap == "untracked":
        content = {name: value for name, value in content.items() if "num_batches" not in name}
    if wrap in ("state_dict", "model"):
        content = {wrap: content, "epoch": 3}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    checkpoints.load_into(target, tmp_path / "a.pth")
    assert same(source, target)
    shutil.copy(tmp_path / "a.pth", tmp_path / "no_ending")
    third = tiny(2)
    checkpoints.load_into(third, tmp_path / "no_ending")
    assert same(source, third)


def test_darknets_weights_and_safetensors_load_into_a_detector(tmp_path: Path) -> None:
    source = tiny(0)
    write_weights(tmp_path / "a.weights", source.darknet_layers())
    for path in (tmp_path / "a.weights", shutil.copy(tmp_path / "a.weights", tmp_path / "a.bin")):
        target = tiny(1)
        checkpoints.load_into(target, Path(path), format="darknet")
        assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    target = tiny(1)
    checkpoints.load_into(target, tmp_path / "a.weights")
    assert torch.equal(source.heads[1].predict.bias, target.heads[1].predict.bias)

    write(tmp_path / "a.safetensors", source)
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "other")
    for name in ("a.safetensors", "other"):
        target = tiny(1)
        checkpoints.load_into(target, tmp_path / name)
        assert torch.equal(target.heads[0].predict.weight, source.heads[0].predict.weight.half().float())


class Payload:
    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return (open, ("executed", "w"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pth", lambda p: torch.save({"x": tiny().state_dict()}, p), "x: OrderedDict instead of a tensor"),
        ("a.pth", lambda p: torch.save([1, 2], p), "holds list"),
        ("a.pth", lambda p: torch.save({"x": Payload()}, p), "no whole state dict"),
        ("a.pth", lambda p: p.write_bytes(b"\x80\x02 cut"), "no whole state dict"),
        ("a.pth", lambda p: torch.save({"x": torch.zeros(1)}, p), "Missing|Unexpected"),
        ("a.pth", lambda p: None, "no such file"),
        ("a.weights", lambda p: p.write_bytes(bytes(100)), "100 bytes"),
        ("a.weights", lambda p: None, "cannot be read"),
        ("a.dat", lambda p: p.write_bytes(b"0123456789abcdef"), "no known format"),
        ("a.dat", lambda p: None, "cannot be read"),
    ],
)
def test_files_of_others_are_refused_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: Callable, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    content(tmp_path / name)
    with pytest.raises(CheckpointError, match=words) as caught:
        checkpoints.load_into(tiny(), tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_detector_without_darknet_layers_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.weights").write_bytes(bytes(20))
    with pytest.raises(CheckpointError, match="Linear does not read Darknet"):
        checkpoints.load_into(nn.Linear(1, 1), tmp_path / "a.weights")


def test_caffes_models_load_by_name(tmp_path: Path) -> None:
    class Small(nn.Module):
        def __init__(self, names: dict[str, str | tuple[str, ...]]) -> None:
            super().__init__()
            self.conv, self.names = nn.Conv2d(3, 2, 1), names

        def caffe_names(self) -> dict[str, str | tuple[str, ...]]:
            if not self.names:
                raise ValueError("no model of Caffe has this backbone")
            return self.names

    weight = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)
    blobs = [weight, np.ones(2, np.float32)]
    path = write_caffemodel(tmp_path / "a.caffemodel", layer("fc", "Convolution", blobs=blobs))
    model = Small({"conv": "fc"})
    checkpoints.load_into(model, path)
    assert np.array_equal(model.conv.weight.detach().numpy(), weight)
    wrong = [({"conv": "fd"}, "no layer 'fd'"), ({}, "no model of Caffe has this backbone; build the detector")]
    for names, words in wrong:
        with pytest.raises(CheckpointError, match=words) as caught:
            checkpoints.load_into(Small(names), path)
        assert str(path) in str(caught.value)
    with pytest.raises(CheckpointError, match="Linear does not read Caffe"):
        checkpoints.load_into(nn.Linear(1, 1), path)


# What is known of published checkpoints.


def test_published_checkpoints_fit_their_detectors() -> None:
    entries = {entry.name: entry for entry in checkpoints.list_weights()}
    assert entries["yolov3-tiny.weights"].sha256.startswith("dccea06f59b7")
    for entry in entries.values():
        if entry.detector in CATALOG and entry.format == "darknet":
            with torch.device("meta"):
                model = build(entry.detector, entry.num_classes, **entry.overrides)
            numbers = sum(v.numel() for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked"))
            assert entry.bytes == 20 + 4 * numbers, entry.name
    assert checkpoints.entry_for(Path("/anywhere/yolov3.weights")) == entries["yolov3.weights"]
    assert checkpoints.entry_for(Path("mine.weights")) is None


ROW = """
[[checkpoint]]
name = "a.weights"
detector = "yolov3_tiny"
dataset = "coco"
num_classes = 80
format = "darknet"
urls = ["https://example.org/a.weights"]
sha256 = "{sha}"
bytes = 5
licence = "none"
published = "none"
overrides = {{ widths = [1, 2] }}
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"a.weights"', '"../a.weights"', r"checkpoint\.0\.name"),
        ('"darknet"', '"pickle"', r"checkpoint\.0\.format"),
        ("https:", "file:", r"checkpoint\.0\.urls"),
        ("bytes = 5", "bytes = 0", r"checkpoint\.0\.bytes"),
        ("licence", "license", r"checkpoint\.0\.lic"),
        ("[[checkpoint]]", "[[checkpoint", "restore the file"),
        ("aaaa", "aaa", r"checkpoint\.0\.sha256"),
    ],
)
def test_an_entry_that_does_not_fit_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "weights.toml"
    path.write_text(ROW.format(sha="a" * 64))
    assert checkpoints.list_weights(path)[0].overrides == {"widths": (1, 2)}
    path = tmp_path / "wrong.toml"
    path.write_text(ROW.format(sha="a" * 64).replace(old, new, 1))
    with pytest.raises(CheckpointError, match=words) as caught:
        checkpoints.list_weights(path)
    assert str(path) in str(caught.value)


def test_what_nobody_has_a_sum_of_is_not_fetched(
    empty_zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = empty_zoo / "weights.toml"
    lines = [line for line in ROW.format(sha="").splitlines() if not line.startswith(("sha256", "bytes"))]
    toml.write_text("\n".join(lines))
    (entry,) = checkpoints.list_weights(toml)
    entry.path.parent.mkdir(parents=True)
    entry.path.write_bytes(b"12345")
    monkeypatch.setenv("DETECTOR_ZOO_WEIGHTS", str(entry.path.parent))
    with pytest.raises(CheckpointError, match=r"a\.weights: its sha256 is not known.*https://example\.org/a\.weights"):
        checkpoints.fetch(entry)
    monkeypatch.setattr(checkpoints, "list_weights", lambda: (entry,))
    checkpoints.print_known()
    assert "to be had by hand" in capsys.readouterr().out


def test_a_name_that_several_files_have_is_not_guessed() -> None:
    rows = [entry for entry in checkpoints.list_weights() if entry.name == "model_final.pkl"]
    assert len({entry.detector for entry in rows}) == len(rows) > 1
    with pytest.raises(CheckpointError, match=r"are called 'model_final\.pkl'") as caught:
        checkpoints.fetch("model_final.pkl")
    assert all(f"{entry.detector} from {entry.urls[0]}" in str(caught.value) for entry in rows)
    for entry in rows:
        with pytest.raises(CheckpointError, match=re.escape(entry.urls[0])):
            checkpoints.fetch(entry)


def test_caffes_rows_fit_the_catalog() -> None:
    """Every row names a detector that says what its modules are called in such files, and the file's classes."""
    rows = [entry for entry in checkpoints.list_weights() if entry.format == "caffe" and entry.config is None]
    assert len(rows) >= 9
    for entry in rows:
        with torch.device("meta"):
            model = build(entry.detector, entry.num_classes, **entry.overrides)
        names = model.caffe_names()
        holders = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
        modules = dict(model.named_modules())
        assert set(names) <= set(modules), entry.name
        assert holders == {name for name in names if list(modules[name].parameters(recurse=False))}, entry.name


@pytest.fixture
def empty_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that ships nothing, and an empty cache."""
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv("DETECTOR_ZOO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "shipped").mkdir()
    return tmp_path


def test_what_ships_is_found_before_what_was_published(empty_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    monkeypatch.setattr(checkpoints, "fetch", lambda entry: fetched.append(entry.name) or Path("/cache") / entry.name)
    assert checkpoints.find("yolov3_tiny", "coco") == Path("/cache/yolov3-tiny.weights")
    assert checkpoints.find("yolov3_tiny") == Path("/cache/yolov3-tiny.weights")
    with pytest.raises(
        CheckpointError, match=r"yolov3_tiny for shapes.*yolov3-tiny\.weights.*train yolov3_tiny --data"
    ):
        checkpoints.find("yolov3_tiny", "shapes")
    for name in ("yolov3_tiny_small.shapes", "yolov3_small.shapes", "yolov3_tiny_small.bccd"):
        (empty_zoo / "shipped" / f"{name}.safetensors").touch()
    assert checkpoints.find("yolov3_tiny", "shapes").name == "yolov3_tiny_small.shapes.safetensors"
    assert checkpoints.find("yolov3", "shapes").name == "yolov3_small.shapes.safetensors"
    assert [p.name for p in checkpoints.shipped("yolov3_tiny")] == [
        "yolov3_tiny_small.bccd.safetensors",
        "yolov3_tiny_small.shapes.safetensors",
    ]
    assert checkpoints.find("yolov3_tiny", "coco").name == "yolov3-tiny.weights"


def test_a_cached_file_needs_no_connection_and_a_wrong_one_is_no_help(
    empty_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"12345"
    toml = empty_zoo / "weights.toml"
    toml.write_text(
        ROW.format(sha=hashlib.sha256(content).hexdigest()).replace("https://example.org", "http://127.0.0.1:9")
    )
    (entry,) = checkpoints.list_weights(toml)
    with pytest.raises(CheckpointError, match="could not be fetched") as caught:
        checkpoints.fetch(entry, quiet=True)
    assert str(empty_zoo / "cache" / "weights" / "a.weights") in str(caught.value)
    assert entry.sha256 in str(caught.value)
    assert not entry.path.exists()
    entry.path.write_bytes(content)
    assert checkpoints.fetch(entry, quiet=True) == entry.path
    entry.path.write_bytes(b"12346")
    with pytest.raises(CheckpointError, match="is there but has sha256"):
        checkpoints.fetch(entry, quiet=True)
    with pytest.raises(CheckpointError, match=r"'nothing'.*yolov3-tiny\.weights"):
        checkpoints.fetch("nothing")


def test_a_folder_of_the_users_comes_before_the_network(empty_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files below DETECTOR_ZOO_WEIGHTS are used where they lie, if they are right; nothing is copied."""
    content = b"12345"
    toml = empty_zoo / "weights.toml"
    toml.write_text(
        ROW.format(sha=hashlib.sha256(content).hexdigest()).replace("https://example.org", "http://127.0.0.1:9")
    )
    (entry,) = checkpoints.list_weights(toml)
    for folder in ("first/old", "second/deep/er"):
        (empty_zoo / folder).mkdir(parents=True)
    (empty_zoo / "first" / "old" / "a.weights").write_bytes(b"54321")
    monkeypatch.setenv(
        "DETECTOR_ZOO_WEIGHTS", os.pathsep.join(str(empty_zoo / name) for name in ("first", "", "second"))
    )
    with pytest.raises(CheckpointError, match=r"first/old/a\.weights has sha256"):
        checkpoints.fetch(entry, quiet=True)
    wanted = empty_zoo / "second" / "deep" / "er" / "a.weights"
    wanted.write_bytes(content)
    assert checkpoints.fetch(entry, quiet=True) == wanted
    assert not entry.path.exists()
    entry.path.write_bytes(content)
    assert checkpoints.fetch(entry, quiet=True) == entry.path


CONFIG = """
year = 2021
paper = "someone"
family = "one-stage"
[checkpoint.config]
name = "a.cfg"
urls = []
sha256 = "{sha}"
bytes = 5
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [("year = 2021\n", ""), ("[checkpoint.config]", "[checkpoint.package]"), ('"one-stage"', '"three-stage"')],
)
def test_a_row_with_a_config_says_where_it_comes_from(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "weights.toml"
    path.write_text((ROW + CONFIG).format(sha="a" * 64))
    (entry,) = checkpoints.list_weights(path)
    assert entry.origin == {"year": 2021, "paper": "someone", "family": "one-stage"}
    assert entry.config is not None
    assert entry.config.path.name == "a.cfg"
    wrong = tmp_path / "wrong.toml"
    wrong.write_text((ROW + CONFIG).format(sha="a" * 64).replace(old, new))
    with pytest.raises(CheckpointError, match=r"wrong\.toml: checkpoint\.0"):
        checkpoints.list_weights(wrong)


def test_unknown_names_are_not_to_be_trained(empty_zoo: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing for shapes.*`weights` what else") as caught:
        checkpoints.find("nothing", "shapes")
    assert "train" not in str(caught.value)


def test_networks_with_a_cfg_are_found_by_name_and_data_set(empty_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "fetch", lambda entry: Path(entry.name))
    assert checkpoints.find("mobilenetv2-yolov3-nano", "voc") == Path("MobileNetV2-YOLOv3-Nano-voc.weights")
    assert checkpoints.find("mobilenetv2-yolov3-nano", "coco") == Path("MobileNetV2-YOLOv3-Nano-coco.weights")
    with pytest.raises(CheckpointError, match=r"for bccd.*Nano-voc\.weights, MobileNetV2-YOLOv3-Nano-coco\.weights"):
        checkpoints.find("mobilenetv2-yolov3-nano", "bccd")


# Transfers.

CONTENT = bytes(range(256)) * 4096
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `behaviour` may cut answers short, refuse ranges or answer with another file."""

    behaviour = ""
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        body = CONTENT[::-1] if server.behaviour == "other" else CONTENT
        if server.behaviour == "missing":
            self.send_error(404)
            return
        start = 0
        if wanted and server.behaviour != "no ranges":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = start + 300_000 if server.behaviour == "cut" else len(body)
        self.wfile.write(body[start:cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(server: Server, target: Path, size: int | None = len(CONTENT)) -> Path:
    url = f"http://127.0.0.1:{server.server_port}/file.bin"
    return fetch_file(target, sha256=SHA, size=size, urls=[url], quiet=True)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.bin"
    assert get(server, target).read_bytes() == CONTENT
    get(server, target)
    assert server.asked == [None]
    assert left(target.parent) == ["file.bin"]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_broken_transfer_goes_on_where_it_broke_off(server: Server, tmp_path: Path, size: int | None) -> None:
    server.behaviour = "cut"
    assert get(server, tmp_path / "file.bin", size).read_bytes() == CONTENT
    assert server.asked == [None, *(f"bytes={300_000 * n}-" for n in (1, 2, 3))]


@pytest.mark.parametrize(
    ("behaviour", "part", "asked"),
    [
        ("", CONTENT[:1000], ["bytes=1000-"]),
        ("no ranges", CONTENT[:1000], ["bytes=1000-"]),
        ("", CONTENT, []),
    ],
)
def test_a_part_of_an_earlier_try_is_used(
    server: Server, tmp_path: Path, behaviour: str, part: bytes, asked: list[str]
) -> None:
    server.behaviour = behaviour
    (tmp_path / "file.bin.part").write_bytes(part)
    assert get(server, tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == asked
    assert left(tmp_path) == ["file.bin"]


@pytest.mark.parametrize(("behaviour", "words"), [("other", "sha256"), ("missing", "404")])
def test_what_is_not_the_file_is_never_seen_under_its_name(
    server: Server, tmp_path: Path, behaviour: str, words: str
) -> None:
    server.behaviour = behaviour
    with pytest.raises(DownloadError, match=words):
        get(server, tmp_path / "file.bin")
    assert left(tmp_path) == []


def test_the_next_source_is_tried(server: Server, tmp_path: Path) -> None:
    good = f"http://127.0.0.1:{server.server_port}/file.bin"
    found = fetch_file(tmp_path / "a", sha256=SHA, urls=["http://127.0.0.1:9/file.bin", good], quiet=True)
    assert found.read_bytes() == CONTENT


def archive(members: dict[str, bytes | None]) -> bytes:
    """A source package as bytes; a member without content is a symbolic link out of the archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"pack-1.0/{name}")
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"PKG-INFO": b"x", "data/file.bin": CONTENT, "../../escape": b"y"}, None),
        ({"PKG-INFO": b"x"}, "data/file.bin cannot be read"),
        ({"data/file.bin": CONTENT[1:]}, "has 1,048,575 bytes"),
        ({"data/file.bin": CONTENT[::-1]}, "has sha256"),
        ({"data/file.bin": None}, "data/file.bin"),
        (None, "No matching distribution"),
    ],
)
def test_a_source_package_gives_one_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes | None] | None, words: str | None
) -> None:
    content = b"" if members is None else archive(members)
    commands = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        wanted = Path(command[command.index("-r") + 1]).read_text()
        assert wanted == f"pack==1.0 --hash=sha256:{hashlib.sha256(content).hexdigest()}\n"
        if members is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found for pack==1.0\n")
        (Path(command[command.index("-d") + 1]) / "pack-1.0.tar.gz").write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("zoo.download.subprocess.run", pip)
    package = SourcePackage("pack", "1.0", "data/file.bin", hashlib.sha256(content).hexdigest())
    target = tmp_path / "cache" / "file.bin"
    if words is None:
        fetch_file(target, sha256=SHA, size=len(CONTENT), package=package, quiet=True)
        assert target.read_bytes() == CONTENT
        assert left(target.parent) == ["file.bin"]
        assert left(tmp_path) == ["cache"]
        assert {"--no-deps", "--require-hashes", "--no-binary"} < set(commands[0])
    else:
        with pytest.raises(DownloadError, match=words):
            fetch_file(target, sha256=SHA, size=len(CONTENT), package=package, quiet=True)
        assert left(target.parent) == []
