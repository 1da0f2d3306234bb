"""Augmentations by their laws: boxes follow the pixels they were painted about, and rows stay together."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ops.augment import Colour, cornernet_augment, flip, photo_augment, place, shapes_augment, ssd_augment
from ops.structures import Target

Augment = Callable[[Tensor, Target], tuple[Tensor, Target]]

ALL: dict[str, Augment] = {
    "shapes": shapes_augment,
    "photo": photo_augment,
    "ssd": ssd_augment,
    "cornernet": cornernet_augment,
    "cornernet_small": partial(cornernet_augment, size=160, border=40),
}
every = pytest.mark.parametrize("augment", ALL.values(), ids=ALL.keys())


def scene(height: int = 120, width: int = 160) -> tuple[Tensor, Target]:
    """A mid-grey ground with a rectangle that is darker than any fill; box, area and mask are the rectangle's."""
    image = torch.full((3, height, width), 0.5)
    image[:, 40:75, 60:120] = 0.02
    mask = torch.zeros((1, height, width), dtype=torch.bool)
    mask[:, 40:75, 60:120] = True
    return image, Target(
        torch.tensor([[60.0, 40.0, 120.0, 75.0]]), torch.tensor([3]), torch.tensor([True]), torch.tensor([2100.0]), mask
    )


def about(seen: Tensor) -> Tensor:
    """The box about the pixels that are set."""
    rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
    return torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=torch.float32)


@pytest.mark.parametrize("augment", [shapes_augment, photo_augment, ssd_augment], ids=["shapes", "photo", "ssd"])
def test_boxes_follow_the_pixels(augment: Augment) -> None:
    torch.manual_seed(0)
    seen = 0
    for _ in range(80):
        image, target = augment(*scene())
        if not len(target):
            continue
        assert target.area is not None
        assert target.masks is not None
        box = target.boxes[0]
        luma = image.mean(0)
        # A bilinear edge is up to one enlarged pixel wide, and the threshold lies within it.
        assert (about(luma < luma.min() + 0.08) - box).abs().max() <= 2.5
        width, height = (box[2:] - box[:2]).tolist()
        assert target.area[0].item() == pytest.approx(width * height, rel=1e-3), "a full rectangle stays one"
        assert target.masks[0].sum().item() == pytest.approx(width * height, rel=0.15, abs=30)
        assert target.masks.shape[1:] == image.shape[1:]
        assert target.labels.tolist() == [3]
        assert target.ignore.tolist() == [True]
        seen += 1
    assert seen > 40


def test_cornernet_boxes_follow_the_pixels() -> None:
    """Here the rectangle is the brightest, since the ground beyond the image is black."""
    torch.manual_seed(0)
    image = torch.full((3, 300, 400), 0.2)
    image[:, 40:75, 60:120] = 0.5
    target = Target(torch.tensor([[60.0, 40.0, 120.0, 75.0]]), torch.tensor([3]))
    seen = 0
    for _ in range(60):
        out, moved = cornernet_augment(image, target, size=255)
        if len(moved):
            luma = out.mean(0)
            assert (about(luma > luma.max() - 0.05) - moved.boxes[0]).abs().max() <= 3
            seen += 1
    assert seen > 15


@every
def test_no_chance_makes_a_bad_target(augment: Augment) -> None:
    torch.manual_seed(1)
    boxes = torch.tensor([[0.0, 0, 160, 120], [0, 0, 5, 5], [150, 110, 160, 120], [70, 50, 74, 52], [10, 5, 150, 9]])
    target = Target(boxes, torch.arange(5), torch.tensor([False, True, False, True, False]), torch.full((5,), 12.0))
    image = torch.rand(3, 120, 160)
    kept = 0
    for _ in range(60):
        out, moved = augment(image, target)
        height, width = out.shape[-2:]
        assert out.dtype == torch.float32
        assert out.is_contiguous()
        assert 0 <= out.min() <= out.max() <= 1 + 1e-6
        assert (moved.boxes[:, 2:] > moved.boxes[:, :2]).all()
        assert (moved.boxes >= 0).all()
        assert (moved.boxes <= torch.tensor([width, height, width, height])).all()
        assert moved.area is not None
        assert len(moved.boxes) == len(moved.labels) == len(moved.ignore) == len(moved.area)
        assert torch.equal(moved.ignore, moved.labels % 2 == 1), "rows stay together"
        kept += len(moved)
    assert kept > 60
    assert torch.equal(boxes, target.boxes)


@every
def test_images_without_objects(augment: Augment) -> None:
    torch.manual_seed(2)
    empty = Target(
        torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64), None, torch.zeros(0), torch.zeros(0, 90, 70) > 0
    )
    for _ in range(20):
        out, target = augment(torch.rand(3, 90, 70), empty)
        assert len(target) == 0
        assert target.boxes.shape == (0, 4)
        assert target.masks is not None
        assert target.masks.shape == (0, *out.shape[-2:])


