"""What one of two processes computes for tests of synchronised normalisation: `torchrun sync_processes.py OUT`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ops.structures import Target  # noqa: E402
from zoo import build  # noqa: E402
from zoo.parts.sync_norm import SyncBatchNorm  # noqa: E402
from zoo.two_stage.faster_rcnn import FasterRCNN  # noqa: E402

SHARDS = (((1.0, 2), (3, 5)), ((7, 11), (13, 17)))
SHAPES = ((3, 2, 6, 7), (2, 2, 4, 5))
"""Of maps in the two processes; as many images, of as many sizes, as each happens to have."""


def network(norm: type[nn.Module]) -> nn.Sequential:
    """Two normalised convolutions, the same each time."""
    torch.manual_seed(5)
    layers = nn.Sequential(nn.Conv2d(2, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 3, 1), norm(3))
    for parameter in layers.parameters():
        nn.init.normal_(parameter)
    return layers


def whole_batch() -> Tensor:
    """Eight images, the first four of which are those of the first process."""
    return torch.randn(8, 2, 6, 7, generator=torch.Generator().manual_seed(6)).add(3)


def maps(rank: int) -> Tensor:
    return torch.randn(SHAPES[rank], generator=torch.Generator().manual_seed(7 + rank)).mul(3).add(100)


def loss_of(answers: Tensor) -> Tensor:
    """A mean over images that weights the outputs differently."""
    ramp = torch.linspace(-1, 2, answers[0].numel()).reshape(answers.shape[1:])
    return (answers * ramp + 0.1 * answers**3).flatten(1).sum(1).mean()


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank = dist.get_rank()
    found: dict[str, Tensor] = {}

    norm = SyncBatchNorm(2, momentum=1.0)
    norm(torch.tensor(SHARDS[rank]))
    found["toy.mean"], found["toy.variance"] = norm.running_mean, norm.running_var

    model = network(SyncBatchNorm)
    parallel = DistributedDataParallel(model)
    for _ in range(2):
        parallel.zero_grad()
        own = whole_batch()[4 * rank : 4 * rank + 4].requires_grad_()
        answers = parallel(own)
        loss_of(answers).backward()
    found["answers"], found["input.grad"] = answers.detach(), own.grad
    found.update({f"grad.{name}": p.grad for name, p in model.named_parameters()})
    found.update({f"state.{name}": value for name, value in model.state_dict().items()})

    norm = SyncBatchNorm(2)
    own = maps(rank).requires_grad_()
    answers = norm(own)
    (answers**3).sum().backward()
    found["uneven.answers"], found["uneven.grad"] = answers.detach(), own.grad
    found["half"] = norm(maps(rank).bfloat16()).detach()
    found["evaluated"] = norm.eval()(maps(rank)).detach()

    torch.manual_seed(0)
    detector = build("megdet_r50_fpn", 2, small=True, short=64, longest=64, samples=(16, 8)[rank])
    assert isinstance(detector, FasterRCNN)
    target = Target(torch.tensor([[5.0, 6, 40, 50]]), torch.tensor([1]))
    batch = detector.preprocess([torch.rand(3, 64, 64)])
    outputs = detector.network(batch, [target])
    assert outputs.samples is not None
    found["regions"] = torch.tensor(len(outputs.samples[0].boxes))
    torch.manual_seed(1)
    for name, value in FasterRCNN.losses(detector, outputs, batch, [target]).items():
        found[f"own.{name}"] = value.detach()
    torch.manual_seed(1)
    for name, value in detector.losses(outputs, batch, [target]).items():
        found[f"shared.{name}"] = value.detach()

    torch.save(found, out / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
