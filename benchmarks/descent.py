"""Training by gradient descent: what comes at which step is a function of the seed and the step.

Which images come, how they are augmented, which regions are sampled, at which size: resuming therefore needs no
generator's state, and on a CPU it ends with the weights of a run that was never interrupted.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from benchmarks.datasets import Dataset
from benchmarks.results import write_atomically
from benchmarks.states import TrainingError, TrainingState
from benchmarks.stopping import Interrupts
from ops.sample import seed_of
from ops.structures import Target
from zoo.detector import Detector, Recipe

__all__ = ["STATE", "Draws", "fit_by_gradient", "optimizer_for", "seed_of_start"]

_AUGMENT, _MODEL, _ORDER, _START, _SIZE = 1, 2, 3, 4, 5
"""Streams of chance that never share a seed."""

STATE = "state.pt"
"""Name of the file to go on from, in the folder of a run."""


def seed_of_start(seed: int) -> int:
    """Of the weights that a training with this seed begins with."""
    return seed_of(seed, _START)


class Draws(TorchDataset[tuple[Tensor, Target]]):
    """The endless, shuffled, augmented sequence of training images: position -> (image, Target)."""

    def __init__(self, dataset: Dataset, recipe: Recipe, seed: int) -> None:
        self.dataset, self.recipe, self.seed = dataset, recipe, seed
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)

    def index(self, position: int) -> int:
        """Which image stands at `position`: a new permutation each epoch."""
        epoch, rest = divmod(position, len(self.dataset))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, _ORDER, epoch))
            self._epoch = epoch
            self._order = torch.randperm(len(self.dataset), generator=generator).numpy()
        return int(self._order[rest])

    def __getitem__(self, position: int) -> tuple[Tensor, Target]:
        image, target = self.dataset[self.index(position)]
        if self.recipe.augment is None:
            return image, target
        with torch.random.fork_rng(devices=[]):
            # `torch.manual_seed` would also write down the call stack for each device that there is not.
            torch.default_generator.manual_seed(seed_of(self.seed, _AUGMENT, position))
            return self.recipe.augment(image, target)


def _collate(samples: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    return [image for image, _ in samples], [target for _, target in samples]


def optimizer_for(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the trainable parameters, in groups that carry their factor on the rate as `factor`.

    Biases get `recipe.bias_lr`; everything of fewer than two dimensions gets `recipe.bias_decay`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = recipe.bias_lr if name.endswith("bias") else 1.0
            decay = recipe.weight_decay if parameter.ndim > 1 else recipe.bias_decay
            groups.setdefault((factor, decay), []).append(parameter)
    settings: list[dict[str, Any]] = [
        {"params": members, "factor": factor, "weight_decay": decay, "lr": recipe.lr * factor}
        for (factor, decay), members in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(settings, lr=recipe.lr, momentum=recipe.momentum)
    return (torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW)(settings, lr=recipe.lr)


class _Average:
    """Exponential moving average of the weights; buffers (statistics) are taken as they are."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        # Short at first, or the random start would weigh on short trainings.
        decay = min(self.decay, (1 + step) / (10 + step))
        names, values = zip(*model.named_parameters(), strict=True)
        torch._foreach_lerp_([self.weights[name] for name in names], list(values), 1 - decay)