@every
def test_chance_is_torchs_own(augment: Augment) -> None:
    image, target = torch.rand(3, 120, 160), scene()[1]
    answers = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        answers.append(augment(image, target))
    assert torch.equal(answers[0][0], answers[1][0])
    assert torch.equal(answers[0][1].boxes, answers[1][1].boxes)
    assert answers[0][0].shape != answers[2][0].shape or not torch.equal(answers[0][0], answers[2][0])


@every
def test_the_input_stays(augment: Augment) -> None:
    torch.manual_seed(3)
    image, target = scene()
    before = image.clone(), target.boxes.clone()
    for _ in range(5):
        out, moved = augment(image, target)
        out.zero_()
        moved.boxes.zero_()
    assert torch.equal(image, before[0])
    assert torch.equal(target.boxes, before[1])


@pytest.mark.parametrize("augment", [shapes_augment, photo_augment])
def test_size_stays(augment: Augment) -> None:
    for _ in range(5):
        assert augment(*scene(90, 130))[0].shape == (3, 90, 130)


@pytest.mark.parametrize("vertical", [False, True])
def test_flip_twice_is_nothing(vertical: bool) -> None:
    image, target = torch.rand(3, 120, 160), scene()[1]
    once = flip(image, target, vertical=vertical)
    twice = flip(*once, vertical=vertical)
    assert torch.equal(twice[0], image)
    assert torch.equal(twice[1].boxes, target.boxes)
    assert target.masks is not None
    assert twice[1].masks is not None
    assert torch.equal(twice[1].masks, target.masks)
    assert once[1].boxes.tolist() == ([[60, 45, 120, 80]] if vertical else [[40, 40, 100, 75]])
    assert torch.equal(once[0], image.flip(1 if vertical else 2))


def test_place_the_whole_image_is_nothing() -> None:
    image, target = torch.rand(3, 120, 160), scene()[1]
    out, moved = place(image, target, (0, 0, 160, 120), (120, 160))
    assert torch.equal(out, image)
    assert torch.equal(moved.boxes, target.boxes)


def test_place_cuts_and_pads_exactly() -> None:
    image, target = torch.rand(3, 120, 160), scene()[1]
    out, moved = place(image, target, (90, 50, 100, 80), (80, 100), fill=(0.1, 0.2, 0.3))
    assert torch.equal(out[:, :70, :70], image[:, 50:, 90:])
    assert out[:, 70:, :].unique().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert moved.boxes.tolist() == [[0, 0, 30, 25]], "the centre (90, 57.5) lies on the edge, which belongs to it"
    assert moved.area is not None
    assert moved.area.tolist() == [750]
    assert moved.masks is not None
    assert moved.masks.sum() == 750
    _, gone = place(image, target, (91, 50, 100, 80), (80, 100))
    assert len(gone) == 0
    _, kept = place(image, target, (91, 50, 100, 80), (80, 100), centre_inside=False)
    assert kept.boxes.tolist() == [[0, 0, 29, 25]]
    out, moved = place(image, target, (-160, -120, 480, 360), (120, 160))
    assert moved.boxes[0].tolist() == pytest.approx([53 + 60 * 54 / 160, 53 + 1 / 3, 53 + 120 * 54 / 160, 65], abs=0.01)
    with pytest.raises(ValueError, match="does not overlap"):
        place(image, target, (160, 0, 10, 10), (10, 10))


def test_place_resamples_as_one_interpolation() -> None:
    image, target = torch.rand(3, 120, 160), scene()[1]
    out, _ = place(image, target, (20, 10, 80, 60), (90, 120))
    wanted = torch.nn.functional.interpolate(image[None, :, 10:70, 20:100], (90, 120), mode="bilinear")[0]
    assert torch.allclose(out, wanted, atol=1e-6)


def test_colour_steps_equal_torchvisions() -> None:
    image = torch.rand(3, 20, 30) * 0.4 + 0.3  # No step leaves 0..1, where torchvision would clamp in between.
    cases = [
        (Colour(image).gain(1.1), F.adjust_brightness(image, 1.1)),
        (Colour(image).contrast(0.6), F.adjust_contrast(image, 0.6)),
        (Colour(image).saturation(1.3), F.adjust_saturation(image, 1.3)),
        (
            Colour(image).gain(1.1).contrast(0.7).saturation(0.5),
            F.adjust_saturation(F.adjust_contrast(F.adjust_brightness(image, 1.1), 0.7), 0.5),
        ),
        (
            Colour(image).saturation(0.5).contrast(0.7),
            F.adjust_contrast(F.adjust_saturation(image, 0.5), 0.7),
        ),
    ]
    for colour, wanted in cases:
        # torchvision rounds the weights of luma to four digits.
        assert torch.allclose(colour.apply(), wanted, atol=2e-3)


