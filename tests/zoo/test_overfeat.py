"""OverFeat: the paper's counts and sizes, windows in one pass against windows one by one, losses against loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ops.images import Batch, Frame
from ops.sliding import interleave, offset_pools
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target
from zoo import CATALOG, build
from zoo.one_stage.overfeat import OverFeat, OverFeatOutputs, overfeat_accurate, overfeat_fast

BUILDERS = [overfeat_fast, overfeat_accurate]


def on_meta(builder: Any, num_classes: int = 999, **overrides: Any) -> OverFeat:
    with torch.device("meta"):
        return builder(num_classes, **overrides)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("builder", "parameters"), [(overfeat_fast, 145_920_872), (overfeat_accurate, 144_656_488)])
def test_parameters_of_the_classifier(builder: Any, parameters: int) -> None:
    """The paper's 145 M and 144 M: 1,000 outputs, here 999 classes and background."""
    model = on_meta(builder)
    assert count(model.features) + count(model.classifier) == parameters


@pytest.mark.parametrize(("builder", "cells", "channels"), [(overfeat_fast, 6, 3_072), (overfeat_accurate, 5, 4_096)])
def test_parameters_with_the_regressor(builder: Any, cells: int, channels: int) -> None:
    model = on_meta(builder, 200)
    pooled = 1_024 * cells**2
    regressor = (pooled + 1) * 4_096 + 4_097 * 1_024 + 1_025 * 4
    assert count(model.regressor) == regressor
    assert count(on_meta(builder, 200, class_wise=True).regressor) == regressor + 199 * 1_025 * 4
    last = 4_097 * 201
    assert count(model.classifier) == (pooled + 1) * channels + (channels + 1) * 4_096 + last
    assert count(model) == CATALOG[builder.__name__].golden.parameters[200]


@pytest.mark.parametrize(
    ("builder", "side", "sides"),
    [(overfeat_fast, 231, [56, 28, 24, 12, 12, 12, 12]), (overfeat_accurate, 221, [108, 36, 30, 15, 15, 15, 15, 15])],
)
def test_sides_of_the_maps(builder: Any, side: int, sides: list[int]) -> None:
    model = on_meta(builder)
    x, found = torch.empty(1, 3, side, side, device="meta"), []
    for layer in model.features:
        x = layer(x)
        if not isinstance(layer, nn.ReLU):
            found.append(x.shape[-1])
    assert found == sides
    pooled = F.max_pool2d(x, model.pool)
    assert pooled.shape[-1] == {231: 6, 221: 5}[side]
    assert model.classifier(F.max_pool2d(x, model.pool, 1)).shape[-2:] == (1, 1)


