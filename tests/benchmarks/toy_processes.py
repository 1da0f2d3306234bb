"""What several processes do together: `torchrun toy_processes.py OUT` trains, continues a training, and evaluates."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.datasets import open_dataset
from benchmarks.descent import fit_by_gradient
from benchmarks.evaluate import Subject, evaluate
from benchmarks.processes import join_processes
from ops.images import Batch
from ops.structures import Detections, Target
from tests.benchmarks.toy_training import ToyDetector, ToyImages, recipe
from zoo.detector import Detector

STEPS, HALF, IMAGES = 12, 6, 11


class Plain(ToyDetector):
    """Neither chance nor statistics of a batch: however a batch is divided, its gradient is the same."""

    def __init__(self) -> None:
        super().__init__(8)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())

    def network(self, batch: Batch, targets: list[Target] | None = None) -> torch.Tensor:
        return self.head(self.body(batch.pixels).mean((2, 3)))


class Boxes(Detector):
    """Twenty boxes an image for each class, that depend on its pixels, to the last bit."""

    def forward(self, images: list[torch.Tensor], targets: object = None) -> list[Detections]:
        found = []
        for image in images:
            values = torch.linspace(1, 3, 20) * image.std()
            x, y = 100 * (values * 3).frac(), 100 * (values * 17).frac()
            boxes = torch.stack([x, y, x + 50, y + 45], dim=1).repeat(8, 1)
            scores = torch.linspace(1, 2, 160).mul(image.mean()).frac().sort(descending=True).values
            found.append(Detections(boxes, scores, torch.arange(8).repeat_interleave(20)))
        return found


def fitted(out: Path, steps: int, accumulate: int = 1) -> dict[str, torch.Tensor]:
    """The weights after a training in `out`, which goes on where it stands."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    out.mkdir(exist_ok=True)
    model = Plain()
    settings = recipe(steps, optimizer="sgd", lr=0.05, ema=None, cosine=False)
    fit_by_gradient(
        model, ToyImages(), settings, seed=3, out=out, identity={}, device=torch.device("cpu"),
        checkpoint_every=HALF, accumulate=accumulate, quiet=True,
    )  # fmt: skip
    return model.state_dict()


def evaluated(out: Path) -> None:
    """A Record, and detections, in `out`."""
    torch.set_num_threads(1)
    subject = Subject("toy", Boxes(8).eval(), "small", {}, None, Path(__file__), origin={"family": "toy"})
    evaluate(subject, open_dataset("shapes", "test").first(IMAGES), out=out, quiet=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    join_processes("cpu")
    trained = {"whole": fitted(folder / "whole", STEPS, accumulate=4 // dist.get_world_size())}
    trained["resumed"] = fitted(folder / "resumed", STEPS)
    torch.save(trained, folder / f"trained{dist.get_rank()}.pt")
    evaluated(folder / "evaluated")
    dist.destroy_process_group()
