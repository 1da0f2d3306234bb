"""The released caffemodel of py-R-FCN: every layer has its place, and scores and boxes mean the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ops.coders import CenterSizeCoder
from ops.position_sensitive import ps_roi_pool
from tests.caffe_files import Array, layer, write_caffemodel
from zoo import build
from zoo.backbones.caffe_resnet import CaffeResNet
from zoo.checkpoints import CheckpointError, load_into
from zoo.parts.frozen import FrozenNorm
from zoo.parts.roi_head import RoIHead
from zoo.two_stage.faster_rcnn import on_one_map
from zoo.two_stage.rfcn import RFCN, ScoreMaps, Trunk, Vote

CLASSES, SIZE = 2, 7
FACTORS = (10.0, 10.0, 5.0, 5.0)
BLOCKS = [
    *("2a", "2b", "2c"),
    *("3a", "3b1", "3b2", "3b3"),
    *("4a", *(f"4b{index}" for index in range(1, 23))),
    *("5a", "5b", "5c"),
]
HEADS = {
    "rpn_conv/3x3": "rpn.head.conv.0.0",
    "rpn_cls_score": "rpn.head.cls_logits",
    "rpn_bbox_pred": "rpn.head.bbox_pred",
    "conv_new_1": "roi_heads.box_pool.conv_new_1",
    "rfcn_cls": "roi_heads.box_pool.rfcn_cls",
    "rfcn_bbox": "roi_heads.box_pool.rfcn_bbox",
}


def thin(classes: int = CLASSES) -> RFCN:
    """All layers of ResNet-101's R-FCN, few channels."""
    body = CaffeResNet(("res4", "res5"), width=2, dilated=True, norm=FrozenNorm)
    maps = ScoreMaps(body.channels[-1], classes, 16, width=3, size=SIZE)
    trunk = Trunk(body, body.channels[0], body.channels[-1], 16)
    heads = RoIHead(maps, nn.Identity(), Vote(classes))
    return on_one_map(classes, trunk.module, trunk.first, trunk.stride, heads, kind=RFCN, rpn_width=2)


def body_layers() -> dict[str, str]:
    """Convolutions of the trunk by their names in the release, and our modules, written out apart from the detector."""
    places = {"conv1": "backbone.conv1"}
    for stage in "2345":
        for index, block in enumerate(block for block in BLOCKS if block[0] == stage):
            branches = ("branch1",) * (index == 0) + ("branch2a", "branch2b", "branch2c")
            places |= {f"res{block}_{branch}": f"backbone.res{stage}.{index}.{branch}" for branch in branches}
    return places


def blobs_of(model: RFCN) -> dict[str, tuple[str, list[Array]]]:
    """Type and blobs of each layer of a file that fits the model, all values different from each other's."""
    numbers = np.random.default_rng(1)

    def draw(*shape: int) -> Array:
        return (0.5 + numbers.random(shape)).astype(np.float32)

    content: dict[str, tuple[str, list[Array]]] = {}
    for theirs, ours in body_layers().items():
        weight = model.get_parameter(f"{ours}.conv.weight")
        content[theirs] = ("Convolution", [draw(*weight.shape)])
        tail = theirs.removeprefix("res") if theirs != "conv1" else "_conv1"
        channels = len(weight)
        # Statistics are sums that the factor divides: a power of two, so that nothing is rounded.
        factor = np.array([4.0], np.float32)
        content[f"bn{tail}"] = ("BatchNorm", [draw(channels), draw(channels), factor])
        content[f"scale{tail}"] = ("Scale", [draw(channels), draw(channels)])
    for theirs, ours in HEADS.items():
        state = model.get_submodule(ours).state_dict()
        content[theirs] = ("Convolution", [draw(*state["weight"].shape), draw(*state["bias"].shape)])
    return content


def write(path: Path, content: Mapping[str, tuple[str, list[Array]]]) -> Path:
    layers = [layer(name, kind, blobs=blobs) for name, (kind, blobs) in content.items()]
    # What has no blobs needs no mention.
    return write_caffemodel(path, *layers, layer("psroipooled_cls_rois", "PSROIPooling"))


