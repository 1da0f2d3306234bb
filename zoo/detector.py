"""What every detector of the zoo is (`Detector`), how its paper trained it (`Recipe`), and its catalog row (`Spec`)."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ops.images import Batch
from ops.structures import Detections, Target

__all__ = ["Augmentation", "Detector", "Golden", "Listener", "Recipe", "Spec", "listening", "stage"]

Listener = Callable[[str], AbstractContextManager[Any]]
"""Given the name of a stage, what surrounds it: a clock, as a rule."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Mark a part of a detector's work that harnesses time apart, such as `proposals`; costs nothing unheard."""
    listener = _listener.get()
    if listener is None:
        yield
        return
    with listener(name):
        yield


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Surround every `stage` that begins meanwhile with what `listener` gives for its name."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


Augmentation = Callable[[Tensor, Target], tuple[Tensor, Target]]
"""Image float32 `[3, H, W]` in [0, 1] and its Target, to the same of any size. Chance comes from torch's generator."""


class Detector(nn.Module):
    """A detector as one module: `model(images)` detects, `model(images, targets)` gives the losses.

    Images are float32 RGB `[3, H, W]` in [0, 1], a list of differing sizes. Targets decide what comes back, never
    `self.training`. A subclass brings the four stages; each can be timed, compiled and fingerprinted alone.

    Attributes:
        num_classes: Foreground classes C; labels are 0 to C-1.
        trains_on_ignored: Whether objects marked `ignore` are objects to learn from. SSD learns from VOC's difficult
            objects; most others leave them out.
        trains_on_masks: Whether its targets must bring masks, in the pixels of their images.
        classifies_windows: Whether it says yes or no to each window of a scan, `num_boxes` of them, so that false
            positives a window mean something; miss rates are then measured without being asked for.
        pickle_format: What a checkpoint of it that ends in `.pkl` is, of `zoo.checkpoints.Format`.
    """

    trains_on_ignored: bool = False
    trains_on_masks: bool = False
    classifies_windows: bool = False
    pickle_format: Literal["detectron", "cornernet"] = "detectron"

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes

    def preprocess(self, images: list[Tensor]) -> Batch:
        """Resize, pad and normalise as the paper says."""
        raise NotImplementedError

    def network(self, batch: Batch, targets: list[Target] | None = None) -> Any:
        """Everything that is computed from pixels. Only detectors that sample regions look at `targets`."""
        raise NotImplementedError

    def postprocess(self, outputs: Any, batch: Batch) -> list[Detections]:
        """Decode, suppress duplicates, and go back to the pixels of each image."""
        raise NotImplementedError

    def losses(self, outputs: Any, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Scalars to be added up, weighted as the paper weights them; `targets` are in network pixels.

        Raises:
            TypeError: The detector is no gradient descent, but learns by a `fit` of its own.
        """
        raise TypeError(
            f"{type(self).__name__} has no losses: it learns by fit(dataset, seed), not by gradient descent"
        )

    def network_for_cost(self, batch: Batch) -> Any:
        """What `cost` counts. Detectors with proposals run their heads on the paper's fixed number here."""
        return self.network(batch)

    def num_boxes(self, size: tuple[int, int]) -> int | None:
        """Anchors, priors or cells at network input `(H, W)`; None where a detector has none."""
        return None

    def resize(self, size: int | tuple[int, int]) -> None:
        """Change the network's input for the calls that follow, as multi-scale training and testing do.

        Args:
            size: Side of a square, or `(H, W)`, in pixels.

        Raises:
            ValueError: The detector has no other input than its own, or none of this size.
        """
        raise ValueError(f"{type(self).__name__} cannot change its input to {size}: its layers fit one size only")

    def set_priors(self, boxes: Tensor) -> None:
        """Learn, before the first step, where objects lie; those that need no such thing leave it.

        Args:
            boxes: `[N, 4]`, those of the training set in shares of their images' sides.

        Raises:
            ValueError: There are too few.
        """

    def enter_stage(self, stage: int | None, *, fresh: bool) -> None:
        """Let those parts learn, by those losses, that `stage` of the recipe's `stages` trains.

        Args:
            stage: Counted from 0; None when training is over, after which all is as in a detector just built.
            fresh: Whether the stage begins, and with it parts that start anew; else it goes on after an interruption.

        Raises:
            ValueError: The detector has no stages, or none of this number.
        """
        if stage is not None:
            raise ValueError(f"{type(self).__name__} is trained in one stage; its recipe must not name several")

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> Any:
        """Detections an image, or, given targets in image pixels, a dict of scalar losses.

        Raises:
            ValueError: An image is not float `[3, H, W]`, or there are not as many targets as images.
        """
        for index, image in enumerate(images):
            if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
                raise ValueError(f"image {index}: need float [3, H, W], got {image.dtype} {tuple(image.shape)}")
        batch = self.preprocess(images)
        if targets is None:
            return self.postprocess(self.network(batch), batch)
        if len(targets) != len(images):
            raise ValueError(f"{len(targets)} targets for {len(images)} images")
        placed = self.place(batch, targets)
        return self.losses(self.network(batch, placed), batch, placed)

    def place(self, batch: Batch, targets: list[Target]) -> list[Target]:
        """Targets as the losses want them: on the device, in network pixels, ignored objects left out or kept.

        Masks stay in the pixels of their images: a detector that looks at them does so through a window.
        """
        placed = []
        for target, frame in zip(targets, batch.frames, strict=True):
            if not self.trains_on_ignored:
                target = target[~target.ignore]
            target = target.to(batch.pixels.device)
            proposals = None if target.proposals is None else frame.to_network(target.proposals)
            placed.append(replace(target, boxes=frame.to_network(target.boxes), proposals=proposals))
        return placed

    @property
    def device(self) -> torch.device:
        """Where the parameters (or, for detectors without gradient, the buffers) are."""
        for tensor in [*self.parameters(), *self.buffers()]:
            return tensor.device
        return torch.device("cpu")


@dataclass(frozen=True)
class Recipe:
    """How a detector is trained, counted in optimiser steps.

    Attributes:
        batch: Images a step, over all processes.
        steps: Optimiser steps.
        lr: Base learning rate.
        optimizer: `sgd` (with `momentum`), `adam` or `adamw`.
        momentum: Of SGD.
        weight_decay: Of weights with two or more dimensions; biases and norms take `bias_decay`.
        bias_decay: Likewise for biases and norms.
        bias_lr: Factor on `lr` for biases (2 in Caffe's files).
        milestones: Steps at which the rate is multiplied by `gamma`; unused when `cosine`.
        gamma: See `milestones`.
        cosine: Fall to 0 along a half cosine instead.
        warmup: Steps of warm-up.
        warmup_factor: Where warm-up starts, as a share of `lr`.
        warmup_power: 1 is linear; Darknet's burn-in is 4 (from 0).
        clip_norm: Largest norm of the whole gradient, or None.
        ema: Decay of the averaged weights that are evaluated, or None.
        augment: What happens to image and target, or None.
        sizes: Sides of the square input among which training draws; empty: the detector's own input throughout.
        resize_every: Steps for which a drawn size stays.
        stages: Lengths, in any unit, of stages into which the steps are divided; each starts its own schedule,
            optimiser and average (`Detector.enter_stage`). A milestone holds until its stage ends. Empty: one stage.
        source: Paper and section.
    """

    batch: int
    steps: int
    lr: float
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    bias_decay: float = 0.0
    bias_lr: float = 1.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    cosine: bool = False
    warmup: int = 0
    warmup_factor: float = 1 / 3
    warmup_power: float = 1.0
    clip_norm: float | None = None
    ema: float | None = None
    augment: Augmentation | None = None
    sizes: tuple[int, ...] = ()
    resize_every: int = 10
    stages: tuple[int, ...] = ()
    source: str = ""

    def stage_at(self, step: int) -> tuple[int, int, int]:
        """The stage that `step` belongs to, counted from 0, the step at which it starts, and that before which it ends.

        Raises:
            ValueError: A stage has no step of its own.
        """
        if not self.stages:
            return 0, 0, self.steps
        edges = [self.steps * sum(self.stages[:count]) // sum(self.stages) for count in range(len(self.stages) + 1)]
        if any(start >= end for start, end in itertools.pairwise(edges)):
            raise ValueError(f"{self.steps} steps cannot be divided into stages of {self.stages}; train for longer")
        stage = max(bisect.bisect_right(edges, min(step, self.steps - 1)) - 1, 0)
        return stage, edges[stage], edges[stage + 1]

    def rate(self, step: int) -> float:
        """Learning rate of `step`, counted from 0."""
        _, start, end = self.stage_at(step)
        if step - start < self.warmup:
            share = ((step - start + 1) / self.warmup) ** self.warmup_power
            return self.lr * (self.warmup_factor + (1 - self.warmup_factor) * share)
        if self.cosine:
            done = (step - start - self.warmup) / max(1, end - start - self.warmup)
            return self.lr * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * min(1.0, done), dtype=torch.float64))))
        return self.lr * self.gamma ** sum(start <= milestone <= step for milestone in self.milestones)


