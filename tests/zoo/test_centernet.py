from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ops.heatmap import gaussian_heatmaps, gaussian_radius, pair_corners
from ops.images import Batch, Frame
from ops.pool import bottom_pool, column_pool, left_pool, right_pool, row_pool, top_pool
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits
from tests.keypoints import ARMS, A, B, fill, maps, ramp, samples, scene, stripes
from zoo import CATALOG, build
from zoo.detector import Detector
from zoo.one_stage.centernet import (
    CascadeCornerPool,
    CenterNet,
    centernet511_hg52,
    central_regions,
    check_centers,
)
from zoo.one_stage.cornernet import Candidates, CornerNet, CornerPool, KeypointMaps

TINY = {"stacks": 1, "widths": (8, 8), "blocks": (1, 1), "stem": 4, "pool_width": 4, "head_width": 4, "modulus": 8}


def tiny(num_classes: int = 2, **options: Any) -> CenterNet:
    torch.manual_seed(0)
    return CenterNet(num_classes, **{**TINY, "spare": 0, **options})


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "parameters", "keys", "tensors", "convolutions", "norms"),
    [("centernet511_hg52", 104_844_152, 630, 531, 119, 99), ("centernet511_hg104", 210_062_960, 1260, 1062, 238, 198)],
)
def test_size_of_the_papers_network(
    name: str, parameters: int, keys: int, tensors: int, convolutions: int, norms: int
) -> None:
    with torch.device("meta"):
        model = build(name, 80)
    state = model.state_dict()
    assert count(model) == parameters
    assert len(state) == keys
    assert sum(not key.endswith("num_batches_tracked") for key in state) == tensors
    assert len(list(model.parameters())) == {630: 333, 1260: 666}[keys]
    assert sum(isinstance(part, nn.Conv2d) for part in model.modules()) == convolutions
    assert sum(isinstance(part, nn.BatchNorm2d) for part in model.modules()) == norms
    assert model.num_boxes((511, 511)) is None


def test_parts_of_the_papers_network() -> None:
    with torch.device("meta"):
        model = build("centernet511_hg52", 80)
    corner, center = {"cnvs": 2_427_392, "heats": 610_640, "regrs": 590_594, "tags": 590_337}, {"cnvs": 1_542_144}
    expected = {"pre": 938_112, "kps": 92_134_400, "cnvs": 590_336, "inters": 0, "inters_": 0, "cnvs_": 0}
    for kind, parts in {"tl": corner, "br": corner, "ct": {**corner, **center, "tags": 0}}.items():
        expected |= {f"{kind}_{part}": number for part, number in parts.items() if number}
    assert {name: count(child) for name, child in model.named_children()} == expected


def test_keys_are_those_of_the_authors_checkpoint() -> None:
    with torch.device("meta"):
        state = build("centernet511_hg104", 80).state_dict()
    groups: dict[str, int] = {}
    for key in state:
        group = key.split(".")[0]
        groups[group] = groups.get(group, 0) + 1
    heads = {f"{kind}_{name}": 8 for kind in ("tl", "br", "ct") for name in ("heats", "regrs")}
    assert groups == {
        "pre": 24,
        "kps": 900,
        "cnvs": 12,
        "tl_cnvs": 88,
        "br_cnvs": 88,
        "ct_cnvs": 60,
        "tl_tags": 8,
        "br_tags": 8,
        "inters": 12,
        "inters_": 6,
        "cnvs_": 6,
        **heads,
    }
    look = {
        "look_conv1.conv.weight": (128, 256, 3, 3),
        "look_conv1.bn.weight": (128,),
        "look_conv2.conv.weight": (128, 256, 3, 3),
        "P1_look_conv.weight": (128, 128, 3, 3),
        "P2_look_conv.weight": (128, 128, 3, 3),
    }
    assert {key: tuple(state[f"tl_cnvs.0.{key}"].shape) for key in look} == look
    assert tuple(state["ct_heats.1.1.weight"].shape) == (80, 256, 1, 1)
    assert tuple(state["ct_regrs.0.1.weight"].shape) == (2, 256, 1, 1)


