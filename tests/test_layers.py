"""The house's arrow, ops <- zoo <- benchmarks <- reports, read off the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("ops", "zoo", "benchmarks", "reports")
FILES = {layer: sorted((ROOT / layer).rglob("*.py")) for layer in LAYERS}

LIGHT = [
    "benchmarks",
    "benchmarks.results",
    "benchmarks.papers",
    "benchmarks.hardware",
    "benchmarks.metrics",
    "benchmarks.score",
    "benchmarks.provenance",
    "reports.render",
    "reports.__main__",
]
"""Modules that start without torch."""

UNSTEADY = {"datetime", "getpass", "locale", "os", "platform", "random", "secrets", "socket", "time", "uuid"}
"""What could put a clock, a host or chance into a page."""


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, wherever in the file it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def broken(layer: str, source: str) -> list[tuple[int, str]]:
    """Imports that a file of `layer` must not make: of a layer above, of the tests, or relative ones."""
    above = {*LAYERS[LAYERS.index(layer) + 1 :], "tests"}
    return [(line, name) for line, name in imports(source) if name.startswith(".") or name.partition(".")[0] in above]


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_one_way(layer: str) -> None:
    assert FILES[layer], f"{layer}/ holds no Python file"
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in FILES[layer]
        for line, name in broken(layer, path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("layer", "source", "count"),
    [
        ("ops", "import zoo", 1),
        ("ops", "import torch\nfrom ops import boxes", 0),
        ("zoo", "def f():\n    from benchmarks.results import Record", 1),
        ("zoo", "import benchmarks.metrics as m", 1),
        ("benchmarks", "from zoo import build\nfrom tests.contract import squares", 1),
        ("benchmarks", "from . import results", 1),
        ("reports", "from benchmarks.papers import Table\nimport opsx", 0),
    ],
)
def test_the_check_sees_what_it_should(layer: str, source: str, count: int) -> None:
    assert len(broken(layer, source)) == count


def test_reports_know_no_torch_no_clock_and_no_host() -> None:
    banned = UNSTEADY | {"torch", "torchvision", "ops", "zoo"}
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in FILES["reports"]
        for line, name in imports(path.read_text(encoding="utf-8"))
        if name.partition(".")[0] in banned
    ]
    assert not found, "\n".join(found)


def test_light_modules_start_without_torch() -> None:
    # In a process of its own, and with all that these modules import in turn.
    code = f"import sys\nfor name in {LIGHT!r}:\n    __import__(name)\n    assert 'torch' not in sys.modules, name"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
