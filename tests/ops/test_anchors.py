import pytest
import torch
from torch import Tensor

from ops.anchors import centred_shapes, grid_anchors, prior_shapes


def centres_and_sizes(boxes: Tensor) -> Tensor:
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_grid_is_the_loop(offset: float) -> None:
    sizes = [(4.0, 2.0), (3.0, 5.0)]
    expected = []
    for row in range(3):
        for column in range(2):
            x, y = (column + offset) * 10, (row + offset) * 7
            expected += [[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for w, h in sizes]
    found = grid_anchors(centred_shapes(sizes), (3, 2), (7, 10), offset)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_grid_follows_a_flattened_head() -> None:
    """Channel a of cell (y, x) is box `(y * W + x) * A + a` once a head's map is permuted and flattened."""
    height, width, shapes = 3, 4, 2
    head = torch.arange(shapes * height * width).reshape(1, shapes, height, width)
    flat = head.permute(0, 2, 3, 1).reshape(-1)
    boxes = centres_and_sizes(grid_anchors(centred_shapes([(1.0, 1.0), (2.0, 2.0)]), (height, width), (1, 1)))
    for index, value in enumerate(flat.tolist()):
        a, cell = divmod(value, height * width)
        y, x = divmod(cell, width)
        assert boxes[index].tolist() == [x + 0.5, y + 0.5, a + 1.0, a + 1.0]


def test_priors_of_the_first_cell_of_ssd300() -> None:
    shapes = torch.tensor(prior_shapes(30, 60, (2,))) / 300
    golden = [[0.1, 0.1], [0.141421, 0.141421], [0.141421, 0.070711], [0.070711, 0.141421]]
    torch.testing.assert_close(shapes, torch.tensor(golden), atol=5e-7, rtol=0)


def test_priors_of_the_last_cell_of_ssd300() -> None:
    width, height = prior_shapes(264, 315, (2,))[-1]
    assert (round(width / 300, 6), round(height / 300, 6)) == (0.622254, 1.244508)


def test_prior_laws() -> None:
    shapes = prior_shapes(20, 45, (2, 3))
    assert len(shapes) == 6
    assert shapes[1] == (30.0, 30.0)
    assert len(prior_shapes(20, None, (2, 3))) == 5
    for (wide, flat), (narrow, tall), ratio in zip(shapes[2::2], shapes[3::2], (2, 3), strict=True):
        assert (wide, flat) == (tall, narrow)
        assert wide / flat == pytest.approx(ratio)
        assert wide * flat == pytest.approx(400)
