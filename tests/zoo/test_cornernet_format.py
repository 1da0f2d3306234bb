"""The authors' checkpoints of CornerNet and CenterNet: their names and shapes, written out apart from our modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo import CATALOG, build, checkpoints
from zoo.checkpoints import CheckpointError, load_into
from zoo.detector import Detector
from zoo.formats.cornernet import describe, read_cornernet
from zoo.formats.state_dict import StateDictError

Shapes = dict[str, tuple[int, ...]]
TINY: dict[str, Any] = {"widths": (8, 8), "blocks": (1, 1), "stem": 4, "pool_width": 4, "head_width": 4}


def norm(name: str, width: int) -> Shapes:
    vectors = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {**vectors, f"{name}.num_batches_tracked": ()}


def convolution(name: str, inputs: int, outputs: int, kernel: int = 3) -> Shapes:
    return {f"{name}.conv.weight": (outputs, inputs, kernel, kernel), **norm(f"{name}.bn", outputs)}


def residual(name: str, inputs: int, outputs: int, stride: int = 1) -> Shapes:
    shapes: Shapes = {f"{name}.conv1.weight": (outputs, inputs, 3, 3), **norm(f"{name}.bn1", outputs)}
    shapes |= {f"{name}.conv2.weight": (outputs, outputs, 3, 3), **norm(f"{name}.bn2", outputs)}
    if stride != 1 or inputs != outputs:
        shapes |= {f"{name}.skip.0.weight": (outputs, inputs, 1, 1), **norm(f"{name}.skip.1", outputs)}
    return shapes


def hourglass(name: str, dims: tuple[int, ...], modules: tuple[int, ...]) -> Shapes:
    here, below, count = dims[0], dims[1], modules[0]
    shapes: Shapes = {}
    for block in range(count):
        shapes |= residual(f"{name}.up1.{block}", here, here)
        shapes |= residual(f"{name}.low1.{block}", below if block else here, below, 1 if block else 2)
        shapes |= residual(f"{name}.low3.{block}", below, here if block == count - 1 else below)
    if len(dims) > 2:
        return shapes | hourglass(f"{name}.low2", dims[1:], modules[1:])
    for block in range(modules[1]):
        shapes |= residual(f"{name}.low2.{block}", below, below)
    return shapes


def pooling(name: str, cascade: bool) -> Shapes:
    shapes = convolution(f"{name}.p1_conv1", 256, 128) | convolution(f"{name}.p2_conv1", 256, 128)
    shapes |= {f"{name}.p_conv1.weight": (256, 128, 3, 3), **norm(f"{name}.p_bn1", 256)}
    shapes |= {f"{name}.conv1.weight": (256, 256, 1, 1), **norm(f"{name}.bn1", 256)}
    shapes |= convolution(f"{name}.conv2", 256, 256)
    if cascade:
        shapes |= convolution(f"{name}.look_conv1", 256, 128) | convolution(f"{name}.look_conv2", 256, 128)
        shapes |= {f"{name}.{arm}_look_conv.weight": (128, 128, 3, 3) for arm in ("P1", "P2")}
    return shapes


def head(name: str, outputs: int) -> Shapes:
    shapes: Shapes = {f"{name}.0.conv.weight": (256, 256, 3, 3), f"{name}.0.conv.bias": (256,)}
    return shapes | {f"{name}.1.weight": (outputs, 256, 1, 1), f"{name}.1.bias": (outputs,)}


def official(stacks: int, centers: bool, counters: bool = True) -> Shapes:
    shapes = convolution("pre.0", 3, 128, 7) | residual("pre.1", 128, 256, 2)
    for stack in range(stacks):
        shapes |= hourglass(f"kps.{stack}", (256, 256, 384, 384, 384, 512), (2, 2, 2, 2, 2, 4))
        shapes |= convolution(f"cnvs.{stack}", 256, 256)
        for kind in ("tl", "br", "ct") if centers else ("tl", "br"):
            shapes |= pooling(f"{kind}_cnvs.{stack}", centers and kind != "ct")
            shapes |= head(f"{kind}_heats.{stack}", 80) | head(f"{kind}_regrs.{stack}", 2)
            if kind != "ct":
                shapes |= head(f"{kind}_tags.{stack}", 1)
        if stack < stacks - 1:
            shapes |= residual(f"inters.{stack}", 256, 256)
            for join in ("inters_", "cnvs_"):
                shapes |= {f"{join}.{stack}.0.weight": (256, 256, 1, 1), **norm(f"{join}.{stack}.1", 256)}
    return {f"module.{k}": v for k, v in shapes.items() if counters or not k.endswith("num_batches_tracked")}


NETWORKS = {
    "cornernet511_hg52": (1, False, 564, 474),
    "cornernet511_hg104": (2, False, 1128, 948),
    "centernet511_hg52": (1, True, 630, 531),
    "centernet511_hg104": (2, True, 1260, 1062),
}


def file(path: Path, shapes: Shapes, legacy: bool = True) -> Path:
    """A checkpoint of these shapes; each tensor is one number, expanded, so that the file stays small."""
    state = {
        name: torch.tensor(1 + number).long() if name.endswith("tracked") else torch.full((1,), 0.5).expand(shape)
        for number, (name, shape) in enumerate(shapes.items())
    }
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return path


def meta(name: str) -> Detector:
    with torch.device("meta"):
        return build(name, 80)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_name_and_shape_has_its_place(name: str, tmp_path: Path) -> None:
    stacks, centers, keys, tensors = NETWORKS[name]
    shapes = official(stacks, centers)
    assert len(shapes) == keys
    assert len(official(stacks, centers, counters=False)) == tensors
    path = file(tmp_path / "a.pkl", shapes, legacy=centers)
    ours = {f"module.{key}": tuple(value.shape) for key, value in meta(name).state_dict().items()}
    assert {f"module.{key}": tuple(value.shape) for key, value in read_cornernet(path).items()} == ours == shapes


@pytest.mark.parametrize("counters", [True, False])
def test_a_checkpoint_of_the_papers_size_loads(counters: bool, tmp_path: Path) -> None:
    path = file(tmp_path / "CenterNet-52_480000.pkl", official(1, True, counters))
    assert path.stat().st_size < 1_000_000
    load_into(meta("centernet511_hg52"), path)


def tiny(name: str = "centernet511_hg104", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(name, 3, **TINY)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {f"module.{name}": value for name, value in model.state_dict().items()}


def to_lite(name: str) -> str:
    """The authors' name to that of CornerNet-Lite."""
    group, _, rest = name.removeprefix("module.").partition(".")
    if group in ("pre", "kps", "cnvs", "inters", "inters_", "cnvs_"):
        group = f"hg.{'hgs' if group == 'kps' else group}"
    if group not in ("hg.cnvs", "hg.cnvs_"):
        group = group.replace("_regrs", "_offs").replace("_cnvs", "_modules")
    return f"module.{group}.{rest}"