class _Reporter:
    """Loss, images a second and time left: a bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self, steps: int, done: int, batch: int, quiet: bool) -> None:
        self.steps, self.batch, self.quiet = steps, batch, quiet
        self.start, self.first, self.last = time.monotonic(), done, 0.0
        console = Console(stderr=True)
        self.bar: Progress | None = None
        if console.is_terminal and not quiet:
            columns = (TextColumn("{task.fields[text]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=console)
            self.task = self.bar.add_task("", total=steps, completed=done, text="")
            self.bar.start()

    def show(self, step: int, losses: dict[str, float]) -> None:
        now = time.monotonic()
        if self.quiet or (now - self.last < (0.5 if self.bar else 15.0) and step < self.steps):
            return
        self.last = now
        pace = (step - self.first) * self.batch / max(1e-9, now - self.start)
        text = f"loss {sum(losses.values()):.3f}  {pace:.1f} images/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, text=text)
            return
        left = (self.steps - step) * self.batch / max(1e-9, pace)
        parts = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        print(f"step {step}/{self.steps}  {text}  {left / 60:.1f} min left  ({parts})", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


class _Run:
    """A training between two steps, and how it takes the next."""

    def __init__(
        self,
        model: Detector,
        draws: Draws,
        out: Path,
        states: TrainingState,
        device: torch.device,
        accumulate: int = 1,
    ) -> None:
        self.accumulate, self.part = accumulate, 0
        recipe, self.seed = draws.recipe, draws.seed
        self.model, self.draws, self.recipe, self.device = model, draws, recipe, device
        self.states, self.log = states, out / "losses.jsonl"
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        if recipe.batch % self.world:
            raise TrainingError(
                f"a batch of {recipe.batch} cannot be divided among {self.world} processes; choose --batch"
            )
        if accumulate < 1 or recipe.batch // self.world % accumulate:
            raise TrainingError(
                f"{recipe.batch // self.world} images of a process cannot be divided into {accumulate} parts; choose "
                "another --accumulate"
            )
        if recipe.stages and self.world > 1:
            raise TrainingError("a training in stages changes what learns on its way; run it as one process")
        state = states.load()
        self.stage: int | None = None if state is None else state.get("stage")
        if self.stage is not None:
            # Which parameters there are, and which of them learn, depends on the stage.
            model.enter_stage(self.stage, fresh=False)
        self._begin()
        self.step, self.recent = 0, dict[str, float]()
        if state is not None:
            self._continue(state)
        if self.rank == 0:
            _trim_log(self.log, self.step)
        self.parallel = DistributedDataParallel(model) if self.world > 1 else model

    def _begin(self) -> None:
        """What parameters there are may have changed: an optimiser and an average for those that learn now."""
        self.model.to(self.device).train()
        self.optimizer = optimizer_for(self.model, self.recipe)
        self.average = None if self.recipe.ema is None else _Average(self.model, self.recipe.ema)

    def _continue(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.weights = {name: value.to(self.device) for name, value in state["average"].items()}
        self.step, self.recent = state["step"], state["losses"]

    def positions(self) -> list[int]:
        """Where this process's images of all steps to come stand in the sequence."""
        return [position for step in range(self.step, self.recipe.steps) for position in self._batch(step)]

    def _batch(self, step: int) -> range:
        """Where this process's images of a step stand in the sequence."""
        local = self.recipe.batch // self.world
        start = step * self.recipe.batch + self.rank * local
        return range(start, start + local)

    def save(self) -> None:
        """Write the state to go on from."""
        if self.rank == 0:
            self.states.save(
                {
                    "step": self.step,
                    "stage": self.stage,
                    "losses": self.recent,
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "average": {} if self.average is None else self.average.weights,
                }
            )

    def resize(self, first: bool) -> None:
        """Change the input's size where the recipe has several and this step is the first, or begins another."""
        sizes, every = self.recipe.sizes, self.recipe.resize_every
        if sizes and (first or self.step % every == 0):
            # One draw for so many steps, the same in all processes.
            self.model.resize(sizes[seed_of(self.seed, _SIZE, self.step // every) % len(sizes)])

    def enter(self, stage: int) -> None:
        """Go over to a stage of the recipe."""
        if not self.recipe.stages or stage == self.stage:
            return
        self._end_average()
        self.model.enter_stage(stage, fresh=True)
        self._begin()
        self.stage = stage
        # Whether the run was interrupted just here must not show.
        self._set_seed()

    def take(self, images: list[Tensor], targets: list[Target], precision: AbstractContextManager[Any]) -> Tensor:
        """One step, or one of the parts that make one, and the losses before it, in the order of `names`."""
        stage, begun, _ = self.recipe.stage_at(self.step)
        if self.part == 0:
            self._set_seed()
            self.enter(stage)
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.rate(self.step) * group["factor"]
        with precision, self._alone():
            losses = self.parallel([image.to(self.device) for image in images], targets)
        self.names, values = tuple(losses), torch.stack(list(losses.values()))
        total = values.sum()
        if not torch.isfinite(total):
            raise self._not_finite(dict(zip(self.names, values.tolist(), strict=True)))
        if self.part == 0:
            self.optimizer.zero_grad(set_to_none=True)
            self.losses = torch.zeros_like(values, requires_grad=False)
        (total / self.accumulate).backward()
        self.losses += values.detach() / self.accumulate
        self.part = (self.part + 1) % self.accumulate
        if self.part:
            return self.losses
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.step += 1
        if self.average is not None:
            self.average.update(self.model, self.step - begun)
        return self.losses

    def _alone(self) -> AbstractContextManager[Any]:
        """Gradients of all parts but the last need not be sent to the other processes."""
        if isinstance(self.parallel, DistributedDataParallel) and self.part < self.accumulate - 1:
            return self.parallel.no_sync()
        return nullcontext()

    def _not_finite(self, losses: Mapping[str, float]) -> TrainingError:
        """What stops a training whose loss is no number; the images that it came with are saved."""
        known = getattr(self.draws.dataset, "image_ids", range(len(self.draws.dataset)))
        ids = [known[self.draws.index(position)] for position in self._batch(self.step)]
        file = self.log.with_name(f"not-finite.step-{self.step}.{self.rank}.json")
        about = {"step": self.step, "seed": self.seed, "image_ids": ids, "positions": list(self._batch(self.step))}
        write_atomically(file, json.dumps({**about, "losses": {name: str(value) for name, value in losses.items()}}))
        parts = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        more = f" and {len(ids) - 4} more" if len(ids) > 4 else ""
        return TrainingError(
            f"step {self.step}: the loss is not finite ({parts}) on images {', '.join(map(str, ids[:4]))}{more}, which "
            f"{file} lists; look at them, lower --lr, or set clip_norm in the recipe. The last state before it is in "
            f"{self.states.path}"
        )

    def note(self, values: Tensor) -> None:
        """Keep the losses of a step, in the log too."""
        self.recent = dict(zip(self.names, values.tolist(), strict=True))
        if self.rank == 0:
            with self.log.open("a") as log:
                log.write(json.dumps({"step": self.step, **self.recent}) + "\n")

    def end(self) -> None:
        """Leave in the model what was learnt, ready to detect."""
        self._end_average()
        if self.recipe.stages:
            self.model.enter_stage(None, fresh=False)
        self.model.eval()

    def _end_average(self) -> None:
        if self.average is not None:
            self.model.load_state_dict(self.average.weights, strict=False)

    def _set_seed(self) -> None:
        torch.manual_seed(seed_of(self.seed, _MODEL, self.step, self.rank))


def fit_by_gradient(
    model: Detector,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    out: Path,
    identity: dict[str, Any],
    device: torch.device,
    workers: int = 0,
    checkpoint_every: int = 250,
    accumulate: int = 1,
    checkpoint_minutes: float = 10.0,
    amp: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train `model` in place and return `{"steps", "seconds", "losses", "course"}`; averaged weights end in it.

    The state goes to `out/state.pt` every `checkpoint_every` steps, where these take longer every `checkpoint_minutes`,
    and after the step in which Ctrl-C or SIGTERM comes; where that file exists, training goes on from it, with as many
    processes and parts as there are then: each step has the same images, but what is drawn for each part, and sums,
    differ. The losses of every 50th step go to `out/losses.jsonl`.

    Args:
        model: With fresh weights, equal in all processes.
        dataset: Training images.
        recipe: Settings; its batch is divided among the processes.
        seed: Of everything.
        out: Folder of the run.
        identity: What must be equal for a state to be continued.
        device: Where to train.
        workers: Processes that load images.
        checkpoint_every: Steps between states.
        accumulate: Parts into which a process divides its share of a batch: gradients are the mean over processes and
            parts, as if all images were one batch where a loss is a mean over images. (Where it is a mean over objects,
            each part has its own; batch normalisation, too, sees only a part.)
        checkpoint_minutes: Most minutes between states: what a machine that dies costs at most, and a step.
        amp: Run the forward pass in bfloat16; detectors compute their losses from what it gives in float32.
        quiet: No progress.

    Raises:
        TrainingError: A loss is not finite (`out/not-finite.step-N.R.json` then names the images of process R), the
            state belongs to another run, or the batch cannot be divided.
        ValueError: The recipe has sizes that the detector cannot take, or stages that it does not have.
    """
    draws = Draws(dataset, recipe, seed)
    run = _Run(model, draws, out, TrainingState(out / STATE, identity), device, accumulate)
    loader = DataLoader(
        draws,
        batch_size=recipe.batch // run.world // accumulate,
        sampler=run.positions(),
        collate_fn=_collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_leave_signals,
    )
    own_size = getattr(model, "size", None) if recipe.sizes else None
    for side in recipe.sizes:
        model.resize(side)
    first = run.step
    reporter = _Reporter(recipe.steps, first, recipe.batch, quiet or run.rank > 0)
    try:
        with Interrupts() as interrupts:
            for images, targets in loader:
                if run.part == 0:
                    run.resize(run.step == first)
                values = run.take(images, targets, _precision(device, amp))
                if run.part:
                    continue
                last = run.step == recipe.steps
                if last or run.step % 50 == 0:
                    run.note(values)
                    reporter.show(run.step, run.recent)
                due = run.step % checkpoint_every == 0 or run.states.age >= checkpoint_minutes
                if last or due or interrupts.asked:
                    run.save()
                interrupts.raise_if_asked()
    finally:
        reporter.close()
        if own_size is not None:
            model.resize(own_size)
    run.end()
    found = {
        "steps": run.step,
        "seconds": round(run.states.seconds, 1),
        "losses": run.recent,
        "course": _course(run.log),
    }
    # Records from before there were several say nothing of them.
    several = {"processes": run.world, "accumulated": accumulate}
    return found | {name: count for name, count in several.items() if count > 1}


def _course(path: Path, most: int = 60) -> list[list[float]]:
    """Step and whole loss along a training, thinned out to at most so many of the logged steps."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = [[line.pop("step"), round(sum(line.values()), 4)] for line in lines]
    return found[:: -(-len(found) // most) or 1]


def _leave_signals(worker: int) -> None:
    """Ctrl-C goes to all processes of a terminal; it is for the one that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _trim_log(path: Path, step: int) -> None:
    """Drop lines of steps that will be done again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            break
    write_atomically(path, "".join(line + "\n" for line in kept))


def _precision(device: torch.device, amp: bool) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if amp else nullcontext()