MODULES = {
    ("tl", False): [1.509501472, 0.6085878644, 0.5130683782, 1.936699016],
    ("br", False): [1.515064224, 0.4739414133, 0.6554443709, 1.703506343],
    ("ct", False): [1.029873833, 0.4034828217, 0.4501215946, 1.260810403],
    ("tl", True): [2.412001773, 0.9865733822, 0.7576485244, 3.125698622, 3.349376108],
    ("br", True): [2.420432826, 0.7250971133, 1.035607224, 2.656482736, 3.496890615],
    ("ct", True): [1.364175858, 0.5328165723, 0.5794553452, 1.650575296, 1.80420788],
}


@pytest.mark.parametrize(("kind", "arms"), MODULES)
def test_pooling_module(kind: str, arms: bool) -> None:
    pools = {"tl": (top_pool, left_pool), "br": (bottom_pool, right_pool), "ct": (column_pool, row_pool)}[kind]
    with torch.device("meta"):
        module = (CornerPool if kind == "ct" else CascadeCornerPool)(256, 128, *pools)
    assert count(module) == (1_542_144 if kind == "ct" else 2_427_392)
    plane = fill(module, ARMS if arms else None)(ramp())[0, 100]
    expected = MODULES[kind, arms]
    assert [*samples(plane), float(plane[5, 3])][: len(expected)] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("stacks", [1, 2])
def test_each_branch_has_its_pools(stacks: int) -> None:
    """Against the written-out modules, on random weights: no golden number sees a branch with another's pools."""
    model = tiny(stacks=stacks).eval()
    x = torch.randn(1, 8, 6, 6)
    for kind, (one, two) in {"tl": (top_pool, left_pool), "br": (bottom_pool, right_pool)}.items():
        for module in getattr(model, f"{kind}_cnvs"):
            first = one(module.P1_look_conv(module.p1_conv1(x) + two(module.look_conv1(x))))
            second = two(module.P2_look_conv(module.p2_conv1(x) + one(module.look_conv2(x))))
            torch.testing.assert_close(module.pooled(x), first + second)
    for module in model.ct_cnvs:
        torch.testing.assert_close(module.pooled(x), column_pool(module.p1_conv1(x)) + row_pool(module.p2_conv1(x)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "centernet511_hg52",
            {
                "tl": [33240.74869, 6090.980354, 1682.12526, 22841.10068],
                "br": [32236.35433, 1367.947182, 6333.380886, 6616.375767],
                "ct": [20015.84952, 1912.779026, 2163.32664, 7928.027502],
            },
        ),
        (
            "centernet511_hg104",
            {
                "tl": [491182307.9, 89163062.62, 25134884.7, 333898366.3],
                "br": [469865540.3, 18943530.75, 94136661.44, 91733960.7],
                "ct": [293699435.5, 27079436.92, 32249488.99, 112341020.6],
            },
        ),
    ],
)
def test_whole_network_with_constant_weights(name: str, expected: dict[str, list[float]]) -> None:
    with torch.device("meta"):
        model = build(name, 80)
    assert isinstance(fill(model), Detector)
    with torch.no_grad():
        (found,) = model.network_for_cost(stripes())
    for kind, numbers in expected.items():
        assert samples(found[kind].heat[0, 7]) == pytest.approx(numbers, rel=1e-8)


def test_maps_at_the_papers_size() -> None:
    with torch.device("meta"):
        model = build("centernet511_hg52", 80)
        pixels = torch.empty(1, 3, 511, 511)
    (found,) = model.network(Batch(pixels, (Frame((511, 511), (511, 511), (1.0, 1.0)),)))
    assert found["ct"].heat.shape == (2, 80, 128, 128)
    assert found["ct"].offset.shape == (2, 2, 128, 128)
    assert found["ct"].tag is None
    assert found["br"].tag is not None


REGIONS = [
    ((0, 0, 90, 90), 3, (30, 30, 60, 60)),
    ((0, 0, 90, 90), 5, (36, 36, 54, 54)),
    ((10, 20, 100, 80), 3, (40, 40, 70, 60)),
    ((10, 20, 100, 80), 5, (46, 44, 64, 56)),
    ((0, 0, 150, 150), 3, (50, 50, 100, 100)),
    ((0, 0, 150, 150), 5, (60, 60, 90, 90)),
    ((0, 0, 300, 200), 3, (100, 66.6667, 200, 133.3333)),
    ((0, 0, 300, 200), 5, (120, 80, 180, 120)),
    ((50, 60, 350, 460), 3, (150, 193.3333, 250, 326.6667)),
    ((50, 60, 350, 460), 5, (170, 220, 230, 300)),
]