def stated(builder: Any, side: int) -> int:
    """The release's formula of windows along a side, without offsets."""
    return ((side - 11) // 4 + 1) // 8 - 6 if builder is overfeat_fast else ((side - 7) // 2 + 1) // 18 - 5


@pytest.mark.parametrize("builder", BUILDERS)
def test_windows_without_offsets_are_the_releases(builder: Any) -> None:
    model = on_meta(builder, 1)
    for side in [*range(model.window, 330, 7), 462, 461, 569]:
        # Of windows at every offset, each `pool`-th lies at the first offset.
        dense, _ = model.grid((side, side))
        assert -(-dense // model.pool) == stated(builder, side), side
    fast = {231: 1, 263: 2, 462: 8}
    accurate = {221: 1, 257: 2, 461: 7, 569: 10}
    for side, cells in (fast if builder is overfeat_fast else accurate).items():
        assert stated(builder, side) == cells
    with torch.device("meta"):
        for side in (model.window, 300, 347):
            x = torch.empty(1, 3, side, side + 40)
            for layer in model.features:
                x = layer(x)
            cells = model.classifier(F.max_pool2d(x, model.pool, 1)).shape[-2:]
            assert tuple(cells) == model.grid((side, side + 40))


SCALES = [
    ((245, 245), (17, 17), (5, 5), (1, 1), (3, 3)),
    ((281, 317), (20, 23), (6, 7), (2, 3), (6, 9)),
    ((317, 389), (23, 29), (7, 9), (3, 5), (9, 15)),
    ((389, 461), (29, 35), (9, 11), (5, 7), (15, 21)),
    ((425, 497), (32, 38), (10, 12), (6, 8), (18, 24)),
    ((461, 569), (35, 44), (11, 14), (7, 10), (21, 30)),
]


@pytest.mark.parametrize(("size", "layer5", "pooled", "mapped", "woven"), SCALES)
def test_the_papers_six_scales(size: Any, layer5: Any, pooled: Any, mapped: Any, woven: Any) -> None:
    model = on_meta(overfeat_accurate)
    x = torch.empty((1, 3, *size), device="meta")
    for layer in model.features:
        x = layer(x)
    assert tuple(x.shape[-2:]) == layer5
    blocks = offset_pools(x, 3)
    assert tuple(blocks.shape[-2:]) == pooled
    first = model.classifier[0]
    maps = F.conv2d(blocks[2, 1], first.weight, first.bias)
    assert tuple(maps.shape[-2:]) == mapped
    assert tuple(model.classifier(F.max_pool2d(x, 3, 1)).shape[-2:]) == woven == model.grid(size)
    assert on_meta(overfeat_accurate, sides=(min(size),)).num_boxes(size) == math.prod(woven)


def little(**overrides: Any) -> OverFeat:
    """Two classes; windows of 25 pixels, 6 apart."""
    torch.manual_seed(0)
    layers = ((8, 3, 2, 0), (0, 3, 3, 0), (12, 1, 1, 0))
    own = {"layers": layers, "pool": 2, "kernel": 2, "window": 25, "hidden": (16, 16), "box_hidden": (16, 16)}
    model = overfeat_accurate(2, **{**own, "sides": (37,), "longest": 100, "dropout": 0.0, **overrides})
    for head in (model.classifier, model.regressor):
        nn.init.normal_(head[-1].weight, std=0.3)
    return model.eval()


def batch_of(pixels: torch.Tensor) -> Batch:
    size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
    return Batch(pixels, (Frame(size, size, (1.0, 1.0)),) * len(pixels))


def test_windows_in_one_pass_are_windows_one_by_one() -> None:
    model = little()
    pixels = torch.randn(2, 3, 37, 49)
    with torch.no_grad():
        outputs = model.network(batch_of(pixels))
        assert outputs.windows.shape == (3 * 5, 4)
        for index, (x1, y1, x2, y2) in enumerate(outputs.windows.int().tolist()):
            alone = model.network(batch_of(pixels[:, :, y1:y2, x1:x2]))
            assert alone.windows.tolist() == [[0, 0, 25, 25]]
            torch.testing.assert_close(outputs.logits[:, index], alone.logits[:, 0])
            torch.testing.assert_close(outputs.edges[:, index], alone.edges[:, 0])


def test_offsets_put_between_one_another_give_the_same() -> None:
    """Section 3.3 word by word: pool at each offset, classify each, interleave."""
    model = little()
    pixels = torch.randn(1, 3, 43, 55)
    with torch.no_grad():
        x = pixels
        for layer in model.features:
            x = layer(x)
        kernel = model.classifier[0]
        rows = [
            torch.stack([model.classifier[1:](F.conv2d(block, kernel.weight, kernel.bias)) for block in row])
            for row in offset_pools(x, 2)
        ]
        woven = interleave(torch.stack(rows))
        logits = model.network(batch_of(pixels)).logits
    torch.testing.assert_close(woven[0].flatten(1).T, logits[0], rtol=1e-4, atol=1e-5)


def test_scales_and_where_their_windows_lie() -> None:
    model = little(sides=(40, 80))
    batch = model.preprocess([torch.rand(3, 40, 50)])
    # 80 x 100, filled up to 25 + 6 n; half of it is 43 x 52.
    assert batch.size == (85, 103)
    with torch.no_grad():
        outputs = model.network(batch)
    assert outputs.sizes == (4 * 6, 11 * 14)
    assert model.num_boxes(batch.size) == 4 * 6 + 11 * 14 == len(outputs.windows)
    assert outputs.windows[:2].tolist() == [[0, 0, 50, 50], [12, 0, 62, 50]]
    assert outputs.windows[24 + 14].tolist() == [0, 6, 25, 31]


def test_scores_of_the_whole_image() -> None:
    logits = torch.tensor([[[0.0, 1, 2], [0, 3, 1], [0, -1, 4], [0, 1, 1]]])
    outputs = OverFeatOutputs(logits, torch.zeros(1, 4, 4), torch.zeros(4, 4), (3, 1))
    p = logits[0].softmax(-1)
    wanted = [(p[1, 1] + p[3, 1]) / 2, (p[2, 2] + p[3, 2]) / 2]
    torch.testing.assert_close(little().class_scores(outputs)[0], torch.stack(wanted))


@pytest.mark.parametrize("class_wise", [False, True])
def test_losses_against_loops(class_wise: bool) -> None:
    model = little(class_wise=class_wise, box_weight=3.0)
    pixels = torch.randn(3, 3, 43, 55)
    with torch.no_grad():
        outputs = model.network(batch_of(pixels))
    some = Target(torch.tensor([[1.0, 2, 24, 27], [20.0, 5, 26, 9], [30, 10, 54, 34]]), torch.tensor([1, 0, 1]))
    targets = [some, empty_target(), Target(torch.tensor([[10.0, 9, 40, 35]]), torch.tensor([0]))]
    positives, class_loss, box_loss = 0, 0.0, 0.0
    for image, target in enumerate(targets):
        negatives, mine = [], 0
        overlaps = [[overlap(box, w) for w in outputs.windows.tolist()] for box in target.boxes.tolist()]
        for index, window in enumerate(outputs.windows.tolist()):
            entropy = (-outputs.logits[image, index].log_softmax(-1)).tolist()
            column = [row[index] for row in overlaps] or [0.0]
            best = max(range(len(column)), key=column.__getitem__)
            if column[best] >= 0.5 or any(row[index] == max(row) > 0 for row in overlaps):
                mine += 1
                label = int(target.labels[best])
                class_loss += entropy[1 + label]
                edges = outputs.edges[image, index, label] if class_wise else outputs.edges[image, index]
                wanted = (target.boxes[best] - torch.tensor(window)) / 25
                box_loss += 0.5 * (edges - wanted).square().sum().item()
            elif column[best] < 0.3:
                negatives.append(entropy[0])
        class_loss += sum(sorted(negatives, reverse=True)[: max(3 * mine, 3)])
        positives += mine
    assert positives >= 8
    losses = model.losses(outputs, batch_of(pixels), targets)
    assert losses["class"].item() == pytest.approx(class_loss / positives, rel=1e-4)
    assert losses["box"].item() == pytest.approx(3 * box_loss / positives, rel=1e-4)


def overlap(a: list[float], b: list[float]) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(across, 0.0) * max(down, 0.0)
    return shared and shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_boxes_are_windows_moved_by_their_edges() -> None:
    model = little()
    windows = torch.tensor([[10.0, 20, 60, 70]])
    outputs = OverFeatOutputs(torch.zeros(1, 1, 3), torch.tensor([[[0.1, -0.2, 0.0, 0.5]]]), windows, (1,))
    assert model.boxes(outputs).tolist() == [[[15, 10, 60, 95]]]


def test_merged_windows_outscore_a_single_one() -> None:
    model = little()
    windows = torch.tensor([[0.0, 0, 25, 25], [6, 0, 31, 25], [60, 60, 85, 85]])
    edges = torch.zeros(1, 3, 4)
    edges[0, 1] = -6 / 25 * torch.tensor([1.0, 0, 1, 0])
    logits = torch.tensor([[[0.0, 1, -9], [0, 1, -9], [0, 2, -9]]])
    frame = Frame((100, 100), (100, 100), (1.0, 1.0))
    (found,) = model.postprocess(
        OverFeatOutputs(logits, edges, windows, (3,)), Batch(torch.zeros(1, 3, 100, 100), (frame,))
    )
    torch.testing.assert_close(found.boxes, windows[[0, 2]], atol=1e-4, rtol=0)
    p = logits[0].softmax(-1)[:, 1]
    torch.testing.assert_close(found.scores, torch.stack([p[0] + p[1], p[2]]))


def test_all_scales_share_the_statistics_of_a_step() -> None:
    model = build("overfeat_fast", 2, small=True).train()
    first, norm = model.features[0], model.features[1]
    assert isinstance(norm, nn.BatchNorm2d)
    batch = model.preprocess([torch.rand(3, 160, 160)])
    with torch.no_grad():
        model.network(batch)
        scales = [model._fill(model._scaled(batch.pixels, side / 160)) for side in model.sides]
        values = torch.cat([first(x).flatten(2) for x in scales], 2)[0]
    torch.testing.assert_close(norm.running_mean, 0.1 * values.mean(1))
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("name", ["overfeat_fast", "overfeat_accurate"])
def test_small_is_a_detector(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, 8, small=True)
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000
    assert_is_detector(model)


@pytest.mark.parametrize("name", ["overfeat_fast", "overfeat_accurate"])
def test_small_overfits(name: str) -> None:
    assert_overfits(build(name, 2, small=True), steps=40, lr=4e-3)


def test_classes_with_regressors_of_their_own() -> None:
    assert_is_detector(little(class_wise=True))
