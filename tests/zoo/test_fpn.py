"""Faster R-CNN on a pyramid: torchvision's own model is the oracle for names, detections and losses."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import box_iou
from torchvision.ops.misc import FrozenBatchNorm2d

from ops.images import Batch, Frame
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target
from zoo import CATALOG, build
from zoo.parts.roi_head import PyramidAlign
from zoo.two_stage.faster_rcnn import FasterRCNN
from zoo.two_stage.fpn import faster_rcnn_r50_fpn

SHORT, LONGEST = 160, 240


def on_meta(num_classes: int, **overrides: int) -> FasterRCNN:
    with torch.device("meta"):
        return faster_rcnn_r50_fpn(num_classes, **overrides)


@pytest.mark.parametrize(
    ("num_classes", "depth", "parameters", "keys"),
    [(90, 50, 41_755_286, 295), (80, 50, 41_704_036, 295), (90, 101, 60_695_190, 550), (80, 101, 60_643_940, 550)],
)
def test_parameters(num_classes: int, depth: int, parameters: int, keys: int) -> None:
    model = on_meta(num_classes, depth=depth)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == keys


def test_what_learns_is_what_torchvision_lets_learn() -> None:
    model = on_meta(90)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 41_532_886
    assert sum(v.numel() for v in model.state_dict().values()) == 41_861_526


@pytest.mark.parametrize(
    ("depth", "fingerprint"),
    [
        (50, "4f9eee25e399506a1db2361c217449fa816d69d5a0e17ce1b01f3eb4a9326b63"),
        (101, "3319d80d18e5a24852dc4054510c55489a6d0e80b66c4555dc8a1e1a34037ab1"),
    ],
)
def test_state_dict_has_torchvisions_names_and_order(depth: int, fingerprint: str) -> None:
    lines = [f"{key}:{tuple(value.shape)}" for key, value in on_meta(90, depth=depth).state_dict().items()]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == fingerprint


def test_parts() -> None:
    model = on_meta(90)
    counts = {
        name: sum(p.numel() for p in model.get_submodule(name).parameters())
        for name in ("backbone.fpn", "rpn", "roi_heads.box_head", "roi_heads.box_predictor")
    }
    assert list(counts.values()) == [3_344_384, 593_935, 13_895_680, 466_375]


def test_boxes_and_operations() -> None:
    model = on_meta(90)
    assert model.num_boxes((800, 1088)) == 217_413
    assert model.num_boxes((800, 1066)) == 217_413, "the input is padded to a multiple of 32"
    assert model.num_boxes((224, 160)) == 3 * (56 * 40 + 28 * 20 + 14 * 10 + 7 * 5 + 4 * 3)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.network_for_cost(Batch(torch.zeros(1, 3, 800, 800), (Frame((800, 800), (800, 800), (1.0, 1.0)),)))
    # torchvision states 134.38 GMACs for its checkpoint.
    assert counter.get_total_flops() / 2e9 == pytest.approx(134.38, abs=5e-3)


def test_preprocessing_sizes() -> None:
    model = on_meta(1)
    for size, inner, padded in [
        ((480, 640), (800, 1066), (800, 1088)),
        ((427, 640), (800, 1199), (800, 1216)),
        ((500, 375), (1066, 800), (1088, 800)),
        ((300, 1200), (333, 1333), (352, 1344)),
    ]:
        with torch.device("meta"):
            batch = model.preprocess([torch.zeros(3, *size)])
        assert (batch.frames[0].inner, batch.size) == (inner, padded)


@pytest.fixture(scope="module")
def pair() -> tuple[FasterRCNN, nn.Module]:
    """Ours and torchvision's with the same random weights, scaled so that there is something to detect."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
    oracle = TorchvisionFasterRCNN(backbone, 91, min_size=SHORT, max_size=LONGEST).eval()
    for module in oracle.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.uniform_(0.4, 0.6)
            module.bias.uniform_(-0.1, 0.1)
            module.running_mean.uniform_(-0.1, 0.1)

    def spread(layer: nn.Conv2d | nn.Linear, answers: Tensor, deviation: float) -> None:
        """Centre the answers `[..., channels]` of a layer and give them a standard deviation."""
        factor = deviation / answers.std(0)
        assert layer.bias is not None
        layer.bias.copy_((layer.bias - answers.mean(0)) * factor)
        layer.weight.mul_(factor.reshape(-1, *[1] * (layer.weight.ndim - 1)))

    with torch.no_grad():
        features = backbone(torch.stack([oracle.transform.normalize(x) for x in pictures(((SHORT, SHORT),) * 2)]))
        objectness, offsets = oracle.rpn.head([features["0"]])
        spread(oracle.rpn.head.cls_logits, objectness[0].movedim(1, -1).flatten(0, -2), 2.0)
        spread(oracle.rpn.head.bbox_pred, offsets[0].movedim(1, -1).flatten(0, -2), 0.3)
        corners = torch.rand(2, 200, 2) * SHORT / 2
        boxes = list(torch.cat([corners, corners + 10 + torch.rand(2, 200, 2) * SHORT / 2 - 10], -1))
        heads = oracle.roi_heads
        logits, offsets = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, boxes, [(SHORT, SHORT)] * 2)))
        spread(heads.box_predictor.cls_score, logits, 2.0)
        spread(heads.box_predictor.bbox_pred, offsets, 0.7)
    model = faster_rcnn_r50_fpn(90, short=SHORT, longest=LONGEST).eval()
    model.load_state_dict(oracle.state_dict(), strict=True)
    return model, oracle