@pytest.mark.parametrize(("box", "n", "region"), REGIONS)
def test_central_region(box: tuple[int, ...], n: int, region: tuple[float, ...]) -> None:
    found = central_regions(torch.tensor([box]).float(), parts=(n, n))
    torch.testing.assert_close(found, torch.tensor([region]).float(), atol=1e-3, rtol=0)


def test_central_region_narrows_above_an_area() -> None:
    boxes = torch.tensor([[0.0, 0, 90, 90], [0, 0, 150, 150], [0, 0, 300, 200], [0, 0, 22500, 1], [0, 0, 22501, 1]])
    widths = central_regions(boxes)[:, 2] - central_regions(boxes)[:, 0]
    torch.testing.assert_close(widths, boxes[:, 2] / torch.tensor([3.0, 3, 5, 3, 5]))
    widths = central_regions(boxes, scale_switch=80)[:, 2] - central_regions(boxes, scale_switch=80)[:, 0]
    torch.testing.assert_close(widths, boxes[:, 2] / 5)


def triplets() -> tuple[Candidates, Candidates]:
    boxes = torch.tensor([[1.25, 1.25, 6.5, 6.5], [3.25, 2.25, 6.5, 5.5], [5.25, 5.25, 6.5, 6.5]])
    pairs = Candidates(boxes, torch.tensor([0.8, 0.7, 0.6]), torch.tensor([0, 1, 0]))
    points = torch.tensor([[3.1, 3.1], [4.1, 3.1]])
    return pairs, Candidates(points.repeat(1, 2), torch.tensor([0.8, 0.5]), torch.tensor([0, 1]))


def test_pairs_without_a_center_go() -> None:
    pairs, centers = triplets()
    found = check_centers(pairs, central_regions(pairs.boxes), centers)
    torch.testing.assert_close(found.scores, torch.tensor([0.8]))
    assert torch.equal(found.boxes, pairs.boxes[:1])
    assert found.labels.tolist() == [0]


def test_tiny_decoding_through_the_detector() -> None:
    """Three pairs of corners of one class and with like tags, one of them with a center, on a map of 8 x 8 cells."""
    peaks = {
        "tl": [(0, 1, 1, 0.9), (1, 2, 3, 0.8), (0, 1, 2, 0.6), (0, 5, 5, 0.5)],
        "br": [(0, 6, 6, 0.7), (1, 5, 6, 0.6), (0, 3, 4, 0.4)],
        "ct": [(0, 3, 3, 0.8), (1, 3, 4, 0.5), (0, 2, 2, 0.3)],
    }
    tags = {
        "tl": [{(1, 1): 1.0, (2, 3): -0.5, (5, 5): 1.2}],
        "br": [{(6, 6): 1.3, (3, 4): 1.6, (5, 6): -0.2}],
        "ct": None,
    }
    offsets = {"tl": 0.25, "br": 0.5, "ct": 0.1}
    outputs = {kind: maps([places], (2, 8, 8), offsets[kind], tags[kind]) for kind, places in peaks.items()}
    batch = Batch(torch.zeros(1, 3, 32, 32), (Frame((32, 32), (32, 32), (1.0, 1.0)),))
    model = tiny(top_k=3, max_pairs=9, flip_test=False)
    (look,) = model.look(outputs, batch)
    torch.testing.assert_close(look.pairs.scores, torch.tensor([0.8, 0.7, 0.6]))
    assert look.pairs.corners is not None
    torch.testing.assert_close(look.pairs.corners, torch.tensor([[0.9, 0.7], [0.8, 0.6], [0.5, 0.7]]))
    boxes = torch.tensor([[1.25, 1.25, 6.5, 6.5], [3.25, 2.25, 6.5, 5.5], [5.25, 5.25, 6.5, 6.5]])
    torch.testing.assert_close(look.pairs.boxes, 4 * boxes)
    assert look.centers is not None
    torch.testing.assert_close(look.centers.boxes[:2, :2], 4 * torch.tensor([[3.1, 3.1], [4.1, 3.1]]))
    (found,) = model.candidates(outputs, batch)
    torch.testing.assert_close(found.scores, torch.tensor([0.8]))
    torch.testing.assert_close(found.boxes, 4 * boxes[:1])
    assert found.labels.tolist() == [0]


