"""One training loop for every detector.

All chance is a function of the seed and the step: which images come, how they are augmented, which regions are
sampled, at which size. Resuming therefore needs no generator's state, and on a CPU it ends with the weights of a run
that was never interrupted. Run it under `torchrun` and it trains on all processes.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
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

from benchmarks import hardware
from benchmarks.datasets import Dataset, open_dataset
from benchmarks.evaluate import dataset_id
from benchmarks.proposals import proposer_of, with_proposals
from benchmarks.provenance import commit, sha256, versions
from benchmarks.results import Record, Weights, write_atomically
from benchmarks.suite import BENCHMARKS
from ops.sample import seed_of
from ops.structures import Target
from zoo import CATALOG, build, checkpoints
from zoo.detector import Detector, Recipe

__all__ = ["TrainingError", "describe_recipe", "fit_by_gradient", "optimizer_for", "train"]

_AUGMENT, _MODEL, _ORDER, _START, _SIZE = 1, 2, 3, 4, 5
"""Streams of chance that never share a seed."""

_STATE = "state.pt"


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stands and what to do."""


class _Draws(TorchDataset[tuple[Tensor, Target]]):
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


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON can hold it: the augmentation by its name."""
    augment = recipe.augment
    described = {**asdict(recipe), "augment": None if augment is None else augment.__name__}
    if not recipe.stages:
        # Records and states from before there were stages say nothing of them.
        del described["stages"]
    return described


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


class _State:
    """The file from which an interrupted run goes on; a run of other `identity` does not."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path, self.identity = path, identity
        self.started, self.before = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """Of all calls of this run, up to now."""
        return self.before + time.monotonic() - self.started

    def save(self, state: Mapping[str, Any]) -> None:
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            torch.save({"identity": self.identity, "seconds": self.seconds, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def load(self) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            found = state["identity"]
        except Exception as error:
            raise TrainingError(f"{self.path}: not a training state ({error}); remove it to start anew") from error
        different = sorted(key for key in self.identity if found.get(key) != self.identity[key])
        if different:
            key = different[0]
            raise TrainingError(
                f"{self.path}: was written by a run with {key} = {found.get(key)!r}, this one has "
                f"{self.identity[key]!r}; give another --out, or remove the file to start anew"
            )
        self.before = state["seconds"]
        return state


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


def _step_generator(seed: int, step: int, rank: int) -> None:
    torch.manual_seed(seed_of(seed, _MODEL, step, rank))


def _size_of(recipe: Recipe, seed: int, step: int) -> int:
    """Side of the input at `step`: one draw for `resize_every` steps, the same in all processes."""
    return recipe.sizes[seed_of(seed, _SIZE, step // recipe.resize_every) % len(recipe.sizes)]


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
    amp: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train `model` in place and return `{"steps", "seconds", "losses", "course"}`; averaged weights end in it.

    The state goes to `out/state.pt` every `checkpoint_every` steps and when Ctrl-C is pressed; where that file exists,
    training goes on from it. The losses of every 50th step go to `out/losses.jsonl`.

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
        amp: Run the forward pass in bfloat16; detectors compute their losses from what it gives in float32.
        quiet: No progress.

    Raises:
        TrainingError: A loss is not finite, the state belongs to another run, or the batch cannot be divided.
        ValueError: The recipe has sizes that the detector cannot take, or stages that it does not have.
    """
    world = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    if recipe.batch % world:
        raise TrainingError(f"a batch of {recipe.batch} cannot be divided among {world} processes; choose --batch")
    if recipe.stages and world > 1:
        raise TrainingError("a training in stages changes what learns on its way; run it as one process")
    local = recipe.batch // world
    states = _State(out / _STATE, identity)
    state = states.load()
    entered: int | None = None if state is None else state.get("stage")
    if entered is not None:
        # Which parameters there are, and which of them learn, depends on the stage.
        model.enter_stage(entered, fresh=False)
    model.to(device).train()
    optimizer = optimizer_for(model, recipe)
    average = None if recipe.ema is None else _Average(model, recipe.ema)
    first, recent = 0, dict[str, float]()
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.weights = {name: value.to(device) for name, value in state["average"].items()}
        first, recent = state["step"], state["losses"]
        _trim_log(out / "losses.jsonl", first)

    parallel = DistributedDataParallel(model) if world > 1 else model
    positions = [
        step * recipe.batch + rank * local + offset for step in range(first, recipe.steps) for offset in range(local)
    ]
    loader = DataLoader(
        _Draws(dataset, recipe, seed),
        batch_size=local,
        sampler=positions,
        collate_fn=_collate,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    own_size = getattr(model, "size", None) if recipe.sizes else None
    for side in recipe.sizes:
        model.resize(side)
    reporter = _Reporter(recipe.steps, first, recipe.batch, quiet or rank > 0)
    step = first

    def save() -> None:
        if rank == 0:
            states.save(
                {
                    "step": step,
                    "stage": entered,
                    "losses": recent,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": {} if average is None else average.weights,
                }
            )

    try:
        for images, targets in loader:
            if recipe.sizes and (step == first or step % recipe.resize_every == 0):
                model.resize(_size_of(recipe, seed, step))
            _step_generator(seed, step, rank)
            stage, begun, _ = recipe.stage_at(step)
            if recipe.stages and stage != entered:
                if average is not None:
                    model.load_state_dict(average.weights, strict=False)
                model.enter_stage(stage, fresh=True)
                model.to(device).train()
                optimizer = optimizer_for(model, recipe)
                average = None if recipe.ema is None else _Average(model, recipe.ema)
                entered = stage
                # Whether the run was interrupted just here must not show.
                _step_generator(seed, step, rank)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step) * group["factor"]
            with _precision(device, amp):
                losses = parallel([image.to(device) for image in images], targets)
            total = torch.stack(list(losses.values())).sum()
            if not torch.isfinite(total):
                parts = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
                raise TrainingError(
                    f"step {step}: the loss is not finite ({parts}); lower --lr, or set clip_norm in the recipe. "
                    f"The last state before it is in {states.path}"
                )
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            if recipe.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimizer.step()
            step += 1
            if average is not None:
                average.update(model, step - begun)
            if step % 50 == 0 or step == recipe.steps:
                recent = {name: value.item() for name, value in losses.items()}
                reporter.show(step, recent)
                if rank == 0:
                    with (out / "losses.jsonl").open("a") as log:
                        log.write(json.dumps({"step": step, **recent}) + "\n")
            if step % checkpoint_every == 0 or step == recipe.steps:
                save()
    except KeyboardInterrupt:
        save()
        raise
    finally:
        reporter.close()
        if own_size is not None:
            model.resize(own_size)
    if average is not None:
        model.load_state_dict(average.weights, strict=False)
    if recipe.stages:
        model.enter_stage(None, fresh=False)
    model.eval()
    course = _course(out / "losses.jsonl")
    return {"steps": step, "seconds": round(states.seconds, 1), "losses": recent, "course": course}


def _course(path: Path, most: int = 60) -> list[list[float]]:
    """Step and whole loss along a training, thinned out to at most so many of the logged steps."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = [[line.pop("step"), round(sum(line.values()), 4)] for line in lines]
    return found[:: -(-len(found) // most) or 1]


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


def train(
    detector: str,
    dataset_name: str,
    *,
    out: Path,
    small: bool = True,
    overrides: Mapping[str, Any] | None = None,
    recipe_changes: Mapping[str, Any] | None = None,
    split: str | None = None,
    images: int | None = None,
    data_root: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    workers: int = 0,
    checkpoint_every: int = 250,
    amp: bool | None = None,
    quiet: bool = False,
) -> Path:
    """Train a detector of the catalog and return its checkpoint, `out/<detector>_<size>.<dataset>.safetensors`.

    Detectors that are no gradient descent are trained by their own `fit`. A training Record is written beside the
    checkpoint. The same call continues an interrupted run and does nothing for a finished one.

    Args:
        detector: Catalog name.
        dataset_name: A key of `BENCHMARKS`.
        out: Folder of the run.
        small: The size that trains in minutes, or the paper's.
        overrides: Constructor arguments that differ from that size's.
        recipe_changes: Fields of the Recipe to change, such as `{"steps": 2500}`.
        split: Training split, if not the benchmark's.
        images: Learn from so many images only, the first ones of the split.
        data_root: The data as their owner unpacked them.
        seed: Of everything.
        device: Such as `cpu` or `cuda`; under `torchrun` each process takes the device of its local rank.
        threads: Of torch on the CPU; None leaves torch's choice.
        workers: Processes that load images.
        checkpoint_every: Steps between states.
        amp: Run the forward pass in bfloat16; None does so on CUDA only. Processors with bfloat16 instructions train
            up to twice as fast, others slower.
        quiet: No progress.

    Raises:
        TrainingError: See `fit_by_gradient`; or the detector has no recipe.
    """
    spec, benchmark = CATALOG[detector], BENCHMARKS[dataset_name]
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        # That would also fill each new tensor with NaN before it is written, a tenth of a small detector's step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    place = _join_processes(device)
    amp = place.type == "cuda" if amp is None else amp
    dataset = open_dataset(dataset_name, split or benchmark.train_split, data_root)
    if images is not None:
        dataset = dataset.first(images)
    num_classes = len(dataset.class_names)
    settings = {**(spec.small or {} if small else {}), **(overrides or {})}
    torch.manual_seed(seed_of(seed, _START))
    model = build(detector, num_classes, small=small, **(overrides or {}))
    if model.trains_on_masks:
        dataset = dataset.with_masks()
    recipe = spec.small_recipe if small else spec.recipe
    if recipe is None and not hasattr(model, "fit"):
        raise TrainingError(f"{detector}: its paper's training is not part of the zoo; train the small size")
    if recipe is not None:
        recipe = replace(benchmark.small_recipe(recipe) if small else recipe, **(recipe_changes or {}))

    out.mkdir(parents=True, exist_ok=True)
    data = dataset_id(dataset)
    described = None if recipe is None else describe_recipe(recipe)
    identity = {
        "detector": detector,
        "overrides": json.dumps(settings, sort_keys=True, default=str),
        "recipe": json.dumps(described, sort_keys=True),
        "seed": seed,
        "data": data.fingerprint,
        "precision": "bfloat16" if amp else "float32",
    }
    if (proposer := proposer_of(model)) is not None:
        dataset = with_proposals(dataset, proposer, quiet=quiet)
    if recipe is None:
        states = _State(out / _STATE, identity)
        fit: Callable[..., None] = model.fit  # type: ignore[assignment]
        # Those that take minutes can go on where they were interrupted.
        resumes = "state" in inspect.signature(fit).parameters
        fit(dataset, seed=seed, **({"state": states} if resumes else {}))
        outcome: dict[str, Any] = {"seconds": round(states.seconds, 1)}
    else:
        outcome = fit_by_gradient(
            model,
            dataset,
            recipe,
            seed=seed,
            out=out,
            identity=identity,
            device=place,
            workers=workers,
            checkpoint_every=checkpoint_every,
            amp=amp,
            quiet=quiet,
        )
    path = out / f"{detector}_{'small' if small else 'paper'}.{dataset_name}.safetensors"
    if not dist.is_initialized() or dist.get_rank() == 0:
        checkpoints.save(
            path,
            model.cpu(),
            detector=detector,
            num_classes=num_classes,
            overrides=settings,
            class_names=list(dataset.class_names),
            small=small,
            extra={"seed": str(seed)} | ({} if images is None else {"images": str(images)}),
        )
        Record(
            kind="training",
            detector=detector,
            scale="small" if small else "paper",
            overrides=json.loads(json.dumps(settings, default=str)),
            num_classes=num_classes,
            weights=Weights(file=path.name, sha256=sha256(path)),
            dataset=data,
            hardware=hardware.stamp(
                str(place), torch.get_num_threads(), precision="bfloat16" if amp and recipe else "float32"
            ),
            seed=seed,
            learned_from=images,
            recipe=described,
            commit=commit(),
            versions=versions(),
            metrics=outcome,
        ).write(out)
    return path


def _join_processes(device: str) -> torch.device:
    """The device of this process; under `torchrun`, after joining the others."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return torch.device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device("cpu")
