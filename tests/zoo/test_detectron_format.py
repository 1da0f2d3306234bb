"""Detectron's and detectron2's pickles: what is read, what is refused, and that every layer finds its place."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from ops.images import Batch
from zoo import build
from zoo.checkpoints import CheckpointError, load_into
from zoo.formats.detectron import DetectronError, read_detectron
from zoo.two_stage.release import RELEASES

C4, FPN, DEEP, MASK = "faster_rcnn_r50_c4", "faster_rcnn_r50_fpn", "faster_rcnn_r101_fpn", "mask_rcnn_r50_fpn"
TINY: dict[str, dict[str, Any]] = {C4: {"rpn_width": 2}, FPN: {}, DEEP: {}, MASK: {}}


def meta(name: str, release: str, classes: int = 3) -> nn.Module:
    with torch.device("meta"):
        return build(name, classes, release=release, **TINY[name])


def depths(name: str) -> tuple[int, ...]:
    return (3, 4, 23, 3) if name == DEEP else (3, 4, 6, 3)


def blocks(name: str) -> list[tuple[str, str, int]]:
    """Of the ResNet: stage, place in it, and convolutions, the first of a stage having a projection."""
    return [
        (str(stage), str(block), 4 if block == 0 else 3)
        for stage, n in enumerate(depths(name), 2)
        for block in range(n)
    ]


def caffe2_names(name: str) -> dict[str, str]:
    """Ours to Detectron's, written out apart from the reader: the weight of every layer, and its kind."""
    names = {"backbone.body.conv1": "conv1", "backbone.body.bn1": "res_conv1_bn"}
    for stage, block, count in blocks(name):
        deepest = name == C4 and stage == "5"
        ours = f"roi_heads.box_head.stage.{block}" if deepest else f"backbone.body.layer{int(stage) - 1}.{block}"
        for index, letter in enumerate("abc", 1):
            names[f"{ours}.conv{index}"] = f"res{stage}_{block}_branch2{letter}"
            names[f"{ours}.bn{index}"] = f"res{stage}_{block}_branch2{letter}_bn"
        if count == 4:
            names[f"{ours}.downsample.0"] = f"res{stage}_{block}_branch1"
            names[f"{ours}.downsample.1"] = f"res{stage}_{block}_branch1_bn"
    suffix = "" if name == C4 else "_fpn2"
    names["rpn.head.conv.0.0"] = f"conv_rpn{suffix}"
    names["rpn.head.cls_logits"] = f"rpn_cls_logits{suffix}"
    names["rpn.head.bbox_pred"] = f"rpn_bbox_pred{suffix}"
    names["roi_heads.box_predictor.cls_score"] = "cls_score"
    names["roi_heads.box_predictor.bbox_pred"] = "bbox_pred"
    if name != C4:
        last = {stage: n - 1 for stage, n in enumerate(depths(name), 2)}
        for level in range(4):
            stage = level + 2
            lateral = "" if stage == 5 else "_lateral"
            names[f"backbone.fpn.inner_blocks.{level}.0"] = f"fpn_inner_res{stage}_{last[stage]}_sum{lateral}"
            names[f"backbone.fpn.layer_blocks.{level}.0"] = f"fpn_res{stage}_{last[stage]}_sum"
        names |= {f"roi_heads.box_head.fc{n}": f"fc{n}" for n in (6, 7)}
    if name == MASK:
        names |= {f"roi_heads.mask_head.{n}.0": f"_[mask]_fcn{n + 1}" for n in range(4)}
        names["roi_heads.mask_predictor.conv5_mask"] = "conv5_mask"
        names["roi_heads.mask_predictor.mask_fcn_logits"] = "mask_fcn_logits"
    return names