@pytest.mark.parametrize(("k", "pairs"), [(70, 1000), (20, 400)])
def test_how_much_is_decoded(k: int, pairs: int) -> None:
    model = tiny(top_k=k)
    maps_ = {
        kind: KeypointMaps(torch.randn(1, 2, 32, 32), torch.zeros(1, 2, 32, 32), torch.zeros(1, 1, 32, 32))
        for kind in ("tl", "br", "ct")
    }
    top_left, bottom_right = (model.keypoints(maps_[kind]) for kind in ("tl", "br"))
    found = pair_corners(top_left, bottom_right, model.ae_threshold, model.max_pairs)
    assert [tuple(part.shape) for part in found] == [(1, pairs, 4), (1, pairs), (1, pairs), (1, pairs, 2)]
    assert model.keypoints(maps_["ct"]).points.shape == (1, k, 2)


def test_a_center_counts_strictly_inside_and_in_its_class_and_the_first_one_does() -> None:
    pair = Candidates(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([0.6]), torch.tensor([1]))
    regions = central_regions(pair.boxes)

    def score(*centers: tuple[float, float, float, int]) -> list[float]:
        table = torch.tensor(centers).reshape(-1, 4)
        answer = check_centers(pair, regions, Candidates(table[:, [0, 1, 0, 1]], table[:, 2], table[:, 3].long()))
        return answer.scores.tolist()

    assert score((4, 4, 0.9, 1)) == pytest.approx([0.7])
    assert score((3, 4, 0.9, 1)) == score((4, 6, 0.9, 1)) == score((4, 4, 0.9, 0)) == score() == []
    assert score((1, 1, 0.9, 1), (4, 4, 0.3, 1), (5, 5, 0.9, 1)) == pytest.approx([0.5])


def test_two_views_of_a_padded_image() -> None:
    outputs, batch = scene()
    model = tiny(top_k=4)
    (centers,) = model.centers(outputs, batch)
    sure = centers.scores > 0.01
    torch.testing.assert_close(centers.scores[sure], torch.tensor([0.7, 0.5, 0.65, 0.4]))
    expected = torch.tensor([[106.5547, 74.6016], [206.1640, 66.6328]])
    torch.testing.assert_close(centers.boxes[sure, :2], expected.repeat(2, 1), atol=1e-4, rtol=0)
    (found,) = model.candidates(outputs, batch)
    sure = found.scores > 0.3
    torch.testing.assert_close(found.scores[sure], torch.tensor([0.8, 0.6, 0.7667, 0.5333]), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.boxes[sure], torch.tensor([A, B, A, B]), atol=1e-4, rtol=0)
    (answer,) = model.postprocess([outputs], batch)
    best = answer.scores > 0.05
    torch.testing.assert_close(answer.scores[best], torch.tensor([0.8, 0.6, 0.10376, 0.07218]), atol=1e-5, rtol=0)
    assert answer.labels[best].tolist() == [0, 1, 0, 1]


def test_boxes_far_out_of_the_image_go() -> None:
    batch = Batch(torch.zeros(1, 3, 64, 64), (Frame((32, 32), (32, 32), (1.0, 1.0), (16.0, 16.0)),))
    peaks = {
        "tl": [(0, 2, 2, 0.9), (0, 3, 5, 0.8)],
        "br": [(0, 12, 12, 0.9)],
        "ct": [(0, 7, 7, 0.9), (0, 7, 9, 0.9)],
    }
    outputs = {kind: maps([place], (1, 16, 16), offset=0.0, tags=[{}]) for kind, place in peaks.items()}

    def found(**options: Any) -> list[list[float]]:
        (answer,) = tiny(1, top_k=2, **options).candidates(outputs, batch)
        return answer.boxes[answer.scores > 0.5].tolist()

    # In pixels of the image the top left corners lie at (-8, -8) and (4, -4).
    assert found(outside=None) == [[0, 0, 32, 32], [4, 0, 32, 32]]
    assert found() == [[4, 0, 32, 32]]


