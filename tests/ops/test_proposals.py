"""Selective search: what it finds, in which order, and that it is the same each time."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from ops.proposals import SelectiveSearch

SEARCH = SelectiveSearch(min_side=6)


def picture(height: int = 120, width: int = 160) -> tuple[Tensor, Tensor]:
    """A mottled ground with three plain rectangles, one of them half covered by another; and their boxes."""
    generator = torch.Generator().manual_seed(0)
    image = 0.4 + 0.05 * torch.rand((3, height, width), generator=generator)
    boxes = torch.tensor([[10, 15, 50, 70], [70, 60, 130, 110], [100, 20, 140, 75]])
    for (x1, y1, x2, y2), colour in zip(
        boxes.tolist(), ([0.9, 0.1, 0.1], [0.1, 0.2, 0.9], [0.1, 0.8, 0.2]), strict=True
    ):
        image[:, y1:y2, x1:x2] = torch.tensor(colour)[:, None, None]
    return image, boxes.float()


@pytest.mark.parametrize("mode", ["fast", "quality"])
def test_objects_are_found_and_boxes_are_boxes(mode: str) -> None:
    image, truth = picture()
    boxes = SelectiveSearch(mode, min_side=6)(image)  # type: ignore[arg-type]
    assert boxes.dtype == torch.float32
    assert bool((boxes[:, :2] >= 0).all())
    assert bool((boxes[:, 2:] <= torch.tensor([160.0, 120.0])).all())
    assert bool((boxes[:, 2:] - boxes[:, :2] >= 6).all())
    assert len(boxes.unique(dim=0)) == len(boxes)
    assert box_iou(truth, boxes).amax(1).min() > 0.85
    # The last junction of every hierarchy is the whole image: x2 is x + w, not x + w - 1.
    assert [0.0, 0.0, 160.0, 120.0] in boxes.tolist()


def test_same_image_same_boxes_whatever_random_numbers_were_drawn() -> None:
    image, _ = picture()
    cv2.setRNGSeed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    first = SEARCH(image)
    np.random.rand(7)  # noqa: NPY002
    torch.rand(7)
    state = torch.random.get_rng_state()
    assert torch.equal(first, SEARCH(image))
    assert torch.equal(state, torch.random.get_rng_state())


def test_quality_finds_more_than_fast() -> None:
    image, _ = picture()
    fast = {tuple(box) for box in SEARCH(image).tolist()}
    quality = {tuple(box) for box in SelectiveSearch("quality", min_side=6)(image).tolist()}
    assert fast < quality


def test_settings() -> None:
    image, _ = picture()
    boxes = SEARCH(image)
    assert torch.equal(SelectiveSearch(min_side=6, limit=5)(image), boxes[:5])
    sides = boxes[:, 2:] - boxes[:, :2]
    assert bool((sides.amin(1) < 20).any())
    assert torch.equal(SelectiveSearch()(image), boxes[sides.amin(1) >= 20])
    assert len(SelectiveSearch(min_side=6, scales=(10, 20))(image)) > len(boxes)
    assert len(SelectiveSearch(min_side=6, min_segment=10)(image)) > len(boxes)
    coarse, finer = (set(map(tuple, SelectiveSearch(min_side=6, scales=k)(image).tolist())) for k in ((50,), (50, 100)))
    assert coarse <= finer


def test_large_boxes_come_first_as_a_rule() -> None:
    boxes = SelectiveSearch(min_side=1, scales=(10, 20))(picture()[0])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    third = len(boxes) // 3
    assert area[:third].mean() > 1.5 * area[-third:].mean()
    assert bool((area[1:] > area[:-1]).any())


def test_images_without_anything() -> None:
    assert SEARCH(torch.zeros((3, 40, 50))).tolist() == [[0.0, 0.0, 50.0, 40.0]]
    assert SelectiveSearch(min_side=6)(torch.ones((3, 4, 4))).shape == (0, 4)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="mode"):
        SelectiveSearch("slow")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive"):
        SelectiveSearch(scales=(0,))
    with pytest.raises(ValueError, match="3, H, W"):
        SEARCH(torch.zeros((1, 9, 9)))
