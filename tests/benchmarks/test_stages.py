"""The table of stages tells all of a network's parameters and products, once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.stages import stages, watched


class Net(nn.Module):
    """A pyramid of two levels with a head that both share, repeated blocks, and a branch that does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList(
            [nn.Conv2d(3, 8, 3, 2, 1), nn.Sequential(*(nn.Conv2d(8, 8, 3, 1, 1) for _ in range(4)))]
        )
        self.down = nn.Conv2d(8, 8, 3, 2, 1)
        self.act = nn.ReLU()
        self.head = nn.Conv2d(8, 5, 1)
        self.learns_only = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> list[Tensor]:
        for part in self.body:
            x = self.act(part(x))
        return [self.head(x), self.head(self.down(x))]


def run(most: int) -> list[dict[str, object]]:
    with torch.device("meta"):
        net = Net()
    count = [0]

    def convolve(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        count[0] += output.numel() * module.weight[0].numel()

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(convolve)
    with watched(net, lambda: count[0]) as seen:
        net(torch.empty(1, 3, 16, 16, device="meta"))
    before = len(seen)
    net(torch.empty(1, 3, 16, 16, device="meta"))
    assert len(seen) == before, "nothing is watched any more"
    assert seen[""].macs * 2 == count[0]
    rows = stages(net, seen, most)
    assert sum(row["macs"] for row in rows) == seen[""].macs
    assert sum(row["parameters"] for row in rows) == sum(p.numel() for p in net.parameters())
    return rows


def test_rows_stand_in_the_order_in_which_they_run() -> None:
    rows = run(25)
    assert [row["module"] for row in rows] == ["body.0", "body.1", "head", "down", "learns_only"]
    head = rows[2]
    assert head["outputs"] == [[1, 5, 8, 8], [1, 5, 4, 4]]
    assert head["calls"] == 2
    assert head["macs"] == 40 * (64 + 16)
    assert rows[1]["type"] == "Sequential", "repeated blocks of one size stay together"
    assert rows[4]["calls"] == 0


def test_no_more_rows_than_asked_for() -> None:
    rows = run(4)
    assert [row["module"] for row in rows] == ["body", "head", "down", "learns_only"]
    assert rows[0]["calls"] == 0
    assert rows[0]["macs"] > 0
