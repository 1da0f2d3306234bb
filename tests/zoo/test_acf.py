"""Aggregate channel features: the released detector's numbers, trees against loops, and what `fit` promises."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.cost import cost
from ops.trees import boost, cascade
from tests.contract import assert_is_fitted_detector, forms, toy_images
from tests.mat_files import toolbox
from zoo.classical.acf import SMALL, Acf, acf, released
from zoo.download import mirror_folders
from zoo.formats.mat import MatError


def test_a_cascade_is_its_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(400, generator=generator)
    start = torch.arange(0, 300, 3)
    place = torch.randint(0, 100, (60, 3), generator=generator)
    threshold = torch.rand((60, 3), generator=generator)
    leaf = torch.rand((60, 4), generator=generator) - 0.5
    wanted = {}
    for window, begin in enumerate(start.tolist()):
        total = torch.tensor(0.0)
        for own, limits, answers in zip(place.tolist(), threshold, leaf, strict=True):
            node = 1 if values[begin + own[0]] < limits[0] else 2
            last = 2 * node + (1 if values[begin + own[node]] < limits[node] else 2)
            total = total + answers[last - 3]
            if total <= -1:
                break
        else:
            wanted[window] = total.item()
    windows, sums = cascade(values, start, place, threshold, leaf, -1.0)
    assert 10 < len(wanted) < 90, "some must stay and some must go"
    assert windows.tolist() == list(wanted)
    assert sums.tolist() == pytest.approx(list(wanted.values()), abs=1e-5)
    assert len(cascade(values, start[:0], place, threshold, leaf, -1.0)[0]) == 0


def answers(trees: Any, examples: np.ndarray) -> np.ndarray:
    """Each tree's leaf for each example, `[T, N]`."""
    out = np.zeros((len(trees.leaf), len(examples)))
    for t, (feature, limit, leaf) in enumerate(zip(trees.feature, trees.threshold, trees.leaf, strict=True)):
        for n, example in enumerate(examples):
            node = 1 if example[feature[0]] < limit[0] else 2
            out[t, n] = leaf[2 * (node - 1) + (0 if example[feature[node]] < limit[node] else 1)]
    return out


def test_the_first_node_is_the_best_stump_there_is() -> None:
    chance = np.random.default_rng(0)
    negatives = chance.normal(size=(40, 5)).astype(np.float32)
    positives = (chance.normal(size=(25, 5)) + np.array([0, 0.8, 0, 0.3, 0])).astype(np.float32)
    trees = boost(negatives, positives, 1, chance, share=1.0)

    def error(feature: int, limit: float) -> float:
        wrong = (positives[:, feature] < limit).mean() / 2 + (negatives[:, feature] >= limit).mean() / 2
        return min(wrong, 1 - wrong)

    best = min(error(f, value) for f in range(5) for value in np.r_[negatives[:, f], positives[:, f]])
    # Thresholds lie on 256 steps, which tells nearly all of 65 examples apart.
    assert error(int(trees.feature[0, 0]), float(trees.threshold[0, 0])) == pytest.approx(best, abs=0.021)


def test_boosting_lowers_the_exponential_loss_by_its_law() -> None:
    chance = np.random.default_rng(1)
    negatives = chance.normal(size=(80, 6)).astype(np.float32)
    positives = chance.normal(size=(50, 6)).astype(np.float32)
    positives[:, :2] += np.where(chance.random((50, 1)) < 0.5, 1.2, -1.2)
    trees = boost(negatives, positives, 12, chance, share=0.5)
    examples = np.concatenate([negatives, positives])
    truth = np.repeat([-1.0, 1.0], [80, 50])
    weights = np.repeat([0.5 / 80, 0.5 / 50], [80, 50])
    for answer in answers(trees, examples):
        strength = np.abs(answer)
        assert np.ptp(strength) < 1e-12, "a discrete tree answers plus or minus its weight"
        wrong = weights[np.sign(answer) != truth].sum() / weights.sum()
        assert strength[0] == pytest.approx(0.5 * np.log((1 - wrong) / wrong))
        before = weights.sum()
        weights = weights * np.exp(-truth * answer)
        assert weights.sum() / before == pytest.approx(2 * np.sqrt(wrong * (1 - wrong)))
    assert weights.sum() < 0.5


def test_nothing_to_learn_leaves_trees_that_add_nothing() -> None:
    same = np.zeros((10, 4), dtype=np.float32)
    assert not boost(same, same, 5, np.random.default_rng(0)).leaf.any()


def test_scales() -> None:
    model = acf(1, stages=(1,))
    scales = model.pyramids.scales((480, 640))
    assert len(scales) == 19
    assert scales[0] == pytest.approx(1.0, abs=1e-3)
    assert scales[8] == pytest.approx(0.5, abs=1e-3)
    for scale in scales:
        assert abs(480 * scale / 4 - round(480 * scale / 4)) < 0.26
    assert model.pyramids.padding == (4, 3), "16 and 12 pixels"
    assert model.pyramids.scales((90, 200)) == []
    assert len(acf(1, stages=(1,), octaves_up=1).pyramids.scales((90, 200))) == 7


