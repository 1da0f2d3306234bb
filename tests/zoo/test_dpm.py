"""Deformable part models: stars against loops and laws, the released models' numbers, and what `fit` promises."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.cost import cost
from ops.part_features import TRUNCATION, mirror_features
from ops.part_pyramid import PartPyramids
from ops.structures import Target
from tests.contract import assert_is_fitted_detector, forms
from tests.mat_files import release
from zoo.classical.dpm import SMALL, Dpm, dpm, voc_release5
from zoo.download import mirror_folders
from zoo.formats.dpm_mat import read_star_mixture
from zoo.formats.mat import MatError
from zoo.parts.star_learning import part_places
from zoo.parts.star_model import Star, StarModels, predicted, relative


def models(reach: int = 2, mirrored: bool = True) -> StarModels:
    """One class of random stars: roots of 3 x 4 and 4 x 3 cells, three parts of 2 x 2."""
    torch.manual_seed(0)
    made = StarModels(1, groups=2, mirrored=mirrored, parts=3, canvas=(4, 4), side=2, reach=reach)
    for name in ("root", "part", "bias", "prior"):
        getattr(made, name).normal_()
    made.window.copy_(torch.tensor([[[3, 4], [4, 3]]]))
    made.root[0, 0, :, 3:] = 0
    made.root[0, 1, :, :, 3:] = 0
    made.anchor.copy_(torch.randint(0, 5, made.anchor.shape))
    made.cost.copy_(torch.rand(made.cost.shape) * 2 + torch.tensor([0.5, -1.0, 0.5, -1.0]))
    return made


def pyramid(octave: int = 1) -> list[Tensor]:
    """Three octaves of random features, padded by 4: 12 x 10 cells, then 6 x 5, then 3 x 3."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(12, 10)] * octave + [(6, 5)] * octave + [(3, 3)] * octave
    return [torch.randn((32, h + 8, w + 8), generator=generator) for h, w in sizes]


def spots_of(scores: list[Tensor], octave: int) -> Tensor:
    rows = []
    for level, own in enumerate(scores, octave):
        component, row, column = torch.nonzero(own.isfinite(), as_tuple=True)
        rows.append(torch.stack([component, torch.full_like(row, level), row, column], 1))
    return torch.cat(rows)


