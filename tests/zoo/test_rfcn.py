"""R-FCN: golden numbers, what the score maps mean, and which regions are learned from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ops.images import Batch
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits
from zoo import build
from zoo.parts.frozen import FrozenNorm
from zoo.two_stage.rfcn import RECIPE, RFCN, ScoreMaps, Vote, rfcn_r50, rfcn_r101


def on_meta(num_classes: int = 20, **changes: object) -> RFCN:
    with torch.device("meta"):
        return rfcn_r101(num_classes, **changes)  # type: ignore[arg-type]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_by_part() -> None:
    model = on_meta()
    assert parameters(model) == 50_801_667
    assert parameters(model.rpn) == 4_746_806
    maps = model.roi_heads.box_pool
    assert isinstance(maps, ScoreMaps)
    assert [parameters(layer) for layer in (maps.conv_new_1, maps.rfcn_cls, maps.rfcn_bbox)] == [
        2_098_176,
        1_054_725,
        401_800,
    ]
    coco = on_meta(80, scales=(4, 8, 16, 32))
    assert parameters(coco) == 53_824_401
    assert parameters(coco.rpn) == 4_756_040
    assert coco.roi_heads.box_pool.rfcn_cls.out_channels == 3_969  # type: ignore[attr-defined]
    with torch.device("meta"):
        assert parameters(rfcn_r50(20)) == 31_809_539


def test_what_does_not_learn() -> None:
    model = on_meta()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    convolutions = {name for name in frozen if model.get_parameter(name).ndim == 4}
    assert all(name.startswith(("backbone.conv1.", "backbone.res2.")) for name in convolutions)
    assert len(convolutions) == 1 + 10
    assert {name for name, p in model.named_parameters() if p.ndim == 1 and name.startswith("backbone.")} < frozen
    model.train()
    norms = [module for module in model.modules() if isinstance(module, FrozenNorm)]
    assert len(norms) == 104
    assert not any(norm.training for norm in norms)
    before = FrozenNorm(2)
    before.train()
    before(torch.randn(4, 2, 3, 3))
    assert before.running_mean.tolist() == [0, 0]  # type: ignore[union-attr]


def test_maps_and_settings() -> None:
    model = on_meta()
    assert model.num_boxes((600, 1000)) == 21_546
    with torch.device("meta"):
        maps = model.backbone(torch.zeros(1, 3, 600, 1000))
        pooled = model.roi_heads.box_pool(maps, [torch.zeros(300, 4)])
    assert [tuple(x.shape) for x in maps] == [(1, 1024, 38, 63), (1, 2048, 38, 63)], "stride 16 in both"
    assert pooled.shape == (300, 21 + 8, 7, 7)
    blocks = list(model.backbone.res5)  # type: ignore[arg-type]
    assert [block.branch2b.conv.dilation for block in blocks] == [(2, 2)] * 3  # type: ignore[union-attr]
    assert (model.rpn.before_nms, model.rpn.after_nms) == ((6_000, 6_000), (300, 300))
    heads = model.roi_heads
    assert (heads.hard, heads.hard_nms, heads.nms, heads.overlap) == (128, None, 0.3, 0.5)
    assert [RECIPE.rate(step) for step in (0, 79_999, 80_000)] == pytest.approx([1e-3, 1e-3, 1e-4])


def test_votes_are_means_of_the_cells_own_maps() -> None:
    """One class whose map of the cell in row i, column j is 10 i + j everywhere: every region votes 11 at k = 3."""
    maps = ScoreMaps(1, 1, 8, width=1, size=3)
    for layer in (maps.conv_new_1, maps.rfcn_cls, maps.rfcn_bbox):
        nn.init.zeros_(layer.weight)
    bins = torch.tensor([[10.0 * i + j for j in range(3)] for i in range(3)]).flatten()
    maps.rfcn_cls.bias.data = torch.cat([torch.zeros(9), bins])
    maps.rfcn_bbox.bias.data = torch.arange(8.0).repeat_interleave(9)
    boxes = torch.tensor([[3.0, 5, 60, 70], [0, 0, 160, 160]])
    pooled = maps([torch.zeros(1, 1, 20, 20)], [boxes])
    assert pooled[0, 1].tolist() == bins.view(3, 3).tolist()
    logits, offsets = Vote(1)(pooled)
    assert logits.tolist() == [[0, 11]] * 2
    assert offsets.tolist() == [[[0, 1, 2, 3], [4, 5, 6, 7]]] * 2, "the foreground's box is the second"


def test_only_the_foregrounds_box_is_read() -> None:
    """Detections do not change with the first four banks of boxes, and do with the others."""
    torch.manual_seed(0)
    model = build("rfcn_r101", 2, small=True).eval()
    assert isinstance(model, RFCN)
    heads = model.roi_heads
    logits, offsets = torch.randn(5, 3), torch.randn(5, 2, 4)
    boxes = torch.tensor([[10.0, 10, 60, 60]]).repeat(5, 1)
    found = heads.detect(logits, offsets, boxes, (160, 160))
    offsets[:, 0] += 1
    assert torch.equal(heads.detect(logits, offsets, boxes, (160, 160)).boxes, found.boxes)
    offsets[:, 1] += 1
    assert not torch.equal(heads.detect(logits, offsets, boxes, (160, 160)).boxes, found.boxes)


def test_the_first_stage_reads_the_first_map() -> None:
    torch.manual_seed(0)
    model = build("rfcn_r101", 2, small=True).eval()
    assert isinstance(model, RFCN)
    batch = model.preprocess([torch.rand(3, 160, 160)])
    (x,) = model.backbone(batch.pixels)
    first, _ = model.propose([x, torch.full_like(x, torch.nan)], batch, None)
    assert first is not None
    assert torch.isfinite(first.logits).all()


def test_hard_regions_alone_are_learned_from() -> None:
    """All proposals are looked at; the gradient reaches as many votes an image as there are hard regions."""
    torch.manual_seed(0)
    model = build("rfcn_r101", 2, small=True, hard=7)
    assert isinstance(model, RFCN)
    batch: Batch = model.preprocess([torch.rand(3, 160, 160)] * 2)
    targets = [Target(torch.tensor([[20.0, 20, 80, 90]]), torch.tensor([1]))] * 2
    outputs = model.network(batch, targets)
    assert outputs.samples is not None
    assert [len(sample.boxes) for sample in outputs.samples] == [len(boxes) for boxes in outputs.regions]
    assert len(outputs.logits) > 50
    outputs.logits.retain_grad()
    model.losses(outputs, batch, targets)["class"].backward()
    assert outputs.logits.grad is not None
    assert int(outputs.logits.grad.any(1).sum()) == 14


def test_regions_cost_no_parameters_of_their_own() -> None:
    """Whatever the number of regions, the products are those of the score maps."""
    from benchmarks.cost import count_macs

    few, many = on_meta(), on_meta(after_nms=(2_000, 2_000))
    assert many.cost_regions == 2_000
    assert count_macs(few.eval(), (600, 1000)) == count_macs(many.eval(), (600, 1000)) == 138_689_639_424


def test_small_is_a_detector() -> None:
    torch.manual_seed(0)
    assert_is_detector(build("rfcn_r101", 8, small=True))


def test_small_overfits() -> None:
    assert_overfits(build("rfcn_r101", 2, small=True, hard=16), steps=80)


def test_small_is_the_same_class_and_fits_into_a_megabyte() -> None:
    model = build("rfcn_r101", 8, small=True)
    assert type(model) is type(on_meta())
    assert all(p.requires_grad for p in model.parameters())
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000