def test_a_channel_map_below_the_next_is_the_same_windows() -> None:
    torch.manual_seed(0)
    model = Acf(1, window=(24, 16), inner=(18, 10), stages=(12,), per_octave=4, approximated=3)
    image = toy_images()[0]
    model.feature.copy_(torch.randint(0, 240, model.feature.shape))
    model.threshold.copy_(torch.rand(model.threshold.shape) * 0.6)
    model.leaf.copy_(torch.rand(model.leaf.shape) - 0.55)
    ((pyramid, ((windows, sums),)),) = model.network(model.preprocess([image]))
    assert 0 < len(windows) < len(pyramid.start)
    assert len(pyramid.start) == model.num_boxes((120, 160))
    width = pyramid.channels.shape[2]
    for window, found in list(zip(windows.tolist(), sums.tolist(), strict=True))[::50]:
        row, column = divmod(int(pyramid.start[window]), width)
        own = pyramid.channels[:, row : row + 6, column : column + 4].flatten()
        total = 0.0
        for feature, limit, leaf in zip(model.feature[0].tolist(), model.threshold[0], model.leaf[0], strict=True):
            node = 1 if own[feature[0]] < limit[0] else 2
            total += leaf[2 * (node - 1) + (0 if own[feature[node]] < limit[node] else 1)].item()
        assert found == pytest.approx(total, abs=1e-5)
    first = model._boxes(pyramid, torch.tensor([0]), 0)[0].tolist()
    assert first == pytest.approx([3 - 4, 3 - 4, 13 - 4, 21 - 4], abs=0.05), "padding of 4, a margin of 3 pixels"


def test_approximated_scales_are_near_computed_ones() -> None:
    """The power law is the paper's claim; that it holds on noise with edges shows that its sign is right."""
    image = torch.zeros((3, 160, 200))
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        y, x = (int(torch.randint(0, side, (), generator=generator)) for side in (140, 180))
        image[:, y : y + 20, x : x + 20] = torch.rand((3, 1, 1), generator=generator)
    settings: dict[str, Any] = {"window": (24, 16), "inner": (18, 10), "stages": (1,), "per_octave": 8}
    away = []
    for lambdas in ((0.0, 0.11579, 0.11579), (0.0, -0.5, -0.5)):
        approximate = Acf(1, approximated=7, lambdas=lambdas, **settings).pyramid(image).channels
        exact = Acf(1, approximated=0, **settings).pyramid(image).channels
        assert approximate.shape == exact.shape
        away.append((approximate - exact)[3:].abs().mean().item())
    assert away[0] < 0.8 * away[1]


def test_sums_of_many_trees_keep_their_order() -> None:
    model = Acf(1, window=(24, 16), inner=(18, 10), stages=(1,))
    image = toy_images()[0]
    pyramid = model.pyramid(image)
    windows, sums = torch.tensor([0, 100, 700]), torch.tensor([60.0, 60.1, -0.5])
    (answer,) = model.postprocess([(pyramid, [(windows, sums)])], model.preprocess([image]))
    wanted = model._boxes(pyramid, windows[[1, 0, 2]], 0).clamp(min=0)
    assert torch.equal(answer.boxes, wanted)
    assert answer.scores[0] > answer.scores[1] > 0.9
    assert answer.scores[2].item() == pytest.approx(0.5 - 0.25 / 1.5)


def test_contract() -> None:
    assert_is_fitted_detector(lambda: acf(2, **{**SMALL, "stages": (16, 64), "negatives": 150, "jitter": 3}))


def test_a_class_without_objects_is_named() -> None:
    with pytest.raises(ValueError, match="class 2 has no object"):
        acf(3, **SMALL).fit(forms(2), seed=0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"window": (126, 64)}, "whole cells"), ({"inner": (130, 41)}, "room"), ({"stages": ()}, "grow")],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        acf(1, **wrong)


def test_cost_counts_windows() -> None:
    found = cost("acf", 1, (480, 640))
    assert found["parameters"] == 0
    assert found["buffers"] == 2048 * (3 + 3 + 4) + 2
    model = acf(1, stages=(1,))
    assert found["boxes"] == model.num_boxes((480, 640)) > (120 + 8 - 31) * (160 + 6 - 15)


FIELDS: dict[str, Any] = {"fids": (7, 3), "thrs": (7, 3), "hs": (7, 3), "child": (7, 3)}