def test_hue_turns_about_grey() -> None:
    image = torch.rand(3, 8, 9) * 0.3 + 0.3
    luma = torch.tensor([0.299, 0.587, 0.114])
    turned = Colour(image).hue(25).apply()
    assert torch.allclose(torch.einsum("c,chw->hw", luma, turned), torch.einsum("c,chw->hw", luma, image), atol=1e-5)
    assert not torch.allclose(turned, image, atol=1e-2)
    assert torch.allclose(Colour(image).hue(25).hue(-25).apply(), image, atol=1e-5)
    assert torch.allclose(Colour(image).hue(360).apply(), image, atol=1e-5)
    grey = torch.full((3, 2, 2), 0.4)
    assert torch.allclose(Colour(grey).hue(90).apply(), grey, atol=1e-5)
    red = torch.zeros(3, 1, 1)
    red[0] = 0.5
    toward = Colour(red).hue(-18).apply().flatten().tolist(), Colour(red).hue(18).apply().flatten().tolist()
    assert (toward[0][1] > 0) != (toward[1][1] > 0), "one way lies yellow, the other magenta"


def test_ssd_zooms_out_and_crops_by_overlap() -> None:
    """Half of the images are zoomed out by 1 to 4; each crop's centre keeps what is drawn there."""
    torch.manual_seed(0)
    image, target = scene()
    sides, found = [], 0
    for _ in range(300):
        out, moved = ssd_augment(image, target, limit=10_000)
        sides.append(max(out.shape[-2] / 120, out.shape[-1] / 160))
        found += len(moved)
    assert max(sides) > 3
    assert max(sides) <= 4.01
    assert sum(side <= 1 for side in sides) > 120
    assert sum(side < 0.99 for side in sides) > 60
    # Five of the seven samplers ask for an overlap, hence for the object, and "all" holds it too.
    assert found / 300 > 0.6
    torch.manual_seed(0)
    assert all(max(ssd_augment(image, target, limit=200)[0].shape) <= 200 for _ in range(40))


def test_cornernet_window_follows_the_paper() -> None:
    """Window of 0.6 to 1.3 sides about a centre off the border; cut objects stay; black beyond the image."""
    torch.manual_seed(0)
    image = torch.full((3, 600, 800), 0.9)
    target = Target(torch.tensor([[0.0, 0, 800, 600]]), torch.tensor([0]))
    scales = set()
    for _ in range(60):
        out, moved = cornernet_augment(image, target)
        assert out.shape == (3, 511, 511)
        assert len(moved) == 1, "an object stays though its centre lies outside"
        x1, y1, x2, y2 = (int(v) for v in moved.boxes[0].round())
        outside = torch.ones(511, 511, dtype=torch.bool)
        outside[y1:y2, x1:x2] = False
        if outside.any():
            # Jitter of contrast lifts black, but as one.
            assert (out[:, outside].amax(1) - out[:, outside].amin(1)).max() < 1e-3
            assert out[:, outside].mean() < out[:, ~outside].mean()
        # A window with both edges of the image in it shows the scale.
        if y1 > 0 and y2 < 511:
            scales.add(round(600 / (y2 - y1), 1))
    assert scales <= {1.2, 1.3}
    assert scales
    small = torch.rand(3, 40, 50)
    assert cornernet_augment(small, Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)))[0].shape == (
        3,
        511,
        511,
    )


def test_cornernet_draws_from_eight_scales() -> None:
    """0.6 to 1.3 in steps of 0.1: the 1.4 that ends the authors' range is not in it."""
    torch.manual_seed(1)
    target = Target(torch.tensor([[190.0, 190, 210, 210]]), torch.tensor([0]))
    seen = set()
    for _ in range(100):
        _, moved = cornernet_augment(torch.zeros(3, 400, 400), target, size=100, border=190)
        x1, y1, x2, y2 = moved.boxes[0].tolist() if len(moved) else (0.0, 0.0, 0.0, 0.0)
        if min(x1, y1) > 0 and max(x2, y2) < 98:
            assert x2 - x1 == pytest.approx(y2 - y1, abs=1e-3)
            seen.add(round(20 / (x2 - x1), 1))
    assert seen == {0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3}


def test_zoom_keeps_within_its_range() -> None:
    torch.manual_seed(4)
    widths = []
    for _ in range(150):
        _, target = shapes_augment(*scene())
        if len(target) and target.boxes[0, 0] > 0 and target.boxes[0, 2] < 160:
            widths.append(float(target.boxes[0, 2] - target.boxes[0, 0]) / 60)
    assert min(widths) == pytest.approx(0.7, abs=0.06)
    assert max(widths) == pytest.approx(1.3, abs=0.06)
    assert math.isclose(sum(widths) / len(widths), 1.0, abs_tol=0.08)