@dataclass(frozen=True)
class Golden:
    """Facts of a paper-size detector that a test recounts.

    Attributes:
        parameters: Elements of all `nn.Parameter`s by number of foreground classes.
        boxes: Anchors, priors or cells by input `(H, W)`.
        macs: Multiply-accumulates of one image by `(num_classes, H, W)`.
    """

    parameters: Mapping[int, int] = field(default_factory=dict)
    boxes: Mapping[tuple[int, int], int] = field(default_factory=dict)
    macs: Mapping[tuple[int, int, int], int] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """One row of the catalog.

    Attributes:
        name: The builder's name.
        build: `build(num_classes, **overrides)` gives the detector at the paper's size.
        year: Of the paper's first publication.
        paper: Authors, title, where.
        family: The seeds' taxonomy.
        recipe: The paper's training; None for detectors that bring `fit`.
        small: Overrides that make it trainable on `shapes` in minutes; None where there is no small size.
        small_recipe: Training of the small size; None for detectors that bring `fit`.
        input_size: `(H, W)` of the network's input in the paper, at which cost is stated.
        golden: Facts that a test recounts.
    """

    name: str
    build: Callable[..., Detector]
    year: int
    paper: str
    family: Literal["classical", "one-stage", "two-stage", "keypoint"]
    recipe: Recipe | None
    small: Mapping[str, Any] | None
    small_recipe: Recipe | None
    input_size: tuple[int, int]
    golden: Golden = field(default_factory=Golden)

    @property
    def origin(self) -> dict[str, Any]:
        """Year, paper and family, as a Record states them."""
        return {"year": self.year, "paper": self.paper, "family": self.family}