def test_features_are_renumbered(tmp_path: Path) -> None:
    model = released(toolbox(tmp_path / "a.mat"))
    # Four rows and two columns a channel: number 5 is row 1 of column 1, which row by row is number 3.
    assert model.feature[0].tolist() == [[0, 3, 4], [2, 8, 6], [1, 79, 40]]
    assert model.leaf[0, 1].tolist() == pytest.approx([1.0, 1.3, 1.6, 1.9])
    assert (model.canvas, model.object, model.pyramids.lambdas) == ((16, 8), (12, 6), (0.0, 0.1, 0.2))
    model([torch.rand((3, 40, 50))])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.clf.pop("thrs"), "clf.thrs: is missing"),
        (lambda d: d.clf["thrs"].fill(np.nan), "clf.thrs: holds NaN"),
        (lambda d: d.clf["fids"].fill(80), "clf.fids: a feature that is none of 80"),
        (lambda d: d.clf.update(child=np.zeros((7, 3))), "clf.child: trees that are not complete"),
        (lambda d: d.clf.update(treeDepth=5), "treeDepth: 5"),
        (lambda d: d.clf.update(hs=np.zeros((5, 3))), r"clf.hs: shape \(5, 3\)"),
        (lambda d: d.opts.update(filters=np.ones((5, 5))), "decorrelated"),
        (lambda d: d.opts.update(stride=8), "opts.stride: 8"),
        (lambda d: d.opts.update(modelDsPad=[15, 8]), "modelDsPad"),
        (lambda d: d.opts["pPyramid"].update(nPerOct=0.5), "nPerOct: 0.5 is no whole number"),
        (lambda d: d.opts["pPyramid"].update(pChns=3), "pChns: .* instead of a structure"),
    ],
)
def test_a_bad_file_is_named_with_its_entry(tmp_path: Path, change: Any, words: str) -> None:
    path = toolbox(tmp_path / "bad.mat", change)
    with pytest.raises(MatError, match=words) as caught:
        released(path)
    assert str(path) in str(caught.value)


def test_no_mat_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(MatError, match="cannot be read"):
        released(tmp_path / "none.mat")
    whole = toolbox(tmp_path / "whole.mat").read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("empty", b""), ("noise", bytes(range(256)) * 8)):
        path = tmp_path / f"{name}.mat"
        path.write_bytes(content)
        with pytest.raises(MatError, match=f"{name}.mat"):
            released(path)


def _released() -> Path | None:
    for folder in mirror_folders():
        for path in (folder / "AcfInriaDetector.mat", folder / "acf" / "AcfInriaDetector.mat"):
            if path.is_file():
                return path
    return None


needs_file = pytest.mark.skipif(_released() is None, reason="DETECTOR_ZOO_WEIGHTS names no AcfInriaDetector.mat")


@needs_file
def test_inria() -> None:
    model = released(_released())  # type: ignore[arg-type]
    assert model.feature.shape == (1, 2048, 3)
    assert model.leaf.min().item() == pytest.approx(-0.520309, abs=1e-6)
    assert model.leaf.max().item() == pytest.approx(0.530309, abs=1e-6)
    # Channel 4 is the first orientation: column 8 of row 24, column 10 of row 24; then channel 6, column 6 of row 7.
    assert model.feature[0, 0].tolist() == [4 * 512 + 24 * 16 + 8, 4 * 512 + 24 * 16 + 10, 6 * 512 + 7 * 16 + 6]
    assert model.threshold[0, 0].tolist() == pytest.approx([0.190968, 0.273173, 0.064298], abs=1e-6)
    assert sorted(set(model.leaf[0, 0].abs().tolist())) == pytest.approx([0.520309, 0.530309], abs=1e-6)
    column_major = (model.feature // 512) * 512 + model.feature % 16 * 32 + model.feature % 512 // 16
    assert column_major.max().item() == 5118


def _photograph() -> Tensor | None:
    import cv2

    root = Path(os.environ.get("DETECTOR_ZOO_DATA", "")).expanduser()
    found = sorted(root.glob("voc2012_100/**/2007_000027.jpg")) if os.environ.get("DETECTOR_ZOO_DATA") else []
    if not found:
        return None
    return torch.from_numpy(cv2.imread(str(found[0]))[..., ::-1].copy()).permute(2, 0, 1).float() / 255


@needs_file
@pytest.mark.skipif(_photograph() is None, reason="DETECTOR_ZOO_DATA holds no voc2012_100")
def test_inria_on_a_photograph() -> None:
    image = _photograph()
    assert image is not None
    model = released(_released())  # type: ignore[arg-type]
    (answer,) = model([image])
    assert 1 <= len(answer) <= 10
    loose = released(_released(), reject=-2.0)  # type: ignore[arg-type]
    ((_, ((windows, sums),)),) = loose.network(loose.preprocess([image]))
    ((_, ((strict, kept),)),) = model.network(model.preprocess([image]))
    assert 0 < len(strict) < len(windows) < 0.01 * loose.num_boxes((500, 486)), "nearly all windows are given up"
    among = dict(zip(windows.tolist(), sums.tolist(), strict=True))
    assert kept.tolist() == pytest.approx([among[window] for window in strict.tolist()], abs=1e-3)
