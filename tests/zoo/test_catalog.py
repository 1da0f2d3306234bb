"""Every row of the catalog: its facts are recounted at the paper's size, and its small size is what `shapes` allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cost import cost
from zoo import CATALOG, build, checkpoints
from zoo.detector import Recipe

PARAMETERS = [(name, c) for name, spec in CATALOG.items() for c in spec.golden.parameters]
BOXES = [(name, size) for name, spec in CATALOG.items() for size in spec.golden.boxes]
MACS = [(name, key) for name, spec in CATALOG.items() for key in spec.golden.macs]
SMALL = [name for name, spec in CATALOG.items() if spec.small is not None]

_counted: dict[tuple[Any, ...], dict[str, Any]] = {}


def counted(name: str, classes: int, size: tuple[int, int] | None = None) -> dict[str, Any]:
    size = size or CATALOG[name].input_size
    key = (name, classes, size)
    if key not in _counted:
        _counted[key] = cost(name, classes, size)
    return _counted[key]


@pytest.mark.parametrize(("name", "classes"), PARAMETERS)
def test_parameters(name: str, classes: int) -> None:
    assert counted(name, classes)["parameters"] == CATALOG[name].golden.parameters[classes]


@pytest.mark.parametrize(("name", "size"), BOXES)
def test_boxes(name: str, size: tuple[int, int]) -> None:
    classes = next(iter(CATALOG[name].golden.parameters), 20)
    assert counted(name, classes, size)["boxes"] == CATALOG[name].golden.boxes[size]


@pytest.mark.parametrize(("name", "key"), MACS)
def test_macs(name: str, key: tuple[int, int, int]) -> None:
    """To 0.01 %, or to the digits that the fact has, where it ends in zeros."""
    wanted = CATALOG[name].golden.macs[key]
    digits = str(wanted)
    unit = 10 ** (len(digits) - len(digits.rstrip("0")))
    assert counted(name, key[0], key[1:])["macs"] == pytest.approx(wanted, rel=1e-4, abs=unit / 2)


@pytest.mark.parametrize("name", list(CATALOG))
def test_row(name: str) -> None:
    spec = CATALOG[name]
    assert spec.name == name
    assert spec.build.__name__ == name, "the builder's name is the catalog name"
    assert 2000 < spec.year < 2021
    assert spec.paper
    with torch.device("meta"):
        model = build(name, 2)
    if hasattr(model, "fit"):
        assert spec.recipe is None
        assert spec.small_recipe is None
    else:
        assert isinstance(spec.recipe, Recipe)
        assert (spec.small is None) == (spec.small_recipe is None)


def test_rows_are_by_year() -> None:
    years = [spec.year for spec in CATALOG.values()]
    assert years == sorted(years)


@pytest.mark.parametrize("name", SMALL)
def test_small_size_ships_within_a_megabyte(name: str, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    model = build(name, 8, small=True)
    checkpoints.save(path, model, detector=name, num_classes=8, overrides={}, class_names=["circle"] * 8, small=True)
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize("name", SMALL)
def test_small_size_is_counted_too(name: str) -> None:
    found = cost(name, 8, small=True)
    assert found["macs"] >= 0
    assert found["parameters"] + found["buffers"] > 0
    assert min(found["input"]) >= 64


@pytest.mark.parametrize("name", SMALL)
def test_same_seed_same_weights(name: str) -> None:
    torch.manual_seed(3)
    first = build(name, 8, small=True).state_dict()
    torch.manual_seed(3)
    second = build(name, 8, small=True).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