def test_the_switch_follows_the_size_of_the_image() -> None:
    # A box of side 44: the region is 30.67..45.33 in thirds, 33.6..42.4 in fifths; the center lies at 32.
    size, batch = (1, 40, 40), Batch(torch.zeros(1, 3, 160, 160), (Frame((160, 160), (160, 160), (1.0, 1.0)),))
    peaks = {"tl": [(0, 4, 4, 0.9)], "br": [(0, 15, 15, 0.9)], "ct": [(0, 8, 8, 0.9)]}
    outputs = {kind: maps([place], size, offset=0.0, tags=[{}]) for kind, place in peaks.items()}

    def found(**options: Any) -> int:
        (answer,) = tiny(1, top_k=1, flip_test=False, **options).candidates(outputs, batch)
        return len(answer.scores)

    assert found() == 1
    assert found(reference_side=640) == 0
    assert found(reference_side=640, scale_switch=200) == 1
    assert found(parts=(5, 5)) == 0


def rows() -> dict[str, dict[str, bool]]:
    """Table 4."""
    return {
        "baseline": {"cre": False, "ctp": False, "ccp": False},
        "ccp": {"cre": False, "ctp": False, "ccp": True},
        "cre": {"cre": True, "ctp": False, "ccp": False},
        "cre+ctp": {"cre": True, "ctp": True, "ccp": False},
        "all": {"cre": True, "ctp": True, "ccp": True},
    }


def test_switches_of_table_4() -> None:
    models = {name: tiny(**switches) for name, switches in rows().items()}
    keys = {name: set(model.state_dict()) for name, model in models.items()}
    torch.manual_seed(0)
    assert keys["baseline"] == set(CornerNet(2, **{**TINY, "spare": 0}).state_dict())  # type: ignore[arg-type]
    assert {key.split(".")[2].split("_")[0] for key in keys["ccp"] - keys["baseline"]} == {"look", "P1", "P2"}
    assert {key.split("_")[0] for key in keys["cre"] - keys["baseline"]} == {"ct"}
    # Same layers with and without the maxima: what changes is the idea alone.
    assert keys["cre"] == keys["cre+ctp"]
    x = torch.rand(1, 8, 6, 6)
    plain, pooled = models["cre"].ct_cnvs[0].eval(), models["cre+ctp"].ct_cnvs[0].eval()
    torch.testing.assert_close(plain.pooled(x), plain.p1_conv1(x) + plain.p2_conv1(x))
    torch.testing.assert_close(pooled.pooled(x), column_pool(pooled.p1_conv1(x)) + row_pool(pooled.p2_conv1(x)))
    images, target = [torch.rand(3, 64, 64)], [Target(torch.tensor([[8.0, 8.0, 40.0, 56.0]]), torch.tensor([1]))]
    for model in models.values():
        assert all(torch.isfinite(value) for value in model(images, target).values())
        assert len(model.eval()(images)) == 1


TABLE_4 = {
    "cornernet511_hg52": ("baseline", 100_330_278),
    "centernet511_hg52_ccp": ("ccp", 100_330_278 + 2 * (2_427_392 - 1_542_144)),
    "centernet511_hg52_cre": ("cre", 100_330_278 + 1_542_144 + 610_640 + 590_594),
    "centernet511_hg52_cre_ctp": ("cre+ctp", 100_330_278 + 1_542_144 + 610_640 + 590_594),
    "centernet511_hg52": ("all", 104_844_152),
}


