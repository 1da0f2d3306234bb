"""R-CNN: the release's crops, its linear learners by their definitions, and what `fit` promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ops.coders import CenterSizeCoder
from ops.structures import Target
from tests.contract import assert_fit_goes_on, assert_is_fitted_detector, empty_target, forms, toy_images
from zoo import build
from zoo.backbones.alexnet import CaffeNet
from zoo.detector import listening
from zoo.parts import region_fit
from zoo.parts.linear import BoxRegressors, HardNegatives, LinearSVMs, ridge, whitening
from zoo.parts.region_fit import RegionTraining, draw_regions
from zoo.two_stage.rcnn import RCNN, RECIPE, crop_windows, rcnn_alexnet, warp_regions


def tiny(steps: int = 25) -> RCNN:
    torch.manual_seed(0)
    model = build("rcnn_alexnet", 2, small=True, widths=(8, 12, 16), head_width=32, crop=32, context=3, steps=steps)
    assert isinstance(model, RCNN)
    return model


def inclusive(*box: float) -> Tensor:
    """A box that counts pixels from 1 and includes the last, in continuous pixels."""
    return torch.tensor([[box[0] - 1, box[1] - 1, box[2], box[3]]])


@pytest.mark.parametrize(
    ("box", "window", "start", "sides", "crop"),
    [
        ((100, 100, 200, 250), (92, 88, 209, 263), (0, 0), (227, 227), 227),
        ((1, 1, 60, 40), (1, 1, 66, 44), (16, 14), (211, 213), 227),
        ((400, 300, 500, 375), (392, 294, 500, 375), (0, 0), (210, 209), 227),
        ((100, 100, 200, 250), (92, 87, 209, 264), (0, 0), (224, 224), 224),
    ],
)
def test_crop_windows_are_the_releases(
    box: tuple[float, ...], window: tuple[float, ...], start: tuple[int, int], sides: tuple[int, int], crop: int
) -> None:
    windows, starts, found = crop_windows(inclusive(*box), (375, 500), crop, 16)
    assert windows.tolist() == inclusive(*window).tolist()
    assert starts[0].tolist() == list(start)
    assert found[0].tolist() == list(sides)


def slow_warp(pixels: Tensor, box: Tensor, crop: int, context: int) -> Tensor:
    windows, starts, sides = crop_windows(box[None], (pixels.shape[1], pixels.shape[2]), crop, context)
    x1, y1, x2, y2 = (int(v) for v in windows[0])
    (left, top), (width, height) = ([int(v) for v in row[0]] for row in (starts, sides))
    canvas = pixels.new_zeros((3, crop, crop))
    part = pixels[None, :, y1:y2, x1:x2]
    resized = F.interpolate(part, (height, width), mode="bilinear", align_corners=False)
    canvas[:, top : top + height, left : left + width] = resized[0]
    return canvas


def test_warp_is_a_crop_resized_on_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand((3, 40, 60), generator=generator) - 0.5
    corner = torch.rand((30, 2), generator=generator) * torch.tensor([50.0, 30.0])
    boxes = torch.cat([corner, corner + 1 + torch.rand((30, 2), generator=generator) * 40], 1)
    boxes = torch.minimum(boxes, torch.tensor([60.0, 40.0, 60.0, 40.0]))
    boxes = torch.cat([boxes, torch.tensor([[0.0, 0.0, 60.0, 40.0], [0.0, 0.0, 1.0, 1.0], [59.0, 39.0, 60.0, 40.0]])])
    crops = warp_regions(pixels, boxes, 24, 3)
    assert crops.shape == (33, 3, 24, 24)
    for crop, box in zip(crops, boxes, strict=True):
        torch.testing.assert_close(crop, slow_warp(pixels, box, 24, 3), atol=1e-5, rtol=0)
    assert (crops[30] == 0).float().mean() > 0.2, "beyond the image there is the mean colour"
    assert warp_regions(pixels, boxes[:0], 24, 3).shape == (0, 3, 24, 24)


def test_caffenet() -> None:
    net = CaffeNet()
    assert sum(p.numel() for p in net.parameters()) == 2_334_080
    assert net(torch.zeros((1, 3, 227, 227))).shape == (1, 256, 6, 6)
    names = [name for name, _ in net.layers.named_children()]
    assert names.index("pool1") < names.index("norm1"), "Caffe pools first"


def test_counts() -> None:
    with torch.device("meta"):
        model = rcnn_alexnet(20)
    parameters = {name: p.numel() for name, p in model.named_parameters()}
    assert sum(parameters.values()) == 56_954_261
    assert sum(count for name, count in parameters.items() if not name.startswith("fc8")) == 56_868_224
    assert sum(b.numel() for b in model.svms.buffers()) == 81_940
    assert sum(b.numel() for b in model.regressors.buffers()) == 737_360
    assert model.svms.weight.shape == (20, 4096)
    assert RECIPE.batch * RegionTraining(RECIPE).samples == 128
    assert RECIPE.batch * RegionTraining(RECIPE).objects == 32


def test_ridge() -> None:
    x = torch.tensor([[1.0, 0, 1], [0, 1, 1], [1, 1, 1]])
    y = torch.tensor([[0.1], [0.2], [0.25]])
    for penalty, wanted in ((0.1, [0.041502, 0.132411, 0.065217]), (1000.0, [0.000348, 0.000448, 0.000547])):
        assert ridge(x.T @ x, x.T @ y, penalty)[:, 0].tolist() == pytest.approx(wanted, abs=1e-6)


def test_whitening() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 4)) @ np.diag([1.0, 2.0, 0.5, 0.1])
    covariance = torch.from_numpy(np.cov(rows.T))
    forth, back = whitening(covariance, 1e-9)
    torch.testing.assert_close(forth @ covariance @ forth, torch.eye(4, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(forth @ back, torch.eye(4, dtype=torch.float64))


def test_regressors_are_the_releases_over_all_examples() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn((700, 6), generator=generator), torch.randn((700, 4), generator=generator) * 0.1 + 0.3
    y = y + 0.2 * x[:, :4]
    regressors = BoxRegressors(2, 6)
    for part in range(7):
        rows = slice(100 * part, 100 * part + 100)
        regressors.meet(1, x[rows], y[rows])
    scale, penalty = 3.0, 50.0
    regressors.learn(scale, penalty)
    # Slowly: whiten the targets, regress each on the scaled features and a constant, and go back.
    ones = torch.ones((700, 1), dtype=torch.float64)
    design, targets = torch.cat([x.double() * scale, ones], 1), y.double()
    mean = targets.mean(0)
    values, vectors = torch.linalg.eigh((targets - mean).T @ (targets - mean) / 700 + 1e-3 * torch.eye(4).double())
    forth = vectors @ torch.diag(values**-0.5) @ vectors.T
    weights = torch.linalg.solve(
        design.T @ design + penalty * torch.eye(7).double(), design.T @ ((targets - mean) @ forth)
    )
    wanted = design @ weights @ torch.linalg.inv(forth) + mean
    torch.testing.assert_close(regressors(x)[:, 1], wanted.float(), atol=1e-5, rtol=1e-4)
    assert not regressors(x)[:, 0].any(), "a class that was not met corrects nothing"


def test_offsets_are_the_papers() -> None:
    region, box = torch.tensor([10.0, 20, 110, 220]), torch.tensor([30.0, 40, 90, 260])
    assert CenterSizeCoder().encode(box, region).tolist() == pytest.approx([0, 0.15, -0.510826, 0.09531], abs=1e-6)


def test_machines_mine_hard_negatives_and_drop_easy_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    positives = torch.randn((60, 5), generator=generator) + torch.tensor([4.0, 0, 0, 0, 0])
    machines = LinearSVMs(2, 5)
    miner = HardNegatives(machines, 1, positives, scale=1.0, seed=0, c=1.0, every=50)

    def meet(shift: float, count: int) -> None:
        features = torch.randn((count, 5), generator=generator) + torch.tensor([shift, 0, 0, 0, 0])
        miner.meet(features, machines(features)[:, 1])

    meet(-4.0, 40)
    assert miner.trained, "the first image's negatives are all learned from"
    before = machines.weight.clone()
    meet(-4.0, 500)
    assert sum(map(len, miner.fresh)) < 50, "easy ones are not kept"
    meet(1.0, 80)
    assert not miner.fresh, "enough hard ones train the machine again"
    assert not torch.equal(before, machines.weight)
    assert bool((machines(miner.negatives)[:, 1] >= miner.easy).all())
    assert (machines(positives)[:, 1] > 0).float().mean() > 0.7
    assert not machines.weight[0].any()


def test_the_more_negatives_stay_the_more_must_come_before_the_next_training() -> None:
    """Where features tell nothing apart all stay: trained after each few, the whole would take their square."""
    generator = torch.Generator().manual_seed(0)
    miner = HardNegatives(LinearSVMs(1, 5), 0, torch.randn((60, 5), generator=generator), scale=1.0, seed=0, every=50)
    kept = []
    for _ in range(40):
        miner.meet(torch.randn((20, 5), generator=generator), torch.zeros(20))
        if not miner.fresh:
            kept.append(len(miner.negatives))
    assert kept == [20, 80, 140, 220, 340, 520, 800]


def test_weights_are_for_features_as_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    positives, negatives = (torch.randn((40, 3), generator=generator) + shift for shift in (1.0, -1.0))
    answers = []
    for factor in (1.0, 0.01):
        machines = LinearSVMs(1, 3)
        miner = HardNegatives(machines, 0, positives * factor, scale=1 / factor, seed=0)
        miner.meet(negatives * factor, machines(negatives * factor)[:, 0])
        answers.append(machines(positives * factor))
    torch.testing.assert_close(answers[0], answers[1], atol=1e-3, rtol=1e-3)


def test_draw_regions() -> None:
    boxes = torch.tensor([[0.0, 0, 40, 40], [60, 0, 100, 40], [0, 60, 40, 100]])
    target = Target(boxes, torch.tensor([1, 0, 1]), ignore=torch.tensor([False, False, True]))
    near = boxes + torch.tensor([2.0, 2, 2, 2])
    far = torch.tensor([[70.0, 70, 90, 90], [30, 0, 90, 50]])
    target = replace(target, proposals=torch.cat([near, far]))
    torch.manual_seed(0)
    regions, labels = draw_regions(target, RegionTraining(RECIPE, objects=9, samples=20), 2)
    held = {tuple(box): label for box, label in zip(regions.tolist(), labels.tolist(), strict=True)}
    wanted = {tuple(boxes[0].tolist()): 1, tuple(near[0].tolist()): 1}
    wanted |= {tuple(boxes[1].tolist()): 0, tuple(near[1].tolist()): 0}
    wanted |= {tuple(box): 2 for box in far.tolist()}
    assert held == wanted, "what overlaps an ignored object is neither"
    regions, labels = draw_regions(target, RegionTraining(RECIPE, objects=1, samples=2), 2)
    assert sorted(labels == 2) == [False, True]
    regions, labels = draw_regions(target, RegionTraining(RECIPE, background=0.1), 2)
    assert far[0].tolist() not in regions.tolist()
    nothing = replace(empty_target(), proposals=far)
    assert draw_regions(nothing, RegionTraining(RECIPE), 2)[1].tolist() == [2, 2]


def test_contract() -> None:
    assert_is_fitted_detector(tiny, parameters=True)


def test_stages_and_proposals() -> None:
    model = tiny().eval()
    images = toy_images()
    heard = []

    class Clock:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    with listening(lambda name: heard.append(name) or Clock()), torch.no_grad():  # type: ignore[func-returns-value]
        outputs = model.network(model.preprocess(images))
    assert heard == ["proposals"]
    proposals = model.proposals(images)
    assert [len(rows) for rows in proposals] == [len(rows) for rows in outputs.regions]
    assert outputs.margins.shape == (sum(map(len, proposals)), 2)
    assert outputs.offsets.shape == (sum(map(len, proposals)), 2, 4)


def test_regions_are_described_alike_alone_and_together() -> None:
    model = tiny().eval()
    images = toy_images()
    boxes = [torch.tensor([[5.0, 5, 60, 70], [0, 0, 160, 120]]), torch.tensor([[20.0, 30, 130, 160]])]
    with torch.no_grad():
        both = model.describe(model.preprocess(images), boxes)
        alone = [model.describe(model.preprocess([image]), [rows]) for image, rows in zip(images, boxes, strict=True)]
    torch.testing.assert_close(both, torch.cat(alone))


def test_proposals_of_targets_are_taken() -> None:
    items = []
    for image, target in forms(count=3):
        jitter = torch.tensor([[-2.0, 1, 2, 0], [3, 3, 1, -2], [30, 30, 30, 30]])
        near = (target.boxes[:, None] + jitter).reshape(-1, 4).clamp(0, 96)
        items.append((image, replace(target, proposals=near)))

    def refuses(_: Tensor) -> Tensor:
        raise AssertionError("the targets have proposals")

    model = tiny(steps=1)
    model.proposer = refuses
    model.fit(items, seed=0)
    assert model.svms.weight.any()
    assert model.regressors.weight.any()


def test_a_class_without_objects_is_told() -> None:
    items = [(image, target[target.labels == 0]) for image, target in forms(count=2)]
    with pytest.raises(ValueError, match="class 1 has no object"):
        tiny(steps=0).fit(items, seed=0)


@pytest.mark.parametrize("last", [1, 2, 3, 4, 5])
def test_an_interrupted_fit_goes_on_and_ends_alike(last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each of two states of fine-tuning (images are few: in the midst of an epoch) and after each stage."""
    monkeypatch.setattr(region_fit, "_KEEP_EVERY", 2)
    kept = assert_fit_goes_on(lambda: tiny(steps=5), forms(count=5), last)
    assert [state["stage"] for state in kept] == [0, 0, 1, 2, 3]


def test_without_correction_a_detection_is_its_proposal() -> None:
    model = tiny().eval()
    model.score_floor = 0.0
    torch.nn.init.normal_(model.regressors.weight, std=0.1)
    torch.nn.init.normal_(model.svms.weight)
    batch = model.preprocess(toy_images()[:1])
    with torch.no_grad():
        outputs = model.network(batch)
        corrected = model.postprocess(outputs, batch)[0]
        model.regress = False
        plain = model.postprocess(outputs, batch)[0]
    regions = {tuple(box) for box in outputs.regions[0].round(decimals=3).tolist()}
    assert len(plain) > 5
    assert {tuple(box) for box in plain.boxes.round(decimals=3).tolist()} <= regions
    assert not {tuple(box) for box in corrected.boxes.round(decimals=3).tolist()} <= regions
    assert not rcnn_alexnet(2, backbone="small", crop=32, head_width=8, regress=False).regress
