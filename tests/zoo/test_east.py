from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from benchmarks.datasets.shapes import SCENES, draw
from ops.dense import cell_points
from ops.images import Batch, Frame
from ops.quads import (
    box_quads,
    fill_quads,
    quad_iou,
    rectangle_angles,
    rectangle_sides,
    restore_rectangles,
    smallest_rectangles,
)
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target
from zoo import build
from zoo.backbones.vgg import VGG16BN
from zoo.dense.east import EAST, REIMPLEMENTATION, SMALL, EASTMaps, east


def small(num_classes: int = 2, **options: Any) -> EAST:
    torch.manual_seed(0)
    return EAST(num_classes, **{**SMALL, "turned": False, "widths": (16, 16, 16, 16), "before": 300, **options})


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def batch_of(model: EAST, *sizes: tuple[int, int]) -> Batch:
    return model.preprocess([torch.rand(3, *size) for size in sizes or ((160, 160),)])


def bars(*rows: tuple[float, float, float, float, float], size: tuple[int, int] = (160, 160)) -> Target:
    """Turned rectangles (x, y, width, height, degrees) as masks, and the upright boxes around these."""
    x, y, width, height, degrees = torch.tensor(rows).unbind(1)
    sides = torch.stack([height, height, width, width], 1) / 2
    masks = fill_quads(restore_rectangles(torch.stack([x, y], 1), sides, degrees.deg2rad()), size)
    boxes = []
    for mask in masks:
        ys, xs = mask.nonzero().unbind(1)
        boxes.append(torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float())
    return Target(torch.stack(boxes), torch.zeros(len(rows), dtype=torch.int64), masks=masks)


