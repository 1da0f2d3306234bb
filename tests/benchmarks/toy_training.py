"""A training that a test can start as a process, kill and resume: `python toy_training.py OUT STEPS`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.descent import fit_by_gradient  # noqa: E402
from ops.images import Batch, stack, warp  # noqa: E402
from ops.structures import Detections, Target  # noqa: E402
from zoo.detector import Detector, Recipe  # noqa: E402


class ToyDetector(Detector):
    """One box an image. Normalises, drops out and draws random numbers: all that resuming can get wrong."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__(num_classes)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 4)

    def preprocess(self, images: list[Tensor]) -> Batch:
        return stack([warp(image, (32, 32)) for image in images])

    def network(self, batch: Batch, targets: list[Target] | None = None) -> Tensor:
        x = self.body(batch.pixels).mean((2, 3))
        if targets is not None:
            x = x + 0.01 * torch.rand_like(x)
        return self.head(x)

    def postprocess(self, outputs: Tensor, batch: Batch) -> list[Detections]:
        return [
            Detections(frame.to_image(row[None]), torch.ones(1), torch.zeros(1, dtype=torch.int64))
            for row, frame in zip(outputs, batch.frames, strict=True)
        ]

    def losses(self, outputs: Tensor, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        wanted = torch.stack([target.boxes[0] for target in targets]) / 32
        return {"box": (outputs - wanted).abs().mean(), "size": 0.1 * outputs.square().mean()}


class ToyImages:
    """Twenty images of noise with a box each."""

    class_names = ("a", "b")

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        generator = torch.Generator().manual_seed(index)
        corner = 10 * torch.rand(2, generator=generator)
        box = torch.cat([corner, corner + 5 + 10 * torch.rand(2, generator=generator)])[None]
        return torch.rand((3, 32, 32), generator=generator), Target(box, torch.tensor([index % 2]))


def shake(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """An augmentation with chance in it."""
    return (image + 0.1 * torch.rand(())).clamp(0, 1), target


def recipe(steps: int, **changes: object) -> Recipe:
    settings = {"optimizer": "adamw", "lr": 0.02, "ema": 0.9, "clip_norm": 1.0, "augment": shake, "cosine": True}
    return Recipe(batch=4, steps=steps, **{**settings, **changes})


def run(out: Path, steps: int, checkpoint_every: int = 7) -> ToyDetector:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = ToyDetector()
    fit_by_gradient(
        model,
        ToyImages(),
        recipe(steps),
        seed=3,
        out=out,
        identity={"steps": steps},
        device=torch.device("cpu"),
        checkpoint_every=checkpoint_every,
        quiet=True,
    )
    return model


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    model = run(folder, int(sys.argv[2]))
    name = f"final{dist.get_rank()}.pt" if dist.is_initialized() else "final.pt"
    torch.save(model.state_dict(), folder / name)
    if dist.is_initialized():
        dist.destroy_process_group()
