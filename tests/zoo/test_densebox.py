from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import vgg19

from ops.dense import cell_points, near
from ops.structures import Target
from tests.contract import assert_is_detector, assert_overfits, empty_target, toy_images
from zoo import build
from zoo.backbones.vgg import VGG19FourStages
from zoo.dense.densebox import CORNERS, SMALL, DenseBox, DenseBoxMaps, densebox, small_patch
from zoo.subsample import subsample

WHOLE: dict[str, Any] = {"taps": (0, 2), "standard": 50.0, "heights": None, "scales": (1.0,)}
"""Objects of all heights are learnt, at the scale of the image; those of the toy images are of many."""


def small(num_classes: int = 2, **options: Any) -> DenseBox:
    torch.manual_seed(0)
    return DenseBox(num_classes, **{**SMALL, **WHOLE, "width": 16, **options})


def count(module: nn.Module | None) -> int:
    assert module is not None
    return sum(parameter.numel() for parameter in module.parameters())


def one(*box: float, label: int = 0) -> Target:
    return Target(torch.tensor([box]), torch.tensor([label]))


def test_size_of_the_papers_network() -> None:
    with torch.device("meta"):
        model = densebox(1)
        (maps,) = model.network_for_cost(model.preprocess([torch.empty(3, 240, 240)]))
    assert count(model) == 11_375_173
    assert count(model.body) == 10_585_152
    assert count(model.score) == 394_241
    assert count(model.corners) == 395_780
    assert sum(isinstance(part, nn.Conv2d) for part in model.modules()) == 12 + 4
    assert maps.score.shape == (1, 1, 60, 60)
    assert maps.corners.shape == (1, 4, 60, 60)
    assert model.num_boxes((240, 240)) == 3600
    assert len(model.scales) == 15
    assert [model.scales[0], model.scales[-1]] == pytest.approx([2**-3, 2**1.2])


def test_landmarks_add_a_branch_and_refine_the_score() -> None:
    with torch.device("meta"):
        model = densebox(1, landmarks=CORNERS)
        (maps,) = model.network_for_cost(model.preprocess([torch.empty(3, 240, 240)]))
    assert count(model.landmarks) == 768 * 512 + 512 + 512 * 4 + 4
    assert count(model) - count(model.landmarks) - count(model.refine) == 11_375_173
    assert maps.landmarks is not None
    assert maps.first is not None
    assert [tuple(m.shape) for m in (maps.score, maps.first, maps.landmarks)] == [(1, n, 60, 60) for n in (1, 1, 4)]


