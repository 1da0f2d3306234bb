"""R-CNN's three stages of training, which SPPnet takes over: a network by gradient, then SVMs, then box regressors.

From R. Girshick, J. Donahue, T. Darrell, J. Malik, "Rich Feature Hierarchies for Accurate Object Detection and Semantic
Segmentation" (CVPR 2014, https://arxiv.org/abs/1311.2524), 2.3 and appendices B and C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from ops.sample import seed_of
from ops.structures import Target
from zoo.detector import Detector, Recipe
from zoo.parts.fitting import Images, State
from zoo.parts.linear import HardNegatives, halve

__all__ = ["RegionTraining", "draw_regions", "fit_regions"]

_KEEP_EVERY = 100
"""Steps of fine-tuning between states."""

_LENGTH = 20.0
"""Mean length at which features are learned from."""


@dataclass(frozen=True)
class RegionTraining:
    """How a detector of described regions is trained.

    Attributes:
        recipe: Of fine-tuning; its batch is in images.
        objects: Regions with an object, an image: a step learns from at most so many,
        samples: and from so many in all.
        background: The others are drawn from regions that overlap an object by at least this, and by less than 0.5.
        mined: Proposals an image that the SVMs meet, drawn anew for each image; None for all.
        regressed: Likewise the regressors.
        regressed_iou: Overlap with an object from which a proposal says how it is to be corrected.
        penalty: Of the regressors' ridge.
    """

    recipe: Recipe
    objects: int = 2
    samples: int = 8
    background: float = 0.0
    mined: int | None = None
    regressed: int | None = None
    regressed_iou: float = 0.6
    penalty: float = 1_000.0


def fit_regions(model: Detector, dataset: Images, seed: int, state: State | None = None) -> None:
    """Train `model` in place; see `RCNN.fit`. It is left as it was, in training or in evaluation mode."""
    trainer = _Trainer(model, dataset, seed, state)
    was_training = model.training
    with torch.random.fork_rng(devices=[]):
        try:
            for number, stage in enumerate((trainer.fine_tune, trainer.train_svms, trainer.train_regressors)):
                if number < trainer.stage:
                    continue
                trainer.enter(number)
                stage()
                # What the next stage learns from must be what a loaded checkpoint computes.
                halve(model)
                trainer.keep(number + 1)
        finally:
            model.train(was_training)


def draw_regions(target: Target, plan: RegionTraining, num_classes: int) -> tuple[Tensor, Tensor]:
    """Regions `[S, 4]` to learn from, of a target's objects and proposals, and their labels `[S]`; no object is C.

    A region holds the object that it overlaps most, if by at least 0.5. Ignored objects teach nothing, and what
    overlaps one is no background.
    """
    real = target[~target.ignore]
    assert target.proposals is not None
    regions = torch.cat([real.boxes, target.proposals])
    overlap, nearest = _most(regions, real.boxes)
    with_ignored, _ = _most(regions, target.boxes)
    held = torch.nonzero(overlap >= 0.5).flatten()
    empty = torch.nonzero((with_ignored < 0.5) & (with_ignored >= plan.background)).flatten()
    held = held[torch.randperm(len(held))[: plan.objects]]
    empty = empty[torch.randperm(len(empty))[: plan.samples - len(held)]]
    labels = torch.cat([real.labels[nearest[held]], torch.full_like(empty, num_classes)])
    return regions[torch.cat([held, empty])], labels


def _most(regions: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """Largest overlap of each region with an object, and which; 0 where there are none."""
    if not len(objects):
        return regions.new_zeros(len(regions)), torch.zeros(len(regions), dtype=torch.int64, device=regions.device)
    best = box_iou(regions, objects).max(1)
    return best.values, best.indices


class _Trainer:
    """The three stages. All chance is a function of the seed, the stage and, in the first, the step."""

    def __init__(self, model: Detector, dataset: Images, seed: int, state: State | None) -> None:
        self.model: Any = model
        self.plan: RegionTraining = model.training_plan  # type: ignore[assignment]
        self.dataset, self.seed, self.state = dataset, seed, state
        self.device = model.device
        self.proposed: dict[int, Tensor] = {}
        self.stage = 0
        self.kept = None if state is None else state.load()
        if self.kept is not None:
            model.load_state_dict(self.kept["model"])
            self.stage = self.kept["stage"]

    def enter(self, stage: int) -> None:
        """Begin a stage as it begins whatever was done before it."""
        self.stage = stage
        self.model.train(stage == 0)
        torch.manual_seed(seed_of(self.seed, stage))

    def keep(self, stage: int, **more: Any) -> None:
        """A later call is to begin with `stage`."""
        if self.state is not None:
            self.state.save({"stage": stage, "model": self.model.state_dict(), **more})

    def fine_tune(self) -> None:
        """By gradient, as a classifier of regions."""
        model, recipe = self.model, self.plan.recipe
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in learning if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in learning if p.ndim < 2], "weight_decay": recipe.bias_decay},
        ]
        kinds: dict[str, Callable[[], torch.optim.Optimizer]] = {
            "sgd": lambda: torch.optim.SGD(groups, recipe.lr, recipe.momentum),
            "adam": lambda: torch.optim.Adam(groups, recipe.lr),
            "adamw": lambda: torch.optim.AdamW(groups, recipe.lr),
        }
        optimizer = kinds[recipe.optimizer]()
        first, order = 0, list[int]()
        if self.kept is not None and "step" in self.kept:
            optimizer.load_state_dict(self.kept["optimizer"])
            first = self.kept["step"]
        with _progress("fine-tuning", recipe.steps, first) as advance:
            for step in range(first, recipe.steps):
                torch.manual_seed(seed_of(self.seed, self.stage, step))
                images: list[Tensor] = []
                regions: list[Tensor] = []
                labels: list[Tensor] = []
                for position in range(step * recipe.batch, (step + 1) * recipe.batch):
                    epoch, turn = divmod(position, len(self.dataset))
                    if not (order and turn):
                        order = self._order(epoch)
                    image, target = self._item(order[turn])
                    if recipe.augment is not None:
                        image, target = recipe.augment(image, target)
                    boxes, holds = draw_regions(target, self.plan, model.num_classes)
                    images.append(image.to(self.device))
                    regions.append(boxes.to(self.device))
                    labels.append(holds.to(self.device))
                for group in optimizer.param_groups:
                    group["lr"] = recipe.rate(step)
                logits = model.fc8(model.head(model.describe(model.preprocess(images), regions)))
                loss = F.cross_entropy(logits, torch.cat(labels))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if recipe.clip_norm is not None:
                    torch.nn.utils.clip_grad_norm_(learning, recipe.clip_norm)
                optimizer.step()
                if (step + 1) % _KEEP_EVERY == 0:
                    self.keep(0, step=step + 1, optimizer=optimizer.state_dict())
                advance(f"loss {loss.item():.3f}" if step % 20 == 0 else "")

    @torch.no_grad()
    def train_svms(self) -> None:
        """On objects, and on the proposals that the machines get wrong."""
        model = self.model
        order = self._order()
        found: list[list[Tensor]] = [[] for _ in range(model.num_classes)]
        lengths: list[Tensor] = []
        with _progress("objects", len(order)) as advance:
            for turn, index in enumerate(order):
                image, target = self._item(index)
                real = target[~target.ignore]
                others = self._some(target, 20) if turn < 200 else real.boxes[:0]
                fc7 = model.head(self._describe(image, torch.cat([real.boxes, others])))
                if turn < 200:
                    lengths.append(fc7.norm(dim=1))
                for label, row in zip(real.labels.tolist(), fc7, strict=False):
                    found[label].append(row)
                advance("")
        for label, rows in enumerate(found):
            if not rows:
                raise ValueError(f"class {label} has no object to learn from; add images of it")
        scale = _LENGTH / max(float(torch.cat(lengths).mean()), 1e-6)
        machines = [
            HardNegatives(model.svms, label, torch.stack(rows), scale=scale, seed=self.seed)
            for label, rows in enumerate(found)
        ]
        with _progress("hard negatives", len(order)) as advance:
            for index in order:
                image, target = self._item(index)
                boxes = torch.cat([target.boxes, self._some(target, self.plan.mined)])
                fc7 = model.head(self._describe(image, boxes))
                margins = model.svms(fc7)
                for label, machine in enumerate(machines):
                    overlap, _ = _most(boxes, target.boxes[target.labels == label])
                    free = (overlap < 0.3).to(self.device)
                    machine.meet(fc7[free], margins[free, label])
                advance("")
        for machine in machines:
            machine.train()

    @torch.no_grad()
    def train_regressors(self) -> None:
        """On proposals near an object, each towards the nearest."""
        model = self.model
        order = self._order()
        lengths: list[Tensor] = []
        with _progress("regressors", len(order)) as advance:
            for index in order:
                image, target = self._item(index)
                real = target[~target.ignore]
                proposals = self._some(target, None)
                overlap, nearest = _most(proposals, real.boxes)
                near = torch.nonzero(overlap > self.plan.regressed_iou).flatten()[: self.plan.regressed]
                if len(near):
                    boxes, objects = proposals[near], real[nearest[near]]
                    pool5 = self._describe(image, boxes)
                    lengths.append(pool5.norm(dim=1))
                    offsets = model.coder.encode(objects.boxes, boxes).to(self.device)
                    for label in objects.labels.unique().tolist():
                        rows = (objects.labels == label).to(self.device)
                        model.regressors.meet(label, pool5[rows], offsets[rows])
                advance("")
        if lengths:
            model.regressors.learn(_LENGTH / max(float(torch.cat(lengths).mean()), 1e-6), self.plan.penalty)

    def _item(self, index: int) -> tuple[Tensor, Target]:
        """An image and its target, with the proposals that are looked at."""
        image, target = self.dataset[index]
        proposals = target.proposals
        if proposals is None:
            if index not in self.proposed:
                self.proposed[index] = self.model.proposer(image)
            proposals = self.proposed[index]
        return image, replace(target, masks=None, proposals=proposals[: self.model.most].to(target.boxes))

    def _describe(self, image: Tensor, boxes: Tensor) -> Tensor:
        described: Tensor = self.model.describe(self.model.preprocess([image.to(self.device)]), [boxes.to(self.device)])
        return described

    def _some(self, target: Target, count: int | None) -> Tensor:
        """So many of the proposals in any order, or all."""
        assert target.proposals is not None
        return target.proposals[torch.randperm(len(target.proposals))[:count]]

    def _order(self, epoch: int = 0) -> list[int]:
        """All images in the order of this stage."""
        chance = np.random.default_rng(seed_of(self.seed, self.stage, 1, epoch))
        return [int(index) for index in chance.permutation(len(self.dataset))]


@contextmanager
def _progress(description: str, total: int, done: int = 0) -> Iterator[Callable[[str], None]]:
    """A function to call after each unit of work, with what is to be shown of it, or nothing new."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[text]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, completed=done, text="")

        def advance(text: str) -> None:
            bar.advance(task)
            if text:
                bar.update(task, text=text)

        yield advance