@pytest.mark.parametrize(
    ("name", "lite"),
    [
        ("cornernet511_hg52", True),
        ("cornernet511_hg104", False),
        ("cornernet511_hg104", True),
        ("centernet511_hg104", False),
    ],
)
def test_values_arrive(name: str, lite: bool, tmp_path: Path) -> None:
    source, model = tiny(name, 1), tiny(name, 2)
    state = {to_lite(key) if lite else key: value for key, value in state_of(source).items()}
    if lite and name == "cornernet511_hg104":
        assert {"module.hg.hgs.1.up1.0.conv1.weight", "module.tl_modules.0.p_bn1.bias", "module.br_offs.1.1.bias"} <= (
            state.keys()
        )
    torch.save(state, tmp_path / "a.pkl")
    load_into(model, tmp_path / "a.pkl")
    arrived = model.state_dict()
    assert all(torch.equal(value, arrived[key]) for key, value in source.state_dict().items())
    assert not all(torch.equal(value, arrived[key]) for key, value in tiny(name, 2).state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"module.tl_heats.1.1.weight": None}, r"Missing key.*tl_heats\.1\.1\.weight"),
        ({"module.tl_cnvs.0.more.weight": torch.ones(1)}, r"Unexpected key.*tl_cnvs\.0\.more\.weight"),
        ({"module.pre.0.conv.weight": torch.ones(4, 3, 5, 5)}, r"pre\.0\.conv\.weight"),
        ({"module.pre.0.conv.weight": torch.full((4, 3, 7, 7), torch.nan)}, r"pre\.0\.conv\.weight: holds NaN"),
        ({"module.att_modules.0.weight": torch.ones(1)}, r"att_modules\.0\.weight: neither .*CornerNet-Saccade"),
        ({"module.hg.pre.0.conv.weight": torch.ones(1)}, r"hg\.pre\.0\.conv\.weight: fills pre\.0\.conv\.weight a sec"),
        ({"module.pre.0.conv.weight": "text"}, r"module\.pre\.0\.conv\.weight: str instead of a tensor"),
        ({"step": torch.ones(1)}, r"module\.\S+: neither|step"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], words: str, tmp_path: Path) -> None:
    state: dict[str, object] = {**state_of(tiny()), **change}
    torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "a.pkl")
    with pytest.raises(CheckpointError, match=words) as caught:
        load_into(tiny(), tmp_path / "a.pkl")
    assert str(tmp_path / "a.pkl") in str(caught.value)