def copy(model: RFCN) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_every_layer_has_its_place(tmp_path: Path) -> None:
    model = thin()
    content = blobs_of(model)
    assert len(content) == 3 * 104 + 6
    load_into(model, write(tmp_path / "final.caffemodel", content))
    filled = set()

    def assert_holds(name: str, blob: Array, **tolerance: float) -> None:
        filled.add(name)
        torch.testing.assert_close(model.state_dict()[name], torch.from_numpy(blob), **(tolerance or same))

    same = {"rtol": 0.0, "atol": 0.0}
    for theirs, ours in body_layers().items():
        tail = theirs.removeprefix("res") if theirs != "conv1" else "_conv1"
        assert_holds(f"{ours}.conv.weight", content[theirs][1][0])
        mean, variance, _ = content[f"bn{tail}"][1]
        assert_holds(f"{ours}.norm.running_mean", mean / 4)
        # Through an epsilon and back.
        assert_holds(f"{ours}.norm.running_var", variance / 4, rtol=0.0, atol=1e-6)
        for part, blob in zip(("weight", "bias"), content[f"scale{tail}"][1], strict=True):
            assert_holds(f"{ours}.norm.{part}", blob)
    for theirs, ours in HEADS.items():
        for part, blob in zip(("weight", "bias"), content[theirs][1], strict=True):
            if theirs == "rfcn_bbox":
                factors = np.array(FACTORS, np.float32).reshape(1, 4, 1, *(1,) * (blob.ndim - 1))
                blob = (blob.reshape(2, 4, SIZE**2, *blob.shape[1:]) * factors).reshape(blob.shape)
            assert_holds(f"{ours}.{part}", blob)
    assert filled == {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", ["conv1", "bn3b2_branch2b", "scale4b22_branch2c", "rpn_conv/3x3", "rfcn_bbox"])
def test_missing_layers_are_named(name: str, tmp_path: Path) -> None:
    model = thin()
    content = blobs_of(model)
    del content[name]
    before = copy(model)
    with pytest.raises(CheckpointError, match=f"'{name}'"):
        load_into(model, write(tmp_path / "final.caffemodel", content))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_other_networks_are_refused(tmp_path: Path) -> None:
    """Whatever is left over or of another shape; the offsets are not multiplied then either."""
    model = thin()
    content, before = blobs_of(model), copy(model)
    path = tmp_path / "final.caffemodel"
    one = np.ones((1, 3, 1, 1), np.float32)
    with pytest.raises(CheckpointError, match="'res4b23_branch2a' is used nowhere"):
        load_into(model, write(path, {**content, "res4b23_branch2a": ("Convolution", [one])}))
    # With boxes of each class: 4 * 7 * 7 * (C + 1) channels.
    aware = [np.ones((588, 3, 1, 1), np.float32), np.ones(588, np.float32)]
    with pytest.raises(CheckpointError, match=r"'rfcn_bbox': shape \(588, 3, 1, 1\)"):
        load_into(model, write(path, {**content, "rfcn_bbox": ("Convolution", aware)}))
    with pytest.raises(CheckpointError, match="'rfcn_cls': shape"):
        load_into(model, write(path, {**content, **{"rfcn_cls": blobs_of(thin(3))["rfcn_cls"]}}))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_class_is_a_run_of_channels_and_offsets_are_plain(tmp_path: Path) -> None:
    """What the file says, computed channel by channel as the release has it, is what we detect with."""
    model = thin().eval()
    content = blobs_of(model)
    numbers = np.random.default_rng(2)
    for name in ("rfcn_cls", "rfcn_bbox"):
        kind, blobs = content[name]
        content[name] = (kind, [(0.1 * numbers.standard_normal(blob.shape)).astype(np.float32) for blob in blobs])
    load_into(model, write(tmp_path / "final.caffemodel", content))
    banks = model.roi_heads.box_pool
    x = torch.rand(1, 3, 6, 8)
    regions = torch.tensor([[10.0, 20, 90, 70], [5, 5, 50, 40]])
    with torch.no_grad():
        logits, offsets = model.roi_heads.box_predictor(banks.pool(x, [regions]))

    def votes(name: str, output: int) -> Tensor:
        """Mean of the cells of one output of the release: `group_size` squared channels from its own first."""
        weight, bias = (torch.from_numpy(blob)[output * 49 : (output + 1) * 49] for blob in content[name][1])
        return ps_roi_pool(nn.functional.conv2d(x, weight, bias), [regions], 7, 16).mean((1, 2, 3))

    wanted = torch.stack([votes("rfcn_cls", output) for output in range(CLASSES + 1)], 1)
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-6)
    # Columns 4 to 7 are the object's, and move a region without further factors.
    plain = torch.stack([votes("rfcn_bbox", output) for output in range(4, 8)], 1)
    decoded = model.roi_heads.coder.decode(offsets[:, -1], regions)
    torch.testing.assert_close(decoded, CenterSizeCoder().decode(plain, regions), rtol=1e-5, atol=1e-4)
    assert (decoded - regions).abs().max() > 0.1


def test_the_first_stage_scores_the_background_first(tmp_path: Path) -> None:
    """Of 18 scores 9 are the background's, then come those of the anchors being objects; offsets stay as they are."""
    model = thin().eval()
    content = blobs_of(model)
    load_into(model, write(tmp_path / "final.caffemodel", content))
    maps = torch.rand(1, model.backbone.channels[0], 4, 5)  # type: ignore[index,arg-type]
    with torch.no_grad():
        logits, offsets = model.rpn.head([maps])
        hidden = model.rpn.head.conv(maps)
    (scores, score_bias), (boxes, box_bias) = (
        [torch.from_numpy(blob) for blob in content[name][1]] for name in ("rpn_cls_score", "rpn_bbox_pred")
    )
    both = nn.functional.conv2d(hidden, scores, score_bias).view(1, 2, 9, 4, 5)
    chances = both.softmax(1)[:, 1].permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(logits.sigmoid(), chances)
    wanted = nn.functional.conv2d(hidden, boxes, box_bias).permute(0, 2, 3, 1).reshape(1, -1, 4)
    torch.testing.assert_close(offsets, wanted)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("rfcn_r101", {"small": True}, "LastMap"),
        ("deformable_rfcn_r101", {}, "DeformableMaps"),
        ("couplenet_r101", {}, "CoupledMaps"),
        ("light_head_rcnn_r101", {}, "ThinMaps"),
    ],
)
def test_relatives_have_no_such_files(name: str, changes: dict[str, Any], words: str) -> None:
    with torch.device("meta"):
        model = build(name, 20, **changes)
    with pytest.raises(ValueError, match=words):
        model.caffe_names()