@pytest.mark.parametrize("name", TABLE_4)
def test_rows_of_table_4_differ_in_its_switches_alone(name: str) -> None:
    row, parameters = TABLE_4[name]
    with torch.device("meta"):
        model, wanted = build(name, 80), centernet511_hg52(80, **rows()[row])
        small = build(name, 3, small=True)
    assert model.state_dict().keys() == wanted.state_dict().keys()
    assert count(model) == count(wanted) == parameters
    for ours, theirs in ((model, wanted), (small, wanted)):
        for kind in ("tl", "br", "ct"):
            kinds = [type(getattr(part, f"{kind}_cnvs", [None])[0]) for part in (ours, theirs)]
            assert kinds[0] is kinds[1]
            pools = [getattr(getattr(part, f"{kind}_cnvs", [None])[0], "along", None) for part in (ours, theirs)]
            assert isinstance(pools[0], nn.Identity) == isinstance(pools[1], nn.Identity)
    spec, whole = CATALOG[name], CATALOG["centernet511_hg52"]
    assert spec.small_recipe == whole.small_recipe
    assert {**(spec.small or {}), "reference_side": 640.0} == whole.small


def test_without_cre_no_box_is_checked() -> None:
    outputs, batch = scene()
    (found,) = tiny(top_k=4, cre=False, ctp=False).candidates(outputs, batch)
    sure = found.scores > 0.3
    torch.testing.assert_close(found.scores[sure], torch.tensor([0.85, 0.65, 0.80, 0.55]))


def test_center_pooling_without_a_center_branch_is_refused() -> None:
    with pytest.raises(ValueError, match="ctp=False"):
        build("centernet511_hg52", 8, small=True, cre=False)


def test_center_bumps_and_radii_are_those_of_the_authors_code() -> None:
    model = tiny(1, modulus=32)
    target = Target(torch.tensor([[17.0, 33.0, 81.0, 95.0]]), torch.tensor([0]))
    batch = model.preprocess([torch.rand(3, 128, 128)])
    h, w = torch.tensor([16.0]), torch.tensor([16.0])
    radius = gaussian_radius(h, w, 0.7, "centernet_official").long()
    assert torch.equal(model.radii(target.boxes / 4), radius)
    heats: dict[str, Tensor] = {}
    for kind, cell, share in (("tl", [4, 8], 1 / 6), ("br", [20, 23], 1 / 6), ("ct", [12, 16], 1 / 5)):
        heats[kind] = gaussian_heatmaps(torch.tensor([cell]), torch.tensor([0]), radius, (1, 32, 32), share)[None]
    with torch.no_grad():
        outputs = model.network(batch, [target])
        lost = model.losses(outputs, batch, [target])["heat"]
        expected = 0.0
        for kind, heat in heats.items():
            p = outputs[0][kind].heat.sigmoid()
            expected -= float((((1 - p) ** 2 * p.log())[heat == 1]).sum())
            expected -= float(((1 - heat) ** 4 * p**2 * (1 - p).log())[heat < 1].sum())
    assert float(lost) == pytest.approx(expected, rel=1e-5)


def test_center_offsets_are_learned() -> None:
    model = tiny(1, modulus=32)
    target = Target(torch.tensor([[17.0, 33.0, 81.0, 95.0]]), torch.tensor([0]))
    batch = model.preprocess([torch.rand(3, 128, 128)])
    with torch.no_grad():
        outputs = model.network(batch, [target])
        for kind, (y, x), wanted in (
            ("tl", (8, 4), (0.25, 0.25)),
            ("br", (23, 20), (0.25, 0.75)),
            ("ct", (16, 12), (0.25, 0.0)),
        ):
            outputs[0][kind].offset[0, :, y, x] = torch.tensor(wanted)
        assert float(model.losses(outputs, batch, [target])["offset"]) == pytest.approx(0, abs=1e-6)


def small() -> Detector:
    torch.manual_seed(0)
    return build("centernet511_hg52", 8, small=True)


def test_small_size_is_a_detector() -> None:
    assert_is_detector(small())


def test_small_sizes_differ_from_cornernets_in_what_the_paper_adds_alone() -> None:
    ours, theirs = CATALOG["centernet511_hg52"], CATALOG["cornernet511_hg52"]
    assert ours.small is not None
    assert theirs.small is not None
    assert dict(theirs.small).items() <= dict(ours.small).items()
    assert ours.small_recipe == theirs.small_recipe


def test_small_size_overfits() -> None:
    torch.manual_seed(0)
    assert_overfits(build("centernet511_hg52", 2, small=True, size=128), steps=100)