def test_another_network_is_told_in_words(tmp_path: Path) -> None:
    torch.save(state_of(tiny("centernet511_hg104")), tmp_path / "a.pkl")
    for name in ("cornernet511_hg104", "centernet511_hg52"):
        ours = "CornerNet on Hourglass-104" if name.startswith("corner") else "CenterNet on Hourglass-52"
        words = f"holds CenterNet on Hourglass-104 for 3 classes, and the detector is {ours} for 3 classes; build"
        with pytest.raises(CheckpointError, match=words):
            load_into(tiny(name), tmp_path / "a.pkl")
    with pytest.raises(CheckpointError, match="the detector is no detector of corners"):
        load_into(nn.Linear(1, 1), tmp_path / "a.pkl", "cornernet")
    assert describe({"x": torch.ones(1)}) == "no detector of corners"


class Malice:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (str(self.folder),)


@pytest.mark.parametrize("legacy", [True, False])
def test_nothing_of_a_file_is_run(legacy: bool, tmp_path: Path) -> None:
    torch.save({"module.pre": Malice(tmp_path / "made")}, tmp_path / "a.pkl", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(StateDictError, match=r"a\.pkl: no whole state dict of torch"):
        read_cornernet(tmp_path / "a.pkl")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("legacy", [True, False])
def test_damaged_files_are_one_clear_error(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    whole = file(path, official(1, False), legacy).read_bytes()
    for length in (0, 1, 10, 17, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(StateDictError, match=r"a\.pkl: "):
            read_cornernet(path)
    torch.save([torch.ones(1)], path)
    with pytest.raises(StateDictError, match="holds list instead of a state dict"):
        read_cornernet(path)
    with pytest.raises(StateDictError, match="there is no such file"):
        read_cornernet(tmp_path / "none.pkl")


def test_the_published_files_are_known_by_name(tmp_path: Path) -> None:
    rows = {entry.name: entry for entry in checkpoints.list_weights() if entry.format == "cornernet"}
    assert {name: row.detector for name, row in rows.items()} == {
        "CornerNet_500000.pkl": "cornernet511_hg104",
        "CenterNet-52_480000.pkl": "centernet511_hg52",
        "CenterNet-104_480000.pkl": "centernet511_hg104",
    }
    for row in rows.values():
        assert row.detector in CATALOG
        assert row.num_classes == 80
        assert checkpoints.entry_for(tmp_path / row.name) == row
        with pytest.raises(CheckpointError, match="sha256 is not known"):
            checkpoints.fetch(row)
