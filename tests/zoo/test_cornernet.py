from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ops.images import Batch, Frame
from ops.pool import bottom_pool, left_pool, right_pool, top_pool
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target
from tests.keypoints import ARMS, A, B, fill, maps, ramp, samples, scene, stripes
from zoo import CATALOG, build
from zoo.detector import Detector
from zoo.one_stage.cornernet import CornerNet, CornerPool, KeypointMaps

TINY = {"stacks": 1, "widths": (8, 8), "blocks": (1, 1), "stem": 4, "pool_width": 4, "head_width": 4, "modulus": 8}


def tiny(num_classes: int = 2, **options: object) -> CornerNet:
    torch.manual_seed(0)
    return CornerNet(num_classes, **{**TINY, "spare": 0, **options})  # type: ignore[arg-type]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "parameters", "keys", "tensors"),
    [("cornernet511_hg52", 100_330_278, 564, 474), ("cornernet511_hg104", 201_035_212, 1128, 948)],
)
def test_size_of_the_papers_network(name: str, parameters: int, keys: int, tensors: int) -> None:
    with torch.device("meta"):
        model = build(name, 80)
    state = model.state_dict()
    assert count(model) == parameters
    assert len(state) == keys
    assert sum(not key.endswith("num_batches_tracked") for key in state) == tensors
    assert model.num_boxes((511, 511)) is None


def test_parts_of_the_papers_network() -> None:
    with torch.device("meta"):
        model = build("cornernet511_hg104", 80)
    expected = {
        "pre": 938_112,
        "kps": 184_268_800,
        "cnvs": 1_180_672,
        "tl_cnvs": 3_084_288,
        "br_cnvs": 3_084_288,
        "tl_heats": 1_221_280,
        "br_heats": 1_221_280,
        "tl_tags": 1_180_674,
        "br_tags": 1_180_674,
        "tl_regrs": 1_181_188,
        "br_regrs": 1_181_188,
        "inters": 1_180_672,
        "inters_": 66_048,
        "cnvs_": 66_048,
    }
    assert {name: count(child) for name, child in model.named_children()} == expected
    assert sum(isinstance(part, nn.Conv2d) for part in model.modules()) == 204
    assert sum(isinstance(part, nn.BatchNorm2d) for part in model.modules()) == 180


def test_keys_are_those_of_the_authors_checkpoint() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in build("cornernet511_hg104", 80).state_dict().items()}
    assert shapes["pre.0.conv.weight"] == (128, 3, 7, 7)
    assert shapes["pre.1.skip.0.weight"] == (256, 128, 1, 1)
    assert shapes["kps.0.low2.low1.0.conv1.weight"] == (384, 256, 3, 3)
    assert shapes["kps.1.low2.low2.low2.low2.low2.3.conv2.weight"] == (512, 512, 3, 3)
    assert shapes["tl_cnvs.0.p_conv1.weight"] == (256, 128, 3, 3)
    assert shapes["tl_heats.0.0.conv.bias"] == (256,)
    assert shapes["tl_heats.1.1.weight"] == (80, 256, 1, 1)
    assert shapes["br_tags.0.1.weight"] == (1, 256, 1, 1)
    assert shapes["br_regrs.1.1.bias"] == (2,)
    assert shapes["inters_.0.0.weight"] == (256, 256, 1, 1)
    assert {"pre.0.bn.running_mean", "cnvs_.0.1.weight", "inters.0.conv1.weight", "cnvs.1.conv.weight"} <= set(shapes)
    assert {"tl_cnvs.1.p1_conv1.bn.bias", "tl_cnvs.1.p_bn1.weight", "br_cnvs.0.bn1.bias"} <= set(shapes)


MODULES = {
    ("tl", False): [0.9858042161, 0.4026989809, 0.3897658452, 1.251600273],
    ("br", False): [0.9884159983, 0.3472422364, 0.4497296742, 1.17145254],
    ("tl", True): [1.296401178, 0.5316408111, 0.489705562, 1.633526758, 1.745419813],
    ("br", True): [1.30178396, 0.449141555, 0.5786715043, 1.528100156, 1.761488552],
}


