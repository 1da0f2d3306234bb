from __future__ import annotations

import pytest
import torch

from ops.losses import associative_embedding, penalty_reduced_focal


def test_focal_of_the_worked_examples() -> None:
    p = torch.tensor([[0.9, 0.2, 0.1], [0.3, 0.5, 0.05]])
    heat = torch.tensor([[1, 0.6, 0], [0.1, 1, 0]])
    assert penalty_reduced_focal(p.logit(), heat).sum() / 2 == pytest.approx(0.0984, abs=5e-5)
    for heat in (torch.zeros(2, 2), torch.tensor([[1.0, 0], [0, 0]])):
        assert penalty_reduced_focal(torch.zeros(2, 2), heat).sum() == pytest.approx(0.6931, abs=5e-5)


def test_focal_without_powers_is_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, generator=generator)
    heat = (torch.rand(50, generator=generator) > 0.5).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, heat, reduction="none")
    torch.testing.assert_close(penalty_reduced_focal(logits, heat, alpha=0, beta=0), expected)


def test_focal_is_capped_as_in_the_authors_code() -> None:
    logits = torch.tensor([50.0, -50.0], requires_grad=True)
    loss = penalty_reduced_focal(logits, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(loss.detach(), torch.full((2,), 9.21034 * 0.9999**2), rtol=1e-3, atol=0)
    loss.sum().backward()
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize(
    ("first", "second", "image", "pull", "push"),
    [
        ((1.0, 2.0), (1.2, 2.6), (0, 0), 0.1000, 5e-5),
        ((0.5,), (0.1,), (3,), 0.0800, 1.0),
        ((1.0, 2.0, 0.5), (1.2, 2.6, 0.1), (0, 0, 1), 0.1800, 1.0),
        ((0.5, 1.0, 2.0), (0.1, 1.2, 2.6), (0, 1, 1), 0.1800, 1.0),
        ((1.0, 1.5), (1.2, 1.3), (0, 0), 0.0200, 0.7000),
    ],
)
def test_embedding_of_the_worked_examples(
    first: tuple[float, ...], second: tuple[float, ...], image: tuple[int, ...], pull: float, push: float
) -> None:
    tags = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    together, apart = associative_embedding(*tags, torch.tensor(image))
    assert together.sum() == pytest.approx(pull, abs=5e-5)
    assert apart.sum() == pytest.approx(push, abs=2e-4)


def test_embedding_equals_the_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn((2, 11), generator=generator, dtype=torch.float64)
    image = torch.tensor([0, 0, 0, 2, 2, 3, 3, 3, 3, 3, 3])
    pull = push = 0.0
    for number in set(image.tolist()):
        members = (image == number).nonzero().flatten().tolist()
        n = len(members)
        mean = {k: float(first[k] + second[k]) / 2 for k in members}
        pull += sum((float(first[k]) - mean[k]) ** 2 + (float(second[k]) - mean[k]) ** 2 for k in members) / (n + 1e-4)
        for j in members:
            for k in members:
                push += (max(0.0, 1 - abs(mean[j] - mean[k])) - 1 / (n + 1e-4)) / (n * (n - 1) + 1e-4)
    together, apart = associative_embedding(first, second, image)
    assert together.sum() == pytest.approx(pull, abs=1e-9)
    assert apart.sum() == pytest.approx(push, abs=1e-9)


def test_embedding_of_objects_far_apart_and_of_none() -> None:
    tags = torch.tensor([0.0, 5.0, 10.0], requires_grad=True)
    pull, push = associative_embedding(tags, tags, torch.zeros(3, dtype=torch.int64))
    assert pull.sum() == 0
    assert push.detach().sum() == pytest.approx(0, abs=1e-4)
    none = torch.zeros(0, requires_grad=True)
    pull, push = associative_embedding(none, none, torch.zeros(0, dtype=torch.int64))
    (pull.sum() + push.sum()).backward()
    assert pull.sum() == push.sum() == 0
    assert none.grad is not None