def slow(star: Star, levels: list[Tensor], component: int, level: int, row: int, column: int) -> float:
    """The definition: root, bias, prior, and each part's best place about its anchor."""
    height, width = star.windows[component]
    features = levels[level]
    if row + height > features.shape[1] or column + width > features.shape[2]:
        return -math.inf
    under = features[:, row : row + height, column : column + width]
    total = float((under * star.roots[component, :, :height, :width]).sum() + star.bias[component])
    total += float(star.prior[component, min(level // star.octave, 2)])
    fine, side = levels[level - star.octave], star.parts.shape[-1]
    for weights, (x, y), (ax, bx, ay, by) in zip(
        star.parts[component], star.anchors[component], star.costs[component].tolist(), strict=True
    ):
        u0, v0 = 2 * (column - star.padding[1]) + star.padding[1] + x, 2 * (row - star.padding[0]) + star.padding[0] + y
        if not (0 <= v0 <= fine.shape[1] - side and 0 <= u0 <= fine.shape[2] - side):
            return -math.inf
        best = -math.inf
        for v in range(max(0, v0 - star.reach), min(fine.shape[1] - side, v0 + star.reach) + 1):
            for u in range(max(0, u0 - star.reach), min(fine.shape[2] - side, u0 + star.reach) + 1):
                found = float((fine[:, v : v + side, u : u + side] * weights).sum())
                dx, dy = u0 - u, v0 - v
                best = max(best, found - ax * dx * dx - bx * dx - ay * dy * dy - by * dy)
        total += best
    return total


def test_scores_are_those_of_the_loops() -> None:
    star, levels = models().star(0, 1), pyramid()
    scores = star.scores(levels)
    assert len(scores) == 2
    compared = 0
    for level, own in enumerate(scores, 1):
        assert own.shape[0] == 4
        for row in range(0, own.shape[1], 2):
            for column in range(own.shape[2]):
                for component in (0, 3):
                    wanted = slow(star, levels, component, level, row, column)
                    assert own[component, row, column].item() == pytest.approx(wanted, abs=1e-3)
                    compared += math.isfinite(wanted)
    assert compared > 50
    roots = star.scores(levels, parts=False)[0]
    under = levels[1][:, 2:5, 3:7]
    wanted = (under * star.roots[0, :, :3]).sum() + star.bias[0] + star.prior[0, 1]
    assert roots[0, 2, 3].item() == pytest.approx(wanted.item(), abs=1e-4)


def test_roots_fit_where_scores_are_finite() -> None:
    star, levels = models().star(0, 1), pyramid()
    alone = spots_of(star.scores(levels, parts=False), 1)
    scores = star.scores(levels)
    wanted = torch.stack([scores[level - 1][k, y, x].isfinite() for k, level, y, x in alone.tolist()])
    assert 20 < int(wanted.sum()) < len(wanted) - 20
    assert torch.equal(star.fits(levels, alone), wanted)


@pytest.mark.parametrize("mirrored", [True, False])
def test_a_score_is_the_product_of_description_and_weights(mirrored: bool) -> None:
    """What makes the machine linear: places found again, features described, mirror images turned back."""
    made = models(mirrored=mirrored)
    star, levels = made.star(0, 1), pyramid()
    scores = star.scores(levels)
    every = spots_of(scores, 1)
    for component in range(len(star.windows)):
        group = component // 2 if mirrored else component
        spots = every[every[:, 0] == component][::7]
        assert len(spots) > 5
        placed = star.place(levels, spots)
        described = star.describe(levels, spots, placed)
        height, width = made.window[0, group].tolist()
        root = made.root[0, group, :, :height, :width]
        weights = torch.cat([root.flatten(), made.part[0, group].flatten(), made.cost[0, group].flatten()])
        found = described @ weights + made.bias[0, group] + made.prior[0, group][spots[:, 1].clamp(max=2)]
        wanted = torch.stack([scores[level - 1][k, y, x] for k, level, y, x in spots.tolist()])
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


def test_mirror_images_find_what_the_mirror_shows() -> None:
    star, levels = models().star(0, 1), pyramid()
    # The first two levels alone are twice as wide as one another but for the padding.
    ours, theirs = (star.scores(own[:2])[0] for own in (levels, [mirror_features(level) for level in levels]))
    for group in (0, 1):
        fits = levels[1].shape[2] - star.windows[2 * group][1] + 1
        assert ours[2 * group].isfinite().sum() > 20
        for one, other in ((2 * group, 2 * group + 1), (2 * group + 1, 2 * group)):
            torch.testing.assert_close(theirs[one, :, :fits].flip(1), ours[other, :, :fits], atol=1e-3, rtol=1e-4)


def test_boxes_of_roots_and_parts() -> None:
    star = models().star(0, 1)
    spots, placed = torch.tensor([[1, 1, 4, 6]]), torch.tensor([[[5, 4], [7, 8], [4, 4]]])
    boxes = star.boxes(spots, placed, [4.0, 8.0, 16.0])[0]
    assert boxes[0].tolist() == [16, 0, 48, 24], "columns 2 to 6 and rows 0 to 3 of cells of 8 pixels"
    assert boxes[1:].tolist() == [[4, 0, 12, 8], [12, 16, 20, 24], [0, 0, 8, 8]]


def test_a_pyramid_of_the_release() -> None:
    paper = dpm(1, canvas=(4, 4), parts=1, groups=1).pyramids
    plan = paper.plan((480, 640))
    assert len(plan) == 46
    assert plan[0] == (480, 640, 4)
    assert plan[10] == (480, 640, 8)
    assert plan[20] == (240, 320, 8)
    assert plan[1] == (448, 597, 4)
    assert plan[21] == (224, 299, 8)
    extra = PartPyramids(8, 10, extra_octave=True, largest_scale=1.0, smallest=40, padding=(4, 4))
    assert [own[2] for own in extra.plan((480, 640))[::10]] == [2, 4, 8, 8, 8, 8]
    levels, cells = PartPyramids(8, 2, extra_octave=False, largest_scale=1.0, smallest=16, padding=(3, 5))(
        torch.rand((3, 64, 96), generator=torch.Generator().manual_seed(0))
    )
    assert cells == pytest.approx([4, 4 * math.sqrt(2), 8, 8 * math.sqrt(2), 16, 16 * math.sqrt(2), 32])
    assert levels[2].shape == (32, 6 + 8, 10 + 12)
    truncated = levels[2][TRUNCATION]
    assert truncated[4:-4, 6:-6].abs().max() == 0
    assert truncated.sum() == truncated.numel() - 6 * 10
    assert levels[2][:TRUNCATION, :4].abs().max() == 0


def test_boxes_are_predicted_from_places() -> None:
    roots = torch.tensor([[10.0, 20, 31, 61]])
    filters = torch.tensor([[[10.0, 20, 31, 61], [10, 20, 20, 30]]])
    given = relative(roots, filters)
    assert given[0].tolist() == pytest.approx([0, 0, -5.5 / 20, -15.5 / 40, 1])
    weights = torch.zeros((1, 4, 5))
    assert torch.equal(predicted(roots, filters, weights), roots)
    weights[0, :, 4] = torch.tensor([0.1, -0.1, 0.2, 0.0])
    weights[0, 0, 2] = 1.0
    assert predicted(roots, filters, weights)[0].tolist() == pytest.approx([12 - 5.5, 16, 35, 61])


def test_parts_lie_where_the_energy_is() -> None:
    energy = torch.zeros((6, 6))
    energy[0:2, 3:5], energy[4, 1] = 5, 7
    first, second = part_places(energy, 2, 2)
    assert first == (3, 0)
    assert second[0] in (0, 1)
    assert second[1] in (3, 4)


def test_contract() -> None:
    learning = {"passes": 1, "per_image": 20}
    assert_is_fitted_detector(lambda: dpm(2, **{**SMALL, "groups": 1, "learning": learning}))


def test_windows_follow_aspects_and_a_class_without_objects_is_named() -> None:
    image = torch.rand((3, 96, 96), generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[4.0, 4, 84, 24], [4, 30, 64, 50], [70, 30, 90, 90], [40, 60, 60, 95]])
    model = dpm(1, **{**SMALL, "learning": {"passes": 1}})
    model.fit([(image, Target(boxes, torch.zeros(4, dtype=torch.int64)))] * 2, seed=0)
    tall, wide = model.models.window[0].tolist()
    assert tall[0] > 2 * tall[1] - 3 > 0
    assert wide[1] > wide[0]
    assert bool((model.models.cost[0, ..., [0, 2]] > 0).all())
    with pytest.raises(ValueError, match="class 2 has no object"):
        dpm(3, **SMALL).fit(forms(2), seed=0)


@pytest.mark.parametrize("wrong", [{"cell": 7}, {"groups": 0}, {"canvas": (2, 2)}, {"cell": 6, "extra_octave": True}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"halved|fits no root"):
        dpm(1, **wrong)


def test_cost_counts_places_and_products() -> None:
    found = cost("dpm", 1, (96, 128), small=False, overrides={"canvas": (4, 4), "groups": 1, "parts": 1, "interval": 2})
    assert found["parameters"] == 0
    levels = [(12, 16), (9, 11), (6, 8)]  # cells of 96 x 128, of 68 x 91 and of 48 x 64
    places = [(rows + 8 - 3) * (columns + 8 - 3) for rows, columns in levels]
    assert found["boxes"] == 2 * sum(places)
    parts = [(rows + 8 - 5) * (columns + 8 - 5) for rows, columns in [(24, 32), (17, 23), (12, 16)]]
    assert found["macs"] == 2 * 32 * (16 * sum(places) + 36 * sum(parts))


def test_a_released_model_is_read(tmp_path: Path) -> None:
    found = read_star_mixture(release(tmp_path / "a.mat"))
    assert (found.name, found.threshold, found.interval, found.cell, found.extra_octave) == ("thing", -1.5, 2, 8, False)
    first, second = found.components
    noise = np.random.default_rng(0).normal(size=192)
    assert first.root[5, 1, 2].item() == pytest.approx(noise[1 + 2 * 2 + 6 * 5]), "columns first, as MATLAB has it"
    assert first.bias == 5
    assert torch.equal(second.root, mirror_features(first.root))
    assert (first.anchors.tolist(), second.anchors.tolist()) == ([[1, 1]], [[3, 1]])
    assert second.costs[0].tolist() == pytest.approx([0.02, -0.01, 0.03, -0.01])
    model = voc_release5([release(tmp_path / "a.mat"), release(tmp_path / "b.mat")])
    assert model.models.threshold.tolist() == [-1.5, -1.5]
    star = model.star(1)
    for index, own in enumerate((first, second)):
        assert torch.equal(star.roots[index], own.root)
        assert torch.equal(star.parts[index], own.parts)
        assert torch.equal(star.costs[index], own.costs)
        assert star.anchors[index] == [tuple(pair) for pair in own.anchors.tolist()]
    (answer,) = model([torch.rand((3, 64, 80), generator=torch.Generator().manual_seed(0))])
    assert set(answer.labels.tolist()) == {0, 1}


def _set(*path: Any, value: Any) -> Any:
    def change(model: dict[str, Any]) -> None:
        for step in path[:-1]:
            model = model[step]
        model[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop("blocks"), "model.blocks: is missing"),
        (_set("type", value="G"), "no mixture of stars"),
        (_set("blocks", 0, "w", value=np.zeros(5)), r"blocks\(1\).w: \(5,\) numbers for a block of \(2, 3, 32\)"),
        (_set("blocks", 0, "w", value=np.full(192, np.nan)), r"blocks\(1\).w: holds NaN"),
        (_set("blocks", 1, "type", value="F"), r"blocks\(2\).type: 'F'"),
        (_set("filters", 0, "blocklabel", value=99), r"filters\(1\).blocklabel: 99 is no whole number from 1 to 8"),
        (_set("features", "dim", value=31), "features.dim: features other than"),
        (_set("rules", 0, 0, "rhs", value=[3, 8]), "rhs: symbol 8 is not one moving filter"),
        (_set("rules", 0, 0, "detwindow", value=[3, 3]), r"detwindow: \(3, 3\), where the root has \(2, 3\) cells"),
        (_set("blocks", 4, "w", value=np.array([1.0, 0, 1, 0])), "a root that moves"),
        (_set("start", value=0), "model.start: 0 is no whole number"),
        (_set("rules", 0, value=[]), "the start symbol has no rule"),
        (_set("bboxpred", value=[{"x1": 1}]), "model.bboxpred: 1 predictors for 2 components"),
        (_set("thresh", value="low"), "model.thresh: .* instead of numbers"),
    ],
)
def test_a_bad_file_is_named_with_its_entry(tmp_path: Path, change: Any, words: str) -> None:
    path = release(tmp_path / "bad.mat", change)
    with pytest.raises(MatError, match=words) as caught:
        read_star_mixture(path)
    assert str(path) in str(caught.value)


def test_components_that_are_no_mirror_images_are_refused(tmp_path: Path) -> None:
    path = release(tmp_path / "odd.mat", lambda m: m["filters"][1].update(flip=0))
    with pytest.raises(ValueError, match="component 2 is not the mirror image"):
        voc_release5([path])


def _released(name: str) -> Path | None:
    for folder in mirror_folders():
        for path in (folder / name, folder / "VOC2007" / name, folder / "dpm-voc-release5" / "VOC2007" / name):
            if path.is_file():
                return path
    return None


needs_files = pytest.mark.skipif(
    _released("person_final.mat") is None, reason="DETECTOR_ZOO_WEIGHTS names no folder with models of voc-release5"
)


@needs_files
@pytest.mark.parametrize(
    ("name", "windows", "threshold", "first"),
    [
        ("person", [(8, 7), (11, 6), (11, 4)], -1.4423742, 1792),
        ("car", [(4, 11), (5, 9), (6, 7)], -1.2396116, 1408),
        ("bicycle", [(7, 11), None, None], -0.9948812, 2464),
    ],
)
def test_models_of_voc2007(name: str, windows: list[Any], threshold: float, first: int) -> None:
    model = read_star_mixture(_released(f"{name}_final.mat"))  # type: ignore[arg-type]
    assert model.name == name
    assert (model.interval, model.cell, model.extra_octave) == (10, 8, False)
    assert model.threshold == pytest.approx(threshold, abs=1e-7)
    assert len(model.components) == 6
    assert sum(1 + len(component.parts) for component in model.components) == 54
    assert model.components[0].root.numel() == first
    for component, window in zip(model.components[::2], windows, strict=True):
        assert window is None or tuple(component.root.shape[1:]) == window
        assert component.parts.shape == (8, 32, 6, 6)
        assert component.box is not None
        assert component.box.shape == (4, 19)
    Dpm(1, canvas=(16, 16)).load(0, model)


@needs_files
def test_a_released_model_finds_a_person() -> None:
    import cv2

    root = Path(os.environ.get("DETECTOR_ZOO_DATA", "")).expanduser()
    found = sorted(root.glob("voc2012_100/**/2007_000170.jpg")) if os.environ.get("DETECTOR_ZOO_DATA") else []
    if not found:
        pytest.skip("DETECTOR_ZOO_DATA holds no voc2012_100")
    pixels = cv2.resize(cv2.imread(str(found[0])), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    image = torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1).float() / 255
    model = voc_release5([_released("person_final.mat")])  # type: ignore[list-item]
    (answer,) = model([image])
    from torchvision.ops import box_iou

    assert answer.scores[0].item() > 0.5
    assert box_iou(answer.boxes[:1], torch.tensor([[1.5, 13.5, 230.5, 186]])).item() > 0.6