def detectron2_names(name: str) -> dict[str, str]:
    """Ours to detectron2's."""
    bottom = "backbone" if name == C4 else "backbone.bottom_up"
    names = {"backbone.body.conv1": f"{bottom}.stem.conv1", "backbone.body.bn1": f"{bottom}.stem.conv1.norm"}
    for stage, block, count in blocks(name):
        deepest = name == C4 and stage == "5"
        ours = f"roi_heads.box_head.stage.{block}" if deepest else f"backbone.body.layer{int(stage) - 1}.{block}"
        theirs = f"{'roi_heads' if deepest else bottom}.res{stage}.{block}"
        for index in (1, 2, 3):
            names[f"{ours}.conv{index}"] = f"{theirs}.conv{index}"
            names[f"{ours}.bn{index}"] = f"{theirs}.conv{index}.norm"
        if count == 4:
            names[f"{ours}.downsample.0"] = f"{theirs}.shortcut"
            names[f"{ours}.downsample.1"] = f"{theirs}.shortcut.norm"
    names["rpn.head.conv.0.0"] = "proposal_generator.rpn_head.conv"
    names["rpn.head.cls_logits"] = "proposal_generator.rpn_head.objectness_logits"
    names["rpn.head.bbox_pred"] = "proposal_generator.rpn_head.anchor_deltas"
    names["roi_heads.box_predictor.cls_score"] = "roi_heads.box_predictor.cls_score"
    names["roi_heads.box_predictor.bbox_pred"] = "roi_heads.box_predictor.bbox_pred"
    if name != C4:
        for level in range(4):
            names[f"backbone.fpn.inner_blocks.{level}.0"] = f"backbone.fpn_lateral{level + 2}"
            names[f"backbone.fpn.layer_blocks.{level}.0"] = f"backbone.fpn_output{level + 2}"
        names |= {f"roi_heads.box_head.fc{n}": f"roi_heads.box_head.fc{n - 5}" for n in (6, 7)}
    if name == MASK:
        names |= {f"roi_heads.mask_head.{n}.0": f"roi_heads.mask_head.mask_fcn{n + 1}" for n in range(4)}
        names["roi_heads.mask_predictor.conv5_mask"] = "roi_heads.mask_head.deconv"
        names["roi_heads.mask_predictor.mask_fcn_logits"] = "roi_heads.mask_head.predictor"
    return names


