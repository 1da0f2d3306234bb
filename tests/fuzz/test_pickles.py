"""Checkpoints are data: what a file asks to be run is not run, by any reader, and no code of ours could run it."""

from __future__ import annotations

import ast
import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.proposals import Memory
from benchmarks.references import StoredReferenceError
from benchmarks.references import read as read_reference
from zoo import build
from zoo.checkpoints import CheckpointError, load_into
from zoo.classical.released import read_released
from zoo.formats.cornernet import read_cornernet
from zoo.formats.detectron import DetectronError, read_detectron
from zoo.formats.state_dict import StateDictError, read_state_dict

ROOT = Path(__file__).parents[2]


class Malice:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


@dataclass(frozen=True)
class Nothing:
    """Proposes one empty box."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, 4)


def evaluated(marker: Path) -> bytes:
    """The same by `eval`, through an opcode that older pickles use."""
    return b'cbuiltins\neval\n(S\'__import__("os").mkdir("%s")\'\ntR.' % str(marker).encode()


def as_torch(content: Any, legacy: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def as_zip(pickled: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/version", "3\n")
    return file.getvalue()


def as_array(content: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([content], dtype=object), allow_pickle=True)
    return file.getvalue()


def as_arrays(content: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, about=np.array([content, content], dtype=object), starts=np.zeros(2), image=np.zeros(2))
    return file.getvalue()


def _cornernet(path: Path) -> object:
    return load_into(build("hog_svm", 2), path, "cornernet")


def _torch(path: Path) -> object:
    return load_into(build("hog_svm", 2), path, "torch")


def _detectron(path: Path) -> object:
    return load_into(build("hog_svm", 2), path, "detectron")


READERS: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "state dict": (read_state_dict, StateDictError),
    "cornernet": (read_cornernet, StateDictError),
    "detectron": (read_detectron, DetectronError),
    "load as torch": (_torch, CheckpointError),
    "load as cornernet": (_cornernet, CheckpointError),
    "load as detectron": (_detectron, CheckpointError),
    "npy": (lambda path: read_released("hog_svm_opencv", path), ValueError),
    "npz": (read_reference, StoredReferenceError),
}
FILES: dict[str, Callable[[Path], bytes]] = {
    "torch zip": lambda marker: as_torch({"head.weight": Malice(marker)}, False),
    "torch legacy": lambda marker: as_torch({"head.weight": Malice(marker)}, True),
    "torch under a wrapper": lambda marker: as_torch({"state_dict": {"a": torch.ones(1), "b": Malice(marker)}}, False),
    "zip with eval": lambda marker: as_zip(evaluated(marker)),
    "pickle 0": lambda marker: pickle.dumps({"blobs": {"fc6_w": Malice(marker)}}, 0),
    "pickle 2": lambda marker: pickle.dumps({"model": {"a": Malice(marker)}}, 2),
    "pickle 5": lambda marker: pickle.dumps({"model": Malice(marker)}, 5),
    "eval": evaluated,
    "an array of objects": lambda marker: as_array(Malice(marker)),
    "arrays of objects": lambda marker: as_arrays(Malice(marker)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("file", FILES)
def test_a_malicious_file_is_refused_and_nothing_of_it_runs(file: str, reader: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.bin"
    path.write_bytes(FILES[file](marker))
    read, error = READERS[reader]
    with pytest.raises(error, match=r"evil\.bin") as caught:
        read(path)
    assert not marker.exists()
    assert "\n" not in str(caught.value)


def test_the_files_would_do_harm_elsewhere(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    for name in ("pickle 0", "pickle 2", "pickle 5", "eval"):
        pickle.loads(FILES[name](tmp_path / name))
        assert (tmp_path / name).is_dir()
    torch.load(io.BytesIO(FILES["torch zip"](tmp_path / "torch")), weights_only=False)
    np.load(io.BytesIO(FILES["an array of objects"](tmp_path / "array")), allow_pickle=True)
    assert (tmp_path / "torch").is_dir()
    assert (tmp_path / "array").is_dir()


def test_remembered_proposals_are_numbers(tmp_path: Path) -> None:
    memory = Memory(Nothing(), tmp_path)
    place = memory._path("ab" * 32)
    place.parent.mkdir(parents=True)
    place.write_bytes(as_array(Malice(tmp_path / "marker")))
    assert memory.read("ab" * 32) is None
    assert not (tmp_path / "marker").exists()


def sources() -> Iterator[tuple[str, ast.Module]]:
    for package in ("ops", "zoo", "benchmarks", "reports"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def dotted(node: ast.expr) -> str:
    """`numpy.load` of the expression that says so; a call's result has no name."""
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def dangers(tree: ast.Module) -> Iterator[str]:
    """Every call of the tree that could run what a file says, by its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]:
                if name.split(".")[0] in (
                    "pickle",
                    "_pickle",
                    "cPickle",
                    "dill",
                    "joblib",
                    "marshal",
                    "shelve",
                    "yaml",
                ):
                    yield f"import {name}"
        if isinstance(node, ast.Attribute) and dotted(node) in ("os.system", "os.popen", "pickle.load", "pickle.loads"):
            yield dotted(node)
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in ("eval", "exec", "compile", "__import__"):
            yield name
        if name == "torch.load" and getattr(given.get("weights_only"), "value", None) is not True:
            yield "torch.load without weights_only"
        if name in ("np.load", "numpy.load") and getattr(given.get("allow_pickle"), "value", None) is not False:
            yield "np.load without allow_pickle=False"
        if "shell" in given and getattr(given["shell"], "value", True) is not False:
            yield "a shell"
        if name.endswith(("cv2.dnn.readNet", "pandas.read_pickle", "pd.read_pickle")):
            yield name


def test_no_code_of_ours_can_run_a_file() -> None:
    found = {path: sorted(set(dangers(tree))) for path, tree in sources()}
    # It needs the class of an unpickler, which it restricts, and calls none of the module's functions.
    assert {path: names for path, names in found.items() if names} == {"zoo/formats/detectron.py": ["import pickle"]}


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from pickle import loads", "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f)",
     "torch.load(f, weights_only=flag)", "np.load(f, allow_pickle=True)", "eval(x)", "exec(x)", "import joblib",
     "from yaml import load", "subprocess.run(x, shell=True)", "subprocess.run(x, shell=flag)", "os.system(x)"],
)  # fmt: skip
def test_what_could_is_seen(line: str) -> None:
    assert list(dangers(ast.parse(line)))
    assert not list(dangers(ast.parse("model.eval(); torch.load(f, weights_only=True); subprocess.run(x)")))