def test_trunk_is_the_beginning_of_vgg19() -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        theirs = vgg19(weights=None).features[:27]
    theirs = theirs.to_empty(device="cpu").eval()
    ours = VGG19FourStages()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        maps = ours(x)
        torch.testing.assert_close(maps[3], theirs(x))
        torch.testing.assert_close(maps[2], theirs[:18](x))
    assert [m.shape[1] for m in maps] == list(ours.channels)
    assert [32 // m.shape[2] for m in maps] == list(ours.strides)


def test_a_face_of_50_pixels_has_a_circle_of_3_75_cells() -> None:
    """45 cells, about the middle of one; decoding what each of them learns gives the face."""
    model = small(heights=(0.8, 1.25))
    points = cell_points((60, 60), (240, 240))
    face = one(97.0, 97.0, 147.0, 147.0)
    positive, _, own, corners = model.assign(face, points, 4.0)
    assert positive.shape == (2, 3600)
    assert positive.sum(1).tolist() == [45, 0]
    assert positive[0].equal(own == 0)
    middle = 30 * 60 + 30
    torch.testing.assert_close(corners[middle], torch.tensor([0.5, 0.5, -0.5, -0.5]))
    # In cells, a face is 12.5 wide and its corner 6.25 away: the same shares.
    assert float(corners[middle + 1, 0]) == pytest.approx((6.25 + 1) / 12.5)
    boxes = model.decode(corners.T.reshape(1, 4, 60, 60), points)[0, own == 0]
    torch.testing.assert_close(boxes, face.boxes.expand(45, 4))


def test_only_objects_of_about_the_standard_height_are_learnt() -> None:
    points = cell_points((60, 60), (240, 240))
    boxes = torch.tensor([[20.0, 20.0, 60.0, 60.0], [100.0, 100.0, 139.0, 139.0], [150.0, 150.0, 213.0, 213.0]])
    target = Target(boxes, torch.tensor([0, 1, 1]))
    positive, _, own, _ = small(heights=(0.8, 1.25)).assign(target, points, 4.0)
    assert positive.any(1).tolist() == [True, False]
    assert int(own.max()) == 0
    assert small().assign(target, points, 4.0)[2].unique().tolist() == [-1, 0, 1, 2]


def test_every_object_has_a_cell_and_the_nearer_middle_wins() -> None:
    points = cell_points((40, 40), (160, 160))
    for shift in range(4):
        tiny = one(30.0 + shift, 30.0 + shift, 34.0 + shift, 33.0 + shift)
        assert small().assign(tiny, points, 4.0)[0].any()
    boxes = torch.tensor([[20.0, 20.0, 120.0, 120.0], [60.0, 50.0, 140.0, 110.0]])
    _, _, own, _ = small().assign(Target(boxes, torch.tensor([0, 0])), points, 4.0)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    away = torch.cdist(middles, points)
    inside = away <= torch.tensor([[30.0], [18.0]])
    assert own[inside.all(0)].equal(away.argmin(0)[inside.all(0)])
    assert own[inside.sum(0) == 1].equal(inside.byte().argmax(0)[inside.sum(0) == 1])
    assert set(own.tolist()) == {-1, 0, 1}
    assert (own == -1).equal(~inside.any(0))


def perfect(model: DenseBox, targets: list[Target], size: tuple[int, int]) -> tuple[DenseBoxMaps, Tensor]:
    """Maps that say what is wanted, and where the positives are."""
    cells = (size[0] // 4, size[1] // 4)
    asked = [model.assign(target, cell_points(cells, size), 4.0) for target in targets]
    positive, marked = (torch.stack([row[k] for row in asked]).unflatten(-1, cells) for k in (0, 1))
    corners = torch.stack([row[3].T.unflatten(-1, cells) for row in asked])
    landmarks = marked.float() if marked.shape[1] else None
    return DenseBoxMaps(positive.float(), corners, positive.float() if marked.shape[1] else None, landmarks), positive


def test_loss_by_its_laws() -> None:
    model = small(landmarks=CORNERS, mining=False)
    images = [torch.rand(3, 160, 160) for _ in range(2)]
    targets = [one(50.0, 60.0, 90.0, 110.0, label=1), empty_target()]
    batch = model.preprocess(images)
    maps, positive = perfect(model, targets, (160, 160))
    assert {name: float(value) for name, value in model.losses([maps], batch, targets).items()} == {
        "score": 0.0, "box": 0.0, "landmarks": 0.0, "refined": 0.0,
    }  # fmt: skip

    # Corners count at positives only, three times, over the number of positives.
    wrong = maps._replace(corners=maps.corners + 0.1)
    assert float(model.losses([wrong], batch, targets)["box"]) == pytest.approx(3 * 4 * 0.01, rel=1e-4)
    elsewhere = maps._replace(corners=torch.where(positive.any(1, keepdim=True), maps.corners, 7.0))
    assert float(model.losses([elsewhere], batch, targets)["box"]) == 0

    # A ring of two cells about the positives is ignored, beyond it nothing is.
    y, x = positive[0, 1].nonzero()[0].tolist()
    for step, counts in ((1, False), (2, False), (3, True)):
        score = maps.score.clone()
        score[0, 1, y - step, x] = 5.0
        assert (float(model.losses([maps._replace(score=score)], batch, targets)["refined"]) > 0) == counts
    score = torch.where(positive, 1.0, 0.5)
    counted = score.numel() - int(near(positive, 2).sum())
    assert float(model._score_loss(score, positive)) == pytest.approx(counted * 0.25 / max(int(positive.sum()), 72))


def test_mining_learns_as_many_negatives_as_positives() -> None:
    """Every error is 1: the loss then counts cells, twice the positives, or 72 negatives where there are none."""
    targets = [one(20.0, 20.0, 140.0, 140.0)]
    model = small()
    _, positive = perfect(model, targets, (160, 160))
    assert int(positive.sum()) > 200
    assert float(model._score_loss(1 - positive.float(), positive)) == pytest.approx(2)
    nothing = torch.zeros_like(positive)
    assert float(model._score_loss(torch.ones_like(positive, dtype=torch.float32), nothing)) == pytest.approx(1)
    # Of the 3,200 cells of both maps 32 are hard; the rest is drawn from all others.
    few = torch.zeros(positive.shape)
    few.view(-1)[:36] = 10.0
    assert float(model._score_loss(few, nothing)) == pytest.approx(100 * 32 / 72, abs=4)


def test_a_pyramid_finds_objects_of_other_heights() -> None:
    """At twice the size an object of 25 pixels is as high as the standard, at half the size one of 100."""
    model = small(1, heights=(0.8, 1.25), scales=(0.5, 1.0, 2.0))
    objects = {0.5: (32.0, 48.0, 132.0, 148.0), 1.0: (160.0, 60.0, 200.0, 110.0), 2.0: (8.0, 8.0, 28.0, 33.0)}

    def say(pixels: Tensor) -> DenseBoxMaps:
        scale = pixels.shape[-1] / 256
        every = Target(scale * torch.tensor(list(objects.values())), torch.zeros(3, dtype=torch.int64))
        return perfect(model, [every], (pixels.shape[-2], pixels.shape[-1]))[0]

    model.maps = say  # type: ignore[method-assign]
    image = torch.rand(3, 192, 256)
    (found,) = model([image])
    assert sorted(found.boxes.round().tolist()) == sorted([list(box) for box in objects.values()])
    assert len(model.network(model.preprocess([image]), [])) == 1


@pytest.mark.parametrize("landmarks", [(), CORNERS])
def test_contract(landmarks: Any) -> None:
    assert_is_detector(small(landmarks=landmarks))


def test_boxes_without_extent_are_no_detections() -> None:
    model = small().eval()
    with torch.no_grad():
        nn.init.constant_(model.score[3].bias, 1.0)
        nn.init.zeros_(model.corners[3].weight)
        model.corners[3].bias.copy_(torch.tensor([-0.2, -0.2, 0.2, 0.2]))
        assert all(len(found) == 0 for found in model(toy_images()))
        model.corners[3].bias.neg_()
        assert all(len(found) > 0 for found in model(toy_images()))


def test_classes_can_be_cut_out() -> None:
    model = small(3).eval()
    fewer = subsample(model, small(2).eval(), ["a", "b", "c"], ["c", "a"])
    pixels = torch.rand(1, 3, 64, 64)
    assert fewer.maps(pixels).score.equal(model.maps(pixels).score[:, [2, 0]])
    with pytest.raises(ValueError, match="landmarks"):
        small(landmarks=CORNERS).class_channels()


def test_learns_four_images() -> None:
    assert_overfits(build("densebox", 2, small=True, **WHOLE), steps=80)


def test_landmarks_are_learnt_beside_the_boxes() -> None:
    assert_overfits(build("densebox", 2, small=True, landmarks=CORNERS, **WHOLE), steps=90)


def test_the_small_size_finds_every_height_of_its_data_set() -> None:
    """Discs are 10 to 150 pixels high: at one of the scales, as the network rounds them, each is about the standard."""
    model = build("densebox", 1, small=True)
    assert isinstance(model, DenseBox)
    assert model.heights is not None
    sides = [max(1, round(160 * scale / model.divisor)) * model.divisor for scale in model.scales]
    for height in range(10, 151):
        shares = [height * side / 160 / model.standard for side in sides]
        assert any(model.heights[0] <= share <= model.heights[1] for share in shares), height


def test_patches_of_the_small_size_bring_positives() -> None:
    """Half of the patches are about an object, which then has about ten cells; heights are those that are learnt."""
    torch.manual_seed(0)
    model = build("densebox", 1, small=True)
    assert isinstance(model, DenseBox)
    points, found = cell_points((30, 30), (120, 120)), []
    for side in (12.0, 24.0, 100.0):
        for _ in range(20):
            image, target = small_patch(torch.rand(3, 160, 160), one(20.0, 20.0, 20.0 + side, 20.0 + side))
            assert image.shape == (3, 120, 120)
            found.append(int(model.assign(target, points, 4.0)[0].sum()))
    learning = [count for count in found if count]
    assert len(learning) > 20
    assert 6 < sum(learning) / len(learning) < 14


def test_objects_of_nearly_a_height_that_is_learnt_are_no_background() -> None:
    """Half as high as the standard, an object is left alone; a quarter as high, it is background."""
    torch.manual_seed(0)
    model = small(1, heights=(0.8, 1.25), margin=1.6, mining=False, ring=0.0)
    points, batch = cell_points((40, 40), (160, 160)), model.preprocess([torch.rand(3, 160, 160)])
    nearly, far = one(20.0, 20.0, 46.0, 46.0), one(100.0, 100.0, 115.0, 115.0)
    assert int(model.spared(nearly, points, 4.0).sum()) > 8
    assert not model.spared(far, points, 4.0).any()
    assert not small(1, heights=(0.8, 1.25), margin=1.0).spared(nearly, points, 4.0).any(), "as in the paper"
    maps, positive = perfect(model, [nearly], (160, 160))
    assert not positive.any()
    for target, costs in ((nearly, False), (far, True)):
        said = paint_circles(model, target, points).reshape(1, 1, 40, 40)
        assert (float(model.losses([maps._replace(score=said)], batch, [target])["score"]) > 0) == costs


def paint_circles(model: DenseBox, target: Target, points: Tensor) -> Tensor:
    """1 in the circles of all objects, whatever their height."""
    return model._circles(target, points, 4.0)[0].any(0).float()
