"""Ways to a network's pixels and back: exact where they are exact, inverse everywhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.images import Frame, letterbox, normalise, resize_short_side, stack, warp

SIDES = st.integers(7, 90)


def painted(height: int, width: int, box: tuple[int, int, int, int]) -> torch.Tensor:
    image = torch.zeros(3, height, width)
    image[:, box[1] : box[3], box[0] : box[2]] = 1
    return image


def lit(image: torch.Tensor) -> list[int]:
    rows, columns = (image[0] > 0.75).any(1).nonzero(), (image[0] > 0.75).any(0).nonzero()
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


WAYS = {
    "warp": lambda image: warp(image, (96, 64)),
    "short": lambda image: resize_short_side(image, 80, 120),
    "letterbox": lambda image: letterbox(image, (96, 96)),
    "tall letterbox": lambda image: letterbox(image, (160, 64)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("size", [(40, 60), (60, 40), (50, 50)])
def test_boxes_follow_the_pixels(way: object, size: tuple[int, int]) -> None:
    box = (10, 15, 32, 35)
    moved, frame = way(painted(*size, box))  # type: ignore[operator]
    wanted = frame.to_network(torch.tensor([box], dtype=torch.float32))[0]
    assert (torch.tensor(lit(moved)) - wanted).abs().max() <= 1.5


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@given(height=SIDES, width=SIDES)
@settings(max_examples=25, deadline=None)
def test_there_and_back(way: object, height: int, width: int) -> None:
    _, frame = way(torch.zeros(3, height, width))  # type: ignore[operator]
    boxes = torch.tensor([[0.0, 0.0, width, height], [1.0, 2.0, width / 2, height - 1.0]])
    assert torch.allclose(frame.to_image(frame.to_network(boxes)), boxes, atol=1e-3)
    corners = frame.to_network(boxes[:1])[0]
    left, top = frame.offset
    assert corners.tolist() == pytest.approx([left, top, left + frame.inner[1], top + frame.inner[0]], abs=1e-3)


def test_to_image_clips() -> None:
    frame = Frame((30, 40), (60, 80), (2.0, 2.0), (10.0, 0.0))
    boxes = frame.to_image(torch.tensor([[-50.0, -4.0, 900.0, 61.0], [10.0, 0.0, 90.0, 60.0]]))
    assert boxes.tolist() == [[0, 0, 40, 30], [0, 0, 40, 30]]


def test_warp_reaches_the_size() -> None:
    moved, frame = warp(torch.rand(3, 375, 500), (300, 300))
    assert moved.shape == (3, 300, 300)
    assert frame.scale == (300 / 500, 300 / 375)
    image = torch.rand(3, 30, 30)
    assert warp(image, (30, 30))[0] is image


@pytest.mark.parametrize(
    ("size", "inner"),
    [
        ((375, 500), (600, 800)),
        ((500, 375), (800, 600)),
        ((500, 500), (600, 600)),
        ((200, 800), (250, 1000)),
        ((1, 999), (1, 1000)),
    ],
)
def test_short_side_rule(size: tuple[int, int], inner: tuple[int, int]) -> None:
    """Fast R-CNN's 600 and 1000: the short side counts unless the long one would pass its limit."""
    moved, frame = resize_short_side(torch.zeros(3, *size), 600, 1000)
    assert tuple(moved.shape[1:]) == frame.inner == inner


def test_letterbox_is_centred_on_grey() -> None:
    """Darknet's way with a 768x576 photograph at 416: 416x312 inside, 52 rows of grey above and below."""
    moved, frame = letterbox(torch.ones(3, 576, 768), (416, 416))
    assert frame.inner == (312, 416)
    assert frame.offset == (0.0, 52.0)
    assert moved[:, :52].unique().tolist() == [0.5]
    assert moved[:, 52:364].min() > 0.999
    assert moved[:, 364:].unique().tolist() == [0.5]
    tall, frame = letterbox(torch.ones(3, 768, 576), (416, 416), fill=0.0)
    assert frame.offset == (52.0, 0.0)
    assert tall.sum() == 3 * 312 * 416


def test_normalise_by_hand() -> None:
    pixels = torch.tensor([0.2, 0.4, 0.6])[:, None, None].expand(3, 2, 2)
    rgb = normalise(pixels, (0.1, 0.2, 0.3), (0.5, 0.25, 0.1))
    assert rgb[:, 0, 0].tolist() == pytest.approx([0.2, 0.8, 3.0])
    caffe = normalise(pixels[None], (104, 117, 123), (1, 1, 1), bgr=True, peak=255)
    assert caffe.shape == (1, 3, 2, 2)
    assert caffe[0, :, 1, 1].tolist() == pytest.approx([153 - 104, 102 - 117, 51 - 123], abs=1e-4)


def test_stack_pads_at_the_bottom_and_right() -> None:
    one, two = torch.rand(3, 20, 33), torch.rand(3, 31, 12)
    batch = stack([warp(one, (20, 33)), warp(two, (31, 12))], divisor=16)
    assert batch.size == (32, 48)
    assert torch.equal(batch.pixels[0, :, :20, :33], one)
    assert torch.equal(batch.pixels[1, :, :31, :12], two)
    assert batch.pixels[0, :, 20:].abs().sum() == 0
    assert batch.pixels[1, :, :, 12:].abs().sum() == 0
    assert [frame.size for frame in batch.frames] == [(20, 33), (31, 12)]
    assert stack([warp(one, (20, 33))]).size == (20, 33)
    with pytest.raises(ValueError, match="at least one image"):
        stack([])