def say(model: EAST, target: Target, batch: Batch, sure: float = 6.0) -> EASTMaps:
    """Maps that say what is wanted of the only image."""
    height, width = (side // 4 for side in batch.size)
    points = cell_points((height, width), batch.size, offset=model.offset)
    shown, _, own, quads = model.assign(target, points, batch.frames[0])
    logits = torch.where(shown, sure, -sure).unflatten(-1, (height, width))
    mine = quads[own.clamp(min=0)]
    if model.geometry == "quad":
        geometry = (mine - points[:, None]).flatten(1)
    else:
        sides = rectangle_sides(points[:, None], mine)[:, 0]
        geometry = torch.cat([sides, rectangle_angles(mine)[:, None]], 1)
    return EASTMaps(logits[None], geometry.T.unflatten(-1, (height, width))[None])


def test_size_of_the_network() -> None:
    with torch.device("meta"):
        model = east(1)
        maps = model.network(model.preprocess([torch.empty(3, 512, 512)]))
        corners = east(1, geometry="quad")
    state = model.state_dict()
    assert count(model) == 15_089_318
    assert count(model.extractor) == 14_723_136
    assert count(model.merge) == 365_984
    assert count(model.output) == 198
    assert len(state) == 146
    assert sum(not key.endswith("num_batches_tracked") for key in state) == 126
    assert maps.score.shape == (1, 1, 128, 128)
    assert maps.geometry.shape == (1, 5, 128, 128)
    assert count(corners.output) == 33 + 8 * 33
    assert model.num_boxes((512, 512)) == 128 * 128


def test_layers_are_named_and_shaped_as_in_the_re_implementation() -> None:
    with torch.device("meta"):
        state = east(1, **REIMPLEMENTATION).state_dict()
    shapes = {
        "extractor.features.0.weight": (64, 3, 3, 3),
        "extractor.features.41.running_var": (512,),
        "merge.conv1.weight": (128, 1024, 1, 1),
        "merge.conv2.weight": (128, 128, 3, 3),
        "merge.conv3.weight": (64, 384, 1, 1),
        "merge.bn4.running_mean": (64,),
        "merge.conv5.weight": (32, 192, 1, 1),
        "merge.conv6.weight": (32, 32, 3, 3),
        "merge.conv7.weight": (32, 32, 3, 3),
        "merge.bn7.num_batches_tracked": (),
        "output.conv1.weight": (1, 32, 1, 1),
        "output.conv2.bias": (4,),
        "output.conv3.weight": (1, 32, 1, 1),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    groups = [key.split(".")[0] for key in state]
    assert {group: groups.count(group) for group in set(groups)} == {"extractor": 91, "merge": 49, "output": 6}


def test_extractor_is_torchvisions_network() -> None:
    torch.manual_seed(0)
    ours, theirs = VGG16BN().eval(), make_layers(cfgs["D"], batch_norm=True).eval()
    theirs.load_state_dict(ours.features.state_dict())
    x = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        maps = ours(x)
        for found, until in zip(maps, (14, 24, 34, 44), strict=True):
            torch.testing.assert_close(found, theirs[:until](x))
    assert [m.shape[1] for m in maps] == list(ours.channels)
    assert [64 // m.shape[3] for m in maps] == list(ours.strides)


def test_what_the_heads_say_lies_in_its_range() -> None:
    model = small(scope=100.0)
    x = torch.randn(2, 16, 5, 6)
    with torch.no_grad():
        start = model.output(0 * x).geometry
        said = model.output(1000 * x).geometry
    assert start[:, :4].unique().tolist() == pytest.approx([100 / 16])
    assert start[:, 4].unique().tolist() == [0]
    assert said[:, :4].min() >= 0
    assert 99 < said[:, :4].max() <= 100
    assert 1.5 < said[:, 4].max() <= math.pi / 2 + 1e-6
    assert -math.pi / 2 - 1e-6 <= said[:, 4].min() < -1.5


def test_scores_are_learnt_in_the_shrunk_box_and_geometry_decodes_to_the_box() -> None:
    """100 x 40 pixels shrink to (12, 12, 88, 28): 19 by 4 cells have their middles there."""
    model = small()
    target = Target(torch.tensor([[0.0, 0.0, 100.0, 40.0]]), torch.tensor([1]))
    batch = batch_of(model)
    points = cell_points((40, 40), (160, 160))
    shown, counts, own, _ = model.assign(target, points, batch.frames[0])
    assert shown.sum(1).tolist() == [0, 19 * 4]
    assert shown[1].unflatten(0, (40, 40))[3:7, 3:22].all()
    assert shown[1].equal(own == 0)
    assert counts.all()
    for geometry in ("rbox", "quad"):
        model = small(geometry=geometry)
        said = say(model, target, batch).geometry.flatten(2)[0].T[own == 0]
        found = model.quads(said, points[own == 0])
        torch.testing.assert_close(found, box_quads(target.boxes).expand(76, 4, 2), atol=1e-4, rtol=0)


def test_cells_lie_where_the_re_implementation_has_them() -> None:
    target = Target(torch.tensor([[0.0, 0.0, 100.0, 40.0]]), torch.tensor([0]))
    model = small(offset=0.0)
    said = say(model, target, batch_of(model)).geometry[0, :4]
    assert said[:, 5, 10].tolist() == [20, 20, 40, 60], "10 cells of 4 pixels across, 5 down"


def test_ignored_and_tiny_texts_count_for_nothing_and_the_smaller_of_two_is_learnt() -> None:
    boxes = [[0.0, 0.0, 80.0, 40.0], [100.0, 100.0, 150.0, 105.0], [20.0, 4.0, 60.0, 36.0], [90.0, 0.0, 150.0, 60.0]]
    target = Target(torch.tensor(boxes), torch.tensor([0, 0, 1, 1]), ignore=torch.tensor([False, False, False, True]))
    model = small()
    points = cell_points((40, 40), (160, 160))
    shown, counts, own, _ = model.assign(target, points, batch_of(model).frames[0])
    assert set(own.tolist()) == {-1, 0, 2}
    both = shown.all(0)
    assert both.any()
    assert own[both].unique().tolist() == [2]
    left_out = ~counts.unflatten(0, (40, 40))
    # Middles on a border, at 90 and 150, lie within.
    assert left_out[:15, 22:38].all()
    assert left_out[25, 25:38].all()
    assert int(left_out.sum()) == 15 * 16 + 13
    # What is said there changes no loss.
    batch = batch_of(model)
    maps = say(model, target, batch)
    spoilt = maps._replace(score=torch.where(left_out, 3.0, maps.score), geometry=maps.geometry + 50.0 * left_out)
    before, after = (model.losses(m, batch, [target]) for m in (maps, spoilt))
    assert {k: float(v) for k, v in before.items()} == {k: float(v) for k, v in after.items()}


@pytest.mark.parametrize("geometry", ["rbox", "quad"])
@pytest.mark.parametrize("score_loss", ["balanced", "dice"])
def test_loss_by_its_laws(geometry: Any, score_loss: Any) -> None:
    model = small(1, geometry=geometry, score_loss=score_loss)
    target = Target(torch.tensor([[20.0, 20.0, 120.0, 60.0]]), torch.tensor([0]))
    batch = batch_of(model)
    maps = say(model, target, batch)
    perfect = {name: float(value) for name, value in model.losses(maps, batch, [target]).items()}
    geometries = {"sides", "angle"} if geometry == "rbox" else {"corners"}
    assert set(perfect) == {"score"} | geometries
    assert all(perfect[name] == pytest.approx(0, abs=1e-6) for name in geometries)
    if score_loss == "balanced":
        assert perfect["score"] == pytest.approx(math.log1p(math.exp(-6)), rel=0.01)
        flat = model.losses(maps._replace(score=0 * maps.score), batch, [target])
        assert float(flat["score"]) == pytest.approx(math.log(2), rel=1e-5), "half from either kind"
    none = model.losses(maps, batch, [empty_target()])
    assert all(math.isfinite(value) for value in none.values())
    assert all(float(none[name]) == 0 for name in geometries)
    wrong = maps.geometry.clone()
    if geometry == "rbox":
        wrong[:, :4] *= 2
        wrong[:, 4] += 0.2
        found = model.losses(maps._replace(geometry=wrong), batch, [target])
        assert float(found["sides"]) == pytest.approx(math.log(4), rel=1e-5)
        assert float(found["angle"]) == pytest.approx(10 * 0.019933, rel=1e-4)
    else:
        wrong[:, ::2] += 1.5
        found = model.losses(maps._replace(geometry=wrong), batch, [target])
        assert float(found["corners"]) == pytest.approx(0.0125, rel=1e-4)


TURNED = ((45.0, 45.0, 70.0, 20.0, 30.0), (105.0, 110.0, 60.0, 24.0, -40.0), (120.0, 30.0, 50.0, 16.0, 0.0))


@pytest.mark.parametrize("geometry", ["rbox", "quad"])
def test_turned_boxes_come_from_masks_and_are_given_back_as_quads_and_masks(geometry: Any) -> None:
    model = small(geometry=geometry, turned=True)
    target = bars(*TURNED)
    batch = batch_of(model)
    maps = say(model, target, batch)
    (found,) = model.postprocess(maps, batch)
    assert len(found) == 3
    assert found.quads is not None
    assert found.masks is not None
    overlap = quad_iou(found.quads, model.wanted_quads(target, batch.frames[0]))
    assert overlap.amax(0).min() > 0.99
    for row, best in enumerate(overlap.argmax(1).tolist()):
        assert target.masks is not None
        shared = (found.masks[row] & target.masks[best]).sum() / (found.masks[row] | target.masks[best]).sum()
        assert float(shared) > 0.9
        assert (found.boxes[row] - target.boxes[best]).abs().max() < 2.5, "the upright box around it"
    losses = model.losses(maps, batch, [target])
    assert all(float(losses[name]) < 1e-4 for name in losses if name != "score")


def test_turned_boxes_follow_the_image_into_the_network() -> None:
    """An image of 320 x 320 is shown at half its size: quads are wanted there, and given in the image's own pixels."""
    model = small(turned=True, longest=160)
    target = bars((90.0, 90.0, 140.0, 40.0, 30.0), size=(320, 320))
    batch = batch_of(model, (320, 320))
    assert batch.size == (160, 160)
    (placed,) = model.place(batch, [target])
    (wanted,) = model.wanted_quads(placed, batch.frames[0])
    assert (wanted[1] - wanted[0]).norm() == pytest.approx(70, abs=1.5)
    (found,) = model.postprocess(say(model, placed, batch), batch)
    assert found.quads is not None
    torch.testing.assert_close(found.quads[0], 2 * wanted, atol=1e-3, rtol=0)
    assert found.masks is not None
    assert found.masks.shape == (1, 320, 320)


def test_masks_that_lack_or_show_nothing() -> None:
    model, frame = small(turned=True), Frame((160, 160), (160, 160), (1.0, 1.0))
    target = bars(TURNED[0])
    with pytest.raises(ValueError, match="turned=False needs none"):
        model.wanted_quads(Target(target.boxes, target.labels), frame)
    hidden = Target(target.boxes, target.labels, masks=torch.zeros(1, 160, 160, dtype=torch.bool))
    assert model.wanted_quads(hidden, frame).equal(box_quads(target.boxes))


def test_scores_are_sums_or_peaks_of_merged_cells() -> None:
    target = Target(torch.tensor([[0.0, 0.0, 100.0, 40.0]]), torch.tensor([0]))
    found = {}
    for merged in ("sum", "peak"):
        model = small(merged=merged)
        batch = batch_of(model)
        (answer,) = model.postprocess(say(model, target, batch), batch)
        assert len(answer) == 1
        torch.testing.assert_close(answer.boxes, target.boxes, atol=1e-3, rtol=0)
        found[merged] = float(answer.scores[0])
    once = 1 / (1 + math.exp(-6))
    assert found["peak"] == pytest.approx(once, rel=1e-5)
    assert found["sum"] == pytest.approx(76 * once, rel=1e-5)


def test_only_the_surest_cells_say_anything() -> None:
    model = small(1, before=10, merged="sum")
    target = Target(torch.tensor([[0.0, 0.0, 100.0, 40.0]]), torch.tensor([0]))
    batch = batch_of(model)
    maps = say(model, target, batch)
    (found,) = model.postprocess(maps._replace(score=maps.score + 0.01 * torch.rand(maps.score.shape)), batch)
    assert float(found.scores[0]) == pytest.approx(10, rel=0.01)


def test_bars_of_the_turned_scene_are_rectangles() -> None:
    """The scene for `turned`: masks of whole bars, which the smallest rectangle around them fits closely."""
    angles = []
    for index in range(4):
        _, objects = draw(SCENES["turned"], 2, index)
        assert objects
        masks = torch.stack([torch.from_numpy(thing["mask"]) for thing in objects])
        quads = smallest_rectangles(masks)
        filled = fill_quads(quads, (160, 160))
        for thing, mask, fill in zip(objects, masks, filled, strict=True):
            assert thing["label"] == 7
            x, y, width, height = thing["bbox"]
            touches = x <= 0 or y <= 0 or x + width >= 160 or y + height >= 160
            if not touches and thing["area"] > 300:
                assert float((mask & fill).sum() / (mask | fill).sum()) > 0.85
        angles += rectangle_angles(quads).rad2deg().tolist()
    assert max(angles) > 20
    assert min(angles) < -20


@pytest.mark.parametrize(
    "options", [{}, {"geometry": "quad"}, {"turned": True, "score_loss": "dice"}, {"before": 5, "merged": "sum"}]
)
def test_contract(options: dict[str, Any]) -> None:
    assert_is_detector(small(**options))


def test_options_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="geometry must be 'rbox' or 'quad', got 'box'"):
        east(1, geometry="box")
    with pytest.raises(ValueError, match="score_loss must be"):
        east(1, score_loss="focal")


@pytest.mark.parametrize("options", [{}, {"geometry": "quad"}])
def test_learns_four_images(options: dict[str, Any]) -> None:
    assert_overfits(build("east", 2, small=True, **options), steps=70)


def test_learns_turned_boxes() -> None:
    """Bars that differ from the ground in brightness only: quads must be found at their angles."""
    torch.manual_seed(0)
    model = build("east", 1, small=True, turned=True)
    targets = [bars(*TURNED), bars((80.0, 80.0, 100.0, 24.0, 20.0), (50.0, 130.0, 60.0, 16.0, -20.0))]
    images: list[Tensor] = []
    for target in targets:
        assert target.masks is not None
        images.append((0.1 * torch.rand(3, 160, 160) + 0.8 * target.masks.any(0)).contiguous())
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(70):
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        answers = model(images)
    for answer, target in zip(answers, targets, strict=True):
        wanted = smallest_rectangles(target.masks)
        found = answer.quads[: len(target)]
        assert quad_iou(found, wanted).amax(0).min() > 0.6
