import math

import torch
from torch import Tensor

from ops.coders import CenterSizeCoder


def random_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand((count, 2), generator=generator) * 100
    return torch.cat([corner, corner + 1 + torch.rand((count, 2), generator=generator) * 60], 1)


def test_decode_undoes_encode() -> None:
    boxes, references = random_boxes(200, 0), random_boxes(200, 1)
    for coder in (CenterSizeCoder(), CenterSizeCoder((10, 10, 5, 5))):
        torch.testing.assert_close(coder.decode(coder.encode(boxes, references), references), boxes, atol=1e-3, rtol=0)


def test_ssd_example() -> None:
    """Prior (.5, .5, .2, .4), object (.55, .45, .3, .3), both centre and size; variances .1 and .2."""
    prior, truth = torch.tensor([[0.4, 0.3, 0.6, 0.7]]), torch.tensor([[0.4, 0.3, 0.7, 0.6]])
    found = CenterSizeCoder((10, 10, 5, 5)).encode(truth, prior)
    torch.testing.assert_close(found, torch.tensor([[2.5, -1.25, 2.0273255, -1.4384104]]), atol=2e-5, rtol=0)


def test_definition() -> None:
    reference = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    offsets = torch.tensor([[0.5, -0.25, math.log(2), math.log(0.5)]])
    # Centre (20, 40) + (0.5 * 20, -0.25 * 40) = (30, 30); size (40, 20).
    torch.testing.assert_close(CenterSizeCoder().decode(offsets, reference), torch.tensor([[10.0, 20.0, 50.0, 40.0]]))
    weighted = CenterSizeCoder((2, 4, 8, 16))
    factors = torch.tensor([2.0, 4.0, 8.0, 16.0])
    torch.testing.assert_close(
        weighted.decode(offsets * factors, reference), CenterSizeCoder().decode(offsets, reference)
    )


def test_the_same_box_is_no_offset() -> None:
    boxes = random_boxes(10, 2)
    coder = CenterSizeCoder((10, 10, 5, 5))
    torch.testing.assert_close(coder.encode(boxes, boxes), torch.zeros(10, 4))
    torch.testing.assert_close(coder.decode(torch.zeros(10, 4), boxes), boxes)


def test_scaling_everything_changes_nothing() -> None:
    boxes, references = random_boxes(50, 3), random_boxes(50, 4)
    coder = CenterSizeCoder()
    torch.testing.assert_close(coder.encode(boxes * 4, references * 4), coder.encode(boxes, references))


def test_an_untrained_head_cannot_overflow() -> None:
    reference = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    wild = CenterSizeCoder().decode(torch.tensor([[0.0, 0.0, 1e4, -1e4]]), reference)
    assert torch.isfinite(wild).all()
    torch.testing.assert_close(wild[0, 2] - wild[0, 0], torch.tensor(1000.0))


def test_shapes() -> None:
    coder = CenterSizeCoder()
    assert coder.encode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)
    assert coder.decode(torch.zeros(2, 7, 4), random_boxes(7, 5)).shape == (2, 7, 4)
    # A box a class: [N, C, 4] against references [N, 1, 4].
    assert coder.decode(torch.zeros(7, 3, 4), random_boxes(7, 5)[:, None]).shape == (7, 3, 4)