@pytest.mark.parametrize(("corner", "arms"), MODULES)
def test_pooling_module(corner: str, arms: bool) -> None:
    pools = (top_pool, left_pool) if corner == "tl" else (bottom_pool, right_pool)
    with torch.device("meta"):
        module = CornerPool(256, 128, *pools)
    assert count(module) == 1_542_144
    plane = fill(module, ARMS if arms else None)(ramp())[0, 100]
    expected = MODULES[corner, arms]
    assert [*samples(plane), float(plane[5, 3])][: len(expected)] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "cornernet511_hg52",
            {
                "tl": [18556.55856, 1912.779026, 1111.251602, 7928.027502],
                "br": [18246.58517, 901.8220474, 2163.32664, 4198.688301],
            },
        ),
        (
            "cornernet511_hg104",
            {
                "tl": [272446732.5, 27079436.92, 16600161.58, 112341020.6],
                "br": [265951576.1, 12483923.91, 32249488.99, 58186043.32],
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
    assert found["tl"].heat.shape == (1, 80, 32, 32)
    for kind, numbers in expected.items():
        assert samples(found[kind].heat[0, 79]) == pytest.approx(numbers, rel=1e-8)


def test_maps_at_the_papers_size() -> None:
    with torch.device("meta"):
        model = build("cornernet511_hg52", 80)
        pixels = torch.empty(1, 3, 511, 511)
    frame = Frame((511, 511), (511, 511), (1.0, 1.0))
    (found,) = model.network(Batch(pixels, (frame,)))
    for kind in ("tl", "br"):
        assert [tuple(part.shape) for part in found[kind]] == [(2, c, 128, 128) for c in (80, 2, 1)]
    (one_look,) = model.network_for_cost(Batch(pixels, (frame,)))
    assert one_look["br"].heat.shape == (1, 80, 128, 128)


def test_heads_on_every_stack_for_losses_and_on_the_last_for_boxes() -> None:
    model = tiny(stacks=2).eval()
    batch = model.preprocess([torch.rand(3, 16, 24)])
    with torch.no_grad():
        trained, tested = model.network(batch, [empty_target()]), model.network(batch)
    assert len(trained) == 2
    assert len(tested) == 1
    assert trained[1]["tl"].heat.shape == (1, 2, 4, 6)
    torch.testing.assert_close(tested[0]["tl"].heat[:1], trained[1]["tl"].heat)
    mirrored = model.network(Batch(batch.pixels.flip(-1), batch.frames))
    torch.testing.assert_close(tested[0]["br"].heat[1:], mirrored[0]["br"].heat[:1])
    model.flip_test = False
    assert model.network(batch)[0]["tl"].heat.shape[0] == 1


def test_stacks_are_joined_by_two_maps_and_a_residual_block() -> None:
    model = tiny(stacks=2).eval()
    batch = model.preprocess([torch.rand(3, 16, 16)])
    with torch.no_grad():
        x = model.pre(batch.pixels)
        first = model.cnvs[0](model.kps[0](x))
        x = model.inters[0]((model.inters_[0](x) + model.cnvs_[0](first)).relu())
        second = model.tl_cnvs[1](model.cnvs[1](model.kps[1](x)))
        torch.testing.assert_close(model.tl_heats[1](second), model.network_for_cost(batch)[0]["tl"].heat)


def test_an_untrained_heatmap_says_one_tenth() -> None:
    with torch.no_grad():
        heads = tiny().br_heats
    assert heads[0][1].bias.sigmoid().tolist() == pytest.approx([0.1006521] * 2, abs=1e-6)


@pytest.mark.parametrize(
    ("size", "padded"),
    [((480, 640), (511, 767)), ((427, 640), (511, 767)), ((512, 512), (639, 639)), ((500, 375), (511, 383))],
)
def test_padding_of_the_paper(size: tuple[int, int], padded: tuple[int, int]) -> None:
    batch = tiny(modulus=128, spare=1).preprocess([torch.ones(3, *size)])
    assert batch.size == padded
    left, top = batch.frames[0].offset
    assert (left, top) == (padded[1] // 2 - size[1] // 2, padded[0] // 2 - size[0] // 2)


@pytest.mark.parametrize(
    ("scale", "padded"), [(0.6, (383, 511)), (1.2, (639, 895)), (1.5, (767, 1023)), (1.8, (895, 1279))]
)
def test_padding_of_the_paper_at_other_scales(scale: float, padded: tuple[int, int]) -> None:
    batch = tiny(modulus=128, spare=1).preprocess([torch.ones(3, 480, 640)], scale)
    assert batch.size == padded
    frame = batch.frames[0]
    assert frame.inner == (int(480 * scale), int(640 * scale))
    assert frame.offset == (padded[1] // 2 - frame.inner[1] // 2, padded[0] // 2 - frame.inner[0] // 2)
    box = torch.tensor([[0.0, 20.0, 630.0, 480.0]])
    torch.testing.assert_close(frame.to_image(frame.to_network(box)), box)
    (resized,) = tiny(size=160, modulus=32).preprocess([torch.ones(3, 480, 640)], scale).frames
    assert resized.inner == (int(120 * scale), int(160 * scale))


@pytest.mark.parametrize(
    ("padded", "cells"), [((511, 767), (128, 192)), ((639, 639), (160, 160)), ((511, 383), (128, 96))]
)
def test_maps_of_the_padded_images(padded: tuple[int, int], cells: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = tiny(modulus=128, spare=1)
        (found,) = model.network_for_cost(Batch(torch.empty(1, 3, *padded), ()))
    assert found["tl"].heat.shape[-2:] == cells


def test_image_is_centered_on_black_blue_first() -> None:
    image = torch.zeros(3, 5, 6)
    image[0] = 1.0
    batch = tiny().preprocess([image])
    mean, std = torch.tensor([0.40789654, 0.44719302, 0.47026115]), torch.tensor([0.28863828, 0.27408164, 0.27809835])
    black, red = -mean / std, (torch.tensor([0.0, 0.0, 1.0]) - mean) / std
    assert batch.size == (8, 8)
    assert batch.frames[0].offset == (1.0, 2.0)
    torch.testing.assert_close(batch.pixels[0, :, 2:7, 1:7], red[:, None, None].expand(3, 5, 6))
    torch.testing.assert_close(batch.pixels[0, :, :2], black[:, None, None].expand(3, 2, 8))
    torch.testing.assert_close(batch.pixels[0, :, :, 0], black[:, None].expand(3, 8))


def test_long_side_is_resized_and_sizes_share_one_canvas() -> None:
    batch = tiny(size=256, modulus=32).preprocess([torch.rand(3, 480, 640), torch.rand(3, 128, 64)])
    assert [frame.inner for frame in batch.frames] == [(192, 256), (256, 128)]
    assert batch.size == (256, 256)
    assert batch.frames[0].offset == (0.0, 32.0)
    box = torch.tensor([[10.0, 20.0, 630.0, 470.0]])
    torch.testing.assert_close(batch.frames[0].to_image(batch.frames[0].to_network(box)), box)


def test_two_views_of_a_padded_image() -> None:
    outputs, batch = scene()
    model = tiny(top_k=2)
    (found,) = model.candidates(outputs, batch)
    torch.testing.assert_close(found.scores, torch.tensor([0.85, 0.65, 0.80, 0.55]))
    assert found.labels.tolist() == [0, 1, 0, 1]
    torch.testing.assert_close(found.boxes, torch.tensor([A, B, A, B]), atol=1e-4, rtol=0)
    (answer,) = model.postprocess([outputs], batch)
    decay = 0.135335
    expected = torch.tensor([0.85, 0.65, 0.80 * decay, 0.55 * decay])
    torch.testing.assert_close(answer.scores, expected, atol=1e-5, rtol=0)
    assert answer.labels.tolist() == [0, 1, 0, 1]


def test_boxes_far_out_of_the_image_go_only_if_asked() -> None:
    batch = Batch(torch.zeros(1, 3, 64, 64), (Frame((32, 32), (32, 32), (1.0, 1.0), (16.0, 16.0)),))
    peaks = {"tl": [(0, 2, 2, 0.9), (0, 3, 8, 0.8)], "br": [(0, 13, 13, 0.9)]}
    outputs = {kind: maps([place], (1, 16, 16), offset=0.0, tags=[{}]) for kind, place in peaks.items()}

    def found(outside: float | None) -> list[list[float]]:
        (answer,) = tiny(1, top_k=2, outside=outside).candidates(outputs, batch)
        return answer.boxes[answer.scores > 0.5].tolist()

    # In pixels of the image the corners lie at (-8, -8), (16, -4) and (36, 36).
    assert found(None) == found(8.01) == [[0, 0, 32, 32], [16, 0, 32, 32]]
    assert found(8.0) == found(4.01) == [[16, 0, 32, 32]]
    assert found(4.0) == []


def loop_losses(model: CornerNet, outputs: list[dict[str, KeypointMaps]], targets: list[Target]) -> dict[str, float]:
    """CornerNet's losses object by object, on maps of a quarter of the input."""
    total = dict.fromkeys(("heat", "pull", "push", "offset"), 0.0)
    objects = sum(len(target) for target in targets)
    for stack in outputs:
        for kind, first in (("tl", 0), ("br", 2)):
            heat = torch.zeros_like(stack[kind].heat)
            for image, target in enumerate(targets):
                for box, label in zip((target.boxes / 4).tolist(), target.labels.tolist(), strict=True):
                    h, w = -int(-(box[3] - box[1]) // 1), -int(-(box[2] - box[0]) // 1)
                    radius = _radius(h, w, model.gaussian_iou)
                    cx, cy = int(box[first]), int(box[first + 1])
                    sigma = (2 * radius + 1) / 6
                    for y in range(max(0, cy - radius), min(heat.shape[2], cy + radius + 1)):
                        for x in range(max(0, cx - radius), min(heat.shape[3], cx + radius + 1)):
                            bump = torch.exp(torch.tensor(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2)))
                            heat[image, label, y, x] = max(float(heat[image, label, y, x]), float(bump))
                    wanted = torch.tensor([box[first] - cx, box[first + 1] - cy])
                    lost = F.smooth_l1_loss(stack[kind].offset[image, :, cy, cx], wanted, reduction="sum")
                    total["offset"] += float(lost) / (objects + 1e-4)
            p = stack[kind].heat.sigmoid().clamp(1e-4, 1 - 1e-4)
            hits = ((1 - p) ** 2 * p.log())[heat == 1].sum()
            misses = ((1 - heat) ** 4 * p**2 * (1 - p).log())[heat < 1].sum()
            total["heat"] -= float(hits + misses) / max(1, int((heat == 1).sum()))
        for image, target in enumerate(targets):
            n = len(target)
            tags = []
            for box in (target.boxes / 4).tolist():
                assert stack["tl"].tag is not None
                assert stack["br"].tag is not None
                low = float(stack["tl"].tag[image, 0, int(box[1]), int(box[0])])
                high = float(stack["br"].tag[image, 0, int(box[3]), int(box[2])])
                tags.append((low + high) / 2)
                total["pull"] += 0.1 * ((low - tags[-1]) ** 2 + (high - tags[-1]) ** 2) / (n + 1e-4)
            for a in tags:
                for b in tags:
                    total["push"] += 0.1 * (max(0.0, 1 - abs(a - b)) - 1 / (n + 1e-4)) / (n * (n - 1) + 1e-4)
    return {name: value / len(outputs) for name, value in total.items()}


def _radius(h: int, w: int, iou: float) -> int:
    from math import sqrt

    s, a = h + w, h * w
    first = (s - sqrt(s**2 - 4 * a * (1 - iou) / (1 + iou))) / 2
    second = (2 * s - sqrt(4 * s**2 - 16 * (1 - iou) * a)) / 8
    third = (-2 * iou * s + sqrt(4 * iou**2 * s**2 + 16 * iou * (1 - iou) * a)) / (8 * iou)
    return max(0, int(min(first, second, third)))


def random_targets() -> list[Target]:
    generator = torch.Generator().manual_seed(3)
    targets = []
    for objects in (3, 0, 1):
        low = 60 * torch.rand((objects, 2), generator=generator)
        boxes = torch.cat([low, low + 4 + 60 * torch.rand((objects, 2), generator=generator)], 1)
        targets.append(Target(boxes, torch.randint(0, 2, (objects,), generator=generator)))
    return targets


def test_losses_equal_the_loop() -> None:
    model = tiny(stacks=2, modulus=32)
    images, targets = [torch.rand(3, 128, 128) for _ in range(3)], random_targets()
    batch = model.preprocess(images)
    with torch.no_grad():
        outputs = model.network(batch, targets)
        losses = model.losses(outputs, batch, targets)
    expected = loop_losses(model, outputs, targets)
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_offsets_of_the_worked_example() -> None:
    """Two objects; offsets (.5, .2) and (2, .1) where (.1, .4) and (.3, .1) are right: smooth L1 sums to 1.3."""
    model = tiny()
    batch = model.preprocess([torch.rand(3, 64, 64)])
    boxes = torch.tensor([[1.1, 1.4, 9, 9], [3.3, 4.1, 11, 12]]) * 4
    with torch.no_grad():
        outputs = model.network(batch, [empty_target()])
        tl, br = outputs[0]["tl"].offset, outputs[0]["br"].offset
        tl[0, :, 1, 1], tl[0, :, 4, 3] = torch.tensor([0.5, 0.2]), torch.tensor([2.0, 0.1])
        br[0, :, 9, 9], br[0, :, 12, 11] = torch.zeros(2), torch.zeros(2)
        lost = model.losses(outputs, batch, [Target(boxes, torch.tensor([0, 1]))])["offset"]
    assert float(lost) == pytest.approx(1.3 / (2 + 1e-4), abs=1e-5)
    assert float(lost) == pytest.approx(0.65, abs=5e-5)


def test_corners_on_the_far_edge_belong_to_the_last_cell() -> None:
    model = tiny()
    batch = model.preprocess([torch.rand(3, 64, 64)])
    target = Target(torch.tensor([[0.0, 0.0, 64.0, 64.0]]), torch.tensor([0]))
    with torch.no_grad():
        outputs = model.network(batch, [target])
        outputs[0]["br"].offset[0, :, 15, 15] = 1.0
        outputs[0]["tl"].offset[0, :, 0, 0] = 0.0
        assert model.losses(outputs, batch, [target])["offset"] == 0


def test_an_image_of_one_object_pushes_nothing() -> None:
    model = tiny(push=1.0)
    batch = model.preprocess([torch.rand(3, 64, 64)])
    target = Target(torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([0]))
    push = model.losses(model.network(batch, [target]), batch, [target])["push"]
    assert float(push.detach()) == pytest.approx(1, abs=1e-3)
    push.backward()
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(("radius", "cells"), [(0, 1), (2, 25)])
def test_a_fixed_radius(radius: int, cells: int) -> None:
    model = tiny(1, fixed_radius=radius)
    batch = model.preprocess([torch.rand(3, 64, 64)])
    target = Target(torch.tensor([[12.0, 12.0, 50.0, 50.0]]), torch.tensor([0]))
    assert model.radii(target.boxes).tolist() == [radius]
    flat = {
        k: KeypointMaps(torch.zeros(1, 1, 16, 16), torch.zeros(1, 2, 16, 16), torch.zeros(1, 1, 16, 16))
        for k in ("tl", "br")
    }
    # At p = .5 each cell without a bump costs ln 2 / 4; so the sum says how many cells the bump spared.
    lost = float(model.losses([flat], batch, [target])["heat"]) / 2
    y, x = torch.meshgrid(torch.arange(-2, 3), torch.arange(-2, 3), indexing="ij")
    bump = torch.exp(-(x**2 + y**2) / (2 * ((2 * radius + 1) / 6) ** 2))[(x.abs() <= radius) & (y.abs() <= radius)]
    assert len(bump) == cells
    weight = 256 - cells + float(((1 - bump) ** 4).sum()) + 1
    assert lost == pytest.approx(weight * 0.25 * 0.693147, rel=1e-5)


def test_without_corner_pooling_the_layers_stay() -> None:
    with_pools, without = tiny(), tiny(corner_pooling=False)
    assert list(with_pools.state_dict()) == list(without.state_dict())
    x = torch.rand(1, 8, 6, 6)
    module = without.tl_cnvs[0].eval()
    torch.testing.assert_close(module.pooled(x), module.p1_conv1(x) + module.p2_conv1(x))


def test_stacks_must_be_positive() -> None:
    with pytest.raises(ValueError, match="stacks"):
        tiny(stacks=0)


def small() -> Detector:
    torch.manual_seed(0)
    return build("cornernet511_hg52", 8, small=True)


def test_small_size_is_a_detector() -> None:
    model = small()
    assert_is_detector(model)
    assert sum(value.numel() for value in model.state_dict().values()) < 480_000


def test_small_size_takes_larger_images_and_two_stacks() -> None:
    torch.manual_seed(0)
    model = build("cornernet511_hg104", 3, small=True, size=256).eval()
    assert len(CATALOG["cornernet511_hg104"].small or {})
    with torch.no_grad():
        (answer,) = model([torch.rand(3, 480, 640)])
    assert model.preprocess([torch.rand(3, 480, 640)]).size == (192, 256)
    assert len(answer) <= 100


def test_small_size_overfits() -> None:
    torch.manual_seed(0)
    assert_overfits(build("cornernet511_hg52", 2, small=True, size=128), steps=100)


def test_mirrored_images_give_mirrored_boxes() -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand((3, 128, 160), generator=generator)]
    model = tiny(1, top_k=40, ae_threshold=9.0, max_pairs=10_000).eval()
    with torch.no_grad():
        for head in (model.tl_heats[0], model.br_heats[0]):
            head[1].weight *= 50
    with torch.no_grad():
        (direct,), (mirrored,) = model(images), model([image.flip(-1) for image in images])
    assert len(direct) == len(mirrored) == 100
    torch.testing.assert_close(direct.scores, mirrored.scores)
    x1, y1, x2, y2 = mirrored.boxes.unbind(1)
    back = torch.stack([160 - x2, y1, 160 - x1, y2], 1)
    # Boxes of equal score may change places.
    unmatched = (direct.boxes[:, None] - back).abs().amax(2).amin(1) > 1e-2
    assert unmatched.sum() <= 2