def small(shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    """Every layer of its rank, but with sides of at most three, for a file of few bytes."""
    return np.random.default_rng(seed).random(tuple(min(side, 3) for side in shape), np.float32)


def caffe2_blobs(name: str) -> dict[str, np.ndarray[Any, Any]]:
    state = meta(name, "detectron").state_dict()
    norms = {k for k, m in meta(name, "detectron").named_modules() if isinstance(m, FrozenBatchNorm2d)}
    blobs = {}
    for seed, (ours, theirs) in enumerate(caffe2_names(name).items()):
        blobs[f"{theirs}_{'s' if ours in norms else 'w'}"] = small(tuple(state[f"{ours}.weight"].shape), seed)
        if f"{ours}.bias" in state:
            blobs[f"{theirs}_b"] = small(tuple(state[f"{ours}.bias"].shape), 1_000 + seed)
    return blobs


def detectron2_entries(name: str) -> dict[str, np.ndarray[Any, Any]]:
    state = meta(name, "detectron2").state_dict()
    entries = {}
    names = detectron2_names(name)
    for seed, (key, value) in enumerate(state.items()):
        layer, _, part = key.rpartition(".")
        entries[f"{names[layer]}.{part}"] = small(tuple(value.shape), seed)
    return entries


def dump(path: Path, content: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("name", [C4, FPN, DEEP, MASK])
def test_every_blob_of_detectron_has_its_place(name: str, tmp_path: Path) -> None:
    """All keys of ours are filled, none twice, and no blob is left."""
    blobs = caffe2_blobs(name)
    momenta = {f"{key}_momentum": value for key, value in blobs.items()}
    state = read_detectron(dump(tmp_path / "model_final.pkl", {"blobs": {**blobs, **momenta}, "cfg": "A: 1"}))
    assert state.keys() == meta(name, "detectron").state_dict().keys()
    for ours, theirs in caffe2_names(name).items():
        part = "s" if f"{theirs}_s" in blobs else "w"
        assert np.array_equal(state[f"{ours}.weight"], blobs[f"{theirs}_{part}"])
        if f"{theirs}_b" in blobs:
            assert np.array_equal(state[f"{ours}.bias"], blobs[f"{theirs}_b"])


@pytest.mark.parametrize("name", [C4, FPN, DEEP, MASK])
def test_every_entry_of_detectron2_has_its_place(name: str, tmp_path: Path) -> None:
    entries = detectron2_entries(name)
    ignored = {"pixel_mean": np.zeros((3, 1, 1), np.float32)}
    content = {"model": {**entries, **ignored}, "__author__": "Detectron2 Model Zoo"}
    state = read_detectron(dump(tmp_path / "model_final.pkl", content))
    assert state.keys() == meta(name, "detectron2").state_dict().keys()
    special = ("cls_score", "bbox_pred", "mask_fcn_logits")
    for ours, theirs in detectron2_names(name).items():
        if ours.endswith(special) and "roi_heads" in ours:
            continue
        for part in ("weight", "bias", "running_mean", "running_var"):
            if f"{theirs}.{part}" in entries:
                assert np.array_equal(state[f"{ours}.{part}"], entries[f"{theirs}.{part}"])


def test_background_of_detectron2(tmp_path: Path) -> None:
    """Its score moves from the end to the front; boxes and masks of it are added, and are 0."""
    scores = np.arange(4, dtype=np.float32)
    boxes = np.arange(1, 13, dtype=np.float32)
    masks = np.arange(1, 4, dtype=np.float32)
    content = {
        "roi_heads.box_predictor.cls_score.bias": scores,
        "roi_heads.box_predictor.bbox_pred.bias": boxes,
        "roi_heads.mask_head.predictor.bias": masks,
    }
    state = read_detectron(dump(tmp_path / "a.pkl", {"model": content}))
    assert state["roi_heads.box_predictor.cls_score.bias"].tolist() == [3, 0, 1, 2]
    assert state["roi_heads.box_predictor.bbox_pred.bias"].tolist() == [0] * 4 + list(range(1, 13))
    assert state["roi_heads.mask_predictor.mask_fcn_logits.bias"].tolist() == [0, 1, 2, 3]


def test_folded_statistics_compute_scale_and_shift(tmp_path: Path) -> None:
    scale, shift = np.array([2.0, -0.5], np.float32), np.array([0.25, 3.0], np.float32)
    state = read_detectron(dump(tmp_path / "a.pkl", {"blobs": {"res_conv1_bn_s": scale, "res_conv1_bn_b": shift}}))
    norm = FrozenBatchNorm2d(2)
    norm.load_state_dict({key.rpartition(".")[2]: value for key, value in state.items()})
    x = torch.randn(1, 2, 3, 3)
    expected = x * torch.tensor(scale)[:, None, None] + torch.tensor(shift)[:, None, None]
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_protocol(protocol: int, order: str, tmp_path: Path) -> None:
    array = np.asarray(np.random.default_rng(0).random((3, 4)), dtype=np.float32, order=order)  # type: ignore[call-overload]
    state = read_detectron(
        dump(tmp_path / "a.pkl", {"blobs": {"fc6_w": array, "fc6_b": array[0].astype(">f8")}}, protocol)
    )
    assert np.array_equal(state["roi_heads.box_head.fc6.weight"], array)
    assert state["roi_heads.box_head.fc6.bias"].dtype == torch.float32
    assert np.allclose(state["roi_heads.box_head.fc6.bias"], array[0])


def test_what_python_2_wrote(tmp_path: Path) -> None:
    """Strings of bytes, not of text, and NumPy's old module names: as Detectron's published files are."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    raw = b"".join(b"\\x%02x" % byte for byte in array.tobytes())
    text = (
        b"(dp0\nS'blobs'\np1\n(dp2\nS'fc6_w'\np3\ncnumpy.core.multiarray\n_reconstruct\np4\n"
        b"(cnumpy\nndarray\np5\n(I0\ntp6\nS'b'\np7\ntp8\nRp9\n(I1\n(I2\nI3\ntp10\ncnumpy\ndtype\np11\n"
        b"(S'f4'\np12\nI0\nI1\ntp13\nRp14\n(I3\nS'<'\np15\nNNNI-1\nI-1\nI0\ntp16\nbI00\nS'"
        + raw
        + b"'\np17\ntp18\nbss."
    )
    path = tmp_path / "old.pkl"
    path.write_bytes(text)
    assert np.array_equal(read_detectron(path)["roi_heads.box_head.fc6.weight"], array)


def test_tensors_of_detectron2(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    content: dict[str, Tensor] = {"roi_heads.box_head.fc1.weight": whole.t(), "roi_heads.box_head.fc1.bias": whole[1]}
    pickled = read_detectron(dump(tmp_path / "a.pkl", {"model": content}))
    torch.save({"model": content}, tmp_path / "b.pth")
    saved = read_detectron(tmp_path / "b.pth")
    for state in (pickled, saved):
        assert torch.equal(state["roi_heads.box_head.fc6.weight"], whole.t())
        assert torch.equal(state["roi_heads.box_head.fc6.bias"], whole[1])


class Malice:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_wants_to_run_something_is_refused(protocol: int, tmp_path: Path) -> None:
    import os

    trace = tmp_path / "trace"
    for function, arguments in ((os.mkdir, (str(trace),)), (eval, (f"open({str(trace)!r}, 'w')",))):
        path = dump(tmp_path / "evil.pkl", {"blobs": {"fc6_w": Malice(function, *arguments)}}, protocol)
        with pytest.raises(DetectronError, match=r"evil\.pkl: the pickle asks for \w+\.(mkdir|eval), .* nothing of it"):
            read_detectron(path)
        assert not trace.exists()


def test_what_an_allowed_name_could_do_is_not_done(tmp_path: Path) -> None:
    """Bytes for torch that hold a pickle of their own, elements that are objects, and shapes beyond the bytes."""
    import os

    inner = pickle.dumps(Malice(os.mkdir, str(tmp_path / "trace")), 2)
    load = torch.storage._load_from_bytes  # type: ignore[attr-defined]
    rebuild = torch._utils._rebuild_tensor_v2
    nested = Malice(rebuild, Malice(load, inner), 0, (1,), (1,), False, None)
    objects = np.array([Malice(os.getcwd)], dtype=object)
    for value in (nested, np.array(["a", "b"]), np.array([1, None], dtype=object), "text", 3):
        path = dump(tmp_path / "a.pkl", {"blobs": {"fc6_w": value}})
        with pytest.raises(DetectronError, match=r"a\.pkl: fc6_w: .*download the file again"):
            read_detectron(path)
    with pytest.raises(DetectronError, match="asks for"):
        read_detectron(dump(tmp_path / "a.pkl", {"blobs": {"fc6_w": objects}}))
    content = dump(tmp_path / "a.pkl", {"blobs": {"fc6_w": np.zeros(3, np.float32)}}).read_bytes()
    assert content.count(b"K\x03\x85") == 1
    (tmp_path / "a.pkl").write_bytes(content.replace(b"K\x03\x85", b"K\xff\x85"))
    with pytest.raises(DetectronError, match="12 bytes for a shape of"):
        read_detectron(tmp_path / "a.pkl")
    assert not (tmp_path / "trace").exists()


def test_damage_is_one_error(tmp_path: Path) -> None:
    whole = pickle.dumps({"blobs": {"fc6_w": np.zeros((2, 3), np.float32), "fc6_b": np.zeros(2, np.float32)}}, 2)
    path = tmp_path / "a.pkl"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(DetectronError, match=r"a\.pkl"):
            read_detectron(path)
    generator = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[int(generator.integers(len(whole)))] = int(generator.integers(256))
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(DetectronError):
            read_detectron(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"blobs": {"retnet_cls_w": np.zeros(1, np.float32)}}, "retnet_cls_w: no detector here"),
        ({"blobs": {"nonsense": np.zeros(1, np.float32)}}, "nonsense: no detector here"),
        ({"model": {"head.cls.weight": np.zeros(1, np.float32)}}, "head.cls.weight: no detector here"),
        ({"blobs": {"conv_rpn_w": np.zeros(1, np.float32), "conv_rpn_fpn2_w": np.zeros(1, np.float32)}}, "second time"),
        ({"weights": {}}, "neither `blobs` nor `model`"),
        ([1, 2], "neither"),
    ],
)
def test_files_that_do_not_fit(content: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(DetectronError, match=words):
        read_detectron(dump(tmp_path / "a.pkl", content))
    with pytest.raises(CheckpointError, match=words):
        load_into(nn.Linear(1, 1), tmp_path / "a.pkl")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DetectronError, match="fetch"):
        read_detectron(tmp_path / "none.pkl")


def test_a_layer_too_few_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    model = meta(C4, "detectron")
    blobs = caffe2_blobs(C4)
    with pytest.raises(CheckpointError, match="belongs to another network"):
        load_into(model, dump(tmp_path / "a.pkl", {"blobs": blobs}))
    del blobs["fc6_w" if "fc6_w" in blobs else "cls_score_w"]
    with pytest.raises(CheckpointError, match=r"cls_score\.weight"):
        load_into(model, dump(tmp_path / "a.pkl", {"blobs": blobs}))


def test_anchors_of_the_releases() -> None:
    """Corners as the codes have them: Detectron's last pixel counts in, detectron2's lie about a cell's corner."""
    for stride, size, expected in [
        (4, 32, [[-22, -10, 25, 13], [-14, -14, 17, 17], [-10, -22, 13, 25]]),
        (64, 512, [[-332, -152, 395, 215], [-224, -224, 287, 287], [-148, -328, 211, 391]]),
    ]:
        shapes = RELEASES["detectron"].anchors(stride, (size,), (0.5, 1, 2))
        # The middle of the first cell, and the last pixel.
        assert (shapes + stride / 2 - torch.tensor([0, 0, 1, 1])).tolist() == expected
    shapes = RELEASES["detectron2"].anchors(16, (32, 64), (0.5, 1, 2)) + 8
    torch.testing.assert_close(shapes[0], torch.tensor([-22.627417, -11.313708, 22.627417, 11.313708]))
    torch.testing.assert_close(shapes[3], 2 * shapes[0])
    torch.testing.assert_close(shapes[1], torch.tensor([-16.0, -16, 16, 16]))


@pytest.mark.parametrize("release", ["detectron", "detectron2"])
def test_detectors_in_the_ways_of_a_release(release: str) -> None:
    """They run, on BGR bytes; strides lie on the first convolutions; the anchors lie as said."""
    ways = RELEASES[release]
    for name in (C4, FPN, MASK):
        model = meta(name, release)
        assert (model.caffe, model.mean) == (True, ways.mean)
        assert model.roi_heads.box_pool.aligned == ways.aligned
        assert model.backbone.body.layer2[0].conv1.stride == (2, 2)
        with torch.device("meta"):
            batch = model.preprocess([torch.zeros(3, 96, 128)])
            assert isinstance(batch, Batch)
    with torch.device("meta"):
        deep = build("mask_rcnn_x101_fpn", 3, release=release)
    assert deep.backbone.body.layer2[0].conv1.stride == (1, 1)