def pictures(sizes: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """Smooth random images, as photographs are."""
    generator = torch.Generator().manual_seed(1)
    return [
        nn.functional.interpolate(
            torch.rand(1, 3, height // 15, width // 15, generator=generator), size=(height, width), mode="bicubic"
        ).clamp(0, 1)[0]
        for height, width in sizes
    ]


IMAGES = ((220, 290), (300, 171))
"""The batch is padded at the bottom of the one and at the right of the other."""


def test_detections_equal_torchvisions(pair: tuple[FasterRCNN, nn.Module]) -> None:
    model, oracle = pair
    with torch.no_grad():
        ours, theirs = model.eval()(pictures(IMAGES)), oracle.eval()(pictures(IMAGES))
    for one, other in zip(ours, theirs, strict=True):
        assert len(one) >= 20
        assert len(set(one.labels.tolist())) >= 10
        torch.testing.assert_close(one.scores, other["scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(one.boxes, other["boxes"], atol=1e-4, rtol=1e-5)
        assert torch.equal(one.labels, other["labels"] - 1)


def test_losses_equal_torchvisions(pair: tuple[FasterRCNN, nn.Module]) -> None:
    model, oracle = pair
    images = pictures(IMAGES)
    targets = [
        Target(torch.tensor([[30.0, 20, 120, 150], [100, 60, 260, 200], [5, 5, 25, 31]]), torch.tensor([3, 0, 89])),
        Target(torch.tensor([[20.0, 50, 160, 280]]), torch.tensor([17])),
    ]
    # Where everything fits into the sample, chance has no part in it.
    everything = 10**6
    oracle.rpn.fg_bg_sampler.batch_size_per_image = oracle.roi_heads.fg_bg_sampler.batch_size_per_image = everything
    kept = model.rpn.samples, model.roi_heads.samples
    model.rpn.samples = model.roi_heads.samples = everything
    with torch.no_grad():
        theirs = oracle.train()(images, [{"boxes": t.boxes, "labels": t.labels + 1} for t in targets])
        ours = model.train()(images, targets)
        assert min(value.item() for value in ours.values()) > 1e-4
        for name, other in {
            "objectness": "loss_objectness",
            "proposal_boxes": "loss_rpn_box_reg",
            "class": "loss_classifier",
            "boxes": "loss_box_reg",
        }.items():
            torch.testing.assert_close(ours[name], theirs[other], atol=1e-5, rtol=1e-4)
    model.rpn.samples, model.roi_heads.samples = kept


def test_older_names_load(pair: tuple[FasterRCNN, nn.Module]) -> None:
    model, _ = pair
    old = {}
    for key, value in model.state_dict().items():
        name = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if key.startswith("backbone.fpn."):
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        old[name] = value + 1
    assert {"backbone.fpn.inner_blocks.0.weight", "backbone.fpn.layer_blocks.3.bias", "rpn.head.conv.bias"} <= set(old)
    fresh = on_meta(90)
    fresh.load_state_dict(old, strict=True, assign=True)
    for key, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value + 1)


def test_epsilon_of_the_frozen_norms() -> None:
    with torch.device("meta"):
        model = faster_rcnn_r50_fpn(90, norm_eps=0.0)
    norms = [m for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == 53
    assert {norm.eps for norm in norms} == {0.0}


def test_small_is_a_detector() -> None:
    torch.manual_seed(0)
    assert_is_detector(build("faster_rcnn_r50_fpn", 8, small=True))


def test_small_overfits() -> None:
    assert_overfits(build("faster_rcnn_r50_fpn", 2, small=True), steps=80)


def test_small_fits_into_a_megabyte() -> None:
    model = build("faster_rcnn_r50_fpn", 8, small=True)
    assert isinstance(model, FasterRCNN)
    assert type(model) is type(on_meta(8))
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000


def test_anchors_of_the_small_size_reach_small_and_large_objects() -> None:
    model = build("faster_rcnn_r50_fpn", 8, small=True)
    assert isinstance(model, FasterRCNN)
    batch = model.preprocess([torch.zeros(3, 160, 160)])
    with torch.no_grad():
        anchors = model.rpn(model.backbone(batch.pixels), batch.size).anchors
    for side in (9, 16, 32, 64, 110, 150):
        box = torch.tensor([[5.0, 5.0, 5.0 + side, 5.0 + side]])
        assert box_iou(box, anchors).max() > 0.48, side


def test_losses_need_outputs_that_saw_the_targets() -> None:
    model = build("faster_rcnn_r50_fpn", 2, small=True)
    batch = model.preprocess([torch.rand(3, 160, 160)])
    with pytest.raises(ValueError, match="network\\(batch, targets\\)"):
        model.losses(model.network(batch), batch, [empty_target()])


def test_catalog_row() -> None:
    spec = CATALOG["faster_rcnn_r50_fpn"]
    assert spec.input_size == (800, 1088)
    assert spec.golden.parameters[90] == 41_755_286


def test_resnet_101_is_a_row_of_its_own() -> None:
    with torch.device("meta"):
        model, same = build("faster_rcnn_r101_fpn", 90), faster_rcnn_r50_fpn(90, depth=101)
    assert [(k, v.shape) for k, v in model.state_dict().items()] == [(k, v.shape) for k, v in same.state_dict().items()]


def test_level_of_a_region() -> None:
    """Worked examples; where two levels have one stride, a region is still one level further for each doubling."""
    sides = torch.tensor([20, 111.9, 112, 223, 224, 447, 448, 2000])
    boxes = torch.stack([torch.full_like(sides, 7), torch.full_like(sides, 5), 7 + sides, 5 + sides], 1)
    for strides in ((4, 8, 16, 32), (4, 8, 16, 16)):
        assert PyramidAlign(strides).levels(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert PyramidAlign((8, 16, 32)).levels(boxes).tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
