"""The released caffemodels of Fast R-CNN and Faster R-CNN: every layer has its place, and boxes mean the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ops.coders import CenterSizeCoder
from tests.caffe_files import field, message, packed
from zoo import build
from zoo.checkpoints import CheckpointError, load_into
from zoo.two_stage.fast_rcnn import FastRCNN

CONVOLUTIONS = [
    f"conv{stage}_{index}" for stage, count in enumerate((2, 2, 3, 3, 3), 1) for index in range(1, count + 1)
]
SECOND = ["fc6", "fc7", "cls_score", "bbox_pred"]
LAYERS = {
    "fast_rcnn_vgg16": CONVOLUTIONS + SECOND,
    "faster_rcnn_vgg16": [*CONVOLUTIONS, "rpn_conv/3x3", "rpn_cls_score", "rpn_bbox_pred", *SECOND],
}
THIN: dict[str, dict[str, Any]] = {
    "fast_rcnn_vgg16": {"head_width": 2},
    "faster_rcnn_vgg16": {"head_width": 2, "rpn_width": 2},
}


def thin(name: str) -> FastRCNN:
    model = build(name, 2, **THIN[name])
    assert isinstance(model, FastRCNN)
    return model


def module_of(layer: str) -> str:
    """Where a layer of the file belongs, written out apart from the detectors."""
    if layer.startswith("conv"):
        return f"backbone.body.stages.{int(layer[4]) - 1}.{layer}"
    first = {"rpn_conv/3x3": "conv.0.0", "rpn_cls_score": "cls_logits", "rpn_bbox_pred": "bbox_pred"}
    if layer in first:
        return f"rpn.head.{first[layer]}"
    return f"roi_heads.box_{'head' if layer.startswith('fc') else 'predictor'}.{layer}"


def blob_of(shape: torch.Size, number: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.resize(np.arange(1, 98, dtype=np.float32) / 97 + number, tuple(shape))


def write(path: Path, model: FastRCNN, layers: list[str]) -> None:
    content = []
    for number, layer in enumerate(layers):
        state = model.get_submodule(module_of(layer)).state_dict()
        kind = "Convolution" if state["weight"].ndim == 4 else "InnerProduct"
        blobs = [(7, packed(blob_of(state[part].shape, number))) for part in ("weight", "bias")]
        content.append(field(100, message((1, layer), (2, kind), *blobs)))
    path.write_bytes(b"".join(content))


@pytest.mark.parametrize("name", list(LAYERS))
def test_every_layer_has_its_place(name: str, tmp_path: Path) -> None:
    path = tmp_path / "final.caffemodel"
    model = thin(name)
    write(path, model, LAYERS[name])
    load_into(model, path)
    for number, layer in enumerate(LAYERS[name]):
        for part, value in model.get_submodule(module_of(layer)).state_dict().items():
            wanted = torch.from_numpy(blob_of(value.shape, number))
            if layer == "bbox_pred":
                factors = torch.tensor([10.0, 10, 5, 5]).repeat(len(value) // 4)
                wanted = wanted * (factors[:, None] if value.ndim == 2 else factors)
            assert torch.equal(value, wanted), f"{layer} {part}"
    for left_out in ("conv3_2", "bbox_pred"):
        write(path, model, [layer for layer in LAYERS[name] if layer != left_out])
        with pytest.raises(CheckpointError, match=left_out):
            load_into(model, path)
    if name == "faster_rcnn_vgg16":
        write(path, model, LAYERS[name])
        with pytest.raises(CheckpointError, match="rpn_conv"):
            load_into(thin("fast_rcnn_vgg16"), path)


def test_plain_offsets_decode_alike() -> None:
    """What a snapshot says, decoded without deviations, is what ours says, decoded with them."""
    model = thin("fast_rcnn_vgg16")
    regions = torch.tensor([[10.0, 20, 110, 220], [5, 5, 50, 40]])
    x = torch.randn(2, 2)
    with torch.no_grad():
        model.roi_heads.box_predictor.bbox_pred.weight.normal_(std=0.1)
        plain = model.roi_heads.box_predictor(x)[1]
        model.after_caffe()
        ours = model.roi_heads.box_predictor(x)[1]
    decoded = CenterSizeCoder().decode(plain, regions[:, None])
    torch.testing.assert_close(model.roi_heads.coder.decode(ours, regions[:, None]), decoded)


def test_other_backbones_have_no_such_files(tmp_path: Path) -> None:
    path = tmp_path / "final.caffemodel"
    path.write_bytes(b"")
    for name in ("faster_rcnn_vgg16", "faster_rcnn_r50_fpn"):
        with pytest.raises(CheckpointError, match="VGG-16"):
            load_into(build(name, 2, small=True), path)
