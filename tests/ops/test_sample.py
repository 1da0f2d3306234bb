import pytest
import torch

from ops.sample import hardest


@pytest.mark.parametrize("seed", range(5))
def test_same_as_the_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    losses = torch.rand((4, 12), generator=generator)
    candidates = torch.rand((4, 12), generator=generator) < 0.6
    counts = torch.randint(0, 15, (4,), generator=generator)
    chosen = hardest(losses, candidates, counts)
    for row in range(4):
        open_ones = [i for i in range(12) if candidates[row, i]]
        open_ones.sort(key=lambda i: -float(losses[row, i]))
        assert set(chosen[row].nonzero()[:, 0].tolist()) == set(open_ones[: int(counts[row])])


def test_every_chosen_one_is_at_least_as_hard_as_every_other_candidate() -> None:
    losses = torch.rand(3, 50)
    candidates = torch.rand(3, 50) < 0.5
    chosen = hardest(losses, candidates, torch.tensor([0, 3, 9]))
    assert chosen.sum(1).tolist() == [0, 3, 9]
    for row in (1, 2):
        assert losses[row][chosen[row]].min() >= losses[row][candidates[row] & ~chosen[row]].max()


def test_ties_and_extremes() -> None:
    losses = torch.tensor([[1.0, 2.0, 2.0, 2.0], [torch.inf, 0.0, torch.inf, -1e30], [0.0, 0.0, 0.0, 0.0]])
    candidates = torch.tensor([[True, True, True, True], [False, True, True, True], [True, True, True, False]])
    chosen = hardest(losses, candidates, torch.tensor([2, 3, 2]))
    assert chosen.sum(1).tolist() == [2, 3, 2]
    assert not chosen[0, 0]
    assert chosen[1].tolist() == [False, True, True, True]
    assert not chosen[2, 3]
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    assert not hardest(losses[:2], nothing, torch.tensor([4, 9])).any()
    assert not hardest(losses[:2], ~nothing, torch.tensor([0, 0])).any()


def test_no_gradient_flows() -> None:
    losses = torch.rand(1, 4, requires_grad=True)
    assert not hardest(losses, torch.ones(1, 4, dtype=torch.bool), torch.tensor([2])).requires_grad
